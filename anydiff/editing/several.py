"""Several samples of the same items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_whole
from anydiff.predictions import Predictor, check_predictor
from anydiff.spaces import Seed, child, generators
from anydiff.spaces.draws import check_count, seeds

__all__ = ["several"]


def several(
    predictor: Predictor, n: int, states: Sequence[Tensor], draw: Callable[..., Tensor], seed: Seed
) -> Tensor:
    """n samples from the same states, (n, \\*): in one run if the predictor has copies, else in turn.

    Arguments:
        predictor: The model, bound to its batch.
        n: The number of samples.
        states: The arguments of `draw` after the predictor, in the predictor's space.
        draw: ``(predictor, *states, seed=...)`` -> a sample.
        seed: One seed for all, or one for each item. In that case sample k of an item is seeded by the
            item's seed and k, and does not depend on the item's place in the batch.

    Raises:
        ValueError: If n is below 1, if the predictor is none, or if there is not one seed for each item.
    """
    check_whole("[1, inf)", n=n)
    check_predictor(predictor=predictor)
    space, n, given = predictor.space, int(n), seeds(seed)
    items = space.items(states[0])
    each: list[Any] | None = None
    if isinstance(given, list):
        check_count(given, items)
        each = [_child(s, k) for k in range(n) for s in given]
    if (together := predictor.copies(n)) is not None:
        x = [space.join([x] * n) for x in states]
        return torch.stack(space.separate(draw(together, *x, seed=each or seed), n))
    if each is None:
        generator = generators(seed, states[0].device)
        return torch.stack([draw(predictor, *states, seed=generator) for _ in range(n)])
    parts = [each[k * items : (k + 1) * items] for k in range(n)]
    return torch.stack([draw(predictor, *states, seed=part) for part in parts])


def _child(seed: int | torch.Generator, k: int) -> int | torch.Generator:
    """The seed, or the generator, of sample k of an item."""
    if not isinstance(seed, torch.Generator):
        return child(seed, k)
    if k == 0:
        return seed
    drawn = torch.randint(2**62, (), generator=seed, device=seed.device)
    return torch.Generator(seed.device).manual_seed(int(drawn))
