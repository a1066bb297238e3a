"""Geometry of sketches: evenly spaced points, fewer points, another size."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from anydiff.checks import check_range, check_whole
from anydiff.data.ranges import ranges
from anydiff.sketches.sketches import Sketches

__all__ = ["near_one", "needed_points", "resample", "scale", "segment_distances", "simplify"]

_MOST_POINTS = 50_000_000  # of a result: beyond, the spacing is a mistake
_ROUNDS = 100  # of simplifying, before pieces are halved as well


def resample(
    sketches: Sketches, spacing: float | None = None, points: int | None = None
) -> Sketches:
    """Points at equal distances along each stroke; first and last points stay where they are.

    Corners between the new points are cut. Times are interpolated like the points.

    Arguments:
        sketches: What to resample.
        spacing: The largest distance, in the points' units: a stroke of length l gets
            ⌈l / spacing⌉ + 1 points, at least 2. A dot (one point) stays one.
        points: Instead of a spacing, the number for every stroke, at least 2. A dot becomes that many
            equal points.

    Raises:
        ValueError: Both or neither of `spacing` and `points` are given, one is out of range, or there
            would be over 50 million points.
    """
    if (spacing is None) == (points is None):
        raise ValueError("give either spacing or points.")
    if spacing is not None:
        check_range("(0, inf]", spacing=spacing)
    if points is not None:
        check_whole("[2, inf)", points=points)
    p = sketches.points.astype(np.float64)
    first, last = sketches.strokes[:-1], sketches.strokes[1:] - 1
    if len(p) == 0:
        return sketches
    steps, lengths = _lengths(sketches)
    n = np.full(len(first), points) if spacing is None else needed_points(sketches, spacing)
    if (total := n.sum(dtype=np.float64)) > _MOST_POINTS:
        raise ValueError(
            f"{total:.3g} points would be made of {len(p)}; give a larger spacing or fewer points."
        )
    n = n.astype(np.int64)

    # one running length for all strokes; each new point is looked up among those of its own stroke
    along = np.cumsum(steps) - steps
    which = np.repeat(np.arange(len(n)), n)
    strokes = np.concatenate([[0], np.cumsum(n)])
    share = (np.arange(len(which)) - strokes[which]) / np.maximum(n - 1, 1)[which]
    target = along[first][which] + share * lengths[which]
    left = np.searchsorted(along, target, side="right") - 1
    left = left.clip(first[which], np.maximum(first, last - 1)[which])
    right = np.minimum(left + 1, last[which])
    part = ((target - along[left]) / np.where(steps[left] > 0, steps[left], 1)).clip(0, 1)

    def between(values: np.ndarray) -> np.ndarray:
        a, b, t = values[left], values[right], part.reshape(-1, *[1] * (values.ndim - 1))
        new: np.ndarray = a + t * (b - a)
        new[strokes[1:] - 1] = values[last]
        new[strokes[:-1]] = values[first]  # after the last: a dot is its first point
        return new

    times = None if sketches.times is None else between(np.asarray(sketches.times, np.float64))
    even = between(p).astype(sketches.points.dtype)
    return replace(sketches, points=even, strokes=strokes, times=times)


def needed_points(sketches: Sketches, spacing: float) -> np.ndarray:
    """How many points each stroke gets if it is resampled, (S,) of float64, which any number fits.

    Arguments:
        sketches: What would be resampled.
        spacing: The largest distance, in the points' units, above 0.
    """
    sizes, (_, lengths) = sketches.stroke_sizes, _lengths(sketches)
    with np.errstate(over="ignore"):
        return np.where(sizes == 1, 1.0, np.maximum(np.ceil(lengths / spacing) + 1, 2))


def _lengths(sketches: Sketches) -> tuple[np.ndarray, np.ndarray]:
    """The way from each point to the next of its stroke (P,), and of each stroke (S,)."""
    steps = np.zeros(len(sketches.points))
    steps[:-1] = np.hypot(*np.diff(sketches.points.astype(np.float64), axis=0).T)
    steps[sketches.strokes[1:] - 1] = 0
    return steps, np.add.reduceat(steps, sketches.strokes[:-1])


def scale(sketches: Sketches, size: float = 1.0, center: bool = True) -> Sketches:
    """Each sketch moved and scaled so that the longer side of its bounding box is `size`.

    The aspect ratio stays. A sketch whose points coincide is moved only.

    Arguments:
        sketches: What to scale.
        size: The longer side, in any unit.
        center: Move the middle of the box to the origin, so that coordinates run from −size / 2 to
            size / 2 along the longer side; otherwise its upper left corner, so that they run from 0
            to size.

    Raises:
        ValueError: The size is not positive and finite.
    """
    check_range("(0, inf)", size=size)
    if len(sketches) == 0:
        return sketches
    low, high = sketches.box
    side = (high - low).max(1, keepdims=True)
    origin = low + (high - low) / 2 if center else low
    factor = size / np.where(side > 0, side, size)
    points = sketches.points.astype(np.float64)
    points = (points - origin.repeat(sketches.sizes, 0)) * factor.repeat(sketches.sizes, 0)
    return replace(sketches, points=points.astype(sketches.points.dtype))


def simplify(sketches: Sketches, epsilon: float) -> Sketches:
    """Remove points of strokes that lie within `epsilon` of what remains.

    Ramer–Douglas–Peucker, all strokes at once: a piece of a stroke is cut at its point farthest from
    the straight line between its ends as long as that is more than `epsilon` away. The distance is
    to the line *segment*, so a stroke that turns back keeps its turning point. First and last points
    stay. The points that stay keep their times.

    A stroke that can only be cut at its ends, as a saw of falling height, would need as many rounds as
    it has points. From the 101st round on, pieces are halved too, so that the time is in proportion to
    the points; such a stroke may keep a few points more.

    Arguments:
        sketches: What to simplify.
        epsilon: The tolerance, in the points' units; 0 removes only points on straight lines.

    Raises:
        ValueError: `epsilon` is negative.

    References:
        Algorithms for the reduction of the number of points required to represent a digitized line
        or its caricature (Douglas, Peucker, 1973). https://doi.org/10.3138/FM57-6770-U75U-7727
    """
    check_range("[0, inf]", epsilon=epsilon)
    points, unit = near_one(sketches.points)
    epsilon = epsilon / unit
    keep = np.zeros(len(points), bool)
    first, last = sketches.strokes[:-1], sketches.strokes[1:] - 1
    keep[first] = keep[last] = True

    for number in itertools.count():
        inner = last - first > 1
        first, last = first[inner], last[inner]
        if len(first) == 0:
            break
        sizes = last - first - 1
        begin = np.cumsum(sizes) - sizes
        which = np.repeat(np.arange(len(sizes)), sizes)
        numbers = ranges(first + 1, last)
        away = segment_distances(points[numbers], points[first][which], points[last][which])
        most = np.maximum.reduceat(away, begin)
        candidates = np.flatnonzero(away == most[which])
        _, one = np.unique(which[candidates], return_index=True)
        farthest = numbers[candidates[one]]

        cut = most > epsilon
        first, middle, last = first[cut], farthest[cut], last[cut]
        ends = [first, middle, last]
        if number >= _ROUNDS:
            half = (first + last) // 2
            ends[1:2] = [np.minimum(middle, half), np.maximum(middle, half)]
        for inside in ends[1:-1]:
            keep[inside] = True
        first, last = np.concatenate(ends[:-1]), np.concatenate(ends[1:])
    return replace(
        sketches,
        points=sketches.points[keep],
        strokes=np.concatenate([[0], np.cumsum(keep)])[sketches.strokes],
        times=None if sketches.times is None else sketches.times[keep],
    )


def near_one(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Points in float64, divided by a power of two so that squares are neither too large nor too small.

    Arguments:
        points: (P, 2).

    Returns:
        The points in that unit, none beyond 2, and the unit.
    """
    size = float(np.abs(points).max(initial=0))
    unit = float(2.0 ** np.floor(np.log2(size))) if size > 0 else 1.0
    return points.astype(np.float64) / unit, unit


def segment_distances(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances (N,) of points from line segments.

    Arguments:
        points: (N, 2).
        a: (N, 2), one end of the segment of each point.
        b: (N, 2), the other end.
    """
    along, away = b - a, points - a
    length2 = (along**2).sum(1)
    share = (away * along).sum(1) / np.where(length2 > 0, length2, 1)
    distances: np.ndarray = np.hypot(*(away - share.clip(0, 1)[:, None] * along).T)
    return distances
