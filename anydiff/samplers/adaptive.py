r"""Adaptive solvers, which choose their step sizes to keep the error under a tolerance.

Within one step of the sampling loop (a run has one by default), each takes as many internal steps as it
needs. Whether to accept an internal step is decided from an error on the device: these two samplers read
from the device at least once per internal step, which no other sampler does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import frozen
from anydiff.extras import extra
from anydiff.precision import at_least_float32
from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.sampler import Levels, Past, Sampler, Stepped, falling, with_signal
from anydiff.schedules import Level, Schedule
from anydiff.spaces import Random, Space

__all__ = ["AdaptiveODE", "AdaptiveSDE"]

NO_STEP = (
    "{} found no step with an error under its tolerance; check that the network's output is finite, or "
    "raise rtol and atol."
)
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")


@frozen(rtol="(0, inf)", atol="(0, inf)", sigma_min="(0, inf)", method=ADAPTIVE)
class AdaptiveODE(Sampler):
    r"""The probability-flow ODE, solved by an adaptive Runge–Kutta method of torchdiffeq.

    With :math:`\tan \phi = \sigma / \alpha` and the state :math:`x / \sqrt{\alpha^2 + \sigma^2}`,

    .. math::
        \hat x = \cos\phi\; x_0 + \sin\phi\; \epsilon, \qquad
        \frac{d \hat x}{d \phi} = \cos\phi\; \hat\epsilon - \sin\phi\; \hat x_0,

    which is regular from pure noise, :math:`\phi = \pi / 2`, to the data, :math:`\phi = 0`, for every
    schedule. At the noise level `sigma_min` the run ends with a step to x0. Rising times encode data.

    All items take the same internal steps, as small as the worst item needs, so that the batch changes a
    sample by no more than the tolerance. The solver restarts at each step of the sampling loop: more
    steps than one, the default, only increase the cost.

    Arguments:
        rtol, atol: The relative and the absolute tolerance of :math:`\hat x`, per internal step.
        method: ``"dopri5"``, ``"dopri8"``, ``"bosh3"``, ``"fehlberg2"`` or ``"adaptive_heun"``.
        sigma_min: The smallest sigma / alpha at which the network is called; that of the schedule if it
            is larger.

    Raises:
        ImportError: If torchdiffeq is not installed.
        ValueError: If no step is small enough, as when the network's output is not finite.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), section 4.3.
        https://arxiv.org/abs/2011.13456
        torchdiffeq (Chen, 2018). https://github.com/rtqichen/torchdiffeq
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    method: str = "dopri5"
    sigma_min: float = 1e-3
    convergence = math.inf  # the error follows the tolerance, not the number of steps
    steps = 1

    def prepare(self, levels: Levels) -> Levels:
        odeint()  # raises an error before the run if it is missing
        return levels

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        schedule, space = predictor.schedule, predictor.space
        first, last = (_noisy(schedule, level, self.sigma_min) for level in (t, s))
        if s.sigma == 0 and last.t > first.t:  # only the final step to x0 is left
            last = first
        start, stop = (math.atan2(level.sigma, level.alpha) for level in (first, last))
        dim = space.dim(x_t).clamp(min=1)
        calls: list[Prediction] = []  # only the first call is kept

        def norm(x: Tensor) -> Tensor:  # the root mean square of the worst item
            return (space.sum(x.square()) / dim).max().sqrt()

        def slope(phi: Tensor, x: Tensor) -> Tensor:
            angle = phi.item()
            if math.isnan(angle):  # so was the error of the last step
                raise ValueError(NO_STEP.format(self))
            # rounded to float32, phi may lie beyond the ends: the nearest number to pi / 2 does
            angle = min(max(angle, min(start, stop)), max(start, stop))
            level = schedule.at_logsnr(-2 * math.log(math.tan(angle)))
            size = math.hypot(level.alpha, level.sigma)
            p = predictor.predict(size * x, level)
            calls.append(p)
            del calls[1:]
            return p.at(-level.sigma / size, level.alpha / size)

        # a run from the data starts at a slightly higher level with the same x / alpha
        scale = first.alpha / t.alpha if t.sigma == 0 else 1.0
        x = x_t * (scale / math.hypot(first.alpha, first.sigma))
        if start != stop:
            phi = torch.tensor([start, stop], dtype=torch.float64, device=x_t.device)
            try:
                x = odeint()(
                    slope, x, phi, rtol=self.rtol, atol=self.atol, method=self.method,
                    options={"norm": norm},
                )[-1]  # fmt: skip
            except AssertionError as error:  # raised if a step is too small, or not finite
                raise ValueError(NO_STEP.format(self)) from error
        x = x * math.hypot(last.alpha, last.sigma)
        if s.sigma == 0:
            p = predictor.predict(x, last)
            return p.x0, p
        return x, calls[0] if calls else predictor.predict(x_t, first)


@frozen(
    rtol="(0, inf)", atol="(0, inf)", sigma_min="(0, inf)",
    safety="(0, 1)", exponent="[0.5, 1]", first="(0, 1]",
)  # fmt: skip
class AdaptiveSDE(Sampler):
    r"""The reverse SDE, solved with adaptive steps, of a separate size for each item.

    Each step is computed twice with the same noise: by Euler–Maruyama, x', and with the drift and the
    diffusion at x', :math:`\tilde x`. With :math:`x'' = (x' + \tilde x) / 2`,

    .. math::
        \delta = \max\bigl(\epsilon_{abs},\, \epsilon_{rel} \max(|x'|, |x'_{prev}|)\bigr), \quad
        E = \Bigl\lVert \frac{x' - x''}{\delta} \Bigr\rVert \Big/ \sqrt{\dim}, \quad
        h \leftarrow h \min(\theta E^{-r}, 5),

    x'' is accepted if E is at most 1. At the noise level `sigma_min` the run ends with a step to x0. The
    published algorithm draws new noise after a rejected step. Since large noise is rejected more often
    than small noise, the accepted noise then has too small a variance in low dimensions. Here a Brownian
    bridge splits the noise of the rejected step instead, so that each item follows one Brownian path,
    whatever its step sizes.

    Once per step it reads from the device whether any item is unfinished; finished items do not change.
    Step sizes and noise belong to each item: with a generator per item, a sample does not depend on its
    batch. The network is called twice per step, with a separate time for each item.

    Arguments:
        rtol: :math:`\epsilon_{rel}`; 0.01 to 0.05 for quality, more for speed. Items of one or two
            dimensions need the smaller values, since their error estimates are the least reliable.
        atol: :math:`\epsilon_{abs}`, in units of the data; the default is the distance of 256 levels in
            [−1, 1].
        safety: :math:`\theta`.
        exponent: r.
        first: The size of the first step, in t.
        sigma_min: The sigma / alpha from which the last step goes to x0; that of the schedule if it is
            larger.

    Raises:
        ValueError: If no step is small enough, as when the network's output is not finite.

    References:
        Gotta Go Fast When Generating Data with Score-Based Models (Jolicoeur-Martineau et al., 2021),
        algorithm 1. https://arxiv.org/abs/2105.14080
        Adaptive Methods for Stochastic Differential Equations via Natural Embeddings and Rejection
        Sampling with Memory (Rackauckas & Nie, 2017), RSwM1. https://arxiv.org/abs/1804.04344
    """

    rtol: float = 0.02
    atol: float = 0.0078
    safety: float = 0.9
    exponent: float = 0.9
    first: float = 0.01
    sigma_min: float = 0.01
    convergence = math.inf  # the error follows the tolerance, not the number of steps
    steps = 1

    def prepare(self, levels: Levels) -> Levels:
        return with_signal(self, falling(self, levels))

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        schedule, space = predictor.schedule, predictor.space
        last = _noisy(schedule, s, self.sigma_min)
        if last.t > t.t:  # only the final step to x0 is left
            last = t
        dim = space.dim(x_t).clamp(min=1)
        dtype = at_least_float32(x_t)

        # times are float64 whatever the dtype of x: a small step must not be lost to rounding
        time = torch.full_like(dim, t.t, dtype=torch.float64)
        h = (time - last.t).clamp(max=self.first)
        x, euler_before = x_t, x_t
        path = _Path(space, x_t, len(dim))
        first: Prediction | None = None
        going = last.t < t.t
        while going:
            h, w = path.ahead(h, space.noise(x, generator))
            ahead = time - h
            p, move = _increment(predictor, x, schedule._at(time.to(dtype)), h, w)
            euler = x + move
            _, move = _increment(predictor, euler, schedule._at(ahead.to(dtype)), h, w)
            improved = (euler + (x + move)) / 2
            first = first or p

            size = torch.maximum(euler.abs(), euler_before.abs())
            scale = (self.rtol * size).clamp(min=self.atol)
            error = (space.sum(((euler - improved) / scale).square()) / dim).sqrt()
            error = error.detach().double()  # a gradient follows the steps, not their choice

            accepted = (time > last.t) & (error <= 1)
            chosen = space.expand(accepted, x)
            x = torch.where(chosen, improved, x)
            euler_before = torch.where(chosen, euler, euler_before)
            path.follow(accepted)
            time = torch.where(accepted, ahead, time)
            # a remainder of this size is rounding error
            time = torch.where(time - last.t < 1e-12, last.t, time)
            # in low dimensions an error may be small by chance: bound the growth of the step
            growth = (self.safety * error.clamp(min=1e-10) ** -self.exponent).clamp(max=5)
            h = torch.minimum(time - last.t, growth * h)

            on_the_way = time > last.t
            stuck = on_the_way & ~(h > 1e-10)  # not finite, or ever smaller
            going, failed, full = torch.stack([on_the_way.any(), stuck.any(), path.full]).tolist()
            if failed:
                raise ValueError(NO_STEP.format(self))
            if full:
                path.grow()
        if s.sigma == 0:
            p = predictor.predict(x, last)
            return p.x0, p
        return x, first or predictor.predict(x_t, t)


def _increment(
    predictor: Predictor, x: Tensor, at: Level, h: Tensor, w: Tensor
) -> tuple[Prediction, Tensor]:
    """The increment of one Euler–Maruyama step of the reverse SDE: h is (B,), w has the variance h."""
    p, space = predictor.predict(x, at), predictor.space
    f, g2 = at.drift, at.diffusion2.clamp(min=0)  # rounding may make it negative
    h, f, g2 = (space.expand(c.to(x.dtype), x) for c in (h, f, g2))
    drift = p.at(-h * f * p.alpha, -h * (f * p.sigma + g2 / p.sigma))
    return p, drift.addcmul(g2.sqrt(), w)


class _Path:
    """The Brownian path of each item, as far ahead as rejected steps have drawn it.

    For each item, a stack of intervals (`lengths`) and of the increments over them (`moves`), with the
    next interval on top.
    """

    def __init__(self, space: Space, x: Tensor, items: int) -> None:
        self.space = space
        self.depth = torch.zeros(items, dtype=torch.long, device=x.device)
        self.lengths = torch.zeros(8, items, dtype=torch.float64, device=x.device)
        self.moves = x.new_zeros(8, *x.shape)

    @property
    def full(self) -> Tensor:
        return (self.depth >= len(self.lengths)).any()

    def grow(self) -> None:
        self.lengths = torch.cat([self.lengths, torch.zeros_like(self.lengths)])
        self.moves = torch.cat([self.moves, torch.zeros_like(self.moves)])

    def ahead(self, h: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The next interval of each item, at most h (B,), and the increment over it; z is new noise."""
        top, expand = (self.depth - 1).clamp(min=0), self.space.expand
        slot = expand(top, z).expand_as(z)[None]
        length, move = self.lengths.gather(0, top[None])[0], self.moves.gather(0, slot)[0]

        # with an empty stack the path is drawn anew; else a Brownian bridge splits the top interval
        new = self.depth == 0
        whole = ~new & (h >= length * (1 - 1e-12))
        h = torch.where(new, h, torch.minimum(h, length))
        share = torch.where(whole, 1.0, h / length.clamp(min=1e-300)).masked_fill(new, 0.0)
        spread = torch.where(new, h, h * (1 - share)).sqrt()
        w = expand(share.to(z.dtype), z) * move + expand(spread.to(z.dtype), z) * z

        # the rest of the interval keeps its place in the stack, and the step goes on top of it
        self.lengths = self.lengths.scatter(0, top[None], (length - h)[None])
        self.moves = self.moves.scatter(0, slot, (move - w)[None])
        top = torch.where(whole, top, self.depth)
        self.lengths = self.lengths.scatter(0, top[None], h[None])
        self.moves = self.moves.scatter(0, expand(top, z).expand_as(z)[None], w[None])
        self.depth = top + 1
        return h, w

    def follow(self, accepted: Tensor) -> None:
        """Remove the top interval of the items whose step was accepted."""
        self.depth = self.depth - accepted.long()


def _noisy(schedule: Schedule, at: Level, sigma_min: float) -> Level:
    """The level itself; for the data, that with sigma / alpha = sigma_min, limited to the schedule."""
    if at.sigma > 0:
        return at
    at = schedule.at_logsnr(-2 * math.log(sigma_min))
    first = torch.tensor([schedule.first], dtype=torch.float64)
    return at if at.t >= schedule.first else schedule.levels(first)[0]


def odeint() -> Callable[..., Any]:
    """The function `odeint` of torchdiffeq.

    Raises:
        ImportError: If torchdiffeq is not installed; the message names the extra.
    """
    with extra("ode"):
        import torchdiffeq
    return torchdiffeq.odeint  # type: ignore[no-any-return]
