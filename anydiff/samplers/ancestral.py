r"""The samplers of the discrete chain: ancestral sampling (DDPM) and the DDIM family.

A step of the family leads to x0 and eps at the next level, with a share of new noise in the place of eps.
"""

from __future__ import annotations

from math import floor, sqrt

from torch import Tensor

from anydiff.checks import check_choice, check_range, frozen
from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.optimal import OptimalVariance
from anydiff.samplers.sampler import Levels, Past, Sampler, Stepped, falling
from anydiff.samplers.variances import VARIANCES, reverse_log_variance
from anydiff.schedules import Level
from anydiff.spaces import Random, Space

__all__ = ["DDIM", "DDPM", "Renoise"]


@frozen(eta="[0, 1]", variance=OptimalVariance)
class DDIM(Sampler):
    r"""DDIM, deterministic or stochastic.

    .. math::
        \tau = \eta^2 \left(1 - \frac{\alpha_t^2 \sigma_s^2}{\alpha_s^2 \sigma_t^2}\right), \qquad
        x_s = \alpha_s \hat x_0 + \sigma_s \sqrt{1 - \tau}\, \hat\epsilon + \sigma_s \sqrt{\tau}\, z

    With rising times and eta = 0 it encodes data as noise.

    FastDPM is DDIM on the levels of a shorter chain, with :math:`\kappa = \eta`: 1 is its DDPM-rev, any
    other its DDIM-rev. The grid :class:`Uniform` or :class:`Quadratic` is its STEP, rows of a table;
    :class:`Variances` is its VAR. The published STEP calls the network a last time at the first row of
    the table, and its quadratic rows begin at 0.8 T: for rows k_1 > ... > 0 counted from 0, as there,
    give ``steps=[(k_1 + 1) / T, ..., 1 / T, 0]``.

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


@frozen(tau="[0, 1]")
class Renoise(Sampler):
    r"""Steps that replace a constant share of the noise: the sampler of consistency models.

    .. math:: x_s = \alpha_s \hat x_0
        + \sigma_s \bigl(\sqrt{1 - \tau}\, \hat\epsilon + \sqrt{\tau}\, z\bigr)

    tau = 1 is multistep consistency sampling, and the sampler of latent consistency models: x0 gets new
    noise of the next level. tau = 0 is :class:`DDIM`, whose own tau vanishes with the length of the step.
    :meth:`annealed` is consistent annealed sampling.

    A perfect consistency model draws from the data with any number of steps; a run has 4 by default. With
    the denoiser of a diffusion, the samples of many steps do *not* converge to the data, unless tau is 0:
    a predicted x0 varies less than the data, and each step begins with it anew.

    Arguments:
        tau: The share of the variance of the noise that is new in each step.

    Raises:
        ValueError: If tau lies outside its range.

    References:
        Consistency Models (Song et al., 2023), algorithm 1. https://arxiv.org/abs/2303.01469
        Latent Consistency Models (Luo et al., 2023). https://arxiv.org/abs/2310.04378
        Adversarial Score Matching and Improved Sampling (Jolicoeur-Martineau et al., 2021), section 3.
        https://arxiv.org/abs/2009.05475
    """

    tau: float = 1.0

    steps = 4

    @property
    def convergence(self) -> float:
        return 0.0 if self.tau else 1.0

    @classmethod
    def annealed(cls, eta: float, ratio: float) -> Renoise:
        r"""Consistent annealed sampling, on levels whose sigma / alpha falls by a constant factor.

        .. math:: \tau = 1 - \left(\frac{1 - \eta}{\gamma}\right)^2, \qquad
            \gamma = \frac{\sigma_s / \alpha_s}{\sigma_t / \alpha_t}

        Such is the grid ``LogSNR(1.0, high, low)`` within the range of the schedule, where a run of n
        steps has :math:`\gamma = e^{-(high - low) / (2 (n - 1))}`. The several steps of a level in the
        paper are a grid with as many times more levels.

        eta = 1 - γ is DDIM, eta = 1 - γ² is DDIM with an eta of 1, and with eta = 1 all noise is new. The
        paper also allows an eta up to 1 + γ, whose steps reverse the predicted noise; those are no
        share of it.

        Arguments:
            eta: The size of a Langevin step, in units of the variance of the noise; in [1 - ratio, 1].
            ratio: γ, of a level to the one before, in (0, 1).

        Raises:
            ValueError: If a value lies outside its range.
        """
        check_range("(0, 1)", ratio=ratio)
        # rounded down, so that 0.3 is in the range for 0.7
        check_range(f"[{floor(1e9 * (1 - ratio)) / 1e9}, 1]", eta=eta)
        # a product: 0 for eta = 1 - ratio, whatever its rounding
        tau = (ratio - 1 + eta) * (ratio + 1 - eta) / ratio**2
        return cls(min(max(tau, 0.0), 1.0))

    def prepare(self, levels: Levels) -> Levels:
        return falling(self, levels) if self.tau else levels

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        p = predictor.predict(x_t, t)

        x_s = p.at(s.alpha, s.sigma * sqrt(1 - self.tau))
        return _noised(predictor.space, x_s, s, s.sigma**2 * self.tau, generator), p


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


def posterior(p: Prediction, t: Level, s: Level, space: Space, generator: Random) -> Tensor:
    """x_s from q(x_s | x_t, x0) with the predicted x0, at one pair of times for each item: as
    :class:`DDPM` draws it at one pair for all.

    Arguments:
        p: The prediction at x_t.
        t: The level of x_t.
        s: That of x_s.
        space: The batch's space.
        generator: The source of noise.
    """
    alpha_ts, share = t.alpha / s.alpha, s.sigma / t.sigma
    nu = share * (t.sigma**2 - alpha_ts**2 * s.sigma**2).clamp(min=0).sqrt()
    alpha, kept, nu = (space.expand(c, p.x_t) for c in (s.alpha, alpha_ts * s.sigma * share, nu))
    x_s: Tensor = p.at(alpha, kept) + nu * space.noise(p.x_t, generator)
    return x_s


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
