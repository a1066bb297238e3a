r"""What generated molecules are worth.

A sample is positions and elements; bonds are read off the distances by a table, and everything
counted here follows from them. Atoms come as rows: pos (N, 3) in ångström, z (N,) atomic numbers,
and index (N,), the molecule of each row, ascending. Tensors and arrays are both welcome.

Two sets of figures:

- `edm`, as published: an atom is *stable* if its bond orders sum to its valence, a molecule if all
  its atoms are; it is *valid* if RDKit sanitises it, which for several fragments counts the largest
  and fills missing hydrogens in (CH3 is valid). *Unique* counts different SMILES among the valid,
  *novel* those of them that are not in the training set, whose SMILES are made by the same table.
- `strict`: RDKit sanitises it with no hydrogens but its own, it is one piece and has no radicals.

The table is tuned to QM9 and even there not perfect, so no figure means much without the data's own
row, measured by the same code. Counts are kept, ratios derived; a ratio of nothing is nan.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), section 5.
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from anydiff.extras import extra
from anydiff.metrics.tables import Column, rendered
from anydiff.molecules.bonds import (
    Array,
    Stability,
    as_array,
    as_arrays,
    bond_orders,
    ratio,
    stability,
)

__all__ = [
    "MoleculeReport",
    "bond_lengths_distance",
    "element_distance",
    "evaluate",
    "smiles",
    "strict",
    "table",
    "to_rdkit",
    "wasserstein",
]

# RDKit --------------------


@contextmanager
def _rdkit() -> Iterator[Any]:
    """RDKit's Chem, with its log off."""
    with extra("molecules"):
        from rdkit import Chem, rdBase
    with rdBase.BlockLogs():
        yield Chem


def to_rdkit(
    pos: Array, z: Array, index: Array, *, implicit_hydrogens: bool = False, sanitize: bool = False
) -> list[Any]:
    """RDKit molecules with the bonds of the table and a 3-D conformer each.

    Arguments:
        implicit_hydrogens: Let RDKit fill in hydrogens that aren't there, as `edm` does.
        sanitize: Sanitise them; what can't be is left as it is.
    """
    pairs, orders = bond_orders(pos, z, index)
    pos, z, sizes = as_arrays(pos, z, index)
    ends = np.cumsum(sizes)
    cuts = np.searchsorted(pairs[:, 0], ends)
    mols = []
    with _rdkit() as Chem:
        kinds = [None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE]
        first_bond = 0
        for start, end, last_bond in zip(ends - sizes, ends, cuts, strict=True):
            mol = Chem.RWMol()
            for number in z[start:end].tolist():
                atom = Chem.Atom(number)
                atom.SetNoImplicit(not implicit_hydrogens)
                mol.AddAtom(atom)
            bonds = slice(first_bond, last_bond)
            for (i, j), order in zip(
                (pairs[bonds] - start).tolist(), orders[bonds].tolist(), strict=True
            ):
                mol.AddBond(i, j, kinds[order])
            first_bond = last_bond
            conformer = Chem.Conformer(int(end - start))
            conformer.SetPositions(np.ascontiguousarray(pos[start:end]))
            mol.AddConformer(conformer)
            if sanitize:
                Chem.SanitizeMol(mol, catchErrors=True)
            mols.append(mol.GetMol())
    return mols


def _sane(Chem: Any, mol: Any) -> bool:
    return Chem.SanitizeMol(mol, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE


def smiles(pos: Array, z: Array, index: Array) -> list[str | None]:
    """SMILES by the rule of `edm`: of the largest fragment; None where the molecule isn't valid."""
    result: list[str | None] = []
    mols = to_rdkit(pos, z, index, implicit_hydrogens=True)
    with _rdkit() as Chem:
        for mol in mols:
            mol.RemoveAllConformers()
            if not _sane(Chem, mol):
                result.append(None)
                continue
            fragments = Chem.GetMolFrags(mol, asMols=True)
            largest = max(fragments, default=mol, key=lambda m: m.GetNumAtoms())
            result.append(Chem.MolToSmiles(largest))
    return result


def strict(pos: Array, z: Array, index: Array) -> list[str | None]:
    """SMILES of what is sound to the letter; None where it isn't.

    RDKit sanitises it with no hydrogens but its own, it is one piece, and no atom is a radical.
    """
    result: list[str | None] = []
    mols = to_rdkit(pos, z, index)
    with _rdkit() as Chem:
        for mol in mols:
            mol.RemoveAllConformers()
            sound = (
                _sane(Chem, mol)
                and len(Chem.GetMolFrags(mol)) == 1
                and not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
            )
            result.append(Chem.MolToSmiles(mol) if sound else None)
    return result


# distributions --------------------


def element_distance(z: Array, reference: Array) -> float:
    """Total variation between two samples' elements: half the sum of |p - q|, in [0, 1]."""
    p, q = (np.bincount(as_array(s).astype(np.int64), minlength=120) for s in (z, reference))
    return float(0.5 * np.abs(p / max(p.sum(), 1) - q / max(q.sum(), 1)).sum())


def wasserstein(a: Array, b: Array) -> float:
    """The 1-Wasserstein distance of two samples of numbers: the area between their distribution
    functions, in their unit. nan where one is empty."""
    a, b = np.sort(as_array(a)), np.sort(as_array(b))
    if not (len(a) and len(b)):
        return float("nan")
    x = np.sort(np.concatenate([a, b]))
    below_a, below_b = (np.searchsorted(s, x[:-1], side="right") / len(s) for s in (a, b))
    return float((np.abs(below_a - below_b) * np.diff(x)).sum())


def _bond_lengths(pos: Array, z: Array, index: Array) -> dict[tuple[int, int, int], np.ndarray]:
    """Lengths in ångström by (z, z', order), z ≤ z'."""
    pairs, orders = bond_orders(pos, z, index)
    pos, z, _ = as_arrays(pos, z, index)
    ends = np.sort(z[pairs], axis=1)
    lengths = np.sqrt(((pos[pairs[:, 0]] - pos[pairs[:, 1]]) ** 2).sum(1))
    kinds, which = np.unique(
        np.concatenate([ends, orders[:, None]], axis=1), axis=0, return_inverse=True
    )
    which = which.ravel()
    return {tuple(kind): lengths[which == k] for k, kind in enumerate(kinds.tolist())}


def bond_lengths_distance(
    sample: tuple[Array, Array, Array], reference: tuple[Array, Array, Array]
) -> tuple[float, dict[tuple[int, int, int], float]]:
    """How far the sample's bond lengths are from the reference's, in ångström.

    Both are (pos, z, index). For each kind of bond (z, z', order) of the reference, the
    1-Wasserstein distance; and their mean, weighted by how common the kind is in the reference.
    Kinds that the sample lacks are nan and not in the mean.
    """
    ours, theirs = _bond_lengths(*sample), _bond_lengths(*reference)
    empty = np.zeros(0)
    distances = {
        kind: wasserstein(ours.get(kind, empty), lengths) for kind, lengths in theirs.items()
    }
    common = [kind for kind in theirs if kind in ours]
    total = sum(len(theirs[kind]) for kind in common)
    mean = ratio(sum(distances[kind] * len(theirs[kind]) for kind in common), total)
    return mean, distances


# the report --------------------


@dataclass(frozen=True)
class MoleculeReport:
    """One row of figures: counts, and the ratios that follow from them.

    Arguments:
        stability: Stable atoms and molecules.
        valid, unique, novel: Molecules by `edm`; novel is None if there was nothing to compare
            with.
        strict, strict_unique: Sound molecules, and different ones among them.
        elements: Total variation of the elements from the reference's, or None.
        bonds: Mean 1-Wasserstein distance of bond lengths from the reference's in ångström, or
            None.
        nfe: Evaluations of the network for a molecule.
        seconds: Seconds for a molecule.
    """

    name: str
    stability: Stability
    valid: int
    unique: int
    novel: int | None
    strict: int
    strict_unique: int
    elements: float | None = None
    bonds: float | None = None
    nfe: int | None = None
    seconds: float | None = None

    @property
    def molecules(self) -> int:
        return self.stability.molecules

    @property
    def validity(self) -> float:
        """Valid among all."""
        return ratio(self.valid, self.molecules)

    @property
    def uniqueness(self) -> float:
        """Different among the valid."""
        return ratio(self.unique, self.valid)

    @property
    def valid_unique(self) -> float:
        """Valid and different, among all: the product of the two."""
        return ratio(self.unique, self.molecules)

    @property
    def novelty(self) -> float:
        """Not in the training set, among the different valid."""
        return float("nan") if self.novel is None else ratio(self.novel, self.unique)

    @property
    def strictness(self) -> float:
        """Sound among all."""
        return ratio(self.strict, self.molecules)


def evaluate(
    pos: Array,
    z: Array,
    index: Array,
    *,
    name: str = "samples",
    train_smiles: Collection[str | None] | None = None,
    reference: tuple[Array, Array, Array] | None = None,
    nfe: int | None = None,
    seconds: float | None = None,
) -> MoleculeReport:
    """All figures of a set of molecules.

    Arguments:
        train_smiles: The training set's SMILES as `smiles` makes them, for novelty.
        reference: (pos, z, index) of real molecules, for the distances of distributions.
        nfe: Evaluations of the network for a molecule, to be shown in the table.
        seconds: Seconds for a molecule, to be shown in the table.
    """
    counts = stability(pos, z, index)
    valid = [s for s in smiles(pos, z, index) if s is not None]
    sound = [s for s in strict(pos, z, index) if s is not None]
    novel = None if train_smiles is None else len(set(valid) - set(train_smiles))
    return MoleculeReport(
        name=name,
        stability=counts,
        valid=len(valid),
        unique=len(set(valid)),
        novel=novel,
        strict=len(sound),
        strict_unique=len(set(sound)),
        elements=None if reference is None else element_distance(z, reference[1]),
        bonds=None if reference is None else bond_lengths_distance((pos, z, index), reference)[0],
        nfe=nfe,
        seconds=seconds,
    )


_COLUMNS = [
    Column("", "name"),
    Column("molecules", "molecules", ","),
    Column("atoms stable", "stability.atom_ratio", ".1f", 100),
    Column("mols stable", "stability.molecule_ratio", ".1f", 100),
    Column("valid", "validity", ".1f", 100),
    Column("valid·unique", "valid_unique", ".1f", 100),
    Column("novel", "novelty", ".1f", 100),
    Column("strict", "strictness", ".1f", 100),
    Column("bonds W1 Å", "bonds", ".4f"),
    Column("NFE", "nfe", "d"),
    Column("s/molecule", "seconds", ".3g"),
]


def table(rows: Sequence[MoleculeReport], style: str = "text") -> str:
    """The reports as an aligned table, `text` or `markdown`; ratios in percent, – where undefined.

    Let the data be one of the rows.

    Raises:
        ValueError: The style is neither of the two.
    """
    return rendered(rows, _COLUMNS, style)
