r"""The shapes of SVG as path data.

References:
    Scalable Vector Graphics (SVG) 2, section 10. https://www.w3.org/TR/SVG2/shapes.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from anydiff.sketches.svg_commands import NUMBER, short
from anydiff.sketches.svg_transforms import Viewport, parse_length

__all__ = ["SHAPES", "as_path"]

SHAPES = frozenset({"path", "polyline", "polygon", "line", "rect", "circle", "ellipse"})

_PAIR = re.compile(rf"[\s,]*+{NUMBER.pattern}[\s,]*+{NUMBER.pattern}", re.ASCII)


def as_path(tag: str, look: Mapping[str, str], viewport: Viewport) -> tuple[str, str]:
    """The path data of a shape, up to its first fault, and the fault or "".

    Arguments:
        tag: One of `SHAPES`.
        look: Its attributes and properties.
        viewport: What relative units refer to.

    Raises:
        SketchError: A length is malformed.
    """
    if tag == "path":
        d = look.get("d", "").strip()
        if d.startswith("path("):  # in CSS
            d = d[5:].rstrip(")").strip().strip("\"'")
        return ("" if d == "none" else d), ""
    if tag in ("polyline", "polygon"):
        return _polyline(tag, look.get("points", "").strip())

    def get(key: str, default: float = 0.0) -> float:
        text = look.get(key, "").strip()
        return parse_length(text, key, viewport) if text not in ("", "auto") else default

    if tag == "line":
        return f"M{get('x1')!r} {get('y1')!r}L{get('x2')!r} {get('y2')!r}", ""
    if tag == "circle":
        return _ellipse(get("cx"), get("cy"), get("r"), get("r")), ""
    rx, ry = get("rx", math.nan), get("ry", math.nan)
    rx, ry = (rx if rx >= 0 else ry), (ry if ry >= 0 else rx)  # one alone is for both
    if tag == "ellipse":
        return _ellipse(get("cx"), get("cy"), rx, ry), ""
    return _rectangle(get("x"), get("y"), get("width"), get("height"), rx, ry), ""


def _polyline(tag: str, points: str) -> tuple[str, str]:
    rest, count = NUMBER.subn(" ", points)
    fault = ""
    if rest.replace(",", " ").strip() or count % 2:
        fault = f"the points {short(points)} of <{tag}> should be pairs of numbers"
        at = 0
        while match := _PAIR.match(points, at):
            at = match.end()
        points = points[:at]
    if not points:
        return "", fault
    return f"M{points}{'Z' if tag == 'polygon' else ''}", fault


def _ellipse(cx: float, cy: float, rx: float, ry: float) -> str:
    if not (rx > 0 and ry > 0):
        return ""
    half = f"A{rx!r} {ry!r} 0 0 1 "
    return f"M{cx + rx!r} {cy!r}{half}{cx - rx!r} {cy!r}{half}{cx + rx!r} {cy!r}z"


def _rectangle(x: float, y: float, w: float, h: float, rx: float, ry: float) -> str:
    if w <= 0 or h <= 0:
        return ""
    if not (rx > 0 and ry > 0):
        return f"M{x!r} {y!r}h{w!r}v{h!r}h{-w!r}z"
    rx, ry = min(rx, w / 2), min(ry, h / 2)
    a, b, arc = w - 2 * rx, h - 2 * ry, f"a{rx!r} {ry!r} 0 0 1 "
    return (
        f"M{x + rx!r} {y!r}h{a!r}{arc}{rx!r} {ry!r}v{b!r}{arc}{-rx!r} {ry!r}"
        f"h{-a!r}{arc}{-rx!r} {-ry!r}v{-b!r}{arc}{rx!r} {-ry!r}z"
    )
