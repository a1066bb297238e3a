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
from anydiff.precision import at_least_float32
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
    log_q = diffusion.forgotten(x0.log(), alpha, space)
    shape = [1] * x0.ndim
    shape[diffusion.axis] = diffusion.kernel.states
    log_p = diffusion.kernel.stationary(x0).log().reshape(shape)
    # a state that is never reached at last has no share of q either, but where some data survive
    q = log_q.exp()
    terms = torch.where(q > 0, q * (log_q - log_p), 0)
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
    r"""The bound in continuous time, nats of each item, (B,): of random times, stratified.

    Beside the integral it has what is forgotten at t = 1, and at t = 0, where a draw from the model is of
    data: :math:`-\log p(x_0 | x_t)` of a token that is forgotten at once, as few are.

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
    x0 = x0.to(at_least_float32(x0))
    B = space.items(x0)
    total = x0.new_zeros(B)
    order = uniforms(1, B, x0, generator)[0].to(x0)
    with evaluating([diffusion]):
        for k in range(draws):
            t = (k + (order + k * 0.618033988749895) % 1) / draws  # one in each stratum
            total += diffusion.loss(x0, t, space=space, generator=generator, **cond)
        predictor = diffusion.predictor(space, **cond)
        alpha = float(diffusion.schedule._levels(x0.new_zeros(1, dtype=torch.float64))[0])
        x_t = drawn(
            diffusion.forgotten(x0.log(), alpha, space), space, x0, generator, diffusion.axis
        )
        last = chain_terms(predictor, x0, x_t, 0.0, 0.0)
    tokens = tokens_in(x0, space, diffusion.kernel)
    return total / draws * tokens + prior_terms(diffusion, x0, space) + last


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

    At s = 0 all is known, so that it is :math:`-\log p(x_0 | x_t)`.

    Arguments:
        predictor: The model.
        x0: One-hot data.
        x_t: The state at t, one-hot.
        t: The time; at 0 the few tokens are meant that the schedule forgets at once.
        s: The time after the step.
    """
    axis, kernel = predictor.axis, predictor.kernel
    ends = torch.tensor([t, s], dtype=torch.float64)
    alpha_t, alpha_s = (
        float(predictor.schedule._levels(ends)[0][0]),
        alphas(predictor.schedule, ends)[1],
    )
    times = torch.full((predictor.space.items(x0),), t, dtype=x_t.dtype, device=x_t.device)
    true, model = (
        kernel.posterior(
            log_p.movedim(axis, -1), x_t.movedim(axis, -1), alpha_t, alpha_s
        ).log_softmax(-1)
        for log_p in (x0.log(), predictor(x_t, times))
    )
    terms = torch.where(true.exp() > 0, true.exp() * (true - model), 0)  # not of padding
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
    x0 = x0.to(at_least_float32(x0))
    predictor = diffusion.predictor(space, **cond)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    total = prior_terms(diffusion, x0, space)
    survived = alphas(diffusion.schedule, times)
    with evaluating(predictor.models):
        for t, s, alpha in zip(times.tolist(), times[1:].tolist(), survived, strict=False):
            log_q = diffusion.forgotten(x0.log(), alpha, space)
            x_t = drawn(log_q, space, x0, generator, diffusion.axis)
            total = total + chain_terms(predictor, x0, x_t, t, s)
    return total
