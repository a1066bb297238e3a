r"""Where the data live, and with them the noise.

A space is an orthogonal projection P together with the knowledge of which entries belong to which
item of the batch. Masking padded positions and subtracting each item's centre are such projections.
Projected standard normal noise is the standard normal of the subspace, and the subspace's dimension
is the trace of P. When data, noise and the denoiser's output lie in the space, every linear update
of a sampler stays in it, so the rest of the library needs only the five methods below.

A space is made from a batch and holds its structure (a mask, an index), never its values. It is
frozen: move it with ``space.to(device)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Generator, Tensor

__all__ = ["Dense", "Generators", "Masked", "Ragged", "Space"]

Generators = Generator | Sequence[Generator] | None
Coefficient = TypeVar("Coefficient", Tensor, float)


@runtime_checkable
class Space(Protocol):
    """What the core asks of a space. B is the number of items in the batch."""

    def expand(self, c: Coefficient, x: Tensor) -> Coefficient:
        """One value per item, (B,), or a scalar, made broadcastable with x."""

    def project(self, x: Tensor) -> Tensor:
        """The orthogonal projection of x onto the space, shaped like x."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum of each item's valid entries, (B,)."""

    def dim(self, x: Tensor) -> Tensor:
        """The dimension of each item, the trace of its projection, (B,)."""

    def noise(self, x: Tensor, generator: Generators = None) -> Tensor:
        """A standard normal draw in the space, shaped like x.

        Arguments:
            generator: One generator for the batch, or a sequence with one for each item, in which
                case an item's noise does not depend on the batch it is in.
        """


def _randn(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def _check_count(generators: Sequence[Generator], num_items: int) -> None:
    if len(generators) != num_items:
        raise ValueError(
            f"{len(generators)} generators for {num_items} items; give one generator, or one per item."
        )


@dataclass(frozen=True)
class Dense:
    """(B, \\*): every entry is free. Images, latents, vectors."""

    def expand(self, c: Coefficient, x: Tensor) -> Coefficient:
        if isinstance(c, Tensor) and c.ndim > 0:
            return c.reshape(c.shape + (1,) * (x.ndim - 1))
        return c

    def project(self, x: Tensor) -> Tensor:
        return x

    def sum(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1) if x.ndim > 1 else x

    def dim(self, x: Tensor) -> Tensor:
        return torch.full(x.shape[:1], x[:1].numel(), dtype=x.dtype, device=x.device)

    def noise(self, x: Tensor, generator: Generators = None) -> Tensor:
        if generator is None or isinstance(generator, Generator):
            return _randn(x.shape, x, generator)
        _check_count(generator, len(x))
        return torch.stack([_randn(x.shape[1:], x, g) for g in generator])


@dataclass(frozen=True, eq=False)
class Masked:
    """(B, N, C): items padded to a common length; padding is zero and does not count.

    A value that was never observed is zero and doesn't count either, but its row stays a row in time.

    Arguments:
        mask: (B, N), True where a row is valid.
        observed: (B, N, C), True where a value is known; all of a valid row's if None.
    """

    mask: Tensor
    observed: Tensor | None = None

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != torch.bool:
            raise ValueError(
                f"mask is {tuple(self.mask.shape)} of {self.mask.dtype}; "
                "give a boolean tensor (B, N) that is True where a position is valid."
            )
        seen = self.observed
        if seen is not None and (
            seen.ndim != 3 or seen.dtype != torch.bool or seen.shape[:2] != self.mask.shape
        ):
            batch, length = self.mask.shape
            raise ValueError(
                f"observed is {tuple(seen.shape)} of {seen.dtype}; give a boolean tensor "
                f"({batch}, {length}, C) that is True where a value is known."
            )

    @classmethod
    def from_lengths(
        cls,
        lengths: Tensor | Sequence[int],
        size: int | None = None,
        device: torch.device | str | None = None,
    ) -> Masked:
        """The space of items that are valid in their first `lengths` rows.

        Arguments:
            size: The common length N; the longest item's if None.
        """
        lengths = torch.as_tensor(lengths, dtype=torch.long)
        if lengths.ndim != 1 or len(lengths) == 0 or bool((lengths < 1).any()):
            raise ValueError(
                f"lengths are {lengths.tolist()}; give a list of counts, each at least 1."
            )
        longest = int(lengths.max())
        size = longest if size is None else size
        if size < longest:
            raise ValueError(
                f"size is {size} but the longest item has {longest} rows; give at least that."
            )
        lengths = lengths.to(device or lengths.device)
        return cls(torch.arange(size, device=lengths.device) < lengths[:, None])

    def to(self, device: torch.device | str) -> Masked:
        return Masked(
            self.mask.to(device), None if self.observed is None else self.observed.to(device)
        )

    @cached_property
    def lengths(self) -> Tensor:
        """Valid rows of each item, (B,)."""
        return self.mask.sum(1)

    @cached_property
    def _counts(self) -> list[int]:  # read from the device once, not at every step
        return self.lengths.tolist()

    @cached_property
    def _rows(self) -> Tensor:
        return self.mask.flatten().nonzero()[:, 0]

    @cached_property
    def valid(self) -> Tensor:
        """What belongs to the space, (B, N, C), or (B, N, 1) where all values are observed."""
        rows = self.mask[..., None]
        return rows if self.observed is None else rows & self.observed

    def _check(self, x: Tensor) -> None:
        if x.shape[:2] != self.mask.shape:
            raise ValueError(
                f"x is {tuple(x.shape)} but the mask is {tuple(self.mask.shape)}; "
                "build the space from the same batch."
            )
        if self.observed is not None and x.shape != self.observed.shape:
            raise ValueError(
                f"x is {tuple(x.shape)} but observed is {tuple(self.observed.shape)}; "
                "give one mask for each value."
            )

    def expand(self, c: Coefficient, x: Tensor) -> Coefficient:
        if isinstance(c, Tensor) and c.ndim > 0:
            return c.reshape(c.shape + (1,) * (x.ndim - 1))
        return c

    def project(self, x: Tensor) -> Tensor:
        self._check(x)
        return x.masked_fill(~self.valid, 0)

    def sum(self, x: Tensor) -> Tensor:
        return self.project(x).flatten(1).sum(1)

    def dim(self, x: Tensor) -> Tensor:
        self._check(x)
        if self.observed is None:
            return (self.lengths * x.shape[-1]).to(x.dtype)
        return self.valid.sum((1, 2)).to(x.dtype)

    def noise(self, x: Tensor, generator: Generators = None) -> Tensor:
        self._check(x)
        if generator is None or isinstance(generator, Generator):
            return self.project(_randn(x.shape, x, generator))
        _check_count(generator, len(x))
        # drawn for the valid rows alone, so that the padding of a batch changes nothing
        draws = [
            _randn((n, x.shape[-1]), x, g) for n, g in zip(self._counts, generator, strict=True)
        ]
        noise = x.new_zeros(self.mask.numel(), x.shape[-1])
        noise = noise.index_copy_(0, self._rows, torch.cat(draws)).view_as(x)
        return noise if self.observed is None else self.project(noise)


@dataclass(frozen=True, eq=False)
class Ragged:
    """(N, F): items of different sizes, one after the other, in one tensor of rows.

    Arguments:
        index: (N,), the item that each row belongs to: 0, 0, 0, 1, 1, 2, … in ascending order.
        num_items: The number of items B.
        centered: The first `centered` columns have zero mean over each item's rows, as positions do
            when nothing depends on where an item is. Such an item has `centered` dimensions less.

    References:
        Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), section 3.1.
        https://arxiv.org/abs/2203.17003
    """

    index: Tensor
    num_items: int
    centered: int = 0

    @classmethod
    def from_sizes(
        cls,
        sizes: Tensor | Sequence[int],
        centered: int = 0,
        device: torch.device | str | None = None,
    ) -> Ragged:
        """The space of items that have `sizes` rows each."""
        sizes = torch.as_tensor(sizes, dtype=torch.long)
        if sizes.ndim != 1 or bool((sizes < 1).any()):
            raise ValueError(f"sizes are {sizes.tolist()}; give a list of counts, each at least 1.")
        index = torch.repeat_interleave(sizes).to(device or sizes.device)
        return cls(index, len(sizes), centered)

    def to(self, device: torch.device | str) -> Ragged:
        space = Ragged(self.index.to(device), self.num_items, self.centered)
        for name in {"sizes", "ptr", "edge_index"} & self.__dict__.keys():  # what is already built
            space.__dict__[name] = getattr(self, name).to(device)
        return space

    @cached_property
    def sizes(self) -> Tensor:
        """Rows of each item, (B,)."""
        return torch.bincount(self.index, minlength=self.num_items)

    @cached_property
    def _counts(self) -> list[int]:  # read from the device once, not at every step
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

    def _check(self, x: Tensor) -> None:
        if len(x) != len(self.index):
            raise ValueError(
                f"x has {len(x)} rows but the space indexes {len(self.index)}; "
                "build the space from the same batch."
            )

    def _total(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.num_items, *x.shape[1:]).index_add(0, self.index, x)

    def expand(self, c: Coefficient, x: Tensor) -> Coefficient:
        if isinstance(c, Tensor) and c.ndim > 0:
            return c[self.index].reshape((-1,) + (1,) * (x.ndim - 1))
        return c

    def center(self, x: Tensor) -> Tensor:
        """x less its mean over each item's rows, column by column."""
        mean = self._total(x) / self.sizes.to(x.dtype)[:, None]
        return x - mean[self.index]

    def project(self, x: Tensor) -> Tensor:
        self._check(x)
        if not self.centered:
            return x
        return torch.cat([self.center(x[:, : self.centered]), x[:, self.centered :]], dim=1)

    def sum(self, x: Tensor) -> Tensor:
        self._check(x)
        return self._total(x.flatten(1).sum(1))

    def dim(self, x: Tensor) -> Tensor:
        self._check(x)
        return (self.sizes * x.shape[1] - self.centered).to(x.dtype)

    def noise(self, x: Tensor, generator: Generators = None) -> Tensor:
        if generator is None or isinstance(generator, Generator):
            return self.project(_randn(x.shape, x, generator))
        _check_count(generator, self.num_items)
        draws = [
            _randn((n, *x.shape[1:]), x, g) for n, g in zip(self._counts, generator, strict=True)
        ]
        return self.project(torch.cat(draws))
