r"""Features of drawings, for the distances of :mod:`anydiff.metrics.distances`.

A small convnet that was taught to name the radical of a kanji (the part under which dictionaries list
it) from a picture of 64 × 64 pixels, and to tell disturbed ones: jittered, displaced or joined strokes,
scribbles. The 64 numbers before its last layer, each brought to mean 0 and variance 1 over what it
learnt from, are the features. It has never seen a character of the shipped kanji's validation and
test parts. `scripts/train_sketch_features.py` makes it again.

This is not Inception, and a distance measured with it compares with nothing that is published. The
hash of the file, `SketchFeatures.sha256`, belongs beside every such number: `load` refuses any
other file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anydiff.files import PathLike
from anydiff.metrics.shipped import FeatureNetwork, layer

__all__ = ["SketchFeatures"]


class SketchFeatures(FeatureNetwork):
    """The network: pictures in, classes out, features on the way.

    Arguments:
        classes: The radicals, and the ways of being disturbed.
        features: Numbers before the last layer.
    """

    file = Path(__file__).with_name("sketch_features.safetensors")
    sha256 = "4076a3a2a924b83f1bb26fca59d5d448af4c1e32ff14b5a2cf77559571a19187"
    side = 64
    script = "scripts/train_sketch_features.py"

    def __init__(self, classes: Sequence[str], features: int = 64) -> None:
        body = nn.Sequential(
            *layer(1, 24, kernel=5, stride=2),
            *layer(24, 48, stride=2),
            *layer(48, 64),
            *layer(64, 80, stride=2),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(80 * 9, features),
        )
        super().__init__(body, features, len(classes))
        self.classes = classes

    def save(self, path: PathLike, about: Mapping[str, Any]) -> str:
        return super().save(path, {**about, "classes": self.classes})

    @classmethod
    def _arguments(cls, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Any]:
        return {"classes": about["classes"]}

    def _checked(self, pixels: np.ndarray | Tensor) -> Tensor:
        """Pictures (M, 64, 64) as :func:`~anydiff.sketches.pictures.rasterize` makes them."""
        pixels = torch.as_tensor(pixels)
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != (self.side, self.side):
            raise ValueError(
                f"the pictures are {tuple(pixels.shape)} of {pixels.dtype}; "
                f"give (M, {self.side}, {self.side}) of uint8, as rasterize makes them."
            )
        return pixels[:, None]
