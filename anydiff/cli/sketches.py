"""Sketches on the command line: what to begin from, which files are written, what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anydiff.cli.options import left_out
from anydiff.data.parts import stretches
from anydiff.data.parts import with_parts as with_known
from anydiff.data.sequences import loader, unpack
from anydiff.data.stored import MANIFEST
from anydiff.drawing import moments
from anydiff.kinds import first
from anydiff.metrics.tables import Column
from anydiff.pages import Page, film, frames_of
from anydiff.sketches import store
from anydiff.sketches.evaluate import evaluate, table
from anydiff.sketches.files import read_sketches, write_ndjson
from anydiff.sketches.films import animate_denoising, write_animated_svg
from anydiff.sketches.models import SketchModel, compare_parts, first_half, of_one_length
from anydiff.sketches.named import load_sketches, split
from anydiff.sketches.pictures import around, draw_grid, two_colors
from anydiff.sketches.players import show_sketches
from anydiff.sketches.sketches import Sketches
from anydiff.sketches.texts import numbered, texts_of, with_words

NUM, STEPS, LONG, DRAWN, SHOWN = 360, 100, 100, "samples.ndjson", 12
SAMPLER = "ddpm"
PACKAGES: tuple[str, ...] = ("PIL",)
MEASURES: tuple[str, ...] = ()


def read_data(data: str) -> Sketches:
    """Sketches by name or path."""
    return load_sketches(data)


def read_items(path: str) -> Sketches:
    """Sketches of a file or a folder."""
    numbered = (Path(path) / MANIFEST).is_file()
    return _some(store.open(path).read() if numbered else read_sketches(path), path)


def _some(sketches: Sketches, path: str) -> Sketches:
    if not len(sketches):
        raise ValueError(f"{path} holds no sketches.")
    return sketches


def begin(model: SketchModel, data: str | None) -> Sketches:
    """Sketches to begin from: those of a file, or the validation part of data."""
    if data is not None and data not in (*model.names, model.data):
        return _some(load_sketches(data, normalise=model.normalise), data)
    known: Sketches = model.at_hand(data)
    return known.subset(split(known).valid)


def begin_pairs(model: SketchModel, items: Sketches, num: int) -> Sketches:
    """Pairs of them with as many rows, one pair after the other."""
    return of_one_length(items, model.rows, num)


with_parts, kept = first, first_half


def habits(model: SketchModel) -> dict[str, Any]:
    """How models are trained, where nothing else is asked for.

    Arguments:
        model: Not needed; every kind takes its model here.
    """
    return {"lr": 8e-3, "batch_size": 128, "ema": 0.995, "beta": 0.01}


def batches(
    model: SketchModel, known: Sketches, data: str, batch_size: int, seed: int
) -> tuple[Any, Any, Any]:
    """The loaders of the training part and the validation part, and `unpack`.

    Arguments:
        model: What learns.
        known: All parts of the data.
        data: Not needed; every kind takes the name or path of its data here.
        batch_size: The most sketches in a batch.
        seed: Of the order.
    """
    parts = split(known)
    learn, check = (model.rows.encode(known.subset(part)) for part in parts[:2])
    opened: Any = unpack
    if model.vocabulary is not None:
        opened = with_words(numbered(texts_of(known), model.vocabulary))
    return (
        loader(learn, batch_size, seed=seed, numbers=parts.train),
        loader(check, batch_size, shuffle=False, numbers=parts.valid),
        with_known(opened, stretches) if model.completes else opened,
    )


write_items = write_ndjson
"""All sketches in one file."""


def write(
    folder: Path,
    drawn: Sketches,
    frames: list[Sketches],
    before: Sketches | None = None,
    kept: Sketches | None = None,
) -> None:
    """All sketches as ndjson, a picture of the first 64 and of what they were begun from, the first one
    being drawn, and the way of the first four from noise. What was kept of a sketch is in ink."""
    write_items(folder / DRAWN, drawn)
    shown = first(drawn, 64)
    look: dict[str, Any] = {"columns": 16}
    if before is not None:
        look["fit"] = around(first(before, 64))
        draw_grid(folder / "before.png", first(before if kept is None else kept, 64), **look)
        if kept is not None:
            look["stroke_colors"] = two_colors(shown, np.diff(first(kept, 64).offsets))
    draw_grid(folder / "samples.png", shown, **look)
    write_animated_svg(folder / "drawing.svg", drawn[0])
    if frames:  # blends have none
        some = [frames[k] for k in moments(len(frames))]
        animate_denoising(folder / "denoising.gif", some, size=180, fps=15)


def show(
    page: Page,
    folder: Path | None,
    drawn: Sketches,
    before: Sketches | None = None,
    captions: Sequence[str] = (),
) -> None:
    """Sketches on a page.

    Arguments:
        page: Where to.
        folder: That of a run, which may have a film of some on their way from noise.
        drawn: The sketches.
        before: What they were begun from.
        captions: What each was asked to be.
    """
    if before is not None:
        show_sketches(page, before, "Before")
    show_sketches(page, drawn, "After" if before is not None else "Samples", captions=captions)
    if folder is not None:
        page.add("From noise", film(frames_of(folder / "denoising.gif"), "sketches, step by step"))


def draw_runs(path: Path, runs: Mapping[str, Sketches]) -> None:
    """What several runs draw from the same noise, a row for each.

    Arguments:
        path: The file.
        runs: Sketches by what the row is called.
    """
    num = min(map(len, runs.values()))
    shown = Sketches.from_lists([drawn[m] for drawn in runs.values() for m in range(num)])
    draw_grid(path, shown, columns=num, captions=list(runs))


FIGURES = [Column("Fréchet↓", "frechet", ".2f"), Column("valid↑", "validity", ".3f")]


def judge(known: Sketches) -> tuple[Sketches, Callable[[Sketches, int], Any], str]:
    """Real sketches, a function that reports on drawn ones and how many are lost, and what it is on.

    Arguments:
        known: All parts of the data.
    """
    parts = split(known)
    test = known.subset(parts.test[:1000])

    def report(drawn: Sketches, lost: int) -> Any:
        made = evaluate(drawn, test)
        return replace(made, num=made.num + lost)

    what = f"Fréchet of the pictures' features against {len(test):,} held-out sketches"
    return known.subset(parts.valid), report, what


def measure(
    drawn: Sketches,
    data: Sketches,
    *,
    nfe: int | None = None,
    seconds: float | None = None,
    lost: int = 0,
) -> str:
    """The table of figures, between real sketches that were held out and noise.

    Those that are lost, as they were not finite, count as not valid.
    """
    rows = compare_parts(drawn, data, nfe=nfe, seconds=seconds)
    rows = [replace(row, num=row.num + lost) if row.name == "drawn" else row for row in rows]
    return table(rows) + left_out(lost, "sketches")
