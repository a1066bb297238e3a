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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Generator, Tensor

__all__ = [
    "Coefficient",
    "Dense",
    "Generators",
    "Rows",
    "Space",
    "check_count",
    "randn",
    "remembered",
    "supports",
]

Generators = Generator | Sequence[Generator] | None
Coefficient = TypeVar("Coefficient", Tensor, float)


@runtime_checkable
class Space(Protocol):
    """What the core asks of a space. B is the number of items in the batch.

    Densities ask besides for ``diagonal(x)``, the diagonal of the projection's matrix, shaped like x;
    editing for ``restrict(x, mask)``, the orthogonal projection onto those states of the space that are
    zero outside a mask; several draws at once for ``copies(n)``, the space of n copies of the batch, with
    ``join`` and ``separate`` for their states.
    A space whose tensors do not begin with one row for each item says ``num_items``.
    """

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


def randn(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Standard normal numbers of like's dtype and device, drawn where the generator lives."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=device).to(like.device)


def check_count(generators: Sequence[Generator], num_items: int) -> None:
    """Raise where there is not one generator for each item."""
    if len(generators) != num_items:
        raise ValueError(
            f"{len(generators)} generators for {num_items} items; give one generator, or one per item."
        )


def supports(space: Any, method: str) -> bool:
    """Whether a space, and each that it is packed of, has an optional method."""
    return hasattr(space, method) and all(supports(s, method) for s in getattr(space, "parts", ()))


Kind = TypeVar("Kind")


def remembered(space: Kind, n: int, make: Callable[[], Kind]) -> Kind:
    """The space of n copies, made once: predictors of one batch stay predictors of one."""
    known: dict[int, Kind] = space.__dict__.setdefault("_copies", {})
    if n not in known:
        known[n] = make()
    return known[n]


class Rows:
    """States that begin with the items' rows: those of copies lie one after the other."""

    def join(self, states: Sequence[Tensor]) -> Tensor:
        """The states of n copies of the batch as one, in the space of ``copies(n)``."""
        return torch.cat(tuple(states))

    def separate(self, x: Tensor, n: int) -> list[Tensor]:
        """The inverse of `join`."""
        return list(x.chunk(n))


@dataclass(frozen=True)
class Dense(Rows):
    """(B, \\*): every entry is free. Grids of values, latents, vectors."""

    def to(self, device: torch.device | str) -> Dense:
        return self

    def copies(self, n: int) -> Dense:
        """The space of n copies of the batch."""
        return self

    def restrict(self, x: Tensor, mask: Tensor) -> Tensor:
        """x where the mask, which broadcasts with x, is True, and 0 elsewhere."""
        return x * mask

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

    def diagonal(self, x: Tensor) -> Tensor:
        """The diagonal of the projection's matrix, shaped like x: the share of each entry in dim."""
        return torch.ones_like(x)

    def noise(self, x: Tensor, generator: Generators = None) -> Tensor:
        if generator is None or isinstance(generator, Generator):
            return randn(x.shape, x, generator)
        check_count(generator, len(x))
        return torch.stack([randn(x.shape[1:], x, g) for g in generator])
