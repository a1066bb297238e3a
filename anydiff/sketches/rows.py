r"""How a sketch becomes the rows that diffuse, and a drawing again.

:class:`StrokeRows`, a row a **stroke**: K points along it, their coordinates side by side,

.. math:: x_n = [\,(p_{n1} - c) / s, \dots, (p_{nK} - c) / s\,]

The pen is down within a row and up between two, so there is no pen state to be drawn, or to be got
wrong: strokes come neither dashed nor merged. Sequences are short, and what is far apart on the
path but near in the drawing is a few rows away. The points are closer where the stroke bends: they
are equally spaced in the arc length plus a share of the turning angle, so that corners stay sharp.

:class:`PointRows`, a row a **point**: (x, y, pen), the pen +1 on the last point of a stroke and −1 on
the others, equally spaced along the path. For long winding strokes, and for whoever needs points. A
drawn pen counts as lifted where it is positive: halfway, as likely the one as the other.

Both keep their numbers in a `config` for the checkpoint. c and s are fitted to the data as a whole,
so that sizes and places of drawings are learnt too.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from anydiff.data.sequences import Sequences
from anydiff.sketches.geometry import resample
from anydiff.sketches.sketches import Sketches

__all__ = ["PointRows", "StrokeRows", "along", "rows_from_config"]


def along(sketches: Sketches, points: int, bend: float = 0.25) -> np.ndarray:
    """`points` points along each stroke, the first and the last among them, (S, points, 2).

    They are equally spaced in :math:`u = \\ell / L + b\\, \\theta / (\\pi / 2)`, with the arc length
    :math:`\\ell` out of L and the turning angle :math:`\\theta` up to there.

    Arguments:
        points: How many, at least 2.
        bend: b, what a right angle counts, in lengths of the stroke. 0 is equal arc length; a right
            angle keeps its corner if it counts as much as a step.
    """
    if points < 2:
        raise ValueError(f"points is {points}; a stroke needs at least 2.")
    first, last = sketches.strokes[:-1], sketches.strokes[1:] - 1
    number = np.repeat(np.arange(len(first)), last - first + 1)

    step = np.diff(sketches.points, axis=0)
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
    """The angle in [0, π] between the steps before and after each point, (P,); 0 at a standstill."""
    before, after = step[:-1], step[1:]
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    angle = np.abs(np.arctan2(cross, (before * after).sum(1)))
    angle[(length[:-1] == 0) | (length[1:] == 0)] = 0
    return np.pad(angle, 1)[: len(step) + 1] if len(step) else np.zeros(1)


def _array(rows: Tensor | np.ndarray) -> np.ndarray:
    """In float64, from any device and precision."""
    return np.asarray(rows.double().cpu() if isinstance(rows, Tensor) else rows, np.float64)


def _frame(sketches: Sketches) -> tuple[tuple[float, float], float]:
    """The mean point of the drawings and the spread about it, over both axes."""
    center = sketches.points.mean(0)
    spread = float(np.sqrt(np.square(sketches.points - center).mean()))
    return (float(center[0]), float(center[1])), spread or 1.0


@dataclass(frozen=True)
class StrokeRows:
    """A row a stroke: `points` points along it, (x1, y1, x2, y2, …).

    Arguments:
        points: K, points of a stroke.
        center: c, in the data's units.
        scale: s, the unit of what diffuses, in the data's units.
        bend: See :func:`along`.
    """

    points: int
    center: tuple[float, float]
    scale: float
    bend: float = 0.25

    @classmethod
    def fit(
        cls,
        sketches: Sketches,
        points: int | None = None,
        bend: float = 0.25,
        tolerance: float = 0.01,
    ) -> StrokeRows:
        """The rows that suit these drawings.

        Arguments:
            points: K. If None, the fewest of 8, 10, 12, 16, 24, 32, 48 with which 99 of 100 points of the
                data are no further than `tolerance` times the median size of a drawing from its rows;
                48, with a warning, where no number of these is enough.
        """
        center, scale = _frame(sketches)
        if points is not None:
            return cls(int(points), center, scale, bend)
        some = sketches.subset(
            np.linspace(0, len(sketches) - 1, min(len(sketches), 500)).astype(int)
        )
        size = float(np.median(_extents(some)))
        for fewest in (8, 10, 12, 16, 24, 32, 48):
            error = float(np.quantile(_errors(some, along(some, fewest, bend)), 0.99))
            if error <= tolerance * size:
                break
        else:
            warnings.warn(
                f"{sketches.name}: even {fewest} points a stroke keep 99 of 100 points only to "
                f"{error / size:.1%} of a drawing's size; rows of points (PointRows) keep long strokes.",
                stacklevel=2,
            )
        return cls(fewest, center, scale, bend)

    @property
    def channels(self) -> int:
        return 2 * self.points

    @property
    def config(self) -> dict[str, Any]:
        """The arguments and the kind, ready for JSON."""
        return {"kind": "strokes", **asdict(self), "center": list(self.center)}

    def encode(self, sketches: Sketches) -> Sequences:
        """Rows (S, 2 points), an item a sketch."""
        rows = (along(sketches, self.points, self.bend) - self.center) / self.scale
        return Sequences(rows.reshape(len(rows), -1), sketches.offsets, name=sketches.name)

    def decode(self, rows: Tensor | np.ndarray, lengths: Sequence[int] | Tensor) -> Sketches:
        """Sketches of the valid rows (S, 2 points) of items of these lengths, all rows in one."""
        rows = _array(rows)
        if rows.ndim != 2 or rows.shape[1] != self.channels:
            raise ValueError(
                f"rows are {rows.shape}; expected (S, {self.channels}), x[space.mask]."
            )
        xy = rows.reshape(-1, 2) * self.scale + self.center
        strokes = np.arange(len(rows) + 1) * self.points
        return Sketches(xy, strokes, np.cumsum([0, *np.asarray(lengths).tolist()]), name="drawn")


@dataclass(frozen=True)
class PointRows:
    """A row a point: (x, y, pen).

    Arguments:
        spacing: Between points along a stroke at most, in the data's units.
        center: In the data's units.
        scale: The unit of what diffuses, in the data's units.
    """

    spacing: float
    center: tuple[float, float]
    scale: float

    channels = 3

    @classmethod
    def fit(cls, sketches: Sketches, spacing: float = 0.08) -> PointRows:
        """The rows that suit these drawings; `spacing` in sizes of a median drawing."""
        center, scale = _frame(sketches)
        extent = float(np.median(_extents(sketches))) or scale  # dots have none
        return cls(spacing * extent, center, scale)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments and the kind, ready for JSON."""
        return {"kind": "points", **asdict(self), "center": list(self.center)}

    def encode(self, sketches: Sketches) -> Sequences:
        """Rows (P, 3), an item a sketch."""
        even = resample(sketches, spacing=self.spacing)
        pen = np.full((len(even.points), 1), -1.0)
        pen[even.strokes[1:] - 1] = 1
        rows = np.concatenate([(even.points - self.center) / self.scale, pen], axis=1)
        return Sequences(rows, even.strokes[even.offsets], name=sketches.name)

    def decode(self, rows: Tensor | np.ndarray, lengths: Sequence[int] | Tensor) -> Sketches:
        """Sketches of the valid rows (P, 3) of items of these lengths, all rows in one."""
        rows = _array(rows)
        if rows.ndim != 2 or rows.shape[1] != self.channels:
            raise ValueError(
                f"rows are {rows.shape}; expected (P, {self.channels}), x[space.mask]."
            )
        ends = np.cumsum(np.asarray(lengths, np.int64))
        lifted = rows[:, 2] > 0
        lifted[ends - 1] = True  # a drawing's last stroke ends with it
        strokes = np.concatenate([[0], np.flatnonzero(lifted) + 1])
        offsets = np.concatenate([[0], np.searchsorted(strokes, ends)])
        return Sketches(rows[:, :2] * self.scale + self.center, strokes, offsets, name="drawn")


def rows_from_config(config: dict[str, Any]) -> StrokeRows | PointRows:
    """What `config` came from."""
    config = dict(config)
    kind = {"strokes": StrokeRows, "points": PointRows}[config.pop("kind")]
    return kind(**config | {"center": tuple(config["center"])})


def _extents(sketches: Sketches) -> np.ndarray:
    """The longer side of each drawing's bounding box, (M,)."""
    low, high = sketches.box
    return (high - low).max(1)


def _errors(sketches: Sketches, rows: np.ndarray) -> np.ndarray:
    """The distance of every point of the data from the polyline of its stroke's row, (P,)."""
    number = np.repeat(np.arange(len(rows)), np.diff(sketches.strokes))
    start, step = rows[:, :-1], np.diff(rows, axis=1)
    squared = np.square(step).sum(2)
    nearest = np.full(len(number), np.inf)
    for k in range(step.shape[1]):
        away = sketches.points - start[number, k]
        d, length = step[number, k], squared[number, k]
        where = np.clip((away * d).sum(1) / np.where(length > 0, length, 1), 0, 1)
        nearest = np.minimum(nearest, np.hypot(*(away - where[:, None] * d).T))
    return nearest
