r"""Features of drawings, for the distances of :mod:`anydiff.metrics.distances`.

A small convnet that was taught to name the radical of a kanji (the part under which dictionaries list
it) from a picture of 64 × 64 pixels, and to tell disturbed ones: jittered, displaced or joined strokes,
scribbles. The 64 numbers before its last layer, each brought to mean 0 and variance 1 over what it
learnt from, are the features. It has never seen a character of the shipped kanji's validation and
test parts. `scripts/train_sketch_features.py` makes it again.

This isn't Inception, and a distance measured with it compares with nothing that is published. The
file's hash belongs beside every such number: `load` refuses any other file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anydiff.files import PathLike
from anydiff.metrics.shipped import read, write

__all__ = ["FEATURES_HASH", "FEATURES_SIZE", "SketchFeatures"]

FEATURES_HASH = "4076a3a2a924b83f1bb26fca59d5d448af4c1e32ff14b5a2cf77559571a19187"
FEATURES_SIZE = 64  # pixels of a side

_PATH = Path(__file__).with_name("sketch_features.safetensors")
_WAY_OUT = (
    "Install anydiff again, or write the file with scripts/train_sketch_features.py and the hash it "
    "prints into FEATURES_HASH."
)


class SketchFeatures(nn.Module):
    """The network: pictures in, classes out, features on the way.

    Arguments:
        classes: The radicals, and the ways of being disturbed.
        features: Numbers before the last layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classes: list[str], features: int = 64) -> None:
        super().__init__()
        self.classes = classes
        self.body = nn.Sequential(
            *_layer(1, 24, kernel=5, stride=2),
            *_layer(24, 48, stride=2),
            *_layer(48, 64),
            *_layer(64, 80, stride=2),
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Linear(80 * 9, features),
        )
        self.head = nn.Sequential(nn.SiLU(), nn.Dropout(0.3), nn.Linear(features, len(classes)))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (M, classes) of pictures (M, 1, 64, 64) in [0, 1], ink 1."""
        return self.head(self.body(images))

    @torch.no_grad()
    def features(self, images: np.ndarray | Tensor, batch_size: int = 256) -> Tensor:
        """Features (M, 64) of pictures (M, 64, 64) of uint8 as `rasterize` makes them, ink 255."""
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or images.shape[1:] != (FEATURES_SIZE, FEATURES_SIZE):
            raise ValueError(
                f"the pictures are {tuple(images.shape)} of {images.dtype}; "
                f"give (M, {FEATURES_SIZE}, {FEATURES_SIZE}) of uint8, as rasterize makes them."
            )
        device = self.mean.device
        rows = [
            self.body(part.to(device)[:, None].float() / 255) for part in images.split(batch_size)
        ]
        return (torch.cat(rows) - self.mean) / self.std if rows else self.mean.new_empty(0, 64)

    @classmethod
    def load(cls, path: PathLike | None = None) -> SketchFeatures:
        """The shipped network, in evaluation mode.

        Arguments:
            path: Another copy of the same file.

        Raises:
            ValueError: The file's SHA-256 isn't `FEATURES_HASH`.
        """
        weights, about = read(_PATH if path is None else path, FEATURES_HASH, _WAY_OUT)
        net = cls(about["classes"])
        net.load_state_dict(weights)
        return net.eval().requires_grad_(False)

    def save(self, path: PathLike, about: dict[str, str]) -> str:
        """Writes the weights in half precision, with notes `about` them; returns the SHA-256."""
        return write(path, self.state_dict(), {**about, "classes": self.classes})


def _layer(before: int, after: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.GroupNorm(8, after), nn.SiLU()]
