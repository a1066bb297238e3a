"""The student's own answer, nearer to the data: what is learnt is the map of as many DDIM steps."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from anydiff import (
    DDIM,
    Cosine,
    Dense,
    Flow,
    GaussianDiffusion,
    Karras,
    Linear,
    Tabulated,
    exact,
    sample,
)
from anydiff.distillation import Closer, Distillation, consistent, known, merged
from anydiff.losses import (
    P2,
    KarrasWeighting,
    Likelihood,
    MinSNR,
    Plain,
    PseudoHuber,
    Rows,
    Sigmoid,
    TruncatedSNR,
    Unit,
)
from anydiff.predictions import TARGETS
from anydiff.samplers import Uniform, plan
from anydiff.schedules import Geometric, ZeroTerminalSNR
from tests.helpers.runs import SCHEDULES
from tests.helpers.spaces import SPACES, draw, every_space
from tests.helpers.students import fit, linear

MEAN, STD = 0.3, 0.5
DATA = [Cosine(), ZeroTerminalSNR(Cosine()), Linear(), Flow(), Karras(), Tabulated.linear()]
every_schedule = pytest.mark.parametrize("schedule", DATA, ids=str)
CONSISTENT = ("eps", "v", "velocity", "karras")
"""The predictions that make x0 the state itself at the data."""


def multiplier(t, s, variance=STD**2):
    """What a step of DDIM from t to s multiplies x - alpha mean by, for normal data."""
    above = s.alpha * t.alpha * variance + s.sigma * t.sigma
    return above / (t.alpha**2 * variance + t.sigma**2)


def products(levels):
    """c_i = c_{i-1} m(t_i -> t_{i-1}), c_0 = 1: the DDIM map from each row to the data, noise first."""
    c = [1.0]
    for s, t in itertools.pairwise(levels[::-1]):
        c.append(c[-1] * multiplier(t, s))
    return c[:0:-1]


def training(student, guide=None, nearer=None):
    """The target of consistency training, or of distillation if there is a guide."""

    def target(x0, space, **cond):
        first = known(x0, student.schedule, space) if guide is None else guide(space)
        own = student.predictor(space, **cond)
        return consistent(first, own, nearer or student.times.nearer)

    return target


# --- what is learnt -----------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("prediction", ["v", "karras", "velocity"])
@pytest.mark.parametrize("rows", [1, 4])
def test_the_least_loss_is_the_map_of_ddim(schedule, prediction, rows):
    """Of consistency training and of distillation from the exact teacher, by normal equations."""
    if prediction == "velocity" and not math.isfinite(schedule.levels([0.0])[0].rates[1]):
        return
    levels = plan(schedule, rows, DDIM(), Uniform())
    times = [at.t for at in levels]
    teacher = exact.gaussian(schedule, "v", mean=MEAN, std=STD)
    for guide in (None, teacher.predictor):
        student = linear(times, schedule, prediction, MEAN, weighting=Unit("x0"))
        fit(student, training(student, guide), MEAN, STD)
        assert student.denoiser.k.tolist() == pytest.approx(products(levels), abs=1e-12, rel=1e-12)
        x = MEAN * levels[0].alpha + draw((5, 1))
        once = student.predictor().predict(x, levels[0]).x0
        assert torch.allclose(once, sample(teacher.predictor(), x, DDIM(), times), atol=1e-12)


def test_it_meets_the_flow_at_order_one():
    """Relative errors of the deviation on even rows, from one call of as many rows as steps."""
    variance, errors = 0.25, []
    for rows in (4, 8, 16, 32, 64):
        times = [at.t for at in plan(Cosine(-20, 20), rows, DDIM(), Uniform())]
        student = linear(times, Cosine(-20, 20), weighting=Unit("x0"))
        fit(student, training(student), 0.0, variance**0.5)
        alpha, sigma = Cosine(-20, 20)(torch.ones(1).double())
        exactly = math.sqrt(variance / (alpha**2 * variance + sigma**2))
        errors.append(student.denoiser.k[0].item() / exactly - 1)
    assert errors == pytest.approx([-0.333, -0.177, -0.092, -0.047, -0.024], abs=5e-4)


def test_a_guide_of_merged_steps_gives_the_map_of_all_of_them():
    levels = plan(Cosine(), 12, DDIM(), Uniform())
    teacher = exact.gaussian(Cosine(), "v", mean=MEAN, std=STD)
    times = [at.t for at in levels]

    def guide(space):
        return merged(teacher.predictor(space), times, 3)

    student = linear(times[::3], Cosine(), mean=MEAN, weighting=Unit("x0"))
    fit(student, training(student, guide), MEAN, STD)
    assert student.denoiser.k.tolist() == pytest.approx(products(levels)[::3], abs=1e-12)


@pytest.mark.parametrize("prediction", CONSISTENT)
@pytest.mark.parametrize("name", SPACES)
def test_a_perfect_student_has_no_loss_with_a_perfect_guide(prediction, name):
    """A guide that leads along the exact flow: its x0 is that whose step of DDIM ends there."""
    (space, shape), rows = SPACES[name], Rows([1.0, 0.8, 0.45, 0.2, 0.0])
    data = exact.Gaussian(Cosine(), mean=MEAN, std=STD)

    def guide(space):
        def answer(x_t, at):
            # one level for all items here
            t = at.t[0].item()
            s = Cosine().levels([rows.times[rows.nearest(t) + 1]])[0]
            alpha, sigma = (1.0, 0.0) if s.t == 0 else (s.alpha, s.sigma)
            ratio = sigma / at.sigma[0]
            x_s = data.flow(x_t, t, s.t, space)
            x0 = (x_s - ratio * x_t) / (alpha - ratio * at.alpha[0])
            return known(x0, Cosine(), space).predict(x_t, at)

        return replace(known(draw(shape), Cosine(), space), answer=answer)

    x0, noise = draw(shape), space.project(draw(shape, 1))
    for std in (STD, 1.2 * STD):
        own = exact.consistency(Cosine(), prediction, mean=MEAN, std=std)
        own.times, own.weighting = rows, Unit("x0")
        objective = Distillation(own, training(own, guide))
        losses = [objective.loss(x0, t, space=space, noise=noise) for t in rows.times[:-1]]
        if std == STD:
            assert all((loss < 1e-20).all() for loss in losses)
        else:  # the flow of other data: it is told at the row before the data
            assert losses[-1].sum() > 1e-3


# --- special cases ------------------------------------------------------------------------------

WEIGHTINGS = [
    Plain(), Unit("x0"), MinSNR(), TruncatedSNR(), P2(), KarrasWeighting(), Likelihood(), Sigmoid(-1.0),
    PseudoHuber(0.1),
]  # fmt: skip


class Bent(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x_t, t, space=Dense()):  # noqa: B008
        return torch.sin(self.scale * x_t + space.expand(t, x_t))


def gradient(objective, student, *args, **options):
    loss = objective.loss(*args, generator=torch.Generator().manual_seed(3), **options)
    return loss, torch.autograd.grad(loss.sum(), list(student.parameters()))


@every_space
@pytest.mark.parametrize("prediction", TARGETS)
def test_training_at_the_data_is_that_of_a_diffusion(space, shape, prediction):
    """With s = 0, and with known data as the target itself; its loss, its gradient and its draws."""
    for weighting in WEIGHTINGS:
        student = GaussianDiffusion(Bent(), Cosine(), prediction, weighting)
        expected, by = gradient(student, student, draw(shape), space=space)
        targets = [lambda x0, space: known(x0, Cosine(), space)]
        if prediction in CONSISTENT:
            targets += [training(student, nearer=n) for n in (lambda at: 0.0, Closer(1.0))]
        for target in targets:
            found, by_too = gradient(
                Distillation(student, target), student, draw(shape), space=space
            )
            # eps is (x_t - alpha x0) / sigma of float64, where sigma is 1e-3 at the least
            assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
            assert all(map(torch.allclose, by, by_too))


def test_the_gradient_stops_at_the_target():
    """The derivative of the student's own answer alone: that of the loss towards a constant."""
    rows = [1.0, 0.5, 0.0]
    student = linear(rows, Cosine())
    student.denoiser.k.data = torch.tensor([0.3, 0.8], dtype=torch.float64)
    x0, eps = draw((6, 1)), draw((6, 1), 1)
    loss = Distillation(student, training(student)).loss(x0, 1.0, noise=eps).sum()
    (by,) = torch.autograd.grad(loss, student.denoiser.k)
    assert by[0] != 0 and by[1] == 0  # row 2 says the target of row 1
    alpha, sigma = (c.item() for c in Cosine()(torch.ones(1).double()))
    x_t = alpha * x0 + sigma * eps
    half = Cosine().levels([0.5])[0]
    target = 0.8 * (half.alpha * x0 + half.sigma * eps)
    k = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    # the output is v, and its error that of x0 over sigma
    (((k * x_t - target) / sigma) ** 2).sum().backward()
    assert by[0].item() == pytest.approx(k.grad.item(), rel=1e-9)


@every_space
def test_known_data_are_what_they_are(space, shape):
    x, eps, t = (
        space.project(draw(shape)),
        space.project(draw(shape, 1)),
        torch.tensor([0.2, 0.4, 0.6, 0.9]),
    )
    at = Cosine().at(t.double())
    alpha, sigma = (space.expand(c, x) for c in (at.alpha, at.sigma))
    p = known(draw(shape), Cosine(), space).predict(alpha * x + sigma * eps, at)
    assert torch.allclose(p.x0, x, atol=1e-12) and torch.allclose(p.eps, eps, atol=1e-11)
    drawn = sample(known(draw(shape), Cosine(), space), eps, DDIM(), 3)
    assert torch.allclose(drawn, x, atol=1e-12)


@every_space
def test_levels_as_numbers_and_as_tensors_say_the_same(space, shape):
    student = GaussianDiffusion(Bent(), Cosine(), "v")
    guide = GaussianDiffusion(Bent(), Cosine(), "eps").predictor(space)
    x_t, t = space.project(draw(shape)), 0.6
    for nearer in (
        Rows([1.0, 0.6, 0.3, 0.0]).nearer,
        Closer(0.1),
        lambda at: 0.0,
        lambda at: at.t / 2,
    ):
        target = consistent(guide, student.predictor(space), nearer)
        one = target.predict(x_t, Cosine().levels([t])[0])
        many = target.predict(x_t, torch.full((4,), t, dtype=torch.float64))
        assert torch.allclose(one.x0, many.x0, atol=1e-12)


@every_space
def test_an_item_s_target_is_its_own(space, shape):
    """Of each at its own level, one of them the data: as alone, and in the space."""
    student = GaussianDiffusion(Bent(), Cosine(), "v").predictor(space)
    guide = GaussianDiffusion(Bent(), Cosine(), "eps").predictor(space)
    x_t, ends = space.project(draw(shape)), [0.1, 0.0, 0.5, 0.3]
    t = torch.full((4,), 0.6, dtype=torch.float64)
    mixed = consistent(guide, student, lambda at: torch.tensor(ends)).predict(x_t, t).x0
    assert torch.allclose(space.project(mixed), mixed, atol=1e-12)
    for k, s in enumerate(ends):
        of_k = (torch.arange(4) == k).double()
        alone = consistent(guide, student, lambda at, s=s: torch.tensor(s)).predict(x_t, t).x0
        assert torch.allclose(space.expand(of_k, mixed) * (mixed - alone), 0 * mixed, atol=1e-12)


# --- pairs of levels ----------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [*SCHEDULES, ZeroTerminalSNR(Cosine())], ids=str)
@pytest.mark.parametrize(
    "closer", [Closer(), Closer(0.5), Closer(0.1, 2.0, 0.5), Closer(0.3, 0.0, 0.0)]
)
def test_the_nearer_level_is_that_of_the_formula(schedule, closer):
    t = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    noise = schedule.at(t).noise_to_signal
    s = closer(schedule.at(t))
    share = closer.ratio * (1 + closer.k / (1 + (closer.b * noise).exp()))
    expected = noise * (1 - share).clamp(min=0)
    clean, _ = (math.exp(-0.5 * at) for at in schedule.ends().tolist())
    inside = (noise < math.exp(7.5)) & (expected > clean)
    assert inside.sum() > (
        1 if isinstance(schedule, Geometric) else 5
    )  # whose end is far from noise
    assert torch.allclose(schedule.at(s).noise_to_signal[inside], expected[inside], rtol=1e-6)
    assert (s[expected <= clean] == 0).all() and (s < t).all() and (s >= 0).all()
    alone = [closer(at) for at in schedule.levels(t[::7])]
    assert alone == pytest.approx(s[::7].tolist(), abs=1e-12)
    low = closer(schedule.at(t.float()))
    assert low.dtype == torch.float32 and (low < t.float()).all()


@pytest.mark.parametrize(
    "schedule", [Flow(), ZeroTerminalSNR(Cosine()), ZeroTerminalSNR(Linear())], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_out_of_pure_noise_there_is_a_nearer_level(schedule, dtype):
    """Where sigma / alpha is infinite and r times it too: the level of a log-SNR of -15, and below."""
    for ratio in (1 / 256, 0.5, 1.0):
        for b in (0.0, 1.0):
            t = torch.tensor([1.0, 1 - 1e-6, 1 - 1e-4, 0.0], dtype=dtype)
            s = Closer(ratio, 8.0, b)(schedule.at(t))
            assert s.isfinite().all() and (s[:3] < t[:3]).all() and s[3] == 0
            assert ratio < 1 or (s == 0).all()
            assert s[0] > 0.99 or ratio > 0.1
    student = GaussianDiffusion(Bent(), schedule, "v").to(dtype)
    objective = Distillation(student, training(student, nearer=Closer()))
    loss = objective.loss(draw((4, 3)).to(dtype), 1.0, noise=draw((4, 3), 1).to(dtype))
    loss.sum().backward()
    assert loss.isfinite().all() and student.denoiser.scale.grad.isfinite()


def test_the_ratio_of_a_whole_is_the_data():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert (Closer(1.0)(Cosine().at(t)) == 0).all() and Closer(1.0)(Cosine().levels([0.7])[0]) == 0


def test_closer_pairs_are_closer():
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    gaps = [(t - Closer(2.0**-stage)(Cosine().at(t))) for stage in range(1, 9)]
    assert all((a > b).all() for a, b in itertools.pairwise(gaps[2:]))


@pytest.mark.parametrize("schedule", [Cosine(), Flow(), Karras()], ids=str)
@pytest.mark.parametrize("prediction", CONSISTENT)
def test_without_noise_there_is_nothing_to_learn(schedule, prediction):
    """At t = 0 the loss is finite, whatever a division by sigma = 0 says."""
    if schedule == Flow() and prediction == "eps":
        return
    student = GaussianDiffusion(Bent(), schedule, prediction, Unit("x0"))
    for nearer in (Closer(), lambda at: 0.0):
        loss = Distillation(student, training(student, nearer=nearer)).loss(
            draw((4, 3)), 0.0, noise=draw((4, 3), 1)
        )
        loss.sum().backward()
        assert loss.isfinite().all() and student.denoiser.scale.grad.isfinite()


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["x0", "score"])
@pytest.mark.parametrize("schedule", [Cosine(), Karras(), Tabulated.linear()], ids=str)
def test_a_prediction_that_does_not_keep_the_data_is_named(prediction, schedule):
    student = GaussianDiffusion(Bent(), schedule, prediction).predictor()
    with pytest.raises(
        ValueError, match=rf"prediction '{prediction}' does not make x0 the state itself"
    ):
        consistent(known(draw((4, 3)), schedule), student, Closer())


@pytest.mark.parametrize("prediction", CONSISTENT)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_others_are_the_state_itself_at_the_data(prediction, schedule):
    try:
        student = GaussianDiffusion(Bent(), schedule, prediction)
    except ValueError:
        return  # not for this schedule at all
    x = draw((4, 3))
    try:
        target = consistent(known(x, schedule), student.predictor(), lambda at: 0.0)
    except ValueError:  # whose rates are infinite at the data
        assert prediction == "velocity" and not math.isfinite(schedule.levels([0.0])[0].rates[1])
        return
    x_t = draw((4, 3), 1)
    assert torch.allclose(target.predict(x_t, 0.5).x0, x, atol=1e-12)


def test_a_guide_of_another_schedule_is_named():
    student = GaussianDiffusion(Bent(), Cosine(), "v").predictor()
    with pytest.raises(
        ValueError, match=r"the guide has the schedule Linear.* and the student Cosine"
    ):
        consistent(known(draw((4, 3)), Linear()), student, Closer())
    consistent(known(draw((4, 3)), Cosine()), student, Closer())


@pytest.mark.parametrize("s", [0.7, torch.full((4,), 0.7), torch.tensor([0.1, 0.2, math.nan, 0.1])])
def test_a_level_that_is_not_nearer_is_named(s):
    student = GaussianDiffusion(Bent(), Cosine(), "v").predictor()
    target = consistent(known(draw((4, 3)), Cosine()), student, lambda at: s)
    with pytest.raises(ValueError, match="nearer gives a time above that of the level"):
        target.predict(draw((4, 3)), torch.full((4,), 0.6, dtype=torch.float64))


@pytest.mark.parametrize("s, told", [(None, "None"), ("0.5", "'0.5'"), (True, "True")])
def test_a_level_that_is_no_time_is_named(s, told):
    student = GaussianDiffusion(Bent(), Cosine(), "v").predictor()
    target = consistent(known(draw((4, 3)), Cosine()), student, lambda at: s)
    with pytest.raises(ValueError, match=f"nearer gives {told}; give a time, like that of the"):
        target.predict(draw((4, 3)), 0.6)


def test_a_consistency_model_guided_along_rows_is_for_these():
    own = GaussianDiffusion(Bent(), Cosine(), "v").predictor()
    target = consistent(merged(own, [1.0, 0.7, 0.5, 0.2, 0.0]), own, Closer())
    assert target.run.times == (1.0, 0.5, 0.0)


def test_a_student_of_rows_is_asked_at_its_rows_alone():
    student = GaussianDiffusion(Bent(), Cosine(), "v", times=Rows([1.0, 0.5, 0.0]))
    objective = Distillation(student, training(student, nearer=Closer()))
    with pytest.raises(ValueError, match=r"asked at t = .*; it was trained for 2 steps"):
        objective.loss(draw((4, 3)))
    late = GaussianDiffusion(Bent(), Cosine(), "v", times=Rows([0.9, 0.5, 0.2]))
    with pytest.raises(ValueError, match=r"asked at t = 0.2; it was trained for 2 steps"):
        Distillation(late, training(late)).loss(draw((4, 3)))
