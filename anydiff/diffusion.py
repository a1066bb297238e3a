r"""Gaussian diffusion for any data: noising, loss and sampling with one denoiser.

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad y = a\, x_0 + b\, \epsilon, \qquad
    L = \frac{w_t}{\dim} \lVert y - \hat y \rVert^2

The schedule defines alpha and sigma, the target a and b, the space the noise, the norm and the dimension,
the denoiser :math:`\hat y`. Nothing here depends on the kind of data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import check_floating, check_kind, check_shape
from anydiff.losses import conditions
from anydiff.losses.errors import SquaredError
from anydiff.losses.times import Times, as_times
from anydiff.losses.weightings import Weighting, as_weighting
from anydiff.precision import at_least_float32
from anydiff.predictions import (
    Network,
    Predictor,
    Target,
    as_target,
    given_times,
    modules_in,
    takes_space,
)
from anydiff.samplers import sample
from anydiff.schedules import Cosine, Schedule
from anydiff.spaces import DENSE, Random, Space, check_space
from anydiff.spaces.draws import check_generator

__all__ = ["GaussianDiffusion"]


class GaussianDiffusion(nn.Module):
    """A diffusion model: a denoiser, a schedule and a prediction target, with a training objective.

    Arguments:
        denoiser: Any module with ``forward(x_t, t, **cond)``, where t is (B,) in [0, 1], that returns a
            tensor shaped like x_t, or a pair of such tensors: the prediction and a learned variance. If
            its forward has a parameter ``space``, the batch's space is passed to it.
        schedule: t -> (alpha, sigma).
        prediction: What the denoiser predicts: ``"eps"``, ``"x0"``, ``"v"``, ``"score"``,
            ``"velocity"`` or ``"karras"``, the network of Karras et al.; or a
            :class:`~anydiff.predictions.Target`.
        weighting: The weight of a noise level in the loss: a :class:`~anydiff.losses.Weighting` such as
            ``MinSNR()``, which defines the same loss for every prediction; or a function of the log-SNR,
            (B,) -> (B,), that multiplies the error of the denoiser's output. None leaves that error
            unweighted.
        times: The distribution of training times: a :class:`~anydiff.losses.Times` such as
            ``LogNormal()``, or ``Power(1.5)``, which favours low noise; or an increasing map of [0, 1]
            onto itself, (B,) -> (B,), applied to uniform numbers. None is uniform.
        error: The loss of an item: the squared error, or :class:`~anydiff.losses.Hybrid`, which also
            trains a learned variance.
        drop: The fraction of items whose condition is left out in training, independently for each
            condition: one fraction for all, or one for each by name, as in ``{"label": 0.1}``.
            Classifier-free guidance needs this; :mod:`anydiff.losses.conditions` defines what the
            denoiser gets in place of the condition.
        augment: Noise added to conditions in training: the largest time of the noise for each, by name,
            as in ``{"coarse": 0.5}``. The denoiser gets the time as ``coarse_t``.

    Raises:
        ValueError: If the prediction does not determine x0 at the schedule's noisy end, or if a fraction
            of `drop` or a time of `augment` lies outside [0, 1].

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020). https://arxiv.org/abs/2006.11239
        Variational Diffusion Models (Kingma et al., 2021). https://arxiv.org/abs/2107.00630
    """

    def __init__(
        self,
        denoiser: Callable[..., Any],
        schedule: Schedule = Cosine(),
        prediction: str | Target = "eps",
        weighting: Weighting | Callable[[Tensor], Tensor] | None = None,
        times: Times | Callable[[Tensor], Tensor] | None = None,
        error: SquaredError = SquaredError(),
        drop: float | Mapping[str, float] | None = None,
        augment: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        check_kind(Callable, "a network, such as a UNet", denoiser=denoiser)
        check_kind(Schedule, "a schedule, such as Cosine()", schedule=schedule)
        check_kind(SquaredError, "an error, such as Hybrid()", error=error)
        self.denoiser: Any = denoiser
        if not isinstance(denoiser, nn.Module):  # their parameters belong to the model
            self.held = nn.ModuleList(modules_in(denoiser))
        self.schedule = schedule
        self.target = as_target(prediction, schedule)
        self.weighting = as_weighting(weighting)
        self.times = as_times(times)
        self.error = error
        self.drop = conditions.shares(drop, "drop")
        check_kind(Mapping | None, "times by name, as {'context': 0.5}", augment=augment)
        self.augment = dict(conditions.shares(augment, "augment") or {})
        self._takes_space = denoiser, takes_space(denoiser)

    def forward(self, x0: Tensor, *args: Any, **options: Any) -> Tensor:
        """The same as :meth:`loss`: what data parallel and compiled modules call."""
        return self.loss(x0, *args, **options)

    def loss(
        self,
        x0: Tensor,
        t: Tensor | float | None = None,
        *,
        space: Space = DENSE,
        noise: Tensor | None = None,
        generator: Random = None,
        **cond: Any,
    ) -> Tensor:
        """The weighted squared error of each item, divided by the item's dimension, (B,).

        A space may weight an item's parts: see `Packed`. The loss is computed in the dtype of x0, or in
        float32 if that has fewer bits.

        Arguments:
            x0: Data, which are projected onto the space first.
            t: Times in [0, 1], (B,), or one for all. Drawn from `times` if None.
            space: The batch's space.
            noise: The eps to use, in the space, of the shape and dtype of x0. Drawn if None.
            generator: The source of noise and times. With one generator per item, t has to be given.
            cond: Conditions, passed to the denoiser by their names. In training mode some are dropped or
                noised, as `drop` and `augment` define.

        Raises:
            ValueError: If an argument has not the stated form, if there is one generator per item and no
                t, or if the denoiser's output does not have the shape of x0.
        """
        drawn = t is None
        x0, t, eps = self.noised(x0, t, space, noise, generator)
        if self.training:
            # drop first: a condition that is kept then always gets its noise and its time
            cond = conditions.drop(cond, self.drop, x0, space, generator)
            cond = conditions.augment(cond, self.augment, self.schedule, x0, space, generator)
        at = self.schedule._at(self.error.times(t))
        alpha, sigma = (space.expand(c, x0) for c in (at.alpha, at.sigma))
        p = self.predictor(space, **cond).predict(alpha * x0 + sigma * eps, at)

        error = space.mean((p.a * x0 + p.b * eps - p.y).square())
        loss = self.weighting.weigh(error, at, self.target)
        loss = loss + self.error.term(p, x0, eps, at, space, cond)
        return self.times.reweigh(t, loss) if drawn else loss

    def noised(
        self,
        x0: Tensor,
        t: Tensor | float | None,
        space: Space,
        noise: Tensor | None,
        generator: Random,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a loss is of: the data in their space, the times and the noise, checked and drawn.

        Arguments:
            x0: As :meth:`loss` takes it.
            t: Likewise.
            space: Likewise.
            noise: Likewise.
            generator: Likewise.

        Returns:
            x0 and eps in at least float32, and t, (B,).

        Raises:
            ValueError: As :meth:`loss`.
        """
        return noised(x0, t, space, noise, generator, self.times, self.schedule)

    def predictor(self, space: Space = DENSE, **cond: Any) -> Predictor:
        """The denoiser bound to a batch's space and conditions.

        Arguments:
            space: The batch's space.
            cond: Conditions, passed to the denoiser by their names.

        Raises:
            ValueError: If the space is not Dense and the denoiser has no parameter `space`.
        """
        check_space(space=space)
        known, takes = self._takes_space
        if known is not self.denoiser:  # another one was set
            self._takes_space = self.denoiser, (takes := takes_space(self.denoiser))
        answer = Network(self.denoiser, self.target, space, cond, takes)
        copies = partial(self._copies, space, cond)
        return Predictor(answer, self.schedule, space, (self,), copies, self.times.run)

    def _copies(self, space: Space, cond: Mapping[str, Any], n: int) -> Predictor | None:
        several = space.copies(n) if conditions.joinable(cond) else None
        if several is None:
            return None
        return self.predictor(several, **conditions.join([cond] * n, space))

    def sample(
        self,
        shape: Sequence[int],
        *,
        space: Space = DENSE,
        cond: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Tensor:
        """Generate samples: :func:`anydiff.sample` with the predictor of this model.

        Arguments:
            shape: The shape of the samples, batch included: (B, \\*) or, in a ragged space, (N, F).
            space: The batch's space.
            cond: Conditions, passed to the denoiser by their names.
            options: sampler, steps, grid, seed, callback, progress: see :func:`anydiff.sample`.

        Returns:
            The samples, of the given shape.

        Raises:
            ValueError: As :func:`anydiff.sample`.
        """
        check_kind(Mapping | None, "conditions by name, as {'label': label}", cond=cond)
        return sample(self.predictor(space, **(cond or {})), shape, **options)


def noised(
    x0: Tensor,
    t: Tensor | float | None,
    space: Space,
    noise: Tensor | None,
    generator: Random,
    times: Times,
    schedule: Schedule,
) -> tuple[Tensor, Tensor, Tensor]:
    """What a loss is of: the data in their space, the times and the noise, checked and drawn.

    Arguments:
        x0: As :meth:`GaussianDiffusion.loss` takes it.
        t: Likewise.
        space: Likewise.
        noise: Likewise.
        generator: Likewise.
        times: From which t is drawn.
        schedule: That of the times.

    Returns:
        x0 and eps in at least float32, and t, (B,).

    Raises:
        ValueError: As :meth:`GaussianDiffusion.loss`.
    """
    check_space(space=space)
    check_floating(x0=x0)
    check_shape(x0.shape, "draw it with space.noise(x0)", x0.dtype, noise=noise)
    x0, t = timed(x0, t, space, generator, times, schedule)
    return x0, t, space.noise(x0, generator) if noise is None else noise.to(x0.dtype)


def timed(
    x0: Tensor,
    t: Tensor | float | None,
    space: Space,
    generator: Random,
    times: Times,
    schedule: Schedule,
) -> tuple[Tensor, Tensor]:
    """Data in their space and their times, checked and drawn.

    Arguments:
        x0: As :meth:`GaussianDiffusion.loss` takes it.
        t: Likewise.
        space: Likewise.
        generator: Likewise.
        times: From which t is drawn.
        schedule: That of the times.

    Returns:
        x0 in at least float32, and t, (B,).

    Raises:
        ValueError: As :meth:`GaussianDiffusion.loss`.
    """
    check_space(space=space)
    check_floating(x0=x0)
    check_generator(generator)
    x0 = x0.to(at_least_float32(x0))
    if t is None:
        if not (generator is None or isinstance(generator, torch.Generator)):
            raise ValueError(
                "one generator per item draws the noise only; give the times t as well."
            )
        t = times.draw(space.items(x0), schedule, like=x0, generator=generator)
    else:
        t = given_times(x0, t, space)
    return space.project(x0), t
