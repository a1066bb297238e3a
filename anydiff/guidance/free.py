"""Guidance by the difference of two predictors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_range
from anydiff.guidance.guided import Scale, guided, value_at, wide
from anydiff.losses import conditions
from anydiff.predictions import Network, Prediction, Predictor
from anydiff.schedules import Level, Schedule
from anydiff.spaces import Space

__all__ = ["autoguidance", "classifier_free"]


def classifier_free(
    conditional: Predictor,
    unconditional: Predictor,
    scale: Scale = 2.0,
    *,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
    batched: bool = False,
) -> Predictor:
    r"""Away from what a model says without a condition, towards what it says with one, and beyond.

    .. math:: \hat x_0 = \hat x_0^{\varnothing} + w\, (\hat x_0^{c} - \hat x_0^{\varnothing})

    At w = 1 the conditional model answers alone, at 0 the unconditional one. (The paper's scale is
    w - 1.)

    Arguments:
        conditional: With the condition.
        unconditional: Without, or with a negative one, to move away from.
        scale: w.
        interval: The times in which the scale holds; outside the conditional model answers alone.
        rescale: In [0, 1], how far x0 is brought back to the norm, in its space, of the conditional
            model's, against the glare of large scales.
        batched: Ask the denoiser once with both instead of twice.

    Raises:
        ValueError: If the two do not have a space and a schedule in common.

    References:
        Classifier-Free Diffusion Guidance (Ho & Salimans, 2022). https://arxiv.org/abs/2207.12598
        Applying Guidance in a Limited Interval (Kynkäänniemi et al., 2024).
        https://arxiv.org/abs/2404.07724
        Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2023), section 3.4,
        whose deviation over the entries is a norm here. https://arxiv.org/abs/2305.08891
    """
    _check_pair(conditional, unconditional)
    low, high = interval
    check_range("[0, 1]", low=low, high=high, rescale=rescale)
    check_range(f"[{low}, 1]", high=high)
    space = conditional.space
    both = together(conditional, unconditional) if batched else None

    def answer(x_t: Tensor, at: Level) -> Prediction:
        w = value_at(scale, at)
        if (low, high) == (0, 1):
            pass
        elif isinstance(at.t, Tensor):
            w = torch.where((at.t >= low) & (at.t <= high), w, 1.0)
        elif not low <= at.t <= high:
            w = 1.0
        if not isinstance(w, Tensor) and w in (0, 1):
            return (conditional if w == 1 else unconditional).predict(x_t, at)

        if both is None:
            c, u = conditional.predict(x_t, at), unconditional.predict(x_t, at)
        else:
            c, u = both(x_t, at)
        p = replace(c, y=_extrapolate(_in_terms_of(c, u), c.y, space.expand(w, x_t)))
        if rescale == 0:
            return p
        norms = [space.sum(wide(q.x0).square()).clamp(min=1e-12).sqrt() for q in (c, p)]
        factor = (1 + rescale * (norms[0] / norms[1] - 1)).to(x_t.dtype)
        return p.with_x0(p.x0 * space.expand(factor, x_t))

    def remake(conditional: Predictor, unconditional: Predictor) -> Predictor:
        return classifier_free(
            conditional, unconditional, scale, interval=interval, rescale=rescale, batched=batched
        )

    # a scale for each item would have to be copied too
    able = not isinstance(scale, Tensor)
    return guided(answer, conditional, unconditional, remake=remake if able else None)


def autoguidance(strong: Predictor, weak: Predictor, scale: Scale = 2.0) -> Predictor:
    """Away from what a weaker version of a model says: smaller, or less trained, told the same.

    The formula of :func:`classifier_free`; the models may predict different things.

    Arguments:
        strong: The model.
        weak: The weaker version.
        scale: w; 1 is the strong model alone.

    Raises:
        ValueError: If the two do not have a space and a schedule in common.

    References:
        Guiding a Diffusion Model with a Bad Version of Itself (Karras et al., 2024).
        https://arxiv.org/abs/2406.02507
    """
    return classifier_free(strong, weak, scale)


def together(*predictors: Predictor) -> Callable[[Tensor, Level], list[Prediction]]:
    """Several predictors of one network and one space, asked in one call of it.

    It sees the batch as many times as there are predictors, each time with other conditions; one that a
    predictor lacks is absent, see :mod:`anydiff.losses.conditions`.

    Raises:
        ValueError: If they belong to different networks or spaces, or if the space does not know its
            copies.
    """
    networks = [p.answer for p in predictors if isinstance(p.answer, Network)]
    num, space = len(predictors), predictors[0].space
    several = space.copies(num)
    if (
        several is None
        or len(networks) < num
        or any(
            n.denoiser is not networks[0].denoiser or not _one_space(n.space, space)
            for n in networks
        )
    ):
        raise ValueError(
            "one call needs predictors of one diffusion, as `diffusion.predictor(space, ...)` gives "
            "them, in one space that knows its copies; ask them one after the other with batched=False."
        )
    single = networks[0]
    joint = replace(single, space=several, cond=conditions.join([n.cond for n in networks]))

    def answer(x_t: Tensor, at: Level) -> list[Prediction]:
        levels = at
        if isinstance(at.t, Tensor):
            levels = at.schedule.at(at.t.repeat(num))
        p = joint(space.join([x_t] * num), levels)
        ys = space.separate(p.y, num)
        extras = [None] * num if p.extra is None else space.separate(p.extra, num)
        coefficients = single.coefficients(x_t, at)
        return [Prediction(x_t, y, *coefficients, e) for y, e in zip(ys, extras, strict=True)]

    return answer


def _one_space(one: Space, other: Space) -> bool:
    return one is other or one == other


def _extrapolate(start: Tensor, end: Tensor, w: Any) -> Tensor:
    """start + w (end - start), exact at w = 0 and 1."""
    w = w.to(start.dtype) if isinstance(w, Tensor) else w
    return torch.lerp(start, end, w)


def _in_terms_of(p: Prediction, q: Prediction) -> Tensor:
    """What q would have said, if it predicted what p does, of the same x_t."""
    if _same(p.a, q.a) and _same(p.b, q.b):
        return q.y
    return torch.add(p.a * q.x0, p.b * q.eps).to(p.y.dtype)


def _same(a: Any, b: Any) -> bool:
    """Whether two coefficients are known to be equal, without a look at the device."""
    return a is b or (not (isinstance(a, Tensor) or isinstance(b, Tensor)) and a == b)


def _agree(one: Schedule, other: Schedule) -> bool:
    """Whether two schedules are the same function, however they are kept."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    with torch.no_grad():
        levels = zip(one(t), other(t), strict=True)
        return all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in levels)


def _check_pair(p: Predictor, q: Predictor) -> None:
    if not _one_space(p.space, q.space):
        raise ValueError(
            "the two predictors are bound to different spaces; bind both to the batch's own."
        )
    if p.schedule is not q.schedule and not _agree(p.schedule, q.schedule):
        raise ValueError(
            f"the two predictors have different schedules, {p.schedule} and {q.schedule}; x_t means "
            "something else to each. Train both with one."
        )
