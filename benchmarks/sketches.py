"""What editing does to drawn characters: completed, healed, redrawn and blended by one model.

Trains the example's model (`anydiff train sketches`) for each seed, or goes on with the models that are
in the folder, and edits characters of the validation part, which no model has learnt from. Fréchet
distances are from the 360 characters of the test part, on the features of `anydiff.sketches.evaluate`;
lengths are in units of a character's size, the longer side of its box.

    python benchmarks/sketches.py                                   # three seeds, half an hour and more
    python benchmarks/sketches.py --pictures docs/pictures          # and the pictures, of the first seed
    python benchmarks/sketches.py --minutes 0.2 --seeds 0 --num 20  # to see that it runs
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import anydiff
from anydiff import DDPM, GaussianDiffusion, Masked, edit, impute, interpolate, sample
from anydiff.cli import train
from anydiff.data.sequences import pad, pairs
from anydiff.editing import denoise
from anydiff.guidance import pigdm
from anydiff.sketches.evaluate import chamfer, evaluate
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.named import split
from anydiff.sketches.pictures import around, draw_grid, two_colors
from anydiff.sketches.rows import StrokeRows, rows_from_config
from anydiff.sketches.sketches import Sketches

SIZE = 86.0  # of a character, in the mean, in the 109 units of its square
JITTER = 0.05  # of it, on every coordinate
HEALING = (0.05, 0.1, 0.2, 0.3, 0.5)
ABSTRACTION = (0.2, 0.4, 0.6, 0.8)
RESAMPLES = (1, 5, 10)
SPACING = 1.0  # of points that are compared, in these units

Row = dict[str, float]
Table = dict[str, Row]


class Characters:
    """Held-out characters as a padded batch, and the training ones to compare with.

    Arguments:
        num: How many: the first ones of two strokes or more with `draws` training characters of as many.
    """

    def __init__(self, rows: StrokeRows, num: int, draws: int) -> None:
        kanji = load_kanji()
        parts = split(kanji)
        self.rows, self.reference = rows, kanji.subset(parts.test)
        self.valid, train = kanji.subset(parts.valid), kanji.subset(parts.train)
        counts, train_counts = np.diff(self.valid.offsets), np.diff(train.offsets)
        known = np.bincount(train_counts, minlength=counts.max() + 1)[counts]
        self.whole = self.valid.subset(np.flatnonzero((counts > 1) & (known >= draws))[:num])
        self.x, mask = self.encode(self.whole)
        self.space = Masked(mask)
        self.lengths = np.diff(self.whole.offsets)
        self.kept = (self.lengths + 1) // 2
        self.known = torch.arange(mask.shape[1]) < torch.as_tensor(self.kept)[:, None]
        self.size = np.subtract(*self.whole.box[::-1]).max(1)

        items = rows.encode(train)
        self.train = {
            n: np.stack([items[int(m)] for m in np.flatnonzero(train_counts == n)])
            for n in set(self.lengths.tolist())
        }

    def encode(self, sketches: Sketches) -> tuple[Tensor, Tensor]:
        items = self.rows.encode(sketches)
        return pad([items[m] for m in range(len(items))])

    def decode(self, x: Tensor) -> Sketches:
        return self.rows.decode(x[self.space.mask], self.lengths.tolist())

    def frechet(self, *drawn: Sketches) -> float:
        """The mean of as many sets."""
        return float(np.mean([evaluate(d, self.reference).frechet for d in drawn]))

    def rmse(self, x: Tensor, y: Tensor) -> float:
        """Of coordinates, in sizes: the mean over the characters."""
        squares = (x - y).square().sum((1, 2)).numpy() / (self.lengths * x.shape[2])
        return float((np.sqrt(squares) * self.rows.scale / self.size).mean())

    def training_ones(self, draws: int, nearest: bool) -> Tensor:
        """For each character training ones with as many strokes, (n, B, N, C): those whose first half is
        nearest, or any; with the first half of the character's own."""
        rng = np.random.default_rng(0)
        found = self.x.repeat(draws, 1, 1, 1)
        for m, (n, k) in enumerate(zip(self.lengths.tolist(), self.kept.tolist(), strict=True)):
            ones, own = self.train[n], self.x[m, :k].numpy()
            away = np.square(ones[:, :k] - own).sum((1, 2)) if nearest else rng.random(len(ones))
            chosen = ones[np.argsort(away)[:draws]]
            found[:, m, k:n] = torch.from_numpy(chosen[:, k:])
        return found


def seeds(x: Tensor) -> list[int]:
    """One for each item, so that the pictures show what the tables are of."""
    return list(range(1000, 1000 + len(x)))


def completed(characters: Characters, drawn: Tensor) -> Row:
    """Figures of draws (n, B, N, C), of which the rows that were known are the character's own."""
    truth = characters.whole.part(characters.kept)
    sketches = [characters.decode(x) for x in drawn]
    away = np.stack(
        [chamfer(s.part(characters.kept), truth, SPACING) / characters.size for s in sketches]
    )
    middle = characters.decode(drawn.mean(0)).part(characters.kept)
    return {
        "distance": away.mean(),
        "best": away.min(0).mean(),
        "of the mean": (chamfer(middle, truth, SPACING) / characters.size).mean(),
        "Fréchet": characters.frechet(*sketches),
    }


def completion(args: argparse.Namespace, c: Characters, diffusion: GaussianDiffusion) -> Table:
    """The second half of the strokes, drawn, n times."""
    table, predictor = {}, diffusion.predictor(c.space)
    for resamples in RESAMPLES:
        drawn = impute(
            predictor, c.x, args.draws, known=c.known, resamples=resamples, steps=args.steps,
            seed=seeds(c.x),
        )  # fmt: skip
        table[f"drawn, {resamples} × {args.steps} calls"] = completed(c, drawn)
    guided = pigdm(*posterior(c, diffusion, args.draws))
    shape = (args.draws * len(c.x), *c.x.shape[1:])
    drawn = sample(guided, shape, DDPM(), args.steps, seed=seeds(torch.empty(shape[0])))
    drawn = drawn.unflatten(0, (args.draws, -1))
    drawn = torch.where(c.known[..., None], c.x, drawn)  # it comes near to what is known
    table[f"guided (ΠGDM), {args.steps} calls"] = completed(c, drawn)
    return table


def posterior(
    c: Characters, diffusion: GaussianDiffusion, draws: int
) -> tuple[anydiff.Predictor, Callable[[Tensor], Tensor], Tensor]:
    """A predictor of copies of the characters, what is seen of one, and what was."""
    known = c.known.repeat(draws, 1)[..., None]
    return (
        diffusion.predictor(c.space.copies(draws)),
        lambda x: x * known,
        c.x.repeat(draws, 1, 1) * known,
    )


def completion_baselines(args: argparse.Namespace, c: Characters) -> Table:
    return {
        "nearest training characters": completed(c, c.training_ones(args.draws, nearest=True)),
        "any training characters": completed(c, c.training_ones(args.draws, nearest=False)),
        "the truth": completed(c, c.x[None]),
    }


def jitter(c: Characters) -> float:
    """The deviation of the jitter, in the units of what diffuses."""
    return JITTER * SIZE / c.rows.scale


def jittered(c: Characters) -> Tensor:
    own = [
        torch.Generator().manual_seed(s + 500_000) for s in seeds(c.x)
    ]  # not the edit's own noise
    return c.x + jitter(c) * c.space.noise(c.x, own)


def denoised(c: Characters, diffusion: GaussianDiffusion, noisy: Tensor) -> Tensor:
    """The jitter taken for the noise that the diffusion would have at the time of as much."""
    return denoise(diffusion.predictor(c.space), noisy, jitter(c))


def redraw(predictor: anydiff.Predictor, x: Tensor, strength: float) -> Tensor:
    return edit(predictor, x, strength, steps=25, seed=seeds(x))


def healing(args: argparse.Namespace, c: Characters, diffusion: GaussianDiffusion) -> Table:
    """Jitter on every coordinate, and noise up to a time and back."""
    predictor, noisy = diffusion.predictor(c.space), jittered(c)
    drawn = {f"strength {s}": redraw(predictor, noisy, s) for s in HEALING}
    drawn["no noise added"] = denoised(c, diffusion, noisy)
    return {
        name: {"RMSE": c.rmse(x, c.x), "Fréchet": c.frechet(c.decode(x))}
        for name, x in drawn.items()
    }


def healing_baselines(c: Characters) -> Table:
    noisy = jittered(c)
    return {
        "jittered": {"RMSE": c.rmse(noisy, c.x), "Fréchet": c.frechet(c.decode(noisy))},
        "clean": {"RMSE": 0.0, "Fréchet": c.frechet(c.decode(c.x))},
    }


def abstraction(args: argparse.Namespace, c: Characters, diffusion: GaussianDiffusion) -> Table:
    """Noise up to a time and back: how much is left."""
    table, predictor = {}, diffusion.predictor(c.space)
    for strength in ABSTRACTION:
        drawn = c.decode(redraw(predictor, c.x, strength))
        table[f"strength {strength}"] = {
            "distance": (chamfer(drawn, c.whole, SPACING) / c.size).mean(),
            "Fréchet": c.frechet(drawn),
        }
    return table


class Pairs(Characters):
    """Pairs of held-out characters with as many strokes; the first ones are the characters."""

    def __init__(self, rows: StrokeRows, num: int) -> None:
        super().__init__(rows, 360, 1)
        found = pairs(self.lengths)[:num]
        a, b = found.T
        self.first, self.second = self.x[a], self.x[b]
        self.space = Masked(self.space.mask[a])
        self.lengths, self.size = self.lengths[a], (self.size[a] + self.size[b]) / 2


def blend(args: argparse.Namespace, c: Pairs, diffusion: GaussianDiffusion) -> Table:
    """From one of a pair to the other along the flow, beside the mean of their rows."""
    predictor = diffusion.predictor(c.space)
    a, middle, b = interpolate(predictor, c.first, c.second, [0.0, 0.5, 1.0], steps=args.steps)
    ends = (c.rmse(a, c.first) + c.rmse(b, c.second)) / 2
    return {"along the flow": {"ends": ends, "Fréchet": c.frechet(c.decode(middle))}}


def blend_baselines(c: Pairs) -> Table:
    mean = (c.first + c.second) / 2
    return {
        "the mean of rows": {"ends": 0.0, "Fréchet": c.frechet(c.decode(mean))},
        "the first of each": {"ends": 0.0, "Fréchet": c.frechet(c.decode(c.first))},
    }


# pictures --------------------


def pictures(args: argparse.Namespace, c: Characters, diffusion: GaussianDiffusion) -> None:
    """The first characters, as they come: what was given in ink, what was drawn in colour."""
    args.pictures.mkdir(parents=True, exist_ok=True)
    some = Characters(c.rows, 10, args.draws)
    predictor = diffusion.predictor(some.space)
    nothing, everything = np.zeros(len(some.x), int), some.lengths

    drawn = impute(
        predictor, some.x, 3, known=some.known, resamples=10, steps=args.steps, seed=seeds(some.x)
    )
    grid(
        args.pictures / "sketch_complete.png",
        {
            "given": (some.whole.part(0, some.kept), some.kept),
            **{
                f"drawn {n}": (some.decode(x), some.kept) for n, x in zip("abc", drawn, strict=True)
            },
            "the truth": (some.whole, everything),
        },
    )
    noisy = jittered(some)
    grid(
        args.pictures / "sketch_heal.png",
        {
            "jittered": (some.decode(noisy), everything),
            "healed": (some.decode(denoised(some, diffusion, noisy)), nothing),
            "the truth": (some.whole, everything),
        },
    )
    redrawn = {f"strength {s}": redraw(predictor, some.x, s) for s in ABSTRACTION}
    grid(
        args.pictures / "sketch_abstraction.png",
        {
            "as it was": (some.whole, everything),
            **{name: (some.decode(x), nothing) for name, x in redrawn.items()},
        },
    )
    two = Pairs(c.rows, 6)
    steps = interpolate(diffusion.predictor(two.space), two.first, two.second, 7, steps=args.steps)
    steps[0], steps[-1] = two.first, two.second  # what was given
    found = [two.decode(x) for x in steps]
    sheet = Sketches.from_lists([d[m] for m in range(len(two.lengths)) for d in found])
    ends = np.zeros((len(two.lengths), len(found)), int)
    ends[:, [0, -1]] = two.lengths[:, None]
    write(args.pictures / "sketch_blend.png", sheet, 7, ends.ravel())


def grid(path: Path, rows: dict[str, tuple[Sketches, np.ndarray]]) -> None:
    """A row for each, with its name, and how many first strokes of each sketch are in ink."""
    sheet = Sketches.from_lists([d[m] for d, _ in rows.values() for m in range(len(d))])
    inked = np.concatenate([n for _, n in rows.values()])
    write(path, sheet, len(sheet) // len(rows), inked, list(rows))


def write(
    path: Path, sheet: Sketches, columns: int, inked: np.ndarray, captions: Sequence[str] = ()
) -> None:
    draw_grid(
        path, sheet, columns, 72, gap=8, fit=around(sheet),
        stroke_colors=two_colors(sheet, inked), captions=captions,
    )  # fmt: skip
    with Image.open(path) as picture:  # two colours need no more, and a page loads it sooner
        few = picture.quantize(64)
    few.save(path, optimize=True)


# tables --------------------


def model(args: argparse.Namespace, seed: int) -> tuple[GaussianDiffusion, StrokeRows]:
    """The example's, trained unless it is there."""
    folder = args.folder / f"seed-{seed}"
    path = folder / "model.safetensors"
    if not path.exists():
        train.sketches(minutes=args.minutes, seed=seed, out=folder, accelerator="cpu")
    diffusion, extra = anydiff.load(path)
    rows = rows_from_config(extra["rows"])
    assert isinstance(rows, StrokeRows)
    return diffusion.eval().requires_grad_(False), rows


def measured(
    args: argparse.Namespace, c: Characters, two: Pairs, diffusion: GaussianDiffusion, folder: Path
) -> dict[str, Table]:
    """The figures of one model, kept in its folder."""
    path = folder / f"figures-{args.num}-{args.draws}-{args.steps}.json"
    if path.exists():
        return json.loads(path.read_text())
    tables = {
        "healing": healing(args, c, diffusion),
        "abstraction": abstraction(args, c, diffusion),
        "blend": blend(args, two, diffusion),
        "completion": completion(args, c, diffusion),
    }
    path.write_text(json.dumps(tables, indent=1))
    return tables


def lines(title: str, baselines: Table, found: list[Table]) -> str:
    """A table in Markdown: the mean over the seeds, and from the least to the greatest."""
    names = list(next(iter(baselines.values())))

    def cell(values: list[float]) -> str:
        digits = 2 if max(values) >= 1 else 3
        mean = f"{np.mean(values):.{digits}f}"
        if min(values) == max(values):
            return mean
        return f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"

    text = [f"| {title} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for tables in (found, [baselines]):
        for row in tables[0]:
            cells = [cell([t[row][name] for t in tables]) for name in names]
            text.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, default=5.0, help="how long each trains")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the models")
    add("--folder", type=Path, default=Path("runs/sketches"), help="of the models")
    add("--num", type=int, default=180, help="characters to edit")
    add("--draws", type=int, default=5, help="completions of each")
    add("--steps", type=int, default=25, help="of a completion and of a blend")
    add("--pictures", type=Path, help="folder for the pictures; none if not given")
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)

    every = []
    for seed in args.seeds:
        diffusion, rows = model(args, seed)
        c, two = Characters(rows, args.num, args.draws), Pairs(rows, args.num)
        if args.pictures and seed == args.seeds[0]:
            pictures(args, c, diffusion)
        every.append(measured(args, c, two, diffusion, args.folder / f"seed-{seed}"))
    baselines = {
        "completion": completion_baselines(args, c),
        "healing": healing_baselines(c),
        "abstraction": {"as it was": {"distance": 0.0, "Fréchet": c.frechet(c.whole)}},
        "blend": blend_baselines(two),
    }
    text = "\n\n".join(lines(n, b, [tables[n] for tables in every]) for n, b in baselines.items())
    (args.folder / "tables.md").write_text(text + "\n")
    print(f"{len(c.x)} characters, {len(two.first)} pairs", text, sep="\n\n")


if __name__ == "__main__":
    main()
