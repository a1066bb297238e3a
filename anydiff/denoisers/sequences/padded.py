"""What networks on padded sequences (B, N, C) share: their input, checked."""

from __future__ import annotations

import torch
from torch import Tensor

from anydiff.denoisers.inputs import check_context, flagged
from anydiff.spaces import Dense, Masked

__all__ = ["padded_input"]


def padded_input(
    x_t: Tensor,
    t: Tensor,
    space: Masked | Dense | None,
    context: Tensor | None,
    *,
    channels: int,
    observed: bool,
    columns: int,
) -> tuple[Tensor, Masked, list[Tensor], Tensor | None]:
    """The rows to read, zero outside the space; the space; and what else a network is told of each row.

    Arguments:
        space: The batch's space; all rows of all items if None, or `Dense`.
        context: (B, columns) or (B, N, columns), NaN where unknown; all of it if None.
        observed: The network is told which values were observed: (B, N, channels) of 0 and 1.

    Returns:
        x_t, the space, the list of further columns (what was observed, then the context), and
        (B, N, columns), 1 where the context is unknown, if there are any.

    Raises:
        ValueError: If the inputs don't fit each other, or a network of so many channels and columns.
    """
    if x_t.ndim != 3 or x_t.shape[2] != channels:
        raise ValueError(f"x_t is {tuple(x_t.shape)}; expected (B, N, {channels}).")
    if t.shape != x_t.shape[:1]:
        raise ValueError(f"t is {tuple(t.shape)}; expected ({len(x_t)},), a time for each item.")
    check_context(context, columns, tuple(x_t.shape[:1]), tuple(x_t.shape[:2]))
    if space is None or isinstance(space, Dense):
        space = Masked(torch.ones(x_t.shape[:2], dtype=torch.bool, device=x_t.device))
    if space.observed is not None and not observed:
        raise ValueError(
            "the space has values that were not observed, but the network was built with "
            "observed=False and would take them for zeros; build it with observed=True."
        )

    B, N, C = x_t.shape
    x_t, more, unknown = space.project(x_t), [], None
    if observed:
        more.append(space.valid.to(x_t.dtype).expand(B, N, C))
    if columns:
        values, unknown = (
            (c if c.ndim == 3 else c[:, None])
            .expand(B, N, -1)
            .masked_fill(~space.mask[..., None], 0)
            for c in flagged(context, B, columns, x_t)
        )
        more.append(values)
    return x_t, space, more, unknown
