r"""Features of handwritten digits of 8 × 8 pixels, for :mod:`anydiff.images.evaluate`.

A small convnet that was taught to name the digit on the pictures of the shipped digits' training part
(:func:`anydiff.images.named.load_images`), and to tell what is none: noise, shuffled pixels, halves, two
digits at once. The 32 numbers before its last layer, each brought to mean 0 and variance 1 over what it
learnt from, are the features. It has never seen the test part. `scripts/train_digit_features.py` makes
it again.

This is not Inception, and a distance measured with it compares with nothing that is published. The
hash of the file, `DigitFeatures.sha256`, belongs beside every such number: `load` refuses any
other file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.metrics.shipped import FeatureNetwork, layer

__all__ = ["DigitFeatures"]


class DigitFeatures(FeatureNetwork):
    """The network: pictures in, digits out, features on the way.

    Logits are of the ten digits, and then of the kinds of garbage.

    Arguments:
        features: Numbers before the last layer.
        garbage: Kinds of pictures of no digit.
    """

    file = Path(__file__).with_name("digit_features.safetensors")
    sha256 = "92c9d6f069af121257dd13dda292b24171b8a7d642f55fb3a3d40d55e22de755"
    side = 8
    script = "scripts/train_digit_features.py"
    classes = tuple("0123456789")

    def __init__(self, features: int = 32, garbage: int = 5) -> None:
        body = nn.Sequential(
            # a norm after this one would make faint pictures as good as others
            nn.Conv2d(1, 32, 3, padding=1),
            nn.SiLU(),
            *layer(32, 32),
            *layer(32, 64, stride=2),
            *layer(64, 64),
            nn.Flatten(),
            nn.Linear(64 * 16, features),
        )
        super().__init__(body, features, len(self.classes) + garbage)

    @property
    def name(self) -> str:
        """What tables call the features: it has the first digits of the file's hash."""
        return f"digit features {self.sha256[:12]}"

    @classmethod
    def _arguments(cls, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Any]:
        logits = len(weights["head.2.bias"])
        return {"features": len(weights["mean"]), "garbage": logits - len(cls.classes)}

    def _checked(self, pixels: Tensor) -> Tensor:
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != (1, self.side, self.side):
            raise ValueError(
                f"the pictures are {tuple(pixels.shape)} of {pixels.dtype}, but these features are of "
                f"grey digits: give (M, 1, {self.side}, {self.side}) of uint8, or take PixelFeatures "
                "for pictures of other kinds."
            )
        return pixels
