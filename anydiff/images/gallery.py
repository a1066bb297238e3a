"""Images on a page: one beside the other, each of which a click enlarges."""

from __future__ import annotations

import html
from collections.abc import Sequence

from anydiff.drawing import png
from anydiff.images.images import Images
from anydiff.images.pictures import sheet
from anydiff.pages import Page
from anydiff.pages.page import address

__all__ = ["show_images"]


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
        captions = [str(label) for label in some.labels.tolist()]
    tiles = []
    for m, pixels in enumerate(some.pixels):
        words = f"<figcaption>{html.escape(captions[m])}</figcaption>" if m < len(captions) else ""
        drawn, (height, width) = sheet(pixels[None], 1, 1), images.shape[1:]
        gap = (len(drawn) - height) // 2
        one = address(png(drawn[gap : gap + height, gap : gap + width]))
        tiles.append(f'<figure><img alt="image {m + 1}" src="{one}">{words}</figure>')
    side = 56 if max(images.shape[1:]) <= 16 else 84
    page.add(
        heading, f'<div class="tiles" style="--side: {side}px">{"".join(tiles)}</div>',
        note or "Click one to see it larger.",
    )  # fmt: skip
