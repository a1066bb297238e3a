r"""Scores of sampled forecasts and imputations, given the true values.

All take draws (n, \*) and the true values (\*), as tensors, arrays or lists, and return a number for each
entry of these; the caller decides over which entries to average. Integers count as floats. Where the
true value or a draw is NaN, so is the score.

References:
    Strictly Proper Scoring Rules, Prediction, and Estimation (Gneiting & Raftery, 2007), section 4.2.
    https://doi.org/10.1198/016214506000001437
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_range, check_shape
from anydiff.data.values import numbers

__all__ = ["coverage", "crps"]


def crps(draws: Any, truth: Any) -> Tensor:
    r"""The continuous ranked probability score; smaller is better.

    .. math:: \mathbb{E}\,|X - y| - \tfrac12\, \mathbb{E}\,|X - X'|

    for the distribution of the draws X, without bias: X' is another draw than X. With a single draw, a
    point forecast, it is the absolute error.

    Arguments:
        draws: X, (n, \*).
        truth: y, (\*).

    Returns:
        (\*), in the unit of the data.

    Raises:
        ValueError: The shapes do not match, something is no number, or there is no draw.
    """
    draws, truth = _checked(draws, truth)
    n = len(draws)
    error: Tensor = (draws - truth).abs().mean(0)
    if n == 1:
        return error
    # the mean of |X - X'| over pairs, from the sorted draws: n log n instead of n²
    ranks = 2 * torch.arange(n, dtype=draws.dtype, device=draws.device) - (n - 1)
    spread = (draws.sort(0).values * ranks.view(-1, *(1,) * truth.ndim)).sum(0)
    score: Tensor = error - spread / (n * (n - 1))
    return score


def coverage(draws: Any, truth: Any, share: float = 0.8) -> Tensor:
    """Whether the true values lie in the central interval that holds a share of the draws.

    If the draws are from the true distribution, that share of the values does.

    Arguments:
        draws: (n, \\*).
        truth: (\\*).
        share: In (0, 1).

    Returns:
        Booleans (\\*).

    Raises:
        ValueError: The shapes do not match, something is no number, there is no draw, or the share lies
            outside (0, 1).
    """
    draws, truth = _checked(draws, truth)
    check_range("(0, 1)", share=share)
    edges = torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=draws.dtype, device=draws.device)
    low, high = draws.quantile(edges, dim=0)
    inside: Tensor = (low <= truth) & (truth <= high)
    return inside


def _checked(draws: Any, truth: Any) -> tuple[Tensor, Tensor]:
    """Both as floats of one dtype and device."""
    draws, truth = (_floats(x, name) for x, name in ((draws, "draws"), (truth, "truth")))
    check_shape((None, *truth.shape), "give several draws of the truth", draws=draws)
    check_range("[1, inf)", number_of_draws=len(draws))
    kind = torch.promote_types(draws.dtype, truth.dtype)
    kind = torch.promote_types(kind, torch.float32)  # sums and quantiles of halves overflow
    return draws.to(kind), truth.to(draws.device, kind)


def _floats(x: Any, name: str) -> Tensor:
    if isinstance(x, Tensor) and not x.is_complex():
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())
    try:
        return torch.tensor(numbers(x))
    except ValueError as error:
        raise ValueError(f"{name}: it {error}; give numbers.") from None
