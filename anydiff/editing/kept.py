"""A sampler after whose steps a part of the state is what it is known to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from torch import Tensor

from anydiff.predictions import Prediction, Predictor
from anydiff.samplers import Grid, Interval, Progress, Sampler
from anydiff.samplers.sampler import falling
from anydiff.schedules import Level, Schedule
from anydiff.spaces import Generators, Space

__all__ = ["Kept", "Report", "back", "check_floating", "noise_at"]


@dataclass(frozen=True)
class Kept(Sampler):
    """A sampler after whose steps a part of the state is replaced by what is known of it."""

    sampler: Sampler
    x0: Tensor
    part: Callable[[Tensor], Tensor]
    until: float = 0.0

    @property
    def grid(self) -> Grid:  # type: ignore[override]
        return self.sampler.grid

    @property
    def past(self) -> int:
        return self.sampler.past

    def between(self, schedule: Schedule, knots: Sequence[Level]) -> Tensor | None:
        return self.sampler.between(schedule, knots)

    def check(self, knots: Sequence[Level]) -> None:
        falling(self.sampler, knots)
        self.sampler.check(knots)

    def step(
        self,
        predictor: Predictor,
        x_t: Tensor,
        at: Interval,
        past: tuple[Prediction, ...] = (),
        generator: Generators = None,
    ) -> tuple[Tensor, Prediction]:
        x_s, p = self.sampler.step(predictor, x_t, at, past, generator)
        if at.s.t >= self.until:
            x_s = self.replaced(x_s, at.s, predictor.space, generator)
        return x_s, p

    def replaced(self, x: Tensor, at: Level, space: Space, generator: Generators) -> Tensor:
        known = at.alpha * self.x0
        if at.sigma > 0:
            known = known + at.sigma * space.noise(x, generator)
        return x - self.part(x) + self.part(known)


def back(z: Tensor, s: Level, t: Level, space: Space, generator: Generators) -> Tensor:
    """From the level s to the noisier one t, by the forward process."""
    ratio = t.alpha / s.alpha
    variance = t.sigma**2 - (ratio * s.sigma) ** 2
    return ratio * z + sqrt(max(variance, 0.0)) * space.noise(z, generator)


def check_floating(x: Tensor) -> None:
    """Raise where data are of no kind that noise can be added to."""
    if not x.is_floating_point():
        raise ValueError(
            f"x is of {x.dtype}; give floating numbers, scaled as the model knows them."
        )


def noise_at(at: Level, x: Tensor, space: Space, generator: Generators) -> Tensor:
    """A state at the level `at` that knows nothing of x but its shape."""
    return sqrt(at.alpha**2 + at.sigma**2) * space.noise(x, generator)


class Report:
    """Progress and callback of a run of many short ones."""

    def __init__(
        self, callback: Callable[[Progress], None] | None, progress: bool, steps: int
    ) -> None:
        self.callback, self.steps, self.step = callback, steps, 0
        self.progress = progress
        self.bar: Any = None

    def __enter__(self) -> Report:
        if self.progress:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=self.steps, desc="sampling", unit="step", leave=False)
        return self

    def __call__(self, p: Progress) -> None:
        self.step += 1
        if self.callback is not None:
            self.callback(p._replace(step=self.step, steps=self.steps))
        if self.bar is not None:
            self.bar.update()

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
