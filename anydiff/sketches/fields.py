"""What sketches are made of, as it is given: numbers, strings and strokes; and the errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from anydiff.data.values import numbers

__all__ = ["EmptySketch", "SketchError", "as_stroke", "nested", "plain", "strings"]


class SketchError(ValueError):
    """Faulty sketches, or a faulty file of them. The message names the place."""


class EmptySketch(SketchError):
    """A sketch in which nothing is drawn."""


def plain(values: Any, where: str) -> np.ndarray:
    """Arrays of numbers as they are, of any type up to double precision; others as float64.

    Arguments:
        values: What can be made an array of numbers; NaN where one is missing.
        where: What errors call it.

    Raises:
        SketchError: It cannot be made such an array.
    """
    if type(values) is np.ndarray and values.dtype.kind in "iufb" and values.itemsize <= 8:
        return values
    try:
        return numbers(values)
    except ValueError as error:
        raise SketchError(f"{where} is not of numbers: it {error}.") from None


def strings(labels: Any, name: str) -> list[str]:
    """Labels as a list of strings.

    Arguments:
        labels: Strings, in anything that can be iterated over.
        name: What errors begin with.

    Raises:
        SketchError: It is one string, or a label is none.
    """
    several = [labels] if isinstance(labels, str) else list(labels)
    for m, label in enumerate(several):
        if isinstance(labels, str) or not isinstance(label, str):
            wrong = "labels are" if isinstance(labels, str) else f"label {m} is"
            raise SketchError(
                f"{name}: {wrong} {label!r}; give one string for each, as list(map(str, labels))."
            )
    return list(map(str, several))


def as_stroke(values: Any, where: str) -> np.ndarray:
    """A stroke as an array (n, 2) of float64; without points (0, 2), whatever its shape was.

    Arguments:
        values: What can be made an array (n, 2).
        where: What errors call it.

    Raises:
        SketchError: It cannot be made such an array.
    """
    try:
        stroke = numbers(values)
    except ValueError as error:
        raise SketchError(f"{where} is not of numbers: it {error}; give (n, 2) rows.") from None
    if stroke.size == 0:
        return stroke.reshape(0, 2)
    if stroke.ndim != 2 or stroke.shape[1] != 2:
        hint = (
            "np.transpose of [xs, ys]"
            if stroke.ndim > 1
            else "in a list of strokes for each sketch"
        )
        raise SketchError(f"{where} is {stroke.shape}; give (n, 2) rows, {hint}.")
    return stroke


def nested(sketches: Any, name: str) -> list[list[Any]]:
    """Sketches as a list of lists of strokes, whatever the strokes are.

    Arguments:
        sketches: Anything with items, and these with items.
        name: The source of the sketches, for error messages.

    Raises:
        SketchError: Something else is given.
    """
    if not isinstance(sketches, Iterable) or isinstance(sketches, (str, bytes, Mapping)):
        raise SketchError(f"{name}: {type(sketches).__name__} is given; give a list of sketches.")
    sketches = list(sketches)
    for m, sketch in enumerate(sketches):
        if not isinstance(sketch, Iterable):
            raise SketchError(f"{name}: sketch {m} is {sketch!r}; give a list of strokes (n, 2).")
    return list(map(list, sketches))
