"""Networks that remember the arguments that they were built with.

`anydiff.save` writes a network's `config` beside its weights, and `anydiff.load` calls the constructor
with it. Under `configured` that dictionary follows from the constructor's signature, so that the two
cannot drift apart:

    @configured
    class MyNetwork(nn.Module):
        def __init__(self, width: int = 64) -> None: ...

    MyNetwork().config  # {"width": 64}
"""

from __future__ import annotations

import inspect
from functools import wraps
from typing import Any, TypeVar

from torch import nn

__all__ = ["configured"]

Net = TypeVar("Net", bound=nn.Module)


def configured(network: type[Net]) -> type[Net]:
    """Class decorator: every instance keeps its constructor's arguments as the dictionary `config`.

    Defaults are included, and tuples become lists, as they are in JSON. If a decorated class inherits
    from another one, `config` holds the arguments of the class that was instantiated.

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
        self.__dict__["config"] = {name: _as_json(value) for name, value in arguments}

    network.__init__ = __init__  # type: ignore[assignment, method-assign]
    return network


def _as_json(value: Any) -> Any:
    return [_as_json(v) for v in value] if isinstance(value, (tuple, list)) else value
