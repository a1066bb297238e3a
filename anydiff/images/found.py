r"""Which files of a folder, or of a zip, are images, what is left out, and which class each belongs to.

Folders that are linked are entered; a link that leads back to a folder around it is not.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anydiff.images.images import ImageError, check_size

__all__ = ["SUFFIXES", "File", "Found"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_CLUTTER = ("thumbs.db", "desktop.ini", "__macosx")  # of Windows and macOS; as hidden files
_LABELS = "dataset.json"  # of the data sets of StyleGAN and EDM
_PARTS = {
    *(
        "train",
        "training",
        "test",
        "testing",
        "val",
        "valid",
        "validation",
        "dev",
        "eval",
        "holdout",
    ),
    *("train_set", "test_set", "images", "img"),
}


class File(NamedTuple):
    """An image file.

    Arguments:
        parts: The names of the folders that it is in, and its own, below the whole folder.
        name: What errors call it.
        open: () -> the open file.
    """

    parts: tuple[str, ...]
    name: str
    open: Callable[[], Any]


@dataclass
class Found:
    """The images of a folder in the order of their names, and what else is there.

    Arguments:
        files: The images.
        others: The names of what is left out.
        empty: The names of the folders at the top that hold no image.
        listed: The contents of `dataset.json`, if it is there.
        doubts: What Pillow warned of in reading the files.
    """

    files: list[File]
    others: list[str]
    empty: list[str] = field(default_factory=list)
    listed: bytes | None = None
    doubts: list[str] = field(default_factory=list)

    @classmethod
    def in_folder(cls, folder: Path) -> Found:
        """The images of a folder.

        Arguments:
            folder: The folder.
        """
        files, others = [], []
        for parts, path in _walk(folder):
            if path is not None and parts[-1].lower().endswith(SUFFIXES):
                files.append(File(parts, printable(path), partial(open, path, "rb")))
            elif parts != (_LABELS,):
                others.append("/".join(parts))
        tops = [entry for entry in os.scandir(folder) if not _hidden(entry.name)]
        held = {file.parts[0] for file in files}
        empty = [entry.name for entry in tops if entry.name not in held and _is(entry, "dir")]
        labels = folder / _LABELS
        return cls(
            _sorted(files), sorted(others), sorted(empty),
            labels.read_bytes() if labels.is_file() else None,
        )  # fmt: skip

    @classmethod
    def in_zip(cls, path: Path, zipped: zipfile.ZipFile) -> Found:
        """The images of a zip.

        Arguments:
            path: The file.
            zipped: The file, open.

        Raises:
            ImageError: It is small and would fill the memory, or is compressed in another way.
        """
        members = [m for m in zipped.infolist() if not m.is_dir()]
        check_size(sum(m.file_size for m in members), path.stat().st_size, printable(path))
        paths = [(m, tuple(part for part in m.filename.split("/") if part)) for m in members]
        paths = [(m, parts) for m, parts in paths if parts and not any(map(_hidden, parts))]
        lengths = [len(parts) for _, parts in paths] or [0]
        if len({parts[0] for _, parts in paths}) == 1 and min(lengths) > 1 and max(lengths) > 2:
            paths = [(m, parts[1:]) for m, parts in paths]  # the zipped folder itself
        files, others, listed = [], [], None
        for member, parts in paths:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ImageError(
                    f"{printable(path)}, {printable(member.filename)}: not stored or deflated, as files "
                    "in a zip usually are; zip them so."
                )
            if parts == (_LABELS,):
                listed = zipped.read(member)
            elif parts[-1].lower().endswith(SUFFIXES):
                name = f"{printable(path)}, {printable(member.filename)}"
                files.append(File(parts, name, partial(zipped.open, member)))
            else:
                others.append(member.filename)
        return cls(_sorted(files), sorted(others), listed=listed)

    def some(self) -> str:
        """A few names of what is there, for an error message."""
        names = sorted({*self.others, *self.empty})
        return (
            ", ".join(map(printable, names[:4])) + " …" * (len(names) > 4) if names else "nothing"
        )

    def labels(self, name: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """The labels (M,) and the names of the classes; None and () without labels.

        Arguments:
            name: What errors call the folder.

        Raises:
            ImageError: `dataset.json` is faulty, or has no label for an image.
        """
        if self.listed is not None and (numbers := self._listed(f"{name}, {_LABELS}")) is not None:
            return numbers, tuple(map(str, range(int(numbers.max()) + 1)))
        tops = [file.parts[0] for file in self.files]
        if self.listed is not None or any(len(file.parts) == 1 for file in self.files):
            return None, ()
        classes, number = np.unique(tops, return_inverse=True)
        return number, tuple(map(printable, classes.tolist()))

    def _listed(self, where: str) -> np.ndarray | None:
        """The labels of `dataset.json`; None if it has none."""
        try:
            labels = json.loads(self.listed or b"{}")["labels"]
            if labels is None:
                return None
            known = {str(name): number for name, number in labels}
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise ImageError(
                f'{where}: is not {{"labels": [[name, number], ...]}} ({type(error).__name__}: {error}).'
            ) from error
        numbers = [known.get("/".join(file.parts)) for file in self.files]
        for file, number in zip(self.files, numbers, strict=True):
            if type(number) is not int or not 0 <= number < 2**31:
                said = "has no label" if number is None else f"has label {number!r:.40}"
                raise ImageError(f"{where}: {'/'.join(file.parts)} {said}; labels count from 0.")
        return np.array(numbers)

    def notes(self) -> list[str]:
        """What to say of the folder: files that are left out, and classes that may be meant otherwise."""
        notes = []
        if self.others:
            one, several = "file is no image and left out", "files are no images and left out"
            notes.append(_count(self.others, one, several))
        if self.doubts:
            one, several = "file is doubtful", "files are doubtful"
            notes.append(_count([doubt.rstrip(".") for doubt in self.doubts], one, several))
        if self.listed is not None:
            return notes
        tops = {file.parts[0] for file in self.files if len(file.parts) > 1}
        loose = [file.parts[0] for file in self.files if len(file.parts) == 1]
        if tops and loose:
            so = "in no sub-folder, so that no image has a label"
            notes.append(_count(loose, f"image is {so}", f"images are {so}"))
        elif tops and {name.lower() for name in tops} <= _PARTS:
            notes.append(
                f"the classes are {', '.join(map(printable, sorted(tops)))}; if these are the parts of a "
                "data set, give one of them"
            )
        elif tops and self.empty:
            one, several = "folder has no image", "folders have no images"
            notes.append(
                _count(self.empty, f"{one} and is no class", f"{several} and are no classes")
            )
        return notes


def printable(name: str | os.PathLike[str]) -> str:
    """A name without what cannot be printed: bytes that are not UTF-8.

    Arguments:
        name: The name of a file.
    """
    return os.fspath(name).encode("utf-8", "backslashreplace").decode()


def _count(names: list[str], one: str, several: str) -> str:
    """How many names there are, what is true of them, and the first."""
    first = printable(names[0])
    return f"1 {one}, {first}" if len(names) == 1 else f"{len(names):,} {several}, first {first}"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER


def _sorted(files: Iterable[File]) -> list[File]:
    return sorted(files, key=lambda file: file.parts)


def _is(entry: os.DirEntry[str], kind: str) -> bool:
    """Whether an entry, or what it links to, is a "file" or a "dir"."""
    try:
        return entry.is_file() if kind == "file" else entry.is_dir()
    except OSError:  # a link to itself
        return False


def _walk(
    folder: Path, parts: tuple[str, ...] = (), around: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Path | None]]:
    """The names below a folder, each with its path; None for what is not a file, such as a pipe."""
    here = os.path.realpath(folder)
    if here in around:
        yield parts, None
        return
    for entry in os.scandir(folder):
        if _hidden(entry.name):
            continue
        below, path = (*parts, entry.name), Path(entry.path)
        if _is(entry, "dir"):
            yield from _walk(path, below, (*around, here))
        else:
            yield below, path if _is(entry, "file") else None
