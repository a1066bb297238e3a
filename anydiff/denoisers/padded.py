"""What networks on padded sequences (B, N, C) share: their input, checked."""

from __future__ import annotations

import torch
from torch import Tensor

from anydiff.spaces import Masked

__all__ = ["padded_input"]


def padded_input(
    x_t: Tensor,
    t: Tensor,
    space: Masked | None,
    context: Tensor | None,
    *,
    channels: int,
    observed: bool,
    columns: int,
) -> tuple[Tensor, Masked, list[Tensor]]:
    """The rows to read, zero outside the space; the space; and what else a network is told of each row.

    Arguments:
        space: The batch's space; all rows of all items if None.
        context: (B, columns) or (B, N, columns).
        observed: The network is told which values were observed: (B, N, channels) of 0 and 1.

    Returns:
        x_t, the space, and the list of further columns: what was observed, then the context.

    Raises:
        ValueError: If the inputs don't fit each other, or a network of so many channels and columns.
    """
    if x_t.ndim != 3 or x_t.shape[2] != channels:
        raise ValueError(f"x_t is {tuple(x_t.shape)}; expected (B, N, {channels}).")
    if t.shape != x_t.shape[:1]:
        raise ValueError(f"t is {tuple(t.shape)}; expected ({len(x_t)},), a time for each item.")
    given = 0 if context is None else context.shape[-1]
    if given != columns:
        raise ValueError(
            f"context has {given} columns but the network was built with context={columns}; "
            f"give (B, {columns}) or (B, N, {columns})."
        )
    if space is None:
        space = Masked(torch.ones(x_t.shape[:2], dtype=torch.bool, device=x_t.device))
    if space.observed is not None and not observed:
        raise ValueError(
            "the space has values that were not observed, but the network was built with "
            "observed=False and would take them for zeros; build it with observed=True."
        )

    B, N, C = x_t.shape
    x_t, more = space.project(x_t), []
    if observed:
        more.append(space.valid.to(x_t.dtype).expand(B, N, C))
    if context is not None:
        context = (context if context.ndim == 3 else context[:, None]).to(x_t.dtype)
        more.append(context.expand(B, N, -1).masked_fill(~space.mask[..., None], 0))
    return x_t, space, more
