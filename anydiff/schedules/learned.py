r"""A schedule that is learned with its denoiser.

.. math:: -\lambda_t = \gamma_t = \gamma_0 + (\gamma_1 - \gamma_0)\, u(t), \qquad u(0) = 0,\; u(1) = 1

The bound on the likelihood in continuous time depends on the ends of the schedule alone. What lies
between, the interior u, says only how the bound is spread over t, and so how much its estimate at
a random t scatters. So the ends are learned from the bound and the interior from its variance.

That holds for a denoiser that goes by the log-SNR. One that goes by t has to learn anew what a time
means whenever u has moved, and u feels nothing of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from anydiff.checks import check_range
from anydiff.schedules.schedule import Level, VariancePreserving

__all__ = ["Learned"]


class Learned(VariancePreserving, nn.Module):
    r"""The monotone network of variational diffusion models, variance preserving.

    .. math::
        \tilde u(t) = e^{a} t + \sum_j e^{w_j}\, \mathrm{sigmoid}\bigl(e^{s_j} (t - c_j)\bigr), \qquad
        u(t) = \frac{\tilde u(t) - \tilde u(0)}{\tilde u(1) - \tilde u(0)}

    A module and a schedule: the :class:`~anydiff.GaussianDiffusion` that is given it has its weights
    among its own. It starts near a straight line. Whatever the dtype of the weights, it is evaluated in
    float64; what it says of a time, rates included, is differentiable with respect to weights and time.

    Arguments:
        logsnr_min, logsnr_max: Where the ends begin to learn, -gamma_1 and -gamma_0; the defaults are
            the publication's. ``learned.gamma_0.requires_grad_(False)`` keeps an end where it is.
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
        check_range(f"({logsnr_min}, inf)", logsnr_max=logsnr_max)
        check_range("[1, inf)", width=width)
        self.config = {"logsnr_min": logsnr_min, "logsnr_max": logsnr_max, "width": width}
        self.gamma_0 = nn.Parameter(torch.tensor(-float(logsnr_max)))
        self.gamma_1 = nn.Parameter(torch.tensor(-float(logsnr_min)))
        self.line = nn.Parameter(torch.zeros(()))
        self.weight = nn.Parameter(torch.full((width,), -math.log(width)))
        # the steps are from the whole interval to a fiftieth of it wide
        self.slope = nn.Parameter(torch.empty(width).uniform_(math.log(2), math.log(100)))
        self.centre = nn.Parameter(torch.rand(width))

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.config.items())

    def interior(self) -> list[nn.Parameter]:
        """The weights of u: all but the two ends."""
        return [self.line, self.weight, self.slope, self.centre]

    def levels(self, times: Tensor) -> list[Level]:
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
        r"""The gradient of the losses' sample variance in the interior, one tensor for each weight.

        The ends and the denoiser learn from the mean of the losses, the interior from their variance,
        which estimates at random times are to have little of::

            gradients = schedule.variance_gradient(bound)
            bound.mean().backward()
            for weight, gradient in zip(schedule.interior(), gradients, strict=True):
                weight.grad = gradient

        The variance has another scale than the bound, which an optimizer like Adam does not mind.

        Arguments:
            losses: The bound of each item, or any loss that the interior leaves unmoved, (B,), each from
                a time of its own.

        Raises:
            ValueError: If there are not two losses at least.

        References:
            Variational Diffusion Models (Kingma et al., 2021), appendix I.2, which takes the second
            moment: the same in expectation, with more noise. https://arxiv.org/abs/2107.00630
        """
        if losses.ndim != 1 or len(losses) < 2:
            raise ValueError(f"losses are {tuple(losses.shape)}; give (B,) of two items or more.")
        return torch.autograd.grad(losses.double().var(), self.interior(), retain_graph=True)
