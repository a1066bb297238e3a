"""The rows of a run: the training times of a distilled model, which is drawn from at these alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isclose
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import check_range, frozen, number, numbers, read, shown
from anydiff.losses.times import Times
from anydiff.predictions import OwnRun
from anydiff.samplers import DDIM, Sampler
from anydiff.schedules import Level, Schedule
from anydiff.schedules.schedule import once

__all__ = ["Rows"]


@frozen(sampler=Sampler)
class Rows(Times):
    """The times of one run, for a model that is trained for that run alone.

    :func:`anydiff.sample` takes the times and the sampler of a model whose `times` these are. If such a
    model is asked at another time, an error says what it was trained for.

    Arguments:
        times: The times of the run, falling, (n + 1,): the n rows, and the time at which the run ends.
        sampler: The sampler of the run.

    Raises:
        ValueError: If the times are not two or more in [0, 1] that fall.
    """

    times: Sequence[float]
    sampler: Sampler = DDIM()

    def __post_init__(self) -> None:
        times = numbers(self.times)
        if len(times) < 2 or not ((times.diff() < 0).all() and times[0] <= 1 and times[-1] >= 0):
            raise ValueError(
                f"times is {shown(self.times)}; give falling times in [0, 1], the last one 0."
            )
        object.__setattr__(self, "times", tuple(times.tolist()))

    @property
    def run(self) -> OwnRun:  # type: ignore[override]
        return self

    @once
    def _all(self) -> Any:
        return torch.tensor(self.times, dtype=torch.float64)

    @once
    def _middles(self) -> tuple[list[float], Tensor]:
        """The times between two rows, rising, as a list and as a tensor."""
        middles = [(a + b) / 2 for a, b in pairwise(self.times[-2::-1])]
        return middles, torch.tensor(middles, dtype=torch.float64)

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        n = len(self.times) - 1
        rows: Tensor = self._all.to(u.device, non_blocking=True)
        return rows[n - 1 - (u.double() * n).long().clamp(max=n - 1)]

    def nearest(self, t: Tensor | float) -> Any:
        """The number of the row that is nearest to a time, counted from the noise: like t, whole.

        Arguments:
            t: Times, of any shape.
        """
        rising, bounds = self._middles
        if not isinstance(t, Tensor):
            # not bisect, which no compiler traces
            return len(rising) - sum(middle <= t for middle in rising)
        return len(rising) - torch.bucketize(
            t.double().contiguous(), bounds.to(t.device, non_blocking=True)
        )

    def nearer(self, at: Level) -> Any:
        """The time of the run after that of a level, nearer to the data: like the level's.

        Arguments:
            at: A level at rows.
        """
        k = self.nearest(at.t) + 1
        if not isinstance(k, Tensor):
            return self.times[k]
        return self._all.to(k.device, non_blocking=True)[k].to(at.t.dtype)

    def check(self, t: Tensor | float) -> None:
        """Raise an error unless times are rows, or 0; the values of a tensor are checked on a CPU only.

        Arguments:
            t: Times, one or (B,).

        Raises:
            ValueError: If one is not.
        """
        if not isinstance(t, Tensor):
            fits = t == 0 or isclose(t, self.times[self.nearest(t)], rel_tol=1e-5)
        else:
            fits = read(t, lambda t: self._fits(t).all()) is not False
        if not fits:
            t = t[~self._fits(t)][0] if isinstance(t, Tensor) else t
            raise ValueError(f"the model is asked at t = {t:.4g}; {self._told()}.")

    def _fits(self, t: Tensor) -> Tensor:
        near: Tensor = self._all[self.nearest(t)]
        return (t == 0) | ((t - near).abs() <= 1e-5 * near)

    def _told(self) -> str:
        num = len(self.times) - 1
        rows = ", ".join(f"{t:.4g}" for t in self.times[:-1][:8]) + ", ..." * (num > 8)
        return (
            f"it was trained for {num} step{'s' * (num > 1)} of {type(self.sampler).__name__}, from t = "
            f"{rows}: begin {'at one of these' if num > 1 else 'there'}, and leave the steps out"
        )

    def chosen(self, sampler: Any, steps: Any, start: float) -> tuple[Any, Any, float]:
        """The sampler, the times and the start of a run that is asked for.

        Arguments:
            sampler: A sampler; None takes that of the rows. Another one, which the model was not trained
                for, needs times that are given.
            steps: The number of the rows from the start on, or times among them; None takes them all.
            start: The first time: a row, from which the run goes on; or 1, the first one.

        Raises:
            ValueError: If the steps are another number, or rise, or if the start is no row, or the
                sampler another one.
        """
        count, given = number(steps), numbers(steps)
        if len(given) > 1 and given[0] < given[-1]:
            raise ValueError(
                "the times rise, and the model is distilled: it knows one run to the data, and no way "
                "back; ask its teacher."
            )
        if count is not None or steps is None:
            if sampler not in (None, self.sampler):
                raise ValueError(
                    f"the sampler is {shown(sampler)}, and the model was trained for steps of "
                    f"{type(self.sampler).__name__}, from which others lead astray; leave the sampler "
                    "out, or give the times too."
                )
            check_range("(0, 1]", start=start)
            if start != 1:  # of a run that begins below 1 too
                self.check(float(start))
            left = [t for t in self.times if t <= start * (1 + 1e-5)]
            if count is not None and count != len(left) - 1:
                where = f", from t = {left[0]:.4g} on" if start != 1 else ""
                raise ValueError(f"steps is {shown(steps)}{where}; {self._told()}.")
            steps, start = left, 1.0
        return self.sampler if sampler is None else sampler, steps, start
