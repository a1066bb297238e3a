r"""Files of molecules: npz, SDF and XYZ, read and written.

Reading gives :class:`~anydiff.molecules.molecules.Molecules`, or raises a
:class:`~anydiff.molecules.elements.MoleculeError` that names the file and the line or molecule.
Hydrogens must be explicit: none are added.

- `.sdf`, `.sd`, `.mol`: V2000 and V3000, with bonds, formal charges and the numbers of data fields
  (:mod:`~anydiff.molecules.sdf`).
- `.xyz`, `.extxyz`: frames, plain, extended or of QM9 (:mod:`~anydiff.molecules.xyz`).
- These packed by gzip, with the ending `.gz` or without it; and folders of such files.
- `.npz`: all that :class:`~anydiff.molecules.molecules.Molecules` holds
  (:mod:`~anydiff.molecules.arrays`).

Writing is atomic: a file is complete or absent. What is written can be read again.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from anydiff.data.stored import cut
from anydiff.extras import extra
from anydiff.files import PathLike, whole
from anydiff.molecules.arrays import read_arrays, write_npz
from anydiff.molecules.elements import SYMBOLS, LeftOut, MoleculeError
from anydiff.molecules.fields import check_positions, coincident, in_float32
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.records import Record, ragged
from anydiff.molecules.sdf import read_sdf
from anydiff.molecules.text import lines_of
from anydiff.molecules.xyz import is_plain, read_xyz

__all__ = ["read_molecules", "read_parts", "write_npz", "write_sdf", "write_xyz"]

_WHOLE = re.compile(r"\s*-?[0-9]{1,18}\s*").fullmatch
_TEXTS = {
    ".sdf": read_sdf,
    ".sd": read_sdf,
    ".mol": read_sdf,
    ".xyz": read_xyz,
    ".extxyz": read_xyz,
}


def read_molecules(path: PathLike, name: str | None = None, *, skip: bool = False) -> Molecules:
    """The molecules of a file, or of all text files of a folder, sorted by name.

    Arguments:
        path: A file that ends in .npz, .sdf, .sd, .mol, .xyz or .extxyz, with .gz after it or not; or a
            folder. If QM9's list `uncharacterized.txt` is in the folder, the molecules with its numbers
            are left out.
        name: The name of the result; by default the path.
        skip: Leave out molecules that are faulty, with one warning, instead of raising an error.

    Raises:
        MoleculeError: The file is missing, of another kind or faulty, or no molecule is left.
        ImportError: RDKit is not installed, for SDF; or ASE, for extended XYZ.
    """
    path = Path(path)
    name = name or str(path)
    if not path.is_dir() and _ending(path) == ".npz" and path.is_file():
        if skip:
            raise MoleculeError(f"{path}: skip=True is for text files; leave it out.")
        return read_arrays(path, name)
    return _gathered(_records(path), name, skip)


def read_parts(path: PathLike, each: int, *, skip: bool = False) -> Iterator[Molecules]:
    """The molecules of a text file or a folder, some at a time, of which one part is in memory.

    Numbers are kept where the source has some; titles in words, which :func:`read_molecules` numbers, are
    left out.

    Arguments:
        path: As :func:`read_molecules` takes it, but for .npz.
        each: Molecules of a part.
        skip: As :func:`read_molecules` takes it.

    Yields:
        Molecules.

    Raises:
        MoleculeError: As :func:`read_molecules`.
        ImportError: As :func:`read_molecules`.
    """
    fault: MoleculeError | None = None
    some = False
    for records in cut(_records(Path(path)), each):
        titled = any(
            isinstance(r, Record) and r.id is None and not _WHOLE(r.title) for r in records
        )
        try:
            part = _gathered(records, str(path), skip)
        except MoleculeError as error:
            if not skip:
                raise
            warnings.warn(LeftOut(str(error), len(records)), stacklevel=2)
            fault = error
            continue
        some = True
        yield replace(part, ids=None) if titled else part
    if fault is not None and not some:
        raise fault


def _records(path: Path) -> Iterator[Record | MoleculeError]:
    """The molecules of a text file, or of all of a folder; what is faulty is not raised."""
    if path.is_dir():
        return _in_folder(path)
    kind = _ending(path)
    if kind != ".npz" and kind not in _TEXTS:
        raise MoleculeError(
            f"{path}: give a folder, or a file with one of the endings .npz, {', '.join(_TEXTS)}."
        )
    if not path.exists():
        raise MoleculeError(f"{path}: there is no such file.")
    if not path.is_file():
        raise MoleculeError(f"{path}: is a pipe or a device; give a file.")
    if kind == ".npz":
        raise MoleculeError(f"{path}: arrays are read as a whole; give a text file or a folder.")
    return _TEXTS[kind](lines_of(path), str(path))


def _ending(path: Path) -> str:
    """The ending that tells the kind of file: that before .gz, if there is one."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _in_folder(folder: Path) -> Iterator[Record | MoleculeError]:
    seen = (p for p in folder.iterdir() if not p.name.startswith("."))  # not macOS's ._a.xyz
    paths = sorted(p for p in seen if _ending(p) in _TEXTS and p.is_file())
    if not paths:
        raise MoleculeError(f"{folder}: no file in it ends in one of {', '.join(_TEXTS)}.")
    listed = folder / "uncharacterized.txt"
    left_out = _uncharacterized(listed) if listed.is_file() else set()

    def items() -> Iterator[Record | MoleculeError]:
        for path in paths:
            for item in _TEXTS[_ending(path)](lines_of(path), str(path)):
                if isinstance(item, Record) and left_out and item.id is None:
                    raise MoleculeError(
                        f"{item.place}: not a molecule of QM9, but {listed} lists some of its numbers to "
                        "leave out; take that file away."
                    )
                if isinstance(item, MoleculeError) or item.id not in left_out:
                    yield item

    return items()


def _uncharacterized(path: Path) -> set[int]:
    """The numbers of QM9's list of molecules whose geometry does not agree with their formula."""
    rows = (re.match(r"\s*(\d+)\s+\S*[A-Z(\[]", line, re.ASCII) for line in lines_of(path))
    found = {int(row[1]) for row in rows if row}
    if not found:
        raise MoleculeError(f"{path}: lists no molecules; take it away, or give QM9's own.")
    return found


def _gathered(items: Iterable[Record | MoleculeError], name: str, skip: bool) -> Molecules:
    records: list[Record] = []
    faults: list[MoleculeError] = []
    for item in items:
        if isinstance(item, Record):
            records.append(item)
        elif skip:
            faults.append(item)
        else:
            raise item
    for m, fault in _crowded(records):
        if not skip:
            raise fault
        faults.append(fault)
        records[m] = None  # type: ignore[call-overload]
    records = [record for record in records if record is not None]
    if not records and faults:
        raise MoleculeError(f"{name}: none of {len(faults)} molecules can be read; {faults[0]}")
    if records and all(record.drawn for record in records):
        raise MoleculeError(
            f"{records[0].place}: all z of all molecules are 0, as in drawings; give positions in space, "
            "or mark the molecules 3D (in columns 21 and 22 of the second line of each)."
        )
    if faults:
        total = len(records) + len(faults)
        words = f"{name}: {len(faults)} of {total} molecules are left out; the first: {faults[0]}"
        warnings.warn(LeftOut(words, len(faults)), stacklevel=3)
    if all(record.bonds is None or not len(record.bonds) for record in records):  # not known
        records = [replace(record, bonds=None) for record in records]
    return Molecules(**ragged(records, name), name=name)


def _crowded(records: list[Record]) -> Iterator[tuple[int, MoleculeError]]:
    """The molecules in which two atoms are at the same point."""
    sizes = np.array([len(record.z) for record in records], int)
    if not sizes.size:
        return
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    index = np.repeat(np.arange(len(sizes)), sizes)
    pos = in_float32(np.concatenate([record.pos for record in records]), offsets)
    seen: set[int] = set()
    for a, b in coincident(pos, index).tolist():
        m = int(index[a])
        if m not in seen:
            seen.add(m)
            first, second = a - int(offsets[m]) + 1, b - int(offsets[m]) + 1
            words = f"atoms {first} and {second}, counted from 1, are at the same point."
            yield m, MoleculeError(f"{records[m].place}: {words}")


# writing --------------------


def write_sdf(path: PathLike, mols: Molecules | Sequence[Any]) -> None:
    """Write molecules to an SDF.

    Molecules are written with their bonds and formal charges if these are known, properties as data
    fields where they are finite, and numbers as titles. RDKit's are written unchanged, also those that
    it cannot sanitise. Positions have four decimals.

    Arguments:
        path: The file.
        mols: Molecules, or those of RDKit with positions, as
            :func:`anydiff.molecules.evaluate.to_rdkit` makes them.

    Raises:
        ValueError: There are none; or one could not be read again: it has no positions, they are not
            finite, or two of its atoms are so close that they are one with four decimals.
        ImportError: RDKit is not installed.
    """
    with extra("molecules"):
        from rdkit import Chem, rdBase
    given = mols.to_rdkit() if isinstance(mols, Molecules) else list(mols)
    if not given:
        raise MoleculeError(f"for {path}: there are no molecules to write.")
    _check_rounded(Molecules.from_rdkit(given, f"for {path}"), 4)
    with rdBase.BlockLogs(), whole(path, ".sdf") as temporary:
        writer = Chem.SDWriter(temporary)
        writer.SetKekulize(False)  # the bond orders are final, and sanitisation might fail
        for mol in given:
            # the columns of the older format hold five digits before the point
            wide = np.abs(mol.GetConformer().GetPositions()).max() >= 1e4
            writer.SetForceV3000(bool(wide))
            writer.write(mol)
        writer.close()


def _check_rounded(molecules: Molecules, decimals: int) -> None:
    """An error unless molecules can be read again after rounding their positions."""
    pos = np.round(molecules.pos.astype(np.float64), decimals)
    check_positions(f"{molecules.name}, with {decimals} decimals", pos, molecules.offsets)


def _text(path: str) -> TextIO:
    # comments may hold the surrogates of what was read as something else than UTF-8
    return open(path, "w", encoding="utf-8", errors="backslashreplace")


def write_xyz(
    path: PathLike,
    frames: Molecules | Sequence[tuple[Any, Any]],
    comments: Sequence[str] | None = None,
) -> None:
    """Write molecules, or the steps of a trajectory, to a plain XYZ file: elements and positions.

    Positions have six decimals.

    Arguments:
        path: The file.
        frames: Molecules, or positions (n, 3) in ångström and atomic numbers (n,) of each frame.
        comments: One line for each frame; by default its number.

    Raises:
        ValueError: There are no frames, not as many comments as frames, a comment that says how to read
            the frame, or a frame that could not be read again.
    """
    name = f"for {path}"
    if not len(frames):
        raise MoleculeError(f"{name}: there are no frames to write.")
    if isinstance(frames, Molecules):
        molecules = frames
    else:
        molecules = Molecules.from_lists([z for _, z in frames], [x for x, _ in frames], name=name)
    _check_rounded(molecules, 6)
    if comments is None:
        comments = [f"frame {k}" for k in range(len(frames))]
    if len(comments) != len(frames):
        raise MoleculeError(f"{name}: {len(comments)} comments for {len(frames)} frames.")
    comments = [" ".join(comment.split()) for comment in comments]
    if odd := [comment for comment in comments if not is_plain(comment)]:
        raise MoleculeError(f"{name}: the comment {odd[0]!r} says how to read a frame; change it.")
    with whole(path, ".xyz") as temporary, _text(temporary) as file:
        for comment, (start, end) in zip(
            comments, pairwise(molecules.offsets.tolist()), strict=True
        ):
            file.write(f"{end - start}\n{comment}\n")
            rows = zip(
                molecules.z[start:end].tolist(), molecules.pos[start:end].tolist(), strict=True
            )
            for number, (x, y, w) in rows:
                file.write(f"{SYMBOLS[number]:<2} {x:12.6f} {y:12.6f} {w:12.6f}\n")
