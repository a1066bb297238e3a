r"""What all autoencoders share: a posterior, the interface, and the objective of a first stage.

.. math::
    q(z | x_0) = N(m(x_0), e^{\ell(x_0)}), \qquad
    L = \frac{-\log p(x_0 | D(z)) + \beta\, KL(q \Vert N(0, I))}{\dim}

q is a normal distribution *in the space of the latent*, which the autoencoder names for each batch:
that of centred points is centred, that of padded rows has padding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import check_kind, check_range
from anydiff.likelihood.gaussians import kl, log_normal, trace
from anydiff.precision import at_least_float32
from anydiff.spaces import DENSE, Random, Space

__all__ = ["Autoencoder", "Autoencoding", "Posterior", "bounded"]

QUICK = 10.0
"""log s² changes by this over what a parameter changes by: it has a long way to go."""
START, REACH = -6.0, 12.0
"""The log-variance of a posterior at first, and how far it can go from there."""


def bounded(raw: Tensor) -> Tensor:
    """A log-variance from a number of a network, within REACH of START.

    Arguments:
        raw: Any number.
    """
    return START + REACH * torch.tanh(raw / REACH)


@dataclass(frozen=True, eq=False)
class Posterior:
    """The distribution of the latent of each item: a normal distribution in its space.

    Arguments:
        mean: In the space.
        log_variance: Broadcasts with the mean, and is equal for entries that the space mixes; None for a
            latent without noise.
        space: That of the latent.
    """

    mean: Tensor
    log_variance: Tensor | None
    space: Space

    @property
    def mode(self) -> Tensor:
        """The most likely latent: the mean."""
        return self.mean

    def sample(self, generator: Random = None) -> Tensor:
        """A latent, shaped like the mean.

        Arguments:
            generator: One for the batch, or one for each item.
        """
        if self.log_variance is None:
            return self.mean
        return self.mean + torch.exp(self.log_variance / 2) * self.space.noise(self.mean, generator)

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) in nats, (B,), with the standard normal of the space."""
        return kl(self.mean, self.mean.new_zeros(()), self._known(), self.space)

    def entropy(self) -> Tensor:
        """The differential entropy in nats, (B,)."""
        return 0.5 * trace(self._known() + log(2 * pi) + 1, self.mean, self.space)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats, (B,).

        Arguments:
            z: In the space.
        """
        return log_normal(z - self.mean, self._known(), self.space)

    def _known(self) -> Tensor:
        if self.log_variance is None:
            raise ValueError(
                "the latent has no noise, and so no density; give an autoencoder with a log-variance."
            )
        return self.log_variance


class Autoencoder(nn.Module, ABC):
    """The base class of autoencoders.

    Attributes:
        axis: The axis of the columns of a latent: the last one of rows, 1 of arrays (B, C, ...).
        columns: Their number.
        centered: How many of the first ones are centred.
        published: The shift and the scale that networks were trained at, numbers or (columns,).
    """

    axis: int = -1
    columns: int
    centered: int = 0
    published: tuple[Any, ...] = (0.0, 1.0)

    @abstractmethod
    def encode(self, x: Tensor, space: Space = DENSE) -> Posterior:
        """The posterior of the latent of each item.

        Arguments:
            x: Data, in the space.
            space: That of the batch.
        """

    @abstractmethod
    def decode(self, z: Tensor, space: Space = DENSE) -> Tensor:
        """The data of a latent, in the space.

        Arguments:
            z: In ``latent_space(space)``.
            space: That of the data.
        """

    def latent_space(self, space: Space) -> Space:
        """The space of the latents of a batch; by default that of the data.

        Arguments:
            space: That of the data.
        """
        return space

    def extra_loss(self, z: Tensor, space: Space) -> Tensor:
        """What training adds to the loss of reconstruction, (B,); by default nothing.

        Arguments:
            z: A latent, with a gradient.
            space: Its space.
        """
        return z.new_zeros(space.items(z))

    @abstractmethod
    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of a batch's latents.

        Arguments:
            shape: That of the data.
        """


class Autoencoding(nn.Module):
    r"""The objective of a first stage: reconstruction, and how far the posterior is from the prior.

    .. math:: L = \frac{-\log N(x_0; D(z), s^2) + \beta\, KL(q \Vert N(0, I))}{\dim}

    It is what a diffusion is trained by, ``(x0, space) -> (B,)``, so that
    :class:`~anydiff.training.module.DiffusionModule` and `fit` train it. With beta = 1 it is the negative
    variational bound of log p(x0) for each dimension. s is learned, one number for all data: then the
    weight of the reconstruction is the best one for what is reached. It is 1 at first.

    Arguments:
        autoencoder: What is trained.
        beta: The weight of the KL divergence, which a latent without noise has not.
        noise: s, or None to learn it.

    Raises:
        ValueError: If `beta` is negative or `noise` not positive.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014). https://arxiv.org/abs/1312.6114
        Simple and Effective VAE Training with Calibrated Decoders (Rybkin et al., 2021), on s.
        https://arxiv.org/abs/2006.13202
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022), section 3.1.
        https://arxiv.org/abs/2112.10752
    """

    level: Tensor

    def __init__(
        self, autoencoder: Autoencoder, beta: float = 1.0, noise: float | None = None
    ) -> None:
        super().__init__()
        check_kind(Autoencoder, "an autoencoder, such as Rowwise(...)", autoencoder=autoencoder)
        check_range("[0, inf)", beta=beta)
        if noise is not None:
            check_range("(0, inf)", noise=noise)
        self.autoencoder, self.beta = autoencoder, float(beta)
        level = torch.tensor(2 * log(noise or 1.0) / QUICK)
        if noise is None:
            self.level = nn.Parameter(level)
        else:
            self.register_buffer("level", level)

    @property
    def log_noise(self) -> Tensor:
        """log s²."""
        return QUICK * self.level

    def forward(self, x0: Tensor, *args: Any, **options: Any) -> Tensor:
        """The same as :meth:`loss`: what data parallel and compiled modules call."""
        return self.loss(x0, *args, **options)

    def loss(
        self,
        x0: Tensor,
        t: Tensor | None = None,
        *,
        space: Space = DENSE,
        noise: Tensor | None = None,
        generator: Random = None,
        **cond: Any,
    ) -> Tensor:
        """The loss of each item for each of its dimensions, (B,).

        Arguments:
            x0: Data, which are projected onto the space first.
            t: Not needed; objectives take one.
            space: The batch's space.
            noise: Likewise.
            generator: The source of the posterior's noise.
            cond: Not needed; objectives take conditions.
        """
        x0 = space.project(x0.to(at_least_float32(x0)))
        posterior = self.autoencoder.encode(x0, space)
        z = posterior.sample(generator)
        loss = self.autoencoder.extra_loss(z, posterior.space)
        loss = loss - self.log_likelihood(x0, z, space)
        if self.beta and posterior.log_variance is not None:
            loss = loss + self.beta * posterior.kl()
        return loss / space.dim(x0).clamp(min=1)

    def log_likelihood(self, x0: Tensor, z: Tensor, space: Space = DENSE) -> Tensor:
        """log p(x0 | z) in nats, (B,).

        Arguments:
            x0: Data, in the space.
            z: Latents, in theirs.
            space: That of the data.
        """
        away = x0 - self.autoencoder.decode(z, space)
        return log_normal(away, self.log_noise.to(x0.dtype), space)
