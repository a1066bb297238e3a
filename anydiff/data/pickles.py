r"""Pickles of arrays, read without running code.

A pickle is a program that may call any function by its name. Here it may name NumPy's arrays and the
text codec with which Python 3 writes bytes, and gets replacements for them, from which arrays of
numbers are built afterwards. So no file can run code. Lists, dicts, numbers and strings are read as
they are.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, ClassVar

import numpy as np

__all__ = ["PickledArray", "read_pickle"]


def read_pickle(raw: bytes) -> Any:
    """What a pickle holds: containers, numbers, text, and a :class:`PickledArray` for each array.

    The text of Python 2 is read as latin1, in which every byte is a letter.

    Arguments:
        raw: The bytes of the pickle.

    Raises:
        ValueError: The pickle is cut short or faulty, or names something other than arrays.
    """
    try:
        return _Unpickler(io.BytesIO(raw)).load()
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a faulty pickle may raise anything
        raise ValueError(
            f"its pickle is cut short or not of arrays ({type(error).__name__}: {error})."
        ) from error


class _Refused(Exception):
    """A pickle names something other than arrays."""


class PickledArray:
    """Replaces an array in a pickle, and the function that makes it.

    `raw` is its bytes, or a list if it is an array of Python objects.
    """

    def __init__(self, *_: Any) -> None:
        self.shape: tuple[int, ...] = ()
        self.raw: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.raw = state

    def numbers(self) -> np.ndarray:
        """The array, if it is one of numbers; otherwise an exception of any kind.

        Raises:
            ValueError: If the array is not of numbers.
        """
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw
        dtype = np.dtype(str(self.dtype.order).replace("|", "=") + self.dtype.spec)
        if dtype.kind not in "iufb":
            raise ValueError(f"an array of {dtype}")
        shape = tuple(map(int, self.shape))
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if self.fortran else "C")


class _Dtype:
    """Replaces a dtype in a pickle."""

    def __init__(self, spec: str, *_: Any) -> None:
        self.spec, self.order = str(spec), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Encode:
    """Replaces the codec by which Python 3 keeps bytes in pickles of protocol 2."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding != "latin1":
            raise _Refused(f"its pickle asks for the codec {encoding!r}; only latin1 is read.")
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        pass  # without this method, a pickle could set attributes of the class


_STANDS_IN = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): PickledArray for core in ("core", "_core")},
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
}


class _Unpickler(pickle._Unpickler):
    # that in Python, whose memo is a dict: in the one in C, five bytes can demand a memo of many
    # gigabytes, and so can bytearrays here, which no array needs
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    del dispatch[pickle.BYTEARRAY8[0]]

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote bytes as text

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STANDS_IN:
            raise _Refused(
                f"its pickle asks for {module}.{name}; only arrays are read. If you trust the "
                "file, load it yourself and give its arrays."
            )
        return _STANDS_IN[module, name]
