r"""Features of images of any kind, for :mod:`anydiff.images.evaluate`.

- `PixelFeatures`: the image at a low resolution. They need no network and reflect colours and layout
  only.
- `InceptionFeatures`: the 2048 numbers that FID and KID are defined on. The network is defined here;
  its weights are a file that the user supplies.

Distances on different features are not comparable.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from tqdm import tqdm

from anydiff.checks import check_shape, frozen
from anydiff.files import PathLike
from anydiff.images.images import as_tensor
from anydiff.images.inception import Inception

__all__ = ["INCEPTION", "InceptionFeatures", "PixelFeatures"]

_HASH = "6726825d"  # the first digits of the weights' SHA-256; the file is named after them
_FILE = f"weights-inception-2015-12-05-{_HASH}.pth"

INCEPTION = f"Inception v3 {_HASH}"  # the only name whose Fréchet distance is FID


@frozen(size="[1, inf)")
class PixelFeatures:
    """The image, averaged over areas to `size` × `size` pixels, all channels, in [−1, 1].

    They describe layout and palette, and how much both vary, but neither the content of an image nor
    its texture and sharpness: a blurred image has the same features as the original. They are a
    substitute where no network for the images is at hand.

    Arguments:
        size: Pixels of a side. There are C · size² features; use many more images than that.

    Raises:
        ValueError: `size` is less than 1.
    """

    size: int = 8

    @property
    def name(self) -> str:
        """The features' name in tables."""
        return f"pixels {self.size} × {self.size}"

    def features(self, pixels: Tensor | np.ndarray, batch_size: int = 1024) -> Tensor:
        """Features (M, C · size²).

        Arguments:
            pixels: (M, C, H, W) of uint8.
            batch_size: Images at once.

        Raises:
            ValueError: `pixels` have another shape or type.
        """
        pixels = as_tensor(pixels, "pixels")
        check_shape([None] * 4, "give images (M, C, H, W) of uint8", torch.uint8, pixels=pixels)
        parts = torch.split(pixels, batch_size)
        small = [adaptive_avg_pool2d(part.float(), self.size).flatten(1) for part in parts]
        return torch.cat(small) / 127.5 - 1


class InceptionFeatures:
    """The features of FID and KID; only with them are the figures of a table called so.

    Images are resized to 299 × 299 as by the original network; grey ones become RGB of equal channels.
    Published values usually compare 50,000 generated images with the training set.

    Arguments:
        path: Path of `weights-inception-2015-12-05-6726825d.pth`, 91 MiB, which torch-fidelity publishes
            at https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0. No code in it is executed.
        device: Where to compute. A CPU core processes about five images per second.
        batch_size: Images at once.
        progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is a different one.

    References:
        GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et al.,
        2017), FID. https://arxiv.org/abs/1706.08500
        Demystifying MMD GANs (Bińkowski et al., 2018), KID. https://arxiv.org/abs/1801.01401
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
                f"{path}: no such file; download {_FILE} from torch-fidelity's release v0.2.0, or use "
                "PixelFeatures, which need no file."
            )
        data = path.read_bytes()
        if not (found := hashlib.sha256(data).hexdigest()).startswith(_HASH):
            raise ValueError(
                f"{path}: its SHA-256 begins with {found[:8]}, not {_HASH}: it is not {_FILE} of "
                "torch-fidelity, or not complete, and distances on other features are not FID. Download "
                "it again."
            )
        self.network = Inception()
        try:
            weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            used = {name: value for name, value in weights.items() if not name.startswith("fc.")}
            self.network.load_state_dict(used)
        except Exception as error:  # a faulty file may raise anything
            raise ValueError(f"{path}: not the weights of Inception v3: {error}") from error
        self.network.eval().requires_grad_(False).to(device)
        self.device, self.batch_size, self.progress = device, batch_size, progress

    @torch.no_grad()
    def features(self, pixels: Tensor | np.ndarray) -> Tensor:
        """Features (M, 2048), on the CPU.

        Arguments:
            pixels: (M, C, H, W) of uint8, C 1 or 3.

        Raises:
            ValueError: `pixels` have another shape or type.
        """
        pixels = as_tensor(pixels, "pixels")
        if pixels.ndim != 4 or pixels.dtype != torch.uint8 or pixels.shape[1] not in (1, 3):
            raise ValueError(
                f"the images are {tuple(pixels.shape)} of {pixels.dtype}; give (M, 3, H, W) or "
                "(M, 1, H, W) of uint8."
            )
        rows = torch.empty(len(pixels), 2048)
        bar = tqdm(total=len(pixels), desc=self.name, unit="image", disable=not self.progress)
        with bar:
            for k in range(0, len(pixels), self.batch_size):
                part = pixels[k : k + self.batch_size].to(self.device).expand(-1, 3, -1, -1)
                rows[k : k + self.batch_size] = self.network(part).cpu()
                bar.update(len(part))
        return rows
