"""What models draw that are asked for by words: characters by their parts, molecules by what they are.

    python benchmarks/by_words.py sketches runs/kanji/model.safetensors --picture kanji_words.png
    python benchmarks/by_words.py molecules runs/texts/model.safetensors --num 200 --steps 50

`sketches` asks a model of `anydiff train sketches --data kanjivg --text` for the most frequent parts of
characters in their places, "water left" for instance. A classifier of radicals, the parts under which
dictionaries list characters, says of each drawing which one it sees; nothing of the model was trained
with it. Beside stand real characters with that part, and drawings that have as many strokes as the text
makes likely, and were told nothing else of it.

`molecules` asks a model of `anydiff train molecules --text` for all that is said of held-out molecules.
RDKit says which of it is true of those that are drawn, by DPM-Solver++ with noise.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch

from anydiff import DPMSolver
from anydiff.batched import steps_of
from anydiff.cli.distill import Even
from anydiff.cli.runs import open_model
from anydiff.cli.sketches import draw_runs
from anydiff.metrics.tables import aligned
from anydiff.molecules.captions import GROUPS, captions
from anydiff.molecules.qm9 import split as split_molecules
from anydiff.sketches.features import SketchFeatures
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.meanings import kanji_components, kanji_meanings
from anydiff.sketches.pictures import rasterize
from anydiff.sketches.sketches import Sketches
from anydiff.sketches.texts import called

SHOWN = [
    "fire", "fish", "mountain", "heart", "bird", "forest", "bridge", "water horse", "gold tree",
    "mouth left, fire right",
]  # fmt: skip
"""Of the picture. No character means the last ones."""


def seen(sketches: Sketches, features: SketchFeatures) -> list[str]:
    """The radical, or the disturbance, that the classifier sees in each sketch."""
    with torch.no_grad():
        logits = features.logits(rasterize(sketches, features.side))
    return [features.classes[k] for k in logits.argmax(1).tolist()]


def of_sketches(args: argparse.Namespace) -> None:
    """Parts that are asked for, in their places."""
    model, features = open_model(args.model), SketchFeatures.load()
    made_of, meanings = kanji_components(), kanji_meanings()
    real = load_kanji("full")
    where = Counter(part for of in made_of.values() for part in of)
    # parts that are mostly the radical of their characters, which is what the classifier knows
    common = [(p, e) for (p, e), _ in where.most_common(200) if e in features.classes][: args.parts]
    how: dict[str, Any] = {}
    scales = {"text": 1.0}
    if free := model.diffusion.times.run is None:  # a student has its own steps, and no guidance
        how = {"sampler": DPMSolver(), "steps": args.steps}
        scales = {"as long, no text": 0.0} | {f"guidance {g:g}": g for g in args.guidance}
    rows: dict[str, list[float]] = {"real characters": []} | {name: [] for name in scales}
    for place, element in common:
        having = [k for k, c in enumerate(real.labels) if (place, element) in made_of.get(c, ())]
        share = np.mean([r == element for r in seen(real.subset(having), features)])
        if share < 0.5:
            continue
        rows["real characters"].append(float(share))
        text = f"{called(element, meanings)} {place}"
        for name, scale in scales.items():
            drawn = model.sample(args.num, text=text, guidance=scale, seed=1000 + args.seed, **how)
            rows[name].append(float(np.mean([r == element for r in seen(drawn, features)])))
        print(text, element, *(f"{of[-1]:.2f}" for of in rows.values()), flush=True)
    calls = args.steps if free else steps_of(model.diffusion, 0)
    print(f"{len(rows['real characters'])} parts, {args.num} drawings of each, {calls} calls")
    cells = [["", "recognised %"], *([k, f"{100 * np.mean(v):.1f}"] for k, v in rows.items())]
    print(aligned(cells, "markdown"))
    if args.picture:
        runs: dict[str, Sketches] = {}
        for text in SHOWN:
            meant = [k for k, c in enumerate(real.labels) if meanings.get(c, [""])[0] == text]
            meant = sorted(meant, key=lambda k: real.counts[k])[:1]  # the simplest
            guidance = 2.0 if free else 1.0
            drawn = model.sample(5, text=text, guidance=guidance, seed=args.seed, **how)
            strokes = [drawn[m] for m in range(5 - len(meant))] + [real[k] for k in meant]
            runs[text] = Sketches.from_lists(strokes)
        draw_runs(args.picture, runs)
        print(args.picture)


def of_molecules(args: argparse.Namespace) -> None:
    """Texts of held-out molecules, and what is true of the molecules that are drawn for them."""
    model = open_model(args.model)
    known = model.read_data()
    part = split_molecules(len(known)).test[: args.num]
    asked = known.subset(part)
    elements = model.atoms.elements
    texts = [", ".join(of) for of in captions(asked, elements)]
    kinds: dict[str, Any] = {
        "rings": lambda phrase: {"ring", "rings"} & set(phrase.split()),
        "groups": lambda phrase: phrase in GROUPS,
    }
    counted = {"hydrogen", "carbon", "nitrogen", "oxygen", "fluorine"}
    rows = [["", "formula exact %", "rings %", "groups %"]]
    for scale in (0.0, *args.guidance):
        drawn = model.sample(
            len(part),
            text=texts,
            guidance=scale,
            sampler=Even(eta=1.0),
            steps=args.steps,
            seed=1000 + args.seed,
        )
        said = captions(drawn, elements)
        exact, true = [], {name: [] for name in kinds}
        for of, text in zip(said, texts, strict=True):
            wanted = text.split(", ")
            atoms = [p for p in wanted if p.split()[-1].rstrip("s") in counted]
            exact.append(set(atoms) <= set(of))
            for name, picks in kinds.items():
                true[name] += [phrase in of for phrase in wanted if picks(phrase)]
        cells = [100 * np.mean(v) for v in (exact, *true.values())]
        rows.append(
            [
                f"guidance {scale:g}" if scale else "as many atoms, no text",
                *(f"{c:.1f}" for c in cells),
            ]
        )
        print(*rows[-1], flush=True)
    print(aligned(rows, "markdown"))


def main() -> None:
    """Draw and judge, as the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["sketches", "molecules"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--parts", type=int, default=40, help="the most parts that are asked for")
    parser.add_argument("--num", type=int, default=32, help="drawings of a part; molecules")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    {"sketches": of_sketches, "molecules": of_molecules}[args.kind](args)


if __name__ == "__main__":
    main()
