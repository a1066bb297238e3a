"""Numbers as users have them: lists, NumPy's arrays and masked arrays, tensors, pandas' objects.

:func:`numbers` makes float64 of them, in which nothing is lost: what is missing (a masked value, None,
pandas' NA) becomes NaN, and what is no number, or no longer that number, is an error. :func:`single` is
the way from there to float32.
"""

from __future__ import annotations

import datetime
import reprlib
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["constant", "numbers", "single"]

_OTHER = (str, bytes, complex, datetime.date, datetime.timedelta, np.datetime64, np.timedelta64)
_DATES = "; give dates as numbers, such as days since a common start"


def numbers(values: Any) -> np.ndarray:
    """Values as an array of float64, of any shape, NaN where one is missing.

    Arguments:
        values: A number, an array, a tensor, an object of pandas, or a list of such.

    Raises:
        ValueError: Something is not a number, or integers are so large that different ones are one
            float; the message begins with a verb, for a sentence about the values.
    """
    if isinstance(values, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(values), np.nan, numbers(np.ma.getdata(values)))
    if isinstance(values, Tensor):
        try:
            values = values.detach().cpu()
            values = (values.double() if values.is_floating_point() else values).numpy()
        except (TypeError, RuntimeError) as error:  # sparse, quantised, without data
            raise ValueError(f"cannot be made one array ({error})") from None
    elif hasattr(values, "to_numpy"):
        values = values.to_numpy()
    elif isinstance(values, (list, tuple)) and any(map(_rich, values)):
        values = [numbers(value) for value in values]
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:  # of different lengths
        raise ValueError(f"cannot be made one array ({error})") from None
    if array.dtype.kind == "O":
        try:
            return np.asarray(np.vectorize(_number, otypes=[np.float64])(array))
        except (TypeError, ValueError) as error:
            raise ValueError(f"holds {error}") from None
    if array.dtype.kind in "Mm":
        raise ValueError(f"holds {array.dtype}{_DATES}")
    if array.dtype.kind not in "fiub":
        shown = f", such as {reprlib.repr(array.flat[0])}" if array.size else ""
        raise ValueError(f"holds {array.dtype}{shown}")
    floats: np.ndarray = array.astype(np.float64, copy=False)
    large = array.dtype.kind in "iu" and bool((np.abs(floats) >= 2**53).any())
    if large and len(np.unique(floats)) < len(np.unique(array)):
        raise ValueError("holds integers too large to differ as floats; subtract a common start")
    return floats


def _rich(value: Any) -> bool:
    """Whether NumPy would read over what is missing in it, or refuse it."""
    return isinstance(value, (np.ma.MaskedArray, Tensor)) or hasattr(value, "to_numpy")


def _number(value: Any) -> float:
    if value is None or value is np.ma.masked or type(value).__name__ == "NAType":
        return np.nan
    if isinstance(value, _OTHER):
        dates = not isinstance(value, (str, bytes, complex))
        raise TypeError(f"{reprlib.repr(value)}{_DATES if dates else ''}")
    if isinstance(value, (list, tuple, np.ndarray)):
        raise TypeError("lists of different lengths")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(reprlib.repr(value)) from None


def constant(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether the known values of a column are the same, to rounding, (C,).

    Arguments:
        values: (R, C) floats.
        known: (R, C) booleans.
    """
    low = values.min(0, where=known, initial=np.inf)
    high = values.max(0, where=known, initial=-np.inf)
    rounding = 2 * np.finfo(values.dtype).eps * np.maximum(np.abs(low), np.abs(high))
    return np.asarray(~(high - low > rounding))  # true also where none is known


def single(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Values in float32, (R, C).

    Arguments:
        values: (R, C) floats.
        known: (R, C) booleans, which of them count.

    Raises:
        ValueError: Known values of a column are much closer to each other than to 0, so that they would
            no longer differ. The message begins with the column.
    """
    if values.dtype != np.float32:
        count = known.sum(0).clip(min=1)
        mean = values.sum(0, where=known) / count
        std = np.sqrt(np.square(values - mean).sum(0, where=known) / count)
        coarse = (np.abs(mean) > 2**14 * std) & ~constant(values, known)
        if coarse.any():
            c = int(np.argmax(coarse))
            raise ValueError(
                f"channel {c} is {mean[c]:.8g} ± {std[c]:.3g}, which float32 cannot tell apart; scale it "
                "first, as sequences.scaled(Scaling.from_sequences(sequences)) does."
            )
    return values.astype(np.float32, copy=False)
