r"""The weight of a noise level in the loss.

Given x_t, x0 and eps determine each other, so all errors of a network are multiples of one error e:

.. math::
    \epsilon - \hat\epsilon = \alpha\, e, \qquad x_0 - \hat x_0 = -\sigma\, e, \qquad
    y - \hat y = \Delta\, e, \qquad \Delta = \alpha b - \sigma a

A weighting defines the weight of :math:`e^2`. In terms of the weight w of eps, as the literature gives
it, that is :math:`\alpha^2 w`; in terms of that of x0, :math:`\sigma^2 w`; in terms of that of any
output, :math:`\Delta^2 w`. One object thus defines the same loss for every prediction target, and never
divides by an alpha or a sigma that is zero. Without a weighting, the error of the network's output is not
weighted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import check_kind, check_whole, frozen
from anydiff.precision import ExactBuffers
from anydiff.predictions import Target, as_target
from anydiff.schedules import Level

__all__ = [
    "P2", "KarrasWeighting", "LearnedUncertainty", "Likelihood", "MinSNR", "Plain", "PseudoHuber",
    "Sigmoid", "TruncatedSNR", "Unit", "Weighting", "as_weighting",
]  # fmt: skip


class Weighting:
    """The base class of weightings; a subclass only has to define `common`."""

    def common(self, at: Level) -> Any:
        """The weight of e², (B,): alpha² times the weight of eps, or sigma² times the weight of x0.

        Arguments:
            at: A level of the schedule, of tensors (B,).
        """
        raise NotImplementedError

    def of(self, prediction: str | Target, at: Level) -> Tensor:
        """The weight of the squared error of a target, (B,), float64.

        Arguments:
            prediction: The target: ``"eps"``, ``"x0"``, ``"v"``, ...
            at: A level of the schedule, ``schedule.at(t)``.
        """
        at = _inside(at)
        weight: Tensor = self.common(at) / _det(prediction, at) ** 2
        return weight

    def weigh(self, error: Tensor, at: Level, target: Target) -> Tensor:
        """The weighted loss of each item, (B,).

        Arguments:
            error: The squared error of the network's output, per dimension, (B,).
            at: The level of each item.
            target: The target of the network.
        """
        return self.of(target, at).to(error.dtype) * error


@frozen()
class Plain(Weighting):
    """The error of the network's output, unweighted or multiplied by a function of the log-SNR.

    Arguments:
        function: log-SNR -> weight, (B,) -> (B,); None is a weight of 1.
    """

    function: Callable[[Tensor], Tensor] | None = None

    def weigh(self, error: Tensor, at: Level, target: Target) -> Tensor:
        return error if self.function is None else self.function(at.logsnr) * error


def as_weighting(weighting: Weighting | Callable[[Tensor], Tensor] | None) -> Weighting:
    """Return a weighting unchanged; wrap a function of the log-SNR, or None for no weighting.

    Raises:
        ValueError: If it is none of these.
    """
    check_kind(Weighting | Callable | None, "a weighting, such as MinSNR()", weighting=weighting)
    return weighting if isinstance(weighting, Weighting) else Plain(weighting)


def _inside(at: Level) -> Level:
    """The level in float64, moved off the ends of [0, 1], where some weights are limits."""
    t = torch.as_tensor(at.t, dtype=torch.float64)
    return at.schedule._at(t.clamp(1e-12, 1 - 1e-12))


def _det(prediction: str | Target, at: Level) -> Any:
    a, b = as_target(prediction).coefficients(at)
    return at.alpha * b - at.sigma * a


def _turn(at: Level) -> Any:
    r""":math:`-\tfrac12 \alpha^2 \lambda' = \alpha (\alpha \sigma' - \alpha' \sigma) / \sigma`."""
    alpha_rate, sigma_rate = at.rates
    return at.alpha * (at.alpha * sigma_rate - alpha_rate * at.sigma) / at.sigma


@frozen()
class Unit(Weighting):
    """The unweighted squared error of one target, whatever the network predicts.

    ``Unit("eps")`` is the simple loss of DDPM: the error of x0 times the SNR. ``Unit("v")`` is the error
    of x0 times SNR + 1, if the schedule preserves the variance. ``Unit("velocity")`` is the loss of flow
    matching.

    Arguments:
        prediction: The target whose error has weight 1, by name or as a
            :class:`~anydiff.predictions.Target`.

    Raises:
        ValueError: If the name is unknown.

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
    r"""Min-SNR: the error of x0 with the weight min(SNR, gamma).

    .. math:: w_{x_0} = \min(\mathrm{SNR}, \gamma), \qquad w_\epsilon = \min(1, \gamma / \mathrm{SNR})

    Arguments:
        gamma: The largest weight of x0.

    Raises:
        ValueError: If gamma is not positive.

    References:
        Efficient Diffusion Training via Min-SNR Weighting Strategy (Hang et al., 2023).
        https://arxiv.org/abs/2303.09556
    """

    gamma: float = 5.0

    def common(self, at: Level) -> Any:
        return torch.minimum(at.alpha**2, self.gamma * at.sigma**2)


@frozen()
class TruncatedSNR(Weighting):
    r"""Truncated SNR: the error of x0 with the weight max(SNR, 1).

    .. math:: w_{x_0} = \max(\mathrm{SNR}, 1)

    References:
        Progressive Distillation for Fast Sampling of Diffusion Models (Salimans & Ho, 2022), section 4.
        https://arxiv.org/abs/2202.00512
    """

    def common(self, at: Level) -> Any:
        return torch.maximum(at.alpha**2, at.sigma**2)


@frozen(k="(0, inf)")
class P2(Weighting):
    r"""P2 weighting: a smaller weight for low noise, which only hides imperceptible detail.

    .. math:: w_\epsilon = (k + \mathrm{SNR})^{-\gamma}

    Arguments:
        k: Bounds the weight at high noise.
        gamma: How fast the weight falls with the SNR; 0 is the simple loss of DDPM.

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
    r"""The weighting of Karras et al.: the unweighted error of their network F, whatever is predicted.

    .. math::
        w_{x_0} = \frac{\bar\sigma^2 + \sigma_d^2}{(\bar\sigma\, \sigma_d)^2}, \qquad
        \bar\sigma = \sigma / \alpha

    With the prediction ``"karras"`` of the same sigma_data this is 1.

    Arguments:
        sigma_data: The standard deviation of the data.

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

    It diverges where sigma goes to 0: train with a schedule that has some noise at t = 0.

    References:
        Maximum Likelihood Training of Score-Based Diffusion Models (Song et al., 2021), theorem 1.
        https://arxiv.org/abs/2101.09258
        Variational Diffusion Models (Kingma et al., 2021), section 4. https://arxiv.org/abs/2107.00630
    """

    def common(self, at: Level) -> Any:
        return _turn(at)


@frozen()
class Sigmoid(Weighting):
    r"""The variational bound of noisy data: most of the weight lies below a log-SNR of `bias`.

    .. math::
        w_\epsilon = -\frac12 \frac{d\lambda}{dt} \operatorname{sigmoid}(b - \lambda), \qquad
        w_{x_0} = -\frac12 \frac{d\lambda}{dt}\, e^b \operatorname{sigmoid}(\lambda - b)

    With uniform times, the factor :math:`d\lambda / dt` makes the expected loss independent of the
    schedule.

    Arguments:
        bias: b, a log-SNR; higher values give more weight to fine detail.

    References:
        Understanding Diffusion Objectives as the ELBO (Kingma & Gao, 2023).
        https://arxiv.org/abs/2303.00848
        Simpler Diffusion (Hoogeboom et al., 2024). https://arxiv.org/abs/2410.19324
    """

    bias: float

    def common(self, at: Level) -> Any:
        noise = math.exp(self.bias) * at.sigma**2
        return _turn(at) * noise / (at.alpha**2 + noise)


@frozen(width="(0, inf)")
class PseudoHuber(Weighting):
    r"""The pseudo-Huber loss of x0, which heeds outliers less than the squared error does.

    .. math:: L = \sqrt{w_{x_0}}\, \bigl(\sqrt{e + c^2} - c\bigr), \qquad
        e = \lVert x_0 - \hat x_0 \rVert^2 / \dim

    e is a mean over the item, so that c does not depend on its size. The paper has a sum, and c times the
    square root of the dimension: its loss is this one times that root.

    Arguments:
        width: c: errors far below it count by their square, errors far above it by their size.
        weighting: The weighting of the squared error, as for :class:`LearnedUncertainty`, whose weight of
            x0 is w; None is a weight of 1. With ``Unit("eps")`` its root is alpha / sigma.

    Raises:
        ValueError: If the width is not positive, or the weighting is none that is defined for x0.

    References:
        Improved Techniques for Training Consistency Models (Song & Dhariwal, 2024), section 3.3.
        https://arxiv.org/abs/2310.14189
    """

    width: float = 5.4e-4
    weighting: Weighting | None = None

    def __post_init__(self) -> None:
        if self.weighting is not None:
            hint = "a weighting of a fixed target, such as MinSNR()"
            check_kind(Weighting, hint, weighting=self.weighting)
            if type(self.weighting).common is Weighting.common:
                raise ValueError(f"weighting is {self.weighting}; give {hint}.")

    def weigh(self, error: Tensor, at: Level, target: Target) -> Tensor:
        of_x0 = (_inside(at).sigma / _det(target, _inside(at))) ** 2
        error = of_x0.to(error.dtype) * error
        size = error / (
            (error + self.width**2).sqrt() + self.width
        )  # no difference of near numbers
        if self.weighting is None:
            return size
        return self.weighting.of("x0", at).sqrt().to(error.dtype) * size


class LearnedUncertainty(ExactBuffers, Weighting):
    r"""Divide a weighted loss by its expected value at each noise level, which is learned.

    .. math:: L' = \frac{L}{\exp u(\lambda)} + u(\lambda)

    u is linear in Fourier features of the log-SNR and starts as 0. L' is minimal where exp(u) is the
    expected L, so that the loss of every level approaches 1 and no level dominates the others. u is part
    of the diffusion's parameters, and is not needed after training.

    Arguments:
        weighting: The weighting of the loss L: any weighting, a function of the log-SNR, or None.
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
        check_whole("[2, inf)", features=features)
        if features % 2:
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
        angles = logsnr[:, None] * self.frequencies
        features = math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], 1)
        u: Tensor = self.linear(features.to(self.linear.weight.dtype))
        return u[:, 0]

    def weigh(self, error: Tensor, at: Level, target: Target) -> Tensor:
        # some schedules end at infinity
        u = self(_inside(at).logsnr.clamp(-40, 40)).to(error.dtype)
        loss = self.weighting.weigh(error, at, target)
        # an item of dimension 0 has an error of 0 and carries no information about its level
        return torch.where(error == 0, 0.0, loss * torch.exp(-u) + u)
