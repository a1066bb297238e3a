"""SMILES on the command line: what to begin from, which files are written, what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anydiff.data.sequences import loader
from anydiff.data.stored import MANIFEST, Store
from anydiff.files import whole
from anydiff.kinds import first
from anydiff.metrics.tables import Column
from anydiff.molecules.qm9 import split
from anydiff.molecules.string_metrics import (
    canonical,
    compare_strings,
    evaluate_strings,
    string_table,
)
from anydiff.molecules.string_models import SmilesModel
from anydiff.molecules.string_pictures import draw_strings
from anydiff.molecules.strings import Strings, load_strings
from anydiff.pages import Page, film, lines, picture

# 0 steps: as many as a string has tokens
NUM, STEPS, LONG, DRAWN, SHOWN = 100, 0, 0, "samples.smi", 6
SAMPLER = None
PACKAGES: tuple[str, ...] = ("rdkit", "PIL")
MEASURES: tuple[str, ...] = ("rdkit",)


def read_data(data: str) -> Strings:
    """SMILES by name or path."""
    return load_strings(data)


def read_items(path: str) -> Strings:
    """SMILES of a file, or of a folder of numbered parts."""
    if not (Path(path) / MANIFEST).is_file():
        return load_strings(path)
    parts = Store[Strings](path, lambda file: load_strings(str(file)), lambda each: each[0])
    return Strings(tuple(text for part in parts for text in part.texts), path)


def begin(model: SmilesModel, data: str | None) -> Strings:
    """Strings to begin from: those of a file, or the validation part of data."""
    if data is not None and data not in (*model.names, model.data):
        return load_strings(data)
    known: Strings = model.at_hand(data)
    return known.subset(split(len(known)).valid)


def with_parts(items: Strings, num: int) -> Strings:
    """The first of them; all have a first half."""
    return first(items, num)


def kept(items: Strings) -> None:
    """The first half, as the model itself has it."""


def habits(model: SmilesModel) -> dict[str, Any]:
    """How models are trained, where nothing else is asked for.

    Arguments:
        model: Not needed; every kind takes its model here.
    """
    return {"lr": 4e-3, "batch_size": 128, "ema": 0.998}


def batches(
    model: SmilesModel, known: Strings, data: str, batch_size: int, seed: int
) -> tuple[Any, Any, Any]:
    """The loaders of the training part and the validation part, and `unpack`.

    Arguments:
        model: What learns.
        known: All parts of the data.
        data: Not needed; every kind takes the name or path of its data here.
        batch_size: The most strings in a batch.
        seed: Of the order.
    """
    parts = split(len(known))
    learn, check = (model.alphabet.sequences(known.subset(part)) for part in parts[:2])
    return (
        loader(learn, batch_size, seed=seed),
        loader(check, batch_size, shuffle=False),
        model.unpack,
    )


def write_items(path: Path, drawn: Strings) -> None:
    """All strings, one in a line.

    Arguments:
        path: The file.
        drawn: The strings.
    """
    with whole(path) as partial:
        Path(partial).write_text("".join(f"{text}\n" for text in drawn.texts), encoding="utf-8")


def write(
    folder: Path,
    drawn: Strings,
    frames: list[Strings],
    before: Strings | None = None,
    kept: None = None,
) -> None:
    """All strings, a picture of the first 24 and of what they were begun from, and the way of the first
    four from masks."""
    write_items(folder / DRAWN, drawn)
    draw_strings(folder / "samples.png", drawn.texts)
    if before is not None:
        draw_strings(folder / "before.png", before.texts)
    if frames:
        lines = ["  ".join(frame.texts[:4]) for frame in frames]
        with whole(folder / "path.txt") as partial:
            Path(partial).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def show(
    page: Page,
    folder: Path | None,
    drawn: Strings,
    before: Strings | None = None,
    captions: Sequence[str] = (),
) -> None:
    """SMILES on a page, and the formulas that they say.

    Arguments:
        page: Where to.
        folder: That of a run, which may have pictures, and the way of some from masks.
        drawn: The strings.
        before: What they were begun from.
        captions: What each was asked to be.
    """
    if before is not None:
        page.add("Before", lines(before.texts[:24]))
    formulas = picture(folder / "samples.png", "structural formulas") if folder else ""
    strings = lines(_beside(drawn.texts[:200], captions))
    page.add("After" if before is not None else "Samples", formulas + strings)
    if folder is not None and (path := folder / "path.txt").is_file():
        frames = [row.replace("  ", "\n") for row in path.read_text(encoding="utf-8").splitlines()]
        page.add("From masks", film(frames, "four strings, step by step"))


def _beside(texts: Sequence[str], asked: Sequence[str]) -> list[str]:
    """What was asked, and what came out."""
    return [f"{asked[k]} → {text}" if k < len(asked) else text for k, text in enumerate(texts)]


def sampler(name: str) -> Any:
    """The sampler of a name, of which there is none beside the usual one.

    Raises:
        ValueError: Always: the names are those of samplers of Gaussian noise.
    """
    raise ValueError(
        f"--sampler is {name}, which is for numbers with noise, and smiles are tokens; leave it out."
    )


FIGURES = [
    Column("valid %↑", "validity", ".1f", 100), Column("unique %↑", "uniqueness", ".1f", 100),
]  # fmt: skip


def measure(
    drawn: Strings,
    data: Strings,
    *,
    nfe: int | None = None,
    seconds: float | None = None,
    lost: int = 0,
) -> str:
    """The table of figures, beside real strings that were held out."""
    return string_table(compare_strings(drawn, data, nfe=nfe or None, seconds=seconds))


def judge(known: Strings) -> tuple[Strings, Any, str]:
    """Real strings, a function that reports on drawn ones, and what it is on.

    Arguments:
        known: All parts of the data.
    """
    parts = split(len(known))
    learn = {text for text in canonical(known.subset(parts.train).texts) if text}

    def report(drawn: Strings, lost: int) -> Any:
        return evaluate_strings(drawn, learn)

    return known.subset(parts.valid), report, "RDKit"
