r"""Langevin dynamics: steps that sample the distribution at one noise level.

.. math:: x \leftarrow x + \tfrac{c}{2} \sigma^2\, \nabla \log p_t(x) + \sqrt{c}\, \sigma\, z

The step size c is in units of the level's noise variance. It then has the same effect at every level and
for every schedule (the formula is the same in :math:`x / \alpha`), and the excess variance that it causes
vanishes with the noise. Nothing is averaged over the batch, so that items are independent.
"""

from __future__ import annotations

from dataclasses import field
from math import sqrt

from torch import Tensor

from anydiff.checks import frozen
from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.grids import Grid, LogSNR
from anydiff.samplers.sampler import Levels, Past, Sampler, Stepped, falling, with_signal
from anydiff.samplers.sde import EulerMaruyama
from anydiff.schedules import Level
from anydiff.spaces import Random

__all__ = ["AnnealedLangevin", "PredictorCorrector"]


@frozen(predictor=Sampler, snr="(0, 1)", corrector_steps="[0, inf)")
class PredictorCorrector(Sampler):
    r"""Predictor-corrector sampling: each step of a sampler is followed by Langevin steps.

    .. math::
        \epsilon = 2 \left(r\, \frac{\lVert z \rVert}{\lVert \nabla \log p_t(x) \rVert}\right)^2,
        \qquad x \leftarrow x + \epsilon\, \nabla \log p_t(x) + \sqrt{2 \epsilon}\, z

    The published algorithm averages both norms over the batch. Here they are replaced by their expected
    values for an item, :math:`\sqrt{\dim}` and :math:`\sqrt{\dim} / \sigma`, so that
    :math:`\epsilon = 2 r^2 \sigma^2`. The factor :math:`1 - \beta_i` of algorithm 5, which tends to 1
    with the number of steps, is left out.

    The step to the data is not corrected. With a fixed ratio r the corrector leaves the variance too high
    by at most :math:`r^2 \sigma_t^2`. This vanishes with the noise, but more slowly than an error of
    order 1: in the limit of many steps the order is a half.

    Arguments:
        predictor: The sampler for the steps between levels, which also gives the default grid and number
            of steps.
        corrector_steps: The number of Langevin steps at each level, of one network call each.
        snr: r, the signal-to-noise ratio of a corrector step: the norm of its score term relative to
            that of its noise, in (0, 1). 0.16 is the published value.

    Raises:
        ValueError: If an argument lies outside its range.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), algorithms 1, 4 and 5 and
        section 4.2. https://arxiv.org/abs/2011.13456
    """

    predictor: Sampler = field(default_factory=EulerMaruyama)
    corrector_steps: int = 1
    snr: float = 0.16
    convergence = 0.5

    @property
    def grid(self) -> Grid:  # type: ignore[override]
        return self.predictor.grid

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.predictor.steps

    @property
    def past(self) -> int:
        return self.predictor.past

    def prepare(self, levels: Levels) -> Levels:
        return self.predictor.prepare(falling(self, levels))

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        x_s, p = self.predictor.step(predictor, x_t, t, s, past, generator)
        for _ in range(self.corrector_steps if s.sigma > 0 else 0):
            x_s = _step(predictor, predictor.predict(x_s, s), 4 * self.snr**2, generator)
        return x_s, p


@frozen(steps_per_level="[1, inf)", step_size="(0, 4)")
class AnnealedLangevin(Sampler):
    r"""Annealed Langevin dynamics: Langevin steps at a sequence of falling noise levels.

    With :math:`y = x / \alpha` and :math:`\bar\sigma = \sigma / \alpha`, the noise levels of NCSN,

    .. math::
        y \leftarrow y + \tfrac12 \epsilon_i \nabla \log p_i(y) + \sqrt{\epsilon_i}\, z, \qquad
        \epsilon_i = \epsilon\, \bar\sigma_i^2 / \bar\sigma_L^2

    is repeated `steps_per_level` times at each level i; y is passed on unchanged to the next level. The
    result is the predicted mean of x0 after the last level, which improves sample quality; the original
    algorithm keeps the noise of the last level. A run of n levels takes n `steps_per_level` + 1 network
    calls.

    Arguments:
        steps_per_level: The number of Langevin steps at each level.
        step_size: :math:`\epsilon / \bar\sigma_L^2`, the step size in units of the level's variance,
            below 4, where it would diverge. 0.2 is the published value: 2e-5 with
            :math:`\bar\sigma_L = 0.01`.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Generative Modeling by Estimating Gradients of the Data Distribution (Song & Ermon, 2019),
        algorithm 1. https://arxiv.org/abs/1907.05600
        Adversarial Score Matching and Improved Sampling (Jolicoeur-Martineau et al., 2021), section 4,
        on the last step. https://arxiv.org/abs/2009.05475
    """

    steps_per_level: int = 100
    step_size: float = 0.2
    # a geometric sequence, which ends at the published level 0.01
    grid = LogSNR(power=1.0, logsnr_max=9.21)

    def prepare(self, levels: Levels) -> Levels:
        return with_signal(self, falling(self, levels))

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
    """One Langevin step with c in units of the level's noise variance."""
    noise = predictor.space.noise(p.x_t, generator)
    return p.at(p.alpha, (1 - c / 2) * p.sigma).add(noise, alpha=sqrt(c) * p.sigma)
