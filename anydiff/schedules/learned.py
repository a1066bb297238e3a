r"""A schedule that is learned together with its denoiser.

.. math:: -\lambda_t = \gamma_t = \gamma_0 + (\gamma_1 - \gamma_0)\, u(t), \qquad u(0) = 0,\; u(1) = 1

The bound on the likelihood in continuous time depends only on the ends of the schedule. The interior u
determines how the bound is distributed over t, and thereby the variance of its estimate at a random t.
So the ends are learned from the bound and the interior from its variance.

This holds for a denoiser that takes the log-SNR as its time input. One that takes t itself has to adapt
whenever u changes, and the gradient of u does not account for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anydiff.checks import check_range, check_whole, number
from anydiff.schedules.schedule import Level, VariancePreserving

__all__ = ["Learned"]


class Learned(VariancePreserving, nn.Module):
    r"""The monotone network of variational diffusion models, variance preserving.

    .. math::
        \tilde u(t) = e^{a} t + \sum_j e^{w_j}\, \mathrm{sigmoid}\bigl(e^{s_j} (t - c_j)\bigr), \qquad
        u(t) = \frac{\tilde u(t) - \tilde u(0)}{\tilde u(1) - \tilde u(0)}

    It is both a module and a schedule: the :class:`~anydiff.GaussianDiffusion` that contains it has its
    weights among its parameters. It is initialised close to a straight line. It is evaluated in float64
    whatever the dtype of the weights; its levels and rates are differentiable with respect to the
    weights and the time.

    Arguments:
        logsnr_min: The initial log-SNR at t = 1, -gamma_1; the default is that of the paper.
        logsnr_max: The initial log-SNR at t = 0, -gamma_0; the default is that of the paper.
            ``learned.gamma_0.requires_grad_(False)`` fixes it.
        width: The number of sigmoids.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Variational Diffusion Models (Kingma et al., 2021), appendices H and I.
        https://arxiv.org/abs/2107.00630
    """

    def __init__(
        self, logsnr_min: float = -5.0, logsnr_max: float = 13.3, width: int = 1024
    ) -> None:
        super().__init__()
        check_range("(-inf, inf)", logsnr_min=logsnr_min)
        check_range(f"({number(logsnr_min)}, inf)", logsnr_max=logsnr_max)
        check_whole("[1, inf)", width=width)
        logsnr_min, logsnr_max, width = map(number, (logsnr_min, logsnr_max, width))  # type: ignore
        self.config = {"logsnr_min": logsnr_min, "logsnr_max": logsnr_max, "width": width}
        self.gamma_0 = nn.Parameter(torch.tensor(-float(logsnr_max)))
        self.gamma_1 = nn.Parameter(torch.tensor(-float(logsnr_min)))
        self.line = nn.Parameter(torch.zeros(()))
        self.weight = nn.Parameter(torch.full((width,), -math.log(width)))
        # sigmoids of widths from the whole interval to a fiftieth of it
        self.slope = nn.Parameter(torch.empty(width).uniform_(math.log(2), math.log(100)))
        self.centre = nn.Parameter(torch.rand(width))

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.config.items())

    def interior(self) -> list[nn.Parameter]:
        """The parameters of u: all but the two ends."""
        return [self.line, self.weight, self.slope, self.centre]

    def levels(self, times: Tensor | Sequence[float]) -> list[Level]:
        first, last = self.gamma_0.item(), self.gamma_1.item()
        if not first < last:
            raise ValueError(
                f"the log-SNR has learned to go from {-first:.3g} to {-last:.3g}, and has to fall; "
                "lower the learning rate of the ends, or keep them where they are."
            )
        return super().levels(times)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t64 = t.double()
        gamma, rate = self._gamma(t64)
        alpha2, sigma2 = (-gamma).sigmoid(), gamma.sigmoid()
        alpha = -0.5 * alpha2.sqrt() * sigma2 * rate
        sigma = 0.5 * sigma2.sqrt() * alpha2 * rate
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def _logsnr(self, t: Tensor) -> Tensor:
        return -self._gamma(t)[0]

    def _gamma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and its time derivative at float64 times."""
        first, last = (gamma.double().to(t.device) for gamma in (self.gamma_0, self.gamma_1))
        u, rate = self._interior(t)
        return first + (last - first) * u, (last - first) * rate

    def _interior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """u and its time derivative."""
        line, weight, slope = (p.double().exp() for p in (self.line, self.weight, self.slope))
        times = t.to(line.device).flatten()
        times = torch.cat([times, times.new_zeros(1), times.new_ones(1)])

        step = torch.sigmoid(slope * (times[:, None] - self.centre.double()))  # (n + 2, width)
        u = line * times + step @ weight
        rate = line + (step * (1 - step)) @ (weight * slope)

        start, stop = u[-2], u[-1]
        u, rate = (u[:-2] - start) / (stop - start), rate[:-2] / (stop - start)
        return u.view(t.shape).to(t.device), rate.view(t.shape).to(t.device)

    def variance_gradient(self, losses: Tensor) -> tuple[Tensor, ...]:
        r"""The gradient of the sample variance of the losses with respect to the interior.

        The ends and the denoiser learn from the mean of the losses. The interior learns from their
        variance, which it minimises::

            gradients = schedule.variance_gradient(bound)
            bound.mean().backward()
            for weight, gradient in zip(schedule.interior(), gradients, strict=True):
                weight.grad = gradient

        The variance has another scale than the bound, to which an optimizer like Adam is insensitive.

        Arguments:
            losses: The bound of each item, (B,), or any loss whose expectation does not depend on the
                interior, each at its own random time.

        Returns:
            One tensor for each parameter of :meth:`interior`.

        Raises:
            ValueError: If there are fewer than two losses.

        References:
            Variational Diffusion Models (Kingma et al., 2021), appendix I.2, which takes the second
            moment: the same in expectation, with more variance. https://arxiv.org/abs/2107.00630
        """
        if losses.ndim != 1 or len(losses) < 2:
            raise ValueError(f"losses are {tuple(losses.shape)}; give (B,) of two items or more.")
        return torch.autograd.grad(losses.double().var(), self.interior(), retain_graph=True)
