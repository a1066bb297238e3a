r"""An autoencoder of rows, made of any two denoisers: a latent for each point, element or step.

A denoiser at t = 0 is a function from rows to rows that respects whatever the denoiser respects. So an
equivariant network gives an equivariant latent, a recurrent one a latent of sequences.

.. code-block:: python

    width = Rowwise.widths(columns=8, latent=2, centered=3)         # of the two networks
    encoder, decoder = (PairNet(w - 3, hidden=64, layers=2) for w in width)
    autoencoder = Rowwise(encoder, decoder, columns=8, latent=2, centered=3)

Rows are filled up with zeros to the columns of a network; a latent is what the encoder answers in the new
columns. Centred columns, such as positions, are changed by what the networks answer and not replaced, and
their noise has one variance in each item: it would not be isotropic otherwise.

References:
    Geometric Latent Diffusion Models for 3D Molecule Generation (Xu et al., 2023), GeoLDM, whose latents
    of points these are. https://arxiv.org/abs/2305.01140
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from anydiff.autoencoders.autoencoder import Autoencoder, Posterior, bounded
from anydiff.checks import check_kind, check_shape, check_whole
from anydiff.denoisers.configured import configured
from anydiff.predictions import takes_space
from anydiff.spaces import DENSE, Dense, Masked, Ragged, Space

__all__ = ["Rowwise"]


@configured
class Rowwise(Autoencoder):
    """A latent for each row, by two networks of rows.

    Arguments:
        encoder: A denoiser of rows with the first of :meth:`widths` columns.
        decoder: One with the second.
        columns: The columns of the data.
        latent: The columns of a latent, beside the centred ones.
        centered: How many of the first columns are centred.
        noisy: Whether the posterior has a variance; without, a latent is a point.

    Raises:
        ValueError: If a number is out of range, or a network has other columns.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        columns: int,
        latent: int,
        centered: int = 0,
        noisy: bool = True,
    ) -> None:
        super().__init__()
        check_kind(
            nn.Module, "a network of rows, such as BiRNN(4)", encoder=encoder, decoder=decoder
        )
        check_whole("[0, inf)", centered=centered)
        check_whole(f"[{max(centered, 1)}, inf)", columns=columns)
        check_whole(f"[{0 if centered else 1}, inf)", latent=latent)
        self.encoder, self.decoder, self.data_columns = encoder, decoder, columns
        self.latent, self.centered, self.noisy = latent, centered, noisy
        self.columns = centered + latent
        wanted = self.widths(columns, latent, centered, noisy)
        for name, net, width in zip(
            ("encoder", "decoder"), (encoder, decoder), wanted, strict=True
        ):
            if (own := _columns(net)) not in (None, width):
                raise ValueError(
                    f"the {name}, {type(net).__name__}, takes rows of {own} columns, and {width} are "
                    "needed; see Rowwise.widths."
                )

    @staticmethod
    def widths(columns: int, latent: int, centered: int = 0, noisy: bool = True) -> tuple[int, int]:
        """The columns that the encoder and the decoder have to have.

        Arguments:
            columns: Of the data.
            latent: Of a latent, beside the centred ones.
            centered: How many are centred.
            noisy: Whether the posterior has a variance.
        """
        encoder = columns + latent + (latent + (centered > 0) if noisy else 0)
        return encoder, max(columns, centered + latent)

    def latent_space(self, space: Space) -> Space:
        """That of the data, in which all values are observed.

        Arguments:
            space: Dense, Masked or Ragged.

        Raises:
            ValueError: It is another one, or centres other columns.
        """
        if isinstance(space, Ragged) and space.centered == self.centered:
            return space
        if isinstance(space, Dense | Masked) and not self.centered:
            return space if isinstance(space, Dense) else _whole(space)
        raise ValueError(
            f"the space is {type(space).__name__} with {getattr(space, 'centered', 0)} centred columns; "
            f"give rows with {self.centered}: Ragged, or Dense or Masked where none is."
        )

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (*shape[:-1], self.columns)

    def encode(self, x: Tensor, space: Space = DENSE) -> Posterior:
        check_shape((*x.shape[:-1], self.data_columns), "the autoencoder has these columns", x=x)
        inner, c, k = self.latent_space(space), self.centered, self.latent
        out = self._run(0, x, space)
        # where a value of the data is not observed, the network may answer nothing
        change, new = out[..., :c], out[..., self.data_columns :]
        mean = inner.project(torch.cat([x[..., :c] + change, new[..., :k]], -1))
        if not self.noisy:
            return Posterior(mean, None, inner)
        log_variance = new[..., k : 2 * k]
        if isinstance(inner, Ragged) and c:
            flat = Ragged(inner.index, inner.num_items)
            of_item = flat.mean(new[..., 2 * k :])
            log_variance = torch.cat([flat.expand(of_item, x).expand(-1, c), log_variance], -1)
        return Posterior(mean, bounded(log_variance), inner)

    def decode(self, z: Tensor, space: Space = DENSE) -> Tensor:
        check_shape((*z.shape[:-1], self.columns), "latents have these columns", z=z)
        out, c = self._run(1, z, self.latent_space(space)), self.centered
        y = torch.cat([z[..., :c] + out[..., :c], out[..., c : self.data_columns]], -1)
        return space.project(y)

    def _run(self, which: int, x: Tensor, space: Space) -> Tensor:
        """A network on rows that are filled up to its columns."""
        net = (self.encoder, self.decoder)[which]
        widths = self.widths(self.data_columns, self.latent, self.centered, self.noisy)
        more = widths[which] - x.shape[-1]
        told: dict[str, Any] = {}
        if not isinstance(space, Dense) and takes_space(net)(space):
            told["space"] = _wider(space, more)
        t = x.new_zeros(space.items(x))
        y: Tensor = net(pad(x, (0, more)), t, **told)
        return y


def _columns(net: nn.Module) -> int | None:
    """The columns of the rows of a network, if it says so."""
    for name, more in (("channels", 0), ("features", 3)):
        if isinstance(own := getattr(net, name, None), int):
            return own + more
    return None


def _whole(space: Masked) -> Masked:
    """The same rows, of which all values are observed, one object for each space."""
    if space.observed is None:
        return space
    known: Masked = space.__dict__.setdefault("_whole", Masked(space.mask))
    return known


def _wider(space: Space, more: int) -> Space:
    """The space of rows with more columns."""
    if not isinstance(space, Masked) or space.observed is None:
        return space
    return Masked(space.mask, pad(space.observed, (0, more), value=True))
