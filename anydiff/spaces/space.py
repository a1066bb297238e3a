r"""The interface of a space: where the data and the noise live.

A space is an orthogonal projection P, together with which entries belong to which item of the batch.
Masking padded positions and subtracting each item's centre are such projections. Standard normal noise,
projected, is standard normal in the subspace, and the subspace's dimension is the trace of P. When data,
noise and the denoiser's output lie in the space, every linear update of a sampler stays in it, so the
rest of the library needs only the five abstract methods below.

A space is built from a batch and holds its structure (a mask, an index), never its values. It is frozen;
``space.to(device)`` gives a copy on another device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import NoReturn, Self, TypeVar

import torch
from torch import Tensor

from anydiff.checks import check_kind, check_whole, real, shown
from anydiff.spaces.draws import Random

__all__ = ["Coefficient", "Space", "check_space"]

Coefficient = TypeVar("Coefficient", Tensor, float)


class Space(ABC):
    """The base class of spaces: five methods to implement, and others that have a default.

    B is the number of items in the batch. Editing needs `restrict`; densities and learned variances need
    `diagonal`. Without `copied`, several samples of one item are computed one after the other.
    """

    @abstractmethod
    def expand(self, c: Coefficient, x: Tensor) -> Coefficient:
        """One value per item, (B,), or a scalar, reshaped to broadcast with x.

        Arguments:
            c: (B,), or a scalar.
            x: A state.
        """

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The orthogonal projection of x onto the space, shaped like x."""

    @abstractmethod
    def sum(self, x: Tensor) -> Tensor:
        """The sum of each item's valid entries, (B,)."""

    @abstractmethod
    def dim(self, x: Tensor) -> Tensor:
        """The dimension of each item, the trace of its projection, (B,)."""

    @abstractmethod
    def noise(self, x: Tensor, generator: Random = None) -> Tensor:
        """Standard normal noise in the space, shaped like x.

        Arguments:
            x: Gives the shape, dtype and device.
            generator: One generator for the batch, or a sequence with one for each item, in which
                case an item's noise does not depend on the batch it is in.
        """

    def items(self, x: Tensor) -> int:
        """The number of items B; by default the length of x."""
        return len(x)

    @property
    def free(self) -> bool:
        """Whether the projection keeps or zeroes each entry and mixes none; False if unknown."""
        return False

    def mean(self, x: Tensor) -> Tensor:
        """What a loss makes of an item's entries: their sum divided by the item's dimension, (B,).

        It is 0 for an item of dimension 0.

        Arguments:
            x: Shaped like a state.
        """
        return self.sum(x) / self.dim(x).clamp(min=1)

    def diagonal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The diagonal of the projection's matrix, shaped like x: each entry's contribution to `dim`.

        Arguments:
            x: Gives the shape, dtype and device.
            mask: Booleans shaped like x: the diagonal is that of :meth:`restrict` with this mask.

        Raises:
            NotImplementedError: If the space does not define it.
        """
        self._lacks("diagonal(x)", "gives the diagonal of the projection's matrix, shaped like x")

    def restrict(self, x: Tensor, mask: Tensor) -> Tensor:
        """The orthogonal projection of x onto the states of the space that are zero outside a mask.

        Arguments:
            x: A state.
            mask: Booleans that broadcast with x.

        Raises:
            NotImplementedError: If the space does not define it.
        """
        self._lacks("restrict(x, mask)", "projects onto the states that are zero outside the mask")

    def copies(self, n: int) -> Self | None:
        """The space of n copies of the batch, the same object each time; None if it is not known.

        Arguments:
            n: The number of copies.

        Raises:
            ValueError: If it is no count.
        """
        # cached: predictors are combined only if they share one space object
        known: dict[int, Self | None] = self.__dict__.setdefault("_copies", {})
        if n not in known:
            check_whole("[1, inf)", n=n)
            known.setdefault(n, self.copied(n))  # the first of two threads wins
        return known[n]

    def copied(self, n: int) -> Self | None:
        """Build the space of n copies of the batch; the default is None, for a space that cannot."""
        return None

    def join(self, states: Sequence[Tensor]) -> Tensor:
        """Concatenate the states of n copies of the batch into one state of ``copies(n)``."""
        return torch.cat(tuple(states))

    def separate(self, x: Tensor, n: int) -> list[Tensor]:
        """The inverse of `join`: n states.

        Arguments:
            x: A state of ``copies(n)``.
            n: The number of copies.
        """
        return list(x.chunk(n))

    def to(self, device: torch.device | str) -> Self:
        """The space with its tensors, the fields of the dataclass, moved to a device."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}  # type: ignore[arg-type]
        moved = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)  # type: ignore[type-var]

    def _lacks(self, method: str, what: str) -> NoReturn:
        raise NotImplementedError(f"{type(self).__name__} has no method `{method}`: it {what}.")


def check_space(**spaces: Space) -> None:
    """Raise an error unless all arguments are spaces, or have their methods.

    Arguments:
        spaces: The spaces, by the names of the arguments.

    Raises:
        ValueError: If one is something else, such as a class that was not called.
    """
    for name, space in spaces.items():
        if isinstance(space, type) or not hasattr(space, "project"):
            check_kind(Space, "a space, such as Dense() or Masked(mask)", **{name: space})


def by_row(c: Coefficient, x: Tensor) -> Coefficient:
    """One value per row of x, (len(x),), or a scalar, reshaped to broadcast with x.

    Arguments:
        c: (len(x),), or a scalar.
        x: A tensor of rows.
    """
    return c.reshape(c.shape + (1,) * (x.ndim - 1)) if isinstance(c, Tensor) and c.ndim else c


def counts(values: Tensor | Sequence[int], name: str) -> Tensor:
    """The number of rows of each item as a tensor, (B,), checked to be at least 1.

    Arguments:
        values: The counts, (B,).
        name: What error messages call them.

    Raises:
        ValueError: If they are not a list of counts of at least 1.
    """
    hint = "a list of counts, each at least 1"
    rows = real(hint, **{name: values})
    given = torch.as_tensor(values).dtype
    if rows.ndim != 1 or (given.is_floating_point and rows.numel()) or bool((rows < 1).any()):
        raise ValueError(f"{name} are {shown(rows.tolist())}; give {hint}.")
    return rows.long()
