r"""Adversarial training: large steps that are drawn from a distribution, and sharper denoisers.

**Denoising diffusion GAN.** A step of a few-step run is not Gaussian. A generator draws it: the denoiser
gets random numbers z as its `context`, and with its :math:`\hat x_0(x_t, z)` ancestral sampling draws
x_s. A critic tells such pairs (x_s, x_t) from real ones. If :math:`\hat x_0` has the distribution of x0
given x_t, the pairs have that of real ones, and any number of steps draws from the data.

    times = Rows((1, 0.75, 0.5, 0.25, 0), DrawnContext(columns=16))
    diffusion = GaussianDiffusion(UNet(1, context=16), Linear(), "x0", times=times)
    gan = DenoisingGAN(diffusion, Critic(UNet(2), axis=1))
    module = AdversarialModule(gan, unpack)         # anydiff.training.critics
    x = diffusion.sample(shape)                     # four calls

**Adversarial score matching.** The loss of a diffusion, and beside it a critic of the denoised mean,
which squared errors make blurred: :class:`AdversarialScoreMatching`.

References:
    Tackling the Generative Learning Trilemma with Denoising Diffusion GANs (Xiao et al., 2022).
    https://arxiv.org/abs/2112.07804
    Adversarial Score Matching and Improved Sampling for Image Generation (Jolicoeur-Martineau et al.,
    2021). https://arxiv.org/abs/2009.05475
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from anydiff.checks import check_floating, check_kind, check_range
from anydiff.diffusion import GaussianDiffusion
from anydiff.losses import SquaredError, conditions
from anydiff.precision import at_least_float32
from anydiff.predictions import Prediction, takes_space
from anydiff.samplers import DrawnContext
from anydiff.samplers.ancestral import posterior
from anydiff.schedules import Level
from anydiff.spaces import DENSE, Random, Space, check_space
from anydiff.spaces.draws import undrawn

__all__ = ["AdversarialScoreMatching", "Critic", "DenoisingGAN", "pair", "slope", "transition"]


class Critic(nn.Module):
    r"""A number for each item from any denoiser: :math:`D(x) = x \cdot F(x, t) / \dim x`.

    Of single states it is invariant where the denoiser is equivariant, and it ignores padding where the
    space does. It takes no pairs of states with a centre, as points have: the positions of one would be
    features beside the other's, which do not turn with them.

    Arguments:
        network: A denoiser of x; or, of pairs, of x_s and x_t side by side, with twice the columns.
        axis: Along which pairs are joined: the last one of rows, 1 of grids.

    Raises:
        ValueError: If the network is no module.
    """

    def __init__(self, network: nn.Module, axis: int = -1) -> None:
        super().__init__()
        check_kind(nn.Module, "a network, such as a UNet", network=network)
        self.network, self.axis = network, axis
        self._told = takes_space(network)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        beside: Tensor | None = None,
        *,
        space: Space = DENSE,
        **cond: Any,
    ) -> Tensor:
        """The numbers, (B,): positive for what is taken for real.

        Arguments:
            x: A state.
            t: (B,), times.
            beside: The state that x was drawn from, shaped like x; None if x is judged alone.
            space: The batch's space.
            cond: Conditions of the network, by name.

        Raises:
            ValueError: If there are pairs, and the space has a centre.
        """
        if beside is not None and not space.free:
            raise ValueError(
                f"pairs of states in {type(space).__name__} with a centre have positions twice, of which "
                "a network of points knows one; give a critic of single states, as "
                "AdversarialScoreMatching has."
            )
        both = x if beside is None else torch.cat([x, beside], self.axis)
        given = {"space": space} if self._told(space) else {}
        return space.mean(both * self.network(both, t, **given, **cond))


def pair(
    x0: Tensor, t: Level, s: Level, space: Space = DENSE, generator: Random = None
) -> tuple[Tensor, Tensor]:
    """Noisy states of the same items at two times, (x_s, x_t), as the forward process has them.

    Arguments:
        x0: Data.
        t: The level of x_t, of one time for each item.
        s: That of x_s, which is less noisy.
        space: The batch's space.
        generator: The source of noise.
    """
    alpha_ts = t.alpha / s.alpha
    sigma_ts = (t.sigma**2 - alpha_ts**2 * s.sigma**2).clamp(min=0).sqrt()
    alpha, sigma, alpha_ts, sigma_ts = (
        space.expand(c, x0) for c in (s.alpha, s.sigma, alpha_ts, sigma_ts)
    )
    x_s = alpha * x0 + sigma * space.noise(x0, generator)
    return x_s, alpha_ts * x_s + sigma_ts * space.noise(x0, generator)


def transition(
    x0: Tensor, levels: Sequence[Level], space: Space = DENSE, generator: Generator | None = None
) -> tuple[Level, Level, Tensor, Tensor]:
    """A step of a run for each item, and the states at its ends: (t, s, x_s, x_t).

    Arguments:
        x0: Data.
        levels: Those of the run, n + 1 of them.
        space: The batch's space.
        generator: The source of the choice and of noise.

    Raises:
        ValueError: If x0 are no floating-point numbers, or there is a generator for each item.
    """
    check_space(space=space)
    check_floating(x0=x0)
    check_kind(Generator | None, "one generator for the whole batch, or None", generator=generator)
    device = x0.device if generator is None else generator.device
    k = torch.randint(len(levels) - 1, (space.items(x0),), generator=generator, device=device)
    numbers = [(at.t, at.alpha, at.sigma) for at in levels]
    rows = torch.tensor(numbers, dtype=at_least_float32(x0))
    rows, k = (of.to(x0.device, non_blocking=True) for of in (rows, k))
    schedule = levels[0].schedule
    t, s = (
        Level(time, alpha, sigma, schedule)
        for time, alpha, sigma in (rows[row].unbind(1) for row in (k, k + 1))
    )
    return t, s, *pair(space.project(x0), t, s, space, generator)


def slope(
    critic: Critic,
    x: Tensor,
    t: Tensor,
    beside: Tensor | None = None,
    *,
    space: Space = DENSE,
    delta: float = 0.01,
    generator: Random = None,
    **cond: Any,
) -> Tensor:
    r"""The squared slope of a critic at x, :math:`\lVert \nabla D \rVert^2` in the mean, (B,).

    It is that of a difference in a random direction n, :math:`((D(x + \delta n) - D(x)) / \delta)^2`,
    which is off by O(δ²). No second derivative is needed, which many layers do not have.

    Arguments:
        critic: The critic.
        x: A state.
        t: (B,), times.
        beside: As :class:`Critic` takes it.
        space: The batch's space.
        delta: The length of the step, for each entry.
        generator: The source of the direction.
        cond: Conditions of the critic's network, by name.
    """
    n = space.noise(x, generator)
    with undrawn(x.device):  # what layers such as dropout draw is the same at both ends
        near = critic(x, t, beside, space=space, **cond)
    far = critic(x + delta * n, t, beside, space=space, **cond)
    squared: Tensor = ((far - near) / delta).square()
    return squared


class DenoisingGAN(nn.Module):
    """A generator of large steps and its critic.

    Conditions are given to both, so that the critic knows what was asked for: its network takes them too.

    Arguments:
        diffusion: The generator, whose `times` are the :class:`~anydiff.losses.Rows` of its run, by
            :class:`~anydiff.samplers.DrawnContext`.
        critic: Of pairs.
        penalty: The weight of half the squared slope of the critic at real pairs.
        delta: As of :func:`slope`.

    Raises:
        ValueError: If the times of the diffusion are not those of one run, or a number is out of range.
    """

    def __init__(
        self,
        diffusion: GaussianDiffusion,
        critic: Critic,
        penalty: float = 0.05,
        delta: float = 0.01,
    ) -> None:
        super().__init__()
        check_kind(GaussianDiffusion, "a diffusion", diffusion=diffusion)
        check_kind(Critic, "Critic(network)", critic=critic)
        check_range("[0, inf)", penalty=penalty)
        check_range("(0, inf)", delta=delta)
        self._rows = cast(Any, diffusion.times)
        if not isinstance(getattr(self._rows, "sampler", None), DrawnContext):
            raise ValueError(
                "the diffusion is not of a run that draws contexts; give it times=Rows((1, 0.75, 0.5, "
                "0.25, 0), DrawnContext(columns=16)) for instance."
            )
        self.diffusion, self.critic = diffusion, critic
        self.penalty, self.delta = penalty, delta
        self._levels = diffusion.schedule.levels(self._rows.times)

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
        """How little the critic is deceived by steps of the generator, (B,).

        Arguments:
            x0: Data.
            t: Not needed: a row of the run is drawn for each item.
            space: The batch's space.
            noise: Not needed: several are drawn.
            generator: The source of noise and of the rows.
            cond: Conditions, by name.
        """
        _, x_t, times, drawn, cond = self._steps(x0, space, generator, cond)
        return F.softplus(-self.critic(drawn, times, x_t, space=space, **cond))

    def critic_loss(
        self, x0: Tensor, *, space: Space = DENSE, generator: Generator | None = None, **cond: Any
    ) -> Tensor:
        """How badly the critic tells real pairs from drawn ones, and its slope, (B,).

        Arguments:
            x0: Data.
            space: The batch's space.
            generator: The source of noise and of the rows.
            cond: Conditions, by name.
        """
        with torch.no_grad():
            x_s, x_t, times, drawn, cond = self._steps(x0, space, generator, cond)
        real, false = (self.critic(x, times, x_t, space=space, **cond) for x in (x_s, drawn))
        loss = F.softplus(-real) + F.softplus(false)
        if self.penalty:
            how: dict[str, Any] = {"space": space, "delta": self.delta, "generator": generator}
            loss = loss + self.penalty / 2 * slope(self.critic, x_s, times, x_t, **how, **cond)
        return loss

    def _steps(
        self, x0: Tensor, space: Space, generator: Generator | None, cond: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """A real pair (x_s, x_t), the time of x_t (B,), an x_s that the generator draws, conditions."""
        if self.training:
            cond = _as_trained(self.diffusion, cond, x0, space, generator)
        t, s, x_s, x_t = transition(x0, self._levels, space, generator)
        predictor = self.diffusion.predictor(space, **cond)
        predictor = self._rows.sampler.drawn(predictor, x_t, generator)
        drawn = posterior(predictor.predict(x_t, t), t, s, space, generator)
        return x_s, x_t, t.t, drawn, dict(cond)


def _as_trained(
    of: GaussianDiffusion, cond: Mapping[str, Any], x0: Tensor, space: Space, generator: Random
) -> dict[str, Any]:
    """Conditions dropped and noised, as the loss of the diffusion does."""
    cond = conditions.drop(cond, of.drop, x0, space, generator)
    return conditions.augment(cond, of.augment, of.schedule, x0, space, generator)


class _Deceiving(SquaredError):
    """An error, and what a critic says of the denoised mean."""

    def __init__(self, error: SquaredError, critic: Critic, weight: float) -> None:
        self.error, self.critic, self.weight = error, critic, weight

    def times(self, t: Tensor) -> Tensor:
        return self.error.times(t)

    def term(
        self,
        p: Prediction,
        x0: Tensor,
        eps: Tensor,
        at: Level,
        space: Space,
        cond: Mapping[str, Any] | None = None,
    ) -> Any:
        said = self.critic(p.x0, torch.zeros_like(at.t), space=space)
        own = self.error.term(p, x0, eps, at, space, cond)
        return own + self.weight * (said - 1).square()


class AdversarialScoreMatching(nn.Module):
    r"""A diffusion with a critic of its denoised means, of least squares: real is 1, denoised is -1.

    .. math:: L = L_{diffusion} + \lambda\, (D(\hat x_0) - 1)^2

    The critic sees data and means at time 0, without conditions. The diffusion itself is as any other,
    and knows nothing of it. The published weight 1 is beside a loss that is a sum over the values of an
    item, and 1 / (how many they are) beside one that is their mean.

    Arguments:
        diffusion: The diffusion.
        critic: Of single states.
        weight: λ.

    Raises:
        ValueError: If an argument is not of its kind, or the weight is negative.
    """

    def __init__(self, diffusion: GaussianDiffusion, critic: Critic, weight: float = 1.0) -> None:
        super().__init__()
        check_kind(GaussianDiffusion, "a diffusion", diffusion=diffusion)
        check_kind(Critic, "Critic(network)", critic=critic)
        check_range("[0, inf)", weight=weight)
        self.diffusion, self.critic, self.weight = diffusion, critic, weight

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
        """The loss of the diffusion and the critic's term, (B,).

        Arguments:
            x0: Data.
            t: Times, (B,); drawn if None.
            space: The batch's space.
            noise: The eps to use; drawn if None.
            generator: The source of noise and times.
            cond: Conditions, by name.
        """
        judged = copy.copy(self.diffusion)  # with the same parts
        judged.__dict__["error"] = _Deceiving(self.diffusion.error, self.critic, self.weight)
        how: dict[str, Any] = {"space": space, "noise": noise, "generator": generator}
        return judged.loss(x0, t, **how, **cond)

    def critic_loss(
        self, x0: Tensor, *, space: Space = DENSE, generator: Generator | None = None, **cond: Any
    ) -> Tensor:
        """How badly the critic tells data from denoised means, (B,).

        Arguments:
            x0: Data.
            space: The batch's space.
            generator: The source of noise and times.
            cond: Conditions, by name.
        """
        with torch.no_grad():
            x0, t, eps = self.diffusion.noised(x0, None, space, None, generator)
            if self.training:
                cond = _as_trained(self.diffusion, cond, x0, space, generator)
            at = self.diffusion.schedule._at(t)
            alpha, sigma = (space.expand(c, x0) for c in (at.alpha, at.sigma))
            denoised = (
                self.diffusion.predictor(space, **cond).predict(alpha * x0 + sigma * eps, at).x0
            )
        zero = torch.zeros_like(t)
        real, false = (self.critic(x, zero, space=space) for x in (x0, denoised))
        return cast(Tensor, (real - 1).square() + (false + 1).square())
