r"""A convolutional autoencoder of arrays (B, C, H, W) or (B, C, L): a latent of fewer places.

Residual blocks at falling resolutions, and the same way back; a side of the latent is that of the data,
halved once for each width after the first. It is the first stage of latent diffusion models, without
attention, and without the adversarial and perceptual terms that make their pictures sharp where a latent
has lost too much.

References:
    High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022), appendix G.
    https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anydiff.autoencoders.autoencoder import Autoencoder, Posterior, bounded
from anydiff.checks import check_choice, check_range, check_shape
from anydiff.denoisers.configured import configured
from anydiff.denoisers.unet.layers import Downsample, ResBlock, Upsample, conv
from anydiff.spaces import DENSE, Dense, Space

__all__ = ["Convolutional"]


@configured
class Convolutional(Autoencoder):
    """A latent for each patch, by convolutions.

    Arguments:
        channels: C, of the data.
        latent: Channels of the latent.
        widths: Channels at each resolution, from the full one down; each has half the side of the one
            before.
        blocks: Residual blocks at a resolution, on either way.
        noisy: Whether the posterior has a variance; without, a latent is a point.
        groups: Of the group norms.
        dims: 2, or 1.

    Raises:
        ValueError: If an argument is out of its range, or a width is no multiple of `groups`.
    """

    axis = 1

    def __init__(
        self,
        channels: int,
        latent: int = 4,
        widths: Sequence[int] = (32, 64),
        blocks: int = 1,
        noisy: bool = True,
        groups: int = 8,
        dims: Literal[1, 2] = 2,
    ) -> None:
        super().__init__()
        check_range("[1, inf)", channels=channels, latent=latent, blocks=blocks, groups=groups)
        check_range("[1, inf)", number_of_widths=len(widths))
        check_choice((1, 2), dims=dims)
        for width in widths:
            if width % groups or width < 1:
                raise ValueError(f"a width is {width}; give multiples of the {groups} groups.")
        self.channels, self.columns, self.noisy, self.dims = channels, latent, noisy, dims
        self.factor = 2 ** (len(widths) - 1)
        of: dict[str, Any] = {
            "condition": 0, "adaptive": False, "dropout": 0.0, "groups": groups, "eps": 1e-6,
            "dims": dims,
        }  # fmt: skip

        def way(path: Sequence[int], change: Any) -> list[nn.Module]:
            """Blocks along widths, and what changes the resolution between them."""
            layers: list[nn.Module] = []
            for k, width in enumerate(path):
                before = [path[max(k - 1, 0)], *[width] * (blocks - 1)]
                layers += [ResBlock(b, width, **of) for b in before]
                if k < len(path) - 1:
                    layers.append(change(width))
            return layers

        first, last = widths[0], widths[-1]
        self.encoder = nn.Sequential(
            conv(channels, first, dims),
            *way(widths, lambda width: Downsample(width, dims, centered=False)),
            nn.GroupNorm(groups, last), nn.SiLU(), conv(last, latent * (1 + noisy), dims),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            conv(latent, last, dims),
            *way(widths[::-1], lambda width: Upsample(width, dims)),
            nn.GroupNorm(groups, first), nn.SiLU(), conv(first, channels, dims),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def latent_space(self, space: Space) -> Space:
        """Dense, as that of the data.

        Arguments:
            space: Dense.

        Raises:
            ValueError: It is another one.
        """
        if not isinstance(space, Dense):
            raise ValueError(
                f"the space is {type(space).__name__}, and convolutions read every place; give dense "
                "data, or Rowwise with a network that knows the space."
            )
        return space

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        sides = shape[2:]
        if len(sides) != self.dims or any(side % self.factor for side in sides):
            raise ValueError(
                f"the data are {tuple(shape)}; give (B, {self.channels}{', *' * self.dims}) whose sides "
                f"are multiples of {self.factor}, as it has {self.factor.bit_length()} widths."
            )
        return (shape[0], self.columns, *(side // self.factor for side in sides))

    def encode(self, x: Tensor, space: Space = DENSE) -> Posterior:
        hint = f"the autoencoder has {self.channels} channels and dims={self.dims}"
        check_shape((None, self.channels, *[None] * self.dims), hint, x=x)
        self.latent_shape(x.shape)
        inner, y = self.latent_space(space), self._run(self.encoder, x)
        if not self.noisy:
            return Posterior(y, None, inner)
        mean, raw = y.chunk(2, dim=1)
        return Posterior(mean, bounded(raw), inner)

    def decode(self, z: Tensor, space: Space = DENSE) -> Tensor:
        hint = f"latents have {self.columns} channels"
        check_shape((None, self.columns, *[None] * self.dims), hint, z=z)
        self.latent_space(space)
        return self._run(self.decoder, z)

    def _run(self, net: nn.Sequential, x: Tensor) -> Tensor:
        x = x if self.dims == 2 else x[:, :, None]
        y: Tensor = net(x.contiguous(memory_format=torch.channels_last))
        return y.contiguous() if self.dims == 2 else y[:, :, 0].contiguous()
