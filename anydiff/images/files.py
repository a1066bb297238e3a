r"""Image files: idx files as of MNIST, and folders of png, jpg and the like.

:func:`read_mnist` reads the idx format of MNIST, Fashion-MNIST and the like, compressed (.gz) or not.
:func:`read_folder` reads png, jpg, webp, bmp, gif and tif with Pillow. Images are brought to one size
and to grey or RGB by one rule, that of :func:`adapt`: the largest centred part of the wanted aspect,
resampled (Lanczos, antialiased); grey by the luma of ITU-R 601.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anydiff.drawing import pillow
from anydiff.extras import extra
from anydiff.files import PathLike
from anydiff.images.images import ImageError, Images

__all__ = ["Size", "adapt", "is_mnist", "read_folder", "read_idx", "read_mnist"]

Size = int | tuple[int, int] | None

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # some of Pillow's others run programs
_MANY = 1000  # files from which on a progress bar is shown


# one size, grey or RGB --------------------


def _sizes(size: Size) -> tuple[int, int] | None:
    """(height, width), or None to keep the size."""
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) >= 1):
        raise ValueError(f"size is {size}; give the pixels of a side, or (height, width).")
    return height, width


def _check_channels(channels: int | None) -> None:
    if channels not in (None, 1, 3):
        raise ValueError(f"channels is {channels}; give 1 for grey, 3 for RGB, or None.")


def _resampled(image: Any, sizes: tuple[int, int] | None) -> Any:
    if sizes is None or image.size == sizes[::-1]:
        return image
    with extra("images"):
        from PIL import Image, ImageOps

    return ImageOps.fit(image, sizes[::-1], Image.Resampling.LANCZOS)


def adapt(images: Images, size: Size = None, channels: int | None = None) -> Images:
    """The same images in another size, or as grey or RGB.

    Arguments:
        images: Grey or RGB images.
        size: Pixels of a side, or (height, width); None keeps the size.
        channels: 1 for grey, 3 for RGB; None keeps the channels.

    Raises:
        ImageError: Images of other than 1 or 3 channels would have to be changed.
        ImportError: Pillow is not installed.
        ValueError: `size` or `channels` is out of range.
    """
    from tqdm import tqdm

    sizes = _sizes(size) or images.shape[1:]
    _check_channels(channels)
    have = images.shape[0]
    want = channels or have
    if (want, *sizes) == images.shape:
        return images
    if have not in (1, 3):
        raise ImageError(f"{images.name}: {have} channels cannot be resampled or converted.")

    Image = pillow()[0]
    modes = {1: "L", 3: "RGB"}
    pixels = np.empty((len(images), *sizes, want), np.uint8)
    given = images.pixels.permute(0, 2, 3, 1).numpy()
    bar = tqdm(given, desc="resampling", unit=" images", disable=len(given) < 20 * _MANY)
    for m, values in enumerate(bar):
        image = Image.fromarray(np.ascontiguousarray(values[..., 0] if have == 1 else values))
        adapted = _resampled(image.convert(modes[want]), sizes)
        pixels[m] = np.asarray(adapted).reshape(pixels.shape[1:])
    return _images(pixels, images.labels, images.classes, images.num_test, images.name)


def _images(
    pixels: np.ndarray, labels: Any, classes: tuple[str, ...], num_test: int, name: str
) -> Images:
    """Images from pixels (M, H, W, C)."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return Images(tensor, labels, classes, num_test, name)


# idx files --------------------


_PARTS = ("train", "t10k")
_IDX = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")


def _idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """MNIST's files in a folder by (part, kind); uncompressed ones come first."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.suffix == ".gz", path.name)):
        if match := _IDX.fullmatch(path.name):
            found.setdefault((match[1], match[2]), path)
    return found


def is_mnist(path: PathLike) -> bool:
    """Whether a path is a folder with idx files named as MNIST's, or an idx file of images.

    Arguments:
        path: A file or folder, which need not exist.
    """
    path = Path(path)
    if path.is_dir():
        return any(kind == "images" for _, kind in _idx_files(path))
    if not path.is_file():
        return False
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return file.read(4) == b"\0\0\x08\x03"
    except (OSError, EOFError, zlib.error):
        return False


def read_idx(path: PathLike) -> np.ndarray:
    """The bytes of an idx file, compressed (.gz) or not, as an array of uint8.

    Arguments:
        path: The file; its header gives the array's shape.

    Raises:
        ImageError: The file is missing, of another format, not of bytes, cut short or too long.
    """
    path = Path(path)
    compressed = path.suffix == ".gz"
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
            num = math.prod(shape)
            # deflate compresses at most 1,032 bytes into one
            if len(shape) < magic[3] or num > path.stat().st_size * (1032 if compressed else 1):
                raise ImageError(f"{path}: cut short; it should hold {_times(shape)} bytes.")
            raw = file.read(num + 1)
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        if isinstance(error, FileNotFoundError):
            raise ImageError(f"{path}: there is no such file.") from error
        raise ImageError(f"{path}: cannot be read, or is cut short ({error}).") from error
    if len(raw) != num:
        what = "more than" if len(raw) > num else f"only {len(raw):,} of"
        raise ImageError(f"{path}: holds {what} the {_times(shape)} bytes of its header.")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _times(shape: list[int]) -> str:
    return " × ".join(f"{n:,}" for n in shape)


def read_mnist(path: PathLike) -> Images:
    """Grey images from idx files named as MNIST's, with their labels where there are files of them.

    Arguments:
        path: A folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same for
            `t10k`, the test part; a dot before idx and compressed files (.gz) are accepted. Or one such
            file of images, whose labels are looked for in the same folder.

    Raises:
        ImageError: The files are missing, faulty or do not fit together.

    References:
        Gradient-based learning applied to document recognition (LeCun et al., 1998).
        https://doi.org/10.1109/5.726791
    """
    path = Path(path)
    if path.is_dir():
        found = _idx_files(path)
        parts = [part for part in _PARTS if (part, "images") in found]
        if not parts:
            raise ImageError(
                f"{path}: there are no images like train-images-idx3-ubyte or .gz in it; it holds "
                f"{_some(path)}."
            )
        files = [(found[part, "images"], found.get((part, "labels"))) for part in parts]
        num_last = len(parts) == 2
    else:
        match = _IDX.fullmatch(path.name)
        beside = _idx_files(path.parent) if match and path.exists() else {}
        files = [(path, beside.get((match[1], "labels")) if match else None)]
        num_last = False

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
    number = np.concatenate(labels) if labels else None
    classes = () if number is None or len(number) == 0 else map(str, range(int(number.max()) + 1))
    num_test = len(pixels[-1]) if num_last else 0
    together = np.concatenate(pixels)[..., None]
    return _images(together, number, tuple(classes), num_test, str(path))


def _some(folder: Path) -> str:
    """A few names in a folder, for an error message."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "") if names else "nothing"


# folders --------------------


def read_folder(folder: PathLike, *, size: Size = None, channels: int | None = None) -> Images:
    """The images in a folder and its sub-folders, ordered by name; hidden files are left out.

    If every image is in a sub-folder, the names of the sub-folders are the classes. EXIF orientation
    is applied, transparent pixels are put on white, and of a film the first frame is read.

    Arguments:
        folder: The folder.
        size: Pixels of a side, or (height, width), to which images are resampled as by :func:`adapt`;
            without it, all must be of one size.
        channels: 1 converts images to grey, 3 to RGB; None is 1 if all pixels of all images are grey,
            and 3 otherwise.

    Raises:
        ImageError: There are no images, one cannot be read, or sizes differ and `size` is None.
        ImportError: Pillow is not installed.
        ValueError: `size` or `channels` is out of range.
    """
    from tqdm import tqdm

    folder, sizes = Path(folder), _sizes(size)
    _check_channels(channels)
    files = _image_files(folder)
    pixels, grey = np.empty((0, 0, 0, 0), np.uint8), True
    bar = tqdm(files, desc="reading images", unit=" files", disable=len(files) < _MANY)
    for m, path in enumerate(bar):
        image = _read(path, sizes, channels)
        if m == 0:
            pixels = np.empty((len(files), *image.shape), np.uint8)
        elif image.shape != pixels.shape[1:]:
            (h, w), (first_h, first_w) = image.shape[:2], pixels.shape[1:3]
            raise ImageError(
                f"{path}: {w} × {h} pixels, but {files[0]} is {first_w} × {first_h}; give a size "
                "to resample them to."
            )
        pixels[m] = image
        grey = grey and bool((image[..., :1] == image).all())
    if channels is None and grey:
        pixels = pixels[..., :1]

    tops = [path.relative_to(folder).parts for path in files]
    if any(len(parts) == 1 for parts in tops):
        return _images(pixels, None, (), 0, str(folder))
    classes, labels = np.unique([parts[0] for parts in tops], return_inverse=True)
    return _images(pixels, labels, tuple(classes.tolist()), 0, str(folder))


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "there is no such folder"
        raise ImageError(f"{folder}: {what}; give the folder of the images.")
    files = []
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        named = (n for n in names if n.lower().endswith(_SUFFIXES) and not n.startswith("."))
        files += [Path(top, name) for name in named]
    if not files:
        raise ImageError(f"{folder}: holds {_some(folder)}, no images ({', '.join(_SUFFIXES)}).")
    return sorted(files, key=lambda path: path.relative_to(folder).parts)


def _read(path: Path, sizes: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """One image, (H, W, 1) if `channels` is 1 and (H, W, 3) otherwise."""
    with extra("images"):
        from PIL import Image, ImageOps

    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            image: Any = opened
            image.load()
            if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
                raise ImageError(
                    f"{path}: its pixels have more than 16 bits, or are fractions (Pillow's mode "
                    f"{image.mode!r}), so that the value of white is unknown; save it with 8 bits."
                )
            if image.mode.startswith("I"):  # Pillow would clamp values above 255
                image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                over = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(over, image.convert("RGBA"))
            values = np.asarray(_resampled(image.convert(mode), sizes))
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen kinds on faulty files
        raise ImageError(f"{path}: cannot be read as an image ({error}).") from error
    return values.reshape(*values.shape[:2], -1)
