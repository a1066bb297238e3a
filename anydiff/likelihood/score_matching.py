r"""Objectives for models that are given as a score: x -> s(x), the gradient of log p(x).

No noise level, schedule or prediction type is needed: data from p and a function that is to become its
score. Hyvärinen's objective is the squared distance to the true score less a constant,

.. math::
    J = \mathbb E_p\bigl[\tfrac12 \lVert s(x) \rVert^2 + \operatorname{tr} \nabla s(x)\bigr]
      = \tfrac12 \mathbb E_p \lVert s(x) - \nabla \log p(x) \rVert^2 + \text{const}

:func:`exact` takes the trace, :func:`sliced` estimates it along random directions, :func:`denoising`
needs no derivative and learns the score of data with a little noise added. The norm, the trace and the
directions are those of the space. Each returns (B,), not divided by the dimension, to be minimised in
the mean. A score has to treat the items of a batch apart: with batch norm these derivatives are wrong.
To train by the first two it has to be differentiable twice, which fused layers and flash attention are
not; the third trains any network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from anydiff.checks import check_range
from anydiff.likelihood.traces import basis, divergence, ranks
from anydiff.spaces import DENSE, Random, Space

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

    Its scale goes as sigma⁻²; multiply by sigma² to let several levels count alike.

    Arguments:
        score: x -> score, or (x, t) -> score, shaped like x.
        x: Data; the part outside the space is dropped.
        sigma: The noise's deviation, positive, one for all or (B,).
        t: Given to the score if not None, (B,).
        noise: The eps to use, in the space. Drawn if None.
        generator: Where noise comes from: one generator, or one per item.

    References:
        A Connection Between Score Matching and Denoising Autoencoders (Vincent, 2011), section 4.
        https://doi.org/10.1162/NECO_a_00142
    """
    x = space.project(x)
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
    r"""Sliced score matching: an unbiased estimate of :func:`exact` for one backward pass, (B,).

    .. math:: L = \tfrac12 \lVert s(x) \rVert^2 + v^\top \nabla s(x)\, v, \qquad v \sim N(0, I)

    Arguments:
        score: x -> score, or (x, t) -> score, shaped like x; differentiable twice if it is trained.
        x: Data; the part outside the space is dropped.
        t: Given to the score if not None, (B,).
        projections: Directions v for each item, whose estimates are averaged.
        variance_reduced: With the norm of s itself, as above; without, :math:`\tfrac12 (v^\top s)^2`
            stands in its place, as in the general form.
        generator: Where the directions come from: one generator, or one per item.

    Raises:
        ValueError: If projections is below 1.

    References:
        Sliced Score Matching (Song et al., 2019), section 3. https://arxiv.org/abs/1905.07088
    """
    check_range("[1, inf)", projections=projections)
    x = space.project(x)
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
    r"""Score matching with the whole trace: one backward pass for each entry of the largest item, (B,).

    .. math:: L = \tfrac12 \lVert s(x) \rVert^2 + \operatorname{tr}(P\, \nabla s(x)\, P)

    where P is the projection onto the space.

    Arguments:
        score: x -> score, or (x, t) -> score, shaped like x; differentiable twice if it is trained.
        x: Data; the part outside the space is dropped.
        t: Given to the score if not None, (B,).
        chunk_size: How many directions go back through the score at once, where autograd can vectorise
            each of the network's operations; one after the other where it cannot.

    Raises:
        ValueError: If chunk_size is below 1.

    References:
        Estimation of Non-Normalized Statistical Models by Score Matching (Hyvärinen, 2005), eq. 4.
        https://jmlr.org/papers/v6/hyvarinen05a.html
    """
    check_range("[1, inf)", chunk_size=chunk_size)
    x = space.project(x)
    axes = basis(x, space, *ranks(x, space), chunk_size)
    s, turn = divergence(_bound(score, t, space), x, axes, torch.is_grad_enabled())
    return 0.5 * space.sum(s.square()) + space.sum(turn)


def _bound(score: Score, t: Tensor | None, space: Space) -> Callable[[Tensor], Tensor]:
    """The score as a function of x alone, within the space."""
    return lambda x: space.project(score(x) if t is None else score(x, t))
