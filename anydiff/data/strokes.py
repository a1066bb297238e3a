r"""Sketches: pen strokes in, rows of numbers out.

:class:`Sketches` holds many drawings as three arrays: points (P, 2), and the offsets of strokes among
the points and of drawings among the strokes. It checks itself when it is built, so everything after
it may trust its numbers. The conventions, here once for all of the library:

- x runs to the right and y **down**, in the source's own units.
- A stroke is what the pen draws between touching the paper and leaving it: one point or more.
- stroke-3 rows are (dx, dy, p): the step from the point before, and p = 1 **on the last point of a
  stroke** (the pen leaves the paper after it). The first point is kept: its step is from the origin,
  so that a running sum gives the points themselves.
- stroke-5 rows are (dx, dy, p1, p2, p3): pen down, lifted after this point, drawing over. There is no
  start row; one row of p3 = 1 ends the drawing, and rows after it are padding.

Readers and writers are in :mod:`anydiff.data.stroke_files` and :mod:`anydiff.data.svg`, pictures in
:mod:`anydiff.data.stroke_pictures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["SketchError", "Sketches"]


class SketchError(ValueError):
    """Sketches, or a file of them, that can't be right. The message names the place."""


@dataclass(frozen=True, eq=False)
class Sketches:
    """Many sketches in ragged arrays, checked.

    Arguments:
        points: (P, 2), x to the right and y down, floating.
        strokes: (S + 1,), stroke s is points[strokes[s]:strokes[s + 1]].
        offsets: (M + 1,), sketch m is strokes offsets[m]:offsets[m + 1].
        labels: What each sketch shows (a word, a character), or nothing.
        times: (P,), milliseconds at each point, or nothing.
        name: Where they come from; errors begin with it.

    Raises:
        SketchError: Arrays that don't fit together, an empty sketch or stroke, a NaN.
    """

    points: np.ndarray
    strokes: np.ndarray
    offsets: np.ndarray
    labels: Sequence[str] | None = None
    times: np.ndarray | None = None
    name: str = "sketches"

    def __post_init__(self) -> None:
        for field in ("strokes", "offsets"):
            object.__setattr__(self, field, np.asarray(getattr(self, field), np.int64))
        points = self.points
        if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind != "f":
            raise SketchError(
                f"{self.name}: points are {points.shape} of {points.dtype}; give (P, 2) of floats."
            )
        self._check_offsets("strokes", self.strokes, len(points), "point")
        self._check_offsets("offsets", self.offsets, len(self.strokes) - 1, "stroke")
        if not (finite := np.isfinite(points).all(1)).all():
            p = int(np.argmin(finite))
            s = int(np.searchsorted(self.strokes, p, side="right")) - 1
            m = int(np.searchsorted(self.offsets, s, side="right")) - 1
            raise SketchError(
                f"{self.name}: sketch {m}, stroke {s - self.offsets[m]}, point {p - self.strokes[s]} is "
                f"{tuple(points[p].tolist())}; every coordinate must be finite."
            )
        for field, count in (("labels", len(self)), ("times", len(points))):
            value = getattr(self, field)
            if value is not None and len(value) != count:
                raise SketchError(f"{self.name}: {len(value)} {field}, but {count} are needed.")

    def _check_offsets(self, field: str, offsets: np.ndarray, count: int, of: str) -> None:
        whole = "sketch" if of == "stroke" else "stroke"
        if offsets.ndim != 1 or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != count:
            raise SketchError(f"{self.name}: {field} must run from 0 to {count}, the {of}s there are.")
        if (short := np.diff(offsets) < 1).any():
            where = f"{whole} {int(np.argmax(short))}"
            if whole == "stroke":
                m = int(np.searchsorted(self.offsets, np.argmax(short), side="right")) - 1
                where = f"sketch {m}, {whole} {int(np.argmax(short)) - self.offsets[m]}"
            raise SketchError(f"{self.name}: {where} is empty; each needs at least one {of}.")

    @classmethod
    def from_lists(
        cls,
        sketches: Sequence[Sequence[np.ndarray]],
        labels: Sequence[str] | None = None,
        name: str = "sketches",
    ) -> Sketches:
        """From one list of (n, 2) arrays for each sketch, an array for each stroke."""
        strokes = [np.asarray(s, np.float64).reshape(-1, 2) for sketch in sketches for s in sketch]
        return cls(
            np.concatenate([np.empty((0, 2)), *strokes]),
            np.cumsum([0, *map(len, strokes)]),
            np.cumsum([0, *map(len, sketches)]),
            labels,
            None,
            name,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, m: int) -> list[np.ndarray]:
        """The strokes of sketch m, each (n, 2)."""
        if not -len(self) <= m < len(self):
            raise IndexError(f"sketch {m} of {len(self)}")
        m %= len(self)
        cuts = self.strokes[self.offsets[m] : self.offsets[m + 1] + 1]
        return [self.points[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]

    def subset(self, numbers: Sequence[int] | np.ndarray) -> Sketches:
        """These sketches, in this order; a boolean mask (M,) too."""
        numbers = np.arange(len(self))[np.asarray(numbers)]
        strokes = _ranges(self.offsets[numbers], self.offsets[numbers + 1])
        points = _ranges(self.strokes[strokes], self.strokes[strokes + 1])
        return Sketches(
            self.points[points],
            np.concatenate([[0], np.cumsum(np.diff(self.strokes)[strokes])]),
            np.concatenate([[0], np.cumsum(np.diff(self.offsets)[numbers])]),
            None if self.labels is None else [self.labels[n] for n in numbers],
            None if self.times is None else self.times[points],
            self.name,
        )


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """first[0] … last[0] − 1, first[1] … last[1] − 1, … in one array."""
    sizes = last - first
    begin = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(first - begin, sizes)
