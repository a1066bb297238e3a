r"""Known parts in training: from the batches of any kind to batches of which a part is known.

A model that completes (:class:`anydiff.denoisers.Completing`) is trained on what is missing, for parts
that are drawn anew for every batch:

.. code-block:: python

    unpack = with_parts(unpack, boxes)         # of images
    x0, space, cond = unpack(batch)            # in Rest(space, known), with cond["given"]

What is known is drawn from torch's own generator, which training seeds by the step. A draw is a function
(batch, x0, space) -> booleans, True where an entry is known, as :class:`~anydiff.spaces.Rest` takes
them: write one for the parts that you want to complete. The model then also draws whole items, of which
nothing is known, if a share of the batches' items are such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_range
from anydiff.spaces import Rest, Space
from anydiff.spaces.rest import entries

__all__ = ["Draw", "boxes", "stretches", "with_parts"]

Draw = Callable[[Any, Tensor, Space], Tensor]
"""(batch, x0, space) -> booleans, True where an entry is known."""

Unpack = Callable[[Any], tuple[Tensor, Space, dict[str, Any]]]


def with_parts(unpack: Unpack, draw: Draw, share: float = 0.7) -> Unpack:
    """An `unpack` of which a part of each item is known, for the training of a model that completes.

    Arguments:
        unpack: batch -> (x0, space, cond).
        draw: (batch, x0, space) -> what is known, such as :func:`boxes`.
        share: The share of items of which a part is known; of the others nothing is.

    Returns:
        batch -> (x0, ``Rest(space, known)``, cond), with the known part as the condition `given`.

    Raises:
        ValueError: If the share lies outside [0, 1].
    """
    check_range("[0, 1]", share=share)

    def with_known(batch: Any) -> tuple[Tensor, Space, dict[str, Any]]:
        x0, space, cond = unpack(batch)
        some = torch.rand(space.items(x0), device=x0.device) < share
        known = entries(draw(batch, x0, space), x0) & space.expand(some, x0)
        return x0, Rest(space, known), cond | {"given": space.restrict(x0, known)}

    return with_known


def boxes(batch: Any, x0: Tensor, space: Space) -> Tensor:
    """Parts of images: one side of a cut, all but a box, or a box alone, (B, 1, \\*) booleans.

    Arguments:
        batch: Not needed.
        x0: Images (B, C, H, W), or signals (B, C, L).
        space: Not needed.
    """
    B, _, *sides = x0.shape
    cut = torch.rand(B, device=x0.device) < 0.5
    cut_axis = torch.randint(len(sides), (B,), device=x0.device)
    inside = torch.ones(B, 1, *sides, dtype=torch.bool, device=x0.device)
    for axis, side in enumerate(sides):
        low, high = side * torch.rand(2, B, device=x0.device).sort(0).values
        # of a cut, the box goes from end to end, and in one axis from one end
        low = low.masked_fill(cut, 0)
        high = high.masked_fill(cut & (cut_axis != axis), side)
        place = torch.arange(side, device=x0.device) + 0.5
        within = (place >= low[:, None]) & (place < high[:, None])
        inside = inside & within.view(B, 1, *(side if k == axis else 1 for k in range(len(sides))))
    other = torch.rand(B, device=x0.device) < 0.5
    return inside ^ other.view(B, *[1] * (x0.ndim - 1))


def stretches(batch: Any, x0: Tensor, space: Space) -> Tensor:
    """Parts of sequences: the first rows of an item, or all but a stretch of them, (B, N) booleans.

    Arguments:
        batch: Not needed.
        x0: Sequences (B, N, C), whose valid rows are the first ones.
        space: The batch's space, of which `lengths` are the numbers of rows; N if it has none.
    """
    B, N, _ = x0.shape
    lengths: Tensor = getattr(space, "lengths", x0.new_full((B,), N))
    low, high = lengths * torch.rand(2, B, device=x0.device).sort(0).values
    high = torch.where(torch.rand(B, device=x0.device) < 0.5, high, lengths)  # the first rows alone
    place = torch.arange(N, device=x0.device) + 0.5
    known: Tensor = (place < low[:, None]) | (place >= high[:, None])
    return known
