r"""The loss of an item: the squared error, alone or with a term for a learned variance.

.. math:: L_{hybrid} = L_{simple} + weight \cdot T \cdot L_{t-1}

where :math:`L_{t-1}` is the item's term of the variational bound, in which the predicted mean is
detached: the mean learns from the first term, the variance from the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import frozen
from anydiff.likelihood.chain import Chain
from anydiff.likelihood.decoders import ContinuousGaussian, Decoder
from anydiff.predictions import Prediction
from anydiff.schedules import Level
from anydiff.spaces import Space

__all__ = ["Hybrid", "SquaredError"]


@frozen()
class SquaredError:
    r"""The weighted squared error of the output, the default loss of a diffusion.

    .. math:: L = w(t)\, \lVert y - \hat y \rVert^2 / \dim
    """

    def times(self, t: Tensor) -> Tensor:
        """The times at which the loss is evaluated in place of t, shaped like t."""
        return t

    def term(
        self,
        p: Prediction,
        x0: Tensor,
        eps: Tensor,
        at: Level,
        space: Space,
        cond: Mapping[str, Any] | None = None,
    ) -> Any:
        """The term that is added to the weighted squared error of each item, (B,) or 0.

        Arguments:
            p: The prediction at x_t = alpha x0 + sigma eps.
            x0: Data, in the space.
            eps: Noise, in the space.
            at: The level of `times`, of tensors (B,).
            space: The batch's space.
            cond: The conditions of the batch, by name.
        """
        return 0.0


@frozen(steps="[1, inf)", weight="(0, inf)", decoder=Callable)  # type: ignore[arg-type]
class Hybrid(SquaredError):
    r"""The squared error plus the term of the variational bound, which trains a learned variance.

    The denoiser returns a pair: the prediction, and the position of its log-variance between the smallest
    and the largest, see :func:`~anydiff.samplers.variances.reverse_log_variance`. The term of the bound
    is in bits per dimension, as in the published code.

    Arguments:
        steps: The number of steps T of the chain. Training times are rounded up to its rows, k / T.
        weight: The weight of the whole bound.
        decoder: The likelihood of the data in the first step; use
            :class:`~anydiff.likelihood.DiscretizedGaussian` for data on a grid of levels.

    Raises:
        ValueError: If steps or weight are not positive.

    References:
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), section 3.1.
        https://arxiv.org/abs/2102.09672
    """

    steps: int = 1000
    weight: float = 0.001
    decoder: Decoder = ContinuousGaussian()

    def times(self, t: Tensor) -> Tensor:
        """t rounded up to a row of the chain, in (0, 1], shaped like t."""
        return (self._rows(t) / self.steps).to(t.dtype)

    def _rows(self, t: Tensor) -> Tensor:
        # the margin keeps a time that is a row up to rounding error
        return torch.ceil(t.double() * self.steps - 1e-3).clamp(1, self.steps).long()

    def term(
        self,
        p: Prediction,
        x0: Tensor,
        eps: Tensor,
        at: Level,
        space: Space,
        cond: Mapping[str, Any] | None = None,
    ) -> Any:
        """weight T L_{t-1}, (B,), with a gradient for the variance only."""
        chain, k = Chain.of(at.schedule, self.steps, "learned", x0.device), self._rows(at.t)
        nats = torch.where(
            chain.level(k - 1).sigma == 0,  # the step to the data
            chain.decode(p, x0, k, self.decoder, space, stop=True),
            chain.divergence(p, x0, eps, k, space, stop=True),
        )
        bits = nats / (space.dim(x0).clamp(min=1) * math.log(2))
        return self.weight * self.steps * bits
