r"""What is left of a space when a part of its items is known.

The known part is a projection Q within the space (`restrict`): the entries where a mask is True, and in
centred columns the positions of the masked rows relative to one another. What is left is the space
of the projection P − Q, which is orthogonal again:

.. math:: (P - Q)^2 = P - Q = (P - Q)^T, \qquad \dim = \mathrm{tr}\, P - \mathrm{tr}\, Q

A model in this space draws the rest of an item and nothing else; its loss, its samplers, its guidance and
its likelihoods are those of the rest *given* the part, which its network is told as a condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anydiff.checks import check_kind, check_shape
from anydiff.spaces.draws import Random
from anydiff.spaces.space import Coefficient, Space, check_space

__all__ = ["Rest", "entries"]


@dataclass(frozen=True, eq=False)
class Rest(Space):
    """The states of a space whose known part is 0: what is to be drawn when that part is given.

    The whole is ``x + space.restrict(x0, known)`` for a state x of the rest. In centred columns the known
    rows of x share one position: they move as one body, so that the whole stays centred while the rest is
    drawn. An item of which all is known has dimension 0, and no loss.

    Arguments:
        space: The space of the whole items; it has to define `restrict` and `diagonal`.
        known: True where an entry is known: booleans shaped like a state, or like its first axes, as
            rows (N,) of a ragged batch. Nothing known leaves the space as it is.

    Raises:
        ValueError: If the space is none, or `known` is not boolean.
    """

    space: Space
    known: Tensor

    def __post_init__(self) -> None:
        check_space(space=self.space)
        check_kind(Tensor, "booleans, True where an entry is known", known=self.known)
        shape = [None] * self.known.ndim
        check_shape(shape, "it is True where an entry is known", torch.bool, known=self.known)

    @property
    def shape(self) -> Sequence[int]:
        """The shape of a state, of a space that knows it, as :class:`~anydiff.spaces.Packed` does."""
        shape: Sequence[int] = self.space.shape  # type: ignore[attr-defined]
        return shape

    def to(self, device: torch.device | str) -> Rest:
        return Rest(self.space.to(device), self.known.to(device))

    def items(self, x: Tensor) -> int:
        return self.space.items(x)

    @property
    def free(self) -> bool:
        return self.space.free

    def copied(self, n: int) -> Rest | None:
        space = self.space.copies(n)
        if space is None:
            return None
        # a mask for all items is one for all copies
        return Rest(
            space, self.known if len(self.known) == 1 else self.space.join([self.known] * n)
        )

    def join(self, states: Sequence[Tensor]) -> Tensor:
        return self.space.join(states)

    def separate(self, x: Tensor, n: int) -> list[Tensor]:
        return self.space.separate(x, n)

    def expand(self, c: Coefficient, x: Tensor) -> Coefficient:
        return self.space.expand(c, x)

    def _shares(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The diagonal of P − Q in float64, where it is 0, and that of Q, all shaped like x."""
        made = self.__dict__.setdefault("_made", {})
        if (key := (x.shape, x.device)) not in made:
            # new, since x may be traced, and in float64, since the two differ little where much is known
            like = torch.empty(x.shape, dtype=torch.float64, device=x.device)
            known = self.space.diagonal(like, entries(self.known, like))
            left = self.space.diagonal(like) - known
            made[key] = left, left <= 0, known
        shares: tuple[Tensor, Tensor, Tensor] = made[key]
        return shares

    def project(self, x: Tensor) -> Tensor:
        return self._left(self.space.project(x))

    def _left(self, x: Tensor) -> Tensor:
        """A state of the space without its known part, exactly 0 in entries of which nothing is left."""
        left = x - self.space.restrict(x, entries(self.known, x))
        return left.masked_fill(self._shares(x)[1], 0)

    def sum(self, x: Tensor) -> Tensor:
        return self.space.sum(x.masked_fill(self._shares(x)[1], 0))

    def dim(self, x: Tensor) -> Tensor:
        # the trace of a projection is a whole number
        return self.space.sum(self._shares(x)[0]).round().to(x.dtype)

    def mean(self, x: Tensor) -> Tensor:
        # the inner mean is linear in its entries, with whatever weights; of nothing known it is as it is
        share = 1 - self.space.mean(self._shares(x)[2])
        mean = self.space.mean(x.masked_fill(self._shares(x)[1], 0))
        left = self.dim(x) > 0
        return mean.masked_fill(~left, 0) / share.to(x.dtype).masked_fill(~left, 1)

    def diagonal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            self._lacks(
                "diagonal(x, mask)", "gives the diagonal of `restrict`, which it lacks as well"
            )
        return self._shares(x)[0].to(x.dtype)

    def noise(self, x: Tensor, generator: Random = None) -> Tensor:
        return self._left(self.space.noise(x, generator))


def entries(known: Tensor, x: Tensor) -> Tensor:
    """A mask of rows or of entries, shaped like x.

    Arguments:
        known: Booleans of the shape of x, where the length of an axis may be 1, or of its first axes.
        x: A state.

    Raises:
        ValueError: If it is no such mask.
    """
    if not isinstance(known, Tensor) or known.dtype != torch.bool:
        kind = known.dtype if isinstance(known, Tensor) else f"the type {type(known).__name__}"
        raise ValueError(f"known is of {kind}; give a tensor of booleans, True where x is kept.")
    fits = known.ndim <= x.ndim and all(
        k == n or (k == 1 and known.ndim == x.ndim)
        for k, n in zip(known.shape, x.shape, strict=False)
    )
    if not (known.ndim and fits):
        raise ValueError(
            f"known is {tuple(known.shape)} and x {tuple(x.shape)}; give it x's shape, or that of its "
            "first axes."
        )
    return known.reshape(known.shape + (1,) * (x.ndim - known.ndim)).expand_as(x)
