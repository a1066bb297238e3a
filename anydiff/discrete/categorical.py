r"""Discrete diffusion: tokens that forget what they were, and a network that says what that was.

The network sees x_t, one-hot, and gives logits of :math:`\pi`, what a token is without what x_t says of
it itself. With that, by Bayes,

.. math::
    p(x_0 | x_t) \propto \pi(x_0)\, Q_t(x_0, x_t), \qquad
    p(x_s | x_t) \propto (\pi Q_s)(x_s)\, Q_{t|s}(x_s, x_t)

so that a token that is not masked stays what it is in masked diffusion, of itself. The loss is the
bound of :math:`-\log p(x_0)` in continuous time: with the rates R of the kernel,
:math:`\tau' = -\alpha' / \alpha` and :math:`q = x_0 Q_t,\; m = \pi Q_t`,

.. math::
    L = \tau' \sum_{y \neq x_t} R(y, x_t) \left[ \frac{m_y}{m_{x_t}} -
    \frac{q_y}{q_{x_t}} - \frac{q_y}{q_{x_t}} \log \frac{m_y\, q_{x_t}}{m_{x_t} q_y} \right]

All of it is made of the logarithms of m and q, so that an unlikely token has its own loss and gradient.
For the absorbing kernel this is :math:`-\frac{\alpha'}{1 - \alpha} \log \frac{1}{\pi(x_0)}` of each
masked token, the loss of masked diffusion.

States are one-hot numbers on an axis of x, so that the networks and the spaces are those of Gaussian
diffusion: the last axis of rows, the channels of grids.

References:
    A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022), eq. 9.
    https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import check_floating, check_kind, check_shape, check_whole
from anydiff.diffusion import timed
from anydiff.discrete.answers import Answer, answer_of, drawn, tokens_in
from anydiff.discrete.kernels import Kernel
from anydiff.discrete.samplers import sample
from anydiff.losses import conditions
from anydiff.losses.times import Times, as_times
from anydiff.predictions import modules_in
from anydiff.schedules import Flow, Level, Schedule
from anydiff.spaces import DENSE, Random, Space

__all__ = ["CategoricalDiffusion"]

_SURVIVED = (
    1e-12  # below it, alpha is as good as its limit, in which the rate and the loss are finite
)


class CategoricalDiffusion(nn.Module):
    """A diffusion of tokens: a network, a kernel and a schedule, with a training objective.

        kernel = AbsorbingKernel(values=20)
        diffusion = CategoricalDiffusion(Transformer(kernel.states), kernel)
        loss = diffusion.loss(one_hot(tokens, kernel)).mean()
        tokens = diffusion.sample((16, 22, kernel.states)).argmax(-1)

    Arguments:
        denoiser: Any module with ``forward(x_t, t, **cond)``, where x_t are one-hot states and t is (B,)
            in [0, 1], that returns logits shaped like x_t. If its forward has a parameter ``space``, the
            batch's space is passed to it.
        kernel: How tokens forget, such as ``AbsorbingKernel(values=20)``.
        schedule: t -> (alpha, sigma), of which alpha is how likely a token has survived. `Flow()` is the
            linear schedule of masked diffusion.
        times: The distribution of training times; None is uniform, with which the loss is the bound.
        drop: The fraction of items whose condition is left out in training, as of
            :class:`~anydiff.GaussianDiffusion`.
        axis: That of the states in x: the last one of rows, 1 of grids.

    Raises:
        ValueError: If an argument is not of its kind, or a fraction lies outside [0, 1].
    """

    def __init__(
        self,
        denoiser: Callable[..., Any],
        kernel: Kernel,
        schedule: Schedule = Flow(),
        times: Times | Callable[[Tensor], Tensor] | None = None,
        drop: float | Mapping[str, float] | None = None,
        axis: int = -1,
    ) -> None:
        super().__init__()
        check_kind(Callable, "a network, such as a Transformer", denoiser=denoiser)
        check_kind(Kernel, "a kernel, such as AbsorbingKernel(20)", kernel=kernel)
        check_kind(Schedule, "a schedule, such as Flow()", schedule=schedule)
        check_whole("[-inf, inf]", axis=axis)
        self.denoiser: Any = denoiser
        if not isinstance(denoiser, nn.Module):  # their parameters belong to the model
            self.held = nn.ModuleList(modules_in(denoiser))
        self.kernel, self.schedule, self.axis = kernel, schedule, axis
        self.times = as_times(times)
        self.drop = conditions.shares(drop, "drop")

    def forward(self, x0: Tensor, *args: Any, **options: Any) -> Tensor:
        """The same as :meth:`loss`."""
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
        """The bound of each item at one time, in nats for a token, (B,).

        Arguments:
            x0: One-hot data, see :func:`one_hot`.
            t: Times in [0, 1], (B,), or one for all. Drawn from `times` if None.
            space: The batch's space.
            noise: Normal numbers of float64, shaped like x0, from which x_t is drawn; drawn if None.
            generator: The source of noise and times. With one generator per item, t has to be given.
            cond: Conditions, passed to the network by their names.

        Raises:
            ValueError: As :meth:`GaussianDiffusion.loss <anydiff.GaussianDiffusion.loss>`, or if x0 has
                another number of states than the kernel.
        """
        check_floating(x0=x0)
        check_shape(x0.shape, "draw it with space.noise(x0.double())", noise=noise)
        known = -x0.ndim <= self.axis < x0.ndim and self.axis % x0.ndim > 0
        if not known or x0.shape[self.axis] != self.kernel.states:
            raise ValueError(
                f"x0 is {tuple(x0.shape)}, and {self.kernel} has {self.kernel.states} states, which have "
                f"axis {self.axis}; give one_hot(tokens, kernel, axis)."
            )
        was_drawn = t is None
        x0, t = timed(x0, t, space, generator, self.times, self.schedule)
        if self.training:
            cond = conditions.drop(cond, self.drop, x0, space, generator)
        at = self.schedule._at(t)
        log_q = self.forgotten(x0.log(), at.alpha.clamp(min=_SURVIVED), space)
        x_t = drawn(log_q, space, x0, generator if noise is None else noise, self.axis)
        log_pi = self.predictor(space, **cond)(x_t, t)
        loss = space.sum(self.integrand(log_pi, log_q, x_t, at, space)) / tokens_in(
            x0, space, self.kernel
        )
        return self.times.reweigh(t, loss) if was_drawn else loss

    def forgotten(self, log_p: Tensor, alpha: Tensor | float, space: Space) -> Tensor:
        """Logarithms of the distributions of x_t for those of x0, shaped alike.

        Arguments:
            log_p: Shaped like a state; that of data is ``x0.log()``.
            alpha: How likely a token has survived, (B,), or one number for all.
            space: The batch's space.
        """
        if isinstance(alpha, Tensor):
            alpha = space.expand(alpha, log_p).movedim(self.axis, -1)
        return self.kernel.forward(log_p.movedim(self.axis, -1), alpha).movedim(-1, self.axis)

    def integrand(
        self, log_pi: Tensor, log_q: Tensor, x_t: Tensor, at: Level, space: Space
    ) -> Tensor:
        """The bound's rate at a time, by state, shaped like x_t: see the module.

        Arguments:
            log_pi: What the network says of each token.
            log_q: The logarithm of the distribution of x_t, given x0.
            x_t: The state, one-hot.
            at: The level, of (B,).
            space: The batch's space.
        """
        axis = self.axis
        # at alpha = 0 a quotient is taken of what is left just before
        alpha = at.alpha.clamp(min=_SURVIVED)
        log_m = self.forgotten(log_pi, alpha, space)
        into = self.kernel.into(x_t.movedim(axis, -1)).movedim(-1, axis)
        # without the states that are not asked for, whose numbers may be infinite
        model, true = (
            torch.where(into > 0, v - torch.where(x_t > 0, v, 0).sum(axis, keepdim=True), 0)
            for v in (log_m, log_q)
        )
        r = true.exp()
        gap = torch.where(r > 0, model - true, 0)
        small = gap.clamp(-1, 1)  # nothing is lost where the two are near to each other
        near = r * (small.expm1() - small)
        terms = torch.where((r > 0) & (gap == small), near, model.exp() - r * (1 + gap))
        rates: Tensor = space.expand(-at.rates[0] / alpha, x_t) * into
        return rates * terms

    def predictor(self, space: Space = DENSE, **cond: Any) -> Answer:
        """The network bound to a batch's space and conditions.

        Arguments:
            space: The batch's space.
            cond: Conditions, passed to the network by their names.

        Raises:
            ValueError: If the space mixes entries, as that of a zero centre does, or if it is not Dense
                and the network has no parameter `space`.
        """
        how = self.kernel, self.schedule, self.axis, (self,)
        return answer_of(self.denoiser, space, cond, *how)

    def sample(
        self,
        shape: Tensor | Sequence[int],
        *,
        space: Space = DENSE,
        cond: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Tensor:
        """Generate tokens: :func:`anydiff.discrete.sample` with the predictor of this model.

        Arguments:
            shape: The shape of the states, batch included, or the state to begin from.
            space: The batch's space.
            cond: Conditions, passed to the network by their names.
            options: sampler, steps, seed, callback, progress: see :func:`anydiff.discrete.sample`.

        Returns:
            One-hot states of that shape.

        Raises:
            ValueError: As :func:`anydiff.discrete.sample`.
        """
        return sample(self.predictor(space, **(cond or {})), shape, **options)
