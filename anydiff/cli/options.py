"""What a command can do something with, and what it needs: told before any work.

A flag that would have no effect is an error. Flags that not every kind or model takes are None unless
they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from anydiff.extras import extra

__all__ = ["check_flags", "check_packages", "left_out"]

_KINDS = {  # of the flags that not all kinds take
    "label": ("images",),
    "target": ("molecules",),
    "formula": ("molecules",),
    "keep": ("molecules",),
    "text": ("molecules", "sketches"),
    "pattern": ("smiles",),
    "temperature": ("smiles",),
    "length": ("sketches",),
    "root": ("images", "molecules"),
    "size": ("images",),
    "inception": ("images",),
    "relax": ("molecules",),
    "posebusters": ("molecules",),
}
_CONDITIONS = {
    "label": "labels", "target": "a property", "text": "texts", "guidance": "a condition",
}  # fmt: skip


def check_flags(kind: str, model: Any = None, **given: Any) -> None:
    """Check that every flag has an effect.

    Arguments:
        kind: What the command is about: "molecules", "sketches" or "images".
        model: The model of this kind, if there is one.
        given: Values by the names of the flags; None is not given.

    Raises:
        ValueError: If a flag has none.
    """
    for name, value in given.items():
        if value is None:
            continue
        if kind not in _KINDS.get(name, kind):
            raise ValueError(f"--{name} does not apply to {kind}; leave it out.")
        asks = _CONDITIONS if model is None else model.asks
        if name in _CONDITIONS and not (asks if name == "guidance" else name in asks):
            raise ValueError(
                f"--{name} needs a model that was trained with {_CONDITIONS[name]}, which this one was "
                "not; leave it out."
            )


def check_packages(name: str, packages: Sequence[str]) -> None:
    """Check that optional packages are installed, without importing them.

    Arguments:
        name: The extra that installs them.
        packages: By the names to import.

    Raises:
        ImportError: If one is not.
    """
    with extra(name):
        for package in packages:
            if find_spec(package) is None:
                raise ModuleNotFoundError(name=package)


def left_out(lost: int, kind: str) -> str:
    """The end of a table: how many items are left out; nothing if none is.

    Arguments:
        lost: How many.
        kind: What they are, in the plural.
    """
    return f"\n\n{lost} more {kind} were not finite, and are left out." if lost else ""
