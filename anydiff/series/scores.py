r"""How good drawn forecasts and imputations are, beside what came true.

All take draws (n, \*) and the truth (\*), and give a number for each entry of the truth: what to average
over, and what is left out, the caller says.

References:
    Strictly Proper Scoring Rules, Prediction, and Estimation (Gneiting & Raftery, 2007), section 4.2.
    https://doi.org/10.1198/016214506000001437
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["coverage", "crps"]


def crps(draws: Tensor, truth: Tensor) -> Tensor:
    r"""The continuous ranked probability score, in the unit of the data; smaller is better.

    .. math:: \mathbb{E}\,|X - y| - \tfrac12\, \mathbb{E}\,|X - X'|

    of the distribution whose draws X are, without bias: X' is never X itself. Of a single value, a point
    forecast, it is the absolute error.

    Arguments:
        draws: (n, \*).
        truth: y, (\*).
    """
    _check(draws, truth)
    n = len(draws)
    miss = (draws - truth).abs().mean(0)
    if n == 1:
        return miss
    # the mean of |X - X'| over pairs, from the sorted draws: n log n instead of n²
    ranks = 2 * torch.arange(n, dtype=draws.dtype, device=draws.device) - (n - 1)
    spread = (draws.sort(0).values * ranks.view(-1, *(1,) * truth.ndim)).sum(0)
    return miss - spread / (n * (n - 1))


def coverage(draws: Tensor, truth: Tensor, share: float = 0.8) -> Tensor:
    """Whether the truth lies in the central interval that holds a share of the draws, of booleans (\\*).

    Of draws from the right distribution it does so for that share.
    """
    _check(draws, truth)
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; give a number between 0 and 1.")
    edges = torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=draws.dtype, device=draws.device)
    low, high = draws.quantile(edges, dim=0)
    return (low <= truth) & (truth <= high)


def _check(draws: Tensor, truth: Tensor) -> None:
    if draws.ndim != truth.ndim + 1 or draws.shape[1:] != truth.shape or len(draws) == 0:
        raise ValueError(
            f"draws are {tuple(draws.shape)} and the truth {tuple(truth.shape)}; give (n, *) and (*)."
        )
