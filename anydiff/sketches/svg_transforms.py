r"""Lengths, transforms and viewports of SVG.

A transform is six numbers (a, b, c, d, e, f): :math:`x' = a x + c y + e,\; y' = b x + d y + f`.

References:
    Scalable Vector Graphics (SVG) 2, section 8. https://www.w3.org/TR/SVG2/coords.html
    CSS Transforms Module Level 1. https://www.w3.org/TR/css-transforms-1
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from anydiff.sketches.sketches import SketchError
from anydiff.sketches.svg_commands import NUMBER, short

__all__ = [
    "IDENTITY", "NOWHERE", "Matrix", "Viewport", "is_singular", "parse_length", "parse_transform",
    "product", "stretch", "translation", "window",
]  # fmt: skip

Matrix = tuple[float, float, float, float, float, float]
Box = tuple[float, float, float, float]
IDENTITY: Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)

_PIXELS = {
    "": 1.0, "px": 1.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4, "q": 96 / 101.6, "pt": 4 / 3,
    "pc": 16.0,
}  # fmt: skip
_DEGREES = {"": 1.0, "deg": 1.0, "rad": 180 / math.pi, "grad": 0.9, "turn": 360.0}
_LENGTH = re.compile(rf"[\s,]*+({NUMBER.pattern})(%|[A-Za-z]*+)[\s,]*+", re.ASCII)


class Viewport(NamedTuple):
    """What percentages and em refer to.

    Arguments:
        width: Of the viewBox, or of the picture; None if neither is given.
        height: Likewise.
        em: The size of the font.
    """

    width: float | None = None
    height: float | None = None
    em: float = 16.0

    def share(self, key: str) -> float | None:
        """What 100 % of an attribute is: the width, the height, or for a radius their mean square."""
        if key == "font-size":
            return self.em
        if key in ("x", "x1", "x2", "cx", "rx", "width"):
            return self.width
        if key in ("y", "y1", "y2", "cy", "ry", "height"):
            return self.height
        if self.width is None or self.height is None:
            return None
        return math.hypot(self.width, self.height) / math.sqrt(2)

    def length(self, look: Mapping[str, str], key: str, default: str) -> float | None:
        """An attribute that places a window; None for a share of what has no size.

        Arguments:
            look: Attributes and properties.
            key: Which.
            default: What it is if it is not given.

        Raises:
            SketchError: It is malformed.
        """
        text = look.get(key, "").strip()
        text = default if text in ("", "auto") else text
        if text.endswith("%") and self.share(key) is None:
            return None
        return parse_length(text, key, self)

    def with_font(self, size: str) -> Viewport:
        """The same, with another size of the font, if it is a length.

        Arguments:
            size: The `font-size`.
        """
        try:
            return self._replace(em=parse_length(size, "font-size", self))
        except SketchError:  # none, or one by name
            return self

    @classmethod
    def of_picture(cls, look: Mapping[str, str]) -> Viewport:
        """That of the outermost `<svg>`: its viewBox, or else its width and height.

        Arguments:
            look: Its attributes and properties.
        """
        if box := _view_box(look):
            return cls(box[2], box[3])
        sides: list[float | None] = []
        for key in ("width", "height"):
            try:
                sides.append(parse_length(look.get(key, ""), key, NOWHERE))
            except SketchError:  # none, or a share of the page
                sides.append(None)
        return cls(sides[0], sides[1])


NOWHERE = Viewport()  # without a size


def parse_length(text: str, key: str, viewport: Viewport) -> float:
    """A length in user units.

    Arguments:
        text: A number, with or without a unit.
        key: The attribute, which decides what a percentage is of.
        viewport: What relative units refer to.

    Raises:
        SketchError: It is no length, too large, or a share of what has no size.
    """
    match = _LENGTH.fullmatch(text)
    if match is None:
        raise SketchError(
            f"{key}={short(text)} is no length; give a number, with a unit or without."
        )
    value, unit = float(match[1]), match[2].lower()
    if unit == "%":
        share = viewport.share(key)
        if share is None:
            raise SketchError(
                f"{key}={short(text)} is a share of a picture without a size; give the <svg> a viewBox."
            )
        value *= share / 100
    elif unit in ("em", "rem", "ex", "ch"):
        value *= viewport.em * (0.5 if unit in ("ex", "ch") else 1)
    elif unit in _PIXELS:
        value *= _PIXELS[unit]
    else:
        raise SketchError(
            f"{key}={short(text)} has an unknown unit; give px, in, cm, mm, pt, em or %."
        )
    if not math.isfinite(value):
        raise SketchError(f"{key}={short(text)} is too large.")
    return value


# transforms --------------------


def product(outer: Matrix, inner: Matrix) -> Matrix:
    """The transform that does `inner` first.

    Arguments:
        outer: What acts last.
        inner: What acts first.

    Raises:
        SketchError: The numbers are beyond the range of floats.
    """
    a, b, c, d, e, f = outer
    p, q, r, s, t, u = inner
    matrix = (
        a * p + c * q, b * p + d * q,
        a * r + c * s, b * r + d * s,
        a * t + c * u + e, b * t + d * u + f,
    )  # fmt: skip
    if not all(map(math.isfinite, (*matrix, stretch(matrix)))):
        raise SketchError("the transforms multiply to numbers that are too large.")
    return matrix


def translation(x: float, y: float) -> Matrix:
    """The transform that adds (x, y).

    Arguments:
        x: To the right.
        y: Down.
    """
    return (1.0, 0.0, 0.0, 1.0, x, y)


def stretch(matrix: Matrix) -> float:
    """How much longer the transform makes a line at most: its larger singular value.

    Arguments:
        matrix: The transform.
    """
    a, b, c, d = matrix[:4]
    return (math.hypot(a + d, b - c) + math.hypot(a - d, b + c)) / 2


def is_singular(matrix: Matrix) -> bool:
    """Whether the transform squeezes the plane into a line or a point.

    Arguments:
        matrix: The transform.
    """
    s = stretch(matrix)
    a, b, c, d = (x / s if s else 0.0 for x in matrix[:4])  # tiny scales don't underflow
    return a * d == b * c


_TRANSFORM = re.compile(r"[\s,]*+(\w++)\s*+\(([^)]*+)\)[\s,]*+")
# what each takes: a number, an angle, or a length along x or y
_ARGUMENTS = {
    "matrix": ("nnnnxy",), "translate": ("x", "xy"), "translatex": ("x",), "translatey": ("y",),
    "scale": ("n", "nn"), "scalex": ("n",), "scaley": ("n",), "rotate": ("a", "axy"),
    "skew": ("a", "aa"), "skewx": ("a",), "skewy": ("a",),
}  # fmt: skip


def parse_transform(text: str, origin: str = "", viewport: Viewport = NOWHERE) -> Matrix:
    """The matrix of a list of transforms, of SVG or CSS; the first of them acts last.

    Arguments:
        text: Such as ``"translate(3 4) rotate(45deg)"``, or ``"none"``.
        origin: The `transform-origin`, which stays where it is; by default (0, 0).
        viewport: What relative units refer to.

    Raises:
        SketchError: A transform is not known, or has numbers that it does not take.
    """
    matrix = IDENTITY
    text = text.strip()
    at = len(text) if text == "none" else 0
    while at < len(text):
        match = _TRANSFORM.match(text, at)
        kind = match[1].lower() if match else ""
        v = _values(kind, match[2], viewport) if match else None
        if match is None or v is None:
            raise SketchError(
                f"the transform {short(text[at:])} is not known; give matrix, translate, scale, rotate, "
                "skewX or skewY with as many numbers as it takes."
            )
        if not all(map(math.isfinite, v)):
            raise SketchError(f"the transform {short(text[at:])} has a number that is too large.")
        matrix = product(matrix, _step(kind, v))
        at = match.end()
    if origin.strip() and matrix != IDENTITY:
        x, y = _origin(origin, viewport)
        matrix = product(product(translation(x, y), matrix), translation(-x, -y))
    return matrix


def _values(kind: str, text: str, viewport: Viewport) -> list[float] | None:
    """The arguments of one transform, or None if it does not take such."""
    found: list[tuple[str, str]] = []
    at = 0
    while match := _LENGTH.match(text, at):
        found.append((match[1], match[2].lower()))
        at = match.end()
    takes = next((t for t in _ARGUMENTS.get(kind, ()) if len(t) == len(found)), None)
    if takes is None or at < len(text):
        return None
    values = []
    for what, (number, unit) in zip(takes, found, strict=True):
        if unit and what in "xy":
            values.append(parse_length(number + unit, what, viewport))
        elif unit not in {"a": _DEGREES, "n": ("", "%")}.get(what, ("",)):
            return None
        else:
            values.append(float(number) * (_DEGREES[unit] if what == "a" else 0.01 if unit else 1))
    return values


def _step(kind: str, v: list[float]) -> Matrix:
    """The matrix of one transform."""
    if kind == "matrix":
        a, b, c, d, e, f = v
        return a, b, c, d, e, f
    if kind.startswith("translate"):
        x, y = (0.0, v[0]) if kind == "translatey" else (v[0], v[1] if len(v) > 1 else 0.0)
        return translation(x, y)
    if kind.startswith("scale"):
        x, y = (1.0, v[0]) if kind == "scaley" else (v[0], 1.0 if kind == "scalex" else v[-1])
        return (x, 0.0, 0.0, y, 0.0, 0.0)
    radians = [math.radians(angle) for angle in v]
    if kind == "rotate":
        cos, sin = math.cos(radians[0]), math.sin(radians[0])
        turn = (cos, sin, -sin, cos, 0.0, 0.0)
        x, y = v[1:] if len(v) > 1 else (0.0, 0.0)
        return product(translation(x, y), product(turn, translation(-x, -y)))
    along_x = 0.0 if kind == "skewy" else math.tan(radians[0])
    along_y = 0.0 if kind == "skewx" or (kind == "skew" and len(v) == 1) else math.tan(radians[-1])
    return (1.0, along_y, along_x, 1.0, 0.0, 0.0)


_SIDES = {"left": "0%", "top": "0%", "center": "50%", "right": "100%", "bottom": "100%"}


def _origin(text: str, viewport: Viewport) -> tuple[float, float]:
    x, y, *_ = [*text.lower().split(), "center", "center"]
    if x in ("top", "bottom") or y in ("left", "right"):
        x, y = y, x
    return (
        parse_length(_SIDES.get(x, x), "x", viewport),
        parse_length(_SIDES.get(y, y), "y", viewport),
    )


# viewports --------------------

_RATIO = re.compile(r"\s*+(?:defer\s++)?x(Min|Mid|Max)Y(Min|Mid|Max)(?:\s++(meet|slice))?+\s*+")
_PLACE = {"Min": 0.0, "Mid": 0.5, "Max": 1.0}


def _view_box(attributes: Mapping[str, str]) -> Box | None:
    """The viewBox (x, y, width, height), or None if there is none that is sound."""
    numbers = NUMBER.findall(attributes.get("viewBox", ""))
    if len(numbers) != 4:
        return None
    x, y, width, height = map(float, numbers)
    return x, y, width, height


def window(
    attributes: Mapping[str, str], look: Mapping[str, str], outer: Viewport
) -> tuple[Matrix, Viewport] | None:
    """How an inner `<svg>` or a `<symbol>` shows its content; None if it does not.

    Arguments:
        attributes: Those of the element: `viewBox` and `preserveAspectRatio`.
        look: Its properties: x, y, width and height.
        outer: What it stands in.

    Raises:
        SketchError: A length is malformed, or numbers are too large.
    """
    x, y = (outer.length(look, key, "0") or 0.0 for key in ("x", "y"))
    width, height = (outer.length(look, key, "100%") for key in ("width", "height"))
    box = _view_box(attributes)
    if box is None:
        return translation(x, y), Viewport(width, height, outer.em)
    width = box[2] if width is None else width
    height = box[3] if height is None else height
    if min(width, height, box[2], box[3]) <= 0:
        return None
    matrix = _placement(box, x, y, width, height, attributes.get("preserveAspectRatio", ""))
    return matrix, Viewport(box[2], box[3], outer.em)


def _placement(box: Box, x: float, y: float, width: float, height: float, ratio: str) -> Matrix:
    """The transform that shows a viewBox in a rectangle.

    It is stretched for the `preserveAspectRatio` "none". Otherwise it keeps its shape, as large as fits
    ("meet") or covers ("slice"), and by default in the middle.
    """
    sx, sy = width / box[2], height / box[3]
    if ratio.strip() != "none":
        match = _RATIO.fullmatch(ratio)
        along, down, how = match.groups() if match else ("Mid", "Mid", None)
        sx = sy = max(sx, sy) if how == "slice" else min(sx, sy)
        x += _PLACE[along] * (width - box[2] * sx)
        y += _PLACE[down] * (height - box[3] * sy)
    return product((sx, 0.0, 0.0, sy, x, y), translation(-box[0], -box[1]))
