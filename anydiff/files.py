"""Writing files atomically: completely, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["PathLike", "cache_folder", "free_folder", "whole"]

PathLike = str | os.PathLike[str]


def cache_folder() -> Path:
    """The folder of downloaded and parsed data: `anydiff` in `$XDG_CACHE_HOME` or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anydiff"


@contextmanager
def whole(path: PathLike, suffix: str = "") -> Iterator[str]:
    """Write to a temporary file, which replaces `path` if the block raises no error.

    Arguments:
        path: The file to write; its folder is created if it is missing.
        suffix: The suffix of the temporary file, for writers that choose a format by it.

    Yields:
        The path of the temporary file, in the folder of `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=suffix, prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def free_folder(folder: PathLike, *markers: str) -> Path:
    """The folder itself or, if it is in use, the first unused folder with a number after its name.

    Arguments:
        folder: The folder, for example ``runs/first``; the next one is then ``runs/first-2``.
        markers: Names of files; a folder that contains one of them is in use.
    """
    wanted = folder = Path(folder)
    number = 1
    while any((folder / marker).exists() for marker in markers):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
