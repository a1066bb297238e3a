r"""The interface of a sampler: a rule for one step from one noise level to the next.

A sampler is a frozen object whose ``step`` goes from x_t at a level t to x_s at a level s. Both levels
are Python floats, so that no step has to read from the device. Samplers hold no state: a multistep method
gets the predictions of the previous steps as an argument.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.grids import Grid, Uniform
from anydiff.schedules import Level
from anydiff.spaces import Random

__all__ = ["Levels", "Past", "Sampler", "Stepped", "falling", "gentle", "with_signal"]

Levels = Sequence[Level]
"""The levels of a run: n + 1 for n steps."""

Past = tuple[Prediction, ...]
"""The predictions of the previous steps, the latest last."""

Stepped = tuple[Tensor, Prediction]
"""x_s, and the prediction from which it was computed."""


class Sampler(ABC):
    """The base class of samplers: a rule for one step from one noise level to the next."""

    grid: Grid = Uniform()
    """The default grid of a run."""

    steps: int = 50
    """The default number of steps of a run."""

    @property
    def convergence(self) -> float:
        """The order: on evenly refined grids the error falls at least like steps ** -convergence."""
        return 1.0

    @property
    def past(self) -> int:
        """The number of earlier predictions that a step uses."""
        return 0

    @abstractmethod
    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        """One step: x_s, and the prediction from which it was computed.

        Arguments:
            predictor: The model, bound to its batch.
            x_t: The state at the level t.
            t: The level at which the step starts, of floats.
            s: The level at which it ends, of floats.
            past: The predictions of the previous steps, the latest last; fewer in the first steps.
            generator: The source of noise.
        """

    def prepare(self, levels: Levels) -> Levels:
        """Check the levels of a run, and add to them what this sampler needs; most samplers add nothing.

        Arguments:
            levels: The levels of the run.

        Raises:
            ValueError: If the sampler cannot run on these levels. The message states why, and what to do.
        """
        return levels


def falling(sampler: Sampler, levels: Levels) -> Levels:
    """Return the levels if their times fall, as samplers that add noise require.

    Arguments:
        sampler: The sampler, for the error message.
        levels: The levels of the run.

    Raises:
        ValueError: If the times rise.
    """
    if levels[0].t < levels[-1].t:
        raise ValueError(
            f"the times rise, and {sampler} adds noise; encode with DDIM(), which adds none."
        )
    return levels


def with_signal(sampler: Sampler, levels: Levels) -> Levels:
    """Return the levels if none is pure noise, as samplers that divide by alpha require.

    Arguments:
        sampler: The sampler, for the error message.
        levels: The levels of the run.

    Raises:
        ValueError: If alpha is 0 at a level.
    """
    if any(level.alpha == 0 for level in levels):
        raise ValueError(
            f"{sampler} has no drift where alpha is 0; begin at steps=[0.999, ...], or use DDPM()."
        )
    return levels


def gentle(sampler: Sampler, levels: Levels) -> Levels:
    """Return the levels if Euler steps along the rates of alpha and sigma do not overshoot between them.

    Arguments:
        sampler: The sampler, for the error message.
        levels: The levels of the run.

    Raises:
        ValueError: If a step is too long.
    """
    for t, s in pairwise(levels):
        h = s.t - t.t
        ahead = math.hypot(t.alpha + h * t.rates[0], t.sigma + h * t.rates[1])
        largest = max(math.hypot(t.alpha, t.sigma), math.hypot(s.alpha, s.sigma))
        if s.sigma > 0 and not ahead < 3 * largest:
            raise ValueError(
                f"the step from t = {t.t:.3g} to {s.t:.3g} is too long for {sampler}; begin at "
                "steps=[0.99, ...], take more steps, or use DDIM() or DDPM()."
            )
    return levels
