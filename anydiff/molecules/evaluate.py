r"""Metrics of generated molecules.

A sample consists of positions and elements; bonds follow from distances, as
:mod:`anydiff.molecules.bonds` says, and all metrics follow from the bonds. Atoms are rows: pos (N, 3) in
ångström, z (N,) atomic numbers, and index (N,), the molecule of each row, ascending. Tensors and arrays
are both accepted.

Two sets of metrics:

- EDM's: an atom is *stable* if its bond orders sum to its valence, a molecule if all its atoms are
  stable. A molecule is *valid* if RDKit sanitises it, where missing hydrogens are added (CH3 is valid)
  and the largest of several fragments counts. *Unique* counts different SMILES among the valid ones,
  *novel* those that are not in the training set, whose SMILES are made in the same way.
- *Strict*: RDKit sanitises the molecule without added hydrogens, it is one fragment and has no radicals.

A molecule with a position that is not finite is none of these. SMILES are without stereochemistry, so
that enantiomers count as one.

The lengths are tuned to QM9 and not perfect even there: compare with the metrics of the data, computed
by the same code. Reports hold counts, and ratios follow from them; a ratio with denominator 0 is nan.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), section 5.
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anydiff.extras import extra
from anydiff.metrics.tables import Column, rendered
from anydiff.molecules.bond_metrics import BondReport
from anydiff.molecules.bonds import (
    Array,
    Stability,
    allowed,
    as_arrays,
    as_charges,
    bond_orders,
    ratio,
    stability,
    sums_of_orders,
)
from anydiff.molecules.distributions import (
    distance_of_lengths,
    element_distance,
    lengths_by_kind,
    wasserstein,
)
from anydiff.molecules.fragments import count_pieces
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.relaxation import Relaxed

__all__ = [
    "MoleculeReport", "bond_lengths_distance", "element_distance", "evaluate", "graphs", "smiles",
    "strict", "table", "to_rdkit", "wasserstein",
]  # fmt: skip

# RDKit --------------------


@contextmanager
def _rdkit() -> Iterator[Any]:
    """RDKit's Chem, with its log off."""
    with extra("molecules"):
        from rdkit import Chem, rdBase
    with rdBase.BlockLogs():
        yield Chem


def to_rdkit(
    pos: Array,
    z: Array,
    index: Array,
    *,
    charges: Array | None = None,
    implicit_hydrogens: bool = False,
    sanitize: bool = False,
) -> list[Any]:
    """RDKit molecules with the bonds that follow from distances, and one 3-D conformer each.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.
        charges: (N,), formal charges, where they are known. An atom is given its charge if its bonds sum
            to a valence of that charge: the N of an ammonium ion, but not that of a nitro group, which
            has two double bonds by distance.
        implicit_hydrogens: Let RDKit add missing hydrogens, as EDM does.
        sanitize: Sanitise the molecules; those for which this fails are returned as they are.

    Raises:
        ImportError: RDKit is not installed.
        ValueError: As for :func:`~anydiff.molecules.bonds.bond_orders`.
    """
    pairs, orders = bond_orders(pos, z, index)
    pos, z, sizes = as_arrays(pos, z, index)
    given = np.zeros(len(z), np.int64)
    if charges is not None:
        given = as_charges(charges, z)
        given = given * allowed(z, sums_of_orders(pairs, orders, len(z)), given)
    ends = np.cumsum(sizes)
    cuts = np.searchsorted(pairs[:, 0], ends)
    mols = []
    with _rdkit() as Chem:
        kinds = [None, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE]
        first_bond = 0
        for start, end, last_bond in zip(ends - sizes, ends, cuts, strict=True):
            mol = Chem.RWMol()
            for number, charge in zip(
                z[start:end].tolist(), given[start:end].tolist(), strict=True
            ):
                atom = Chem.Atom(number)
                atom.SetFormalCharge(charge)
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


def graphs(molecules: Molecules) -> list[Any]:
    """RDKit molecules with their own bonds, or those that follow from distances; not sanitised.

    Arguments:
        molecules: The molecules.

    Raises:
        ImportError: RDKit is not installed.
    """
    if molecules.bonds is None:
        return to_rdkit(molecules.pos, molecules.z, molecules.index)
    mols: list[Any] = replace(molecules, ids=None, props=None, prop_names=()).to_rdkit()
    return mols


def _sane(Chem: Any, mol: Any) -> bool:
    return bool(Chem.SanitizeMol(mol, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE)


def smiles(pos: Array, z: Array, index: Array, charges: Array | None = None) -> list[str | None]:
    """SMILES of each molecule's largest fragment by EDM's rule; None if the molecule is not valid.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.
        charges: As for :func:`to_rdkit`.

    Raises:
        ImportError: RDKit is not installed.
        ValueError: As for :func:`~anydiff.molecules.bonds.bond_orders`.
    """
    result: list[str | None] = []
    with _rdkit() as Chem:
        for mol in _plain(pos, z, index, charges=charges, implicit_hydrogens=True):
            if mol is None or not _sane(Chem, mol):
                result.append(None)
                continue
            fragments = Chem.GetMolFrags(mol, asMols=True)
            largest = max(fragments, default=mol, key=lambda m: m.GetNumAtoms())
            result.append(Chem.MolToSmiles(largest))
    return result


def strict(pos: Array, z: Array, index: Array, charges: Array | None = None) -> list[str | None]:
    """SMILES of each molecule that meets the strict rule, and None for the others.

    RDKit sanitises the molecule without added hydrogens, it is one fragment, and no atom is a radical.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.
        charges: As for :func:`to_rdkit`.

    Raises:
        ImportError: RDKit is not installed.
        ValueError: As for :func:`~anydiff.molecules.bonds.bond_orders`.
    """
    result: list[str | None] = []
    with _rdkit() as Chem:
        for mol in _plain(pos, z, index, charges=charges):
            sound = (
                mol is not None
                and _sane(Chem, mol)
                and len(Chem.GetMolFrags(mol)) == 1
                and not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
            )
            result.append(Chem.MolToSmiles(mol) if sound else None)
    return result


def _plain(pos: Array, z: Array, index: Array, **how: Any) -> Iterator[Any]:
    """Molecules without positions, as SMILES have none; None for one that is not finite."""
    for mol, finite in zip(to_rdkit(pos, z, index, **how), _finite(pos, z, index), strict=True):
        mol.RemoveAllConformers()
        yield mol if finite else None


def _finite(pos: Array, z: Array, index: Array) -> np.ndarray:
    """Whether all positions of each molecule are finite, (M,)."""
    pos, _, sizes = as_arrays(pos, z, index)
    lost = np.bincount(
        np.repeat(np.arange(len(sizes)), sizes), ~np.isfinite(pos).all(1), len(sizes)
    )
    found: np.ndarray = lost == 0
    return found


# the report --------------------


def bond_lengths_distance(
    sample: tuple[Array, Array, Array], reference: tuple[Array, Array, Array]
) -> tuple[float, dict[tuple[int, int, int], float]]:
    """The distance between the bond lengths of a sample and of a reference, in ångström.

    Arguments:
        sample: (pos, z, index) of the sample.
        reference: (pos, z, index) of the reference.

    Returns:
        As for :func:`~anydiff.molecules.distributions.distance_of_lengths`.

    Raises:
        ValueError: As for :func:`~anydiff.molecules.bonds.bond_orders`.
    """

    def lengths(pos: Array, z: Array, index: Array) -> dict[tuple[int, int, int], np.ndarray]:
        pairs, orders = bond_orders(pos, z, index)
        pos, z, _ = as_arrays(pos, z, index)
        return lengths_by_kind(pos, z, pairs, orders)

    return distance_of_lengths(lengths(*sample), lengths(*reference))


@dataclass(frozen=True)
class MoleculeReport:
    """One row of metrics: counts, and the ratios that follow from them.

    Arguments:
        name: The row's name.
        stability: Stable atoms and molecules.
        connected: Molecules in one piece.
        not_finite: Molecules with positions that are not finite or that were left out for another fault;
            they count for nothing else.
        valid, unique, novel: Molecules by EDM's rules; novel is None without a training set.
        strict, strict_unique: Molecules that meet the strict rule, and different ones among them.
        elements: Total variation distance of the elements to the reference's, or None.
        bonds: Mean 1-Wasserstein distance of the bond lengths to the reference's in ångström, or None.
        nfe: Network evaluations per molecule.
        seconds: Seconds per molecule.
        relaxed: Some of the molecules after relaxation, or None.
        drawn: What their own bonds are like, where they have any, or None.
    """

    name: str
    stability: Stability
    connected: int
    not_finite: int
    valid: int
    unique: int
    novel: int | None
    strict: int
    strict_unique: int
    elements: float | None = None
    bonds: float | None = None
    nfe: int | None = None
    seconds: float | None = None
    relaxed: Relaxed | None = None
    drawn: BondReport | None = None

    @property
    def molecules(self) -> int:
        """The number of molecules."""
        return self.stability.molecules

    @property
    def connectedness(self) -> float:
        """The share of molecules in one piece."""
        return ratio(self.connected, self.molecules)

    @property
    def validity(self) -> float:
        """The share of valid molecules."""
        return ratio(self.valid, self.molecules)

    @property
    def uniqueness(self) -> float:
        """The share of different ones among the valid."""
        return ratio(self.unique, self.valid)

    @property
    def valid_unique(self) -> float:
        """The share of valid and different ones: the product of the two above."""
        return ratio(self.unique, self.molecules)

    @property
    def novelty(self) -> float:
        """The share of the valid and different ones that are not in the training set."""
        return float("nan") if self.novel is None else ratio(self.novel, self.unique)

    @property
    def strictness(self) -> float:
        """The share of molecules that meet the strict rule."""
        return ratio(self.strict, self.molecules)


def evaluate(
    pos: Array,
    z: Array,
    index: Array,
    *,
    charges: Array | None = None,
    name: str = "samples",
    train_smiles: Collection[str | None] | None = None,
    reference: tuple[Array, Array, Array] | None = None,
    nfe: int | None = None,
    seconds: float | None = None,
    lost: int = 0,
) -> MoleculeReport:
    """All metrics of a set of molecules.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.
        charges: As for :func:`to_rdkit`.
        name: The row's name.
        train_smiles: The training set's SMILES as :func:`smiles` makes them, for novelty.
        reference: (pos, z, index) of real molecules, for the distances between distributions.
        nfe: Network evaluations per molecule, to be shown in the table.
        seconds: Seconds per molecule, to be shown in the table.
        lost: How many molecules more were left out before, as they were not finite or faulty. They count
            as molecules.

    Raises:
        ImportError: RDKit is not installed.
        ValueError: As for :func:`~anydiff.molecules.bonds.bond_orders`.
    """
    counts = stability(pos, z, index, charges)
    valid = [s for s in smiles(pos, z, index, charges) if s is not None]
    sound = [s for s in strict(pos, z, index, charges) if s is not None]
    finite = _finite(pos, z, index)
    novel = None if train_smiles is None else len(set(valid) - set(train_smiles))
    return MoleculeReport(
        name=name,
        stability=replace(counts, molecules=counts.molecules + lost),
        connected=int((finite & (count_pieces(pos, z, index) == 1)).sum()),
        not_finite=int((~finite).sum()) + lost,
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
    Column("connected", "connectedness", ".1f", 100),
    Column("valid", "validity", ".1f", 100),
    Column("valid·unique", "valid_unique", ".1f", 100),
    Column("novel", "novelty", ".1f", 100),
    Column("strict", "strictness", ".1f", 100),
    Column("bonds W1 Å", "bonds", ".4f"),
    Column("NFE", "nfe", "d"),
    Column("s/molecule", "seconds", ".3g"),
]
_DRAWN = [
    Column("own bonds", "name"),
    Column("molecules", "drawn.molecules", ","),
    Column("atoms stable", "drawn.stability.atom_ratio", ".1f", 100),
    Column("mols stable", "drawn.stability.molecule_ratio", ".1f", 100),
    Column("strict", "drawn.strictness", ".1f", 100),
    Column("strict·unique", "drawn.strict_unique", ".1f", 100),
    Column("novel", "drawn.novelty", ".1f", 100),
    Column("as by distance", "drawn.agreement", ".1f", 100),
    Column("missing", "drawn.missing_each", ".2f"),
    Column("bonds W1 Å", "drawn.lengths", ".4f"),
]
_RELAXED = [
    Column("GFN2-xTB", "name"),
    Column("relaxed", "relaxed.molecules", ","),
    Column("failed", "relaxed.failed", ","),
    Column("ΔE median", "relaxed.median_gain", ".2f"),
    Column("ΔE mean kcal/mol", "relaxed.mean_gain", ".2f"),
    Column("RMSD median Å", "relaxed.median_rmsd", ".4f"),
    Column("bonds kept", "relaxed.survival", ".1f", 100),
]


_CAPTION = (
    "Bonds are read off distances. Valid, unique and novel are of the SMILES of these bonds, without\n"
    "stereochemistry; a molecule in pieces may be valid, but is not strictly so. Compare with real ones."
)
_DRAWN_CAPTION = (
    "Own bonds are those that were drawn, or that the file has. Unique is of all molecules; by distance\n"
    "means with the same bonds and orders; missing are bonds by distance that a molecule lacks."
)
_RELAXED_CAPTION = (
    "ΔE and RMSD are from the positions as they are to those of least energy nearby. Molecules for\n"
    "which this failed keep no bonds, and count for neither of the two."
)


def table(rows: Sequence[MoleculeReport], style: str = "text") -> str:
    """The reports as an aligned table, with ratios in percent and – for missing values.

    Include a row of the data. A second table is of the molecules' own bonds, and a third of relaxation,
    if there are any. As text it ends with a caption.

    Arguments:
        rows: The reports.
        style: "text" or "markdown".

    Raises:
        ValueError: `style` is neither of the two.
    """
    lines = rendered(rows, _COLUMNS, style)
    captions = [_CAPTION]
    more = (("drawn", _DRAWN, _DRAWN_CAPTION), ("relaxed", _RELAXED, _RELAXED_CAPTION))
    for name, columns, caption in more:
        if some := [row for row in rows if getattr(row, name) is not None]:
            lines = f"{lines}\n\n{rendered(some, columns, style)}"
            captions.append(caption)
    if style != "text":
        return lines
    lost = [
        f"{row.name}: {row.not_finite} of {row.molecules} molecules are not finite or faulty, and so not "
        "valid."
        for row in rows if row.not_finite
    ]  # fmt: skip
    return "\n".join([lines, "", *lost, *captions])
