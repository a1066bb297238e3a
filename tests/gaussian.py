"""A denoiser that is exactly right: the data are N(mean, std²) in the space, in closed form."""

import torch
from torch import nn

from anydiff.predictions import PREDICTIONS
from anydiff.spaces import Dense


class GaussianDenoiser(nn.Module):
    """E[x0 | x_t] for x0 ~ N(mean, std² P), as an eps, x0 or v output.

    mean must lie in the space. One standard deviation for all, or one per column.
    """

    def __init__(self, schedule, prediction="eps", mean=0.0, std=1.0):
        super().__init__()
        self.schedule, self.pair = schedule, PREDICTIONS[prediction]
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float64))

    def forward(self, x_t, t, space=Dense()):  # noqa: B008
        alpha, sigma = (space.expand(c, x_t) for c in self.schedule(t))
        variance = self.std**2
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        x0 = self.mean + gain * (x_t - alpha * self.mean)
        eps = (x_t - alpha * x0) / sigma
        a, b = self.pair(alpha, sigma)
        return a * x0 + b * eps


def flow(schedule, x_T, mean, std):
    """Where the probability-flow ODE takes x_T, from t = 1 to the data."""
    alpha, sigma = schedule(torch.ones((), dtype=torch.float64))
    return mean + std * (x_T - alpha * mean) / torch.sqrt(alpha**2 * std**2 + sigma**2)
