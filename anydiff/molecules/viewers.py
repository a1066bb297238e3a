"""Molecules on a page: in three dimensions, to be turned, and one on its way from noise.

They are drawn by 3Dmol.js, which is a part of the package and of each page.

References:
    3Dmol.js: molecular visualization with WebGL (Rego & Koes, 2015).
    https://doi.org/10.1093/bioinformatics/btu829
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anydiff.drawing import moments
from anydiff.molecules.bonds import bond_orders
from anydiff.molecules.elements import NUMBERS, formula_parts, symbol
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.pictures import principal_axes
from anydiff.pages import Page, data, of_many, slider

__all__ = ["show_molecules", "show_path"]

_HERE = Path(__file__).parent
HOW = (
    "Drag a molecule to turn it; Ctrl and the wheel bring it nearer. On a touch screen, tap first."
)
FILES = [_HERE / "viewers.css", _HERE / "3Dmol-min.js", _HERE / "viewers.js"]


def show_molecules(
    page: Page,
    molecules: Molecules,
    heading: str = "Samples",
    note: str = "",
    captions: Sequence[str] = (),
    most: int = 24,
) -> None:
    """Molecules side by side, which the reader turns.

    Arguments:
        page: Where to.
        molecules: With bonds; without, they follow from distances.
        heading: Above them.
        note: A line below the heading.
        captions: Below each formula, or below the first ones.
        most: How many are shown.
    """
    items = [_item(molecules.subset([m])) for m in range(min(most, len(molecules)))]
    if not items:
        return
    words = [f"<br>{html.escape(caption)}" for caption in captions] + [""] * len(items)
    names = "".join(
        f"<figcaption>{_formula(item['e'])}{word}</figcaption>"
        for item, word in zip(items, words, strict=False)
    )
    page.add(
        heading,
        '<div class="molecules"><div class="stage"></div>'
        f'<div class="names">{names}</div>{data(items)}</div>',
        note or of_many(len(items), len(molecules)) + HOW,
        FILES,
    )


def _item(one: Molecules) -> dict[str, Any]:
    own = None if one.bonds is None or one.orders is None else (one.bonds, one.orders)
    return _atoms(one.z, one.pos, one.pos, own)


def _atoms(
    z: np.ndarray,
    pos: np.ndarray,
    like: np.ndarray,
    bonds: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Elements, positions with the widest side of `like` towards the reader, and bonds with orders."""
    axes = principal_axes(like.astype(np.float64))
    turned = (pos.astype(np.float64) - like.mean(0)) @ axes.T
    pairs, orders = bond_orders(pos, z, np.zeros(len(z), np.int64)) if bonds is None else bonds
    return {
        "e": [symbol(int(n)) for n in z],
        "p": np.round(turned, 3).tolist(),
        "b": np.column_stack([pairs, orders]).tolist(),
    }


def _formula(elements: list[str]) -> str:
    parts = formula_parts(NUMBERS[e] for e in elements)
    return "".join(name + (f"<sub>{many}</sub>" if many else "") for name, many in parts)


def show_path(page: Page, path: Path, most: int = 60) -> None:
    """The first molecule on its way from noise, with a slider; nothing, if the file is not there.

    Arguments:
        page: Where to.
        path: An XYZ file with a molecule for each moment.
        most: How many moments are shown: the last ones closer to each other.
    """
    if not path.is_file():
        return
    frames = list(_frames(path.read_text(encoding="utf-8", errors="replace").splitlines()))
    if not frames:
        return
    last = frames[-1][1]
    shown = [_atoms(*frames[k], last) for k in moments(len(frames), most)]
    page.add(
        "From noise",
        '<div class="film molecule"><div class="stage"></div>'
        f"{slider(len(shown), 'steps from noise')}{data(shown)}</div>",
        "The first sample, step by step.",
        FILES,
    )


def _frames(rows: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Elements and positions of each moment of an XYZ file, up to the first that is broken."""
    start = 0
    while start < len(rows):
        try:
            stop = start + 2 + int(rows[start])
            words = [row.split() for row in rows[start + 2 : stop]]
            z = np.array([NUMBERS[row[0]] for row in words])
            pos = np.array([[float(v) for v in row[1:4]] for row in words])
        except (ValueError, KeyError, IndexError):
            return
        if not len(z) or pos.shape != (stop - start - 2, 3) or not np.isfinite(pos).all():
            return
        yield z, pos
        start = stop
