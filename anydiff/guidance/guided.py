"""The building blocks of guidance: a predictor built from others, and a term added to the score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_kind, check_range, check_shape, number
from anydiff.predictions import Prediction, Predictor, check_predictor
from anydiff.schedules import Level
from anydiff.spaces import Space

__all__ = ["Scale", "check_scale", "guided", "towards", "value_at", "wide"]

Scale = float | Tensor | Callable[[Any], Any]
"""A number, one number for each item (B,), or a function of the time, a number or (B,)."""

Term = Callable[[Tensor, Level], tuple[Prediction | None, Tensor]]
"""(x_t, level) -> the prediction, or None if it was not computed, and the term of each item, (B,)."""


def guided(
    answer: Callable[[Tensor, Level], Prediction],
    *predictors: Predictor,
    remake: Callable[..., Predictor] | None = None,
) -> Predictor:
    """A predictor that is built from others.

    Arguments:
        answer: (x_t, level) -> Prediction.
        predictors: The predictors that `answer` calls; the first gives the schedule and the space, and
            the first distilled one the run.
        remake: Builds the same guidance from other predictors, for copies of the batch; None if that is
            not possible.
    """
    first, *_ = predictors
    models = tuple(dict.fromkeys(m for p in predictors for m in p.models))

    def copies(n: int) -> Predictor | None:
        several = [p.copies(n) for p in predictors] if remake else []
        return remake(*several) if remake and all(several) else None

    run = next((p.run for p in predictors if p.run is not None), None)
    return Predictor(answer, first.schedule, first.space, models, copies, run)


def towards(predictor: Predictor, term: Term, scale: Scale, *, bounded: bool = False) -> Predictor:
    r"""The predictor whose score is the model's plus w times the gradient of a term.

    Arguments:
        predictor: The model, bound to its batch.
        term: (x_t, level) -> the prediction, or None if it was not computed, and the term of each item,
            (B,). It is differentiated with respect to x_t.
        scale: w.
        bounded: The term L is a negative square of what is left between x0 and a goal, and x0 must not be
            moved past the goal: for each item, w is at most
            :math:`-2 L / \langle \partial L / \partial \hat x_0, \Delta \rangle`, where
            :math:`\Delta` is the move of x0 at w = 1.

    Raises:
        ValueError: If an argument is not of its kind.
    """
    check_predictor(predictor=predictor)
    check_kind(Callable, "a function (x_t, level) -> (prediction, (B,))", term=term)
    check_scale(scale)
    space = predictor.space

    def answer(x_t: Tensor, at: Level) -> Prediction:
        w = value_at(scale, at, x_t, space)
        nothing = not isinstance(w, Tensor) and w == 0
        # without data or without noise, guidance has no effect
        if nothing or (not isinstance(at.alpha, Tensor) and 0 in (at.alpha, at.sigma)):
            return predictor.predict(x_t, at)
        x_t, p, value, score, slope = _gradient(term, x_t, at, space.items(x_t), bounded)
        p = predictor.predict(x_t, at) if p is None else p
        if isinstance(at.alpha, Tensor):
            score = torch.where(space.expand(at.alpha > 0, x_t), score, 0.0)
        score = space.project(score) * space.expand(w, x_t)
        if bounded and slope is not None:
            # the shift of the score moves x0 by sigma² / alpha times itself
            move = space.expand(at.sigma**2 / at.alpha, x_t) * score
            gain = space.sum(wide(slope * move)).detach()
            most = torch.where(gain > 0, -2 * value.detach() / gain, 1.0).clamp(max=1)
            score = score * space.expand(most.to(x_t.dtype), x_t)
        return p.shifted(score)

    return guided(answer, predictor)


def _gradient(
    term: Term, x_t: Tensor, at: Level, items: int, bounded: bool
) -> tuple[Tensor, Prediction | None, Tensor, Tensor, Tensor | None]:
    """x_t, the prediction, the term, its gradient by x_t and, if bounded, that by the predicted x0."""
    # differentiable again if an outer guidance, or a whole run, is differentiated
    outer = torch.is_grad_enabled() and x_t.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        x_t = x_t.clone() if x_t.is_inference() else x_t
        x = x_t if outer else x_t.detach().requires_grad_()
        p, value = term(x, at)
        if value.shape != (items,):
            raise ValueError(
                f"the guidance is {tuple(value.shape)}; give one number for each item, ({items},)."
            )
        by = [x, p.x0] if bounded and p is not None else [x]
        score, *slope = torch.autograd.grad(value.sum(), by, create_graph=outer)
    if p is not None and not outer:
        p = replace(p, x_t=x_t, y=p.y.detach(), extra=None if p.extra is None else p.extra.detach())
    return x_t, p, value, score, slope[0] if slope else None


def wide(x: Tensor) -> Tensor:
    """x in at least float32: sums of squares overflow in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_scale(scale: Scale) -> None:
    """Raise an error unless a scale is a number, one for each item, or a function.

    Arguments:
        scale: The scale.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(scale, Tensor) and scale.ndim == 1 and scale.is_floating_point():
        return
    if number(scale) is None:
        check_kind(Callable, "a number, one for each item (B,), or a function of t", scale=scale)
    else:
        check_range("(-inf, inf)", scale=scale)  # type: ignore[arg-type]


def value_at(scale: Scale, at: Level, x_t: Tensor, space: Space) -> Any:
    """The scale at a level: a number, or (B,).

    Arguments:
        scale: A number, (B,), or a function of the time.
        at: The level, whose time is passed to a function.
        x_t: A state of the batch.
        space: The batch's space.

    Raises:
        ValueError: If there is not one for each item.
    """
    w = scale(at.t) if callable(scale) else scale
    if isinstance(w, Tensor) and w.ndim and w.shape != (space.items(x_t),):
        check_shape((space.items(x_t),), "give a number, or one for each item", scale=w)
    return w
