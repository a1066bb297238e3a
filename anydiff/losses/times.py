r"""Where training looks: the density of the times that a loss is taken at.

A rule for times is an inverse distribution function, a rising map of uniform draws u in [0, 1] to
times. It is applied to one draw from each of B equal strata, so that a batch covers the density evenly,
which takes most of the noise of t out of its loss.

A density weighs too: the expected loss is :math:`\int p(t)\, w(t)\, L_t\, dt`, and the weightings of the
literature are meant for uniform times, or for those of their paper. :class:`LossSecondMoment` alone
divides its density out again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from anydiff.checks import check_range, frozen
from anydiff.schedules import Schedule
from anydiff.spaces.draws import rand

__all__ = [
    "LogNormal", "LogitNormal", "LossSecondMoment", "Mapped", "Power", "Times", "UniformLogSNR",
    "as_times", "stratified",
]  # fmt: skip


def stratified(items: int, like: Tensor, generator: Generator | None = None) -> Tensor:
    """Numbers in [0, 1), one in each of so many equal strata, in random order, (B,), float64.

    Each is uniform by itself, and together they cover the interval evenly.

    Arguments:
        items: B.
        like: Gives the device.
        generator: Where they come from.
    """
    device = like.device if generator is None else generator.device
    order = torch.randperm(items, generator=generator, device=device).to(like.device)
    return (order + rand((items,), like, generator)) / items


class Times:
    """A density of times."""

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """The times of quantiles u, shaped like u, rising with it; float64."""
        raise NotImplementedError

    @torch.no_grad()
    def draw(
        self, items: int, schedule: Schedule, *, like: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """Times in [0, 1], (B,), of the dtype and on the device of `like`, one from each stratum.

        Arguments:
            items: B.
            schedule: Of the model.
            like: Gives the dtype and the device.
            generator: Where they come from.
        """
        # rounding to float32 may reach 1 itself, which every schedule allows
        return self(stratified(items, like, generator), schedule).clamp(0, 1).to(like.dtype)

    def reweigh(self, t: Tensor, loss: Tensor) -> Tensor:
        """The loss (B,) of times that were drawn here, divided by their density if that is to cancel.

        Arguments:
            t: Times that :meth:`draw` gave, (B,).
            loss: The loss at each, (B,).
        """
        return loss


@frozen()
class Mapped(Times):
    """Every time alike; or a function of uniform draws.

    Arguments:
        function: (B,) -> (B,), float64, rising from 0 to 1; None is the identity.
    """

    function: Callable[[Tensor], Tensor] | None = None

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return u if self.function is None else self.function(u)


def as_times(times: Times | Callable[[Tensor], Tensor] | None) -> Times:
    """A density: itself, or from a map of uniform draws, or from None for uniform times."""
    return times if isinstance(times, Times) else Mapped(times)


@frozen(power="(0, inf)")
class Power(Times):
    r"""A power of uniform draws, :math:`t = u^p`, with the density :math:`t^{1/p - 1} / p`.

    Arguments:
        power: p; above 1 looks more at little noise.

    Raises:
        ValueError: If the power is not positive.
    """

    power: float = 1.5

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return u**self.power


@frozen(std="(0, inf)")
class LogNormal(Times):
    r"""The density of Karras et al.: the logarithm of sigma / alpha is normal.

    Levels outside the schedule's range become its ends.

    Arguments:
        mean, std: Of :math:`\ln(\sigma / \alpha)`; the defaults are for data of deviation 1/2.

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
    r"""The logit of t is normal: more of the middle, where the task is hardest.

    Arguments:
        mean: Of :math:`\ln \frac{t}{1 - t}`; above 0 looks more at noise.
        std: Its deviation.

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
    """Every log-SNR between two ends alike, and so every ln(sigma / alpha).

    Arguments:
        logsnr_min, logsnr_max: The ends, no further than the schedule goes.

    Raises:
        ValueError: If a value lies outside its range.
    """

    logsnr_min: float = -10.0
    logsnr_max: float = 10.0

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        high, low = schedule.ends(u.device).clamp(self.logsnr_min, self.logsnr_max)
        return schedule.time(torch.lerp(high, low, u.double()))


class LossSecondMoment(nn.Module, Times):
    r"""Look most where the loss is largest and most uncertain, without changing what is learned.

    .. math::
        p_k \propto \sqrt{\mathbb E[L_k^2]}, \qquad
        \mathbb E_{k \sim p}\Bigl[\frac{L_k}{n\, p_k}\Bigr] = \frac1n \sum_k L_k

    The second moments are those of the last losses in each of n equal bins of t. Until every bin has
    its `history`, and in eval mode, times are uniform. The losses are buffers: they move and are saved
    with the diffusion, and nothing is read from the device.

    Arguments:
        bins: n.
        history: How many losses each bin remembers.
        mixing: The part of the draws that stays uniform, which keeps the weights below 1 / mixing.

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
        check_range("[1, inf)", bins=bins, history=history)
        check_range("(0, 1]", mixing=mixing)
        self.bins, self.history, self.mixing = bins, history, mixing
        self.register_buffer("losses", torch.zeros(bins, history))
        self.register_buffer("count", torch.zeros(bins, dtype=torch.long))

    @property
    def probabilities(self) -> Tensor:
        """What each bin is drawn with, (bins,), float64."""
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
        """Write losses (B,) over the oldest of their bins k (B,)."""
        k, order = k.sort(stable=True)
        loss = loss[order].to(self.losses.dtype)
        items = torch.arange(len(k), device=k.device)
        rank = items - torch.searchsorted(k, k)  # how many of the batch its bin has had already
        cell = k * self.history + (self.count[k] + rank) % self.history

        # where more than one loss falls into a cell the last one stays, on any device
        last = torch.full_like(self.losses, -1, dtype=torch.long).flatten()
        last = last.scatter_reduce(0, cell, items, "amax").view_as(self.losses)
        new = loss[last.clamp(min=0)]
        # a loss that overflowed would be remembered for ever: nothing could be drawn any more
        self.losses.copy_(torch.where((last >= 0) & new.isfinite(), new, self.losses))
        self.count.index_add_(0, k, torch.ones_like(k))
