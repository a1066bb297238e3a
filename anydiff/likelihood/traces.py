r"""The trace of a Jacobian within a space, by reverse-mode differentiation.

Since items do not influence one another, one direction covers the k-th entry of every item at once: the
exact trace of a batch takes as many directions as its largest item has entries. An estimate takes any
number of random directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from anydiff.spaces import Space

__all__ = ["basis", "divergence", "ranks"]


def divergence(
    f: Callable[[Tensor], Tensor], x: Tensor, directions: Iterable[Tensor], graph: bool
) -> tuple[Tensor, Tensor]:
    """f(x), and the sum of d * (J^T d) over the directions d, entry by entry; both shaped like x.

    Reverse mode works for every network that can be trained, and calls f once.

    Arguments:
        f: x -> y, of the same shape.
        x: The point at which to differentiate.
        directions: Chunks of directions d, each (n, \\*).
        graph: Whether the result has to be differentiable.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone() if x.is_inference() else x
        x = x if graph and x.requires_grad else x.detach().requires_grad_()
        y = f(x) + 0 * x  # depends on x even if the network's output does not
        total = torch.zeros_like(x)
        for d in directions:
            total = total + (d * _backward(y, x, d.clone() if d.is_inference() else d, graph)).sum(
                0
            )
    return (y, total) if graph else (y.detach(), total.detach())


def _backward(y: Tensor, x: Tensor, d: Tensor, graph: bool) -> Tensor:
    """J^T d for each of the directions d, (n, …), batched where the network's kernels allow it."""
    once = partial(torch.autograd.grad, y, x, retain_graph=True, create_graph=graph)
    if len(d) > 1:
        try:
            return once(d, is_grads_batched=True)[0]
        except RuntimeError:  # custom kernels, such as those of EGNN, have no batching rule
            pass
    return torch.stack([once(direction)[0] for direction in d])


def ranks(x: Tensor, space: Space) -> tuple[Tensor, int]:
    """The rank of each entry among the entries of its item, and the number of ranks.

    Arguments:
        x: Gives the shape.
        space: The batch's space.

    Returns:
        The ranks, from 0, shaped like x, -1 for padding; and the number of entries of the largest item.
    """
    num = space.items(x)
    items = space.expand(torch.arange(num, device=x.device), x).expand_as(x).flatten()
    live = space.diagonal(x).flatten().nonzero()[:, 0]
    items, order = items[live].sort(stable=True)
    counts = torch.bincount(items, minlength=num)
    place = torch.arange(len(items), device=x.device) - (counts.cumsum(0) - counts)[items]
    rank = torch.full((x.numel(),), -1, device=x.device)
    rank[live[order]] = place
    return rank.view_as(x), int(counts.max())


def basis(x: Tensor, space: Space, rank: Tensor, count: int, chunk: int) -> Iterator[Tensor]:
    """The projections of the unit vectors e: the sum of (P e)^T J (P e) is the trace of P J P.

    Arguments:
        x: Gives the shape and the dtype.
        space: The batch's space.
        rank: The first result of :func:`ranks`.
        count: The second.
        chunk: The number of directions per chunk.
    """
    for k in torch.split(torch.arange(count, device=x.device), chunk) if count else ():
        units = (rank == k.reshape(-1, *(1,) * x.ndim)).to(x.dtype)
        yield torch.vmap(space.project)(units)
