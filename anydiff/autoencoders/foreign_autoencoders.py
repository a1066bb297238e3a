"""Autoencoders of the library diffusers: their objects, unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.autoencoders.autoencoder import Autoencoder, Posterior
from anydiff.checks import check_kind
from anydiff.spaces import DENSE, Dense, Space

__all__ = ["FromAutoencoder"]


class FromAutoencoder(Autoencoder):
    """An `AutoencoderKL`, `VQModel` or `AutoencoderTiny` of diffusers as an autoencoder.

        latent = Latent(FromAutoencoder(pipeline.vae), GaussianDiffusion(...))

    The scale of latents that their networks were trained at stands in the configuration, and is the one
    that :class:`~anydiff.latent.Latent` begins with: pipelines of diffusers apply it, their autoencoders
    do not. Where it does not fit, as for a `VQModel` with the default of another one, fit it to data.

    Arguments:
        network: The object.

    Raises:
        ValueError: If it has no configuration, or none that says how many channels latents have.

    References:
        https://huggingface.co/docs/diffusers/api/models/autoencoderkl
    """

    axis = 1

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        check_kind(nn.Module, "an autoencoder of diffusers", network=network)
        self.network = network
        config = getattr(network, "config", None)
        known: dict[str, Any] = dict(config) if isinstance(config, Mapping) else {}
        columns = known.get("latent_channels")
        blocks = known.get("block_out_channels") or known.get("encoder_block_out_channels")
        if not isinstance(columns, int) or not blocks:
            raise ValueError(
                f"{type(network).__name__} has no configuration with latent_channels and "
                "block_out_channels; give an AutoencoderKL, VQModel or AutoencoderTiny."
            )
        self.columns, self.channels = columns, known.get("in_channels", 3)
        self.factor = 2 ** (len(blocks) - 1)
        shift: Any = known.get("shift_factor") or 0.0
        scale: Any = known.get("scaling_factor") or 1.0
        if known.get("latents_std") is not None:  # a number for each channel
            shift, std = known.get("latents_mean") or 0.0, known["latents_std"]
            scale = 1 / torch.as_tensor(std, dtype=torch.float32)
        self.published = tuple(
            torch.as_tensor(v, dtype=torch.float32).expand(columns).clone() for v in (shift, scale)
        )

    def latent_space(self, space: Space) -> Space:
        if not isinstance(space, Dense):
            raise ValueError(f"the space is {type(space).__name__}; give arrays, which are dense.")
        return space

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        sides = shape[2:]
        if len(shape) != 4 or any(side % self.factor for side in sides):
            raise ValueError(
                f"the data are {tuple(shape)}; give arrays (B, C, H, W) whose sides are multiples of "
                f"{self.factor}."
            )
        return (shape[0], self.columns, *(side // self.factor for side in sides))

    def encode(self, x: Tensor, space: Space = DENSE) -> Posterior:
        self.latent_shape(x.shape)
        network: Any = self.network
        coded, inner = network.encode(x), self.latent_space(space)
        q = getattr(coded, "latent_dist", None)
        if q is None:
            return Posterior(coded.latents, None, inner)
        return Posterior(q.mean, q.logvar, inner)

    def decode(self, z: Tensor, space: Space = DENSE) -> Tensor:
        self.latent_space(space)
        network: Any = self.network
        y: Tensor = network.decode(z).sample
        return y
