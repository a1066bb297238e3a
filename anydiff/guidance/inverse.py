"""Guidance for inverse problems: towards data that agree with a measurement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from anydiff.checks import check_choice, check_floating, check_kind, check_range, check_whole
from anydiff.guidance.guided import Scale, towards, wide
from anydiff.predictions import Prediction, Predictor, check_predictor
from anydiff.schedules import Level
from anydiff.spaces import DENSE, Space, check_space

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
    r"""Diffusion posterior sampling: towards data that agree with a measurement y = A(x0) + noise.

    .. math::
        - \frac{w}{2 \sigma_y^2} \nabla_{x_t} \lVert y - A(\hat x_0) \rVert^2
        \qquad\text{or}\qquad
        - \frac{w\, T}{g_t^2} \nabla_{x_t} \lVert y - A(\hat x_0) \rVert

    The first is Bayes' rule with x0 taken as known exactly given x_t. The second is the published step,
    :math:`\zeta = w` in each of the T steps of a chain, written as a term of the score, so that it works
    with every sampler: a step of the chain moves x by :math:`g_t^2 / T` times the score, where g² is the
    diffusion of the SDE. (The gradient is that of the norm, as in the authors' code; the formula of the
    paper is twice as large.) Norms are computed for each item.

    Both neglect the uncertainty of x0 at high noise. The first is bounded, so that it moves x0 no further
    than to the measurement: :math:`\sigma_y^2 / w` is at least the variance of A(x0) given x_t in the
    direction of the residual r,

    .. math::
        \frac{r^\top A V A^\top r}{r^\top r}, \qquad
        V = \frac{\sigma^2}{\alpha} \frac{\partial \hat x_0}{\partial x_t}

    where V is the covariance of x0 given x_t (Tweedie); for normal data, a larger step would turn the
    residual round. The published step is not bounded: with fewer steps than T, or a large w, it
    overshoots.

    Arguments:
        predictor: The model, bound to its batch.
        operator: A, linear or not, differentiable by autograd.
        y: The measurement, of the shape of A(x0).
        noise: The standard deviation :math:`\sigma_y` of y. None uses the published step.
        scale: w.
        chain: T.
        measured: The space of y, for sums over its items; (B, \*) by default.

    Raises:
        ValueError: If noise is not above 0, if y has not the shape of A(x0) or is not finite, or if an
            argument is not of its kind.

    References:
        Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023),
        algorithm 1. https://arxiv.org/abs/2209.14687
    """
    if noise is not None:
        check_range("(0, inf)", noise=noise)
    check_whole("[1, inf)", chain=chain)
    residual = _residual(predictor, operator, y, measured)

    def term(x: Tensor, at: Level) -> tuple[Prediction, Tensor]:
        p = predictor.predict(x, at)
        squares = measured.sum(wide(residual(operator(p.x0))).square())
        if noise is not None:
            return p, squares / (-2 * noise**2)
        return p, -(squares + 1e-12).sqrt() * (chain / at.diffusion2)

    return towards(predictor, term, scale, bounded=noise is not None)


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
    r"""Pseudoinverse guidance for a linear measurement y = A x0 + noise, with uncertainty of x0.

    .. math::
        \Bigl(\frac{\partial \hat x_0}{\partial x_t}\Bigr)^{\!\top} A^\top
        \bigl(A V A^\top + \sigma_y^2 I\bigr)^{-1} (y - A \hat x_0)

    V, the covariance of x0 given x_t, is that of white data, :math:`s^2 \sigma^2 / (\alpha^2 s^2 +
    \sigma^2)`, or Tweedie's, :math:`(\sigma^2 / \alpha)\, \partial \hat x_0 / \partial x_t`, with which
    the guidance is exact for all normal data. The linear system is solved for each item by conjugate
    gradients; an outer guidance treats the solution as a constant.

    Arguments:
        predictor: The model, bound to its batch.
        operator: A, linear, up to a constant. Before the first step it is called with other states, to
            find the constant, and that there is nothing else.
        y: The measurement, in the range of A: zero outside the mask if A is a mask.
        noise: The standard deviation :math:`\sigma_y` of y; 0 for an exact measurement.
        scale: w, which multiplies the term.
        std: s, the standard deviation of the data, for the isotropic V.
        covariance: ``"isotropic"`` or ``"tweedie"``, the form of V. Tweedie's takes one backward pass of
            the network per iteration.
        iterations: The number of conjugate-gradient iterations. One is enough if V is isotropic and
            :math:`A A^\top` is a multiple of the identity, as for masks and averages of blocks.
        measured: The space of y, for sums over its items; (B, \*) by default.

    Raises:
        ValueError: If an argument is not one of its choices or lies outside its range, if y has not the
            shape of A(x0) or is not finite, or if A is not linear; :func:`dps` takes any.

    References:
        Pseudoinverse-Guided Diffusion Models for Inverse Problems (Song et al., 2023).
        https://openreview.net/forum?id=9_gsMA8MRKQ
        Learning Diffusion Priors from Observations by EM (Rozet et al., 2024), section 4.2, on Tweedie's
        covariance and conjugate gradients. https://arxiv.org/abs/2405.13712
    """
    check_range("[0, inf)", noise=noise)
    check_range("(0, inf)", std=std)
    check_whole("[1, inf)", iterations=iterations)
    check_choice(("isotropic", "tweedie"), covariance=covariance)
    residual = _residual(predictor, operator, y, measured)
    constants: dict[torch.Size, Tensor | None] = {}  # one, of the batch's shape

    def term(x: Tensor, at: Level) -> tuple[Prediction, Tensor]:
        p = predictor.predict(x, at)
        alpha, sigma = p.alpha, p.sigma
        seen = operator(p.x0)
        rest = residual(seen).detach()
        if x.shape not in constants:
            constants[x.shape] = _constant(operator, x, predictor.space)
        constant = constants[x.shape]

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
                spreading = operator(spread(transposed(u)))
                if constant is not None:
                    spreading = spreading - constant
                return spreading + noise**2 * u

        u = _conjugate_gradients(matrix, rest, iterations, measured)
        return p, measured.sum(u * seen)  # its gradient: J^T A^T u

    return towards(predictor, term, scale)


def _residual(
    predictor: Predictor, operator: Operator, y: Tensor, measured: Space
) -> Callable[[Tensor], Tensor]:
    """The function A(x0) -> y - A(x0) in the space of y, of measurements that are checked."""
    check_predictor(predictor=predictor)
    check_kind(Callable, "a function of x0", operator=operator)
    check_space(measured=measured)
    check_floating(y=y)
    if not measured.project(y).isfinite().all():
        raise ValueError("y is not finite; leave unknown values out by a mask in the operator.")

    def residual(seen: Tensor) -> Tensor:
        check_kind(Tensor, "a tensor of the shape of y", **{"what the operator gives": seen})
        if not seen.requires_grad:
            raise ValueError(
                "what the operator gives has no gradient; compute it from x0 by operations of PyTorch, "
                "without detach."
            )
        if seen.shape != y.shape:
            raise ValueError(
                f"y is {tuple(y.shape)} and the operator gives {tuple(seen.shape)}; give a measurement "
                "for each item."
            )
        return measured.project(y.to(seen.dtype) - seen)

    return residual


@torch.no_grad()
def _constant(operator: Operator, x: Tensor, space: Space) -> Tensor | None:
    """A(0) of an affine A, None if it is 0; x gives the shape, dtype and device."""
    if not x.numel():
        return None
    generator = torch.Generator(x.device).manual_seed(0x5EED)  # not what a run is seeded by
    u, v = space.noise(x, generator), space.noise(x, generator)
    constant, *parts = (operator(z) for z in (torch.zeros_like(x), u, v, -(u + v)))
    away = wide(torch.stack(parts).sum(0) - 3 * constant).abs().max()
    size = max(wide(part).abs().max() for part in (constant, *parts))
    if not away <= size * torch.finfo(x.dtype).eps ** 0.5:
        raise ValueError(
            f"the operator is not linear: A(u) + A(v) + A(-u-v) - 3 A(0) is {away:.3g}; use dps."
        )
    return constant if constant.any() else None


def _conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int, space: Space
) -> Tensor:
    """Solve matrix u = b for each item separately; the matrix is positive semi-definite."""

    def dot(x: Tensor, y: Tensor) -> Tensor:
        return space.sum(x * y)

    def ratio(x: Tensor, y: Tensor) -> Tensor:  # an item that is solved is not changed
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
