"""Autoencoders of diffusers: their own answers, to the last bit, and the scale that pipelines apply."""

import warnings

import pytest
import torch
from torch import nn

from anydiff import Cosine, GaussianDiffusion
from anydiff.autoencoders import FromAutoencoder
from anydiff.denoisers import UNet
from anydiff.latent import Latent
from anydiff.spaces import Masked

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")

BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8), "norm_num_groups": 4,
}  # fmt: skip


def networks():
    torch.manual_seed(0)
    yield "kl", diffusers.AutoencoderKL(latent_channels=3, **BLOCKS)
    yield "vq", diffusers.VQModel(latent_channels=3, num_vq_embeddings=16, **BLOCKS)
    yield (
        "tiny",
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=3,
        ),
    )  # fmt: skip


@pytest.mark.parametrize("name, network", [*networks()], ids=["kl", "vq", "tiny"])
def test_it_answers_what_the_network_answers(name, network):
    network.eval()
    own = FromAutoencoder(network)
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        q = own.encode(x)
        coded = network.encode(x)
        if name == "kl":
            assert torch.equal(q.mean, coded.latent_dist.mean)
            assert torch.equal(q.log_variance, coded.latent_dist.logvar)
            torch.testing.assert_close(q.kl(), coded.latent_dist.kl())
        else:
            assert torch.equal(q.mean, coded.latents) and q.log_variance is None
        assert q.mean.shape == own.latent_shape(x.shape)
        latent = Latent(own, GaussianDiffusion(UNet(3, [4], groups=2), Cosine(), "v")).eval()
        factor = network.config.scaling_factor
        torch.testing.assert_close(latent.encode(x, mode=True), factor * q.mean)
        z = latent.encode(x, mode=True)
        torch.testing.assert_close(latent.decode(z), network.decode(z / factor).sample)
    assert latent.sample((2, 3, 8, 8), steps=2, seed=0).shape == x.shape


def test_shifts_and_scales_of_each_channel_are_read():
    network = diffusers.AutoencoderKL(
        latent_channels=2, latents_mean=[0.5, -1.0], latents_std=[2.0, 4.0], **BLOCKS
    )
    shift, scale = FromAutoencoder(network).published
    assert shift.tolist() == [0.5, -1.0] and scale.tolist() == [0.5, 0.25]
    network = diffusers.AutoencoderKL(
        latent_channels=2, shift_factor=0.0609, scaling_factor=1.5305, **BLOCKS
    )
    shift, scale = FromAutoencoder(network).published
    assert shift.unique().item() == pytest.approx(0.0609) and scale[0] == 1.5305


def test_what_is_no_autoencoder_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no configuration with latent_channels"):
        FromAutoencoder(nn.Linear(3, 3))
    own = FromAutoencoder(diffusers.AutoencoderKL(latent_channels=2, **BLOCKS))
    with pytest.raises(ValueError, match=r"sides are multiples of 2"):
        own.encode(torch.zeros(1, 3, 7, 8))
    with pytest.raises(ValueError, match="Masked"):
        own.latent_space(Masked.from_lengths([2]))
