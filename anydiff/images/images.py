r"""Images: pixels as bytes in memory, batches of floats out.

:class:`Images` holds pictures of one size as a uint8 tensor (M, C, H, W), with labels where there are
any; it checks itself when it is built. :func:`load_images` finds them by name or path, :func:`loader`
serves them in batches, and :func:`unpack` turns a batch into what diffuses: x0 = pixels / 127.5 − 1, in
[−1, 1]. :func:`to_uint8` is the way back, exact for all 256 values. Mirroring is no chance event
here: mirrored pictures are pictures too, and an epoch has each once.

Readers are in :mod:`anydiff.images.cifar` and :mod:`anydiff.images.files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anydiff.data.batches import EpochBatches, ResumableLoader, Split, as_made
from anydiff.files import PathLike
from anydiff.spaces import Dense

__all__ = [
    "ImageBatch",
    "ImageBatchSampler",
    "ImageDataset",
    "ImageError",
    "Images",
    "from_uint8",
    "held_out",
    "load_images",
    "loader",
    "split",
    "to_uint8",
    "unpack",
]


class ImageError(ValueError):
    """Images that can't be right, or files that aren't. The message names the place."""


@dataclass(frozen=True, eq=False)
class Images:
    """Many pictures of one size, checked.

    Arguments:
        pixels: (M, C, H, W) of uint8, on the CPU. C is 1 for grey and 3 for RGB; others are possible.
        labels: (M,) integers from 0, kept as int64; None where there are none.
        classes: The labels' names; () if they have none.
        num_test: The last so many pictures are the authors' own test part.
        name: Where they come from; errors begin with it.

    Raises:
        ImageError: Arrays that don't fit together, or a label without a name among the names.
    """

    pixels: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    num_test: int = 0
    name: str = "images"

    def __post_init__(self) -> None:
        pixels = torch.as_tensor(self.pixels)
        if pixels.ndim != 4 or pixels.dtype != torch.uint8:
            hint = "; to_uint8 makes bytes of [-1, 1]" if pixels.is_floating_point() else ""
            raise ImageError(
                f"{self.name}: pixels are {tuple(pixels.shape)} of {pixels.dtype}; give uint8 "
                f"(M, C, H, W){hint}."
            )
        if pixels.numel() == 0:
            raise ImageError(f"{self.name}: pixels are {tuple(pixels.shape)}; there is no picture.")
        if pixels.device.type != "cpu":
            raise ImageError(f"{self.name}: pixels are on {pixels.device}; give them on the CPU.")
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        if not 0 <= self.num_test <= len(pixels):
            raise ImageError(
                f"{self.name}: num_test is {self.num_test}, but there are {len(pixels)} pictures."
            )
        if self.labels is not None:
            object.__setattr__(self, "labels", self._checked(torch.as_tensor(self.labels)))

    def _checked(self, labels: Tensor) -> Tensor:
        whole = (
            not (labels.is_floating_point() or labels.is_complex()) and labels.dtype != torch.bool
        )
        if labels.shape != self.pixels.shape[:1] or not whole:
            raise ImageError(
                f"{self.name}: labels are {tuple(labels.shape)} of {labels.dtype}; give one integer "
                f"for each of the {len(self.pixels)} pictures."
            )
        labels = labels.to(torch.int64)
        wrong = labels < 0
        if self.classes:
            wrong |= labels >= len(self.classes)
        if wrong.any():
            m = int(wrong.to(torch.uint8).argmax())
            most = f"to {len(self.classes) - 1}, as there are names" if self.classes else "up"
            raise ImageError(
                f"{self.name}: picture {m} has the label {int(labels[m])}; labels are from 0 {most}."
            )
        return labels

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, indices: Sequence[int] | np.ndarray | Tensor) -> Images:
        """These pictures, in this order; a boolean mask (M,) too. It has no test part of its own."""
        chosen = np.arange(len(self))[np.asarray(indices)]
        labels = None if self.labels is None else torch.from_numpy(self.labels.numpy()[chosen])
        return Images(
            torch.from_numpy(self.pixels.numpy()[chosen]), labels, self.classes, name=self.name
        )


def split(images: Images) -> Split:
    """Numbers of the pictures for training, validation and test, the same each time.

    Where the authors have a test part, it is that; of a permutation of the others the last tenth,
    at most 1,000, is for validation. Otherwise a permutation is cut at 70 and 75 %, rounded to the
    nearest: 1,797 digits are 1,258 / 90 / 449. Permutations are by NumPy's legacy generator, seed 0.

    Raises:
        ImageError: So few pictures that a part would be empty.
    """
    num, rest = len(images), len(images) - images.num_test
    order = np.random.RandomState(0).permutation(rest)
    if images.num_test > 0:
        train, valid = np.split(order, [rest - min(1000, rest // 10)])
        parts = Split(train, valid, np.arange(rest, num))
    else:
        parts = Split(*np.split(order, [(70 * num + 50) // 100, (75 * num + 50) // 100]))
    if min(map(len, parts)) == 0:
        raise ImageError(
            f"{images.name}: {num} pictures, {images.num_test} of them the test part, leave "
            f"{' / '.join(str(len(part)) for part in parts)} for training, validation and test; "
            "give at least ten besides the test part."
        )
    return parts


def held_out(images: Images, num: int, shape: Sequence[int]) -> Images:
    """The first pictures of the test part, over again where there are fewer than `num`.

    Arguments:
        shape: (C, H, W), which a model draws.

    Raises:
        ImageError: The pictures have another shape.
    """
    if tuple(shape) != images.shape:
        raise ImageError(
            f"{images.name}: the pictures are {images.shape} and the model draws {tuple(shape)}; give "
            "the data that it was trained on."
        )
    test = split(images).test
    return images.subset([test[k % len(test)] for k in range(num)])


# scale --------------------


def from_uint8(pixels: Tensor) -> Tensor:
    """Bytes 0 … 255 to float32 in [−1, 1]: pixels / 127.5 − 1."""
    if pixels.dtype != torch.uint8:
        raise ValueError(f"pixels are of {pixels.dtype}; give uint8.")
    return pixels.to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """The inverse of :func:`from_uint8`: (x + 1) · 127.5, rounded, what lies outside 0 … 255 clamped.

    Raises:
        ValueError: x isn't floating, or isn't finite.
    """
    if not x.is_floating_point():
        raise ValueError(f"x is of {x.dtype}; give floating numbers in [-1, 1].")
    x = x.float()  # bfloat16 can't tell all bytes apart
    if not (finite := torch.isfinite(x)).all():
        raise ValueError(
            f"{int((~finite).sum())} of the {x.numel()} values of x aren't finite, which have no "
            "colour; the sampling or the network went astray."
        )
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


# batches --------------------


class ImageBatch(NamedTuple):
    """Pictures as they are kept, ready to move to a device."""

    pixels: Tensor
    """(B, C, H, W) of uint8."""
    labels: Tensor | None = None
    """(B,) of int64, if asked for."""


class ImageBatchSampler(EpochBatches):
    """Batches of a fresh permutation in each epoch; every item is used once.

    Batches differ by one item at most. Without shuffling, batches are consecutive items and the last
    may be shorter.

    Arguments:
        num: Items there are.
        batch_size: The most items in a batch.
    """

    def __init__(
        self, num: int, batch_size: int = 128, *, seed: int = 0, shuffle: bool = True
    ) -> None:
        for name, value in (("num", num), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        super().__init__(-(-num // batch_size), seed=seed)
        self.num, self.batch_size, self.shuffle = num, batch_size, shuffle

    def _epoch(self, rng: np.random.Generator) -> list[np.ndarray]:
        if not self.shuffle:
            return np.split(
                np.arange(self.num), np.arange(self.batch_size, self.num, self.batch_size)
            )
        return np.array_split(rng.permutation(self.num), self.num_batches)


class ImageDataset(Dataset):
    """Images as a torch dataset that makes a whole :class:`ImageBatch` at once.

    Arguments:
        flip: Item M + m is picture m mirrored, left for right.
        labels: Give the labels too.
    """

    def __init__(self, images: Images, *, flip: bool = False, labels: bool = False) -> None:
        if labels and images.labels is None:
            raise ImageError(f"{images.name}: the pictures have no labels; leave out labels=True.")
        self.images, self.flip, self.labels = images, flip, labels

    def __len__(self) -> int:
        return len(self.images) * (2 if self.flip else 1)

    def __getitem__(self, m: int) -> Tensor:
        if not -len(self) <= m < len(self):
            raise IndexError(f"item {m} of {len(self)}")
        return self.__getitems__([m % len(self)]).pixels[0]  # a picture; batches have the labels

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

    Its `batch_sampler` is an :class:`ImageBatchSampler`. Batches are made by indexing an array, which
    is quicker than sending them between processes: keep `num_workers` at 0.

    Arguments:
        flip: Mirrored pictures are pictures too: an epoch has all of them both ways, and is twice as
            long.
        labels: Give the labels as the condition `label`.
    """
    dataset = ImageDataset(images, flip=flip, labels=labels)
    sampler = ImageBatchSampler(len(dataset), batch_size, seed=seed, shuffle=shuffle)
    return ResumableLoader(dataset, batch_sampler=sampler, collate_fn=as_made, **kwargs)


def unpack(batch: ImageBatch) -> tuple[Tensor, Dense, dict[str, Any]]:
    """A batch -> (x0, space, cond): x0 (B, C, H, W) in [−1, 1], cond {} or {"label": (B,)}."""
    cond = {} if batch.labels is None else {"label": batch.labels}
    return from_uint8(batch.pixels), Dense(), cond


# by name or path --------------------


def load_images(
    data: PathLike,
    root: PathLike | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    download: bool = True,
) -> Images:
    """Images by name or path.

    - ``"digits"``: 1,797 grey 8 × 8 handwritten digits, shipped with the package (see DIGITS.md).
    - ``"cifar10"``: 60,000 RGB 32 × 32 photographs in ten classes, the last 10,000 the test part; from
      `root` if they are there, or downloaded to it (:func:`~anydiff.images.cifar.load_cifar10`).
    - ``"mnist"`` with `root`: files as MNIST has them (:func:`~anydiff.images.files.read_mnist`).
    - ``"folder"`` with `root`: png, jpg and the like (:func:`~anydiff.images.files.read_folder`).
    - A path: one of these three, by what is there.

    Arguments:
        root: The folder or file. Of ``"cifar10"`` by default `anydiff` in `$XDG_CACHE_HOME` or in
            `~/.cache`.
        size: Pixels of a side, or (height, width): the largest centred part of this aspect is
            resampled to it (Lanczos, antialiased). A folder of pictures needs it if they differ.
        channels: 1 makes pictures grey, 3 makes them RGB; by default they stay as they are, and those
            of a folder are grey if all are.
        download: Fetch CIFAR-10 where it is missing.

    Raises:
        ImageError: No such data, or faulty files; the message names them.
    """
    from anydiff.images.cifar import load_cifar10
    from anydiff.images.files import adapt, read_folder, read_mnist

    kind, place = _kind(data, root)
    if kind == "folder":
        return read_folder(place, size=size, channels=channels)
    if kind == "digits":
        images = _digits()
    elif kind == "mnist":
        images = read_mnist(place)
    else:
        images = load_cifar10(place or None, download=download and data == "cifar10")
    return adapt(images, size, channels)


def _kind(data: PathLike, root: PathLike | None) -> tuple[str, PathLike]:
    """Which of the four kinds it is, and where; "" is nowhere in particular."""
    from anydiff.images.cifar import is_cifar10
    from anydiff.images.files import is_mnist

    if data in ("cifar10", "mnist", "folder"):
        if root is None and data != "cifar10":
            raise ImageError(f'"{data}" needs the path of its files as root.')
        return str(data), root or ""
    if root is not None:
        raise ImageError(
            f'data is "{data}" and root "{root}"; a root goes with "cifar10", "mnist" and "folder" '
            "only."
        )
    if data == "digits":
        return "digits", ""
    path = Path(data)
    if is_cifar10(path):
        return "cifar10", path
    if is_mnist(path):
        return "mnist", path
    if path.is_dir():
        return "folder", path
    what = "a file of no known kind" if path.exists() else "no such file or folder"
    raise ImageError(
        f'{path}: {what}; give "digits", "cifar10", or the path of a folder of pictures, of '
        "CIFAR-10's python files, or of files as MNIST has them."
    )


def _digits() -> Images:
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        values, labels = file["pixels"], file["labels"]
    pixels = (values.astype(np.uint16) * 255 + 8) // 16  # 0 … 16 to 0 … 255, to the nearest
    return Images(
        torch.from_numpy(pixels.astype(np.uint8)[:, None]),
        torch.from_numpy(labels.astype(np.int64)),
        tuple("0123456789"),
        name="digits",
    )
