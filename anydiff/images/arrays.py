r"""Images in files of NumPy: npz, as written here and by the code of ADM and others, and npy.

Ours have `pixels` (M, C, H, W) and perhaps `labels`. The sample batches of guided-diffusion have `arr_0`
(M, H, W, C) and perhaps labels, `arr_1`; an npy file is such an array alone. Values are bytes.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from anydiff.files import PathLike, whole
from anydiff.images.images import ImageError, Images, as_tensor, check_size

__all__ = ["is_array", "read_array", "write_array"]

_STORED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # by NumPy
_READ = ("pixels", "labels", "arr_0", "arr_1")


def is_array(path: PathLike) -> bool:
    """Whether a path is a file of NumPy, by its name.

    Arguments:
        path: A file, which need not exist.
    """
    return Path(path).suffix.lower() in (".npz", ".npy") and Path(path).is_file()


def read_array(path: PathLike) -> Images:
    """The images of an npz or npy file.

    Arguments:
        path: The file.

    Raises:
        ImageError: The file is missing, faulty, would fill the memory, or has no images of bytes.
    """
    path = Path(path)
    if not path.is_file():
        what = "not a file" if path.exists() else "there is no such file"
        raise ImageError(f"{path}: {what}.")
    held: list[str] = []
    try:
        if path.suffix.lower() == ".npy":
            arrays = {"arr_0": np.load(path, allow_pickle=False)}
        else:
            held, arrays = _members(path)
    except ImageError:
        raise
    except Exception as error:  # zipfile and NumPy raise a dozen kinds on faulty files
        raise ImageError(f"{path}: cannot be read, or is cut short ({error}).") from error
    if "pixels" in arrays:
        return Images(arrays["pixels"], arrays.get("labels"), name=str(path))
    if "arr_0" not in arrays:
        raise ImageError(
            f"{path}: holds {', '.join(held[:6]) or 'nothing'}; give pixels (M, C, H, W) and perhaps "
            "labels, or arr_0 (M, H, W, C) and perhaps arr_1."
        )
    pixels = as_tensor(arrays["arr_0"], f"{path}: arr_0")
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4 or pixels.dtype != torch.uint8 or pixels.shape[3] not in (1, 3):
        raise ImageError(
            f"{path}: arr_0 is {tuple(arrays['arr_0'].shape)} of {arrays['arr_0'].dtype}; give "
            "(M, H, W, C) of uint8, C 1 or 3, or pixels (M, C, H, W)."
        )
    return Images(pixels.movedim(3, 1).contiguous(), arrays.get("arr_1"), name=str(path))


def write_array(path: PathLike, images: Images, **more: Tensor) -> None:
    """Write images to an npz file, from which :func:`read_array` restores pixels and labels.

    Arguments:
        path: The file.
        images: The images.
        more: Other arrays, by name.
    """
    arrays = {"pixels": images.pixels, "labels": images.labels, **more}
    given = {name: value.numpy() for name, value in arrays.items() if value is not None}
    with whole(path, ".npz") as temporary:
        np.savez_compressed(temporary, **given)  # type: ignore[arg-type]


def _members(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """The names of the arrays of an npz, and those of them that are read."""
    arrays = {}
    with zipfile.ZipFile(path) as file:
        members = {m.filename.removesuffix(".npy"): m for m in file.infolist()}
        wanted = {name: member for name, member in members.items() if name in _READ}
        check_size(sum(m.file_size for m in wanted.values()), path.stat().st_size, str(path))
        for name, member in wanted.items():
            if member.compress_type not in _STORED:
                raise ImageError(
                    f"{path}, {name}: not compressed as by NumPy; write it with np.savez_compressed."
                )
            with file.open(member) as stream:
                arrays[name] = _array(stream, member.file_size, f"{path}, {name}")
    return list(members), arrays


def _array(stream: IO[bytes], size: int, name: str) -> np.ndarray:
    """An array of numbers, whose header does not announce more than the file has."""
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, fortran, dtype = read[version](stream)
    if dtype.kind not in "iufb":
        raise ImageError(f"{name}: is an array of {dtype}; give numbers.")
    raw = stream.read(size)
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != len(raw):
        raise ImageError(
            f"{name}: holds {len(raw):,} bytes for {shape} of {dtype}; it is cut short."
        )
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
