r"""Solvers that choose their own steps, so that the error stays under a tolerance.

Within one step of the sampling loop, of which a run has one by default, each takes as many of its own as
it needs. Whether a step was good enough is known on the device, and the loop depends on it: these two
samplers read from the device once or more per step, which no other does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import frozen
from anydiff.extras import extra
from anydiff.predictions import Prediction, Predictor
from anydiff.samplers.sampler import Levels, Past, Sampler, Stepped, falling, with_signal
from anydiff.schedules import Level, Schedule
from anydiff.spaces import Random, Space
from anydiff.spaces.draws import at_least_float32

__all__ = ["AdaptiveODE", "AdaptiveSDE"]

NO_STEP = (
    "{} found no step with an error under its tolerance; look for values of the network that are not "
    "finite, or raise rtol and atol."
)
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")


@frozen(rtol="(0, inf)", atol="(0, inf)", sigma_min="(0, inf)", method=ADAPTIVE)
class AdaptiveODE(Sampler):
    r"""The probability flow by an adaptive Runge–Kutta method of torchdiffeq.

    With :math:`\tan \phi = \sigma / \alpha` and the state :math:`x / \sqrt{\alpha^2 + \sigma^2}`,

    .. math::
        \hat x = \cos\phi\; x_0 + \sin\phi\; \epsilon, \qquad
        \frac{d \hat x}{d \phi} = \cos\phi\; \hat\epsilon - \sin\phi\; \hat x_0,

    which is regular from pure noise, :math:`\phi = \pi / 2`, to the data, :math:`\phi = 0`, whatever the
    schedule. From the noise `sigma_min` the run lands on x0. Rising times encode.

    It reads the error of each of its steps from the device. All items take the same ones, as small as
    the worst item needs: another batch changes a sample by no more than the tolerance. Every step of
    the sampling loop begins anew: more than the one that is the default cost more.

    Arguments:
        rtol, atol: The relative and the absolute tolerance of :math:`\hat x`, per step.
        method: ``"dopri5"``, ``"dopri8"``, ``"bosh3"``, ``"fehlberg2"`` or ``"adaptive_heun"``.
        sigma_min: The least noise, relative to the data, that the network is asked about; the
            schedule's own if that is more.

    Raises:
        ImportError: If torchdiffeq is not installed.
        ValueError: If no step is small enough, as with a network that is not finite.

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
        odeint()  # raises at once where it is missing
        return levels

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Level, s: Level, past: Past, generator: Random
    ) -> Stepped:
        schedule, space = predictor.schedule, predictor.space
        first, last = (_noisy(schedule, level, self.sigma_min) for level in (t, s))
        if s.sigma == 0 and last.t > first.t:  # there is no way to go before the landing
            last = first
        start, stop = (math.atan2(level.sigma, level.alpha) for level in (first, last))
        dim = space.dim(x_t).clamp(min=1)
        calls: list[Prediction] = []  # the first

        def norm(x: Tensor) -> Tensor:  # the root mean square of the worst item
            return (space.sum(x.square()) / dim).max().sqrt()

        def slope(phi: Tensor, x: Tensor) -> Tensor:
            # in float32 phi may lie beyond the ends, as the nearest number to pi / 2 does
            angle = min(max(phi.item(), min(start, stop)), max(start, stop))
            level = schedule.at_logsnr(-2 * math.log(math.tan(angle)))
            size = math.hypot(level.alpha, level.sigma)
            p = predictor.predict(size * x, level)
            calls.append(p)
            del calls[1:]
            return p.at(-level.sigma / size, level.alpha / size)

        # a run that begins at the data begins a little above it, where x / alpha is the same
        scale = first.alpha / t.alpha if t.sigma == 0 else 1.0
        x = x_t * (scale / math.hypot(first.alpha, first.sigma))
        if start != stop:
            phi = torch.tensor([start, stop], dtype=torch.float64, device=x_t.device)
            try:
                x = odeint()(
                    slope, x, phi, rtol=self.rtol, atol=self.atol, method=self.method,
                    options={"norm": norm},
                )[-1]  # fmt: skip
            except AssertionError as error:  # of a step too small, or not finite
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
    r"""The reverse SDE by steps of adaptive size, one size for each item.

    Each step is made twice with the same noise, by Euler–Maruyama, x', and with the drift and the
    diffusion at the point so reached, :math:`\tilde x`. With :math:`x'' = (x' + \tilde x) / 2`,

    .. math::
        \delta = \max\bigl(\epsilon_{abs},\, \epsilon_{rel} \max(|x'|, |x'_{prev}|)\bigr), \quad
        E = \Bigl\lVert \frac{x' - x''}{\delta} \Bigr\rVert \Big/ \sqrt{\dim}, \quad
        h \leftarrow h \min(\theta E^{-r}, 5),

    x'' is accepted where E is at most 1. From the noise `sigma_min` the run lands on x0. The published
    algorithm draws the noise of a rejected step anew. Then large noise is rejected more often than
    small, and in few dimensions what is accepted has too little of it; so here a Brownian bridge splits
    the noise that there was, and each item follows one path, whatever its steps.

    It reads from the device, once per step, whether there are items still on their way; the others
    wait and do not change. An item's steps and noise are its own: with a generator per item its
    sample does not depend on the batch. The network is called twice per step, with a time for each
    item.

    Arguments:
        rtol: :math:`\epsilon_{rel}`; 0.01 to 0.05 for quality, more for speed; items of one or two
            dimensions want the smaller ones, their errors are the most uncertain.
        atol: :math:`\epsilon_{abs}`, in units of the data; the default is one of 256 levels in [−1, 1].
        safety: :math:`\theta`.
        exponent: r.
        first: The size of the first step, in t.
        sigma_min: The noise, relative to the data, from which the last step goes to x0; the schedule's
            own if that is more.

    Raises:
        ValueError: If no step is small enough, as with a network that is not finite.

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
        if last.t > t.t:  # there is no way to go before the landing
            last = t
        dim = space.dim(x_t).clamp(min=1)
        dtype = at_least_float32(x_t)

        # times are float64 whatever the state is: a small step must not vanish in a large time
        time = torch.full_like(dim, t.t, dtype=torch.float64)
        h = (time - last.t).clamp(max=self.first)
        x, euler_before = x_t, x_t
        path = _Path(space, x_t, len(dim))
        first: Prediction | None = None
        going = last.t < t.t
        while going:
            h, w = path.ahead(h, space.noise(x, generator))
            ahead = time - h
            p, move = _increment(predictor, x, schedule.at(time.to(dtype)), h, w)
            euler = x + move
            _, move = _increment(predictor, euler, schedule.at(ahead.to(dtype)), h, w)
            improved = (euler + (x + move)) / 2
            first = first or p

            size = torch.maximum(euler.abs(), euler_before.abs())
            scale = (self.rtol * size).clamp(min=self.atol)
            error = (space.sum(((euler - improved) / scale).square()) / dim).sqrt().double()

            accepted = (time > last.t) & (error <= 1)
            chosen = space.expand(accepted, x)
            x = torch.where(chosen, improved, x)
            euler_before = torch.where(chosen, euler, euler_before)
            path.follow(accepted)
            time = torch.where(accepted, ahead, time)
            # what rounding leaves is no way to go
            time = torch.where(time - last.t < 1e-12, last.t, time)
            # of few dimensions an error is small by chance, and the next step would be anything
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
    """What one Euler–Maruyama step of the reverse SDE adds to a state: h per item, w of variance h."""
    p, space = predictor.predict(x, at), predictor.space
    f, g2 = at.drift, at.diffusion2.clamp(min=0)  # rounding may leave less
    h, f, g2 = (space.expand(c.to(x.dtype), x) for c in (h, f, g2))
    drift = p.at(-h * f * p.alpha, -h * (f * p.sigma + g2 / p.sigma))
    return p, drift.addcmul(g2.sqrt(), w)


class _Path:
    """The Brownian path of each item, as far ahead as a step that was rejected has looked.

    A stack for each item of the lengths that were drawn and the moves over them, the next on top.
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
        """The next step of each item, at most h long (B,), and the move over it; z is fresh noise."""
        top, expand = (self.depth - 1).clamp(min=0), self.space.expand
        slot = expand(top, z).expand_as(z)[None]
        length, move = self.lengths.gather(0, top[None])[0], self.moves.gather(0, slot)[0]

        # where nothing is known ahead the path is new; else a bridge leads to the end of what is known
        new = self.depth == 0
        whole = ~new & (h >= length * (1 - 1e-12))
        h = torch.where(new, h, torch.minimum(h, length))
        share = torch.where(whole, 1.0, h / length.clamp(min=1e-300)).masked_fill(new, 0.0)
        spread = torch.where(new, h, h * (1 - share)).sqrt()
        w = expand(share.to(z.dtype), z) * move + expand(spread.to(z.dtype), z) * z

        # the rest stays where it was, and the step comes on top of it
        self.lengths.scatter_(0, top[None], (length - h)[None])
        self.moves.scatter_(0, slot, (move - w)[None])
        top = torch.where(whole, top, self.depth)
        self.lengths.scatter_(0, top[None], h[None])
        self.moves.scatter_(0, expand(top, z).expand_as(z)[None], w[None])
        self.depth = top + 1
        return h, w

    def follow(self, accepted: Tensor) -> None:
        """Go on, the items where a step was accepted."""
        self.depth = self.depth - accepted.long()


def _noisy(schedule: Schedule, at: Level, sigma_min: float) -> Level:
    """A level, or in place of the data the one with the noise sigma_min, or the schedule's least."""
    return at if at.sigma > 0 else schedule.at_logsnr(-2 * math.log(sigma_min))


def odeint() -> Callable[..., Any]:
    """torchdiffeq's solver.

    Raises:
        ImportError: If torchdiffeq is not installed; the message names the extra.
    """
    with extra("ode"):
        import torchdiffeq
    return torchdiffeq.odeint  # type: ignore[no-any-return]
