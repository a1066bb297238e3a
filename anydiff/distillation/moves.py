r"""What the steps of a deterministic sampler amount to: weights of the state and of the answers.

A step is linear in x_t and in the x0 that the network answers, with weights that depend on the levels
alone. So the sampler itself, run on vectors of weights in place of states, tells what n of its steps do.
Afterwards they are sums: of floats at one level, of tensors at one level for each item.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anydiff.checks import frozen
from anydiff.losses.few_steps import Rows
from anydiff.predictions import Prediction, Predictor
from anydiff.samplers import Past, Sampler, Steps, plan
from anydiff.schedules import Level, Schedule
from anydiff.spaces import Dense, Random

__all__ = ["Moves", "Row", "moves_of"]

NOISY = "it adds noise"


class Row(NamedTuple):
    """n steps from one row: numbers, or one for each item, (B,), of its own row.

    Attributes:
        levels: t, alpha and sigma of each call of the network.
        states: Of each call, the weights of x_t and of the earlier answers in the state.
        x0: The weights of x_t and of all answers in the x0 that leads to the end in one step.
    """

    levels: list[tuple[Any, Any, Any]]
    states: list[list[Any]]
    x0: list[Any]


@frozen()
class Moves:
    """A run, n steps at a time.

    Arguments:
        rows: The rows at which they begin.
        table: What the steps from each row are.
        columns: The same numbers as a tensor, (numbers of a row, rows).
    """

    rows: Rows
    table: list[Row]
    columns: Tensor

    def at(self, t: Tensor | float, like: Tensor) -> Row:
        """The steps from the row at a time: of floats, or of tensors (B,).

        Arguments:
            t: The time, one or (B,).
            like: Gives the device and the dtype.
        """
        k = self.rows.nearest(t)
        if not isinstance(t, Tensor):
            row: Row = self.table[k]
            return row
        dtype = torch.promote_types(like.dtype, torch.float32)
        columns = self.columns.to(like.device, non_blocking=True)  # the host need not wait
        found = iter(columns[:, k].to(dtype))
        calls = range(len(self.table[0].levels))
        levels = [(next(found), next(found), next(found)) for _ in calls]
        return Row(levels, [[next(found) for _ in range(j + 1)] for j in calls], list(found))


def moves_of(schedule: Schedule, times: Steps, n: int, sampler: Sampler) -> Moves:
    """The steps of a sampler, n at a time; they are kept, unless the schedule has weights, which change.

    Arguments:
        schedule: The schedule.
        times: The times of the run, falling, or the number of its steps.
        n: How many steps belong together.
        sampler: The sampler, deterministic.

    Raises:
        ValueError: If the times are none, or rise, if their steps are no multiple of n, or if the sampler
            adds noise or chooses its steps as it goes.
    """
    if isinstance(times, Tensor | np.ndarray):
        times = times.tolist()
    key: Any = tuple(times) if isinstance(times, list) else times
    if isinstance(schedule, nn.Module):
        return _measured(schedule, key, n, sampler)
    try:
        return _remembered(schedule, key, n, sampler)
    except TypeError:  # of what cannot be a key
        return _measured(schedule, key, n, sampler)


def _measured(schedule: Schedule, times: Any, n: int, sampler: Sampler) -> Moves:
    levels = plan(schedule, times, sampler)
    steps = len(levels) - 1
    if levels[0].t < levels[-1].t:
        raise ValueError("the times rise; give falling ones, which lead to the data.")
    if steps % n:
        raise ValueError(
            f"there are {steps} steps, no multiple of n = {n}; give n * rows + 1 times."
        )
    if sampler.convergence == math.inf:
        raise ValueError(
            f"the sampler {sampler} chooses its steps as it goes; give DDIM() or DPMSolver()."
        )
    table = [_row(schedule, levels[k : k + n + 1], sampler) for k in range(0, steps, n)]
    calls = max(len(row.levels) for row in table)
    table = [_padded(row, calls) for row in table]
    lists = [[*row.levels, *row.states, row.x0] for row in table]
    numbers = torch.tensor(
        [[c for some in row for c in some] for row in lists], dtype=torch.float64
    )
    return Moves(Rows([at.t for at in levels[::n]]), table, numbers.T.contiguous())


_remembered = lru_cache(maxsize=16, typed=True)(_measured)  # typed: True is no number of steps


class _Silent(Dense):
    """Where weights lie: a sampler that draws noise there is not deterministic."""

    def noise(self, x: Tensor, generator: Random = None) -> Tensor:
        raise ValueError(NOISY)


def _row(schedule: Schedule, levels: Sequence[Level], sampler: Sampler) -> Row:
    """The steps through some levels, found by the sampler's own steps on weights."""
    asked: list[tuple[float, float, float]] = []
    states: list[list[float]] = []

    def answer(x: Tensor, at: Level) -> Prediction:
        asked.append((at.t, at.alpha, at.sigma))
        states.append(x[: len(asked)].tolist())
        x0 = torch.zeros_like(x)
        x0[len(asked)] = 1.0
        return Prediction(x, x0, 1.0, 0.0, at.alpha, at.sigma, extra=x0)

    predictor, past = Predictor(answer, schedule, _Silent()), Past()
    x = torch.zeros(1 + 2 * len(levels), dtype=torch.float64)  # at most two calls a step
    x[0] = 1.0
    try:
        for t, s in pairwise(levels):
            x, p = sampler.step(predictor, x, t, s, past, None)
            past = (*past, p)[-sampler.past :] if sampler.past else ()
    except ValueError as error:
        if str(error) != NOISY:
            raise
        raise ValueError(
            f"{sampler} adds noise, so that where it leads does not follow from x_t; give a sampler that "
            "adds none, such as DDIM() or DPMSolver()."
        ) from None

    # one step of DDIM from the first level to the last: x_s = kept x_t + moved x0
    first, last = levels[0], levels[-1]
    kept = last.sigma / first.sigma
    moved = last.alpha - kept * first.alpha
    own, *others = x[: 1 + len(asked)].tolist()
    # x_t is a part of x0 only with samplers that do not solve the linear part exactly, as Euler
    own = 0.0 if abs(own - kept) < 1e-13 else (own - kept) / moved
    return Row(asked, states, [own, *(w / moved for w in others)])


def _padded(row: Row, calls: int) -> Row:
    """The row with its last call repeated, without weight, so that all rows have as many."""
    more = calls - len(row.levels)
    repeated = [[*row.states[-1], *[0.0] * k] for k in range(1, more + 1)]
    return Row(row.levels + row.levels[-1:] * more, row.states + repeated, row.x0 + [0.0] * more)
