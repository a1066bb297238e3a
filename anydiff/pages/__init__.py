"""Pages to look at: one HTML file that needs no other, and opens without a network."""

from anydiff.pages.page import (
    Page,
    address,
    data,
    facts,
    figures,
    film,
    frames_of,
    lines,
    of_many,
    picture,
    slider,
    tiles,
)

__all__ = [
    "Page", "address", "data", "facts", "figures", "film", "frames_of", "lines", "of_many", "picture",
    "slider", "tiles",
]  # fmt: skip
