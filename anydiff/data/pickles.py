r"""Reading pickles of arrays that others wrote, without running what they say.

A pickle is a program that may call any function by its name. Here it may ask for NumPy's arrays, and
for the text codec that Python 3 writes bytes with, and what it gets are stand-ins; from these arrays
of numbers are built afterwards. So no file can run code. Lists, dicts, numbers and strings are plain.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, ClassVar

import numpy as np

__all__ = ["PickledArray", "read_pickle"]


def read_pickle(raw: bytes) -> Any:
    """What a pickle holds: plain containers, numbers, text, and a :class:`PickledArray` for each array.

    The text of Python 2 is read as latin1, in which every byte is a letter.

    Raises:
        ValueError: The pickle is cut short or faulty, or asks for something else.
    """
    try:
        return _Unpickler(io.BytesIO(raw)).load()
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a faulty pickle may raise anything
        raise ValueError(
            f"its pickle is cut short or isn't of arrays ({type(error).__name__}: {error})."
        ) from error


class _Refused(Exception):
    """A pickle asks for what it doesn't get."""


class PickledArray:
    """Stands in for an array in a pickle, and for the function that makes it.

    `raw` are its bytes, or a list where it is an array of Python objects.
    """

    def __init__(self, *_: Any) -> None:
        self.shape: tuple[int, ...] = ()
        self.raw: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.fortran, self.raw = state

    def numbers(self) -> np.ndarray:
        """The array, where it is one of numbers; an error of any kind where it isn't."""
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw
        dtype = np.dtype(str(self.dtype.order).replace("|", "=") + self.dtype.spec)
        if dtype.kind not in "iufb":
            raise ValueError(f"an array of {dtype}")
        shape = tuple(map(int, self.shape))
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if self.fortran else "C")


class _Dtype:
    """Stands in for a dtype in a pickle."""

    def __init__(self, spec: str, *_: Any) -> None:
        self.spec, self.order = str(spec), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Encode:
    """Stands in for the codec by which Python 3 keeps bytes in the pickles of Python 2."""

    def __new__(cls, text: str, encoding: str) -> Any:
        if encoding != "latin1":
            raise _Refused(f"its pickle asks for the codec {encoding!r}; bytes are in latin1.")
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        pass  # without one, a pickle could set the class's attributes


_STANDS_IN = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): PickledArray for core in ("core", "_core")},
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
}


class _Unpickler(pickle._Unpickler):
    # Python's own, whose memo is a dict: in C's five bytes may ask for a memo of many gigabytes, and
    # so may bytearrays here, which no array needs
    dispatch: ClassVar[dict[int, Any]] = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote bytes as text

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STANDS_IN:
            raise _Refused(
                f"its pickle asks for {module}.{name}; only arrays are read. If you trust the "
                "file, load it yourself and give its arrays."
            )
        return _STANDS_IN[module, name]
