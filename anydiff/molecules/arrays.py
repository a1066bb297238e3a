r"""Molecules in the files of NumPy, npz.

Arrays: z (N,), pos (N, 3) in ångström, offsets (M + 1,); optionally index (M,), the source's numbers,
smiles (texts, or UTF-8 bytes with one line for each molecule), props (M, P) with prop_names, charges
(N,), and bonds (E, 2) with orders (E,). pos_q (integers) times pos_scale may take the place of pos, and
n_atoms (M,) that of offsets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anydiff.data.archives import read_npz
from anydiff.files import PathLike, whole
from anydiff.molecules.elements import MoleculeError
from anydiff.molecules.fields import numbers
from anydiff.molecules.molecules import Molecules

__all__ = ["read_arrays", "write_npz"]

_ARRAYS = (
    *("z", "pos", "pos_q", "pos_scale", "offsets", "n_atoms", "index", "smiles", "props"),
    *("prop_names", "charges", "bonds", "orders"),
)


def read_arrays(path: Path, name: str) -> Molecules:
    """The molecules of an npz file.

    Arguments:
        path: The file.
        name: The name of the result.

    Raises:
        MoleculeError: The file is cut short or faulty, or would fill the memory.
    """
    try:
        arrays = read_npz(path, _ARRAYS)
    except ValueError as error:
        raise MoleculeError(f"{path}: {error}.") from None
    where = str(path)
    if "pos" not in arrays and {"pos_q", "pos_scale"} <= arrays.keys():
        scale = numbers(where, "pos_scale", arrays["pos_scale"], "fiu")
        if scale.size != 1:
            raise MoleculeError(f"{path}: pos_scale is {scale.shape}; give one number.")
        arrays["pos"] = numbers(where, "pos_q", arrays["pos_q"]) * np.float64(scale.ravel()[0])
    if "offsets" not in arrays and "n_atoms" in arrays:
        sizes = numbers(where, "n_atoms", arrays["n_atoms"])
        arrays["offsets"] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    missing = [key for key in ("z", "pos", "offsets") if key not in arrays]
    if missing:
        raise MoleculeError(f"{path}: has no {' and '.join(missing)}; it holds {sorted(arrays)}.")
    if arrays["pos"].dtype.kind != "f":
        raise MoleculeError(f"{path}: pos is {arrays['pos'].dtype}; give floating point numbers.")
    rest = {key: arrays[key] for key in ("props", "charges", "bonds", "orders") if key in arrays}
    return Molecules(
        z=arrays["z"], pos=arrays["pos"], offsets=arrays["offsets"],
        smiles=_texts(arrays, "smiles", path), ids=arrays.get("index"), name=name,
        prop_names=tuple(_texts(arrays, "prop_names", path) or ()), **rest,
    )  # fmt: skip


def _texts(arrays: dict[str, np.ndarray], key: str, path: Path) -> list[str] | None:
    """The texts of an array: a text or bytes each, or UTF-8 numbers of lines."""
    if key not in arrays:
        return None
    array = np.atleast_1d(arrays[key])
    try:
        if array.dtype.kind in "ui" and key == "smiles":
            return array.astype(np.uint8).tobytes().decode().split("\n")
        if array.size == 0:
            return []
        if array.dtype.kind in "US" and array.ndim == 1:
            return [t.decode() if isinstance(t, bytes) else t for t in array.tolist()]
    except UnicodeDecodeError as error:
        raise MoleculeError(f"{path}: {key} are not UTF-8 ({error}).") from None
    raise MoleculeError(f"{path}: {key} is {array.shape} of {array.dtype}; give a row of texts.")


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
        arrays |= {"props": molecules.props, "prop_names": np.array(molecules.prop_names, str)}
    with whole(path, ".npz") as temporary:
        np.savez_compressed(temporary, **arrays)
