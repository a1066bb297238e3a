r"""The exact log-probability of data under a model, by its probability-flow ODE.

The state is scaled to :math:`\alpha^2 + \sigma^2 = 1` and followed in the log-SNR :math:`\lambda`,

.. math::
    \frac{du}{d\lambda} = - \tfrac12 \alpha \sigma\, \hat v(u, \lambda), \qquad
    \log p(u_{data}) = \log N(u_{noise}; 0, P)
        + \int_{data}^{noise} \mathrm{tr}\, \frac{\partial}{\partial u} \frac{du}{d\lambda}\, d\lambda

which is regular at both ends whatever the schedule, and depends on no schedule but through its ends. The
data are taken for the state at the clean end, divided by its alpha: what the model says of data that are
blurred by that end's sigma / alpha, and what :meth:`anydiff.GaussianDiffusion.sample` draws in the limit
of many steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from anydiff.extras import extra
from anydiff.likelihood.bound import as_predictor, ends
from anydiff.likelihood.traces import basis, divergence, ranks
from anydiff.predictions import Predictor
from anydiff.schedules import Level, Schedule
from anydiff.spaces import Generators, Space

if TYPE_CHECKING:
    from anydiff.diffusion import GaussianDiffusion

__all__ = ["log_prob"]

EXACT = 64  # up to so many directions, trace="auto" takes them all
CHUNK = 64  # directions that are differentiated at once
ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")

Directions = Callable[[], Iterator[Tensor]]


def log_prob(
    model: GaussianDiffusion | Predictor,
    x0: Tensor,
    *,
    space: Space | None = None,
    trace: str = "auto",
    probes: int = 1,
    generator: Generators = None,
    method: str = "dopri5",
    steps: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    logsnr_min: float = -15.0,
    logsnr_max: float = 15.0,
    **cond: Any,
) -> Tensor:
    """The log-density of data in nats, with respect to the volume of the space, (B,).

    Data on a grid of levels need :class:`~anydiff.likelihood.Dequantize` first. Items share the steps of
    an adaptive method and nothing else: with `steps`, an item's result does not depend on its batch, a
    denoiser without batch norm provided. Where x0 requires a gradient, the result is differentiable
    with respect to x0 and to the weights, through the solver.

    Arguments:
        model: A diffusion, which is set to eval mode meanwhile; or a predictor, which is bound to its
            space and conditions already, a guided one for instance.
        x0: Data; the part outside the space is dropped.
        space: The batch's space, if the model is a diffusion; dense if None.
        trace: ``"exact"`` differentiates along every direction of an item, ``"hutchinson"`` estimates
            the trace without bias from random ones, ``"auto"`` is exact up to 64 directions.
        probes: Random directions for each item, kept along the way.
        generator: Where they come from: one generator, or one per item.
        method: A solver of torchdiffeq.
        steps: How many equal steps in the log-SNR, for solvers of fixed steps: ``"rk4"``, ``"midpoint"``,
            ``"euler"``.
        rtol, atol: Tolerances, for the adaptive solvers.
        logsnr_min, logsnr_max: Where the ODE is cut if the schedule goes further.
        cond: Conditions, passed on to the denoiser.

    Raises:
        ImportError: Without torchdiffeq: ``pip install "anydiff[ode]"``.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), section 4.3 and appendix D.2.
        https://arxiv.org/abs/2011.13456
        FFJORD (Grathwohl et al., 2019), on the estimate of the trace. https://arxiv.org/abs/1810.01367
    """
    odeint = _odeint()
    predictor = as_predictor(model, space, cond)
    space = predictor.space
    clean, noisy = ends(predictor.schedule, logsnr_min, logsnr_max, torch.device("cpu")).tolist()
    options = _options(method, steps, clean - noisy)
    graph = torch.is_grad_enabled() and x0.requires_grad

    x0 = space.project(x0)
    dim = space.dim(x0)
    directions, count = _directions(x0.detach(), space, trace, probes, generator)

    def flow(logsnr: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        at = _level(predictor.schedule, float(logsnr))
        velocity, turn = divergence(
            lambda u: _velocity(predictor, u, at), state[0], directions(), graph
        )
        return velocity, space.sum(turn) / count

    log_alpha = -0.5 * math.log1p(math.exp(-clean))
    span = torch.tensor([clean, noisy], dtype=torch.float64, device=x0.device)
    with _evaluating(model), nullcontext() if graph else torch.no_grad():
        start = (math.exp(log_alpha) * x0, torch.zeros_like(dim))
        u, volume = odeint(flow, start, span, rtol=rtol, atol=atol, method=method, options=options)
        prior = -0.5 * (space.sum(u[-1].square()) + dim * math.log(2 * math.pi))
        return prior + volume[-1] + dim * log_alpha


def _level(schedule: Schedule, logsnr: float) -> Level:
    """The level of floats that has this log-SNR."""
    with torch.no_grad():
        return schedule.levels(schedule.time(torch.tensor([logsnr], dtype=torch.float64)))[0]


def _velocity(predictor: Predictor, u: Tensor, at: Level) -> Tensor:
    """du / dlogsnr, shaped like u."""
    scale = math.hypot(at.alpha, at.sigma)
    alpha, sigma = at.alpha / scale, at.sigma / scale
    p = predictor.predict(scale * u, at)
    return (-0.5 * alpha * sigma) * p.at(-sigma, alpha)


def _directions(
    x: Tensor, space: Space, trace: str, probes: int, generator: Generators
) -> tuple[Directions, int]:
    """The directions to differentiate along, in chunks (n, …), and what their sum is divided by."""
    if trace not in ("auto", "exact", "hutchinson"):
        raise ValueError(f"trace is {trace!r}; choose 'auto', 'exact' or 'hutchinson'.")
    if trace != "hutchinson":
        rank, count = ranks(x, space)
        if trace == "exact" or count <= EXACT:
            return lambda: basis(x, space, rank, count, CHUNK), 1

    if probes < 1:
        raise ValueError(f"probes is {probes}; take at least 1.")
    drawn = torch.stack([space.noise(x, generator) for _ in range(probes)])
    if _entries_are_free(x, space):
        drawn = drawn.sign()  # ±1: the diagonal of the Jacobian then adds no noise
    return lambda: iter(drawn.split(CHUNK)), probes


def _entries_are_free(x: Tensor, space: Space) -> bool:
    """Whether the projection keeps or drops each entry by itself, and mixes none."""
    own = Generator().manual_seed(0)
    z = space.noise(x, own)
    scaled = z * torch.rand(z.shape, generator=own, dtype=z.dtype).to(z.device)
    return torch.equal(space.project(scaled), scaled)


def _options(method: str, steps: int | None, length: float) -> dict[str, float]:
    """What torchdiffeq is told of the steps."""
    if method not in (ADAPTIVE if steps is None else FIXED):
        raise ValueError(
            f"method is {method!r} and steps {steps}; give steps to a solver of fixed steps "
            f"({', '.join(FIXED)}), and tolerances to an adaptive one ({', '.join(ADAPTIVE)})."
        )
    if steps is None:
        # its own first step would depend on the state, and a gradient would go astray through it
        return {"first_step": length / 100}
    if steps < 1:
        raise ValueError(f"steps is {steps}; take at least 1.")
    return {"step_size": length / steps * (1 + 1e-9)}  # never a step more, by rounding


def _odeint() -> Callable[..., Any]:
    with extra("ode"):
        from torchdiffeq import odeint
    return odeint


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """No dropout meanwhile: an ODE has one right-hand side."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [(module, module.training) for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
