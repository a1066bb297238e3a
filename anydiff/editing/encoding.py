"""Encoding, decoding and interpolation with the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_range, check_shape, check_whole, number, numbers, shown
from anydiff.editing.kept import data
from anydiff.predictions import Predictor, check_undistilled
from anydiff.samplers import DPMSolver, Grid, Sampler, plan, sample
from anydiff.spaces import Space

__all__ = ["decode", "encode", "interpolate"]


def encode(
    predictor: Predictor,
    x: Tensor,
    *,
    sampler: Sampler = DPMSolver(),
    steps: int | None = None,
    grid: Grid | None = None,
    end: float = 1.0,
    **options: Any,
) -> Tensor:
    """Encode data as noise with the probability-flow ODE: DDIM inversion, with any deterministic sampler.

    Arguments:
        predictor: The model, bound to its batch.
        x: Data, in the space.
        sampler: The rule for one step, deterministic.
        steps: The number of steps; None takes the sampler's default.
        grid: Where the times lie, traversed backwards; None takes the sampler's grid.
        end: The last time, in (0, 1].
        options: callback, progress and grad, see :func:`anydiff.sample`.

    Returns:
        The state at that time, for :func:`decode`.

    Raises:
        ValueError: If `steps` is not a number of steps, if x is not floating-point and finite, if the
            model is distilled, or as :func:`anydiff.sample`.

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), section 5.4.
        https://arxiv.org/abs/2010.02502
    """
    if not (steps is None or isinstance(number(steps), int)):
        raise ValueError(f"steps is {shown(steps)}; give how many: `end` is the last time.")
    check_range("(0, 1]", end=end)
    x = data(predictor, x=x)
    check_undistilled(predictor)
    falling = plan(predictor.schedule, steps, sampler, grid, end)
    times = [at.t for at in reversed(falling)]
    return sample(predictor, x, sampler, times, **options)


def decode(
    predictor: Predictor,
    z: Tensor,
    *,
    sampler: Sampler | None = None,
    steps: int | None = None,
    grid: Grid | None = None,
    start: float = 1.0,
    **options: Any,
) -> Tensor:
    """Decode noise, or a state at the time `start`, to data: the inverse of :func:`encode`.

    Arguments:
        predictor: The model, bound to its batch.
        z: Noise, or a state at the time `start`, in the space.
        sampler: The rule for one step, deterministic; None takes :class:`~anydiff.DPMSolver`.
        steps: The number of steps; None takes the sampler's default.
        grid: Where the times lie; None takes the sampler's grid.
        start: The time of z, in (0, 1].
        options: callback, progress and grad, see :func:`anydiff.sample`.

    Returns:
        The data, shaped like z.

    Raises:
        ValueError: If z is not floating-point and finite, or as :func:`anydiff.sample`.
    """
    z = data(predictor, z=z)
    return sample(predictor, z, sampler, steps, start=start, grid=grid, **options)


def interpolate(
    predictor: Predictor, a: Tensor, b: Tensor, weights: int | Sequence[float] = 8, **options: Any
) -> Tensor:
    r"""Interpolate between items: encode both, interpolate their noise along a great circle, decode.

    .. math:: z = \frac{\sin((1 - w)\,\theta)\, z_a + \sin(w\,\theta)\, z_b}{\sin\theta}

    Arguments:
        predictor: The model, bound to its batch.
        a: Data, in the space.
        b: Data, in the same space; each item is paired with the same item of a.
        weights: The weights w of b, n numbers; or n itself, for equal distances from 0 to 1.
        options: sampler, steps, grid, callback, progress and grad, as for :func:`encode` and
            :func:`decode`, both of which get them.

    Returns:
        (n, \*a.shape), from a to b; the ends are a and b as encoded and decoded again.

    Raises:
        ValueError: If n is below 2, if a weight is no number, if b has not the shape and dtype of a, or
            as :func:`encode`.

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), section 5.3.
        https://arxiv.org/abs/2010.02502
    """
    if number(weights) is not None:
        check_whole("[2, inf)", weights=weights)
        ws = torch.linspace(0, 1, int(weights), dtype=torch.float64).tolist()  # type: ignore[arg-type]
    else:
        ws = numbers(weights).tolist()
    if not ws or not all(map(isfinite, ws)):
        raise ValueError(f"weights are {shown(weights)}; give how many, or numbers from 0 to 1.")
    data(predictor, a=a)
    check_shape(a.shape, "give one for each item of a", a.dtype, b=b)
    data(predictor, b=b)
    space = predictor.space

    z_a, z_b = (encode(predictor, x, **options) for x in (a, b))
    states = [_slerp(z_a, z_b, w, space) for w in ws]
    together = predictor.copies(len(states))
    if together is None:
        return torch.stack([decode(predictor, z, **options) for z in states])
    z = decode(together, space.join(states), **options)
    return torch.stack(space.separate(z, len(states)))


def _slerp(z_a: Tensor, z_b: Tensor, w: float, space: Space) -> Tensor:
    """Spherical interpolation of two states for each item.

    It is linear where the two have the same direction, or opposite directions, which lie on no unique
    great circle.
    """
    a, b = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (z_a, z_b))
    lengths = space.sum(a.square()).sqrt() * space.sum(b.square()).sqrt()
    cosine = (space.sum(a * b) / lengths.clamp(min=1e-12)).clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    straight = sine < 1e-4
    sine = torch.where(straight, 1.0, sine)
    c = torch.where(straight, 1 - w, ((1 - w) * angle).sin() / sine)
    d = torch.where(straight, w, (w * angle).sin() / sine)
    return (space.expand(c, a) * a + space.expand(d, b) * b).to(z_a.dtype)
