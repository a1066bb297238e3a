r"""The Inception v3 network that FID is defined on, down to its 2048 features.

The classifier of 2015 as its TensorFlow graph computes it, which differs from later libraries: images
are resized to 299 × 299 without half-pixel centres, average pooling leaves out the padding, and the
last block pools by maxima. Names of weights are those of torch-fidelity's file
`weights-inception-2015-12-05-6726825d.pth`, without the last layer of 1008 classes.

References:
    Rethinking the Inception Architecture for Computer Vision (Szegedy et al., 2016).
    https://arxiv.org/abs/1512.00567
    High-fidelity performance metrics for generative models in PyTorch (Obukhov et al., 2020).
    https://github.com/toshas/torch-fidelity
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d

__all__ = ["Inception", "resize"]

Kernel = int | tuple[int, int]
Chain = list[tuple[int, Kernel]]  # channels and kernel of one convolution after another
Chains = dict[str, Chain]
_DOUBLE: Chain = [(64, 1), (96, 3), (96, 3)]


class Inception(nn.Module):
    """The network from images to features."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2, padded=False)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3)
        self.MaxPool_1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3, padded=False)
        self.MaxPool_2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = _square(192, 32)
        self.Mixed_5c = _square(256, 64)
        self.Mixed_5d = _square(288, 64)
        self.Mixed_6a = _Halving(288, {"branch3x3": [(384, 3)], "branch3x3dbl": _DOUBLE})
        self.Mixed_6b = _crossed(128)
        self.Mixed_6c = _crossed(160)
        self.Mixed_6d = _crossed(160)
        self.Mixed_6e = _crossed(192)
        sevens: Chain = [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]
        halves: Chains = {"branch3x3": [(192, 1), (320, 3)], "branch7x7x3": sevens}
        self.Mixed_7a = _Halving(768, halves)
        self.Mixed_7b = _forked(1280, maxima=False)
        self.Mixed_7c = _forked(2048, maxima=True)

    def forward(self, images: Tensor) -> Tensor:
        """Features (M, 2048).

        Arguments:
            images: (M, 3, H, W), values 0 … 255 of any type.
        """
        x = (resize(images.float(), 299) - 128) / 128
        for layer in self.children():
            x = layer(x)
        return x.mean((2, 3))


def resize(x: Tensor, size: int) -> Tensor:
    """Images (M, C, H, W) to (M, C, size, size) as by TensorFlow 1.

    Bilinear, with new pixel i at position i · H / size of the old image, so that everything moves by a
    fraction of a pixel, and without antialiasing when shrinking.

    Arguments:
        x: (M, C, H, W), floating point.
        size: Pixels of a side.
    """
    rows, columns = (_interpolation(old, size).to(x) for old in x.shape[2:])
    return rows @ x @ columns.T


def _interpolation(old: int, new: int) -> Tensor:
    at = torch.arange(new) * torch.tensor(old / new, dtype=torch.float32)
    low = at.long().clamp_max(old - 1)
    matrix = torch.zeros(new, old)
    one = torch.arange(new)
    matrix[one, low] += 1 - (at - low)
    matrix[one, (low + 1).clamp_max(old - 1)] += at - low
    return matrix


class _Convolution(nn.Module):
    def __init__(
        self, before: int, after: int, kernel: Kernel, stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if padded else 0
        self.conv = nn.Conv2d(before, after, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y.relu_()


class _Mixed(nn.Module):
    """Parallel chains of convolutions, whose outputs are concatenated.

    A convolution is named after its chain and its number in it, `branch5x5_2`, or after the chain if it
    is the only one. A chain may end in a fork of 1 × 3 and 3 × 1, the letters a and b. `branch_pool`
    begins with average or maximum pooling.
    """

    def __init__(
        self, before: int, chains: Chains, fork: tuple[str, ...] = (), maxima: bool = False
    ) -> None:
        super().__init__()
        self.maxima = maxima
        self.chains: list[list[list[str]]] = []  # names; two of a step that forks
        for name, chain in chains.items():
            channels, steps = before, []
            for k, (after, kernel) in enumerate(chain, 1):
                step = [name if len(chain) == 1 and name not in fork else f"{name}_{k}"]
                last = k == len(chain)
                self.add_module(step[0], self._convolution(channels, after, kernel, last))
                steps.append(step)
                channels = after
            if name in fork:
                step = [f"{name}_{len(chain) + 1}{letter}" for letter in "ab"]
                for part, kernel in zip(step, ((1, 3), (3, 1)), strict=True):
                    self.add_module(part, _Convolution(channels, channels, kernel))
                steps.append(step)
            self.chains.append(steps)

    def _convolution(self, before: int, after: int, kernel: Kernel, last: bool) -> _Convolution:
        return _Convolution(before, after, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._run(steps, x) for steps in self.chains], 1)

    def _run(self, steps: list[list[str]], x: Tensor) -> Tensor:
        if steps[0] == ["branch_pool"]:
            means = avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            x = max_pool2d(x, 3, 1, 1) if self.maxima else means
        for step in steps:
            x = torch.cat([self.get_submodule(name)(x) for name in step], 1)
        return x


class _Halving(_Mixed):
    """Chains whose last convolution has stride 2, and maximum pooling of the input."""

    def _convolution(self, before: int, after: int, kernel: Kernel, last: bool) -> _Convolution:
        return _Convolution(before, after, kernel, stride=2 if last else 1, padded=not last)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), max_pool2d(x, 3, 2)], 1)


def _square(before: int, pool: int) -> _Mixed:
    chains: Chains = {"branch1x1": [(64, 1)], "branch5x5": [(48, 1), (64, 5)]}
    return _Mixed(before, chains | {"branch3x3dbl": _DOUBLE, "branch_pool": [(pool, 1)]})


def _crossed(c: int) -> _Mixed:
    wide, high = (1, 7), (7, 1)
    double: Chain = [(c, 1), (c, high), (c, wide), (c, high), (192, wide)]
    chains: Chains = {"branch1x1": [(192, 1)], "branch7x7": [(c, 1), (c, wide), (192, high)]}
    return _Mixed(768, chains | {"branch7x7dbl": double, "branch_pool": [(192, 1)]})


def _forked(before: int, maxima: bool) -> _Mixed:
    chains: Chains = {"branch1x1": [(320, 1)], "branch3x3": [(384, 1)]}
    chains |= {"branch3x3dbl": [(448, 1), (384, 3)], "branch_pool": [(192, 1)]}
    return _Mixed(before, chains, ("branch3x3", "branch3x3dbl"), maxima)
