"""The checks of the arrays of molecules, field by field.

Each function returns its field as it is kept, or raises a
:class:`~anydiff.molecules.elements.MoleculeError` that begins with the source of the molecules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydiff.molecules.elements import SYMBOLS, MoleculeError

__all__ = [
    "AROMATIC", "check_atoms", "check_bonds", "check_charges", "check_names", "check_positions",
    "check_smiles", "coincident", "in_float32", "numbers", "place",
]  # fmt: skip

# beyond this many ångström from the origin, float32 is off by more than 4e-6
_FAR = 100
AROMATIC = 4
"""The order of an aromatic bond of which no Kekulé structure is known, as in the files of MDL."""


def numbers(name: str, key: str, value: Any, kinds: str = "iu") -> np.ndarray:
    """An array of numbers.

    Arguments:
        name: The source of the molecules.
        key: The name of the field.
        value: What was given for it: anything that NumPy makes an array of, or a tensor.
        kinds: The kinds of numbers, as NumPy names them; by default integers.

    Raises:
        MoleculeError: It is of another kind, or has masked values.
    """
    parts = value if isinstance(value, (list, tuple)) else [value]
    if any(np.ma.is_masked(part) for part in parts):
        raise MoleculeError(f"{name}: {key} has masked values; leave them out, or fill them.")
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # unknown to NumPy
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MoleculeError(f"{name}: {key} is no array of numbers ({error}).") from None
    if array.dtype.kind not in kinds and not (array.size == 0 and array.dtype.kind == "f"):
        wanted = "integers" if kinds == "iu" else "numbers"
        raise MoleculeError(f"{name}: {key} is {array.shape} of {array.dtype}; give {wanted}.")
    if array.dtype == np.uint64 and (array >> np.uint64(63)).any():
        raise MoleculeError(f"{name}: {key} reaches {array.max()}; give less than 2^63.")
    return array


def place(name: str, offsets: np.ndarray, row: int) -> str:
    """The source, molecule and atom of a row, for error messages.

    Arguments:
        name: The source of the molecules.
        offsets: (M + 1,), molecule m is rows offsets[m]:offsets[m + 1].
        row: The row, 0 to N − 1.
    """
    m = int(np.searchsorted(offsets, row, side="right")) - 1
    return f"{name}: molecule {m}, atom {row - int(offsets[m])}"


def check_atoms(name: str, z: Any, offsets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers in uint8 and offsets in int64.

    Arguments:
        name: The source of the molecules.
        z: (N,), atomic numbers.
        offsets: (M + 1,), molecule m is rows offsets[m]:offsets[m + 1].

    Raises:
        MoleculeError: They do not fit together, a molecule is empty, or an element is unknown.
    """
    z, offsets = numbers(name, "z", z), numbers(name, "offsets", offsets)
    for key, array in (("z", z), ("offsets", offsets)):
        if array.ndim != 1:
            raise MoleculeError(f"{name}: {key} is {array.shape}; give a row of integers.")
    if len(offsets) < 2:
        raise MoleculeError(f"{name} holds no molecules.")
    if offsets[0] != 0 or offsets[-1] != len(z):
        raise MoleculeError(
            f"{name}: offsets run from {offsets[0]} to {offsets[-1]} but there are {len(z)} atoms; "
            "the file may be cut short."
        )
    offsets = offsets.astype(np.int64, copy=False)
    empty = np.diff(offsets) < 1
    if empty.any():
        raise MoleculeError(f"{name}: molecule {int(np.argmax(empty))} has no atoms.")
    known = (z >= 1) & (z < len(SYMBOLS))
    if not known.all():
        row = int(np.argmin(known))
        raise MoleculeError(
            f"{place(name, offsets, row)} has atomic number {z[row]}; give 1 to 118."
        )
    return z.astype(np.uint8, copy=False), offsets


def in_float32(pos: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Positions in float32; molecules far from the origin are moved there first.

    Arguments:
        pos: (N, 3), in ångström.
        offsets: (M + 1,), molecule m is rows offsets[m]:offsets[m + 1].
    """
    if pos.dtype == np.float32:
        return pos
    pos, sizes = pos.astype(np.float64), np.diff(offsets)
    with np.errstate(over="ignore", invalid="ignore"):
        far = np.maximum.reduceat(abs(pos).max(1), offsets[:-1]) > _FAR
        if far.any():
            mean = np.add.reduceat(pos, offsets[:-1]) / sizes[:, None]
            pos = pos - np.repeat(np.where(far[:, None], mean, 0), sizes, axis=0)
        return pos.astype(np.float32)


def check_positions(name: str, pos: Any, offsets: np.ndarray) -> np.ndarray:
    """Positions in float32, those of molecules far from the origin moved there.

    Arguments:
        name: The source of the molecules.
        pos: (N, 3), in ångström.
        offsets: (M + 1,), molecule m is rows offsets[m]:offsets[m + 1].

    Raises:
        MoleculeError: The shape is another, a position is not finite, or two atoms of a molecule are at
            the same point.
    """
    given, sizes = numbers(name, "pos", pos, "fiu"), np.diff(offsets)
    if given.shape != (offsets[-1], 3):
        raise MoleculeError(
            f"{name}: positions are {given.shape} for {offsets[-1]} atoms; give (N, 3)."
        )
    index = np.repeat(np.arange(len(sizes)), sizes)
    finite = np.isfinite(given).all(1)
    kept = in_float32(given, offsets) if finite.all() else given
    finite &= np.isfinite(kept).all(1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise MoleculeError(f"{place(name, offsets, row)} is at {given[row]}; it must be finite.")
    same = coincident(kept, index)
    if len(same):
        a, b = same[0].tolist()
        raise MoleculeError(
            f"{place(name, offsets, b)} is at the same point as atom {a - int(offsets[index[a]])}: "
            f"{kept[a]}."
        )
    return kept


def coincident(pos: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The pairs of atoms of one molecule at the same point, (K, 2), in the order of the first.

    Arguments:
        pos: (N, 3), finite positions in float32.
        index: (N,), the molecule of each.
    """
    # equal rows get equal keys; adding zero makes -0.0 and 0.0 the same bits
    bits = (pos + np.float32(0)).view(np.uint32).astype(np.uint64)
    key = index.astype(np.uint64)
    with np.errstate(over="ignore"):
        for column in bits.T:
            key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
    order = np.argsort(key, kind="stable")
    a, b = order[:-1], order[1:]
    near = np.flatnonzero(key[a] == key[b])
    a, b = a[near], b[near]
    same = (index[a] == index[b]) & (pos[a] == pos[b]).all(1)
    pairs = np.stack([a[same], b[same]], axis=1)
    return np.asarray(pairs[np.argsort(pairs[:, 0], kind="stable")])


def check_charges(name: str, charges: Any, z: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Formal charges in int8.

    Arguments:
        name: The source of the molecules.
        charges: (N,).
        z: (N,), atomic numbers.
        offsets: (M + 1,), molecule m is rows offsets[m]:offsets[m + 1].

    Raises:
        MoleculeError: The shape is another, a charge is not within −15 to 15, as files can hold them, or
            larger than the number of electrons.
    """
    charges = numbers(name, "charges", charges)
    if charges.shape != (offsets[-1],):
        raise MoleculeError(
            f"{name}: charges are {charges.shape} for {offsets[-1]} atoms; give (N,)."
        )
    usual = (charges >= -15) & (charges <= np.minimum(15, z))
    if not usual.all():
        row = int(np.argmin(usual))
        raise MoleculeError(
            f"{place(name, offsets, row)} has charge {charges[row]}; give -15 to {min(15, z[row])}."
        )
    return np.asarray(charges.astype(np.int8, copy=False))


def check_bonds(
    name: str, bonds: Any, orders: Any, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bonds in int64, the lower row first and in ascending order, and their orders in int8.

    Arguments:
        name: The source of the molecules.
        bonds: (E, 2), two rows each.
        orders: (E,), 1, 2, 3 or :data:`AROMATIC`.
        offsets: (M + 1,), molecule m is rows offsets[m]:offsets[m + 1].

    Raises:
        MoleculeError: One of the two is missing or of another shape, a bond occurs twice, joins an atom
            to itself or to one of another molecule, or its order is unknown.
    """
    if bonds is None or orders is None:
        given, other = ("orders", "bonds") if bonds is None else ("bonds", "orders")
        raise MoleculeError(f"{name}: there are {given} without {other}; give both, or neither.")
    bonds, orders = numbers(name, "bonds", bonds), numbers(name, "orders", orders)
    E, N = orders.size, int(offsets[-1])
    if orders.shape != (E,) or ((E or bonds.size) and bonds.shape != (E, 2)):
        raise MoleculeError(
            f"{name}: bonds are {bonds.shape} and orders {orders.shape}; give (E, 2) and (E,)."
        )
    bonds = bonds.reshape(-1, 2)
    outside = ((bonds < 0) | (bonds >= N)).any(1)
    if outside.any():
        e = int(np.argmax(outside))
        raise MoleculeError(
            f"{name}: bond {e} joins the rows {bonds[e].tolist()}; give 0 to {N - 1}."
        )
    bonds = np.sort(bonds.astype(np.int64), axis=1)
    order = np.lexsort((bonds[:, 1], bonds[:, 0]))
    bonds, orders = bonds[order], orders[order]

    i, j = bonds.T
    molecule = np.searchsorted(offsets, bonds, side="right")
    again = np.zeros(E, bool)
    again[1:] = (bonds[1:] == bonds[:-1]).all(1)
    faults = (
        (i == j, "to itself; leave that bond out."),
        (molecule[:, 0] != molecule[:, 1], "to an atom of another molecule; leave that bond out."),
        (again, "to the same atom twice; give each bond once."),
        ((orders < 1) | (orders > AROMATIC), "by an unknown order; give 1, 2, 3, or 4."),
    )
    for wrong, words in faults:
        if wrong.any():
            raise MoleculeError(
                f"{place(name, offsets, int(i[np.argmax(wrong)]))} is bonded {words}"
            )
    return bonds, orders.astype(np.int8, copy=False)


def check_names(name: str, names: Any) -> tuple[str, ...]:
    """Names of properties.

    Arguments:
        name: The source of the molecules.
        names: Different texts, or one text.

    Raises:
        MoleculeError: They are something else.
    """
    names = tuple(names) if _is_list(names) else (names,)
    if not all(_is_line(p) and p.strip() for p in names) or len(set(names)) < len(names):
        raise MoleculeError(f"{name}: prop_names are {names}; give different words.")
    return tuple(map(str, names))


def check_smiles(name: str, smiles: Sequence[str]) -> list[str]:
    """SMILES as a list, a line of text each.

    Arguments:
        name: The source of the molecules.
        smiles: One for each molecule.

    Raises:
        MoleculeError: One is no text, or does not fit on a line.
    """
    if not _is_list(smiles):
        raise MoleculeError(f"{name}: smiles are {smiles!r}; give a text for each molecule.")
    for m, text in enumerate(smiles):
        if not _is_line(text):
            raise MoleculeError(
                f"{name}: the SMILES of molecule {m} are {text!r}; give a line of text."
            )
    return list(map(str, smiles))


def _is_list(texts: Any) -> bool:
    """Whether it may hold texts, one for each of something."""
    if isinstance(texts, (str, bytes, dict, set)):
        return False
    return isinstance(texts, Iterable) and getattr(texts, "ndim", 1) == 1  # also columns of tables


def _is_line(text: Any) -> bool:
    """Whether it is a text that can stand on a line of a file."""
    return isinstance(text, str) and text.isprintable()
