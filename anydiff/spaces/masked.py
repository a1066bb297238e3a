"""Sequences padded to a common length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Generator, Tensor
from torch.types import Device

from anydiff.checks import check_shape, check_whole, read
from anydiff.spaces.draws import Random, normal
from anydiff.spaces.space import Coefficient, Space, by_row, counts

__all__ = ["Masked"]


@dataclass(frozen=True, eq=False)
class Masked(Space):
    """(B, N, C): items padded to a common length; padding is zero and belongs to no item.

    A value that was never observed is zero and does not count either, but its row keeps its position in
    the sequence.

    Arguments:
        mask: (B, N), True where a row is valid.
        observed: (B, N, C), True where a value is known. None: all values of the valid rows.

    Raises:
        ValueError: If a mask has the wrong shape, or is not boolean.
    """

    mask: Tensor
    observed: Tensor | None = None
    leading: bool | None = field(init=False, repr=False)
    """Whether the valid rows of each item are its first ones; None if it is not known."""
    free = True

    def __post_init__(self) -> None:
        check_shape((None, None), "mask is True where a row is valid", torch.bool, mask=self.mask)
        if self.observed is not None:
            shape = (*self.mask.shape, None)
            check_shape(
                shape, "it is True where a value is known", torch.bool, observed=self.observed
            )

        leading = read(self.mask, lambda mask: not (mask[:, 1:] & ~mask[:, :-1]).any())
        object.__setattr__(self, "leading", leading)

    @classmethod
    def from_lengths(
        cls, lengths: Tensor | Sequence[int], size: int | None = None, device: Device = None
    ) -> Masked:
        """The space of items whose first `lengths` rows are valid.

        Arguments:
            lengths: Valid rows of each item, (B,), at least 1.
            size: The common length N; that of the longest item if None.
            device: The device of the mask; that of the lengths if None.

        Raises:
            ValueError: If a length is below 1, or larger than the size.
        """
        lengths = counts(lengths, "lengths")
        check_whole("[1, inf)", items=len(lengths))
        longest = int(lengths.max())
        size = longest if size is None else size
        check_whole(f"[{longest}, inf)", size=size)  # the longest item has to fit
        lengths = lengths.to(device or lengths.device)
        return cls(torch.arange(int(size), device=lengths.device) < lengths[:, None])

    def copied(self, n: int) -> Masked:
        seen = None if self.observed is None else self.observed.repeat(n, 1, 1)
        return Masked(self.mask.repeat(n, 1), seen)

    def restrict(self, x: Tensor, mask: Tensor) -> Tensor:
        """x where it is valid and the mask is True, 0 elsewhere.

        Arguments:
            x: A state, (B, N, C).
            mask: (B, N) or (B, N, C) booleans.
        """
        return self.project(x) * (mask[..., None] if mask.ndim == 2 else mask)

    @cached_property
    def lengths(self) -> Tensor:
        """The number of valid rows of each item, (B,)."""
        return self.mask.sum(1)

    @cached_property
    def _counts(self) -> list[int]:  # read from the device once, not at every step
        return self.lengths.tolist()

    @cached_property
    def _rows(self) -> Tensor:
        return self.mask.flatten().nonzero()[:, 0]

    @cached_property
    def valid(self) -> Tensor:
        """True where an entry is valid, (B, N, C), or (B, N, 1) if all values are observed."""
        rows = self.mask[..., None]
        return rows if self.observed is None else rows & self.observed

    def _check(self, x: Tensor) -> None:
        shape = (*self.mask.shape, None) if self.observed is None else self.observed.shape
        check_shape(shape, "build the space from the same batch", x=x)

    def expand(self, c: Coefficient, x: Tensor) -> Coefficient:
        return by_row(c, x)

    def project(self, x: Tensor) -> Tensor:
        self._check(x)
        return x.masked_fill(~self.valid, 0)

    def sum(self, x: Tensor) -> Tensor:
        return self.project(x).flatten(1).sum(1)

    def dim(self, x: Tensor) -> Tensor:
        self._check(x)
        return self.valid.expand_as(x).sum((1, 2)).to(x.dtype)

    def diagonal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """1 where an entry is valid and the mask is True, 0 elsewhere, shaped like x."""
        self._check(x)
        share = self.valid.expand_as(x)
        return (share if mask is None else share & mask).to(x.dtype)

    def noise(self, x: Tensor, generator: Random = None) -> Tensor:
        self._check(x)
        if generator is None or isinstance(generator, Generator):
            return self.project(normal(x, generator, lambda: self._counts))
        # drawn for the valid rows only: an item's noise must not depend on the padding of its batch
        noise = x.new_zeros(self.mask.numel(), x.shape[-1])
        drawn = normal(x[0], generator, lambda: self._counts)
        return self.project(noise.index_copy_(0, self._rows, drawn).view_as(x))
