"""Sketches on a page: lines that are drawn stroke by stroke."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anydiff.pages import Page, of_many, tiles
from anydiff.sketches.outlines import drawing
from anydiff.sketches.sketches import Sketches

__all__ = ["show_sketches"]

FILES = [Path(__file__).with_name(f"players.{kind}") for kind in ("css", "js")]


def show_sketches(
    page: Page,
    sketches: Sketches,
    heading: str = "Samples",
    note: str = "",
    captions: Sequence[str] = (),
    most: int = 96,
) -> None:
    """Sketches side by side, which are drawn once, and again where the reader clicks.

    Arguments:
        page: Where to.
        sketches: The sketches.
        heading: Above them.
        note: A line below the heading.
        captions: Below each, or below the first ones.
        most: How many are shown.
    """
    shown = [drawing(sketches[m], m) for m in range(min(most, len(sketches)))]
    page.add(
        heading,
        tiles(shown, captions, kind="sketches"),
        note or f"{of_many(len(shown), len(sketches))}Click one to see it drawn, stroke by stroke.",
        FILES,
    )
