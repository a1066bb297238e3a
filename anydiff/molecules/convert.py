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
from anydiff.molecules.fields import AROMATIC
from anydiff.molecules.records import Record

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
        from rdkit import Chem
    if not isinstance(mol, Chem.Mol):
        raise MoleculeError(f"{place}: {type(mol).__name__} is given; give an RDKit molecule.")
    # by number, which is twice as fast as RDKit's iterators
    atoms = [mol.GetAtomWithIdx(k) for k in range(mol.GetNumAtoms())]
    z = [atom.GetAtomicNum() for atom in atoms]
    charges = [atom.GetFormalCharge() for atom in atoms]
    if not z:
        raise MoleculeError(f"{place}: the molecule has no atoms.")
    for k, atom in enumerate(atoms):
        if z[k] == 0 or atom.HasQuery():
            text = atom.GetSymbol()
            raise MoleculeError(
                f"{place}: atom {k + 1}, {text!r}, is no element but a placeholder."
            )
        if not -15 <= charges[k] <= min(15, z[k]):
            most = min(15, z[k])
            raise MoleculeError(
                f"{place}: atom {k + 1} has charge {charges[k]}; give -15 to {most}."
            )
    if not mol.GetNumConformers():
        raise MoleculeError(f"{place}: the molecule has no positions; embed it first.")

    orders = {
        Chem.BondType.SINGLE: 1, Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3,
        Chem.BondType.AROMATIC: AROMATIC, Chem.BondType.DATIVE: 1,
    }  # fmt: skip
    bonds = [mol.GetBondWithIdx(k) for k in range(mol.GetNumBonds())]
    pairs = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds]
    known = [orders.get(bond.GetBondType(), 0) for bond in bonds]
    for bond, (i, j), order in zip(bonds, pairs, known, strict=True):
        if not order or bond.HasQuery():
            raise MoleculeError(
                f"{place}: the bond of atoms {i + 1} and {j + 1} has no order (RDKit: "
                f"{bond.GetBondType()}); make it single, double, triple or aromatic, or leave it out."
            )
    if AROMATIC in known:
        copy = Chem.Mol(mol)  # which a failure leaves half done
        try:
            Chem.Kekulize(copy, clearAromaticFlags=True)
            known = [orders[b.GetBondType()] for b in copy.GetBonds()]
        except ValueError:  # no Kekulé structure, for instance where a charge is missing
            pass
    for conformer in mol.GetConformers():
        _check_finite(conformer.GetPositions(), place)
    title = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    for conformer in mol.GetConformers():
        yield Record(
            place, z, conformer.GetPositions(), charges=charges, bonds=pairs, orders=known, title=title,
        )  # fmt: skip


def _check_finite(pos: np.ndarray, place: str) -> None:
    if not np.isfinite(pos).all():
        k = int(np.argmin(np.isfinite(pos).all(1)))
        raise MoleculeError(f"{place}: atom {k + 1} is at {pos[k]}; it must be finite.")


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
    for (i, j), order in zip(record.bonds or (), record.orders, strict=True):
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
    props: dict[str, float] = {}
    if prop_names:
        y = getattr(data, "y", None)
        y = np.zeros(0) if y is None else np.ravel(np.asarray(y, float))
        if y.shape != (len(prop_names),):
            raise MoleculeError(f"{place}: y has {y.size} columns; give {', '.join(prop_names)}.")
        props = dict(zip(prop_names, y.tolist(), strict=True))
    smiles = getattr(data, "smiles", None)
    yield Record(
        place, z.detach().cpu().numpy(), pos.detach().cpu().numpy(),
        props=props, smiles=smiles if isinstance(smiles, str) else None,
    )  # fmt: skip
