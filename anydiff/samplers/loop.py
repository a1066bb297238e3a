"""One loop, from noise to data: a run, from its seed to the last step.

All times and noise levels are planned once, in float64, as Python floats. A run towards the data lands on
the data itself, where alpha is 1 and sigma is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anydiff.checks import check_range
from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.grids import Grid
from anydiff.samplers.multistep import DPMSolver
from anydiff.samplers.sampler import Past, Sampler
from anydiff.schedules import Level, Schedule
from anydiff.spaces import Random, Seed, generators

__all__ = [
    "Callback", "Progress", "Steps", "evaluating", "first_noise", "follow", "plan", "sample",
    "watched",
]  # fmt: skip

Steps = int | Sequence[float] | Tensor
"""How many steps, or the times themselves."""


class Progress(NamedTuple):
    """What a callback is given after each step."""

    step: int
    """Steps done, 1 to `steps`."""
    steps: int
    t: float
    """The time that the step started from."""
    s: float
    """The time that it reached."""
    x_s: Tensor
    """The state there."""
    prediction: Prediction
    """The prediction at t; its x0 is the current guess of the data."""


Callback = Callable[[Progress], None]
Report = Callable[[Level, Level, Tensor, Prediction], None]


def sample(
    predictor: Predictor,
    x_T: Tensor | Sequence[int],
    sampler: Sampler = DPMSolver(),
    steps: Steps | None = None,
    *,
    start: float = 1.0,
    grid: Grid | None = None,
    seed: Seed = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    """Draw data by following a predictor from noise.

    Arguments:
        predictor: The model, bound to its batch, guided or not.
        x_T: The shape of what is drawn, batch included: (B, \\*) or, in a ragged space, (N, F). Or the
            state at the first time itself, in the predictor's space, with the deviation
            sqrt(alpha² + sigma²) of that time where it is noise.
        sampler: The rule of one step.
        steps: How many, laid by the grid, the sampler's own number if None; or the times themselves.
            Falling ones lead to the data, rising ones encode data as noise with a deterministic sampler.
        start: The first time of the grid, in (0, 1].
        grid: Where the times lie, see :mod:`anydiff.samplers.grids`; the sampler's own if None.
        seed: An int makes the draw repeatable; a list with one per item makes each item's draw
            independent of the batch it is in. A generator, or a list of them, is taken as it is.
        callback: Called after each step with a :class:`Progress`.
        progress: Show a bar.

    Returns:
        The state at the last time: x0 where that is 0.

    Raises:
        ValueError: If the number of steps, the times or the start lie outside their range, if the
            sampler cannot run on them, or if there is not one seed for each item.
    """
    levels = plan(predictor.schedule, steps, sampler, grid, start)
    like = x_T if isinstance(x_T, Tensor) else _blank(predictor, x_T)
    generator = generators(seed, like.device)
    x = x_T if like is x_T else first_noise(levels[0], like, predictor, generator)
    with watched(len(levels) - 1, callback, progress) as report:
        return follow(predictor, x, sampler, levels, generator, report)


def plan(
    schedule: Schedule,
    steps: Steps | None = None,
    sampler: Sampler = DPMSolver(),
    grid: Grid | None = None,
    start: float = 1.0,
) -> list[Level]:
    """The levels of a run, as floats, steps + 1 of them.

    Arguments:
        schedule: Of the model.
        steps: How many, laid by the grid from the start to 0, the sampler's own number if None; or the
            times themselves, falling (sampling) or rising (encoding).
        sampler: Prepares the levels, if it can run on them.
        grid: Where the times lie; the sampler's own if None.
        start: The first time of a grid, in (0, 1].

    Raises:
        ValueError: If the number of steps, the times or the start lie outside their range, or if the
            sampler cannot run on them.
    """
    steps = sampler.steps if steps is None else steps
    check_range("(0, 1]", start=start)
    if isinstance(steps, int):
        check_range("[1, inf)", steps=steps)
        times = (grid or sampler.grid)(schedule, steps, start)
    elif start != 1:
        raise ValueError(f"the start is {start}, and the times are given too; begin them there.")
    else:
        times = torch.as_tensor(steps, dtype=torch.float64).cpu()
        moves = times.diff() if times.ndim == 1 else times.new_zeros(1)
        one_way = len(moves) and ((moves < 0).all() or (moves > 0).all())
        if not one_way or not (times.min() >= 0 and times.max() <= 1):
            raise ValueError(
                f"the times are {times.tolist()}; give two or more in [0, 1] that fall, or rise."
            )

    levels = schedule.levels(times)
    if levels[-1].t == 0:  # the data, also where the schedule's own end keeps some noise
        levels[-1] = replace(levels[-1], alpha=1.0, sigma=0.0)
    return list(sampler.prepare(levels))


@torch.no_grad()
def follow(
    predictor: Predictor,
    x: Tensor,
    sampler: Sampler,
    levels: Sequence[Level],
    generator: Random = None,
    report: Report | None = None,
) -> Tensor:
    """The loop: from x at the first level, one step after the other, to the last.

    Arguments:
        predictor: The model, bound to its batch.
        x: The state at the first level.
        sampler: The rule of one step.
        levels: As :func:`plan` gives them, or a part of them.
        generator: Where noise comes from.
        report: Called after each step, see :func:`watched`.
    """
    past: Past = ()
    with evaluating(predictor):
        for t, s in pairwise(levels):
            x, p = sampler.step(predictor, x, t, s, past, generator)
            past = (*past, p)[-sampler.past :] if sampler.past else ()
            if report is not None:
                report(t, s, x, p)
    return x


@contextmanager
def watched(steps: int, callback: Callback | None, progress: bool) -> Iterator[Report]:
    """What to call after each of so many steps, for a callback and a progress bar.

    Arguments:
        steps: How many there are in all.
        callback: Given a :class:`Progress` after each.
        progress: Show a bar.
    """
    bar: Any = nullcontext()
    if progress:
        from tqdm.auto import tqdm

        bar = tqdm(total=steps, desc="sampling", unit="step", leave=False)
    done = 0

    def report(t: Level, s: Level, x_s: Tensor, p: Prediction) -> None:
        nonlocal done
        done += 1
        if callback is not None:
            callback(Progress(done, steps, t.t, s.t, x_s, p))
        if progress:
            bar.update()

    with bar:
        yield report


@contextmanager
def evaluating(predictor: Predictor) -> Iterator[None]:
    """The predictor's models in eval mode, without dropout, and back as they were."""
    training = [m for model in predictor.models for m in model.modules() if m.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def first_noise(at: Level, like: Tensor, predictor: Predictor, generator: Random) -> Tensor:
    """A state at a level that holds nothing of the data, shaped like `like`.

    Arguments:
        at: The level.
        like: Gives the shape, dtype and device.
        predictor: Has the space.
        generator: Where noise comes from.
    """
    return predictor.space.noise(like, generator) * math.hypot(at.alpha, at.sigma)


def _blank(predictor: Predictor, shape: Sequence[int]) -> Tensor:
    """An empty tensor of a shape, of the dtype and on the device of the predictor's models."""
    parameters = (p for model in predictor.models for p in model.parameters())
    like = next(parameters, torch.empty(0))
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
