"""The optimal reverse variance: for normal data it makes every step exact."""

import dataclasses
import itertools
import json
import math

import pytest
import torch

from anydiff import DDIM, DDPM, Cosine, Flow, Linear, Tabulated, exact, sample
from anydiff.samplers import LogSNR, OptimalVariance, plan
from tests.helpers.normal import MEAN, SCHEDULES, STD, marginal, moments, times
from tests.helpers.runs import response
from tests.helpers.spaces import draw, every_space

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


def normal(std=STD, low=-12.0, high=14.0, points=27, span=None):
    """The table of normal data: Gamma = sigma² / (alpha² std² + sigma²)."""
    logsnr = torch.linspace(low, high, points, dtype=torch.float64)
    return OptimalVariance(logsnr.tolist(), (1 / (1 + std**2 * logsnr.exp())).tolist(), span)


@every_schedule
@pytest.mark.parametrize(
    "sampler",
    [DDPM(normal()), DDIM(0.0, normal()), DDIM(0.6, normal()), DDIM(1.0, normal())],
    ids=["DDPM", "DDIM(0)", "DDIM(0.6)", "DDIM(1)"],
)
def test_ten_steps_are_exact_for_normal_data(schedule, sampler):
    """p(x_s | x_t) is then normal, with that mean and that variance, however far apart t and s are."""
    # to t = 0.05: the landing draws no noise
    m, v = moments(sampler, schedule, times(schedule, 10, 0.05))
    mean, variance = marginal(schedule.levels(torch.tensor([0.05], dtype=torch.float64))[0])
    assert m == pytest.approx(mean, rel=1e-6)
    assert v == pytest.approx(variance, rel=1e-6)


@every_schedule
def test_ten_steps_are_nearer_to_the_data_than_with_a_fixed_variance(schedule):
    error = {
        sampler: abs(moments(sampler, schedule, LogSNR()(schedule, 10))[1] / STD**2 - 1)
        for sampler in (DDPM(normal()), DDPM("small"), DDPM("large"))
    }
    best = error.pop(DDPM(normal()))
    assert all(best < other for other in error.values()), (best, error)


def test_the_variance_is_theorem_one():
    """lambda² + (sqrt(beta_bar_n / alpha_n) - sqrt(beta_bar_{n-1} - lambda²))² (1 - beta_bar_n Gamma)."""
    table, optimal = Tabulated.linear(), normal(0.8)
    t, s = plan(table, 100, DDPM())[40:42]
    alpha_bar = torch.cat([torch.ones(1).double(), table.alpha_bar])
    a_n, a_m = alpha_bar[600].item(), alpha_bar[590].item()
    alpha_n, b_n, b_m = a_n / a_m, 1 - a_n, 1 - a_m
    # the mean squared score of N(0, alpha_bar std² + beta_bar), per dimension
    gamma = 1 / (a_n * 0.8**2 + b_n)
    for lambda2 in (0.0, 0.3 * b_m, b_m / b_n * (1 - alpha_n)):
        published = lambda2 + (math.sqrt(b_n / alpha_n) - math.sqrt(b_m - lambda2)) ** 2 * (
            1 - b_n * gamma
        )
        assert optimal.nu2(t, s, math.sqrt(b_m - lambda2)) == pytest.approx(published, rel=1e-9)


def test_the_variance_lies_between_the_paper_s_bounds():
    """Theorem 2: from lambda² to that of x0 = x_t / alpha, or of data at the ends of [a, b]."""
    lowest = OptimalVariance([-12.0, 14.0], [1.0, 1.0])
    highest = OptimalVariance([-12.0, 14.0], [0.0, 0.0])
    for t, s in itertools.pairwise(plan(Cosine(), 10, DDPM())[:-1]):
        kept = 0.7 * s.sigma
        fresh = s.sigma**2 - kept**2
        upper = fresh + (s.alpha * t.sigma / t.alpha - kept) ** 2
        values = [v.nu2(t, s, kept) for v in (lowest, normal(), highest)]
        assert values[0] == pytest.approx(fresh, rel=1e-4) and values[0] < values[1] < values[2]
        assert values[2] < upper * (1 + 1e-6) and normal().spread(t) < STD**2
        bounded = dataclasses.replace(highest, span=0.2).nu2(t, s, kept)
        slope = s.alpha - kept * t.alpha / t.sigma
        assert bounded <= fresh + slope**2 * 0.1**2 * (1 + 1e-12)


def test_pure_noise_and_the_data_have_a_spread_too():
    first, *_, last = plan(Flow(), 10)
    assert first.alpha == 0 and normal().spread(first) == pytest.approx(STD**2, rel=1e-4)
    assert normal().spread(last) == 0


@every_schedule
def test_the_estimate_is_the_closed_form(schedule):
    diffusion = exact.gaussian(schedule, "v", mean=MEAN, std=STD)
    x0 = MEAN + STD * draw((50, 40))
    optimal = OptimalVariance.estimate(
        [(diffusion.predictor(), part) for part in x0.split(25)],
        points=12,
        generator=torch.Generator().manual_seed(1),
    )
    assert len(optimal.logsnr) == 12 and -12.001 < optimal.logsnr[0] < optimal.logsnr[-1] < 14.001
    for logsnr, gamma in zip(optimal.logsnr, optimal.gamma, strict=True):
        share = 1 / (1 + math.exp(-logsnr) / STD**2)  # 1 - Gamma
        # eps - eps_hat is normal with this variance: five standard errors of its mean square
        assert abs((1 - gamma) / share - 1) < 5 * math.sqrt(2 / x0.numel())


@every_space
def test_the_estimate_counts_a_space_s_dimensions(space, shape):
    """Padding and centres have no noise to predict."""
    diffusion = exact.gaussian(Linear(), "eps", std=STD)
    generator = torch.Generator().manual_seed(0)
    like = torch.empty(shape, dtype=torch.float64)
    batches = [(diffusion.predictor(space), STD * space.noise(like, generator)) for _ in range(60)]
    optimal = OptimalVariance.estimate(
        batches, points=3, logsnr_min=-1.0, logsnr_max=3.0, generator=generator
    )
    entries = 60 * space.dim(like).sum().item()
    for logsnr, gamma in zip(optimal.logsnr, optimal.gamma, strict=True):
        share = 1 / (1 + math.exp(-logsnr) / STD**2)
        assert abs((1 - gamma) / share - 1) < 5 * math.sqrt(2 / entries)


def test_the_estimate_is_the_best_variance_of_an_imperfect_network_too():
    """The network's mean is off by a constant: the variance has to cover that as well."""
    diffusion = exact.gaussian(Cosine(), "eps", mean=MEAN + 0.1, std=STD)
    optimal = OptimalVariance.estimate(
        [(diffusion.predictor(), MEAN + STD * draw((100, 400), 1))],
        points=6,
        logsnr_min=-4.0,
        logsnr_max=4.0,
        generator=torch.Generator().manual_seed(0),
    )
    for logsnr, gamma in zip(optimal.logsnr, optimal.gamma, strict=True):
        share = 1 / (1 + math.exp(-logsnr) / STD**2)
        off = 0.1**2 * math.exp(logsnr) * (1 - share) ** 2  # of eps, alpha / sigma times x0's
        # five standard errors of the mean square of share * normal + off
        error = math.sqrt((2 * share**2 + 4 * share * off) / 40000)
        assert abs((1 - gamma) - (share + off)) < 5 * error


def test_an_estimate_of_one_schedule_serves_another():
    diffusion = exact.gaussian(Cosine(), "v", mean=MEAN, std=STD)
    x0 = MEAN + STD * draw((200, 200))
    optimal = OptimalVariance.estimate(
        [(diffusion.predictor(), x0)], points=20, generator=torch.Generator().manual_seed(1)
    )
    for schedule in SCHEDULES:
        _, v = moments(DDPM(optimal), schedule, times(schedule, 10, 0.05))
        _, variance = marginal(schedule.levels(torch.tensor([0.05], dtype=torch.float64))[0])
        # five standard errors of the spreads of one step; those of ten are averaged
        assert v == pytest.approx(variance, rel=5 * math.sqrt(2 / 40000))


def test_a_table_is_kept_as_plain_numbers():
    optimal = normal(span=2.0)
    again = OptimalVariance(**json.loads(json.dumps(dataclasses.asdict(optimal))))
    assert again == optimal and hash(again) == hash(optimal)
    assert DDPM(again) == DDPM(optimal)
    assert "0.9" not in repr(DDPM(again))  # a table is not printed


def test_noise_of_an_optimal_variance_has_that_variance():
    schedule, (t, s) = Cosine(), plan(Cosine(), 8, DDPM())[3:5]
    diffusion = exact.gaussian(schedule, "v", std=STD)
    optimal = normal()
    for sampler, kept in (
        (DDIM(0.0, optimal), s.sigma),
        (DDPM(optimal), t.alpha / s.alpha * s.sigma**2 / t.sigma),
    ):
        noise = response(diffusion, sampler, [t.t, s.t]).noise
        assert noise.square().sum().item() == pytest.approx(optimal.nu2(t, s, kept))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: OptimalVariance([], []), "finite ones that rise"),
        (lambda: OptimalVariance([1.0, 0.0], [0.5, 0.5]), "finite ones that rise"),
        (lambda: OptimalVariance([0.0, 1.0], [0.5]), "1 gammas for 2 log-SNRs; give as many"),
        (
            lambda: OptimalVariance([0.0, 1.0], [0.5, 1.5]),
            r"gamma\[1\] is 1.5; give a number in \[0, 1\]",
        ),
        (lambda: normal(span=0.0), r"span is 0.0; give a number in \(0, inf\)"),
        (lambda: OptimalVariance.estimate([]), "no data to estimate from; give batches"),
        (
            lambda: OptimalVariance.estimate([], points=1),
            r"points is 1; give a number in \[2, inf\)",
        ),
        (
            lambda: OptimalVariance.estimate(
                [(exact.gaussian(Cosine()).predictor(), draw((2, 2)))], logsnr_min=20.0
            ),
            "give a range, or a start",
        ),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_samples_of_few_steps_have_the_variance():
    x = sample(
        exact.gaussian(Cosine(), "v", std=STD).predictor(),
        draw((20000, 1)),
        DDPM(normal()),
        [1.0, 0.6, 0.3, 0.1],
        seed=torch.Generator().manual_seed(0),
    )
    level = Cosine().levels(torch.tensor([0.1], dtype=torch.float64))[0]
    # five standard errors of a variance
    assert abs(x.var() / marginal(level)[1] - 1) < 5 * math.sqrt(2 / 20000)
