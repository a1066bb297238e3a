"""Noise up to a time, and back to the data."""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_range
from anydiff.editing.kept import check_floating
from anydiff.editing.several import several
from anydiff.predictions import Predictor
from anydiff.samplers import Callback, DPMSolver, Grid, Sampler, sample
from anydiff.spaces import Seed, generators

__all__ = ["denoise", "edit", "variations"]


def edit(
    predictor: Predictor,
    x: Tensor,
    strength: float = 0.5,
    *,
    sampler: Sampler = DPMSolver(),
    steps: int = 25,
    grid: Grid | None = None,
    seed: Seed = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Noise up to a time, and back to the data: the more noise, the less is left of x.

    Arguments:
        x: Data, in the space: something rough to make more of, something to vary or to heal.
        strength: The time, in (0, 1]. 1 leaves nothing of x.
        steps: From there to the data.
        seed: Another one than that of noise which is to be healed: the same would be added to itself.
        sampler, grid, callback, progress: See :func:`anydiff.sample`.

    Raises:
        ValueError: If the strength lies outside (0, 1], if steps are times, or if x is not floating.

    References:
        SDEdit (Meng et al., 2022), algorithm 1. https://arxiv.org/abs/2108.01073
    """
    check_range("(0, 1]", strength=strength)
    if not isinstance(steps, int):
        raise ValueError(f"steps is {steps}; give how many, the strength says where they begin.")
    check_floating(x)
    space, generator = predictor.space, generators(seed, x.device)
    (at,) = predictor.schedule.levels(torch.tensor([strength], dtype=torch.float64))
    noised = at.alpha * space.project(x) + at.sigma * space.noise(x, generator)
    return sample(
        predictor, noised, sampler, steps,
        start=strength, grid=grid, seed=generator, callback=callback, progress=progress,
    )  # fmt: skip


def denoise(
    predictor: Predictor,
    x: Tensor,
    std: float,
    *,
    sampler: Sampler = DPMSolver(),
    steps: int = 25,
    grid: Grid | None = None,
    seed: Seed = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Take off noise that is there already, white and of a known deviation.

    :math:`x = x_0 + s\, \epsilon` is, times alpha, the state at the time where
    :math:`\sigma / \alpha = s`: from there the way leads to the data, and nothing is added.

    Arguments:
        x: Data with noise, in the space.
        std: s, in the unit of the data.
        steps: From there to the data.
        sampler, grid, seed, callback, progress: See :func:`anydiff.sample`.

    Raises:
        ValueError: The schedule has no such level.
    """
    check_floating(x)
    schedule = predictor.schedule
    check_range("(0, inf)", std=std)
    logsnr = -2 * log(std)
    clean, noisy = schedule.ends().tolist()
    if not noisy <= logsnr < clean:
        raise ValueError(
            f"std is {std}, a log-SNR of {logsnr:.3g}, and {schedule} goes from {noisy:.3g} to "
            f"{clean:.3g}; take another schedule."
        )
    at = schedule.at_logsnr(logsnr)
    return sample(
        predictor, at.alpha * predictor.space.project(x), sampler, steps,
        start=at.t, grid=grid, seed=seed, callback=callback, progress=progress,
    )  # fmt: skip


def variations(
    predictor: Predictor,
    x: Tensor,
    n: int = 4,
    strength: float = 0.5,
    *,
    seed: Seed = None,
    **options: Any,
) -> Tensor:
    """Several edits of each item, (n, \\*x.shape); `options` are those of :func:`edit`.

    Arguments:
        predictor: The model, bound to its batch.
        x: Data, in the space.
        n: How many edits of each.
        strength: As of :func:`edit`.
        seed: One, or one for each item; the edits differ.
        options: Of :func:`edit`.
    """

    def one(p: Predictor, x: Tensor, seed: Seed) -> Tensor:
        return edit(p, x, strength, seed=seed, **options)

    return several(predictor, n, [x], one, seed)
