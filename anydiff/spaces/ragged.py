"""Items of different sizes, concatenated along the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.types import Device

from anydiff.checks import check_shape, check_whole, number, read
from anydiff.spaces.draws import Random, normal
from anydiff.spaces.space import Coefficient, Space, counts

__all__ = ["Ragged"]

_STRUCTURE = {"sizes", "ptr", "edge_index", "pairs", "pair_space"}
UNSORTED = "the index does not ascend; sort the rows by item."


def _ascends(index: Tensor) -> Tensor:
    return (index.diff() >= 0).all()


@dataclass(frozen=True, eq=False)
class Ragged(Space):
    """(N, F): items of different sizes, one after the other, in one tensor of rows.

    Arguments:
        index: (N,), the item that each row belongs to: 0, 0, 0, 1, 1, 2, … in ascending order.
        num_items: The number of items B.
        centered: The first `centered` columns have zero mean over each item's rows, as positions do
            when the data are independent of translations. This removes `centered` dimensions from
            every item.

    Raises:
        ValueError: If the index does not hold whole numbers from 0 to B - 1 that ascend, or a number is
            no count.

    References:
        Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), section 3.1.
        https://arxiv.org/abs/2203.17003
    """

    index: Tensor
    num_items: int
    centered: int = 0

    def __post_init__(self) -> None:
        hint = "give the item of each row, whole numbers from 0 to num_items - 1"
        check_shape((None,), hint, index=self.index)
        check_whole("[0, inf)", num_items=self.num_items, centered=self.centered)
        for name in ("num_items", "centered"):
            object.__setattr__(self, name, number(getattr(self, name)))
        if self.index.is_floating_point() or self.index.dtype == torch.bool:
            raise ValueError(f"index is of {self.index.dtype}; {hint}.")
        object.__setattr__(self, "index", self.index.long())
        if read(self.index, lambda i: ((i >= 0) & (i < self.num_items)).all()) is False:
            least, most = self.index.min(), self.index.max()
            raise ValueError(f"index goes from {least} to {most}; {hint}, of {self.num_items}.")
        if read(self.index, _ascends) is False:
            raise ValueError(UNSORTED)

    @classmethod
    def from_sizes(
        cls, sizes: Tensor | Sequence[int], centered: int = 0, device: Device = None
    ) -> Ragged:
        """The space of items that have `sizes` rows each.

        Arguments:
            sizes: Rows of each item, (B,), at least 1.
            centered: How many columns are centred.
            device: The device of the index; that of the sizes if None.

        Raises:
            ValueError: If a size is below 1, or `centered` is no count.
        """
        sizes = counts(sizes, "sizes")
        index = torch.repeat_interleave(sizes).to(device or sizes.device)
        return cls(index, len(sizes), centered)

    def to(self, device: torch.device | str) -> Ragged:
        space = super().to(device)
        for name in _STRUCTURE & self.__dict__.keys():  # those already computed
            space.__dict__[name] = getattr(self, name).to(device)
        return space

    def items(self, x: Tensor) -> int:
        return self.num_items

    @property
    def free(self) -> bool:
        return self.centered == 0

    def copied(self, n: int) -> Ragged:
        first = self.num_items * torch.arange(n, device=self.index.device)
        index = (first[:, None] + self.index).flatten()
        return Ragged(index, n * self.num_items, self.centered)

    def restrict(self, x: Tensor, mask: Tensor) -> Tensor:
        """x where the mask is True, 0 elsewhere; centred columns are centred over the masked rows.

        A centred column keeps the positions of the masked rows relative to one another: x minus its mean
        over the item's masked rows. Their position relative to the other rows is not kept.

        Arguments:
            x: A state, (N, F).
            mask: (N,) or (N, F) booleans.
        """
        self._check(x)
        mask = mask[:, None] if mask.ndim == 1 else mask
        share = mask.to(x.dtype).expand_as(x)
        x = x * share
        if not self.centered:
            return x
        x_c, share_c = x[:, : self.centered], share[:, : self.centered]
        mean = self._total(x_c) / self._total(share_c).clamp(min=1)
        x_c = x_c - share_c * mean.index_select(0, self.index)
        return torch.cat([x_c, x[:, self.centered :]], dim=1)

    @cached_property
    def sizes(self) -> Tensor:
        """The number of rows of each item, (B,)."""
        return torch.bincount(self.index, minlength=self.num_items)

    @cached_property
    def _counts(self) -> list[int]:  # read from the device once, not at every step
        if not _ascends(self.index):  # of a device: not known before
            raise ValueError(UNSORTED)
        return self.sizes.tolist()

    @cached_property
    def ptr(self) -> Tensor:
        """Item b is rows ptr[b]:ptr[b + 1], (B + 1,)."""
        return torch.nn.functional.pad(self.sizes.cumsum(0), (1, 0))

    @cached_property
    def edge_index(self) -> Tensor:
        """Every ordered pair of different rows of the same item, (2, E), E = Σ n(n − 1).

        Row 0 is the receiving row i, ascending; row 1 the sending row j.
        """
        degree = (self.sizes - 1)[self.index]
        i = torch.repeat_interleave(degree)
        first = degree.cumsum(0) - degree
        j = torch.arange(len(i), device=i.device) - first[i]  # 0 … n − 2 within the item
        j = j + self.ptr[self.index[i]]
        return torch.stack([i, j + (j >= i)])  # step over the row itself

    @cached_property
    def pairs(self) -> Tensor:
        """Every unordered pair of different rows of the same item, (2, P), P = Σ n(n − 1) / 2.

        Row 0 is i, ascending; row 1 is j > i, ascending for each i.
        """
        row = torch.arange(len(self.index), device=self.index.device)
        later = self.ptr[self.index + 1] - 1 - row
        i = torch.repeat_interleave(later)
        first = later.cumsum(0) - later
        j = torch.arange(len(i), device=i.device) - first[i]  # 0 … later − 1
        return torch.stack([i, i + 1 + j])

    @cached_property
    def pair_space(self) -> Ragged:
        """The space of one row for each of `pairs`, of the same items; an item of one row has none."""
        return Ragged(self.index[self.pairs[0]], self.num_items)

    def _check(self, x: Tensor, columns: bool = True) -> None:
        if len(x) != len(self.index):
            raise ValueError(f"x has {len(x)} rows, not {len(self.index)}; use one batch for both.")
        if columns and self.centered and (x.ndim != 2 or x.shape[1] < self.centered):
            raise ValueError(
                f"x is {tuple(x.shape)}; give rows (N, F) with the {self.centered} centred columns."
            )

    def _total(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.num_items, *x.shape[1:]).index_add(0, self.index, x)

    def expand(self, c: Coefficient, x: Tensor) -> Coefficient:
        if isinstance(c, Tensor) and c.ndim > 0:
            return c.index_select(0, self.index).reshape((-1,) + (1,) * (x.ndim - 1))
        return c

    def center(self, x: Tensor) -> Tensor:
        """x minus its mean over each item's rows, column by column."""
        mean = self._total(x) / self.sizes.to(x.dtype)[:, None]
        return x - mean.index_select(0, self.index)

    def project(self, x: Tensor) -> Tensor:
        self._check(x)
        if not self.centered:
            return x
        return torch.cat([self.center(x[:, : self.centered]), x[:, self.centered :]], dim=1)

    def sum(self, x: Tensor) -> Tensor:
        self._check(x, columns=False)
        return self._total(x.flatten(1).sum(1))

    def dim(self, x: Tensor) -> Tensor:
        self._check(x)
        rows = self.sizes * x.shape[1]
        return (rows - self.centered).clamp(min=0).to(x.dtype)  # an item may have no rows: no edges

    def diagonal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """1 - 1 / n in a centred column, 1 elsewhere, shaped like x; of the rows of a mask, 0 outside."""
        self._check(x)
        share = torch.ones_like(x) if mask is None else mask.to(x.dtype)
        rows = share[:, : self.centered]
        n = self._total(rows).clamp(min=1).index_select(0, self.index)
        return torch.cat([rows - rows / n, share[:, self.centered :]], dim=1)

    def noise(self, x: Tensor, generator: Random = None) -> Tensor:
        return self.project(normal(x, generator, lambda: self._counts))
