"""EDM's network as its code computes it: on lists of all pairs, padding and self-loops included.

The function is that of :class:`tests.helpers.textbook_egnn.TextbookEGNN`, on the same weights; the way
there is another. Molecules are padded and flattened to B·N rows, and the network runs on a list of all
B·N² pairs of rows of one molecule, those of an atom with itself and of padding as well: it gathers the
rows of both ends, concatenates [h_i, h_j, d_ij, d0_ij] for the edge networks, masks what does not count,
and adds up over the first end by scattering. At last it looks whether a velocity is NaN, for which the
host waits, and sets all of them to 0 if so.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022).
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.helpers.textbook_egnn import Block, TextbookEGNN

__all__ = ["PublishedEGNN"]


def all_pairs(items: int, rows: int) -> tuple[Tensor, Tensor]:
    """The two ends of all B·N² pairs of rows of one item, the first one ascending."""
    first = torch.arange(items * rows).repeat_interleave(rows)
    second = torch.arange(rows).repeat(items * rows) + first // rows * rows
    return first, second


def added(edges: Tensor, row: Tensor, rows: int, factor: float) -> Tensor:
    """The sum of the edges of each row, divided by the normalization factor."""
    total = edges.new_zeros(rows, edges.shape[1])
    return total.scatter_add(0, row[:, None].expand_as(edges), edges) / factor


class PublishedEGNN(TextbookEGNN):
    """Takes the arguments of ``TextbookEGNN``, and has its parameters."""

    def forward(
        self, x_t: Tensor, t: Tensor, mask: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """x_t (B, N, 3 + features), t (B,), mask (B, N) True = valid, context (B, N, C)."""
        B, N = mask.shape
        row, col = all_pairs(B, N)
        alive = mask.to(x_t.dtype).reshape(B * N, 1)
        edge_alive = alive[row] * alive[col] * (row != col)[:, None].to(x_t.dtype)

        flat = x_t.reshape(B * N, -1) * alive
        x, h = flat[:, :3].clone(), flat[:, 3:].clone()
        start = x
        columns = [h, t.repeat_interleave(N)[:, None]]
        if context is not None:
            columns.append(context.reshape(B * N, -1))
        h = torch.cat(columns, dim=1) * alive

        stack = self.egnn
        d0, _ = self._between(x, row, col)
        h = stack.embedding(h)
        for k in range(stack.layers):
            h, x = self._block(
                stack.get_submodule(f"e_block_{k}"), h, x, d0, row, col, alive, edge_alive
            )
        h = (stack.embedding_out(h) * alive)[:, : self.features].reshape(B, N, -1)

        velocity = ((x - start) * alive).reshape(B, N, 3)
        if torch.any(torch.isnan(velocity)):
            velocity = torch.zeros_like(velocity)
        valid = mask[..., None].to(x_t.dtype)
        velocity = velocity - velocity.sum(1, keepdim=True) / valid.sum(1, keepdim=True) * valid
        return torch.cat([velocity, h], dim=2)

    def _between(self, x: Tensor, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
        difference = x[row] - x[col]
        d = torch.sum(difference**2, 1, keepdim=True)
        return d, difference / (torch.sqrt(d + 1e-8) + self.egnn.norm_constant)

    def _block(
        self,
        block: Block,
        h: Tensor,
        x: Tensor,
        d0: Tensor,
        row: Tensor,
        col: Tensor,
        alive: Tensor,
        edge_alive: Tensor,
    ) -> tuple[Tensor, Tensor]:
        d, u = self._between(x, row, col)
        edges = torch.cat([d, d0], dim=1)

        gcl = block.gcl_0
        m = gcl.edge_mlp(torch.cat([h[row], h[col], edges], dim=1))
        if gcl.att_mlp is not None:
            m = m * gcl.att_mlp(m)
        total = added(m * edge_alive, row, len(h), gcl.normalization_factor)
        h = (h + gcl.node_mlp(torch.cat([h, total], dim=1))) * alive

        move = block.gcl_equiv
        s = move.coord_mlp(torch.cat([h[row], h[col], edges], dim=1))
        if move.tanh:
            s = torch.tanh(s) * move.coords_range
        return h, (x + added(u * s * edge_alive, row, len(x), move.normalization_factor)) * alive
