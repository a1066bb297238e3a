"""Several draws of the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from anydiff.predictions import Predictor
from anydiff.samplers import Seed, generators
from anydiff.spaces.space import check_count

__all__ = ["several"]


def several(
    predictor: Predictor,
    n: int,
    states: Sequence[Tensor],
    draw: Callable[..., Tensor],
    seed: Seed,
    items: int,
) -> Tensor:
    """n draws, (n, \\*), from the same states: at once where the predictor knows its copies."""
    if n < 1:
        raise ValueError(f"n is {n}; draw at least once.")
    space: Any = predictor.space
    each: list[Any] | None = None
    if not (isinstance(seed, int | Integral | torch.Generator) or seed is None):
        check_count(seed, items)  # type: ignore[arg-type]
        # the k-th draw of an item is seeded by the item's seed and k, not by its place
        each = [_child(s, k) for k in range(n) for s in seed]
    copies = getattr(predictor, "copies", None)  # a predictor of one's own may have none
    if copies is not None:
        x = [space.join([x] * n) for x in states]
        drawn = draw(copies(n), *x, seed=seed if each is None else each)
        return torch.stack(space.separate(drawn, n))

    def one(k: int) -> Tensor:
        own = generator if each is None else each[k * items : (k + 1) * items]
        return draw(predictor, *states, seed=own)

    generator = None if each else generators(seed, states[0].device)
    return torch.stack([one(k) for k in range(n)])


def _child(seed: int | torch.Generator, k: int) -> int | torch.Generator:
    """Where the k-th draw of an item comes from."""
    if not isinstance(seed, torch.Generator):
        return seed + 1_000_003 * k
    if k == 0:
        return seed
    drawn = torch.randint(2**62, (), generator=seed, device=seed.device)
    return torch.Generator(seed.device).manual_seed(int(drawn))
