r"""Score matching: objectives that train a function s(x) to be the score, the gradient of log p(x).

They need only samples of p and the function s: no noise level, schedule or prediction target. Hyvärinen's
objective is the expected squared distance to the true score, up to a constant,

.. math::
    J = \mathbb E_p\bigl[\tfrac12 \lVert s(x) \rVert^2 + \operatorname{tr} \nabla s(x)\bigr]
      = \tfrac12 \mathbb E_p \lVert s(x) - \nabla \log p(x) \rVert^2 + \text{const}

:func:`exact` computes the trace, :func:`sliced` estimates it along random directions, and
:func:`denoising` needs no derivative of s and learns the score of the data with a little noise added. The
norm, the trace and the directions are those of the space. Each function returns a loss per item, (B,),
not divided by the dimension; minimise its mean. The score of an item must not depend on the other items
of the batch: with batch norm these derivatives are wrong. Training with the first two needs a network
that is twice differentiable, which fused layers and flash attention are not; the third trains any
network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from anydiff.checks import check_floating, check_kind, check_range, check_shape, check_whole
from anydiff.likelihood.traces import basis, divergence, ranks
from anydiff.spaces import DENSE, Random, Space, check_space

__all__ = ["denoising", "exact", "sliced"]

Score = Callable[..., Tensor]  # x -> score, or (x, t) -> score


def denoising(
    score: Score,
    x: Tensor,
    sigma: Tensor | float,
    t: Tensor | None = None,
    *,
    space: Space = DENSE,
    noise: Tensor | None = None,
    generator: Random = None,
) -> Tensor:
    r"""Denoising score matching: the score of the data with noise added, (B,).

    .. math:: L = \tfrac12 \Bigl\lVert s(x + \sigma \epsilon) + \frac{\epsilon}{\sigma} \Bigr\rVert^2

    The loss scales as sigma⁻²; multiply by sigma² to give several levels the same weight.

    Arguments:
        score: x -> score, or (x, t) -> score, shaped like x.
        x: Data, which are projected onto the space first.
        sigma: The standard deviation of the noise, positive; one for all, or (B,).
        t: Times that are passed to the score if not None, (B,).
        space: The batch's space.
        noise: The eps to use, in the space. Drawn if None.
        generator: The source of noise: one generator, or one per item.

    Raises:
        ValueError: If an argument has not the stated form.

    References:
        A Connection Between Score Matching and Denoising Autoencoders (Vincent, 2011), section 4.
        https://doi.org/10.1162/NECO_a_00142
    """
    x = _checked(score, x, space)
    check_shape(x.shape, "draw it with space.noise(x)", x.dtype, noise=noise)
    if isinstance(sigma, Tensor) and sigma.ndim:
        check_shape((space.items(x),), "give one for each item, or one for all", sigma=sigma)
    else:
        check_range("(0, inf)", sigma=sigma)  # type: ignore[arg-type]
    eps = space.noise(x, generator) if noise is None else noise
    sigma = space.expand(sigma, x)  # type: ignore[type-var]
    s = _bound(score, t, space)(x + sigma * eps)
    return 0.5 * space.sum((s + eps / sigma).square())


def sliced(
    score: Score,
    x: Tensor,
    t: Tensor | None = None,
    *,
    projections: int = 1,
    variance_reduced: bool = True,
    space: Space = DENSE,
    generator: Random = None,
) -> Tensor:
    r"""Sliced score matching: an unbiased estimate of :func:`exact` from one backward pass, (B,).

    .. math:: L = \tfrac12 \lVert s(x) \rVert^2 + v^\top \nabla s(x)\, v, \qquad v \sim N(0, I)

    Arguments:
        score: x -> score, or (x, t) -> score, shaped like x; twice differentiable if it is trained.
        x: Data, which are projected onto the space first.
        t: Times that are passed to the score if not None, (B,).
        projections: The number of directions v per item, over which the estimate is averaged.
        variance_reduced: Use the norm of s, as above. If False, the first term is
            :math:`\tfrac12 (v^\top s)^2`, the general form of the paper.
        space: The batch's space.
        generator: The source of the directions: one generator, or one per item.

    Raises:
        ValueError: If projections is below 1, or if an argument has not the stated form.

    References:
        Sliced Score Matching (Song et al., 2019), section 3. https://arxiv.org/abs/1905.07088
    """
    check_whole("[1, inf)", projections=projections)
    x = _checked(score, x, space)
    directions = torch.stack([space.noise(x, generator) for _ in range(projections)])
    graph = torch.is_grad_enabled()
    s, turn = divergence(_bound(score, t, space), x, torch.split(directions, 1), graph)
    if variance_reduced:
        size = space.sum(s.square())
    else:
        size = torch.stack([space.sum(v * s).square() for v in directions]).mean(0)
    return 0.5 * size + space.sum(turn) / projections


def exact(
    score: Score, x: Tensor, t: Tensor | None = None, *, space: Space = DENSE, chunk_size: int = 1
) -> Tensor:
    r"""Score matching with the exact trace: one backward pass per entry of the largest item, (B,).

    .. math:: L = \tfrac12 \lVert s(x) \rVert^2 + \operatorname{tr}(P\, \nabla s(x)\, P)

    where P is the projection onto the space.

    Arguments:
        score: x -> score, or (x, t) -> score, shaped like x; twice differentiable if it is trained.
        x: Data, which are projected onto the space first.
        t: Times that are passed to the score if not None, (B,).
        space: The batch's space.
        chunk_size: The number of directions per backward pass. They are batched if autograd can vectorise
            all operations of the network, and computed one after the other if not.

    Raises:
        ValueError: If chunk_size is below 1, or if an argument has not the stated form.

    References:
        Estimation of Non-Normalized Statistical Models by Score Matching (Hyvärinen, 2005), eq. 4.
        https://jmlr.org/papers/v6/hyvarinen05a.html
    """
    check_whole("[1, inf)", chunk_size=chunk_size)
    x = _checked(score, x, space)
    axes = basis(x, space, *ranks(x, space), chunk_size)
    s, turn = divergence(_bound(score, t, space), x, axes, torch.is_grad_enabled())
    return 0.5 * space.sum(s.square()) + space.sum(turn)


def _checked(score: Score, x: Tensor, space: Space) -> Tensor:
    """The data, checked and projected onto the space."""
    check_kind(Callable, "a function of x", score=score)
    check_space(space=space)
    check_floating(x=x)
    return space.project(x)


def _bound(score: Score, t: Tensor | None, space: Space) -> Callable[[Tensor], Tensor]:
    """The score as a function of x alone, within the space."""
    if t is not None:
        check_shape((None,), "give one time for each item", t=t)
    return lambda x: space.project(score(x) if t is None else score(x, t))
