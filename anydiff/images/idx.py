r"""Files in the idx format of MNIST, Fashion-MNIST, KMNIST, EMNIST and the like, compressed (.gz) or not.

A file of images is called `train-images-idx3-ubyte`, or `t10k-…` or `test-…`, perhaps with the name of
its data set before that, and that of its labels is found beside it. As the authors of EMNIST left them,
its images have rows and columns exchanged.
"""

from __future__ import annotations

import gzip
import math
import re
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch

from anydiff.files import PathLike
from anydiff.images.images import ImageError, Images, check_size

__all__ = ["is_mnist", "read_idx", "read_mnist"]

_NAME = re.compile(
    r"(?P<set>.*?)(?P<part>train|t10k|test)[-_](?P<kind>images|labels)[-.]idx[13]-ubyte(\.gz)?",
    re.IGNORECASE,
)
# where torchvision keeps them, below its root
_SETS = ("MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST")


class _File:
    """An idx file with a name as MNIST's: its data set, part ("train" or "test") and kind."""

    def __init__(self, path: Path) -> None:
        match = _NAME.fullmatch(path.name)
        self.path, self.named = path, match is not None
        parts = match.groupdict() if match else {}
        self.set = (parts.get("set") or "").strip("-_ ").lower()
        self.part = "train" if (parts.get("part") or "").lower() == "train" else "test"
        self.kind = (parts.get("kind") or "").lower()


def _idx_files(folder: Path) -> dict[tuple[str, str, str], Path]:
    """Files in a folder by (data set, part, kind); uncompressed ones come first."""
    found: dict[tuple[str, str, str], Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.suffix == ".gz", path.name)):
        file = _File(path)
        if file.named and path.is_file():
            found.setdefault((file.set, file.part, file.kind), path)
    return found


def _folders(path: Path) -> list[Path]:
    """The folders that hold images: the folder itself, or else those of torchvision below it."""
    below = [path / "raw", *(path / name / "raw" for name in _SETS)]
    for group in ([path], below):
        folders = [folder for folder in group if folder.is_dir()]
        if held := [f for f in folders if any(kind == "images" for *_, kind in _idx_files(f))]:
            return held
    return []


def is_mnist(path: PathLike) -> bool:
    """Whether a path is a folder with idx files named as MNIST's, or an idx file of images.

    Arguments:
        path: A file or folder, which need not exist.
    """
    path = Path(path)
    if path.is_dir():
        return bool(_folders(path))
    if not path.is_file():
        return False
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            return file.read(4) == b"\0\0\x08\x03"
    except (OSError, EOFError, zlib.error):
        return False


def read_idx(path: PathLike) -> np.ndarray:
    """The bytes of an idx file, compressed (.gz) or not, as an array of uint8.

    Arguments:
        path: The file; its header gives the array's shape.

    Raises:
        ImageError: The file is missing, of another format, not of bytes, cut short or too long; or it is
            small and would fill the memory.
    """
    path = Path(path)
    compressed = path.suffix.lower() == ".gz"
    if not path.is_file():
        what = "not a file" if path.exists() else "there is no such file"
        raise ImageError(f"{path}: {what}.")
    try:
        with (gzip.open if compressed else open)(path, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
                raise ImageError(
                    f"{path}: begins with {magic.hex(' ') or 'nothing'}; an idx file of bytes begins "
                    "with 00 00 08 and the number of its axes."
                )
            head = file.read(4 * magic[3])
            shape = np.frombuffer(head[: len(head) // 4 * 4], ">u4").tolist()
            num, packed = math.prod(shape), path.stat().st_size
            # deflate compresses at most 1,032 bytes into one
            if len(shape) < magic[3] or num > packed * (1032 if compressed else 1):
                raise ImageError(f"{path}: cut short; it should hold {_times(shape)} bytes.")
            check_size(num, packed, str(path))
            raw = file.read(num + 1)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise ImageError(f"{path}: cannot be read, or is cut short ({error}).") from error
    if len(raw) != num:
        what = "more than" if len(raw) > num else f"only {len(raw):,} of"
        raise ImageError(f"{path}: holds {what} the {_times(shape)} bytes of its header.")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _times(shape: list[int]) -> str:
    return " × ".join(f"{n:,}" for n in shape)


def read_mnist(path: PathLike) -> Images:
    """Grey images from idx files named as MNIST's, with their labels where there are files of them.

    A warning says where a file of labels was looked for and is missing.

    Arguments:
        path: A folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same for
            `t10k` or `test`, the test part; a name before that, a dot before idx and compressed files
            (.gz) are accepted. Or the folder in which torchvision keeps them under `MNIST/raw`. Or one
            such file of images, whose labels are looked for in the same folder.

    Raises:
        ImageError: The files are missing, faulty, of several data sets, or do not fit together.

    References:
        Gradient-based learning applied to document recognition (LeCun et al., 1998).
        https://doi.org/10.1109/5.726791
        EMNIST: an extension of MNIST to handwritten letters (Cohen et al., 2017).
        https://arxiv.org/abs/1702.05373
    """
    path = Path(path)
    if not path.is_dir():
        file = _File(path)
        beside = _idx_files(path.parent) if file.named and path.exists() else {}
        labels = beside.get((file.set, file.part, "labels")) if file.kind == "images" else None
        return _together([(path, labels)], str(path))
    folders = _folders(path)
    if not folders:
        raise ImageError(
            f"{path}: there are no images like train-images-idx3-ubyte or .gz in it; it holds "
            f"{_some(path)}."
        )
    found = {(f, *key): file for f in folders for key, file in _idx_files(f).items()}
    sets = sorted({(f, name) for f, name, _, kind in found if kind == "images"})
    if len(sets) > 1:
        names = ", ".join(name or str(folder) for folder, name in sets)
        raise ImageError(f"{path}: holds several data sets, {names}; give the files of one.")
    key = sets[0]
    parts = [part for part in ("train", "test") if (*key, part, "images") in found]
    files = [(found[*key, part, "images"], found.get((*key, part, "labels"))) for part in parts]
    return _together(files, str(path), last_is_test=len(parts) == 2)


def _together(
    files: list[tuple[Path, Path | None]], name: str, last_is_test: bool = False
) -> Images:
    """The images of one or two files with their labels."""
    missing = [image for image, label in files if label is None]
    if 0 < len(missing) < len(files):
        raise ImageError(f"{missing[0]}: has no file of labels, but the other part has one.")
    pixels: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for image, label in files:
        values = read_idx(image)
        if values.ndim != 3:
            raise ImageError(f"{image}: holds {_times(list(values.shape))} bytes, not images.")
        if pixels and values.shape[1:] != pixels[0].shape[1:]:
            raise ImageError(
                f"{image}: images of {_times(list(values.shape[1:]))}, but those of {files[0][0]} are "
                f"{_times(list(pixels[0].shape[1:]))}."
            )
        pixels.append(values)
        if label is not None:
            numbers = read_idx(label)
            if numbers.shape != values.shape[:1]:
                raise ImageError(
                    f"{label}: {_times(list(numbers.shape))} labels for the {len(values):,} images of "
                    f"{image}."
                )
            labels.append(numbers.astype(np.int64))
    if missing and _File(missing[0]).named:
        wanted = re.sub("(?i)images", "labels", missing[0].name)
        wanted = re.sub("(?i)idx3", "idx1", wanted)
        warnings.warn(f"{missing[0]}: there are no labels, {wanted}, beside it.", stacklevel=4)
    number = torch.from_numpy(np.concatenate(labels)) if labels else None
    classes = () if number is None or len(number) == 0 else map(str, range(int(number.max()) + 1))
    together = torch.from_numpy(np.concatenate(pixels)[:, None])
    return Images(together, number, tuple(classes), len(pixels[-1]) if last_is_test else 0, name)


def _some(folder: Path) -> str:
    """A few names in a folder, for an error message."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "") if names else "nothing"
