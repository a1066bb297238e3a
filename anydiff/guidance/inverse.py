"""Guidance towards data that would have given a measurement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from anydiff.checks import check_choice, check_range
from anydiff.guidance.guided import Scale, towards, wide
from anydiff.predictions import Prediction, Predictor
from anydiff.schedules import Level
from anydiff.spaces import DENSE, Space

__all__ = ["dps", "pigdm"]

Operator = Callable[[Tensor], Tensor]


def dps(
    predictor: Predictor,
    operator: Operator,
    y: Tensor,
    *,
    noise: float | None = None,
    scale: Scale = 1.0,
    chain: int = 1000,
    measured: Space = DENSE,
) -> Predictor:
    r"""Diffusion posterior sampling: towards data that would have been measured as y = A(x0) + noise.

    .. math::
        - \frac{w}{2 \sigma_y^2} \nabla_{x_t} \lVert y - A(\hat x_0) \rVert^2
        \qquad\text{or}\qquad
        - \frac{w\, T}{g_t^2} \nabla_{x_t} \lVert y - A(\hat x_0) \rVert

    The first is Bayes' rule as if x0 were certain, given x_t. The second is the published step,
    :math:`\zeta = w` in each of the T steps of a chain, as a term of the score, whatever the sampler:
    such a step moves x by :math:`g_t^2 / T` times the score, g² being the SDE's diffusion. (The gradient
    is of the norm, as in the authors' code; the paper's text has that of its square over the norm, which
    is twice as much.) Norms are of single items.

    Either is too sure of x0 amid the noise: for a small :math:`\sigma_y`, or a large w, few steps
    overshoot and may run away. :func:`pigdm` does not, for linear A.

    Arguments:
        operator: A, of any kind that autograd can follow, linear or not.
        y: What was measured.
        noise: The deviation :math:`\sigma_y` of y. The published step if None.
        scale: w.
        chain: T.
        measured: The space of y, for its sums over items: (B, \*) if nothing else is said.

    Raises:
        ValueError: If noise is not above 0.

    References:
        Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023),
        algorithm 1. https://arxiv.org/abs/2209.14687
    """
    if noise is not None:
        check_range("(0, inf)", noise=noise)

    def term(x: Tensor, at: Level) -> tuple[Prediction, Tensor]:
        p = predictor.predict(x, at)
        squares = measured.sum(wide(measured.project(y - operator(p.x0))).square())
        if noise is not None:
            return p, squares / (-2 * noise**2)
        return p, -(squares + 1e-12).sqrt() * (chain / at.diffusion2)

    return towards(predictor, term, scale)


def pigdm(
    predictor: Predictor,
    operator: Operator,
    y: Tensor,
    *,
    noise: float = 0.0,
    scale: Scale = 1.0,
    std: float = 1.0,
    covariance: Literal["isotropic", "tweedie"] = "isotropic",
    iterations: int = 1,
    measured: Space = DENSE,
) -> Predictor:
    r"""Pseudoinverse guidance: a linear measurement y = A x0 + noise, and x0 uncertain given x_t.

    .. math::
        \Bigl(\frac{\partial \hat x_0}{\partial x_t}\Bigr)^{\!\top} A^\top
        \bigl(A V A^\top + \sigma_y^2 I\bigr)^{-1} (y - A \hat x_0)

    V, the covariance of x0 given x_t, is that of white data, :math:`s^2 \sigma^2 / (\alpha^2 s^2 +
    \sigma^2)`, or Tweedie's, :math:`(\sigma^2 / \alpha)\, \partial \hat x_0 / \partial x_t`. With the
    latter it is exact for any normal data. The system is solved for each item by conjugate gradients, and
    its solution is a constant to a guidance around this one.

    Arguments:
        operator: A, linear.
        y: What was measured, in the range of A: where A is a mask, zero outside.
        noise: The deviation :math:`\sigma_y` of y; 0 for an exact measurement.
        scale: w, which multiplies the term.
        std: s, the deviation of the data.
        covariance: Which V. Tweedie's costs a backward pass of the network for each iteration.
        iterations: Of conjugate gradients. One is enough where :math:`A A^\top` is a multiple of the
            identity, as for masks and averages of blocks, and V isotropic.
        measured: The space of y, for its sums over items: (B, \*) if nothing else is said.

    Raises:
        ValueError: If an argument is not one of its choices or lies outside its range.

    References:
        Pseudoinverse-Guided Diffusion Models for Inverse Problems (Song et al., 2023).
        https://openreview.net/forum?id=9_gsMA8MRKQ
        Learning Diffusion Priors from Observations by EM (Rozet et al., 2024), section 4.2, of Tweedie's
        covariance and conjugate gradients. https://arxiv.org/abs/2405.13712
    """
    check_range("[0, inf)", noise=noise)
    check_range("(0, inf)", std=std)
    check_range("[1, inf)", iterations=iterations)
    check_choice(("isotropic", "tweedie"), covariance=covariance)

    def term(x: Tensor, at: Level) -> tuple[Prediction, Tensor]:
        p = predictor.predict(x, at)
        alpha, sigma = p.alpha, p.sigma
        seen = operator(p.x0)
        residual = measured.project(y - seen).detach()

        def transposed(u: Tensor) -> Tensor:
            (back,) = torch.autograd.grad(seen, p.x0, u, retain_graph=True)
            return predictor.space.project(back)

        def spread(v: Tensor) -> Tensor:
            if covariance == "isotropic":
                return torch.mul(v, std**2 * sigma**2 / (alpha**2 * std**2 + sigma**2))
            (back,) = torch.autograd.grad(p.x0, x, v, retain_graph=True)
            return torch.mul(predictor.space.project(back), sigma**2 / alpha)

        def matrix(u: Tensor) -> Tensor:
            with torch.no_grad():
                return operator(spread(transposed(u))) + noise**2 * u

        u = _conjugate_gradients(matrix, residual, iterations, measured)
        return p, measured.sum(u * seen)  # its gradient: J^T A^T u

    return towards(predictor, term, scale)


def _conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int, space: Space
) -> Tensor:
    """The solution of matrix u = b, for each item by itself; the matrix is positive semidefinite."""

    def dot(x: Tensor, y: Tensor) -> Tensor:
        return space.sum(x * y)

    def ratio(x: Tensor, y: Tensor) -> Tensor:  # an item that is solved stays
        return torch.where(y > 0, x / y, 0.0)

    u = torch.zeros_like(b)
    r = direction = b
    rr = dot(r, r)
    for k in range(iterations):
        m = matrix(direction)
        step = space.expand(ratio(rr, dot(direction, m)), b)
        u, r = u + step * direction, r - step * m
        if k + 1 < iterations:
            rr, before = dot(r, r), rr
            direction = r + space.expand(ratio(rr, before), b) * direction
    return u
