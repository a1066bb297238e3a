"""Ragged arrays: item m of many is rows offsets[m]:offsets[m + 1] of one."""

from __future__ import annotations

import numpy as np

__all__ = ["ranges"]


def ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """first[0] … last[0] − 1, first[1] … last[1] − 1, … in one array.

    Arguments:
        first: (M,) integers.
        last: (M,) integers, none below `first`.
    """
    sizes = last - first
    begin = np.cumsum(sizes) - sizes
    numbers: np.ndarray = np.arange(sizes.sum()) + np.repeat(first - begin, sizes)
    return numbers
