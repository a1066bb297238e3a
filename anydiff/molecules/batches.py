r"""Batches of molecules: of equal cost, made from arrays, resumable.

A molecule of n atoms costs n², the number of its pairs; :class:`SizeBatchSampler` makes batches of
nearly equal Σn², so that all steps take the same time and memory. :class:`MoleculeDataset` makes a PyG
`Batch` by indexing whole arrays, which is many times faster than collating `Data` objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anydiff.checks import check_range
from anydiff.data.batches import EpochBatches, ResumableLoader, as_made
from anydiff.extras import extra
from anydiff.molecules.molecules import Molecules, both_ways

__all__ = ["MoleculeDataset", "SizeBatchSampler", "loader"]


class SizeBatchSampler(EpochBatches):
    """Batches of nearly equal cost, where a molecule of n atoms costs n², the number of its pairs.

    Molecules are dealt like cards: they are ordered by size with ties shuffled, and every group of K
    consecutive ones goes to the K batches of the epoch in random order, one to each. All batches then
    have nearly the same number of molecules and of pairs, and the number of batches is the same in
    every epoch. Every molecule is used once in an epoch. Without shuffling, batches are consecutive
    molecules.

    Epochs, seeds, resumption and several processes are as in
    :class:`~anydiff.data.batches.EpochBatches`.

    Arguments:
        sizes: (M,), the number of atoms of each molecule.
        batch_size: The most molecules in a batch; give either this or `budget`.
        budget: The most Σn² in a batch.
        seed: Determines the order, together with the epoch.
        shuffle: Whether to deal the molecules at random.

    Raises:
        ValueError: `sizes` are empty, both or neither of `batch_size` and `budget` are given, or one of
            them is too small.
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
        if sizes.ndim != 1 or len(sizes) == 0 or sizes.dtype.kind not in "iu" or sizes.min() < 1:
            raise ValueError(
                f"sizes are {sizes.shape} of {sizes.dtype}; give whole numbers of atoms, one or more."
            )
        if (batch_size is None) == (budget is None):
            raise ValueError("give either batch_size or budget.")
        if batch_size is not None and not (batch_size >= 1 and batch_size % 1 == 0):
            raise ValueError(f"batch_size is {batch_size}; give a whole number from 1.")
        check_range("[1, inf)", budget=1 if budget is None else budget)
        self.cost = sizes.astype(np.int64) ** 2
        if budget is not None and budget < self.cost.max():
            raise ValueError(f"budget is {budget}; the largest molecule costs {self.cost.max()}.")
        self.batch_size, self.budget, self.shuffle = batch_size, budget, shuffle
        super().__init__(self._count_dealt() if shuffle else len(self._consecutive()), seed=seed)

    def _dealt_bound(self, num: int) -> int:
        """An upper bound of the cost of a batch for `num` batches: the sum of each group's largest."""
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
        order = np.concatenate([np.full(missing, -1), order])  # gaps, among the smallest
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


class MoleculeDataset(Dataset[Any]):
    """Molecules as a torch dataset that makes a whole PyG `Batch` at once from the arrays.

    A batch has pos, z, batch, ptr and, if they are known, y (B, P) of properties, charges (N,), and bonds
    as graphs have them in PyG: edge_index (2, 2E), each bond in both directions, one after the other,
    with its order in edge_attr (2E,).

    Arguments:
        molecules: The molecules.
        numbers: (M,), a number for each, of the data that they are a part of for instance; batches then
            have `number` (B,), those of their molecules.
    """

    def __init__(self, molecules: Molecules, numbers: np.ndarray | None = None) -> None:
        self.molecules, self.numbers = molecules, numbers

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
        index = np.repeat(np.arange(len(numbers)), sizes)
        ptr = torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)]))
        # the records of `Batch.from_data_list`, which `to_data_list` needs
        slices, shifts = {"pos": ptr, "z": ptr}, dict[str, Tensor]()
        if self.molecules.props is not None:
            fields["y"] = self.molecules.props[numbers].astype(np.float32)
            slices["y"] = torch.arange(len(numbers) + 1)
        if self.molecules.charges is not None:
            fields["charges"] = self.molecules.charges[rows].astype(np.int64)
            slices["charges"] = ptr
        if self.molecules.bonds is not None:
            bonds, orders, counts = self.molecules.bonds_of(numbers)
            fields["edge_index"], fields["edge_attr"] = both_ways(bonds, orders)
            edges = torch.from_numpy(np.concatenate([[0], 2 * np.cumsum(counts)]))
            slices |= {"edge_index": edges, "edge_attr": edges}
            shifts["edge_index"] = ptr[:-1]
        if self.numbers is not None:
            fields["number"] = self.numbers[numbers].astype(np.int64)
            slices["number"] = torch.arange(len(numbers) + 1)
        tensors = {key: torch.from_numpy(array) for key, array in fields.items()}
        batch = Batch(batch=torch.from_numpy(index), ptr=ptr, **tensors)

        none = torch.zeros(len(numbers), dtype=torch.long)
        batch._num_graphs = len(numbers)
        batch._slice_dict = slices
        batch._inc_dict = {key: shifts.get(key, none) for key in fields}
        return batch


def loader(
    molecules: Molecules,
    batch_size: int | None = 64,
    *,
    budget: float | None = None,
    shuffle: bool = True,
    seed: int = 0,
    of: np.ndarray | None = None,
    **kwargs: Any,
) -> ResumableLoader:
    """A torch `DataLoader` of PyG batches, ready for :meth:`Atoms.unpack`.

    Batches are made by indexing arrays, which is faster than sending them between processes: keep
    `num_workers` at 0.

    Arguments:
        molecules: The molecules.
        batch_size: The most molecules in a batch.
        budget: The most Σn² in a batch, used instead of `batch_size`; see :class:`SizeBatchSampler`.
        shuffle: Whether to deal the molecules at random in each epoch.
        seed: Of the order.
        of: (M,), a number for each molecule, as :class:`MoleculeDataset` takes them.
        **kwargs: Passed on to `DataLoader`.

    Raises:
        ValueError: `batch_size` or `budget` is too small.
    """
    size = None if budget is not None else batch_size
    sampler = SizeBatchSampler(molecules.sizes, size, budget, seed=seed, shuffle=shuffle)
    dataset = MoleculeDataset(molecules, of)
    return ResumableLoader(dataset, batch_sampler=sampler, collate_fn=as_made, **kwargs)
