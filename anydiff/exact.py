r"""Denoisers that are exactly right, for data whose distribution is known in closed form.

If x0 is normal, or a mixture of normals, so is x_t, and everything that a diffusion model learns is a
formula: the mean of x0 given x_t, the score, the likelihood, and for one normal the whole
probability flow. With them a sampler, a guidance or a likelihood can be held against mathematics:

    model = exact.gaussian(Cosine(), "v", mean=0.7, std=0.5)
    x = model.sample((1000, 2), sampler=YourSampler(), steps=20, seed=0)     # mean 0.7, deviation 0.5

Both live in any space: in a subspace, "normal" means the projection of one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from anydiff.diffusion import GaussianDiffusion
from anydiff.predictions import PredictionType, prediction_type
from anydiff.schedules import Schedule
from anydiff.spaces import Dense, Space

__all__ = ["Gaussian", "GaussianMixture", "gaussian", "mixture"]


class _Exact(nn.Module):
    """What both have in common: from x0 and eps to the output that a network would be trained for."""

    def __init__(self, schedule: Schedule, prediction: str | PredictionType) -> None:
        super().__init__()
        self.schedule, self.predicts = schedule, prediction_type(prediction, schedule)
        # sampling takes its dtype and device from a parameter
        self.like = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)

    def posterior(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, space: Space
    ) -> tuple[Tensor, Tensor]:
        """E[x0 | x_t] and E[eps | x_t], both shaped like x_t; alpha and sigma are (B,)."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, t: Tensor | None = None, *, space: Space = Dense()) -> Tensor:  # noqa: B008
        """The log-density of data, or of x_t at the times t (B,), in nats, (B,)."""
        raise NotImplementedError

    def forward(self, x_t: Tensor, t: Tensor, space: Space = Dense()) -> Tensor:  # noqa: B008
        """What a network of the prediction type should say, shaped like x_t."""
        at = self.schedule.at(t.to(x_t.dtype))
        scale = self.predicts.input_scale(at)
        x_t = x_t / space.expand(scale, x_t) if isinstance(scale, Tensor) else x_t
        alpha, sigma = at.alpha, at.sigma
        x0, eps = self.posterior(x_t, alpha, sigma, space)
        a, b = (space.expand(c, x_t) for c in self.predicts.coefficients(at))
        return a * x0 + b * eps


class Gaussian(_Exact):
    r"""x0 ~ N(mean, P diag(std²) P), or N(mean, covariance) of dense items.

    Arguments:
        schedule, prediction: As of the :class:`~anydiff.GaussianDiffusion` around it.
        mean: Broadcasts with x0 and lies in the space.
        std: One, or one per column.
        covariance: (D, D), of dense items of D entries; replaces std.
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: str | PredictionType = "eps",
        mean: Tensor | float = 0.0,
        std: Tensor | float = 1.0,
        covariance: Tensor | None = None,
    ) -> None:
        super().__init__(schedule, prediction)
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float64))
        variance, axes = torch.as_tensor(std, dtype=torch.float64) ** 2, None
        if covariance is not None:
            variance, axes = torch.linalg.eigh(torch.as_tensor(covariance, dtype=torch.float64))
            if variance.min() < 0:
                raise ValueError(
                    f"the covariance has the eigenvalue {variance.min():.3g}; give none below 0."
                )
        self.register_buffer("variance", variance)
        self.register_buffer("axes", axes)

    mean: Tensor
    variance: Tensor
    axes: Tensor | None

    def _into(self, x: Tensor) -> Tensor:
        """Into the eigenvectors' frame."""
        return x if self.axes is None else x.flatten(1) @ self.axes.to(x.dtype)

    def _back(self, z: Tensor, like: Tensor) -> Tensor:
        return z if self.axes is None else (z @ self.axes.to(z.dtype).T).view_as(like)

    def posterior(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, space: Space
    ) -> tuple[Tensor, Tensor]:
        mean = self.mean.to(x_t.dtype)
        away = x_t - space.expand(alpha, x_t) * mean
        z = self._into(away)
        alpha, sigma = (space.expand(c, z) for c in (alpha, sigma))
        variance = self.variance.to(z.dtype)
        z = z / (alpha**2 * variance + sigma**2)
        x0 = space.project(mean + torch.zeros_like(x_t)) + self._back(alpha * variance * z, x_t)
        return x0, self._back(sigma * z, x_t)

    def flow(self, x: Tensor, t: float, s: float, space: Space = Dense()) -> Tensor:  # noqa: B008
        """Where the probability-flow ODE takes a state from time t to s; s = 0 is the data itself."""
        here, there = self.schedule.levels(torch.tensor([t, s], dtype=torch.float64))
        levels = [(h.alpha, h.sigma) if h.t != 0 else (1.0, 0.0) for h in (here, there)]
        (a, c), (b, d) = levels
        mean = space.project(self.mean.to(x.dtype) + torch.zeros_like(x))
        z = self._into(x - a * mean)
        variance = self.variance.to(x.dtype)
        z = z * torch.sqrt((b**2 * variance + d**2) / (a**2 * variance + c**2))
        return b * mean + self._back(z, x)

    def log_prob(self, x: Tensor, t: Tensor | None = None, *, space: Space = Dense()) -> Tensor:  # noqa: B008
        alpha, sigma = _levels(self.schedule, t, space.dim(x))
        away = x - space.expand(alpha, x) * space.project(
            self.mean.to(x.dtype) + torch.zeros_like(x)
        )
        z = self._into(away)
        variance = space.expand(alpha, z) ** 2 * self.variance.to(z.dtype)
        variance = (variance + space.expand(sigma, z) ** 2).expand_as(z)
        volume = space.sum(variance.log())
        centered = getattr(space, "centered", 0)  # such columns have one dimension less than rows
        if centered:
            first = torch.cat([torch.zeros(1, dtype=torch.long, device=x.device), space.ptr[1:-1]])  # type: ignore[attr-defined]
            volume = volume - variance[first, :centered].log().sum(1)
        squares = space.sum(z.square() / variance)
        return -0.5 * (squares + volume + space.dim(x) * math.log(2 * math.pi))


class GaussianMixture(_Exact):
    """x0 ~ sum of weights times N(means, stds² P): which one, each item draws as a whole.

    Arguments:
        schedule, prediction: As of the :class:`~anydiff.GaussianDiffusion` around it.
        means: (K, \\*), each broadcasts with x0's rows (or with an item of a dense batch) and lies in
            the space.
        stds: (K,), or one for all.
        weights: (K,), positive; equal ones if None.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor

    def __init__(
        self,
        schedule: Schedule,
        prediction: str | PredictionType = "eps",
        means: Tensor | None = None,
        stds: Tensor | float = 1.0,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(schedule, prediction)
        means = torch.as_tensor([[-1.0], [1.0]] if means is None else means, dtype=torch.float64)
        weights = torch.ones(len(means)) if weights is None else weights
        self.register_buffer("means", means)
        self.register_buffer(
            "stds", torch.as_tensor(stds, dtype=torch.float64).expand(len(means)).clone()
        )
        weights = torch.as_tensor(weights, dtype=torch.float64)
        self.register_buffer("weights", weights / weights.sum())

    def _components(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, space: Space
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Each component's means as items of x, its variance at the level (B,), its log-joint (K, B)."""
        means, variances, joint = [], [], []
        for mean, std, weight in zip(self.means, self.stds, self.weights, strict=True):
            m = space.project(mean.to(x.dtype) + torch.zeros_like(x))
            v = alpha**2 * std**2 + sigma**2
            squares = space.sum((x - space.expand(alpha, x) * m).square()) / v
            volume = space.dim(x) * (2 * math.pi * v).log()
            means.append(m)
            variances.append(v)
            joint.append(weight.log() - 0.5 * (squares + volume))
        return means, variances, torch.stack(joint)

    def posterior(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, space: Space
    ) -> tuple[Tensor, Tensor]:
        means, variances, joint = self._components(x_t, alpha, sigma, space)
        x0, eps = torch.zeros_like(x_t), torch.zeros_like(x_t)
        for m, v, std, share in zip(means, variances, self.stds, joint.softmax(0), strict=True):
            away = x_t - space.expand(alpha, x_t) * m
            x0 = x0 + space.expand(share, x_t) * (m + space.expand(alpha * std**2 / v, x_t) * away)
            eps = eps + space.expand(share * sigma / v, x_t) * away
        return x0, eps

    def log_prob(self, x: Tensor, t: Tensor | None = None, *, space: Space = Dense()) -> Tensor:  # noqa: B008
        alpha, sigma = _levels(self.schedule, t, space.dim(x))
        return self._components(x, alpha, sigma, space)[2].logsumexp(0)

    def draw(
        self,
        shape: tuple[int, ...],
        *,
        space: Space = Dense(),  # noqa: B008
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Data, by drawing a component for each item."""
        like = torch.zeros(shape, dtype=torch.float64)
        items = len(space.dim(like))
        which = torch.multinomial(self.weights, items, replacement=True, generator=generator)
        x = space.noise(like, generator) * space.expand(self.stds[which], like)
        for k, mean in enumerate(self.means):
            m = space.project(mean + torch.zeros_like(x))
            x = x + space.expand((which == k).double(), x) * m
        return x


def _levels(schedule: Schedule, t: Tensor | None, dim: Tensor) -> tuple[Tensor, Tensor]:
    return (torch.ones_like(dim), torch.zeros_like(dim)) if t is None else schedule(t.to(dim.dtype))


def gaussian(
    schedule: Schedule, prediction: str | PredictionType = "v", **options: Tensor | float
) -> GaussianDiffusion:
    """A diffusion whose denoiser is :class:`Gaussian`."""
    return GaussianDiffusion(
        Gaussian(schedule, prediction, **options),  # type: ignore[arg-type]
        schedule,
        prediction,
    )


def mixture(
    schedule: Schedule, prediction: str | PredictionType = "v", **options: Tensor | float
) -> GaussianDiffusion:
    """A diffusion whose denoiser is :class:`GaussianMixture`."""
    return GaussianDiffusion(
        GaussianMixture(schedule, prediction, **options),  # type: ignore[arg-type]
        schedule,
        prediction,
    )
