r"""Sequences and series: items of different lengths, as padded batches.

:class:`Sequences` holds many items of rows in ragged arrays: values (R, C) and offsets (M + 1,); item m
is rows offsets[m]:offsets[m + 1]. NaN marks a missing value; nothing is filled in. It checks itself
when it is built. :func:`loader` makes padded batches (B, N, C) of items of similar length, and
:func:`unpack` returns the values of a batch with their space :class:`anydiff.Masked`, which excludes
the padding and the missing values.

A row is one step in time, of any duration. Values should have about unit scale; :class:`Scaling`
converts each channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anydiff.data.batches import LengthBatchSampler, ResumableLoader, as_made
from anydiff.data.ranges import ranges
from anydiff.data.sizes import SizeDistribution
from anydiff.spaces import Masked

__all__ = [
    "LengthDistribution", "Scaling", "SequenceBatch", "SequenceDataset", "SequenceError",
    "Sequences", "loader", "pad", "pairs", "split_items", "unpack",
]  # fmt: skip

LengthDistribution = SizeDistribution  # of a sequence, the length is the size
Array = TypeVar("Array", np.ndarray, Tensor)


class SequenceError(ValueError):
    """Faulty sequences. The message names the place."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Many sequences in ragged arrays, checked.

    Arguments:
        values: (R, C), the rows of all items, one item after the other. NaN marks a missing value;
            missing values are kept as 0.
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
        values, offsets = np.asarray(self.values), np.asarray(self.offsets)
        if values.ndim != 2 or values.shape[1] < 1 or values.dtype.kind not in "fiub":
            raise self._fault(f"values are {values.shape} of {values.dtype}; give numbers (R, C).")
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

        with np.errstate(over="ignore"):
            rows = values.astype(np.float32)
        known = ~np.isnan(rows)
        if self.observed is not None:
            observed = np.asarray(self.observed)
            if observed.shape != values.shape or observed.dtype != bool:
                given = f"{observed.shape} of {observed.dtype}"
                raise self._fault(f"observed is {given}; give booleans {values.shape}.")
            known &= observed
        rows[~known] = 0
        object.__setattr__(self, "values", rows)
        object.__setattr__(self, "observed", None if known.all() else known)
        self._check_values(values, known)

    def _fault(self, words: str) -> SequenceError:
        return SequenceError(f"{self.name}: {words}")

    def _check_values(self, given: np.ndarray, known: np.ndarray) -> None:
        if (infinite := np.isinf(self.values)).any():
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
            items: (n, C) each, or (n,) for a single channel; NaN marks a missing value.
            name: As of the class.

        Raises:
            SequenceError: An item has another shape, or as of the class.
        """
        arrays: list[np.ndarray] = []
        for m, item in enumerate(items):
            try:
                array = np.asarray(item, np.float64)
            except (TypeError, ValueError) as error:
                raise SequenceError(
                    f"{name}: item {m} is not an array of numbers ({error}); give (n, C)."
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
        return np.where(self.observed[rows], self.values[rows], np.float32(np.nan))

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
        chosen = np.arange(len(self))[np.asarray(numbers)]
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
        return np.asarray(self.values.sum(0, dtype=np.float64) / self.known.sum(0).clip(min=1))

    @cached_property
    def std(self) -> np.ndarray:
        """The standard deviation of the observed values of each channel, (C,); 0 if there are none."""
        squares = np.square(self.values - self.mean).sum(0, where=self.known)
        return np.asarray(np.sqrt(squares / self.known.sum(0).clip(min=1)))

    def scaled(self, scaling: Scaling) -> Sequences:
        """The same items in the units of a scaling; missing values stay missing.

        Arguments:
            scaling: Usually that of the training data.
        """
        return Sequences(scaling.encode(self.values), self.offsets, self.observed, self.name)


@dataclass(frozen=True)
class Scaling:
    """Subtracts the mean of each channel and divides by its standard deviation, and inversely.

    Arguments:
        mean: C numbers, in the units of the data.
        std: C positive numbers, in the units of the data.

    Raises:
        ValueError: There are no numbers or not equally many, or they are not finite and positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for key in ("mean", "std"):
            object.__setattr__(self, key, tuple(float(c) for c in getattr(self, key)))
        if not self.mean or len(self.mean) != len(self.std):
            counts = f"{len(self.mean)} means and {len(self.std)} stds"
            raise ValueError(f"there are {counts}; give one of each for every channel.")
        if not (np.isfinite(self.mean + self.std).all() and min(self.std) > 0):
            raise ValueError(f"mean {self.mean}, std {self.std}; give finite means, positive stds.")

    @classmethod
    def from_sequences(cls, sequences: Sequences) -> Scaling:
        """The scaling of the observed values; a constant channel keeps its unit.

        Arguments:
            sequences: The training data.
        """
        mean, std = sequences.mean, sequences.std
        # such a channel is constant in float32
        constant = std <= np.finfo(np.float32).eps * np.abs(mean)
        return cls(tuple(mean.tolist()), tuple(np.where(constant, 1.0, std).tolist()))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scaling:
        """The scaling with this `config`."""
        return cls(**config)

    def _like(self, x: Array) -> tuple[Array, Array]:
        if x.ndim == 0 or x.shape[-1] != len(self.mean):
            raise ValueError(f"x is {tuple(x.shape)}; this scaling has {len(self.mean)} channels.")
        if not (x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f"):
            raise ValueError(f"x is of {x.dtype}; give floating-point numbers, as the scaled are.")
        if isinstance(x, Tensor):
            return x.new_tensor(self.mean), x.new_tensor(self.std)
        return np.asarray(self.mean, x.dtype), np.asarray(self.std, x.dtype)

    def encode(self, x: Array) -> Array:
        """(x − mean) / std.

        Arguments:
            x: A floating-point array or tensor (\\*, C).

        Raises:
            ValueError: x has another number of channels, or is of integers.
        """
        mean, std = self._like(x)
        scaled: Array = (x - mean) / std
        return scaled

    def decode(self, x: Array) -> Array:
        """x · std + mean; arguments and errors are those of `encode`."""
        mean, std = self._like(x)
        values: Array = x * std + mean
        return values


class SequenceBatch(NamedTuple):
    """Items padded to the length of the longest."""

    x: Tensor
    """(B, N, C), zero at padding and where a value is missing."""
    mask: Tensor
    """(B, N), True where a row is valid."""
    observed: Tensor | None
    """(B, N, C), True where a value is known; None if no value is missing in the data."""


class SequenceDataset(Dataset[np.ndarray]):
    """Sequences as a torch dataset that makes a whole :class:`SequenceBatch` at once.

    Arguments:
        sequences: The items.
    """

    def __init__(self, sequences: Sequences) -> None:
        self.sequences = sequences

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, m: int) -> np.ndarray:
        return self.sequences[m]

    def __getitems__(self, indices: Sequence[int]) -> SequenceBatch:
        # indexing by NumPy: PyTorch wakes its threads even for a few rows
        numbers = np.asarray(indices)
        sizes, rows = self.sequences.sizes[numbers], self.sequences.rows(numbers)
        mask = np.arange(sizes.max()) < sizes[:, None]

        def padded(array: np.ndarray) -> Tensor:
            whole = np.zeros((*mask.shape, array.shape[1]), array.dtype)
            whole[mask] = array[rows]
            return torch.from_numpy(whole)

        observed = self.sequences.observed
        return SequenceBatch(
            padded(self.sequences.values),
            torch.from_numpy(mask),
            None if observed is None else padded(observed),
        )


def loader(
    sequences: Sequences,
    batch_size: int = 64,
    *,
    seed: int = 0,
    shuffle: bool = True,
    window: int = 50,
    **kwargs: Any,
) -> ResumableLoader:
    """A `DataLoader` of :class:`SequenceBatch`, for :func:`unpack`.

    Batches are made by indexing arrays, which is quicker than sending them between processes: keep
    `num_workers` at 0.

    Arguments:
        sequences: The items.
        batch_size: As of :class:`~anydiff.data.batches.LengthBatchSampler`.
        seed: Likewise.
        shuffle: Likewise.
        window: Likewise.
        kwargs: Of the `DataLoader`.

    Raises:
        ValueError: `batch_size` or `window` is below 1.
    """
    sampler = LengthBatchSampler(
        sequences.sizes, batch_size, seed=seed, shuffle=shuffle, window=window
    )
    dataset = SequenceDataset(sequences)
    return ResumableLoader(dataset, batch_sampler=sampler, collate_fn=as_made, **kwargs)


def unpack(batch: SequenceBatch) -> tuple[Tensor, Masked, dict[str, Any]]:
    """The values of a batch, their space, and no conditions: (x, space, cond).

    Arguments:
        batch: From a :func:`loader`.
    """
    return batch.x, Masked(batch.mask, batch.observed), {}


def pad(items: Sequence[Tensor | np.ndarray]) -> tuple[Tensor, Tensor]:
    """Items padded with zeros to one length.

    Arguments:
        items: (n, C) each, with 1 or more rows.

    Returns:
        x (B, N, C) of float32, and the mask (B, N), True where a row is valid.

    Raises:
        ValueError: There are no items, or one has another shape.
    """
    tensors = [torch.as_tensor(item) for item in items]
    if not tensors:
        raise ValueError("there are no items to pad; give at least one (n, C).")
    for m, item in enumerate(tensors):
        if item.ndim != 2 or len(item) == 0 or item.shape[1] != tensors[0].shape[-1]:
            raise ValueError(
                f"item {m} is {tuple(item.shape)}; give (n, C), n at least 1 and C the same for all."
            )
    rows = torch.cat(tensors).to(torch.float32)
    mask = Masked.from_lengths([len(item) for item in tensors], device=rows.device).mask
    x = rows.new_zeros(*mask.shape, rows.shape[1])
    x[mask] = rows
    return x, mask


def pairs(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Pairs of items of the same size; each item is in one pair at most, and pairs are close in order.

    Arguments:
        sizes: (M,), rows of each item.

    Returns:
        (P, 2) numbers of items.
    """
    waiting: dict[int, int] = {}
    found = []
    for m, size in enumerate(np.asarray(sizes).tolist()):
        if size in waiting:
            found.append((waiting.pop(size), m))
        else:
            waiting[size] = m
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def split_items(x: Tensor, mask: Tensor) -> list[Tensor]:
    """The valid rows of each item: the inverse of :func:`pad`.

    Arguments:
        x: (B, N, C).
        mask: (B, N) booleans, True where a row is valid.

    Returns:
        B tensors (n, C).

    Raises:
        ValueError: The shapes do not match, or the mask is not of booleans.
    """
    if mask.dtype != torch.bool or x.shape[:2] != mask.shape:
        raise ValueError(
            f"x is {tuple(x.shape)} and mask {tuple(mask.shape)} of {mask.dtype}; give (B, N, C) and "
            "booleans (B, N)."
        )
    return list(torch.split(x[mask], mask.sum(1).tolist()))
