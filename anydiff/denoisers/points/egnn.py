r"""EGNN, the E(n)-equivariant graph network of EDM, for atoms or other points in three dimensions.

"EDM" here is the diffusion model of Hoogeboom et al. (2022) for molecules.

Every point has a position x_i and features h_i; every ordered pair of points of the same item is an
edge. One layer computes, with d_ij = \|x_i − x_j\|² and d0_ij the same at the network's input,

    y_ij = SiLU(W2 SiLU(W1 [h_i, h_j, d_ij, d0_ij] + b1) + b2)        the edge network
    h_i += V(h_i, Σ_j σ(w·y_ij + b) y_ij)                             messages
    x_i += Σ_j u_ij · 15 tanh(c·y′_ij),  u_ij = (x_i − x_j) / (\|x_i − x_j\| + 1)

where y′ comes from a second edge network, which sees the updated h. Distances are invariant and
u rotates with x, so the output rotates, reflects and permutes with the input.

The edge networks dominate the cost. Here they are cheap for three reasons: W1 is applied before the
pairs are formed, W1 [h_i, h_j, e] = P_i + Q_j + W_e e; only edges within an item exist; and the
backward pass of an edge network needs two tensors of size (E, F), in memory that the next step uses
again. The function is the published one.

Beyond EDM: a label and flags of unknown context are added to the first h, and after a block h may
attend to the item's tokens, of a text for instance (`CrossAttention`). `anydiff.denoisers.inputs` says
how absent conditions are represented.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from anydiff.denoisers.configured import configured
from anydiff.denoisers.inputs import Conditions
from anydiff.denoisers.points.edges import EdgeScalar, EdgeSum, Graph, graph_of
from anydiff.denoisers.points.sets import PointDenoiser
from anydiff.spaces import Ragged

__all__ = ["EGNN"]


class EdgeNetwork(nn.Module):
    """The two linear maps of an edge network, and how its functions are called."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * hidden + 2, hidden)
        self.second = nn.Linear(hidden, hidden)

    def apply_edges(
        self, function: type[Function], graph: Graph, h: Tensor, e: Tensor, *head: Tensor | None
    ) -> Tensor:
        hidden = h.shape[1]
        W_i, W_j, W_e = torch.split(self.first.weight, [hidden, hidden, 2], dim=1)
        P, Q = F.linear(h, W_i, self.first.bias), F.linear(h, W_j)
        # (2, E) and (2, F): products with two columns are slow, with two rows they are not
        inputs = (*head, P, Q, e, W_e.t().contiguous(), self.second.weight, self.second.bias)
        # autocast decides the type of P, and the edges follow it
        cast = [x if x is None else x.to(P.dtype) for x in inputs]
        y: Tensor = function.apply(graph, *cast)  # type: ignore[no-untyped-call]
        return y


class Messages(EdgeNetwork):
    """h_i + V(h_i, Σ_j σ(w·y_ij + b) y_ij / normalization_factor)."""

    def __init__(self, hidden: int, attention: bool, normalization_factor: float) -> None:
        super().__init__(hidden)
        self.normalization_factor = normalization_factor
        self.gate = nn.Linear(hidden, 1) if attention else None
        self.node = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )

    def forward(self, graph: Graph, h: Tensor, e: Tensor) -> Tensor:
        gate = (None, None) if self.gate is None else (self.gate.weight[0], self.gate.bias[0])
        m = self.apply_edges(EdgeSum, graph, h, e, *gate) / self.normalization_factor
        change: Tensor = self.node(torch.cat([h, m.to(h.dtype)], dim=1))
        return h + change


class Coordinates(EdgeNetwork):
    """x_i + Σ_j u_ij s_ij / normalization_factor with s_ij = coords_range · tanh(w·y_ij)."""

    def __init__(
        self, hidden: int, tanh: bool, coords_range: float, normalization_factor: float
    ) -> None:
        super().__init__(hidden)
        self.tanh = tanh
        self.coords_range = coords_range
        self.normalization_factor = normalization_factor
        self.head = nn.Linear(hidden, 1, bias=False)
        nn.init.xavier_uniform_(self.head.weight, gain=0.001)

    def forward(self, graph: Graph, h: Tensor, e: Tensor, x: Tensor, u: Tensor) -> Tensor:
        s = self.apply_edges(EdgeScalar, graph, h, e, self.head.weight[0]).to(x.dtype)
        if self.tanh:
            s = torch.tanh(s) * self.coords_range
        return x.index_add(1, graph.i, u * (s / self.normalization_factor))


class EquivariantBlock(nn.Module):
    """Messages, then new coordinates; both with the distances at the block's start."""

    def __init__(self, messages: list[Messages], coordinates: Coordinates) -> None:
        super().__init__()
        self.messages = nn.ModuleList(messages)
        self.coordinates = coordinates

    def forward(
        self, graph: Graph, h: Tensor, x: Tensor, d: Tensor, d0: Tensor, u: Tensor
    ) -> tuple[Tensor, Tensor]:
        e = torch.stack([d, d0])
        for messages in self.messages:
            h = messages(graph, h, e)
        return h, self.coordinates(graph, h, e, x, u)


def geometry(graph: Graph, x: Tensor, norm_constant: float) -> tuple[Tensor, Tensor]:
    """d_ij, (E,), and u_ij = (x_i − x_j) / (√(d_ij + 1e-8) + norm_constant), (3, E).

    Positions come as columns, x (3, N).
    """
    difference = x.index_select(1, graph.i) - x.index_select(1, graph.j)
    d = difference.square().sum(0)
    return d, difference / (torch.sqrt(d + 1e-8) + norm_constant)


@configured
class EGNN(PointDenoiser):
    r"""The denoiser of EDM for positions and features of a batch of point clouds.

    The position part of the output is x_L − x_0 less its mean over the item, the feature part is a
    linear map of h_L. Rotations and reflections of the input positions act on the position part
    alone; translations change nothing.

    Arguments:
        features: Feature columns after the three of the position (EDM on QM9: 5 one-hot + charge).
        hidden: Width F of features and edge networks.
        layers: Number of blocks; each has its messages and one update of the positions.
        context: Columns of conditions, appended to the features after the time.
        attention: Weight each message by a sigmoid gate.
        tanh: Bound an edge's pull on a position by `coords_range`.
        coords_range: The bound in each layer, whatever the number of layers. (The published code
            computes range / layers, but does not use it.)
        norm_constant: Added to the distance in Å that divides x_i − x_j.
        normalization_factor: Divides sums over neighbours.
        sublayers: Message layers in each block.
        classes: Number of labels; 0 for none.
        tokens: Width of the tokens that the points attend to; 0 for none.

    Raises:
        ValueError: If `context`, `classes` or `tokens` is negative.

    References:
        Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022).
        https://arxiv.org/abs/2203.17003

        E(n) Equivariant Graph Neural Networks (Satorras et al., 2021).
        https://arxiv.org/abs/2102.09844
    """

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
        sublayers: int = 1,
        classes: int = 0,
        tokens: int = 0,
    ) -> None:
        super().__init__(features, context, classes, tokens)
        self.norm_constant = norm_constant

        columns = features + 1 + context
        self.embedding = nn.Linear(columns, hidden)
        self.blocks = nn.ModuleList(
            EquivariantBlock(
                [Messages(hidden, attention, normalization_factor) for _ in range(sublayers)],
                Coordinates(hidden, tanh, coords_range, normalization_factor),
            )
            for _ in range(layers)
        )
        self.readout = nn.Linear(hidden, columns)
        self._build_readers(hidden, layers)

    def _predict(self, x_t: Tensor, t: Tensor, space: Ragged, cond: Conditions) -> Tensor:
        graph = graph_of(space)
        # (3, N): sums and products along rows of three are slow
        x = x_t[:, :3].t().contiguous()
        h = self._embed([x_t[:, 3:], space.expand(t, x_t)], space, cond)

        d, u = d0, _ = geometry(graph, x, self.norm_constant)
        x_l = x
        for k, block in enumerate(self.blocks):
            if k > 0:
                d, u = geometry(graph, x_l, self.norm_constant)
            h, x_l = block(graph, h, x_l, d, d0, u)
            h = self._attend(k, h, space, cond)

        velocity = space.center((x_l - x).t())
        return torch.cat([velocity, self.readout(h)[:, : self.features].to(x.dtype)], dim=1)

    @classmethod
    def from_edm(
        cls, state_dict: Mapping[str, Tensor], *, context: int = 0, **overrides: Any
    ) -> EGNN:
        """The network of a published EDM checkpoint.

        Sizes and attention are inferred from the weights. Arguments that the weights do not determine
        keep their defaults (those of EDM on QM9) unless they are overridden.

        Arguments:
            state_dict: Weights named ``egnn.embedding.weight``, ``egnn.e_block_0.gcl_0…`` or the
                same behind ``dynamics.``; entries of other modules are ignored.
            context: How many of the input columns are conditions.
            **overrides: Further arguments of the constructor. The weights of conditions that EDM does
                not have keep their initial values, which have no effect until a label is given.

        Returns:
            The network, in the weights' dtype.

        Raises:
            ValueError: If names or shapes are not those of such a network.
        """
        weights = {
            name.removeprefix("dynamics.").removeprefix("egnn."): weight
            for name, weight in state_dict.items()
            if name.removeprefix("dynamics.").startswith("egnn.")
        }
        embedding = weights.get("embedding.weight")
        if embedding is None:
            raise ValueError(
                f"no [dynamics.]egnn.embedding.weight among {len(state_dict)} entries "
                f"({', '.join(list(state_dict)[:3])}, …); give the state dict of EDM's generative model."
            )
        blocks = {name.split(".")[0] for name in weights if name.startswith("e_block_")}
        sublayers = {name.split(".")[1] for name in weights if ".gcl_" in name} - {"gcl_equiv"}
        config = {
            "features": embedding.shape[1] - 1 - context,
            "hidden": embedding.shape[0],
            "layers": len(blocks),
            "context": context,
            "attention": any(".att_mlp." in name for name in weights),
            "sublayers": len(sublayers),
        }
        net = cls(**{**config, **overrides}).to(embedding.dtype)

        first = net.state_dict()
        names = {_published_name(name): name for name in first if not name.startswith(_BEYOND_EDM)}
        wanted = {name: tuple(first[own].shape) for name, own in names.items()}
        given = {name: tuple(weight.shape) for name, weight in weights.items()}
        if wrong := {name for name, _ in wanted.items() ^ given.items()}:
            raise ValueError(
                f"the weights are not those of EGNN(**{net.config}): "
                + "; ".join(
                    f"egnn.{n} is {given.get(n, 'absent')}, not {wanted.get(n, 'absent')}"
                    for n in sorted(wrong)
                )
            )
        net.load_state_dict(first | {names[name]: weight for name, weight in weights.items()})
        return net


_BEYOND_EDM = ("embed_label.", "unknown.", "crosses.")


def _published_name(name: str) -> str:
    for own, published in (
        ("readout.", "embedding_out."),
        ("blocks.", "e_block_"),
        (".coordinates.first.", ".gcl_equiv.coord_mlp.0."),
        (".coordinates.second.", ".gcl_equiv.coord_mlp.2."),
        (".coordinates.head.", ".gcl_equiv.coord_mlp.4."),
        (".messages.", ".gcl_"),
        (".first.", ".edge_mlp.0."),
        (".second.", ".edge_mlp.2."),
        (".gate.", ".att_mlp.0."),
        (".node.", ".node_mlp."),
    ):
        name = name.replace(own, published)
    return name
