"""Images by name or path, and their split into training, validation and test parts."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from anydiff.data.batches import Split
from anydiff.files import PathLike
from anydiff.images.arrays import is_array, read_array
from anydiff.images.cifar import is_cifar, load_cifar
from anydiff.images.files import Size, adapt, read_folder
from anydiff.images.idx import is_mnist, read_mnist
from anydiff.images.images import ImageError, Images

__all__ = ["held_out", "load_images", "split"]


def load_images(
    data: PathLike,
    root: PathLike | None = None,
    *,
    size: Size = None,
    channels: int | None = None,
    download: bool = True,
) -> Images:
    """Images by name or path.

    - ``"digits"``: 1,797 grey 8 × 8 handwritten digits, shipped with the package (see DIGITS.md).
    - ``"cifar10"``, ``"cifar100"``: 60,000 RGB 32 × 32 photographs in ten or a hundred classes, the
      last 10,000 the test part; read from `root`, or downloaded to it
      (:func:`~anydiff.images.cifar.load_cifar`).
    - ``"mnist"`` with `root`: idx files as of MNIST (:func:`~anydiff.images.idx.read_mnist`).
    - ``"folder"`` with `root`: png, jpg and the like, in a folder or a zip
      (:func:`~anydiff.images.files.read_folder`).
    - A path: all but the first, recognised by the files found there; or an npz or npy file
      (:func:`~anydiff.images.arrays.read_array`).

    Arguments:
        data: The name or path.
        root: The folder or file; for CIFAR, `anydiff` in `$XDG_CACHE_HOME` or in `~/.cache` by default.
        size: Pixels of a side, or (height, width): the largest centred part of this aspect is
            resampled to it (Lanczos, antialiased). Needed for a folder of images of different sizes.
        channels: 1 converts images to grey, 3 to RGB; by default they are kept, and those of a
            folder are grey if all of them are.
        download: Whether to download CIFAR where it is missing.

    Raises:
        ImageError: There are no such data, or a file is faulty; the message names it.
        ValueError: `size` or `channels` is out of range.
    """
    kind, place = _kind(data, root)
    if kind == "folder":
        return read_folder(place, size=size, channels=channels)
    if kind == "digits":
        images = _digits()
    elif kind == "mnist":
        images = read_mnist(place)
    elif kind == "array":
        images = read_array(place)
    else:
        images = load_cifar(kind, place or None, download=download and data == kind)
    return adapt(images, size, channels)


def _kind(data: PathLike, root: PathLike | None) -> tuple[str, PathLike]:
    """Which kind it is, and where; "" is the default place."""
    if data in ("cifar10", "cifar100", "mnist", "folder"):
        if root is None and data in ("mnist", "folder"):
            raise ImageError(f'"{data}" needs the path of its files as root.')
        return str(data), root or ""
    if root is not None:
        raise ImageError(
            f'data is "{data}" and root "{root}"; a root goes with "cifar10", "cifar100", "mnist" and '
            '"folder" only.'
        )
    if data == "digits":
        return "digits", ""
    path = Path(data)
    if (cifar := is_cifar(path)) is not None:
        return cifar, path
    if is_mnist(path):
        return "mnist", path
    if is_array(path):
        return "array", path
    if path.is_dir() or (path.is_file() and zipfile.is_zipfile(path)):
        return "folder", path
    what = "a file of no known kind" if path.exists() else "no such file or folder"
    raise ImageError(
        f'{path}: {what}; give "digits", "cifar10", "cifar100", or the path of a folder or zip of '
        "images, of CIFAR's python files, of idx files as of MNIST, or of an npz or npy file."
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


def split(images: Images) -> Split:
    """Numbers of the images for training, validation and test, the same at every call.

    If the data set's authors defined a test part, it is used; the last tenth of a permutation of the
    other images, at most 1,000, is for validation. Otherwise a permutation is cut at 70 and 75 %,
    rounded to the nearest: 1,797 digits are 1,258 / 90 / 449. Permutations are by NumPy's legacy
    generator with seed 0.

    Arguments:
        images: The whole data set.

    Raises:
        ImageError: There are so few images that a part would be empty.
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
            f"{images.name}: {num} images, {images.num_test} of them the test part, leave "
            f"{' / '.join(str(len(part)) for part in parts)} for training, validation and test; "
            "give at least ten besides the test part."
        )
    return parts


def held_out(images: Images, num: int, shape: Sequence[int]) -> Images:
    """The first `num` images of the test part, repeated from its start if it has fewer.

    Arguments:
        images: The whole data set.
        num: How many.
        shape: (C, H, W), which a model generates.

    Raises:
        ImageError: The images have another shape, or are too few to split.
    """
    if tuple(shape) != images.shape:
        raise ImageError(
            f"{images.name}: the images are {images.shape} and the model generates {tuple(shape)}; "
            "give the data that it was trained on."
        )
    test = split(images).test
    return images.subset([test[k % len(test)] for k in range(num)])
