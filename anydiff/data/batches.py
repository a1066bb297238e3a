r"""Batch samplers, and a loader that can resume within an epoch.

:class:`EpochBatches` is the common part: an epoch is a list of batches that depends only on
(seed, epoch), so that a run can be interrupted between any two steps and resumed exactly. A kind of
data adds the rule that makes its batches. :class:`LengthBatchSampler` is that of sequences that are
padded to a common length. :class:`ResumableLoader` is a `DataLoader` that can save its position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch.distributed as dist
from torch.utils.data import DataLoader, Sampler

from anydiff.checks import check_whole

__all__ = [
    "EpochBatches", "LengthBatchSampler", "Position", "ResumableLoader", "Split", "as_made",
    "rank_and_size",
]  # fmt: skip


class Split(NamedTuple):
    """Numbers of items in three disjoint parts.

    Arguments:
        train: (N,) integers.
        valid: (V,) integers.
        test: (T,) integers.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def rank_and_size() -> tuple[int, int]:
    """The number of this process among those that train together, and how many they are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class Position(ABC):
    """Where a run through epochs is: the epoch, and how many of its batches were given.

    When an epoch ends or is interrupted, iterating again begins the next one. After `load_state_dict`,
    iterating goes on with the batch that came next when `state_dict` was called.

    Arguments:
        seed: Of the order.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.epoch, self.step = int(seed), 0, 0
        self._resumed = False

    @abstractmethod
    def __len__(self) -> int:
        """The number of batches of an epoch for this process."""

    def _begin(self) -> None:
        """Begin to iterate, or go on."""
        if self.step > 0 and not self._resumed:  # the last epoch was interrupted
            self.epoch, self.step = self.epoch + 1, 0
        self._resumed = False

    def _end(self) -> None:
        """End an epoch."""
        self.epoch, self.step = self.epoch + 1, 0

    @property
    def sampler(self) -> Self:
        """Itself: what trainers tell the number of the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch, unless `load_state_dict` is within it already.

        Arguments:
            epoch: Its number, from 0.
        """
        if not (self._resumed and epoch == self.epoch):
            self.epoch, self.step, self._resumed = int(epoch), 0, False

    def put_back(self) -> None:
        """Count the last batch as not used."""
        self.step -= 1

    def state_dict(self) -> dict[str, int]:
        """The position: the batch that comes next."""
        done = self.step == len(self)
        epoch, step = (self.epoch + 1, 0) if done else (self.epoch, self.step)
        return {"seed": self.seed, "epoch": epoch, "step": step, "batches": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position.

        Arguments:
            state: What `state_dict` returned.

        Raises:
            ValueError: It is of other data or another batch size.
        """
        if state["batches"] != len(self):
            raise ValueError(
                f"the saved state has {state['batches']} batches an epoch, here are {len(self)}; "
                "give the same data and batch size."
            )
        self.seed, self.epoch, self.step = state["seed"], state["epoch"], state["step"]
        self._resumed = True


class EpochBatches(Position, Sampler[list[int]]):
    """A batch sampler whose epochs are lists of batches, equally many in each.

    The order depends only on (seed, epoch).

    If n processes train together, each takes every n-th batch; batches that are left over are skipped
    in that epoch.

    Arguments:
        num_batches: Batches of an epoch, of all processes together.
        seed: Of the order.
    """

    def __init__(self, num_batches: int, *, seed: int = 0) -> None:
        super().__init__(seed)
        self.num_batches, self.given = num_batches, 0

    @abstractmethod
    def _epoch(self, rng: np.random.Generator) -> list[np.ndarray]:
        """The batches of one epoch, each the numbers of its items."""

    def __len__(self) -> int:
        return max(1, self.num_batches // rank_and_size()[1])

    def __iter__(self) -> Iterator[list[int]]:
        self._begin()
        rank, world = rank_and_size()
        batches = self._epoch(np.random.default_rng((self.seed, self.epoch)))
        batches = batches[rank % len(batches) :: world][: len(self)]
        while self.step < len(batches):
            self.step, self.given = self.step + 1, self.given + 1
            yield batches[self.step - 1].tolist()
        self._end()


class LengthBatchSampler(EpochBatches):
    """Batches of items of similar length, so that little of a padded batch is padding.

    An epoch is a new permutation of all items. It is cut into windows of several batches; the items of
    a window are sorted by length and cut into batches, and the batches are shuffled. A shorter window
    makes batches more random, a longer one saves padding. Batches differ by one item at most in size,
    and every item is used once in an epoch. Without shuffling, batches are of consecutive items.

    If lengths are very different, one long item makes all of its batch long. With `rows`, batches are cut
    by padded rows: items are sorted into groups, in each of which the longest has at most a quarter more
    rows than the shortest, and a batch has as many items of a group as its longest leaves room for, up to
    `batch_size`. Batches of short items then have more items, and steps take about the same time.

    Arguments:
        lengths: (M,), rows of each item.
        batch_size: The largest number of items in a batch.
        rows: The most rows of a batch, padding included; None sets no limit. A longer item is a batch of
            its own. There are then no windows.
        seed: Of the order.
        shuffle: Whether to shuffle.
        window: Batches in a window.

    Raises:
        ValueError: There are no items, or `batch_size`, `rows` or `window` is below 1.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int = 64,
        *,
        rows: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        window: int = 50,
    ) -> None:
        lengths = np.asarray(lengths)
        if lengths.ndim != 1 or len(lengths) == 0:
            raise ValueError(f"lengths are {lengths.shape}; give the rows of one or more items.")
        check_whole("[1, inf)", batch_size=batch_size, window=window)
        self.lengths = lengths
        self.batch_size, self.shuffle, self.window = batch_size, shuffle, window
        count = -(-len(lengths) // batch_size)
        if rows is not None:
            check_whole("[1, inf)", rows=rows)
            self._cut = self._groups(rows) if shuffle else self._consecutive(rows)
            count = sum(num for _, num in self._cut)
        self.rows = rows
        super().__init__(count, seed=seed)

    def _room(self, longest: int, rows: int) -> int:
        """How many items a batch may have if the longest of them has so many rows."""
        return int(min(max(rows // max(longest, 1), 1), self.batch_size))

    def _groups(self, rows: int) -> list[tuple[np.ndarray, int]]:
        """Items of similar length, and into how many batches they are cut."""
        order = np.argsort(self.lengths, kind="stable")
        lengths, groups, start = self.lengths[order], [], 0
        while start < len(order):
            end = int(np.searchsorted(lengths, 1.25 * lengths[start], side="right"))
            room = self._room(int(lengths[end - 1]), rows)
            groups.append((order[start:end], -(-(end - start) // room)))
            start = end
        return groups

    def _consecutive(self, rows: int) -> list[tuple[np.ndarray, int]]:
        """Consecutive items, each a batch."""
        cuts, longest = [0], 0
        for m, length in enumerate(self.lengths.tolist()):
            longest = max(longest, length)
            if m - cuts[-1] >= self._room(longest, rows):
                cuts.append(m)
                longest = length
        return [(part, 1) for part in np.split(np.arange(len(self.lengths)), cuts[1:])]

    def _epoch(self, rng: np.random.Generator) -> list[np.ndarray]:
        num, count = len(self.lengths), self.num_batches
        if self.rows is not None:
            if not self.shuffle:
                return [part for part, _ in self._cut]
            mixed = [np.array_split(rng.permutation(part), n) for part, n in self._cut]
            batches = [batch for group in mixed for batch in group]
            return [batches[k] for k in rng.permutation(count)]
        if not self.shuffle:
            return np.split(np.arange(num), np.arange(self.batch_size, num, self.batch_size))

        sizes = rng.permuted(num // count + (np.arange(count) < num % count))
        order = rng.permutation(num)
        window = np.repeat(np.arange(count) // self.window, sizes)
        order = order[np.lexsort((self.lengths[order], window))]  # stable: ties stay shuffled
        batches = np.split(order, np.cumsum(sizes)[:-1])
        return [batches[k] for k in rng.permutation(count)]


class ResumableLoader(DataLoader[Any]):
    """A `DataLoader` that can save its position within an epoch, and resume from there.

    Its `batch_sampler` is an :class:`EpochBatches`, which has the methods of the same names. The position
    is that of the batches which were used: workers ask for some more in advance.
    """

    batch_sampler: EpochBatches
    _ahead = 0
    """Batches that were asked for, but not used."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        before = self.batch_sampler.given
        for used, batch in enumerate(super().__iter__(), start=1):
            self._ahead = self.batch_sampler.given - before - used
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The position: the batch that comes next."""
        state = self.batch_sampler.state_dict()
        if self._ahead:
            epoch, step = state["epoch"], state["step"]
            if step == 0:  # all of the epoch before were asked for
                epoch, step = epoch - 1, state["batches"]
            state |= {"epoch": epoch, "step": step - self._ahead}
        return state

    def put_back(self) -> None:
        """Count the last batch as not used."""
        self._ahead += 1

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position; see :meth:`EpochBatches.load_state_dict`."""
        self.batch_sampler.load_state_dict(state)
        self._ahead = 0


T = TypeVar("T")


def as_made(batch: T) -> T:
    """The batch itself: the `collate_fn` of a dataset that makes whole batches."""
    return batch
