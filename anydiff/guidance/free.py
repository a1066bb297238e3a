"""Guidance by the difference of two predictors: classifier-free guidance and autoguidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_range, shown
from anydiff.guidance.guided import Scale, check_scale, guided, value_at, wide
from anydiff.losses import conditions
from anydiff.predictions import Network, Prediction, Predictor, check_predictor
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
    r"""Classifier-free guidance: extrapolate from the unconditional to the conditional prediction.

    .. math:: \hat x_0 = \hat x_0^{\varnothing} + w\, (\hat x_0^{c} - \hat x_0^{\varnothing})

    w = 0 is the unconditional model, w = 1 the conditional one, w > 1 is stronger. (The paper's scale is
    w - 1.)

    Arguments:
        conditional: The model with the condition.
        unconditional: The model without it, or with a negative condition, from which to move away.
        scale: w.
        interval: The times (low, high) in which the scale applies; outside, w is 1.
        rescale: In [0, 1], how far the norm of x0 is rescaled to that of the conditional prediction, in
            the model's space; it counteracts the oversaturation of large scales.
        batched: Evaluate both in one call of the denoiser instead of two.

    Raises:
        ValueError: If the two have different spaces or schedules, if `interval` or `rescale` lies outside
            [0, 1], or if `batched` is set and one call is not possible.

    References:
        Classifier-Free Diffusion Guidance (Ho & Salimans, 2022). https://arxiv.org/abs/2207.12598
        Applying Guidance in a Limited Interval (Kynkäänniemi et al., 2024).
        https://arxiv.org/abs/2404.07724
        Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2023), section 3.4,
        whose standard deviation over the entries is a norm here. https://arxiv.org/abs/2305.08891
    """
    check_predictor(conditional=conditional, unconditional=unconditional)
    check_scale(scale)
    _check_pair(conditional, unconditional)
    if not (isinstance(interval, tuple | list) and len(interval) == 2):
        raise ValueError(f"interval is {shown(interval)}; give two times, (low, high).")
    low, high = interval
    check_range("[0, 1]", low=low, high=high, rescale=rescale)
    check_range(f"[{low}, 1]", high=high)
    space = conditional.space
    both = together(conditional, unconditional) if batched else None

    def answer(x_t: Tensor, at: Level) -> Prediction:
        w = value_at(scale, at, x_t, space)
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

    # a scale per item would have to be copied as well
    able = not isinstance(scale, Tensor)
    return guided(answer, conditional, unconditional, remake=remake if able else None)


def autoguidance(strong: Predictor, weak: Predictor, scale: Scale = 2.0) -> Predictor:
    """Autoguidance: extrapolate from a weaker version of a model, smaller or less trained, to the model.

    The formula is that of :func:`classifier_free`, with the same condition for both. The two models may
    have different prediction targets.

    Arguments:
        strong: The model.
        weak: The weaker version.
        scale: w; 1 is the strong model alone.

    Raises:
        ValueError: If the two are no predictors, or have different spaces or schedules.

    References:
        Guiding a Diffusion Model with a Bad Version of Itself (Karras et al., 2024).
        https://arxiv.org/abs/2406.02507
    """
    check_predictor(strong=strong, weak=weak)
    return classifier_free(strong, weak, scale)


def together(*predictors: Predictor) -> Callable[[Tensor, Level], list[Prediction]]:
    """Evaluate several predictors of one network and one space in one call of the network.

    Its input is one copy of the batch per predictor, each with the conditions of that predictor. A
    condition that a predictor does not have is absent in its copy, see :mod:`anydiff.losses.conditions`.

    Arguments:
        predictors: Predictors of one diffusion, as ``diffusion.predictor(space, **cond)`` gives them.

    Returns:
        (x_t, level) -> the list of their predictions.

    Raises:
        ValueError: If they belong to different networks or spaces, or if the space does not define its
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
            "them, in one space that defines its copies; call them separately with batched=False."
        )
    single = networks[0]
    joint = replace(single, space=several, cond=conditions.join([n.cond for n in networks], space))

    def answer(x_t: Tensor, at: Level) -> list[Prediction]:
        levels = at
        if isinstance(at.t, Tensor):
            levels = at.schedule._at(at.t.repeat(num))
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
    """The output of q in terms of the target of p, at the same x_t."""
    if _same(p.a, q.a) and _same(p.b, q.b):
        return q.y
    return torch.add(p.a * q.x0, p.b * q.eps).to(p.y.dtype)


def _same(a: Any, b: Any) -> bool:
    """Whether two coefficients are known to be equal without reading from the device."""
    return a is b or (not (isinstance(a, Tensor) or isinstance(b, Tensor)) and a == b)


def _agree(one: Schedule, other: Schedule) -> bool:
    """Whether two schedules are the same function of t, whatever their classes."""
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
