r"""The reverse variance that maximises the likelihood, estimated once from data.

A Gaussian step uses the mean of x0 given x_t, and neglects its variance. That variance, per dimension, is

.. math::
    V_t = \frac{\sigma_t^2}{\alpha_t^2} (1 - \Gamma_t), \qquad
    \Gamma_t = \frac{1}{\dim} \mathbb{E} \lVert \hat\epsilon(x_t) \rVert^2,

and a step with the coefficient c of the predicted noise has to account for it with the variance

.. math:: \nu^2 = \sigma_s^2 - c^2 + \left(\alpha_s - c\, \frac{\alpha_t}{\sigma_t}\right)^2 V_t .

:math:`\Gamma` depends only on the log-SNR, so that one small table serves every schedule and grid.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import field
from itertools import pairwise

import torch
from torch import Tensor

from anydiff.checks import (
    check_floating,
    check_kind,
    check_range,
    check_whole,
    frozen,
    numbers,
    shown,
)
from anydiff.predictions import Predictor, check_predictor
from anydiff.schedules import Level
from anydiff.spaces import Random

__all__ = ["OptimalVariance"]

SURE = 1e-9  # keeps estimates off 0 and 1, where the logit is infinite


@frozen()
class OptimalVariance:
    r"""The reverse variances of Analytic-DPM, for ``DDPM(variance=...)`` and ``DDIM(eta, variance=...)``.

    Between the points of the table the logit of :math:`1 - \Gamma` is interpolated linearly in the
    log-SNR, which is exact for normal data. Beyond the noisy end the variance of x0 is constant, beyond
    the clean end :math:`\Gamma` is. ``dataclasses.asdict`` gives plain numbers to save, and
    ``OptimalVariance(**numbers)`` restores the object.

    Arguments:
        logsnr: The log-SNRs of the table, rising.
        gamma: :math:`\Gamma` at each of them, in [0, 1].
        span: b − a if the data are known to lie in [a, b]; it limits the variance of x0 to
            :math:`((b - a) / 2)^2`, the paper's upper bound. The other bounds of the paper, the
            posterior's variance and that of x0 = x_t / alpha, are never violated.

    Raises:
        ValueError: If the log-SNRs do not rise, or if a gamma lies outside [0, 1] or is missing.

    References:
        Analytic-DPM (Bao et al., 2022), theorems 1 and 2, eq. 8. https://arxiv.org/abs/2201.06503
    """

    logsnr: tuple[float, ...] = field(repr=False)
    gamma: tuple[float, ...] = field(repr=False)
    span: float | None = None

    def __post_init__(self) -> None:
        for name in ("logsnr", "gamma"):
            object.__setattr__(self, name, tuple(numbers(getattr(self, name)).tolist()))
        rising = all(a < b for a, b in pairwise(self.logsnr)) and bool(self.logsnr)
        if not rising or not all(map(math.isfinite, self.logsnr)):
            raise ValueError(f"the log-SNRs are {self.logsnr}; give finite ones that rise.")
        if len(self.gamma) != len(self.logsnr):
            raise ValueError(
                f"{len(self.gamma)} gammas for {len(self.logsnr)} log-SNRs; give as many."
            )
        check_range("[0, 1]", **{f"gamma[{k}]": g for k, g in enumerate(self.gamma)})
        if self.span is not None:
            check_range("(0, inf)", span=self.span)

    @classmethod
    @torch.no_grad()
    def estimate(
        cls,
        batches: Iterable[tuple[Predictor, Tensor]],
        *,
        points: int = 50,
        logsnr_min: float = -12.0,
        logsnr_max: float = 14.0,
        span: float | None = None,
        generator: Random = None,
    ) -> OptimalVariance:
        r"""Estimate the table for a model from data, with `points` network calls per batch.

        For a perfect network, the mean of :math:`\lVert\epsilon - \hat\epsilon\rVert^2` is
        :math:`(1 - \Gamma) \dim`. The estimate uses this error: it is never negative, is equally
        precise at all noise levels, and gives the optimal variance for an imperfect network too, which
        :math:`\lVert\hat\epsilon\rVert^2` does not.

        Arguments:
            batches: Predictors, each bound to its batch (and in eval mode), with the batch's data:
                ``((diffusion.predictor(space, **cond), x0) for x0, space, cond in loader)``.
            points: The size of the table, at least 2.
            logsnr_min: The first log-SNR of the table, limited to the schedule's range.
            logsnr_max: The last one, limited likewise.
            span: See :class:`OptimalVariance`.
            generator: The source of noise.

        Raises:
            ValueError: If there are no data, if the network's output is not finite, or if the range does
                not overlap that of the schedule.

        References:
            Estimating the Optimal Covariance with Imperfect Mean (Bao et al., 2022), theorem 3.
            https://arxiv.org/abs/2206.07309
        """
        check_whole("[2, inf)", points=points)
        levels: list[Level] = []
        gaps, entries = torch.zeros(points, dtype=torch.float64), torch.tensor(0.0)
        hint = "pairs (predictor, x0)"
        check_kind(Iterable, hint, batches=batches)
        for pair in batches:
            if not (isinstance(pair, tuple | list) and len(pair) == 2):
                raise ValueError(f"batches holds {shown(pair)}; give {hint}.")
            predictor, x0 = pair
            check_predictor(batches=predictor)
            check_floating(x0=x0)
            space, schedule = predictor.space, predictor.schedule
            if not levels:
                ends = schedule.clip(logsnr_min, logsnr_max)
                logsnrs = torch.linspace(*ends, points, dtype=torch.float64)
                levels, gaps = schedule.levels(schedule.time(logsnrs)), gaps.to(x0.device)
            x0 = space.project(x0)
            entries = entries + space.dim(x0).sum(dtype=torch.float64)
            for k, at in enumerate(levels):
                eps = space.noise(x0, generator)
                p = predictor.predict(at.alpha * x0 + at.sigma * eps, at)
                gaps[k] += space.sum((eps - p.eps).square()).sum(dtype=torch.float64)
        if not entries > 0:
            raise ValueError("there are no data to estimate from; give batches (predictor, x0).")
        gamma = (1 - gaps / entries).cpu()
        if not gamma.isfinite().all():
            raise ValueError("the network's eps is not finite; look at its weights and the data.")
        logsnr = tuple(at.logsnr for at in levels)
        return cls(logsnr, tuple(gamma.clamp(SURE, 1 - SURE).tolist()), span)

    def spread(self, at: Level) -> float:
        """V, the variance of x0 given x_t, per dimension, at a level of floats."""
        logsnr, table = at.logsnr, self.logsnr
        if logsnr == math.inf:
            return 0.0
        if logsnr <= table[0]:
            spread = (1 - self.gamma[0]) * math.exp(-table[0])
        else:
            k = bisect_right(table, logsnr)
            logit = _logit(self.gamma[k - 1])
            if k < len(table):
                part = (logsnr - table[k - 1]) / (table[k] - table[k - 1])
                logit += part * (_logit(self.gamma[k]) - logit)
            spread = math.exp(-logsnr) / (1 + math.exp(-logit))
        return spread if self.span is None else min(spread, (self.span / 2) ** 2)

    def nu2(self, t: Level, s: Level, kept: float) -> float:
        r"""The variance of the step from t to s with mean :math:`\alpha_s \hat x_0 + c\, \hat\epsilon`.

        Arguments:
            t: The level at which the step starts, of floats.
            s: The level at which it ends, of floats.
            kept: c, the coefficient of the predicted noise.
        """
        fresh = max(s.sigma**2 - kept**2, 0.0)
        return float(fresh + (s.alpha - kept * t.alpha / t.sigma) ** 2 * self.spread(t))


def _logit(gamma: float) -> float:
    """The logit of 1 - gamma."""
    gamma = min(max(gamma, SURE), 1 - SURE)
    return math.log1p(-gamma) - math.log(gamma)
