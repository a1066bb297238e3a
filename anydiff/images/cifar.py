r"""CIFAR-10 and CIFAR-100: 60,000 photographs of 32 × 32 pixels in ten classes, or in a hundred.

Read from the authors' python files: `data_batch_1` to `_5`, `test_batch` and `batches.meta`, in this
order; or `train`, `test` and `meta`. The last 10,000 images are the test part. The files are pickles of
Python 2 or 3 and are read without running any code (:mod:`anydiff.data.pickles`). A missing archive is
downloaded once; a download that broke off is resumed, and the result is checked.

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
from anydiff.files import PathLike, cache_folder, whole
from anydiff.images.images import ImageError, Images

__all__ = [
    "CIFAR10", "CIFAR100", "Cifar", "Source", "fetch", "is_cifar", "is_cifar10", "load_cifar",
    "load_cifar10",
]  # fmt: skip

_MOST = 2**28  # bytes of a file in the archive; the largest true one is 155 MB


class Source(NamedTuple):
    """A file to download, with its size in bytes and its MD5 to recognise it by.

    Arguments:
        url: Where the file is.
        size: Its size in bytes.
        md5: Its MD5 sum.
    """

    url: str
    size: int
    md5: str


CIFAR10 = Source(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    170_498_071,
    "c58f30108f718f92721af3b95e74349a",
)
CIFAR100 = Source(
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    169_001_437,
    "eb9058c3a382ffc7106e4002c42a8d85",
)


class Cifar(NamedTuple):
    """The files of one of the two.

    Arguments:
        title: Its name in messages.
        source: Where the archive is.
        archive: The name of the archive.
        folder: The name of the folder in it.
        meta: The name of the file of the classes' names.
        batches: The names of the files of images, the test part last.
        names: The key of the classes' names.
        labels: The key of the labels.
    """

    title: str
    source: Source
    archive: str
    folder: str
    meta: str
    batches: tuple[str, ...]
    names: str
    labels: str

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files."""
        return self.meta, *self.batches


_TEN = Cifar(
    "CIFAR-10", CIFAR10, "cifar-10-python.tar.gz", "cifar-10-batches-py", "batches.meta",
    (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"), "label_names", "labels",
)  # fmt: skip
_HUNDRED = Cifar(
    "CIFAR-100", CIFAR100, "cifar-100-python.tar.gz", "cifar-100-python", "meta",
    ("train", "test"), "fine_label_names", "fine_labels",
)  # fmt: skip
_BOTH = {"cifar10": _TEN, "cifar100": _HUNDRED}


def is_cifar(path: PathLike) -> str | None:
    """Which of the two a path is, "cifar10" or "cifar100": an archive, or a folder with any of its files.

    Arguments:
        path: A file or folder, which need not exist.
    """
    path = Path(path)
    for name, cifar in _BOTH.items():
        files = [path / cifar.folder / file for file in cifar.files]
        # the files of CIFAR-100 have names of any folder: all are needed, and none is a folder
        here = [path / file for file in cifar.files]
        if path.name == cifar.archive and path.is_file():
            return name
        if any(file.is_file() for file in (path / cifar.archive, *files)):
            return name
        if (any if cifar is _TEN else all)(file.is_file() for file in here):
            return name
    return None


def is_cifar10(path: PathLike) -> bool:
    """Whether a path is CIFAR-10's archive, or a folder that contains it or any of its files.

    Arguments:
        path: A file or folder, which need not exist.
    """
    return is_cifar(path) == "cifar10"


def load_cifar10(
    root: PathLike | None = None, *, download: bool = True, source: Source = CIFAR10
) -> Images:
    """CIFAR-10, (60000, 3, 32, 32) with labels and the classes' names.

    Arguments:
        root: As for :func:`load_cifar`.
        download: Whether to download the archive into the folder if it is missing.
        source: The archive to download.

    Raises:
        ImageError: As :func:`load_cifar`.
    """
    return load_cifar("cifar10", root, download=download, source=source)


def load_cifar(
    name: str, root: PathLike | None = None, *, download: bool = True, source: Source | None = None
) -> Images:
    """CIFAR-10 or CIFAR-100, (60000, 3, 32, 32) with labels, of 100 the fine ones, and their names.

    Arguments:
        name: "cifar10" or "cifar100".
        root: The folder of the files, or of `cifar-10-batches-py`, or of `cifar-10-python.tar.gz`,
            which is unpacked there; or this archive; likewise of CIFAR-100. By default `anydiff` in
            `$XDG_CACHE_HOME` or in `~/.cache`.
        download: Whether to download the archive into the folder if it is missing.
        source: The archive to download; the authors' if None.

    Raises:
        ImageError: The files are missing and cannot be downloaded, or they are faulty; the message
            names them.
    """
    cifar = _BOTH[name] if source is None else _BOTH[name]._replace(source=source)
    folder = _folder(cifar, cache_folder() if root is None else Path(root), download)
    file = folder / cifar.meta
    meta = _read(cifar, file)
    names = meta.get(cifar.names)
    if not (isinstance(names, list) and all(isinstance(name, str) for name in map(_text, names))):
        raise ImageError(f"{file}: has no list of the classes' names ({cifar.names}).")
    classes = tuple(_text(name) for name in names)
    count = meta.get("num_cases_per_batch", 10_000) if name == "cifar10" else None

    pixels, labels = [], []
    for batch in cifar.batches:
        rows, numbers = _batch(cifar, folder / batch, count, len(classes))
        pixels.append(rows)
        labels += numbers
    together = torch.from_numpy(np.concatenate(pixels)).reshape(-1, 3, 32, 32)
    return Images(together, torch.tensor(labels), classes, len(pixels[-1]), name)


# where --------------------


def _folder(cifar: Cifar, root: Path, download: bool) -> Path:
    """The folder of the files, which are downloaded and unpacked first if they are missing."""
    archive = root / cifar.archive
    if root.is_file():
        root, archive = root.parent, root
    for folder in (root, root / cifar.folder):
        if all((folder / name).is_file() for name in cifar.files):
            return folder
    missing = [name for name in cifar.files if not (root / name).is_file()]
    if len(missing) < len(cifar.files):
        raise ImageError(f"{root}: of {cifar.title}'s files, {', '.join(missing)} are missing.")

    if not archive.is_file():
        put = (
            f"Put {cifar.archive} from {cifar.source.url}, or the folder {cifar.folder} that is in it, "
            f"into {root}, or give its folder as root. The digits that come with the package need no "
            "download."
        )
        if not download:
            raise ImageError(f"{cifar.title}'s files are not all in {root}. {put}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            with _alone(root):
                if not archive.is_file():
                    fetch(cifar.source, archive)
        except (OSError, HTTPException, ImageError) as error:  # the last: a log-in page, say
            raise ImageError(
                f"{cifar.title}'s files are not all in {root} and cannot be downloaded ({error}). {put}"
            ) from error
    with _alone(root):
        _unpack(cifar, archive, root / cifar.folder)
    return root / cifar.folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A lock against other processes on the same computer, such as those of one training run."""
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
    """Download a file, resuming an earlier attempt, and check it.

    Until it is complete the file is called `path` with `.part` added.

    Arguments:
        source: The file to download.
        path: Where to put it.
        timeout: Seconds to wait for an answer.

    Raises:
        OSError, HTTPException: The connection fails or breaks off.
        ImageError: The file is not the expected one.
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
            if error.code == 416:  # the part does not fit the server's file
                part.unlink()
            raise
    if have < source.size:
        raise ConnectionError(
            f"broke off after {have:,} of {source.size:,} bytes; they are kept, and the next attempt "
            "resumes from there"
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
    """Download the rest after the first `have` bytes; return the number of bytes then present."""
    from tqdm import tqdm

    headers = {"User-Agent": "anydiff", **({"Range": f"bytes={have}-"} if have else {})}
    with urlopen(Request(source.url, headers=headers), timeout=timeout) as response:
        if have and not str(response.headers["Content-Range"]).startswith(f"bytes {have}-"):
            have = 0  # the server sends it from the beginning
        length = response.headers["Content-Length"]
        if length is not None and have + int(length) != source.size:
            raise ImageError(
                f"{source.url}: the file there has {have + int(length):,} bytes, not {source.size:,}; "
                "it is another file."
            )
        bar = tqdm(desc=part.stem, total=source.size, initial=have, unit="B", unit_scale=True)
        with open(part, "ab" if have else "wb") as file, bar:
            while have <= source.size and (piece := response.read(2**18)):
                file.write(piece)
                have += len(piece)
                bar.update(len(piece))
    return have


def _unpack(cifar: Cifar, archive: Path, folder: Path) -> None:
    """Write those of the archive's files that are missing, and nothing else from it."""
    missing = [name for name in cifar.files if not (folder / name).is_file()]
    wanted = {f"{cifar.folder}/{name}": folder / name for name in missing}
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
                    raise ImageError(
                        f"{archive}: {member.name} in it is not a file of {cifar.title}."
                    )
                with whole(path) as temporary:
                    Path(temporary).write_bytes(raw)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ImageError(
            f"{archive}: cannot be unpacked to {folder} ({error}); if it is cut short, delete it and "
            "download it again."
        ) from error
    if wanted:
        raise ImageError(f"{archive}: {sorted(wanted)[0]} is not in it; it is another archive.")


# the files --------------------


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _read(cifar: Cifar, path: Path) -> dict[Any, Any]:
    """The dictionary in one of the files, with its keys as strings."""
    try:
        value = read_pickle(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ImageError(f"{path}: holds no dictionary, as {cifar.title}'s files do.")
    return {_text(key): item for key, item in value.items()}


def _batch(cifar: Cifar, path: Path, count: Any, classes: int) -> tuple[np.ndarray, list[int]]:
    """Pixels (count, 3072) and labels of one file; any count if None."""
    values = _read(cifar, path)
    data, labels = values.get("data"), values.get(cifar.labels)
    if not isinstance(data, PickledArray) or not isinstance(labels, list):
        raise ImageError(
            f"{path}: holds {sorted(map(str, values))}; expected data and {cifar.labels}."
        )
    count = len(labels) if count is None else count
    try:
        rows = data.numbers()
    except Exception as error:  # a pickled array may contain anything
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
