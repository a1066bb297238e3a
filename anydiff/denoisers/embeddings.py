"""Embeddings of the time t in [0, 1] of the diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from anydiff.precision import ExactBuffers

__all__ = ["FourierTime", "SinusoidalTime", "time_features"]


def time_features(t: Tensor, waves: int = 8, bumps: int = 8) -> Tensor:
    """t, sines and cosines of it, and Gaussians of log(t + 0.01), which resolve small noise.

    Arguments:
        t: (B,), times in [0, 1].
        waves: Number of frequencies.
        bumps: Number of Gaussians.

    Returns:
        (B, 1 + 2 waves + bumps).
    """
    frequencies = math.pi * torch.arange(1, waves + 1, dtype=t.dtype, device=t.device)
    centers = torch.linspace(math.log(0.01), 0, bumps, dtype=t.dtype, device=t.device)
    t = t[:, None]
    angles = t * frequencies
    near = torch.exp(-2 * (torch.log(t + 0.01) - centers) ** 2)
    return torch.cat([2 * t - 1, torch.sin(angles), torch.cos(angles), near], 1)


class FourierTime(ExactBuffers):
    r"""Random Fourier features sin, cos(2π·scale·w·t), w ~ N(0, 1) drawn once; (B,) -> (B, features).

    Arguments:
        features: An even number.
        scale: Deviation of the frequencies.

    Raises:
        ValueError: If the number of features is odd or less than 2.

    References:
        Fourier Features Let Networks Learn High Frequency Functions (Tancik et al., 2020).
        https://arxiv.org/abs/2006.10739
    """

    w: Tensor

    def __init__(self, features: int = 8, scale: float = 4.0) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise ValueError(f"features is {features}; give an even number, for sines and cosines.")
        self.scale = scale
        self.register_buffer("w", torch.randn(features // 2))

    def forward(self, t: Tensor) -> Tensor:
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        angles = 2 * math.pi * self.scale * t[:, None] * self.w
        return torch.cat([torch.sin(angles), torch.cos(angles)], 1)


class SinusoidalTime(nn.Module):
    r"""sin, cos(w k) of the step k = steps · t - 1, (B,) -> (B, features); w falls from 1 by a ratio.

    Steps are counted from 0, as the authors of such chains do, so that networks that were trained on one
    can be used unchanged. The computation is in float32 or better; half precision cannot hold k.

    Arguments:
        features: An even number.
        steps: T of the chain.
        shift: The last frequency is :math:`10^{-4 (h - 1) / (h - shift)}` with h = features / 2.

    Raises:
        ValueError: If the number of features is odd or less than 4.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), shift 1. https://arxiv.org/abs/2006.11239

        Attention Is All You Need (Vaswani et al., 2017), shift 0. https://arxiv.org/abs/1706.03762
    """

    def __init__(self, features: int, steps: int = 1000, shift: float = 1) -> None:
        super().__init__()
        if features < 4 or features % 2:
            raise ValueError(f"features is {features}; give an even number, at least 4.")
        self.waves, self.steps, self.shift = features // 2, steps, shift

    def forward(self, t: Tensor) -> Tensor:
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        h = self.waves
        powers = torch.arange(h, dtype=t.dtype, device=t.device) / (h - self.shift)
        angles = (self.steps * t - 1)[:, None] * torch.exp(-math.log(10_000) * powers)
        return torch.cat([torch.sin(angles), torch.cos(angles)], 1)
