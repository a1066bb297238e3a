r"""How far molecules are from equilibrium: relaxed by GFN2-xTB, a tight-binding approximation of DFT.

From the positions as they are, L-BFGS goes down to where no component of the gradient is above a
tolerance. The energy that is gained, how far the atoms have moved, and whether the molecule is still the
same one are measures of geometry by physics alone: no table of lengths and no data take part in them.

Two atoms are bonded by their electrons if their Wiberg bond order is above ½; bonds have about 1 or more,
others at most 0.2. Bonds that are given, such as those of a file, are compared with those after
relaxation, and otherwise those before.

A molecule for which this fails is counted as such: it gains nan and is not kept. It fails if it has a
position that is not finite, if the electrons do not converge, or if the gradient is still above the
tolerance after the last step.

References:
    GFN2-xTB: An Accurate and Broadly Parametrized Self-Consistent Tight-Binding Quantum Chemical Method
    (Bannwarth et al., 2019). https://doi.org/10.1021/acs.jctc.8b01176
    tblite, a light-weight tight-binding framework. https://github.com/tblite/tblite
    A solution for the best rotation to relate two sets of vectors (Kabsch, 1976).
    https://doi.org/10.1107/S0567739476001873
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from anydiff.checks import check_range, check_whole
from anydiff.extras import extra
from anydiff.molecules.bonds import Array, as_array, as_arrays, as_charges, ratio

__all__ = ["Relaxed", "relax", "rmsd"]

_BOHR = 0.529177210544  # Å
_HARTREE = 627.509474  # kcal/mol
_HEAVIEST = 86  # that GFN2-xTB knows
_BONDED = 0.5  # Wiberg bond order


@dataclass(frozen=True, eq=False)
class Relaxed:
    """Molecules after relaxation, and what it did to them.

    Arguments:
        pos: (N, 3), relaxed positions in ångström; nan of a molecule for which relaxation failed.
        gain: (M,), the energy that is gained in kcal/mol, E(before) − E(after); nan where it failed.
        rmsd: (M,), how far atoms have moved in ångström, as :func:`rmsd`; nan where it failed.
        kept: (M,), whether the molecule has the same bonds after relaxation; False where it failed.
    """

    pos: np.ndarray
    gain: np.ndarray
    rmsd: np.ndarray
    kept: np.ndarray

    @property
    def molecules(self) -> int:
        """The number of molecules."""
        return len(self.gain)

    @property
    def failed(self) -> int:
        """For how many of them relaxation failed."""
        return int(np.isnan(self.gain).sum())

    @property
    def survival(self) -> float:
        """The share of all molecules that keep their bonds; those that failed do not."""
        return ratio(int(self.kept.sum()), self.molecules)

    @property
    def median_gain(self) -> float:
        """The median of the energies, of the molecules that did not fail; nan of none."""
        return self._of(np.median, self.gain)

    @property
    def mean_gain(self) -> float:
        """The mean of the same."""
        return self._of(np.mean, self.gain)

    @property
    def median_rmsd(self) -> float:
        """The median of how far atoms have moved, of the same molecules."""
        return self._of(np.median, self.rmsd)

    def _of(self, function: Any, values: np.ndarray) -> float:
        done = values[~np.isnan(values)]
        return float(function(done)) if len(done) else float("nan")


def rmsd(a: Array, b: Array) -> float:
    r"""The root-mean-square distance of the atoms of two geometries, one moved and turned onto the other.

    .. math:: \min_{R \in SO(3),\, t} \sqrt{\tfrac{1}{n} \sum_i \|R a_i + t - b_i\|^2}

    Mirror images are not superposed. All atoms count alike, hydrogens as well.

    Arguments:
        a: (n, 3).
        b: (n, 3), the same atoms in the same order.

    Raises:
        ValueError: They are not (n, 3) both, or not finite.
    """
    x, y = (as_array(given).astype(np.float64) for given in (a, b))
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 3 or not len(x):
        raise ValueError(f"the geometries are {x.shape} and {y.shape}; give (n, 3) twice.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a position is not finite; leave such molecules out.")
    x, y = x - x.mean(0), y - y.mean(0)
    u, _, v = np.linalg.svd(x.T @ y)
    proper = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    return float(np.sqrt(((x @ u @ proper @ v - y) ** 2).sum(1).mean()))


def relax(
    pos: Array,
    z: Array,
    index: Array,
    *,
    charges: Array | None = None,
    bonds: Array | None = None,
    tolerance: float = 1e-3,
    steps: int = 500,
    progress: bool = False,
) -> Relaxed:
    """Relax molecules by GFN2-xTB.

    As many molecules are relaxed at once as PyTorch uses threads (``OMP_NUM_THREADS``).

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        index: (N,), the molecule of each row, ascending.
        charges: (N,), formal charges, whose sum is the charge of a molecule; 0 if they are not known.
        bonds: (E, 2), rows of two atoms each that are bonded; None compares with the bonds that the
            electrons make before relaxation.
        tolerance: No component of the gradient is above it at the end, in hartree per bohr.
        steps: The most steps of L-BFGS.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: The shapes do not fit, the index does not ascend, or an element is not known to
            GFN2-xTB.
        ImportError: tblite is not installed.
    """
    check_range("(0, inf)", tolerance=tolerance)
    check_whole("[1, inf)", steps=steps)
    pos, z, sizes = as_arrays(pos, z, index)
    if (z > _HEAVIEST).any():
        raise ValueError(
            f"z has {z[z > _HEAVIEST][0]}; GFN2-xTB knows elements up to {_HEAVIEST}: leave out "
            "molecules with heavier ones."
        )
    total = np.zeros(len(z), np.int64) if charges is None else as_charges(charges, z)
    graph = None if bonds is None else _checked(bonds, len(z))
    with extra("xtb"):
        from tqdm import tqdm

    ends = np.cumsum(sizes)
    rows = [slice(a, b) for a, b in zip((ends - sizes).tolist(), ends.tolist(), strict=True)]
    work = partial(_relaxed, pos, z, total, graph, tolerance=tolerance, steps=steps)
    after = np.full_like(pos, np.nan)
    gain, moved = np.full((2, len(rows)), np.nan)
    kept = np.zeros(len(rows), bool)
    with _threads() as pool:
        bar = tqdm(
            pool.map(work, rows), "relaxing", len(rows), unit=" molecules", disable=not progress
        )
        for m, found in enumerate(bar):
            if found is not None:
                after[rows[m]], gain[m], kept[m] = found
                moved[m] = rmsd(pos[rows[m]], found[0])
    return Relaxed(after, gain, moved, kept)


def _checked(bonds: Array, num: int) -> np.ndarray:
    pairs = as_array(bonds)
    if not pairs.size:
        return np.zeros((0, 2), np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"bonds are {pairs.shape} of {pairs.dtype}; give (E, 2) whole numbers.")
    if pairs.min() < 0 or pairs.max() >= num:
        raise ValueError(f"bonds join rows {pairs.min()} to {pairs.max()}; give 0 to {num - 1}.")
    return pairs


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for a molecule each. Within a molecule, those of OpenMP would mostly wait for each other,
    and for minutes if other processes want the same cores."""
    with extra("xtb"):
        import tblite.interface  # noqa: F401  # whose libraries have to be there to be limited
        from threadpoolctl import threadpool_limits
    one, num = partial(threadpool_limits, 1), torch.get_num_threads()
    with one(), ThreadPoolExecutor(num, initializer=one) as pool:
        yield pool


def _relaxed(
    pos: np.ndarray,
    z: np.ndarray,
    charges: np.ndarray,
    bonds: np.ndarray | None,
    rows: slice,
    *,
    tolerance: float,
    steps: int,
) -> tuple[np.ndarray, float, bool] | None:
    """Positions after relaxation, the energy that is gained, and whether bonds are kept; None if it
    fails."""
    with extra("xtb"):
        from scipy.optimize import minimize
        from tblite.exceptions import TBLiteRuntimeError
        from tblite.interface import Calculator
    x, charge = pos[rows] / _BOHR, int(charges[rows].sum())
    # with fewer electrons than none tblite ends the process
    if not np.isfinite(x).all() or charge > _valence_electrons(z[rows]).sum():
        return None
    last: Any = None

    def point(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal last
        molecule.update(positions=x)
        last = molecule.singlepoint(last)  # from the electrons of the last point
        return float(last["energy"]), last["gradient"].ravel()

    try:
        molecule = Calculator("GFN2-xTB", z[rows], x, charge=charge)
        molecule.set("verbosity", 0)
        before, _ = point(x.ravel())
        graph = _bonded(last) if bonds is None else _matrix(bonds, rows)
        limits = {"gtol": tolerance, "ftol": 0.0, "maxiter": steps}
        end = minimize(point, x.ravel(), jac=True, method="L-BFGS-B", options=limits).x
        after, gradient = point(end)
    except TBLiteRuntimeError:
        return None
    # not what the optimiser says, as it may end without a better point where the gradient is as small
    if not abs(gradient).max() <= tolerance:
        return None
    found = end.reshape(-1, 3) * _BOHR
    return found, (before - after) * _HARTREE, bool((_bonded(last) == graph).all())


def _bonded(result: Any) -> np.ndarray:
    """(n, n), by electrons; those of spin come after those of charge, where there are any."""
    orders: np.ndarray = result["bond-orders"]
    return orders[..., 0] > _BONDED


def _matrix(bonds: np.ndarray, rows: slice) -> np.ndarray:
    """(n, n), the bonds of one molecule."""
    pairs = bonds[(bonds >= rows.start).all(1) & (bonds < rows.stop).all(1)] - rows.start
    found = np.zeros((rows.stop - rows.start,) * 2, bool)
    found[pairs[:, 0], pairs[:, 1]] = found[pairs[:, 1], pairs[:, 0]] = True
    return found


def _valence_electrons(z: np.ndarray) -> np.ndarray:
    """How many electrons of neutral atoms GFN2-xTB has: those of full d and f shells are left out."""
    cores = np.array([0, 2, 10, 18, 36, 54])
    outer = z - cores[np.searchsorted(cores, z) - 1]
    outer = np.where((z > 56) & (z < 72), 3, np.where(z > 71, outer - 14, outer))
    return np.where((z > 29) & (outer > 11), outer - 10, outer)
