r"""Features of handwritten digits of 8 × 8 pixels, for :mod:`anydiff.images.evaluate`.

A small convnet that was taught to name the digit on the pictures of the shipped digits' training part
(:func:`anydiff.images.images.load_images`), and to tell what is none: noise, shuffled pixels, halves, two
digits at once. The 32 numbers before its last layer, each brought to mean 0 and variance 1 over what it
learnt from, are the features. It has never seen the test part. `scripts/train_digit_features.py` makes
it again.

This isn't Inception, and a distance measured with it compares with nothing that is published. The
file's hash belongs beside every such number: `load` refuses any other file.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from anydiff.files import PathLike
from anydiff.metrics.shipped import read, write

__all__ = ["FEATURES_HASH", "FEATURES_SIZE", "DigitFeatures"]

FEATURES_HASH = "92c9d6f069af121257dd13dda292b24171b8a7d642f55fb3a3d40d55e22de755"
FEATURES_SIZE = 8  # pixels of a side

_PATH = Path(__file__).with_name("digit_features.safetensors")
_WAY_OUT = (
    "Install anydiff again, or write the file with scripts/train_digit_features.py and the hash it "
    "prints into FEATURES_HASH."
)


class DigitFeatures(nn.Module):
    """The network: pictures in, digits out, features on the way.

    Arguments:
        features: Numbers before the last layer.
        garbage: Kinds of pictures of no digit.
    """

    classes = tuple("0123456789")
    mean: Tensor
    std: Tensor

    def __init__(self, features: int = 32, garbage: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(
                1, 32, 3, padding=1
            ),  # a norm here would make faint pictures as good as others
            nn.SiLU(),
            *_layer(32, 32),
            *_layer(32, 64, stride=2),
            *_layer(64, 64),
            nn.Flatten(),
            nn.Linear(64 * 16, features),
        )
        logits = len(self.classes) + garbage
        self.head = nn.Sequential(nn.SiLU(), nn.Dropout(0.3), nn.Linear(features, logits))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    @property
    def name(self) -> str:
        return f"digit features {FEATURES_HASH[:12]}"

    def forward(self, images: Tensor) -> Tensor:
        """Logits (M, 15) of pictures (M, 1, 8, 8) in [0, 1], ink 1: ten digits, then garbage."""
        return self.head(self.body(images))

    def features(self, pixels: Tensor, batch_size: int = 512) -> Tensor:
        """Features (M, 32) of pictures (M, 1, 8, 8) of uint8, ink 255, on the network's device."""
        return (self._apart(pixels, self.body, batch_size) - self.mean) / self.std

    def logits(self, pixels: Tensor, batch_size: int = 512) -> Tensor:
        """Logits (M, 15) of pictures as above: of the ten digits, then of kinds of garbage."""
        return self._apart(pixels, self, batch_size)

    @torch.no_grad()
    def _apart(self, pixels: Tensor, network: nn.Module, batch_size: int) -> Tensor:
        shape = (1, FEATURES_SIZE, FEATURES_SIZE)
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != shape:
            raise ValueError(
                f"the pictures are {tuple(pixels.shape)} of {pixels.dtype}, but these features are of "
                f"grey digits: give (M, 1, {FEATURES_SIZE}, {FEATURES_SIZE}) of uint8, or take "
                "PixelFeatures for pictures of other kinds."
            )
        device = self.mean.device
        parts = pixels.split(batch_size)  # of nothing, too, it makes one part
        return torch.cat([network(part.to(device).float() / 255) for part in parts])

    @classmethod
    def load(cls, path: PathLike | None = None) -> DigitFeatures:
        """The shipped network, in evaluation mode.

        Arguments:
            path: Another copy of the same file.

        Raises:
            ValueError: The file's SHA-256 isn't `FEATURES_HASH`.
        """
        weights, _ = read(_PATH if path is None else path, FEATURES_HASH, _WAY_OUT)
        features, num = len(weights["mean"]), len(weights["head.2.bias"])
        net = cls(features, num - len(cls.classes))
        net.load_state_dict(weights)
        return net.eval().requires_grad_(False)

    def save(self, path: PathLike, about: dict[str, str]) -> str:
        """Writes the weights in half precision, with notes `about` them; returns the SHA-256."""
        return write(path, self.state_dict(), about)


def _layer(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return [conv, nn.GroupNorm(8, after), nn.SiLU()]
