r"""What a network predicts, and how x0 and eps follow from it.

With :math:`x_t = \alpha x_0 + \sigma \epsilon`, every prediction type is a pair of coefficients,

.. math:: y = a\, x_0 + b\, \epsilon,

so that one 2 x 2 system gives x0 and eps from any output y:

.. math::
    \Delta = \alpha b - \sigma a, \qquad
    \hat x_0 = (b\, x_t - \sigma\, y) / \Delta, \qquad
    \hat \epsilon = (\alpha\, y - a\, x_t) / \Delta.

A :class:`Predictor` is a network bound to its batch, to its space and conditions, that answers with
a :class:`Prediction`. Samplers, guidance and editing see nothing else of a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from anydiff.schedules import Schedule
from anydiff.spaces import Space

__all__ = ["PREDICTIONS", "Coefficients", "Prediction", "Predictor", "coefficients"]

Coefficients = Callable[[Tensor, Tensor], tuple[Tensor | float, Tensor | float]]

PREDICTIONS: dict[str, Coefficients] = {
    "eps": lambda alpha, sigma: (0.0, 1.0),
    "x0": lambda alpha, sigma: (1.0, 0.0),
    # Progressive Distillation (Salimans & Ho, 2022), appendix D. https://arxiv.org/abs/2202.00512
    "v": lambda alpha, sigma: (-sigma, alpha),
}


def coefficients(prediction: str, schedule: Schedule) -> Coefficients:
    """The two coefficients of a prediction type, (alpha, sigma) -> (a, b).

    Raises:
        ValueError: If the type is unknown, or says nothing of x0 at the schedule's noisy end.
    """
    if prediction not in PREDICTIONS:
        known = ", ".join(PREDICTIONS)
        raise ValueError(f"prediction is {prediction!r}; choose one of {known}.")

    pair = PREDICTIONS[prediction]
    alpha, sigma = schedule(torch.ones((), dtype=torch.float64))
    a, b = pair(alpha, sigma)
    if abs(float(alpha * b - sigma * a)) < 1e-6:
        raise ValueError(
            f"prediction {prediction!r} does not determine x0 where {schedule} ends, at alpha = "
            f"{float(alpha):.3g} and sigma = {float(sigma):.3g}; use 'v' or 'x0', or a schedule "
            "that ends above pure noise."
        )
    return pair


def _combine(c: Tensor | float, x: Tensor, d: Tensor | float, y: Tensor) -> Tensor:
    """c x + d y, in the fewest operations."""
    if isinstance(c, Tensor) or isinstance(d, Tensor):
        return c * x + d * y
    if c == 0:
        return y if d == 1 else d * y
    if d == 0:
        return x if c == 1 else c * x
    return (c * x).add_(y, alpha=d)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network said of x_t: an output y with its coefficients, from which the rest follows.

    alpha, sigma, a and b are floats, or tensors that broadcast with x_t. Nothing is computed until
    it is asked for.
    """

    x_t: Tensor
    y: Tensor
    a: Tensor | float
    b: Tensor | float
    alpha: Tensor | float
    sigma: Tensor | float

    def at(self, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """The predicted state at another noise level, alpha x0 + sigma eps."""
        det = self.alpha * self.b - self.sigma * self.a
        c = (alpha * self.b - sigma * self.a) / det
        d = (self.alpha * sigma - self.sigma * alpha) / det
        return _combine(c, self.x_t, d, self.y)

    @cached_property
    def x0(self) -> Tensor:
        """The predicted data, shaped like x_t."""
        return self.at(1.0, 0.0)

    @cached_property
    def eps(self) -> Tensor:
        """The predicted noise, shaped like x_t."""
        return self.at(0.0, 1.0)

    @cached_property
    def v(self) -> Tensor:
        """alpha eps - sigma x0, shaped like x_t."""
        return self.at(-self.sigma, self.alpha)

    @cached_property
    def score(self) -> Tensor:
        """The gradient of log p(x_t), -eps / sigma, shaped like x_t."""
        return self.at(0.0, -1 / self.sigma)


@dataclass(frozen=True, eq=False)
class Predictor:
    """A network bound to its batch, converted to x0 and eps.

    Arguments:
        network: (x_t, t) -> y, where t is (B,).
        coefficients: (alpha, sigma) -> (a, b), see :data:`PREDICTIONS`.
        schedule: The schedule that the network was trained with.
        space: The batch's space.
    """

    network: Callable[[Tensor, Tensor], Tensor]
    coefficients: Coefficients
    schedule: Schedule
    space: Space

    def predict(
        self, x_t: Tensor, t: Tensor | float, level: tuple[float, float] | None = None
    ) -> Prediction:
        """What the network says of x_t.

        Arguments:
            x_t: The noisy state, in the space.
            t: The time, (B,) or one for all.
            level: (alpha_t, sigma_t) where they are known beforehand, as in a sampler's plan; the
                schedule is then not asked.
        """
        if not isinstance(t, Tensor) or t.ndim == 0:
            t = torch.as_tensor(t, dtype=x_t.dtype, device=x_t.device).expand(
                len(self.space.dim(x_t))
            )
        alpha: Tensor | float
        sigma: Tensor | float
        if level is None:
            alpha, sigma = (self.space.expand(c, x_t) for c in self.schedule(t))
        else:
            alpha, sigma = level
        a, b = self.coefficients(alpha, sigma)  # type: ignore[arg-type]
        return Prediction(x_t, self.network(x_t, t), a, b, alpha, sigma)
