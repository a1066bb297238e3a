r"""A network whose answer is scaled by a learned factor for each column: the mixed prediction of LSGM.

.. math:: \hat v = a \odot net(x_t, t), \qquad a = \mathrm{sigmoid}(logit)

With the prediction ``"v"`` and a schedule that preserves alpha² + sigma² = 1, a = 0 is the denoiser of a
standard normal distribution, so that a model of latents begins there and learns column by column where
they are not normal. For eps it is :math:`(1 - a) \odot \sigma x_t + a \odot \hat\epsilon`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import check_kind, check_range, check_whole
from anydiff.denoisers.configured import configured
from anydiff.spaces import Dense, Space

__all__ = ["Gated"]


@configured
class Gated(nn.Module):
    """A denoiser with a gate for each column of its answer.

    Arguments:
        net: The network; it takes a parameter `space`, as those of this library do.
        columns: The number of columns.
        axis: Their axis: the last one, or 1 of images and signals (B, C, \\*).
        start: The logits at first; sigmoid(-6) is 0.0025.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Score-based Generative Modeling in Latent Space (Vahdat et al., 2021), section 3.2.
        https://arxiv.org/abs/2106.05931
    """

    def __init__(self, net: nn.Module, columns: int, axis: int = -1, start: float = -6.0) -> None:
        super().__init__()
        check_kind(nn.Module, "a network, such as UNet(4)", net=net)
        check_whole("[1, inf)", columns=columns)
        check_whole("[-1, inf)", axis=axis)
        check_range("(-inf, inf)", start=start)
        self.net, self.axis = net, int(axis)
        self.logits = nn.Parameter(torch.full((int(columns),), float(start)))
        for name in ("channels", "features", "classes", "context", "tokens", "image"):
            setattr(self, name, getattr(net, name, 0))

    def forward(self, x_t: Tensor, t: Tensor, *, space: Space | None = None, **cond: Any) -> Tensor:
        """The prediction, shaped like x_t.

        Arguments:
            x_t: The noisy state.
            t: (B,), times in [0, 1].
            space: The batch's space.
            cond: Conditions of the network, by name.
        """
        told = {} if space is None or isinstance(space, Dense) else {"space": space}
        y: Tensor = self.net(x_t, t, **told, **cond)
        shape = [1] * y.ndim
        shape[self.axis] = -1
        return y * self.logits.sigmoid().to(y.dtype).view(shape)
