"""From noise to data: a run, from its seed to the last step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral

import torch
from torch import Generator, Tensor

from anydiff.predictions import Predictor
from anydiff.samplers.grids import Grid
from anydiff.samplers.multistep import DPMSolver
from anydiff.samplers.sampler import Progress, Sampler, Steps, follow, plan
from anydiff.spaces import Generators

__all__ = ["Seed", "generators", "sample"]

Seed = int | Sequence[int] | Generators
"""One for the batch, or a list with one for each item, whose draw then does not depend on its batch."""


def sample(
    predictor: Predictor,
    x_T: Tensor | Sequence[int],
    sampler: Sampler = DPMSolver(),  # noqa: B008
    steps: Steps = 50,
    *,
    start: float = 1.0,
    grid: Grid | None = None,
    seed: Seed = None,
    generator: Generators = None,
    callback: Callable[[Progress], None] | None = None,
    progress: bool = False,
) -> Tensor:
    """Draw data by following a predictor from noise.

    Arguments:
        predictor: The model, bound to its batch, guided or not.
        x_T: The shape of what is drawn, batch included: (B, \\*) or, in a ragged space, (N, F). Or the
            state at the first time itself, in the predictor's space, with the deviation
            sqrt(alpha² + sigma²) of that time where it is noise.
        sampler: The rule of one step.
        steps: How many, laid by the grid; or the times themselves. Falling ones lead to the data,
            rising ones encode data as noise, one sampler that is deterministic provided.
        start: The first time of the grid, if not 1.
        grid: Where the times lie, see :mod:`anydiff.samplers.grids`; the sampler's own if None.
        seed: An int makes the draw repeatable; a list with one per item makes each item's draw
            independent of the batch it is in. A generator, or a list of them, is taken as it is.
        generator: The same, for callers that have generators.
        callback: Called after each step with a :class:`Progress`.
        progress: Show a bar.

    Returns:
        The state at the last time: x0 where that is 0.
    """
    if seed is not None and generator is not None:
        raise ValueError("seed and generator both say where noise comes from; give one.")
    intervals = plan(predictor.schedule, steps, grid, sampler, start)
    like = x_T if isinstance(x_T, Tensor) else blank(predictor, x_T)
    generator = generators(seed, like.device) if generator is None else generator
    if not isinstance(x_T, Tensor):
        first = intervals[0].t
        x_T = predictor.space.noise(like, generator) * math.hypot(first.alpha, first.sigma)
    return follow(predictor, x_T, sampler, intervals, generator, callback, progress)


def blank(predictor: Predictor, shape: Sequence[int]) -> Tensor:
    """An empty tensor of a shape, as the predictor's models have theirs."""
    models = getattr(predictor, "models", ())
    parameters = (p for model in models for p in model.parameters())
    parameter = next(parameters, torch.empty(0))
    return torch.empty(tuple(shape), dtype=parameter.dtype, device=parameter.device)


def generators(seed: Seed, device: torch.device | str = "cpu") -> Generators:
    """One generator from one seed, or a list of them from a list, on a device; generators as they are."""
    if seed is None or isinstance(seed, Generator):
        return seed
    if isinstance(seed, int | Integral):  # NumPy's too
        return Generator(device).manual_seed(int(seed))
    return [s if isinstance(s, Generator) else Generator(device).manual_seed(int(s)) for s in seed]
