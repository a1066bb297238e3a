"""Handwritten digits, steered: by labels, by a part that is known, by a coarse version, by a sketch.

Trains a few small models on the shipped digits (digits_models.py) and measures what each way of steering
them does; docs/results.md has the tables. A row is as many digits as were held out, 449, each told of
a held-out one what its row says: its label, its left half, its means over 4 × 4 pixels, or all of it. A
cell is the mean over the seeds and, where they differ, their range.

    python benchmarks/digits.py                                # about 40 minutes
    python benchmarks/digits.py --pictures docs/pictures       # and the pictures of the first seed
    python benchmarks/digits.py --seeds 0 --minutes 0.2 --num 50 --folder runs/try

Models and rows are kept in the folder; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from digits_models import MODELS, Models, coarse, digits, trained
from torch import Tensor
from tqdm import tqdm

from anydiff import sample
from anydiff.editing import Stage, cascade, edit, ilvr, inpaint
from anydiff.files import whole
from anydiff.guidance import autoguidance, classifier, classifier_free, dps, pigdm
from anydiff.images import from_uint8, held_out, load_images, to_uint8
from anydiff.images.digit_features import DigitFeatures
from anydiff.images.evaluate import evaluate
from anydiff.images.pictures import draw_rows
from anydiff.predictions import Predictor
from anydiff.samplers import DDPM

STEPS = 25  # of each run; those of RePaint are gone several times
Row = dict[str, float]


@dataclass(frozen=True)
class Batch:
    """Held-out digits, or what is told of them, and where the noise of their draw comes from."""

    x0: Tensor
    label: Tensor
    seed: int

    @property
    def left(self) -> Tensor:
        return (torch.arange(8) < 4).expand_as(self.x0)

    @property
    def given(self) -> Tensor:
        return coarse(self.x0)

    def sample(self, predictor: Predictor, **options: Any) -> Tensor:
        return sample(
            predictor, tuple(self.x0.shape), **{"steps": STEPS, "seed": self.seed} | options
        )


Draw = Callable[[Batch], Tensor]


class Held:
    """The held-out digits of a seed, and what is measured against them."""

    def __init__(self, num: int, seed: int) -> None:
        images = load_images("digits")
        test = held_out(images, num, images.shape)
        self.x0, self.label, self.seed = from_uint8(test.pixels), test.labels, seed
        self.features = DigitFeatures.load()
        self.reference = self.features.features(digits()[1].pixels)
        self.named = self.names(self.x0)

    def draw(self, by: Draw, size: int = 128) -> Tensor:
        parts = zip(self.x0.split(size), self.label.split(size), strict=True)
        with torch.no_grad():
            return torch.cat(
                [by(Batch(x, y, 1000 * self.seed + k)) for k, (x, y) in enumerate(parts)]
            )

    def names(self, x: Tensor) -> Tensor:
        return self.features.logits(to_uint8(x)).argmax(1)

    def seen(self, x: Tensor) -> Row:
        """What the classifier says."""
        row = evaluate(to_uint8(x), self.reference, features=self.features, labels=self.label)
        return {
            "right class %": 100 * float(row.accuracy or 0.0),
            "confidence": float(row.confidence or 0.0),
            "Fréchet": row.frechet,
        }


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


# the tables: their rows, name -> how to draw, and what is measured of one --------------------


def by_label(m: Models) -> dict[str, Draw]:
    def free(scale: float, **options: Any) -> Draw:
        def by(b: Batch) -> Tensor:
            told, untold = m.conditional.predictor(label=b.label), m.conditional.predictor()
            return b.sample(classifier_free(told, untold, scale, **options))

        return by

    def auto(scale: float) -> Draw:
        def by(b: Batch) -> Tensor:
            strong, weak = (d.predictor(label=b.label) for d in (m.conditional, m.weak))
            return b.sample(autoguidance(strong, weak, scale))

        return by

    def classified(scale: float) -> Draw:
        def by(b: Batch) -> Tensor:
            def log_prob(x: Tensor, t: Tensor) -> Tensor:
                return m.classifier.log_prob(b.label, x, t)

            return b.sample(classifier(m.conditional.predictor(), log_prob, scale))

        return by

    return {
        **{f"scale {w:g}": free(w) for w in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)},
        "scale 3, times 0.3 to 0.8": free(3.0, interval=(0.3, 0.8)),
        "scale 3, rescale 0.7": free(3.0, rescale=0.7),
        "autoguidance, scale 2": auto(2.0),
        **{f"classifier, scale {w:g}": classified(w) for w in (1.0, 3.0)},
        "the weak model, scale 1": lambda b: b.sample(m.weak.predictor(label=b.label)),
        "real, held out": lambda b: b.x0,
    }


def by_half(m: Models) -> dict[str, Draw]:
    known, _ = digits()
    seen = from_uint8(known.pixels)

    def repaint(resamples: int) -> Draw:
        return lambda b: inpaint(
            m.conditional.predictor(), b.x0, b.left, steps=STEPS, resamples=resamples, seed=b.seed
        )

    def half(x: Tensor) -> Tensor:
        return x[..., :4]

    def nearest(b: Batch) -> Tensor:
        apart = torch.cdist(half(b.x0).flatten(1), half(seen).flatten(1))
        return seen[apart.argmin(1)]

    return {
        "replacement": repaint(1),
        "RePaint, 5 times": repaint(5),
        "RePaint, 10 times": repaint(10),
        "pigdm": lambda b: b.sample(pigdm(m.conditional.predictor(), half, half(b.x0))),
        "dps, 100 steps": lambda b: b.sample(
            dps(m.conditional.predictor(), half, half(b.x0)), sampler=DDPM(), steps=100
        ),
        "nearest training digit": nearest,
        "mean of the training digits": lambda b: seen.mean(0).expand_as(b.x0),
        "real, held out": lambda b: b.x0,
    }


def by_sketch(m: Models) -> dict[str, Draw]:
    def sdedit(strength: float) -> Draw:
        return lambda b: edit(m.conditional.predictor(), b.x0, strength, steps=STEPS, seed=b.seed)

    return {f"strength {s:g}": sdedit(s) for s in (0.2, 0.4, 0.6, 0.8)}


def by_means(m: Models) -> dict[str, Draw]:
    def means(x: Tensor) -> Tensor:
        return F.interpolate(coarse(x), scale_factor=4)

    return {
        "superres, told the label": lambda b: b.sample(
            m.superres.predictor(image=b.given, label=b.label)
        ),
        "superres": lambda b: b.sample(m.superres.predictor(image=b.given)),
        "pigdm": lambda b: b.sample(pigdm(m.conditional.predictor(), coarse, b.given)),
        "ILVR": lambda b: ilvr(m.conditional.predictor(), b.x0, means, steps=STEPS, seed=b.seed),
        "bilinear": lambda b: bilinear(b.given),
        "real, held out": lambda b: b.x0,
    }


def bilinear(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=4, mode="bilinear")


def stages(m: Models, b: Batch, noise: float = 0.0) -> list[Tensor]:
    """A label -> 2 × 2 means -> 8 × 8 pixels."""
    first, second = (len(b.x0), 1, 2, 2), tuple(b.x0.shape)
    small, large = (partial(d.predictor, label=b.label) for d in (m.coarse, m.superres))
    both = [
        Stage(small, first, options={"steps": STEPS}),
        Stage(large, second, "image", noise, {"steps": STEPS}),
    ]
    return cascade(both, seed=b.seed)


def rows(m: Models, held: Held) -> Iterator[tuple[str, str, Callable[[], Row]]]:
    """All rows: the table, the row's name and its figures."""
    right = (..., slice(4, None))

    def labelled(by: Draw) -> Row:
        return held.seen(held.draw(by))

    def halved(by: Draw) -> Row:
        x = held.draw(by)
        whole = torch.cat([held.x0[..., :4], x[right]], -1)
        return {"RMSE, right half": rms(x[right] - held.x0[right])} | held.seen(whole)

    def sketched(by: Draw) -> Row:
        x = held.draw(by)
        kept = float((held.names(x) == held.named).double().mean())
        seen = held.seen(x)
        del seen["right class %"]
        return {"RMSE to the input": rms(x - held.x0), "class kept %": 100 * kept} | seen

    def refined(by: Draw) -> Row:
        x = held.draw(by)
        return {
            "RMSE, 2 × 2 means": rms(coarse(x) - coarse(held.x0)), "RMSE": rms(x - held.x0)
        } | held.seen(x)  # fmt: skip

    def cascaded(noise: float) -> Row:
        both = held.draw(lambda b: torch.cat([bare(c) for c in stages(m, b, noise)], 1))
        small, x = coarse(both[:, :1]), both[:, 1:]
        return {"RMSE, 2 × 2 means": rms(coarse(x) - small)} | held.seen(x)

    def bare(c: Tensor) -> Tensor:  # of one size
        return F.interpolate(c, (8, 8))

    for table, made, measure in (
        ("Labels", by_label, labelled),
        ("Inpainting", by_half, halved),
        ("SDEdit", by_sketch, sketched),
        ("Super-resolution", by_means, refined),
    ):
        for name, by in made(m).items():
            yield table, name, lambda by=by, measure=measure: measure(by)
    for noise in (0.0, 0.15):
        name = f"cascade from the label, noise {noise:g}"
        yield "Super-resolution", name, lambda noise=noise: cascaded(noise)


def written(results: list[dict[str, dict[str, Row]]]) -> str:
    """Tables in Markdown, of the results of each seed."""
    parts = []
    for table, named in results[0].items():
        columns = list(dict.fromkeys(c for row in named.values() for c in row))
        lines = [f"| {table} | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
        for name in named:
            cells = []
            for c in columns:
                values = [r[table][name][c] for r in results if c in r[table][name]]
                cells.append(cell(values, 1 if "%" in c else 2 if c == "Fréchet" else 3))
            lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def cell(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    mean, low, high = (
        f"{v:.{digits}f}" for v in (sum(values) / len(values), min(values), max(values))
    )
    return mean if low == high else f"{mean} ({low} – {high})"


# pictures --------------------


def pictures(m: Models, held: Held, folder: Path) -> None:
    """What the tables are about, to look at; of the held-out digits the first one of each class."""
    first = torch.stack([(held.label == n).nonzero()[0, 0] for n in range(10)])
    b = Batch(held.x0[first], held.label[first], seed=held.seed)

    with torch.no_grad():
        labels, edits, finer = by_label(m), by_sketch(m), by_means(m)
        guided = {f"guidance {w}": labels[f"scale {w}"](b) for w in (0, 1, 3)}
        half = inpaints(m, b)
        fine = {"given": F.interpolate(b.given, scale_factor=4), "bilinear": bilinear(b.given)}
        fine |= {
            "drawn": finer["superres"](b), "drawn, label": finer["superres, told the label"](b),
            "truth": b.x0,
        }  # fmt: skip
        edited = {"held out": b.x0} | {name: by(b) for name, by in edits.items()}
    for name, rows in (
        ("guidance", guided), ("inpaint", half), ("superres", fine), ("edit", edited)
    ):  # fmt: skip
        draw_rows(folder / f"digits_{name}.png", {key: to_uint8(x) for key, x in rows.items()})


def inpaints(m: Models, b: Batch) -> dict[str, Tensor]:
    unknown = torch.full_like(b.x0, 0.25)  # grey
    shown = {"truth": b.x0, "given": torch.where(b.left, b.x0, unknown)}
    for k in range(3):
        x = inpaint(
            m.conditional.predictor(), b.x0, b.left, steps=STEPS, resamples=10, seed=b.seed + k
        )
        shown[f"drawn, {k + 1}"] = x
    return shown


# the command --------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--minutes", type=float, default=3.0, help="for the larger models, others take a share")
    add("--num", type=int, default=449, help="digits of a row")
    add("--folder", type=Path, default=Path("runs/digits"), help="for models, rows and tables")
    add("--pictures", type=Path, metavar="DIR", help="draw pictures too, of the first seed, there")
    add("--threads", type=int, help="one is the quickest where other programs run")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    if args.threads:
        torch.set_num_threads(args.threads)
    results = []
    for seed in args.seeds:
        folder = args.folder / str(seed)
        made = {name: trained(folder, name, args.minutes, seed) for name in MODELS}
        models, held = Models(**made), Held(args.num, seed)
        if args.pictures and seed == args.seeds[0]:
            args.pictures.mkdir(parents=True, exist_ok=True)
            pictures(models, held, args.pictures)
        results.append(measured(models, held, folder / f"rows-{args.num}.json"))
    text = written(results)
    print("", text, sep="\n")
    (args.folder / "tables.md").write_text(text)


def measured(models: Models, held: Held, path: Path) -> dict[str, dict[str, Row]]:
    """The figures of a seed, from the file as far as it goes."""
    done = json.loads(path.read_text()) if path.exists() else {}
    for table, name, figures in tqdm(list(rows(models, held)), desc=f"seed {held.seed}, rows"):
        if name not in done.setdefault(table, {}):
            done[table][name] = figures()
            with whole(path, ".json") as temporary:
                Path(temporary).write_text(json.dumps(done, indent=1))
    return done


if __name__ == "__main__":
    main()
