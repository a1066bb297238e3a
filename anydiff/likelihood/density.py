r"""The log-density of data under a model, by its probability-flow ODE.

The state is scaled to :math:`\alpha^2 + \sigma^2 = 1` and integrated over the log-SNR :math:`\lambda`,

.. math::
    \frac{du}{d\lambda} = - \tfrac12 \alpha \sigma\, \hat v(u, \lambda), \qquad
    \log p(u_{data}) = \log N(u_{noise}; 0, P)
        + \int_{data}^{noise} \mathrm{tr}\, \frac{\partial}{\partial u} \frac{du}{d\lambda}\, d\lambda

which is regular at both ends for every schedule, and depends on the schedule only through its ends. The
data are taken as the state at the clean end, divided by its alpha. The result is therefore the density of
data with noise of that end's sigma / alpha, which is also the density of the samples of
:meth:`anydiff.GaussianDiffusion.sample` in the limit of many steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from anydiff.checks import check_choice, check_floating, check_range, check_whole
from anydiff.likelihood.traces import basis, divergence, ranks
from anydiff.predictions import Predictor, check_predictor, check_undistilled
from anydiff.samplers.adaptive import ADAPTIVE, NO_STEP, odeint
from anydiff.samplers.loop import evaluating
from anydiff.schedules import Level
from anydiff.spaces import Random, Space

__all__ = ["log_prob"]

EXACT = 64  # trace="auto" is exact up to this number of directions
CHUNK = 64  # directions per backward pass
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")

Directions = Callable[[], Iterator[Tensor]]


def log_prob(
    predictor: Predictor,
    x0: Tensor,
    *,
    trace: str = "auto",
    probes: int = 1,
    generator: Random = None,
    method: str = "dopri5",
    steps: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    logsnr_min: float = -15.0,
    logsnr_max: float = 15.0,
) -> Tensor:
    """The log-density of data in nats, with respect to the volume of the space, (B,).

    Data on a grid of levels need :class:`~anydiff.likelihood.Dequantize` first. Items only share the step
    sizes of an adaptive method: with `steps`, the result of an item does not depend on its batch, if the
    denoiser has no batch norm. If x0 requires a gradient, the result is differentiable through the solver
    with respect to x0 and the weights.

    Arguments:
        predictor: The model, bound to its batch, with or without guidance; its modules are in eval mode
            during the call.
        x0: Data, which are projected onto the space first.
        trace: ``"exact"`` differentiates along every direction of an item, ``"hutchinson"`` estimates
            the trace without bias from random directions, ``"auto"`` is exact up to 64 directions.
        probes: The number of random directions per item, which are kept during the integration.
        generator: The source of the directions: one generator, or one per item.
        method: A solver of torchdiffeq.
        steps: The number of equal steps in the log-SNR, for fixed-step solvers: ``"rk4"``,
            ``"midpoint"``, ``"euler"``.
        rtol: The relative tolerance, for adaptive solvers.
        atol: The absolute tolerance, for adaptive solvers.
        logsnr_min: The log-SNR below which the ODE is truncated, if the schedule goes further.
        logsnr_max: The log-SNR above which it is truncated, likewise.

    Raises:
        ImportError: If torchdiffeq is not installed: ``pip install "anydiff[ode]"``.
        ValueError: If an argument is not of its kind, or if the method, the steps, a tolerance, the trace
            or the range of log-SNR is not allowed, or if the model is distilled.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), section 4.3 and appendix D.2.
        https://arxiv.org/abs/2011.13456
        FFJORD (Grathwohl et al., 2019), on the estimate of the trace. https://arxiv.org/abs/1810.01367
    """
    check_predictor(predictor=predictor)
    check_undistilled(predictor)
    check_floating(x0=x0)
    solve, space = odeint(), predictor.space
    check_range("(0, inf)", rtol=rtol, atol=atol)
    noisy, clean = predictor.schedule.clip(logsnr_min, logsnr_max)
    options = _options(method, steps, clean - noisy)
    graph = torch.is_grad_enabled() and x0.requires_grad

    x0 = space.project(x0)
    dim = space.dim(x0)
    directions, count = _directions(x0.detach(), space, trace, probes, generator)

    def flow(logsnr: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        at = predictor.schedule.at_logsnr(float(logsnr))
        velocity, turn = divergence(
            lambda u: _velocity(predictor, u, at), state[0], directions(), graph
        )
        return velocity, space.sum(turn) / count

    log_alpha = -0.5 * math.log1p(math.exp(-clean))
    span = torch.tensor([clean, noisy], dtype=torch.float64, device=x0.device)
    with evaluating(predictor.models), nullcontext() if graph else torch.no_grad():
        start = (math.exp(log_alpha) * x0, torch.zeros_like(dim))
        try:
            u, volume = solve(
                flow, start, span, rtol=rtol, atol=atol, method=method, options=options
            )
        except AssertionError as error:  # raised if a step is too small, or not finite
            raise ValueError(NO_STEP.format(f"log_prob by {method!r}")) from error
        prior = -0.5 * (space.sum(u[-1].square()) + dim * math.log(2 * math.pi))
        return torch.add(prior + volume[-1], dim * log_alpha)


def _velocity(predictor: Predictor, u: Tensor, at: Level) -> Tensor:
    """du / dlogsnr, shaped like u."""
    scale = math.hypot(at.alpha, at.sigma)
    alpha, sigma = at.alpha / scale, at.sigma / scale
    p = predictor.predict(scale * u, at)
    return torch.mul(p.at(-sigma, alpha), -0.5 * alpha * sigma)


def _directions(
    x: Tensor, space: Space, trace: str, probes: int, generator: Random
) -> tuple[Directions, int]:
    """The directions to differentiate along, in chunks (n, …), and the divisor of their sum."""
    check_choice(("auto", "exact", "hutchinson"), trace=trace)
    if trace != "hutchinson":
        rank, count = ranks(x, space)
        if trace == "exact" or count <= EXACT:
            return lambda: basis(x, space, rank, count, CHUNK), 1

    check_whole("[1, inf)", probes=probes)
    drawn = torch.stack([space.noise(x, generator) for _ in range(probes)])
    if space.free:
        drawn = drawn.sign()  # ±1: the diagonal of the Jacobian then adds no variance
    return lambda: iter(torch.split(drawn, CHUNK)), probes


def _options(method: str, steps: int | None, length: float) -> dict[str, float]:
    """The step options of torchdiffeq."""
    if method not in (ADAPTIVE if steps is None else FIXED):
        raise ValueError(
            f"method is {method!r} and steps {steps}; give steps to a solver of fixed steps "
            f"({', '.join(FIXED)}), and tolerances to an adaptive one ({', '.join(ADAPTIVE)})."
        )
    if steps is None:
        # torchdiffeq's own first step depends on the state, which would corrupt gradients
        return {"first_step": length / 100}
    check_whole("[1, inf)", steps=steps)
    return {"step_size": length / steps * (1 + 1e-9)}  # rounding must not add a step
