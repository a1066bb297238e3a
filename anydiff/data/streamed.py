"""Batches of data that are larger than memory, shuffled by blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from anydiff.checks import check_kind, check_whole
from anydiff.data.batches import EpochBatches, Position, ResumableLoader, rank_and_size
from anydiff.data.stored import Store

__all__ = ["Streamed"]


class Streamed(Position):
    """A loader of the batches of a store, of which two blocks of files are in memory at a time.

    In each epoch the files are permuted and taken in blocks. The items of a block are dealt into batches
    as the loader of their kind does it, while a thread reads the next block. So a batch is mixed from the
    files of one block: the more files a block has, the more random are batches, and the more memory they
    take. The order depends only on (seed, epoch). An epoch has as many batches as all the items fill; up
    to a batch of each block is left out, another one in each epoch, so that a block wants to be of many
    batches. Of n processes each takes every n-th batch.

    It can save its position, as :class:`~anydiff.data.batches.ResumableLoader` does.

    Arguments:
        store: The data.
        loader: Items in memory -> a loader of them with `batch_size`, such as
            ``lambda molecules: loader(molecules, 64)``.
        batch_size: That of the loader.
        block: Files of a block.
        seed: Of the order.

    Raises:
        ValueError: If a number is below 1, or the store is none.
    """

    def __init__(
        self,
        store: Store[Any],
        loader: Callable[[Any], ResumableLoader],
        batch_size: int = 64,
        *,
        block: int = 16,
        seed: int = 0,
    ) -> None:
        check_kind(Store, "a store, as anydiff.molecules.store opens it", store=store)
        check_whole("[1, inf)", batch_size=batch_size, block=block)
        self.store, self.loader, self.batch_size = store, loader, batch_size
        self.block = block
        super().__init__(seed)

    def __len__(self) -> int:
        world = rank_and_size()[1]
        if num := len(self.store) // self.batch_size // world:
            return num
        raise ValueError(
            f"the store has {len(self.store)} items, not a batch of {self.batch_size} for each of "
            f"{world} processes; give a smaller batch_size."
        )

    def _blocks(self) -> list[np.ndarray]:
        """The numbers of the files of each block of this epoch."""
        rng = np.random.default_rng((self.seed, self.epoch, 0))
        files = rng.permutation(len(self.store.files))
        return np.split(files, range(self.block, len(files), self.block))

    def _made(self, block: np.ndarray) -> ResumableLoader:
        return self.loader(self.store.read(*block.tolist()))

    def __iter__(self) -> Iterator[Any]:
        self._begin()
        rank, world = rank_and_size()
        blocks, first, left = self._blocks(), 0, []
        ends = np.cumsum([int(self.store.counts[block].sum()) for block in blocks])
        # whole batches until the end of each block: as many in each epoch
        for number, last in enumerate((ends // self.batch_size).tolist()):
            if last > self.step * world:  # what is done already is not read again
                left.append((number, first, last - first))
            first = last
        with ThreadPoolExecutor(1) as thread:
            ahead = thread.submit(self._made, blocks[left[0][0]]) if left else None
            for k, (number, first, count) in enumerate(left):
                assert ahead is not None
                made = ahead.result()
                if k + 1 < len(left):
                    ahead = thread.submit(self._made, blocks[left[k + 1][0]])
                for at, batch in enumerate(self._batches(made, number, count), first):
                    if self.step < len(self) and at == self.step * world + rank:
                        self.step += 1
                        yield _fetched(made, batch)
        self._end()

    def _batches(self, made: ResumableLoader, number: int, count: int) -> list[np.ndarray]:
        order: EpochBatches = made.batch_sampler
        batches = order._epoch(np.random.default_rng((self.seed, self.epoch, 1 + number)))
        if not count <= len(batches) <= count + 1:
            raise ValueError(
                f"a block has {len(batches)} batches and not {count} of {self.batch_size} items; let the "
                "loader make batches of as many items as batch_size says, each item once."
            )
        return batches[:count]


def _fetched(made: ResumableLoader, batch: np.ndarray) -> Any:
    """A batch, as a `DataLoader` makes it."""
    numbers, dataset = batch.tolist(), made.dataset
    several = getattr(dataset, "__getitems__", None)
    items = [dataset[k] for k in numbers] if several is None else several(numbers)
    return made.collate_fn(items)
