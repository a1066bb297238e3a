"""Make anydiff/sketches/sketch_features.safetensors again, from the PyPI package kanjivg.

    pip install -c constraints.txt -e . kanjivg==20260714
    python scripts/train_sketch_features.py --write anydiff/sketches/sketch_features.safetensors

Teaches the small network of anydiff.sketches.features to name a character's radical (KanjiVG's
"general" one, else the "tradit"ional) from a picture, and to tell how a disturbed one is disturbed:
points jittered, strokes displaced or joined, or nothing but a scribble. Without these the network has
no idea of what is no character, and noise would lie in the midst of its features. The radicals with
the most characters are the classes, other characters are left out. It takes some five minutes on two
threads.

Characters of the shipped kanji's validation and test parts are never learnt from: they are what the
accuracies printed at the end are measured on. The same seed on the same machine gives the same file;
elsewhere sums are rounded in another order, so the file's hash is kept in the module, and a new file
is a new yardstick.
"""

import argparse
import re
import time
from collections import Counter
from importlib import metadata

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from anydiff.sketches.features import SketchFeatures
from anydiff.sketches.geometry import simplify
from anydiff.sketches.kanji import load_kanji, read_kanjivg
from anydiff.sketches.named import split
from anydiff.sketches.pictures import rasterize
from anydiff.sketches.sketches import Sketches

SIDE = 109  # of KanjiVG's box
SIZE = SketchFeatures.side
DISTURBED = ("jittered", "displaced", "joined", "scribbled")


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


def owners(sketches: Sketches) -> tuple[np.ndarray, np.ndarray]:
    """The sketch of each stroke, and the stroke of each point."""
    sketch = np.repeat(np.arange(len(sketches)), np.diff(sketches.offsets))
    return sketch, np.repeat(np.arange(len(sketch)), np.diff(sketches.strokes))


def disturb(sketches: Sketches, kind: str, rng: np.random.Generator) -> Sketches:
    if kind == "scribbled":
        sketches = simplify(sketches, 2.0)
    sketch, stroke = owners(sketches)
    points, strokes, offsets = sketches.points, sketches.strokes, sketches.offsets
    if kind == "joined":
        return Sketches(points, strokes[offsets], np.arange(len(sketches) + 1))
    noise = rng.standard_normal(points.shape)
    if kind == "scribbled":
        return Sketches(noise, strokes, offsets)
    low, high = (0.015, 0.12) if kind == "jittered" else (0.06, 0.25)
    sigma = SIDE * np.exp(rng.uniform(np.log(low), np.log(high), len(sketches)))
    noise = noise if kind == "jittered" else noise[strokes[:-1]][stroke]
    return Sketches(points + sigma[sketch[stroke], None] * noise, strokes, offsets)


def pictures(sketches: Sketches, rng: np.random.Generator | None = None) -> np.ndarray:
    """Pictures (M, 64, 64); with a generator, each turned, sheared, stretched and moved a little,
    and drawn with pens of different widths."""
    if rng is None:
        return rasterize(sketches, SIZE)
    num = len(sketches)
    turn, shear, stretch = rng.normal(0, 0.1, (3, num))
    cos, sin, stretch = np.cos(turn), np.sin(turn), np.exp(stretch)
    matrix = np.array([[cos * stretch, sin + shear], [-sin * stretch, cos]]).transpose(2, 0, 1)
    sketch, stroke = owners(sketches)
    points = np.einsum("pj,pjk->pk", sketches.points, matrix[sketch[stroke]])
    moved = Sketches(points, sketches.strokes, sketches.offsets)

    images = np.empty((num, SIZE, SIZE), np.uint8)
    for part in np.array_split(rng.permutation(num), max(1, num // 64)):
        width = SIZE / 28 * np.exp(rng.normal(0, 0.2))
        images[part] = rasterize(moved.subset(part), SIZE, width)
    shift = rng.integers(-2, 3, (num, 2))  # the margin is 4 pixels
    at = np.arange(SIZE)
    rows, columns = (at - shift[:, :1]) % SIZE, (at - shift[:, 1:]) % SIZE
    return images[np.arange(num)[:, None, None], rows[:, :, None], columns[:, None, :]]


def with_disturbed(
    sketches: Sketches, label: np.ndarray, first: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels of the sketches, and of a third of them disturbed one way or another."""
    images, labels = [pictures(sketches, rng)], [label]
    third = rng.permutation(len(sketches))[: len(sketches) // 3]
    for k, (kind, part) in enumerate(
        zip(DISTURBED, np.array_split(third, len(DISTURBED)), strict=True)
    ):
        images.append(pictures(disturb(sketches.subset(part), kind, rng), rng))
        labels.append(np.full(len(part), first + k))
    return np.concatenate(images), np.concatenate(labels)


@torch.no_grad()
def accuracy(net: SketchFeatures, images: np.ndarray, label: np.ndarray | int) -> str:
    found = [net(part[:, None] / 255).argmax(1) for part in torch.tensor(images).split(256)]
    return f"{(torch.cat(found) == torch.as_tensor(label)).float().mean():.3f} of {len(images):,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", metavar="PATH", help="write the network to this .safetensors")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    shipped = load_kanji()
    parts = split(shipped)
    unseen = {shipped.labels[m] for m in (*parts.valid, *parts.test)}
    drawn = read_kanjivg(progress=False)
    radical = radicals()
    counts = Counter(radical[c] for c in drawn.labels if c in radical and c not in unseen)
    classes = [name for name, _ in counts.most_common(args.classes)]
    index = {name: k for k, name in enumerate(classes)}
    label = np.array([index.get(radical.get(c, ""), -1) for c in drawn.labels])
    held = np.array([c in unseen for c in drawn.labels])
    train, rest = drawn.subset((label >= 0) & ~held), drawn.subset((label >= 0) & held)
    y, y_rest = label[(label >= 0) & ~held], label[(label >= 0) & held]
    # sketches come with many points or few
    versions = [simplify(train, epsilon) for epsilon in (0.1, 0.5, 2.0)]

    net = SketchFeatures([*classes, *DISTURBED])
    print(
        f"{len(train):,} characters of {len(classes)} radicals to learn, {len(rest)} unseen; "
        f"{sum(p.numel() for p in net.parameters()):,} weights",
        flush=True,
    )
    steps = args.epochs * (len(train) * 4 // 3 // 128)
    optimizer = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=0.1)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps + 1, pct_start=0.15)
    begin = time.perf_counter()
    for epoch in range(args.epochs):
        images, labels = with_disturbed(versions[epoch % 3], y, len(classes), rng)
        x, target, total = torch.from_numpy(images), torch.from_numpy(labels), 0.0
        order = torch.from_numpy(rng.permutation(len(x)))
        parts = order[: steps // args.epochs * 128].split(128)
        for part in parts:
            loss = cross_entropy(net(x[part, None] / 255), target[part], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            total += loss.item()
        took = time.perf_counter() - begin
        print(f"epoch {epoch + 1:2d}  loss {total / len(parts):.3f}  {took:.0f} s", flush=True)

    net.eval()
    z = net.features(pictures(versions[1]))
    net.mean.copy_(z.mean(0))
    net.std.copy_(z.std(0).clamp_min(1e-3))
    print("radical right:", accuracy(net, pictures(versions[1]), y), "learnt")
    print("radical right:", accuracy(net, pictures(rest), y_rest), "unseen")
    for k, kind in enumerate(DISTURBED, len(classes)):
        images = pictures(disturb(simplify(rest, 0.5), kind, rng))
        print(f"{kind:>13}:", accuracy(net, images, k), "unseen")
    if args.write:
        about = {
            "made by": "scripts/train_sketch_features.py",
            "source": f"KanjiVG by Ulrich Apel, CC BY-SA 3.0, kanjivg {metadata.version('kanjivg')}",
            "seed": str(args.seed),
        }
        print(f"wrote {args.write}, SketchFeatures.sha256 = {net.save(args.write, about)!r}")


if __name__ == "__main__":
    main()
