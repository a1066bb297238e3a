r"""What a sampler is: a rule that goes from one noise level to the next.

A sampler is a frozen object whose ``step`` goes from x_t at a level t to x_s at a level s, both of Python
floats: no step reads anything back from the device. Samplers hold no state: a multistep method is handed
the predictions of the steps before.
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
"""Of a run: of n steps, n + 1."""

Past = tuple[Prediction, ...]
"""The predictions of the steps before, the latest last."""

Stepped = tuple[Tensor, Prediction]
"""x_s, and the prediction that led there."""


class Sampler(ABC):
    """A rule that goes from one noise level to the next."""

    grid: Grid = Uniform()
    """Where a run's times lie unless it is given a grid."""

    steps: int = 50
    """How many steps a run has unless it is given a number."""

    @property
    def convergence(self) -> float:
        """The error falls as steps ** -convergence, or faster, on a grid that is refined evenly."""
        return 1.0

    @property
    def past(self) -> int:
        """How many earlier predictions a step looks at."""
        return 0

    @abstractmethod
    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        """x_s, and the prediction that led there.

        Arguments:
            predictor: The model, bound to its batch.
            x_t: The state at the level t.
            t, s: The levels that the step leads from and to, of floats.
            past: The predictions of the steps before, the latest last; fewer in the first steps.
            generator: Where noise comes from.
        """

    def prepare(self, levels: Levels) -> Levels:
        """The levels of a run as this sampler needs them: as they are, for most.

        Raises:
            ValueError: If it cannot run on them. The message says why, and what to do.
        """
        return levels


def falling(sampler: Sampler, levels: Levels) -> Levels:
    """The levels, whose times have to fall: for samplers that add noise.

    Arguments:
        sampler: What errors are about.
        levels: Of a run.

    Raises:
        ValueError: If the sampler cannot run on them.
    """
    if levels[0].t < levels[-1].t:
        raise ValueError(
            f"the times rise, and {sampler} adds noise; encode with DDIM() or the like."
        )
    return levels


def with_signal(sampler: Sampler, levels: Levels) -> Levels:
    """The levels, none of which may be pure noise: for samplers that divide by alpha.

    Arguments:
        sampler: What errors are about.
        levels: Of a run.

    Raises:
        ValueError: If the sampler cannot run on them.
    """
    if any(level.alpha == 0 for level in levels):
        raise ValueError(
            f"{sampler} has no drift where alpha is 0; begin at steps=[0.999, ...], or use DDPM()."
        )
    return levels


def gentle(sampler: Sampler, levels: Levels) -> Levels:
    """The levels, from which steps along the rates of alpha and sigma may not go astray.

    Arguments:
        sampler: What errors are about.
        levels: Of a run.

    Raises:
        ValueError: If the sampler cannot run on them.
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
