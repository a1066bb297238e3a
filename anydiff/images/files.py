r"""Folders of image files: png, jpg, webp, bmp, gif and tif, read with Pillow.

Images are brought to one size and to grey or RGB by one rule, that of :func:`adapt`: the largest centred
part of the wanted aspect, resampled (Lanczos, antialiased); grey by the luma of ITU-R 601.
"""

from __future__ import annotations

import math
import operator
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anydiff.data.stored import cut
from anydiff.drawing import pillow
from anydiff.extras import extra
from anydiff.files import PathLike
from anydiff.images.found import SUFFIXES, File, Found
from anydiff.images.idx import is_mnist, read_idx, read_mnist
from anydiff.images.images import ImageError, Images

__all__ = ["Size", "adapt", "is_mnist", "read_folder", "read_idx", "read_mnist", "read_parts"]

Size = int | tuple[int, int] | None

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # some of Pillow's others run programs
_MANY = 1000  # files from which on a progress bar is shown


# one size, grey or RGB --------------------


def _sizes(size: Size) -> tuple[int, int] | None:
    """(height, width), or None to keep the size."""
    if size is None:
        return None
    try:
        height, width = map(operator.index, (size, size) if np.ndim(size) == 0 else size)  # type: ignore
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1 or isinstance(size, bool):
        raise ValueError(f"size is {size!r}; give the pixels of a side, or (height, width).")
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
        ImageError: Images of other than 1 or 3 channels would have to be changed, or the new ones would
            fill the memory.
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
    _check_memory(images.name, len(images), (*sizes, want), "a smaller size")
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


# folders --------------------


def read_folder(folder: PathLike, *, size: Size = None, channels: int | None = None) -> Images:
    """The images in a folder or zip and its sub-folders, ordered by name.

    If every image is in a sub-folder, the names of the sub-folders are the classes; or those are, where
    the file `dataset.json` gives the numbers of labels, as in the data sets of EDM. EXIF orientation is
    applied, transparent pixels are put on white, and of a film the first frame is read. Hidden files are
    left out. One warning says what else is, and why labels may not be what was meant.

    Arguments:
        folder: The folder, or a zip file of it.
        size: Pixels of a side, or (height, width), to which images are resampled as by :func:`adapt`;
            without it, all must be of one size.
        channels: 1 converts images to grey, 3 to RGB; None is 1 if all pixels of all images are grey,
            and 3 otherwise.

    Raises:
        ImageError: There are no images, one cannot be read, they would fill the memory, or sizes differ
            and `size` is None.
        ImportError: Pillow is not installed.
        ValueError: `size` or `channels` is out of range.
    """
    folder, sizes = Path(folder), _sizes(size)
    _check_channels(channels)
    if folder.is_dir():
        return _stacked(str(folder), Found.in_folder(folder), sizes, channels)
    if not zipfile.is_zipfile(folder) or not folder.is_file():
        what = "not a folder" if folder.exists() else "there is no such folder"
        raise ImageError(f"{folder}: {what}; give the folder of the images.")
    try:
        with zipfile.ZipFile(folder) as file:
            return _stacked(str(folder), Found.in_zip(folder, file), sizes, channels)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise ImageError(f"{folder}: cannot be read, or is cut short ({error}).") from error


def read_parts(
    folder: PathLike, each: int, *, size: Size = None, channels: int = 3
) -> Iterator[Images]:
    """The images in a folder and its sub-folders, some at a time, of which one part is in memory.

    Arguments:
        folder: As :func:`read_folder` takes it, but for a zip.
        each: Images of a part.
        size: As of :func:`read_folder`.
        channels: 1 converts images to grey, 3 to RGB.

    Yields:
        Images, with the labels and the classes of the whole folder.

    Raises:
        ImageError: As :func:`read_folder`.
        ImportError: Pillow is not installed.
        ValueError: `size` or `channels` is out of range.
    """
    sizes, name = _sizes(size), str(folder)
    _check_channels(channels)
    if not Path(folder).is_dir():
        raise ImageError(f"{folder}: there is no such folder; give the folder of the images.")
    found = Found.in_folder(Path(folder))
    _check_some(name, found)
    labels, classes = found.labels(name)
    shape: tuple[int, ...] | None = None
    first = 0
    for files in cut(found.files, each):
        some = slice(first, first := first + len(files))
        part = Found(files, [])
        pixels = _pixels(name, part, sizes, channels)[0]
        found.doubts += part.doubts
        if shape not in (None, pixels.shape[1:]):
            raise ImageError(
                f"{part.files[0].name}: of another size than {found.files[0].name}; give a size to "
                "resample them to."
            )
        shape = pixels.shape[1:]
        yield _images(pixels, None if labels is None else labels[some], classes, 0, name)
    _warn(name, found)


def _warn(name: str, found: Found) -> None:
    if notes := found.notes():
        warnings.warn(f"{name}: {'; '.join(notes)}.", stacklevel=5)


def _check_some(name: str, found: Found) -> None:
    if not found.files:
        raise ImageError(f"{name}: holds {found.some()}, no images ({', '.join(SUFFIXES)}).")


def _stacked(
    name: str, found: Found, sizes: tuple[int, int] | None, channels: int | None
) -> Images:
    """All images in one array, with their labels."""
    _check_some(name, found)
    pixels, grey = _pixels(name, found, sizes, channels)
    if channels is None and grey:
        pixels = pixels[..., :1]
    labels, classes = found.labels(name)
    _warn(name, found)
    return _images(pixels, labels, classes, 0, name)


def _pixels(
    name: str, found: Found, sizes: tuple[int, int] | None, channels: int | None
) -> tuple[np.ndarray, bool]:
    """The pixels of all images (M, H, W, C), and whether all are grey."""
    from tqdm import tqdm

    files, Image = found.files, pillow()[0]
    if sizes is not None:  # before Pillow makes the first one
        _check_memory(name, len(files), (*sizes, 1 if channels == 1 else 3), "a smaller size")
    pixels, grey = np.empty((0, 0, 0, 0), np.uint8), True
    bar = tqdm(files, desc="reading images", unit=" files", disable=len(files) < _MANY)
    for m, file in enumerate(bar):
        with warnings.catch_warnings(
            record=True
        ) as told:  # by Pillow, without the name of the file
            warnings.simplefilter("always")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = _read(file, sizes, channels)
        found.doubts += [f"{file.name}: {note.message}" for note in told[:1]]
        if m == 0:
            _check_memory(name, len(files), image.shape, "a size to resample them to")
            pixels = np.empty((len(files), *image.shape), np.uint8)
        elif image.shape != pixels.shape[1:]:
            (h, w), (first_h, first_w) = image.shape[:2], pixels.shape[1:3]
            raise ImageError(
                f"{file.name}: {w} × {h} pixels, but {files[0].name} is {first_w} × {first_h}; give a "
                "size to resample them to."
            )
        pixels[m] = image
        grey = grey and bool((image[..., :1] == image).all())
    return pixels, grey


def _check_memory(name: str, num: int, shape: tuple[int, ...], give: str) -> None:
    """An error if so many images would not fit into the memory of this machine."""
    height, width = shape[:2]
    if (size := num * math.prod(shape)) > _memory():
        raise ImageError(
            f"{name}: {num:,} images of {width} × {height} pixels take {size / 1e9:,.0f} GB, "
            f"more than this machine has; give {give}."
        )


def _memory() -> float:
    """The bytes of this machine's memory, if it says so."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return math.inf


def _read(file: File, sizes: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """One image, (H, W, 1) if `channels` is 1 and (H, W, 3) otherwise."""
    with extra("images"):
        from PIL import Image, ImageOps

    mode = "L" if channels == 1 else "RGB"
    try:
        with file.open() as raw, Image.open(raw, formats=_FORMATS) as opened:
            image: Any = opened
            raw_tiff = image.format == "TIFF" and image.info.get("compression") == "raw"
            if raw_tiff and image.tag_v2.get(0x0112, 1) > 4:
                raise ImageError(
                    f"{file.name}: an uncompressed TIFF that is kept on its side, which Pillow does not "
                    "read right; save it upright, or compressed."
                )
            image.load()
            if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
                raise ImageError(
                    f"{file.name}: its pixels have more than 16 bits, or are fractions (Pillow's mode "
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
    except Image.DecompressionBombWarning as error:
        raise ImageError(
            f"{file.name}: {error} Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except Exception as error:  # Pillow's plugins raise a dozen kinds on faulty files
        raise ImageError(f"{file.name}: cannot be read as an image ({error}).") from error
    return values.reshape(*values.shape[:2], -1)
