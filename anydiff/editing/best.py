"""The best of several samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_kind, check_shape
from anydiff.editing.several import several
from anydiff.predictions import Predictor, check_predictor
from anydiff.samplers import sample
from anydiff.spaces import Seed

__all__ = ["best_of"]


def best_of(
    predictor: Predictor,
    shape: Sequence[int],
    n: int,
    score: Callable[[Tensor], Tensor],
    *,
    seed: Seed = None,
    **options: Any,
) -> Tensor:
    """Draw n samples of each item, and keep the one with the highest score.

    DALL·E 2 draws two embeddings and keeps the one nearer to the text's. A score that also guides the
    draw, or judges it afterwards, is no independent judge.

    Arguments:
        predictor: The model, bound to its batch.
        shape: That of the batch's state.
        n: The number of samples, drawn in one run if the predictor has copies.
        score: A sample of the batch, shaped so -> a number for each item, (B,). NaN is worst.
        seed: One seed, or one for each item, as for :func:`anydiff.editing.impute`; with one seed and
            n = 1 the result is that of :func:`anydiff.sample`.
        options: Options of :func:`anydiff.sample`: sampler, steps, grid, ...

    Returns:
        Shaped so.

    Raises:
        ValueError: If n is below 1, a score is not one number for each item, or as
            :func:`anydiff.sample`.

    References:
        Hierarchical Text-Conditional Image Generation with CLIP Latents (Ramesh et al., 2022), DALL·E 2,
        section 2.2. https://arxiv.org/abs/2204.06125
    """
    check_predictor(predictor=predictor)
    check_kind(Callable, "a function of a sample", score=score)
    space, like = predictor.space, predictor.like.new_zeros(tuple(shape))

    def draw(predictor: Predictor, like: Tensor, seed: Seed) -> Tensor:
        return sample(predictor, like.shape, seed=seed, **options)

    best: Tensor | None = None
    highest: Tensor | None = None
    for x in several(predictor, n, [like], draw, seed):
        value = torch.as_tensor(score(x), device=x.device).nan_to_num(
            -torch.inf, torch.inf, -torch.inf
        )
        check_shape((space.items(x),), "give a number for each item", score=value)
        if best is None or highest is None:
            best, highest = x, value
            continue
        better: Any = space.expand((value > highest).to(x.dtype), x)
        best = torch.where(better.bool(), x, best)
        highest = torch.maximum(value, highest)
    assert best is not None
    return best
