r"""From noise to data: one loop, and the steps that it takes.

A sampler is a frozen object whose ``step`` goes from x_t to x_s for one pair of times t > s. The
loop plans all times and noise levels once, in float64, and hands them to the steps as Python floats:
no step reads anything back from the device. The last step lands on the data itself, where alpha is
1 and sigma is 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from anydiff.predictions import Prediction, Predictor
from anydiff.schedules import Schedule
from anydiff.spaces import Generators

__all__ = ["DDIM", "DDPM", "Interval", "Progress", "Sampler", "generators", "plan", "sample"]


class Interval(NamedTuple):
    """One step's two times, t > s, and their noise levels."""

    t: float
    alpha_t: float
    sigma_t: float
    s: float
    alpha_s: float
    sigma_s: float


class Progress(NamedTuple):
    """What a callback is given after each step."""

    step: int
    """Steps done, 1 to `steps`."""
    steps: int
    t: float
    """The time that the step started from."""
    s: float
    """The time that it reached."""
    x_s: Tensor
    """The state there."""
    prediction: Prediction
    """What the predictor said at t; its x0 is the current guess of the data."""


class Sampler(Protocol):
    """A rule that goes from one noise level to the next."""

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Tensor, at: Interval, generator: Generators
    ) -> tuple[Tensor, Prediction]:
        """x_s, and the prediction that led there.

        Arguments:
            x_t: The state at time t.
            t: The time for the network, (B,).
            at: The step's times and noise levels.
            generator: Where noise comes from.
        """


@dataclass(frozen=True)
class DDIM:
    r"""Deterministic or stochastic DDIM step.

    .. math::
        \tau = \eta^2 \left(1 - \frac{\alpha_t^2 \sigma_s^2}{\alpha_s^2 \sigma_t^2}\right), \qquad
        x_s = \alpha_s \hat x_0 + \sigma_s \sqrt{1 - \tau}\, \hat\epsilon + \sigma_s \sqrt{\tau}\, z

    Arguments:
        eta: Stochasticity in [0, 1]; 0 is the probability-flow ODE, 1 is DDPM.

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), eq. 12.
        https://arxiv.org/abs/2010.02502
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(
                f"eta is {self.eta}; give a number from 0 (deterministic) to 1 (DDPM)."
            )

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Tensor, at: Interval, generator: Generators
    ) -> tuple[Tensor, Prediction]:
        _, alpha_t, sigma_t, _, alpha_s, sigma_s = at
        p = predictor.predict(x_t, t, (alpha_t, sigma_t))

        tau = self.eta**2 * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)
        x_s = p.at(alpha_s, sigma_s * sqrt(1 - tau))
        if tau > 0 and sigma_s > 0:
            x_s = x_s.add(predictor.space.noise(x_t, generator), alpha=sigma_s * sqrt(tau))
        return x_s, p


@dataclass(frozen=True)
class DDPM:
    r"""Ancestral sampling: a draw from q(x_s | x_t, x0) at the predicted x0.

    .. math::
        \alpha_{ts} = \alpha_t / \alpha_s, \quad
        \sigma_{ts}^2 = \sigma_t^2 - \alpha_{ts}^2 \sigma_s^2, \quad
        x_s = \alpha_s \hat x_0 + \frac{\alpha_{ts} \sigma_s^2}{\sigma_t} \hat\epsilon + \nu z

    Arguments:
        variance: ``"small"`` is the posterior's, :math:`\nu = \sigma_{ts} \sigma_s / \sigma_t`, right
            for data at a point; ``"large"`` is the forward step's, :math:`\nu = \sigma_{ts}`, right
            for data that are standard normal.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), eq. 7 and section 3.2.
        https://arxiv.org/abs/2006.11239
    """

    variance: str = "small"

    def __post_init__(self) -> None:
        if self.variance not in ("small", "large"):
            raise ValueError(f"variance is {self.variance!r}; choose 'small' or 'large'.")

    def step(
        self, predictor: Predictor, x_t: Tensor, t: Tensor, at: Interval, generator: Generators
    ) -> tuple[Tensor, Prediction]:
        _, alpha_t, sigma_t, _, alpha_s, sigma_s = at
        p = predictor.predict(x_t, t, (alpha_t, sigma_t))

        alpha_ts = alpha_t / alpha_s
        sigma_ts = sqrt(max(sigma_t**2 - alpha_ts**2 * sigma_s**2, 0.0))
        x_s = p.at(alpha_s, alpha_ts * sigma_s**2 / sigma_t)
        if sigma_s > 0:
            nu = sigma_ts * (sigma_s / sigma_t if self.variance == "small" else 1.0)
            x_s = x_s.add(predictor.space.noise(x_t, generator), alpha=nu)
        return x_s, p


def plan(schedule: Schedule, steps: int | Sequence[float] | Tensor) -> list[Interval]:
    """The times of a sampling run and their noise levels, as floats.

    Arguments:
        steps: How many equal steps from 1 to 0, or the falling times themselves, the last one 0.
    """
    if isinstance(steps, int):
        if steps < 1:
            raise ValueError(f"steps is {steps}; take at least 1.")
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    else:
        times = torch.as_tensor(steps, dtype=torch.float64).cpu()
        if times.ndim != 1 or len(times) < 2 or not (times.diff() < 0).all() or times[0] > 1:
            raise ValueError(
                f"the times are {times.tolist()}; give times that fall from at most 1 to 0."
            )
        if times[-1] != 0:
            raise ValueError(f"the last time is {times[-1].item()}; sampling ends at 0.")

    alpha, sigma = (level.tolist() for level in schedule(times))
    alpha[-1], sigma[-1] = 1.0, 0.0  # the data, also where the schedule's own end keeps some noise
    knots = list(zip(times.tolist(), alpha, sigma, strict=True))
    return [Interval(*here, *there) for here, there in itertools.pairwise(knots)]


@torch.no_grad()
def sample(
    predictor: Predictor,
    x_T: Tensor,
    sampler: Sampler,
    steps: int | Sequence[float] | Tensor,
    *,
    generator: Generators = None,
    callback: Callable[[Progress], None] | None = None,
    progress: bool = False,
) -> Tensor:
    """Draw data by following a predictor from noise.

    Arguments:
        predictor: The model, bound to its batch.
        x_T: Noise in the predictor's space, ``space.noise(...)``.
        sampler: The rule of one step.
        steps: How many, equally spaced in t, or the falling times themselves, the last one 0.
        generator: Where noise comes from: one generator, or one per item.
        callback: Called after each step with a :class:`Progress`.
        progress: Show a bar.

    Returns:
        x0, shaped like x_T.
    """
    intervals = plan(predictor.schedule, steps)
    items = len(predictor.space.dim(x_T))
    # no shorter than float32, which can tell a chain's steps apart
    exact = torch.promote_types(x_T.dtype, torch.float32)
    times = torch.tensor([at.t for at in intervals], dtype=exact).to(x_T.device)
    ts = times[:, None].expand(-1, items).unbind(0)

    bar = None
    if progress:
        from tqdm.auto import tqdm

        bar = tqdm(total=len(intervals), desc="sampling", unit="step", leave=False)
    x = x_T
    for k, (t, at) in enumerate(zip(ts, intervals, strict=True), start=1):
        x, p = sampler.step(predictor, x, t, at, generator)
        if callback is not None:
            callback(Progress(k, len(intervals), at.t, at.s, x, p))
        if bar is not None:
            bar.update()
    if bar is not None:
        bar.close()
    return x


def generators(seed: int | Sequence[int] | None, device: torch.device | str = "cpu") -> Generators:
    """One generator from one seed, or a list of them from a list, on a device."""
    if seed is None:
        return None
    if isinstance(seed, int):
        return Generator(device).manual_seed(seed)
    return [Generator(device).manual_seed(int(s)) for s in seed]
