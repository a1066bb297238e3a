r"""Features of pictures of any kind, for :mod:`anydiff.images.evaluate`.

- `PixelFeatures`: the picture itself, made small. Needs nothing, and sees colours and layout only.
- `InceptionFeatures`: the 2048 numbers that FID and KID are defined on. The network is here, its weights
  are a file of yours.

Distances measured with the one compare with nothing measured with the other.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from tqdm import tqdm

from anydiff.files import PathLike
from anydiff.images.inception import Inception

__all__ = ["INCEPTION", "InceptionFeatures", "PixelFeatures"]

_HASH = "6726825d"  # how the SHA-256 of the weights begins, by which their file is named
_FILE = f"weights-inception-2015-12-05-{_HASH}.pth"

INCEPTION = f"Inception v3 {_HASH}"  # the only name whose Fréchet distance is FID


@dataclass(frozen=True)
class PixelFeatures:
    """The picture, averaged over areas down to `size` × `size` pixels, all channels, in [−1, 1].

    They see where which colours are: the layout, the palette, how varied both are. They don't see
    what a picture is of, nor texture or sharpness: a blurred picture is as good as the original to
    them. Of a network's features they are the stand-in where there is no network for the pictures.

    Arguments:
        size: Pixels of a side; C size² features. Take far more pictures than that.
    """

    size: int = 8

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}; give the pixels of a side, 1 or more.")

    @property
    def name(self) -> str:
        return f"pixels {self.size} × {self.size}"

    def features(self, pixels: Tensor, batch_size: int = 1024) -> Tensor:
        """Features (M, C size²) of pictures (M, C, H, W) of uint8."""
        if pixels.ndim != 4 or pixels.dtype != torch.uint8:
            raise ValueError(
                f"the pictures are {tuple(pixels.shape)} of {pixels.dtype}; give (M, C, H, W) of uint8."
            )
        small = [
            adaptive_avg_pool2d(part.float(), self.size).flatten(1)
            for part in pixels.split(batch_size)
        ]
        return torch.cat(small) / 127.5 - 1


class InceptionFeatures:
    """The features of FID and KID, and the only ones with which `table` calls the figures so.

    Pictures are brought to 299 × 299 as the original did; grey ones are taken for RGB of equal channels.
    Published values are usually those of 50,000 drawn pictures against the training set's.

    Arguments:
        path: Of `weights-inception-2015-12-05-6726825d.pth`, 91 MiB, which torch-fidelity publishes on
            https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0. Nothing in it is run.
        device: Where to compute. A processor core does some five pictures a second.
        batch_size: Pictures at once.
        progress: Show a progress bar.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is another one.
    """

    name = INCEPTION

    def __init__(
        self,
        path: PathLike,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 64,
        progress: bool = True,
    ) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such file; get {_FILE} from torch-fidelity's release v0.2.0, or measure "
                "with PixelFeatures, which need no file."
            )
        data = path.read_bytes()
        if not (found := hashlib.sha256(data).hexdigest()).startswith(_HASH):
            raise ValueError(
                f"{path}: its SHA-256 begins with {found[:8]}, not {_HASH}: it isn't {_FILE} of "
                "torch-fidelity, or not all of it, and what is measured with others isn't FID. Fetch it "
                "again."
            )
        self.network = Inception()
        try:
            weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            used = {name: value for name, value in weights.items() if not name.startswith("fc.")}
            self.network.load_state_dict(used)
        except (pickle.UnpicklingError, RuntimeError, AttributeError) as error:
            raise ValueError(f"{path}: not the weights of Inception v3: {error}") from error
        self.network.eval().requires_grad_(False).to(device)
        self.device, self.batch_size, self.progress = device, batch_size, progress

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Features (M, 2048), on the CPU, of pictures (M, C, H, W) of uint8 with 1 or 3 channels."""
        if pixels.ndim != 4 or pixels.dtype != torch.uint8 or pixels.shape[1] not in (1, 3):
            raise ValueError(
                f"the pictures are {tuple(pixels.shape)} of {pixels.dtype}; give (M, 3, H, W) or "
                "(M, 1, H, W) of uint8."
            )
        rows = torch.empty(len(pixels), 2048)
        bar = tqdm(total=len(pixels), desc=self.name, unit="picture", disable=not self.progress)
        with bar:
            for k in range(0, len(pixels), self.batch_size):
                part = pixels[k : k + self.batch_size].to(self.device).expand(-1, 3, -1, -1)
                rows[k : k + self.batch_size] = self.network(part).cpu()
                bar.update(len(part))
        return rows
