"""New noise for a share of the old: consistency models are drawn from exactly, diffusions are not."""

import itertools
import math

import pytest
import torch

from anydiff import DDIM, VE, Cosine, Flow, Karras, Linear, Renoise, Tabulated, exact, sample
from anydiff.samplers import KarrasGrid, LogSNR, Quadratic, Uniform, Variances, plan
from tests.helpers.count import Count
from tests.helpers.normal import MEAN, SCHEDULES, STD, marginal, moments
from tests.helpers.runs import response
from tests.helpers.spaces import draw

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
GRIDS = [Uniform(), Quadratic(), LogSNR(), KarrasGrid(), Variances(), Variances("quadratic")]


@every_schedule
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("calls", [1, 2, 4])
def test_a_perfect_consistency_model_keeps_the_distribution(schedule, grid, calls):
    model = exact.consistency(schedule, "v", mean=MEAN, std=STD)
    levels = plan(schedule, calls, Renoise(), grid)
    mean, variance = marginal(levels[0])
    knots = [level.t for level in levels]
    found, std = response(model, Renoise(), knots).moments(mean, math.sqrt(variance))
    # rounding of a start that is up to 80 deviations of the data away
    assert found == pytest.approx(MEAN, abs=1e-12) and std**2 == pytest.approx(STD**2, abs=1e-12)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("schedule", [Cosine(), VE(), Tabulated.linear()], ids=str)
def test_without_new_noise_it_is_ddim(schedule, grid):
    """Bit for bit, and nothing is drawn."""
    predictor, x_T = exact.gaussian(schedule, "v", mean=MEAN, std=STD).predictor(), draw((5, 3))
    with Count() as count:
        x = sample(predictor, x_T, Renoise(0.0), 7, grid=grid)
    assert torch.equal(x, sample(predictor, x_T, DDIM(), 7, grid=grid))
    assert not any("randn" in call for call in count.calls)
    up = [0.1, 0.4, 0.9]  # encodes too
    assert torch.equal(sample(predictor, x_T, Renoise(0.0), up), sample(predictor, x_T, DDIM(), up))


def test_all_new_noise_is_multistep_consistency_sampling():
    """Algorithm 1 of Song et al.: x <- f(x + sqrt(sigma² - sigma_min²) z), here without a sigma_min."""
    schedule, sigmas = Karras(), [80.0, 24.4, 5.84, 0.9]
    model = exact.consistency(schedule, "karras", mean=MEAN, std=STD)
    knots = schedule.time(-2 * torch.tensor([*sigmas, 0.0], dtype=torch.float64).log())
    x_T = 80 * draw((6, 2))
    mine = sample(model.predictor(), x_T, Renoise(), knots, seed=torch.Generator().manual_seed(5))

    def f(x, sigma):
        return MEAN + STD / math.sqrt(STD**2 + sigma**2) * (x - MEAN)

    generator = torch.Generator().manual_seed(5)
    x = f(x_T, sigmas[0])
    for sigma in sigmas[1:]:
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = f(x + sigma * z, sigma)
    assert torch.allclose(mine, x, atol=1e-10)


def recursion(tau, sigmas, V):
    """The variance at the end: x0 is V / (V + sigma²) x and eps sigma / (V + sigma²) x, of exact data."""
    v = V + sigmas[0] ** 2
    for sigma, nearer in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        gain = (V + nearer * math.sqrt(1 - tau) * sigma) / (V + sigma**2)
        v = gain**2 * v + nearer**2 * tau
    return v


def geometric(n, first=20.0, last=0.01):
    return [first * (last / first) ** (k / (n - 1)) for k in range(n)]


@pytest.mark.parametrize("steps, variance", [(10, 0.57), (100, 0.82), (1000, 0.85), (10_000, 0.85)])
def test_a_diffusion_does_not_converge(steps, variance):
    """Half of the noise new at each of ever more levels: 15 % of the variance are missing in the end."""
    assert recursion(0.5, geometric(steps), 1.0) == pytest.approx(variance, abs=0.005)


@pytest.mark.parametrize("schedule", [VE(1e-3, 100.0), Karras(1e-3, 100.0), Linear()], ids=str)
@pytest.mark.parametrize("tau", [0.3, 0.5, 1.0])
def test_its_moments_are_those_of_the_recursion(schedule, tau):
    """In x / alpha, whatever the schedule."""
    sigmas = geometric(12)
    logsnrs = -2 * torch.tensor([*sigmas, 0.0], dtype=torch.float64).log()
    mean, variance = moments(Renoise(tau), schedule, schedule.time(logsnrs))
    assert mean == pytest.approx(MEAN, abs=1e-9)
    assert variance == pytest.approx(recursion(tau, sigmas, STD**2), rel=1e-6)


def test_the_variance_that_many_steps_miss():
    """tau = 1 leaves V² / (2 V + sigma²) at rest, half of it near the data; DDIM nothing."""
    assert recursion(1.0, geometric(20_000), 1.0) == pytest.approx(0.5, abs=1e-3)
    assert recursion(0.0, geometric(20_000), 1.0) == pytest.approx(1.0, abs=1e-3)
    assert Renoise().convergence == Renoise(0.3).convergence == 0 and Renoise(0.0).convergence == 1


# --- consistent annealed sampling ---------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.3, 0.4, 0.9, 1.0])
def test_annealed_is_the_published_algorithm(eta):
    """x <- x + eta sigma_i² s(x, sigma_i) + beta sigma_{i+1} z, beta² = 1 - (1 - eta)² / gamma²."""
    gamma, n = 0.7, 9
    sigmas = [5.0 * gamma**k for k in range(n)]
    # a log-SNR from -2 ln sigma_1 to -2 ln sigma_n, in equal steps
    grid = LogSNR(1.0, -2 * math.log(sigmas[-1]), -2 * math.log(sigmas[0]))
    schedule = VE(1e-3, 5.0)
    levels = plan(schedule, n, grid=grid)
    assert [at.sigma for at in levels[:-1]] == pytest.approx(sigmas)
    predictor = exact.gaussian(schedule, "score", mean=MEAN, std=STD).predictor()
    sampler, x_T = Renoise.annealed(eta, gamma), 5 * draw((4, 2))
    mine = sample(predictor, x_T, sampler, n, grid=grid, seed=torch.Generator().manual_seed(7))

    generator, x = torch.Generator().manual_seed(7), x_T
    beta = math.sqrt(max(1 - (1 - eta) ** 2 / gamma**2, 0.0))
    for sigma, nearer in itertools.pairwise(sigmas):
        x = x - eta * sigma**2 * (x - MEAN) / (STD**2 + sigma**2)
        if sampler.tau:
            x = x + beta * nearer * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    x = x - sigmas[-1] ** 2 * (x - MEAN) / (STD**2 + sigmas[-1] ** 2)  # the mean of x0
    assert torch.allclose(mine, x, atol=1e-8)


@pytest.mark.parametrize("ratio", [0.05, 0.1, 1 / 3, 0.5, 0.7, 0.9, 0.98, 0.999])
def test_annealed_steps_of_known_sizes(ratio):
    assert Renoise.annealed(1 - ratio, ratio).tau == 0
    assert Renoise.annealed(1.0, ratio).tau == pytest.approx(1)
    assert Renoise.annealed(1 - ratio**2, ratio).tau == pytest.approx(1 - ratio**2)


def test_annealed_by_the_square_of_the_ratio_is_ddim_with_an_eta_of_one():
    """On a geometric grid of any schedule."""
    high, low, n = 4.0, -3.0, 8
    ratio = math.exp(-(high - low) / (2 * (n - 1)))
    predictor, x_T = exact.gaussian(Cosine(), "v", std=STD).predictor(), draw((5, 2))
    run = {"steps": n, "grid": LogSNR(1.0, high, low), "start": Cosine().at_logsnr(low).t}
    a, b = (
        sample(predictor, x_T, sampler, seed=torch.Generator().manual_seed(1), **run)
        for sampler in (Renoise.annealed(1 - ratio**2, ratio), DDIM(1.0))
    )
    assert torch.allclose(a, b, atol=1e-7)


def test_errors_name_the_value_and_the_way_out():
    assert Renoise.annealed(0.3, 0.7).tau == 0  # though 1 - 0.7 is above 0.3, by rounding
    for eta in (0.2, 1.0001):
        with pytest.raises(ValueError, match=r"eta is .*; give a number in \[0.3, 1\]"):
            Renoise.annealed(eta, 0.7)
    with pytest.raises(ValueError, match=r"ratio is 1.0; give a number in \(0, 1\)"):
        Renoise.annealed(0.5, 1.0)
    with pytest.raises(ValueError, match=r"tau is 1.5; give a number in \[0, 1\]"):
        Renoise(1.5)


def test_it_begins_in_pure_noise():
    x = sample(
        exact.consistency(Flow(), "v", mean=MEAN, std=STD).predictor(), draw((9, 2)), Renoise()
    )
    assert x.isfinite().all() and len(plan(Flow(), None, Renoise())) == 5
