r"""A denoiser that is the gradient of a scalar.

.. math:: f(x, t) = x \cdot F(x, t), \qquad \nabla_x f = \text{score}

of any network F. Then f is up to a constant the log-density of x_t: it says of two states which is
likelier, and energies of several models can be added (Du et al.). It is invariant where the network is
equivariant.

References:
    Learning Energy-Based Models by Diffusion Recovery Likelihood (Gao et al., 2021).
    https://arxiv.org/abs/2012.08125
    Reduce, Reuse, Recycle: Compositional Generation with Energy-Based Diffusion Models (Du et al., 2023).
    https://arxiv.org/abs/2302.11552
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import check_kind
from anydiff.denoisers.configured import configured
from anydiff.spaces import DENSE, Dense, Space

__all__ = ["Energy"]


@configured
class Energy(nn.Module):
    r"""A denoiser that is a gradient: :math:`f(x, t) = x \cdot F(x, t)` of any network F.

    It is invariant where the network is equivariant.

    Arguments:
        network: A denoiser, with smooth activations; it takes a parameter `space`, as those of this
            library do, if its states are not Dense.

    Raises:
        ValueError: If it is no module.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        check_kind(nn.Module, "a network, such as a UNet", network=network)
        self.network = network
        for name in ("channels", "features", "classes", "context", "tokens", "image"):
            setattr(self, name, getattr(network, name, 0))

    def value(self, x: Tensor, t: Tensor, *, space: Space = DENSE, **cond: Any) -> Tensor:
        """f, (B,): larger where x is likelier.

        Arguments:
            x: A state.
            t: (B,), times.
            space: The batch's space.
            cond: Conditions of the network, by name.
        """
        told = {} if isinstance(space, Dense) else {"space": space}
        return space.sum(x * self.network(x, t, **told, **cond))

    def forward(self, x: Tensor, t: Tensor, *, space: Space = DENSE, **cond: Any) -> Tensor:
        """The gradient of f by x, in the space, shaped like x.

        With gradients enabled it can be differentiated again, if the network can.

        Arguments:
            x: A state.
            t: (B,), times.
            space: The batch's space.
            cond: Conditions of the network, by name.
        """
        learns = x.requires_grad or any(p.requires_grad for p in self.parameters())
        wanted = torch.is_grad_enabled() and learns
        with torch.inference_mode(False), torch.enable_grad():
            x, t = (v.clone() if v.is_inference() else v for v in (x, t))
            own = x if x.requires_grad else x.detach().requires_grad_()
            total = self.value(own, t, space=space, **cond).sum()
            (gradient,) = torch.autograd.grad(total, own, create_graph=wanted)
        return space.project(gradient)
