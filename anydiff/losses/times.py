r"""The distribution of training times.

A distribution is given by its inverse distribution function, an increasing map of uniform numbers u in
[0, 1] to times. It is applied to one number from each of B equal strata, so that a batch covers the
distribution evenly. This removes most of the variance that random times cause in the loss.

The density p(t) acts as a weight too: the expected loss is :math:`\int p(t)\, w(t)\, L_t\, dt`. The
weightings of the literature assume uniform times, or those of their paper. Only
:class:`LossSecondMoment` divides the loss by its density.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from anydiff.checks import check_kind, check_range, check_whole, frozen, shown
from anydiff.precision import ExactBuffers
from anydiff.predictions import OwnRun
from anydiff.schedules import Schedule
from anydiff.spaces.draws import rand

__all__ = [
    "LogNormal", "LogitNormal", "LossSecondMoment", "Mapped", "Power", "SoftTruncation", "Times",
    "UniformLogSNR", "as_times", "stratified",
]  # fmt: skip


def stratified(items: int, like: Tensor, generator: Generator | None = None) -> Tensor:
    """Stratified uniform numbers in [0, 1): one in each of B equal strata, in random order, float64.

    Each is uniformly distributed, and together they cover the interval evenly.

    Arguments:
        items: The number of items B.
        like: Gives the device.
        generator: The source of random numbers.
    """
    device = like.device if generator is None else generator.device
    order = torch.randperm(items, generator=generator, device=device).to(like.device)
    return (order + rand((items,), like, generator)) / items


class Times:
    """The base class of distributions of times; a subclass defines `__call__`."""

    run: OwnRun | None = None
    """The run of a model that was trained at these times alone; None of a model of all times."""

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """The inverse distribution function: increasing times, shaped like u, float64.

        Arguments:
            u: Quantiles in [0, 1].
            schedule: The schedule of the model.
        """
        raise NotImplementedError

    @torch.no_grad()
    def draw(
        self, items: int, schedule: Schedule, *, like: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """Random times in [0, 1], (B,), stratified.

        Arguments:
            items: The number of items B.
            schedule: The schedule of the model.
            like: Gives the dtype and the device.
            generator: The source of random numbers.
        """
        # rounding to float32 may give 1 itself, which every schedule allows
        return self(stratified(items, like, generator), schedule).clamp(0, 1).to(like.dtype)

    def reweigh(self, t: Tensor, loss: Tensor) -> Tensor:
        """The loss, (B,), divided by the density of its times in a distribution that corrects for it.

        Arguments:
            t: Times from :meth:`draw`, (B,).
            loss: The loss at these times, (B,).
        """
        return loss


@frozen()
class Mapped(Times):
    """Uniform times, or a function of uniform times.

    Arguments:
        function: (B,) -> (B,), float64, increasing from 0 to 1; None is the identity.
    """

    function: Callable[[Tensor], Tensor] | None = None

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return u if self.function is None else self.function(u)


def as_times(times: Times | Callable[[Tensor], Tensor] | None) -> Times:
    """Return a distribution unchanged; wrap a map of uniform numbers, or None for uniform times.

    Raises:
        ValueError: If it is none of these.
    """
    check_kind(Times | Callable | None, "a distribution, such as LogNormal()", times=times)
    return times if isinstance(times, Times) else Mapped(times)


@frozen(power="(0, inf)")
class Power(Times):
    r"""A power of uniform times, :math:`t = u^p`, with the density :math:`t^{1/p - 1} / p`.

    Arguments:
        power: p; above 1 favours low noise.

    Raises:
        ValueError: If the power is not positive.
    """

    power: float = 1.5

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return u**self.power


@frozen(std="(0, inf)")
class LogNormal(Times):
    r"""The distribution of Karras et al.: ln(sigma / alpha) is normally distributed.

    Levels outside the schedule's range are replaced by its ends.

    Arguments:
        mean: The mean of :math:`\ln(\sigma / \alpha)`; the default is for data of standard deviation 1/2.
        std: Its standard deviation.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), table 1.
        https://arxiv.org/abs/2206.00364
    """

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.time(-2 * (self.mean + self.std * torch.special.ndtri(u.double())))


@frozen(std="(0, inf)")
class LogitNormal(Times):
    r"""The logit of t is normally distributed, which favours the middle, where denoising is hardest.

    Arguments:
        mean: The mean of :math:`\ln \frac{t}{1 - t}`; above 0 favours high noise.
        std: Its standard deviation.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Scaling Rectified Flow Transformers (Esser et al., 2024), section 3.1.
        https://arxiv.org/abs/2403.03206
    """

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u.double()))


@frozen(logsnr_max="(logsnr_min, inf)")
class UniformLogSNR(Times):
    """The log-SNR is uniformly distributed between two ends, and so is ln(sigma / alpha).

    Arguments:
        logsnr_min: The lower end, limited to the schedule's range.
        logsnr_max: The upper end, limited likewise.

    Raises:
        ValueError: If a value lies outside its range.
    """

    logsnr_min: float = -10.0
    logsnr_max: float = 10.0

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        high, low = schedule.ends(u.device).clamp(self.logsnr_min, self.logsnr_max)
        return schedule.time(torch.lerp(high, low, u.double()))


@frozen(power="[0, inf)", smallest="(0, 1)")
class SoftTruncation(Times):
    r"""Soft truncation: each batch has its own least time tau, which is drawn first.

    .. math:: p(\tau) \propto \tau^{-k}, \quad \tau \in [\epsilon, 1], \qquad
        t \sim p(t \mid t \ge \tau)

    The weights of the likelihood are so large next to the data that the smallest times of a batch
    outweigh all others. Here most batches have none of these, and learn the rest undisturbed. For k = 1
    and uniform times, t has the density
    :math:`(\operatorname{logit} t - \operatorname{logit} \epsilon) / \ln(1 / \epsilon)`.

    Arguments:
        power: k; the larger, the smaller tau.
        smallest: The least tau, and so the least time.
        times: The distribution of all times, as for :class:`~anydiff.GaussianDiffusion`, of which those
            from tau on are drawn; tau itself where it has none. None is uniform.

    Raises:
        ValueError: If a value lies outside its range, or if the times are of one run, or remember losses.

    References:
        Soft Truncation (Kim et al., 2022), the training of UDM. https://arxiv.org/abs/2106.05527
    """

    power: float = 1.0
    smallest: float = 1e-5
    times: Times | Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        times = as_times(self.times)
        if isinstance(times, nn.Module | SoftTruncation) or times.run is not None:
            raise ValueError(
                f"times is {shown(self.times)}; give a fixed distribution of all times, such as "
                "LogNormal()."
            )
        object.__setattr__(self, "times", times)

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """The inverse distribution function of all times, which each batch cuts off at its tau."""
        return as_times(self.times)(u, schedule)

    def truncation(self, u: Tensor) -> Tensor:
        """The inverse distribution function of tau, shaped like u.

        Arguments:
            u: Quantiles in [0, 1).
        """
        least, p = self.smallest, self.power - 1
        tau: Tensor = least ** (1 - u) if p == 0 else least / (1 - u * (1 - least**p)) ** (1 / p)
        return tau

    def above(self, tau: Tensor, u: Tensor, schedule: Schedule) -> Tensor:
        """The inverse distribution function of the times from tau on, shaped like u.

        Arguments:
            tau: The least time, (1,).
            u: Quantiles in [0, 1].
            schedule: The schedule of the model.
        """
        # the distribution function at tau, by halvings of the interval, ten at once
        parts = torch.arange(1024, dtype=torch.float64, device=u.device) / 1024
        below, width = torch.zeros_like(tau), 1.0
        for _ in range(5):
            earlier = (self(below + width * parts, schedule) < tau).sum(0, keepdim=True)
            width /= 1024
            below = below + width * (earlier - 1).clamp(min=0)
        return torch.maximum(self(below + (1 - below) * u, schedule), tau)

    @torch.no_grad()
    def draw(
        self, items: int, schedule: Schedule, *, like: Tensor, generator: Generator | None = None
    ) -> Tensor:
        tau = self.truncation(rand((1,), like, generator))
        t = self.above(tau, stratified(items, like, generator), schedule)
        return t.clamp(0, 1).to(like.dtype)


class LossSecondMoment(ExactBuffers, Times):
    r"""Importance sampling by the second moment of the loss, which leaves the expected loss unchanged.

    .. math::
        p_k \propto \sqrt{\mathbb E[L_k^2]}, \qquad
        \mathbb E_{k \sim p}\Bigl[\frac{L_k}{n\, p_k}\Bigr] = \frac1n \sum_k L_k

    The second moments are estimated from the last losses in each of n equal bins of t. Times are uniform
    until every bin has `history` losses, and in eval mode. The losses are buffers, which are moved and
    saved with the diffusion; nothing is read from the device.

    Arguments:
        bins: The number of bins n.
        history: The number of losses that each bin stores.
        mixing: The fraction of times that is drawn uniformly, which bounds the weights by 1 / mixing.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), section 3.3.
        https://arxiv.org/abs/2102.09672
    """

    losses: Tensor
    count: Tensor

    def __init__(self, bins: int = 100, history: int = 10, mixing: float = 1e-3) -> None:
        super().__init__()
        check_whole("[1, inf)", bins=bins, history=history)
        check_range("(0, 1]", mixing=mixing)
        self.bins, self.history, self.mixing = bins, history, mixing
        self.register_buffer("losses", torch.zeros(bins, history))
        self.register_buffer("count", torch.zeros(bins, dtype=torch.long))

    @property
    def probabilities(self) -> Tensor:
        """The probability of each bin, (bins,), float64."""
        moments = self.losses.double().square().mean(1).sqrt()
        total = moments.sum()
        p = (1 - self.mixing) * moments / total + self.mixing / self.bins
        ready = (self.count >= self.history).all() & (total > 0) & self.training
        return torch.where(ready, p, 1 / self.bins)

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        p = self.probabilities
        ends = p.cumsum(0)
        k = torch.searchsorted(ends, u.double(), right=True).clamp(max=self.bins - 1)
        within = (u - (ends - p)[k]) / p[k]
        return (k + within.clamp(0, 1)) / self.bins

    def reweigh(self, t: Tensor, loss: Tensor) -> Tensor:
        k = (t.double() * self.bins).long().clamp(max=self.bins - 1)
        weight = 1 / (self.bins * self.probabilities[k])
        if self.training:
            self._remember(k, loss.detach())
        return weight.to(loss.dtype) * loss

    def _remember(self, k: Tensor, loss: Tensor) -> None:
        """Store losses (B,) in place of the oldest ones of their bins k (B,)."""
        k, order = k.sort(stable=True)
        loss = loss[order].to(self.losses.dtype)
        items = torch.arange(len(k), device=k.device)
        rank = items - torch.searchsorted(k, k)  # earlier losses of the batch in the same bin
        cell = k * self.history + (self.count[k] + rank) % self.history

        # if several losses fall into one cell, the last one is stored, on any device
        last = torch.full_like(self.losses, -1, dtype=torch.long).flatten()
        last = last.scatter_reduce(0, cell, items, "amax").view_as(self.losses)
        new = loss[last.clamp(min=0)]
        # a loss that is not finite would make all probabilities NaN
        self.losses.copy_(torch.where((last >= 0) & new.isfinite(), new, self.losses))
        self.count.index_add_(0, k, torch.ones_like(k))
