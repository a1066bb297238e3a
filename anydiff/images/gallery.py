"""Images on a page: one beside the other, each of which a click enlarges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from anydiff.drawing import png
from anydiff.images.images import Images
from anydiff.images.pictures import sheet
from anydiff.pages import Page, address, of_many, tiles

__all__ = ["show_images"]

_LARGE = 256
"""Pixels of the longer side: every n-th is shown of larger images."""


def show_images(
    page: Page,
    images: Images,
    heading: str = "Samples",
    note: str = "",
    captions: Sequence[str] = (),
    most: int = 100,
) -> None:
    """Images side by side.

    Arguments:
        page: Where to.
        images: The images; their labels stand below them.
        heading: Above them.
        note: A line below the heading.
        captions: Below each, or below the first ones; their labels, if they have some.
        most: How many are shown.
    """
    some = images.subset(range(min(most, len(images))))
    if not len(some):
        return
    if some.labels is not None and not captions:
        labels = some.labels.tolist()
        captions = [some.classes[label] if some.classes else str(label) for label in labels]
    shown = [
        f'<img alt="image {m + 1}" src="{address(png(_tile(pixels)))}">'
        for m, pixels in enumerate(some.pixels)
    ]
    page.add(
        heading, tiles(shown, captions, 56 if max(images.shape[1:]) <= 16 else 84),
        note or f"{of_many(len(some), len(images))}Click one to see it larger.",
    )  # fmt: skip


def _tile(pixels: Tensor) -> np.ndarray:
    """An image without the gaps of a sheet, of at most 256 pixels a side, (H, W, 3)."""
    height, width = pixels.shape[1:]
    drawn = sheet(pixels[None], 1, 1)
    gap, every = (len(drawn) - height) // 2, math.ceil(max(height, width) / _LARGE)
    return drawn[gap : gap + height : every, gap : gap + width : every]
