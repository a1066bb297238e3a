"""Forecasts of series: the rows that follow those that are known.

A forecast is an imputation (:func:`anydiff.editing.impute`) of sequences that are longer than what is
known of them. The network needs no training for it beyond that of a model of whole series.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_range, check_shape
from anydiff.editing.known import impute
from anydiff.predictions import Predictor
from anydiff.spaces import Masked, Seed

__all__ = ["forecast"]


def forecast(
    predict: Callable[[Masked], Predictor],
    history: Tensor,
    horizon: int,
    n: int = 1,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    seed: Seed = None,
    **options: Any,
) -> Tensor:
    """Draw the rows that follow those of each item, several times.

    It takes n times as many network calls as one call of :func:`~anydiff.editing.inpaint`, or as many
    calls of a batch n times as large.

    Arguments:
        predict: From the space of the longer series, of N + horizon rows, to a predictor in it:
            `diffusion.predictor`, or a function that adds conditions or guidance, as
            ``lambda space: diffusion.predictor(space, label=label)``.
        history: (B, N, C), NaN where a value is missing.
        horizon: How many rows to draw after the last row of each item.
        n: How many draws.
        lengths: (B,) how many rows of the history belong to each item, its first ones; N if None.
        seed: One number, or one for each item; the draws differ.
        options: Those of :func:`~anydiff.editing.inpaint`, as `sampler`, `steps` and `resamples`.

    Returns:
        The draws, (n, B, horizon, C).

    Raises:
        ValueError: The history has not three axes, the horizon or n is below 1, or a length does not
            fit the history.
    """
    check_range("[1, inf)", horizon=horizon)
    check_shape((None, None, None), "give (B, N, C)", history=history)
    B, N, C = history.shape
    known = torch.as_tensor([N] * B if lengths is None else lengths, device=history.device)
    if known.shape != (B,) or bool(((known < 0) | (known > N)).any()):
        raise ValueError(f"lengths are {known.tolist()}; give 0 to {N} rows for each of {B} items.")
    rows = torch.arange(N + horizon, device=history.device)
    space = Masked(rows < (known + horizon)[:, None])
    x = history.new_full((B, N + horizon, C), torch.nan)
    x[:, :N] = history.masked_fill((rows[:N] >= known[:, None])[..., None], torch.nan)

    drawn = impute(predict(space), x, n, seed=seed, **options)
    ahead = known[:, None] + rows[:horizon]
    return drawn.gather(2, ahead[None, :, :, None].expand(n, B, horizon, C))
