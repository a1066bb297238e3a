r"""Recovery likelihoods: the training of an energy, a scalar whose gradient is the score.

:class:`anydiff.denoisers.Energy` makes of any denoiser a function :math:`f(x, t)` of states, up to a
constant the log-density of :math:`x_t`, and is itself a denoiser, of the target ``"score"``:

    diffusion = GaussianDiffusion(Energy(network), schedule, "score")

trains it as any other, if the network has second derivatives. :class:`RecoveryLikelihood` needs first
derivatives only. Given a noisier state, the cleaner one has the density

.. math:: p(x_s | x_t) \propto \exp\left(f(x_s, s) -
    \frac{\lVert x_t - \alpha_{ts} x_s \rVert^2}{2 \sigma_{ts}^2}\right)

which is easier to draw from by Langevin steps than :math:`e^f` is. Its likelihood rises with f at real
states and falls with f at drawn ones.

References:
    Learning Energy-Based Models by Diffusion Recovery Likelihood (Gao et al., 2021).
    https://arxiv.org/abs/2012.08125
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn

from anydiff.adversarial import transition
from anydiff.checks import check_kind, check_range, check_whole
from anydiff.diffusion import GaussianDiffusion
from anydiff.losses import Rows
from anydiff.predictions import like_of
from anydiff.samplers.loop import blank, evaluating
from anydiff.schedules import Level, Linear, Schedule
from anydiff.spaces import DENSE, Random, Seed, Space, generators

__all__ = ["RecoveryLikelihood"]


class RecoveryLikelihood(nn.Module):
    r"""An energy, trained by the likelihood of cleaner states given noisier ones.

    A step of Langevin dynamics has b times the deviation that :math:`x_s` would have given :math:`x_t` if
    it were standard normal: :math:`\delta = b / \sqrt{1 / (\alpha_s^2 + \sigma_s^2) + \alpha_{ts}^2 /
    \sigma_{ts}^2}`.

    Arguments:
        energy: A denoiser that is the gradient of its `value`, as :class:`anydiff.denoisers.Energy`.
        schedule: The schedule.
        times: From the noisiest time to 0, falling; at t = 1 hardly any data may be left.
        steps: Langevin steps for each state, in training and in sampling.
        step_size: b.

    Raises:
        ValueError: If an argument is not of its kind, or the times do not fall.
    """

    def __init__(
        self,
        energy: nn.Module,
        schedule: Schedule = Linear(),
        times: Sequence[float] = (1.0, 0.6, 0.4, 0.25, 0.15, 0.07, 0.0),
        steps: int = 30,
        step_size: float = 0.1,
    ) -> None:
        super().__init__()
        check_kind(nn.Module, "Energy(network)", energy=energy)
        if not hasattr(energy, "value"):
            raise ValueError(f"energy is a {type(energy).__name__}; give Energy(network).")
        check_kind(Schedule, "a schedule, such as Linear()", schedule=schedule)
        check_whole("[1, inf)", steps=steps)
        check_range("(0, 2]", step_size=step_size)
        self.energy: Any = energy
        self.schedule = schedule
        self.times = Rows(times).times
        self.steps, self.step_size = steps, step_size
        self._levels = schedule.levels(self.times)

    @property
    def diffusion(self) -> GaussianDiffusion:
        """The energy as a diffusion, with which it is saved, guided and drawn from by all samplers."""
        return GaussianDiffusion(self.energy, self.schedule, "score")

    def loss(
        self,
        x0: Tensor,
        t: Tensor | None = None,
        *,
        space: Space = DENSE,
        noise: Tensor | None = None,
        generator: Generator | None = None,
        **cond: Any,
    ) -> Tensor:
        """How much more likely drawn states are than real ones, by dimension, (B,).

        Its gradient is that of the negative log-likelihood; its value is not.

        Arguments:
            x0: Data.
            t: Not needed: a level is drawn for each item.
            space: The batch's space.
            noise: Not needed: several are drawn.
            generator: The source of noise and of the levels.
            cond: Conditions of the network, by name.
        """
        t_at, s_at, real, x_t = transition(x0, self._levels, space, generator)
        drawn = self.recover(x_t, t_at, s_at, space, generator, **cond)
        likely = (self.energy.value(x, s_at.t, space=space, **cond) for x in (drawn, real))
        low, high = likely
        worse: Tensor = (low - high) / space.dim(x0).clamp(min=1)
        return worse

    def recover(
        self, x_t: Tensor, t: Level, s: Level, space: Space, generator: Random, **cond: Any
    ) -> Tensor:
        """Langevin steps from x_t to a state at s.

        Arguments:
            x_t: The noisier state.
            t: Its level, of one time for all or for each item.
            s: The level of the state that is drawn.
            space: The batch's space.
            generator: The source of noise.
            cond: Conditions of the network, by name.
        """
        times, alpha, of_t, of_s, total = (
            x_t.new_ones(space.items(x_t)) * c
            for c in (s.t, t.alpha / s.alpha, t.sigma, s.sigma, s.alpha**2 + s.sigma**2)
        )
        variance = (of_t**2 - alpha**2 * of_s**2).clamp(min=1e-12)
        step = self.step_size / (1 / total + alpha**2 / variance).sqrt()
        alpha, variance, step = (space.expand(c, x_t) for c in (alpha, variance, step))
        x = x_t.detach()
        with torch.no_grad():
            for _ in range(self.steps):
                pull = alpha * (x_t - alpha * x) / variance
                slope = self.energy(x, times, space=space, **cond) + pull
                x = x + step**2 / 2 * slope + step * space.noise(x, generator)
        return x

    def sample(
        self,
        shape: Sequence[int],
        *,
        space: Space = DENSE,
        cond: dict[str, Any] | None = None,
        seed: Seed = None,
    ) -> Tensor:
        """Draw samples: Langevin steps at each level, from noise to data.

        Arguments:
            shape: The shape of the samples, batch included.
            space: The batch's space.
            cond: Conditions of the network, by name.
            seed: An int, or a list with one seed per item.

        Raises:
            ValueError: If the shape is none.
        """
        like = blank(like_of([self.energy]), shape)
        generator = generators(seed, like.device)
        first = self._levels[0]
        x = space.noise(like, generator) * math.hypot(first.alpha, first.sigma)
        with evaluating([self.energy]):
            for t, s in pairwise(self._levels):
                x = self.recover(x, t, s, space, generator, **(cond or {}))
        return x
