"""Checks of arguments, whose errors all have one form: the value that was given, and what to give.

:func:`frozen` declares a small immutable class, such as a schedule or a sampler, with the range of each
argument. The other functions check the arguments of functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

import numpy as np
import torch
from torch import Tensor, dtype

__all__ = [
    "check_choice", "check_floating", "check_kind", "check_range", "check_shape", "check_whole",
    "differences", "frozen", "number", "numbers", "read", "real", "shown",
]  # fmt: skip

Kind = TypeVar("Kind")


@dataclass_transform(frozen_default=True)
def frozen(**limits: str | type | Collection[Any]) -> Callable[[type[Kind]], type[Kind]]:
    """Decorate a class: a frozen dataclass whose field values are checked when it is built.

    A field that is annotated as int or float has to be a number, and is kept as one of Python's.

    Arguments:
        limits: For each field to check, by its name, the interval in which its value has to lie, the
            class that it has to be of, or a collection of its choices. An end of an interval is a number
            or the name of another field: ``high="(low, inf)"``. None is allowed where the annotation of
            the field says so.

    Raises:
        ValueError: When an object is built with a value outside its limit.
    """

    def decorate(kind: type[Kind]) -> type[Kind]:
        more = getattr(kind, "__post_init__", None)

        def check(self: Kind) -> None:
            for name, field in fields.items():
                annotation = str(getattr(field.type, "__name__", field.type))
                limit = limits.get(name, "[-inf, inf]" if annotation in ("int", "float") else None)
                if limit is None or not field.init:
                    continue
                value = getattr(self, name)
                if value is None and "None" in annotation:
                    continue
                if isinstance(limit, type):
                    article = "an" if limit.__name__[0] in "AEIOU" else "a"
                    check_kind(limit, f"{article} {limit.__name__}", **{name: value})
                elif not isinstance(limit, str):
                    check_choice(limit, **{name: value})
                    object.__setattr__(
                        self, name, value if number(value) is None else number(value)
                    )
                else:
                    ends = [e.strip() for e in limit[1:-1].split(",")]
                    low, high = (getattr(self, e) if e in fields else e for e in ends)
                    interval = f"{limit[0]}{low}, {high}{limit[-1]}"
                    check = check_whole if annotation.startswith("int") else check_range
                    check(interval, **{name: value})
                    object.__setattr__(self, name, number(value))
            if more is not None:
                more(self)

        kind.__post_init__ = check  # type: ignore[attr-defined]
        made = dataclass(frozen=True)(kind)
        fields = made.__dataclass_fields__  # type: ignore[attr-defined]
        return made

    return decorate


def shown(value: Any) -> str:
    """What an error message calls a value that was given."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"


def number(value: Any) -> int | float | None:
    """A number of Python, NumPy or a tensor as one of Python; None if it is none, as a bool is."""
    if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def numbers(values: Any) -> Tensor:
    """A list, array or tensor of numbers as (n,), float64 on the CPU; empty if it is none of these."""
    try:
        found = real("", values=values).cpu()
    except ValueError:
        return torch.empty(0)
    return found if found.ndim == 1 else torch.empty(0)


def real(hint: str, **values: Any) -> Tensor:
    """A number, a list, an array or a tensor of real numbers as a tensor of float64.

    Arguments:
        hint: What to give.
        values: The numbers, by the name of the argument.

    Raises:
        ValueError: If they are none of these, or complex, or booleans.
    """
    ((name, given),) = values.items()
    try:
        kind = torch.as_tensor(given).dtype
        if not (kind.is_complex or kind == torch.bool):
            return torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise ValueError(f"{name} is {shown(given)}; give {hint}.")


def read(x: Tensor, condition: Callable[[Tensor], Any]) -> bool | None:
    """Whether a tensor meets a condition; None where that is not known before the code has run.

    On a device the host would have to wait for it; a compiler and vmap trace code without values.

    Arguments:
        x: The tensor.
        condition: x -> a boolean.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    try:
        return bool(condition(x))
    except RuntimeError:
        return None


def check_kind(kind: Any, hint: str, **values: Any) -> None:
    """Raise an error unless all values are objects of a class. A class itself, not called, is none.

    Arguments:
        kind: The class, or a union of classes.
        hint: What to give.
        values: The values, by the names of the arguments.

    Raises:
        ValueError: If a value is of another class.
    """
    for name, value in values.items():
        if isinstance(value, type) and issubclass(value, kind):
            raise ValueError(
                f"{name} is the class {value.__name__}; call it: {value.__name__}(...)."
            )
        if isinstance(value, type) or not isinstance(value, kind):
            raise ValueError(f"{name} is {shown(value)}; give {hint}.")


def check_range(interval: str, **values: float) -> None:
    """Raise an error unless all values are numbers in an interval.

    Arguments:
        interval: In mathematical notation: ``"[0, 1)"``, ``"(0, inf)"``.
        values: The values, by the names of the arguments.

    Raises:
        ValueError: If a value lies outside, is NaN, or is no number.
    """
    _check_numbers(interval, int | float, values)


def check_whole(interval: str, **values: Any) -> None:
    """Raise an error unless all values are whole numbers in an interval, of Python, NumPy or a tensor.

    Arguments:
        interval: In mathematical notation: ``"[1, inf)"``.
        values: The values, by the names of the arguments.

    Raises:
        ValueError: If a value lies outside, or is no whole number. A bool is none.
    """
    _check_numbers(interval, int, values)


def _check_numbers(interval: str, kind: Any, values: Mapping[str, Any]) -> None:
    low, high = map(float, interval[1:-1].split(","))
    for name, given in values.items():
        value = number(given)
        if not isinstance(value, kind):
            what = "whole number" if kind is int else "number"
            raise ValueError(f"{name} is {shown(given)}; give a {what} in {interval}.")
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
        plain = value if value is None or isinstance(value, str) else number(value)
        if not any(type(plain) is type(choice) and plain == choice for choice in choices):
            told = ", ".join(map(repr, choices))
            raise ValueError(f"{name} is {shown(value)}; choose one of {told}.")


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
        check_kind(Tensor, "a tensor", **{name: x})
        fits = len(shape) == x.ndim and all(k in (None, n) for k, n in zip(shape, x.shape))  # noqa: B905
        if not fits or kind not in (None, x.dtype):
            wanted = ", ".join("*" if k is None else str(k) for k in shape)
            of = f" of {kind}" if kind else ""
            raise ValueError(
                f"{name} is {tuple(x.shape)} of {x.dtype}, not ({wanted}){of}; {hint}."
            )


def check_floating(**tensors: Tensor) -> None:
    """Raise an error unless tensors are of a floating-point dtype, so that noise can be added.

    Arguments:
        tensors: The tensors, by the names of the arguments.

    Raises:
        ValueError: If one is no tensor, or of another dtype, as integers and booleans.
    """
    for name, x in tensors.items():
        hint = "floating-point numbers, scaled as in training"
        check_kind(Tensor, f"a tensor of {hint}", **{name: x})
        if not x.is_floating_point():
            raise ValueError(f"{name} is of {x.dtype}; give {hint}.")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What two sets of settings differ in, in words; empty if in nothing.

    They are compared as JSON has them, where NaN is itself.

    Arguments:
        there: Of an earlier run.
        here: Of this one.

    Raises:
        TypeError: If one is no mapping.
    """
    names = {**here, **there}
    other = [k for k in names if json.dumps(here.get(k)) != json.dumps(there.get(k))]
    return ", ".join(f"{k} {there.get(k)} there and {here.get(k)} here" for k in other)
