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
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from anydiff.sketches.sketches import SketchError

__all__ = ["MOST_POINTS", "NUMBER", "Subpath", "flatten", "parse_path", "short", "subpaths"]

# possessive throughout (+ after a quantifier): nothing is tried twice, so time is linear in the text
_NUMBER = r"[+-]?(?:\d++\.?+\d*+|\.\d++)(?:[eE][+-]?\d++)?+"
NUMBER = re.compile(_NUMBER, re.ASCII)
_PART = rf"[\s,]*+({_NUMBER})"
_NEXT = re.compile(_PART, re.ASCII)
_ARC = re.compile(_PART * 3 + r"[\s,]*+([01])" * 2 + _PART * 2, re.ASCII)
_COMMANDS = re.compile(r"([A-DF-Za-df-z])([^A-DF-Za-df-z]*)")  # e and E belong to numbers
_TAKES = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}
_MOST = 1_000_000  # pieces of a curve, or of a path's arcs; beyond, the tolerance is a mistake
MOST_POINTS = 10_000_000  # of a file: a few kilobytes could demand any number of points

Point = tuple[float, float]
Curve = tuple[Point, Point, Point, Point]


class Subpath(NamedTuple):
    """A point and the cubics that follow one another from there; without any, a dot.

    A cubic whose control points lie on its ends is a straight line.

    Arguments:
        start: The point (x, y).
        curves: Each with its start, two control points and its end.
    """

    start: Point
    curves: list[Curve]


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
    points, strokes = flatten(subpaths(d, tolerance), tolerance)
    return [points[a:b] for a, b in pairwise(strokes)]


def flatten(
    paths: Sequence[Subpath], tolerance: float, most: int = MOST_POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Subpaths as polylines, all at once.

    Arguments:
        paths: The subpaths.
        tolerance: How far a polyline may be from its curve, in the units of the paths.
        most: The largest number of points.

    Returns:
        The points (P, 2), and the offsets (len(paths) + 1,) of the subpaths among them.

    Raises:
        SketchError: There would be more points than `most`, or coordinates beyond the range of floats.
    """
    _check_tolerance(tolerance)
    starts = np.array([path.start for path in paths], np.float64).reshape(-1, 2)
    curves = np.array([c for path in paths for c in path.curves], np.float64).reshape(-1, 4, 2)
    if not (np.isfinite(starts).all() and np.isfinite(curves).all()):
        raise SketchError("relative coordinates of the path add up to numbers that are too large.")
    with np.errstate(over="ignore"):
        bend = np.hypot(*np.moveaxis(curves[:, :-2] - 2 * curves[:, 1:-1] + curves[:, 2:], -1, 0))
        steps = np.sqrt(0.75 * bend.max(1, initial=0) / tolerance)
    straight = ((curves[:, 1] == curves[:, 0]) & (curves[:, 2] == curves[:, 3])).all(1)
    steps = np.where(straight, 1, np.ceil(steps).clip(1))
    if not (steps <= _MOST).all():
        raise SketchError(
            f"a curve would need more than {_MOST:,} pieces to be within {tolerance} of its shape; "
            "give a larger tolerance."
        )
    if not steps.sum() + len(paths) <= most:
        raise SketchError(
            f"the sketch would have more than {MOST_POINTS:,} points within {tolerance} of its "
            "curves; give a larger tolerance or less to draw."
        )

    # the points after the start, in Bernstein form, which ends exactly in the last control point
    n = steps.astype(np.int64)
    which = np.repeat(np.arange(len(n)), n)
    t = (np.arange(len(which)) - np.repeat(np.cumsum(n) - n, n) + 1) / n[which]
    s = 1 - t
    basis = np.stack([s**3, 3 * s**2 * t, 3 * s * t**2, t**3])
    after = np.einsum("kn,nkd->nd", basis, curves[which])

    per_path = np.array([len(path.curves) for path in paths], np.int64)
    ends = np.concatenate([[0], np.cumsum(n)])[np.concatenate([[0], np.cumsum(per_path)])]
    strokes = ends + np.arange(len(paths) + 1)
    points = np.empty((len(after) + len(paths), 2))
    first = np.zeros(len(points), bool)
    first[strokes[:-1]] = True
    points[first] = starts
    points[~first] = after
    return points, strokes


def _check_tolerance(tolerance: float) -> None:
    if not tolerance > 0:
        raise SketchError(f"the tolerance is {tolerance}; it should be above 0.")


def subpaths(d: str, tolerance: float = 0.1) -> list[Subpath]:
    """The subpaths of an SVG path as lines and cubics; arcs become lines.

    A `moveto` that nothing follows draws nothing and is left out, but `M x y Z` is a dot.

    Arguments:
        d: Path data, as in `<path d="…">`.
        tolerance: How far the lines of an arc may be from it, in the units of the path.

    Raises:
        SketchError: A command is unknown or a number malformed, or the arcs would have more than a
            million lines.
    """
    _check_tolerance(tolerance)
    done: list[Subpath] = []
    start = here = (0.0, 0.0)
    curves: list[Curve] | None = None  # of the subpath being drawn
    last = ""  # the command before, for S and T
    control = here  # its last control point
    pieces = 0  # of all arcs
    for letter, values, where in _read_commands(d):
        command, (ox, oy) = letter.upper(), (here if letter.islower() else (0.0, 0.0))
        if last == "" and command != "M":
            raise SketchError(f"the path {short(d)} begins with {letter!r} and not with M.")
        if command == "Z":
            if last == "Z":
                continue
            curves = [] if curves is None else curves
            if here != start:
                curves.append((here, here, start, start))
            done.append(Subpath(start, curves))
            curves, here, last = None, start, "Z"
            continue
        takes = _TAKES[command]
        for k in range(0, len(values), takes):
            v = values[k : k + takes]
            if k:
                ox, oy = here if letter.islower() else (0.0, 0.0)
            if command == "M" and k == 0:
                if curves:
                    done.append(Subpath(start, curves))
                curves, start = None, (v[0] + ox, v[1] + oy)
                here, last = start, "M"
                continue
            if curves is None:
                curves, start = [], here

            if command == "H":
                end = (v[0] + ox, here[1])
            elif command == "V":
                end = (here[0], v[0] + oy)
            else:
                end = (v[-2] + ox, v[-1] + oy)

            if command == "C":
                control = (v[2] + ox, v[3] + oy)
                curves.append((here, (v[0] + ox, v[1] + oy), control, end))
            elif command == "S":
                c1 = _reflected(control, here) if last in ("C", "S") else here
                control = (v[0] + ox, v[1] + oy)
                curves.append((here, c1, control, end))
            elif command in ("Q", "T"):
                if command == "Q":
                    control = (v[0] + ox, v[1] + oy)
                else:
                    control = _reflected(control, here) if last in ("Q", "T") else here
                curves.append((here, _third(here, control), _third(end, control), end))
            elif command == "A":
                lines = _arc(here, end, v, tolerance, where, _MOST - pieces)
                pieces += len(lines)
                curves += [(a, a, b, b) for a, b in lines]
            else:
                curves.append((here, here, end, end))
            here, last = end, command
    if curves:
        done.append(Subpath(start, curves))
    return done


def _read_commands(d: str) -> list[tuple[str, list[float], int]]:
    """The commands of a path: letter, numbers, and where the letter stands."""
    commands: list[tuple[str, list[float], int]] = []
    for match in _COMMANDS.finditer(d):
        letter, arguments = match.groups()
        where = match.start()
        if not commands and d[:where].strip():
            break
        takes = _TAKES.get(letter.upper())
        if takes is None:
            raise SketchError(
                f"{letter!r} at character {where} of the path {short(d, where)} is not a command; "
                f"there are {' '.join(_TAKES)} and the same in lower case."
            )
        if takes == 7:
            texts, rest = _read_arcs(arguments)
        else:
            texts, rest = NUMBER.findall(arguments), NUMBER.sub(" ", arguments)
        if rest.replace(",", " ").strip():
            bad = _first_bad(arguments, takes == 7) + match.start(2)
            raise SketchError(
                f"{d[bad : bad + 8].split(',')[0]!r} at character {bad} of the path {short(d, bad)} "
                f"is not a number that {letter!r} takes."
            )
        if (not texts or len(texts) % takes) if takes else texts:
            raise SketchError(
                f"{letter!r} at character {where} of the path {short(d, where)} has {len(texts)} "
                f"numbers; it takes {takes}{' or a multiple' if takes else ''}."
            )
        values = list(map(float, texts))
        if values and not math.isfinite(sum(values)):
            raise SketchError(
                f"{letter!r} at character {where} of the path {short(d, where)} has numbers that "
                "are too large."
            )
        commands.append((letter, values, where))
    if not commands and d.strip():
        raise SketchError(f"the path {short(d)} does not begin with a command, that is M.")
    return commands


def _read_arcs(arguments: str) -> tuple[list[str], str]:
    """The numbers of arcs, whose flags are one digit each and may be glued to what follows."""
    texts: list[str] = []
    at = 0
    while match := _ARC.match(arguments, at):
        texts += match.groups()
        at = match.end()
    return texts, arguments[at:]


def _first_bad(arguments: str, arcs: bool) -> int:
    at = 0
    while match := (_ARC if arcs else _NEXT).match(arguments, at):
        at = match.end()
    rest = arguments[at:].replace(",", " ")
    return at + len(rest) - len(rest.lstrip())


def short(d: str, where: int = 0) -> str:
    """A text for an error, cut to 60 characters.

    Arguments:
        d: The text.
        where: The character to show.
    """
    begin = max(0, where - 20) if len(d) > 60 else 0
    text = d[begin : begin + 60]
    return repr(("…" if begin else "") + text + ("…" if begin + 60 < len(d) else ""))


def _reflected(control: Point, here: Point) -> Point:
    return 2 * here[0] - control[0], 2 * here[1] - control[1]


def _third(end: Point, control: Point) -> Point:
    """The control point of the cubic that is the same curve as a quadratic."""
    return end[0] + 2 / 3 * (control[0] - end[0]), end[1] + 2 / 3 * (control[1] - end[1])


def _arc(
    here: Point, end: Point, v: Sequence[float], tolerance: float, where: int, most_pieces: int
) -> list[tuple[Point, Point]]:
    """An elliptic arc as lines: from the ends to the centre as in SVG 1.1, F.6.5."""
    rx, ry, phi, large, sweep = abs(v[0]), abs(v[1]), math.radians(v[2]), v[3] != 0, v[4] != 0
    if here == end:
        return []
    if rx == 0 or ry == 0:
        return [(here, end)]
    cos, sin = math.cos(phi), math.sin(phi)
    dx, dy = (here[0] - end[0]) / 2, (here[1] - end[1]) / 2
    x, y = (cos * dx + sin * dy) / rx, (cos * dy - sin * dx) / ry  # on the unit circle
    if (length := math.hypot(x, y)) > 1:  # radii too small for the chord grow until they fit
        rx, ry, x, y = rx * length, ry * length, x / length, y / length
        length = 1.0
    if length == 0:  # the chord is too short for floats
        return [(here, end)]
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
    inner = np.stack([xs + (here[0] + end[0]) / 2, ys + (here[1] + end[1]) / 2], 1).tolist()
    joints = [here, *((px, py) for px, py in inner), end]
    return list(pairwise(joints))
