r"""Kernels: how a token forgets what it was.

A token is one of K states. At time t it has survived with probability :math:`\alpha_t`, the schedule's
own alpha, and with :math:`\tau = -\ln \alpha` as its clock it walks at the rates R of a Markov chain:

.. math:: Q_{t|s} = \exp(R\,(\tau_t - \tau_s)), \qquad Q_{t|s} = Q_{t|u} Q_{u|s}

A kernel applies this matrix to rows and columns at a cost of K, or K² for the ordinal one, and never
builds it. It is told :math:`\alpha_t / \alpha_s`, the share that is kept, so that nothing is infinite
where alpha is 0. Distributions are given as logarithms, so that a probability of 10^-80 is not taken for
none. States are on the last axis here.

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
    def forward(self, log_p: Tensor, kept: Tensor | float) -> Tensor:
        """The logarithm of the distribution after some time, log(p Q), shaped like log_p.

        Arguments:
            log_p: Logarithms of distributions, (..., K), which sum to 1; -inf for what cannot be.
            kept: The share that is kept in that time, in [0, 1]; it broadcasts with log_p.
        """

    @abstractmethod
    def backward(self, v: Tensor, kept: Tensor | float) -> Tensor:
        """The mean of a function of the later state, Q v, shaped like v.

        Of a one-hot row it is the probability of that state from each state before.

        Arguments:
            v: Functions of the state, (..., K); not negative.
            kept: As for :meth:`forward`.
        """

    def posterior(self, log_p: Tensor, x_t: Tensor, alpha_t: float, alpha_s: float) -> Tensor:
        r"""The logarithm of :math:`p(x_s | x_t)`, up to a number for each token, shaped like log_p.

        In masked diffusion a token that is not masked stays, however unlikely log_p has it.

        Arguments:
            log_p: That of x0, (..., K), without what x_t says of it.
            x_t: The later state, one-hot, (..., K).
            alpha_t: How likely a token has survived at t.
            alpha_s: Likewise, at s.
        """
        # a token of a state that is given was kept, though alpha is 0 there
        seen = self.backward(x_t, max(alpha_t / alpha_s, 1e-30))
        return self.forward(log_p, alpha_s).clamp(min=-1e30) + seen.log()

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

    def forward(self, log_p: Tensor, kept: Tensor | float) -> Tensor:
        kept, lost = (log_p.new_zeros(()) + v for v in (kept, 1 - kept))
        # the exponential of the bound is 0, and its gradient is a number where both terms are 0
        anew = lost.log().clamp(min=-1e4) - math.log(self.values)
        return torch.logaddexp(kept.log() + log_p, anew)

    def backward(self, v: Tensor, kept: Tensor | float) -> Tensor:
        return kept * v + (1 - kept) * v.mean(-1, keepdim=True)

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

    def forward(self, log_p: Tensor, kept: Tensor | float) -> Tensor:
        kept, lost = (log_p.new_zeros(()) + v for v in (kept, 1 - kept))
        values, mask = log_p[..., :-1], log_p[..., -1:]
        masked = lost + kept * mask.exp()
        least = torch.finfo(log_p.dtype).tiny
        return torch.cat([kept.log() + values, masked.clamp(min=least).log()], -1)

    def backward(self, v: Tensor, kept: Tensor | float) -> Tensor:
        return kept * v + (1 - kept) * v[..., -1:]

    def into(self, x: Tensor) -> Tensor:
        return x[..., -1:] * (1 - self.stationary(x))

    def stationary(self, like: Tensor) -> Tensor:
        p = like.new_zeros(self.states)
        p[-1] = 1
        return p


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

    def forward(self, log_p: Tensor, kept: Tensor | float) -> Tensor:
        # in float64: what is far away is a small difference of waves, and may round to less than nothing
        p = self.backward(log_p.double().exp(), kept)  # the matrix is symmetric
        return p.clamp(min=torch.finfo(p.dtype).eps).log().to(log_p.dtype)

    def backward(self, v: Tensor, kept: Tensor | float) -> Tensor:
        waves, powers = self._waves(v)
        return (((v @ waves) * kept**powers) @ waves.T).clamp(min=0)  # 0^0 is 1: the constant stays

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
