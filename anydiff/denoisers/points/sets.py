"""What networks on ragged rows [position | features] share: their interface, and sums over bags."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anydiff.checks import check_shape
from anydiff.denoisers.inputs import Conditioned, Conditions, added, check_context
from anydiff.spaces import Packed, Ragged

__all__ = ["Bags", "PointDenoiser", "bags", "by_point", "once_per_space", "total"]

Bags = tuple[Tensor, Tensor]  # (order, starts): bag k is the rows order[starts[k]:starts[k + 1]]
Made = TypeVar("Made")


def bags(index: Tensor, size: int) -> Bags:
    """The positions where `index` is 0, where it is 1, … and where it is size − 1.

    Arguments:
        index: (N,), which bag each row belongs to.
        size: The number of bags.
    """
    # bincount would wait for the device
    count = index.new_zeros(size).index_add_(0, index, torch.ones_like(index))
    return index.argsort(stable=True), count.cumsum(0) - count


def total(x: Tensor, bags: Bags, weight: Tensor | None = None) -> Tensor:
    """The (weighted) sum of the rows of each bag, (bags, F).

    Arguments:
        x: (N, F).
        bags: What :func:`bags` gives.
        weight: (N,), in the order of the bags; 1 if None.
    """
    order, starts = bags
    if len(order) == 0:
        return x.new_zeros(len(starts), x.shape[1])
    # several times as fast as index_add on a CPU, and free of atomics on a GPU
    return F.embedding_bag(order, x.contiguous(), starts, mode="sum", per_sample_weights=weight)


def once_per_space(make: Callable[[Ragged], Made]) -> Callable[[Ragged], Made]:
    """Decorator: what is made of a space is made once, for all steps that share the space.

    It is kept as long as the space is, to which it must not refer.
    """
    made: WeakKeyDictionary[Ragged, Made] = WeakKeyDictionary()

    @wraps(make)
    def once(space: Ragged) -> Made:
        if space not in made:
            made[space] = make(space)
        return made[space]

    return once


def by_point(c: Tensor, space: Ragged) -> Tensor:
    """A row for each point, (N, F).

    Arguments:
        c: (N, F), or (B, F) with one row for all points of an item.
        space: The points' space.
    """
    return c if len(c) == len(space.index) else c.index_select(0, space.index)


@once_per_space
def slots_of(space: Ragged) -> tuple[Tensor, int]:
    """Where the rows lie when items are padded to a common length: (N,) in B · length, and the length."""
    longest = int(space.sizes.max()) if space.num_items else 0
    place = torch.arange(len(space.index), device=space.index.device) - space.ptr[space.index]
    return space.index * longest + place, longest


class PointDenoiser(Conditioned):
    """A network on the rows of point clouds; its subclasses are equivariant functions of them.

    Arguments:
        features: Columns of x_t after the three of the position.
        context: Columns of the context; 0 for none.
        classes: Number of labels; 0 for none.
        tokens: Width of the tokens; 0 for none.
    """

    embedding: nn.Linear

    def __init__(self, features: int, context: int, classes: int, tokens: int) -> None:
        super().__init__(context, classes, tokens)
        self.features = features

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        space: Ragged | Packed,
        label: Tensor | None = None,
        context: Tensor | None = None,
        tokens: Tensor | None = None,
        tokens_mask: Tensor | None = None,
    ) -> Tensor:
        """The prediction for rows [position | features], shaped like x_t.

        Leaving a condition out marks it absent for every item.

        Arguments:
            x_t: (N, 3 + features), positions in Å.
            t: (B,), times in [0, 1].
            space: The batch's space; it says which rows belong to which item. Of networks that take
                more than the points, it is `Packed`, and x_t (M,).
            label: (B,) integers in [0, classes), -1 for no label.
            context: (N, context) or (B, context), NaN where unknown.
            tokens: (B, L, tokens); a row with a NaN is ignored.
            tokens_mask: (B, L), True where a token is valid; all are if None.

        Raises:
            ValueError: If the space is not one that the network takes, or the inputs do not fit each
                other or the network.
        """
        rows, points = self._points(x_t, space)
        check_shape((points.num_items,), "give one time for each item", t=t)
        check_context(context, self.context, (len(t),), (len(rows),))
        spread = partial(by_point, space=points)
        cond = self._read(rows, t, spread, label, context, tokens, tokens_mask)
        return self._predict(x_t, t.to(x_t.dtype), space, cond)

    def _points(self, x_t: Tensor, space: Any) -> tuple[Tensor, Ragged]:
        """The rows of the points and their space, checked; here those that were given."""
        if not isinstance(space, Ragged):
            raise ValueError(
                f"the space is {type(space).__name__}, and {type(self).__name__} needs Ragged, which "
                "says which rows belong to which item; of a Packed space, give that of the field."
            )
        hint = f"give rows of 3 positions and {self.features} features, and the same batch's space"
        check_shape((len(space.index), 3 + self.features), hint, x_t=x_t)
        return x_t, space

    def _embed(self, columns: list[Tensor], space: Ragged, cond: Conditions) -> Tensor:
        """The first features h of the points, from columns (N, …) and the conditions, (N, hidden)."""
        h: Tensor = self.embedding(torch.cat([*columns, cond.context], dim=1))
        return added(
            h, cond.flags, None if cond.label is None else cond.label.index_select(0, space.index)
        )

    def _attend(self, k: int, h: Tensor, space: Ragged, cond: Conditions) -> Tensor:
        """h (N, hidden) after the points have attended to the tokens of their items."""
        if cond.tokens is None:
            return h
        slot, longest = slots_of(space)
        padded = h.new_zeros(space.num_items * longest, h.shape[1]).index_copy(0, slot, h)
        padded = padded.view(space.num_items, longest, h.shape[1])
        attended: Tensor = self.crosses[k](padded, cond.tokens)
        return attended.flatten(0, 1).index_select(0, slot)
