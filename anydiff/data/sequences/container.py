"""Many sequences in ragged arrays.

:class:`Sequences` holds values (R, C) and offsets (M + 1,); item m is rows offsets[m]:offsets[m + 1]. It
checks itself when it is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from anydiff.data.ranges import ranges
from anydiff.data.sequences.scaling import Scaling
from anydiff.data.sizes import SizeDistribution
from anydiff.data.values import constant, numbers, single

__all__ = ["LengthDistribution", "SequenceError", "Sequences"]

LengthDistribution = SizeDistribution  # of a sequence, the length is the size


class SequenceError(ValueError):
    """Faulty sequences. The message names the place."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Many sequences in ragged arrays, checked.

    Arguments:
        values: (R, C), the rows of all items, one item after the other. NaN marks a missing value, as
            does the mask of a masked array; missing values are kept as 0. They are kept in float32 if
            that holds them exactly, and in float64 otherwise.
        offsets: (M + 1,), item m is rows offsets[m]:offsets[m + 1].
        observed: (R, C), True where a value is known; None if all are. NaNs count as not observed.
        name: Where they come from; errors begin with it.

    Raises:
        SequenceError: The arrays do not fit together, an item is empty or without any observed value,
            or a value is infinite.
    """

    values: np.ndarray
    offsets: np.ndarray
    observed: np.ndarray | None = None
    name: str = "sequences"

    def __post_init__(self) -> None:
        values, offsets = self.values, np.asarray(self.offsets)
        if type(values) is not np.ndarray or values.dtype != np.float32:
            try:
                values = numbers(values)
            except ValueError as error:
                raise self._fault(f"values: it {error}; give numbers (R, C).") from None
        if values.ndim != 2 or values.shape[1] < 1:
            raise self._fault(f"values are {values.shape}; give numbers (R, C).")
        if offsets.ndim != 1 or len(offsets) < 2 or offsets.dtype.kind not in "iu":
            raise self._fault(
                f"offsets are {offsets.shape} of {offsets.dtype}; give M + 1 integers for M items, M > 0."
            )
        offsets = offsets.astype(np.int64, copy=False)
        if offsets[0] != 0 or offsets[-1] != len(values):
            ends = f"{offsets[0]} to {offsets[-1]}"
            raise self._fault(
                f"offsets run from {ends}; give 0 to the number of rows, {len(values)}."
            )
        if (empty := np.diff(offsets) < 1).any():
            raise self._fault(f"item {np.argmax(empty)} is empty; each needs at least one row.")
        object.__setattr__(self, "offsets", offsets)

        known = ~np.isnan(values)
        if self.observed is not None:
            observed = np.asarray(self.observed)
            if observed.shape != values.shape or observed.dtype != bool:
                given = f"{observed.shape} of {observed.dtype}"
                raise self._fault(f"observed is {given}; give booleans {values.shape}.")
            known &= observed
        rows = np.where(known, values, 0)
        self._check_values(rows, known)
        narrow = rows.astype(np.float32)
        object.__setattr__(self, "values", narrow if (narrow == rows).all() else rows)
        object.__setattr__(self, "observed", None if known.all() else known)

    def _fault(self, words: str) -> SequenceError:
        return SequenceError(f"{self.name}: {words}")

    def _check_values(self, given: np.ndarray, known: np.ndarray) -> None:
        if (infinite := np.abs(given) > np.finfo(np.float32).max).any():
            row, channel = np.argwhere(infinite)[0].tolist()
            m = int(np.searchsorted(self.offsets, row, side="right")) - 1
            raise self._fault(
                f"item {m}, row {row - int(self.offsets[m])}, channel {channel} is "
                f"{given[row, channel]}; values must be finite in float32, or NaN where missing."
            )
        seen = np.logical_or.reduceat(known.any(1), self.offsets[:-1])
        if not seen.all():
            raise self._fault(f"item {np.argmin(seen)} has no observed value; leave it out.")

    @classmethod
    def from_lists(cls, items: Sequence[Any], name: str = "sequences") -> Sequences:
        """From one array for each item.

        Arguments:
            items: (n, C) each, or (n,) for a single channel; NaN marks a missing value, as do masks,
                None and pandas' NA. One array (M, n) or (M, n, C) is M items of n rows.
            name: As of the class.

        Raises:
            SequenceError: An item has another shape, or as of the class.
        """
        listed = isinstance(items, Iterable) and not isinstance(items, (str, bytes, Mapping))
        if not listed or hasattr(items, "columns"):
            raise SequenceError(
                f"{name}: the items are a {type(items).__name__}; give a list of arrays, one for each "
                "item."
            )
        arrays: list[np.ndarray] = []
        for m, item in enumerate(items):
            try:
                array = numbers(item)
            except ValueError as error:
                raise SequenceError(
                    f"{name}: item {m} is not an array of numbers: it {error}; give (n, C)."
                ) from None
            array = array[:, None] if array.ndim == 1 else array
            expected = arrays[0].shape[1] if arrays else "C"
            if array.ndim != 2 or (arrays and array.shape[1] != expected):
                raise SequenceError(f"{name}: item {m} is {array.shape}; give (n, {expected}).")
            arrays.append(array)
        if not arrays:
            raise SequenceError(f"{name}: there are no items; give one array for each.")
        return cls(np.concatenate(arrays), np.cumsum([0, *map(len, arrays)]), None, name)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Rows of each item, (M,)."""
        return np.diff(self.offsets)

    @property
    def channels(self) -> int:
        """C, the values of a row."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, m: int) -> np.ndarray:
        """Item m, (n, C) with NaN for missing values."""
        if not -len(self) <= m < len(self):
            raise IndexError(f"item {m} of {len(self)}")
        m %= len(self)
        rows = slice(int(self.offsets[m]), int(self.offsets[m + 1]))
        if self.observed is None:
            return self.values[rows].copy()
        return np.where(self.observed[rows], self.values[rows], self.values.dtype.type(np.nan))

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """The numbers of the rows of some items, one item after the other.

        Arguments:
            numbers: (B,), which items.
        """
        return ranges(self.offsets[numbers], self.offsets[numbers + 1])

    def subset(self, numbers: Sequence[int] | np.ndarray) -> Sequences:
        """Some of the items.

        Arguments:
            numbers: Which, in this order, or booleans (M,).
        """
        chosen = np.arange(len(self))[np.asarray(numbers) if len(numbers) else slice(0)]
        rows = self.rows(chosen)
        return Sequences(
            self.values[rows],
            np.concatenate([[0], np.cumsum(self.sizes[chosen])]),
            None if self.observed is None else self.observed[rows],
            self.name,
        )

    @cached_property
    def known(self) -> np.ndarray:
        """Whether each value is known, (R, C)."""
        return np.ones(self.values.shape, bool) if self.observed is None else self.observed

    @cached_property
    def mean(self) -> np.ndarray:
        """The mean of the observed values of each channel, (C,); 0 if there are none."""
        # from a first mean, so that sums do not round a large common offset
        count = self.known.sum(0).clip(min=1)
        near = self.values.sum(0, dtype=np.float64) / count
        return np.asarray(near + (self.values - near).sum(0, where=self.known) / count)

    @cached_property
    def std(self) -> np.ndarray:
        """The standard deviation of the observed values of each channel, (C,); 0 if there are none."""
        away = np.abs(self.values - self.mean)
        most = away.max(0, where=self.known, initial=0)
        shares = away / np.where(
            most > 0, most, 1
        )  # whose squares are not below the smallest number
        squares = np.square(shares).sum(0, where=self.known)
        return np.asarray(most * np.sqrt(squares / self.known.sum(0).clip(min=1)))

    @cached_property
    def constant(self) -> np.ndarray:
        """Whether the observed values of a channel are the same, to rounding, (C,)."""
        return constant(self.values, self.known)

    def single(self) -> np.ndarray:
        """The values in float32, as those of batches are, (R, C).

        Raises:
            SequenceError: The values of a channel are much closer to each other than to 0, so that they
                would no longer differ.
        """
        try:
            return single(self.values, self.known)
        except ValueError as error:
            raise self._fault(str(error)) from None

    def scaled(self, scaling: Scaling) -> Sequences:
        """The same items in the units of a scaling, in float32; missing values stay missing.

        Arguments:
            scaling: Usually that of the training data.
        """
        with np.errstate(over="ignore"):  # refused as infinite
            rows = scaling.encode(self.values).astype(np.float32)
        return Sequences(rows, self.offsets, self.observed, self.name)
