"""Feature networks that come with the package: small classifiers of pictures, known by their hash.

A figure measured with a network is comparable only with figures measured with the same network. A
subclass of :class:`FeatureNetwork` therefore names the SHA-256 of its file; `load` refuses any other
file, and `save` returns the hash of the new one. Files are safetensors in half precision, with notes.
The same weights and notes give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from anydiff.files import PathLike, whole

__all__ = ["FeatureNetwork", "layer"]


class FeatureNetwork(nn.Module):
    """A classifier of grey pictures; the numbers before its last layer are the features.

    A subclass has the class attributes below, and says with what arguments its file was made.

    Arguments:
        body: Pictures (M, 1, side, side) in [0, 1], ink 1, to (M, features).
        features: How many features.
        logits: How many logits.
    """

    file: ClassVar[Path]  # the shipped weights
    sha256: ClassVar[str]  # of that file
    side: ClassVar[int]  # pixels
    script: ClassVar[str]  # what makes the file

    classes: Sequence[str]
    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, features: int, logits: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Sequential(nn.SiLU(), nn.Dropout(0.3), nn.Linear(features, logits))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (M, logits) of pictures (M, 1, side, side) in [0, 1], ink 1."""
        logits: Tensor = self.head(self.body(images))
        return logits

    def features(self, pixels: np.ndarray | Tensor, batch_size: int = 256) -> Tensor:
        """Features (M, features) of pictures of uint8, ink 255, on the network's device.

        Each feature has mean 0 and variance 1 over the pictures that the network was trained on.

        Arguments:
            pixels: (M, 1, side, side), if the class does not say otherwise.
            batch_size: Pictures in one call of the network.

        Raises:
            ValueError: The pictures have another shape or type.
        """
        return (self._in_batches(self.body, pixels, batch_size) - self.mean) / self.std

    def logits(self, pixels: np.ndarray | Tensor, batch_size: int = 256) -> Tensor:
        """Logits (M, logits) of pictures; arguments and errors are those of `features`."""
        return self._in_batches(self, pixels, batch_size)

    @torch.no_grad()
    def _in_batches(
        self, network: nn.Module, pixels: np.ndarray | Tensor, batch_size: int
    ) -> Tensor:
        parts = torch.split(self._checked(pixels), batch_size)  # at least one part, maybe empty
        return torch.cat([network(part.to(self.mean.device).float() / 255) for part in parts])

    def _checked(self, pixels: np.ndarray | Tensor) -> Tensor:
        """Pictures (M, 1, side, side) of uint8, or an error."""
        raise NotImplementedError

    @classmethod
    def _arguments(cls, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the class that a file was made with."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: PathLike | None = None) -> Self:
        """The shipped network, in evaluation mode and float32.

        Arguments:
            path: Another copy of the same file.

        Raises:
            ValueError: The file's SHA-256 is not that of the class.
        """
        path = cls.file if path is None else path
        data = Path(path).read_bytes()
        if (found := hashlib.sha256(data).hexdigest()) != cls.sha256:
            raise ValueError(
                f"{path}: its SHA-256 is {found[:12]}…, not {cls.sha256[:12]}…, so that figures "
                "measured with it would not be comparable with any others. Install anydiff again, or "
                f"write the file with {cls.script} and the hash it prints into {cls.__name__}.sha256."
            )
        size = int.from_bytes(data[:8], "little")  # safetensors: the length of a JSON header
        about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["about"])
        weights = {name: value.float() for name, value in load(data).items()}
        network = cls(**cls._arguments(weights, about))
        network.load_state_dict(weights)
        return network.eval().requires_grad_(False)

    def save(self, path: PathLike, about: Mapping[str, Any]) -> str:
        """Write the weights in half precision, and return the SHA-256 of the file.

        Arguments:
            path: The file, which ends in .safetensors.
            about: Notes to keep in the file, as JSON.
        """
        # one entry: safetensors writes several in any order, and the hash is of all bytes
        notes = json.dumps(about, ensure_ascii=False)
        half = {name: value.half().contiguous() for name, value in self.state_dict().items()}
        data = save(half, {"about": notes})
        with whole(path, ".safetensors") as temporary:
            Path(temporary).write_bytes(data)
        return hashlib.sha256(data).hexdigest()


def layer(before: int, after: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution, a group norm and a SiLU.

    Arguments:
        before: Channels of its input.
        after: Channels of its output, a multiple of 8.
        kernel: Pixels of the kernel's side, odd.
        stride: Pixels of the input between two pixels of the output.
    """
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.GroupNorm(8, after), nn.SiLU()]
