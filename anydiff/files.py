"""Writing files atomically: completely, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["LOCK", "PathLike", "alone", "cache_folder", "free_folder", "whole"]

PathLike = str | os.PathLike[str]

LOCK = ".lock"


def cache_folder() -> Path:
    """The folder of downloaded and parsed data: `anydiff` in `$XDG_CACHE_HOME` or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anydiff"


@contextmanager
def whole(path: PathLike, suffix: str = "") -> Iterator[str]:
    """Write to a temporary file, which replaces `path` if the block raises no error.

    The file then has the permissions of the one that it replaces, or those of any new file. A link is
    replaced by the file, and what it points to stays as it is. The contents are on the disk before they
    get their name, so that after a power cut there is the old file or the new one. Nothing else is left:
    after an error, a full disk or Ctrl-C the temporary file is removed.

    Arguments:
        path: The file to write; its folder is created if it is missing.
        suffix: The suffix of the temporary file, for writers that choose a format by it.

    Yields:
        The path of the temporary file, in the folder of `path`.

    Raises:
        OSError: If the file cannot be written; the error names it.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is a folder or a device; give the name of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    replaced = path.is_file() and not path.is_symlink()
    mode = path.stat().st_mode & 0o777 if replaced else 0o666
    # of a name that nobody can guess; whatever is there already, a link for instance, is not followed
    temporary = str(path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}{suffix}"))
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode & 0o666 | 0o600))
        yield temporary
        _sync(temporary, os.O_RDWR)
        if replaced:
            with suppress(OSError):  # some drives have no permissions
                os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            os.unlink(temporary)
    with suppress(OSError):  # some systems have no way to do this
        _sync(path.parent, os.O_RDONLY)


def _sync(path: PathLike, flags: int) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes from doing the same in a folder, until this one ends, however it does.

    Arguments:
        folder: A folder that is there.
        what: What is done, for the error: "trains", for instance.

    Raises:
        ValueError: If another process does it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"another process {what} in {folder} ({file.read().strip()}); wait until it ends, or "
                "give another folder."
            ) from None
        file.truncate(0)
        print(f"process {os.getpid()}", file=file, flush=True)
        yield


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
