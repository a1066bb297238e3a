"""A network that completes: it is given the known part of each item, and predicts the rest.

Any network will do, of twice the columns: the noisy rest and the known part, which is clean at every
time, enter as one state, and beside each number stands whether it is known. So a network for images has
twice the channels, one for sequences twice the channels of a row, one for points twice the columns. What
it answers in the second half is left out.

The space says what is known, :class:`~anydiff.spaces.Rest`. In any other space nothing is, so that one
model draws whole items and completes parts of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import check_kind, check_range, check_shape, check_whole
from anydiff.denoisers.configured import configured
from anydiff.spaces import DENSE, Dense, Masked, Packed, Rest, Space
from anydiff.spaces.rest import entries

__all__ = ["Completing"]


@configured
class Completing(nn.Module):
    """A denoiser in a :class:`~anydiff.spaces.Rest`, made of one of whole items.

    .. code-block:: python

        Completing(PairNet(2 * 8 - 3))             # rows of 3 positions and 5 features, and their flags
        Completing(BiRNN(2 * channels))
        Completing(UNet(2 * 3), axis=1)            # images (B, 3, H, W)

    It trains on what :func:`anydiff.data.parts.with_parts` makes of batches, and
    :func:`anydiff.editing.complete` draws with it.

    Arguments:
        net: The network, of twice the columns of a state. Of a packed space it is one of the packed
            fields, each with twice its columns.
        axis: The axis of the columns: the last one, or 1 of images and signals (B, C, \\*).

    Raises:
        ValueError: If the network has an odd number of columns, so that no half of it are flags.
    """

    def __init__(self, net: nn.Module, axis: int = -1) -> None:
        super().__init__()
        check_kind(nn.Module, "a network of twice the columns, such as UNet(6)", net=net)
        check_whole("[-1, inf)", axis=axis)
        self.net, self.axis = net, int(axis)
        for name, more in (("channels", 0), ("features", 3), ("pairs", 0)):
            columns = getattr(net, name, None)
            if isinstance(columns, int):
                if (columns + more) % 2:
                    raise ValueError(
                        f"{type(net).__name__} has {name}={columns}; give it twice the columns of a "
                        "state, since beside each number stands whether it is known."
                    )
                setattr(self, name, (columns + more) // 2 - more)
        for name in ("classes", "context", "tokens", "image"):
            setattr(self, name, getattr(net, name, 0))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        space: Space | None = None,
        given: Tensor | None = None,
        **cond: Any,
    ) -> Any:
        """The prediction, shaped like x_t; the diffusion projects it onto the rest.

        Arguments:
            x_t: The noisy rest, or a noisy state of a space in which nothing is known.
            t: (B,), times in [0, 1].
            space: The batch's space; what `Rest` says is known.
            given: The known part, ``space.space.restrict(x0, known)``, shaped like x_t; absent where it
                is NaN, and everywhere if None: then the network is not told of it.
            cond: Conditions of the network, by name.

        Raises:
            ValueError: If `given` is not shaped like x_t, or what the network raises.
        """
        known = torch.zeros_like(x_t, dtype=torch.bool)
        if given is not None:
            check_shape(x_t.shape, "give space.restrict(x0, known)", given=given)
            absent = given.isnan()
            x_t = x_t + given.masked_fill(absent, 0).to(x_t.dtype)
            known = entries(space.known, x_t) & ~absent if isinstance(space, Rest) else known
        whole = (space.space if isinstance(space, Rest) else space) or DENSE
        wide = _wide(whole, self.axis)
        # a network for dense data alone may take none
        told = {} if isinstance(whole, Dense) else {"space": wide}
        x = _beside(x_t, known.to(x_t.dtype), whole, self.axis)
        y = self.net(x, t, **told, **cond)
        if isinstance(y, tuple):  # a learned variance
            return tuple(_half(part, wide, self.axis) for part in y)
        return _half(y, wide, self.axis)


def _wide(space: Space, axis: int) -> Space:
    """The space of states of twice the columns."""
    if isinstance(space, Masked) and space.observed is not None:
        return Masked(space.mask, torch.cat([space.observed] * 2, axis))
    if not isinstance(space, Packed):
        return space
    fields = {}
    for name, (field, shape) in space.fields.items():
        check_range("[2, inf)", **{f"the number of axes of the field {name!r}": len(shape)})
        sizes = list(shape)
        sizes[axis] *= 2
        fields[name] = _wide(field, axis), tuple(sizes)
    return Packed(fields)


def _beside(x: Tensor, flags: Tensor, space: Space, axis: int) -> Tensor:
    """x and its flags as one state of twice the columns."""
    if not isinstance(space, Packed):
        return torch.cat([x, flags], axis)
    of_flags = space.unpack(flags)
    both = {name: torch.cat([part, of_flags[name]], axis) for name, part in space.unpack(x).items()}
    return torch.cat([part.flatten() for part in both.values()])


def _half(y: Tensor, wide: Space, axis: int) -> Tensor:
    """The first half of the columns."""
    if not isinstance(wide, Packed):
        return y.chunk(2, axis)[0]
    return torch.cat([part.chunk(2, axis)[0].flatten() for part in wide.unpack(y).values()])
