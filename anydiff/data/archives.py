"""Packed files whose size is looked at before they are unpacked.

A file of some megabytes can unpack to any size. What is far larger than data are is refused, and so are
arrays that announce more than there is. Nothing is unpickled.
"""

from __future__ import annotations

import ast
import gzip
import math
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from anydiff.files import PathLike

__all__ = ["check_unpacked", "is_gzip", "read_npz"]

# bytes, and how many times those of the file: data never exceed both at once
_LARGE, _RATIO = 2**28, 100


def check_unpacked(size: int, packed: int) -> None:
    """An error if a small file would fill the memory.

    Arguments:
        size: Bytes that the file unpacks to, or that were unpacked so far.
        packed: Its own bytes.

    Raises:
        ValueError: It is far larger than packed data are.
    """
    if size > max(_LARGE, _RATIO * packed):
        raise ValueError(
            f"its {packed:,} bytes unpack to {size:,} or more, far more than data do; unpack it yourself "
            "if you trust it"
        )


def is_gzip(path: PathLike) -> bool:
    """Whether a file is packed by gzip, whatever it is called; its size is looked at.

    Arguments:
        path: The file.

    Raises:
        ValueError: It is cut short, or would fill the memory.
    """
    with open(path, "rb") as raw:
        if raw.read(2) != b"\x1f\x8b":
            return False
    packed, size = Path(path).stat().st_size, 0
    try:
        with gzip.open(path) as file:
            while block := file.read(2**20):
                size += len(block)
                check_unpacked(size, packed)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"not packed by gzip, or cut short ({error})") from error
    return True


def read_npz(path: PathLike, keys: Collection[str]) -> dict[str, np.ndarray]:
    """Some arrays of an npz file.

    Arguments:
        path: The file.
        keys: Names of arrays; others in the file are not looked at.

    Raises:
        ValueError: The file is cut short or faulty, would fill the memory, or holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = {m.filename.removesuffix(".npy"): m for m in file.infolist()}
            wanted = {key: member for key, member in members.items() if key in keys}
            check_unpacked(sum(m.file_size for m in wanted.values()), Path(path).stat().st_size)
            arrays = {}
            for key, member in wanted.items():
                # the only two that NumPy writes, and the only ones that zipfile can stop at a size
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{key} is not compressed as by np.savez_compressed")
                with file.open(member) as stream:
                    # without a size it may unpack more than it declares
                    arrays[key] = _array(key, stream.read(member.file_size))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        words = str(error)[:200]
        raise ValueError(f"not a readable npz file, or cut short ({words})") from error
    return arrays


def _array(key: str, raw: bytes) -> np.ndarray:
    """The array in the bytes of an npy file."""
    if raw[:6] != b"\x93NUMPY" or len(raw) < 12 or raw[6] not in (1, 2):
        raise ValueError(f"{key} is not a readable npz array of numbers or texts")
    begin = 10 if raw[6] == 1 else 12
    end = begin + int.from_bytes(raw[8:begin], "little")
    try:
        header = ast.literal_eval(raw[begin:end].decode("latin-1")[:10_000])
        dtype, shape = np.dtype(header["descr"]), tuple(header["shape"])
        size = math.prod(shape)
    except Exception as error:  # whatever a header may hold
        raise ValueError(f"{key} has no readable header ({error})") from None
    if dtype.hasobject:
        raise ValueError(f"{key} holds Python objects, not a readable npz array")
    fits = all(isinstance(n, int) and n >= 0 for n in shape) and dtype.itemsize > 0
    if not fits or size * dtype.itemsize != len(raw) - end:
        raise ValueError(
            f"{key} announces {shape} of {dtype}, but there are {len(raw) - end} bytes; the file may be "
            "cut short"
        )
    array = np.frombuffer(raw, dtype, size, end).copy()
    return array.reshape(shape, order="F" if header["fortran_order"] else "C")
