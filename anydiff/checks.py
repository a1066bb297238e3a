"""Errors of values outside their range, in one wording: the value, and what to give."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, dtype

__all__ = ["check_choice", "check_range", "check_rising", "check_shape"]


def check_range(interval: str, **values: float) -> None:
    """Raise unless all values lie in an interval.

    Arguments:
        interval: As in mathematics: ``"[0, 1)"``, ``"(0, inf)"``.
        values: By the names that the user knows.

    Raises:
        ValueError: If one lies outside, or is not a number.
    """
    low, high = map(float, interval[1:-1].split(","))
    for name, value in values.items():
        above = low <= value if interval[0] == "[" else low < value
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{name} is {value}; give a number in {interval}.")


def check_rising(**values: float) -> None:
    """Raise unless each value is larger than the one before.

    Raises:
        ValueError: If one is not.
    """
    if not all(a < b for a, b in pairwise(values.values())):
        given = ", ".join(f"{name} is {value}" for name, value in values.items())
        raise ValueError(f"{given}; give {' < '.join(values)}.")


def check_choice(choices: Collection[Any], **values: Any) -> None:
    """Raise unless each value is one of the choices.

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}.")


def check_shape(
    shape: Sequence[int | None], hint: str, kind: dtype | None = None, **tensors: Tensor
) -> None:
    """Raise unless all tensors have a shape, and a dtype.

    Arguments:
        shape: None stands for any length of an axis.
        hint: What to do, the end of the message.
        kind: The dtype; any if None.
        tensors: By the names that the user knows.

    Raises:
        ValueError: If one has another shape or dtype.
    """
    for name, x in tensors.items():
        fits = len(shape) == x.ndim and all(k in (None, n) for k, n in zip(shape, x.shape))  # noqa: B905
        if not fits or kind not in (None, x.dtype):
            wanted = ", ".join("*" if k is None else str(k) for k in shape)
            of = f" of {kind}" if kind else ""
            raise ValueError(
                f"{name} is {tuple(x.shape)} of {x.dtype}, not ({wanted}){of}; {hint}."
            )
