r"""Learning the variance of the reverse steps beside their means.

.. math:: L_{hybrid} = L_{simple} + weight \cdot T \cdot L_{t-1}

where :math:`L_{t-1}` is the item's term of the variational bound, with the gradient kept from the mean:
the mean learns from the one, the variance from the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from anydiff.likelihood.chain import Chain
from anydiff.likelihood.decoders import ContinuousGaussian, Decoder
from anydiff.predictions import Prediction
from anydiff.schedules import Level
from anydiff.spaces import Space

__all__ = ["Hybrid"]


@dataclass(frozen=True)
class Hybrid:
    r"""The term that trains a learned variance; give it to :class:`~anydiff.GaussianDiffusion`.

    The denoiser has twice the channels: the second half says where its log-variance lies between the
    smallest and the largest, see :func:`~anydiff.samplers.variances.reverse_log_variance`. The bound's
    term is in bits per dimension, as in the published code.

    Arguments:
        steps: T. Training times are rounded up to a row of the chain, k / T.
        weight: The weight of the whole bound.
        decoder: The likelihood in the first step; :class:`DiscretizedGaussian` for data on a grid of
            levels.

    References:
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), section 3.1.
        https://arxiv.org/abs/2102.09672
    """

    steps: int = 1000
    weight: float = 0.001
    decoder: Decoder = ContinuousGaussian()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.weight > 0:
            raise ValueError(
                f"steps is {self.steps} and weight {self.weight}; give at least 1 and above 0."
            )

    def rows(self, t: Tensor) -> Tensor:
        """The times rounded up to a row of the chain, in (0, 1], shaped like t."""
        return (self._rows(t) / self.steps).to(t.dtype)

    def _rows(self, t: Tensor) -> Tensor:
        # a time that is a row already, but for a rounding error, stays
        return torch.ceil(t.double() * self.steps - 1e-3).clamp(1, self.steps).long()

    def loss(self, p: Prediction, x0: Tensor, eps: Tensor, at: Level, space: Space) -> Tensor:
        """weight T L_{t-1}, (B,), whose gradient is the variance's alone.

        Arguments:
            p: What was predicted of alpha x0 + sigma eps.
            at: The level there, of times that are rows, (B,).
        """
        chain, k = Chain.of(at.schedule, self.steps, "learned", x0.device), self._rows(at.t)
        onto_data = chain.level(k - 1).sigma == 0
        nats = torch.where(
            onto_data,
            chain.decode(p, x0, k, self.decoder, space, stop=True),
            chain.divergence(p, x0, eps, k, space, stop=True),
        )
        bits = nats / (space.dim(x0).clamp(min=1) * math.log(2))
        return self.weight * self.steps * bits
