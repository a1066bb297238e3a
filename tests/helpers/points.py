"""A batch of points in space with features."""

import torch
from torch import Tensor

from anydiff import Ragged

SIZES = [5, 1, 9, 2, 12]
FEATURES = 4
# float64; outputs are of order one
ROUNDING = {"rtol": 1e-10, "atol": 1e-10}


def batch(sizes=SIZES, seed=0) -> tuple[Tensor, Tensor, Ragged]:
    generator = torch.Generator().manual_seed(seed)
    space = Ragged.from_sizes(sizes, centered=3)
    x_t = space.noise(torch.empty(sum(sizes), 3 + FEATURES), generator)
    return x_t, torch.rand(len(sizes), generator=generator), space
