"""Nested values with one entry changed, to see what becomes of files that hold them."""

import copy

DROPPED = object()


def changed(value, path, new):
    """A copy of a value in which the entry at a path, a sequence of keys, is another, or DROPPED."""
    if not path:
        return new
    value = copy.deepcopy(value)
    *way, last = path
    inner = value
    for key in way:
        inner = inner[key]
    if new is DROPPED:
        del inner[last]
    else:
        inner[last] = new
    return value
