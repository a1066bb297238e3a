"""Objects of the library as JSON, and back: a class name and the arguments of its constructor.

Only classes of the library are built from a file. The types that their constructors declare are what a
file may have as arguments.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor, nn

from anydiff import autoencoders, denoisers, discrete, likelihood, losses, samplers, schedules
from anydiff.denoisers.configured import planned
from anydiff.predictions import TARGETS, Preconditioned, Target

__all__ = [
    "Unknown", "assemble", "build", "build_target", "check", "check_fields", "check_shapes", "describe",
    "describe_target", "known", "plain", "within",
]  # fmt: skip

T = TypeVar("T")

DEEPEST = 16
LARGEST = 100_000
"""Whole numbers up to this one are taken from any file."""


class Unknown(Exception):
    """The name of an object that is not part of the library, or not of the required class."""


def known() -> dict[str, type[Any]]:
    """The classes that a file may refer to, by name."""
    rooms = (schedules, samplers, losses, likelihood, denoisers, autoencoders)
    found = {name: getattr(room, name) for room in rooms for name in room.__all__}
    found |= {"Preconditioned": Preconditioned}
    found |= {name: getattr(discrete, name) for name in discrete.__all__ if name.endswith("Kernel")}
    return {k: v for k, v in found.items() if isinstance(v, type) and not inspect.isabstract(v)}


# to JSON --------------------


def plain(value: Any, name: str, depth: int = 0) -> Any:
    """A value as JSON holds it: NumPy's numbers as Python's, and tuples as lists.

    Arguments:
        value: Numbers, text, None, and lists and dicts of these.
        name: What an error calls it.
        depth: How many lists and dicts it is in.

    Raises:
        ValueError: If a part of it is of another type or too deep, or a key is not a string.
    """
    if depth > 100:
        raise ValueError(f"{name[:60]}... is within {depth} lists and dicts; give fewer.")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(v, f"{name}[{k}]", depth + 1) for k, v in enumerate(value)]
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{name} is of type {type(value).__name__}, which JSON cannot hold; give numbers, text, or "
            "lists and dicts of them. A tensor can be an entry of `extra` itself."
        )
    for key in value:
        if not isinstance(key, str):
            raise ValueError(
                f"{name} has the key {key!r}; JSON has text alone as keys, give str(key)."
            )
    return {str(key): plain(v, f"{name}[{key!r}]", depth + 1) for key, v in value.items()}


def describe(value: Any) -> Any:
    """The class name and arguments of an object of the library, or a value that JSON can represent."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if isinstance(value, Target) and value == TARGETS.get(value.name):
        return value.name
    kind = type(value)
    if known().get(kind.__name__) is not kind:  # a class or function of the user
        return {"name": getattr(value, "__name__", kind.__name__), "config": None}
    config = getattr(value, "config", None)
    if config is None:
        names = inspect.signature(kind).parameters
        config = {name: describe(getattr(value, name)) for name in names}
    return {"name": kind.__name__, "config": config}


def describe_target(target: Target) -> dict[str, Any]:
    """A target; one of the user's own has no config, so that `load` needs it as an argument."""
    config: dict[str, Any] | None = None
    if target == TARGETS.get(target.name):
        config = {}
    elif type(target) is Preconditioned:
        config = {"sigma_data": describe(target.sigma_data)}
    return {"name": target.name, "config": config}


# from JSON --------------------


def build(entry: Any, wanted: type[T], held: Mapping[str, Tensor], depth: int = 0) -> T:
    """The object of a description, the inverse of :func:`describe`.

    A network is planned first, without memory: it has to have the tensors that the file has, before it is
    built.

    Arguments:
        entry: A name and a config.
        wanted: The class that the object has to be of.
        held: The tensors that the file has for it, by name.
        depth: How many objects this one is an argument of.

    Raises:
        Unknown: If the library has no such class, or the user's own object was described.
        ValueError: If the arguments are of other types than the constructor's, or too large for the file.
    """
    name, config = entry["name"], entry["config"]
    check(name, str, "name")
    kind = known().get(name)
    if kind is None or config is None:
        raise Unknown(name[:60])
    if not _is_a(kind, wanted):
        room = getattr(wanted, "__module__", "anydiff")
        raise ValueError(f"{name} is no {_named(wanted)}, not one of {room}")
    if depth > DEEPEST:
        raise ValueError(f"{name} is an argument of {depth} objects, one within the other")
    made: T = assemble(kind, config, held, depth)
    return made


def assemble(
    kind: type[T],
    config: Mapping[str, Any],
    held: Mapping[str, Tensor],
    depth: int = 0,
    **given: Any,
) -> T:
    """The object of a class with the arguments of a file; the second half of :func:`build`.

    Arguments:
        kind: The class.
        config: The arguments.
        held: The tensors that the file has for it, by name.
        depth: How many objects this one is an argument of.
        given: Arguments that are built already.

    Raises:
        Unknown: If an argument is an object that the library does not have.
        ValueError: If the arguments are of other types than the constructor's, or too large for the file.
    """
    name, hints, limits = kind.__name__, get_type_hints(kind.__init__), _limits(kind, held)
    arguments = dict(given)
    for key, value in config.items():
        if key not in hints:
            raise ValueError(f"{name} has no argument {key!r}")
        if isinstance(value, dict) and _takes_objects(hints[key]):
            # a network within a network has the tensors that are named after it
            own = within(held, key) if _is_network(kind) else held
            value = build(value, hints[key], own, depth + 1)
        check(value, hints[key], key, *limits)
        arguments[key] = value

    if _is_network(kind):
        network: Any = kind
        check_shapes(planned(lambda: network(**arguments), len(held)).state_dict(), held, name)
    return kind(**arguments)


def within(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values of a part, whose names begin with that of the part and a dot, without it.

    Arguments:
        values: By name.
        name: Of the part.
    """
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _is_network(kind: type[Any]) -> bool:
    """Whether it is a module that `configured` decorates, and can be planned."""
    return issubclass(kind, nn.Module) and hasattr(kind.__init__, "__wrapped__")


def check_shapes(own: Mapping[str, Any], held: Mapping[str, Any], name: str) -> None:
    """Check that a module and a file have the same tensors.

    Arguments:
        own: The state of the module.
        held: That of the file.
        name: What the module is called.

    Raises:
        ValueError: If not.
    """
    for key in {**own, **held}:
        here, there = (_shape(key, of[key]) if key in of else "nothing" for of in (own, held))
        if here != there:
            raise ValueError(
                f"the file has {there} where {name} has {here} ({key}); build it with the arguments that "
                "the file was saved with"
            )


def _shape(name: str, value: Any) -> Any:
    free = name.endswith("_extra_state") or not isinstance(value, Tensor)
    return "a value" if free else tuple(value.shape)


def build_target(entry: Any) -> str | Target:
    """The target of a description, the inverse of :func:`describe_target`.

    Arguments:
        entry: A name and a config, or a name alone.

    Raises:
        Unknown: If the library has no such target.
        ValueError: If its arguments are not what they should be.
    """
    name, config = (entry, {}) if isinstance(entry, str) else (entry["name"], entry["config"])
    check(name, str, "name")
    if name not in TARGETS or config is None or (config and name != "karras"):
        raise Unknown(name[:60])
    if config == {}:
        return str(name)
    check(config["sigma_data"], float, "sigma_data")
    return Preconditioned(sigma_data=config["sigma_data"])


def _limits(kind: type[Any], held: Mapping[str, Tensor]) -> tuple[int, int]:
    """The largest whole number and the longest list that describe an object with some tensors."""
    shapes = [t.shape for t in held.values() if isinstance(t, Tensor) and t.numel()]
    largest = max([1, *(max(shape, default=1) for shape in shapes)])
    if not issubclass(kind, nn.Module):
        return LARGEST, LARGEST
    # networks count the steps of a chain too; a list says something of each of their layers
    return max(LARGEST, largest) if _is_network(kind) else largest, max(64, len(held))


def check(value: Any, hint: Any, name: str, most: int = LARGEST, longest: int = LARGEST) -> None:
    """Check that a value of a file can be an argument of a type.

    Arguments:
        value: Of JSON, or an object that was built.
        hint: The type that the constructor declares.
        name: What an error calls it.
        most: The largest whole number.
        longest: The longest list.

    Raises:
        ValueError: If it is of another type, not finite, or too large.
    """
    if not _fits(value, hint):
        raise ValueError(f"{name} is {repr(value)[:60]}, not {_named(hint)}")
    values = value if isinstance(value, list) else [value]
    if len(values) > longest:
        raise ValueError(f"{name} has {len(values)} entries, and the file has not so many tensors")
    for number in values:
        if isinstance(number, int) and abs(number) > most:
            raise ValueError(f"{name} is {number:.3g}, and no tensor of the file is as large")


def check_fields(made: Any) -> None:
    """Check that an object whose arguments came from a file has fields of the types that it declares.

    Arguments:
        made: Of a dataclass.

    Raises:
        ValueError: If a field is of another type, not finite, or too large.
    """
    for name, hint in get_type_hints(type(made).__init__).items():
        if name != "return":
            check(getattr(made, name), hint, name)


def _named(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint)).replace("collections.abc.", "")


def _takes_objects(hint: Any) -> bool:
    """Whether an argument of a type can be an object, of the library or of the user's own."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(map(_takes_objects, get_args(hint)))
    values = (bool, int, float, str, types.NoneType, Tensor)
    return get_origin(hint) is Callable or (isinstance(hint, type) and hint not in values)


def _is_a(kind: type[Any], hint: Any) -> bool:
    """Whether objects of a class can be arguments of a type."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_a(kind, h) for h in get_args(hint))
    if getattr(hint, "_is_protocol", False):
        return bool(kind.__module__ == hint.__module__)
    return isinstance(hint, type) and issubclass(kind, hint)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value can be an argument of a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, h) for h in inner)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if hint in (bool, int, float):
        if not isinstance(value, int | float) or not -math.inf < value < math.inf:
            return False
        if hint is float:
            return abs(value) < 1e308  # JSON has larger ones, as whole numbers
        return bool(value in (0, 1) if hint is bool else value == int(value))
    if hint is Tensor:
        return isinstance(value, list) and all(_fits(v, float) for v in value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(_fits(v, inner[1]) for v in value.values())
    if origin is not None and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(_fits(v, inner[0]) for v in value)
    if hint in (str, types.NoneType):
        return isinstance(value, str if hint is str else types.NoneType)
    return _is_a(type(value), hint)
