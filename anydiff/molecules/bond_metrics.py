r"""Metrics of molecules whose bonds are given: drawn by a model beside the atoms, or read from a file.

No distance decides anything here but in :func:`agreement`, which says how many molecules have the bonds
that follow from their distances, and in the lengths of the bonds.

- An atom is *stable* if the orders of its bonds sum to a valence of its element and charge, a molecule
  if all its atoms are stable. The table of valences has no fallback: an element with another charge is
  not stable. Orders are whole: an aromatic bond, whose order is none, makes its atoms unstable.
- *Strict*: RDKit sanitises the molecule without added hydrogens, it is one fragment, and no atom is a
  radical. Different ones are counted among all molecules that were drawn, so that a set does not gain by
  fewer valid ones.

References:
    GEOM-Drugs Revisited: Toward More Chemically Accurate Benchmarks for 3D Molecule Generation
    (Nikitin et al., 2025), on tables of valences that let through what they do not know.
    https://arxiv.org/abs/2505.00169
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from anydiff.extras import extra
from anydiff.molecules.bonds import Stability, bond_orders, ratio
from anydiff.molecules.distributions import distance_of_lengths, lengths_by_kind
from anydiff.molecules.elements import MoleculeError
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.valences import stable_atoms

__all__ = [
    "BondReport", "agreement", "evaluate_bonds", "lengths_distance", "stable_bonds", "strict_bonds",
]  # fmt: skip


def _bonds(molecules: Molecules) -> tuple[np.ndarray, np.ndarray]:
    if molecules.bonds is None or molecules.orders is None:
        raise MoleculeError(f"{molecules.name} has no bonds; give molecules with them.")
    return molecules.bonds, molecules.orders


def stable_bonds(molecules: Molecules) -> tuple[np.ndarray, np.ndarray]:
    """Which atoms (N,) and which molecules (M,) are stable by their own bonds and charges.

    Arguments:
        molecules: Molecules with bonds; charges that are not known are 0.

    Raises:
        MoleculeError: The bonds are not known.
    """
    atoms = stable_atoms(molecules.z, *_bonds(molecules), molecules.charges)
    return atoms, np.logical_and.reduceat(atoms, molecules.offsets[:-1])


def strict_bonds(molecules: Molecules) -> list[str | None]:
    """SMILES of each molecule that meets the strict rule by its own bonds and charges, or None.

    They are without stereochemistry, and hydrogens are atoms of them.

    Arguments:
        molecules: Molecules with bonds.

    Raises:
        MoleculeError: The bonds are not known.
        ImportError: RDKit is not installed.
    """
    _bonds(molecules)
    with extra("molecules"):
        from rdkit import Chem, rdBase
    result: list[str | None] = []
    with rdBase.BlockLogs():
        for mol in replace(molecules, ids=None, props=None, prop_names=()).to_rdkit():
            mol.RemoveAllConformers()  # SMILES without stereochemistry
            sound = (
                Chem.SanitizeMol(mol, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE
                and len(Chem.GetMolFrags(mol)) == 1
                and not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
            )
            result.append(Chem.MolToSmiles(mol) if sound else None)
    return result


def agreement(molecules: Molecules) -> tuple[np.ndarray, np.ndarray]:
    """How far the bonds are those that follow from distances.

    Arguments:
        molecules: Molecules with bonds.

    Returns:
        Which molecules have the same bonds of the same orders by both, (M,); and how many bonds that
        follow from distances, of whatever order, each of them lacks, (M,).

    Raises:
        MoleculeError: The bonds are not known.
        ImportError: As for :func:`~anydiff.molecules.bonds.bond_orders`.
    """
    bonds, orders = _bonds(molecules)
    near, by_distance = bond_orders(molecules.pos, molecules.z, molecules.index)
    num, index = len(molecules.z), molecules.index
    key, key_near = bonds @ [num, 1], near @ [num, 1]
    _, ours, theirs = np.intersect1d(key, key_near, assume_unique=True, return_indices=True)
    same = orders[ours] == by_distance[theirs]
    counts = [
        np.bincount(index[pairs[:, 0]], minlength=len(molecules))
        for pairs in (bonds, near, bonds[ours[same]], bonds[ours])
    ]
    drawn, found, equal, both = counts
    return (drawn == equal) & (found == equal), found - both


def lengths_distance(
    molecules: Molecules, reference: Molecules
) -> tuple[float, dict[tuple[int, int, int], float]]:
    """The distance between the lengths of bonds, kind by kind of the molecules' own, in ångström.

    Arguments:
        molecules: Molecules with bonds.
        reference: Real ones with bonds.

    Returns:
        As for :func:`~anydiff.molecules.distributions.distance_of_lengths`.

    Raises:
        MoleculeError: The bonds are not known.
    """
    ours, theirs = (lengths_by_kind(m.pos, m.z, *_bonds(m)) for m in (molecules, reference))
    return distance_of_lengths(ours, theirs)


@dataclass(frozen=True)
class BondReport:
    """What the bonds of molecules are like: counts, and the ratios that follow from them.

    Arguments:
        stability: Stable atoms and molecules, by their own bonds and charges.
        strict: Molecules that meet the strict rule.
        unique: Different ones among them.
        novel: Those of them that are not in the training set, or None without one.
        agreeing: Molecules with the bonds and orders that follow from their distances.
        missing: Bonds that follow from distances and are not there.
        lengths: Mean 1-Wasserstein distance of the lengths of bonds to the reference's in ångström, kind
            by kind, or None.
    """

    stability: Stability
    strict: int
    unique: int
    novel: int | None
    agreeing: int
    missing: int
    lengths: float | None = None

    @property
    def molecules(self) -> int:
        """The number of molecules."""
        return self.stability.molecules

    @property
    def strictness(self) -> float:
        """The share of molecules that meet the strict rule."""
        return ratio(self.strict, self.molecules)

    @property
    def strict_unique(self) -> float:
        """The share of molecules that meet it and differ from one another, of all molecules."""
        return ratio(self.unique, self.molecules)

    @property
    def novelty(self) -> float:
        """The share of those that are not in the training set."""
        return float("nan") if self.novel is None else ratio(self.novel, self.unique)

    @property
    def agreement(self) -> float:
        """The share of molecules whose bonds are those by distance."""
        return ratio(self.agreeing, self.molecules)

    @property
    def missing_each(self) -> float:
        """Bonds that follow from distances and are not there, for each molecule."""
        return ratio(self.missing, self.molecules)


def evaluate_bonds(
    molecules: Molecules,
    *,
    train_smiles: Collection[str | None] | None = None,
    reference: Molecules | None = None,
    lost: int = 0,
) -> BondReport:
    """All metrics of molecules with bonds.

    Arguments:
        molecules: The molecules.
        train_smiles: The training set's SMILES as :func:`strict_bonds` makes them, for novelty.
        reference: Real molecules with bonds, for the lengths.
        lost: How many molecules more were left out before; they count as molecules.

    Raises:
        MoleculeError: The bonds are not known.
        ImportError: RDKit is not installed.
    """
    atoms, whole = stable_bonds(molecules)
    sound = [text for text in strict_bonds(molecules) if text is not None]
    different = set(sound)
    agree, missing = agreement(molecules)
    return BondReport(
        Stability(len(atoms), int(atoms.sum()), len(molecules) + lost, int(whole.sum())),
        strict=len(sound),
        unique=len(different),
        novel=None if train_smiles is None else len(different - set(train_smiles)),
        agreeing=int(agree.sum()),
        missing=int(missing.sum()),
        lengths=None if reference is None else lengths_distance(molecules, reference)[0],
    )
