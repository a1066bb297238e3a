"""Samplers that add noise, against normal data: their moments are exact numbers, without sampling.

For a Gaussian denoiser a run is linear in the first state and in every draw of noise; helpers/runs.py
finds the coefficients.
"""

import math

import pytest
import torch
from torch import nn

from anydiff import (
    DDIM,
    DDPM,
    VE,
    Cosine,
    DPMSolver,
    Flow,
    GaussianDiffusion,
    Karras,
    Linear,
    Ragged,
    Renoise,
    Tabulated,
    exact,
    sample,
)
from anydiff.samplers import (
    AnnealedLangevin,
    EulerMaruyama,
    LogSNR,
    OptimalVariance,
    PredictorCorrector,
    Quadratic,
    Sampler,
    Uniform,
    Variances,
    plan,
)
from tests.helpers.count import Count
from tests.helpers.normal import MEAN, SCHEDULES, STD, kolmogorov, marginal, moments, times
from tests.helpers.runs import response
from tests.helpers.spaces import SIZES, draw, every_space

# of normal data with this deviation, see test_optimal.py
LOGSNR = [-10.0 + 0.5 * k for k in range(48)]
OPTIMAL = OptimalVariance(LOGSNR, [1 / (1 + STD**2 * math.exp(x)) for x in LOGSNR])
SAMPLERS = [
    EulerMaruyama(),
    PredictorCorrector(),
    PredictorCorrector(DDIM(), corrector_steps=2, snr=0.1),
    PredictorCorrector(DPMSolver(eta=1.0), snr=0.1),
    AnnealedLangevin(3, 0.5),
    DDPM(),
    DDPM("large"),
    DDPM(OPTIMAL),
    DDIM(0.5),
    DDIM(1.0),
    DDIM(0.0, OPTIMAL),
    Renoise(),
    Renoise(0.5),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)


@every_schedule
@pytest.mark.parametrize(
    "sampler", [EulerMaruyama(), DDPM(), DDPM("large"), DDIM(0.5), DDIM(1.0)], ids=str
)
def test_mean_and_variance_converge_at_the_declared_order(schedule, sampler):
    # to t = 0.05: a landing is as good as the last noise is small
    mean, variance = marginal(schedule.levels(torch.tensor([0.05], dtype=torch.float64))[0])
    few, many = (moments(sampler, schedule, times(schedule, n, 0.05)) for n in (100, 200))
    errors = [
        (abs(few[0] - mean), abs(many[0] - mean)),
        (abs(few[1] - variance), abs(many[1] - variance)),
    ]
    assert errors[1][0] > 1e-6 * variance  # so that there is an order to see
    for first, second in errors:
        if first > 1e-12 * abs(MEAN):  # means are exact where the steps are linear in x0 and eps
            assert math.log2(first / second) > sampler.convergence - 0.1


@pytest.mark.parametrize("sampler", [EulerMaruyama(), DDPM(), AnnealedLangevin(3, 0.5)], ids=str)
def test_the_declared_order_is_not_less_than_the_true_one(sampler):
    knots = Linear() if sampler.grid == Uniform() else None
    errors = [
        abs(moments(sampler, Linear(), times(knots, n) if knots else n)[1] - STD**2)
        for n in (100, 200)
    ]
    assert math.log2(errors[0] / errors[1]) < sampler.convergence + 0.2


@pytest.mark.parametrize("schedule", [Linear(), Karras()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s.convergence], ids=str)
def test_the_moments_on_the_data_are_the_data_s(schedule, sampler):
    """With the landing. All schedules are in test_matrix.py."""
    m, v = moments(sampler, schedule, LogSNR()(schedule, 200))
    # of order 1, with 20 as the constant at most
    assert abs(m - MEAN) < 0.03 * STD and abs(v / STD**2 - 1) < 20 / 200


@pytest.mark.parametrize("schedule", [Cosine(), Flow()], ids=lambda s: type(s).__name__)
@every_sampler
def test_samples_have_the_moments_that_the_linear_run_says(schedule, sampler):
    n, knots = 2000, times(schedule, 15)
    mean, variance = moments(sampler, schedule, knots)
    diffusion = exact.gaussian(schedule, "v", mean=MEAN, std=STD)
    m, v = marginal(plan(schedule, knots)[0])
    x = sample(
        diffusion.predictor(),
        m + math.sqrt(v) * draw((n, 1)),
        sampler,
        knots,
        seed=torch.Generator().manual_seed(1),
    )
    # five standard errors of a mean and of a variance of normal draws
    assert abs(x.mean() - mean) < 5 * math.sqrt(variance / n)
    assert abs(x.var() / variance - 1) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("schedule", [Cosine(), VE()], ids=lambda s: type(s).__name__)
@every_sampler
def test_what_the_network_predicts_changes_nothing(schedule, sampler):
    m, v = moments(sampler, schedule, 6)
    for prediction in ("eps", "x0", "score", "velocity", "karras"):
        assert moments(sampler, schedule, 6, prediction) == pytest.approx((m, v), rel=1e-6)


def test_euler_maruyama_is_its_equation():
    """x_t + (f x_t - g² score)(s - t) + g sqrt(t - s) z, with beta for f and g, of Song et al."""
    schedule, x_t = Linear(), draw((5, 3))
    predictor = exact.gaussian(schedule, "eps", mean=MEAN, std=STD).predictor()
    t, s = plan(schedule, [0.6, 0.55])
    x_s, p = EulerMaruyama().step(predictor, x_t, t, s, (), torch.Generator().manual_seed(2))
    beta = 0.1 + 0.6 * (20 - 0.1)
    alpha = math.exp(-0.25 * 0.6**2 * 19.9 - 0.5 * 0.6 * 0.1)
    score = -(x_t - alpha * MEAN) / (alpha**2 * STD**2 + 1 - alpha**2)
    drift = -0.5 * beta * x_t - beta * score
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.allclose(x_s, x_t - 0.05 * drift + math.sqrt(0.05 * beta) * z, atol=1e-10)
    last, p = EulerMaruyama().step(predictor, x_t, *plan(schedule, [0.6, 0.0]), (), None)
    assert torch.allclose(last, p.x0)


class Still(Sampler):
    """Takes a state for one of the next level: what follows is a corrector by itself."""

    def step(self, predictor, x_t, t, s, past, generator):
        return x_t, None


@pytest.mark.parametrize("schedule", [Cosine(), VE()], ids=lambda s: type(s).__name__)
def test_langevin_steps_have_their_stationary_variance(schedule):
    """V / (1 - eps / 2 V), reached as (1 - eps / V)^(2 k): x <- (1 - eps / V) x + sqrt(2 eps) z."""
    diffusion, snr = exact.gaussian(schedule, "v", mean=MEAN, std=STD), 0.2
    at = schedule.levels(torch.tensor([0.4], dtype=torch.float64))[0]
    mean, V = marginal(at)
    eps = 2 * snr**2 * at.sigma**2
    for steps in (1, 5, 500):
        sampler = PredictorCorrector(Still(), steps, snr)
        constant, slope, draws = response(diffusion, sampler, [0.5, 0.4])
        assert slope == pytest.approx((1 - eps / V) ** steps, abs=1e-12)
        assert slope * mean + constant == pytest.approx(mean)
        limit = V / (1 - eps / (2 * V))
        assert draws.square().sum().item() == pytest.approx(limit * (1 - slope**2))


def test_a_corrector_mends_a_bad_predictor():
    """Ten DDPM steps lose variance; Langevin steps at each level bring most of it back."""
    errors = [
        abs(moments(PredictorCorrector(DDPM(), k, 0.3), Cosine(), 10)[1] / STD**2 - 1)
        for k in (0, 1, 4)
    ]
    assert moments(DDPM(), Cosine(), 10) == moments(PredictorCorrector(DDPM(), 0), Cosine(), 10)
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), VE()], ids=lambda s: type(s).__name__)
def test_a_corrector_s_own_error_is_bounded_and_falls_at_the_declared_order(schedule):
    """The predictor is exact here, so that what is seen is the corrector's, of a large ratio."""
    sampler = PredictorCorrector(DDPM(OPTIMAL), snr=0.6)
    variance = marginal(schedule.levels(torch.tensor([0.02], dtype=torch.float64))[0])[1]
    errors = [
        moments(sampler, schedule, times(schedule, n, 0.02))[1] / variance - 1 for n in (100, 400)
    ]
    # at rest it would be r² sigma² / V, and what comes from noisier levels has died out in part
    assert all(0 < error < 0.6**2 / (1 - 0.6**2) for error in errors)
    assert math.log(errors[0] / errors[1], 4) > sampler.convergence - 0.1


def test_annealed_langevin_is_song_and_ermon_s_algorithm():
    """On noise levels sigma_1 > ... > sigma_L, from the scores of a variance-exploding schedule."""
    schedule, epsilon, per_level = VE(0.01, 1.0), 2e-5, 3
    diffusion = exact.gaussian(schedule, "score", mean=MEAN, std=STD)
    sigmas = [1.0, 0.3, 0.1, 0.03, 0.01]
    knots = [1 + math.log(s) / math.log(100) for s in sigmas]
    knots[-1] = 1e-12  # the least noise is not yet the data
    sampler = AnnealedLangevin(per_level, epsilon / sigmas[-1] ** 2)
    x = x_T = draw((4, 2))
    mine = sample(
        diffusion.predictor(), x_T, sampler, [*knots, 0.0], seed=torch.Generator().manual_seed(7)
    )
    generator = torch.Generator().manual_seed(7)
    for sigma in sigmas:
        alpha_i = epsilon * sigma**2 / sigmas[-1] ** 2
        for _ in range(per_level):
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x - alpha_i / 2 * (x - MEAN) / (STD**2 + sigma**2) + math.sqrt(alpha_i) * z
    x = x - 0.01**2 * (x - MEAN) / (STD**2 + 0.01**2)  # the mean of x0
    assert torch.allclose(mine, x, atol=1e-8)


def test_annealed_langevin_is_the_same_in_every_schedule_of_the_same_noise():
    """In x / alpha only sigma / alpha counts."""
    x_T, results = draw((4, 2)), []
    logsnrs = torch.tensor([-4.0, -1.0, 2.0, 6.0], dtype=torch.float64)
    for schedule in (Cosine(), Linear(), Flow(), VE()):
        knots = torch.cat([schedule.time(logsnrs), torch.zeros(1)])
        alpha = schedule.levels(knots)[0].alpha
        predictor = exact.gaussian(schedule, "v", mean=MEAN, std=STD).predictor()
        generator = torch.Generator().manual_seed(0)
        sampler = AnnealedLangevin(4, 0.3)
        results.append(sample(predictor, alpha * x_T, sampler, knots, seed=generator))
    assert all(torch.allclose(r, results[0], atol=1e-8) for r in results)


@pytest.mark.parametrize(
    "sampler, steps, tolerance",
    # the largest distance of 10000 draws that 1 in 10^6 runs exceeds, sqrt(log(2e6) / 2 n), is 0.027;
    # the rest is what steps of this size leave
    [
        (EulerMaruyama(), 200, 0.033),
        (PredictorCorrector(snr=0.1), 100, 0.033),
        (AnnealedLangevin(20, 0.5), 30, 0.04),
    ],
    ids=["EulerMaruyama", "PredictorCorrector", "AnnealedLangevin"],
)
def test_a_mixture_is_drawn_with_its_distribution_function(sampler, steps, tolerance):
    schedule = VE(0.01, 10.0)
    distance = kolmogorov(sampler, schedule, steps, "score")
    assert distance < tolerance


@pytest.mark.parametrize("kappa", [0.0, 0.4, 1.0])
def test_ddim_on_a_quadratic_grid_is_fastdpm(kappa):
    """Kong & Ping, section 3: the steps tau_i = (c i)², and the reverse process with kappa."""
    table, steps = Tabulated.linear(400), 10
    rows = torch.tensor([(2 * i) ** 2 for i in range(steps + 1)])
    knots = Quadratic()(table, steps)
    assert torch.allclose(knots * 400, rows.flip(0).double())

    gamma_bar = torch.cat([torch.ones(1).double(), table.alpha_bar])[rows]  # of the short chain
    diffusion = exact.gaussian(table, "eps", mean=MEAN, std=STD)
    x = x_T = draw((6, 2))
    mine = sample(
        diffusion.predictor(),
        x_T,
        DDIM(kappa),
        steps,
        grid=Quadratic(),
        seed=torch.Generator().manual_seed(5),
    )
    generator = torch.Generator().manual_seed(5)
    for i in range(steps, 0, -1):
        here, there = gamma_bar[i], gamma_bar[i - 1]
        eps = diffusion.predictor().predict(x, rows[i] / 400).eps
        sigma2 = kappa**2 * (1 - there) / (1 - here) * (1 - here / there)
        x = (there / here).sqrt() * (x - (1 - here).sqrt() * eps) + (
            1 - there - sigma2
        ).sqrt() * eps
        if kappa and i > 1:
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x + sigma2.sqrt() * z
    assert torch.allclose(mine, x, atol=1e-8)


def published(alpha_bar, kappa, mean=MEAN, std=STD):
    """Mean and variance after FastDPM's reverse process on these levels, written out, of exact eps."""
    here, *later = reversed(alpha_bar)
    m, v = math.sqrt(here) * mean, here * std**2 + 1 - here
    for there in [*later, 1.0]:
        sigma = kappa * math.sqrt((1 - there) / (1 - here) * (1 - here / there))
        ratio = math.sqrt(there / here)
        c = math.sqrt(1 - there - sigma**2) - math.sqrt(1 - here) * ratio
        slope = math.sqrt(1 - here) / (
            here * std**2 + 1 - here
        )  # eps = slope (x - sqrt(here) mean)
        m, v = ratio * m + c * slope * (m - math.sqrt(here) * mean), (ratio + c * slope) ** 2 * v
        v, here = v + sigma**2, there
    return m, v


@pytest.mark.parametrize("kind", ["linear", "quadratic"])
@pytest.mark.parametrize("kappa", [0.0, 0.4, 1.0])
def test_ddim_is_fastdpm_on_its_variances_and_on_its_steps(kappa, kind):
    """Kong & Ping, section 3: VAR; and STEP by the rows of the published code, counted from 0."""
    table, steps = Tabulated.linear(), 10
    knots = Variances(kind)(table, steps)
    levels = table(knots[:-1])[0].square().flip(0).tolist()
    found = moments(DDIM(kappa), table, knots)
    assert found == pytest.approx(published(levels, kappa), abs=1e-10)

    rows = [math.floor(k * 999 / (steps - 1)) for k in range(steps)]
    if kind == "quadratic":
        rows = [int((k / (steps - 1)) ** 2 * 800) for k in range(steps)]
    knots = [(row + 1) / 1000 for row in reversed(rows)] + [0]
    found = moments(DDIM(kappa), table, knots)
    assert found == pytest.approx(published(table.alpha_bar[rows].tolist(), kappa), abs=1e-10)


class WithVariance(nn.Module):
    """An exact denoiser that says a variance besides."""

    def __init__(self, network, extra):
        super().__init__()
        self.network, self.extra = network, extra

    def forward(self, x_t, t, space):
        y = self.network(x_t, t, space)
        return y, self.extra.expand_as(y)


def with_variance(extra, schedule=Cosine()):  # noqa: B008
    network = exact.Gaussian(schedule, "eps", mean=0.0, std=STD)
    return GaussianDiffusion(
        WithVariance(network, torch.as_tensor(extra, dtype=torch.float64)), schedule, "eps"
    )


def test_a_learned_variance_lies_between_small_and_large():
    """exp(v log beta + (1 - v) log beta~), v = (extra + 1) / 2, entry by entry."""
    x_t, levels = draw((5, 3)), plan(Tabulated.linear(), 50, DDPM())
    t, s = levels[20:22]
    results = {}
    for name, extra in (("small", -1.0), ("large", 1.0), ("mixed", [-1.0, 1.0, 0.2])):
        generator = torch.Generator().manual_seed(0)
        predictor = with_variance(extra, Tabulated.linear()).predictor()
        results[name], p = DDPM("learned").step(predictor, x_t, t, s, (), generator)
        if name != "mixed":
            generator = torch.Generator().manual_seed(0)
            fixed, _ = DDPM(name).step(predictor, x_t, t, s, (), generator)
            assert torch.allclose(results[name], fixed, atol=1e-12)
    assert torch.equal(results["mixed"][:, :2].T[0], results["small"][:, 0])
    assert torch.allclose(results["mixed"][:, 1], results["large"][:, 1], atol=1e-14)
    mean = DDIM(1.0).step(predictor, x_t, t, s, (), None)[1]
    a = t.alpha / s.alpha
    mean = mean.at(s.alpha, a * s.sigma**2 / t.sigma)
    beta, small = ((results[k] - mean)[:, 2].square().log() for k in ("large", "small"))
    assert torch.allclose(
        (results["mixed"] - mean)[:, 2].square().log(), 0.6 * beta + 0.4 * small, atol=1e-9
    )
    # the landing, whose small variance has no logarithm, is the mean
    x_0, p = DDPM("learned").step(predictor, x_t, *levels[-2:], (), None)
    assert torch.equal(x_0, p.at(1.0, 0.0))


@every_space
def test_a_learned_variance_stays_in_the_space(space, shape):
    diffusion = with_variance(draw((shape[-1],), 3).tanh())
    x = diffusion.sample(shape, space=space, sampler=DDPM("learned"), steps=6, seed=[1, 2, 3, 4])
    assert torch.allclose(space.project(x), x, atol=1e-12) and x.isfinite().all()


@every_space
@every_sampler
def test_samples_stay_in_their_space(space, shape, sampler):
    diffusion = exact.gaussian(Cosine(), "v", std=0.5)
    x = diffusion.sample(shape, space=space, sampler=sampler, steps=3, seed=[1, 2, 3, 4])
    assert torch.allclose(space.project(x), x, atol=1e-12) and x.isfinite().all()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_an_item_s_sample_does_not_depend_on_its_batch(sampler):
    diffusion = exact.gaussian(Cosine(), "v", std=0.5)
    batch = Ragged.from_sizes(SIZES, centered=3)
    x = diffusion.sample((14, 5), space=batch, sampler=sampler, steps=7, seed=[1, 2, 3, 4])
    alone = Ragged.from_sizes(SIZES[1:2], centered=3)
    y = diffusion.sample((4, 5), space=alone, sampler=sampler, steps=7, seed=[2])
    assert torch.allclose(x[1:5], y, atol=1e-12)


@every_sampler
def test_samplers_work_in_float32(sampler):
    diffusion = exact.gaussian(Cosine(), "v", std=0.5).float()
    double = exact.gaussian(Cosine(), "v", std=0.5)
    x_T = draw((4, 3))
    x = sample(diffusion.predictor(), x_T.float(), sampler, 5, seed=0)
    assert x.dtype == torch.float32 and x.isfinite().all()
    assert sample(double.predictor(), x_T, sampler, 5).dtype == torch.float64


class Echo(nn.Module):
    """A network that costs nothing."""

    def forward(self, x_t, t):
        return x_t


@pytest.mark.parametrize(
    "sampler, most, noises",
    [
        (EulerMaruyama(), 5, 9),
        (PredictorCorrector(), 10, 18),
        (PredictorCorrector(DDIM(), 2), 13, 18),
        (AnnealedLangevin(3), 16, 30),
        (DDPM(), 5, 9),
        (DDPM(OPTIMAL), 5, 9),
        (DDIM(), 3, 0),
        (DDIM(0.0, OPTIMAL), 5, 9),
        (Renoise(), 5, 9),
        (Renoise(0.0), 3, 0),
    ],
    ids=str,
)
def test_a_step_reads_nothing_back_and_draws_no_noise_in_vain(sampler, most, noises):
    """A network's times are one operation, its state two, noise is drawn and added: five."""
    diffusion = GaussianDiffusion(Echo(), Cosine(), "eps")
    predictor, x_T = diffusion.predictor(), draw((3, 4))

    def calls(steps):
        with Count() as count:
            sample(predictor, x_T, sampler, steps)
        return count.calls

    few, many = calls(10), calls(20)
    assert len(many) - len(few) <= 10 * most, (len(many) - len(few)) / 10
    assert not any("_local_scalar_dense" in call for call in many)
    assert sum("randn" in call for call in few) == noises


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: plan(Flow(), 10, sampler=EulerMaruyama()), "alpha is 0"),
        (lambda: plan(Flow(), 10, sampler=PredictorCorrector()), "alpha is 0"),
        (lambda: plan(Flow(), 10, sampler=AnnealedLangevin()), "alpha is 0"),
        (lambda: plan(Cosine(), [0.1, 0.9], sampler=EulerMaruyama()), "the times rise"),
        (lambda: plan(Cosine(), [0.1, 0.9], sampler=PredictorCorrector(DDIM())), "the times rise"),
        (lambda: plan(Cosine(), [0.1, 0.9], sampler=AnnealedLangevin()), "the times rise"),
        (lambda: plan(Cosine(), [0.1, 0.9], sampler=DDIM(0.0, OPTIMAL)), "the times rise"),
        (lambda: PredictorCorrector(snr=0.0), r"snr is 0.0; give a number in \(0, 1\)"),
        (lambda: PredictorCorrector(corrector_steps=-1), "corrector_steps is -1"),
        (lambda: AnnealedLangevin(0), "steps_per_level is 0"),
        (lambda: AnnealedLangevin(step_size=5.0), "step_size is 5.0"),
        (lambda: plan(Cosine(), [0.1, 0.9], sampler=Renoise()), "the times rise"),
        (lambda: DDPM("medium"), "choose one of 'small', 'large'"),
        (lambda: DDIM(0.0, "small"), "give an OptimalVariance"),
        (
            lambda: exact.gaussian(Cosine()).sample((2, 2), sampler=DDPM("learned"), steps=3),
            "gives no variance; choose the variance 'small' or 'large'",
        ),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
