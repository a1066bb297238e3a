r"""The path data of SVG, as polylines.

All commands are supported: M L H V C S Q T A Z, absolute and relative. Curves become polylines that
stay within a tolerance of them and end exactly where the curves end. A cubic in n equal steps of its
parameter is off by at most

.. math:: \frac{3}{4 n^2} \max_i |p_i - 2 p_{i+1} + p_{i+2}|,

which determines n; an arc of radius r in steps of an angle h is off by :math:`r (1 - \cos \frac{h}{2})`.

References:
    Scalable Vector Graphics (SVG) 1.1, sections 8.3 and F.6. https://www.w3.org/TR/SVG11
    Surface algorithms using bounds on derivatives (Filip, Magedson, Markot, 1986).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from anydiff.sketches.sketches import SketchError
from anydiff.sketches.svg_commands import MOST_POINTS, TAKES, read_commands, short, too_many

__all__ = ["Paths", "flatten", "parse_path"]

_MOST = 1_000_000  # pieces of a curve, or of a path's arcs; beyond, the tolerance is a mistake

Point = tuple[float, float]


class Paths:
    """Subpaths as lines and cubics, each a point and the curves that follow one another from there.

    A cubic whose control points lie on its ends is a straight line; a subpath without curves is a dot.
    The numbers are kept in flat arrays, 64 bytes a curve.
    """

    def __init__(self) -> None:
        self._starts = array("d")
        self._curves = array("d")  # of each: start, two control points, end
        self._ends = array("q", [0])  # the curves up to each subpath

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def starts(self) -> np.ndarray:
        """The first point of each subpath, (S, 2)."""
        return np.array(self._starts).reshape(-1, 2)

    @property
    def curves(self) -> np.ndarray:
        """Start, control points and end of all curves, (C, 4, 2)."""
        return np.array(self._curves).reshape(-1, 4, 2)

    @property
    def ends(self) -> np.ndarray:
        """The offsets (S + 1,) of the subpaths among the curves."""
        return np.array(self._ends)

    def add(self, d: str, tolerance: float = 0.1, most: int = MOST_POINTS) -> str:
        """Add the subpaths of an SVG path, up to its first fault; arcs become lines.

        A `moveto` that nothing follows draws nothing and is left out, but `M x y Z` is a dot.

        Arguments:
            d: Path data, as in `<path d="…">`.
            tolerance: How far the lines of an arc may be from it, in the units of the path.
            most: The largest number of points of all subpaths, those added before included.

        Returns:
            The fault: a command that is unknown or a number that is malformed, and where; or "".

        Raises:
            SketchError: There would be more points than `most`, or the arcs would have more than a
                million lines.
        """
        _check_tolerance(tolerance)
        line = self._curves.extend
        x = y = sx = sy = 0.0  # here, and where the subpath starts
        cx = cy = 0.0  # the last control point
        first = len(self._curves)  # of the subpath being drawn
        drawing = False
        last = ""  # the command before, for S and T
        pieces = 0  # of all arcs
        fault = ""
        for letter, values, where, fault in read_commands(d, most - self._points()):
            command, relative = letter.upper(), letter.islower()
            if last == "" and command != "M":
                return fault or f"the path {short(d)} begins with {letter!r} and not with M."
            if command == "Z" and last != "Z":
                if (x, y) != (sx, sy):
                    line((x, y, x, y, sx, sy, sx, sy))
                self._end(sx, sy)
                first, drawing = len(self._curves), False
                x, y, last = sx, sy, "Z"
            takes = TAKES.get(command) or 1
            for k in range(0, len(values), takes):
                ox, oy = (x, y) if relative else (0.0, 0.0)
                if command == "M" and k == 0:
                    if len(self._curves) > first:
                        self._end(sx, sy)
                        first = len(self._curves)
                    x, y = sx, sy = values[0] + ox, values[1] + oy
                    drawing, last = False, "M"
                    continue
                if not drawing:
                    drawing, sx, sy = True, x, y

                if command in ("L", "M"):
                    ex, ey = values[k] + ox, values[k + 1] + oy
                    line((x, y, x, y, ex, ey, ex, ey))
                elif command == "H":
                    ex, ey = values[k] + ox, y
                    line((x, y, x, y, ex, ey, ex, ey))
                elif command == "V":
                    ex, ey = x, values[k] + oy
                    line((x, y, x, y, ex, ey, ex, ey))
                elif command == "C":
                    ax, ay, cx, cy, ex, ey = values[k : k + 6]
                    cx, cy, ex, ey = cx + ox, cy + oy, ex + ox, ey + oy
                    line((x, y, ax + ox, ay + oy, cx, cy, ex, ey))
                elif command == "S":
                    ax, ay = (2 * x - cx, 2 * y - cy) if last in ("C", "S") else (x, y)
                    cx, cy, ex, ey = values[k : k + 4]
                    cx, cy, ex, ey = cx + ox, cy + oy, ex + ox, ey + oy
                    line((x, y, ax, ay, cx, cy, ex, ey))
                elif command == "A":
                    ex, ey = values[k + 5] + ox, values[k + 6] + oy
                    arc = _arc(
                        (x, y), (ex, ey), values[k : k + 7], tolerance, where, _MOST - pieces
                    )
                    pieces += len(arc)
                    self._curves.frombytes(arc.tobytes())
                else:  # a quadratic is a cubic with its control points a third of the way from there
                    if command == "Q":
                        cx, cy = values[k] + ox, values[k + 1] + oy
                    else:
                        cx, cy = (2 * x - cx, 2 * y - cy) if last in ("Q", "T") else (x, y)
                    ex, ey = values[k + takes - 2] + ox, values[k + takes - 1] + oy
                    ax, ay = x + 2 / 3 * (cx - x), y + 2 / 3 * (cy - y)
                    line((x, y, ax, ay, ex + 2 / 3 * (cx - ex), ey + 2 / 3 * (cy - ey), ex, ey))
                x, y, last = ex, ey, command
            if self._points() > most:
                raise too_many()
        if len(self._curves) > first:
            self._end(sx, sy)
        if self._points() > most:
            raise too_many()
        return fault

    def repeat(self, first: int, last: int, most: int = MOST_POINTS) -> None:
        """Add some of the subpaths once more.

        Arguments:
            first: Number of the first.
            last: Number after the last.
            most: As of :meth:`add`.

        Raises:
            SketchError: There would be more points than `most`.
        """
        a, b = self._ends[first], self._ends[last]
        if self._points() + b - a + last - first > most:
            raise too_many()
        shift = self._ends[-1] - a
        self._ends.extend([end + shift for end in self._ends[first + 1 : last + 1]])
        self._starts.extend(self._starts[2 * first : 2 * last])
        self._curves.extend(self._curves[8 * a : 8 * b])

    def _end(self, x: float, y: float) -> None:
        """End a subpath that starts here."""
        self._starts.extend((x, y))
        self._ends.append(len(self._curves) // 8)

    def _points(self) -> int:
        """The points that there will be at least."""
        return len(self) + len(self._curves) // 8


def parse_path(d: str, tolerance: float = 0.1) -> list[np.ndarray]:
    """The subpaths of an SVG path as polylines, each (n, 2).

    Arguments:
        d: Path data, as in `<path d="…">`.
        tolerance: How far a polyline may be from its curve, in the path's own units. Ends of curves
            are exact.

    Raises:
        SketchError: A command is unknown or a number malformed, and the message says where; or there
            would be more than 10 million points.
    """
    paths = Paths()
    if fault := paths.add(d, tolerance):
        raise SketchError(fault)
    points, strokes = flatten(paths.starts, paths.curves, paths.ends, tolerance)
    return [points[a:b] for a, b in pairwise(strokes)]


def flatten(
    starts: np.ndarray,
    curves: np.ndarray,
    ends: np.ndarray,
    tolerance: float,
    most: int = MOST_POINTS,
    place: Callable[[int], str] = lambda subpath: "",
) -> tuple[np.ndarray, np.ndarray]:
    """Subpaths as polylines, all at once.

    Arguments:
        starts: The first point of each subpath, (S, 2).
        curves: Start, control points and end of each curve, (C, 4, 2).
        ends: The offsets (S + 1,) of the subpaths among the curves.
        tolerance: How far a polyline may be from its curve, in the units of the paths.
        most: The largest number of points.
        place: Gives the words with which an error about a subpath begins.

    Returns:
        The points (P, 2), and the offsets (S + 1,) of the subpaths among them.

    Raises:
        SketchError: There would be more points than `most`, or coordinates beyond the range of floats.
    """
    _check_tolerance(tolerance)

    def check(good: np.ndarray, message: str) -> None:
        """Raise with the place of the first subpath that is not good."""
        if not good.all():
            raise SketchError(place(int(np.argmin(good))) + message)

    def every(good: np.ndarray) -> np.ndarray:
        """Which subpaths have good curves only."""
        bad = np.concatenate([[0], np.cumsum(~good)])
        return np.asarray(bad[ends[1:]] == bad[ends[:-1]])

    check(
        np.isfinite(starts).all(1) & every(np.isfinite(curves).all((1, 2))),
        "relative coordinates or transforms add up to numbers that are too large.",
    )
    with np.errstate(over="ignore"):
        bend = np.hypot(*np.moveaxis(curves[:, :-2] - 2 * curves[:, 1:-1] + curves[:, 2:], -1, 0))
        steps = np.sqrt(0.75 * bend.max(1, initial=0) / tolerance)
    straight = ((curves[:, 1] == curves[:, 0]) & (curves[:, 2] == curves[:, 3])).all(1)
    steps = np.where(straight, 1, np.ceil(steps).clip(1))
    check(
        every(steps <= _MOST),
        f"a curve would need more than {_MOST:,} pieces to be within {tolerance} of its shape; "
        "give a larger tolerance.",
    )
    strokes = np.concatenate([[0], np.cumsum(steps)])[ends] + np.arange(len(ends))
    check(strokes[1:] <= most, str(too_many(tolerance)))

    # the points after the start, in Bernstein form, which ends exactly in the last control point
    n, strokes = steps.astype(np.int64), strokes.astype(np.int64)
    which = np.repeat(np.arange(len(n)), n)
    after = curves[which, 3]
    bent = np.flatnonzero(~straight[which])
    t = (bent - (np.cumsum(n) - n)[which[bent]] + 1) / n[which[bent]]
    s = 1 - t
    basis = np.stack([s**3, 3 * s**2 * t, 3 * s * t**2, t**3])
    after[bent] = np.einsum("kn,nkd->nd", basis, curves[which[bent]])

    points = np.empty((len(after) + len(starts), 2))
    first = np.zeros(len(points), bool)
    first[strokes[:-1]] = True
    points[first] = starts
    points[~first] = after
    return points, strokes


def _check_tolerance(tolerance: float) -> None:
    if not tolerance > 0:
        raise SketchError(f"the tolerance is {tolerance}; it should be above 0.")


def _arc(
    here: Point, end: Point, v: Sequence[float], tolerance: float, where: int, most_pieces: int
) -> np.ndarray:
    """An elliptic arc as lines, curves (n, 8): from the ends to the centre as in SVG 1.1, F.6.5."""
    rx, ry, phi, large, sweep = abs(v[0]), abs(v[1]), math.radians(v[2]), v[3] != 0, v[4] != 0
    if here == end:
        return np.empty((0, 8))
    if rx == 0 or ry == 0:
        return np.array([here + here + end + end])
    cos, sin = math.cos(phi), math.sin(phi)
    dx, dy = (here[0] - end[0]) / 2, (here[1] - end[1]) / 2
    x, y = (cos * dx + sin * dy) / rx, (cos * dy - sin * dx) / ry  # on the unit circle
    if (length := math.hypot(x, y)) > 1:  # radii too small for the chord grow until they fit
        rx, ry, x, y = rx * length, ry * length, x / length, y / length
        length = 1.0
    if length == 0:  # the chord is too short for floats
        return np.array([here + here + end + end])
    # the centre is at right angles to half the chord, at a distance that Pythagoras gives
    away = math.sqrt(max(0.0, 1 - length**2)) * (-1 if large == sweep else 1)
    cx, cy = away * (y / length), -away * (x / length)
    first = math.atan2(y - cy, x - cx)
    turn = 2 * math.asin(length)
    turn = (2 * math.pi - turn if large else turn) * (1 if sweep else -1)

    most = 2 * math.acos(max(1 - tolerance / max(rx, ry), 0.0))
    pieces = abs(turn) / most if most > 0 else math.inf
    if not pieces < most_pieces:
        raise SketchError(
            f"the arcs up to character {where} would need more than {_MOST:,} pieces to be within "
            f"{tolerance} of their shape; give a larger tolerance."
        )
    angles = first + turn * np.arange(1, math.ceil(pieces)) / math.ceil(pieces)
    xs, ys = rx * (cx + np.cos(angles)), ry * (cy + np.sin(angles))
    xs, ys = cos * xs - sin * ys, sin * xs + cos * ys
    points = np.empty((math.ceil(pieces) + 1, 2))
    points[0], points[-1] = here, end
    points[1:-1, 0], points[1:-1, 1] = xs + (here[0] + end[0]) / 2, ys + (here[1] + end[1]) / 2
    return np.concatenate([points[:-1], points[:-1], points[1:], points[1:]], 1)
