"""Images on a page: one beside the other, each of which a click enlarges."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from anydiff.drawing import jpeg, png
from anydiff.images.images import Images
from anydiff.images.pictures import sheet, visible
from anydiff.pages import Page, address, of_many, tiles

__all__ = ["show_images"]

_SMALL, _LARGE = 64, 256
"""Pixels of the longer side: images larger than the first are JPEGs; of those larger than the second,
every n-th pixel is shown."""


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
    channels, *sides = images.shape
    shown = [
        f'<img alt="image {m + 1}" src="{_tile(pixels)}">'
        for m, pixels in enumerate(visible(some.pixels))
    ]
    note = note or f"{of_many(len(some), len(images))}Click one to see it larger."
    if channels not in (1, 3):
        note += f" Shown of {channels} channels: the first{' three' if channels > 3 else ''}."
    page.add(heading, tiles(shown, captions, 56 if max(sides) <= 16 else 84), note)


def _tile(pixels: Tensor) -> str:
    """An image without the gaps of a sheet, of at most 256 pixels a side, as the address of itself."""
    height, width = pixels.shape[1:]
    drawn = sheet(pixels[None], 1, 1)
    gap, every = (len(drawn) - height) // 2, math.ceil(max(height, width) / _LARGE)
    tile = drawn[gap : gap + height : every, gap : gap + width : every]
    return address(png(tile)) if max(height, width) <= _SMALL else address(jpeg(tile), "jpeg")
