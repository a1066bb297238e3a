r"""Gaussian diffusion over any data: noising, loss and sampling around one denoiser.

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad y = a\, x_0 + b\, \epsilon, \qquad
    L = \frac{w_t}{\dim} \lVert y - \hat y \rVert^2

The schedule gives alpha and sigma, the target a and b, the space the noise, the norm and the dimension,
the denoiser :math:`\hat y`. Nothing here knows what the data are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.losses import conditions
from anydiff.losses.errors import SquaredError
from anydiff.losses.times import Times, as_times
from anydiff.losses.weightings import Weighting, as_weighting
from anydiff.predictions import Network, Predictor, Target, as_target, takes_space
from anydiff.samplers import sample
from anydiff.schedules import Cosine, Schedule
from anydiff.spaces import DENSE, Random, Space

__all__ = ["GaussianDiffusion"]


class GaussianDiffusion(nn.Module):
    """A diffusion model: a denoiser, a schedule and what the one predicts under the other.

    Arguments:
        denoiser: Any module with ``forward(x_t, t, **cond)``, t being (B,) in [0, 1], that answers with a
            tensor shaped like x_t, or with a pair of such, the prediction and a learned variance. If
            its forward has a parameter ``space``, it is given the batch's space.
        schedule: t -> (alpha, sigma).
        prediction: What the denoiser's output is: ``"eps"``, ``"x0"``, ``"v"``, ``"score"``,
            ``"velocity"`` or ``"karras"``, the network of Karras et al.; or a
            :class:`~anydiff.predictions.Target`.
        weighting: How much a level counts: a :class:`~anydiff.losses.Weighting`, which means the same
            whatever is predicted, as ``MinSNR()``; or a function of the log-SNR, (B,) -> (B,), that
            multiplies the error of the denoiser's own output. None counts that error as it is.
        times: Where training looks: a density, :class:`~anydiff.losses.Times`, as ``LogNormal()``; or
            a rising map of [0, 1] onto itself that turns uniform draws into times, (B,) -> (B,), as
            ``lambda u: u**1.5``, which looks more at little noise. None is uniform.
        error: What an item's loss is made of: the squared error, or :class:`~anydiff.losses.Hybrid`,
            which trains a learned variance too.
        drop: The share of items that go without a condition in training, each condition by itself: one
            share for all, or one for each by name, as ``{"label": 0.1}``. It is what classifier-free
            guidance needs; see :mod:`anydiff.losses.conditions` for what the denoiser sees.
        augment: Noise on conditions in training, by name: up to which time, as ``{"coarse": 0.5}``.
            The denoiser is told the time as ``coarse_t``.

    Raises:
        ValueError: If the prediction does not determine x0 where the schedule ends, or if a share
            lies outside [0, 1].

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020). https://arxiv.org/abs/2006.11239
        Variational Diffusion Models (Kingma et al., 2021). https://arxiv.org/abs/2107.00630
    """

    def __init__(
        self,
        denoiser: nn.Module,
        schedule: Schedule = Cosine(),
        prediction: str | Target = "eps",
        weighting: Weighting | Callable[[Tensor], Tensor] | None = None,
        times: Times | Callable[[Tensor], Tensor] | None = None,
        error: SquaredError = SquaredError(),
        drop: float | Mapping[str, float] | None = None,
        augment: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = schedule
        self.target = as_target(prediction, schedule)
        self.weighting = as_weighting(weighting)
        self.times = as_times(times)
        self.error = error
        self.drop = conditions.shares(drop, "drop")
        self.augment = dict(conditions.shares(augment, "augment") or {})
        self._takes_space = takes_space(denoiser)

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
        """The weighted squared error of each item, divided by the item's dimension, (B,).

        Arguments:
            x0: Data; the part outside the space is dropped.
            t: Times in [0, 1], (B,). Drawn from the density `times` if None.
            space: The batch's space.
            noise: The eps to use, in the space. Drawn if None.
            generator: Where noise and times come from; one per item needs `t` too.
            cond: Conditions, passed on to the denoiser; in training mode some are dropped, or get
                noise, as `drop` and `augment` say.

        Raises:
            ValueError: If there is one generator per item and no t, or if the denoiser's output has
                another shape than x0.
        """
        drawn = t is None
        if t is None:
            if not (generator is None or isinstance(generator, torch.Generator)):
                raise ValueError(
                    "one generator per item draws noise alone; give the times t as well."
                )
            t = self.times.draw(space.items(x0), self.schedule, like=x0, generator=generator)

        x0 = space.project(x0)
        eps = space.noise(x0, generator) if noise is None else noise
        if self.training:
            # first, so that no condition that is there goes without its time
            cond = conditions.drop(cond, self.drop, x0, space, generator)
            cond = conditions.augment(cond, self.augment, self.schedule, x0, space, generator)
        at = self.schedule.at(self.error.times(t))
        alpha, sigma = (space.expand(c, x0) for c in (at.alpha, at.sigma))
        p = self.predictor(space, **cond).predict(alpha * x0 + sigma * eps, at)

        squares = space.sum((p.a * x0 + p.b * eps - p.y).square())
        error = squares / space.dim(x0).clamp(
            min=1
        )  # an item of no dimension has no error, not 0 / 0
        loss = self.weighting.weigh(error, at, self.target)
        loss = loss + self.error.term(p, x0, eps, at, space)
        return self.times.reweigh(t, loss) if drawn else loss

    def predictor(self, space: Space = DENSE, **cond: Any) -> Predictor:
        """The denoiser bound to a batch's space and conditions.

        Arguments:
            space: The batch's space.
            cond: Conditions, passed on to the denoiser by their names.

        Raises:
            ValueError: If the space has a structure and the denoiser does not take it.
        """

        def copies(n: int) -> Predictor | None:
            several = space.copies(n) if conditions.joinable(cond) else None
            if several is None:
                return None
            return self.predictor(several, **conditions.join([cond] * n))

        answer = Network(self.denoiser, self.target, space, cond, self._takes_space)
        return Predictor(answer, self.schedule, space, (self,), copies)

    def sample(
        self,
        shape: Sequence[int],
        *,
        space: Space = DENSE,
        cond: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw data: :func:`anydiff.sample` of the predictor.

        Arguments:
            shape: The shape of what is drawn, batch included: (B, \\*) or, in a ragged space, (N, F).
            space: The batch's space.
            cond: Conditions by name, passed on to the denoiser.
            options: sampler, steps, grid, seed, callback, progress, as of :func:`anydiff.sample`.

        Raises:
            ValueError: As :func:`anydiff.sample`.
        """
        return sample(self.predictor(space, **(cond or {})), shape, **options)
