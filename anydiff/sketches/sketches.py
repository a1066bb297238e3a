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

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from anydiff.data.ranges import ranges
from anydiff.sketches.fields import EmptySketch, SketchError, as_stroke, nested, plain, strings
from anydiff.sketches.outlines import drawing

__all__ = [
    "EmptySketch", "SketchError", "Sketches", "as_stroke", "check_some", "from_stroke3",
    "from_stroke5", "to_stroke3", "to_stroke5",
]  # fmt: skip

Labels = Sequence[str] | None
_START = [0, 0, 1, 0, 0]


@dataclass(frozen=True, eq=False)
class Sketches:
    """Many sketches in ragged arrays, checked.

    Arguments:
        points: (P, 2) floats, x to the right and y down, in the units of the source.
        strokes: (S + 1,), stroke s is points[strokes[s]:strokes[s + 1]].
        offsets: (M + 1,), sketch m is strokes offsets[m]:offsets[m + 1].
        labels: What each sketch shows, a word or a character, if known: (M,) strings.
        times: (P,), milliseconds at each point, if known.
        name: Where they come from; errors begin with it.

    Raises:
        SketchError: The arrays do not fit together, a sketch or a stroke is empty, a coordinate or a
            time is not finite, or a label is not a string.
    """

    points: np.ndarray
    strokes: np.ndarray
    offsets: np.ndarray
    labels: Labels = None
    times: np.ndarray | None = None
    name: str = "sketches"

    def __post_init__(self) -> None:
        for field in ("strokes", "offsets"):
            offsets = np.asarray(getattr(self, field))
            if offsets.size and offsets.dtype.kind not in "iu":
                raise SketchError(f"{self.name}: {field} are of {offsets.dtype}; give integers.")
            object.__setattr__(self, field, offsets.astype(np.int64))
        points = plain(self.points, f"{self.name}: the array of points")
        if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind != "f":
            raise SketchError(
                f"{self.name}: points are {points.shape} of {points.dtype}; give (P, 2) of floats."
            )
        self._check_offsets("strokes", self.strokes, len(points), "point")
        self._check_offsets("offsets", self.offsets, len(self.strokes) - 1, "stroke")
        self._check_finite("every coordinate", points)
        object.__setattr__(self, "points", points)
        if self.labels is not None:
            object.__setattr__(self, "labels", strings(self.labels, self.name))
        for field, count in (("labels", len(self)), ("times", len(points))):
            value = getattr(self, field)
            if value is not None and len(value) != count:
                raise SketchError(f"{self.name}: {len(value)} {field}, but {count} are needed.")
        if self.times is not None:
            times = plain(self.times, f"{self.name}: the array of times")
            if times.ndim != 1:
                raise SketchError(f"{self.name}: times are {times.shape}; give ({len(points)},).")
            self._check_finite("every time", times)
            object.__setattr__(self, "times", times)

    def _check_finite(self, what: str, values: np.ndarray) -> None:
        finite = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(1)
        if finite.all():
            return
        p = int(np.argmin(finite))
        s = int(np.searchsorted(self.strokes, p, side="right")) - 1
        m = int(np.searchsorted(self.offsets, s, side="right")) - 1
        found = values[p].tolist()
        raise SketchError(
            f"{self.name}: sketch {m}, stroke {s - self.offsets[m]}, point {p - self.strokes[s]} is "
            f"{tuple(found) if isinstance(found, list) else found}; {what} must be finite."
        )

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
        sketches = nested(sketches, name)
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

    def _repr_html_(self) -> str:
        """What a notebook shows: the first sketches."""
        look = "width:84px;fill:none;stroke:currentColor;stroke-width:5.5;stroke-linecap:round"
        shown = "".join(
            drawing(self[m], m).replace("<svg ", f'<svg style="{look}" ', 1)
            for m in range(min(24, len(self)))
        )
        return f"<div>{len(self):,} sketches</div><div>{shown}</div>"

    @classmethod
    def concatenate(cls, parts: Iterable[Sketches], name: str | None = None) -> Sketches:
        """The sketches of several, one after the other; times are kept if all have them.

        Arguments:
            parts: At least one. Those without labels have empty ones, if others have some.
            name: The name of the result; by default that of the first.

        Raises:
            ValueError: There are no parts.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("there are no sketches to put together; give one part or more.")
        name = name or parts[0].name
        drawn = [part for part in parts if len(part)]
        times = [part.times for part in drawn if part.times is not None]
        if 0 < len(times) < len(drawn):
            warnings.warn(
                f"{name}: {len(drawn) - len(times)} of its {len(drawn)} files have no times, so that "
                "none are kept.",
                stacklevel=4,
            )
        labels: list[str] = []
        for part in parts:
            labels += part.labels if part.labels is not None else [""] * len(part)
        return cls(
            np.concatenate([part.points for part in parts]),
            np.cumsum(np.concatenate([[0], *(part.stroke_sizes for part in parts)])),
            np.cumsum(np.concatenate([[0], *(part.counts for part in parts)])),
            None if all(part.labels is None for part in parts) else labels,
            np.concatenate(times) if times and len(times) == len(drawn) else None,
            name,
        )

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


def check_some(sketches: Sketches) -> None:
    """An error if there are no sketches, for what measures them.

    Arguments:
        sketches: What is to be measured.

    Raises:
        SketchError: There are none.
    """
    if len(sketches) == 0:
        raise SketchError(f"{sketches.name}: there are no sketches; give one or more.")


# rows --------------------


def to_stroke3(sketches: Sketches) -> list[np.ndarray]:
    """Rows (n, 3) of each sketch: dx, dy, and 1 on the last point of a stroke.

    `from_stroke3` returns the same sketches: exactly if coordinates are whole multiples of one unit,
    as in files of integers, and otherwise up to the rounding of a running sum.

    Arguments:
        sketches: What to write as rows.

    Raises:
        SketchError: Two points are so far apart that their difference is not finite.
    """
    begin = sketches.strokes[sketches.offsets]
    # differences of half precision are exact in single
    kind = np.result_type(sketches.points.dtype, np.float32)
    points = sketches.points.astype(kind, copy=False)
    rows = np.zeros((len(points), 3), kind)
    with np.errstate(over="ignore"):
        rows[:, :2] = np.diff(points, axis=0, prepend=np.zeros((1, 2), kind))
    rows[begin[:-1], :2] = points[begin[:-1]]
    if not np.isfinite(rows).all():
        raise SketchError(
            f"{sketches.name}: points are so far apart that steps between them are not finite in "
            f"{rows.dtype}; scale the sketches."
        )
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
    arrays = [_rows(sketch, f"{name}: sketch {m}") for m, sketch in enumerate(rows)]
    for m, shape in enumerate(map(np.shape, arrays)):
        if len(shape) != 2 or shape[1] != 3 or shape[0] == 0:
            raise SketchError(f"{name}: sketch {m} is {shape}; give (n, 3) of dx, dy, pen, n ≥ 1.")
    begin = np.cumsum([0, *map(len, arrays)])
    pen = np.concatenate([np.empty(0), *(sketch[:, 2] for sketch in arrays)])
    if not (good := (pen == 0) | (pen == 1)).all():
        row = int(np.argmin(good))
        m = int(np.searchsorted(begin, row, side="right")) - 1
        raise SketchError(
            f"{name}: sketch {m}, row {row - begin[m]} has pen {pen[row]}; it should be 0 or 1, "
            "lifted after this point."
        )
    # a sum for each sketch: one running over all of them would carry roundings along
    steps = (sketch[:, :2].astype(np.float64) for sketch in arrays)
    points = np.concatenate([np.empty((0, 2)), *(step.cumsum(0) for step in steps)])
    lifted = pen == 1
    lifted[begin[1:] - 1] = True
    strokes = np.concatenate([[0], np.flatnonzero(lifted) + 1])
    return Sketches(points, strokes, np.searchsorted(strokes, begin), labels, None, name)


def _rows(values: Any, where: str) -> np.ndarray:
    """Rows as a plain array of numbers; what has no rows as it is, for a message about its shape."""
    if isinstance(values, (str, np.generic)) or (type(values) is np.ndarray and values.ndim != 2):
        return np.asarray(values)
    return plain(values, where)


def to_stroke5(sketches: Sketches, length: int | None = None) -> np.ndarray:
    """Rows (M, length, 5) of dx, dy, pen down, pen lifted after this point, end of the sketch.

    Arguments:
        sketches: What to write as rows.
        length: At least the points of the longest sketch + 1, for the row that ends it; by default that.

    Raises:
        SketchError: The length is too short for a sketch or no whole number, or as of `to_stroke3`.
    """
    sizes = sketches.sizes
    needed = int(sizes.max(initial=0)) + 1
    length = needed if length is None else length
    if not isinstance(length, (int, np.integer)):
        raise SketchError(f"{sketches.name}: length is {length!r}; give a whole number of rows.")
    if length < needed:
        m = int(np.argmax(sizes))
        raise SketchError(
            f"{sketches.name}: sketch {m} has {sizes[m]} points and needs {needed} rows, not {length}; "
            "give more, or simplify or resample the sketches."
        )
    kind = np.result_type(sketches.points.dtype, np.float32)
    rows = np.zeros((len(sketches), length, 5), kind)
    inside = np.arange(length) < sizes[:, None]
    three = np.concatenate([np.empty((0, 3), kind), *to_stroke3(sketches)])
    rows[..., 4] = ~inside
    rows[inside, :2] = three[:, :2]
    rows[inside, 2] = 1 - three[:, 2]
    rows[inside, 3] = three[:, 2]
    return rows


def from_stroke5(
    rows: Sequence[np.ndarray],
    labels: Labels = None,
    name: str = "stroke-5",
    start: bool | None = None,
) -> Sketches:
    """Sketches from rows of dx, dy and the three pen states.

    Each sketch ends before its first row with the third pen state, or with its last row. The batches of
    sketch-rnn begin with a row (0, 0, 1, 0, 0) that is no point; a sketch whose first point is the
    origin begins with the same row.

    Arguments:
        rows: (n, 5) of each sketch; one array (M, n, 5) serves too.
        labels: What each sketch shows.
        name: What errors call them.
        start: Whether the first row of each sketch is such a start row, to be left out. None takes it
            for a point, with a warning if it may be none, as all sketches begin so.

    Raises:
        SketchError: Rows have another shape, a sketch has none before its end, or not exactly one of
            the pen states of a row is 1; or a first row is no start row, but should be.
    """
    three, begun = [], 0
    for m, values in enumerate(rows):
        sketch = _rows(values, f"{name}: sketch {m}")
        if sketch.ndim != 2 or sketch.shape[1] != 5:
            raise SketchError(f"{name}: sketch {m} is {sketch.shape}; give (n, 5) rows.")
        begins = bool(len(sketch)) and sketch[0].tolist() == _START
        begun += begins
        if start:
            if not begins:
                raise SketchError(f"{name}: sketch {m} has no start row {_START}; leave out start.")
            sketch = sketch[1:]
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
    if start is None and three and begun == len(three):
        warnings.warn(
            f"{name}: every sketch begins with {_START}, taken for a point at the origin; if it is "
            "sketch-rnn's start row, give from_stroke5(rows, start=True), otherwise start=False.",
            stacklevel=2,
        )
    return from_stroke3(three, labels, name)
