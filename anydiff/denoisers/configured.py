"""Networks that remember the arguments that they were built with.

`anydiff.save` writes a network's `config` beside its weights, and `anydiff.load` calls the constructor
of the library's networks with it. Under `configured` that dictionary follows from the constructor's
signature, so that the two cannot drift apart:

    @configured
    class MyNetwork(nn.Module):
        def __init__(self, width: int = 64) -> None: ...

    MyNetwork().config  # {"width": 64}

Such a dictionary may come from anybody's file: :func:`planned` says what a network would be without
building it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ["configured", "planned"]

Net = TypeVar("Net", bound=nn.Module)


def configured(network: type[Net]) -> type[Net]:
    """Class decorator: every instance keeps its constructor's arguments as the dictionary `config`.

    Defaults are included, and tuples and arrays become lists, as they are in JSON; a network within the
    network becomes the name of its class and its own `config`, None if it has none. If a decorated class
    inherits from another one, `config` holds the arguments of the class that was instantiated.

    Arguments:
        network: The class of a network. A value that JSON cannot hold is kept as it is, and is an
            error only when the network is saved.

    Raises:
        TypeError: If the constructor takes ``*args`` or ``**kwargs``.
    """
    build = network.__init__
    signature = inspect.signature(build)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in signature.parameters.values()):
        raise TypeError(
            f"the constructor of {network.__name__} is {signature}; give every argument a name of its "
            "own, so that `config` can hold it."
        )

    @wraps(build)
    def __init__(self: Net, *args: Any, **options: Any) -> None:
        build(self, *args, **options)
        given = signature.bind(self, *args, **options)
        given.apply_defaults()
        _, *arguments = given.arguments.items()  # the first is self
        self.__dict__["config"] = {name: _described(value) for name, value in arguments}

    network.__init__ = __init__  # type: ignore[assignment, method-assign]
    return network


def _described(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return {"name": type(value).__name__, "config": getattr(value, "config", None)}
    return as_json(value)


def as_json(value: Any) -> Any:
    """An argument as JSON has it: lists for tuples and arrays, Python's numbers for those of NumPy.

    Arguments:
        value: Of any type; what JSON cannot hold is returned as it is.
    """
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    return [as_json(v) for v in value] if isinstance(value, tuple | list) else value


def planned(make: Callable[[], Net], tensors: int) -> Net:
    """A network whose tensors have names and shapes, but neither memory nor values.

    Arguments:
        make: Builds it.
        tensors: How many tensors it is expected to have; far more end the attempt, so that its time
            is bounded by what is expected, whatever `make` was told.

    Raises:
        ValueError: If it would have far more tensors.
    """
    # the attempt may end where a constructor switches gradients on again
    with (
        torch.set_grad_enabled(torch.is_grad_enabled()),
        torch.device("meta"),
        _Planning(1000 + 50 * tensors),
    ):
        return make()


class _Planning(TorchFunctionMode):
    """Counts the operations of a constructor, and leaves out the drawing of its first weights."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = self.left = most

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError(
                f"it takes more than {self.most} operations to build, for so few tensors"
            )
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return _SHAPES.get(func, func)(*args, **kwargs)


# torch needs seconds to get ready to do these without values
_DRAWS = (torch.Tensor.uniform_, torch.Tensor.normal_)
_SHAPES = {torch.rand: torch.empty, torch.randn: torch.empty}
