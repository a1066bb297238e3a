r"""The chain of T steps, and the terms of its variational bound.

.. math::
    L = \underbrace{KL(q(x_T | x_0) \| p(x_T))}_{prior}
      + \sum_t \underbrace{KL(q(x_s | x_t, x_0) \| p(x_s | x_t))}_{diffusion}
      \underbrace{- \log p(x_0 | x_1)}_{reconstruction}

Any rising times define a chain, for any schedule. If the schedule starts at the data itself, as a table
does, the first step is the decoder (Ho et al.). If it starts with some noise, the first step has its
divergence too, and the decoder is applied to the state there (VDM). With the second rule the bound
converges for T -> infinity; with the first it does if steps near the data shrink in proportion to the
noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anydiff.checks import check_choice
from anydiff.likelihood.decoders import Decoder
from anydiff.likelihood.gaussians import kl
from anydiff.predictions import Prediction
from anydiff.samplers.loop import check_steps
from anydiff.samplers.variances import VARIANCES, between, log_variances, tied
from anydiff.schedules import Level, Schedule
from anydiff.spaces import Space

__all__ = ["Chain", "mistake"]


def mistake(p: Prediction, x0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """The errors of the predicted x0 and eps, true minus predicted, both shaped like x0.

    Both are computed from the error of the network's output: near the data or near noise, the difference
    of x0 or eps and its prediction suffers from cancellation.

    Arguments:
        p: A prediction at x_t = alpha x0 + sigma eps.
        x0: The data in x_t.
        eps: The noise in x_t.
    """
    error = p.a * x0 + p.b * eps - p.y
    det = p.alpha * p.b - p.sigma * p.a
    return (-p.sigma / det) * error, (p.alpha / det) * error


@dataclass(frozen=True, eq=False)
class Chain:
    """A chain: times of a schedule, and the variance of its reverse steps.

    Arguments:
        schedule: t -> (alpha, sigma).
        knots: Rising times, (T + 1,), float64.
        variance: ``"small"``, ``"large"`` or ``"learned"``, see
            :func:`~anydiff.samplers.variances.log_variances`.

    Raises:
        ValueError: If the variance is not one of the three.
    """

    schedule: Schedule
    knots: Tensor
    variance: str = "small"

    def __post_init__(self) -> None:
        check_choice(VARIANCES, variance=self.variance)

    @classmethod
    def of(
        cls,
        schedule: Schedule,
        steps: int | Sequence[float] | Tensor,
        variance: str,
        device: torch.device,
    ) -> Chain:
        """The chain of T equal steps, or of given times, rising or falling.

        Arguments:
            schedule: t -> (alpha, sigma).
            steps: T, at least 1; or the times, at least two.
            variance: The variance of the reverse steps, see :class:`Chain`.
            device: The device of the times.

        Raises:
            ValueError: If there is no step, or if the times neither rise nor fall within [0, 1].
        """
        times = check_steps(steps)
        if isinstance(times, int):
            even = torch.linspace(0, 1, times + 1, dtype=torch.float64, device=device)
            return cls(schedule, even, variance)
        times = times.flip(0) if times[0] > times[-1] else times
        return cls(schedule, times.to(device), variance)

    def __len__(self) -> int:
        return len(self.knots) - 1

    def level(self, k: Tensor | int) -> Level:
        """The level of row k in float64, as tensors shaped like k."""
        return self.schedule._at(self.knots[k])

    def log_variances(self, k: Tensor, p: Prediction, space: Space) -> tuple[Tensor, Tensor]:
        """log q and log p of the step from row k to row k - 1; they broadcast with p.x_t.

        Arguments:
            k: Rows, (B,), from 1 to T.
            p: The prediction at row k.
            space: The batch's space.
        """
        t, s = self.level(k), self.level(k - 1)
        small, large = log_variances(t, s)
        # The posterior variance of the step to the data is 0. It is replaced by that of the next row,
        # for "large" too, as in the code of the papers.
        first = large
        if len(self) > 1:
            first = log_variances(self.level(2), self.level(1))[0]
        onto_data = s.sigma == 0
        small = torch.where(onto_data, first, small)
        if self.variance == "large":
            large = torch.where(onto_data, first, large)

        x = p.x_t
        small, large = (space.expand(c.to(x.dtype), x) for c in (small, large))
        if self.variance != "learned":
            return small, small if self.variance == "small" else large
        return small, between(small, large, tied(p.extra, space))

    def divergence(
        self, p: Prediction, x0: Tensor, eps: Tensor, k: Tensor, space: Space, *, stop: bool = False
    ) -> Tensor:
        """KL(q(x_s | x_t, x0) || p(x_s | x_t)) of the step from row k to row k - 1, in nats, (B,).

        Arguments:
            p: The prediction at row k, at x_t = alpha x0 + sigma eps.
            x0: Data, in the space.
            eps: Noise, in the space.
            k: Rows, (B,), from 1 to T.
            space: The batch's space.
            stop: Detach the mean, so that only the variance gets a gradient.
        """
        posterior, log_variance = self.log_variances(k, p, space)
        t, s = self.level(k), self.level(k - 1)
        # the difference of the means is alpha_s (1 - e^(logsnr_t - logsnr_s)) (x0 - x0_hat)
        share = s.alpha * torch.exp(log_variances(t, s)[1]) / t.sigma**2
        away = space.expand(share.to(x0.dtype), x0) * mistake(p, x0, eps)[0]
        away = away.detach() if stop else away
        return kl(away, log_variance, posterior - log_variance, space)

    def decode(
        self,
        p: Prediction,
        x0: Tensor,
        k: Tensor,
        decoder: Decoder,
        space: Space,
        *,
        stop: bool = False,
    ) -> Tensor:
        """-log p(x0 | x_t) of the step from row k to the data, in nats, (B,).

        Arguments:
            p: The prediction at row k.
            x0: Data, in the space.
            k: Rows, (B,).
            decoder: The likelihood of the data given a mean and a variance.
            space: The batch's space.
            stop: Detach the mean, so that only the variance gets a gradient.
        """
        mean = p.x0.detach() if stop else p.x0
        log_variance = self.log_variances(k, p, space)[1]
        return -decoder(x0, mean, log_variance, space)
