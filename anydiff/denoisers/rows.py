"""What networks on ragged rows [position | features] share: sums over bags, and their input."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from anydiff.spaces import Ragged

__all__ = ["Bags", "bags", "check_rows", "context_rows", "total"]

Bags = tuple[Tensor, Tensor]  # (order, starts): bag k is the rows order[starts[k]:starts[k + 1]]


def bags(index: Tensor, size: int) -> Bags:
    """The positions where `index` is 0, where it is 1, … and where it is size − 1."""
    # bincount would wait for the device
    count = index.new_zeros(size).index_add_(0, index, torch.ones_like(index))
    return index.argsort(stable=True), count.cumsum(0) - count


def total(x: Tensor, bags: Bags, weight: Tensor | None = None) -> Tensor:
    """The (weighted) sum of the rows of each bag, (bags, F)."""
    order, starts = bags
    if len(order) == 0:
        return x.new_zeros(len(starts), x.shape[1])
    # several times as fast as index_add on a CPU, and free of atomics on a GPU
    return F.embedding_bag(order, x.contiguous(), starts, mode="sum", per_sample_weights=weight)


def context_rows(context: Tensor, space: Ragged, like: Tensor) -> Tensor:
    """Conditions (B, C) or (N, C) as one row for each of the rows `like`."""
    context = context.to(like.dtype)
    return context if len(context) == len(like) else context[space.index]


def check_rows(
    x_t: Tensor, t: Tensor, space: Ragged, context: Tensor | None, features: int, columns: int
) -> None:
    """That the inputs fit each other, and a network of `features` and `columns` of context."""
    if x_t.ndim != 2 or x_t.shape[1] != 3 + features:
        raise ValueError(
            f"x_t is {tuple(x_t.shape)}; expected (N, {3 + features}): rows of 3 positions and "
            f"{features} features."
        )
    if len(x_t) != len(space.index):
        raise ValueError(
            f"x_t has {len(x_t)} rows but the space indexes {len(space.index)}; "
            "build the space from the same batch."
        )
    if t.shape != (space.num_items,):
        raise ValueError(
            f"t is {tuple(t.shape)}; expected ({space.num_items},), one time for each item."
        )
    given = 0 if context is None else context.shape[-1]
    if given != columns:
        raise ValueError(
            f"context has {given} columns but the network was built with context={columns}; "
            f"give (N, {columns}) or (B, {columns})."
        )
    if context is not None and len(context) not in (len(x_t), space.num_items):
        raise ValueError(
            f"context has {len(context)} rows; give one for each of the {len(x_t)} rows of x_t or "
            f"one for each of the {space.num_items} items."
        )
