r"""Bonds and stability, determined from distances by EDM's table.

Two atoms at distance d are bonded with the highest order whose length plus a margin exceeds d. An
atom is *stable* if its bond orders sum to its valence, a molecule if all its atoms are stable. There
are no charges and no aromatic bonds. Atoms are rows: pos (N, 3) in ångström, z (N,) atomic numbers,
and index (N,), the molecule of each row, ascending. Tensors and arrays are both accepted.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), EDM, section 5 and
    appendix. https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

__all__ = [
    "Array", "Stability", "as_array", "as_arrays", "bond_orders", "ratio", "stability", "stable",
]  # fmt: skip

Array = Tensor | np.ndarray | Sequence[Any]

# lengths of single, double and triple bonds in pm; _MARGINS are added to them
_LENGTHS: dict[tuple[int, int], tuple[int, ...]] = {
    (1, 1): (74,), (1, 6): (109,), (1, 7): (101,), (1, 8): (96,), (1, 9): (92,),
    (6, 6): (154, 134, 120), (6, 7): (147, 129, 116), (6, 8): (143, 120, 113), (6, 9): (135,),
    (7, 7): (145, 125, 110), (7, 8): (140, 121), (7, 9): (136,),
    (8, 8): (148, 121), (8, 9): (142,), (9, 9): (142,),
}  # fmt: skip
_MARGINS = (10, 5, 3)
_ROWS = 100_000  # atoms whose pairs are in memory at once
_VALENCE = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}

# _LIMITS[k, z, z']: closer than this, in pm, the bond is of order k + 1 or higher
_LIMITS = np.zeros((3, 10, 10))
for (_a, _b), _lengths in _LENGTHS.items():
    for _k, _length in enumerate(_lengths):
        _LIMITS[_k, _a, _b] = _LIMITS[_k, _b, _a] = _length + _MARGINS[_k]
_ALLOWED = np.full(10, -1)
_ALLOWED[list(_VALENCE)] = list(_VALENCE.values())


def as_array(values: Array) -> np.ndarray:
    """Values as an array.

    Arguments:
        values: A tensor, an array, or nested sequences of numbers.
    """
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def as_arrays(pos: Array, z: Array, index: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of atoms as checked arrays.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.

    Returns:
        pos and z as arrays of float64 and int64, and the number of atoms of each molecule, (M,).

    Raises:
        ValueError: The shapes do not fit, or the index does not ascend.
    """
    pos, z, index = as_array(pos).astype(np.float64), as_array(z), as_array(index)
    if pos.shape != (len(z), 3) or index.shape != z.shape or z.ndim != 1:
        raise ValueError(
            f"pos {pos.shape}, z {z.shape}, index {index.shape} do not fit; give (N, 3), (N,), (N,)."
        )
    if len(index) and (index[0] < 0 or (np.diff(index) < 0).any()):
        raise ValueError("index must ascend: 0, 0, 0, 1, 1, 2, …")
    sizes = np.bincount(index.astype(np.int64))
    return pos, z.astype(np.int64), sizes[sizes > 0]


def _check_elements(z: np.ndarray) -> None:
    unknown = np.setdiff1d(z, list(_VALENCE))
    if len(unknown):
        raise ValueError(f"the table has H, C, N, O and F, but no atomic number {unknown[0]}.")


def bond_orders(pos: Array, z: Array, index: Array) -> tuple[np.ndarray, np.ndarray]:
    """The bonds of molecules, from distances by the table.

    The order is 3 if d < T3, else 2 if d < T2, else 1 if d < T1, each only if the lower conditions hold
    too; T in pm is the length plus the margin, and d < T strictly. Atoms at nan have no bonds.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers, of H, C, N, O and F.
        index: (N,), the molecule of each row, ascending.

    Returns:
        Row numbers (E, 2) with i < j, and orders (E,) of 1, 2 or 3.

    Raises:
        ValueError: The shapes do not fit, the index does not ascend, or an element is not in the table.
    """
    pos, z, sizes = as_arrays(pos, z, index)
    _check_elements(z)
    pairs, orders = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
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
        closer = d < _LIMITS[:, z[i], z[j]]
        # limits fall as the order rises, so that counting them nests the conditions
        order = closer.sum(0)
        bonded = order > 0
        pairs.append(np.stack([i[bonded], j[bonded]], axis=1))
        orders.append(order[bonded])
    return np.concatenate(pairs), np.concatenate(orders)


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


def stable(pos: Array, z: Array, index: Array) -> tuple[np.ndarray, np.ndarray]:
    """Which atoms (N,) and which molecules (M,) are stable.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers, of H, C, N, O and F.
        index: (N,), the molecule of each row, ascending.

    Raises:
        ValueError: As for :func:`bond_orders`.
    """
    pairs, orders = bond_orders(pos, z, index)
    pos, z, sizes = as_arrays(pos, z, index)
    total = np.bincount(pairs.ravel(), weights=np.repeat(orders, 2), minlength=len(z))
    atoms = total == _ALLOWED[z]
    molecule = np.repeat(np.arange(len(sizes)), sizes)
    return atoms, np.bincount(molecule[atoms], minlength=len(sizes)) == sizes


def stability(pos: Array, z: Array, index: Array) -> Stability:
    """How many atoms and molecules are stable.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers, of H, C, N, O and F.
        index: (N,), the molecule of each row, ascending.

    Raises:
        ValueError: As for :func:`bond_orders`.
    """
    atoms, molecules = stable(pos, z, index)
    return Stability(len(atoms), int(atoms.sum()), len(molecules), int(molecules.sum()))
