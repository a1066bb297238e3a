"""n steps seen as one: the runs are the same, and the weights are those of the closed formula."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from anydiff import (
    DDIM,
    DDPM,
    Cosine,
    Dense,
    DPMSolver,
    Flow,
    GaussianDiffusion,
    Heun,
    Karras,
    Linear,
    Tabulated,
    autoguidance,
    classifier_free,
    exact,
    sample,
    samplers,
)
from anydiff.distillation import merged
from anydiff.distillation.moves import _measured, moves_of
from anydiff.losses import Rows
from anydiff.predictions import TARGETS, as_target
from anydiff.samplers import Euler, follow, plan
from anydiff.schedules import Learned, ZeroTerminalSNR
from tests.helpers.methods import every_sampler
from tests.helpers.runs import SCHEDULES
from tests.helpers.spaces import NODES, SPACES, draw, every_space

RUNS = [(4, 2), (1, 2), (2, 4), (5, 3)]
"""Rows, and the steps of each."""
GRIDS = [samplers.Uniform(), samplers.Quadratic(), samplers.LogSNR(), samplers.KarrasGrid()]


class Curved(nn.Module):
    """A denoiser that is no linear map, and answers x0 of size 1 at every level."""

    def __init__(self, schedule, prediction, shift=0.0):
        super().__init__()
        self.target, self.shift = as_target(prediction), shift
        self.__dict__["schedule"] = schedule

    def forward(self, x_t, t, space=Dense(), label=None):  # noqa: B008
        at = self.schedule._at(t)
        alpha, sigma, a, b, scale = (
            space.expand(c, x_t)
            for c in (
                at.alpha,
                at.sigma,
                *self.target.coefficients(at),
                self.target.input_scale(at),
            )
        )
        shift = self.shift if label is None else space.expand(label.to(x_t.dtype), x_t)
        x_t = x_t / scale
        x0 = torch.tanh(2 * alpha * x_t / (alpha**2 + sigma**2) + shift)
        return a * x0 + b * (x_t - alpha * x0) / sigma


def curved(schedule, prediction="v", shift=0.0):
    return GaussianDiffusion(Curved(schedule, prediction, shift), schedule, prediction)


def allowed(schedule):
    for name in TARGETS:
        try:
            as_target(name, schedule)
        except ValueError:
            continue
        yield name


PAIRS = [(k, name) for k, schedule in enumerate(SCHEDULES) for name in allowed(schedule)]


def times_of(schedule, steps, grid):
    return [at.t for at in plan(schedule, steps, DDIM(), grid)]


def same(a, b, most=1e-12):
    return (a - b).abs().max() <= most * (1 + a.abs().max())


def rounding(schedule, prediction):
    """1e-12, or what is left of float64 where x0 is (x_t - sigma eps) / alpha and alpha is 3e-5."""
    alpha, _ = schedule(torch.ones(1, dtype=torch.float64))
    return max(1e-12, 1e-15 / alpha.item()) if prediction in ("eps", "score") else 1e-12


# --- runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, prediction", PAIRS)
def test_a_run_of_merged_steps_is_the_run(number, prediction):
    schedule = SCHEDULES[number]
    cases = list(zip(SPACES.values(), itertools.cycle(RUNS), strict=False))
    if prediction == "v":
        cases += [(SPACES["dense"], run) for run in RUNS]
    for k, ((space, shape), (rows, n)) in enumerate(cases):
        teacher = curved(schedule, prediction).predictor(space)
        times = times_of(schedule, rows * n, GRIDS[k % 4])
        target, x = merged(teacher, times, n), space.project(draw(shape))
        expected = sample(teacher, x, DDIM(), times)
        most = rounding(schedule, prediction)
        assert same(expected, sample(target, x, DDIM(), times[::n]), most)
        assert k > 0 or same(expected, sample(target, x), most)  # its own run


@pytest.mark.parametrize("number, prediction", PAIRS)
def test_levels_as_numbers_and_as_tensors_say_the_same(number, prediction):
    schedule = SCHEDULES[number]
    for (rows, n), (space, shape) in zip(RUNS[1:3], list(SPACES.values())[3:], strict=False):
        target = merged(curved(schedule, prediction).predictor(space), rows * n, n)
        x_t, levels = draw(shape), plan(schedule, rows * n, DDIM())[::n][:-1]
        for at in levels:
            one = target.predict(space.project(x_t), at)
            all_ = target.predict(space.project(x_t), torch.full((4,), at.t, dtype=torch.float64))
            most = rounding(schedule, prediction)
            assert same(one.x0, all_.x0, most) and same(one.eps, all_.eps, most)


@every_space
def test_each_item_of_a_batch_may_be_at_another_row(space, shape):
    teacher = curved(Cosine()).predictor(space)
    target, x_t = merged(teacher, 8, 2, Heun()), space.project(draw(shape))
    levels = plan(Cosine(), 8, Heun())[:-1:2]
    t = torch.tensor([at.t for at in levels], dtype=torch.float64)
    mixed, pure = target.predict(x_t, t), [target.predict(x_t, at) for at in levels]
    for k, p in enumerate(pure):
        own = torch.zeros(4, dtype=torch.float64)
        own[k] = 1
        assert same(space.expand(own, x_t) * p.x0, space.expand(own, x_t) * mixed.x0)


@every_sampler
@pytest.mark.parametrize("schedule", [Cosine(), Linear(), Karras(), Tabulated.linear()], ids=str)
def test_a_row_of_any_sampler_is_what_its_steps_make(sampler, schedule):
    """A multistep sampler begins anew at each row, so that the steps are a map of x_t."""
    for (rows, n), (space, shape) in zip(RUNS, SPACES.values(), strict=False):
        teacher = curved(schedule).predictor(space)
        # Euler's step from pure noise is too long on the other
        grid = samplers.Uniform() if sampler == Euler() else samplers.KarrasGrid()
        levels = plan(schedule, rows * n, sampler, grid)
        target = merged(teacher, [at.t for at in levels], n, sampler)
        x = x_T = space.project(draw(shape)) * math.hypot(levels[0].alpha, levels[0].sigma)
        for k in range(0, rows * n, n):
            expected = follow(teacher, x, sampler, levels[k : k + n + 1])
            at, s = levels[k], levels[k + n]
            found = target.predict(x, at).at(s.alpha, s.sigma)
            # the states of Karras begin at 80
            assert same(expected, found, 1e-11)
            x = expected
        assert same(x, sample(target, x_T), 1e-11)


def test_a_number_of_steps_lies_on_the_grid_of_the_sampler():
    teacher, x = curved(Cosine()).predictor(), draw((4, 3))
    for sampler in (DDIM(), DPMSolver(1), Heun()):
        times = [at.t for at in plan(Cosine(), 6, sampler)]
        target = merged(teacher, 6, 3, sampler)
        assert target.run.times == tuple(times[::3])
        assert torch.equal(sample(target, x), sample(merged(teacher, times, 3, sampler), x))


@pytest.mark.parametrize(
    "kind", [torch.tensor, tuple, list, lambda times: torch.tensor(times).numpy()]
)
def test_times_of_any_kind_are_the_same(kind):
    teacher, times = curved(Cosine()).predictor(), [1.0, 0.5, 0.25, 0.125, 0.0]
    assert merged(teacher, kind(times)).run.times == (1.0, 0.25, 0.0)


def test_a_run_may_end_above_the_data():
    teacher, times, x = curved(Flow()).predictor(), [0.9, 0.7, 0.5, 0.3, 0.2], draw((4, 3))
    target, expected = merged(teacher, times, 2), sample(teacher, x, DDIM(), times)
    assert same(expected, sample(target, x)) and same(
        expected, sample(target, x, steps=[0.9, 0.5, 0.2])
    )


@every_space
def test_a_guided_run_is_folded_in(space, shape):
    label = torch.tensor([0, 1, -1, 2])
    teacher, times, x = curved(Cosine()), times_of(Cosine(), 6, None), space.project(draw(shape))
    weak = curved(Cosine(), shift=0.3)
    guided = [
        classifier_free(teacher.predictor(space, label=label), teacher.predictor(space), 1.5),
        autoguidance(teacher.predictor(space), weak.predictor(space), 0.7),
        classifier_free(
            teacher.predictor(space, label=label), teacher.predictor(space), 1.5, rescale=0.5
        ),
    ]
    for predictor in guided:
        assert same(sample(predictor, x, DDIM(), times), sample(merged(predictor, times, 3), x))
        # guidance of a target keeps its run
        outer = autoguidance(merged(predictor, times, 3), merged(predictor, times, 3), 0.5)
        assert outer.run == merged(predictor, times, 3).run


def test_merged_steps_merge_again():
    """8 -> 4 -> 2 -> 1, in the predictors themselves."""
    teacher, times, x = curved(Cosine()).predictor(), times_of(Cosine(), 8, None), draw((4, 3))
    expected, target = sample(teacher, x, DDIM(), times), teacher
    for _ in range(3):
        target = merged(target, times, 2)
        times = times[::2]
        assert same(expected, sample(target, x))
    assert len(target.run.times) == 2


def test_copies_of_a_batch_are_merged_alike():
    space = NODES
    target, x = merged(curved(Cosine()).predictor(space), 4, 2), space.project(draw((14, 5)))
    both = target.copies(2)
    assert both.run == target.run
    together = sample(both, space.join([x, -x]))
    for part, single in zip(space.separate(together, 2), (x, -x), strict=True):
        assert same(part, sample(target, single))


# --- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [*SCHEDULES, ZeroTerminalSNR(Cosine())], ids=str)
def test_the_weights_of_ddim_are_a_convex_mean_by_the_formula(schedule):
    """w_k = (rho_{k+1} - rho_k) / (1 - rho_0), rho_k = alpha_k sigma_n / (sigma_k alpha_n)."""
    for (rows, n), grid in zip(RUNS, GRIDS, strict=True):
        levels = plan(schedule, rows * n, DDIM(), grid)
        moves = moves_of(schedule, [at.t for at in levels], n, DDIM())
        for k, row in enumerate(moves.table):
            part = levels[k * n : (k + 1) * n + 1]
            end = part[-1].sigma / part[-1].alpha
            rho = [at.alpha / at.sigma * end for at in part[:-1]] + [1.0]
            own, *weights = row.x0
            expected = [(b - a) / (1 - rho[0]) for a, b in itertools.pairwise(rho)]
            assert own == 0 and weights == pytest.approx(expected, abs=1e-12)
            assert min(weights) >= 0 and sum(weights) == pytest.approx(1, abs=1e-12)


@every_sampler
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_the_weights_of_every_sampler_sum_to_one(sampler, schedule):
    """An x0 that is the same everywhere is where a run leads; for Euler, on a straight line only."""
    if sampler == Euler() and schedule != Flow():
        return
    for row in moves_of(schedule, times_of(schedule, 8, samplers.LogSNR()), 4, sampler).table:
        own, *weights = row.x0
        assert own == pytest.approx(0, abs=1e-9) and sum(weights) == pytest.approx(1, abs=1e-9)


def test_the_first_answer_of_two_moves_towards_the_second():
    """w = (1 - rho_m) / (1 - rho_t) of the second; at the data it is the only one, without a branch."""
    *_, last = moves_of(Cosine(), [0.75, 0.5, 0.25, 0.1, 0.0], 2, DDIM()).table
    assert last.x0 == [0.0, 0.0, 1.0]
    *_, last = moves_of(Cosine(), [0.75, 0.5, 0.25, 0.1, 1e-3], 2, DDIM()).table
    assert 0 < last.x0[1] < 0.02 and last.x0[2] == pytest.approx(1 - last.x0[1], abs=1e-15)


def test_float32_keeps_its_digits_at_thousands_of_rows():
    """The published target loses them: it divides a difference of states by that of their levels."""
    rows = 4096
    model = exact.mixture(Cosine(), "v", means=[[-1.0], [1.0]], stds=0.5)
    teacher, levels = model.predictor(), plan(Cosine(), 2 * rows, DDIM(), samplers.Uniform())
    target = merged(teacher, [at.t for at in levels], 2)
    k = torch.arange(0, rows, 16) * 2
    t = torch.tensor([levels[i].t for i in k], dtype=torch.float64)
    at = Cosine().at(t)
    x = (at.alpha * 0.8 + at.sigma * draw(len(k)))[:, None].float()
    right = target.predict(x.double(), t).x0
    found = target.predict(x, t.float()).x0.double()

    def step(x, p, levels_):
        alpha, sigma = (torch.tensor([getattr(level, c) for level in levels_])[:, None] for c in
                        ("alpha", "sigma"))  # fmt: skip
        return alpha * p.x0 + sigma * p.eps, alpha, sigma

    first, middle, end = ([levels[i + j] for i in k] for j in range(3))
    p = teacher.predict(x, torch.tensor([at.t for at in first]))
    x_m, *_ = step(x, p, middle)
    x_s, alpha_s, sigma_s = step(
        x_m, teacher.predict(x_m, torch.tensor([at.t for at in middle])), end
    )
    alpha, sigma = at.alpha.float()[:, None], at.sigma.float()[:, None]
    ratio = sigma_s / sigma
    published = ((x_s - ratio * x) / (alpha_s - ratio * alpha)).double()
    assert x_s.dtype == torch.float32
    # the rounding of t and of x_t in the network's own answer is a part of it: 8 times 6e-8 at most
    assert (found - right).abs().max() < 1e-6
    assert (published - right).abs().max() > 100 * (found - right).abs().max()


# --- cost ---------------------------------------------------------------------------------------


class Counted(Curved):
    calls = 0

    def forward(self, *args, **options):
        self.calls += 1
        return super().forward(*args, **options)


def test_a_merged_answer_asks_once_for_each_step():
    for sampler, calls in ((DDIM(), [2, 2, 2]), (DPMSolver(), [2, 2, 2]), (Heun(), [4, 4, 4])):
        teacher = GaussianDiffusion(Counted(Cosine(), "v"), Cosine(), "v")
        target, counts = merged(teacher.predictor(), 6, 2, sampler), []
        for at in plan(Cosine(), 6, sampler)[:-1:2]:
            before = teacher.denoiser.calls
            target.predict(draw((4, 3)), at)
            counts.append(teacher.denoiser.calls - before)
        assert counts == calls


def test_the_weights_are_found_once(monkeypatch):
    """For all batches of a run, and of models that are equal; not for a schedule that learns."""
    from anydiff.distillation import moves

    teacher, times = curved(Cosine()), torch.linspace(1, 0.1, 65).tolist()
    moves._remembered.cache_clear()
    first = merged(teacher.predictor(), times, 4).run
    monkeypatch.setattr(moves, "_row", None)
    for again in (times, tuple(times), torch.tensor(times, dtype=torch.float64)):
        assert merged(curved(Cosine()).predictor(), again, 4).run is first
    with pytest.raises(TypeError):
        merged(teacher.predictor(), times[:-4], 4)


def test_a_learned_schedule_is_read_anew():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        schedule = Learned(width=4)
    teacher, x = GaussianDiffusion(Curved(schedule, "v"), schedule, "v"), draw((4, 3))
    times = [1.0, 0.6, 0.3, 0.2, 0.0]
    before = sample(merged(teacher.predictor(), times), x)
    with torch.no_grad():
        schedule.gamma_1 += 3.0
    after = sample(merged(teacher.predictor(), times), x)
    assert same(after, sample(teacher.predictor(), x, DDIM(), times)) and not same(before, after)


def test_the_network_is_asked_only_where_the_run_is():
    target = merged(curved(Cosine()).predictor(), [1.0, 0.75, 0.5, 0.25, 0.0])
    asked = []
    sample(target, draw((4, 3)), callback=lambda progress: asked.append((progress.t, progress.s)))
    assert asked == [(1.0, 0.5), (0.5, 0.0)]
    for t in (0.75, torch.tensor([1.0, 0.5, 0.5, 0.25])):
        with pytest.raises(
            ValueError, match=r"asked at t = .*; it was trained for 2 steps of DDIM"
        ):
            target.predict(draw((4, 3)).float(), t)


# --- errors -------------------------------------------------------------------------------------

NOISY = [
    DDPM(), DDPM("learned"), DDIM(1.0), DDIM(0.5), DPMSolver(eta=1.0), Heun(churn=10.0),
    samplers.EulerMaruyama(), samplers.PredictorCorrector(), samplers.AnnealedLangevin(5),
]  # fmt: skip


@pytest.mark.parametrize("sampler", NOISY, ids=str)
def test_a_sampler_that_adds_noise_is_named(sampler):
    with pytest.raises(ValueError, match=r"adds noise.*such as DDIM\(\)") as raised:
        merged(curved(Linear()).predictor(), 4, 2, sampler)
    assert str(sampler) in str(raised.value)


@pytest.mark.parametrize("sampler", [samplers.AdaptiveODE(), samplers.AdaptiveSDE()], ids=str)
def test_a_sampler_that_chooses_its_steps_is_named(sampler):
    with pytest.raises(ValueError, match=r"Adaptive.* chooses its steps as it goes; give DDIM"):
        merged(curved(Linear()).predictor(), 4, 2, sampler)


@pytest.mark.parametrize(
    "times, n, message",
    [
        (5, 2, r"there are 5 steps, no multiple of n = 2; give n \* rows \+ 1 times"),
        ([1.0, 0.5, 0.0], 3, "there are 2 steps, no multiple of n = 3"),
        ([0.0, 0.5, 1.0], 2, "the times rise; give falling ones"),
        ([1.0], 1, "give two or more in"),
        ([1.0, 0.2, 0.5], 2, "give two or more in .* that fall"),
        ([1.0, math.nan, 0.0], 2, "give two or more in"),
        (4, 0, r"n is 0; give a number in \[1, inf\)"),
        (4, 1.5, "n is 1.5; give a whole number"),
        (0, 1, r"steps is 0; give a number in \[1, inf\)"),
    ],
)
def test_runs_that_are_none_are_named(times, n, message):
    with pytest.raises(ValueError, match=message):
        merged(curved(Cosine()).predictor(), times, n)


def test_a_student_is_not_merged_along_other_rows():
    student = replace(curved(Cosine()).predictor(), run=Rows([1.0, 0.75, 0.5, 0.25, 0.0]))
    assert merged(student, [1.0, 0.75, 0.5, 0.25, 0.0]).run.times == (1.0, 0.5, 0.0)
    for times in ([1.0, 0.7, 0.5, 0.25, 0.0], [1.0, 0.75, 0.4, 0.25, 0.0]):
        with pytest.raises(ValueError, match=r"asked at t = 0.[47]; it was trained for 4 steps"):
            merged(student, times)


def test_numbers_that_look_alike_are_not_taken_for_each_other():
    teacher = curved(Cosine()).predictor()
    merged(teacher, 1, 1)
    for steps in (True, 1.0):
        with pytest.raises(ValueError, match="steps is "):
            merged(teacher, steps, 1)
    assert _measured(Cosine(), 1, 1, DDIM()).rows == merged(teacher, 1, 1).run
