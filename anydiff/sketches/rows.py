r"""How a sketch becomes the rows that a diffusion models, and a sketch again.

:class:`StrokeRows`, a row for each **stroke**: K points along it, their coordinates side by side,

.. math:: x_n = [\,(p_{n1} - c) / s, \dots, (p_{nK} - c) / s\,]

The pen is down within a row and up between two rows, so there is no pen state to sample: strokes
cannot come out dashed or merged. Sequences are short, and what is far apart along the path but near
in the sketch is a few rows away. The points are closer where the stroke bends: they are equally spaced
in the arc length plus a share of the turning angle, so that corners stay sharp.

:class:`PointRows`, a row for each **point**: (x, y, pen), the pen +1 on the last point of a stroke and
−1 on the others, equally spaced along the path. They suit long winding strokes, and tasks that need
points. A sampled pen counts as lifted where it is positive, halfway between the two values.

Both keep their numbers in a `config` for the checkpoint. c and s are fitted to the data as a whole, so
that a model also learns the sizes and places of sketches. If these differ by orders of magnitude, as
between sets of icons, bring each sketch to one size first, by :func:`~anydiff.sketches.geometry.scale`.
"""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from anydiff.checks import check_range, frozen
from anydiff.data.sequences import Sequences
from anydiff.sketches.geometry import near_one, needed_points, resample, segment_distances
from anydiff.sketches.sketches import SketchError, Sketches, check_some

__all__ = ["PointRows", "StrokeRows", "along", "rows_from_config"]

_MOST_ROWS = 100_000  # of one sketch, which no sequence model takes
_MOST_RATIO = 50  # of the sizes of sketches, for one scale of all


def along(sketches: Sketches, points: int, bend: float = 0.25) -> np.ndarray:
    r"""`points` points along each stroke, its first and last point included.

    They are equally spaced in :math:`u = \ell / L + b\, \theta / (\pi / 2)`, where :math:`\ell` is the
    arc length up to a point, out of L, and :math:`\theta` the turning angle up to there.

    Arguments:
        sketches: What to follow.
        points: How many points for each stroke, at least 2.
        bend: b, how much a right angle counts, in lengths of the stroke. 0 gives equal arc lengths; a
            right angle keeps its corner if it counts at least as much as the distance of two points.

    Returns:
        (S, points, 2), in the units of the sketches.

    Raises:
        ValueError: There are fewer than 2 points, or no sketches, or `bend` is out of range.
    """
    _whole(points)
    check_range("[0, inf)", bend=bend)
    check_some(sketches)
    first, last = sketches.strokes[:-1], sketches.strokes[1:] - 1
    number = np.repeat(np.arange(len(first)), last - first + 1)

    step = np.diff(near_one(sketches.points)[0], axis=0)
    step[last[:-1]] = 0  # from one stroke to the next
    length = np.hypot(*step.T)
    angle = _turning(step, length)
    angle[first], angle[last] = 0, 0

    total = np.add.reduceat(np.append(length, 0.0), first)
    share = np.append(0.0, length) / np.where(total > 0, total, 1)[number]
    share[first] = 0
    turn = bend * angle / (np.pi / 2)

    # a corner is a jump of u: its point is there twice, before and after
    u = np.stack([share, turn], axis=1).cumsum().reshape(-1, 2)
    u -= u[first, :1][number]
    end = u[last, 1]
    u /= np.where(end > 0, end, 1)[number, None]
    u += 2.0 * number[:, None]  # all strokes on one axis, with gaps between
    wanted = (end > 0)[:, None] * np.linspace(0, 1, points)  # a dot has no way to go
    wanted += 2.0 * np.arange(len(first))[:, None]
    columns = [np.interp(wanted, u.ravel(), c.repeat(2)) for c in sketches.points.T]
    rows = np.stack(columns, axis=2)
    rows[:, 0], rows[:, -1] = sketches.points[first], sketches.points[last]  # not rounded
    return rows


def _turning(step: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The angle in [0, π] between the steps before and after each point, (P,); 0 if one is zero."""
    before, after = step[:-1], step[1:]
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    angle = np.abs(np.arctan2(cross, (before * after).sum(1)))
    angle[(length[:-1] == 0) | (length[1:] == 0)] = 0
    return np.pad(angle, 1)[: len(step) + 1] if len(step) else np.zeros(1)


def _array(rows: Tensor | np.ndarray, channels: int) -> np.ndarray:
    """Rows as NumPy floats, checked."""
    array = np.asarray(rows.double().cpu() if isinstance(rows, Tensor) else rows, np.float64)
    if array.ndim != 2 or array.shape[1] != channels:
        raise ValueError(f"rows are {array.shape}; expected (*, {channels}), x[space.mask].")
    return array


def _ends(lengths: Sequence[int] | Tensor, rows: int) -> np.ndarray:
    """Where items end among the rows, (B,)."""
    sizes = np.asarray(lengths.cpu() if isinstance(lengths, Tensor) else lengths)
    whole = sizes.ndim == 1 and (sizes.dtype.kind in "iu" or sizes.size == 0)
    if not whole or (sizes < 1).any() or sizes.sum() != rows:
        raise SketchError(
            f"lengths are {reprlib.repr(sizes.tolist())}, of {rows} rows; give a whole number from 1 for "
            "each item, all of which add up to the rows."
        )
    return np.cumsum(sizes, dtype=np.int64)


def _whole(points: int) -> int:
    """The points of a stroke, checked."""
    if not (isinstance(points, (int, np.integer)) and points >= 2):
        raise ValueError(f"points is {points!r}; a stroke needs a whole number, at least 2.")
    return int(points)


def _check_center(center: tuple[float, float]) -> None:
    if len(center) != 2 or not np.isfinite(center).all():
        raise ValueError(f"center is {center}; give two finite numbers.")


def _frame(sketches: Sketches) -> tuple[tuple[float, float], float]:
    """The mean point of the sketches and the spread about it, over both axes."""
    check_some(sketches)
    center = sketches.points.mean(0, dtype=np.float64)
    away = sketches.points - center
    most = np.abs(away).max() or 1.0
    spread = float(most * np.sqrt(np.square(away / most).mean()))
    low, high = np.quantile(_extents(sketches), [0.05, 0.95])
    if high > _MOST_RATIO * low > 0:
        warnings.warn(
            f"{sketches.name}: sizes of sketches go from {low:.3g} to {high:.3g}, so that small ones are "
            "hardly more than dots; bring them to one size (normalise, or geometry.scale).",
            stacklevel=3,
        )
    return (float(center[0]), float(center[1])), spread or 1.0


@frozen(points="[2, inf)", scale="(0, inf)", bend="[0, inf)")
class StrokeRows:
    """A row for each stroke: `points` points along it, (x1, y1, x2, y2, …).

    Arguments:
        points: K, the points of a stroke.
        center: c, in the units of the data.
        scale: s, the unit of the rows, in the units of the data.
        bend: See :func:`along`.

    Raises:
        ValueError: A number is out of range.
    """

    points: int
    center: tuple[float, float]
    scale: float
    bend: float = 0.25

    def __post_init__(self) -> None:
        _check_center(self.center)

    @classmethod
    def fit(
        cls,
        sketches: Sketches,
        points: int | None = None,
        bend: float = 0.25,
        tolerance: float = 0.01,
    ) -> StrokeRows:
        """The rows that suit some sketches.

        Arguments:
            sketches: The training data.
            points: K. If None, the fewest of 8, 10, 12, 16, 24, 32, 48 with which 99 of 100 points of the
                data are within `tolerance` times the median size of a sketch from its rows; 48, with a
                warning, if none of these is enough.
            bend: See :func:`along`.
            tolerance: As a share of the median size of a sketch, if `points` is None.

        Raises:
            ValueError: There are no sketches, or a number is out of range.
        """
        check_range("[0, inf)", bend=bend, tolerance=tolerance)
        center, scale = _frame(sketches)
        if points is not None:
            return cls(_whole(points), center, scale, bend)
        numbers = np.linspace(0, len(sketches) - 1, min(len(sketches), 500)).astype(int)
        some = sketches.subset(numbers)
        size = float(np.median(_extents(some)))
        for fewest in (8, 10, 12, 16, 24, 32, 48):
            error = float(np.quantile(_errors(some, along(some, fewest, bend)), 0.99))
            if error <= tolerance * size:
                break
        else:
            warnings.warn(
                f"{sketches.name}: even {fewest} points a stroke keep 99 of 100 points only to "
                f"{error / size:.1%} of a sketch's size; rows of points (PointRows) keep long strokes.",
                stacklevel=2,
            )
        return cls(fewest, center, scale, bend)

    @property
    def channels(self) -> int:
        """Numbers of a row."""
        return 2 * self.points

    @property
    def config(self) -> dict[str, Any]:
        """The arguments and the kind of rows, for JSON."""
        return {"kind": "strokes", **asdict(self), "center": list(self.center)}

    def encode(self, sketches: Sketches) -> Sequences:
        """Rows (S, 2 · points) of the sketches; an item is a sketch.

        Raises:
            ValueError: There are no sketches.
        """
        rows = (along(sketches, self.points, self.bend) - self.center) / self.scale
        rows = rows.reshape(len(rows), -1).astype(np.float32)
        return Sequences(rows, sketches.offsets, name=sketches.name)

    def decode(self, rows: Tensor | np.ndarray, lengths: Sequence[int] | Tensor) -> Sketches:
        """Sketches from rows.

        Arguments:
            rows: (S, 2 · points), the valid rows of all items, one item after the other.
            lengths: (B,), rows of each item.

        Raises:
            ValueError: The rows have another shape.
            SketchError: A row is not finite, or the lengths do not add up to S.
        """
        rows = _array(rows, self.channels)
        ends = _ends(lengths, len(rows))
        xy = rows.reshape(-1, 2) * self.scale + self.center
        strokes = np.arange(len(rows) + 1) * self.points
        return Sketches(xy, strokes, np.concatenate([[0], ends]), name="drawn")


@frozen(spacing="(0, inf)", scale="(0, inf)")
class PointRows:
    """A row for each point: (x, y, pen).

    Arguments:
        spacing: The largest distance of points along a stroke, in the units of the data.
        center: c, in the units of the data.
        scale: s, the unit of the rows, in the units of the data.

    Raises:
        ValueError: A number is out of range.
    """

    spacing: float
    center: tuple[float, float]
    scale: float

    channels: ClassVar[int] = 3

    def __post_init__(self) -> None:
        _check_center(self.center)

    @classmethod
    def fit(cls, sketches: Sketches, spacing: float = 0.08) -> PointRows:
        """The rows that suit some sketches.

        Arguments:
            sketches: The training data.
            spacing: As a share of the median size of a sketch.

        Raises:
            ValueError: There are no sketches, or the spacing is out of range.
        """
        check_range("(0, inf)", spacing=spacing)
        center, scale = _frame(sketches)
        extent = float(np.median(_extents(sketches))) or scale  # dots have no extent
        return cls(spacing * extent, center, scale)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments and the kind of rows, for JSON."""
        return {"kind": "points", **asdict(self), "center": list(self.center)}

    def encode(self, sketches: Sketches) -> Sequences:
        """Rows (P, 3) of the sketches; an item is a sketch.

        Raises:
            ValueError: There are no sketches, or one would have over 100,000 rows.
        """
        check_some(sketches)
        needed = np.add.reduceat(needed_points(sketches, self.spacing), sketches.offsets[:-1])
        if needed.max() > _MOST_ROWS:
            m = int(needed.argmax())
            raise ValueError(
                f"{sketches.name}: sketch {m} would have {needed[m]:.3g} rows at a spacing of "
                f"{self.spacing:.3g}, and the median sketch {np.median(needed):.3g}; bring them to one "
                "size (normalise, or geometry.scale), leave it out, or give a larger spacing."
            )
        even = resample(sketches, spacing=self.spacing)
        pen = np.full((len(even.points), 1), -1.0)
        pen[even.strokes[1:] - 1] = 1
        rows = np.concatenate([(even.points - self.center) / self.scale, pen], axis=1)
        return Sequences(rows.astype(np.float32), even.strokes[even.offsets], name=sketches.name)

    def decode(self, rows: Tensor | np.ndarray, lengths: Sequence[int] | Tensor) -> Sketches:
        """Sketches from rows.

        Arguments:
            rows: (P, 3), the valid rows of all items, one item after the other.
            lengths: (B,), rows of each item.

        Raises:
            ValueError: The rows have another shape.
            SketchError: A row is not finite, or the lengths do not add up to P.
        """
        rows = _array(rows, self.channels)
        ends = _ends(lengths, len(rows))
        lifted = rows[:, 2] > 0
        lifted[ends - 1] = True  # the last stroke of a sketch ends with it
        strokes = np.concatenate([[0], np.flatnonzero(lifted) + 1])
        offsets = np.concatenate([[0], np.searchsorted(strokes, ends)])
        return Sketches(rows[:, :2] * self.scale + self.center, strokes, offsets, name="drawn")


def rows_from_config(config: dict[str, Any]) -> StrokeRows | PointRows:
    """The rows with this `config`.

    Arguments:
        config: Of :class:`StrokeRows` or :class:`PointRows`, as it is after JSON.

    Raises:
        ValueError: It is not such a config.
    """
    try:
        fields = dict(config)
        kind: Any = {"strokes": StrokeRows, "points": PointRows}[fields.pop("kind")]
        rows: StrokeRows | PointRows = kind(**fields | {"center": tuple(fields["center"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{reprlib.repr(config)} is no config of rows ({error}); give that of StrokeRows or of "
            "PointRows."
        ) from None
    return rows


def _extents(sketches: Sketches) -> np.ndarray:
    """The longer side of each sketch's bounding box, (M,)."""
    low, high = sketches.box
    return np.asarray((high - low).max(1))


def _errors(sketches: Sketches, rows: np.ndarray) -> np.ndarray:
    """The distance of every point of the data from the polyline of its stroke's row, (P,)."""
    number = np.repeat(np.arange(len(rows)), sketches.stroke_sizes)
    nearest = np.full(len(number), np.inf)
    for k in range(rows.shape[1] - 1):
        away = segment_distances(sketches.points, rows[number, k], rows[number, k + 1])
        nearest = np.minimum(nearest, away)
    return nearest
