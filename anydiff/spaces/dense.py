"""Items that are arrays of one shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anydiff.spaces.draws import Random, normal
from anydiff.spaces.space import Coefficient, Space, by_row

__all__ = ["DENSE", "Dense"]


@dataclass(frozen=True)
class Dense(Space):
    """(B, \\*): arrays of one shape, in which every entry is valid. Grids of values, latents, vectors."""

    free = True

    def copied(self, n: int) -> Dense:
        return self

    def restrict(self, x: Tensor, mask: Tensor) -> Tensor:
        """x where the mask is True, 0 elsewhere.

        Arguments:
            x: A state, (B, \\*).
            mask: Booleans that broadcast with x.
        """
        return x * mask

    def expand(self, c: Coefficient, x: Tensor) -> Coefficient:
        return by_row(c, x)

    def project(self, x: Tensor) -> Tensor:
        return x

    def sum(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1) if x.ndim > 1 else x

    def dim(self, x: Tensor) -> Tensor:
        return torch.full(x.shape[:1], x[:1].numel(), dtype=x.dtype, device=x.device)

    def diagonal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.ones_like(x) if mask is None else mask.to(x.dtype)

    def noise(self, x: Tensor, generator: Random = None) -> Tensor:
        return normal(x, generator, lambda: [1] * len(x))


DENSE = Dense()
"""The space of a batch of arrays, the default wherever a function takes a space."""
