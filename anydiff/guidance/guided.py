"""The building blocks of guidance: a predictor built from others, and a term added to the score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from anydiff.predictions import Prediction, Predictor
from anydiff.schedules import Level

__all__ = ["Scale", "guided", "towards", "value_at", "wide"]

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
        predictors: The predictors that `answer` calls; the first gives the schedule and the space.
        remake: Builds the same guidance from other predictors, for copies of the batch; None if that is
            not possible.
    """
    first, *_ = predictors
    models = tuple(dict.fromkeys(m for p in predictors for m in p.models))

    def copies(n: int) -> Predictor | None:
        several = [p.copies(n) for p in predictors] if remake else []
        return remake(*several) if remake and all(several) else None

    return Predictor(answer, first.schedule, first.space, models, copies)


def towards(predictor: Predictor, term: Term, scale: Scale) -> Predictor:
    """The predictor whose score is the model's plus w times the gradient of a term.

    Arguments:
        predictor: The model, bound to its batch.
        term: (x_t, level) -> the prediction, or None if it was not computed, and the term of each item,
            (B,). It is differentiated with respect to x_t.
        scale: w.
    """
    space = predictor.space

    def answer(x_t: Tensor, at: Level) -> Prediction:
        w = value_at(scale, at)
        nothing = not isinstance(w, Tensor) and w == 0
        # without data or without noise, guidance has no effect
        if nothing or (not isinstance(at.alpha, Tensor) and 0 in (at.alpha, at.sigma)):
            return predictor.predict(x_t, at)
        x_t, p, score = _gradient(term, x_t, at, space.items(x_t))
        p = predictor.predict(x_t, at) if p is None else p
        if isinstance(at.alpha, Tensor):
            score = torch.where(space.expand(at.alpha > 0, x_t), score, 0.0)
        return p.shifted(space.project(score) * space.expand(w, x_t))

    return guided(answer, predictor)


def _gradient(
    term: Term, x_t: Tensor, at: Level, items: int
) -> tuple[Tensor, Prediction | None, Tensor]:
    """x_t, the prediction if the term computed it, and the gradient of the term with respect to x_t."""
    # differentiable again if an outer guidance differentiates this one
    outer = torch.is_grad_enabled() and x_t.requires_grad
    with torch.inference_mode(False), torch.enable_grad():
        x_t = x_t.clone() if x_t.is_inference() else x_t
        x = x_t if outer else x_t.detach().requires_grad_()
        p, value = term(x, at)
        if value.shape != (items,):
            raise ValueError(
                f"the guidance is {tuple(value.shape)}; give one number for each item, ({items},)."
            )
        (score,) = torch.autograd.grad(value.sum(), x, create_graph=outer)
    if p is not None and not outer:
        p = replace(p, x_t=x_t, y=p.y.detach(), extra=None if p.extra is None else p.extra.detach())
    return x_t, p, score


def wide(x: Tensor) -> Tensor:
    """x in at least float32: sums of squares overflow in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def value_at(scale: Scale, at: Level) -> Any:
    """The scale at a level: a number, or (B,).

    Arguments:
        scale: A number, (B,), or a function of the time.
        at: The level, whose time is passed to a function.
    """
    return scale(at.t) if callable(scale) else scale
