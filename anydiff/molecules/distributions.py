"""Distances between the distributions of molecules: of their elements, and of their bonds' lengths."""

from __future__ import annotations

import numpy as np

from anydiff.molecules.bonds import Array, as_array, as_elements, ratio

__all__ = ["distance_of_lengths", "element_distance", "lengths_by_kind", "wasserstein"]

Kind = tuple[int, int, int]
"""A kind of bond: (z, z', order), z ≤ z'."""


def element_distance(z: Array, reference: Array) -> float:
    r"""The total variation distance between the elements of two samples: ½ Σ \|p − q\|, in [0, 1].

    Arguments:
        z: (N,), atomic numbers.
        reference: (N',), atomic numbers.

    Raises:
        ValueError: A number is of no element, or not whole.
    """
    p, q = (np.bincount(as_elements(s), minlength=119) for s in (z, reference))
    return float(0.5 * np.abs(p / max(p.sum(), 1) - q / max(q.sum(), 1)).sum())


def wasserstein(a: Array, b: Array) -> float:
    """The 1-Wasserstein distance of two samples of numbers, in their unit; nan if one is empty.

    It is the area between their cumulative distribution functions.

    Arguments:
        a: (N,), in any order.
        b: (N',), in any order.

    Raises:
        ValueError: Some are masked, or they are no numbers.
    """
    a, b = np.sort(as_array(a)), np.sort(as_array(b))
    if not (len(a) and len(b)):
        return float("nan")
    x = np.sort(np.concatenate([a, b]))
    below_a, below_b = (np.searchsorted(s, x[:-1], side="right") / len(s) for s in (a, b))
    return float((np.abs(below_a - below_b) * np.diff(x)).sum())


def lengths_by_kind(
    pos: np.ndarray, z: np.ndarray, bonds: np.ndarray, orders: np.ndarray
) -> dict[Kind, np.ndarray]:
    """The lengths of bonds in ångström, by kind.

    Arguments:
        pos: (N, 3), positions in ångström.
        z: (N,), atomic numbers.
        bonds: (E, 2), the rows of the two atoms of each bond.
        orders: (E,), its order.
    """
    ends = np.sort(z[bonds].astype(np.int64), axis=1)
    apart = pos[bonds[:, 0]].astype(np.float64) - pos[bonds[:, 1]]
    rows = np.concatenate([ends, orders[:, None]], axis=1)
    kinds, which = np.unique(rows, axis=0, return_inverse=True)
    lengths, which = np.sqrt((apart**2).sum(1)), which.ravel()
    return {tuple(kind): lengths[which == k] for k, kind in enumerate(kinds.tolist())}


def distance_of_lengths(
    sample: dict[Kind, np.ndarray], reference: dict[Kind, np.ndarray]
) -> tuple[float, dict[Kind, float]]:
    """The 1-Wasserstein distances between lengths, kind by kind, in ångström.

    Arguments:
        sample: Lengths by kind, of a sample.
        reference: Those of the reference.

    Returns:
        The mean of the distances, weighted by the frequency of the kind in the reference; and the
        distance for each kind of the reference. A kind that the sample lacks is nan and not part of the
        mean.
    """
    empty = np.zeros(0)
    distances = {kind: wasserstein(sample.get(kind, empty), reference[kind]) for kind in reference}
    common = [kind for kind in reference if kind in sample]
    total = sum(len(reference[kind]) for kind in common)
    mean = ratio(sum(distances[kind] * len(reference[kind]) for kind in common), total)
    return mean, distances
