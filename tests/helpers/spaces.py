"""A space of every kind, for four items, and what tests draw in them."""

from dataclasses import dataclass

import pytest
import torch

from anydiff.spaces import Dense, Masked, Packed, Ragged, Space

SIZES = [1, 4, 2, 7]
MASK = torch.arange(7)[None] < torch.tensor(SIZES)[:, None]
OBSERVED = torch.rand(4, 7, 3, generator=torch.Generator().manual_seed(5)) < 0.7
OBSERVED[3, 2] = False  # a row of which nothing is known
NODES = Ragged.from_sizes(SIZES, centered=3)
EDGES = Ragged(NODES.index[NODES.edge_index[0]], 4)  # the first item, of one node, has none
PACKED = Packed({"nodes": (NODES, (14, 5)), "edges": (EDGES, (56, 2)), "cell": (Dense(), (4, 3))})
SPACES = {
    "dense": (Dense(), (4, 3, 5)),
    "masked": (Masked(MASK), (4, 7, 3)),
    "observed": (Masked(MASK, OBSERVED), (4, 7, 3)),
    "ragged": (Ragged.from_sizes(SIZES), (14, 5)),
    "centered": (NODES, (14, 5)),
    "packed": (PACKED, PACKED.shape),
}
every_space = pytest.mark.parametrize("space, shape", SPACES.values(), ids=SPACES.keys())


def draw(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generators():
    return [torch.Generator().manual_seed(s) for s in (11, 12, 13, 14)]


EVERYTHING = Packed({name: pair for name, pair in SPACES.items() if name != "packed"})


@dataclass(frozen=True)
class Bare(Space):
    """(B, N): rows without their mean, with nothing but what a space has to have."""

    weight: torch.Tensor

    def expand(self, c, x):
        return c[:, None] if isinstance(c, torch.Tensor) and c.ndim else c

    def project(self, x):
        return x - x.mean(1, keepdim=True)

    def sum(self, x):
        return x.sum(1)

    def dim(self, x):
        return torch.full((len(x),), x.shape[1] - 1.0, dtype=x.dtype)

    def noise(self, x, generator=None):
        return self.project(Dense().noise(x, generator))
