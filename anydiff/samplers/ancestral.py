r"""The samplers of the discrete chain: ancestral steps, and the family that DDIM makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.base import Interval, Sampler, falling
from anydiff.schedules import Level
from anydiff.spaces import Generators

__all__ = ["DDIM", "DDPM"]


@dataclass(frozen=True)
class DDIM(Sampler):
    r"""Deterministic or stochastic DDIM step.

    .. math::
        \tau = \eta^2 \left(1 - \frac{\alpha_t^2 \sigma_s^2}{\alpha_s^2 \sigma_t^2}\right), \qquad
        x_s = \alpha_s \hat x_0 + \sigma_s \sqrt{1 - \tau}\, \hat\epsilon + \sigma_s \sqrt{\tau}\, z

    With rising times and eta = 0 it encodes data as noise.

    Arguments:
        eta: Stochasticity in [0, 1]; 0 is the probability-flow ODE, 1 is DDPM.

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), eq. 12.
        https://arxiv.org/abs/2010.02502
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta is {self.eta}; give a number from 0 (deterministic) to 1 (DDPM)."
            )

    def check(self, knots: Sequence[Level]) -> None:
        if self.eta > 0:
            falling(self, knots)

    def step(
        self,
        predictor: Predictor,
        x_t: Tensor,
        at: Interval,
        past: tuple[Prediction, ...] = (),
        generator: Generators = None,
    ) -> tuple[Tensor, Prediction]:
        t, s = at.t, at.s
        p = predictor.predict(x_t, t)

        tau = self.eta**2 * (1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2) if self.eta else 0
        x_s = p.at(s.alpha, s.sigma * sqrt(1 - tau))
        if tau > 0 and s.sigma > 0:
            x_s = x_s.add(predictor.space.noise(x_t, generator), alpha=s.sigma * sqrt(tau))
        return x_s, p


@dataclass(frozen=True)
class DDPM(Sampler):
    r"""Ancestral sampling: a draw from q(x_s | x_t, x0) at the predicted x0.

    .. math::
        \alpha_{ts} = \alpha_t / \alpha_s, \quad
        \sigma_{ts}^2 = \sigma_t^2 - \alpha_{ts}^2 \sigma_s^2, \quad
        x_s = \alpha_s \hat x_0 + \frac{\alpha_{ts} \sigma_s^2}{\sigma_t} \hat\epsilon + \nu z

    Arguments:
        variance: ``"small"`` is the posterior's, :math:`\nu = \sigma_{ts} \sigma_s / \sigma_t`, right
            for data at a point; ``"large"`` is the forward step's, :math:`\nu = \sigma_{ts}`, right
            for data that are standard normal.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), eq. 7 and section 3.2.
        https://arxiv.org/abs/2006.11239
    """

    variance: str = "small"

    def __post_init__(self) -> None:
        if self.variance not in ("small", "large"):
            raise ValueError(f"variance is {self.variance!r}; choose 'small' or 'large'.")

    def check(self, knots: Sequence[Level]) -> None:
        falling(self, knots)

    def step(
        self,
        predictor: Predictor,
        x_t: Tensor,
        at: Interval,
        past: tuple[Prediction, ...] = (),
        generator: Generators = None,
    ) -> tuple[Tensor, Prediction]:
        t, s = at.t, at.s
        p = predictor.predict(x_t, t)

        alpha_ts = t.alpha / s.alpha
        sigma_ts = sqrt(max(t.sigma**2 - alpha_ts**2 * s.sigma**2, 0.0))
        x_s = p.at(s.alpha, alpha_ts * s.sigma**2 / t.sigma)
        if s.sigma > 0:
            nu = sigma_ts * (s.sigma / t.sigma if self.variance == "small" else 1.0)
            x_s = x_s.add(predictor.space.noise(x_t, generator), alpha=nu)
        return x_s, p
