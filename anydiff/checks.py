"""Checks of arguments, whose errors all have one form: the value that was given, and what to give.

:func:`frozen` declares a small immutable class, such as a schedule or a sampler, with the range of each
argument. The other functions check the arguments of functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

from torch import Tensor, dtype

__all__ = ["check_choice", "check_range", "check_shape", "frozen"]

Kind = TypeVar("Kind")


@dataclass_transform(frozen_default=True)
def frozen(**limits: str | Collection[Any]) -> Callable[[type[Kind]], type[Kind]]:
    """Decorate a class: a frozen dataclass whose field values are checked when it is built.

    Arguments:
        limits: For each field to check, by its name, the interval in which its value has to lie, or a
            collection of its choices. An end of an interval is a number or the name of another field:
            ``high="(low, inf)"``. None is allowed in every interval.

    Raises:
        ValueError: When an object is built with a value outside its limit.
    """

    def decorate(kind: type[Kind]) -> type[Kind]:
        more = getattr(kind, "__post_init__", None)

        def check(self: Kind) -> None:
            for name, limit in limits.items():
                value = getattr(self, name)
                if not isinstance(limit, str):
                    check_choice(limit, **{name: value})
                elif value is not None:
                    ends = [e.strip() for e in limit[1:-1].split(",")]
                    low, high = (getattr(self, e) if e in fields else e for e in ends)
                    check_range(f"{limit[0]}{low}, {high}{limit[-1]}", **{name: value})
            if more is not None:
                more(self)

        kind.__post_init__ = check  # type: ignore[attr-defined]
        made = dataclass(frozen=True)(kind)
        fields = made.__dataclass_fields__  # type: ignore[attr-defined]
        return made

    return decorate


def check_range(interval: str, **values: float) -> None:
    """Raise an error unless all values lie in an interval.

    Arguments:
        interval: In mathematical notation: ``"[0, 1)"``, ``"(0, inf)"``.
        values: The values, by the names of the arguments.

    Raises:
        ValueError: If a value lies outside, or is NaN.
    """
    low, high = map(float, interval[1:-1].split(","))
    for name, value in values.items():
        above = low <= value if interval[0] == "[" else low < value
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{name} is {value}; give a number in {interval}.")


def check_choice(choices: Collection[Any], **values: Any) -> None:
    """Raise an error unless each value is one of the choices.

    Arguments:
        choices: The values that are allowed.
        values: The values, by the names of the arguments.

    Raises:
        ValueError: If a value is not one of the choices.
    """
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}.")


def check_shape(
    shape: Sequence[int | None], hint: str, kind: dtype | None = None, **tensors: Tensor | None
) -> None:
    """Raise an error unless all tensors have the given shape and dtype.

    Arguments:
        shape: The length of each axis; None allows any.
        hint: The end of the message: what to do.
        kind: The dtype; None allows any.
        tensors: The tensors, by the names of the arguments; those that are None are passed over.

    Raises:
        ValueError: If a tensor has another shape or dtype.
    """
    for name, x in tensors.items():
        if x is None:
            continue
        fits = len(shape) == x.ndim and all(k in (None, n) for k, n in zip(shape, x.shape))  # noqa: B905
        if not fits or kind not in (None, x.dtype):
            wanted = ", ".join("*" if k is None else str(k) for k in shape)
            of = f" of {kind}" if kind else ""
            raise ValueError(
                f"{name} is {tuple(x.shape)} of {x.dtype}, not ({wanted}){of}; {hint}."
            )
