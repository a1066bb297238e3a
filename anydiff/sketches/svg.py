r"""SVG files: read as polylines, and written.

The reader takes `path`, `polyline`, `polygon`, `line`, `rect`, `circle` and `ellipse`, in the order of
the file and under the transforms of all groups around them; each subpath is one stroke. It leaves out
what is not drawn where it stands (`defs`, `symbol`, `clipPath`, `mask`, `marker`, `pattern`), and
`use`, `text` and styles. Coordinates are those of the outermost viewBox, y down, at whatever size the
picture is shown. Entities outside the file are never opened.

Path data and curves are read by :mod:`anydiff.sketches.svg_paths`.

References:
    Scalable Vector Graphics (SVG) 1.1. https://www.w3.org/TR/SVG11
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from anydiff.files import PathLike, whole
from anydiff.sketches.sketches import EmptySketch, SketchError, Sketches
from anydiff.sketches.svg_paths import MOST_POINTS, NUMBER, flatten, parse_path, short, subpaths
from anydiff.sketches.xml_events import read_events

__all__ = ["parse_path", "read_svg", "write_svg"]


def read_svg(path: PathLike, tolerance: float | None = None, name: str | None = None) -> Sketches:
    """Read an SVG file as one sketch, with a stroke for each subpath.

    A `<path>` without points is left out if others have some.

    Arguments:
        path: The file.
        tolerance: How far a polyline may be from its curve, in units of the viewBox; by default a
            thousandth of the longer side of the viewBox, or of width and height if it has none.
        name: What errors call it; by default the path.

    Raises:
        SketchError: The file is not XML, has a faulty path or number, or more than 10 million points;
            the message names the file and the line.
        EmptySketch: Nothing is drawn in it.
    """
    name = name or str(path)
    reader = _Reader(name, tolerance)
    read_events(path, name, reader.start, reader.end)
    if not reader.strokes:
        raise EmptySketch(f"{name}: nothing is drawn in it, no path, polyline or the like.")
    return Sketches.from_lists([reader.strokes], name=name)


_HIDDEN = {"defs", "symbol", "clipPath", "mask", "marker", "pattern"}


class _Reader:
    """Collects strokes from the elements of an SVG file, one element after the other."""

    def __init__(self, name: str, tolerance: float | None) -> None:
        self.name = name
        self.tolerance = tolerance
        self.strokes: list[np.ndarray] = []
        self.left = MOST_POINTS
        self.transforms = [np.eye(3)]
        self.hidden = 0  # how many elements deep in something that is not drawn

    def start(self, tag: str, attributes: dict[str, str], line: int) -> None:
        try:
            self.take(tag, attributes)
        except SketchError as error:
            raise SketchError(f"{self.name}, line {line}: {error}") from error

    def take(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self.transforms) == 1:
            if tag != "svg":
                raise SketchError(f"the outermost element is <{tag}>; in an SVG it is <svg>.")
            if self.tolerance is None:
                self.tolerance = _extent(attributes) / 1000 or 0.1
        elif tag == "svg" and "viewBox" in attributes:
            raise SketchError("an <svg> with a viewBox of its own within another is not supported.")
        matrix = self.transforms[-1]
        if "transform" in attributes:
            matrix = _product(matrix, _transform(attributes["transform"]))
        if tag == "svg" and len(self.transforms) > 1:
            x, y = (_length(attributes, key, 0.0) for key in ("x", "y"))
            matrix = _product(matrix, _affine(1, 0, 0, 1, x, y))
        self.transforms.append(matrix)
        if self.hidden or tag in _HIDDEN:
            self.hidden += 1
        elif (d := _as_path(tag, attributes)) is not None:
            assert self.tolerance is not None
            tolerance = self.tolerance / float(np.linalg.norm(matrix[:2, :2], 2) or 1)
            points, strokes = flatten(subpaths(d, tolerance), tolerance, self.left)
            self.left -= len(points)
            if matrix is not self.transforms[0]:
                with np.errstate(over="ignore", invalid="ignore"):
                    points = points @ matrix[:2, :2].T + matrix[:2, 2]
                if not np.isfinite(points).all():
                    raise SketchError("the transforms take points beyond the range of floats.")
            self.strokes += [points[a:b] for a, b in pairwise(strokes)]

    def end(self, tag: str) -> None:
        self.transforms.pop()
        self.hidden = max(0, self.hidden - 1)


def _extent(attributes: dict[str, str]) -> float:
    """The longer side of the viewBox, or of the picture; 0 if neither is given."""
    box = NUMBER.findall(attributes.get("viewBox", ""))
    if len(box) == 4:
        extent = max(float(box[2]), float(box[3]))
    else:
        sides = [NUMBER.match(attributes.get(key, "")) for key in ("width", "height")]
        extent = max((float(side.group()) for side in sides if side), default=0.0)
    if not 0 <= extent < math.inf:
        raise SketchError(f"the picture's longer side is {extent}; it should be finite, 0 or more.")
    return extent


def _as_path(tag: str, attributes: dict[str, str]) -> str | None:
    """The path data of a shape, or None if the element is not a shape."""
    if tag == "path":
        return attributes.get("d", "")
    if tag in ("polyline", "polygon"):
        points = attributes.get("points", "")
        rest = NUMBER.sub(" ", points).replace(",", " ").split()
        if rest or len(NUMBER.findall(points)) % 2:
            raise SketchError(f"the points {short(points)} of <{tag}> should be pairs of numbers.")
        if not points.strip():
            return ""
        return f"M{points}" + ("Z" if tag == "polygon" else "")
    get = {key: _length(attributes, key, 0.0) for key in ("x", "y", "width", "height")}
    if tag == "line":
        x1, y1, x2, y2 = (_length(attributes, key, 0.0) for key in ("x1", "y1", "x2", "y2"))
        return f"M{x1!r} {y1!r}L{x2!r} {y2!r}"
    if tag == "rect":
        x, y, w, h = get.values()
        if w <= 0 or h <= 0:
            return ""
        rx, ry = (_length(attributes, key, math.nan) for key in ("rx", "ry"))
        rx, ry = (ry if rx != rx else rx), (rx if ry != ry else ry)
        rx, ry = (min(rx, w / 2), min(ry, h / 2)) if rx > 0 and ry > 0 else (0.0, 0.0)
        if rx == 0:
            return f"M{x!r} {y!r}h{w!r}v{h!r}h{-w!r}z"
        a, b, arc = w - 2 * rx, h - 2 * ry, f"a{rx!r} {ry!r} 0 0 1 "
        return (
            f"M{x + rx!r} {y!r}h{a!r}{arc}{rx!r} {ry!r}v{b!r}{arc}{-rx!r} {ry!r}"
            f"h{-a!r}{arc}{-rx!r} {-ry!r}v{-b!r}{arc}{rx!r} {-ry!r}z"
        )
    if tag in ("circle", "ellipse"):
        cx, cy, r = (_length(attributes, key, 0.0) for key in ("cx", "cy", "r"))
        rx, ry = (r, r) if tag == "circle" else (_length(attributes, k, 0.0) for k in ("rx", "ry"))
        if rx <= 0 or ry <= 0:
            return ""
        half = f"A{rx!r} {ry!r} 0 0 1 "
        return f"M{cx + rx!r} {cy!r}{half}{cx - rx!r} {cy!r}{half}{cx + rx!r} {cy!r}z"
    return None


def _length(attributes: dict[str, str], key: str, default: float) -> float:
    text = attributes.get(key, "").strip()
    if not text:
        return default
    match = NUMBER.match(text)
    if match is None or text[match.end() :] not in ("", "px"):
        raise SketchError(f"{key}={short(text)} should be a number in user units.")
    if not math.isfinite(value := float(match.group())):
        raise SketchError(f"{key}={short(text)} is too large.")
    return value


def _affine(a: float, b: float, c: float, d: float, e: float, f: float) -> np.ndarray:
    return np.array([[a, c, e], [b, d, f], [0, 0, 1.0]])


def _product(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The transform that does `inner` first."""
    with np.errstate(over="ignore", invalid="ignore"):
        matrix: np.ndarray = outer @ inner
        stretch = np.linalg.norm(matrix[:2, :2], 2) if np.isfinite(matrix).all() else math.inf
    if not np.isfinite(stretch):
        raise SketchError("the transforms multiply to numbers that are too large.")
    return matrix


_TRANSFORM = re.compile(r"[\s,]*+(\w++)\s*+\(([^)]*+)\)[\s,]*+")


def _transform(text: str) -> np.ndarray:
    """The matrix (3, 3) of a list of transforms; the first of them acts last."""
    matrix = np.eye(3)
    at = 0
    while at < len(text):
        match = _TRANSFORM.match(text, at)
        kind, arguments = match.groups() if match else ("", "")
        v = [float(x) for x in NUMBER.findall(arguments)]
        if NUMBER.sub(" ", arguments).replace(",", " ").strip():
            v = []
        if not all(map(math.isfinite, v)):
            raise SketchError(f"the transform {short(text[at:])} has a number that is too large.")
        radians = math.radians(v[0]) if v else 0.0
        cos, sin, tan = math.cos(radians), math.sin(radians), math.tan(radians)
        if kind == "matrix" and len(v) == 6:
            step = _affine(*v)
        elif kind == "translate" and len(v) in (1, 2):
            step = _affine(1, 0, 0, 1, v[0], v[1] if len(v) > 1 else 0.0)
        elif kind == "scale" and len(v) in (1, 2):
            step = _affine(v[0], 0, 0, v[-1], 0, 0)
        elif kind == "rotate" and len(v) in (1, 3):
            x, y = v[1:] if len(v) > 1 else (0.0, 0.0)
            turn = _affine(cos, sin, -sin, cos, 0, 0)
            back = _affine(1, 0, 0, 1, -x, -y)
            step = _product(_affine(1, 0, 0, 1, x, y), _product(turn, back))
        elif kind == "skewX" and len(v) == 1:
            step = _affine(1, 0, tan, 1, 0, 0)
        elif kind == "skewY" and len(v) == 1:
            step = _affine(1, tan, 0, 1, 0, 0)
        else:
            raise SketchError(
                f"the transform {short(text[at:])} is not known; give matrix, translate, scale, rotate, "
                "skewX or skewY with as many numbers as it takes."
            )
        assert match is not None
        matrix = _product(matrix, step)
        at = match.end()
    return matrix


def write_svg(
    path: PathLike,
    sketch: Sketches | Sequence[np.ndarray],
    *,
    line_width: float | None = None,
    margin: float = 0.05,
) -> None:
    """Write a sketch as black lines; `read_svg` returns exactly its points.

    Arguments:
        path: The file, which is complete or absent.
        sketch: Strokes, each (n, 2), or `Sketches` that hold one sketch.
        line_width: In the units of the sketch; by default a fiftieth of its longer side.
        margin: White around the sketch, as a share of its longer side.

    Raises:
        SketchError: The sketches are not one, or it is empty or not finite.
    """
    if isinstance(sketch, Sketches):
        if len(sketch) != 1:
            raise SketchError(f"{sketch.name}: one sketch, not {len(sketch)}; give sketches[m].")
        sketch = sketch[0]
    checked = Sketches.from_lists([sketch])
    low, high = checked.points.min(0), checked.points.max(0)
    side = float((high - low).max()) or 1.0
    low, extent = low - margin * side, high - low + 2 * margin * side
    width = side / 50 if line_width is None else line_width
    box = " ".join(f"{x:.6g}" for x in (*low.tolist(), *extent.tolist()))
    with whole(path, ".svg") as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">\n<g fill="none" stroke="black" '
            f'stroke-width="{width:.6g}" stroke-linecap="round" stroke-linejoin="round">\n'
        )
        for stroke in checked[0]:
            pairs = [f"{x!r} {y!r}" for x, y in stroke.tolist()]
            d = "M" + "L".join(pairs) if len(pairs) > 1 else f"M{pairs[0]}Z"  # Z makes it a dot
            file.write(f'<path d="{d}"/>\n')
        file.write("</g>\n</svg>\n")
