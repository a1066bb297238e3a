r"""Parts of molecules to keep: a ring system to grow from, two ends to link.

A function of this module marks the rows to keep, (N,) of booleans, from the bonds of
:mod:`anydiff.molecules.bonds`. :func:`anydiff.editing.inpaint` takes this mask as `known`:

    known = largest_ring(pos, z, index)
    x = inpaint(diffusion.predictor(space), x, torch.from_numpy(known))

All other atoms are generated, hydrogens included, and a molecule keeps its number of atoms. If a
molecule has no such part, none of its rows is True.

Atoms are rows: pos (N, 3) in ångström, z (N,) atomic numbers and index (N,), the molecule of each row,
ascending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from anydiff.checks import check_range
from anydiff.molecules.bonds import Array, as_arrays, bond_orders
from anydiff.molecules.molecules import Molecules

__all__ = ["count_pieces", "first_with", "largest_ring", "two_ends"]


def largest_ring(pos: Array, z: Array, index: Array, least: int = 5) -> np.ndarray:
    """The atoms of each molecule's largest ring system, (N,) of booleans.

    A bond is in a ring if its ends stay connected without it; a ring system is a set of atoms connected
    by such bonds, without substituents and hydrogens. Of several equally large ones the first counts.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.
        least: The least number of atoms of a ring system.

    Raises:
        ValueError: As for :func:`~anydiff.molecules.bonds.bond_orders`.
        ImportError: As for :func:`~anydiff.molecules.bonds.bond_orders`.
    """
    kept = np.zeros(len(as_arrays(pos, z, index)[1]), bool)
    for rows, bonds, _ in _molecules(pos, z, index):
        in_ring = bonds.copy()
        for i, j in np.argwhere(np.triu(bonds)):
            bonds[i, j] = bonds[j, i] = False
            in_ring[i, j] = in_ring[j, i] = np.isfinite(_distances(bonds, [i])[j])
            bonds[i, j] = bonds[j, i] = True
        label = _pieces(in_ring)
        largest = np.bincount(label).argmax()
        if np.count_nonzero(label == largest) >= max(least, 2):
            kept[rows] = label == largest
    return kept


def two_ends(
    pos: Array, z: Array, index: Array, between: tuple[int, int] = (3, 5), least: int = 2
) -> np.ndarray:
    """The two ends of each molecule, without the atoms between them, (N,) of booleans.

    The ends are those around the two heavy atoms with the most bonds between them. The heavy atoms in the
    middle are left out, as few as are needed to cut the molecule in two pieces. Hydrogens follow their
    heavy atoms.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.
        between: The least and the greatest number of heavy atoms to leave out.
        least: The least number of heavy atoms of an end.

    Raises:
        ValueError: As for :func:`~anydiff.molecules.bonds.bond_orders`; or `between` is not two numbers
            in their order.
        ImportError: As for :func:`~anydiff.molecules.bonds.bond_orders`.
    """
    if not 0 < between[0] <= between[1]:
        raise ValueError(f"between is {between}; give two numbers above 0, the smaller one first.")
    kept = np.zeros(len(as_arrays(pos, z, index)[1]), bool)
    for rows, bonds, numbers in _molecules(pos, z, index):
        heavy = np.flatnonzero(numbers > 1)
        skeleton = bonds[np.ix_(heavy, heavy)]
        far = np.stack([_distances(skeleton, [i]) for i in range(len(heavy))] or [np.zeros(0)])
        if not far.size or not np.isfinite(far).all():  # no heavy atoms, or in pieces already
            continue
        a, b = np.unravel_index(far.argmax(), far.shape)
        side = far[a] - far[b]
        middle = np.argsort(abs(side), kind="stable")
        for count in range(between[0], min(between[1], len(heavy)) + 1):
            rest = np.setdiff1d(np.arange(len(heavy)), middle[:count])
            label = _pieces(skeleton[np.ix_(rest, rest)])
            sizes = np.bincount(label)
            if len(sizes) == 2 and sizes.min() >= least:
                ends = heavy[rest]
                kept[rows] = np.isfinite(_distances(bonds & _onto(numbers), ends))
                break
    return kept


def first_with(
    molecules: Molecules, num: int, part: Callable[[Array, Array, Array], np.ndarray]
) -> tuple[Molecules, np.ndarray]:
    """The first molecules that have a part to keep.

    Arguments:
        molecules: Where to search.
        num: How many molecules to return; fewer if not so many have the part.
        part: A function of (pos, z, index) to a mask of rows, such as :func:`largest_ring`.

    Returns:
        The molecules, and the mask of their rows, (N,).

    Raises:
        ValueError: No molecule has the part, or `num` is less than 1.
    """
    check_range("[1, inf)", num=num)
    found: list[int] = []
    parts: list[np.ndarray] = []
    for start in range(0, len(molecules), 2 * num):
        some = np.arange(start, min(start + 2 * num, len(molecules)))
        rows = slice(molecules.offsets[start], molecules.offsets[some[-1] + 1])
        index = molecules.index[rows] - start
        kept = part(molecules.pos[rows], molecules.z[rows], index)
        for m in np.unique(index[kept])[: num - len(found)].tolist():
            found.append(start + m)
            parts.append(kept[index == m])
        if len(found) == num:
            break
    if not found:
        raise ValueError(
            f"{part.__name__} finds no part in any of the {len(molecules)} molecules; give other "
            "molecules, or generate without keeping a part."
        )
    return molecules.subset(found), np.concatenate(parts)


def count_pieces(pos: Array, z: Array, index: Array) -> np.ndarray:
    """The number of pieces of each molecule that no bond connects, (M,); 1 for an intact molecule.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.

    Raises:
        ValueError: As for :func:`~anydiff.molecules.bonds.bond_orders`.
        ImportError: As for :func:`~anydiff.molecules.bonds.bond_orders`.
    """
    return np.array([_pieces(bonds).max() + 1 for _, bonds, _ in _molecules(pos, z, index)])


def _molecules(
    pos: Array, z: Array, index: Array
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """The rows, the adjacency matrix (n, n) and the elements (n,) of each molecule."""
    pairs, _ = bond_orders(pos, z, index)
    pos, numbers, sizes = as_arrays(pos, z, index)
    ends = np.cumsum(sizes)
    cuts = np.searchsorted(pairs[:, 0], ends)
    first = 0
    for start, end, last in zip(ends - sizes, ends, cuts, strict=True):
        bonds = np.zeros((end - start, end - start), bool)
        i, j = (pairs[first:last] - start).T
        bonds[i, j] = bonds[j, i] = True
        yield slice(int(start), int(end)), bonds, numbers[start:end]
        first = last


def _distances(bonds: np.ndarray, start: np.ndarray | list[int]) -> np.ndarray:
    """The number of bonds from the nearest of `start` to each atom, (n,); inf if not connected."""
    far = np.full(len(bonds), np.inf)
    front, d = np.zeros(len(bonds), bool), 0
    front[start] = True
    while front.any():
        far[front] = d
        front, d = bonds[front].any(0) & np.isinf(far), d + 1
    return far


def _pieces(bonds: np.ndarray) -> np.ndarray:
    """The connected piece of each atom, (n,): 0, 1, … in the order of the first atoms."""
    label = np.full(len(bonds), -1)
    for atom in range(len(bonds)):
        if label[atom] < 0:
            label[np.isfinite(_distances(bonds, [atom]))] = label.max() + 1
    return label


def _onto(numbers: np.ndarray) -> np.ndarray:
    """Allowed steps (n, n): only to hydrogens, so that no path crosses a heavy atom."""
    return np.broadcast_to(numbers == 1, (len(numbers), len(numbers)))
