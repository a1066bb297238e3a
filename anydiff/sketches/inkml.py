r"""InkML: handwriting from tablets, one sketch in each file.

Each `<trace>` is one stroke. The order of its channels is that of the `<traceFormat>` before it, or
X Y; the channels X, Y and T (milliseconds, or seconds if its `units` are so) are kept. Values may be
differences, `'` from the point before and `"` from the difference before, until the next such sign or
`!`. Traces of a pen in the air (`type="penUp"`) and those in `<definitions>` are left out; y runs
down, as in InkML, even if the orientation of a channel differs.

References:
    Ink Markup Language (InkML), W3C Recommendation, 2011. https://www.w3.org/TR/InkML
"""

from __future__ import annotations

import re

import numpy as np

from anydiff.files import PathLike
from anydiff.sketches.sketches import EmptySketch, SketchError, Sketches
from anydiff.sketches.svg_paths import NUMBER, short
from anydiff.sketches.xml_events import read_events

__all__ = ["read_inkml"]

_VALUE = re.compile(rf"\s*+([!'\"]?+)\s*+({NUMBER.pattern})", re.ASCII)
_ORDER = {"": 0, "!": 0, "'": 1, '"': 2}


def read_inkml(path: PathLike, name: str | None = None) -> Sketches:
    """Read an InkML file as one sketch, labelled with its annotation "truth" if it has one.

    A `<trace>` without points is left out if others have some.

    Arguments:
        path: The file.
        name: What errors call it; by default the path.

    Raises:
        SketchError: The file is not XML, has a faulty value, or lacks a channel; the message names the
            file and the line.
        EmptySketch: No trace has points.
    """
    name = name or str(path)
    ink = _Ink(name)
    read_events(path, name, ink.start, ink.end, ink.characters)
    if not ink.strokes:
        raise EmptySketch(f"{name}: there is no trace with points in it.")
    points = np.concatenate(ink.strokes)
    timed = len(ink.times) == len(ink.strokes)
    times = np.concatenate(ink.times) if timed else None
    sizes = list(map(len, ink.strokes))
    labels = None if ink.truth is None else [ink.truth]
    return Sketches(points, np.cumsum([0, *sizes]), np.array([0, len(sizes)]), labels, times, name)


class _Ink:
    """Collects strokes from the elements of an InkML file, one element after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.strokes: list[np.ndarray] = []
        self.times: list[np.ndarray] = []
        self.truth: str | None = None
        self.channels = ["X", "Y"]
        self.units = [1.0, 1.0]  # of each channel: its direction, and what makes milliseconds
        self.open: list[str] = []
        self.text: list[str] | None = None
        self.line = 0

    def start(self, tag: str, attributes: dict[str, str], line: int) -> None:
        if not self.open and tag != "ink":
            raise self.error(f"the outermost element is <{tag}>; in InkML it is <ink>.", line)
        self.open.append(tag)
        if tag == "traceFormat":
            self.channels, self.units = [], []
        elif tag == "channel" and "traceFormat" in self.open:
            channel = attributes.get("name", "")
            unit = 1000.0 if channel == "T" and attributes.get("units") == "s" else 1.0
            self.channels.append(channel)
            self.units.append(-unit if attributes.get("orientation") == "-ve" else unit)
        elif tag == "trace" and "definitions" not in self.open:
            if attributes.get("continuation"):
                raise self.error("a trace in several pieces (continuation) is not supported.", line)
            if attributes.get("type", "penDown") == "penDown":
                self.text, self.line = [], line
        elif tag == "annotation" and len(self.open) == 2 and attributes.get("type") == "truth":
            self.text, self.line = [], line

    def characters(self, text: str) -> None:
        if self.text is not None:
            self.text.append(text)

    def end(self, tag: str) -> None:
        self.open.pop()
        if self.text is None:
            return
        if tag == "trace":
            self.add("".join(self.text))
            self.text = None
        elif tag == "annotation":
            self.truth = "".join(self.text).strip()
            self.text = None

    def add(self, text: str) -> None:
        """Add the stroke of a trace with this text."""
        if not {"X", "Y"} <= set(self.channels):
            raise self.error(f"the channels are {self.channels}; X and Y should be among them.")
        values = self.values(text)
        if len(values) == 0:
            return
        self.strokes.append(values[:, [self.channels.index("X"), self.channels.index("Y")]])
        if "T" in self.channels:
            self.times.append(values[:, self.channels.index("T")])

    def values(self, text: str) -> np.ndarray:
        """The values (n, channels) of a trace, with differences summed up."""
        count = len(self.channels)
        rows: list[list[float]] = []
        modes = [0] * count
        value, speed = [0.0] * count, [0.0] * count
        after = self.line
        for part in text.rstrip().split(",") if text.strip() else ():
            point = part.strip()
            line = after + part[: len(part) - len(part.lstrip())].count("\n")
            after += part.count("\n")
            found: list[tuple[str, str]] = []
            at = 0
            while match := _VALUE.match(point, at):
                found.append((match[1], match[2]))
                at = match.end()
            if rest := point[at:].split():
                raise self.error(
                    f"{short(point, at)} holds {short(rest[0])}; points should be numbers between "
                    "commas.",
                    line,
                )
            if len(found) != count:
                raise self.error(
                    f"{short(point)} holds {len(found)} numbers, but the channels are "
                    f"{' '.join(self.channels)}.",
                    line,
                )
            for k, (sign, number) in enumerate(found):
                modes[k] = _ORDER[sign] if sign else modes[k]
                if modes[k] and not rows:
                    raise self.error(f"{short(point)} is a difference, but it comes first.", line)
                if modes[k] == 0:
                    before, value[k] = value[k], float(number)
                    speed[k] = value[k] - before
                else:
                    speed[k] = float(number) + (speed[k] if modes[k] == 2 else 0.0)
                    value[k] += speed[k]
            if not all(abs(v * u) < float("inf") for v, u in zip(value, self.units, strict=True)):
                raise self.error(f"{short(point)} is not finite.", line)
            rows.append(value.copy())
        return np.array(rows).reshape(-1, count) * self.units

    def error(self, message: str, line: int | None = None) -> SketchError:
        return SketchError(f"{self.name}, line {self.line if line is None else line}: {message}")
