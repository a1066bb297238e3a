"""Forecasts of series: the rows that follow those that are known.

A forecast is an imputation (:func:`anydiff.editing.impute`) of sequences that are longer than what is
known of them. The network needs no training for it beyond that of a model of whole series.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_shape, check_whole
from anydiff.data.values import numbers
from anydiff.editing.known import impute
from anydiff.predictions import Predictor
from anydiff.spaces import Masked, Seed

__all__ = ["forecast"]


def forecast(
    predict: Callable[[Masked], Predictor],
    history: Any,
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
        history: (B, N, C), NaN where a value is missing: a tensor, on the device and of the dtype of the
            network, or an array or lists, from which one of torch's default dtype is made. A row of
            NaNs is one that was not observed; where items end earlier, give their `lengths`.
        horizon: How many rows to draw after the last row of each item.
        n: How many draws.
        lengths: (B,) how many rows of the history belong to each item, its first ones; N if None.
        seed: One number, or one for each item; the draws differ.
        options: Those of :func:`~anydiff.editing.inpaint`, as `sampler`, `steps` and `resamples`.

    Returns:
        The draws, (n, B, horizon, C). A warning counts those that did not come out finite.

    Raises:
        ValueError: The history has not three axes or is not of finite numbers and NaN, the horizon or n
            is not a whole number from 1, a length does not fit the history, or a space is given.
    """
    if "space" in options:
        raise ValueError(
            "forecast makes the space of the longer series; give no space, but lengths of items whose "
            "history ends earlier, and NaN in the rows before one that begins later."
        )
    check_whole("[1, inf)", horizon=horizon, n=n)
    horizon, n = int(horizon), int(n)
    past = _tensor(history)
    check_shape((None, None, None), "give (B, N, C)", history=past)
    B, N, C = past.shape
    known = _lengths([N] * B if lengths is None else lengths, past)
    rows = torch.arange(N + horizon, device=past.device)
    space = Masked(rows < (known + horizon)[:, None])
    x = past.new_full((B, N + horizon, C), torch.nan)
    x[:, :N] = past.masked_fill((rows[:N] >= known[:, None])[..., None], torch.nan)
    if bool((infinite := x.isinf()).any()):
        item, row, channel = where = tuple(infinite.nonzero()[0].tolist())
        raise ValueError(
            f"item {item}, row {row}, channel {channel} of the history is {float(x[where])}; give finite "
            "values, or NaN where one is missing."
        )

    drawn = impute(predict(space), x, n, seed=seed, **options)
    ahead = known[:, None] + rows[:horizon]
    drawn = torch.gather(drawn, 2, ahead[None, :, :, None].expand(n, B, horizon, C))
    if unsound := int((~drawn.isfinite()).flatten(2).any(2).sum()):
        warnings.warn(f"{unsound} of the {n * B} forecasts are not finite.", stacklevel=2)
    return drawn


def _lengths(lengths: Any, past: Tensor) -> Tensor:
    """The rows of each item of the history (B, N, C), (B,) integers."""
    B, N, _ = past.shape
    try:
        known = torch.as_tensor(lengths, device=past.device)
        whole = not known.is_floating_point() and known.dtype != torch.bool
        fits = known.shape == (B,) and whole and not known.is_complex()
        known = known.long() if fits else known
    except (TypeError, ValueError, RuntimeError):  # no numbers
        fits = False
    if not fits or bool(((known < 0) | (known > N)).any()):
        given = lengths.tolist() if hasattr(lengths, "tolist") else lengths
        raise ValueError(f"lengths are {given!r}; give 0 to {N} rows for each of {B} items.")
    return known


def _tensor(history: Any) -> Tensor:
    """A history as a tensor of floats."""
    if isinstance(history, Tensor) and history.is_floating_point():
        return history
    try:
        x = history if isinstance(history, Tensor) else torch.tensor(numbers(history))
    except ValueError as error:
        raise ValueError(f"history: it {error}; give (B, N, C).") from None
    return x.to(torch.get_default_dtype())
