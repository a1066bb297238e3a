"""Tables of figures for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned", "number"]


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Rows as lines, the first one the header: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    header, *body = (
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells
    )
    return "\n".join([header, "-" * len(header), *body])


def number(value: float | None, spec: str) -> str:
    """The value, or – for None and nan."""
    return "–" if value is None or value != value else format(value, spec)
