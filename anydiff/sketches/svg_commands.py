"""The text of SVG's path data: its commands with their numbers, up to the first fault.

References:
    Scalable Vector Graphics (SVG) 1.1, section 8.3. https://www.w3.org/TR/SVG11
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np

from anydiff.sketches.sketches import SketchError

__all__ = ["MOST_POINTS", "NUMBER", "TAKES", "read_commands", "short", "too_many"]

MOST_POINTS = 10_000_000  # of a file: a few kilobytes could demand any number of points

# possessive throughout (+ after a quantifier): nothing is tried twice, so time is linear in the text
_NUMBER = r"[+-]?(?:\d++\.?+\d*+|\.\d++)(?:[eE][+-]?\d++)?+"
NUMBER = re.compile(_NUMBER, re.ASCII)
_PART = rf"[\s,]*+({_NUMBER})"
_NEXT = re.compile(_PART, re.ASCII)
_ARC = re.compile(_PART * 3 + r"[\s,]*+([01])" * 2 + _PART * 2, re.ASCII)
_COMMANDS = re.compile(r"([A-DF-Za-df-z])([^A-DF-Za-df-z]*+)")  # e and E belong to numbers
TAKES = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}


def read_commands(d: str, most: int) -> Iterator[tuple[str, list[float], int, str]]:
    """The commands of a path: letter, numbers, where the letter stands, and a fault, which ends them.

    With a fault come the numbers before it.

    Arguments:
        d: Path data.
        most: Text of more points than this is refused before it is read.

    Raises:
        SketchError: There would be more than `most` points.
    """
    if len(d) > 2 * most and _fewest_points(d) > most:  # before the work: no point is shorter
        raise too_many()
    begin = len(d) - len(d.lstrip())
    if begin < len(d) and not _COMMANDS.match(d, begin):
        yield "", [], 0, f"the path {short(d)} does not begin with a command, that is M."
        return
    for match in _COMMANDS.finditer(d):
        letter, arguments = match.groups()
        where = match.start()
        takes = TAKES.get(letter.upper())
        if takes is None:
            fault = (
                f"{letter!r} at character {where} of the path {short(d, where)} is not a command; "
                f"there are {' '.join(TAKES)} and the same in lower case."
            )
            yield letter, [], where, fault
            return
        if takes == 7:
            texts, rest = _read_arcs(arguments)
        else:
            texts, rest = NUMBER.findall(arguments), NUMBER.sub(" ", arguments)
        fault = ""
        if rest.replace(",", " ").strip():
            bad = _first_bad(arguments, takes == 7)
            texts = texts if takes == 7 else NUMBER.findall(arguments, 0, bad)
            bad += match.start(2)
            fault = (
                f"{d[bad : bad + 8].split(',')[0]!r} at character {bad} of the path {short(d, bad)} "
                f"is not a number that {letter!r} takes."
            )
        elif (not texts or len(texts) % takes) if takes else texts:
            fault = (
                f"{letter!r} at character {where} of the path {short(d, where)} has {len(texts)} "
                f"numbers; it takes {takes}{' or a multiple' if takes else ''}."
            )
        values = list(map(float, texts[: len(texts) // takes * takes] if takes else ()))
        if values and not math.isfinite(sum(values)):
            values = []
            fault = (
                f"{letter!r} at character {where} of the path {short(d, where)} has numbers that "
                "are too large."
            )
        yield letter, values, where, fault
        if fault:
            return


def _fewest_points(d: str) -> int:
    """A bound from below of the points of a path: its runs of digits, by the numbers a point takes."""
    text = np.frombuffer(d.encode("ascii", "replace"), np.uint8)
    digit = np.zeros(256, np.bool_)
    digit[list(b"0123456789.eE")] = True
    takes = np.zeros(256, np.int64)
    for letter, count in TAKES.items():
        takes[[ord(letter), ord(letter.lower())]] = count
    digits = digit[text]
    begins = np.append(digits[1:] > digits[:-1], False)  # before each run
    letters = np.flatnonzero(takes[text])
    runs = np.add.reduceat(begins, letters, dtype=np.int64) if len(letters) else letters
    twice = 2 if "e" in d or "E" in d else 1  # 1e-5 is two runs
    moves = d.count("M") + d.count("m")
    return int((runs // (twice * takes[text[letters]])).sum()) - moves


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


def too_many(tolerance: float | None = None) -> SketchError:
    """The error of a drawing with more than `MOST_POINTS`.

    Arguments:
        tolerance: That of its curves, if they are the reason.
    """
    within = "" if tolerance is None else f" within {tolerance} of its curves"
    return SketchError(
        f"the sketch would have more than {MOST_POINTS:,} points{within}; give a larger tolerance or "
        "less to draw."
    )
