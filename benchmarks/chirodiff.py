"""Is the sketch example better than ChiroDiff's configuration, in the same minutes on the same data?

Trains both for each seed, one after the other: the example's model (`anydiff train sketches`), and the
published configuration on the same core: points 0.05 apart with a real-valued pen bit that is cut at
0.8, first point at the origin, 3 × 96 GRU without residuals, position and velocity, linear schedule of
35 steps, eps, AdamW 1e-3 with weight decay 1e-2, batches of 128, gradients cut at 0.1, ancestral
sampling with 0.75 of its noise. Prints every run and the medians, measured by the same code.

    python benchmarks/chirodiff.py                         # three seeds, half an hour and more
    python benchmarks/chirodiff.py --minutes 0.2 --seeds 0 # to see that it runs

It gets what the core gives to all, which its own code has not: the quicker recurrent layer, batches of
similar length, even times, a learning rate that falls to zero over the minutes, and averaged weights
whose decay suits so short a run (0.9999 would keep them at their start). It runs in float32.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import seed_everything

from anydiff import DDPM, GaussianDiffusion, Masked, Tabulated, sample
from anydiff.cli import train
from anydiff.data.sequences import LengthDistribution, Sequences, loader, unpack
from anydiff.denoisers import BiRNN
from anydiff.files import free_folder
from anydiff.sketches.evaluate import SketchReport, table
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.models import SketchModel, compare_parts
from anydiff.sketches.named import split
from anydiff.sketches.pictures import draw_grid
from anydiff.sketches.sketches import Sketches
from anydiff.spaces import Random
from anydiff.training.module import DiffusionModule
from anydiff.training.runs import fit

STEPS = 35


class ChiroRows:
    """Rows (x, y, pen): the first point is the origin and left out, the farthest is 10 from it."""

    channels = 3
    spacing, size, cut = 0.05, 10.0, 0.8

    def encode(self, sketches: Sketches) -> Sequences:
        return Sequences.from_lists([self.rows(sketches[m]) for m in range(len(sketches))])

    def rows(self, strokes: list[np.ndarray]) -> np.ndarray:
        strokes = [s - strokes[0][0] for s in strokes if len(s) > 1]
        radius = max(np.hypot(*s.T).max() for s in strokes)
        rows = []
        for s in strokes:
            way = np.concatenate([[0], np.hypot(*np.diff(s, axis=0).T).cumsum()])
            num = max(2, int(way[-1] / radius / self.spacing))
            at = np.linspace(0, way[-1], num)
            pen = np.arange(num) == num - 1
            rows.append(
                np.stack([*(self.size / radius * np.interp(at, way, c) for c in s.T), pen], 1)
            )
        return np.concatenate(rows)[1:]

    def decode(self, rows: np.ndarray, lengths: np.ndarray) -> Sketches:
        ends = np.cumsum(lengths)
        lifted = rows[:, 2] > self.cut
        lifted[ends - 1] = True
        starts = ends - lengths
        xy, lifted = np.insert(rows[:, :2], starts, 0, 0), np.insert(lifted, starts, False)
        strokes = np.concatenate([[0], np.flatnonzero(lifted) + 1])
        offsets = np.searchsorted(
            strokes, np.concatenate([[0], ends + np.arange(1, len(ends) + 1)])
        )
        return Sketches(xy.astype(np.float64), strokes, offsets, name="drawn")


class Quiet(Masked):
    """The space of the steps' noise, of which the published sampler takes three quarters."""

    def noise(self, x: torch.Tensor, generator: Random = None) -> torch.Tensor:
        return 0.75 * super().noise(x, generator)


def chirodiff(args: argparse.Namespace, folder: Path) -> tuple[Sketches, float]:
    """Train the published configuration and draw with it; sketches, and seconds for one."""
    sketches = load_kanji()
    parts = split(sketches)
    seed_everything(args.seed, verbose=False)
    rows = ChiroRows()
    learn, check = (rows.encode(sketches.subset(p)) for p in (parts.train, parts.valid))
    diffusion = GaussianDiffusion(
        BiRNN(3, 96, 3, velocity=2, residual=False),
        Tabulated.linear(STEPS),
        "eps",
        times=lambda u: torch.ceil(u * STEPS).clamp(min=1) / STEPS,
    )
    fit(
        DiffusionModule(
            diffusion, unpack, lr=1e-3, warmup=1, seed=args.seed,
            optimizer=lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=1e-2),
        ),
        folder,
        loader(learn, 128, seed=args.seed),
        loader(check, 128, shuffle=False),
        minutes=args.minutes,
        ema=0.995,
        clip=0.1,
        val_check_interval=200,
        check_val_every_n_epoch=None,
        accelerator="cpu",
    )  # fmt: skip

    generator = torch.Generator().manual_seed(args.seed)
    lengths = LengthDistribution.from_sizes(learn.sizes).sample(args.num, generator)
    diffusion.eval()
    parts, start = [], time.perf_counter()
    for some in lengths.split(180):
        space = Masked.from_lengths(some)
        x_T = space.noise(torch.empty(*space.mask.shape, 3), generator)
        with torch.no_grad():
            predictor = diffusion.predictor(Quiet(space.mask))
            x = sample(predictor, x_T, DDPM(), STEPS, seed=generator, progress=True)
        parts.append(x[space.mask])
    drawn = rows.decode(torch.cat(parts).numpy(), lengths.numpy())
    return drawn, (time.perf_counter() - start) / args.num


def ours(args: argparse.Namespace, model: Path, steps: int) -> tuple[Sketches, float]:
    """Draw with the example's model; sketches, and seconds for one."""
    start = time.perf_counter()
    drawn = SketchModel.load(model).sample(args.num, steps=steps, seed=args.seed, progress=True)
    return drawn, (time.perf_counter() - start) / args.num


def medians(name: str, rows: list[SketchReport]) -> SketchReport:
    """The row of the medians, figure by figure."""

    def middle(of: list[Any], row: Any) -> Any:
        values = {
            f.name: statistics.median_low(getattr(r, f.name) for r in of)
            for f in fields(row)
            if isinstance(getattr(row, f.name), int | float)
        }
        return replace(row, **values)

    strokes = middle([r.strokes for r in rows], rows[0].strokes)
    return replace(middle(rows, rows[0]), name=name, strokes=strokes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long each trains")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num", type=int, default=360, help="sketches to draw with each")
    parser.add_argument("--out", type=Path, default=Path("runs/chirodiff"), help="folder")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    out = free_folder(options.out, "table.txt")

    found: dict[str, list[SketchReport]] = {"anydiff": [], f"anydiff, {STEPS}": [], "ChiroDiff": []}
    for seed in options.seeds:
        options.seed, model = seed, None
        for name in found:
            folder = out / f"{name.lower().replace(', ', '-')}-{seed}"
            if name == "ChiroDiff":
                steps = STEPS
                drawn, seconds = chirodiff(options, folder)
            else:
                model = model or train.sketches(
                    minutes=options.minutes, seed=seed, out=folder, accelerator="cpu"
                )
                steps = STEPS if str(STEPS) in name else 100
                drawn, seconds = ours(options, model, steps)
            floor, row, ceiling = compare_parts(drawn, load_kanji(), nfe=steps, seconds=seconds)
            found[name].append(replace(row, name=f"{name}, seed {seed}"))
            draw_grid(folder / "samples.png", drawn.subset(range(min(64, len(drawn)))), columns=16)
        rows = [floor, *(row for of in found.values() for row in of)]
        rows += [medians(f"{name}, median", of) for name, of in found.items()]
        text = table([*rows, ceiling])
        (out / "table.txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
