r"""SVG files: read as polylines, and written.

The reader takes what a browser draws of `path`, `polyline`, `polygon`, `line`, `rect`, `circle` and
`ellipse`, in the order of the file: each subpath is one stroke, whether it is filled or stroked. What is
hidden is left out (`display`, `visibility`, no `opacity`, neither fill nor stroke, by attributes or by
CSS; `defs`, `clipPath`, `mask`, `marker`, `pattern`; elements of other languages), and what is used is
drawn (`use`, `symbol`, nested `svg`, the first part of a `switch` that fits). What is drawn but cannot
be read, text and images, is left out with a warning. Clipping, dashes and animations are not applied,
and a warning tells what a clip would cut, unless it is a rectangle, as a window is.

Coordinates are those of the outermost viewBox, y down, at whatever size the picture is shown. Entities
and files outside the file are never opened.

- :mod:`anydiff.sketches.svg_commands`: the text of path data
- :mod:`anydiff.sketches.svg_paths`: its lines and curves, as polylines
- :mod:`anydiff.sketches.svg_shapes`: the other shapes as path data
- :mod:`anydiff.sketches.svg_styles`: what is painted, by attributes and CSS
- :mod:`anydiff.sketches.svg_transforms`: transforms, units, viewports

References:
    Scalable Vector Graphics (SVG) 2. https://www.w3.org/TR/SVG2
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from anydiff.files import PathLike, whole
from anydiff.sketches.sketches import EmptySketch, SketchError, Sketches
from anydiff.sketches.svg_commands import MOST_POINTS, short
from anydiff.sketches.svg_paths import Paths, flatten, parse_path
from anydiff.sketches.svg_shapes import SHAPES, as_path
from anydiff.sketches.svg_styles import INHERITED, StyleSheet, is_for_screens, is_painted, is_zero
from anydiff.sketches.svg_transforms import (
    IDENTITY,
    NOWHERE,
    Matrix,
    Viewport,
    is_singular,
    parse_transform,
    product,
    stretch,
    translation,
    window,
)
from anydiff.sketches.xml_events import Element, read_tree

__all__ = ["parse_path", "read_svg", "write_svg"]


def read_svg(path: PathLike, tolerance: float | None = None, name: str | None = None) -> Sketches:
    """Read an SVG file as one sketch, with a stroke for each subpath that is drawn.

    A warning tells what is drawn in the file and not in the sketch: text, images, markers, the rest of
    a path after a fault in it. A `<path>` without points is left out if others have some.

    Arguments:
        path: The file.
        tolerance: How far a polyline may be from its curve, in units of the viewBox; by default a
            thousandth of the longer side of the viewBox, or of width and height if it has none.
        name: What errors call it; by default the path.

    Raises:
        SketchError: The file is not XML, has a faulty transform, a `<use>` that contains itself, or more
            than 10 million points; the message names the file and the line.
        EmptySketch: Nothing is drawn in it; the message says what was left out.
    """
    name = name or str(path)
    reader = _Reader(name)
    reader.read(read_tree(path, name), tolerance)
    if len(reader.paths) == 0:
        left_out = reader.notes(reader.lost + reader.unseen)
        raise EmptySketch(
            f"{name}: nothing is drawn in it, no path, polyline or the like"
            f"{f' ({left_out})' if left_out else ''}."
        )
    if notes := reader.notes(reader.lost):
        warnings.warn(f"{name}: {notes}.", stacklevel=2)
    points, strokes = reader.flatten()
    return Sketches(points, strokes, np.array([0, len(strokes) - 1]), name=name)


_GROUPS = {"svg", "symbol", "g", "a", "switch", "use"}
_LOST = {"text", "flowRoot", "image", "foreignObject"}  # drawn, and not in a sketch
_UNSEEN = {
    "defs", "clipPath", "mask", "marker", "pattern", "linearGradient", "radialGradient", "hatch",
    "meshgradient", "solidcolor", "filter", "cursor", "view", "style", "script", "title", "desc",
    "metadata", "font", "font-face", "glyph", "missing-glyph", "color-profile", "animate",
    "animateColor", "animateMotion", "animateTransform", "set", "discard",
}  # fmt: skip
_ANIMATIONS = {"animate", "set"}
_URL = re.compile(r"url\(\s*+[\"']?+#([^\"')\s]++)")
_MARKERS = {"marker", "marker-start", "marker-mid", "marker-end"}
_MARKED = {"path", "line", "polyline", "polygon"}
_MOST_USES = 64  # within one another
_MOST_WORK = 30_000_000  # characters that are drawn once more by <use>; a few seconds


class _Place(NamedTuple):
    """What an element takes from those around it."""

    matrix: Matrix
    style: Mapping[str, str]
    viewport: Viewport
    uses: int = 0  # how many <use> it is in


_Entry = tuple[Element, _Place, Mapping[str, str] | None]  # with the <use> whose target it is


class _Reader:
    """Walks through the tree of an SVG file as it is drawn, and collects its paths."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.paths = Paths()
        self.lines: list[int] = []  # of each shape
        self.matrices: list[Matrix] = []  # likewise
        self.ends = [0]  # likewise, the subpaths up to its last
        self.lost: Counter[str] = Counter()  # drawn in the file and not in the sketch
        self.unseen: Counter[str] = Counter()  # not drawn in the file
        self.faults: list[str] = []
        self.ids: dict[str, Element] = {}
        self.own: dict[Element, Matrix] = {}  # where shapes stand that no <use> draws
        self.used_before: dict[
            Element, tuple[int, int, float]
        ] = {}  # its subpaths, their tolerance
        self.work = 0
        self.tolerance = 0.0

    def read(self, root: Element, tolerance: float | None) -> None:
        """Collect what is drawn in a tree."""
        element = root
        try:
            if root.tag != "svg":
                raise SketchError(f"the outermost element is <{root.tag}>; in an SVG it is <svg>.")
            self.sheet = StyleSheet(self.index(root))
            self.faults += [
                f"<style> has a selector, {short(s)}, that is not read" for s in self.sheet.unread
            ]
            picture = Viewport.of_picture(self.sheet.look(root))
            extent = max((side for side in picture[:2] if side is not None), default=0.0)
            if not 0 <= extent < math.inf:
                raise SketchError(
                    f"the picture's longer side is {extent}; it should be finite, 0 or more."
                )
            self.tolerance = (extent / 1000 or 0.1) if tolerance is None else tolerance
            left: list[_Entry] = [(root, _Place(IDENTITY, {}, picture), None)]
            while left:
                element, place, use = left.pop()
                left += reversed(self.draw(element, place, use))
        except SketchError as error:
            raise SketchError(f"{self.name}, line {element.line}: {error}") from error

    def index(self, root: Element) -> list[str]:
        """Note the elements with an id, and return the text of each <style>."""
        texts = []
        left = [root]
        while left:
            element = left.pop()
            left += reversed(element.children)
            if element.tag == "glyph":
                self.unseen["glyph"] += 1
            if "id" in element.attributes:
                self.ids.setdefault(element.attributes["id"], element)
            if element.tag == "style" and is_for_screens(element.attributes.get("media", "all")):
                texts.append(element.text)
        return texts

    def draw(self, element: Element, place: _Place, use: Mapping[str, str] | None) -> list[_Entry]:
        """Draw a shape, or return what a group draws; `use` draws the element if it is given."""
        tag = element.tag
        if tag in _UNSEEN or ":" in tag or (tag == "symbol" and use is None):
            if element.children:
                self.unseen[f"{tag} that no <use> draws" if tag == "symbol" else tag] += 1
            return []
        look = self.sheet.look(element)
        if _is_hidden(look) or not _fits(element):
            moving = any(child.tag in _ANIMATIONS for child in element.children)
            hidden = f"{tag} hidden until it moves" if moving else f"hidden {tag}"
            (self.lost if moving else self.unseen)[hidden] += 1
            return []
        place = self.inside(look, place)
        if is_singular(place.matrix):  # nothing is shown of what is squeezed into a line
            self.unseen[f"{tag} scaled to nothing"] += 1
            return []
        for key in ("clip-path", "mask"):
            if key in look and not self.is_window(look[key]):
                self.lost[f"{key} (what it cuts is read whole)"] += 1
        if place.uses:
            self.labour(100)

        if tag in SHAPES:
            self.add(element, look, place)
        elif tag in _LOST:
            if element.children or element.text or tag == "image":
                seen = place.style.get("visibility", "visible") == "visible"
                (self.lost if seen else self.unseen)[tag] += 1
        elif tag == "use":
            return self.used(element, look, place)
        elif tag in ("svg", "symbol") and element.parent is not None:
            shown = window(element.attributes, {**look, **_sizes(use)}, place.viewport)
            if shown is None:
                return []
            place = place._replace(matrix=product(place.matrix, shown[0]), viewport=shown[1])
            return [(child, place, None) for child in element.children]
        elif tag == "switch":
            fits = [c for c in element.children if ":" not in c.tag and _fits(c)]
            return [(child, place, None) for child in fits[:1]]
        elif tag in _GROUPS:
            return [(child, place, None) for child in element.children]
        elif element.children:
            self.lost[tag] += 1
        return []

    def inside(self, look: Mapping[str, str], place: _Place) -> _Place:
        """What the content of an element takes from it and those around it."""
        matrix, style, viewport, uses = place
        own = {key: look[key].strip() for key in look.keys() & INHERITED}
        own = {key: value for key, value in own.items() if value not in ("", "inherit", "unset")}
        if own:
            style = {**style, **own}
            viewport = viewport.with_font(own.get("font-size", ""))
        if transform := look.get("transform"):
            origin = look.get("transform-origin", "")
            if origin and look.get("transform-box", "view-box") != "view-box":
                raise SketchError("transform-box is supported with the value view-box only.")
            matrix = product(matrix, parse_transform(transform, origin, viewport))
        return _Place(matrix, style, viewport, uses)

    def used(self, element: Element, look: Mapping[str, str], place: _Place) -> list[_Entry]:
        """The target of a <use>, in its place."""
        references = (v for k, v in element.attributes.items() if k.endswith(":href"))
        reference = element.attributes.get("href", next(references, "")).strip()
        target = self.ids.get(reference[1:]) if reference.startswith("#") else None
        if target is None:
            if reference:
                self.fault(
                    element, f"{short(reference)} is not in the file; <use> of it is left out"
                )
            return []
        if place.uses == _MOST_USES:
            raise SketchError(
                f"<use> of {reference} is within {_MOST_USES} others; it should not contain itself."
            )
        x, y = (place.viewport.length(look, key, "0") or 0.0 for key in ("x", "y"))
        matrix = product(place.matrix, translation(x, y))
        return [(target, place._replace(matrix=matrix, uses=place.uses + 1), look)]

    def add(self, element: Element, look: Mapping[str, str], place: _Place) -> None:
        """Add a shape, if it is seen."""
        tag, matrix, style = element.tag, place.matrix, place.style
        if not is_painted(style):
            self.unseen[f"{tag} without fill and stroke"] += 1
            return
        if style.get("visibility", "visible") != "visible":
            self.unseen[f"hidden {tag}"] += 1
            return
        if not place.uses:
            self.own[element] = matrix
        elif self.own.get(element) == matrix:
            return  # a second coat of the same stroke, as in our animated files
        before = len(self.paths)
        tolerance = self.tolerance / (stretch(matrix) or 1.0)
        first, last, known = self.used_before.get(element, (0, 0, math.inf))
        if known <= tolerance:
            self.paths.repeat(first, last, MOST_POINTS)
        else:
            self.parse(element, look, place, tolerance)
            if place.uses and tag in _MARKED - {"line"}:
                self.used_before[element] = before, len(self.paths), tolerance
        if len(self.paths) == before:
            return
        self.lines.append(element.line)
        self.matrices.append(matrix)
        self.ends.append(len(self.paths))
        if tag in _MARKED and any(style.get(key, "none") != "none" for key in _MARKERS):
            self.lost["marker"] += 1
        for key in ("fill", "stroke"):
            paint = self.referred(style.get(key, ""))
            if paint is not None and paint.tag == "pattern":
                self.lost["pattern"] += 1

    def parse(
        self, element: Element, look: Mapping[str, str], place: _Place, tolerance: float
    ) -> None:
        """Read the path of a shape, up to its first fault."""
        tag = element.tag
        try:
            d, fault = as_path(tag, look, place.viewport)
        except SketchError as error:
            self.fault(element, f"{str(error).removesuffix('.')}; <{tag}> is left out")
            return
        if place.uses:
            self.labour(len(d))
        fault = self.paths.add(d, tolerance, MOST_POINTS) or fault
        if fault:
            self.fault(element, f"{fault.removesuffix('.')}; <{tag}> is drawn up to there")

    def labour(self, characters: int) -> None:
        """Count the work that <use> asks for, which a short file could multiply without end."""
        self.work += characters
        if self.work > _MOST_WORK:
            raise SketchError("<use> draws too much, again and again; use less of it.")

    def referred(self, value: str) -> Element | None:
        """The element of a property such as ``url(#a)``."""
        match = _URL.match(value) if value.startswith("url") else None
        return self.ids.get(match[1]) if match else None

    def is_window(self, value: str) -> bool:
        """Whether a clip or a mask only shows a rectangle, as the viewBox does, or nothing at all."""
        if not value.strip().startswith("url"):
            return value.strip() == "none"
        clip = self.referred(value.strip())
        shapes = [] if clip is None else [c for c in clip.children if c.tag not in _UNSEEN]
        if len(shapes) != 1 or shapes[0].tag not in SHAPES:
            return clip is None
        outline = Paths()
        try:
            outline.add(as_path(shapes[0].tag, shapes[0].attributes, NOWHERE)[0], most=100)
        except SketchError:  # in percent, mostly of all, or long
            return shapes[0].tag == "rect"
        start, *_, end = np.moveaxis(outline.curves, 1, 0)
        return bool(np.isclose(start, end).any(1).all())

    def fault(self, element: Element, text: str) -> None:
        self.faults.append(f"line {element.line}: {text}")

    def notes(self, counts: Counter[str]) -> str:
        """What was left out, and the first fault."""
        notes = (
            [f"left out {', '.join(f'{n} {what}' for what, n in counts.items())}"] if counts else []
        )
        if self.faults:
            more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
            notes.append(self.faults[0] + more)
        return "; ".join(notes)

    def flatten(self) -> tuple[np.ndarray, np.ndarray]:
        """The points and the offsets of the strokes, all at once."""
        starts, curves, ends = self.paths.starts, self.paths.curves, self.paths.ends
        shape = np.repeat(np.arange(len(self.lines)), np.diff(self.ends))  # of each subpath
        if any(matrix != IDENTITY for matrix in self.matrices):
            matrices = np.array(self.matrices)
            starts = _transformed(starts, matrices[shape])
            curves = _transformed(curves, matrices[np.repeat(shape, np.diff(ends))][:, None])
        return flatten(
            starts,
            curves,
            ends,
            self.tolerance,
            MOST_POINTS,
            lambda subpath: f"{self.name}, line {self.lines[shape[subpath]]}: ",
        )


def _transformed(points: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    a, b, c, d, e, f = np.moveaxis(matrices, -1, 0)
    x, y = points[..., 0], points[..., 1]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.stack([a * x + c * y + e, b * x + d * y + f], -1)


def _is_hidden(look: Mapping[str, str]) -> bool:
    return look.get("display", "").strip() == "none" or is_zero(look.get("opacity", "1"))


def _sizes(use: Mapping[str, str] | None) -> dict[str, str]:
    """The width and the height that a <use> asks for."""
    asked = {key: (use or {}).get(key, "").strip() for key in ("width", "height")}
    return {key: value for key, value in asked.items() if value not in ("", "auto")}


def _fits(element: Element) -> bool:
    """Whether the conditions of an element hold: English, and no extensions."""
    attributes = element.attributes
    languages = attributes.get("systemLanguage", "en").lower().split(",")
    english = any(language.strip().partition("-")[0] == "en" for language in languages)
    return english and not attributes.get("requiredExtensions", "").strip()


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
    box = " ".join(map(repr, (*low.tolist(), *extent.tolist())))  # far from 0 it needs every digit
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
