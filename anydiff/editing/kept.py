"""A sampler that replaces the known part of the state after each step."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

from anydiff.checks import check_floating, frozen
from anydiff.predictions import Predictor, check_predictor
from anydiff.samplers import Grid, Past, Sampler, Stepped
from anydiff.samplers.sampler import Levels, falling
from anydiff.schedules import Level
from anydiff.spaces import Random, Space

__all__ = ["Kept", "back", "data", "finite"]


@frozen(sampler=Sampler, until="[0, 1]")
class Kept(Sampler):
    """A sampler that replaces a part of the state by known data, noised to the level, after each step.

    Arguments:
        sampler: The sampler that makes the steps.
        x0: The known data, in the space; 0 where unknown.
        part: The projection onto the known part.
        until: The time down to which the part is replaced.

    Raises:
        ValueError: If the sampler is none, or if the time lies outside [0, 1].
    """

    sampler: Sampler
    x0: Tensor
    part: Callable[[Tensor], Tensor]
    until: float = 0.0

    @property
    def grid(self) -> Grid:  # type: ignore[override]
        return self.sampler.grid

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.sampler.steps

    @property
    def past(self) -> int:
        return self.sampler.past

    def prepare(self, levels: Levels) -> Levels:
        return self.sampler.prepare(falling(self.sampler, levels))

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        x_s, p = self.sampler.step(predictor, x_t, t, s, past, generator)
        if s.t >= self.until:
            x_s = self.replaced(x_s, s, predictor.space, generator)
        return x_s, p

    def replaced(self, x: Tensor, at: Level, space: Space, generator: Random) -> Tensor:
        known = at.alpha * self.x0
        if at.sigma > 0:
            known = known + at.sigma * space.noise(x, generator)
        return x - self.part(x) + self.part(known)


def back(z: Tensor, s: Level, t: Level, space: Space, generator: Random) -> Tensor:
    """Noise a state from the level s up to the level t, by the forward process.

    Arguments:
        z: The state at s.
        s: The level of z, of floats.
        t: The level of the result, of floats, with more noise.
        space: The batch's space.
        generator: The source of noise.
    """
    ratio = t.alpha / s.alpha
    variance = t.sigma**2 - (ratio * s.sigma) ** 2
    return torch.add(ratio * z, space.noise(z, generator), alpha=sqrt(max(variance, 0.0)))


def data(predictor: Predictor, **states: Tensor) -> Tensor:
    """Data that are given to an edit, checked and projected onto the predictor's space.

    Arguments:
        predictor: The model, bound to its batch.
        states: The data, by the name of the argument.

    Raises:
        ValueError: If the predictor is none, or if the data are integers or not finite.
    """
    check_predictor(predictor=predictor)
    ((name, x),) = states.items()
    check_floating(**states)
    return finite(name, predictor.space.project(x))


def finite(name: str, x: Tensor) -> Tensor:
    """A tensor without NaN and infinity, unchanged.

    Arguments:
        name: What error messages call it.
        x: The tensor.

    Raises:
        ValueError: If a number is not finite.
    """
    if not x.isfinite().all():
        raise ValueError(
            f"{name} holds NaN or infinity; impute takes NaN where a value is missing."
        )
    return x
