r"""Features of sketches, for the distances of :mod:`anydiff.metrics.distances`.

A small convnet that was trained to classify pictures of 64 × 64 pixels: by the radical of a kanji (the
part under which dictionaries list it), or by how a kanji is disturbed (jittered, displaced or joined
strokes, scribbles). The 64 numbers before its last layer, each with mean 0 and variance 1 over the
training pictures, are the features. It was not trained on any character of the validation and test
parts of the shipped kanji. `scripts/train_sketch_features.py` trains it.

This is not Inception, and distances measured with it are not comparable with published ones. State the
hash of the file, `SketchFeatures.sha256`, with every such number; `load` refuses any other file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anydiff.checks import check_shape
from anydiff.files import PathLike
from anydiff.metrics.shipped import FeatureNetwork, layer

__all__ = ["SketchFeatures"]


class SketchFeatures(FeatureNetwork):
    """The network, of pictures (M, 64, 64) as :func:`~anydiff.sketches.pictures.rasterize` makes.

    Arguments:
        classes: The radicals, and the kinds of disturbance.
        features: How many features.
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
        pixels = torch.as_tensor(pixels)
        hint = "give pictures as rasterize makes them"
        check_shape((None, self.side, self.side), hint, torch.uint8, pixels=pixels)
        return pixels[:, None]
