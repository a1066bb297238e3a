r"""CIFAR-10: 60,000 photographs of 32 × 32 pixels in ten classes.

Read from the authors' python files, `data_batch_1` to `_5`, `test_batch` and `batches.meta`, in this
order; the last 10,000 are the test part. They are pickles and are read without running anything
(:mod:`anydiff.data.pickles`), whether Python 2 wrote them or Python 3. What is missing is downloaded
once, resumed if it broke off, and checked.

References:
    Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009).
    https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import torch

from anydiff.data.pickles import PickledArray, read_pickle
from anydiff.files import PathLike, whole
from anydiff.images.images import ImageError, Images

__all__ = ["CIFAR10", "Source", "fetch", "is_cifar10", "load_cifar10"]

_FOLDER, _ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
_BATCHES = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
_FILES = ("batches.meta", *_BATCHES)
_MOST = 2**28  # bytes of a file in the archive, eight times what they are


class Source(NamedTuple):
    """A file to download, and how to know that it is the right one."""

    url: str
    size: int
    md5: str


CIFAR10 = Source(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    170_498_071,
    "c58f30108f718f92721af3b95e74349a",
)


def is_cifar10(path: PathLike) -> bool:
    """Whether CIFAR-10's python files are there, in a folder of their name or in an archive."""
    path = Path(path)
    if path.name == _ARCHIVE and path.is_file():
        return True
    found = [
        path / _ARCHIVE,
        *(folder / name for folder in (path, path / _FOLDER) for name in _FILES),
    ]
    return any(file.is_file() for file in found)


def load_cifar10(
    root: PathLike | None = None, *, download: bool = True, source: Source = CIFAR10
) -> Images:
    """CIFAR-10, (60000, 3, 32, 32) with labels and the classes' names.

    Arguments:
        root: A folder: that of the files, or one with `cifar-10-batches-py` in it, or with
            `cifar-10-python.tar.gz`, which is unpacked there; or this archive. By default `anydiff` in
            `$XDG_CACHE_HOME` or in `~/.cache`.
        download: Fetch the archive into the folder where it is missing.
        source: Where from.

    Raises:
        ImageError: The files aren't there and can't be fetched, or they are faulty; the message names
            them.
    """
    folder = _folder(_place(root), download, source)
    meta = _read(folder / "batches.meta")
    names = meta.get("label_names")
    if not (isinstance(names, list) and all(isinstance(name, str) for name in map(_text, names))):
        raise ImageError(f"{folder / 'batches.meta'}: has no list of the classes as label_names.")
    classes = tuple(_text(name) for name in names)
    count = meta.get("num_cases_per_batch", 10_000)

    pixels, labels = [], []
    for name in _BATCHES:
        rows, numbers = _batch(folder / name, count, len(classes))
        pixels.append(rows)
        labels += numbers
    together = torch.from_numpy(np.concatenate(pixels)).reshape(-1, 3, 32, 32)
    return Images(together, torch.tensor(labels), classes, len(pixels[-1]), "cifar10")


# where --------------------


def _place(root: PathLike | None) -> Path:
    if root is not None:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anydiff"


def _folder(root: Path, download: bool, source: Source) -> Path:
    """The folder of the files, unpacked or fetched first if need be."""
    archive = root / _ARCHIVE
    if root.is_file():
        root, archive = root.parent, root
    for folder in (root, root / _FOLDER):
        if all((folder / name).is_file() for name in _FILES):
            return folder
    missing = [name for name in _FILES if not (root / name).is_file()]
    if len(missing) < len(_FILES):
        raise ImageError(f"{root}: of CIFAR-10's files, {', '.join(missing)} are missing.")

    if not archive.is_file():
        put = (
            f"Put {_ARCHIVE} from {source.url}, or the folder {_FOLDER} that is in it, into {root}, "
            "or give the folder where it is as root. --data digits needs no download."
        )
        if not download:
            raise ImageError(f"CIFAR-10's files aren't all in {root}. {put}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            with _alone(root):
                if not archive.is_file():
                    fetch(source, archive)
        except (
            OSError,
            HTTPException,
            ImageError,
        ) as error:  # the last: a log-in page, for instance
            raise ImageError(
                f"CIFAR-10's files aren't all in {root} and can't be downloaded ({error}). {put}"
            ) from error
    with _alone(root):
        _unpack(archive, root / _FOLDER)
    return root / _FOLDER


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps this machine's other processes out: those of one training all come here."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network drives have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# download --------------------


def fetch(source: Source, path: PathLike, *, timeout: float = 30) -> None:
    """Downloads a file, going on where an earlier try broke off, and checks it.

    What there is of it is in `path` with `.part` added, until it is whole.

    Raises:
        OSError, HTTPException: The connection fails or breaks off.
        ImageError: Another file than expected.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    if have > source.size:
        have = 0
    if have < source.size:
        try:
            have = _continue(source, part, have, timeout)
        except HTTPError as error:
            if error.code == 416:  # what there is doesn't fit what the server has
                part.unlink()
            raise
    if have < source.size:
        raise ConnectionError(
            f"broke off after {have:,} of {source.size:,} bytes; what there is is kept, and the next "
            "try goes on from there"
        )
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != source.md5:
        part.unlink()
        raise ImageError(
            f"{part}: downloaded from {source.url}, but its MD5 is {found}, not {source.md5}. It was "
            "removed; try again."
        )
    os.replace(part, path)


def _continue(source: Source, part: Path, have: int, timeout: float) -> int:
    """Downloads what is missing after `have` bytes; how many there are then."""
    from tqdm import tqdm

    headers = {"User-Agent": "anydiff", **({"Range": f"bytes={have}-"} if have else {})}
    with urlopen(Request(source.url, headers=headers), timeout=timeout) as response:
        if have and not str(response.headers["Content-Range"]).startswith(f"bytes {have}-"):
            have = 0  # the server sends it from the beginning
        length = response.headers["Content-Length"]
        if length is not None and have + int(length) != source.size:
            raise ImageError(
                f"{source.url}: the file there has {have + int(length):,} bytes, not {source.size:,}; "
                "it is another one."
            )
        bar = tqdm(desc=part.stem, total=source.size, initial=have, unit="B", unit_scale=True)
        with open(part, "ab" if have else "wb") as file, bar:
            while have <= source.size and (piece := response.read(2**18)):
                file.write(piece)
                have += len(piece)
                bar.update(len(piece))
    return have


def _unpack(archive: Path, folder: Path) -> None:
    """Writes the archive's seven files that aren't there yet, and nothing else of it."""
    wanted = {
        f"{_FOLDER}/{name}": folder / name for name in _FILES if not (folder / name).is_file()
    }
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if not wanted:
                    return
                path = wanted.pop(member.name.removeprefix("./"), None)
                if path is None:
                    continue
                file = tar.extractfile(member) if member.isreg() and member.size <= _MOST else None
                raw = file.read() if file else b""
                if len(raw) < max(member.size, 1):
                    raise ImageError(f"{archive}: {member.name} in it isn't a file of CIFAR-10.")
                with whole(path) as temporary:
                    Path(temporary).write_bytes(raw)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ImageError(
            f"{archive}: can't be unpacked to {folder} ({error}); if it is cut short, remove it and "
            "get it again."
        ) from error
    if wanted:
        raise ImageError(f"{archive}: {sorted(wanted)[0]} isn't in it; it is another archive.")


# the files --------------------


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _read(path: Path) -> dict[Any, Any]:
    """The dictionary in one of the files; its keys are strings."""
    try:
        value = read_pickle(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ImageError(f"{path}: holds no dictionary, as CIFAR-10's files do.")
    return {_text(key): item for key, item in value.items()}


def _batch(path: Path, count: Any, classes: int) -> tuple[np.ndarray, list[int]]:
    """Pixels (count, 3072) and labels of one file."""
    values = _read(path)
    data, labels = values.get("data"), values.get("labels")
    if not isinstance(data, PickledArray) or not isinstance(labels, list):
        raise ImageError(
            f"{path}: holds {sorted(map(str, values))}; it should have an array data and a list labels."
        )
    try:
        rows = data.numbers()
    except Exception as error:  # what stands for an array may hold anything
        raise ImageError(f"{path}: its array data is faulty ({error}).") from error
    if rows.shape != (count, 3072) or rows.dtype != np.uint8 or len(labels) != count:
        raise ImageError(
            f"{path}: pixels are {rows.shape} of {rows.dtype} with {len(labels)} labels; it should "
            f"be ({count}, 3072) of uint8 and as many labels."
        )
    wrong = [label for label in labels if type(label) is not int or not 0 <= label < classes]
    if wrong:
        raise ImageError(f"{path}: a label is {wrong[0]!r:.40}; they should be 0 to {classes - 1}.")
    return rows, labels
