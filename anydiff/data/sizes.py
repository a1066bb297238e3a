"""How large items are: the atoms of molecules, the length of sequences.

A diffusion draws what is in an item, and is told how many rows it has. Where nothing else decides,
the sizes are drawn as they occurred in the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

__all__ = ["SizeDistribution"]


@dataclass(frozen=True, eq=False)
class SizeDistribution:
    """How many items have n rows, to draw sizes from.

    Arguments:
        counts: (n_max + 1,), counts[n] items with n rows. It is the whole state: save it with
            a checkpoint.
    """

    counts: Tensor

    def __post_init__(self) -> None:
        counts = torch.as_tensor(self.counts)
        if counts.ndim != 1 or len(counts) < 2 or counts[0] != 0 or bool((counts < 0).any()):
            raise ValueError("counts must be (n_max + 1,), none negative and none for size 0.")
        if not counts.sum() > 0:
            raise ValueError("counts are all zero; there are no sizes to draw from.")
        object.__setattr__(self, "counts", counts.to(torch.long).cpu())

    @classmethod
    def from_sizes(cls, sizes: Sequence[int] | np.ndarray | Tensor) -> SizeDistribution:
        return cls(torch.bincount(torch.as_tensor(sizes, dtype=torch.long)))

    def sample(self, num: int, generator: Generator | None = None) -> Tensor:
        """`num` sizes, (num,)."""
        weights = self.counts.to(torch.float64)
        if generator is not None:
            weights = weights.to(generator.device)
        return torch.multinomial(weights, num, replacement=True, generator=generator)

    def log_prob(self, n: Tensor) -> Tensor:
        """log p(n) in nats, shaped like n; -inf where no item had that size."""
        log_p = (self.counts.to(torch.float64) / self.counts.sum()).log().to(n.device)
        inside = n.clamp(0, len(log_p) - 1)  # log_p[0] is -inf
        return torch.where(n < len(log_p), log_p[inside], -torch.inf)

    @property
    def entropy(self) -> float:
        """H[N] in nats."""
        p = self.counts[self.counts > 0].to(torch.float64) / self.counts.sum()
        return float(-(p * p.log()).sum())
