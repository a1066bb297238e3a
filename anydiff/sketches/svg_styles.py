r"""What an SVG file draws and hides: attributes, `style`, and the rules of `<style>`.

An element's properties are its attributes, then the rules that select it, the more specific the
stronger, then its `style`. Rules may select by element, class, id and attribute, by all of these at once
(``path.a[fill]``), and below others (``g path``, ``g > path``). Left out are pseudo-classes, siblings,
and `@`-rules but for the screen.

References:
    Cascading Style Sheets Level 2 Revision 1, sections 4 to 6. https://www.w3.org/TR/CSS21
    Scalable Vector Graphics (SVG) 2, section 6. https://www.w3.org/TR/SVG2/styling.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from anydiff.sketches.sketches import SketchError
from anydiff.sketches.xml_events import Element

__all__ = ["INHERITED", "StyleSheet", "is_for_screens", "is_painted", "is_zero", "read_properties"]

# the properties that elements take from those around them, as far as they matter here
INHERITED = frozenset({
    "color", "fill", "stroke", "fill-opacity", "stroke-opacity", "stroke-width", "visibility",
    "font-size", "marker", "marker-start", "marker-mid", "marker-end",
})  # fmt: skip

_CLEAR = re.compile(
    r"none|transparent|#[0-9a-f]{3}0|#[0-9a-f]{6}00|"
    r"(?:rgb|hsl)a?\((?:[^,()]*+,){3}\s*+[.0]++%?\s*+\)|\w++\([^/()]*+/\s*+[.0]++%?\s*+\)"
)
_ZERO = re.compile(r"[+-]?(?:0++\.?0*+|\.0++)(?:e[+-]?\d++)?(?:%|[a-z]*+)")


def is_zero(text: str) -> bool:
    """Whether a number or a length is 0.

    Arguments:
        text: The value of a property, such as ``"0.0"``.
    """
    return _ZERO.fullmatch(text.strip().lower()) is not None


def is_painted(style: Mapping[str, str]) -> bool:
    """Whether a shape has a fill or a stroke.

    Arguments:
        style: Its properties, with those that it inherits.
    """
    filled = _colours(style, "fill", "black") and not is_zero(style.get("fill-opacity", "1"))
    return filled or (
        _colours(style, "stroke", "none")
        and not is_zero(style.get("stroke-opacity", "1"))
        and not is_zero(style.get("stroke-width", "1"))
    )


def _colours(style: Mapping[str, str], name: str, initial: str) -> bool:
    """Whether a property is a paint that can be seen."""
    paint = style.get(name, "initial").lower()
    paint = initial if paint == "initial" else paint
    if paint == "currentcolor":
        paint = style.get("color", "black").lower()
    return _CLEAR.fullmatch(paint) is None


# the cascade --------------------


class _Compound(NamedTuple):
    """What one element has to be, as in ``path.a#b[fill]``; and what is to be above it."""

    tag: str
    id: str
    classes: frozenset[str]
    attributes: tuple[tuple[str, str, str], ...]  # name, operator, value
    combinator: str  # to the compound on its left: " ", ">" or, if there is none, ""

    def fits(self, element: Element) -> bool:
        attributes = element.attributes
        return (
            self.tag in ("", "*", element.tag)
            and (not self.id or attributes.get("id") == self.id)
            and (not self.classes or self.classes <= set(attributes.get("class", "").split()))
            and all(_holds(attributes.get(name), how, v) for name, how, v in self.attributes)
        )


def _holds(value: str | None, how: str, wanted: str) -> bool:
    if value is None or how == "":
        return value is not None
    if how == "~=":
        return wanted in value.split()
    if how == "|=":
        return value == wanted or value.startswith(wanted + "-")
    if how == "=":
        return value == wanted
    test = {"^=": value.startswith, "$=": value.endswith, "*=": value.__contains__}[how]
    return bool(wanted) and test(wanted)


class _Rule(NamedTuple):
    compounds: list[_Compound]  # from the left
    rank: tuple[int, int, int, int]  # ids; classes and attributes; elements; order
    properties: dict[str, str]
    important: dict[str, str]


_MOST_TRIES = 20_000_000  # comparisons of an element with a rule, half a minute


class StyleSheet:
    """The rules of a file.

    Arguments:
        texts: What its `<style>` elements hold.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        rules, self.unread = _read_rules("\n".join(texts))
        self._keyed: dict[str, list[_Rule]] = {}  # by what their last compound asks for
        for rule in rules:
            last = rule.compounds[-1]
            key = (
                f"#{last.id}" if last.id else f".{min(last.classes)}" if last.classes else last.tag
            )
            self._keyed.setdefault("" if key == "*" else key, []).append(rule)
        self._tries = 0

    def look(self, element: Element) -> Mapping[str, str]:
        """The attributes of an element, overridden by its properties.

        Arguments:
            element: The element.

        Raises:
            SketchError: There are too many rules for so many elements.
        """
        attributes = element.attributes
        inline = attributes.get("style")
        rules = self._rules(element) if self._keyed else []
        if not rules and inline is None:
            return attributes
        look = dict(attributes)
        for rule in rules:
            look |= rule.properties
        properties, important = read_properties(inline or "")
        look |= properties
        for rule in rules:
            look |= rule.important
        return look | important

    def _rules(self, element: Element) -> list[_Rule]:
        """The rules that select an element, the strongest last."""
        keys = ["", element.tag, *(f".{c}" for c in element.attributes.get("class", "").split())]
        keys.append(f"#{element.attributes.get('id', '')}")
        found = [rule for key in keys for rule in self._keyed.get(key, ())]
        return sorted((r for r in found if self._selects(r, element)), key=lambda r: r.rank)

    def _selects(self, rule: _Rule, element: Element) -> bool:
        self._tries += 1
        compound = rule.compounds[-1]
        if not compound.fits(element):
            return False
        above: list[Element] = []
        while len(rule.compounds) > 1 and element.parent is not None:
            element = element.parent
            above.append(element)
        at: Iterable[int] = [-1]  # which of those above the compound may stand for, from the inmost
        for outer in reversed(rule.compounds[:-1]):
            near = [k + 1 for k in at]
            tried = near if compound.combinator == ">" else range(min(near), len(above))
            at = [k for k in tried if k < len(above) and outer.fits(above[k])]
            self._tries += len(tried)
            if not at:
                return False
            compound = outer
        if self._tries > _MOST_TRIES:
            raise SketchError("the <style> has too many rules for so many elements; give fewer.")
        return True


@lru_cache(4096)  # programs that draw repeat themselves
def read_properties(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The properties of a `style`, and those that are important. Not to be changed.

    Arguments:
        text: Such as ``"fill: none; stroke: red !important"``.
    """
    properties: dict[str, str] = {}
    important: dict[str, str] = {}
    for part in _COMMENT.sub("", text).split(";"):
        key, colon, value = part.partition(":")
        value, mark, _ = value.partition("!")
        if colon and value.strip():
            (important if mark else properties)[key.strip().lower()] = value.strip()
    return properties, important


_COMMENT = re.compile(r"/\*.*?(?:\*/|$)|<!--|-->", re.DOTALL)
_SCREEN = re.compile(r"media\s+(?:only\s+)?(?:screen|all)\s*|media\s*")
_COMPOUND = re.compile(r"(\*|[\w-]++)?+((?:[#.][\w-]++|\[[^\]]*+\])*+)(\s*+>\s*+|\s++|$)")
_SIMPLE = re.compile(r"([#.])([\w-]++)|\[\s*([\w:-]+)\s*(?:([~|^$*]?=)\s*([^\]]*))?\]")
_CHANGING = re.compile(r"::|:(?:hover|focus|active|visited|link|target|before|after)\b")


def is_for_screens(media: str) -> bool:
    """Whether a `media` attribute is that of a screen of any size.

    Arguments:
        media: Such as ``"print"``.
    """
    return any(_SCREEN.fullmatch(f"media {one.strip()}".lower()) for one in media.split(","))


def _read_rules(text: str) -> tuple[list[_Rule], list[str]]:
    """The rules of a style sheet, and selectors that are not understood and hide or move something."""

    rules: list[_Rule] = []
    unknown: list[str] = []
    for selectors, block in _read_blocks(_COMMENT.sub("", text)):
        properties, important = read_properties(block)
        for selector in map(str.strip, selectors.split(",")):
            compounds = _read_selector(selector)
            if compounds is None:
                both = {**properties, **important}
                hides = "none" in both.values() or both.keys() & _MATTERS
                if hides and not _CHANGING.search(selector):
                    unknown.append(selector)
                continue
            ids = sum(1 for c in compounds if c.id)
            classes = sum(len(c.classes) + len(c.attributes) for c in compounds)
            tags = sum(1 for c in compounds if c.tag not in ("", "*"))
            rules.append(_Rule(compounds, (ids, classes, tags, len(rules)), properties, important))
    return rules, unknown


def _read_blocks(text: str) -> Iterator[tuple[str, str]]:
    """The selectors of each rule, and what is in its braces; rules of other media are passed over."""
    start = 0
    selectors: str | None = None  # of the rule that is open
    deep = 0  # in braces of what is passed over
    for brace in re.finditer("[{};]", text):
        sign = brace[0]
        if deep:
            deep += (sign == "{") - (sign == "}")
        elif selectors is not None:
            if sign == "}":
                yield selectors, text[start : brace.start()]
                selectors = None
            elif sign == "{":
                deep = 1
            if sign == ";":
                continue
        elif sign == "{":
            before = text[start : brace.start()].strip()
            name, _, media = before.partition(" ")
            if not before.startswith("@"):
                selectors = before
            elif name.lower() != "@media" or not is_for_screens(media):
                deep = 1
        start = brace.end()


_MATTERS = {"display", "visibility", "opacity", "transform"}


def _read_selector(text: str) -> list[_Compound] | None:
    """The compounds of a selector, from the left; None if it is not understood."""
    compounds: list[_Compound] = []
    combinator = ""
    at = 0
    while at < len(text):
        match = _COMPOUND.match(text, at)
        if match is None or match.end() == at or not (match[1] or match[2]):
            return None
        ids: list[str] = []
        classes: list[str] = []
        attributes: list[tuple[str, str, str]] = []
        for sign, name, attribute, how, value in _SIMPLE.findall(match[2]):
            if attribute:
                attributes.append((attribute, how, value.strip().strip("\"'")))
            else:
                (ids if sign == "#" else classes).append(name)
        if len(ids) > 1 or match[2].count("[") != len(attributes):
            return None
        compounds.append(
            _Compound(
                match[1] or "", "".join(ids), frozenset(classes), tuple(attributes), combinator
            )
        )
        combinator = match[3].strip() or " "
        at = match.end()
    return compounds or None
