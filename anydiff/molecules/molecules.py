r"""Molecules in ragged arrays.

:class:`Molecules` holds many molecules as three arrays: atomic numbers z (N,), positions (N, 3) in
ångström and offsets (M + 1,); molecule m is rows offsets[m]:offsets[m + 1]. Formal charges, bonds,
SMILES, properties and numbers go with them if they are known. It checks itself when it is built, and
whatever it accepts can be written and read again.

Hydrogens are explicit. A model may learn positions and elements alone: the bonds of its samples then
follow from distances (:mod:`anydiff.molecules.bonds`). Or it learns bonds too
(:mod:`anydiff.molecules.bonded`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from anydiff.data.ranges import ranges
from anydiff.drawing import png
from anydiff.extras import extra
from anydiff.molecules.convert import rdkit_mol, records_of_ase, records_of_pyg, records_of_rdkit
from anydiff.molecules.elements import MoleculeError
from anydiff.molecules.fields import (
    check_atoms,
    check_bonds,
    check_charges,
    check_names,
    check_positions,
    check_smiles,
    numbers,
    place,
)
from anydiff.molecules.pictures import grid
from anydiff.molecules.records import Record, from_lists, ragged

__all__ = ["Molecules", "both_ways"]


@dataclass(frozen=True, eq=False)
class Molecules:
    """Many molecules in ragged arrays, checked.

    Positions are kept in float32. A molecule that is more than 100 ångström from the origin would lose
    digits of its bond lengths by that, and is moved: its mean position becomes 0.

    Arguments:
        z: (N,), atomic numbers, hydrogens included.
        pos: (N, 3), positions in ångström.
        offsets: (M + 1,), molecule m is rows offsets[m]:offsets[m + 1].
        smiles: One for each molecule, or None.
        props: (M, P), properties, with the source's names and units, NaN if not known, or None.
        prop_names: P names.
        ids: (M,), the source's own numbers of its molecules, or None.
        name: The source of the molecules; error messages begin with it.
        charges: (N,), formal charges, from -15 to 15 or the atomic number, or None if they are not known.
        bonds: (E, 2), the rows of the two atoms of each bond, or None if bonds are not known. They are
            kept with the lower row first, and in ascending order, which is that of the molecules.
        orders: (E,), the order of each bond: 1, 2, 3, or 4 if it is aromatic and the places of single and
            double bonds are not known. Needed with `bonds`, and kept in their order.

    Raises:
        MoleculeError: The arrays do not fit together or are not of numbers, a molecule is empty, an
            element, charge or order is unknown, a position is not finite, or two atoms of a molecule
            are at the same point.
    """

    z: np.ndarray
    pos: np.ndarray
    offsets: np.ndarray
    smiles: Sequence[str] | None = None
    props: np.ndarray | None = None
    prop_names: tuple[str, ...] = ()
    ids: np.ndarray | None = None
    name: str = "molecules"
    charges: np.ndarray | None = None
    bonds: np.ndarray | None = None
    orders: np.ndarray | None = None

    def __post_init__(self) -> None:
        name = self.name
        z, offsets = check_atoms(name, self.z, self.offsets)
        kept: dict[str, Any] = {"z": z, "offsets": offsets}
        kept["pos"] = check_positions(name, self.pos, offsets)
        if self.charges is not None:
            kept["charges"] = check_charges(name, self.charges, z, offsets)
        if self.bonds is not None or self.orders is not None:
            both = check_bonds(name, self.bonds, self.orders, offsets)
            kept["bonds"], kept["orders"] = both
        kept["prop_names"] = check_names(name, self.prop_names)
        if self.props is not None:
            props = numbers(name, "props", self.props, "fiub")
            kept["props"] = props if props.dtype.kind == "f" else props.astype(np.float64)
        if self.ids is not None:
            ids = numbers(name, "ids", self.ids)
            kept["ids"] = ids.astype(np.int64, copy=False)
        if self.smiles is not None:
            kept["smiles"] = check_smiles(name, self.smiles)
        for key, value in kept.items():
            object.__setattr__(self, key, value)
        self._check_shapes()

    def _check_shapes(self) -> None:
        P = len(self.prop_names)
        if self.props is None and P:
            raise MoleculeError(f"{self.name}: there are prop_names without props; give both.")
        for key, shape in (("smiles", ()), ("ids", ()), ("props", (P,))):
            value = getattr(self, key)
            if value is not None and np.shape(value) != (len(self), *shape):
                raise MoleculeError(
                    f"{self.name}: {key} are {np.shape(value)} for {len(self)} molecules"
                    f"{f' with {P} prop_names' if shape else ''}; give {(len(self), *shape)}."
                )

    @classmethod
    def from_lists(
        cls,
        z: Sequence[Any],
        pos: Sequence[Any],
        *,
        charges: Sequence[Any] | None = None,
        bonds: Sequence[Any] | None = None,
        orders: Sequence[Any] | None = None,
        name: str = "molecules",
        **more: Any,
    ) -> Molecules:
        """From lists with one entry for each molecule.

        Arguments:
            z: n atomic numbers or symbols each.
            pos: (n, 3) each, in ångström.
            charges: n formal charges each.
            bonds: (e, 2) each, two atoms of the molecule, from 0.
            orders: e orders each.
            name: As of the class.
            more: Other arguments of the class, such as `smiles`, `props` and `prop_names`.

        Raises:
            MoleculeError: The lists are not equally long, or as of the class.
        """
        return cls(**from_lists(name, z, pos, charges, bonds, orders), **more, name=name)

    @classmethod
    def from_rdkit(cls, mols: Iterable[Any], name: str = "molecules") -> Molecules:
        """From RDKit molecules with positions; each conformer is a molecule, with the `ids` of its own.

        Their hydrogens are those that are atoms: ``Chem.AddHs(mol, addCoords=True)`` adds them. Aromatic
        bonds become single and double ones where there is a Kekulé structure, dative bonds single ones.

        Arguments:
            mols: The molecules.
            name: As of the class.

        Raises:
            MoleculeError: A molecule has no positions, an atom is no element, or a bond has no order.
        """
        records = []
        for m, where, mol in _each(mols, name):
            for record in records_of_rdkit(mol, where):
                record.id = m
                records.append(record)
        if records and all(record.drawn for record in records):
            warnings.warn(
                f"{name}: all z of all molecules are 0 and marked 2D, as in drawings; embed the "
                "molecules to have positions in space.",
                stacklevel=2,
            )
        return cls(**ragged(records, name), name=name)

    def to_rdkit(self) -> list[Any]:
        """RDKit molecules with these bonds and charges, a conformer each, not sanitised.

        No hydrogens are implied. Without bonds the atoms are loose;
        :func:`anydiff.molecules.evaluate.to_rdkit` gives them the bonds that follow from distances.
        Numbers become titles, and properties where they are finite are those of RDKit too.

        Raises:
            ImportError: RDKit is not installed.
        """
        mols = []
        for m, (start, end) in enumerate(pairwise(self.offsets.tolist())):
            record = Record("", self.z[start:end], self.pos[start:end])
            if self.charges is not None:
                record.charges = self.charges[start:end].tolist()
            if self.bonds is not None and self.orders is not None:
                rows = slice(*self.bond_offsets[m : m + 2].tolist())
                record.bonds = (self.bonds[rows] - start).tolist()
                record.orders = self.orders[rows].tolist()
            mol = rdkit_mol(record)
            if self.ids is not None:
                mol.SetProp("_Name", str(self.ids[m]))
            if self.props is not None:
                for p, value in zip(self.prop_names, self.props[m].tolist(), strict=True):
                    if math.isfinite(value):  # others are not known
                        mol.SetProp(p, repr(value))
            mols.append(mol)
        return mols

    @classmethod
    def from_ase(cls, items: Iterable[Any], name: str = "molecules") -> Molecules:
        """From ASE's Atoms; numbers in their `info`, and results such as energies, are properties.

        Arguments:
            items: The molecules.
            name: As of the class.

        Raises:
            MoleculeError: A cell is periodic, or an atom no element.
        """
        records = [r for _, where, item in _each(items, name) for r in records_of_ase(item, where)]
        return cls(**ragged(records, name), name=name)

    @classmethod
    def from_pyg(
        cls, items: Iterable[Any], prop_names: Sequence[str] = (), name: str = "molecules"
    ) -> Molecules:
        """From PyG's Data with z and pos, in a list, a Batch or a dataset.

        Arguments:
            items: The molecules. Their `smiles` and `charges` are kept, and the edges as bonds if
                `edge_attr` holds their orders, (E,) integers from 1 to 4.
            prop_names: The names of the columns of their `y`, to keep it.
            name: As of the class.

        Raises:
            MoleculeError: z or pos are missing, or `y` has other columns.
        """
        items = items.to_data_list() if hasattr(items, "to_data_list") else items
        names = check_names(name, prop_names)
        records = [
            r for _, where, item in _each(items, name) for r in records_of_pyg(item, where, names)
        ]
        return cls(**ragged(records, name), name=name)

    def place(self, row: int) -> str:
        """The source, molecule and atom of a row, for error messages.

        Arguments:
            row: The row, 0 to N − 1.
        """
        return place(self.name, self.offsets, row)

    @cached_property
    def index(self) -> np.ndarray:
        """The molecule of each atom, (N,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @cached_property
    def sizes(self) -> np.ndarray:
        """The number of atoms of each molecule, (M,)."""
        return np.diff(self.offsets)

    @cached_property
    def bond_offsets(self) -> np.ndarray:
        """(M + 1,); the bonds of molecule m are rows bond_offsets[m]:bond_offsets[m + 1] of `bonds`.

        Raises:
            MoleculeError: The bonds are not known.
        """
        if self.bonds is None:
            raise MoleculeError(f"{self.name} has no bonds.")
        return np.searchsorted(self.bonds[:, 0], self.offsets)

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """The atomic numbers that occur, ascending."""
        return tuple(np.unique(self.z).tolist())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, m: int) -> Any:
        """One molecule as PyG `Data` with z, pos, and, if they are known, y (1, P), smiles, charges (n,),
        and bonds: edge_index (2, 2e), in both directions, and edge_attr (2e,), their orders."""
        with extra("molecules"):
            from torch_geometric.data import Data

        if np.ndim(m) or not isinstance(m, (int, np.integer)):
            raise TypeError(f"{m!r} is no number of a molecule; `subset` takes several.")
        if not -len(self) <= m < len(self):
            raise IndexError(f"molecule {m} of {len(self)}")
        m = m % len(self)
        rows = slice(int(self.offsets[m]), int(self.offsets[m + 1]))
        pos, z = torch.tensor(self.pos[rows]), torch.tensor(self.z[rows], dtype=torch.long)
        data = Data(pos=pos, z=z)
        if self.props is not None:
            data.y = torch.tensor(self.props[None, m], dtype=torch.float32)
        if self.charges is not None:
            data.charges = torch.tensor(self.charges[rows], dtype=torch.long)
        if self.bonds is not None:
            edges = both_ways(*self.bonds_of(np.array([m]))[:2])
            data.edge_index, data.edge_attr = map(torch.from_numpy, edges)
        if self.smiles is not None:
            data.smiles = self.smiles[m]
        return data

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the first molecules, with their own bonds if they have some."""
        if find_spec("PIL") is None:
            return None
        some = self.subset(range(min(24, len(self))))
        bonds = {"bonds": some.bonds, "orders": some.orders, "charges": some.charges}
        own: Any = {} if some.bonds is None else bonds
        return png(grid(some.pos, some.z, some.index, columns=min(8, len(some)), size=200, **own))

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The rows of some molecules, one molecule after the other.

        Arguments:
            indices: Numbers of molecules.
        """
        return ranges(self.offsets[indices], self.offsets[indices + 1])

    def bonds_of(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The bonds of some molecules, one molecule after the other.

        Arguments:
            indices: Numbers of molecules.

        Returns:
            The two atoms of each bond, as rows of these molecules alone, (E, 2); the orders, (E,); and
            the number of bonds of each molecule.

        Raises:
            MoleculeError: The bonds are not known.
        """
        first, last = self.bond_offsets[indices], self.bond_offsets[indices + 1]
        if self.bonds is None or self.orders is None:
            raise MoleculeError(f"{self.name} has no bonds.")
        picked, sizes = ranges(first, last), self.sizes[indices]
        moved = np.repeat(np.cumsum(sizes) - sizes - self.offsets[indices], last - first)
        return self.bonds[picked] + moved[:, None], self.orders[picked], last - first

    def subset(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> Molecules:
        """Some of the molecules, in the given order.

        Arguments:
            indices: Numbers of molecules, or a boolean mask (M,).
            name: The name of the result; by default this one's.

        Raises:
            IndexError: A number is out of range or masked, or there are none.
        """
        if np.ma.is_masked(indices):
            raise IndexError("some indices are masked; leave them out.")
        indices = np.asarray(indices)
        if indices.dtype == bool:
            if indices.shape != (len(self),):
                raise IndexError(f"the mask is {indices.shape}; give ({len(self)},).")
            indices = np.flatnonzero(indices)
        if indices.ndim != 1 or (len(indices) and indices.dtype.kind not in "iu"):
            raise IndexError(
                f"indices are {indices.shape} of {indices.dtype}; give a row of integers or a mask."
            )
        if len(indices) == 0 or indices.min() < 0 or indices.max() >= len(self):
            raise IndexError(f"indices must be one or more of 0 to {len(self) - 1}.")
        rows = self.rows(indices)
        offsets = np.concatenate([[0], np.cumsum(self.sizes[indices])])
        bonds = orders = None
        if self.bonds is not None:
            bonds, orders, _ = self.bonds_of(indices)
        return Molecules(
            z=self.z[rows],
            pos=self.pos[rows],
            offsets=offsets,
            smiles=None if self.smiles is None else [self.smiles[i] for i in indices.tolist()],
            props=None if self.props is None else self.props[indices],
            prop_names=self.prop_names,
            ids=None if self.ids is None else self.ids[indices],
            name=name or self.name,
            charges=None if self.charges is None else self.charges[rows],
            bonds=bonds,
            orders=orders,
        )

    @classmethod
    def concatenate(cls, parts: Iterable[Molecules], name: str | None = None) -> Molecules:
        """The molecules of several, one after the other.

        What only some of them know is left out, but for properties, which are NaN where not known.

        Arguments:
            parts: At least one.
            name: The name of the result; by default that of the first.

        Raises:
            ValueError: There are no parts, or one is something else.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("there are no molecules to put together; give one part or more.")
        if odd := [part for part in parts if not isinstance(part, Molecules)]:
            raise ValueError(f"a part is {type(odd[0]).__name__}; give Molecules, in a list.")

        def joined(key: str, shifts: np.ndarray | None = None) -> Any:
            values = [getattr(part, key) for part in parts]
            if any(value is None for value in values):
                return None
            if shifts is not None:
                values = [value + shift for value, shift in zip(values, shifts, strict=True)]
            return np.concatenate(values)

        atoms = np.cumsum([0, *(len(part.z) for part in parts)])
        first = np.cumsum([0, *map(len, parts)])
        names = tuple(dict.fromkeys(p for part in parts for p in part.prop_names))
        props = np.full((first[-1], len(names)), np.nan)
        for part, m in zip(parts, first.tolist(), strict=False):
            if part.props is not None:
                columns = [names.index(p) for p in part.prop_names]
                props[m : m + len(part), columns] = part.props
        smiles: list[str] = []
        for part in parts:
            smiles += part.smiles or []
        return cls(
            z=joined("z"),
            pos=joined("pos"),
            offsets=np.concatenate(
                [[0], *(p.offsets[1:] + a for p, a in zip(parts, atoms, strict=False))]
            ),
            smiles=smiles if len(smiles) == first[-1] else None,
            props=props if names else None,
            prop_names=names,
            ids=joined("ids"),
            name=name or parts[0].name,
            charges=joined("charges"),
            bonds=joined("bonds", atoms[:-1]),
            orders=joined("orders"),
        )

    def property(self, name: str) -> np.ndarray:
        """The values of one property, (M,).

        Arguments:
            name: One of `prop_names`.

        Raises:
            KeyError: There is no such property.
        """
        if self.props is None or name not in self.prop_names:
            raise KeyError(f"{self.name} has no property {name!r}; it has {list(self.prop_names)}.")
        return self.props[:, self.prop_names.index(name)]


def both_ways(bonds: np.ndarray, orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bonds as edges (2, 2E), each in both directions, and their orders (2E,).

    Arguments:
        bonds: (E, 2), the two atoms of each bond.
        orders: (E,), its order.
    """
    edges = np.ascontiguousarray(bonds[:, [0, 1, 1, 0]].reshape(-1, 2).T)
    return edges, np.repeat(orders, 2).astype(np.int64)


def _each(items: Iterable[Any], name: str) -> Iterator[tuple[int, str, Any]]:
    """Each item with its number, and its place for error messages."""
    if not isinstance(items, Iterable) and not hasattr(items, "__getitem__"):
        raise MoleculeError(f"{name}: {type(items).__name__} is given; give a list of molecules.")
    if type(items).__name__ in ("Atoms", "Data", "str"):  # whose items are their atoms and the like
        raise MoleculeError(
            f"{name}: one {type(items).__name__} is given; give a list of molecules."
        )
    for m, item in enumerate(items):
        yield m, f"{name}: molecule {m}", item
