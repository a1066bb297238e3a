r"""Exact denoisers, for data whose distribution is known in closed form.

If x0 is normal, or a mixture of normals, so is x_t, and everything that a diffusion model learns is known
in closed form: the mean of x0 given x_t, the score, the likelihood, and for a single normal the solution
of the probability-flow ODE. Samplers, guidance and likelihoods can be tested against these:

    model = exact.gaussian(Cosine(), "v", mean=0.7, std=0.5)
    x = model.sample((1000, 2), sampler=YourSampler(), steps=20, seed=0)     # mean 0.7, deviation 0.5

All work in any space; in a subspace the distribution is that of the projected data. They are exact at
both ends too, where alpha or sigma is 0.

:class:`GaussianConsistency` is what a perfect consistency model of normal data would be: it answers the
end of the probability flow, and not the mean of x0.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from anydiff.checks import check_floating, check_kind, check_range, check_shape, read, real
from anydiff.diffusion import GaussianDiffusion
from anydiff.predictions import Target, as_target, given_times
from anydiff.schedules import Schedule
from anydiff.schedules.schedule import check_times
from anydiff.spaces import DENSE, Dense, Space

__all__ = [
    "Gaussian", "GaussianConsistency", "GaussianMixture", "consistency", "gaussian", "mixture",
]  # fmt: skip


class _Exact(nn.Module):
    """The common part of the models: the output for a target, from what they answer for x0 and eps."""

    schedule: Schedule

    def __init__(self, schedule: Schedule, prediction: str | Target) -> None:
        super().__init__()
        check_kind(Schedule, "a schedule, such as Cosine()", schedule=schedule)
        self.target = as_target(prediction, schedule)
        # not a part: the weights of a learned schedule belong to the diffusion, and are no denoiser's,
        # whose dtype is that of its input
        self.__dict__["schedule"] = schedule
        # sampling takes its dtype and device from a parameter
        self.like = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)

    def posterior(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, space: Space
    ) -> tuple[Tensor, Tensor]:
        """E[x0 | x_t] and E[eps | x_t], both shaped like x_t; alpha and sigma are (B,)."""
        raise NotImplementedError

    def log_prob(
        self, x: Tensor, t: Tensor | float | None = None, *, space: Space = DENSE
    ) -> Tensor:
        """The log-density in the space, in nats, (B,).

        Arguments:
            x: Data, or x_t, in the space.
            t: None for data; or the times of x_t, (B,) or one for all. Time 0 is the start of the
                schedule, which may have some noise.
            space: The batch's space.

        Raises:
            ValueError: If the times are not such.
        """
        raise NotImplementedError

    def draw(
        self, shape: tuple[int, ...], *, space: Space = DENSE, generator: Generator | None = None
    ) -> Tensor:
        """Draw data from the distribution.

        Arguments:
            shape: The shape of the data, batch included.
            space: The batch's space.
            generator: The source of random numbers.
        """
        raise NotImplementedError

    def forward(self, x_t: Tensor, t: Tensor, space: Space = DENSE) -> Tensor:
        """The ideal output of a network with this prediction target, shaped like x_t.

        Arguments:
            x_t: The noisy state, in the space.
            t: Times, (B,).
            space: The batch's space.

        Raises:
            ValueError: If there is not one time in [0, 1] for each item.
        """
        return self._output(x_t, t, space)

    def _output(self, x_t: Tensor, t: Tensor, space: Space, **known: Tensor) -> Tensor:
        check_shape((space.items(x_t),), "give a time for each item", t=t)
        at = self.schedule._at(check_times("times in [0, 1]", t).double())
        # the score at sigma = 0 is finite, but computed as -eps / sigma
        at = replace(at, sigma=at.sigma.clamp(min=1e-100))
        x = x_t.double() / space.expand(self.target.input_scale(at), x_t)
        x0, eps = self.posterior(x, at.alpha, at.sigma, space, **known)
        a, b = (space.expand(c, x_t) for c in self.target.coefficients(at))
        return torch.add(a * x0, b * eps).to(x_t.dtype)

    def _levels(self, t: Tensor | float | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma, shaped like `like`, (B,); 1 and 0 if t is None."""
        if t is None:
            return torch.ones_like(like), torch.zeros_like(like)
        alpha, sigma = self.schedule(given_times(like, t, DENSE).double())
        return alpha.to(like.dtype), sigma.to(like.dtype)


class Gaussian(_Exact):
    r"""The exact denoiser of normal data: x0 ~ N(mean, P diag(std²) P), or N(mean, covariance).

    Arguments:
        schedule: The schedule of the :class:`~anydiff.GaussianDiffusion` that contains it.
        prediction: The prediction target of that diffusion.
        mean: The mean, which broadcasts with x0 and is projected onto the space.
        std: The standard deviation, which broadcasts with x0: one for all, or one per column. It has to
            be equal for rows that the projection mixes, such as those of a centred column.
        covariance: The covariance of dense items with D entries, (D, D); replaces std.

    Raises:
        ValueError: If the mean or std is not finite, std below 0, or the covariance not symmetric
            positive semi-definite.
    """

    mean: Tensor
    variance: Tensor
    axes: Tensor | None

    def __init__(
        self,
        schedule: Schedule,
        prediction: str | Target = "eps",
        mean: Tensor | float = 0.0,
        std: Tensor | float = 1.0,
        covariance: Tensor | None = None,
    ) -> None:
        super().__init__(schedule, prediction)
        self.register_buffer("mean", real("numbers", mean=mean))
        std = real("numbers from 0", std=std)
        if not ((std >= 0).all() and std.isfinite().all() and self.mean.isfinite().all()):
            raise ValueError(f"mean is {mean} and std {std}; give finite numbers, std from 0.")
        variance, axes = std**2, None
        if covariance is not None:
            matrix = real("a symmetric (D, D)", covariance=covariance)
            square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
            if not (square and torch.allclose(matrix, matrix.T)):
                raise ValueError(
                    f"the covariance is {tuple(matrix.shape)} or not symmetric; give a symmetric "
                    "(D, D)."
                )
            variance, axes = torch.linalg.eigh(matrix)
            if variance[0] < -1e-10 * variance[-1].abs():
                raise ValueError(
                    f"the covariance has the eigenvalue {variance[0]:.3g}; give none below 0."
                )
            variance = variance.clamp(min=0)  # of a singular matrix: rounding
        self.register_buffer("variance", variance)
        self.register_buffer("axes", axes)

    def _mean(self, x: Tensor, space: Space) -> Tensor:
        return space.project(self.mean.to(x.dtype) + torch.zeros_like(x))

    def _into(self, x: Tensor, space: Space) -> Tensor:
        """x in the basis of the eigenvectors of the covariance."""
        if self.axes is None:
            return x
        if not isinstance(space, Dense) or x[:1].numel() != len(self.axes):
            raise ValueError(
                f"the covariance is of dense items with {len(self.axes)} entries and x is "
                f"{tuple(x.shape)} in {type(space).__name__}; give a std."
            )
        return x.flatten(1) @ self.axes.to(x.dtype)

    def _back(self, z: Tensor, like: Tensor) -> Tensor:
        return z if self.axes is None else (z @ self.axes.to(z.dtype).T).view_as(like)

    def posterior(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, space: Space
    ) -> tuple[Tensor, Tensor]:
        mean, variance = self._mean(x_t, space), self.variance.to(x_t.dtype)
        z = self._into(x_t - space.expand(alpha, x_t) * mean, space)
        alpha, sigma = (space.expand(c, z) for c in (alpha, sigma))
        total = alpha**2 * variance + sigma**2
        z = z / total.clamp(min=torch.finfo(z.dtype).tiny)  # data at a point, no noise: 0 / 0
        return mean + self._back(alpha * variance * z, x_t), self._back(sigma * z, x_t)

    def flow(self, x: Tensor, t: float, s: float, space: Space = DENSE) -> Tensor:
        """The solution at time s of the probability-flow ODE through x at time t; time 0 is the data.

        Arguments:
            x: The state at time t, in the space.
            t: The time of x, in [0, 1].
            s: The time of the result, in [0, 1].
            space: The batch's space.

        Raises:
            ValueError: If a time lies outside.
        """
        check_floating(x=x)
        check_range("[0, 1]", t=t, s=s)
        knots = self.schedule.levels(torch.tensor([t, s], dtype=torch.float64))
        (a, c), (b, d) = ((k.alpha, k.sigma) if k.t != 0 else (1.0, 0.0) for k in knots)
        mean, variance = self._mean(x, space), self.variance.to(x.dtype)
        z = self._into(x - a * mean, space)
        z = z * torch.sqrt((b**2 * variance + d**2) / (a**2 * variance + c**2))
        return b * mean + self._back(z, x)

    def log_prob(
        self, x: Tensor, t: Tensor | float | None = None, *, space: Space = DENSE
    ) -> Tensor:
        check_floating(x=x)
        dim = space.dim(x)
        alpha, sigma = self._levels(t, dim)
        z = self._into(x - space.expand(alpha, x) * self._mean(x, space), space)
        variance = space.expand(alpha, z) ** 2 * self.variance.to(z.dtype)
        variance = (variance + space.expand(sigma, z) ** 2).expand_as(z)
        if self.variance.numel() == 1:
            volume = dim * (alpha**2 * self.variance.reshape(()).to(x.dtype) + sigma**2).log()
        else:  # the covariance commutes with the projection
            volume = space.sum(space.diagonal(z) * variance.log())
        return -0.5 * (space.sum(z.square() / variance) + volume + dim * math.log(2 * math.pi))

    def draw(
        self, shape: tuple[int, ...], *, space: Space = DENSE, generator: Generator | None = None
    ) -> Tensor:
        z = space.noise(self.like.new_zeros(shape), generator)
        spread = self._into(z, space) * self.variance.to(z.dtype).sqrt()
        return self._mean(z, space) + self._back(spread, z)


class GaussianConsistency(Gaussian):
    r"""The exact consistency model of normal data: it answers where the probability flow ends.

    .. math:: \hat x_0 = \mathrm{mean}
        + \sqrt{\frac{\mathrm{var}}{\alpha^2\, \mathrm{var} + \sigma^2}}\,
        (x_t - \alpha\, \mathrm{mean})

    That is ``flow(x_t, t, 0)``, with the eps that follows from it. One step leads from noise to data of
    the right distribution, and so do any number of steps of :class:`~anydiff.Renoise`. Its arguments are
    those of :class:`Gaussian`, and its density is the same.

    References:
        Consistency Models (Song et al., 2023). https://arxiv.org/abs/2303.01469
    """

    def posterior(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, space: Space
    ) -> tuple[Tensor, Tensor]:
        mean, variance = self._mean(x_t, space), self.variance.to(x_t.dtype)
        z = self._into(x_t - space.expand(alpha, x_t) * mean, space)
        alpha, sigma = (space.expand(c, z) for c in (alpha, sigma))
        total = (alpha**2 * variance + sigma**2).clamp(min=torch.finfo(z.dtype).tiny)
        gain = (variance / total).sqrt()
        left = sigma / (
            total * (1 + alpha * gain)
        )  # (1 - alpha gain) / sigma, without cancellation
        return mean + self._back(gain * z, x_t), self._back(left * z, x_t)


class GaussianMixture(_Exact):
    """The exact denoiser of a mixture of normals: each item belongs to one component N(mean, std² P).

    The condition `label`, (B,) integers, gives the component, -1 if it is unknown: the exact model for
    classifier-free guidance. :meth:`log_label` is the exact classifier.

    Arguments:
        schedule: The schedule of the :class:`~anydiff.GaussianDiffusion` that contains it.
        prediction: The prediction target of that diffusion.
        means: The mean of each component, (K, \\*), which broadcasts with x0 and is projected onto the
            space.
        stds: The standard deviations, (K,), or one for all. With 0, the model is a data set that was
            memorised.
        weights: The probabilities of the components up to a factor, (K,), positive; equal if None.

    Raises:
        ValueError: If the means and stds are not finite, or a std is below 0, or if there is not one std
            and one positive weight for each mean.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor

    def __init__(
        self,
        schedule: Schedule,
        prediction: str | Target = "eps",
        means: Tensor | None = None,
        stds: Tensor | float = 1.0,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(schedule, prediction)
        means = real("means (K, *)", means=[[-1.0], [1.0]] if means is None else means)
        stds = real("standard deviations (K,)", stds=stds)
        if means.ndim < 1 or not len(means) or stds.ndim > 1 or stds.numel() not in (1, len(means)):
            raise ValueError(
                f"means are {tuple(means.shape)} and stds {tuple(stds.shape)}; give (K, *) and (K,)."
            )
        stds = stds.expand(len(means)).clone()
        if not ((stds >= 0).all() and stds.isfinite().all() and means.isfinite().all()):
            raise ValueError(
                f"means or stds, {stds.tolist()}, are not finite, or stds are below 0."
            )
        weights = [1.0] * len(means) if weights is None else weights  # type: ignore[assignment]
        weights = real("one above 0 for each mean", weights=weights)
        if weights.shape != (len(means),) or not (weights > 0).all():
            raise ValueError(
                f"the weights are {weights.tolist()}; give {len(means)}, one for each mean, above 0."
            )
        self.register_buffer("means", means)
        self.register_buffer("stds", stds)
        self.register_buffer("weights", weights / weights.sum())

    def _mean(self, k: int, x: Tensor, space: Space) -> Tensor:
        return space.project(self.means[k].to(x.dtype) + torch.zeros_like(x))

    def _components(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, space: Space
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """For each component: x minus its mean, its variance (B,); and the log-joint density, (K, B)."""
        dim, away, variances, joint = space.dim(x), [], [], []
        for k, (std, weight) in enumerate(zip(self.stds, self.weights, strict=True)):
            z = x - space.expand(alpha, x) * self._mean(k, x, space)
            v = (alpha**2 * std**2 + sigma**2).clamp(min=torch.finfo(x.dtype).tiny)
            away.append(z)
            variances.append(v)
            volume = dim * (2 * math.pi * v).log()
            joint.append(weight.log() - 0.5 * (space.sum(z.square()) / v + volume))
        return away, variances, torch.stack(joint)

    def forward(
        self, x_t: Tensor, t: Tensor, space: Space = DENSE, label: Tensor | None = None
    ) -> Tensor:
        """The ideal output of a network with this prediction target, shaped like x_t.

        Arguments:
            x_t: The noisy state, in the space.
            t: Times, (B,).
            space: The batch's space.
            label: The component of each item, (B,) integers, -1 where it is unknown.

        Raises:
            ValueError: If there is not one integer for each item.
        """
        if label is not None:
            check_shape((space.items(x_t),), "give one for each item", label=label)
            if label.is_floating_point() or label.dtype == torch.bool:
                raise ValueError(
                    f"label is of {label.dtype}; give integers, -1 where it is unknown."
                )
            if read(label, lambda label: (label < len(self.means)).all()) is False:
                raise ValueError(
                    f"label goes up to {label.max()}; give integers below {len(self.means)}, or -1."
                )
        return self._output(x_t, t, space, **({} if label is None else {"label": label}))

    def posterior(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, space: Space, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        away, variances, joint = self._components(x_t, alpha, sigma, space)
        if label is not None:
            others = torch.arange(len(joint), device=label.device)[:, None] != label
            joint = joint.masked_fill(others & (label >= 0), -torch.inf)
        x0, eps = torch.zeros_like(x_t), torch.zeros_like(x_t)
        for k, (z, v, share) in enumerate(zip(away, variances, joint.softmax(0), strict=True)):
            inside = (
                self._mean(k, x_t, space) + space.expand(alpha * self.stds[k] ** 2 / v, x_t) * z
            )
            x0 = x0 + space.expand(share, x_t) * inside
            eps = eps + space.expand(share * sigma / v, x_t) * z
        return x0, eps

    def log_prob(
        self, x: Tensor, t: Tensor | float | None = None, *, space: Space = DENSE
    ) -> Tensor:
        check_floating(x=x)
        alpha, sigma = self._levels(t, space.dim(x))
        return self._components(x, alpha, sigma, space)[2].logsumexp(0)

    def log_label(self, x: Tensor, t: Tensor | float, *, space: Space = DENSE) -> Tensor:
        """The log-probability of each component given x_t, (B, K).

        Arguments:
            x: x_t, in the space.
            t: Times, (B,) or one for all.
            space: The batch's space.

        Raises:
            ValueError: If x is not of floating-point numbers, or a time lies outside [0, 1].
        """
        check_floating(x=x)
        alpha, sigma = self._levels(t, space.dim(x))
        return self._components(x, alpha, sigma, space)[2].log_softmax(0).T

    def draw(
        self, shape: tuple[int, ...], *, space: Space = DENSE, generator: Generator | None = None
    ) -> Tensor:
        like = self.like.new_zeros(shape)
        items = space.items(like)
        which = torch.multinomial(self.weights, items, replacement=True, generator=generator)
        x = space.noise(like, generator) * space.expand(self.stds[which], like)
        for k in range(len(self.means)):
            x = x + space.expand((which == k).to(x.dtype), x) * self._mean(k, x, space)
        return x


def gaussian(
    schedule: Schedule, prediction: str | Target = "v", **options: Tensor | float
) -> GaussianDiffusion:
    """A diffusion whose denoiser is :class:`Gaussian`.

    Arguments:
        schedule: The schedule of the diffusion.
        prediction: Its prediction target.
        options: Arguments of :class:`Gaussian`: mean, std, covariance.

    Raises:
        ValueError: As :class:`Gaussian`, or if the prediction does not determine x0 at the schedule's
            end.
    """
    denoiser = Gaussian(schedule, prediction, **options)  # type: ignore[arg-type]
    return GaussianDiffusion(denoiser, schedule, prediction)


def consistency(
    schedule: Schedule, prediction: str | Target = "v", **options: Tensor | float
) -> GaussianDiffusion:
    """A consistency model whose denoiser is :class:`GaussianConsistency`.

    Arguments:
        schedule: The schedule of the model.
        prediction: Its prediction target.
        options: Arguments of :class:`Gaussian`: mean, std, covariance.

    Raises:
        ValueError: As :class:`Gaussian`, or if the prediction does not determine x0 at the schedule's
            end.
    """
    denoiser = GaussianConsistency(schedule, prediction, **options)  # type: ignore[arg-type]
    return GaussianDiffusion(denoiser, schedule, prediction)


def mixture(
    schedule: Schedule, prediction: str | Target = "v", **options: Tensor | float
) -> GaussianDiffusion:
    """A diffusion whose denoiser is :class:`GaussianMixture`.

    Arguments:
        schedule: The schedule of the diffusion.
        prediction: Its prediction target.
        options: Arguments of :class:`GaussianMixture`: means, stds, weights.

    Raises:
        ValueError: As :class:`GaussianMixture`, or if the prediction does not determine x0 at the
            schedule's end.
    """
    denoiser = GaussianMixture(schedule, prediction, **options)  # type: ignore[arg-type]
    return GaussianDiffusion(denoiser, schedule, prediction)
