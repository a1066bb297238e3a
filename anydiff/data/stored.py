"""Data that are larger than memory: a folder of numbered files, of which a few are read at a time.

Beside the files is `manifest.json`, which says what each one holds. `anydiff sample --part` writes such a
folder too, so that what was drawn can be learned from. A kind of data says how a file is read and how the
items of several are put together: :mod:`anydiff.molecules.store`, :mod:`anydiff.sketches.store`,
:mod:`anydiff.images.store`. Batches of a store are those of :class:`~anydiff.data.streamed.Streamed`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from anydiff.checks import check_whole
from anydiff.files import PathLike, whole

__all__ = ["MANIFEST", "Storage", "Store", "cut", "write_store"]

MANIFEST = "manifest.json"

Data = TypeVar("Data", bound=Sized)
Item = TypeVar("Item")


class Store(Generic[Data]):
    """The items in the numbered files of a folder.

    Arguments:
        folder: With the files and their manifest.
        read: A file -> its items.
        join: The items of several files -> all of them.
        files: Names of files of the folder; all that its manifest has if None.

    Raises:
        ValueError: If the folder has no manifest, or it is faulty, or a file is missing.
    """

    def __init__(
        self,
        folder: PathLike,
        read: Callable[[Path], Data],
        join: Callable[[list[Data]], Data],
        files: Sequence[str] | None = None,
    ) -> None:
        self.folder, self.read_file, self.join = Path(folder), read, join
        path = self.folder / MANIFEST
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if "parts" not in about and "settings" in about:
                raise ValueError(
                    f"{folder} holds parts of samples, of which some are missing; give the same command "
                    "again to draw them."
                )
            known = {str(of["file"]): int(of["items"]) for of in about["parts"]}
        except FileNotFoundError:
            raise ValueError(
                f"{folder} holds no {MANIFEST}; give a folder that was written as a store."
            ) from None
        except (json.JSONDecodeError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{path} does not say what the files hold ({error!r}); write the store anew."
            ) from error
        self.files = tuple(known) if files is None else tuple(files)
        for name in self.files:
            if name != Path(name).name or not (self.folder / name).is_file():
                raise ValueError(
                    f"{path} names {name!r}, which is not there; write the store anew."
                )
        self.counts = np.array([known[name] for name in self.files], np.int64)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def read(self, *numbers: int) -> Data:
        """The items of some files; of all of them without numbers.

        Arguments:
            numbers: Of the files, from 0.

        Raises:
            ValueError: If a file holds other items than the manifest says, or cannot be read.
        """
        parts = []
        for number in numbers or range(len(self.files)):
            path = self.folder / self.files[number]
            parts.append(items := self.read_file(path))
            if len(items) != self.counts[number]:
                raise ValueError(
                    f"{path} holds {len(items)} items, and the manifest says {self.counts[number]}; "
                    "write the store anew."
                )
        return parts[0] if len(parts) == 1 else self.join(parts)

    def __iter__(self) -> Iterator[Data]:
        """The items of each file, one after the other."""
        for number in range(len(self.files)):
            yield self.read(number)

    def some(self, numbers: Iterable[int]) -> Store[Data]:
        """The store of some of its files: what is learned from, for instance, without the last one.

        Arguments:
            numbers: Of the files.
        """
        names = [self.files[number] for number in numbers]
        return Store(self.folder, self.read_file, self.join, names)


def write_store(
    folder: PathLike,
    parts: Iterable[Data],
    write: Callable[[Path, Data], None],
    ending: str,
    num: int | None = None,
) -> None:
    """Write a store, with a progress bar. It is there when its manifest is, which is written last.

    Arguments:
        folder: For the files; files of a store that was begun there are replaced.
        parts: The items of each file, one after the other: a generator, so that one is in memory at a
            time.
        write: Writes items to a file.
        ending: Of the files, ".npz" for instance.
        num: How many items there are, for the progress bar.

    Raises:
        ValueError: If the folder holds a store already, or there are no items.
    """
    from tqdm.auto import tqdm

    folder, about = Path(folder), []
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder} holds a store already; give another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=num, desc="storing", unit=" items") as bar:
        for number, items in enumerate(parts):
            name = f"part-{number:05d}{ending}"
            write(folder / name, items)
            about.append({"file": name, "items": len(items)})
            bar.update(len(items))
    if not about:
        raise ValueError(f"there are no items to store in {folder}.")
    with whole(folder / MANIFEST) as temporary:
        Path(temporary).write_text(json.dumps({"parts": about}, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Storage(Generic[Data]):
    """How items of a kind are stored: what the module `store` of each kind is made of.

    Arguments:
        read: A file -> its items.
        join: The items of several files -> all of them.
        parts: The items of a source, so many at a time, as a function of both.
        write_file: Writes items to an npz file.
    """

    read: Callable[[Path], Data]
    join: Callable[[list[Data]], Data]
    parts: Callable[..., Iterable[Data]]
    write_file: Callable[[Path, Data], None]

    def open(self, folder: PathLike) -> Store[Data]:
        """The store in a folder, that :meth:`write` or `anydiff sample --part` has written.

        Arguments:
            folder: The folder.

        Raises:
            ValueError: If it is none.
        """
        return Store(folder, self.read, self.join)

    def write(
        self,
        source: PathLike | Iterable[Data],
        folder: PathLike,
        each: int = 10_000,
        **options: Any,
    ) -> Store[Data]:
        """Write a store, and open it. One file of it is in memory at a time.

        Arguments:
            source: A file or a folder, as the function `read_parts` of the kind's files takes it; or the
                items of each file, one after the other.
            folder: For the store.
            each: Items of a file of the store, of a source that is a path. What that reads as a whole,
                such as an npz or svg file of sketches, is a file of its own.
            options: As `read_parts` takes them: `skip` of molecules, for instance, `size` and `channels`
                of images.

        Raises:
            ValueError: If the folder holds a store already, there are no items, or some cannot be read.
        """
        path = isinstance(source, str | os.PathLike)
        parts: Any = self.parts(source, each, **options) if path else source
        write_store(folder, parts, self.write_file, ".npz")
        return self.open(folder)


def cut(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one of what is left.

    Arguments:
        items: Any.
        size: How many.

    Raises:
        ValueError: If the size is below 1.
    """
    check_whole("[1, inf)", size=size)
    some: list[Item] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
