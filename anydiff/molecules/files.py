r"""Files of molecules: npz, SDF and XYZ, read and written.

Reading gives :class:`~anydiff.molecules.molecules.Molecules`, or raises a
:class:`~anydiff.molecules.elements.MoleculeError` that names the file and the line or molecule.
Hydrogens must be explicit: none are added. Bonds, charges and data fields of an SDF are not read.

The arrays of an npz: `z` (N,), `pos` (N, 3) in ångström, `offsets` (M + 1,); optionally `index` (M,),
the source's numbers, `smiles` (UTF-8 bytes, one line for each molecule), `props` (M, P) with
`prop_names`, `charges` (N,), and `bonds` (E, 2) with `orders` (E,). `pos_q` (integers) times
`pos_scale` may take the place of `pos`, and `n_atoms` (M,) that of `offsets`.

Writing is atomic: a file is complete or absent.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anydiff.extras import extra
from anydiff.files import PathLike, whole
from anydiff.molecules.elements import NUMBERS, SYMBOLS, MoleculeError
from anydiff.molecules.molecules import Molecules

__all__ = ["read_molecules", "write_npz", "write_sdf", "write_xyz"]


def read_molecules(path: PathLike, name: str | None = None) -> Molecules:
    """The molecules of an `.npz`, `.sdf`, `.mol` or (multi-frame) `.xyz` file.

    Arguments:
        path: The file.
        name: The name of the result; by default the path.

    Raises:
        MoleculeError: The file is missing, of another kind or faulty.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".sdf": _read_sdf, ".mol": _read_sdf, ".xyz": _read_xyz}
    if path.suffix.lower() not in readers:
        raise MoleculeError(f"{path}: give a file with one of the endings {', '.join(readers)}.")
    if not path.is_file():
        raise MoleculeError(f"{path}: there is no such file.")
    return readers[path.suffix.lower()](path, name or str(path))


# npz --------------------


def _read_npz(path: Path, name: str) -> Molecules:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise MoleculeError(f"{path}: not a readable npz file, or cut short ({error}).") from error

    if "pos" not in arrays and {"pos_q", "pos_scale"} <= arrays.keys():
        arrays["pos"] = (arrays["pos_q"] * arrays["pos_scale"]).astype(np.float32)
    if "offsets" not in arrays and "n_atoms" in arrays:
        arrays["offsets"] = np.concatenate([[0], np.cumsum(arrays["n_atoms"], dtype=np.int64)])
    missing = [key for key in ("z", "pos", "offsets") if key not in arrays]
    if missing:
        raise MoleculeError(f"{path}: has no {' and '.join(missing)}; it holds {sorted(arrays)}.")
    if arrays["pos"].dtype.kind != "f":
        raise MoleculeError(f"{path}: pos is {arrays['pos'].dtype}; give floating point numbers.")

    smiles = None
    if "smiles" in arrays:
        text = arrays["smiles"].astype(np.uint8).tobytes()
        try:
            smiles = text.decode().split("\n")
        except UnicodeDecodeError as error:
            raise MoleculeError(f"{path}: smiles are not UTF-8 ({error}).") from error
    return Molecules(
        z=arrays["z"],
        pos=arrays["pos"],
        offsets=arrays["offsets"],
        smiles=smiles,
        props=arrays.get("props"),
        prop_names=tuple(arrays.get("prop_names", ())),
        ids=arrays.get("index"),
        name=name,
        charges=arrays.get("charges"),
        bonds=arrays.get("bonds"),
        orders=arrays.get("orders"),
    )


def write_npz(path: PathLike, molecules: Molecules) -> None:
    """Write molecules to an npz file, from which :func:`read_molecules` restores them.

    Arguments:
        path: The file.
        molecules: The molecules.
    """
    arrays: dict[str, Any] = {key: getattr(molecules, key) for key in ("z", "pos", "offsets")}
    for key, value in (
        ("index", molecules.ids), ("charges", molecules.charges),
        ("bonds", molecules.bonds), ("orders", molecules.orders),
    ):  # fmt: skip
        if value is not None:
            arrays[key] = value
    if molecules.smiles is not None:
        arrays["smiles"] = np.frombuffer("\n".join(molecules.smiles).encode(), np.uint8)
    if molecules.props is not None:
        arrays |= {"props": molecules.props, "prop_names": np.array(molecules.prop_names)}
    with whole(path, ".npz") as temporary:
        np.savez_compressed(temporary, **arrays)


# text --------------------


class _Lines:
    """A text file line by line, with the line number for error messages."""

    def __init__(self, path: Path) -> None:
        self.path, self.number = path, 0
        try:
            self.lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MoleculeError(f"{path}: not a readable text file ({error}).") from error
        self.last = max((k + 1 for k, line in enumerate(self.lines) if line.strip()), default=0)

    def error(self, message: str) -> MoleculeError:
        return MoleculeError(f"{self.path}, line {self.number}: {message}")

    def next(self, what: str) -> str:
        self.number += 1
        if self.number > len(self.lines):
            raise self.error(f"the file ends where {what} should be.")
        return self.lines[self.number - 1]

    @property
    def more(self) -> bool:
        """Whether any line that is not blank is left."""
        return self.number < self.last

    def count(self, text: str, what: str) -> int:
        if not text.strip().isdigit() or int(text) < 1:
            raise self.error(f"{text.strip()!r} should be {what}, at least 1.")
        return int(text)

    def element(self, text: str) -> int:
        z = int(text) if text.isdigit() else NUMBERS.get(text.capitalize(), 0)
        if not 0 < z < len(SYMBOLS):
            raise self.error(f"{text!r} is not an element.")
        return z

    def position(self, texts: Sequence[str]) -> list[float]:
        try:
            x, y, z = (float(text.replace("*^", "e")) for text in texts)
        except ValueError:
            raise self.error(f"{' '.join(texts)!r} should be three numbers x y z.") from None
        if not all(abs(c) < float("inf") for c in (x, y, z)):  # also false for nan
            raise self.error(f"the position {' '.join(texts)!r} is not finite.")
        return [x, y, z]


def _ragged(
    sizes: list[int], z: list[int], pos: list[list[float]], path: Path, name: str
) -> Molecules:
    if not sizes:
        raise MoleculeError(f"{path}: the file holds no molecules.")
    return Molecules(
        z=np.array(z, np.uint8),
        pos=np.array(pos, np.float32).reshape(-1, 3),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        name=name,
    )


def _read_xyz(path: Path, name: str) -> Molecules:
    lines = _Lines(path)
    sizes: list[int] = []
    z: list[int] = []
    pos: list[list[float]] = []
    while lines.more:
        sizes.append(lines.count(lines.next("a number of atoms"), "the number of atoms"))
        lines.next("a comment")
        for _ in range(sizes[-1]):
            fields = lines.next(f"an atom of molecule {len(sizes) - 1}").split()
            if len(fields) < 4:
                raise lines.error("an atom should read: element x y z.")
            z.append(lines.element(fields[0]))
            pos.append(lines.position(fields[1:4]))
    return _ragged(sizes, z, pos, path, name)


def _read_sdf(path: Path, name: str) -> Molecules:
    lines = _Lines(path)
    sizes: list[int] = []
    z: list[int] = []
    pos: list[list[float]] = []
    while lines.more:
        lines.next("a title")
        if lines.next("the program line")[20:22] == "2D":
            raise lines.error("the molecule is two-dimensional; give it 3-D coordinates first.")
        lines.next("a comment")
        counts = lines.next("the counts line")
        if "V3000" in counts:
            while (fields := lines.next("M  V30 COUNTS").split())[2:3] != ["COUNTS"]:
                pass
            num = lines.count(fields[3] if len(fields) > 3 else "", "the number of atoms")
            while lines.next("M  V30 BEGIN ATOM").split()[2:4] != ["BEGIN", "ATOM"]:
                pass
        else:
            num = lines.count(counts[:3], "the number of atoms (columns 1 to 3)")
        for _ in range(num):
            line = lines.next(f"an atom of molecule {len(sizes)}")
            if "V3000" in counts:
                fields = line.split()
                element, xyz = (fields[3], fields[4:7]) if len(fields) > 6 else ("", fields)
            else:
                element, xyz = line[31:34].strip(), [line[i : i + 10] for i in (0, 10, 20)]
            pos.append(lines.position(xyz))
            z.append(lines.element(element))
        sizes.append(num)
        while lines.next("M  END").split() != ["M", "END"]:
            pass
        while lines.more and lines.next("$$$$").strip() != "$$$$":
            pass
    return _ragged(sizes, z, pos, path, name)


# writing --------------------


def write_sdf(path: PathLike, mols: Sequence[Any]) -> None:
    """Write RDKit molecules to an SDF.

    Molecules that RDKit cannot sanitise are written unchanged, with their bonds.

    Arguments:
        path: The file.
        mols: Molecules as :func:`anydiff.molecules.evaluate.to_rdkit` makes them.

    Raises:
        ImportError: RDKit is not installed.
    """
    with extra("molecules"):
        from rdkit import Chem
    with whole(path, ".sdf") as temporary:
        writer = Chem.SDWriter(temporary)
        writer.SetKekulize(False)  # the bond orders are final, and sanitisation might fail
        for mol in mols:
            writer.write(mol)
        writer.close()


def write_xyz(
    path: PathLike, frames: Sequence[tuple[Any, Any]], comments: Sequence[str] | None = None
) -> None:
    """Write molecules, or the steps of a trajectory, to an XYZ file.

    Arguments:
        path: The file.
        frames: Positions (n, 3) in ångström and atomic numbers (n,) of each frame.
        comments: One line for each frame; by default its number.

    Raises:
        ValueError: There are not as many comments as frames.
    """
    if comments is not None and len(comments) != len(frames):
        raise ValueError(f"{len(comments)} comments for {len(frames)} frames.")
    with whole(path, ".xyz") as temporary, open(temporary, "w", encoding="utf-8") as file:
        for k, (pos, z) in enumerate(frames):
            comment = comments[k] if comments is not None else f"frame {k}"
            file.write(f"{len(z)}\n{' '.join(comment.split())}\n")
            rows = zip(np.asarray(z).tolist(), np.asarray(pos).tolist(), strict=True)
            for number, (x, y, w) in rows:
                file.write(f"{SYMBOLS[number]:<2} {x:12.6f} {y:12.6f} {w:12.6f}\n")
