"""What networks on padded sequences (B, N, C) share: their interface, and their inputs checked."""

from __future__ import annotations

import torch
from torch import Tensor

from anydiff.checks import check_shape
from anydiff.denoisers.inputs import Conditioned, Conditions, check_context
from anydiff.spaces import Dense, Masked

__all__ = ["SequenceDenoiser"]


class SequenceDenoiser(Conditioned):
    """A network on the rows of padded sequences; padding does not change its output.

    Arguments:
        channels: Columns of x_t.
        observed: Whether the network is told which values are observed.
        context: Columns of the context; 0 for none.
        classes: Number of labels; 0 for none.
        tokens: Width of the tokens; 0 for none.
    """

    def __init__(
        self, channels: int, observed: bool, context: int, classes: int, tokens: int
    ) -> None:
        super().__init__(context, classes, tokens)
        self.channels, self.observed = channels, observed

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        space: Masked | Dense | None = None,
        label: Tensor | None = None,
        context: Tensor | None = None,
        tokens: Tensor | None = None,
        tokens_mask: Tensor | None = None,
    ) -> Tensor:
        """The prediction, shaped like x_t; zero outside the space.

        Leaving a condition out marks it absent for every item.

        Arguments:
            x_t: (B, N, C). The valid rows of an item are its first ones.
            t: (B,), times in [0, 1].
            space: The batch's space; all rows of all items are valid if it is None or `Dense`.
            label: (B,) integers in [0, classes), -1 for no label.
            context: (B, context) or (B, N, context), NaN where unknown.
            tokens: (B, L, tokens); a row with a NaN is ignored.
            tokens_mask: (B, L), True where a token is valid; all are if None.

        Raises:
            ValueError: If the space is of another kind, or the inputs do not fit each other or the
                network.
        """
        check_shape((None, None, self.channels), "the network has these channels", x_t=x_t)
        B, N, _ = x_t.shape
        check_shape((B,), "give a time for each item", t=t)
        check_context(context, self.context, (B,), (B, N))
        if space is None or isinstance(space, Dense):
            space = Masked(torch.ones(B, N, dtype=torch.bool, device=x_t.device))
        if not isinstance(space, Masked):
            raise ValueError(
                f"the space is {type(space).__name__}, and {type(self).__name__} takes padded "
                "sequences; give Masked, or Dense where no row is padding."
            )
        if space.leading is False:
            raise ValueError(
                "the valid rows of an item are not its first ones in this space, and the network counts "
                "rows from the first; put the padding at the end."
            )
        if space.observed is not None and not self.observed:
            raise ValueError(
                "the space has unobserved values, which would be read as 0; build with observed=True."
            )

        x_t, outside = space.project(x_t), ~space.mask[..., None]

        def spread(c: Tensor) -> Tensor:
            return (c if c.ndim == 3 else c[:, None]).expand(B, N, -1).masked_fill(outside, 0)

        cond = self._read(x_t, t, spread, label, context, tokens, tokens_mask)
        return space.project(self._predict(x_t, t.to(x_t.dtype), space, cond))

    def _seen(self, x_t: Tensor, space: Masked) -> list[Tensor]:
        """The columns that say which values were observed, (B, N, C), in a network that reads them."""
        return [space.valid.to(x_t.dtype).expand_as(x_t)] if self.observed else []

    def _attend(self, k: int, h: Tensor, cond: Conditions) -> Tensor:
        """h (B, N, hidden) after the rows have attended to the tokens of their items."""
        return h if cond.tokens is None else self.crosses[k](h, cond.tokens)
