"""Every schedule: levels in range, falling SNR, an inverse, rates that are derivatives."""

import json
from pathlib import Path

import pytest
import torch

from anydiff import VE, Cosine, Flow, Karras, Linear, Polynomial, Tabulated
from anydiff.schedules import VariancePreserving

TABLES = [Tabulated.linear(), Tabulated.linear(50)]
SCHEDULES = [Cosine(), Linear(), Polynomial(), Polynomial(power=3), *TABLES, VE(), Karras(), Flow()]
preserving = pytest.mark.parametrize(
    "schedule",
    [s for s in SCHEDULES if isinstance(s, VariancePreserving)],
    ids=lambda s: type(s).__name__,
)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
# away from 0, where some log-SNRs are infinite, and from the very end, where Polynomial is clipped
TIMES = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)


@preserving
def test_levels_are_on_the_unit_circle_and_end_near_noise(schedule):
    alpha, sigma = schedule(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(101).double(), atol=1e-14)
    assert alpha[0] > 0.9999 and alpha[-1] < 0.02


@every_schedule
def test_snr_falls(schedule):
    logsnr = schedule.logsnr(TIMES)
    assert (logsnr.diff() < 0).all()
    alpha, sigma = schedule(TIMES)
    assert torch.allclose(logsnr, 2 * (alpha / sigma).log(), atol=1e-10)


@every_schedule
def test_time_is_the_inverse_of_logsnr(schedule):
    assert torch.allclose(schedule.time(schedule.logsnr(TIMES)), TIMES, atol=1e-9)
    ends = schedule.time(torch.tensor([1e6, -1e6], dtype=torch.float64))
    assert ends.tolist() == [0.0, 1.0]


@every_schedule
def test_rates_are_the_derivatives(schedule):
    t, h = TIMES[10:-10:7] + 1e-5, 1e-6  # off the table's rows
    alpha, sigma = schedule.rates(t)
    later, earlier = schedule(t + h), schedule(t - h)
    # central differences: error h² times the third derivative
    assert torch.allclose(alpha, (later[0] - earlier[0]) / (2 * h), atol=1e-5, rtol=1e-4)
    assert torch.allclose(sigma, (later[1] - earlier[1]) / (2 * h), atol=1e-5, rtol=1e-4)


@every_schedule
def test_float32_times_lose_nothing_but_their_own_rounding(schedule):
    t = TIMES[::50].float()
    alpha, sigma = schedule(t)
    exact = schedule(t.double())
    assert alpha.dtype == torch.float32
    assert torch.allclose(alpha.double(), exact[0], rtol=1e-6, atol=0)
    assert torch.allclose(sigma.double(), exact[1], rtol=1e-6, atol=0)


@every_schedule
def test_levels_of_floats_and_of_tensors_agree_with_the_sde(schedule):
    """d(log alpha)/dt is the drift and d(sigma²)/dt = 2 f sigma² + g² (Song et al., 2021)."""
    t = torch.tensor([0.1104, 0.5234, 0.8703], dtype=torch.float64)  # off the tables' rows
    many = schedule.at(t)
    for k, one in enumerate(schedule.levels(t)):
        for name in ("alpha", "sigma", "logsnr", "drift", "diffusion2", "logsnr_rate"):
            assert getattr(one, name) == pytest.approx(float(getattr(many, name)[k]), rel=1e-9)
        assert one.noise_to_signal == pytest.approx(one.sigma / one.alpha)
    h = 1e-5
    later, earlier = schedule(t + h), schedule(t - h)
    variance = (later[1] ** 2 - earlier[1] ** 2) / (2 * h)
    assert torch.allclose(
        variance, 2 * many.drift * many.sigma**2 + many.diffusion2, rtol=1e-3, atol=1e-4
    )
    logsnr = (schedule.logsnr(t + h) - schedule.logsnr(t - h)) / (2 * h)
    assert torch.allclose(logsnr, many.logsnr_rate, rtol=1e-3)


def test_polynomial_is_the_published_one():
    golden = json.loads((Path(__file__).parent / "goldens/edm_polynomial_2_gamma.json").read_text())
    t = torch.tensor(golden["index"], dtype=torch.float64) / 1000
    gamma = torch.tensor(golden["gamma"], dtype=torch.float64)
    # the figures were stored in float32
    assert torch.allclose(-Polynomial().logsnr(t), gamma, rtol=2e-7, atol=0)


def test_table_is_exact_at_its_rows():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    alpha, sigma = Tabulated.linear()(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    assert torch.allclose(alpha**2, alpha_bar, rtol=1e-12, atol=0)
    assert torch.allclose(sigma**2, 1 - alpha_bar, rtol=1e-9, atol=0)
    assert torch.allclose(torch.log(alpha[-1] ** 2), torch.log1p(-betas).sum())


def test_tables_of_any_length_end_at_the_same_noise():
    ends = [
        Tabulated.linear(steps).logsnr(torch.ones(1).double()).item() for steps in (100, 1000, 4000)
    ]
    assert max(ends) - min(ends) < 0.8


def test_linear_agrees_with_the_integral_of_its_rate():
    t = torch.tensor(0.7, dtype=torch.float64)
    u = torch.linspace(0, 0.7, 10001, dtype=torch.float64)
    integral = torch.trapezoid(0.1 + u * 19.9, u)
    assert torch.allclose(Linear()(t)[0], torch.exp(-integral / 2), rtol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Cosine(5, -5), "minimum has to be the smaller"),
        (lambda: Linear(1.0, 0.5), "beta_min"),
        (lambda: Polynomial(precision=0.0), "precision"),
        (lambda: Tabulated(torch.tensor([0.5, 0.9])), "fall from below 1"),
        (lambda: Tabulated(torch.tensor([0.5, 0.0])), "above 0"),
        (lambda: Tabulated.linear(10), "more steps"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
