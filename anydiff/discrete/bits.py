r"""Bounds of :math:`-\log p(x_0)` of tokens: in continuous time, and of a chain of T steps.

The bound of a chain is that of the model whose steps are those of :class:`~anydiff.discrete.Ancestral`;
for more steps it tends to that in continuous time, which the loss is a part of.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_whole
from anydiff.discrete.answers import Answer, drawn, tokens_in
from anydiff.discrete.categorical import CategoricalDiffusion
from anydiff.discrete.samplers import alphas
from anydiff.samplers.loop import evaluating
from anydiff.spaces import DENSE, Random, Space
from anydiff.spaces.draws import uniforms

__all__ = ["bits_per_token", "chain_bound", "chain_terms", "continuous_bound", "prior_terms"]


def prior_terms(diffusion: CategoricalDiffusion, x0: Tensor, space: Space = DENSE) -> Tensor:
    """The divergence of x_1 from the stationary distribution, nats of each item, (B,).

    Arguments:
        diffusion: The model.
        x0: One-hot data.
        space: The batch's space.
    """
    alpha = alphas(diffusion.schedule, torch.ones(1, dtype=torch.float64))[0]
    q = diffusion.forgotten(x0, alpha, space)
    shape = [1] * x0.ndim
    shape[diffusion.axis] = diffusion.kernel.states
    log_p = diffusion.kernel.stationary(q).log().reshape(shape)
    # a state that is never reached at last has no share of q either, but where some data survive
    terms = torch.where(q > 0, q * (q.clamp(min=1e-300).log() - log_p), 0)
    return space.sum(space.project(terms))


@torch.no_grad()
def continuous_bound(
    diffusion: CategoricalDiffusion,
    x0: Tensor,
    *,
    space: Space = DENSE,
    draws: int = 32,
    generator: Random = None,
    **cond: Any,
) -> Tensor:
    """The bound in continuous time, nats of each item, (B,): of random times, stratified.

    With a schedule whose alpha is not 0 at t = 1, an absorbing kernel has no finite bound: give `Flow()`
    or another that ends at 0.

    Arguments:
        diffusion: The model.
        x0: One-hot data.
        space: The batch's space.
        draws: Times for each item.
        generator: The source of times and noise.
        cond: Conditions, by name.

    Raises:
        ValueError: If `draws` is below 1.
    """
    check_whole("[1, inf)", draws=draws)
    B = space.items(x0)
    total = x0.new_zeros(B)
    order = uniforms(1, B, x0, generator)[0].to(x0)
    with evaluating([diffusion]):
        for k in range(draws):
            t = (k + (order + k * 0.618033988749895) % 1) / draws  # one in each stratum
            total += diffusion.loss(x0, t, space=space, generator=generator, **cond)
    tokens = tokens_in(x0, space, diffusion.kernel)
    return total / draws * tokens + prior_terms(diffusion, x0, space)


def bits_per_token(diffusion: CategoricalDiffusion, x0: Tensor, **options: Any) -> Tensor:
    """The bound in continuous time, in bits for a token, (B,).

    Arguments:
        diffusion: The model.
        x0: One-hot data.
        options: Of :func:`continuous_bound`.
    """
    space = options.get("space", DENSE)
    nats = continuous_bound(diffusion, x0, **options)
    return nats / tokens_in(x0, space, diffusion.kernel) / math.log(2)


def chain_terms(predictor: Answer, x0: Tensor, x_t: Tensor, t: float, s: float) -> Tensor:
    r"""The divergence of a step of ancestral sampling from :math:`q(x_s | x_t, x_0)`, nats, (B,).

    For s = 0 it is :math:`-\log p(x_0 | x_t)`.

    Arguments:
        predictor: The model.
        x0: One-hot data.
        x_t: The state at t, one-hot.
        t: The time.
        s: The time after the step.
    """
    axis, kernel = predictor.axis, predictor.kernel
    alpha_t, alpha_s = alphas(predictor.schedule, torch.tensor([t, s], dtype=torch.float64))
    times = torch.full((predictor.space.items(x0),), t, dtype=x_t.dtype, device=x_t.device)
    pi = predictor(x_t, times).exp().movedim(axis, -1)
    seen = kernel.backward(x_t.movedim(axis, -1), alpha_t / alpha_s)
    true, model = (_normal(kernel.forward(p, alpha_s) * seen) for p in (x0.movedim(axis, -1), pi))
    terms = torch.where(true > 0, true * (true.clamp(min=1e-300) / model).log(), 0)
    return predictor.space.sum(predictor.space.project(terms.movedim(-1, axis)))


@torch.no_grad()
def chain_bound(
    diffusion: CategoricalDiffusion,
    x0: Tensor,
    steps: int,
    *,
    space: Space = DENSE,
    generator: Random = None,
    **cond: Any,
) -> Tensor:
    """The bound of the chain of some ancestral steps, nats of each item, (B,), from one draw of each x_t.

    Arguments:
        diffusion: The model.
        x0: One-hot data.
        steps: The number of steps.
        space: The batch's space.
        generator: The source of noise.
        cond: Conditions, by name.

    Raises:
        ValueError: If there are no steps.
    """
    check_whole("[1, inf)", steps=steps)
    predictor = diffusion.predictor(space, **cond)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    total = prior_terms(diffusion, x0, space)
    survived = alphas(diffusion.schedule, times)
    with evaluating(predictor.models):
        for t, s, alpha in zip(times.tolist(), times[1:].tolist(), survived, strict=False):
            q = diffusion.forgotten(x0, alpha, space)
            x_t = drawn(q.log(), space, x0, generator, diffusion.axis)
            total = total + chain_terms(predictor, x0, x_t, t, s)
    return total


def _normal(p: Tensor) -> Tensor:
    return p / p.sum(-1, keepdim=True).clamp(min=1e-300)
