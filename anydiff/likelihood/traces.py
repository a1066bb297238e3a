r"""The trace of a Jacobian within a space, by reverse mode.

One direction touches the k-th entry of every item at once, since items do not influence one another: a
batch takes as many directions as its largest item has entries, and any number of random ones.
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
    """f(x), and the entries of the sum of d * (J^T d) over the directions d, both shaped like x.

    In reverse mode, which every network that trains has: the network runs once.

    Arguments:
        f: x -> y, both of one shape.
        x: Where.
        directions: Chunks of directions d, each (n, \\*).
        graph: Keep the result differentiable.
    """
    with torch.enable_grad():
        x = x if graph and x.requires_grad else x.detach().requires_grad_()
        y = f(x) + 0 * x  # of x even where the network's answer is not
        total = torch.zeros_like(x)
        for d in directions:
            total = total + (d * _backward(y, x, d, graph)).sum(0)
    return (y, total) if graph else (y.detach(), total.detach())


def _backward(y: Tensor, x: Tensor, d: Tensor, graph: bool) -> Tensor:
    """J^T d for each of the directions d, (n, …), at once where the network's kernels allow it."""
    once = partial(torch.autograd.grad, y, x, retain_graph=True, create_graph=graph)
    if len(d) > 1:
        try:
            return once(d, is_grads_batched=True)[0]
        except RuntimeError:  # kernels of one's own, such as EGNN's, have no batching rule
            pass
    return torch.stack([once(direction)[0] for direction in d])


def ranks(x: Tensor, space: Space) -> tuple[Tensor, int]:
    """The place of each entry among those of its item, shaped like x, -1 for padding; and how many.

    One direction touches the k-th entry of every item at once: items do not influence one another, so
    that the batch takes as many directions as its largest item.

    Arguments:
        x: Gives the shape.
        space: The batch's space.
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
        rank, count: What :func:`ranks` gives.
        chunk: How many directions at once.
    """
    for k in torch.split(torch.arange(count, device=x.device), chunk) if count else ():
        units = (rank == k.reshape(-1, *(1,) * x.ndim)).to(x.dtype)
        yield torch.vmap(space.project)(units)
