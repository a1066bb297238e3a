"""What networks on ragged rows [position | features] share: sums over bags, conditions, their input."""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anydiff.denoisers.inputs import Tokens, check_context, flagged
from anydiff.spaces import Ragged

__all__ = ["Bags", "attend", "bags", "check_rows", "context_rows", "total"]

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


def context_rows(
    context: Tensor | None, columns: int, space: Ragged, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Conditions (B, C) or (N, C) as one row for each of the rows `like`, and 1 where unknown."""
    values, unknown = flagged(context, space.num_items, columns, like)
    if len(values) == len(like):
        return values, unknown
    return values[space.index], unknown[space.index]


class Slots(NamedTuple):
    """Where the rows of a batch lie when its items are padded to the longest's length."""

    slot: Tensor  # (N,), row by row, in B · longest
    longest: int


_slots: WeakKeyDictionary[Ragged, Slots] = WeakKeyDictionary()


def slots_of(space: Ragged) -> Slots:
    """The slots of a batch, built once for all steps that share the space."""
    if space not in _slots:
        longest = int(space.sizes.max()) if space.num_items else 0
        place = torch.arange(len(space.index), device=space.index.device) - space.ptr[space.index]
        _slots[space] = Slots(space.index * longest + place, longest)
    return _slots[space]


def attend(cross: nn.Module, h: Tensor, tokens: Tokens, space: Ragged) -> Tensor:
    """Rows (N, F) attend to the tokens of their items, (N, F)."""
    slot, longest = slots_of(space)
    padded = h.new_zeros(space.num_items * longest, h.shape[1]).index_copy(0, slot, h)
    padded = cross(padded.unflatten(0, (space.num_items, longest)), tokens)
    return padded.flatten(0, 1).index_select(0, slot)


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
    check_context(context, columns, (space.num_items,), (len(x_t),))
