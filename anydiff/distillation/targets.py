r"""Targets: predictors that name, at each state, the data that a student is to answer.

Each is made of other predictors and asked like any other, so that a target can be drawn from: what a
perfect student of it would draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import check_floating, check_kind, check_whole, frozen, number, read, shown
from anydiff.distillation.moves import moves_of
from anydiff.guidance.guided import guided
from anydiff.predictions import Network, Prediction, Predictor, Target, check_predictor
from anydiff.samplers import DDIM, Sampler, Steps
from anydiff.schedules import Level, Schedule
from anydiff.spaces import DENSE, Space, check_space

__all__ = ["Closer", "Nearer", "check_fit", "consistent", "known", "merged"]

Nearer = Callable[[Level], Any]
"""level -> the time of a level nearer to the data: a float, or (B,), like the level's."""

MOST = math.exp(7.5)
"""The noise level sigma / alpha above which data leave no trace, a log-SNR of -15."""


def known(x0: Tensor, schedule: Schedule, space: Space = DENSE) -> Predictor:
    """The predictor that knows the data: it answers x0 at every state.

    Its DDIM step from x_t leads to alpha_s x0 + sigma_s eps, with the eps of x_t.

    Arguments:
        x0: Data, which are projected onto the space.
        schedule: The schedule.
        space: The batch's space.

    Raises:
        ValueError: If an argument is not of its kind.
    """
    check_floating(x0=x0)
    check_kind(Schedule, "a schedule, such as Cosine()", schedule=schedule)
    check_space(space=space)
    x0 = space.project(x0)

    def answer(x_t: Tensor, at: Level) -> Prediction:
        return _named(x0, x_t, at, space)

    return Predictor(answer, schedule, space)


def merged(predictor: Predictor, times: Steps, n: int = 2, sampler: Sampler = DDIM()) -> Predictor:
    r"""n steps of a predictor as one: what a student is to answer at ``times[::n]``.

    The state and the answers x0_k of the network's calls determine where n steps lead. One step of DDIM
    leads there if its x0 is

    .. math:: x_0^* = \sum_k w_k\, \hat x_0^{(k)}, \qquad \sum_k w_k = 1

    (with :class:`~anydiff.samplers.Euler`, which is not exact even if x0 is constant, x_t is a part of it
    too). For DDIM, :math:`w_k = (\rho_{k+1} - \rho_k) / (1 - \rho_0)` with
    :math:`\rho_k = \alpha_k \sigma_n / (\sigma_k \alpha_n)`, a convex mean. The weights are computed
    in float64, once. There is no difference of states, in which float32 loses three digits at a thousand
    rows, and the step to the data is no special case.

    ``sample(merged(p, times, n), x, DDIM(), times[::n])`` is ``sample(p, x, DDIM(), times)``; a multistep
    sampler begins anew at each row.

    Arguments:
        predictor: The teacher, bound to its batch, with or without guidance.
        times: The times of the teacher's run, falling, (n * rows + 1,); or the number of its steps, on
            the grid of its sampler.
        n: How many steps are merged into one.
        sampler: The teacher's sampler, deterministic.

    Returns:
        A predictor for the rows alone, which is drawn from in these by default.

    Raises:
        ValueError: If an argument is not of its kind, if the number of steps is no multiple of n, if the
            times rise, if the sampler adds noise or chooses its steps as it goes, or if the predictor is
            distilled and not for these times.

    References:
        Progressive Distillation (Salimans & Ho, 2022), algorithm 2. https://arxiv.org/abs/2202.00512
        Knowledge Distillation in Iterative Generative Models (Luhman & Luhman, 2021).
        https://arxiv.org/abs/2101.02388
        On Distillation of Guided Diffusion Models (Meng et al., 2023).
        https://arxiv.org/abs/2210.03142
    """
    check_predictor(predictor=predictor)
    check_whole("[1, inf)", n=n)
    schedule, space = predictor.schedule, predictor.space
    moves = moves_of(schedule, times, int(n), sampler)
    if predictor.run is not None:  # here, as in training the times are on a device and are not read
        for row in moves.table:
            for t, *_ in row.levels:
                predictor.run.check(t)

    def answer(x_t: Tensor, at: Level) -> Prediction:
        row = moves.at(at.t, x_t)
        answers: list[Tensor] = []
        for level, weights in zip(row.levels, row.states, strict=True):
            x = _sum(weights, [x_t, *answers], space)
            answers.append(predictor.predict(x, Level(*level, schedule)).x0)
        return _named(_sum(row.x0, [x_t, *answers], space), x_t, at, space)

    again = partial(merged, times=times, n=n, sampler=sampler)
    return replace(guided(answer, predictor, remake=again), run=moves.rows)


def consistent(guide: Predictor, student: Predictor, nearer: Nearer) -> Predictor:
    r"""What the student itself answers after one step of a guide towards the data.

    .. math:: x_s = \mathrm{DDIM}_{t \to s}\bigl(x_t,\ \hat x_0 = \mathrm{guide}(x_t, t)\bigr), \qquad
        x_0^* = \mathrm{student}(x_s, s)

    At s = 0 it is x_s itself. With a model as the guide this is consistency distillation. With
    :func:`known` data it is consistency training: the step is then
    :math:`x_s = \alpha_s x_0 + \sigma_s \epsilon`. A :func:`merged` guide takes several steps for one.

    Arguments:
        guide: Who leads from x_t to x_s: the teacher, or known data.
        student: The student, bound to the same batch.
        nearer: level -> the time s < t: ``rows.nearer`` of :class:`~anydiff.losses.Rows`,
            :class:`Closer`, or any function.

    Raises:
        ValueError: If an argument is not of its kind, if the student's prediction does not make x0 the
            state itself at t = 0, if the guide has another schedule or another space, or if a time is no
            nearer one.

    References:
        Consistency Models (Song et al., 2023), algorithms 2 and 3. https://arxiv.org/abs/2303.01469
    """
    check_predictor(guide=guide, student=student)
    check_kind(Callable, "a function of a level, such as Closer()", nearer=nearer)
    schedule, space = student.schedule, student.space
    check_fit(schedule, space, guide=guide)
    if isinstance(student.answer, Network):
        _check_boundary(student.answer.target, schedule)

    def answer(x_t: Tensor, at: Level) -> Prediction:
        s = _level(schedule, _checked(nearer(at), at.t))
        x_s = guide.predict(x_t, at).at(*_spread(s, x_t, space))
        return _named(student.predict(x_s, s).x0, x_t, at, space)

    return guided(answer, student, guide)


def check_fit(schedule: Schedule, space: Space, **others: Predictor) -> None:
    """Raise an error unless predictors fit a student and its batch, as far as that can be told.

    Arguments:
        schedule: The student's schedule.
        space: The batch's space.
        others: The predictors, by what they are called.

    Raises:
        ValueError: If one was made for a space of another kind, or has another schedule. Of schedules
            with weights that is not known.
    """
    for name, p in others.items():
        own, there = type(space).__name__, type(p.space).__name__
        if own != there:
            raise ValueError(
                f"the {name} was made for the space {there}, and the batch lies in {own}; give its "
                "space to each part, as teacher.predictor(space, **cond) and known(x0, schedule, space)."
            )
        if p.schedule is schedule or p.schedule == schedule or isinstance(p.schedule, nn.Module):
            continue
        t = torch.linspace(0, 1, 9, dtype=torch.float64)
        same = isinstance(schedule, nn.Module) or read(t, partial(_same, schedule, p.schedule))
        if same is False:
            raise ValueError(
                f"the {name} has the schedule {p.schedule} and the student {schedule}, so that neither "
                "knows the other's states; give both the same."
            )


def _same(a: Schedule, b: Schedule, t: Tensor) -> bool:
    return all(map(torch.equal, a._pair(t), b._pair(t)))


def _checked(s: Any, t: Any) -> Any:
    """The times s, if none is later than t; on a device that is not known."""
    if not isinstance(s, Tensor) and number(s) is None:
        raise ValueError(f"nearer gives {shown(s)}; give a time, like that of the level.")
    if read(torch.as_tensor(t - s), lambda gap: (gap >= 0).all()) is False:
        raise ValueError(
            "nearer gives a time above that of the level; give one nearer to the data."
        )
    return s


def _check_boundary(target: Target, schedule: Schedule) -> None:
    """An error unless x0 is x_t, whatever the network answers, at the data."""
    try:
        a, b = target.coefficients(_level(schedule, 0.0))
    except ZeroDivisionError:
        a = b = math.nan
    if not (math.isfinite(a) and math.isfinite(b) and b != 0):
        raise ValueError(
            f"prediction {target.name!r} does not make x0 the state itself at t = 0, as a consistency "
            "model has to; the student has to predict 'v' or 'karras'."
        )


@frozen(ratio="(0, 1]", k="[0, inf)", b="[0, inf)")
class Closer:
    r"""The pairs of levels of easy consistency tuning, for :func:`consistent`.

    .. math:: \bar\sigma_s = \bar\sigma_t
        \max\bigl(0,\; 1 - r\,(1 + k \operatorname{sigmoid}(-b\, \bar\sigma_t))\bigr), \qquad
        \bar\sigma = \sigma / \alpha

    With r = 1, s is 0, and consistency training is the training of a diffusion. Noise levels above
    1800, at which data leave no trace, count as 1800: from pure noise a step leads to a level below it.

    Arguments:
        ratio: r. The paper lowers it from training to training, as 1 / q, 1 / q², ..., with q = 2, or
            uses 1 / 256 all along where an hour has to be enough.
        k: How many times longer steps are near the data, minus one.
        b: The noise level at which they become shorter is 1 / b.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Consistency Models Made Easy (Geng et al., 2025), section 3. https://arxiv.org/abs/2406.14548
    """

    ratio: float = 1 / 256
    k: float = 8.0
    b: float = 1.0

    def __call__(self, at: Level) -> Any:
        if not isinstance(at.t, Tensor):
            t = torch.tensor(at.t, dtype=torch.float64)
            return float(self(at.schedule._at(t)))
        # at alpha = 0 the ratio is infinite, and no step from there would be one
        noise = at.schedule._at(at.t.double()).noise_to_signal.clamp(max=MOST)
        kept = 1 - self.ratio * (1 + self.k * torch.sigmoid(-self.b * noise))
        return at.schedule.time(-2 * (noise * kept.clamp(min=0)).log()).to(at.t.dtype)


def _spread(at: Level, x: Tensor, space: Space) -> tuple[Any, Any]:
    """alpha and sigma of a level of floats, or of tensors, which then broadcast with x."""
    if not isinstance(at.t, Tensor):
        return at.alpha, at.sigma
    return space.expand(at.alpha, x), space.expand(at.sigma, x)


def _named(x0: Tensor, x_t: Tensor, at: Level, space: Space) -> Prediction:
    """The prediction at x_t whose x0 is the given one."""
    return Prediction(x_t, x0.to(x_t.dtype), 1.0, 0.0, *_spread(at, x_t, space))


def _level(schedule: Schedule, t: Any) -> Level:
    """The level at a time, or at times (B,); 0 is the data, even if the schedule has some noise there."""
    if not isinstance(t, Tensor):
        at = schedule.levels([t])[0]
        return at if t > 0 else replace(at, alpha=1.0, sigma=0.0)
    at = schedule._at(t)
    alpha, sigma = torch.where(t > 0, at.alpha, 1.0), torch.where(t > 0, at.sigma, 0.0)
    return replace(at, alpha=alpha, sigma=sigma)


def _sum(weights: Sequence[Any], states: Sequence[Tensor], space: Space) -> Tensor:
    """The weighted sum of states; weights are floats, or (B,)."""
    total: Any = 0.0
    for c, x in zip(weights, states, strict=True):
        if isinstance(c, Tensor):
            total = total + space.expand(c, x) * x
        elif c != 0:
            total = total + (x if c == 1 else c * x)
    return total  # type: ignore[no-any-return]
