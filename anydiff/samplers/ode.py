r"""One-step solvers of the probability-flow ODE.

.. math::
    \frac{dx}{dt} = \alpha' \hat x_0 + \sigma' \hat\epsilon, \qquad\text{or}\qquad
    \frac{d(x / \alpha)}{d(\sigma / \alpha)} = \hat\epsilon

The first form is the velocity of flow matching, in t. The second uses the noise-to-signal ratio as its
variable and does not depend on how the schedule varies with t: in this form Euler's step is DDIM. With
alpha = 1 it is the form of Karras et al.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite, log, sqrt

import torch
from torch import Tensor

from anydiff.checks import frozen
from anydiff.predictions import Predictor
from anydiff.samplers.grids import KarrasGrid
from anydiff.samplers.sampler import Levels, Past, Sampler, Stepped, falling, gentle
from anydiff.schedules import Level
from anydiff.spaces import Random

__all__ = ["Euler", "Heun"]


@frozen()
class Euler(Sampler):
    r"""Euler's explicit step in t, with :math:`h = s - t`.

    .. math:: x_s = x_t + h\, (\alpha_t' \hat x_0 + \sigma_t' \hat\epsilon)

    The step to the data returns :math:`\hat x_0`. On a straight path, :class:`~anydiff.schedules.Flow`,
    the method is the same as DDIM.

    References:
        Flow Matching for Generative Modeling (Lipman et al., 2023), section 5.
        https://arxiv.org/abs/2210.02747
    """

    def prepare(self, levels: Levels) -> Levels:
        for level in levels[:-1]:
            if not all(isfinite(rate) for rate in level.rates):
                raise ValueError(
                    f"the rates are {level.rates} at t = {level.t:.3g}; start elsewhere, or use DDIM()."
                )
        return gentle(self, levels)

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        p = predictor.predict(x_t, t)
        if s.sigma == 0:
            return p.at(s.alpha, s.sigma), p
        h, (alpha_rate, sigma_rate) = s.t - t.t, t.rates
        return p.at(t.alpha + h * alpha_rate, t.sigma + h * sigma_rate), p


@frozen(churn="[0, inf)", s_min="[0, inf)", s_max="[s_min, inf]", s_noise="(0, inf)")
class Heun(Sampler):
    r"""Heun's step in :math:`\bar\sigma = \sigma / \alpha`: the samplers of Karras et al.

    .. math::
        \frac{x_s}{\alpha_s} = \frac{x_t}{\alpha_t}
            + \frac{\bar\sigma_s - \bar\sigma_t}{2}\, \bigl(\hat\epsilon(x_t) + \hat\epsilon(x_s')\bigr)

    where :math:`x_s'` is the result of a DDIM step: two network calls. The step to the data and a step
    from pure noise are DDIM steps, of one call. With churn, noise is added first, up to a higher level,

    .. math::
        \bar\sigma_{\hat t} = (1 + \gamma)\, \bar\sigma_t, \qquad
        \frac{x_{\hat t}}{\alpha_{\hat t}} = \frac{x_t}{\alpha_t}
            + S_{noise} \sqrt{\bar\sigma_{\hat t}^2 - \bar\sigma_t^2}\, z

    with :math:`\gamma = \min(S_{churn} / N, \sqrt 2 - 1)` for N steps. The higher level never exceeds the
    noisy end of the schedule, beyond which the network has not been trained: a first step from t = 1 adds
    no noise.

    Arguments:
        churn: The total amount of noise that a run adds; 0 is deterministic. The paper uses 30 to 80.
        s_min, s_max: The range of noise-to-signal ratios in which noise is added.
        s_noise: The standard deviation of the added noise; slightly above 1 compensates for detail that
            the network removes.

    Raises:
        ValueError: If an argument lies outside its range.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
        algorithms 1 and 2. https://arxiv.org/abs/2206.00364
    """

    churn: float = 0.0
    s_min: float = 0.0
    s_max: float = inf
    s_noise: float = 1.0
    convergence = 2.0
    grid = KarrasGrid()

    def prepare(self, levels: Levels) -> Levels:
        if self.churn == 0:
            return levels
        factor = 1 + min(self.churn / (len(falling(self, levels)) - 1), sqrt(2) - 1)
        logsnrs = []
        for t in levels:
            ratio = t.noise_to_signal
            churned = self.s_min <= ratio <= self.s_max and 0 < ratio < inf
            logsnrs.append(-2 * log(factor * ratio) if churned else inf)
        schedule = levels[0].schedule
        hats = schedule.levels(schedule.time(torch.tensor(logsnrs, dtype=torch.float64)))
        pairs = zip(levels, hats, strict=True)
        return [replace(t, raised=hat) if hat.t > t.t else t for t, hat in pairs]

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        if (hat := t.raised) is not None:
            added = self.s_noise * sqrt(hat.noise_to_signal**2 - t.noise_to_signal**2)
            z = predictor.space.noise(x_t, generator)
            x_t, t = (hat.alpha / t.alpha * x_t).add_(z, alpha=hat.alpha * added), hat
        p = predictor.predict(x_t, t)
        x_s = p.at(s.alpha, s.sigma)
        if s.sigma == 0 or t.alpha == 0 or s.alpha == 0:
            return x_s, p
        q = predictor.predict(x_s, s)
        half = s.alpha * (s.noise_to_signal - t.noise_to_signal) / 2
        return p.at(s.alpha, s.sigma - half) + q.at(0.0, half), p
