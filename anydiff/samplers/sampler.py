r"""One loop, and what a sampler is.

A sampler is a frozen object whose ``step`` goes from x_t to x_s for one pair of times. The loop plans
all times and noise levels once, in float64, as Python floats: no step reads anything back from the
device. A run towards the data lands on the data itself, where alpha is 1 and sigma is 0. Samplers
hold no state: a multistep method is handed the predictions of the steps before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.grids import Grid, Uniform
from anydiff.schedules import Level, Schedule
from anydiff.spaces import Generators

__all__ = ["Interval", "Progress", "Sampler", "Steps", "evaluating", "follow", "plan"]

Steps = int | Sequence[float] | Tensor


class Interval(NamedTuple):
    """One step: from the level t to the level s."""

    t: Level
    s: Level
    between: tuple[Level, ...] = ()
    """What else the sampler asked for with :meth:`Sampler.between`."""


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
    """What the predictor said at t; its x0 is the current guess of the data."""


class Sampler:
    """A rule that goes from one noise level to the next."""

    order: float = 1.0
    """The order of the method, as its paper counts it."""

    grid: Grid = Uniform()
    """Where a run's times lie if nothing else is said."""

    @property
    def convergence(self) -> float:
        """The error falls as steps ** -convergence, or faster, on a grid that is refined evenly."""
        return self.order

    @property
    def past(self) -> int:
        """How many earlier predictions a step looks at."""
        return 0

    def step(
        self,
        predictor: Predictor,
        x_t: Tensor,
        at: Interval,
        past: tuple[Prediction, ...] = (),
        generator: Generators = None,
    ) -> tuple[Tensor, Prediction]:
        """x_s, and the prediction that led there.

        Arguments:
            x_t: The state at the level ``at.t``.
            at: The step's levels.
            past: The predictions of the steps before, the latest last; fewer in the first steps.
            generator: Where noise comes from.
        """
        raise NotImplementedError

    def between(self, schedule: Schedule, knots: Sequence[Level]) -> Tensor | None:
        """Times that each step needs besides its two ends, (steps, n); None for none."""
        return None

    def check(self, knots: Sequence[Level]) -> None:
        """Raise a ValueError where the levels of a run are none that this sampler can work with."""


def plan(
    schedule: Schedule,
    steps: Steps,
    grid: Grid | None = None,
    sampler: Sampler | None = None,
    start: float = 1.0,
) -> list[Interval]:
    """The levels of a sampling run, as floats.

    Arguments:
        steps: How many, laid by the grid from the start to 0; or the times themselves, falling
            (sampling) or rising (encoding).
        grid: Where the times lie; the sampler's own if None.
        sampler: Asked for the times between, and whether it can work with the levels.
        start: The first time of a grid, in (0, 1].
    """
    if not 0 < start <= 1:
        raise ValueError(f"the start is {start}; give a time above 0, up to 1.")
    if isinstance(steps, int):
        if steps < 1:
            raise ValueError(f"steps is {steps}; take at least 1.")
        grid = grid or (Uniform() if sampler is None else sampler.grid)
        times = grid(schedule, steps) if start == 1 else grid(schedule, steps, start)
    elif start != 1:
        raise ValueError(f"the start is {start}, and the times are given too; begin them there.")
    else:
        times = torch.as_tensor(steps, dtype=torch.float64).cpu()
        moves = times.diff() if times.ndim == 1 else times.new_zeros(1)
        if not (len(moves) and ((moves < 0).all() or (moves > 0).all())) or not (
            times.min() >= 0 and times.max() <= 1
        ):
            raise ValueError(
                f"the times are {times.tolist()}; give two or more between 0 and 1 that fall, or rise."
            )

    knots = schedule.levels(times)
    if knots[-1].t == 0:  # the data, also where the schedule's own end keeps some noise
        knots[-1] = replace(knots[-1], alpha=1.0, sigma=0.0)
    extra: list[tuple[Level, ...]] = [()] * (len(knots) - 1)
    if sampler is not None:
        sampler.check(knots)
        between = sampler.between(schedule, knots)
        if between is not None:
            levels = iter(schedule.levels(between.flatten()))
            extra = [tuple(itertools.islice(levels, between.shape[1])) for _ in between]
    return [
        Interval(*pair, more) for pair, more in zip(itertools.pairwise(knots), extra, strict=True)
    ]


@torch.no_grad()
def follow(
    predictor: Predictor,
    x_T: Tensor,
    sampler: Sampler,
    intervals: Sequence[Interval],
    generator: Generators = None,
    callback: Callable[[Progress], None] | None = None,
    progress: bool = False,
) -> Tensor:
    """The loop: one step after the other of a run that :func:`plan` has laid out."""
    bar = None
    if progress:
        from tqdm.auto import tqdm

        bar = tqdm(total=len(intervals), desc="sampling", unit="step", leave=False)
    x = x_T
    past: tuple[Prediction, ...] = ()
    with evaluating(predictor):
        for k, at in enumerate(intervals, start=1):
            x, p = sampler.step(predictor, x, at, past, generator)
            past = (*past, p)[-sampler.past :] if sampler.past else ()
            if callback is not None:
                callback(Progress(k, len(intervals), at.t.t, at.s.t, x, p))  # type: ignore[arg-type]
            if bar is not None:
                bar.update()
    if bar is not None:
        bar.close()
    return x


@contextmanager
def evaluating(predictor: Predictor) -> Iterator[None]:
    """The predictor's models in eval mode, without dropout, and back as they were."""
    models = getattr(predictor, "models", ())  # a predictor of one's own may have none
    training = [m for model in models for m in model.modules() if m.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def falling(sampler: Sampler, knots: Sequence[Level]) -> None:
    """Raise where the times of a run rise: for samplers that add noise."""
    if knots[0].t < knots[-1].t:
        raise ValueError(
            f"the times rise, and {sampler} adds noise; encode with a deterministic sampler, DDIM()."
        )


def gentle(sampler: Sampler, knots: Sequence[Level]) -> None:
    """Raise where a step along the rates of alpha and sigma leaves what a state can be."""
    for t, s in itertools.pairwise(knots):
        h = s.t - t.t
        ahead = math.hypot(t.alpha + h * t.rates[0], t.sigma + h * t.rates[1])
        if s.sigma > 0 and not ahead < 3 * max(
            math.hypot(t.alpha, t.sigma), math.hypot(s.alpha, s.sigma)
        ):
            raise ValueError(
                f"from t = {t.t:.3g}, where alpha changes at a rate of {t.rates[0]:.3g} and sigma of "
                f"{t.rates[1]:.3g}, a step to {s.t:.3g} is too long for {sampler}; begin later, with "
                "steps=[0.99, ...], take more steps, or use DDIM() or DDPM()."
            )
