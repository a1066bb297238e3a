r"""Gaussian diffusion over any data: noising, loss and sampling around one denoiser.

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad y = a\, x_0 + b\, \epsilon, \qquad
    L = \frac{w_t}{\dim} \lVert y - \hat y \rVert^2

The schedule gives alpha and sigma, the prediction type a and b, the space the noise, the norm and
the dimension, the denoiser :math:`\hat y`. Nothing here knows what the data are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anydiff.losses import conditions as conditioning
from anydiff.losses.times import Times, as_times
from anydiff.losses.weightings import LearnedUncertainty, Weighting, weighted
from anydiff.predictions import Network, Prediction, PredictionType, Predictor, prediction_type
from anydiff.samplers import DPMSolver, Grid, Progress, Sampler, Seed, Steps, sample
from anydiff.schedules import Cosine, Level, Schedule
from anydiff.spaces import Dense, Generators, Space, supports

if TYPE_CHECKING:
    from anydiff.losses.hybrid import Hybrid

__all__ = ["GaussianDiffusion", "Together"]


class GaussianDiffusion(nn.Module):
    """A diffusion model: a denoiser, a schedule and what the one predicts under the other.

    Arguments:
        denoiser: Any module with ``forward(x_t, t, **cond)``, t being (B,) in [0, 1]. If its forward
            has a parameter ``space``, it is given the batch's space.
        schedule: t -> (alpha, sigma).
        prediction: What the denoiser's output is: ``"eps"``, ``"x0"``, ``"v"``, ``"score"``,
            ``"velocity"`` or ``"karras"``, EDM's network; or a
            :class:`~anydiff.predictions.PredictionType`.
        weighting: How much a level counts: a :class:`~anydiff.losses.weightings.Weighting`, which means the
            same whatever is predicted, as ``MinSNR()``; or a function of the log-SNR, (B,) -> (B,), that
            multiplies the error of the denoiser's own output. None counts that error as it is.
        times: Where training looks: a density, :class:`~anydiff.losses.times.Times`, as ``LogNormal()``; or
            a rising map of [0, 1] onto itself that turns uniform draws into times, (B,) -> (B,), as
            ``lambda u: u**1.5``, which looks more at little noise. None is uniform.
        hybrid: What trains a learned variance beside the prediction, :class:`~anydiff.likelihood.Hybrid`;
            the denoiser then has twice the channels. Times are rounded up to a row of its chain.
        drop: The share of items that go without a condition in training, each condition by itself: one
            share for all, or one for each by name, as ``{"label": 0.1}``. It is what classifier-free
            guidance needs; see :mod:`anydiff.losses.conditions` for what the denoiser sees.
        augment: Noise on conditions in training, by name: up to which time, as ``{"coarse": 0.5}``.
            The denoiser is told the time as ``coarse_t``.

    Raises:
        ValueError: If the prediction says nothing of x0 where the schedule ends, or a share is none.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020). https://arxiv.org/abs/2006.11239
        Variational Diffusion Models (Kingma et al., 2021). https://arxiv.org/abs/2107.00630
    """

    def __init__(
        self,
        denoiser: nn.Module,
        schedule: Schedule = Cosine(),  # noqa: B008  (frozen)
        prediction: str | PredictionType = "eps",
        weighting: Weighting | LearnedUncertainty | Callable[[Tensor], Tensor] | None = None,
        times: Times | Callable[[Tensor], Tensor] | None = None,
        hybrid: Hybrid | None = None,
        drop: float | Mapping[str, float] | None = None,
        augment: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = schedule
        self.prediction = prediction if isinstance(prediction, str) else prediction.name
        self.weighting = weighting
        self.times = as_times(times)
        self.hybrid = hybrid
        self.drop = conditioning.shares(drop, "drop")
        conditioning.shares(augment, "augment")
        self.augment = augment
        self.predicts = prediction_type(prediction, schedule)
        self._takes_space = "space" in inspect.signature(denoiser.forward).parameters

    def denoise(
        self, x_t: Tensor, t: Tensor, space: Space, **cond: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The denoiser's output, projected onto the space, shaped like x_t, and what it says besides.

        A learned variance is the second of a tuple. An output of twice as many channels (or columns) as
        x_t is in two halves, the same.
        """
        if self._takes_space:
            cond["space"] = space
        y = self.denoiser(x_t, t, **cond)
        y, extra = y if isinstance(y, tuple) else (y, None)
        if y.shape != x_t.shape:
            axis = next((k for k in range(y.ndim) if y.shape[k] == 2 * x_t.shape[k]), None)
            if y.ndim != x_t.ndim or axis is None:
                raise ValueError(
                    f"x_t is {tuple(x_t.shape)} and the denoiser gives {tuple(y.shape)}; it has to give "
                    "the same shape, or twice the channels for a learned variance."
                )
            y, extra = y.chunk(2, axis)
        return space.project(y), extra

    def loss(
        self,
        x0: Tensor,
        t: Tensor | None = None,
        *,
        space: Space = Dense(),  # noqa: B008
        noise: Tensor | None = None,
        generator: Generators = None,
        **cond: Any,
    ) -> Tensor:
        """The weighted squared error of each item, divided by the item's dimension, (B,).

        Arguments:
            x0: Data; the part outside the space is dropped.
            t: Times in [0, 1], (B,). Drawn from the density `times` if None.
            noise: The eps to use, in the space. Drawn if None.
            generator: Where noise and times come from; one per item asks for `t` too.
            cond: Conditions, passed on to the denoiser; in training mode some are dropped, or get
                noise, as `drop` and `augment` say.
        """
        dim, drawn = space.dim(x0), t is None
        if t is None:
            if not (generator is None or isinstance(generator, torch.Generator)):
                raise ValueError(
                    "one generator per item draws the noise; give the times t as well."
                )
            t = self.times.draw(len(dim), self.schedule, like=x0, generator=generator)

        x0 = space.project(x0)
        eps = space.noise(x0, generator) if noise is None else noise
        if self.training:
            # first, so that no condition that is there goes without its time
            cond = conditioning.drop(cond, self.drop, x0, space, generator)
            cond = conditioning.augment(cond, self.augment, self.schedule, x0, space, generator)
        at = self.schedule.at(t if self.hybrid is None else self.hybrid.rows(t))
        alpha, sigma = (space.expand(c, x0) for c in (at.alpha, at.sigma))
        p = self.predictor(space, **cond).predict(alpha * x0 + sigma * eps, at)

        squares = space.sum((p.a * x0 + p.b * eps - p.y).square())
        error = squares / dim.clamp(min=1)  # an item of no dimension has no error, not 0 / 0
        loss = weighted(error, self.weighting, at, self.predicts)
        if self.hybrid is not None:
            loss = loss + self.hybrid.loss(p, x0, eps, at, space)
        return self.times.reweigh(t, loss) if drawn else loss

    def predictor(self, space: Space = Dense(), **cond: Any) -> Predictor:  # noqa: B008
        """The denoiser bound to a batch's space and conditions."""

        def copies(n: int) -> Predictor:
            return self.predictor(space.copies(n), **conditioning.join([cond] * n))  # type: ignore[attr-defined]

        return Predictor(
            Bound(self, space, cond),
            self.schedule,
            space,
            (self,),
            copies if supports(space, "copies") and conditioning.joinable(cond) else None,
        )

    @torch.no_grad()
    def sample(
        self,
        shape: Sequence[int],
        *,
        space: Space = Dense(),  # noqa: B008
        sampler: Sampler = DPMSolver(),  # noqa: B008
        steps: Steps = 50,
        grid: Grid | None = None,
        seed: Seed = None,
        progress: bool = False,
        callback: Callable[[Progress], None] | None = None,
        **cond: Any,
    ) -> Tensor:
        """Draw data.

        Arguments:
            shape: The shape of what is drawn, batch included: (B, \\*) or, in a ragged space, (N, F).
            seed: An int makes the draw repeatable; a list with one per item makes each item's draw
                independent of the batch it is in.
            steps, sampler, grid, progress, callback: See :func:`anydiff.sample`.
            cond: Conditions, passed on to the denoiser.
        """
        predictor = self.predictor(space, **cond)
        return sample(
            predictor, shape, sampler, steps,
            grid=grid, seed=seed, callback=callback, progress=progress,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bound:
    """The answer of a diffusion whose denoiser is bound to a batch's space and conditions."""

    diffusion: GaussianDiffusion
    space: Space
    cond: Mapping[str, Any]

    def __call__(self, x_t: Tensor, at: Level) -> Prediction:
        return self.network(x_t, at)

    @property
    def network(self) -> Network:
        def denoise(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
            return self.diffusion.denoise(x_t, t, self.space, **self.cond)

        return Network(denoise, self.diffusion.predicts, self.space)


class Together:
    """Several predictors of one diffusion and one space, asked in one call of the denoiser.

    It sees the batch as many times as there are predictors, each time with other conditions; one that a
    predictor lacks is absent, see :mod:`anydiff.losses.conditions`.

    Raises:
        ValueError: If they are no such predictors.
    """

    def __init__(self, *predictors: Predictor) -> None:
        answers = [getattr(p, "answer", None) for p in predictors]
        bound = [a for a in answers if isinstance(a, Bound)]
        if (
            len(bound) < len(predictors)
            or any(b.diffusion is not bound[0].diffusion for b in bound)
            or any(b.space is not bound[0].space and b.space != bound[0].space for b in bound)
            or not supports(bound[0].space, "copies")
        ):
            raise ValueError(
                "one call needs predictors of one diffusion, as `diffusion.predictor(space, ...)` gives "
                "them, in one space that knows its copies; ask them one after the other with "
                "batched=False."
            )
        space: Any = bound[0].space  # typed loosely: copies are optional
        self.single, self.num, self.space = bound[0].network, len(bound), space
        cond = conditioning.join([b.cond for b in bound])
        self.joint = Bound(bound[0].diffusion, space.copies(self.num), cond)

    def __call__(self, x_t: Tensor, at: Level) -> list[Prediction]:
        """What each of them says."""
        levels = at
        if isinstance(at.t, Tensor):
            levels = at.schedule.at(at.t.repeat(self.num))
        p = self.joint(self.space.join([x_t] * self.num), levels)
        coefficients = self.single.coefficients(x_t, at)
        ys = self.space.separate(p.y, self.num)
        extras: list[Tensor | None] = [None] * self.num
        if p.extra is not None:
            extras = self.space.separate(p.extra, self.num)
        return [Prediction(x_t, y, *coefficients, e) for y, e in zip(ys, extras, strict=True)]
