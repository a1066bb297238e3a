"""Editing by adding and removing noise: SDEdit, and denoising of noisy data."""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_range, number, shown
from anydiff.editing.kept import data
from anydiff.editing.several import several
from anydiff.predictions import Predictor
from anydiff.samplers import DPMSolver, Sampler, Steps, sample
from anydiff.samplers.loop import chosen
from anydiff.spaces import Seed, generators

__all__ = ["denoise", "edit", "variations"]

USUAL = DPMSolver(), 25


def edit(
    predictor: Predictor,
    x: Tensor,
    strength: float = 0.5,
    *,
    sampler: Sampler | None = None,
    steps: int | None = None,
    seed: Seed = None,
    **options: Any,
) -> Tensor:
    r"""SDEdit: add noise to x up to a time, then denoise; the more noise, the less is kept of x.

    Arguments:
        predictor: The model, bound to its batch.
        x: Data, in the space: a rough draft to refine, an item to vary, or a damaged one to repair.
        strength: The time up to which noise is added, in (0, 1]. 1 keeps nothing of x.
        sampler: The rule for one step; None takes :class:`~anydiff.DPMSolver`.
        steps: The number of steps from that time to the data; None takes 25.
        seed: An int, or one per item, see :func:`anydiff.sample`. If x has noise that was drawn from a
            seed, use a different one: the same noise would be added again.
        options: grid, callback, progress and grad, see :func:`anydiff.sample`.

    Returns:
        The result, shaped like x.

    Raises:
        ValueError: If the strength lies outside (0, 1], if `steps` is not a number of steps, or if x is
            not floating-point and finite.

    References:
        SDEdit (Meng et al., 2022), algorithm 1. https://arxiv.org/abs/2108.01073
    """
    check_range("(0, 1]", strength=strength)
    if not (steps is None or isinstance(number(steps), int)):
        raise ValueError(f"steps is {shown(steps)}; give how many: the strength is the first time.")
    x = data(predictor, x=x)
    generator = generators(seed, x.device)
    sampler, times, first = _chosen(predictor, sampler, steps, strength)
    (at,) = predictor.schedule.levels(torch.tensor([strength], dtype=torch.float64))
    noised = at.alpha * x + at.sigma * predictor.space.noise(x, generator)
    return sample(predictor, noised, sampler, times, start=first, seed=generator, **options)


def denoise(
    predictor: Predictor,
    x: Tensor,
    std: float,
    *,
    sampler: Sampler | None = None,
    steps: int | None = None,
    seed: Seed = None,
    **options: Any,
) -> Tensor:
    r"""Remove white noise of a known standard deviation from data.

    :math:`x = x_0 + s\, \epsilon`, multiplied by alpha, is the state at the time where
    :math:`\sigma / \alpha = s`. Sampling starts from there; no noise is added first.

    Arguments:
        predictor: The model, bound to its batch.
        x: Data with noise, in the space.
        std: s, the standard deviation of the noise in units of the data.
        sampler: The rule for one step; None takes :class:`~anydiff.DPMSolver`.
        steps: The number of steps from that time to the data; None takes 25.
        seed: An int, or one per item, for samplers that add noise; see :func:`anydiff.sample`.
        options: grid, callback, progress and grad, see :func:`anydiff.sample`.

    Returns:
        The result, shaped like x.

    Raises:
        ValueError: If the schedule has no level with this noise, or if x is not
            floating-point and finite.
    """
    check_range("(0, inf)", std=std)
    x = data(predictor, x=x)
    schedule = predictor.schedule
    logsnr = -2 * log(std)
    clean, noisy = schedule.ends().tolist()
    if not noisy <= logsnr < clean:
        raise ValueError(
            f"std is {std}, a log-SNR of {logsnr:.3g}, and {schedule} goes from {noisy:.3g} to "
            f"{clean:.3g}; use another schedule."
        )
    at = schedule.at_logsnr(logsnr)
    sampler, times, first = _chosen(predictor, sampler, steps, at.t)
    return sample(predictor, at.alpha * x, sampler, times, start=first, seed=seed, **options)


def _chosen(
    predictor: Predictor, sampler: Sampler | None, steps: int | None, start: float
) -> tuple[Sampler, Steps | None, float]:
    """The sampler, the steps and the start; a distilled model has to know that time itself."""
    if predictor.run is not None:
        predictor.run.check(start)
    return chosen(predictor, sampler, steps, start, USUAL)


def variations(
    predictor: Predictor,
    x: Tensor,
    n: int = 4,
    strength: float = 0.5,
    *,
    seed: Seed = None,
    **options: Any,
) -> Tensor:
    """Several edits of each item.

    Arguments:
        predictor: The model, bound to its batch.
        x: Data, in the space.
        n: The number of edits of each item.
        strength: The time up to which noise is added, as in :func:`edit`.
        seed: One seed, or one for each item; the edits of an item differ.
        options: Options of :func:`edit`.

    Returns:
        All edits, (n, \\*x.shape).

    Raises:
        ValueError: If n is below 1, or as :func:`edit`.
    """

    data(predictor, x=x)

    def one(p: Predictor, x: Tensor, seed: Seed) -> Tensor:
        return edit(p, x, strength, seed=seed, **options)

    return several(predictor, n, [x], one, seed)
