"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["PathLike", "cache_folder", "whole"]

PathLike = str | os.PathLike[str]


def cache_folder() -> Path:
    """The folder of downloaded and parsed data: `anydiff` in `$XDG_CACHE_HOME` or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anydiff"


@contextmanager
def whole(path: PathLike, suffix: str = "") -> Iterator[str]:
    """A temporary file in the folder of `path`, which it replaces if the block raises no error.

    Arguments:
        path: The file to write; its folder is made if it is missing.
        suffix: The ending of the temporary file's name, for writers that look at it.
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
