"""Batches of images: made from arrays, resumable, mirrored on request.

Flips are not random: with `flip=True` an epoch contains every image and its mirror image once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anydiff.checks import check_range
from anydiff.data.batches import EpochBatches, ResumableLoader, as_made
from anydiff.images.images import ImageError, Images, from_uint8
from anydiff.spaces import Dense

__all__ = ["ImageBatch", "ImageBatchSampler", "ImageDataset", "loader", "unpack"]


class ImageBatch(NamedTuple):
    """Images as they are stored, ready to move to a device."""

    pixels: Tensor
    """(B, C, H, W) of uint8."""
    labels: Tensor | None = None
    """(B,) of int64, if asked for."""


class ImageBatchSampler(EpochBatches):
    """Batches of a new permutation in each epoch; every item is used once.

    The sizes of two batches differ by one at most. Without shuffling, batches are consecutive items
    and the last may be shorter. Epochs, seeds, resumption and several processes are as in
    :class:`~anydiff.data.batches.EpochBatches`.

    Arguments:
        num: The number of items.
        batch_size: The most items in a batch.
        seed: Determines the order, together with the epoch.
        shuffle: Whether to permute the items.

    Raises:
        ValueError: `num` or `batch_size` is less than 1.
    """

    def __init__(
        self, num: int, batch_size: int = 128, *, seed: int = 0, shuffle: bool = True
    ) -> None:
        check_range("[1, inf)", num=num, batch_size=batch_size)
        super().__init__(-(-num // batch_size), seed=seed)
        self.num, self.batch_size, self.shuffle = num, batch_size, shuffle

    def _epoch(self, rng: np.random.Generator) -> list[np.ndarray]:
        if not self.shuffle:
            numbers = np.arange(self.num)
            return np.split(numbers, numbers[self.batch_size :: self.batch_size])
        return np.array_split(rng.permutation(self.num), self.num_batches)


class ImageDataset(Dataset[Any]):
    """Images as a torch dataset that makes a whole :class:`ImageBatch` at once.

    Arguments:
        images: The images.
        flip: Add the mirror images: item M + m is image m with left and right exchanged.
        labels: Whether batches contain the labels.

    Raises:
        ImageError: `labels` is True and the images have none.
    """

    def __init__(self, images: Images, *, flip: bool = False, labels: bool = False) -> None:
        if labels and images.labels is None:
            raise ImageError(f"{images.name}: the images have no labels; leave out labels=True.")
        self.images, self.flip, self.labels = images, flip, labels

    def __len__(self) -> int:
        return len(self.images) * (2 if self.flip else 1)

    def __getitem__(self, m: int) -> Tensor:
        if not -len(self) <= m < len(self):
            raise IndexError(f"item {m} of {len(self)}")
        return self.__getitems__([m % len(self)]).pixels[0]  # an image; batches have the labels

    def __getitems__(self, indices: Sequence[int]) -> ImageBatch:
        # NumPy does the indexing: torch wakes its threads even for a few rows
        mirrored, numbers = np.divmod(np.asarray(indices), len(self.images))
        pixels = self.images.pixels.numpy()[numbers]
        if self.flip:
            mirrored = mirrored.astype(bool)
            pixels[mirrored] = pixels[mirrored, ..., ::-1]
        labels = None
        if self.labels and self.images.labels is not None:
            labels = torch.from_numpy(self.images.labels.numpy()[numbers])
        return ImageBatch(torch.from_numpy(pixels), labels)


def loader(
    images: Images,
    batch_size: int = 128,
    *,
    seed: int = 0,
    shuffle: bool = True,
    flip: bool = False,
    labels: bool = False,
    **kwargs: Any,
) -> ResumableLoader:
    """A torch `DataLoader` of :class:`ImageBatch`, ready for :func:`unpack`.

    Batches are made by indexing an array, which is faster than sending them between processes: keep
    `num_workers` at 0.

    Arguments:
        images: The images.
        batch_size: The most images in a batch.
        seed: Of the order; see :class:`ImageBatchSampler`.
        shuffle: Whether to permute the images in each epoch.
        flip: Add the mirror images; an epoch is then twice as long.
        labels: Whether batches contain the labels, which become the condition `label`.
        **kwargs: Passed on to `DataLoader`.

    Raises:
        ImageError: `labels` is True and the images have none.
        ValueError: `batch_size` is less than 1.
    """
    dataset = ImageDataset(images, flip=flip, labels=labels)
    sampler = ImageBatchSampler(len(dataset), batch_size, seed=seed, shuffle=shuffle)
    return ResumableLoader(dataset, batch_sampler=sampler, collate_fn=as_made, **kwargs)


def unpack(batch: ImageBatch) -> tuple[Tensor, Dense, dict[str, Any]]:
    """A batch -> (x0, space, cond): x0 (B, C, H, W) in [−1, 1], cond {} or {"label": (B,)}.

    Arguments:
        batch: From :func:`loader`.
    """
    cond = {} if batch.labels is None else {"label": batch.labels}
    return from_uint8(batch.pixels), Dense(), cond
