"""Students that are linear in each row, so that what they learn is a formula, and found without training.

With normal data every target is linear in x_t, and the loss of a row is a parabola in its one number.
"""

import math

import numpy as np
import torch
from torch import nn

from anydiff import Dense, GaussianDiffusion
from anydiff.distillation import Distillation
from anydiff.losses import Rows
from anydiff.predictions import as_target


class ByRow(nn.Module):
    """x0 = mean + k (x_t - alpha mean), with a k for each row."""

    def __init__(self, rows, schedule, prediction="v", mean=0.0):
        super().__init__()
        self.rows, self.target, self.mean = rows, as_target(prediction), mean
        self.__dict__["schedule"] = schedule
        self.k = nn.Parameter(torch.zeros(len(rows.times) - 1, dtype=torch.float64))

    def forward(self, x_t, t, space=Dense()):  # noqa: B008
        at = self.schedule._at(t)
        scale = self.target.input_scale(at)
        a, b = self.target.coefficients(at)
        c = (self.k[self.rows.nearest(t)], at.alpha, at.sigma.clamp(min=1e-100), a, b, scale)
        k, alpha, sigma, a, b, scale = (space.expand(c, x_t) for c in torch.broadcast_tensors(
            *(torch.as_tensor(c, dtype=x_t.dtype) for c in c), t)[:-1])  # fmt: skip
        x_t = x_t / scale
        mean = space.project(self.mean + torch.zeros_like(x_t))
        x0 = mean + k * (x_t - alpha * mean)
        return a * x0 + b * (x_t - alpha * x0) / sigma


def linear(times, schedule, prediction="v", mean=0.0, **options):
    """A student of the rows of a run, which says mean everywhere at first."""
    rows = Rows(times)
    denoiser = ByRow(rows, schedule, prediction, mean)
    return GaussianDiffusion(denoiser, schedule, prediction, times=rows, **options)


def hermite(mean, std, n=4):
    """Data, noise and weights: their sums are expectations of polynomials of degree 2 n - 1 at most."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    z, w = torch.tensor(nodes), torch.tensor(weights) / math.sqrt(2 * math.pi)
    x0, eps = (mean + std * z).repeat_interleave(n), z.repeat(n)
    return x0[:, None], eps[:, None], torch.outer(w, w).flatten()


def slopes(student, target, mean, std):
    """The expected loss of each row, and its derivative by the k of this row."""
    x0, eps, w = hermite(mean, std)
    objective, found = Distillation(student, target), []
    for row, t in enumerate(student.times.times[:-1]):
        loss = (w * objective.loss(x0, t, noise=eps)).sum()
        (by,) = torch.autograd.grad(loss, student.denoiser.k)
        found.append((loss.item(), by[row].item()))
    return found


def fit(student, target, mean, std):
    """Set each k to the least point of its parabola, from the data upwards: two gradients for each."""
    x0, eps, w = hermite(mean, std)
    objective, k = Distillation(student, target), student.denoiser.k

    def slope(row, t, value):
        k.data[row] = value
        loss = (w * objective.loss(x0, t, noise=eps)).sum()
        return torch.autograd.grad(loss, k)[0][row].item()

    for row, t in reversed(list(enumerate(student.times.times[:-1]))):
        first, second = slope(row, t, 0.0), slope(row, t, 1.0)
        k.data[row] = first / (first - second)
    return student
