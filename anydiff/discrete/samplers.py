r"""Samplers of tokens: from the kernel's stationary distribution to data.

- :class:`Ancestral`: a step draws x_s from :math:`p(x_s | x_t)`, for every kernel.
- :class:`Unmask`: masked diffusion by as many tokens a step, at random or the surest first.
- :class:`FirstHitting`: masked diffusion token by token at the random times at which they are uncovered,
  the limit of ancestral sampling for many steps, in as many calls as there are tokens.

In masked diffusion a token that is not masked stays what it is. So an x_T that has some tokens is filled
in, exactly as the model would. Begin at the time at which as many tokens are masked, for which the
network was trained:

    x_T = one_hot(torch.where(known, tokens, kernel.values), kernel)
    filled = sample(diffusion.predictor(), x_T, start=0.5)     # half of them, by the linear schedule
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from anydiff.checks import (
    check_choice,
    check_floating,
    check_kind,
    check_range,
    check_whole,
    frozen,
)
from anydiff.discrete.answers import Answer, drawn
from anydiff.discrete.kernels import AbsorbingKernel
from anydiff.precision import at_least_float32
from anydiff.samplers.loop import blank, evaluating
from anydiff.schedules import Schedule
from anydiff.spaces import Random, Seed, Space, generators
from anydiff.spaces.draws import check_count

__all__ = ["Ancestral", "CategoricalSampler", "FirstHitting", "Unmask", "alphas", "sample"]

Callback = Callable[[int, int, Tensor], None]
"""(steps done, steps in all, state)."""


class CategoricalSampler:
    """The base class of samplers of tokens."""

    steps: int = 64
    """The usual number of steps."""
    planned: bool = True
    """Whether it takes the steps of a plan; one that does not takes as many as it needs."""

    def check(self, predictor: Answer) -> None:
        """Raise an error if it cannot run.

        Arguments:
            predictor: The model.

        Raises:
            ValueError: If it is for another kernel.
        """

    def run(
        self, predictor: Answer, x: Tensor, times: Tensor, generator: Random, done: Callback
    ) -> Tensor:
        """All steps from the first time to the last; a sampler defines this.

        Arguments:
            predictor: The model.
            x: The state at the first time, one-hot.
            times: Falling, (steps + 1,), float64.
            generator: The source of noise.
            done: Called after each step.
        """
        raise NotImplementedError


@frozen()
class Ancestral(CategoricalSampler):
    r"""Draws from :math:`p(x_s | x_t) \propto (\pi Q_s)(x_s)\, Q_{t|s}(x_s, x_t)`, for every kernel."""

    def run(
        self, predictor: Answer, x: Tensor, times: Tensor, generator: Random, done: Callback
    ) -> Tensor:
        axis, space = predictor.axis, predictor.space
        survived = alphas(predictor.schedule, times)
        for k, t in enumerate(times[:-1].tolist()):
            log_pi, x_t = (v.movedim(axis, -1) for v in (_asked(predictor, x, t), x))
            logits = predictor.kernel.posterior(log_pi, x_t, *survived[k : k + 2])
            x = drawn(logits.movedim(-1, axis), space, x, generator, axis)
            done(k + 1, len(times) - 1, x)
        return x


class _OfMasks(CategoricalSampler):
    """Samplers of masked diffusion alone."""

    def check(self, predictor: Answer) -> None:
        if not isinstance(predictor.kernel, AbsorbingKernel):
            raise ValueError(
                f"{type(self).__name__} uncovers masked tokens, and the kernel is {predictor.kernel}; "
                "take Ancestral()."
            )


@frozen()
class Unmask(_OfMasks):
    """Leaves as many tokens masked after each step as ancestral sampling does in the mean.

    Arguments:
        order: ``"random"``, or ``"confident"``: those whose drawn value is the likeliest, as MaskGIT
            does, which needs few steps and favours what is common.

    Raises:
        ValueError: If the order is another word.

    References:
        MaskGIT: Masked Generative Image Transformer (Chang et al., 2022), section 3.2.
        https://arxiv.org/abs/2202.04200
    """

    order: Literal["random", "confident"] = "random"

    def __post_init__(self) -> None:
        check_choice(("random", "confident"), order=self.order)

    def run(
        self, predictor: Answer, x: Tensor, times: Tensor, generator: Random, done: Callback
    ) -> Tensor:
        axis, space = predictor.axis, predictor.space
        survived, count = alphas(predictor.schedule, times), masked_in(x, space, axis)
        forgotten = max(1 - survived[0], torch.finfo(torch.float64).tiny)
        for k, t in enumerate(times[:-1].tolist()):
            log_pi = _asked(predictor, x, t)
            value = drawn(log_pi, space, x, generator, axis)
            if self.order == "random":
                score = space.noise(x.double(), generator).select(axis, 0)
            else:
                score = torch.where(value > 0, log_pi, 0).sum(axis)
            left = (count * ((1 - survived[k + 1]) / forgotten)).round()
            chosen = _first(score, masked_in(x, space, axis) - left, x, space, axis)
            x = torch.where(chosen.unsqueeze(axis), value, x)
            done(k + 1, len(times) - 1, x)
        return x


@frozen()
class FirstHitting(_OfMasks):
    """Uncovers one token at a time, at the time at which it happens: exact, in as many calls as tokens.

    The steps are as many as there are masked tokens, so that none are given.

    References:
        Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
        Categorical Sampling (Zheng et al., 2024), section 4.1. https://arxiv.org/abs/2409.02908
    """

    planned = False

    def run(
        self, predictor: Answer, x: Tensor, times: Tensor, generator: Random, done: Callback
    ) -> Tensor:
        axis, space, schedule = predictor.axis, predictor.space, predictor.schedule
        count = masked_in(x, space, axis).double()
        level = torch.full_like(count, 1 - alphas(schedule, times[:1])[0])
        steps = int(count.max()) if len(count) else 0
        for k in range(steps):
            # the largest of n uniform numbers below the level is the next to be uncovered
            z = space.noise(x.double(), generator)
            u = torch.special.ndtr(space.sum(z) / space.dim(x).clamp(min=1).sqrt())
            level = level * u ** (1 / count.clamp(min=1))
            t = _time(schedule, 1 - level)
            value = drawn(predictor(x, t.to(x.dtype)), space, x, generator, axis)
            score = space.noise(x.double(), generator).select(axis, 0)
            chosen = _first(score, (count > 0).to(x.dtype), x, space, axis)
            x = torch.where(chosen.unsqueeze(axis), value, x)
            count = (count - 1).clamp(min=0)
            done(k + 1, steps, x)
        return x


def sample(
    predictor: Answer,
    x_T: Tensor | Sequence[int],
    sampler: CategoricalSampler = Ancestral(),
    steps: int | None = None,
    *,
    start: float = 1.0,
    seed: Seed = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> Tensor:
    """Generate tokens with a predictor.

    Arguments:
        predictor: The model, bound to its batch, with or without guidance.
        x_T: The shape of the states, batch included; or the one-hot state to begin from, of which masked
            diffusion keeps all tokens that are not masked.
        sampler: The rule for one step.
        steps: The number of steps, from the start to t = 0 at equal distances; None takes the sampler's
            own.
        start: The first time, in (0, 1]; below 1, of a state x_T of which something is known.
        seed: An int makes the samples reproducible; a list with one seed per item makes each sample
            independent of its batch.
        callback: Called after each step with the number of steps done, that of all, and the state.
        progress: Show a progress bar.

    Returns:
        One-hot states, none of which is of the mask.

    Raises:
        ValueError: If an argument is not of its kind, or the sampler is for another kernel.
    """
    check_kind(Answer, "diffusion.predictor()", predictor=predictor)
    check_kind(CategoricalSampler, "a sampler, such as Ancestral()", sampler=sampler)
    check_kind(Callable | None, "a function of steps and a state", callback=callback)
    sampler.check(predictor)
    if steps is not None and not sampler.planned:
        raise ValueError(
            f"{type(sampler).__name__} takes as many steps as it needs; leave steps out."
        )
    steps = sampler.steps if steps is None else steps
    check_whole("[1, inf)", steps=steps)
    check_range("(0, 1]", start=start)
    space, kernel, axis = predictor.space, predictor.kernel, predictor.axis
    given = isinstance(x_T, Tensor)
    if not given and start != 1:
        raise ValueError(f"the start is {start:g}, at which there is data left; give a state x_T.")
    like = x_T if isinstance(x_T, Tensor) else blank(predictor.like, x_T)
    check_floating(x_T=like)
    if like.ndim < 2 or not -like.ndim <= axis < like.ndim or like.shape[axis] != kernel.states:
        raise ValueError(
            f"x_T is {tuple(like.shape)}, and {kernel} has {kernel.states} states, which have axis "
            f"{axis}; give such a shape, or one_hot(tokens, kernel, axis)."
        )
    generator = generators(seed, like.device)
    if isinstance(generator, Sequence):
        check_count(generator, space.items(like))
    x = like.to(at_least_float32(like))
    with torch.inference_mode(False), torch.no_grad(), evaluating(predictor.models):
        if given:
            x = space.project(x.clone())
        else:
            logits = kernel.stationary(x).log()
            shape = [1] * x.ndim
            shape[axis] = kernel.states
            x = drawn(logits.reshape(shape).expand(x.shape), space, x, generator, axis)
        times = torch.linspace(float(start), 0, int(steps) + 1, dtype=torch.float64)
        with _bar(progress, callback) as done:
            return sampler.run(predictor, x, times, generator, done).to(like.dtype)


def alphas(schedule: Schedule, times: Tensor) -> list[float]:
    """How likely a token has survived at each time; 1 at t = 0.

    Arguments:
        schedule: The schedule.
        times: (n,), float64.
    """
    alpha = schedule._levels(times)[0]
    return list(torch.where(times > 0, alpha, 1.0).tolist())


def _time(schedule: Schedule, alpha: Tensor) -> Tensor:
    """The times at which alpha has some values, by bisection."""
    low, high = torch.zeros_like(alpha), torch.ones_like(alpha)
    for _ in range(50):
        middle = (low + high) / 2
        early = schedule._levels(middle)[0] > alpha
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    return high


def masked_in(x: Tensor, space: Space, axis: int) -> Tensor:
    """The number of masked tokens of each item, (B,).

    Arguments:
        x: A state of masked diffusion.
        space: The batch's space.
        axis: That of the states.
    """
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    states = torch.arange(x.shape[axis], device=x.device)
    last = (states == len(states) - 1).reshape(shape)
    return space.sum(torch.where(last, x, 0))


def _asked(predictor: Answer, x: Tensor, t: float) -> Tensor:
    """What the model says of x at a time of all items."""
    times = torch.full((predictor.space.items(x),), t, dtype=x.dtype, device=x.device)
    return predictor(x, times)


def _first(score: Tensor, count: Tensor, x: Tensor, space: Space, axis: int) -> Tensor:
    """Booleans by token: the `count` masked ones of each item with the largest scores."""
    masked = x.select(axis, -1) > 0
    items = torch.arange(len(count), device=x.device)
    of = space.expand(items, x).expand(x.shape).select(axis, 0).flatten()
    order = score.masked_fill(~masked, -torch.inf).flatten().argsort(descending=True)
    order = order[of[order].argsort(stable=True)]  # by item, and within it by score
    sizes = torch.zeros_like(items).index_add_(0, of, torch.ones_like(of))
    rank = torch.empty_like(of)
    rank[order] = torch.arange(len(of), device=x.device) - (sizes.cumsum(0) - sizes)[of[order]]
    return (rank < count[of]).reshape(masked.shape) & masked


@contextmanager
def _bar(progress: bool, callback: Callback | None) -> Iterator[Callback]:
    """A context manager that gives the function to call after each step."""
    if not progress:
        yield callback or (lambda step, steps, x: None)
        return
    from tqdm.auto import tqdm

    with tqdm(desc="sampling", unit="step", leave=False) as bar:

        def done(step: int, steps: int, x: Tensor) -> None:
            bar.total = steps
            bar.update()
            if callback is not None:
                callback(step, steps, x)

        yield done
