r"""Langevin dynamics: steps that stay at one noise level and draw from it.

.. math:: x \leftarrow x + \tfrac{c}{2} \sigma^2\, \nabla \log p_t(x) + \sqrt{c}\, \sigma\, z

A step is measured in the level's own variance, c of it: then it means the same at every level and for
every schedule (in :math:`x / \alpha` the formula is unchanged), and the variance it leaves too high
dies out with the noise. Nothing is averaged over a batch: no item sees another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor

from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.grids import Grid, LogSNR
from anydiff.samplers.sampler import Past, Sampler, Stepped, falling, with_signal
from anydiff.samplers.sde import EulerMaruyama
from anydiff.schedules import Level
from anydiff.spaces import Random

__all__ = ["AnnealedLangevin", "Langevin", "PredictorCorrector"]


@dataclass(frozen=True)
class Langevin:
    r"""Langevin steps at one level, as a corrector.

    .. math::
        \epsilon = 2 \left(r\, \frac{\lVert z \rVert}{\lVert \nabla \log p_t(x) \rVert}\right)^2,
        \qquad x \leftarrow x + \epsilon\, \nabla \log p_t(x) + \sqrt{2 \epsilon}\, z

    Where the published algorithm averages both norms over the batch, an item here takes what they are
    expected to be, :math:`\sqrt{\dim}` and :math:`\sqrt{\dim} / \sigma`, so that
    :math:`\epsilon = 2 r^2 \sigma^2`; or, measured, its own score's. The factor
    :math:`1 - \beta_i` of algorithm 5, which tends to 1 with the number of steps, is left out.

    Arguments:
        snr: r, the ratio of what the score moves to what the noise does.
        steps: How many.
        measured: Divide by the norm of each item's own score. That is for items of many dimensions:
            of few, the score passes through 0 and the step is anything.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), algorithms 4 and 5.
        https://arxiv.org/abs/2011.13456
    """

    snr: float = 0.16
    steps: int = 1
    measured: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.snr < 1:
            raise ValueError(
                f"snr is {self.snr}; give a signal-to-noise ratio between 0 and 1, 0.16 is the "
                "published one."
            )
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; give 0 (no correction) or more.")

    def correct(
        self, predictor: Predictor, x: Tensor, at: Level, generator: Random = None
    ) -> Tensor:
        """x after the steps at the level `at`, of floats; sigma has to be above 0."""
        for _ in range(self.steps):
            p = predictor.predict(x, at)
            x = (
                self._measured(predictor, p, generator)
                if self.measured
                else _step(predictor, p, 4 * self.snr**2, generator)
            )
        return x

    def _measured(self, predictor: Predictor, p: Prediction, generator: Random) -> Tensor:
        space, x = predictor.space, p.x_t
        squares = space.sum(p.eps.square())
        # c = 4 r² dim / |eps|²; an item of no dimension has no eps and does not move
        ratio = space.dim(x) / squares.clamp(min=torch.finfo(x.dtype).tiny)
        length = space.expand((2 * self.snr * p.sigma) * ratio.sqrt(), x)
        move = p.eps * (length.square() / (-2 * p.sigma))
        return x + move + length * space.noise(x, generator)


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    r"""Steps of any sampler, each followed by Langevin steps at the level that it reached.

    The step onto the data is not corrected. With a fixed ratio r the corrector leaves the variance
    too high by at most :math:`r^2 \sigma_t^2`, which dies out with the noise, but more slowly than an
    error of order 1: refined without end, the order is a half.

    Arguments:
        predictor: The sampler that goes from level to level; the grid is its own.
        corrector_steps: Langevin steps at each level, one network call each.
        snr: Their signal-to-noise ratio, see :class:`Langevin`.
        measured: Whether it uses the norm of each item's own score.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), algorithm 1 and section 4.2.
        https://arxiv.org/abs/2011.13456
    """

    predictor: Sampler = field(default_factory=EulerMaruyama)
    corrector_steps: int = 1
    snr: float = 0.16
    measured: bool = False
    convergence = 0.5

    def __post_init__(self) -> None:
        self.corrector  # noqa: B018  (its arguments are checked)

    @property
    def corrector(self) -> Langevin:
        return Langevin(self.snr, self.corrector_steps, self.measured)

    @property
    def grid(self) -> Grid:  # type: ignore[override]
        return self.predictor.grid

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.predictor.steps

    @property
    def past(self) -> int:
        return self.predictor.past

    def check(self, levels: Sequence[Level]) -> None:
        falling(self, levels)
        self.predictor.check(levels)

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        x_s, p = self.predictor.step(predictor, x_t, t, s, past, generator)
        if s.sigma > 0:
            x_s = self.corrector.correct(predictor, x_s, s, generator)
        return x_s, p


@dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    r"""Langevin dynamics at one level after the other, of ever less noise.

    With :math:`y = x / \alpha` and :math:`\bar\sigma = \sigma / \alpha`, the noise levels of NCSN,

    .. math::
        y \leftarrow y + \tfrac12 \epsilon_i \nabla \log p_i(y) + \sqrt{\epsilon_i}\, z, \qquad
        \epsilon_i = \epsilon\, \bar\sigma_i^2 / \bar\sigma_L^2

    `steps_per_level` times at each level i; y goes on to the next as it is. After the last the mean of
    x0 is taken, as is best for the eye; the paper leaves the last level's noise. A run of n levels
    is n `steps_per_level` + 1 network calls.

    Arguments:
        steps_per_level: How long each level is sampled.
        step_size: :math:`\epsilon / \bar\sigma_L^2`, the step in units of a level's variance; above 4
            it diverges. 0.2 is the published one, 2e-5 with :math:`\bar\sigma_L = 0.01`.

    References:
        Generative Modeling by Estimating Gradients of the Data Distribution (Song & Ermon, 2019),
        algorithm 1. https://arxiv.org/abs/1907.05600
        Adversarial Score Matching and Improved Sampling (Jolicoeur-Martineau et al., 2021), section 4,
        of the last step. https://arxiv.org/abs/2009.05475
    """

    steps_per_level: int = 100
    step_size: float = 0.2
    # a geometric sequence, which ends at the published level 0.01
    grid = LogSNR(power=1.0, logsnr_max=9.21)

    def __post_init__(self) -> None:
        if self.steps_per_level < 1 or not 0 < self.step_size < 4:
            raise ValueError(
                f"steps_per_level is {self.steps_per_level} and step_size {self.step_size}; give at "
                "least 1 step, of a size between 0 and 4 in units of a level's variance."
            )

    def check(self, levels: Sequence[Level]) -> None:
        falling(self, levels)
        with_signal(self, levels)

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        x = x_t
        for _ in range(self.steps_per_level):
            p = predictor.predict(x, t)
            x = _step(predictor, p, self.step_size, generator)
        if s.sigma == 0:
            p = predictor.predict(x, t)
            return p.x0, p
        return x if s.alpha == t.alpha else x * (s.alpha / t.alpha), p


def _step(predictor: Predictor, p: Prediction, c: float, generator: Random) -> Tensor:
    """One Langevin step, c in units of the level's variance."""
    noise = predictor.space.noise(p.x_t, generator)
    return p.at(p.alpha, (1 - c / 2) * p.sigma).add(noise, alpha=sqrt(c) * p.sigma)
