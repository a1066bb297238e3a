r"""Batches of molecules: level in cost, made from arrays, resumable.

The cost of a molecule of n atoms is n², its pairs; :class:`SizeBatchSampler` makes batches of
nearly equal Σn², so that a step takes the same time and memory all along. :class:`MoleculeDataset`
makes a PyG `Batch` by indexing whole arrays, which is many times quicker than collating `Data`
objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from anydiff.data.batches import EpochBatches, ResumableLoader, as_made
from anydiff.extras import extra
from anydiff.molecules.molecules import Molecules

__all__ = ["MoleculeDataset", "SizeBatchSampler", "loader"]


class SizeBatchSampler(EpochBatches):
    """Batches of level cost, the cost of a molecule of n atoms being n² (its pairs).

    Molecules are dealt like cards: ordered by size with ties shuffled, every group of K
    consecutive ones goes to the K batches of the epoch in random order, one to each. So all batches
    hold nearly the same number of molecules and of pairs, a step takes the same time and memory,
    and the number of batches doesn't change from epoch to epoch. Every molecule is used once in an
    epoch. Without shuffling, batches are consecutive molecules.

    Epochs, seeds, resumption and several processes are as in :class:`EpochBatches`.

    Arguments:
        sizes: (M,), atoms of each molecule.
        batch_size: The most molecules in a batch; or
        budget: the most Σn² in a batch.
    """

    def __init__(
        self,
        sizes: Sequence[int] | np.ndarray,
        batch_size: int | None = None,
        budget: float | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        sizes = np.asarray(sizes)
        if sizes.ndim != 1 or len(sizes) == 0:
            raise ValueError(f"sizes are {sizes.shape}; give the atoms of one or more molecules.")
        if (batch_size is None) == (budget is None):
            raise ValueError("give either batch_size or budget.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        self.cost = sizes.astype(np.int64) ** 2
        if budget is not None and budget < self.cost.max():
            raise ValueError(
                f"budget is {budget} but the largest molecule alone costs {self.cost.max()}."
            )
        self.batch_size, self.budget, self.shuffle = batch_size, budget, shuffle
        super().__init__(self._count_dealt() if shuffle else len(self._consecutive()), seed=seed)

    def _dealt_bound(self, num: int) -> int:
        """The most that any dealing into `num` batches can cost: each group's largest, summed."""
        return int(np.sort(self.cost)[::-1][::num].sum())

    def _count_dealt(self) -> int:
        if self.budget is None:
            assert self.batch_size is not None
            return -(-len(self.cost) // self.batch_size)
        low, high = -(-int(self.cost.sum()) // int(self.budget)), len(self.cost)
        while low < high:  # the bound falls as the number of batches grows
            middle = (low + high) // 2
            if self._dealt_bound(middle) <= self.budget:
                high = middle
            else:
                low = middle + 1
        return low

    def _dealt(self, rng: np.random.Generator) -> list[np.ndarray]:
        shuffled = rng.permutation(len(self.cost))
        order = shuffled[np.argsort(self.cost[shuffled], kind="stable")]
        missing = -len(order) % self.num_batches
        order = np.concatenate([np.full(missing, -1), order])  # gaps take the place of small ones
        groups = rng.permuted(order.reshape(-1, self.num_batches), axis=1)
        batches = rng.permuted(groups.T, axis=1)
        return [batch[batch >= 0] for batch in batches]

    def _consecutive(self) -> list[np.ndarray]:
        numbers = np.arange(len(self.cost))
        if self.batch_size is not None:
            return np.split(numbers, numbers[self.batch_size :: self.batch_size])
        total = np.concatenate([[0], np.cumsum(self.cost)])
        cuts = [0]
        while cuts[-1] < len(numbers):
            limit = total[cuts[-1]] + self.budget
            cuts.append(int(np.searchsorted(total, limit, side="right")) - 1)
        return np.split(numbers, cuts[1:-1])

    def _epoch(self, rng: np.random.Generator) -> list[np.ndarray]:
        return self._dealt(rng) if self.shuffle else self._consecutive()


class MoleculeDataset(Dataset):
    """Molecules as a torch dataset that makes a whole PyG `Batch` at once from the arrays.

    A batch has pos, z, batch, ptr and, where there are properties, y (B, P).
    """

    def __init__(self, molecules: Molecules) -> None:
        self.molecules = molecules

    def __len__(self) -> int:
        return len(self.molecules)

    def __getitem__(self, m: int) -> Any:
        return self.molecules[m]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        with extra("molecules"):
            from torch_geometric.data import Batch

        # NumPy does the indexing: torch wakes its threads even for a few rows
        numbers = np.asarray(indices)
        sizes, rows = self.molecules.sizes[numbers], self.molecules.rows(numbers)
        fields = {"pos": self.molecules.pos[rows], "z": self.molecules.z[rows].astype(np.int64)}
        if self.molecules.props is not None:
            fields["y"] = self.molecules.props[numbers].astype(np.float32)
        index = np.repeat(np.arange(len(numbers)), sizes)
        ptr = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]))
        tensors = {key: torch.from_numpy(array) for key, array in fields.items()}
        batch = Batch(batch=torch.from_numpy(index), ptr=ptr, **tensors)

        # what `Batch.from_data_list` records, so that `to_data_list` works
        each = torch.arange(len(numbers) + 1)
        batch._num_graphs = len(numbers)
        batch._slice_dict = {key: each if key == "y" else ptr for key in fields}
        batch._inc_dict = {key: torch.zeros(len(numbers)) for key in fields}
        return batch


def loader(
    molecules: Molecules,
    batch_size: int | None = 64,
    *,
    budget: float | None = None,
    shuffle: bool = True,
    seed: int = 0,
    num_workers: int = 0,
    **kwargs: Any,
) -> ResumableLoader:
    """A torch `DataLoader` of PyG batches, ready for `Atoms.unpack`.

    Its `batch_sampler` is a :class:`SizeBatchSampler`. Batches are made by indexing arrays, which
    is quicker than sending them between processes: keep `num_workers` at 0.

    Arguments:
        batch_size: The most molecules in a batch.
        budget: The most Σn² in a batch, instead of `batch_size`.
    """
    size = None if budget is not None else batch_size
    sampler = SizeBatchSampler(molecules.sizes, size, budget, seed=seed, shuffle=shuffle)
    dataset = MoleculeDataset(molecules)
    return ResumableLoader(
        dataset, batch_sampler=sampler, collate_fn=as_made, num_workers=num_workers, **kwargs
    )
