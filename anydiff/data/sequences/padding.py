"""Sequences as padded batches, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anydiff.data.batches import LengthBatchSampler, ResumableLoader, as_made
from anydiff.data.sequences.container import SequenceError, Sequences
from anydiff.data.values import numbers, single
from anydiff.spaces import Masked

__all__ = [
    "SequenceBatch", "SequenceDataset", "loader", "pad", "pairs", "split_items", "unpack",
]  # fmt: skip


class SequenceBatch(NamedTuple):
    """Items padded to the length of the longest."""

    x: Tensor
    """(B, N, C), zero at padding and where a value is missing."""
    mask: Tensor
    """(B, N), True where a row is valid."""
    observed: Tensor | None
    """(B, N, C), True where a value is known; None if no value is missing in the data."""
    items: Tensor | None = None
    """(B,), the numbers of the items in the data, by which conditions of theirs are found."""


class SequenceDataset(Dataset[np.ndarray]):
    """Sequences as a torch dataset that makes a whole :class:`SequenceBatch` at once.

    Arguments:
        sequences: The items.
        numbers: What the items are called in batches, (M,) whole numbers; 0 to M − 1 if None.

    Raises:
        SequenceError: They are no `Sequences`, or float32 cannot tell the values of a channel apart; or
            there is not one number for each.
    """

    def __init__(self, sequences: Sequences, numbers: Any = None) -> None:
        if not isinstance(sequences, Sequences):
            kind = type(sequences).__name__
            raise SequenceError(f"the sequences are a {kind}; give Sequences.from_lists(items).")
        self.sequences, self._values = sequences, sequences.single()
        self._numbers = np.arange(len(sequences)) if numbers is None else np.asarray(numbers)
        if self._numbers.shape != (len(sequences),):
            raise SequenceError(
                f"numbers are {self._numbers.shape}; give one for each of {len(sequences)} items."
            )

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, m: int) -> np.ndarray:
        return self.sequences[m]

    def __getitems__(self, indices: Sequence[int]) -> SequenceBatch:
        # indexing by NumPy: PyTorch wakes its threads even for a few rows
        chosen = np.asarray(indices)
        sizes, rows = self.sequences.sizes[chosen], self.sequences.rows(chosen)
        mask = np.arange(sizes.max()) < sizes[:, None]

        def padded(array: np.ndarray) -> Tensor:
            whole = np.zeros((*mask.shape, array.shape[1]), array.dtype)
            whole[mask] = array[rows]
            return torch.from_numpy(whole)

        observed = self.sequences.observed
        return SequenceBatch(
            padded(self._values),
            torch.from_numpy(mask),
            None if observed is None else padded(observed),
            torch.from_numpy(self._numbers[chosen].astype(np.int64)),
        )


def loader(
    sequences: Sequences,
    batch_size: int = 64,
    *,
    rows: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    window: int = 50,
    numbers: Any = None,
    **kwargs: Any,
) -> ResumableLoader:
    """A `DataLoader` of :class:`SequenceBatch`, for :func:`unpack`.

    Batches are made by indexing arrays, which is quicker than sending them between processes: keep
    `num_workers` at 0.

    Arguments:
        sequences: The items.
        batch_size: As of :class:`~anydiff.data.batches.LengthBatchSampler`.
        rows: Likewise: the most rows of a batch, for items of very different lengths.
        seed: Likewise.
        shuffle: Likewise.
        window: Likewise.
        numbers: As of :class:`SequenceDataset`: what the items of a part are called in the whole.
        kwargs: Of the `DataLoader`.

    Raises:
        ValueError: `batch_size`, `rows` or `window` is below 1.
        SequenceError: As of :class:`SequenceDataset`.
    """
    dataset = SequenceDataset(sequences, numbers)
    sampler = LengthBatchSampler(
        sequences.sizes, batch_size, rows=rows, seed=seed, shuffle=shuffle, window=window
    )
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
        items: (n, C) each, with 1 or more rows; NaN, or the mask of a masked array, where missing.

    Returns:
        x (B, N, C) of float32, NaN where a value is missing, and the mask (B, N), True where a row is
        valid.

    Raises:
        ValueError: There are no items, or one has another shape or is not of numbers, or float32 cannot
            tell the values of a channel apart.
    """
    tensors = [_tensor(item, m) for m, item in enumerate(items)]
    if not tensors:
        raise ValueError("there are no items to pad; give at least one (n, C).")
    for m, item in enumerate(tensors):
        if item.ndim != 2 or len(item) == 0 or item.shape[1] != tensors[0].shape[-1]:
            raise ValueError(
                f"item {m} is {tuple(item.shape)}; give (n, C), n at least 1 and C the same for all."
            )
    rows = torch.cat(tensors)
    if rows.dtype == torch.float64:
        array = rows.cpu().numpy()
        rows = torch.from_numpy(single(array, np.isfinite(array))).to(rows.device)
    rows = rows.to(torch.float32)
    mask = Masked.from_lengths([len(item) for item in tensors], device=rows.device).mask
    x = rows.new_zeros(*mask.shape, rows.shape[1])
    x[mask] = rows
    return x, mask


def _tensor(item: Tensor | np.ndarray, m: int) -> Tensor:
    if isinstance(item, Tensor):
        return item
    try:
        return torch.tensor(numbers(item))
    except ValueError as error:
        raise ValueError(f"item {m} is not of numbers: it {error}; give (n, C).") from None


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


def split_items(x: Tensor | np.ndarray, mask: Tensor | np.ndarray) -> list[Tensor]:
    """The valid rows of each item: the inverse of :func:`pad`.

    Arguments:
        x: (B, N, C).
        mask: (B, N) booleans, True where a row is valid.

    Returns:
        B tensors (n, C).

    Raises:
        ValueError: The shapes do not match, or the mask is not of booleans.
    """
    x, mask = torch.as_tensor(x), torch.as_tensor(mask)
    if mask.dtype != torch.bool or x.shape[:2] != mask.shape:
        raise ValueError(
            f"x is {tuple(x.shape)} and mask {tuple(mask.shape)} of {mask.dtype}; give (B, N, C) and "
            "booleans (B, N)."
        )
    return list(torch.split(x[mask], mask.sum(1).tolist()))
