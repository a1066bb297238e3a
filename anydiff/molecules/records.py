"""One molecule as a file or another library has it, and many of them in ragged arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anydiff.molecules.elements import NUMBERS, MoleculeError
from anydiff.molecules.fields import numbers

__all__ = ["LARGE", "Record", "atomic_number", "entry", "from_lists", "ragged"]

LARGE = 1e9
"""The first coordinate, in ångström, that is refused: float64 keeps bond lengths up to there."""
_MOST = 10**8  # numbers in a table of properties


@dataclass(slots=True)
class Record:
    """One molecule.

    Arguments:
        place: Where it is from, for error messages: a file and line, or a number.
        z: n atomic numbers.
        pos: (n, 3), positions in ångström.
        charges: n formal charges, or None if they are not known.
        bonds: Pairs of the molecule's atoms, from 0, or None if bonds are not known.
        orders: The orders of the bonds.
        props: Properties by their names.
        smiles: The SMILES, or None.
        id: The source's number of the molecule, or None.
        title: The source's name of the molecule.
        drawn: Whether it may be a flat drawing instead of positions in space.
    """

    place: str
    z: Any
    pos: Any
    charges: Any = None
    bonds: Any = None
    orders: Any = ()
    props: dict[str, float] = field(default_factory=dict)
    smiles: str | None = None
    id: int | None = None
    title: str = ""
    drawn: bool = False


def atomic_number(text: str) -> int | None:
    """The atomic number that a symbol or a number means, and None of anything else.

    Deuterium and tritium, D and T, are hydrogen.

    Arguments:
        text: A symbol, in upper or lower case, or digits.
    """
    if text.isascii() and text.isdigit() and len(text) <= 3:
        return int(text) if 0 < int(text) <= len(NUMBERS) else None
    return NUMBERS.get({"D": "H", "T": "H"}.get(text, text.capitalize()))


def ragged(records: Iterable[Record], name: str) -> dict[str, Any]:
    """The arrays of many molecules, as :class:`~anydiff.molecules.molecules.Molecules` takes them.

    Charges, bonds, SMILES and numbers are kept where all molecules have them, properties where some do,
    with NaN for the others. Without numbers, whole numbers as titles are these; or else titles give
    numbers that are equal where titles are.

    Arguments:
        records: The molecules.
        name: The source of the molecules, for error messages.

    Raises:
        MoleculeError: There are none, or they have too many different properties.
    """
    records = list(records)
    if not records:
        raise MoleculeError(f"{name} holds no molecules.")
    sizes = [len(record.z) for record in records]
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    arrays: dict[str, Any] = {"offsets": offsets, "ids": _ids(records)}
    arrays["z"] = np.concatenate([np.asarray(record.z) for record in records])
    arrays["pos"] = np.concatenate([np.asarray(record.pos) for record in records])

    charges = [record.charges for record in records]
    if all(c is not None for c in charges):
        arrays["charges"] = np.concatenate(charges)
    counts = [0 if record.bonds is None else len(record.bonds) for record in records]
    if all(record.bonds is not None for record in records):
        pairs = np.concatenate([np.reshape(np.asarray(r.bonds, int), (-1, 2)) for r in records])
        arrays["bonds"] = pairs + np.repeat(offsets[:-1], counts)[:, None]
        arrays["orders"] = np.concatenate([np.asarray(r.orders, int) for r in records])
    if all(record.smiles is not None for record in records):
        arrays["smiles"] = [record.smiles for record in records]

    names = list(dict.fromkeys(p for record in records for p in record.props))
    if len(names) * len(records) > _MOST:
        raise MoleculeError(
            f"{name}: {len(names)} different properties of {len(records)} molecules do not fit in "
            "memory; keep those that are needed."
        )
    if names:
        column = {p: k for k, p in enumerate(names)}
        props = np.full((len(records), len(names)), np.nan)
        for m, record in enumerate(records):
            for p, value in record.props.items():
                props[m, column[p]] = value
        arrays |= {"props": props, "prop_names": tuple(names)}
    return arrays


def from_lists(
    name: str,
    z: Sequence[Any],
    pos: Sequence[Any],
    charges: Sequence[Any] | None = None,
    bonds: Sequence[Any] | None = None,
    orders: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """The arrays of molecules that are given in lists, one entry for each.

    Arguments:
        name: The source of the molecules, for error messages.
        z: n atomic numbers or symbols each.
        pos: (n, 3) each.
        charges: n formal charges each, or None.
        bonds: (e, 2) each, two atoms of the molecule, or None.
        orders: e orders each, or None.

    Raises:
        MoleculeError: The lists are not equally long, or an entry is something else.
    """
    fields = {"z": z, "pos": pos, "charges": charges, "bonds": bonds, "orders": orders}
    for key, items in fields.items():
        if items is None and key in ("z", "pos"):
            raise MoleculeError(
                f"{name}: there are no {key}; give a list, an entry for each molecule."
            )
        if items is not None and (np.isscalar(items) or not hasattr(items, "__len__")):
            raise MoleculeError(
                f"{name}: {key} is {items!r}; give a list, an entry for each molecule."
            )
    given = {key: list(items) for key, items in fields.items() if items is not None}
    num = len(given["z"])
    for key, items in given.items():
        if len(items) != num:
            raise MoleculeError(f"{name}: {len(items)} {key} for {num} molecules.")
    if not num:
        raise MoleculeError(f"{name} holds no molecules.")
    if len(given.keys() & {"bonds", "orders"}) == 1:
        raise MoleculeError(f"{name}: give both bonds and orders, or neither.")
    arrays = {
        key: [entry(f"{name}: molecule {m}", key, item) for m, item in enumerate(items)]
        for key, items in given.items()
    }
    for key, other in (("pos", "z"), ("charges", "z"), ("orders", "bonds")):
        for m in range(num if key in arrays else 0):
            count, wanted = len(arrays[key][m]), len(arrays[other][m])
            if count != wanted:
                raise MoleculeError(f"{name}: molecule {m} has {count} {key} for {wanted} {other}.")
    sizes = [len(item) for item in arrays["z"]]
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    whole: dict[str, Any] = {key: np.concatenate(items) for key, items in arrays.items()}
    if "bonds" in arrays:
        counts = [len(item) for item in arrays["bonds"]]
        outside = (whole["bonds"] < 0) | (whole["bonds"] >= np.repeat(sizes, counts)[:, None])
        if outside.any():
            m = int(np.repeat(np.arange(len(sizes)), counts)[outside.any(1)][0])
            raise MoleculeError(
                f"{name}: molecule {m} has bonds to more than its {sizes[m]} atoms."
            )
        whole["bonds"] = whole["bonds"] + np.repeat(offsets[:-1], counts)[:, None]
    return whole | {"offsets": offsets}


def entry(where: str, key: str, item: Any) -> np.ndarray:
    """One molecule's entry of a field.

    Arguments:
        where: The molecule, for error messages.
        key: The name of the field.
        item: What was given for it.

    Raises:
        MoleculeError: It is something else.
    """
    texts = getattr(getattr(item, "dtype", None), "kind", "") in ("U", "O")
    symbols = isinstance(item, (str, list, tuple)) or (texts and np.ndim(item) == 1)
    if key == "z" and symbols:
        for atom in (atoms := list(item)):
            if isinstance(atom, str) and atomic_number(atom) is None:
                raise MoleculeError(f"{where}: {atom!r} is not an element.")
        item = [atomic_number(atom) if isinstance(atom, str) else atom for atom in atoms]
    array = numbers(where, key, item, "fiu" if key == "pos" else "iu")
    columns = {"pos": (3,), "bonds": (2,)}.get(key, ())
    if array.size == 0:
        return np.zeros((0, *columns), float if key == "pos" else np.int64)
    if array.ndim != 1 + len(columns) or array.shape[1:] != columns:
        raise MoleculeError(f"{where}: {key} are {array.shape}; give {('n', *columns)}.")
    return array


def _ids(records: list[Record]) -> list[int] | None:
    if all(record.id is not None for record in records):
        return [record.id for record in records]  # type: ignore[misc]
    titles = [record.title.strip() for record in records]
    if not all(titles):
        return None
    if all(re.fullmatch("-?[0-9]{1,19}", text) for text in titles):
        whole = [int(text) for text in titles]
        if max(map(abs, whole)) < 2**63:
            return whole
    numbers: dict[str, int] = {}
    return [numbers.setdefault(text, m) for m, text in enumerate(titles)]
