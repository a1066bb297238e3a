r"""Bonds and stability, determined from distances.

Two atoms at distance d are bonded with the highest order whose length plus a margin exceeds d. An
atom is *stable* if its bond orders sum to one of its valences, a molecule if all its atoms are stable.
There are no aromatic bonds. Atoms are rows: pos (N, 3) in ångström, z (N,) atomic numbers, and index
(N,), the molecule of each row, ascending. Tensors and arrays are both accepted.

Molecules of H, C, N, O and F are judged exactly as published (EDM for QM9). For all other elements:

- Lengths are EDM's for GEOM-Drugs, except of S to O and to N. EDM has no double bond between these, and
  for S–O a length in between, by which a sulfone has radicals and a sulfonic acid falls in two.
- Pairs without an entry have a single bond if they are closer than the sum of RDKit's covalent radii
  and 30 pm.
- Valences are EDM's, and RDKit's for the elements that EDM lacks; only of S, for which EDM has 4, they
  are 2, 4 and 6. A metal may have any.

A charged atom may also have the valences of the neutral element with as many electrons: N⁺ those of C,
O⁻ that of F. Generated molecules have no charges.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), EDM, section 5 and
    appendix. https://arxiv.org/abs/2203.17003
    Molecular single-bond and double-bond covalent radii (Pyykkö and Atsumi, 2009), whose sums are the
    lengths of S–O and of S=N. https://doi.org/10.1002/chem.200800987,
    https://doi.org/10.1002/chem.200901472
    Structural parameters of dimethyl sulfoxide (Reuter, 2017), for S=O.
    https://doi.org/10.1107/S2056989017012464
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anydiff.extras import extra

__all__ = [
    "Array", "Stability", "allowed", "as_array", "as_arrays", "as_charges", "as_elements", "bond_orders",
    "closer_pairs", "longest", "ratio", "stability", "stable", "sums_of_orders",
]  # fmt: skip

Array = Tensor | np.ndarray | Sequence[Any]

# EDM's lengths of single, double and triple bonds in pm; _MARGINS are added to them
_LENGTHS: dict[tuple[int, int], tuple[int, ...]] = {
    # for QM9
    (1, 1): (74,), (1, 6): (109,), (1, 7): (101,), (1, 8): (96,), (1, 9): (92,),
    (6, 6): (154, 134, 120), (6, 7): (147, 129, 116), (6, 8): (143, 120, 113), (6, 9): (135,),
    (7, 7): (145, 125, 110), (7, 8): (140, 121), (7, 9): (136,),
    (8, 8): (148, 121), (8, 9): (142,), (9, 9): (142,),
    # for GEOM-Drugs
    (1, 5): (119,), (1, 14): (148,), (1, 15): (144,), (1, 16): (134,), (1, 17): (127,),
    (1, 33): (152,), (1, 35): (141,), (1, 53): (161,), (5, 17): (175,),
    (6, 14): (185,), (6, 15): (184,), (6, 16): (182, 160), (6, 17): (177,), (6, 35): (194,),
    (6, 53): (214,), (7, 15): (177,), (7, 17): (175,), (7, 35): (214,), (7, 53): (222,),
    (8, 14): (163,), (8, 15): (163, 150), (8, 17): (164,), (8, 35): (172,), (8, 53): (194,),
    (9, 14): (160,), (9, 15): (156,), (9, 16): (158,), (9, 17): (166,), (9, 35): (178,),
    (9, 53): (187,), (14, 14): (233,), (14, 16): (200,), (14, 17): (202,), (14, 35): (215,),
    (14, 53): (243,), (15, 15): (221,), (15, 16): (210, 186), (15, 17): (203,), (15, 35): (222,),
    (16, 16): (204,), (16, 17): (207,), (16, 35): (225,), (16, 53): (234,),
    (17, 17): (199,), (17, 35): (214,), (35, 35): (228,), (53, 53): (266,),
    # not EDM's
    (7, 16): (168, 154), (8, 16): (166, 150),
}  # fmt: skip
_MARGINS = (10, 5, 3)
_RADII_MARGIN = 30  # pm; radii fit less closely than lengths of one pair
_ROWS = 100_000  # atoms whose pairs are in memory at once
_VALENCES: dict[int, tuple[int, ...]] = {
    1: (1,), 6: (4,), 7: (3,), 8: (2,), 9: (1,), 5: (3,), 13: (3,), 14: (4,), 15: (3, 5),
    16: (2, 4, 6), 17: (1,), 33: (3,), 35: (1,), 53: (1,), 80: (1, 2), 83: (3, 5),
}  # fmt: skip
_QM9 = (1, 6, 7, 8, 9)
_MOST = 12  # a sum of orders, or more

# _LIMITS[k, z, z']: closer than this, in pm, the bond is of order k + 1 or higher
_LIMITS = np.zeros((3, 119, 119))
for (_a, _b), _lengths in _LENGTHS.items():
    for _k, _length in enumerate(_lengths):
        _LIMITS[_k, _a, _b] = _LIMITS[_k, _b, _a] = _length + _MARGINS[_k]
# _ALLOWED[z, sum of orders]; a nucleus without electrons has no bonds
_ALLOWED = np.zeros((119, _MOST + 1), bool)
_ALLOWED[0, 0] = True
for _a, _sums in _VALENCES.items():
    _ALLOWED[_a, list(_sums)] = True


@lru_cache(maxsize=1)
def _every_element() -> tuple[np.ndarray, np.ndarray]:
    """`_LIMITS` and `_ALLOWED` without gaps."""
    with extra("molecules"):
        from rdkit import Chem

    elements, limits, allowed = Chem.GetPeriodicTable(), _LIMITS.copy(), _ALLOWED.copy()
    radii = 100 * np.array([elements.GetRcovalent(z) for z in range(119)])
    limits[0] = np.where(limits[0] > 0, limits[0], radii[:, None] + radii + _RADII_MARGIN)
    for z in range(1, 119):
        if z not in _VALENCES:
            sums = list(elements.GetValenceList(z))
            allowed[z, slice(None) if -1 in sums else sums] = True  # -1: any
    return limits, allowed


def _rules(z: np.ndarray, charged: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Limits and allowed sums for these elements; those of QM9 do not need RDKit."""
    if not charged and np.isin(z, _QM9).all():
        return _LIMITS, _ALLOWED
    return _every_element()


def longest(z: np.ndarray) -> np.ndarray:
    """The distances in Å below which atoms are bonded, (119, 119), right for some elements.

    Arguments:
        z: Atomic numbers of these elements.

    Raises:
        ImportError: As for :func:`bond_orders`.
    """
    limits: np.ndarray = _rules(z)[0][0] / 100
    return limits


def as_array(values: Array) -> np.ndarray:
    """Values as an array.

    Arguments:
        values: A tensor, an array, or nested sequences of numbers.

    Raises:
        ValueError: Some are masked, or they are no array of numbers.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if np.ma.is_masked(values):
        raise ValueError("some values are masked; leave them out, or fill them.")
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"the values are of {array.dtype}; give numbers.")
    return array


def as_elements(z: Array) -> np.ndarray:
    """Atomic numbers as an array of int64.

    Arguments:
        z: (N,), atomic numbers.

    Raises:
        ValueError: A number is of no element, or not whole.
    """
    z = as_array(z)
    if len(z) and z.dtype.kind not in "iu":
        raise ValueError(f"z is of {z.dtype}; give whole numbers.")
    if ((z < 1) | (z > 118)).any():
        raise ValueError(f"z has {z[(z < 1) | (z > 118)][0]}; give atomic numbers, 1 to 118.")
    return z.astype(np.int64)


def as_arrays(pos: Array, z: Array, index: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of atoms as checked arrays.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.

    Returns:
        pos and z as arrays of float64 and int64, and the number of atoms of each molecule, (M,).

    Raises:
        ValueError: The shapes do not fit, the index does not ascend, or a number is of no element, or
            not whole.
    """
    pos, z, index = as_array(pos).astype(np.float64), as_array(z), as_array(index)
    if pos.shape != (len(z), 3) or index.shape != z.shape or z.ndim != 1:
        raise ValueError(
            f"pos {pos.shape}, z {z.shape}, index {index.shape} do not fit; give (N, 3), (N,), (N,)."
        )
    if len(index) and index.dtype.kind not in "iu":
        raise ValueError(f"index is of {index.dtype}; give whole numbers.")
    if len(index) and (index[0] < 0 or (index[1:] < index[:-1]).any()):
        raise ValueError("index must ascend: 0, 0, 0, 1, 1, 2, …")
    return pos, as_elements(z), np.unique(index, return_counts=True)[1]


def bond_orders(pos: Array, z: Array, index: Array) -> tuple[np.ndarray, np.ndarray]:
    """The bonds of molecules, from distances.

    The order is 3 if d < T3, else 2 if d < T2, else 1 if d < T1, each only if the lower conditions hold
    too; T in pm is the length plus the margin, and d < T strictly. Atoms that are not at a finite
    position have no bonds.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.

    Returns:
        Row numbers (E, 2) with i < j, and orders (E,) of 1, 2 or 3.

    Raises:
        ValueError: The shapes do not fit, the index does not ascend, or a number is of no element.
        ImportError: There are other elements than H, C, N, O and F, and RDKit is not installed.
    """
    pos, z, sizes = as_arrays(pos, z, index)
    # limits fall as the order rises, so that counting them nests the conditions
    return closer_pairs(pos, z, sizes, _rules(z)[0])


def closer_pairs(
    pos: np.ndarray, z: np.ndarray, sizes: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of atoms of one molecule that are closer than limits, and than how many of them.

    Arguments:
        pos: (N, 3), positions in ångström, of float64.
        z: (N,), atomic numbers.
        sizes: (M,), the number of atoms of each molecule.
        limits: (K, 119, 119), the limits of each pair of elements in pm.

    Returns:
        Row numbers (E, 2) with i < j, ascending, and numbers (E,) of 1 to K.
    """
    pairs, counts = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for start, part in _parts(sizes, _ROWS):
        # each row with every later row of its molecule
        n = np.repeat(part, part)
        rank = np.arange(len(n)) - np.repeat(np.cumsum(part) - part, part)
        later = n - 1 - rank
        i = np.repeat(np.arange(len(n)), later)
        j = i + 1 + np.arange(len(i)) - np.repeat(np.cumsum(later) - later, later)
        i, j = i + start, j + start

        with np.errstate(invalid="ignore", over="ignore"):  # samples may be nan
            d = 100 * np.sqrt(((pos[i] - pos[j]) ** 2).sum(1))
        count = (d < limits[:, z[i], z[j]]).sum(0)
        near = count > 0
        pairs.append(np.stack([i[near], j[near]], axis=1))
        counts.append(count[near])
    return np.concatenate(pairs), np.concatenate(counts)


def _parts(sizes: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Runs of whole molecules of about `rows` rows, which bound the memory that pairs need."""
    ends = np.cumsum(sizes)
    cuts = np.unique(np.searchsorted(ends, np.arange(rows, ends[-1] if len(ends) else 0, rows)) + 1)
    for part in np.split(np.arange(len(sizes)), cuts):
        if len(part):
            yield int(ends[part[0]] - sizes[part[0]]), sizes[part]


@dataclass(frozen=True)
class Stability:
    """Numbers of atoms and molecules, and how many of each are stable.

    Arguments:
        atoms: The number of atoms.
        stable_atoms: How many of them are stable.
        molecules: The number of molecules.
        stable_molecules: How many of them are stable.
    """

    atoms: int
    stable_atoms: int
    molecules: int
    stable_molecules: int

    @property
    def atom_ratio(self) -> float:
        """The share of stable atoms; nan without atoms."""
        return ratio(self.stable_atoms, self.atoms)

    @property
    def molecule_ratio(self) -> float:
        """The share of stable molecules; nan without molecules."""
        return ratio(self.stable_molecules, self.molecules)


def ratio(part: float, whole: float) -> float:
    """part / whole; nan if the whole is 0.

    Arguments:
        part: The numerator.
        whole: The denominator.
    """
    return part / whole if whole else float("nan")


def as_charges(charges: Array, z: np.ndarray) -> np.ndarray:
    """Formal charges as a checked array of int64.

    Arguments:
        charges: (N,), formal charges.
        z: (N,), atomic numbers.

    Raises:
        ValueError: They are not (N,), or not whole numbers.
    """
    given = as_array(charges)
    if given.shape != z.shape or (len(z) and given.dtype.kind not in "iu"):
        raise ValueError(
            f"charges are {given.shape} of {given.dtype}; give ({len(z)},) whole numbers."
        )
    return given.astype(np.int64)


def allowed(z: np.ndarray, total: np.ndarray, charges: np.ndarray | None = None) -> np.ndarray:
    """Whether the bond orders of each atom sum to a valence of its element, (N,).

    Arguments:
        z: (N,), atomic numbers.
        total: (N,), the sums of bond orders.
        charges: (N,), formal charges, whose valences count instead of those of the neutral atoms.

    Raises:
        ImportError: As for :func:`bond_orders`.
    """
    sums = _rules(z, charges is not None)[1]
    electrons = z if charges is None else z - charges
    inside = (electrons >= 0) & (electrons < len(sums))
    found: np.ndarray = sums[np.where(inside, electrons, 0), np.minimum(total, _MOST)]
    return found & inside


def stable(
    pos: Array, z: Array, index: Array, charges: Array | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which atoms (N,) and which molecules (M,) are stable.

    Atoms that are not at a finite position are not.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.
        charges: (N,), formal charges, where they are known.

    Raises:
        ValueError: As for :func:`bond_orders`.
        ImportError: As for :func:`bond_orders`.
    """
    pairs, orders = bond_orders(pos, z, index)
    pos, z, sizes = as_arrays(pos, z, index)
    total = sums_of_orders(pairs, orders, len(z))
    atoms = allowed(z, total)
    if charges is not None:
        atoms |= allowed(z, total, as_charges(charges, z))
    atoms &= np.isfinite(pos).all(1)
    molecule = np.repeat(np.arange(len(sizes)), sizes)
    return atoms, np.bincount(molecule[atoms], minlength=len(sizes)) == sizes


def sums_of_orders(pairs: np.ndarray, orders: np.ndarray, num: int) -> np.ndarray:
    """The sum of the bond orders of each atom, (num,).

    Arguments:
        pairs: (E, 2), the rows that each bond joins.
        orders: (E,), its order.
        num: The number of atoms.
    """
    total = np.bincount(pairs.ravel(), weights=np.repeat(orders, 2), minlength=num)
    return total.astype(np.int64)


def stability(pos: Array, z: Array, index: Array, charges: Array | None = None) -> Stability:
    """How many atoms and molecules are stable.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.
        charges: (N,), formal charges, where they are known.

    Raises:
        ValueError: As for :func:`bond_orders`.
        ImportError: As for :func:`bond_orders`.
    """
    atoms, molecules = stable(pos, z, index, charges)
    return Stability(len(atoms), int(atoms.sum()), len(molecules), int(molecules.sum()))
