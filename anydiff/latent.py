r"""Latent diffusion, for any kind of data: a diffusion in the space of an autoencoder's latents.

.. math:: z' = c\,(z - b), \qquad z \sim q(z | x_0), \qquad x = D(z' / c + b)

There is no new diffusion here: :class:`~anydiff.GaussianDiffusion` draws, guides, edits and measures z'
as it does any data, in the space that the autoencoder names. b and c make z' of mean 0 and variance 1 in
each column, over all data; of centred columns b is 0 and c is one number, or they would not be centred or
not turn with the data.

Two stages are two trainings by the same trainer: of :class:`~anydiff.autoencoders.Autoencoding`, and of
the diffusion on :meth:`Latent.unpack`. Both at once is :meth:`Latent.loss`, LSGM.

References:
    High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022).
    https://arxiv.org/abs/2112.10752
    Score-based Generative Modeling in Latent Space (Vahdat et al., 2021), LSGM.
    https://arxiv.org/abs/2106.05931
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.autoencoders import Autoencoder, Autoencoding, Posterior
from anydiff.checks import check_kind, check_range
from anydiff.diffusion import GaussianDiffusion
from anydiff.likelihood import continuous_bound
from anydiff.likelihood.gaussians import trace
from anydiff.losses.times import Times
from anydiff.precision import at_least_float32
from anydiff.predictions import Predictor, Target
from anydiff.samplers import sample
from anydiff.schedules import Schedule
from anydiff.spaces import DENSE, Random, Space

__all__ = ["Latent", "Standard"]

Unpack = Callable[[Any], tuple[Tensor, Space, dict[str, Any]]]


class Standard(nn.Module):
    """The numbers b and c of each column of a latent, (columns,).

    Arguments:
        columns: How many.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))


class Latent(nn.Module):
    """An autoencoder and a diffusion of its latents.

    .. code-block:: python

        latent = Latent(autoencoder, GaussianDiffusion(PairNet(2), prediction="v"))
        latent.fit(batches, unpack)
        fit(DiffusionModule(latent.diffusion, latent.unpack(unpack)), ...)   # the second stage
        x = latent.sample((N, 8), space=space, steps=50)

    Arguments:
        autoencoder: What makes latents, and data of them.
        diffusion: A diffusion of states of the latents' shape.
        likelihood: The objective that the autoencoder was trained by, which says how likely data are
            given their latents; :meth:`loss` needs it.
        cross: The weight of the cross entropy in :meth:`loss`, kappa in the paper.

    Raises:
        ValueError: If an argument is not of its kind, `cross` is negative, or `likelihood` is that
            of another autoencoder.

    Attributes:
        shift: b, a number for each column of a latent; at first that of the autoencoder, usually 0.
        scale: c, likewise; usually 1 at first.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        diffusion: GaussianDiffusion,
        likelihood: Autoencoding | None = None,
        cross: float = 1.0,
    ) -> None:
        super().__init__()
        check_kind(Autoencoder, "an autoencoder, such as Rowwise(...)", autoencoder=autoencoder)
        check_kind(GaussianDiffusion, "a diffusion of its latents", diffusion=diffusion)
        check_kind(Autoencoding | None, "the objective of the autoencoder", likelihood=likelihood)
        check_range("[0, inf)", cross=cross)
        if likelihood is not None and likelihood.autoencoder is not autoencoder:
            raise ValueError(
                "likelihood is the objective of another autoencoder; give that of this one."
            )
        self.autoencoder, self.diffusion = autoencoder, diffusion
        self.likelihood, self.cross = likelihood, float(cross)
        self.standard = Standard(autoencoder.columns)
        for number, known in zip(self.standard.buffers(), autoencoder.published, strict=True):
            number.copy_(torch.as_tensor(known))

    @property
    def shift(self) -> Tensor:
        return self.standard.shift

    @property
    def scale(self) -> Tensor:
        return self.standard.scale

    # as a diffusion --------------------

    @property
    def denoiser(self) -> Any:
        """The network of the diffusion."""
        return self.diffusion.denoiser

    @property
    def schedule(self) -> Schedule:
        """That of the diffusion."""
        return self.diffusion.schedule

    @property
    def target(self) -> Target:
        """What its network predicts."""
        return self.diffusion.target

    @property
    def times(self) -> Times:
        """Its training times; of a distilled one those of its run."""
        return self.diffusion.times

    def predictor(self, space: Space = DENSE, **cond: Any) -> Predictor:
        """The diffusion, bound to the latents of a batch and its conditions.

        Arguments:
            space: That of the data.
            cond: Conditions, passed to the denoiser by their names.

        Raises:
            ValueError: As :meth:`GaussianDiffusion.predictor`, or if the autoencoder has no such space.
        """
        return self.diffusion.predictor(self.autoencoder.latent_space(space), **cond)

    def around(self, diffusion: GaussianDiffusion) -> Latent:
        """The same autoencoder, the same b and c, and another diffusion of its latents.

        Arguments:
            diffusion: A student of this one, for instance.
        """
        other = Latent(self.autoencoder, diffusion, self.likelihood, self.cross)
        other.standard = self.standard
        return other

    # from data to latents and back --------------------

    @torch.no_grad()
    def fit(
        self, batches: Iterable[Any], unpack: Unpack, generator: Random = None, means: bool = True
    ) -> None:
        """Set b and c from all batches, so that latents have mean 0 and variance 1.

        Every entry counts once, and padding not at all. Of centred columns the variance is for each
        dimension, which an item of n rows has n - 1 of.

        Arguments:
            batches: Batches of the training data.
            unpack: batch -> (x0, space, cond).
            generator: The source of the posterior's noise.
            means: Whether b is fitted; if not, it is 0.

        Raises:
            ValueError: There is no data, or a latent is the same for all.
        """
        columns, centered = self.autoencoder.columns, self.autoencoder.centered
        counts, sums, squares = torch.zeros(3, columns, dtype=torch.float64)
        with self._fixed():
            for batch in batches:
                x0, space, _ = unpack(batch)
                posterior = self.autoencoder.encode(space.project(x0), space)
                z = posterior.sample(generator)
                inner = posterior.space
                for total, value in (
                    (counts, inner.diagonal(z)),
                    (sums, inner.project(z)),
                    (squares, inner.project(z).square()),
                ):
                    moved = value.movedim(self.autoencoder.axis, -1).reshape(-1, columns)
                    total += moved.double().sum(0).cpu()
        for total in (counts, squares):
            total[:centered] = total[:centered].sum()
        sums[:centered] = 0
        if not means:
            sums.zero_()
        if not counts.all():
            raise ValueError("there are no data to fit the latents to; give batches of some.")
        shift = sums / counts
        variance = squares / counts - shift.square()
        if not (variance > 0).all():
            raise ValueError(
                f"column {int((variance <= 0).nonzero()[0])} of the latents is the same for all data; "
                "train the autoencoder first, or give it fewer columns."
            )
        self.shift.copy_(shift)
        self.scale.copy_(variance.rsqrt())

    def _columns(self, values: Tensor, like: Tensor) -> Tensor:
        """A number for each column, to broadcast with a latent."""
        shape = [1] * like.ndim
        shape[self.autoencoder.axis] = -1
        return values.to(like.dtype).view(shape)

    def standardized(self, z: Tensor, space: Space) -> Tensor:
        """z' of a latent z.

        Arguments:
            z: A latent of the autoencoder.
            space: Its space.
        """
        return space.project(self._columns(self.scale, z) * (z - self._columns(self.shift, z)))

    def posterior(self, x: Tensor, space: Space = DENSE) -> Posterior:
        """The distribution of z' for data.

        Arguments:
            x: Data.
            space: That of the batch.
        """
        q = self.autoencoder.encode(space.project(x), space)
        log_variance = q.log_variance
        if log_variance is not None:
            log_variance = log_variance + 2 * self._columns(self.scale, q.mean).log()
        return Posterior(self.standardized(q.mean, q.space), log_variance, q.space)

    def encode(
        self, x: Tensor, space: Space = DENSE, generator: Random = None, mode: bool = False
    ) -> Tensor:
        """z' of data, in ``autoencoder.latent_space(space)``.

        Arguments:
            x: Data.
            space: That of the batch.
            generator: The source of the posterior's noise.
            mode: Without this noise, as for editing.
        """
        q = self.posterior(x, space)
        return q.mode if mode else q.sample(generator)

    def decode(self, z: Tensor, space: Space = DENSE) -> Tensor:
        """The data of z', in the space.

        Arguments:
            z: z', as :meth:`encode` gives it.
            space: That of the data.
        """
        inner = self.autoencoder.latent_space(space)
        z = inner.project(z / self._columns(self.scale, z) + self._columns(self.shift, z))
        return self.autoencoder.decode(z, space)

    def sample(
        self,
        shape: Sequence[int],
        *,
        space: Space = DENSE,
        cond: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Tensor:
        """Generate samples: draw latents, and decode them.

        Arguments:
            shape: The shape of the samples.
            space: The batch's space.
            cond: Conditions, by name.
            options: Options of :func:`anydiff.sample`: sampler, steps, grid, seed, ...

        Returns:
            The samples, of the given shape.

        Raises:
            ValueError: As :func:`anydiff.sample`.
        """
        predictor = self.predictor(space, **(cond or {}))
        z = sample(predictor, self.autoencoder.latent_shape(shape), **options)
        with self._fixed(), torch.no_grad():
            return self.decode(z, space)

    # training --------------------

    def unpack(self, unpack: Unpack) -> Unpack:
        """An `unpack` of latents, for the training of the diffusion on a fixed autoencoder.

        Arguments:
            unpack: batch -> (x0, space, cond), of data.

        Returns:
            batch -> (z', its space, cond), where z' is drawn from the posterior anew each time.
        """

        def latents(batch: Any) -> tuple[Tensor, Space, dict[str, Any]]:
            x0, space, cond = unpack(batch)
            with self._fixed(), torch.no_grad():
                q = self.posterior(x0, space)
                return q.sample(), q.space, cond

        return latents

    @contextmanager
    def _fixed(self) -> Iterator[None]:
        """A context in which the autoencoder is in eval mode, without dropout."""
        training = self.autoencoder.training
        self.autoencoder.eval()
        try:
            yield
        finally:
            self.autoencoder.train(training)

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
        r"""The loss of each item when both are trained at once, (B,): LSGM.

        .. math:: \frac{-\log p(x_0 | z) - H(q(z | x_0)) - \kappa \log p(z)}{\dim} + L_{diffusion}(z)

        where :math:`-\log p(z)` is :func:`~anydiff.likelihood.continuous_bound`. The first term trains
        the autoencoder and not the diffusion, the second the diffusion, by whatever weighting it has, and
        not the autoencoder.

        Arguments:
            x0: Data, which are projected onto the space first.
            t: Times of the diffusion's loss, (B,); drawn if None.
            space: The batch's space.
            noise: The noise of the diffusion's loss, shaped like a latent; drawn if None.
            generator: The source of noise and times.
            cond: Conditions, passed to the diffusion.

        Raises:
            ValueError: There is no `likelihood`, or as :meth:`GaussianDiffusion.loss`.
        """
        x0 = space.project(x0.to(at_least_float32(x0)))
        q = self.posterior(x0, space)
        z = q.sample(generator)
        bound = self.bound(x0, z, q, space, generator, **cond)
        second = self.diffusion.loss(
            z.detach(), t, space=q.space, noise=noise, generator=generator, **cond
        )
        return bound / space.dim(x0).clamp(min=1) + second

    def bound(
        self,
        x0: Tensor,
        z: Tensor,
        q: Posterior,
        space: Space = DENSE,
        generator: Random = None,
        draws: int = 1,
        **cond: Any,
    ) -> Tensor:
        """An upper bound of -log p(x0) in nats, (B,), where `cross` is 1, that trains no diffusion.

        Arguments:
            x0: Data, in the space.
            z: z', drawn from q.
            q: :meth:`posterior` of x0.
            space: The batch's space.
            generator: The source of noise and times.
            draws: The number of times for each item.
            cond: Conditions, passed to the diffusion.

        Raises:
            ValueError: There is no `likelihood`.
        """
        if self.likelihood is None:
            raise ValueError(
                "it is not said how likely data are given their latents; give Latent the objective of "
                "the autoencoder, likelihood=Autoencoding(autoencoder)."
            )
        inner = q.space
        plain = inner.project(z / self._columns(self.scale, z) + self._columns(self.shift, z))
        reconstruction = -self.likelihood.log_likelihood(x0, plain, space)
        with self._held():
            predictor = self.diffusion.predictor(inner, **cond)
            cross = continuous_bound(
                predictor, z, uniform="logsnr", draws=draws, generator=generator
            ).total
        # the entropy of z' and the density of z' change by the same, what c stretches
        stretched = trace(self._columns(self.scale, z).log().expand_as(z), z, inner)
        entropy = q.entropy() - stretched
        return reconstruction - entropy + self.cross * (cross - stretched)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """A context in which nothing that is computed trains the diffusion."""
        learning = [p for p in self.diffusion.parameters() if p.requires_grad]
        for p in learning:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in learning:
                p.requires_grad_(True)
