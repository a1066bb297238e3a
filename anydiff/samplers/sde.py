r"""The Euler–Maruyama method for the reverse SDE.

The reverse of the forward SDE :math:`dx = f x\, dt + g\, dw` is

.. math:: dx = \bigl(f x - g^2 \nabla \log p_t(x)\bigr) dt + g\, d\bar w,

where f and g are given by the schedule, and the score by the network.
"""

from __future__ import annotations

from math import sqrt

from torch import Tensor

from anydiff.checks import frozen
from anydiff.predictions import Predictor
from anydiff.samplers.sampler import Levels, Past, Sampler, Stepped, falling, gentle, with_signal
from anydiff.schedules import Level
from anydiff.spaces import Random

__all__ = ["EulerMaruyama"]


@frozen()
class EulerMaruyama(Sampler):
    r"""The Euler–Maruyama step of the reverse SDE.

    .. math::
        x_s = x_t + \bigl(f x_t - g^2 \nabla \log p_t(x_t)\bigr)(s - t) + g \sqrt{t - s}\; z

    The last step returns the predicted mean of the data, x0. Written in x0 and eps, the drift step is a
    predicted state at another pair of coefficients, so that a step takes two operations plus its noise.
    DDPM solves the same equation with the linear part integrated exactly; this plain method needs many
    steps where the schedule is steep. Its weak order is 1, that of the errors of mean and variance.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), eq. 6 and appendix E.
        https://arxiv.org/abs/2011.13456
    """

    def prepare(self, levels: Levels) -> Levels:
        return gentle(self, with_signal(self, falling(self, levels)))

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        p = predictor.predict(x_t, t)
        if s.sigma == 0:
            return p.x0, p

        h = t.t - s.t
        keep, g2 = 1 - h * t.drift, t.diffusion2
        x_s = p.at(keep * t.alpha, keep * t.sigma - h * g2 / t.sigma)
        if g2 > 0:
            x_s = x_s.add(predictor.space.noise(x_t, generator), alpha=sqrt(h * g2))
        return x_s, p
