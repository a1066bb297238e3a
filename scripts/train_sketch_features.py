"""Make anydiff/metrics/sketch_features.safetensors again, from the PyPI package kanjivg.

    pip install -c constraints.txt -e . kanjivg==20260714
    python scripts/train_sketch_features.py --write anydiff/metrics/sketch_features.safetensors

Teaches the small network of anydiff.metrics.sketch_features to name a character's radical (KanjiVG's
"general" one, else the "tradit"ional) from a picture; the radicals with the most characters are the
classes, other characters are left out. It takes some five minutes on two threads. Characters of the
shipped kanji's validation and test parts are never learnt from: they are what the accuracy printed at
the end is measured on. The same seed on the same machine gives the same file; elsewhere sums are
rounded in another order, so the file's hash is kept in the module, and a new one is a new yardstick.
"""

import argparse
import re
import time
from collections import Counter
from importlib import metadata

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from anydiff.data.kanji import load_kanji, read_kanjivg, split
from anydiff.data.stroke_pictures import rasterize
from anydiff.data.strokes import Sketches
from anydiff.metrics.sketch_features import FEATURES_SIZE, SketchFeatures


def radicals() -> dict[str, str]:
    """The radical of each character that has one, in its standard form (水 for 氵)."""
    found = {}
    for file in metadata.files("kanjivg") or ():
        if not (match := re.fullmatch(r"kanji/([0-9a-f]{5})\.svg", str(file))):
            continue
        text = file.read_text(encoding="utf-8")
        for kind in ("general", "tradit"):
            if group := re.search(rf'<g [^>]*kvg:radical="{kind}"[^>]*>', text):
                form = re.search(r'kvg:original="([^"]+)"', group[0])
                form = form or re.search(r'kvg:element="([^"]+)"', group[0])
                if form:
                    found[chr(int(match[1], 16))] = form[1]
                    break
    return found


def pictures(sketches: Sketches, rng: np.random.Generator | None = None) -> np.ndarray:
    """Pictures (M, 64, 64); with a generator, each turned, sheared, stretched and moved a little,
    and drawn with pens of different widths."""
    if rng is None:
        return rasterize(sketches, FEATURES_SIZE)
    num = len(sketches)
    turn, shear = rng.normal(0, 0.07, num), rng.normal(0, 0.08, num)
    stretch = np.exp(rng.normal(0, 0.08, num))
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[cos * stretch, sin + shear], [-sin * stretch, cos]]).transpose(2, 0, 1)
    sketch = np.repeat(
        np.repeat(np.arange(num), np.diff(sketches.offsets)), np.diff(sketches.strokes)
    )
    points = np.einsum("pj,pjk->pk", sketches.points, matrix[sketch])
    moved = Sketches(points, sketches.strokes, sketches.offsets)

    images = np.empty((num, FEATURES_SIZE, FEATURES_SIZE), np.uint8)
    for part in np.array_split(rng.permutation(num), max(1, num // 64)):
        width = FEATURES_SIZE / 28 * np.exp(rng.normal(0, 0.2))
        images[part] = rasterize(moved.subset(part), FEATURES_SIZE, width)
    shift = rng.integers(-2, 3, (num, 2))  # the margin is 4 pixels
    at = np.arange(FEATURES_SIZE)
    rows, columns = (at - shift[:, :1]) % FEATURES_SIZE, (at - shift[:, 1:]) % FEATURES_SIZE
    return images[np.arange(num)[:, None, None], rows[:, :, None], columns[:, None, :]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", metavar="PATH", help="write the network to this .safetensors")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    shipped = load_kanji()
    parts = split(len(shipped))
    unseen = {shipped.labels[m] for m in (*parts.valid, *parts.test)}
    drawn = read_kanjivg(variants=True, progress=False)
    radical = radicals()
    counts = Counter(radical[c] for c in drawn.labels if c in radical and c not in unseen)
    classes = [name for name, _ in counts.most_common(args.classes)]
    index = {name: k for k, name in enumerate(classes)}
    label = np.array([index.get(radical.get(c, ""), -1) for c in drawn.labels])
    held = np.array([c in unseen for c in drawn.labels])
    train, rest = drawn.subset((label >= 0) & ~held), drawn.subset((label >= 0) & held)
    y, y_rest = (torch.tensor(label[(label >= 0) & part]) for part in (~held, held))

    net = SketchFeatures(classes)
    print(
        f"{len(train):,} characters of {len(classes)} radicals to learn, {len(rest)} unseen; "
        f"{sum(p.numel() for p in net.parameters()):,} weights"
    )
    steps = args.epochs * (len(train) // 128)
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.15)
    begin = time.perf_counter()
    for epoch in range(args.epochs):
        x, total = torch.from_numpy(pictures(train, rng)), 0.0
        order = torch.from_numpy(rng.permutation(len(x)))
        for part in order[: len(x) // 128 * 128].split(128):
            loss = cross_entropy(net(x[part, None].float() / 255), y[part], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            total += loss.item()
        print(
            f"epoch {epoch + 1:2d}  loss {total / (len(x) // 128):.3f}  "
            f"{time.perf_counter() - begin:.0f} s", flush=True,
        )  # fmt: skip

    net.eval()
    z = net.features(pictures(train))
    net.mean.copy_(z.mean(0))
    net.std.copy_(z.std(0).clamp_min(1e-3))
    for name, sketches, target in (("learnt", train, y), ("unseen", rest, y_rest)):
        with torch.no_grad():
            x = torch.from_numpy(pictures(sketches))[:, None].float() / 255
            right = torch.cat([net(part).argmax(1) for part in x.split(256)]) == target
        print(f"accuracy on {name} characters {right.float().mean():.3f} of {len(right):,}")
    if args.write:
        about = {
            "about": "radicals of kanji; scripts/train_sketch_features.py",
            "source": f"KanjiVG by Ulrich Apel, CC BY-SA 3.0, kanjivg {metadata.version('kanjivg')}",
            "seed": str(args.seed),
        }
        print(f"wrote {args.write}, FEATURES_HASH = {net.save(args.write, about)!r}")


if __name__ == "__main__":
    main()
