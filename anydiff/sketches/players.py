"""Sketches on a page: lines that are drawn stroke by stroke."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from anydiff.pages import Page
from anydiff.sketches.outlines import drawing
from anydiff.sketches.sketches import Sketches

__all__ = ["show_sketches"]

SCRIPTS = [Path(__file__).parent / "players.js"]


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
    tiles = []
    for m in range(min(most, len(sketches))):
        words = f"<figcaption>{html.escape(captions[m])}</figcaption>" if m < len(captions) else ""
        tiles.append(f"<figure>{drawing(sketches[m], m)}{words}</figure>")
    if tiles:
        page.add(
            heading,
            f'<div class="tiles sketches" style="--side: 84px">{"".join(tiles)}</div>',
            note or "Click one to see it drawn, stroke by stroke.",
            SCRIPTS,
        )
