r"""Vector quantisation: a latent each of whose places is one of a finite number of codes.

.. math::
    q(h) = e_k, \quad k = \operatorname{argmin}_j \lVert h - e_j \rVert, \qquad
    L_{codes} = \lVert \mathrm{sg}\, h - e_k \rVert^2, \quad
    L_{commit} = \beta_c \lVert h - \mathrm{sg}\, e_k \rVert^2

sg stops gradients; the gradient of q passes straight through to h. A diffusion learns h, not q(h), and
the decoder quantises what it draws.

References:
    Neural Discrete Representation Learning (van den Oord et al., 2017). https://arxiv.org/abs/1711.00937
    Jukebox (Dhariwal et al., 2020), section 3: codes that nothing uses are put where data are.
    https://arxiv.org/abs/2005.00341
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anydiff.autoencoders.autoencoder import Autoencoder, Posterior
from anydiff.checks import check_kind, check_range, check_whole
from anydiff.denoisers.configured import configured
from anydiff.spaces import DENSE, Space

__all__ = ["Codebook", "Quantized"]


class Codebook(nn.Module):
    """K codes, and the nearest one of each row.

    Arguments:
        size: K.
        width: The columns of a code.

    Attributes:
        codes: (K, width).
        used: (K,), how often each was the nearest since :meth:`forget`.

    Raises:
        ValueError: If a number is below 1.
    """

    used: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        check_whole("[1, inf)", size=size, width=width)
        self.codes = nn.Parameter(torch.randn(size, width))
        self.register_buffer("used", torch.zeros(size, dtype=torch.long))

    def nearest(self, h: Tensor) -> Tensor:
        """The number of the nearest code of each row, the first of several, (M,).

        Arguments:
            h: (M, width).
        """
        # the squares of h are the same for all codes
        distances = self.codes.square().sum(1) - 2 * h @ self.codes.t()
        return distances.argmin(1)

    @torch.no_grad()
    def begin(self, h: Tensor, generator: torch.Generator | None = None) -> None:
        """Place the codes at rows that are far from one another: k-means++.

        Arguments:
            h: (M, width), the rows of some batches.
            generator: The source of the choice.

        Raises:
            ValueError: There are no rows.

        References:
            k-means++: The Advantages of Careful Seeding (Arthur & Vassilvitskii, 2007).
        """
        if not len(h):
            raise ValueError("there are no rows to place codes at; give the latents of some data.")
        weights = torch.ones(len(h), dtype=torch.float64, device=h.device)
        for k in range(len(self.codes)):
            if not weights.sum() > 0:  # fewer different rows than codes
                weights = torch.ones_like(weights)
            row = torch.multinomial(weights, 1, generator=generator)
            self.codes[k] = h[row[0]].to(self.codes.dtype)
            away = (h.double() - self.codes[k].double()).square().sum(1)
            weights = away if k == 0 else torch.minimum(weights, away)

    @torch.no_grad()
    def revive(self, h: Tensor, generator: torch.Generator | None = None) -> int:
        """Put the codes that nothing has used at random rows, and forget the uses; how many there were.

        Arguments:
            h: (M, width), rows of data.
            generator: The source of the choice.
        """
        dead = (self.used == 0).nonzero()[:, 0]
        if len(dead) and len(h):
            rows = torch.randint(len(h), (len(dead),), generator=generator, device=h.device)
            self.codes[dead] = h[rows].to(self.codes.dtype)
        self.forget()
        return len(dead)

    def forget(self) -> None:
        """Count the uses from here on."""
        self.used.zero_()

    def note(self, numbers: Tensor) -> None:
        """Count uses.

        Arguments:
            numbers: Of codes, (M,), -1 for none.
        """
        counted = (numbers >= 0).to(self.used.dtype)
        self.used.index_add_(0, numbers.clamp(min=0), counted)

    @property
    def usage(self) -> float:
        """The perplexity of the codes that were used, of K: as many are used, if all are alike."""
        shares = self.used.double() / self.used.sum().clamp(min=1)
        return float(torch.special.entr(shares).sum().exp()) if self.used.any() else 0.0


@configured
class Quantized(Autoencoder):
    r"""An autoencoder without noise whose decoder sees the nearest codes of a latent.

    :meth:`extra_loss` is what its training adds to the reconstruction, which
    :class:`~anydiff.autoencoders.Autoencoding` does.

    Arguments:
        inner: An autoencoder whose latent has no noise, and no centred columns.
        codes: K, the number of codes.
        commitment: :math:`\beta_c`.
        every: Codes that were not used in so many batches of training are revived.

    Raises:
        ValueError: If `inner` has a latent with noise or centred columns, or a number is out of range.
    """

    def __init__(
        self, inner: Autoencoder, codes: int = 256, commitment: float = 0.25, every: int = 100
    ) -> None:
        super().__init__()
        check_kind(Autoencoder, "an autoencoder, such as Convolutional(3)", inner=inner)
        check_whole("[1, inf)", codes=codes, every=every)
        check_range("[0, inf)", commitment=commitment)
        if getattr(inner, "noisy", False) or inner.centered:
            raise ValueError(
                "the autoencoder has a latent with noise or centred columns, which codes have not; give "
                "one with noisy=False and without centred columns."
            )
        self.inner, self.commitment, self.every = inner, float(commitment), every
        self.axis, self.columns = inner.axis, inner.columns
        self.codebook = Codebook(codes, inner.columns)
        self.batches = 0

    def get_extra_state(self) -> int:
        """The number of batches of training, which a resumed run goes on from."""
        return self.batches

    def set_extra_state(self, state: int) -> None:
        """Set it.

        Arguments:
            state: What :meth:`get_extra_state` gave.
        """
        self.batches = int(state)

    def latent_space(self, space: Space) -> Space:
        return self.inner.latent_space(space)

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return self.inner.latent_shape(shape)

    def encode(self, x: Tensor, space: Space = DENSE) -> Posterior:
        return self.inner.encode(x, space)

    def decode(self, z: Tensor, space: Space = DENSE) -> Tensor:
        quantized, _ = self.quantize(z, self.latent_space(space))
        return self.inner.decode(quantized, space)

    def quantize(self, z: Tensor, space: Space) -> tuple[Tensor, Tensor]:
        """The nearest codes of a latent, whose gradient is that of the latent, and their numbers.

        Arguments:
            z: A latent.
            space: Its space; what lies outside it stays 0.

        Returns:
            What is shaped like z; and the number of each place, (M,), -1 outside the space.
        """
        rows, valid = self._rows(z, space)
        numbers = self.codebook.nearest(rows.detach())
        nearest = self._back(self.codebook.codes[numbers] * valid[:, None], z)
        return z + (nearest - z).detach(), numbers.masked_fill(~valid, -1)

    def extra_loss(self, z: Tensor, space: Space) -> Tensor:
        """The terms of the codes and of the commitment to them, (B,).

        In training the codes are placed by the first batch, their uses are counted, and those that
        nothing used in the last batches are revived.

        Arguments:
            z: A latent, with a gradient.
            space: Its space.
        """
        rows, valid = self._rows(z, space)
        fixed = rows.detach()
        if self.training:
            if self.batches == 0:
                self.codebook.begin(fixed[valid])
            elif self.batches % self.every == 0:
                self.codebook.revive(fixed[valid])
            self.batches += 1
        numbers = self.codebook.nearest(fixed)
        if self.training:
            self.codebook.note(numbers.masked_fill(~valid, -1))
        codes = self.codebook.codes[numbers]
        errors = (fixed - codes).square() + self.commitment * (rows - codes.detach()).square()
        return space.sum(self._back(errors * valid[:, None], z))

    def _rows(self, z: Tensor, space: Space) -> tuple[Tensor, Tensor]:
        """The latent as rows of its columns, (M, columns), and which of them are in the space, (M,)."""
        rows = z.movedim(self.axis, -1).reshape(-1, self.columns)
        inside = space.project(torch.ones_like(z)).movedim(self.axis, -1)
        return rows, inside.reshape(-1, self.columns)[:, 0] > 0

    def _back(self, rows: Tensor, like: Tensor) -> Tensor:
        """Rows as a latent."""
        shape = like.movedim(self.axis, -1).shape
        return rows.view(shape).movedim(-1, self.axis)
