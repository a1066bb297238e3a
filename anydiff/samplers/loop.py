"""The sampling loop: a run from its seed to the last step.

All times and noise levels are computed before the run, in float64, as Python floats. A run that ends at
t = 0 ends at the data itself, where alpha is 1 and sigma is 0.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anydiff.checks import (
    check_floating,
    check_kind,
    check_range,
    check_whole,
    number,
    numbers,
    shown,
)
from anydiff.precision import at_least_float32
from anydiff.predictions import Prediction, Predictor, check_predictor
from anydiff.samplers.grids import Grid
from anydiff.samplers.multistep import DPMSolver
from anydiff.samplers.sampler import Past, Sampler
from anydiff.schedules import Level, Schedule
from anydiff.spaces import Random, Seed, generators
from anydiff.spaces.draws import check_count

__all__ = [
    "Callback", "Progress", "Steps", "blank", "check_steps", "chosen", "evaluating", "first_noise",
    "follow", "plan", "sample", "watched",
]  # fmt: skip

Steps = int | Sequence[float] | Tensor
"""The number of steps, or the times themselves."""


class Progress(NamedTuple):
    """The argument of a callback, which is called after each step.

    Attributes:
        step: The number of steps done, 1 to `steps`.
        steps: The number of steps in all.
        t: The time at which the step started.
        s: The time at which it ended.
        x_s: The state at s.
        prediction: The prediction at t; its x0 is the current estimate of the data.
    """

    step: int
    steps: int
    t: float
    s: float
    x_s: Tensor
    prediction: Prediction


Callback = Callable[[Progress], None]
Report = Callable[[Level, Level, Tensor, Prediction], None]


def sample(
    predictor: Predictor,
    x_T: Tensor | Sequence[int],
    sampler: Sampler | None = None,
    steps: Steps | None = None,
    *,
    start: float = 1.0,
    grid: Grid | None = None,
    seed: Seed = None,
    callback: Callback | None = None,
    progress: bool = False,
    grad: bool = False,
) -> Tensor:
    """Generate samples with a predictor, starting from noise.

    Arguments:
        predictor: The model, bound to its batch, with or without guidance.
        x_T: The shape of the samples, batch included: (B, \\*) or, in a ragged space, (N, F). Or the
            initial state itself, in the predictor's space; pure noise there has the standard deviation
            sqrt(alpha² + sigma²) of the first time.
        sampler: The rule for one step; None takes that of the run of a distilled model, and
            :class:`DPMSolver` for others.
        steps: The number of steps, whose times the grid defines; None takes the run of a distilled model,
            and the sampler's default for others. Or the times themselves: falling times lead to the data,
            rising times encode data as noise, with a deterministic sampler.
        start: The first time of the grid, in (0, 1].
        grid: Where the times lie, see :mod:`anydiff.samplers.grids`; None takes the sampler's grid.
        seed: An int makes the samples reproducible; a list with one seed per item makes each sample
            independent of its batch. Generators can be given in place of seeds.
        callback: Called after each step with a :class:`Progress`.
        progress: Show a progress bar.
        grad: Keep the graph of the run, so that the samples can be differentiated by the initial state,
            the conditions and the weights of the network; its memory grows with the number of steps.

    Returns:
        The state at the last time, which is x0 if that time is 0.

    Raises:
        ValueError: If an argument is not of its kind, if the number of steps, the times or the start lie
            outside their range, if the sampler cannot run on them, if a distilled model is not for them,
            or if there is a list of seeds without one for each item.
    """
    check_predictor(predictor=predictor)
    sampler, steps, start = chosen(predictor, sampler, steps, start)
    levels = plan(predictor.schedule, steps, sampler, grid, start)
    like = x_T if isinstance(x_T, Tensor) else blank(predictor.like, x_T)
    check_floating(x_T=like)
    generator = generators(seed, like.device)
    if isinstance(generator, Sequence):
        check_count(generator, predictor.space.items(like))
    x = like.to(at_least_float32(like))
    x = x if like is x_T else first_noise(levels[0], x, predictor, generator)
    with watched(len(levels) - 1, callback, progress) as report:
        return follow(predictor, x, sampler, levels, generator, report, grad).to(like.dtype)


def chosen(
    predictor: Predictor,
    sampler: Sampler | None,
    steps: Steps | None,
    start: float = 1.0,
    usual: tuple[Sampler, int | None] = (DPMSolver(), None),
) -> tuple[Sampler, Steps | None, float]:
    """The sampler, the steps and the start of a run: those of a distilled model where none are given.

    Arguments:
        predictor: The model.
        sampler: The sampler that was given, or None.
        steps: The number of steps or the times that were given, or None.
        start: The first time.
        usual: The sampler and the number of steps of a model that is not distilled.

    Raises:
        ValueError: If a distilled model is not for such a run.
    """
    if predictor.run is not None:
        return predictor.run.chosen(sampler, steps, start)
    return usual[0] if sampler is None else sampler, usual[1] if steps is None else steps, start


def plan(
    schedule: Schedule,
    steps: Steps | None = None,
    sampler: Sampler = DPMSolver(),
    grid: Grid | None = None,
    start: float = 1.0,
) -> list[Level]:
    """The levels of a run, as floats: steps + 1 of them.

    Arguments:
        schedule: The schedule of the model.
        steps: The number of steps, whose times the grid defines, from the start to 0; None takes the
            sampler's default. Or the times themselves, falling (sampling) or rising (encoding).
        sampler: The sampler, which checks and prepares the levels.
        grid: Where the times lie; None takes the sampler's grid.
        start: The first time of the grid, in (0, 1].

    Raises:
        ValueError: If an argument is not of its kind, if the number of steps, the times or the start lie
            outside their range, or if the sampler cannot run on them.
    """
    check_kind(Schedule, "a schedule, such as Cosine()", schedule=schedule)
    check_kind(Sampler, "a sampler, such as DDIM()", sampler=sampler)
    check_kind(Callable | None, "a grid, such as Uniform()", grid=grid)
    first = schedule.first
    check_range(f"[{first}, 1]" if first else "(0, 1]", start=start)
    start = float(start)
    times = check_steps(sampler.steps if steps is None else steps)
    if isinstance(times, int):
        if start == first and times > 1:
            raise ValueError(
                f"the start is {start:g}, the first row of {schedule}, after which there is one step to "
                f"the data, and steps is {times}; start later, or give steps=1."
            )
        given = [start, 0] if times == 1 else (grid or sampler.grid)(schedule, times, start)
        times = numbers(given)
        if not all(1 >= a > b >= 0 for a, b in pairwise(times.tolist())) or len(times) < 2:
            raise ValueError(
                f"the grid gives {shown(given)}; it has to give falling times in [0, 1], (steps + 1,)."
            )
    elif start != 1:
        raise ValueError(f"the start is {start}, and the times are given too; begin them there.")
    elif grid is not None:
        raise ValueError(
            f"the grid is {shown(grid)}, and the times are fixed: they are given, or those of a "
            "distilled model; leave the grid out."
        )

    levels = schedule.levels(times)
    if levels[0].t < first:  # a rising run calls its network first at the first row of a table
        levels[0] = replace(levels[0], t=first)
    if levels[-1].t == 0:  # the data, even if the schedule has some noise at t = 0
        levels[-1] = replace(levels[-1], alpha=1.0, sigma=0.0)
    return list(sampler.prepare(levels))


def check_steps(steps: Any) -> int | Tensor:
    """A number of steps, or the times themselves, (n,), float64.

    Arguments:
        steps: The number, or a list of times.

    Raises:
        ValueError: If the number is below 1 or not whole, or if the times are not two or more in [0, 1]
            that fall, or rise.
    """
    if (count := number(steps)) is not None:
        check_whole("[1, inf)", steps=count)
        return int(count)
    times = numbers(steps)
    moves = times.diff()
    one_way = len(moves) and ((moves < 0).all() or (moves > 0).all())
    if not one_way or not (times.min() >= 0 and times.max() <= 1):
        given = (
            f"the times are {shown(times.tolist())}" if len(times) else f"steps is {shown(steps)}"
        )
        raise ValueError(f"{given}; give two or more in [0, 1] that fall, or rise, or how many.")
    return times


def follow(
    predictor: Predictor,
    x: Tensor,
    sampler: Sampler,
    levels: Sequence[Level],
    generator: Random = None,
    report: Report | None = None,
    grad: bool = False,
) -> Tensor:
    """The loop: steps from x at the first level to the last level.

    The state is of at least float32 in between, since rounding errors add up over the steps.

    Arguments:
        predictor: The model, bound to its batch.
        x: The state at the first level.
        sampler: The rule for one step.
        levels: Levels from :func:`plan`, or a contiguous part of them.
        generator: The source of noise.
        report: Called after each step, see :func:`watched`.
        grad: Keep the graph of the run.

    Returns:
        The state at the last level.
    """
    past: Past = ()
    kind, x = x.dtype, x.to(at_least_float32(x))
    # not inference mode: its tensors keep no count of changes, by which a network is found out that
    # changes the state in place
    with torch.inference_mode(False), torch.set_grad_enabled(grad), evaluating(predictor.models):
        x = x.clone() if x.is_inference() else x
        if grad and not x.requires_grad:  # guidance keeps the graph of states that require it
            x = x.detach().requires_grad_()
        for t, s in pairwise(levels):
            x, p = sampler.step(predictor, x, t, s, past, generator)
            past = (*past, p)[-sampler.past :] if sampler.past else ()
            if report is not None:
                report(t, s, x, p)
    return x.to(kind)


@contextmanager
def watched(steps: int, callback: Callback | None, progress: bool) -> Iterator[Report]:
    """A context manager that gives the function to call after each step of a run.

    Arguments:
        steps: The number of steps in all.
        callback: Called with a :class:`Progress` after each step.
        progress: Show a progress bar.

    Yields:
        The `report` of :func:`follow`, which calls the callback and updates the progress bar.

    Raises:
        ValueError: If the callback is no function.
    """
    check_kind(Callable | None, "a function of a Progress", callback=callback)
    bar: Any = nullcontext()
    if progress:
        from tqdm.auto import tqdm

        bar = tqdm(total=steps, desc="sampling", unit="step", leave=False)
    done = 0

    def report(t: Level, s: Level, x_s: Tensor, p: Prediction) -> None:
        nonlocal done
        done += 1
        if callback is not None:
            callback(Progress(done, steps, t.t, s.t, x_s, p))
        if progress:
            bar.update()

    with bar:
        yield report


# of each module in train mode, how many runs have put it in eval mode
_runs: dict[nn.Module, int] = {}
_lock = threading.Lock()


@contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """A context in which modules are in eval mode, and restored to their mode after it.

    Of several threads that draw from one model, the last restores the mode. A thread that trains the same
    model sees it in eval mode meanwhile: draw from a copy then, such as the averaged weights.

    Arguments:
        models: The modules, such as those of a predictor.
    """
    modules = dict.fromkeys(m for model in models for m in model.modules())
    with _lock:
        switched = [m for m in modules if m.training or m in _runs]
        for module in switched:
            _runs[module] = _runs.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _lock:
            for module in switched:
                _runs[module] -= 1
                if not _runs[module]:
                    del _runs[module]
                    module.training = True


def first_noise(at: Level, like: Tensor, predictor: Predictor, generator: Random) -> Tensor:
    """The initial state of a run at a level: pure noise, shaped like `like`.

    Arguments:
        at: The level, which gives the standard deviation sqrt(alpha² + sigma²).
        like: Gives the shape, dtype and device.
        predictor: The model, whose space the noise lies in.
        generator: The source of noise.
    """
    return predictor.space.noise(like, generator) * math.hypot(at.alpha, at.sigma)


def blank(like: Tensor, shape: Sequence[int]) -> Tensor:
    """An uninitialised tensor of a shape that was given.

    Arguments:
        like: Gives the dtype and the device.
        shape: The shape.

    Raises:
        ValueError: If it is none.
    """
    sizes = [number(n) for n in shape] if isinstance(shape, Sequence | np.ndarray) else []
    if not sizes or not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise ValueError(
            f"the shape, or state x_T, is {shown(shape)}; give the shape of the samples, batch included, "
            "or a tensor."
        )
    return like.new_empty(sizes)  # type: ignore[arg-type]
