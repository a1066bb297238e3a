"""Samplers against an exactly Gaussian denoiser: order, moments, spaces, seeds, cost."""

import itertools
import math

import pytest
import torch
from torch import nn

from anydiff import (
    DDIM,
    DDPM,
    Cosine,
    Dense,
    DPMSolver,
    GaussianDiffusion,
    Linear,
    Polynomial,
    Ragged,
    Renoise,
    Tabulated,
    exact,
    sample,
)
from anydiff.samplers import Heun, PredictorCorrector, Uniform, follow, plan
from anydiff.samplers.loop import watched
from tests.helpers.count import Count
from tests.helpers.spaces import SIZES, draw, every_space

SCHEDULES = [Cosine(), Linear(), Polynomial(), Tabulated.linear()]
SAMPLERS = [DDIM(), DDIM(0.5), DDIM(1.0), DDPM(), DDPM("large")]
SAMPLERS += [Renoise(), Renoise(0.5)]
SAMPLERS += [DPMSolver(), DPMSolver(3), DPMSolver(eta=1.0)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
every_prediction = pytest.mark.parametrize("prediction", ["eps", "x0", "v"])


def model(schedule=Cosine(), prediction="eps", mean=0.0, std=1.0):  # noqa: B008
    return exact.gaussian(schedule, prediction, mean=mean, std=std)


class Says(nn.Module):
    """A network that answers the same to everything, or what it is asked."""

    def __init__(self, y=None):
        super().__init__()
        self.y = y

    def forward(self, x_t, t):
        return x_t if self.y is None else self.y


@pytest.mark.slow
@every_schedule
@every_prediction
def test_ddim_converges_to_the_probability_flow_at_first_order(schedule, prediction):
    x_T = draw((6, 4))
    diffusion = model(schedule, prediction, mean=0.7, std=0.5)
    predictor = diffusion.predictor()
    truth = diffusion.denoiser.flow(x_T, 1.0, 0.0)
    # from t = 1 to 0.02, so that the last jump, which is not of the order, is left out of the ratio
    errors = [
        (sample(predictor, x_T, DDIM(), steps) - truth).abs().max().item()
        for steps in (400, 800, 1600)
    ]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(0.9 < order < 1.15 for order in orders), orders


@every_schedule
@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s.convergence], ids=str)
def test_moments_of_samples_are_those_of_the_data(schedule, sampler):
    x = model(schedule, "v", mean=0.7, std=0.5).sample(
        (40000, 1), sampler=sampler, steps=400, seed=0
    )
    # five standard errors, and 1 % for the 400 steps ("large" is biased up by O(1 / steps))
    assert abs(x.mean() - 0.7) < 5 * 0.5 / 200 + 0.01
    assert abs(x.std() / 0.5 - 1) < 5 / math.sqrt(80_000) + 0.01


def test_ancestral_sampling_is_ddim_with_eta_one():
    x_T, generators = draw((5, 3)), [torch.Generator().manual_seed(3) for _ in range(2)]
    predictor = model(std=0.3).predictor()
    a = sample(predictor, x_T, DDIM(1.0), 20, seed=generators[0])
    b = sample(predictor, x_T, DDPM(), 20, seed=generators[1])
    assert torch.allclose(a, b, atol=1e-12)


def test_one_step_of_ddpm_is_ho_s_formula():
    """x_{k-1} = (x_k - beta_k / sqrt(1 - abar_k) eps) / sqrt(1 - beta_k) + sqrt(beta~_k) z."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar = torch.cumprod(1 - betas, 0)
    k, x_t, eps = 600, draw((4, 3)), draw((4, 3), 1)
    diffusion = GaussianDiffusion(Says(eps), Tabulated.linear())
    t, s = plan(Tabulated.linear(), 1000, grid=Uniform())[1000 - k : 1002 - k]
    assert t.t == pytest.approx(k / 1000) and s.t == pytest.approx((k - 1) / 1000)

    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = (x_t - betas[k - 1] / (1 - abar[k - 1]).sqrt() * eps) / (1 - betas[k - 1]).sqrt()
    small = betas[k - 1] * (1 - abar[k - 2]) / (1 - abar[k - 1])
    for variance, beta in (("small", small), ("large", betas[k - 1])):
        x_s, _ = DDPM(variance).step(
            diffusion.predictor(), x_t, t, s, (), torch.Generator().manual_seed(0)
        )
        assert torch.allclose(x_s, mean + beta.sqrt() * z, atol=1e-10)


@every_space
@every_sampler
def test_samples_stay_in_their_space(space, shape, sampler):
    diffusion = model(std=0.5)
    for seed in (5, [1, 2, 3, 4]):
        x = diffusion.sample(shape, space=space, sampler=sampler, steps=7, seed=seed)
        assert torch.allclose(space.project(x), x, atol=1e-12) and x.isfinite().all()


@every_sampler
def test_an_item_s_sample_does_not_depend_on_its_batch(sampler):
    diffusion = model(std=0.5)
    batch = Ragged.from_sizes(SIZES, centered=3)
    x = diffusion.sample((14, 5), space=batch, sampler=sampler, steps=9, seed=[1, 2, 3, 4])
    alone = Ragged.from_sizes(SIZES[1:2], centered=3)
    y = diffusion.sample((4, 5), space=alone, sampler=sampler, steps=9, seed=[2])
    assert torch.allclose(x[1:5], y, atol=1e-12)


@every_sampler
def test_a_seed_repeats_a_sample(sampler):
    diffusion = model()
    a, b, c = (diffusion.sample((3, 4), sampler=sampler, steps=5, seed=s) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.allclose(a, c)


@every_schedule
def test_a_plan_ends_on_the_data(schedule):
    levels = plan(schedule, 10)
    assert len(levels) == 11 and levels[0].t == 1
    last = levels[-1]
    assert (last.t, last.alpha, last.sigma) == (0.0, 1.0, 0.0)
    values = [v for at in levels[:-1] for v in (at.t, at.alpha, at.sigma, *at.rates)]
    assert all(type(value) is float for value in values)


def test_times_may_be_given():
    given = plan(Cosine(), [1.0, 0.3, 0.0])
    assert [at.t for at in given] == [1.0, 0.3, 0.0]
    uniform = torch.linspace(1, 0, 11, dtype=torch.float64)
    pairs = zip(plan(Cosine(), uniform), plan(Cosine(), 10, grid=Uniform()), strict=True)
    assert all(a.alpha == b.alpha and a.sigma == b.sigma for a, b in pairs)
    part = plan(Cosine(), [0.2, 0.7])  # part of the way, and upwards
    assert part[1].sigma > part[0].sigma > 0


def test_the_callback_sees_every_step():
    seen = []
    x = model(std=0.5).sample((3, 2), steps=4, seed=0, callback=seen.append)
    assert [p.step for p in seen] == [1, 2, 3, 4] and seen[0].steps == 4
    assert seen[-1].s == 0 and torch.equal(seen[-1].x_s, x)
    assert torch.allclose(seen[-1].prediction.x0, x)


def test_the_progress_bar_shows(capsys):
    model().sample((3, 2), steps=4, seed=0, progress=True)
    assert "sampling" in capsys.readouterr().err


class Broken(DDIM):
    """Its third step raises."""

    def step(self, predictor, x_t, t, s, past, generator):
        if t.t < 0.5:
            raise RuntimeError("this step")
        return super().step(predictor, x_t, t, s, past, generator)


def test_the_progress_bar_is_closed_when_a_step_raises(monkeypatch):
    bars = []

    class Bar:
        """In the place of tqdm's: done, and whether it is still open."""

        def __init__(self, total, **options):
            self.total, self.done, self.open = total, 0, True
            bars.append(self)

        def update(self):
            self.done += 1

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.open = False

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    with pytest.raises(RuntimeError, match="this step"):
        model().sample((3, 2), sampler=Broken(), steps=4, progress=True)
    model().sample((3, 2), sampler=DDIM(), steps=4, progress=True)
    assert [(bar.total, bar.done, bar.open) for bar in bars] == [(4, 3, False), (4, 4, False)]


def test_models_are_as_they_were_when_a_step_raises():
    diffusion = GaussianDiffusion(Says())
    diffusion.denoiser.inner = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    modes = [module.training for module in diffusion.modules()]
    seen = []

    class Watching(Broken):
        def step(self, predictor, x_t, t, s, past, generator):
            seen.append([module.training for module in diffusion.modules()])
            return super().step(predictor, x_t, t, s, past, generator)

    x_T = draw((3, 2))
    with pytest.raises(RuntimeError, match="this step"):
        sample(diffusion.predictor(), x_T, Watching(), 4)
    assert len(seen) == 4 and not any(itertools.chain(*seen))
    assert [module.training for module in diffusion.modules()] == modes


def test_samplers_own_their_steps():
    class Two(DDIM):
        steps = 2

    for sampler, steps in ((DDIM(), 50), (Two(), 2), (DDPM(), 50), (Heun(), 50)):
        seen = []
        sample(model().predictor(), draw((3, 2)), sampler, callback=seen.append)
        assert len(seen) == seen[-1].steps == sampler.steps == steps
        assert len(plan(Cosine(), sampler=sampler)) == steps + 1
        sample(model().predictor(), draw((3, 2)), sampler, 3, callback=seen.append)
        assert len(seen) == steps + 3
    assert PredictorCorrector(Two()).steps == 2  # those of the sampler that it corrects


def test_a_run_is_its_plan_followed():
    """What sample does, in its three parts."""
    predictor, x_T, seen = model(std=0.5).predictor(), draw((3, 2)), []
    levels = plan(predictor.schedule, 5, DDPM())
    generator = torch.Generator().manual_seed(0)
    with watched(5, seen.append, progress=False) as report:
        x = follow(predictor, x_T, DDPM(), levels, generator, report)
    assert torch.equal(x, sample(predictor, x_T, DDPM(), 5, seed=0))
    assert [(p.step, p.steps) for p in seen] == [(k, 5) for k in range(1, 6)]
    assert torch.equal(follow(predictor, x_T, DDIM(), levels), sample(predictor, x_T, DDIM(), 5))


def test_a_shape_is_as_good_as_the_noise_of_it():
    predictor = model(std=0.5).predictor()
    first = plan(predictor.schedule, 6, DDIM())[0]
    noise = predictor.space.noise(draw((3, 2)), torch.Generator().manual_seed(7))
    x_T = math.hypot(first.alpha, first.sigma) * noise
    expected = sample(predictor, x_T, DDIM(), 6)
    assert torch.equal(sample(predictor, (3, 2), DDIM(), 6, seed=7), expected)
    assert torch.equal(model(std=0.5).sample((3, 2), sampler=DDIM(), steps=6, seed=7), expected)


def test_a_run_may_start_amid_the_noise():
    predictor, x_t = model(std=0.5).predictor(), draw((3, 2))
    seen = []
    sample(predictor, x_t, DDIM(), 4, start=0.6, callback=seen.append)
    assert seen[0].t == 0.6 and seen[-1].s == 0 and len(seen) == 4
    for start in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"start is {start}; give a number in \(0, 1\]"):
            plan(Cosine(), 4, start=start)
    with pytest.raises(ValueError, match="the times are given too; begin them there"):
        plan(Cosine(), [0.6, 0.0], start=0.6)


@pytest.mark.parametrize("sampler, most", [(DDIM(), 3), (DDPM(), 5), (DPMSolver(), 6)], ids=str)
@every_prediction
def test_a_step_is_a_few_operations_and_reads_nothing_back(sampler, most, prediction):
    """The network's times are one operation and DDIM two; noise is drawn and added besides."""
    diffusion = GaussianDiffusion(Says(), Cosine(), prediction)
    predictor, x_T = diffusion.predictor(), draw((3, 4))

    def calls(steps):
        with Count() as count:
            sample(predictor, x_T, sampler, steps)
        return count.calls

    few, many = calls(10), calls(20)
    assert len(many) - len(few) <= 10 * most
    assert not any("_local_scalar_dense" in call for call in many)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: DDIM(1.5), r"eta is 1.5; give a number in \[0, 1\]"),
        (lambda: DDPM("medium"), "variance is 'medium'; choose one of 'small', 'large'"),
        (lambda: plan(Cosine(), 0), r"steps is 0; give a number in \[1, inf\)"),
        (lambda: plan(Cosine(), [0.2, 0.5, 0.0]), "fall, or rise"),
        (lambda: plan(Cosine(), [1.0, -0.5]), r"give two or more in \[0, 1\]"),
        (
            lambda: plan(Cosine(), [0.1, 0.9], sampler=DDPM()),
            r"the times rise, .*; encode with DDIM\(\)",
        ),
        (lambda: DPMSolver(4), "order is 4; choose one of 1, 2, 3"),
        (lambda: model().sample((3, 2), seed=[1, 2]), "2 generators for 3 items"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_dense_is_the_default_space():
    assert model().predictor().space == Dense()
