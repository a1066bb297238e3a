"""EDM's network written out as its equations: dense, padded, without any rearrangement.

The yardstick for ``anydiff.denoisers.points.egnn``: tests compare outputs and gradients with it, the
benchmark compares times. Every molecule is padded to the largest of the batch, every pair of the
B·N·N is computed, the edge networks see the concatenated [h_i, h_j, d_ij, d0_ij], and a mask
removes what is not there. Parameters carry the names of published checkpoints.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022).
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TextbookEGNN"]


def pairs(h: Tensor, edges: Tensor) -> Tensor:
    """[h_i, h_j, e_ij] of all pairs: (B, N, F) and (B, N, N, 2) to (B, N, N, 2F + 2)."""
    N = h.shape[1]
    h_i = h[:, :, None].expand(-1, -1, N, -1)
    h_j = h[:, None, :].expand(-1, N, -1, -1)
    return torch.cat([h_i, h_j, edges], dim=-1)


class GCL(nn.Module):
    """h_i + V(h_i, Σ_j gate_ij m_ij)."""

    def __init__(self, hidden: int, attention: bool, normalization_factor: float) -> None:
        super().__init__()
        self.normalization_factor = normalization_factor
        self.edge_mlp = nn.Sequential(
            nn.Linear(2 * hidden + 2, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.node_mlp = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )
        self.att_mlp = nn.Sequential(nn.Linear(hidden, 1), nn.Sigmoid()) if attention else None

    def forward(self, h: Tensor, edges: Tensor, edge_mask: Tensor) -> Tensor:
        m = self.edge_mlp(pairs(h, edges))
        if self.att_mlp is not None:
            m = m * self.att_mlp(m)
        total = (m * edge_mask).sum(2) / self.normalization_factor
        return h + self.node_mlp(torch.cat([h, total], dim=-1))


class EquivariantUpdate(nn.Module):
    """x_i + Σ_j u_ij s_ij."""

    def __init__(
        self, hidden: int, tanh: bool, coords_range: float, normalization_factor: float
    ) -> None:
        super().__init__()
        self.tanh = tanh
        self.coords_range = coords_range
        self.normalization_factor = normalization_factor
        self.coord_mlp = nn.Sequential(
            nn.Linear(2 * hidden + 2, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1, bias=False),
        )
        nn.init.xavier_uniform_(self.coord_mlp[-1].weight, gain=0.001)

    def forward(self, h: Tensor, x: Tensor, u: Tensor, edges: Tensor, edge_mask: Tensor) -> Tensor:
        s = self.coord_mlp(pairs(h, edges))
        if self.tanh:
            s = torch.tanh(s) * self.coords_range
        return x + (u * s * edge_mask).sum(2) / self.normalization_factor


class Block(nn.Module):
    def __init__(
        self,
        hidden: int,
        attention: bool,
        tanh: bool,
        coords_range: float,
        norm_constant: float,
        normalization_factor: float,
    ) -> None:
        super().__init__()
        self.norm_constant = norm_constant
        self.gcl_0 = GCL(hidden, attention, normalization_factor)
        self.gcl_equiv = EquivariantUpdate(hidden, tanh, coords_range, normalization_factor)

    def forward(
        self, h: Tensor, x: Tensor, d0: Tensor, mask: Tensor, edge_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        d, u = geometry(x, self.norm_constant)
        edges = torch.cat([d, d0], dim=-1)
        h = self.gcl_0(h, edges, edge_mask) * mask
        x = self.gcl_equiv(h, x, u, edges, edge_mask) * mask
        return h, x


def geometry(x: Tensor, norm_constant: float) -> tuple[Tensor, Tensor]:
    """Squared distances (B, N, N, 1) and scaled differences (B, N, N, 3) of all pairs."""
    difference = x[:, :, None] - x[:, None, :]
    d = difference.square().sum(-1, keepdim=True)
    return d, difference / (torch.sqrt(d + 1e-8) + norm_constant)


class Stack(nn.Module):
    """Embedding, blocks and readout: the part under the name ``egnn`` of a checkpoint."""

    def __init__(
        self, columns: int, hidden: int, layers: int, norm_constant: float, **block
    ) -> None:
        super().__init__()
        self.norm_constant = norm_constant
        self.embedding = nn.Linear(columns, hidden)
        self.embedding_out = nn.Linear(hidden, columns)
        self.layers = layers
        for k in range(layers):
            self.add_module(f"e_block_{k}", Block(hidden, norm_constant=norm_constant, **block))

    def forward(
        self, h: Tensor, x: Tensor, mask: Tensor, edge_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        d0, _ = geometry(x, self.norm_constant)
        h = self.embedding(h)
        for k in range(self.layers):
            h, x = self.get_submodule(f"e_block_{k}")(h, x, d0, mask, edge_mask)
        return self.embedding_out(h) * mask, x


class TextbookEGNN(nn.Module):
    """Takes the arguments of ``EGNN`` and computes the same function on a padded batch."""

    def __init__(
        self,
        features: int,
        hidden: int = 256,
        layers: int = 9,
        context: int = 0,
        attention: bool = True,
        tanh: bool = True,
        coords_range: float = 15.0,
        norm_constant: float = 1.0,
        normalization_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.features = features
        self.egnn = Stack(
            features + 1 + context,
            hidden,
            layers,
            norm_constant,
            attention=attention,
            tanh=tanh,
            coords_range=coords_range,
            normalization_factor=normalization_factor,
        )

    def forward(
        self, x_t: Tensor, t: Tensor, mask: Tensor, context: Tensor | None = None
    ) -> Tensor:
        """x_t (B, N, 3 + features), t (B,), mask (B, N) True = valid, context (B, N, C)."""
        mask = mask[..., None].to(x_t.dtype)
        different = ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        edge_mask = mask[:, :, None] * mask[:, None, :] * different[..., None]

        x, h = x_t[..., :3] * mask, x_t[..., 3:]
        time = t[:, None, None].expand(-1, h.shape[1], 1)
        h = torch.cat([h, time] if context is None else [h, time, context], dim=-1) * mask

        h_L, x_L = self.egnn(h, x, mask, edge_mask)
        velocity = (x_L - x) * mask
        mean = velocity.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        velocity = (velocity - mean) * mask
        return torch.cat([velocity, h_L[..., : self.features]], dim=-1)
