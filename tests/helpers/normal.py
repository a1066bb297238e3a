"""Normal data under every schedule, where the moments of a run are exact numbers."""

import math

import torch

from anydiff import VE, Cosine, Flow, Karras, Linear, Polynomial, Tabulated, exact
from anydiff.samplers import plan
from tests.helpers.runs import response

MEAN, STD = 0.7, 0.5
SCHEDULES = [Cosine(), Linear(), Tabulated.linear(), Polynomial(), VE(), Karras(), Flow()]


def times(schedule, steps, last=0.0):
    """Even ones; the straight line begins where it still has a drift."""
    first = 0.99 if schedule == Flow() else 1.0
    return torch.linspace(first, last, steps + 1, dtype=torch.float64)


def marginal(level, std=STD):
    return level.alpha * MEAN, (level.alpha * std) ** 2 + level.sigma**2


def moments(sampler, schedule, steps, prediction="v"):
    """The mean and the variance of samples that start from the right distribution."""
    model = exact.gaussian(schedule, prediction, mean=MEAN, std=STD)
    mean, variance = marginal(plan(schedule, steps, sampler)[0])
    mean, std = response(model, sampler, steps).moments(mean, math.sqrt(variance))
    return mean, std**2


def kolmogorov(sampler, schedule, steps, prediction="v", n=10000):
    """The largest difference of distribution functions, for a mixture of two normals."""
    means, stds, weights = [-1.0, 1.0], [0.3, 0.15], [0.3, 0.7]
    diffusion = exact.mixture(
        schedule,
        prediction,
        means=torch.tensor(means)[:, None],
        stds=torch.tensor(stds),
        weights=torch.tensor(weights),
    )
    x = diffusion.sample((n, 1), sampler=sampler, steps=steps, seed=0).flatten().sort().values
    cdf = sum(
        w * torch.special.ndtr((x - m) / s) for m, s, w in zip(means, stds, weights, strict=True)
    )
    steps_up = torch.arange(n + 1, dtype=torch.float64) / n
    return max((cdf - steps_up[1:]).abs().max(), (cdf - steps_up[:-1]).abs().max()).item()
