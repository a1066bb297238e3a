r"""The samplers of the discrete chain: ancestral sampling (DDPM) and the DDIM family."""

from __future__ import annotations

from math import sqrt

from torch import Tensor

from anydiff.checks import check_choice, frozen
from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.optimal import OptimalVariance
from anydiff.samplers.sampler import Levels, Past, Sampler, Stepped, falling
from anydiff.samplers.variances import VARIANCES, reverse_log_variance
from anydiff.schedules import Level
from anydiff.spaces import Random, Space

__all__ = ["DDIM", "DDPM"]


@frozen(eta="[0, 1]", variance=OptimalVariance)
class DDIM(Sampler):
    r"""DDIM, deterministic or stochastic.

    .. math::
        \tau = \eta^2 \left(1 - \frac{\alpha_t^2 \sigma_s^2}{\alpha_s^2 \sigma_t^2}\right), \qquad
        x_s = \alpha_s \hat x_0 + \sigma_s \sqrt{1 - \tau}\, \hat\epsilon + \sigma_s \sqrt{\tau}\, z

    With rising times and eta = 0 it encodes data as noise. On a tabulated schedule, with every n-th row
    (:class:`Uniform`) or quadratically spaced rows (:class:`Quadratic`), it is FastDPM with
    :math:`\kappa = \eta`.

    Arguments:
        eta: Stochasticity in [0, 1]; 0 is the probability-flow ODE, 1 is DDPM.
        variance: An :class:`OptimalVariance`, which replaces the variance :math:`\sigma_s^2 \tau` of the
            noise, and adds noise for eta = 0 too: Analytic-DDIM. None keeps the formula.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), eq. 12.
        https://arxiv.org/abs/2010.02502
        On Fast Sampling of Diffusion Probabilistic Models (Kong & Ping, 2021), section 3.
        https://arxiv.org/abs/2106.00132
        Analytic-DPM (Bao et al., 2022). https://arxiv.org/abs/2201.06503
    """

    eta: float = 0.0
    variance: OptimalVariance | None = None

    def prepare(self, levels: Levels) -> Levels:
        return falling(self, levels) if self.eta > 0 or self.variance else levels

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        p = predictor.predict(x_t, t)

        tau = self.eta**2 * (1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2) if self.eta else 0
        kept = s.sigma * sqrt(1 - tau)
        nu2 = self.variance.nu2(t, s, kept) if self.variance else s.sigma**2 * tau
        return _noised(predictor.space, p.at(s.alpha, kept), s, nu2, generator), p


@frozen()
class DDPM(Sampler):
    r"""Ancestral sampling: x_s is drawn from q(x_s | x_t, x0) with the predicted x0.

    .. math::
        \alpha_{ts} = \alpha_t / \alpha_s, \quad
        \sigma_{ts}^2 = \sigma_t^2 - \alpha_{ts}^2 \sigma_s^2, \quad
        x_s = \alpha_s \hat x_0 + \frac{\alpha_{ts} \sigma_s^2}{\sigma_t} \hat\epsilon + \nu z

    Arguments:
        variance: ``"small"`` is that of the posterior, :math:`\nu = \sigma_{ts} \sigma_s / \sigma_t`,
            exact for data at a single point; ``"large"`` is that of the forward step,
            :math:`\nu = \sigma_{ts}`, exact for standard normal data. ``"learned"`` interpolates for
            each entry, :math:`\log \nu^2 = v \log \nu_{large}^2 + (1 - v) \log \nu_{small}^2`, where
            2 v − 1 is the denoiser's second output. An :class:`OptimalVariance` is the optimal variance
            common to all entries, estimated from data.

    Raises:
        ValueError: If the variance is not one of these.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), eq. 7 and section 3.2.
        https://arxiv.org/abs/2006.11239
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), eq. 15.
        https://arxiv.org/abs/2102.09672
        Analytic-DPM (Bao et al., 2022). https://arxiv.org/abs/2201.06503
    """

    variance: str | OptimalVariance = "small"

    def __post_init__(self) -> None:
        if not isinstance(self.variance, OptimalVariance):
            check_choice(VARIANCES, variance=self.variance)

    def prepare(self, levels: Levels) -> Levels:
        return falling(self, levels)

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        p = predictor.predict(x_t, t)

        alpha_ts = t.alpha / s.alpha
        large = max(t.sigma**2 - alpha_ts**2 * s.sigma**2, 0.0)
        kept = alpha_ts * s.sigma**2 / t.sigma
        x_s = p.at(s.alpha, kept)
        if self.variance == "learned":
            return _learned(predictor.space, x_s, p, t, s, generator), p

        nu2 = large * (s.sigma / t.sigma) ** 2 if self.variance == "small" else large
        if isinstance(self.variance, OptimalVariance):
            nu2 = self.variance.nu2(t, s, kept)
        return _noised(predictor.space, x_s, s, nu2, generator), p


def _noised(space: Space, mean: Tensor, s: Level, nu2: float, generator: Random) -> Tensor:
    """The mean of x_s with noise; without noise for the step to the data."""
    if s.sigma == 0 or nu2 <= 0:
        return mean
    return mean.add(space.noise(mean, generator), alpha=sqrt(nu2))


def _learned(
    space: Space, mean: Tensor, p: Prediction, t: Level, s: Level, generator: Random
) -> Tensor:
    if s.sigma == 0 or t.sigma == 0:  # the log-variance is infinite at the data
        return mean
    nu = (reverse_log_variance(t, s, p.extra, space) / 2).exp()
    return mean.add(space.project(nu * space.noise(mean, generator)))
