"""What the text formats share: the lines of a file, numbers, and errors."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from anydiff.data.archives import is_gzip
from anydiff.molecules.elements import MoleculeError

__all__ = ["NUMBER", "as_float", "lines_of", "short"]

# also as Fortran (1.0D-3) and Mathematica (1.0*^-3) write them; Python alone would also take 1_0
NUMBER = re.compile(
    r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:(?:[eE]|\*\^)[+-]?\d+)?|(?:\d+\.\d*|\.\d+)[dD][+-]?\d+)",
    re.ASCII,
)


def as_float(text: str) -> float | None:
    """A finite number, or None if the text is something else.

    Arguments:
        text: Without blanks around it.
    """
    if not NUMBER.fullmatch(text):
        return None
    try:
        value = float(text)
    except ValueError:
        value = float(re.sub(r"[dD]|\*\^", "e", text))
    return value if abs(value) < float("inf") else None


def short(text: str) -> str:
    """The beginning of a text in quotes, for error messages.

    Arguments:
        text: The text.
    """
    text = ascii(text.strip())
    return text if len(text) <= 60 else f"{text[:56]}...'"


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a text file without their ends, unpacked if it is packed by gzip.

    A line ends in a line feed, a carriage return, or both, and nowhere else. Bytes that are not UTF-8
    are kept, as surrogates: they can only be in comments.

    Arguments:
        path: The file.

    Raises:
        MoleculeError: The file can't be read, or would fill the memory.
    """
    try:
        packed = is_gzip(path)
        with gzip.open(path) if packed else open(path, "rb") as raw:
            wide = raw.read(2) in (b"\xff\xfe", b"\xfe\xff")
        kind, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
        opened = gzip.open if packed else open
        with opened(path, "rt", encoding=kind, errors=errors) as file:
            for line in file:
                yield line.removesuffix("\n")
    except (OSError, EOFError, ValueError) as error:
        raise MoleculeError(f"{path}: {error}.") from None
