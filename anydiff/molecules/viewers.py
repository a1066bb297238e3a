"""Molecules on a page: in three dimensions, to be turned, and one on its way from noise.

They are drawn by 3Dmol.js, which is a part of the package and of each page.

References:
    3Dmol.js: molecular visualization with WebGL (Rego & Koes, 2015).
    https://doi.org/10.1093/bioinformatics/btu829
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anydiff.drawing import moments
from anydiff.molecules.elements import NUMBERS, formula_parts, symbol
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.pictures import principal_axes
from anydiff.pages import Page
from anydiff.pages.page import data, slider

__all__ = ["show_molecules", "show_path"]

_HERE = Path(__file__).parent
HOW = (
    "Drag a molecule to turn it; Ctrl and the wheel bring it nearer. On a touch screen, tap first."
)
SCRIPTS = [_HERE / "3Dmol-min.js", _HERE / "viewers.js"]


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
        note or HOW,
        SCRIPTS,
    )


def _item(one: Molecules) -> dict[str, Any]:
    item = _atoms([symbol(int(z)) for z in one.z], one.pos, one.pos)
    if one.bonds is not None and one.orders is not None:
        pairs = zip(one.bonds.tolist(), one.orders.tolist(), strict=True)
        item["b"] = [[*pair, order] for pair, order in pairs]
    return item


def _atoms(elements: list[str], pos: np.ndarray, like: np.ndarray) -> dict[str, Any]:
    """Elements and positions, with the widest side of `like` towards the reader."""
    axes = principal_axes(like.astype(np.float64))
    turned = (pos.astype(np.float64) - like.mean(0)) @ axes.T
    return {"e": elements, "p": np.round(turned, 3).tolist()}


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
    rows, frames = path.read_text(encoding="utf-8").splitlines(), list[list[list[str]]]()
    while rows and rows[0].strip().isdigit():
        size = int(rows[0]) + 2
        frames.append([row.split() for row in rows[2:size]])
        rows = rows[size:]
    if not frames:
        return
    places = [np.array([row[1:4] for row in frame], dtype=np.float64) for frame in frames]
    shown = [
        _atoms([row[0] for row in frames[k]], places[k], places[-1])
        for k in moments(len(frames), most)
    ]
    page.add(
        "From noise",
        '<div class="film molecule"><div class="stage"></div>'
        f"{slider(len(shown), 'steps from noise')}{data(shown)}</div>",
        "The first sample, step by step.",
        SCRIPTS,
    )
