"""The edge networks of EGNN, which dominate its cost, with forward and backward pass written by hand.

From z_ij = P_i + Q_j + W_e e_ij an edge network computes y_ij = SiLU(W2 SiLU(z_ij) + b2). EGNN needs two
functions of it, the sum of the messages that a point receives and one number for each edge. Of the
intermediate (E, F) tensors two are kept for the backward pass and the others are recomputed there; their
memory is reused from step to step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from anydiff.denoisers.points.sets import Bags, bags, once_per_space, total
from anydiff.spaces import Ragged

__all__ = ["EdgeScalar", "EdgeSum", "Graph", "graph_of"]

Tensors = Sequence[Tensor]

# SiLU and its backward pass into given memory
silu = torch.ops.aten.silu.out
silu_backward = torch.ops.aten.silu_backward.grad_input

# Edges computed at a time on a CPU: bounds the memory of intermediates, but fills matrix products.
EDGES_PER_PART = 32768


class Part(NamedTuple):
    """Whole items of a batch: a run of its rows, a run of its edges; i and j count from its row."""

    rows: slice
    edges: slice
    i: Tensor  # (E,), the receiving row, ascending
    j: Tensor  # (E,), the sending row
    by_i: Bags
    by_j: Bags


class Graph(NamedTuple):
    """The edges of a batch, and the parts in which they are computed.

    Arguments:
        i: The receiving row of each edge, (E,), ascending.
        j: The sending row of each edge, (E,).
        parts: The parts.
        most_edges: The number of edges of the largest part.
    """

    i: Tensor
    j: Tensor
    parts: list[Part]
    most_edges: int


@once_per_space
def graph_of(space: Ragged) -> Graph:
    """The graph of a batch."""
    i, j = space.edge_index
    cuts = [(0, 0), (len(space.index), len(i))]
    if i.device.type == "cpu":
        item = space.index[i]
        edges = torch.zeros_like(space.sizes).index_add_(0, item, torch.ones_like(item))
        cuts = [(0, 0)]
        for cut in zip(space.ptr[1:].tolist(), edges.cumsum(0).tolist(), strict=True):
            if len(cuts) > 1 and cut[1] - cuts[-2][1] <= EDGES_PER_PART:
                cuts[-1] = cut
            else:
                cuts.append(cut)

    parts = []
    for (row, edge), (next_row, next_edge) in pairwise(cuts):
        ends = i[edge:next_edge] - row, j[edge:next_edge] - row
        by = (bags(end, next_row - row) for end in ends)
        parts.append(Part(slice(row, next_row), slice(edge, next_edge), *ends, *by))
    return Graph(i, j, parts, max(len(part.i) for part in parts))


_free: defaultdict[tuple[int, int, torch.dtype], list[Tensor]] = defaultdict(list)


class Lease:
    """Uninitialised memory for `count` tensors (rows, F), returned for reuse when the lease is dropped.

    On a CPU a large new tensor consists of pages that the system has to clear, and at small widths
    that costs as much as the arithmetic. The allocators of other devices keep their memory.
    """

    def __init__(self, count: int, rows: int, like: Tensor) -> None:
        hidden = like.shape[1]
        self.free = _free[count, hidden, like.dtype] if like.device.type == "cpu" else []
        memory = self.free.pop() if self.free else None
        if memory is None or memory.shape[1] < rows:
            with torch.inference_mode(False):  # the next user may train
                memory = torch.empty(count, rows, hidden, dtype=like.dtype, device=like.device)
        self.memory = memory

    def __getitem__(self, rows: slice) -> tuple[Tensor, ...]:
        return self.memory[:, rows].unbind()

    def __del__(self) -> None:
        if hasattr(self, "memory"):  # not where a compiler gave up in the constructor
            self.free.append(self.memory)


def edge_network(part: Part, inputs: Tensors, z: Tensor, z2: Tensor, y: Tensor) -> None:
    """Compute z = P_i + Q_j + W_eᵀ e, z2 = W2 SiLU(z) + b2 and y = SiLU(z2) in the given memory."""
    P, Q, e, W_e, W2, b2 = inputs
    torch.index_select(P[part.rows], 0, part.i, out=z)
    z += torch.index_select(Q[part.rows], 0, part.j, out=y)
    z.addmm_(e[:, part.edges].t(), W_e)
    torch.addmm(b2, silu(z, out=y), W2.t(), out=z2)
    silu(z2, out=y)


def edge_network_backward(
    part: Part, inputs: Tensors, gradients: Tensors, z: Tensor, z2: Tensor, dy: Tensor, a: Tensor
) -> None:
    """Add a part's share to the gradients of the inputs; dy and a are overwritten."""
    _, _, e, W_e, W2, _ = inputs
    dP, dQ, de, dW_e, dW2, db2 = gradients

    dz2 = silu_backward(dy, z2, grad_input=dy)
    dW2.addmm_(dz2.t(), silu(z, out=a))
    db2 += dz2.sum(0)

    da = torch.mm(dz2, W2, out=a)
    dz = silu_backward(da, z, grad_input=da)
    dP[part.rows] = total(dz, part.by_i)
    dQ[part.rows] = total(dz, part.by_j)
    torch.mm(W_e, dz.t(), out=de[:, part.edges])
    dW_e.addmm_(e[:, part.edges], dz)


class EdgeSum(Function):
    """Σ_j σ(w·y_ij + b) y_ij, or Σ_j y_ij where w and b are None; (N, F)."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, w: Any, b: Any, *inputs: Tensor) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(w, b, *inputs)
        out = torch.empty_like(inputs[0])
        ctx.kept, scratch = Lease(2, len(graph.i), out), Lease(1, graph.most_edges, out)
        for part in graph.parts:
            (z, z2), (y,) = ctx.kept[part.edges], scratch[: len(part.i)]
            edge_network(part, inputs, z, z2, y)
            gate = None if w is None else torch.sigmoid(y @ w + b)
            out[part.rows] = total(y, part.by_i, gate)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        w, b, *inputs = ctx.saved_tensors
        zeros: list[Any] = [None if x is None else torch.zeros_like(x) for x in ctx.saved_tensors]
        dw, db, *gradients = zeros
        scratch = Lease(3, ctx.graph.most_edges, dout)
        with torch.autocast(dout.device.type, enabled=False):
            for part in ctx.graph.parts:
                (z, z2), (y, dy, a) = ctx.kept[part.edges], scratch[: len(part.i)]
                torch.index_select(dout[part.rows], 0, part.i, out=dy)
                if w is not None:
                    silu(z2, out=y)
                    gate = torch.sigmoid(y @ w + b)
                    dlogit = torch.mul(dy, y, out=a).sum(1) * gate * (1 - gate)
                    dw.addmv_(y.t(), dlogit)
                    db.add_(dlogit.sum())
                    dy.mul_(gate[:, None]).addr_(dlogit, w)
                edge_network_backward(part, inputs, gradients, z, z2, dy, a)
        return None, dw, db, *gradients


class EdgeScalar(Function):
    """w·y_ij, (E,)."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, w: Tensor, *inputs: Tensor) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(w, *inputs)
        out = w.new_empty(len(graph.i))
        P = inputs[0]
        ctx.kept, scratch = Lease(2, len(graph.i), P), Lease(1, graph.most_edges, P)
        for part in graph.parts:
            (z, z2), (y,) = ctx.kept[part.edges], scratch[: len(part.i)]
            edge_network(part, inputs, z, z2, y)
            torch.mv(y, w, out=out[part.edges])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        w, *inputs = ctx.saved_tensors
        dw, *gradients = (torch.zeros_like(x) for x in ctx.saved_tensors)
        scratch = Lease(3, ctx.graph.most_edges, inputs[0])
        with torch.autocast(dout.device.type, enabled=False):
            for part in ctx.graph.parts:
                (z, z2), (y, dy, a) = ctx.kept[part.edges], scratch[: len(part.i)]
                dw.addmv_(silu(z2, out=y).t(), dout[part.edges])
                torch.outer(dout[part.edges], w, out=dy)
                edge_network_backward(part, inputs, gradients, z, z2, dy, a)
        return None, dw, *gradients
