r"""The variational bound: an upper bound of -log p(x0), in nats.

It is computed for a chain of T steps, term by term (:func:`variational_bound`), or for the diffusion in
continuous time (:func:`continuous_bound`),

.. math::
    L_\infty = KL(q(x_1 | x_0) \| p(x_1)) - E \log p(x_0 | x_{first})
        + \tfrac12 \int_0^1 -\lambda'_t\, E \lVert \epsilon - \hat\epsilon \rVert^2 dt

Every term is estimated with one draw of noise per item; report the mean over data, or over repeated
calls. The prior p(x_1) is the distribution from which :meth:`anydiff.GaussianDiffusion.sample` starts: a
normal with the variance alpha² + sigma² of t = 1. The bounds are differentiable: evaluate them under
``torch.no_grad()``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, log
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from anydiff.checks import check_choice, check_floating, check_kind, check_range, check_whole
from anydiff.likelihood.chain import Chain, mistake
from anydiff.likelihood.decoders import ContinuousGaussian, Decoder, bits_per_dim
from anydiff.likelihood.gaussians import kl
from anydiff.precision import at_least_float32
from anydiff.predictions import Prediction, Predictor, check_predictor, check_undistilled
from anydiff.schedules import Level
from anydiff.spaces import Random, Space
from anydiff.spaces.draws import uniforms

__all__ = ["Bound", "continuous_bound", "variational_bound"]


class Bound(NamedTuple):
    """An upper bound of -log p(x0) in nats, in its parts.

    Attributes:
        prior: The KL divergence of the last state from the noise that sampling starts from, (B,).
        diffusion: The sum of the KL divergences of the reverse steps, (B,).
        reconstruction: -log p(x0 | x_t) at the first level, (B,).
        dim: The dimension of each item, (B,).
        steps: The divergence of each step, (K, B); in continuous time, estimates whose mean is
            `diffusion`.
        times: The time t of each of these, (K, B).
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor
    dim: Tensor
    steps: Tensor
    times: Tensor

    @property
    def total(self) -> Tensor:
        """The bound in nats, (B,)."""
        return self.prior + self.diffusion + self.reconstruction

    def bits_per_dim(self, width: float = 1.0) -> Tensor:
        """The bound in bits per dimension, (B,).

        Arguments:
            width: The distance of neighbouring data levels if the decoder is a density, see
                :func:`~anydiff.likelihood.bits_per_dim`.
        """
        return bits_per_dim(-self.total, self.dim, width)


def variational_bound(
    predictor: Predictor,
    x0: Tensor,
    steps: int | Sequence[float] | Tensor = 1000,
    *,
    decoder: Decoder = ContinuousGaussian(),
    variance: str = "small",
    draws: int | None = None,
    generator: Random = None,
) -> Bound:
    r"""The variational bound of the chain of T steps, in nats, for each item.

    .. math::
        L = KL(q(x_T | x_0) \| p(x_T)) + \sum_{t > s} KL(q(x_s | x_t, x_0) \| p(x_s | x_t))
          - \log p(x_0 | x_{first})

    If the schedule starts at the data, as a table does, the first step is the decoder: a normal around
    the predicted x0 with the variance of the step. If it starts with some noise, the first step has its
    divergence like the others, and the decoder is a normal around :math:`x_{first} / \alpha`.

    Arguments:
        predictor: The model, bound to its batch.
        x0: Data, which are projected onto the space first.
        steps: T, for equal steps in t; or the times, falling or rising.
        decoder: The likelihood of the data: a density, or :class:`DiscretizedGaussian`.
        variance: The variance of the reverse steps: ``"small"``, ``"large"`` or ``"learned"``, as in
            :class:`~anydiff.samplers.DDPM`.
        draws: The number of random steps per item from which the sum is estimated; None takes all steps.
        generator: The source of noise and random steps; with one generator per item, the bound of an item
            does not depend on its batch.

    Raises:
        ValueError: If an argument is not of its kind, if the steps, the variance or the number of draws
            are not allowed, if the variance is ``"learned"`` and the denoiser has no second output, or
            if the model is distilled.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), eq. 5 and section 3.3.
        https://arxiv.org/abs/2006.11239
        Variational Diffusion Models (Kingma et al., 2021), eq. 11-13. https://arxiv.org/abs/2107.00630
    """
    _check(predictor, x0, decoder)
    space, schedule = predictor.space, predictor.schedule
    x0 = space.project(x0.to(at_least_float32(x0)))
    dim = space.dim(x0)
    chain = Chain.of(schedule, steps, variance, x0.device)

    def visit(k: Tensor) -> tuple[Prediction, Tensor]:
        """The prediction at the rows k, (B,), and the noise there."""
        at = schedule._at(chain.knots[k].to(x0.dtype))
        eps = space.noise(x0, generator)
        return predictor.predict(_noisy(x0, eps, at, space), at), eps

    first, last = 1, len(chain)
    if chain.level(0).sigma == 0:
        k = torch.ones(len(dim), dtype=torch.long, device=x0.device)
        p, _ = visit(k)
        reconstruction = chain.decode(p, x0, k, decoder, space)
        first = 2
    else:
        start = chain.knots[0].to(x0.dtype).expand(len(dim))
        reconstruction = _reconstruction(x0, schedule._at(start), decoder, space, generator)

    count = last + 1 - first
    rows = torch.arange(first, last + 1, device=x0.device)[:, None].expand(count, len(dim))
    if draws is not None and count:
        u = _strata(draws, x0, len(dim), generator)
        rows = first + (u * count).long().clamp(max=count - 1)
    terms = [x0.new_zeros(0, len(dim))]
    for k in rows:
        p, eps = visit(k)
        terms.append(chain.divergence(p, x0, eps, k, space)[None])
    divergences = torch.cat(terms)

    end = schedule._at(chain.knots[-1].to(x0.dtype).expand(len(dim)))
    return Bound(
        prior=_prior(x0, end, space),
        diffusion=divergences.sum(0) * (count / max(len(rows), 1)),
        reconstruction=reconstruction,
        dim=dim,
        steps=divergences,
        times=chain.knots[rows].to(x0.dtype),
    )


def continuous_bound(
    predictor: Predictor,
    x0: Tensor,
    *,
    decoder: Decoder = ContinuousGaussian(),
    u: Tensor | None = None,
    draws: int = 1,
    uniform: str = "time",
    logsnr_min: float = -20.0,
    logsnr_max: float = 20.0,
    generator: Random = None,
) -> Bound:
    r"""The variational bound in continuous time, in nats, for each item.

    .. math::
        L_\infty = KL(q(x_1 | x_0) \| p(x_1)) - \log p(x_0 | x_{first})
            + \tfrac12 E_t \bigl[ -\lambda'_t \lVert \epsilon - \hat\epsilon \rVert^2 \bigr]

    The noise of an estimate is mostly that of :math:`\lVert \epsilon \rVert^2`, at little noise, where no
    denoiser can tell it from the data. So the integral of :math:`\operatorname{sigmoid}(\lambda_t)^2
    \lVert \epsilon \rVert^2`, which is the mistake of a standard normal at x0 = 0, is subtracted as it is
    drawn and added as it is known; up to the noise that is as wide as the distance of levels, where the
    decoder has some.

    The decoder is a normal around :math:`x_{first} / \alpha`. The bound is differentiable with respect to
    the denoiser and, with ``uniform="time"``, to the schedule: its total is the loss of the denoiser and
    of the ends of a learned schedule, the variance of `steps` that of the schedule's interior.

    Arguments:
        predictor: The model, bound to its batch.
        x0: Data, which are projected onto the space first.
        decoder: The likelihood of the data: a density, or :class:`DiscretizedGaussian`.
        u: Uniform numbers in [0, 1], (B,) or (draws, B), which are mapped to times. Stratified random
            numbers if None.
        draws: The number of times per item, if u is None.
        uniform: The variable in which the times are uniform: ``"time"``, or ``"logsnr"``, whose estimates
            have less variance for a schedule that is not learned.
        logsnr_min: The log-SNR below which the bound is truncated, if the schedule goes further.
        logsnr_max: The log-SNR above which it is truncated, likewise.
        generator: The source of noise and times; with one generator per item, the bound of an item does
            not depend on its batch.

    Raises:
        ValueError: If an argument is not one of its choices or lies outside its range, or if the model is
            distilled.

    References:
        Variational Diffusion Models (Kingma et al., 2021), eq. 11-18.
        https://arxiv.org/abs/2107.00630
    """
    check_choice(("time", "logsnr"), uniform=uniform)
    check_range(f"({logsnr_min}, inf)", logsnr_max=logsnr_max)
    _check(predictor, x0, decoder)
    space, schedule = predictor.space, predictor.schedule
    x0 = space.project(x0.to(at_least_float32(x0)))
    dim = space.dim(x0)

    if u is None:
        u = _strata(draws, x0, len(dim), generator)
    else:
        check_floating(u=u)
        if u.shape[-1:] != dim.shape or u.ndim > 2 or not ((u >= 0) & (u <= 1)).all():
            raise ValueError(
                f"u is {tuple(u.shape)}; give numbers in [0, 1], (B,) or (draws, B) for {len(dim)} items."
            )
        u = u.reshape(-1, len(dim)).double()
    with torch.no_grad():
        logsnr = schedule.ends(x0.device).clamp(logsnr_min, logsnr_max)
        start, stop = schedule.time(logsnr)
        times = start + u * (stop - start)
        if uniform == "logsnr":
            times = schedule.time(logsnr[0] + u * (logsnr[1] - logsnr[0]))

    # at less noise than a third of their distance, levels can be told apart, and nothing is mistaken
    levels = getattr(decoder, "resolution", 0.0)
    known = -2 * log(levels / 3) if levels else inf

    terms = []
    for t in times.to(x0.dtype):
        at = schedule._at(t)
        eps = space.noise(x0, generator)
        p = predictor.predict(_noisy(x0, eps, at, space), at)
        fall = logsnr[0] - logsnr[1]
        if uniform == "time":
            fall = -at.logsnr_rate * (stop - start)
        error, noise = (space.sum(e.square()) for e in (mistake(p, x0, eps)[1], eps))
        terms.append(0.5 * fall.to(x0.dtype) * (error - _control(at.logsnr, known) * noise))

    first, last = (schedule._at(t.to(x0.dtype).expand(len(dim))) for t in (start, stop))
    ends = (first.logsnr, last.logsnr) if uniform == "time" else logsnr.to(x0.dtype)
    area = _area(ends[0], known) - _area(ends[1], known)
    integrals = torch.stack(terms) + 0.5 * area * dim
    return Bound(
        prior=_prior(x0, last, space),
        diffusion=integrals.mean(0),
        reconstruction=_reconstruction(x0, first, decoder, space, generator),
        dim=dim,
        steps=integrals,
        times=times.to(x0.dtype),
    )


def _control(logsnr: Tensor, known: float) -> Tensor:
    """What share of the noise is subtracted from the mistakes: from 0 to 1 and, beyond `known`, to 0."""
    return logsnr.sigmoid().square() - (logsnr - known).sigmoid().square()


def _area(logsnr: Tensor, known: float) -> Tensor:
    """The integral of this share, by which the mean of what was subtracted is known."""
    a, b = (softplus(x) + (-x).sigmoid() for x in (logsnr, logsnr - known))
    return a - b


def _check(predictor: Predictor, x0: Tensor, decoder: Decoder) -> None:
    check_predictor(predictor=predictor)
    check_undistilled(predictor)
    check_floating(x0=x0)
    check_kind(Callable, "a decoder, such as ContinuousGaussian()", decoder=decoder)


def _noisy(x0: Tensor, eps: Tensor, at: Level, space: Space) -> Tensor:
    return torch.add(space.expand(at.alpha, x0) * x0, space.expand(at.sigma, x0) * eps)


def _prior(x0: Tensor, at: Level, space: Space) -> Tensor:
    """KL(q(x_t | x0) || N(0, alpha² + sigma²)) at the noisy end, (B,)."""
    scale2 = at.alpha**2 + at.sigma**2
    away = space.expand(at.alpha * scale2**-0.5, x0) * x0
    # log sigma² / (sigma² + alpha²); near pure noise the quotient loses precision
    ratio = space.expand(-torch.log1p((at.alpha / at.sigma) ** 2), x0)
    return kl(away, torch.zeros_like(ratio), ratio, space)


def _reconstruction(
    x0: Tensor, at: Level, decoder: Decoder, space: Space, generator: Random
) -> Tensor:
    """-log p(x0 | x_t) at the clean end, (B,); the decoder's mean is x_t / alpha."""
    eps = space.noise(x0, generator)
    mean = x0 + space.expand(at.noise_to_signal, x0) * eps
    return -decoder(x0, mean, space.expand(-at.logsnr, x0), space)


def _strata(draws: int, x0: Tensor, items: int, generator: Random) -> Tensor:
    """Uniform numbers in [0, 1], (draws, B): for each item, one in each of `draws` strata."""
    check_whole("[1, inf)", draws=draws)
    u = uniforms(draws, items, x0, generator)
    return (torch.arange(draws, device=x0.device)[:, None] + u) / draws
