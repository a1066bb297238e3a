"""Errors of values outside their range, in one wording: the value, and what to give.

:func:`frozen` makes the small immutable objects that methods are, with the range of each argument beside
its name; the checks are functions too, for arguments of functions.
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
    """A frozen dataclass whose values are checked when it is built.

    Arguments:
        limits: For a value, by its name, the interval that it has to lie in, or its choices. An end of an
            interval is a number or the name of another value: ``high="(low, inf)"``. A value of None
            lies in every interval.

    Raises:
        ValueError: When one is built, if a value lies outside its limit.
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
