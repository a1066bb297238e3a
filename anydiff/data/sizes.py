"""The sizes of items: the atoms of molecules, the lengths of sequences.

A diffusion samples the rows of an item, given how many they are. By default, sizes are sampled with the
frequencies that they have in the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from anydiff.checks import check_whole
from anydiff.data.values import numbers

__all__ = ["SizeDistribution"]


@dataclass(frozen=True, eq=False)
class SizeDistribution:
    """The distribution of the number of rows of an item.

    Arguments:
        counts: (n_max + 1,), counts[n] items have n rows. These are the whole state; keep them in a
            checkpoint.

    Raises:
        ValueError: A count is no whole number, negative, or of size 0; or all are zero.
    """

    counts: Tensor

    def __post_init__(self) -> None:
        counts = _whole(self.counts, "counts")
        if len(counts) < 2 or counts[0] != 0 or bool((counts < 0).any()):
            raise ValueError("counts must be (n_max + 1,), not negative, and 0 for size 0.")
        if not counts.sum() > 0:
            raise ValueError("counts are all zero; give the sizes of one or more items.")
        object.__setattr__(self, "counts", counts)

    @classmethod
    def from_sizes(cls, sizes: Sequence[int] | np.ndarray | Tensor) -> SizeDistribution:
        """The distribution of the sizes in some data.

        Arguments:
            sizes: (M,), rows of each item.

        Raises:
                ValueError: As of the class, or a size is no whole number from 1.
        """
        rows = _whole(sizes, "sizes")
        if not len(rows) or bool((rows < 1).any()):
            raise ValueError(
                "sizes are of no items, or below 1; give the rows of one or more items."
            )
        return cls(torch.bincount(rows))

    def sample(self, num: int, generator: Generator | None = None) -> Tensor:
        """Sample sizes, (num,).

        Arguments:
            num: How many.
            generator: Of random numbers; PyTorch's own if None.

        Raises:
            ValueError: `num` is no whole number from 1.
        """
        check_whole("[1, inf)", num=num)
        weights = self.counts.to(torch.float64)
        if generator is not None:
            weights = weights.to(generator.device)
        return torch.multinomial(weights, int(num), replacement=True, generator=generator)

    def log_prob(self, n: Tensor) -> Tensor:
        """log p(n) in nats, shaped like n; −inf for sizes that do not occur.

        Arguments:
            n: Sizes, of any shape.
        """
        log_p = (self.counts.to(torch.float64) / self.counts.sum()).log().to(n.device)
        inside = n.clamp(0, len(log_p) - 1)  # log_p[0] is -inf
        return torch.where(n < len(log_p), log_p[inside], -torch.inf)

    @property
    def entropy(self) -> float:
        """The entropy of the size, in nats."""
        p = self.counts[self.counts > 0].to(torch.float64) / self.counts.sum()
        return float(-(p * p.log()).sum())


def _whole(values: Any, name: str) -> Tensor:
    """Whole numbers (n,) as int64 on the CPU."""
    try:
        found = numbers(values)
    except ValueError as error:
        raise ValueError(f"{name}: it {error}; give whole numbers.") from None
    if (
        found.ndim != 1
        or not (np.rint(found) == found).all()
        or np.abs(found).max(initial=0) > 2**53
    ):
        raise ValueError(
            f"{name} are {found.shape} of {found.dtype}; give a list of whole numbers."
        )
    return torch.from_numpy(found.astype(np.int64))
