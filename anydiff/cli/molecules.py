"""Molecules on the command line: what to begin from, which files are written, what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anydiff.data.parts import with_parts as with_known
from anydiff.kinds import first
from anydiff.metrics.tables import Column, aligned
from anydiff.molecules.batches import loader
from anydiff.molecules.bonded import Bonded
from anydiff.molecules.captions import captions, table_of, with_captions
from anydiff.molecules.evaluate import evaluate, table, to_rdkit
from anydiff.molecules.files import read_molecules, write_sdf, write_xyz
from anydiff.molecules.fragments import first_with, largest_ring, two_ends
from anydiff.molecules.models import MoleculeModel, compare_parts
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.pictures import animate, draw_grid
from anydiff.molecules.plausibility import plausibility
from anydiff.molecules.properties import with_properties
from anydiff.molecules.qm9 import load_qm9, split
from anydiff.molecules.skeletons import molecule_parts
from anydiff.molecules.viewers import show_molecules, show_path
from anydiff.pages import Page

NUM, STEPS, LONG, DRAWN, SHOWN = 100, 50, 250, "samples.sdf", 6
SAMPLER = "sde"
PACKAGES: tuple[str, ...] = ("rdkit", "PIL")
MEASURES: tuple[str, ...] = ("rdkit",)


def read_data(data: str, root: str | None = None) -> Molecules:
    """Molecules by name or path."""
    return load_qm9(data, root)


def read_items(path: str) -> Molecules:
    """Molecules of a file, without those that are faulty; a warning says how many these are."""
    text = not path.lower().endswith(".npz")
    return read_molecules(path, skip=text)


def begin(model: MoleculeModel, data: str | None) -> Molecules:
    """Molecules to begin from: those of a file, or the test part of data."""
    if data is not None and data not in (*model.names, model.data):
        return load_qm9(data, bonds=isinstance(model.atoms, Bonded))
    known: Molecules = model.at_hand(data)
    return known.subset(split(len(known)).test)


def with_parts(items: Molecules, num: int, keep: str = "ring") -> Molecules:
    """The first of them that have what is to be kept."""
    return first_with(items, num, ATOMS[keep])[0] if keep in ATOMS else first(items, num)


def kept(items: Molecules, keep: str = "ring") -> np.ndarray | str:
    """The atoms that are kept, (N,); or the word itself, where not whole atoms are."""
    return ATOMS[keep](items.pos, items.z, items.index) if keep in ATOMS else keep


def heavy(pos: Any, z: Any, index: Any) -> np.ndarray:
    """All atoms but hydrogens, (N,)."""
    return np.asarray(z) > 1


ATOMS: dict[str, Callable[[Any, Any, Any], np.ndarray]] = {
    "ring": largest_ring,
    "ends": two_ends,
    "heavy": heavy,
}
"""Which atoms are kept, by name."""


def habits(model: MoleculeModel) -> dict[str, Any]:
    """How models are trained, where nothing else is asked for.

    Arguments:
        model: Not needed; every kind takes its model here.
    """
    return {"lr": 8e-3, "batch_size": 64, "ema": 0.995, "beta": 1e-4}


def batches(
    model: MoleculeModel, known: Molecules, data: str, batch_size: int, seed: int
) -> tuple[Any, Any, Any]:
    """The loaders of the training part and the validation part, and `unpack`.

    Arguments:
        model: What learns; its property or texts, if it knows any, are the condition.
        known: All parts of the data.
        data: Not needed; every kind takes the name or path of its data here.
        batch_size: The most molecules in a batch.
        seed: Of the order.

    Raises:
        ValueError: If the model cannot learn from them.
    """
    model.atoms.check(known)
    parts = split(len(known))
    unpack: Callable[[Any], Any] = model.atoms.unpack
    if model.properties is not None:
        unpack = with_properties(unpack, model.properties, known.prop_names)
    if model.vocabulary is not None:
        unpack = with_captions(
            unpack, table_of(captions(known, model.atoms.elements), model.vocabulary)
        )
    if model.completes:
        unpack = with_known(unpack, molecule_parts(known.elements))
    return (
        loader(known.subset(parts.train), batch_size, seed=seed, of=parts.train),
        loader(known.subset(parts.valid), batch_size, shuffle=False, of=parts.valid),
        unpack,
    )


def write_items(path: Path, drawn: Molecules) -> None:
    """All molecules as SDF.

    Arguments:
        path: The file.
        drawn: The molecules.
    """
    bonded = drawn if drawn.bonds is not None else to_rdkit(drawn.pos, drawn.z, drawn.index)
    write_sdf(path, bonded)


def write(
    folder: Path,
    drawn: Molecules,
    frames: list[Molecules],
    before: Molecules | None = None,
    kept: np.ndarray | str | None = None,
) -> None:
    """All molecules as SDF, a picture of the first 24 and of what they were begun from, and the path of
    the first one as XYZ and GIF."""
    write_items(folder / DRAWN, drawn)
    shown = first(drawn, 24)
    marked = kept[: len(shown.z)] if isinstance(kept, np.ndarray) else None
    columns = min(8, len(shown))
    look: dict[str, Any] = {"columns": columns, "marked": marked}
    draw_grid(folder / "samples.png", shown.pos, shown.z, shown.index, **look, **_own(shown))
    if before is not None:
        known = first(before, 24)
        own = _own(known) if drawn.bonds is not None else {}  # both as the model sees them
        draw_grid(folder / "before.png", known.pos, known.z, known.index, **look, **own)
    if not frames:  # the first one diverged at once
        return
    write_xyz(folder / "path.xyz", [(f.pos, f.z) for f in frames])
    some = [*frames[:: max(1, len(frames) // 125)], frames[-1]]
    animate(folder / "path.gif", [f.pos for f in some], [f.z for f in some])


def show(
    page: Page,
    folder: Path | None,
    drawn: Molecules,
    before: Molecules | None = None,
    captions: Sequence[str] = (),
) -> None:
    """Molecules on a page.

    Arguments:
        page: Where to.
        folder: That of a run, which may have the path of one from noise.
        drawn: The molecules.
        before: What they were begun from.
        captions: What each was asked to be.
    """
    if before is not None:
        known = before if drawn.bonds is not None else replace(before, bonds=None, orders=None)
        show_molecules(page, known, "Before")
    show_molecules(page, drawn, "After" if before is not None else "Samples", captions=captions)
    if folder is not None:
        show_path(page, folder / "path.xyz")


def draw_runs(path: Path, runs: Mapping[str, Molecules]) -> None:
    """What several runs draw from the same noise, a row for each.

    Arguments:
        path: The file.
        runs: Molecules by what the row is called.
    """
    num = min(map(len, runs.values()))
    shown = Molecules.concatenate([first(drawn, num) for drawn in runs.values()])
    look: dict[str, Any] = {"columns": num, "size": 200, "rows": list(runs)}
    draw_grid(path, shown.pos, shown.z, shown.index, **look, **_own(shown))


def _own(molecules: Molecules) -> dict[str, Any]:
    """The bonds of molecules that have some, for pictures of them."""
    if molecules.bonds is None:
        return {}
    return {name: getattr(molecules, name) for name in ("bonds", "orders", "charges")}


FIGURES = [
    Column("atoms stable↑", "stability.atom_ratio", ".1f", 100),
    Column("mols stable↑", "stability.molecule_ratio", ".1f", 100),
    Column("valid·unique↑", "valid_unique", ".1f", 100),
]


def judge(known: Molecules) -> tuple[Molecules, Callable[[Molecules, int], Any], str]:
    """Real molecules, a function that reports on drawn ones and how many are lost, and what it is on.

    Arguments:
        known: All parts of the data.
    """

    def report(drawn: Molecules, lost: int) -> Any:
        return evaluate(drawn.pos, drawn.z, drawn.index, lost=lost)

    return known.subset(split(len(known)).test), report, "Shares in percent"


def measure(
    drawn: Molecules,
    data: Molecules,
    *,
    nfe: int | None = None,
    seconds: float | None = None,
    lost: int = 0,
    relax: int = 0,
    posebusters: int = 0,
) -> str:
    """The table of figures, beside real molecules that were held out; those that are lost count."""
    rows = compare_parts(drawn, data, nfe=nfe, seconds=seconds, lost=lost, relaxed=relax)
    if not posebusters:
        return table(rows)
    held_out = data.subset(split(len(data)).test)
    return f"{table(rows)}\n\n{_checked(first(held_out, posebusters), first(drawn, posebusters))}"


def _checked(real: Molecules, drawn: Molecules) -> str:
    """The shares that pass each check of PoseBusters; bonds that are not known are read off distances."""
    passed = [
        plausibility(
            to_rdkit(some.pos, some.z, some.index) if some.bonds is None else some.to_rdkit()
        )
        for some in (real, drawn)
    ]
    lines = [[name, *(f"{100 * p[name].mean():.1f}" for p in passed)] for name in passed[0]]
    lines += [
        ["all of these", *(f"{100 * np.all([*p.values()], axis=0).mean():.1f}" for p in passed)]
    ]
    header = ["PoseBusters", f"real, held out ({len(real):,})", f"drawn ({len(drawn):,})"]
    return aligned([header, *lines])
