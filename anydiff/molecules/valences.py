"""Which sums of bond orders an atom may have, and so which atoms are stable by bonds that are given."""

from __future__ import annotations

import numpy as np

from anydiff.molecules.bonds import sums_of_orders
from anydiff.molecules.fields import AROMATIC

__all__ = ["VALENCES", "stable_atoms"]

VALENCES: dict[tuple[int, int], tuple[int, ...]] = {
    (1, 0): (1,), (1, 1): (0,), (1, -1): (0,),
    (3, 1): (0,), (11, 1): (0,), (19, 1): (0,), (12, 2): (0,), (20, 2): (0,), (30, 2): (0,),
    (5, 0): (3,), (5, -1): (4,), (13, 0): (3,), (13, -1): (4,),
    (6, 0): (4,), (6, 1): (3,), (6, -1): (3,), (14, 0): (4,), (14, 1): (3,), (14, -1): (3,),
    (7, 0): (3,), (7, 1): (4,), (7, -1): (2,),
    (15, 0): (3, 5), (15, 1): (4,), (15, -1): (2, 6), (33, 0): (3, 5), (33, 1): (4,),
    (8, 0): (2,), (8, 1): (3,), (8, -1): (1,), (8, -2): (0,),
    (16, 0): (2, 4, 6), (16, 1): (3, 5), (16, -1): (1,), (16, -2): (0,),
    (34, 0): (2, 4, 6), (34, 1): (3, 5), (34, -1): (1,),
    (9, 0): (1,), (9, -1): (0,), (17, 0): (1,), (17, -1): (0,), (35, 0): (1,), (35, -1): (0,),
    (53, 0): (1, 3, 5), (53, 1): (2,), (53, -1): (0,),
    (80, 0): (1, 2), (80, 2): (0,), (83, 0): (3, 5),
}  # fmt: skip
"""The sums of bond orders that an element with a formal charge may have; others are unstable."""

_MOST, _CHARGE = 12, 15  # a sum of orders or more; charges from -15 to 15
_KNOWN = np.zeros((119, 2 * _CHARGE + 1, _MOST + 1), bool)
for (_z, _q), _sums in VALENCES.items():
    _KNOWN[_z, _q + _CHARGE, list(_sums)] = True


def stable_atoms(
    z: np.ndarray, bonds: np.ndarray, orders: np.ndarray, charges: np.ndarray | None = None
) -> np.ndarray:
    """Which atoms are stable by given bonds and charges, (N,).

    Arguments:
        z: (N,), atomic numbers.
        bonds: (E, 2), the rows of the two atoms of each bond.
        orders: (E,), its order.
        charges: (N,), formal charges from -15 to 15, or None where they are 0.
    """
    given = np.zeros(len(z), np.int64) if charges is None else charges.astype(np.int64)
    total = sums_of_orders(bonds, orders.astype(np.int64), len(z))
    atoms: np.ndarray = _KNOWN[z.astype(np.int64), given + _CHARGE, np.minimum(total, _MOST)]
    atoms[bonds[orders == AROMATIC].ravel()] = False
    return atoms
