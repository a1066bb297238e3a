r"""Sketches: many of them in three arrays, and as stroke-3 and stroke-5 rows.

:class:`Sketches` holds points (P, 2), the offsets of the strokes among the points, and the offsets of
the sketches among the strokes. It checks itself when it is built, so that no later code has to. The
conventions of the whole folder:

- x runs to the right and y **down**, in the units of the source.
- A stroke is what the pen draws between touching the paper and leaving it: one point or more.
- stroke-3 rows are (dx, dy, p): the step from the point before, and p = 1 **on the last point of a
  stroke** (the pen leaves the paper after it). The first point is kept: its step is from the origin,
  so that a running sum gives the points themselves.
- stroke-5 rows are (dx, dy, p1, p2, p3): pen down, pen lifted after this point, end of the sketch. There
  is no start row; one row of p3 = 1 ends the sketch, and rows after it are padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from anydiff.data.ranges import ranges

__all__ = [
    "EmptySketch", "SketchError", "Sketches", "as_stroke", "from_stroke3", "from_stroke5",
    "to_stroke3", "to_stroke5",
]  # fmt: skip

Labels = Sequence[str] | None


class SketchError(ValueError):
    """Faulty sketches, or a faulty file of them. The message names the place."""


class EmptySketch(SketchError):
    """A sketch in which nothing is drawn."""


@dataclass(frozen=True, eq=False)
class Sketches:
    """Many sketches in ragged arrays, checked.

    Arguments:
        points: (P, 2) floats, x to the right and y down, in the units of the source.
        strokes: (S + 1,), stroke s is points[strokes[s]:strokes[s + 1]].
        offsets: (M + 1,), sketch m is strokes offsets[m]:offsets[m + 1].
        labels: What each sketch shows, a word or a character, if known.
        times: (P,), milliseconds at each point, if known.
        name: Where they come from; errors begin with it.

    Raises:
        SketchError: The arrays do not fit together, a sketch or a stroke is empty, or a coordinate
            is not finite.
    """

    points: np.ndarray
    strokes: np.ndarray
    offsets: np.ndarray
    labels: Labels = None
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
            raise SketchError(f"{self.name}: {field} must run from 0 to the {count} {of}s.")
        if (short := np.diff(offsets) < 1).any():
            where = f"{whole} {int(np.argmax(short))}"
            if whole == "stroke":
                m = int(np.searchsorted(self.offsets, np.argmax(short), side="right")) - 1
                where = f"sketch {m}, {whole} {int(np.argmax(short)) - self.offsets[m]}"
            raise SketchError(f"{self.name}: {where} is empty; each needs at least one {of}.")

    @classmethod
    def from_lists(
        cls, sketches: Sequence[Sequence[np.ndarray]], labels: Labels = None, name: str = "sketches"
    ) -> Sketches:
        """From one list of strokes for each sketch.

        Arguments:
            sketches: Lists of arrays (n, 2), an array for each stroke.
            labels: As of the class.
            name: As of the class.

        Raises:
            SketchError: A stroke has another shape, or as of the class.
        """
        strokes = [
            as_stroke(stroke, f"{name}: sketch {m}, stroke {s}")
            for m, sketch in enumerate(sketches)
            for s, stroke in enumerate(sketch)
        ]
        points = np.concatenate([np.empty((0, 2)), *strokes])
        ends, offsets = np.cumsum([0, *map(len, strokes)]), np.cumsum([0, *map(len, sketches)])
        return cls(points, ends, offsets, labels, None, name)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def sizes(self) -> np.ndarray:
        """Points of each sketch, (M,)."""
        return np.diff(self.strokes[self.offsets])

    @cached_property
    def counts(self) -> np.ndarray:
        """Strokes of each sketch, (M,)."""
        return np.diff(self.offsets)

    @cached_property
    def stroke_sizes(self) -> np.ndarray:
        """Points of each stroke, (S,)."""
        return np.diff(self.strokes)

    @cached_property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """The upper left and the lower right corner of each sketch, (M, 2) each, in float64."""
        points = self.points.astype(np.float64)
        if len(self) == 0:
            return points, points
        first = self.strokes[self.offsets[:-1]]
        return np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)

    def __getitem__(self, m: int) -> list[np.ndarray]:
        """The strokes of sketch m, each (n, 2)."""
        if not -len(self) <= m < len(self):
            raise IndexError(f"sketch {m} of {len(self)}")
        m %= len(self)
        cuts = self.strokes[self.offsets[m] : self.offsets[m + 1] + 1]
        return [self.points[a:b] for a, b in pairwise(cuts)]

    @cached_property
    def order(self) -> np.ndarray:
        """The number of each stroke in its sketch, from 0, (S,)."""
        first = self.offsets[:-1].repeat(self.counts)
        return np.asarray(np.arange(len(first)) - first)

    def part(self, start: int | np.ndarray = 0, stop: int | np.ndarray | None = None) -> Sketches:
        """Strokes start, …, stop − 1 of each sketch.

        Arguments:
            start: Number of the first stroke, one for all sketches or one for each (M,).
            stop: Number after the last stroke, likewise; all that follow if None.

        Raises:
            SketchError: Nothing is left of a sketch.
        """
        counts = self.counts
        bounds = (np.broadcast_to(b, len(self)) for b in (start, counts if stop is None else stop))
        first, end = (b.clip(0, counts) for b in bounds)
        kept = (self.order >= first.repeat(counts)) & (self.order < end.repeat(counts))
        points = kept.repeat(self.stroke_sizes)
        return self._kept(points, self.stroke_sizes[kept], np.maximum(end - first, 0), self.labels)

    def subset(self, numbers: Sequence[int] | np.ndarray) -> Sketches:
        """Some of the sketches.

        Arguments:
            numbers: Which, in this order, or booleans (M,).
        """
        chosen = np.arange(len(self))[np.asarray(numbers) if len(numbers) else slice(0)]
        strokes = ranges(self.offsets[chosen], self.offsets[chosen + 1])
        points = ranges(self.strokes[strokes], self.strokes[strokes + 1])
        labels = None if self.labels is None else [self.labels[n] for n in chosen]
        return self._kept(points, self.stroke_sizes[strokes], self.counts[chosen], labels)

    def _kept(
        self, points: np.ndarray, sizes: np.ndarray, counts: np.ndarray, labels: Labels
    ) -> Sketches:
        """Some of the points, which make strokes of `sizes` and sketches of `counts` strokes."""
        strokes, offsets = (np.concatenate([[0], np.cumsum(n)]) for n in (sizes, counts))
        times = None if self.times is None else self.times[points]
        return Sketches(self.points[points], strokes, offsets, labels, times, self.name)


def as_stroke(values: Any, where: str) -> np.ndarray:
    """A stroke as an array (n, 2) of float64; without points (0, 2), whatever its shape was.

    Arguments:
        values: What can be made an array (n, 2).
        where: What errors call it.

    Raises:
        SketchError: It cannot be made such an array.
    """
    try:
        stroke = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise SketchError(f"{where} is not of numbers ({error}); give (n, 2) rows.") from None
    if stroke.size == 0:
        return stroke.reshape(0, 2)
    if stroke.ndim != 2 or stroke.shape[1] != 2:
        raise SketchError(f"{where} is {stroke.shape}; give (n, 2) rows, np.transpose of [xs, ys].")
    return stroke


# rows --------------------


def to_stroke3(sketches: Sketches) -> list[np.ndarray]:
    """Rows (n, 3) of each sketch: dx, dy, and 1 on the last point of a stroke.

    `from_stroke3` returns the same sketches: exactly if coordinates are whole multiples of one unit,
    as in files of integers, and otherwise up to the rounding of a running sum.

    Arguments:
        sketches: What to write as rows.
    """
    begin = sketches.strokes[sketches.offsets]
    rows = np.zeros((len(sketches.points), 3), sketches.points.dtype)
    rows[:, :2] = np.diff(sketches.points, axis=0, prepend=np.zeros((1, 2), rows.dtype))
    rows[begin[:-1], :2] = sketches.points[begin[:-1]]
    rows[sketches.strokes[1:] - 1, 2] = 1
    return [rows[a:b] for a, b in pairwise(begin.tolist())]


def from_stroke3(
    rows: Sequence[np.ndarray], labels: Labels = None, name: str = "stroke-3"
) -> Sketches:
    """Sketches from rows of dx, dy, pen; each begins at its first step from the origin.

    If the pen is not lifted at the end of a sketch, its last stroke nevertheless ends there.

    Arguments:
        rows: (n, 3) of each sketch, pen 1 on the last point of a stroke and 0 on the others.
        labels: What each sketch shows.
        name: What errors call them.

    Raises:
        SketchError: Rows have another shape, a sketch has none, or a pen is neither 0 nor 1.
    """
    for m, shape in enumerate(map(np.shape, rows)):
        if len(shape) != 2 or shape[1] != 3 or shape[0] == 0:
            raise SketchError(f"{name}: sketch {m} is {shape}; give (n, 3) of dx, dy, pen, n ≥ 1.")
    begin = np.cumsum([0, *map(len, rows)])
    pen = np.concatenate([np.empty(0), *(np.asarray(sketch)[:, 2] for sketch in rows)])
    if not (good := (pen == 0) | (pen == 1)).all():
        row = int(np.argmin(good))
        m = int(np.searchsorted(begin, row, side="right")) - 1
        raise SketchError(
            f"{name}: sketch {m}, row {row - begin[m]} has pen {pen[row]}; it should be 0 or 1, "
            "lifted after this point."
        )
    # a sum for each sketch: one running over all of them would carry roundings along
    steps = (np.asarray(sketch, np.float64)[:, :2] for sketch in rows)
    points = np.concatenate([np.empty((0, 2)), *(step.cumsum(0) for step in steps)])
    lifted = pen == 1
    lifted[begin[1:] - 1] = True
    strokes = np.concatenate([[0], np.flatnonzero(lifted) + 1])
    return Sketches(points, strokes, np.searchsorted(strokes, begin), labels, None, name)


def to_stroke5(sketches: Sketches, length: int | None = None) -> np.ndarray:
    """Rows (M, length, 5) of dx, dy, pen down, pen lifted after this point, end of the sketch.

    Arguments:
        sketches: What to write as rows.
        length: At least the points of the longest sketch + 1, for the row that ends it; by default that.

    Raises:
        SketchError: The length is too short for a sketch.
    """
    sizes = sketches.sizes
    needed = int(sizes.max(initial=0)) + 1
    length = needed if length is None else length
    if length < needed:
        m = int(np.argmax(sizes))
        raise SketchError(
            f"{sketches.name}: sketch {m} has {sizes[m]} points and needs {needed} rows, not {length}; "
            "give more, or simplify or resample the sketches."
        )
    rows = np.zeros((len(sketches), length, 5), sketches.points.dtype)
    inside = np.arange(length) < sizes[:, None]
    three = np.concatenate([np.empty((0, 3), rows.dtype), *to_stroke3(sketches)])
    rows[..., 4] = ~inside
    rows[inside, :2] = three[:, :2]
    rows[inside, 2] = 1 - three[:, 2]
    rows[inside, 3] = three[:, 2]
    return rows


def from_stroke5(
    rows: Sequence[np.ndarray], labels: Labels = None, name: str = "stroke-5"
) -> Sketches:
    """Sketches from rows of dx, dy and the three pen states.

    Each sketch ends before its first row with the third pen state, or with its last row.

    Arguments:
        rows: (n, 5) of each sketch; one array (M, n, 5) serves too.
        labels: What each sketch shows.
        name: What errors call them.

    Raises:
        SketchError: Rows have another shape, a sketch has none before its end, or not exactly one of
            the pen states of a row is 1.
    """
    three = []
    for m, sketch in enumerate(map(np.asarray, rows)):
        if sketch.ndim != 2 or sketch.shape[1] != 5:
            raise SketchError(f"{name}: sketch {m} is {sketch.shape}; give (n, 5) rows.")
        over = np.flatnonzero(sketch[:, 4] == 1)
        pen = sketch[: over[0] if len(over) else len(sketch), 2:]
        good = ((pen == 0) | (pen == 1)).all(1) & (pen.sum(1) == 1)
        if not good.all():
            row = int(np.argmin(good))
            raise SketchError(
                f"{name}: sketch {m}, row {row} has pen states {pen[row].tolist()}; one of the three "
                "should be 1 and the others 0."
            )
        three.append(np.column_stack([sketch[: len(pen), :2], pen[:, 1]]))
    return from_stroke3(three, labels, name)
