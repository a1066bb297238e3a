"""Whole numbers on a command line: 3,8 or, in a configuration file, [3, 8]."""

from __future__ import annotations

from typing import Any

from anydiff.extras import extra

with extra("train"):
    from jsonargparse.typing import register_type

__all__ = ["Numbers"]


class Numbers(list[int]):
    """Several whole numbers."""


def _read(value: Any) -> Numbers:
    items = value.strip("[]").split(",") if isinstance(value, str) else value
    items = items if isinstance(items, list | tuple) else [items]
    try:
        return Numbers(int(item) for item in items if item != "")
    except TypeError:
        raise ValueError(f"{value} is not a list of whole numbers.") from None


register_type(Numbers, serializer=list, deserializer=_read)
