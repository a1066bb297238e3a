"""Molecules of other libraries: from RDKit, ASE and PyTorch Geometric, and to RDKit.

What is read is as for files: atoms, positions, formal charges, bonds, and numbers as properties.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from anydiff.extras import extra
from anydiff.molecules.elements import MoleculeError
from anydiff.molecules.fields import AROMATIC, numbers
from anydiff.molecules.records import LARGE, Record, entry

__all__ = ["rdkit_mol", "records_of_ase", "records_of_pyg", "records_of_rdkit"]


def records_of_rdkit(mol: Any, place: str) -> Iterator[Record]:
    """The conformers of an RDKit molecule.

    Hydrogens are those that are atoms of it: none are added. Aromatic bonds become single and double ones
    where there is a Kekulé structure, dative bonds single ones. Isotopes are not kept.

    Arguments:
        mol: The molecule, sanitised or not.
        place: Where it is from, for error messages.

    Raises:
        MoleculeError: It has no conformer, no atoms, an atom that is no element, or a bond whose order is
            not known.
    """
    with extra("molecules"):
        from rdkit import Chem, rdBase
    if not isinstance(mol, Chem.Mol):
        raise MoleculeError(f"{place}: {type(mol).__name__} is given; give an RDKit molecule.")
    get = mol.GetAtomWithIdx  # RDKit's iterator takes twice as long
    both = [((a := get(k)).GetAtomicNum(), a.GetFormalCharge()) for k in range(mol.GetNumAtoms())]
    if not both:
        raise MoleculeError(f"{place}: the molecule has no atoms.")
    z, charges = (list(column) for column in zip(*both, strict=True))
    for k in range(len(z) if mol.HasQuery() or 0 in z else 0):
        if z[k] == 0 or get(k).HasQuery():
            text = get(k).GetSymbol()
            raise MoleculeError(
                f"{place}: atom {k + 1}, {text!r}, is no element but a placeholder."
            )
    for k, charge in enumerate(charges if any(charges) else ()):
        most = min(15, z[k])
        if not -15 <= charge <= most:
            raise MoleculeError(f"{place}: atom {k + 1} has charge {charge}; give -15 to {most}.")
    if not mol.GetNumConformers():
        raise MoleculeError(f"{place}: the molecule has no positions; embed it first.")
    with rdBase.BlockLogs():
        bonds, orders = _bonds(Chem, mol, place)
    title = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    for conformer in mol.GetConformers():
        pos = conformer.GetPositions()
        _check_finite(pos, place)
        yield Record(
            place, z, pos, charges=charges, bonds=bonds, orders=orders, title=title,
            drawn=not (conformer.Is3D() or pos[:, 2].any()),
        )  # fmt: skip


def _bonds(Chem: Any, mol: Any, place: str) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (E, 2) and orders (E,) of bonds."""
    if mol.GetNumAtoms() <= 500 and not mol.HasQuery():  # many times as fast as one by one
        matrix = Chem.GetAdjacencyMatrix(mol, useBO=True, force=True)
        pairs = np.argwhere(matrix)
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        known = matrix[pairs[:, 0], pairs[:, 1]]
        if len(pairs) == mol.GetNumBonds() and set(known.tolist()) <= {1, 2, 3}:
            return pairs, known.astype(np.int8)

    kinds = Chem.BondType
    orders = {kinds.SINGLE: 1, kinds.DATIVE: 1, kinds.DOUBLE: 2, kinds.TRIPLE: 3}
    orders[kinds.AROMATIC] = AROMATIC
    bonds = list(mol.GetBonds())
    for bond in bonds:
        if bond.GetBondType() not in orders or bond.HasQuery():
            i, j = bond.GetBeginAtomIdx() + 1, bond.GetEndAtomIdx() + 1
            raise MoleculeError(
                f"{place}: the bond of atoms {i} and {j} has no order (RDKit: {bond.GetBondType()}); "
                "make it single, double, triple or aromatic, or leave it out."
            )
    if any(bond.GetBondType() == kinds.AROMATIC for bond in bonds):
        copy = Chem.Mol(mol)  # which a failure leaves half done
        try:
            Chem.Kekulize(copy, clearAromaticFlags=True)
            bonds = list(copy.GetBonds())
        except ValueError:  # no Kekulé structure, for instance where a charge is missing
            pass
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds]
    return (
        np.array(ends, np.int64).reshape(-1, 2),
        np.array([orders[bond.GetBondType()] for bond in bonds], np.int8),
    )


def _check_finite(pos: np.ndarray, place: str) -> None:
    near = (abs(pos) < LARGE).all(1)  # also false for nan
    if not near.all():
        k = int(np.argmin(near))
        raise MoleculeError(f"{place}: atom {k + 1} is at {pos[k]}; it must be finite, below 10^9.")


def rdkit_mol(record: Record) -> Any:
    """An RDKit molecule with one conformer, not sanitised; no hydrogens are implied.

    Arguments:
        record: The molecule. Without bonds, it is one of loose atoms.

    Raises:
        ImportError: RDKit is not installed.
    """
    with extra("molecules"):
        from rdkit import Chem
    kinds = [
        Chem.BondType.SINGLE,
        Chem.BondType.DOUBLE,
        Chem.BondType.TRIPLE,
        Chem.BondType.AROMATIC,
    ]
    mol = Chem.RWMol()
    charges = record.charges if record.charges is not None else [0] * len(record.z)
    for z, charge in zip(record.z, charges, strict=True):
        atom = Chem.Atom(int(z))
        atom.SetFormalCharge(int(charge))
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for (i, j), order in zip(
        () if record.bonds is None else record.bonds, record.orders, strict=True
    ):
        mol.AddBond(int(i), int(j), kinds[order - 1])
        if order == AROMATIC:  # which RDKit keeps of atoms too
            for k in (i, j):
                mol.GetAtomWithIdx(int(k)).SetIsAromatic(True)
    conformer = Chem.Conformer(len(record.z))
    conformer.SetPositions(np.ascontiguousarray(record.pos, np.float64))
    conformer.Set3D(True)
    mol.AddConformer(conformer)
    return mol.GetMol()


def records_of_ase(atoms: Any, place: str) -> Iterator[Record]:
    """The atoms of an ASE object, with the numbers of its `info` and of its calculator's results.

    Arguments:
        atoms: ASE's Atoms.
        place: Where it is from, for error messages.

    Raises:
        MoleculeError: It is periodic, has no atoms, or one is no element.
    """
    with extra("molecules"):
        from ase import Atoms
    if not isinstance(atoms, Atoms):
        raise MoleculeError(f"{place}: {type(atoms).__name__} is given; give ASE's Atoms.")
    if atoms.pbc.any():
        raise MoleculeError(
            f"{place}: the cell is periodic, which molecules are not; unwrap them, and set pbc to F F F."
        )
    z = atoms.numbers.tolist()
    if not z:
        raise MoleculeError(f"{place}: the molecule has no atoms.")
    if min(z) < 1:
        raise MoleculeError(f"{place}: atom {z.index(min(z)) + 1} is no element.")
    _check_finite(atoms.positions, place)
    results = {} if atoms.calc is None else getattr(atoms.calc, "results", {})
    props = {
        str(key): float(value)
        for key, value in (atoms.info | results).items()
        if isinstance(value, (float, int, np.number)) and not isinstance(value, bool)
        if np.isrealobj(value) and math.isfinite(value)
    }
    yield Record(place, z, atoms.positions, props=props)


def records_of_pyg(data: Any, place: str, prop_names: tuple[str, ...] = ()) -> Iterator[Record]:
    """The atoms of a PyG `Data` with z and pos, its `smiles`, and `y` if its columns have names.

    Formal charges are read as `charges`. Edges are bonds if `edge_attr` has an order for each: integers
    (E,) from 1 to 4; edges of other kinds, such as those of a radius, are left out.

    Arguments:
        data: The object.
        place: Where it is from, for error messages.
        prop_names: The names of the P columns of `y`.

    Raises:
        MoleculeError: z or pos are missing, or `y` has another number of columns.
    """
    z, pos = getattr(data, "z", None), getattr(data, "pos", None)
    if z is None or pos is None:
        raise MoleculeError(
            f"{place}: {type(data).__name__} is given; give PyG's Data with z and pos."
        )
    z, pos = entry(place, "z", z), entry(place, "pos", pos)
    if len(z) != len(pos):
        raise MoleculeError(f"{place} has {len(pos)} pos for {len(z)} z.")
    props: dict[str, float] = {}
    if prop_names:
        y = getattr(data, "y", None)
        y = np.zeros(0) if y is None else np.ravel(numbers(place, "y", y, "fiub"))
        if y.shape != (len(prop_names),):
            raise MoleculeError(f"{place}: y has {y.size} columns; give {', '.join(prop_names)}.")
        props = dict(zip(prop_names, y.tolist(), strict=True))
    smiles, charges = getattr(data, "smiles", None), getattr(data, "charges", None)
    bonds, orders = _edges(data, place)
    yield Record(
        place, z, pos, charges=None if charges is None else entry(place, "charges", charges),
        bonds=bonds, orders=orders, props=props, smiles=smiles if isinstance(smiles, str) else None,
    )  # fmt: skip


def _edges(data: Any, place: str) -> tuple[np.ndarray | None, np.ndarray | tuple[()]]:
    """The bonds (e, 2) and orders (e,) of a `Data`, or None and nothing if it has no orders."""
    index, orders = getattr(data, "edge_index", None), getattr(data, "edge_attr", None)
    if index is None or orders is None or np.ndim(orders) != 1:
        return None, ()
    index, orders = numbers(place, "edge_index", index), numbers(place, "edge_attr", orders, "fiu")
    if orders.dtype.kind == "f" or not ((orders >= 1) & (orders <= AROMATIC)).all():
        return None, ()
    if index.shape != (2, len(orders)):
        raise MoleculeError(
            f"{place}: edge_index is {index.shape} for {len(orders)} edge_attr; give (2, E) and (E,)."
        )
    # each bond once, whichever of its directions there are
    both = np.concatenate([np.sort(index.T, axis=1), orders[:, None]], axis=1)
    rows = np.unique(both.astype(np.int64), axis=0)
    return rows[:, :2], rows[:, 2]
