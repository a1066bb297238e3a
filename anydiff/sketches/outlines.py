"""A sketch as lines: without what cannot be drawn, in the pace of a pen, and as SVG for a page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from anydiff.sketches.fields import as_stroke

__all__ = ["Strokes", "drawing", "length", "pace", "tidy"]

Strokes = Sequence[np.ndarray]
"""The strokes of one sketch, each (n, 2)."""

_UNITS = 200
"""Of the side of a drawing: coordinates have one decimal."""


def tidy(strokes: Strokes) -> list[np.ndarray]:
    """The strokes without points that are not finite, which samples may have; empty ones left out.

    Arguments:
        strokes: Each (n, 2).
    """
    arrays = [as_stroke(s, "a stroke") for s in strokes]
    return [s for s in (s[np.isfinite(s).all(1)] for s in arrays) if len(s)]


def length(strokes: Strokes) -> float:
    """How long all strokes are together.

    Arguments:
        strokes: Each (n, 2).
    """
    return sum(float(np.hypot(*np.diff(s, axis=0).T).sum()) for s in strokes)


def pace(strokes: Strokes) -> tuple[np.ndarray, np.ndarray]:
    """When each stroke begins and ends, in [0, 1]: the pen has one speed, and a higher one in the air.

    Arguments:
        strokes: Each (n, 2), of a sketch that is not empty.
    """
    drawn = np.array([length([s]) for s in strokes])
    air = [np.linalg.norm(b[0] - a[-1]) for a, b in pairwise(strokes)]
    drawn = drawn + 0.02 * drawn.sum() + 1e-12  # a dot takes time too
    ends = np.cumsum(drawn) + np.concatenate([[0], np.cumsum(air)]) * 0.35
    return (ends - drawn) / ends[-1], ends / ends[-1]


def drawing(strokes: Strokes, number: int = 0) -> str:
    """A sketch as SVG whose strokes know when they are drawn.

    Arguments:
        strokes: Each (n, 2).
        number: What the reader is told that it is, from 0.
    """
    lines = tidy(strokes)
    if not lines:
        return (
            f'<svg viewBox="0 0 {_UNITS} {_UNITS}" role="img" aria-label="an empty sketch"></svg>'
        )
    points = np.concatenate(lines)
    low, high = points.min(0), points.max(0)
    scale = _UNITS * 0.88 / (float((high - low).max()) or 1.0)
    shift = _UNITS / 2 - scale * (low + high) / 2
    begin, end = pace(lines)
    paths = []
    for line, start, stop in zip(lines, begin, end, strict=True):
        xy = [f"{x:.1f} {y:.1f}" for x, y in (scale * line + shift).tolist()]
        d = f"M{xy[0]}L{' '.join(xy[1:])}" if len(xy) > 1 else f"M{xy[0]}Z"
        paths.append(
            f'<path pathLength="1" style="--a:{start:.3f};--d:{stop - start:.3f}" d="{d}"/>'
        )
    return (
        f'<svg viewBox="0 0 {_UNITS} {_UNITS}" role="img" aria-label="sketch {number + 1}">'
        f"{''.join(paths)}</svg>"
    )
