r"""How much a noise level counts in the loss.

Once x_t is given, x0 and eps determine each other, and all errors of a network are one error e:

.. math::
    \epsilon - \hat\epsilon = \alpha\, e, \qquad x_0 - \hat x_0 = -\sigma\, e, \qquad
    y - \hat y = \Delta\, e, \qquad \Delta = \alpha b - \sigma a

A weighting says how much :math:`e^2` counts. With the weight w of eps, as the literature gives it, that
is :math:`\alpha^2 w`; with the weight of x0, :math:`\sigma^2 w`; and :math:`\Delta^2 w` with that of any
output. So one object means the same loss for every prediction type, and nothing in it divides by an
alpha or a sigma that is zero. Without a weighting, the error of the network's own output counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import frozen
from anydiff.predictions import Target, as_target
from anydiff.schedules import Level

__all__ = [
    "P2", "KarrasWeighting", "LearnedUncertainty", "Likelihood", "MinSNR", "Plain", "Sigmoid",
    "TruncatedSNR", "Unit", "Weighting", "as_weighting",
]  # fmt: skip


class Weighting:
    """The weight of a squared error at a noise level. One of your own defines `common` and no more."""

    def common(self, at: Level) -> Any:
        """The weight of e², (B,): alpha² times the weight of eps, sigma² times that of x0.

        Arguments:
            at: A level of the schedule, of tensors (B,).
        """
        raise NotImplementedError

    def of(self, prediction: str | Target, at: Level) -> Tensor:
        """The weight of the squared error of a target, (B,), float64.

        Arguments:
            prediction: What is predicted: ``"eps"``, ``"x0"``, ``"v"``, ...
            at: A level of the schedule, ``schedule.at(t)``.
        """
        at = _inside(at)
        weight: Tensor = self.common(at) / _det(prediction, at) ** 2
        return weight

    def weigh(self, error: Tensor, at: Level, target: Target) -> Tensor:
        """The loss, (B,), from the squared error of what the network predicts, (B,).

        Arguments:
            error: The squared error of the output, per dimension, (B,).
            at: The level of each item.
            target: What the output is.
        """
        return self.of(target, at).to(error.dtype) * error


@frozen()
class Plain(Weighting):
    """The error of the network's own output, as it is or times a function of the log-SNR.

    Arguments:
        function: log-SNR -> weight, (B,) -> (B,); None is 1.
    """

    function: Callable[[Tensor], Tensor] | None = None

    def weigh(self, error: Tensor, at: Level, target: Target) -> Tensor:
        return error if self.function is None else self.function(at.logsnr) * error


def as_weighting(weighting: Weighting | Callable[[Tensor], Tensor] | None) -> Weighting:
    """A weighting: itself, or from a function of the log-SNR, or from None for none."""
    return weighting if isinstance(weighting, Weighting) else Plain(weighting)


def _inside(at: Level) -> Level:
    """The level in float64 and off both ends of [0, 1], where a weight is a limit."""
    t = torch.as_tensor(at.t, dtype=torch.float64)
    return at.schedule.at(t.clamp(1e-12, 1 - 1e-12))


def _det(prediction: str | Target, at: Level) -> Any:
    a, b = as_target(prediction).coefficients(at)
    return at.alpha * b - at.sigma * a


def _turn(at: Level) -> Any:
    r""":math:`-\tfrac12 \alpha^2 \lambda' = \alpha (\alpha \sigma' - \alpha' \sigma) / \sigma`."""
    alpha_rate, sigma_rate = at.rates
    return at.alpha * (at.alpha * sigma_rate - alpha_rate * at.sigma) / at.sigma


@frozen()
class Unit(Weighting):
    """The plain squared error of one output, whatever the network predicts.

    ``Unit("eps")`` is the simple loss of DDPM, an x0 error times the SNR; ``Unit("v")`` that of x0 times
    SNR + 1, where the schedule preserves the variance; ``Unit("velocity")`` the loss of flow matching.

    Arguments:
        prediction: The output whose error counts, by name or as a
            :class:`~anydiff.predictions.Target`.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), eq. 14.
        https://arxiv.org/abs/2006.11239
        Progressive Distillation (Salimans & Ho, 2022), section 4. https://arxiv.org/abs/2202.00512
    """

    prediction: str | Target = "eps"

    def __post_init__(self) -> None:
        as_target(self.prediction)

    def common(self, at: Level) -> Any:
        return _det(self.prediction, at) ** 2


@frozen(gamma="(0, inf)")
class MinSNR(Weighting):
    r"""x0's error times the SNR, which is cut off at gamma.

    .. math:: w_{x_0} = \min(\mathrm{SNR}, \gamma), \qquad w_\epsilon = \min(1, \gamma / \mathrm{SNR})

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Efficient Diffusion Training via Min-SNR Weighting Strategy (Hang et al., 2023).
        https://arxiv.org/abs/2303.09556
    """

    gamma: float = 5.0

    def common(self, at: Level) -> Any:
        return torch.minimum(at.alpha**2, self.gamma * at.sigma**2)


@frozen()
class TruncatedSNR(Weighting):
    r"""x0's error times the SNR, which never falls below 1.

    .. math:: w_{x_0} = \max(\mathrm{SNR}, 1)

    References:
        Progressive Distillation for Fast Sampling of Diffusion Models (Salimans & Ho, 2022), section 4.
        https://arxiv.org/abs/2202.00512
    """

    def common(self, at: Level) -> Any:
        return torch.maximum(at.alpha**2, at.sigma**2)


@frozen(k="(0, inf)")
class P2(Weighting):
    r"""Less of the levels where the noise is too faint to hide anything one sees.

    .. math:: w_\epsilon = (k + \mathrm{SNR})^{-\gamma}

    Arguments:
        k: Bounds the weight where there is only noise.
        gamma: How fast it falls; 0 is the simple loss.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Perception Prioritized Training of Diffusion Models (Choi et al., 2022).
        https://arxiv.org/abs/2204.00227
    """

    k: float = 1.0
    gamma: float = 1.0

    def common(self, at: Level) -> Any:
        return at.alpha**2 * (self.k + (at.alpha / at.sigma) ** 2) ** -self.gamma


@frozen(sigma_data="(0, inf)")
class KarrasWeighting(Weighting):
    r"""Every level counts the same for the network F of Karras et al., whatever is predicted.

    .. math::
        w_{x_0} = \frac{\bar\sigma^2 + \sigma_d^2}{(\bar\sigma\, \sigma_d)^2}, \qquad
        \bar\sigma = \sigma / \alpha

    With the prediction ``"karras"`` of the same sigma_data this is 1.

    Arguments:
        sigma_data: The data's deviation.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), table 1.
        https://arxiv.org/abs/2206.00364
    """

    sigma_data: float = 0.5

    def common(self, at: Level) -> Any:
        return at.alpha**2 + (at.sigma / self.sigma_data) ** 2


@frozen()
class Likelihood(Weighting):
    r"""The variational bound: half of g² times the score's squared error.

    .. math:: w_\epsilon = \frac{g^2}{2 \sigma^2} = -\frac12 \frac{d\lambda}{dt}

    With times drawn uniformly, the mean of the loss times the item's dimension is the diffusion term of
    the bound on -log p(x0), in nats.

    It grows without bound where sigma goes to 0: train with a schedule that keeps some noise at t = 0.

    References:
        Maximum Likelihood Training of Score-Based Diffusion Models (Song et al., 2021), theorem 1.
        https://arxiv.org/abs/2101.09258
        Variational Diffusion Models (Kingma et al., 2021), section 4. https://arxiv.org/abs/2107.00630
    """

    def common(self, at: Level) -> Any:
        return _turn(at)


@frozen()
class Sigmoid(Weighting):
    r"""The variational bound of data with noise added to them, most of it below a log-SNR of `bias`.

    .. math::
        w_\epsilon = -\frac12 \frac{d\lambda}{dt} \operatorname{sigmoid}(b - \lambda), \qquad
        w_{x_0} = -\frac12 \frac{d\lambda}{dt}\, e^b \operatorname{sigmoid}(\lambda - b)

    With times drawn uniformly, the rate of the log-SNR makes the loss the same for every schedule.

    Arguments:
        bias: b. The finer the detail that matters, the higher.

    References:
        Understanding Diffusion Objectives as the ELBO (Kingma & Gao, 2023).
        https://arxiv.org/abs/2303.00848
        Simpler Diffusion (Hoogeboom et al., 2024). https://arxiv.org/abs/2410.19324
    """

    bias: float

    def common(self, at: Level) -> Any:
        noise = math.exp(self.bias) * at.sigma**2
        return _turn(at) * noise / (at.alpha**2 + noise)


class LearnedUncertainty(nn.Module, Weighting):
    r"""A weighting divided by the loss that is still to be expected at each level, which it learns.

    .. math:: L' = \frac{L}{\exp u(\lambda)} + u(\lambda)

    u is linear in Fourier features of the log-SNR and begins as 0. L' is least where exp(u) is the
    expected L, so that every level's loss becomes 1 and none outshouts the others. u belongs to the
    diffusion's parameters, and is of no use after training.

    Arguments:
        weighting: What the loss L is weighted with; any weighting, a function of the log-SNR, or None.
        features: The number of Fourier features, even.

    Raises:
        ValueError: If features is not an even number above 0.

    References:
        Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2024),
        eq. 14-17. https://arxiv.org/abs/2312.02696
    """

    frequencies: Tensor

    def __init__(
        self, weighting: Weighting | Callable[[Tensor], Tensor] | None = None, features: int = 128
    ) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ValueError(f"features is {features}; give an even number, sines and cosines.")
        self.weighting = as_weighting(weighting)
        self.features = features
        # the paper draws normal frequencies of ln(sigma) / 4; these are their quantiles
        ranks = 0.5 + torch.arange(features // 2, dtype=torch.float64) / features
        normal = torch.special.ndtri(ranks + 0.5 / features)
        self.register_buffer("frequencies", (2 * math.pi / 8 * normal).float())
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, logsnr: Tensor) -> Tensor:
        """u, the logarithm of the expected loss, (B,)."""
        angles = logsnr.to(self.frequencies.dtype)[:, None] * self.frequencies
        features = math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], 1)
        return nn.functional.linear(features, self.linear.weight, self.linear.bias)[:, 0]

    def weigh(self, error: Tensor, at: Level, target: Target) -> Tensor:
        # some schedules end at infinity
        u = self(_inside(at).logsnr.clamp(-40, 40)).to(error.dtype)
        loss = self.weighting.weigh(error, at, target)
        # an item of no dimension has no error, and says nothing of its level
        return torch.where(error == 0, 0.0, loss * torch.exp(-u) + u)
