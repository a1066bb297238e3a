r"""Features of handwritten digits of 8 × 8 pixels, for :mod:`anydiff.images.evaluate`.

A small convolutional network, trained on the training part of the shipped digits
(:func:`anydiff.images.named.load_images`) to recognise the digit and to reject images that show none:
noise, shuffled pixels, halves, two digits at once. The features are the 32 numbers before its last
layer, each scaled to mean 0 and variance 1 over the training images. The test part was not used.
`scripts/train_digit_features.py` trains it again.

Distances on these features are not FID and are not comparable with published ones. State the hash of
the file, `DigitFeatures.sha256`, with every such number: `load` refuses any other file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anydiff.checks import check_shape
from anydiff.metrics.shipped import FeatureNetwork, layer

__all__ = ["DigitFeatures"]


class DigitFeatures(FeatureNetwork):
    """A classifier of digits, whose penultimate layer gives the features.

    The logits are those of the ten digits, followed by those of the kinds of other images.

    Arguments:
        features: How many features.
        garbage: How many kinds of images without a digit.
    """

    file = Path(__file__).with_name("digit_features.safetensors")
    sha256 = "92c9d6f069af121257dd13dda292b24171b8a7d642f55fb3a3d40d55e22de755"
    side = 8
    script = "scripts/train_digit_features.py"
    classes = tuple("0123456789")

    def __init__(self, features: int = 32, garbage: int = 5) -> None:
        body = nn.Sequential(
            # no norm after this one: it would make faint images look like others
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
        """The features' name in tables, with the first digits of the file's hash."""
        return f"digit features {self.sha256[:12]}"

    @classmethod
    def _arguments(cls, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Any]:
        logits = len(weights["head.2.bias"])
        return {"features": len(weights["mean"]), "garbage": logits - len(cls.classes)}

    def _checked(self, pixels: np.ndarray | Tensor) -> Tensor:
        pixels = torch.as_tensor(pixels)
        hint = "these are features of grey digits; use PixelFeatures for other images"
        check_shape((None, 1, self.side, self.side), hint, torch.uint8, pixels=pixels)
        return pixels
