"""Every sampler and schedule, and what a run makes of what it is given.

Where the data are normal and the denoiser exact, a run of a sampler is linear,

    x = c + K x_T + sum of B_k z_k,

and c, K and the B_k are found by asking: items of zeros, of ones, and of noise that is 1 in one draw. So
the moments of what a sampler gives are known exactly, without drawing anything.

A sampler or a schedule is here by being exported; its variants by a line below.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from anydiff import Dense, Predictor, sample, samplers, schedules
from anydiff.predictions import Network
from anydiff.samplers import (
    DDIM,
    DDPM,
    AdamsBashforth,
    AnnealedLangevin,
    DPMSolver,
    Heun,
    OptimalVariance,
    PredictorCorrector,
    Renoise,
    Sampler,
    UniPC,
)
from anydiff.samplers.drawn import DrawnContext
from anydiff.schedules import (
    Cosine,
    Flow,
    Learned,
    Linear,
    Schedule,
    Shifted,
    Tabulated,
    VariancePreserving,
    ZeroTerminalSNR,
)


def optimal(std):
    """The best variances for normal data of this deviation, in closed form."""
    logsnrs = [-12 + 0.5 * k for k in range(53)]
    return OptimalVariance(logsnrs, [1 / (1 + std**2 * math.exp(logsnr)) for logsnr in logsnrs])


def learned():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Learned(width=8).requires_grad_(False)


def exported(module, kind, given):
    """Each class of a kind that a module exports, built without arguments where none are given."""
    classes = [getattr(module, name) for name in module.__all__]
    classes = [c for c in classes if isinstance(c, type) and issubclass(c, kind)]
    return [given[c]() if c in given else c() for c in classes if c not in ABSTRACT]


# and one that only a network with a context can be drawn from by
ABSTRACT = (Sampler, Schedule, VariancePreserving, DrawnContext)
GIVEN = {
    Tabulated: Tabulated.linear,
    Learned: learned,
    Shifted: lambda: Shifted(Cosine(), 0.5),
    ZeroTerminalSNR: lambda: ZeroTerminalSNR(Linear()),
    AnnealedLangevin: lambda: AnnealedLangevin(10),
}

SCHEDULES = exported(schedules, Schedule, GIVEN)
SCHEDULES += [Tabulated.cosine(), Shifted(Flow(), 0.5)]

SAMPLERS = exported(samplers, Sampler, GIVEN)
SAMPLERS += [DDIM(0.5), DDIM(1.0), DDIM(variance=optimal(0.5)), DDPM("large"), DDPM(optimal(0.5))]
SAMPLERS += [Renoise(0.5)]
SAMPLERS += [DPMSolver(1), DPMSolver(3), DPMSolver(eta=1.0), DPMSolver(3, eta=0.5)]
SAMPLERS += [UniPC(3), UniPC(variant="bh1"), Heun(churn=10.0), PredictorCorrector(DDIM())]
SAMPLERS += [AdamsBashforth(order) for order in (1, 3, 4)]


@dataclass(frozen=True)
class Probe(Dense):
    """The k-th draw of noise is 1 in item 3 + k, and 0 in all others."""

    drawn: list = field(default_factory=list)

    def noise(self, x, generator=None):
        z = torch.zeros_like(x)
        z[3 + len(self.drawn) :][:1] = 1
        self.drawn.append(z)
        return z


class Response(NamedTuple):
    """c, K, and the B_k."""

    offset: float
    gain: float
    noise: torch.Tensor

    def moments(self, mean, std):
        """Mean and deviation at the end of a run, from those at its start."""
        variance = (self.gain * std) ** 2 + self.noise.square().sum().item()
        return self.offset + self.gain * mean, math.sqrt(variance)


def response(model, sampler, knots):
    """The response of a run of an exactly Gaussian model, at these times or in so many steps."""

    def run(predictor, items):
        x_T = torch.zeros(items, 1, dtype=torch.float64)
        x_T[1:3, 0] = torch.tensor([1.0, -2.0])
        return sample(predictor, x_T, sampler, knots)[:, 0]

    space = Probe()
    network = Network(lambda x_t, t: x_t, model.target, space)
    run(Predictor(network, model.schedule, space), 3)  # how often it draws
    y = run(model.predictor(Probe()), 3 + len(space.drawn))
    offset, gain = y[0].item(), (y[1] - y[0]).item()
    assert abs(y[2].item() - (offset - 2 * gain)) < 1e-9 * (1 + abs(gain)), "the run is not linear"
    return Response(offset, gain, y[3:] - y[0])
