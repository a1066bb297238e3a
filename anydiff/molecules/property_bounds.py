r"""What the error of a property that was asked for is to be compared with.

A generator is asked for a property c and draws molecules that have ĉ, by a judge such as
:class:`~anydiff.molecules.property_model.PropertyModel`. The mean of \|ĉ − c\| alone says little: a
generator that hears nothing but draws molecules of the right size has the error of two molecules of one
size, which is not the distance from their median but about √2 times it; one that draws the right formula
has that of two isomers. :func:`property_bounds` computes these from the data. :func:`gap_closure` is the
share of the way from the first to the judge's own error, and :func:`correlation_within` is how far the
drawn property follows the wanted one among molecules of one size: 0 for a generator that hears nothing.

Molecules that are none may have any ĉ. Compare both all that are drawn and the sound ones among them, and
500 or more in a row: the error of 100 has an uncertainty of about 7 %.
"""

from __future__ import annotations

import numpy as np

from anydiff.checks import real
from anydiff.molecules.bonds import Array
from anydiff.molecules.compositions import compositions
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.properties import molecules_values

__all__ = ["correlation_within", "gap_closure", "mean_difference", "property_bounds"]


def property_bounds(
    molecules: Molecules, name: str, learn: Molecules | None = None
) -> dict[str, float]:
    """Mean absolute errors to compare a generator of some molecules with, in the property's unit.

    - "any two molecules": what is drawn has nothing to do with what is asked for.
    - "two of one size": it has the right number of atoms. The zero of :func:`gap_closure`.
    - "median of the size": the error of guessing c from the number of atoms, which no generator has.
    - "two isomers": it has the right formula.
    - "linear in the composition": the error of guessing c from the formula.

    Pairs are all pairs of different molecules, so that nothing is random; molecules without another of
    their size, or formula, count in none.

    Arguments:
        molecules: Those whose properties are asked for; unknown properties are left out.
        name: The property.
        learn: From which the medians and the regression are; by default the molecules themselves.

    Raises:
        ValueError: They lack the property, or all its values are unknown.
    """
    c, sizes, counts = _known(molecules, name)
    of, of_sizes, of_counts = (c, sizes, counts) if learn is None else _known(learn, name)
    elements = sorted({*counts} | {*of_counts})
    here, there = (
        np.stack([np.ones(len(n)), *(k.get(z, np.zeros(len(n))) for z in elements)], axis=1)
        for k, n in ((counts, sizes), (of_counts, of_sizes))
    )
    seen = np.unique(of_sizes)
    medians = np.array([np.median(of[of_sizes == n]) for n in seen])
    nearest = np.abs(sizes[:, None] - seen).argmin(1)
    line = here @ np.linalg.lstsq(there, of, rcond=None)[0]
    return {
        "any two molecules": mean_difference(c),
        "two of one size": mean_difference(c, sizes),
        "median of the size": float(np.abs(c - medians[nearest]).mean()),
        "two isomers": mean_difference(c, np.unique(here, axis=0, return_inverse=True)[1].ravel()),
        "linear in the composition": float(np.abs(c - line).mean()),
    }


def _known(molecules: Molecules, name: str) -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
    """Known values, and of these molecules the sizes, and the counts of each element."""
    c = molecules_values(molecules, [name])[:, 0]
    known = np.isfinite(c)
    if not known.any():
        raise ValueError(f"{molecules.name}: no value of {name} is known; give some that are.")
    counts = compositions(molecules)[known].astype(np.float64)
    return c[known], molecules.sizes[known], dict(zip(molecules.elements, counts.T, strict=True))


def mean_difference(values: Array, groups: Array | None = None) -> float:
    """The mean of \\|c − c'\\| over two different values of one group; nan if no group has two.

    The first is any value that has others in its group, the second any of these.

    Arguments:
        values: (M,), finite.
        groups: (M,), whole numbers; None for one group.

    Raises:
        ValueError: They are no numbers, or not as many.
    """
    c = _row(values=values)
    g = np.zeros(len(c)) if groups is None else _row(groups=groups)
    _alike(values=c, groups=g)
    order = np.lexsort((c, g))
    c, g = c[order], g[order]
    _, first, count = np.unique(g, return_index=True, return_counts=True)
    rank, of = np.arange(len(c)) - np.repeat(first, count), np.repeat(count, count)
    # of sorted values, the sum of all differences is that of (2 rank − N + 1) c
    term = (2 * rank - of + 1) * c / np.maximum(of - 1, 1)
    paired = of > 1
    return float(2 * term[paired].sum() / paired.sum()) if paired.any() else float("nan")


def gap_closure(error: float, shuffled: float, judge: float = 0.0) -> float:
    """(shuffled − error) / (shuffled − judge): 0 of a generator that hears nothing, 1 at best.

    Arguments:
        error: The mean absolute error of what was drawn.
        shuffled: That of two molecules of one size.
        judge: The judge's own, on molecules that it was not trained on.
    """
    return (shuffled - error) / (shuffled - judge) if shuffled > judge else float("nan")


def correlation_within(asked: Array, drawn: Array, sizes: Array) -> float:
    """The correlation of two properties among molecules of one size; nan where one does not vary.

    .. math:: \\frac{\\sum (c - \\bar c_n)(\\hat c - \\bar{\\hat c}_n)}
              {\\sqrt{\\sum (c - \\bar c_n)^2 \\sum (\\hat c - \\bar{\\hat c}_n)^2}}

    Arguments:
        asked: (M,), c.
        drawn: (M,), ĉ.
        sizes: (M,), numbers of atoms; the bars are means over those of one size.

    Raises:
        ValueError: They are no numbers, or not as many.
    """
    a, b, n = _row(asked=asked), _row(drawn=drawn), _row(sizes=sizes)
    _alike(asked=a, drawn=b, sizes=n)
    _, which, count = np.unique(n, return_inverse=True, return_counts=True)
    scale = [1e-9 * np.abs(v).max(initial=0) * np.sqrt(len(v)) for v in (a, b)]
    a, b = (v - (np.bincount(which, v) / count)[which] for v in (a, b))
    norms = [float(np.linalg.norm(v)) for v in (a, b)]
    if any(norm <= least for norm, least in zip(norms, scale, strict=True)):
        return float("nan")  # rounding alone
    return float(a @ b) / (norms[0] * norms[1])


def _row(**values: Array) -> np.ndarray:
    row: np.ndarray = real("numbers, (M,)", **values).cpu().numpy()
    return row


def _alike(**rows: np.ndarray) -> None:
    shapes = {name: row.shape for name, row in rows.items()}
    if len({*shapes.values()}) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"there are {found}; give as many numbers of each, (M,).")
