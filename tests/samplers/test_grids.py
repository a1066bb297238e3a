"""Where the times of a run lie: both ends, monotone, each by its formula, in every schedule."""

import itertools
import math

import pytest
import torch

from anydiff import (
    DDIM,
    VE,
    Cosine,
    DPMSolver,
    Flow,
    GaussianDiffusion,
    Heun,
    Karras,
    exact,
    sample,
)
from anydiff import schedules as all_schedules
from anydiff.editing import decode, encode
from anydiff.samplers import (
    AdamsBashforth,
    AdaptiveODE,
    AdaptiveSDE,
    KarrasGrid,
    LogSNR,
    Quadratic,
    Uniform,
    UniPC,
    Variances,
    plan,
)
from anydiff.schedules import Schedule, Shifted, Tabulated, ZeroTerminalSNR
from tests.helpers.spaces import draw


def every_schedule_there_is():
    """One of each kind: as it is built from nothing, and the tables and changed ones."""
    found = [Tabulated.linear(), ZeroTerminalSNR(Tabulated.linear()), Shifted(Cosine(), 0.5)]
    for name in all_schedules.__all__:
        kind = getattr(all_schedules, name)
        if isinstance(kind, type) and issubclass(kind, Schedule) and not kind.__abstractmethods__:
            try:
                found.append(kind())
            except TypeError:  # is made of a table or of another schedule
                assert any(isinstance(schedule, kind) for schedule in found), name
    return found


SCHEDULES = every_schedule_there_is()
GRIDS = [Uniform(), Quadratic(), LogSNR(), LogSNR(1.0, 5.0, -3.0), KarrasGrid(), KarrasGrid(1.0)]
GRIDS += [Variances(), Variances("quadratic")]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


@every_schedule
@every_grid
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_times_fall_from_one_to_the_data(schedule, grid, steps):
    times = grid(schedule, steps)
    assert times.shape == (steps + 1,) and times.dtype == torch.float64
    assert times[0] == 1 and times[-1] == 0
    # a schedule that keeps noise at t = 0 may be followed there, before the step onto the data
    assert (times[:-1].diff() < 0).all() and times[-2] >= 0

    levels = [at.noise_to_signal for at in plan(schedule, steps, grid=grid)]
    assert len(levels) == steps + 1
    assert all(a > b for a, b in itertools.pairwise(levels)) and levels[-1] == 0


@every_schedule
def test_one_step_goes_straight_to_the_data(schedule):
    for grid in GRIDS:
        assert grid(schedule, 1).tolist() == [1.0, 0.0]


def test_uniform_and_quadratic_are_their_formulas():
    k = torch.arange(9, dtype=torch.float64)
    assert torch.allclose(Uniform()(Cosine(), 8), 1 - k / 8, atol=1e-15)
    assert torch.allclose(Quadratic()(Cosine(), 8), (1 - k / 8) ** 2, atol=1e-15)
    rows = 1000 * Uniform()(Tabulated.linear(), 1000)
    assert torch.allclose(rows, torch.arange(1000, -1, -1).double(), atol=1e-9)


@every_schedule
@pytest.mark.parametrize("power", [0.5, 0.8, 1.0])
def test_log_snr_is_its_formula(schedule, power):
    """lambda_k = lambda_T + (lambda_max - lambda_T) (k / (n - 1))^p, within what the schedule has."""
    noisy, clean = schedule.logsnr(torch.tensor([1.0, 0.0]).double()).tolist()
    low, high = max(-6.0, noisy), min(9.0, clean)
    times = LogSNR(power, logsnr_max=9.0, logsnr_min=-6.0)(schedule, 12)
    k = torch.arange(12, dtype=torch.float64)
    expected = low + (high - low) * (k / 11) ** power
    assert torch.allclose(schedule.logsnr(times[1:-1]), expected[1:], atol=1e-6)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("schedule", [Karras(), VE(0.002, 80.0), Karras(rho=3.0)], ids=str)
def test_karras_grid_is_equation_5(schedule, rho):
    """sigma_i = (sigma_max^(1/rho) + i / (N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, then 0."""
    n = 18
    i = torch.arange(n, dtype=torch.float64)
    first, last = 80.0 ** (1 / rho), 0.002 ** (1 / rho)
    expected = (first + i / (n - 1) * (last - first)) ** rho
    sigmas = [at.sigma for at in plan(schedule, n, grid=KarrasGrid(rho))[:-1]]
    # ten decimal digits of float64's sixteen are left by the powers and the inverse of the schedule
    assert torch.allclose(torch.tensor(sigmas, dtype=torch.float64), expected, rtol=1e-10, atol=0)


@every_schedule
def test_karras_grid_is_even_in_its_power_of_noise_to_signal(schedule):
    times = KarrasGrid(7.0, 0.05, 5.0)(schedule, 10)
    alpha, sigma = schedule(times[1:-1])
    roots = (sigma / alpha) ** (1 / 7)
    expected = torch.linspace(5.0 ** (1 / 7), 0.05 ** (1 / 7), 10, dtype=torch.float64)
    assert torch.allclose(roots, expected[1:], rtol=1e-8)


def published_rates(kind, steps, beta_min=1e-4, beta_max=0.02, rows=1000):
    """FastDPM's eta_1 ... eta_S by bisection of their slope.

    The published one is exact to 1e-4, and ends too early for quadratic rates in ten steps, at 0.0208.
    """
    target = torch.linspace(beta_min, beta_max, rows, dtype=torch.float64).neg().log1p().sum()
    i = torch.arange(steps, dtype=torch.float64)

    def rates(x):
        if kind == "linear":  # from beta_min to x
            return beta_min + i / (steps - 1) * (x - beta_min)
        return beta_min * (1 + i * x) ** 2

    low, high = {"linear": (beta_min, 0.99), "quadratic": (0.0, 99 / (steps - 1))}[kind]
    for _ in range(100):
        x = (low + high) / 2
        low, high = (low, x) if rates(x).neg().log1p().sum() < target else (x, high)
    return rates(x)


@pytest.mark.parametrize("kind", ["linear", "quadratic"])
@pytest.mark.parametrize("steps", [10, 50])
def test_variances_are_those_of_fastdpm(kind, steps):
    """The levels of Kong & Ping on the table of Ho et al.; and the times that they give to these."""
    table = Tabulated.linear()
    times = Variances(kind)(table, steps)
    levels = torch.cumprod(1 - published_rates(kind, steps), 0)
    alpha, _ = table(times[:-1].flip(0))
    assert torch.allclose(alpha**2, levels, rtol=0, atol=1e-12)
    assert times[-2] == pytest.approx(1 / 1000, rel=1e-9)  # the first row

    slope = (0.02 - 1e-4) / 999
    c = torch.tensor((1 - 1e-4) / slope, dtype=torch.float64)

    def log_level(t):  # of row t, from 0, between the rows too
        return (t + 1) * math.log(slope) + torch.lgamma(c + 1) - torch.lgamma(c - t)

    rows = 1000 * times[:-1].flip(0) - 1
    beta = 1e-4 + slope * rows
    off = log_level(rows) - levels.log()
    # a chord of log(1 - beta) is off by slope / 8 in the middle; the rate of the first row is 1e-4
    assert off.abs().max() < 1.05 * slope / 8 and (off / beta).abs().max() < 0.025  # of a row
    whole = torch.arange(0, 1000, 111, dtype=torch.float64)
    assert torch.allclose(log_level(whole), table.alpha_bar[whole.long()].log(), atol=1e-9)


@every_schedule
@pytest.mark.parametrize("kind, power", [("linear", 1), ("quadratic", 2)])
@pytest.mark.parametrize("start", [0.9, 0.4])
def test_variances_rise_as_they_say(schedule, kind, power, start):
    """Their roots are even, from 1e-4, or what noise the schedule begins with, up to the start's."""
    times = Variances(kind)(schedule, 12, start).flip(0)
    assert times[0] == 0 and times[-1] == start
    alpha_bar = torch.cat([torch.ones(1), schedule.logsnr(times[1:]).sigmoid()])
    roots = (1 - alpha_bar[1:] / alpha_bar[:-1]) ** (1 / power)
    least = schedule.logsnr(torch.tensor([schedule.first], dtype=torch.float64)).neg().sigmoid()
    assert roots[0].item() ** power == pytest.approx(max(1e-4, least.item()), rel=1e-6)
    assert torch.allclose(roots.diff(), roots.diff().mean(), rtol=1e-5) and roots[1] > roots[0]


def test_variances_of_a_whole_table_are_its_rows():
    rows = 1000 * Variances()(Tabulated.linear(), 1000)
    assert torch.allclose(rows, torch.arange(1000, -1, -1).double(), atol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "quadratic"])
def test_variances_are_equal_where_the_first_is_too_large(kind):
    """A run that starts near the data, and one on a table whose first row leaves less for the rest."""
    at = Cosine().at_logsnr(12.0)  # a variance of 6e-6, in all
    alpha_bar = Cosine().logsnr(Variances(kind)(Cosine(), 20, at.t)[:-1]).sigmoid().flip(0)
    rates = 1 - alpha_bar[1:] / alpha_bar[:-1]
    assert torch.allclose(rates, 1 - alpha_bar[:1], rtol=1e-6)
    times = Variances(kind)(Flow(), 2000, 1e-6)  # a variance of 1e-12, in all
    assert (times.diff() < 0).all()
    table = Tabulated.from_betas([0.1, 0.02, 0.02])
    alpha_bar = table.logsnr(Variances(kind)(table, 9)[:-1]).sigmoid().flip(0)
    rates = 1 - alpha_bar[1:] / alpha_bar[:-1]
    assert alpha_bar[0].item() == pytest.approx(0.9)
    assert torch.allclose(rates, rates.mean(), rtol=1e-9)


@pytest.mark.parametrize("schedule", [Flow(), ZeroTerminalSNR(Tabulated.linear())], ids=str)
def test_variances_lead_out_of_pure_noise(schedule):
    """From a log-SNR of -12 on, with one step to it."""
    times = Variances()(schedule, 400)
    assert times[0] == 1 and -12 < schedule.logsnr(times[1:2]) < -11.9


def test_a_grid_stops_where_its_schedule_does():
    ve = VE(0.05, 20.0)  # a log-SNR from -6 to 6
    for grid in (LogSNR(), KarrasGrid()):
        times = grid(ve, 10)
        assert times[-2] == pytest.approx(0, abs=1e-12) and times[-1] == 0
        t, s = plan(ve, 10, grid=grid)[-2:]
        assert t.sigma == pytest.approx(0.05) and s.sigma == 0


def test_a_run_ends_right_where_the_schedule_keeps_noise():
    """The last step then starts at t = 0 and sigma_min, as in EDM; the network is asked there."""
    diffusion = exact.gaussian(Karras(), "karras", std=0.5)
    seen = []
    x_T = 80 * draw((50, 2))
    x = sample(diffusion.predictor(), x_T, DDIM(), 400, grid=KarrasGrid(), callback=seen.append)
    assert seen[-1].t == pytest.approx(0, abs=1e-12) and seen[-1].s == 0
    truth = diffusion.denoiser.flow(x_T, 1.0, 0.0)
    # first order: a step of the root is 1 / 400 of its range, sigma changes by 7 of those
    assert (x / truth - 1).abs().max() < 7 * math.log(80 / 0.002) / 400


TABLES = [
    Tabulated.linear(),
    Tabulated.linear(200),
    Tabulated.cosine(40),
    Shifted(Tabulated.linear(), 0.5),
    ZeroTerminalSNR(Tabulated.linear(100)),
]
every_table = pytest.mark.parametrize("table", TABLES, ids=str)


@every_table
@every_grid
@pytest.mark.parametrize("start", [1.0, 0.6])
def test_the_last_time_before_the_data_is_not_before_the_first_row_of_a_table(table, grid, start):
    assert table.first in (1 / 1000, 1 / 200, 1 / 100, 1 / 40)
    for steps in (1, 2, 50, 300):
        times = grid(table, steps, start)
        assert len(times) == steps + 1 and times[-1] == 0
        assert times[0] == pytest.approx(start)
        assert (times.diff() < 0).all() and times[-2] >= table.first
    if isinstance(grid, LogSNR) and grid.logsnr_max == 12 and start == 1:
        assert times[-2] == pytest.approx(table.first, rel=1e-9)


def test_the_chain_of_a_table_is_each_of_its_rows():
    rows = 40 * Uniform()(Tabulated.cosine(40), 40)
    assert torch.allclose(rows, torch.arange(40, -1, -1).double(), atol=1e-12)


class Times(torch.nn.Module):
    """Keeps the least time that it is asked for."""

    least = 1.0

    def forward(self, x_t, t):
        self.least = min(self.least, float(t.min()))
        return 0 * x_t


SOLVERS = [DPMSolver(), DDIM(), Heun(), UniPC(), AdamsBashforth(), AdaptiveODE(), AdaptiveSDE()]


@pytest.mark.parametrize("sampler", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("table", TABLES[1:4], ids=str)
def test_no_network_is_called_before_the_first_row_of_a_table(table, sampler):
    network = Times()
    predictor = GaussianDiffusion(network, table, "eps").predictor()
    sample(predictor, (2, 3), sampler, seed=0)
    assert network.least >= table.first - 1e-7  # of float32
    if not isinstance(sampler, AdaptiveSDE):  # which adds noise
        network.least = 1.0
        x = draw((2, 3))
        z = encode(predictor, x, sampler=sampler)
        assert network.least == pytest.approx(table.first, rel=1e-5)
        if not isinstance(sampler, AdaptiveODE):  # whose tolerance is of z, here near 0
            assert torch.allclose(decode(predictor, z, sampler=sampler), x, atol=1e-3)


def test_a_run_that_starts_at_the_first_row_is_one_step():
    table = Tabulated.cosine(10)
    assert [at.t for at in plan(table, 1, start=0.1)] == [0.1, 0]
    with pytest.raises(ValueError, match=r"the start is 0.1, the first row of .*steps is 2"):
        plan(table, 2, start=0.1)
    with pytest.raises(ValueError, match=r"start is 0.05; give a number in \[0.1, 1\]"):
        plan(table, 2, start=0.05)
    assert [at.t for at in plan(Tabulated.from_betas([0.5]), 1)] == [1, 0]


def test_pure_noise_is_left_in_one_step():
    """From alpha = 0 the grid's first step leads into its range."""
    times = LogSNR(1.0, logsnr_min=-4.0)(Flow(), 9)
    assert times[0] == 1 and Flow().logsnr(times[1:2]).item() == pytest.approx(-4 + 16 / 8)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: LogSNR(power=0.0), "power is 0.0"),
        (lambda: LogSNR(logsnr_max=-10.0), r"logsnr_max is -10.0; give a number in \(-10.0, inf\)"),
        (lambda: LogSNR(float("nan")), "power is nan"),
        (lambda: KarrasGrid(rho=0.0), r"rho is 0.0; give a number in \(0, inf\)"),
        (lambda: KarrasGrid(sigma_min=0.0), r"sigma_min is 0.0; give a number in \(0, inf\)"),
        (
            lambda: KarrasGrid(sigma_min=3.0, sigma_max=2.0),
            r"sigma_max is 2.0; give a number in \(3.0, inf\)",
        ),
        (lambda: LogSNR(logsnr_min=16.0, logsnr_max=20.0)(Cosine(), 5), "give a range, or a start"),
        (lambda: KarrasGrid(sigma_min=30.0)(VE(0.01, 20.0), 5), "give a range, or a start"),
        (lambda: plan(Cosine(), 0, grid=LogSNR()), r"steps is 0; give a number in \[1, inf\)"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
