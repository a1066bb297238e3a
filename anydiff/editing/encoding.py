"""Encoding, decoding and interpolation with the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anydiff.checks import check_range
from anydiff.editing.kept import check_floating
from anydiff.predictions import Predictor
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
) -> Tensor:
    """Encode data as noise with the probability-flow ODE: DDIM inversion, with any deterministic sampler.

    Arguments:
        predictor: The model, bound to its batch.
        x: Data, in the space.
        sampler: The rule for one step, deterministic.
        steps: The number of steps; None takes the sampler's default.
        grid: Where the times lie, traversed backwards; None takes the sampler's grid.
        end: The last time, in (0, 1].

    Returns:
        The state at that time, for :func:`decode`.

    Raises:
        ValueError: If `steps` is not a number of steps, if x is not floating-point, or as
            :func:`anydiff.sample`.

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), section 5.4.
        https://arxiv.org/abs/2010.02502
    """
    if not (steps is None or isinstance(steps, int)):
        raise ValueError(f"steps is {steps}; give how many: `end` is the last time.")
    check_floating(x)
    falling = plan(predictor.schedule, steps, sampler, grid, end)
    times = [at.t for at in reversed(falling)]
    return sample(predictor, predictor.space.project(x), sampler, times)


def decode(
    predictor: Predictor,
    z: Tensor,
    *,
    sampler: Sampler = DPMSolver(),
    steps: int | None = None,
    grid: Grid | None = None,
    start: float = 1.0,
) -> Tensor:
    """Decode noise, or a state at the time `start`, to data: the inverse of :func:`encode`.

    Arguments:
        predictor: The model, bound to its batch.
        z: Noise, or a state at the time `start`, in the space.
        sampler: The rule for one step, deterministic.
        steps: The number of steps; None takes the sampler's default.
        grid: Where the times lie; None takes the sampler's grid.
        start: The time of z, in (0, 1].

    Returns:
        The data, shaped like z.

    Raises:
        ValueError: As :func:`anydiff.sample`.
    """
    return sample(predictor, z, sampler, steps, start=start, grid=grid)


def interpolate(
    predictor: Predictor,
    a: Tensor,
    b: Tensor,
    weights: int | Sequence[float] = 8,
    *,
    sampler: Sampler = DPMSolver(),
    steps: int | None = None,
    grid: Grid | None = None,
) -> Tensor:
    r"""Interpolate between items: encode both, interpolate their noise along a great circle, decode.

    .. math:: z = \frac{\sin((1 - w)\,\theta)\, z_a + \sin(w\,\theta)\, z_b}{\sin\theta}

    Arguments:
        predictor: The model, bound to its batch.
        a: Data, in the space.
        b: Data, in the same space; each item is paired with the same item of a.
        weights: The weights w of b, n numbers; or n itself, for equal distances from 0 to 1.
        sampler: The rule for one step, deterministic.
        steps: The number of steps; None takes the sampler's default.
        grid: Where the times lie; None takes the sampler's grid.

    Returns:
        (n, \*a.shape), from a to b; the ends are a and b as encoded and decoded again.

    Raises:
        ValueError: If n is below 2, or as :func:`encode`.

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), section 5.3.
        https://arxiv.org/abs/2010.02502
    """
    if isinstance(weights, int):
        check_range("[2, inf)", weights=weights)
        weights = torch.linspace(0, 1, weights, dtype=torch.float64).tolist()
    space = predictor.space

    def back(predictor: Predictor, z: Tensor) -> Tensor:
        return decode(predictor, z, sampler=sampler, steps=steps, grid=grid)

    z_a, z_b = (encode(predictor, x, sampler=sampler, steps=steps, grid=grid) for x in (a, b))
    states = [_slerp(z_a, z_b, w, space) for w in weights]
    together = predictor.copies(len(states))
    if together is None:
        return torch.stack([back(predictor, z) for z in states])
    return torch.stack(space.separate(back(together, space.join(states)), len(states)))


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
