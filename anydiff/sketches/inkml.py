r"""InkML: handwriting from tablets, one sketch in each file.

Each `<trace>` is one stroke. What its numbers mean is said by its own context: the `contextRef` of the
trace, or of the `<traceGroup>` around it, or the `<context>` or `<traceFormat>` that stands before it.
A context holds a `<traceFormat>` or refers to one (`traceFormatRef`), has it from its `<inkSource>`
(`inkSourceRef`), or from the context it builds on (`contextRef`). A trace without any has the
channels X Y, or those of the file's only format if that is in the `<definitions>`.

The channels X, Y and T are kept, and all others read over, whether they are numbers, truth values
(T, F), or intermittent, which points may lack. Numbers may be hexadecimal (`#1F`), `*` repeats the value
before and `?` is none. They may be differences, `'` from the point before and `"` from the difference
before, until the next such sign or `!`. Coordinates are in the unit of the first trace, times in
milliseconds with the `timeOffset` of their trace. Times are kept if all points have one.

Traces of a pen in the air (`type="penUp"`) and those in `<definitions>` are left out; y runs down, as in
InkML, even if the orientation of a channel differs. A `<canvasTransform>` is not applied.

References:
    Ink Markup Language (InkML), W3C Recommendation, 2011. https://www.w3.org/TR/InkML
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, field

import numpy as np

from anydiff.files import PathLike
from anydiff.sketches.sketches import EmptySketch, SketchError, Sketches
from anydiff.sketches.svg_commands import NUMBER, short
from anydiff.sketches.xml_events import read_events

__all__ = ["read_inkml"]

_VALUE = re.compile(rf"\s*+([!'\"]?+)\s*+(-?#[0-9A-Fa-f]++|{NUMBER.pattern}|[TF*?])", re.ASCII)
_ORDER = {"": 0, "!": 0, "'": 1, '"': 2}
_LABELS = ("truth", "label", "normalizedLabel")  # the first of them that a file has
_MILLISECONDS = {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ns": 1e-6}
_INCHES = {
    "in": 1.0, "pt": 1 / 72, "pc": 1 / 6,
    "m": 1 / 0.0254, "cm": 1 / 2.54, "mm": 1 / 25.4, "um": 1 / 25400, "himetric": 1 / 2540,
}  # fmt: skip


def read_inkml(path: PathLike, name: str | None = None) -> Sketches:
    """Read an InkML file as one sketch.

    Its label is its annotation "truth", "label" or "normalizedLabel", the first of these that it has. A
    `<trace>` without points is left out if others have some.

    Arguments:
        path: The file.
        name: What errors call it; by default the path.

    Raises:
        SketchError: The file is not XML, has a faulty value, lacks a channel, or refers to what is not
            in it; or its units cannot be put together. The message names the file and the line.
        EmptySketch: No trace has points.
    """
    name = name or str(path)
    ink = _Ink(name)
    read_events(path, name, ink.start, ink.end, ink.characters)
    strokes, times = ink.strokes()
    if not strokes:
        raise EmptySketch(f"{name}: there is no trace with points in it.")
    points = np.concatenate(strokes)
    known = [not np.isnan(t).any() for t in times]
    if any(known) and not all(known):
        warnings.warn(
            f"{name}: {len(known) - sum(known)} of its {len(known)} traces lack times, so that none "
            "are kept.",
            stacklevel=2,
        )
    labels = next(([ink.labels[kind]] for kind in _LABELS if kind in ink.labels), None)
    return Sketches(
        points,
        np.cumsum([0, *map(len, strokes)]),
        np.array([0, len(strokes)]),
        labels,
        np.concatenate(times) if all(known) else None,
        name,
    )


@dataclass(eq=False)
class _Element:
    """A `<context>`, or what it is made of: an `<inkSource>`, `<traceFormat>` or `<timestamp>`."""

    tag: str
    line: int
    attributes: dict[str, str] = field(default_factory=dict)
    held: dict[str, _Element] = field(default_factory=dict)  # by tag
    channels: list[dict[str, str]] = field(default_factory=list)
    regular: int = 0  # channels that every point has

    @property
    def names(self) -> list[str]:
        return [channel.get("name", "") for channel in self.channels]


_ELEMENTS = {"context", "inkSource", "traceFormat", "timestamp"}
_PLAIN = _Element("traceFormat", 0, channels=[{"name": "X"}, {"name": "Y"}], regular=2)


@dataclass
class _Trace:
    """A `<trace>`: its text, where it begins, and what its context may be."""

    line: int
    attributes: dict[str, str]
    context: str | None
    current: _Element | None
    text: str = ""


class _Ink:
    """Collects traces from the elements of an InkML file, and makes strokes of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.labels: dict[str, str] = {}
        self.traces: list[_Trace] = []
        self.named: dict[str, _Element] = {}
        self.formats: list[_Element] = []
        self.current: _Element | None = None  # the context of the traces that follow
        self.groups: list[str | None] = []  # what the open trace groups refer to
        self.open: list[str] = []
        self.around: list[_Element] = []
        self.text: list[str] | None = None
        self.label = ""

    # elements --------------------

    def start(self, tag: str, attributes: dict[str, str], line: int) -> None:
        if not self.open and tag != "ink":
            raise self.error(f"the outermost element is <{tag}>; in InkML it is <ink>.", line)
        self.open.append(tag)
        if "annotationXML" in self.open:  # of any language, which may have tags of these names
            return
        if tag in _ELEMENTS:
            self.begin(_Element(tag, line, attributes))
        elif tag == "channel" and self.around and self.around[-1].tag == "traceFormat":
            self.around[-1].channels.append(attributes)
            self.around[-1].regular += "intermittentChannels" not in self.open
        elif tag == "traceGroup":
            self.groups.append(attributes.get("contextRef"))
        elif tag == "trace" and "definitions" not in self.open:
            self.trace(attributes, line)
        elif tag == "annotation" and len(self.open) == 2 and attributes.get("type") in _LABELS:
            self.text, self.label = [], attributes["type"]

    def begin(self, element: _Element) -> None:
        """An element that says what numbers mean: held by the one around it, or the current one."""
        for key in ("xml:id", "id"):
            self.named.setdefault(element.attributes.get(key, ""), element)
        if element.tag == "traceFormat":
            self.formats.append(element)
        if self.around and element.tag == "context":  # within another, which it builds on
            if "contextRef" not in element.attributes:
                element.held["context"] = self.around[-1]
        elif self.around:
            self.around[-1].held[element.tag] = element
        elif "definitions" not in self.open:
            if element.tag == "context":
                self.current = element
            elif element.tag == "traceFormat":
                self.current = _Element("context", element.line, held={"traceFormat": element})
        self.around.append(element)

    def trace(self, attributes: dict[str, str], line: int) -> None:
        if attributes.get("continuation"):
            raise self.error("a trace in several pieces (continuation) is not supported.", line)
        kind = attributes.get("type", "penDown")
        if kind not in ("penDown", "penUp"):
            raise self.error(f"a trace of the type {kind!r}; it should be penDown or penUp.", line)
        if kind == "penDown":
            inner = [ref for ref in (*self.groups, attributes.get("contextRef")) if ref]
            context = inner[-1] if inner else None
            self.traces.append(_Trace(line, attributes, context, self.current))
            self.text = []

    def characters(self, text: str) -> None:
        if self.text is not None:
            self.text.append(text)

    def end(self, tag: str) -> None:
        if "annotationXML" not in self.open:
            if tag in _ELEMENTS:
                self.around.pop()
            elif tag == "traceGroup":
                self.groups.pop()
            elif tag == "trace" and self.text is not None:
                self.traces[-1].text, self.text = "".join(self.text), None
            elif tag == "annotation" and self.text is not None:
                self.labels[self.label], self.text = "".join(self.text).strip(), None
        self.open.pop()

    # contexts --------------------

    def referred(self, reference: str, tag: str, line: int) -> _Element | None:
        """The element of this tag that a reference names; None for the defaults of InkML."""
        element = self.named.get(reference.removeprefix("#")) if reference else None
        if element is not None and element.tag == tag:
            return element
        if reference.startswith("#Default"):
            return None
        raise self.error(f"{tag}Ref={reference!r}: there is no such <{tag}> in the file.", line)

    def said(self, context: _Element | None, tag: str) -> _Element | None:
        """What a context says about a tag: itself, its ink source, or the context it builds on."""
        seen: list[_Element] = []
        while context is not None:
            if context in seen:
                raise self.error("contexts refer to each other in a circle.", context.line)
            seen.append(context)
            for holder in (context, self.part(context, "inkSource")):
                if holder is not None and (found := self.part(holder, tag)):
                    return found
            context = self.part(context, "context")
        return None

    def part(self, holder: _Element, tag: str) -> _Element | None:
        """An element that another one holds or refers to."""
        reference = holder.attributes.get(f"{tag}Ref")
        if tag in holder.held or not reference:
            return holder.held.get(tag)
        return self.referred(reference, tag, holder.line)

    # strokes --------------------

    def strokes(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The points (n, 2) and the times (n,) of each trace that has points; NaN where unknown."""
        strokes, times = [], []
        clocks: set[_Element | None] = set()
        only = self.formats[0] if len(self.formats) == 1 and self.current is None else None
        unit = ""  # of length, that of the first trace which has one
        for trace in self.traces:
            context = trace.current
            if trace.context:
                context = self.referred(trace.context, "context", trace.line)
            form = self.said(context, "traceFormat") if context else only
            form = form or _PLAIN
            if not {"X", "Y"} <= set(form.names[: form.regular]):
                raise self.error(
                    f"the channels are {form.names}; X and Y should be among them, in every point.",
                    trace.line,
                )
            x, y = (form.channels[form.names.index(name)] for name in "XY")
            unit = unit or x.get("units", "") or y.get("units", "")
            values = self.values(trace, form, unit)
            if len(values) == 0:
                continue
            strokes.append(values[:, [form.names.index(name) for name in "XY"]])
            t = np.full(len(values), math.nan)
            if "T" in form.names:
                t = values[:, form.names.index("T")] + self.offset(trace)
                clocks.add(self.said(context, "timestamp"))
            times.append(t)
        if len(clocks) > 1:
            raise self.error(
                "its traces count time from several timestamps; give a file of one.", 1
            )
        return strokes, times

    def offset(self, trace: _Trace) -> float:
        text = trace.attributes.get("timeOffset", "0")
        if not NUMBER.fullmatch(text.strip()) or not math.isfinite(float(text)):
            raise self.error(f"timeOffset={text!r} should be milliseconds.", trace.line)
        return float(text)

    def factor(self, channel: dict[str, str], unit: str, line: int) -> float:
        """What a channel is multiplied by: its direction, and what gives the unit or milliseconds."""
        name, own = channel.get("name", ""), channel.get("units", "")
        sign = -1.0 if channel.get("orientation") == "-ve" else 1.0
        if name == "T":
            own, unit, table = own or "ms", "ms", _MILLISECONDS
        else:
            own, table = own or unit, _INCHES
        if name not in ("X", "Y", "T") or own == unit:
            return sign
        if not {own, unit} <= table.keys():
            raise self.error(
                f"the channel {name} has units={own!r}, but {unit!r} is needed; known are "
                f"{', '.join(table)}.",
                line,
            )
        return sign * table[own] / table[unit]

    def values(self, trace: _Trace, form: _Element, unit: str) -> np.ndarray:
        """The values (n, channels) of a trace, with differences summed up; NaN where there is none."""
        names, count = form.names, len(form.names)
        needed = [name in ("X", "Y") for name in names]
        counted = [name in ("X", "Y", "T") for name in names]
        factors = [self.factor(channel, unit, trace.line) for channel in form.channels]
        rows: list[list[float]] = []
        modes = [0] * count
        value, speed = [math.nan] * count, [0.0] * count
        after = trace.line
        for piece in trace.text.rstrip().split(",") if trace.text.strip() else ():
            point = piece.strip()
            line = after + piece[: len(piece) - len(piece.lstrip())].count("\n")
            after += piece.count("\n")
            found: list[tuple[str, str]] = []
            at = 0
            while match := _VALUE.match(point, at):
                found.append((match[1], match[2]))
                at = match.end()
            rest = point[at:].split()
            rest += [v for (_, v), c in zip(found, counted, strict=False) if c and v in "TF"]
            if rest:
                raise self.error(
                    f"{short(point, at)} holds {short(rest[0])}; points should be numbers between "
                    "commas.",
                    line,
                )
            if not form.regular <= len(found) <= count:
                raise self.error(
                    f"{short(point)} holds {len(found)} numbers, but the channels are "
                    f"{' '.join(names)}.",
                    line,
                )
            for k in range(len(found), count):
                value[k] = math.nan
            for k, (sign, text) in enumerate(found):
                modes[k] = _ORDER[sign] if sign else modes[k]
                if not rows and (modes[k] or text == "*"):
                    raise self.error(f"{short(point)} is a difference, but it comes first.", line)
                if text == "*":
                    speed[k] = 0.0
                elif modes[k] == 0:
                    before, value[k] = value[k], _number(text)
                    speed[k] = value[k] - before if rows else 0.0
                else:
                    speed[k] = _number(text) + (speed[k] if modes[k] == 2 else 0.0)
                    value[k] += speed[k]
            for k, name in enumerate(names):
                if needed[k] and math.isnan(value[k]):
                    raise self.error(f"{short(point)} has no {name}; every point needs one.", line)
                if counted[k] and math.isinf(value[k] * factors[k]):
                    raise self.error(f"{short(point)} is not finite.", line)
            rows.append(value.copy())
        return np.array(rows).reshape(-1, count) * factors

    def error(self, message: str, line: int) -> SketchError:
        return SketchError(f"{self.name}, line {line}: {message}")


def _number(text: str) -> float:
    """A value of a trace as a number; NaN if there is none."""
    if text in ("T", "F", "?"):
        return {"T": 1.0, "F": 0.0, "?": math.nan}[text]
    sign, _, digits = text.rpartition("#")
    if not digits or "#" not in text:
        return float(text)
    return float(sign + "1") * int(digits, 16) if len(digits) < 200 else math.inf
