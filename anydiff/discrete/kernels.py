r"""Kernels: how a token forgets what it was.

A token is one of K states. At time t it has survived with probability :math:`\alpha_t`, the schedule's
own alpha, and with :math:`\tau = -\ln \alpha` as its clock it walks at the rates R of a Markov chain:

.. math:: Q_{t|s} = \exp(R\,(\tau_t - \tau_s)), \qquad Q_{t|s} = Q_{t|u} Q_{u|s}

A kernel applies this matrix to rows and columns at a cost of K, or K² for the ordinal one, and never
builds it. It is told :math:`\alpha_t / \alpha_s`, the share that is kept, so that nothing is infinite
where alpha is 0. States are on the last axis here.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021), D3PM.
    https://arxiv.org/abs/2107.03006
    A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022).
    https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from anydiff.checks import check_whole, frozen

__all__ = ["AbsorbingKernel", "Kernel", "OrdinalKernel", "UniformKernel"]


class Kernel(ABC):
    """The base class of kernels over `values` values of the data.

    `states` is how many states there are: one more than values if one of them is of no datum.
    """

    values: int

    @property
    def states(self) -> int:
        """The number of states, K."""
        return self.values

    @abstractmethod
    def forward(self, p: Tensor, kept: Tensor | float) -> Tensor:
        """The distribution after some time, p Q, shaped like p.

        Arguments:
            p: Distributions, (..., K); not negative.
            kept: The share that is kept in that time, in [0, 1]; it broadcasts with p.
        """

    @abstractmethod
    def backward(self, v: Tensor, kept: Tensor | float) -> Tensor:
        """The mean of a function of the later state, Q v, shaped like v.

        Of a one-hot row it is the probability of that state from each state before.

        Arguments:
            v: Functions of the state, (..., K); not negative.
            kept: As for :meth:`forward`.
        """

    @abstractmethod
    def into(self, x: Tensor) -> Tensor:
        """The rates from each other state into that of x, (..., K): R x without the diagonal.

        Arguments:
            x: One-hot, (..., K); zeros of no token.
        """

    @abstractmethod
    def stationary(self, like: Tensor) -> Tensor:
        """The distribution that it ends in, (K,).

        Arguments:
            like: Gives the dtype and the device.
        """


@frozen()
class UniformKernel(Kernel):
    """A token becomes any value, itself among them.

    Arguments:
        values: How many values there are.

    Raises:
        ValueError: If there are fewer than two.
    """

    values: int

    def __post_init__(self) -> None:
        check_whole("[2, inf)", values=self.values)

    def forward(self, p: Tensor, kept: Tensor | float) -> Tensor:
        return kept * p + (1 - kept) * p.mean(-1, keepdim=True)

    def backward(self, v: Tensor, kept: Tensor | float) -> Tensor:
        return self.forward(v, kept)  # the matrix is symmetric

    def into(self, x: Tensor) -> Tensor:
        return (x.sum(-1, keepdim=True) - x) / self.values

    def stationary(self, like: Tensor) -> Tensor:
        return like.new_full((self.values,), 1 / self.values)


@frozen()
class AbsorbingKernel(Kernel):
    """A token becomes the mask, a state of its own, the last one, and stays it: masked diffusion.

    Arguments:
        values: How many values the data have, without the mask.

    Raises:
        ValueError: If there is none.

    References:
        Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024).
        https://arxiv.org/abs/2406.07524
        Simplified and Generalized Masked Diffusion for Discrete Data (Shi et al., 2024).
        https://arxiv.org/abs/2406.04329
    """

    values: int

    def __post_init__(self) -> None:
        check_whole("[1, inf)", values=self.values)

    @property
    def states(self) -> int:
        return self.values + 1

    def forward(self, p: Tensor, kept: Tensor | float) -> Tensor:
        masked = (1 - kept) * p.sum(-1, keepdim=True)
        return kept * p + masked * self.stationary(p)

    def backward(self, v: Tensor, kept: Tensor | float) -> Tensor:
        return kept * v + (1 - kept) * v[..., -1:]

    def into(self, x: Tensor) -> Tensor:
        return x[..., -1:] * (1 - self.stationary(x))

    def stationary(self, like: Tensor) -> Tensor:
        return torch.eye(self.states, dtype=like.dtype, device=like.device)[-1]


@frozen()
class OrdinalKernel(Kernel):
    r"""A token walks to a value beside its own, on a path with two ends: for grey values and counts.

    The cosines of the path are the eigenvectors. The rate is such that the slowest of them decays as
    alpha does; far finer differences are gone before, so that schedules suit it that stay near alpha = 1
    for a while, such as :class:`~anydiff.Cosine`.

    Arguments:
        values: How many values there are, in their order.

    Raises:
        ValueError: If there are fewer than two.
    """

    values: int

    def __post_init__(self) -> None:
        check_whole("[2, inf)", values=self.values)

    @property
    def rate(self) -> float:
        """How often it steps to one side while alpha falls by a factor of e."""
        return 1 / (2 * (1 - math.cos(math.pi / self.values)))

    def forward(self, p: Tensor, kept: Tensor | float) -> Tensor:
        waves, powers = self._waves(p)
        # 0^0 is 1, so that the constant stays; what is far away may round to less than nothing
        return (((p @ waves) * kept**powers) @ waves.T).clamp(min=0)

    def backward(self, v: Tensor, kept: Tensor | float) -> Tensor:
        return self.forward(v, kept)  # the matrix is symmetric

    def into(self, x: Tensor) -> Tensor:
        beside = torch.zeros_like(x)
        beside[..., 1:] += x[..., :-1]
        beside[..., :-1] += x[..., 1:]
        return self.rate * beside

    def stationary(self, like: Tensor) -> Tensor:
        return like.new_full((self.values,), 1 / self.values)

    def _waves(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The orthonormal eigenvectors (K, K), in columns, and how fast each decays."""
        K = self.values
        n = torch.arange(K, dtype=torch.float64, device=like.device)
        waves = torch.cos(math.pi * (n[:, None] + 0.5) * n / K) * math.sqrt(2 / K)
        waves[:, 0] /= math.sqrt(2)
        powers = 2 * self.rate * (1 - torch.cos(math.pi * n / K))
        return waves.to(like.dtype), powers.to(like.dtype)
