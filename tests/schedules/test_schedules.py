"""Every schedule: levels in range, falling SNR, an inverse, rates that are derivatives."""

import json
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from anydiff import GaussianDiffusion, exact
from anydiff.schedules import (
    VE,
    Cosine,
    Flow,
    Geometric,
    Karras,
    Learned,
    Level,
    Linear,
    Polynomial,
    ScaledLinear,
    Schedule,
    Shifted,
    SigmoidAlphaBar,
    SigmoidBeta,
    SubVP,
    Tabulated,
    VariancePreserving,
    ZeroTerminalSNR,
)
from tests.helpers.paths import GOLDENS


def learned(width=64):
    """A learned schedule that has learned something: steep early, flat later."""
    torch.manual_seed(0)
    schedule = Learned(-6.0, 12.0, width)
    with torch.no_grad():
        schedule.weight += torch.randn(width)
    return schedule


TABLES = [
    Tabulated.linear(),
    Tabulated.linear(50),
    Tabulated.scaled_linear(),
    Tabulated.sigmoid(200),
    Tabulated.cosine(),
]
PRESERVING = [
    Cosine(),
    Linear(),
    Linear(3.0, 3.0),
    ScaledLinear(),
    ScaledLinear(6.0, 6.0),
    SigmoidBeta(),
    SigmoidAlphaBar(),
    SigmoidAlphaBar(0.0, 3.0, 0.7),
    Polynomial(),
    Polynomial(power=3),
    Geometric(),
    Geometric(1e-5, 0.995),
    *TABLES,
    learned(),
]
CHANGED = [
    ZeroTerminalSNR(Cosine()),
    ZeroTerminalSNR(ScaledLinear()),
    ZeroTerminalSNR(Tabulated.scaled_linear()),
    Shifted(Cosine(), 0.25),
    Shifted(Tabulated.linear(), 2.0),
    ZeroTerminalSNR(Shifted(Linear(), 0.5)),
    Shifted(ZeroTerminalSNR(ScaledLinear()), 0.5),
    Shifted(Shifted(Cosine(), 0.5), 0.5),
]
OTHERS = [SubVP(), VE(), Karras(), Flow()]
OTHERS += [Shifted(s, 0.25) for s in (VE(), Karras(), Flow())]
SCHEDULES = PRESERVING + CHANGED + OTHERS


def name(schedule):
    inner = getattr(schedule, "schedule", None)
    return type(schedule).__name__ + (f"-{name(inner)}" if inner is not None else "")


def over(schedules):
    return pytest.mark.parametrize("schedule", schedules, ids=name)


every_schedule = over(SCHEDULES)
# away from 0, where some log-SNRs are infinite, and from the very end, where Polynomial is clipped
TIMES = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)


def at(schedule, t):
    """The level of floats at one time."""
    return schedule.levels(torch.tensor([t], dtype=torch.float64))[0]


@over(PRESERVING + CHANGED)
def test_levels_are_on_the_unit_circle(schedule):
    alpha, sigma = schedule(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(101).double(), atol=1e-14)


@over(PRESERVING)
def test_levels_go_from_data_to_near_noise(schedule):
    assert isinstance(schedule, VariancePreserving)
    clean, noisy = at(schedule, 0.0), at(schedule, 1.0)
    # Linear(3, 3) is made to end early, at exp(-3 / 2); the others' largest is ScaledLinear's 0.07
    assert clean.alpha > 0.9999 and 0 < noisy.alpha < (
        0.23 if schedule == Linear(3.0, 3.0) else 0.08
    )


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
    assert ends.tolist() == pytest.approx([0.0, 1.0], rel=0, abs=1e-15)
    ends = schedule.time(torch.tensor([math.inf, -math.inf], dtype=torch.float64))
    assert ends.tolist() == [0.0, 1.0]
    own = schedule.logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert schedule.time(own).tolist() == [0.0, 1.0]


@over([s for s in SCHEDULES if type(s)._time is not Schedule._time])
def test_inverses_in_closed_form_are_those_found_by_bisection(schedule):
    low, high = schedule.logsnr(torch.tensor([0.9999, 1e-4], dtype=torch.float64)).tolist()
    logsnr = torch.linspace(low, high, 501, dtype=torch.float64)
    t = schedule.time(logsnr)
    # float64 rounding of the log-SNR and of its terms, 1e-15 of 30, over a slope that exceeds 1 in all;
    # Polynomial and the sigmoid of alpha_bar subtract from 1 at either end, 1e-16 over their least slope
    assert torch.allclose(t, Schedule._time(schedule, logsnr), rtol=0, atol=1e-11)
    # and back, where a wrong time would show in proportion
    slope = -schedule.at(t).logsnr_rate
    assert ((schedule.logsnr(t) - logsnr).abs() < 1e-11 * (1 + slope)).all()


@every_schedule
def test_rates_are_the_derivatives(schedule):
    t, h = TIMES[10:-10:7] + 1e-5, 1e-6  # off the table's rows
    alpha, sigma = schedule.rates(t)
    later, earlier = schedule(t + h), schedule(t - h)
    # central differences: error h² times the third derivative
    assert torch.allclose(alpha, (later[0] - earlier[0]) / (2 * h), atol=1e-5, rtol=1e-4)
    assert torch.allclose(sigma, (later[1] - earlier[1]) / (2 * h), atol=1e-5, rtol=1e-4)


@every_schedule
def test_rates_in_closed_form_are_the_derivatives_of_the_levels(schedule):
    t = TIMES[:-1:7] + 1e-5
    for formula, derivative in zip(schedule.rates(t), Schedule._rates(schedule, t), strict=True):
        assert torch.allclose(formula, derivative, rtol=1e-11, atol=1e-12)


class Own(Schedule):
    """A schedule of one's own, which defines its levels only."""

    def _levels(self, t):
        return torch.cos(1.5 * t), torch.sin(1.5 * t)


MODES = {
    "vmap": lambda f, t: torch.vmap(f)(t),
    "grad": lambda f, t: torch.func.grad(lambda x: (f(x) * x).sum())(t),
    "vmap of grad": lambda f, t: torch.vmap(torch.func.grad(lambda x: f(x) * x))(t),
    "jvp": lambda f, t: torch.func.jvp(lambda x: f(x) * x, (t,), (torch.ones_like(t),))[1],
    "compile": lambda f, t: torch.compile(f, fullgraph=True, backend="aot_eager")(t),
}


@pytest.mark.slow
@over([*SCHEDULES, Own()])
def test_rates_are_the_same_in_every_mode_of_torch(schedule):
    t = TIMES[100::100].clone()
    expected = schedule.rates(t)
    with torch.no_grad():
        assert all(map(torch.equal, schedule.rates(t), expected))
    with torch.inference_mode():
        assert all(map(torch.equal, schedule.rates(t.clone()), expected))
        assert isinstance(schedule.levels(t)[0].rates[0], float)
    if isinstance(schedule, Learned):  # differentiable in t as well
        return
    for mode, call in MODES.items():
        torch._dynamo.reset()
        for k in (0, 1):
            found = call(lambda t, k=k: schedule.rates(t)[k], t)
            assert torch.allclose(found, expected[k], rtol=1e-12, atol=0), mode


def test_several_threads_differentiate_one_schedule():
    schedule, t = Own(), TIMES.clone()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: schedule.rates(t), range(200)))
    assert all(torch.equal(a, -1.5 * torch.sin(1.5 * t)) for a, _ in found)


@every_schedule
def test_float32_times_lose_nothing_but_their_own_rounding(schedule):
    t = TIMES[::50].float()
    alpha, sigma = schedule(t)
    exactly = schedule(t.double())
    assert alpha.dtype == torch.float32
    assert torch.allclose(alpha.double(), exactly[0], rtol=1e-6, atol=0)
    assert torch.allclose(sigma.double(), exactly[1], rtol=1e-6, atol=0)
    assert all(x.dtype == torch.float32 for x in (schedule.logsnr(t), *schedule.rates(t)))


@every_schedule
def test_levels_of_floats_and_of_tensors_agree_with_the_sde(schedule):
    """d(log alpha)/dt is the drift and d(sigma²)/dt = 2 f sigma² + g² (Song et al., 2021)."""
    t = torch.tensor([0.1104, 0.5234, 0.8703], dtype=torch.float64)  # off the tables' rows
    many = schedule.at(t)
    for k, one in enumerate(schedule.levels(t)):
        for quantity in ("alpha", "sigma", "logsnr", "drift", "diffusion2", "logsnr_rate"):
            value = getattr(one, quantity)
            assert type(value) is float
            assert value == pytest.approx(getattr(many, quantity)[k].item(), rel=1e-9)
        assert one.noise_to_signal == pytest.approx(one.sigma / one.alpha)
    h = 1e-5
    later, earlier = schedule(t + h), schedule(t - h)
    variance = (later[1] ** 2 - earlier[1] ** 2) / (2 * h)
    assert torch.allclose(
        variance, 2 * many.drift * many.sigma**2 + many.diffusion2, rtol=1e-3, atol=1e-4
    )
    logsnr = (schedule.logsnr(t + h) - schedule.logsnr(t - h)) / (2 * h)
    assert torch.allclose(logsnr, many.logsnr_rate, rtol=1e-3)


@every_schedule
def test_digits_are_kept_next_to_the_data(schedule):
    """sigma is as good as its formula says, and not what 1 - alpha² leaves of it."""
    t = torch.tensor([1e-15, 1e-14, 1e-13], dtype=torch.float64)
    sigma = [schedule(k * t)[1].log() for k in (1, 2, 4)]
    # so near to 0 sigma is a power of t or a constant: what bends it is no more than 1e4 t, and the
    # rounding of 1 - alpha² would be most of it
    bend = sigma[2] - 2 * sigma[1] + sigma[0]
    assert torch.allclose(bend, torch.zeros_like(bend), atol=1e-8)


@every_schedule
def test_schedules_are_copied_and_pickled(schedule):
    schedule.time(torch.zeros(1))
    other = pickle.loads(pickle.dumps(schedule))
    assert torch.equal(other.logsnr(TIMES), schedule.logsnr(TIMES))


def test_a_level_of_floats_that_was_changed_finds_its_rates():
    level = at(Flow(), 0.0)
    assert level.rates == Level(0.0, 1.0, 0.0, Flow()).rates == (-1.0, 1.0)


@every_schedule
def test_a_plan_s_levels_find_their_rates_when_asked(schedule):
    times, asked = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64), []
    levels = schedule.levels(times)
    assert not any("rates" in level.__dict__ for level in levels)
    alpha, sigma = schedule.rates(times)
    assert [level.rates for level in levels] == list(
        zip(alpha.tolist(), sigma.tolist(), strict=True)
    )

    class Counted(Cosine):
        def rates(self, t):
            asked.append(t)
            return super().rates(t)

    levels = Counted().levels(times)
    assert not asked
    assert [level.drift for level in levels] and len(asked) == 1  # those of all at once


@every_schedule
def test_the_level_of_a_log_snr(schedule):
    clean, noisy = schedule.ends().tolist()
    ends = [at(schedule, 0.0).logsnr, at(schedule, 1.0).logsnr]
    assert [clean, noisy] == pytest.approx(ends, abs=1e-9)
    for logsnr in (-1.5, 0.0, 2.0):
        level = schedule.at_logsnr(logsnr)
        nearest = min(max(logsnr, noisy), clean)
        assert type(level.t) is float and level.logsnr == pytest.approx(nearest, abs=1e-8)
    assert schedule.at_logsnr(math.inf).t == 0 and schedule.at_logsnr(-math.inf).t == 1


@every_schedule
def test_a_range_is_cut_to_the_schedule_s_own(schedule):
    clean, noisy = schedule.ends().tolist()
    assert schedule.clip(-math.inf, math.inf) == (noisy, clean)
    assert schedule.clip(0.0, 1.0) == (max(0.0, noisy), min(1.0, clean))
    with pytest.raises(ValueError, match=r"log-SNRs from 1 to 0 are asked for, and .* goes from"):
        schedule.clip(1.0, 0.0)


def test_a_range_beyond_the_ends_is_refused():
    with pytest.raises(ValueError, match=r"from 9 to 12 .* Cosine\(.* goes from -7 to 8"):
        Cosine(-7.0, 8.0).clip(9.0, 12.0)


# --- the formulas -------------------------------------------------------------------------------------


def test_polynomial_is_the_published_one():
    golden = json.loads((GOLDENS / "edm_polynomial_2_gamma.json").read_text())
    t = torch.tensor(golden["index"], dtype=torch.float64) / 1000
    gamma = torch.tensor(golden["gamma"], dtype=torch.float64)
    # the figures were stored in float32
    assert torch.allclose(-Polynomial().logsnr(t), gamma, rtol=2e-7, atol=0)


def test_cosine_ends_where_it_is_told_to():
    ends = Cosine(-7.0, 9.0).logsnr(torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert torch.allclose(ends, torch.tensor([-7.0, 9.0]).double(), atol=1e-12)
    # in between the angle, the arc tangent of sigma / alpha, is linear
    angle = torch.atan2(*reversed(Cosine()(TIMES)))
    assert torch.allclose(angle.diff().diff(), torch.zeros(997).double(), atol=1e-14)


@pytest.mark.parametrize(
    "schedule, rate",
    [
        (Linear(), lambda u: 0.1 + 19.9 * u),
        (ScaledLinear(), lambda u: (0.85**0.5 + u * (12**0.5 - 0.85**0.5)) ** 2),
        (SigmoidBeta(), lambda u: 0.1 + 19.9 * torch.sigmoid(12 * u - 6)),
    ],
    ids=["Linear", "ScaledLinear", "SigmoidBeta"],
)
def test_log_alpha_is_the_integral_of_the_rate(schedule, rate):
    for t in (0.01, 0.3, 0.7, 1.0):
        u = torch.linspace(0, t, 2001, dtype=torch.float64)
        weights = torch.ones(2001).double()
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        integral = (weights * rate(u)).sum() * (t / 2000) / 3  # Simpson: h⁴ times rate'''' / 180
        alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
        assert torch.allclose(alpha, torch.exp(-integral / 2), rtol=1e-9)
        assert torch.allclose(sigma**2, 1 - torch.exp(-integral), rtol=1e-9)
        assert at(schedule, t).drift == pytest.approx(-rate(torch.tensor(t)).item() / 2, rel=1e-6)


def test_sub_vp_has_the_data_of_vp_and_the_square_of_its_noise():
    alpha, sigma = SubVP(0.2, 15.0)(TIMES)
    vp_alpha, vp_sigma = Linear(0.2, 15.0)(TIMES)
    assert torch.allclose(alpha, vp_alpha, rtol=1e-14) and (sigma < vp_sigma).all()
    assert torch.allclose(sigma, vp_sigma**2, rtol=1e-12)
    # its SDE has the drift of VP's and g² = beta (1 - e^(-2 B)), eq. 29
    t = TIMES[::100]
    level, beta = SubVP().at(t), 0.1 + 19.9 * t
    integral = 0.1 * t + 19.9 / 2 * t**2
    assert torch.allclose(level.drift, -beta / 2, rtol=1e-10)
    assert torch.allclose(level.diffusion2, beta * (1 - torch.exp(-2 * integral)), rtol=1e-9)


def test_ve_is_geometric_and_karras_a_power():
    sigma = VE(0.01, 50.0)(torch.linspace(0, 1, 11, dtype=torch.float64))[1]
    assert torch.allclose(sigma[1:] / sigma[:-1], torch.tensor(5000.0).double() ** 0.1, rtol=1e-12)
    assert (sigma[0].item(), sigma[-1].item()) == (0.01, pytest.approx(50))
    # EDM, eq. 5 with i / (N - 1) = 1 - t
    i, n = torch.arange(18).double(), 18
    root = 80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    alpha, sigma = Karras()(1 - i / (n - 1))
    assert torch.allclose(sigma, root**7, rtol=1e-12) and (alpha == 1).all()
    # and g² = d(sigma²)/dt, with no drift
    level = at(VE(), 0.4)
    assert level.drift == 0
    assert level.diffusion2 == pytest.approx(2 * level.sigma**2 * math.log(5000))


def test_flow_is_a_straight_line_of_logistic_log_snr():
    t = TIMES[::50]
    alpha, sigma = Flow()(t)
    assert torch.equal(alpha, 1 - t) and torch.equal(sigma, t)
    assert torch.allclose(Flow().logsnr(t), -2 * torch.logit(t), atol=1e-13)
    # dx = -x / (1 - t) dt + sqrt(2 t / (1 - t)) dw
    level = Flow().at(t)
    assert torch.allclose(level.drift, -1 / (1 - t))
    assert torch.allclose(level.diffusion2, 2 * t / (1 - t))


def test_the_two_sigmoids_are_told_apart():
    """alpha_bar at the steps 500 and 750 of 1000, counted from 0, in the two libraries that differ."""
    t = torch.tensor([0.501, 0.751], dtype=torch.float64)
    # diffusers' table, of which SigmoidBeta is the limit: half the sum of beta², 0.3 % and 1.8 %
    assert torch.allclose(
        Tabulated.sigmoid()(t)[0] ** 2, torch.tensor([0.299, 0.0056]).double(), atol=5e-4
    )
    assert torch.allclose(
        SigmoidBeta()(t)[0] ** 2, torch.tensor([0.299, 0.0056]).double(), atol=2e-3
    )
    assert torch.allclose(
        SigmoidAlphaBar()(t)[0] ** 2, torch.tensor([0.498, 0.148]).double(), atol=5e-4
    )


def test_sigmoid_alpha_bar_is_the_rescaled_sigmoid():
    # algorithm 4 of Jabri et al., its two published settings among others
    for start, end, tau in [(-3, 3, 1.0), (0, 3, 0.7), (-3, 3, 0.9)]:
        first, last = (torch.tensor(x / tau, dtype=torch.float64).sigmoid() for x in (start, end))
        level = torch.sigmoid((TIMES * (end - start) + start) / tau)
        published = (last - level) / (last - first)
        alpha, _ = SigmoidAlphaBar(start, end, tau)(TIMES)
        # alpha_bar is moved by less than the minimum; a subtraction of sigmoids loses 1e-16
        assert torch.allclose(alpha**2, published, rtol=0, atol=1.1e-9)
    assert at(SigmoidAlphaBar(minimum=1e-4), 1.0).alpha == pytest.approx(0.01)


def test_a_geometric_variance_is_that_of_its_formula():
    for low, high in ((3e-5, 0.999), (1e-3, 0.5)):
        _, sigma = Geometric(low, high)(TIMES)
        assert torch.allclose(sigma**2, low * (high / low) ** TIMES, rtol=1e-12, atol=0)


# --- the tables ---------------------------------------------------------------------------------------


def test_table_is_exact_at_its_rows():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    alpha, sigma = Tabulated.linear()(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    assert torch.allclose(alpha**2, alpha_bar, rtol=1e-12, atol=0)
    assert torch.allclose(sigma**2, 1 - alpha_bar, rtol=1e-9, atol=0)
    assert torch.allclose(torch.log(alpha[-1] ** 2), torch.log1p(-betas).sum())


@pytest.mark.parametrize(
    "table, theirs",
    [
        (Tabulated.linear(), {"beta_schedule": "linear"}),
        (
            Tabulated.scaled_linear(),
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
        (Tabulated.sigmoid(), {"beta_schedule": "sigmoid"}),
        (Tabulated.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
        (Tabulated.cosine(50), {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50}),
    ],
)
def test_tables_are_those_of_diffusers(table, theirs):
    diffusers = pytest.importorskip("diffusers")
    expected = diffusers.DDPMScheduler(**theirs).alphas_cumprod.double()
    # theirs are products of 1 - beta in float32: each factor is off by 6e-8 and each product as much,
    # at random; the last factor of the cosine, 1 - 0.999, by 6e-8 / 0.001
    assert torch.allclose(table.alpha_bar, expected, rtol=1e-4, atol=0)
    assert torch.allclose(table.alpha_bar[:-1], expected[:-1], rtol=2e-5, atol=0)


@pytest.mark.parametrize("table", [Tabulated.linear, Tabulated.scaled_linear, Tabulated.sigmoid])
def test_tables_of_any_length_end_at_the_same_noise(table):
    ends = [table(steps).logsnr(torch.ones(1).double()).item() for steps in (100, 1000, 4000)]
    assert max(ends) - min(ends) < 1


@pytest.mark.parametrize(
    "table, limit",
    [
        (Tabulated.linear, Linear()),
        (Tabulated.scaled_linear, ScaledLinear()),
        (Tabulated.sigmoid, SigmoidBeta()),
    ],
)
def test_tables_approach_their_continuous_limit(table, limit):
    t = torch.linspace(0.1, 1, 10, dtype=torch.float64)
    far, near = ((table(n).logsnr(t) - limit.logsnr(t)).abs().max() for n in (2000, 4000))
    assert near < 0.03 and far / near == pytest.approx(2, rel=0.05)  # first order in 1 / T


def test_the_cosine_table_is_a_squared_cosine_but_for_its_last_row():
    t = torch.arange(0, 101, dtype=torch.float64) / 100
    level = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    expected = level[1:] / level[0]
    assert torch.allclose(Tabulated.cosine(100).alpha_bar[:-1], expected[:-1], rtol=1e-12)
    assert Tabulated.cosine(100).alpha_bar[-1] == pytest.approx(expected[-2] * 1e-3)


# --- schedules made of others -------------------------------------------------------------------------


def test_zero_terminal_snr_moves_and_scales_alpha():
    for schedule in (ScaledLinear(), Cosine(), Polynomial()):
        alpha = schedule(TIMES)[0]
        changed = ZeroTerminalSNR(schedule)
        last, first = at(schedule, 1.0).alpha, at(schedule, 0.0).alpha
        expected = first * (alpha - last) / (first - last)
        assert torch.allclose(changed(TIMES)[0], expected, rtol=1e-12)
        end = at(changed, 1.0)
        assert (end.alpha, end.logsnr) == (0.0, -math.inf)
        assert end.sigma == pytest.approx(1.0, rel=1e-15)
        assert all(map(math.isfinite, end.rates))
        assert at(changed, 0.0).alpha == pytest.approx(first, rel=1e-15)
        # sigma at the clean end is the schedule's own, to the last digits of a number of 1e-3
        assert at(changed, 0.0).sigma == pytest.approx(at(schedule, 0.0).sigma, rel=1e-9)


def test_zero_terminal_snr_of_a_table_is_the_published_one():
    pytest.importorskip("diffusers")
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        rescale_betas_zero_snr=True,
    )
    rows = torch.arange(1, 1001, dtype=torch.float64) / 1000
    table = Tabulated.scaled_linear()
    alpha, last = ZeroTerminalSNR(table)(rows)[0], table(torch.ones(1).double())[0].item()
    # they keep row 1 where this keeps the data: alpha_1000 (1 - alpha_1) / (1 - alpha_1000) at most,
    # 3.1e-5; their last row is put to 2^-24 for the sake of eps
    bound = last * (1 - table(rows[:1])[0].item()) / (1 - last)
    assert (alpha - theirs.alphas_cumprod.double().sqrt()).abs()[:-1].max() < 1.1 * bound < 4e-5
    assert alpha[-1] == 0


@pytest.mark.parametrize("schedule", [Flow(), ZeroTerminalSNR(ScaledLinear())], ids=name)
def test_eps_is_refused_where_a_schedule_ends_in_noise(schedule):
    with pytest.raises(
        ValueError, match=r"'eps' does not determine x0 where .* use one of 'v', 'x0'"
    ):
        GaussianDiffusion(nn.Identity(), schedule, "eps")
    for prediction in ("v", "x0", "velocity", "karras"):
        x = exact.gaussian(schedule, prediction, mean=1.5, std=0.1).sample(
            (400, 1), steps=30, seed=0
        )
        # the mean of 400 is good to 0.1 / 20
        assert x.mean().item() == pytest.approx(1.5, abs=0.025)


@over([Cosine(), Linear(), Tabulated.linear(), Flow(), VE(), Karras(), ZeroTerminalSNR(Linear())])
@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_a_shift_moves_the_log_snr_and_keeps_what_is_preserved(schedule, factor):
    changed = Shifted(schedule, factor)
    difference = changed.logsnr(TIMES) - schedule.logsnr(TIMES)
    assert torch.allclose(difference, torch.full((999,), 2 * math.log(factor)).double(), atol=1e-9)
    before, after = schedule(TIMES), changed(TIMES)
    one = torch.ones(999).double()
    for kept in (torch.hypot, torch.add, lambda alpha, sigma: alpha):
        if torch.allclose(kept(*before), one, atol=1e-12):
            assert torch.allclose(kept(*after), one, atol=1e-12)
            break
    else:
        raise AssertionError("nothing is preserved")


def test_the_shift_of_flow_is_stable_diffusion_3_s_time_shift():
    s = 3.0
    later = s * TIMES / (1 + (s - 1) * TIMES)
    alpha, sigma = Shifted(Flow(), 1 / s)(TIMES)
    assert torch.allclose(sigma, later, rtol=1e-14) and torch.allclose(alpha, 1 - later, atol=1e-15)


def test_shifts_add_up_and_a_shift_by_1_is_none():
    twice = Shifted(Shifted(Cosine(), 0.5), 3.0)
    assert torch.allclose(twice(TIMES)[0], Shifted(Cosine(), 1.5)(TIMES)[0], rtol=1e-13)
    assert torch.allclose(Shifted(Cosine(), 1.0).logsnr(TIMES), Cosine().logsnr(TIMES), atol=1e-14)
    assert Shifted(Cosine(), 0.5) == Shifted(Cosine(), 0.5) != Shifted(Cosine(), 2.0)


def test_a_schedule_of_one_s_own_is_shifted_by_what_it_preserves():
    class Trigonometric(Schedule):
        def _levels(self, t):
            return torch.cos(t * torch.pi / 2), torch.sin(t * torch.pi / 2)

    alpha, sigma = Shifted(Trigonometric(), 0.5)(TIMES)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(999).double())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Cosine(5, -5), r"logsnr_max is -5; give a number in \(5, inf\)"),
        (lambda: Linear(1.0, 0.5), r"beta_max is 0.5; give a number in \[1.0, inf\)"),
        (lambda: ScaledLinear(0.0, 0.5), "beta_min"),
        (lambda: SubVP(2.0, 0.5), r"beta_max is 0.5; give a number in \[2.0, inf\)"),
        (lambda: SigmoidBeta(limit=0.0), r"limit is 0.0; give a number in \(0, 300\)"),
        (lambda: SigmoidAlphaBar(3.0, -3.0), r"end is -3.0; give a number in \(3.0, inf\)"),
        (lambda: SigmoidAlphaBar(minimum=0.0), r"minimum is 0.0; give a number in \(0, 1\)"),
        (lambda: Geometric(0.5, 0.1), r"low is 0.5; give a number in \(0, 0.1\)"),
        (lambda: Geometric(high=1.0), r"high is 1.0; give a number in \(0, 1\)"),
        (lambda: Polynomial(precision=0.0), "precision"),
        (
            lambda: Tabulated(torch.tensor([0.5, 0.9])),
            r"alpha_bar is .*; give \(T,\) that falls within \(0, 1\)",
        ),
        (lambda: Tabulated(torch.tensor([0.5, 0.0])), r"give \(T,\) that falls within \(0, 1\)"),
        (lambda: Tabulated.linear(10), r"more steps, or the continuous Linear\(\)"),
        (lambda: Tabulated.scaled_linear(5), r"the continuous ScaledLinear\(\)"),
        (lambda: Tabulated.sigmoid(5), r"the continuous SigmoidBeta\(\)"),
        (lambda: ZeroTerminalSNR(VE()), r"VE\(.* does not keep alpha² \+ sigma² = 1"),
        (lambda: ZeroTerminalSNR(Flow()), r"Flow\(\) does not keep .*; give one that does"),
        (lambda: ZeroTerminalSNR(Learned(width=2)), "has weights"),
        (lambda: Shifted(Learned(width=2), 0.5), "has weights"),
        (lambda: Shifted(Cosine(), 0.0), "factor is 0.0"),
        (lambda: Shifted(SubVP(), 0.5), r"SubVP\(.*keeps neither .* ratio does not determine them"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_table_is_a_copy_without_a_graph():
    given = torch.tensor([0.9, 0.5], dtype=torch.float64, requires_grad=True)
    table = Tabulated(given)
    with torch.no_grad():
        given[0] = 0.1
    assert table.alpha_bar.tolist() == [0.9, 0.5] and not table.alpha_bar.requires_grad
    assert not table(torch.tensor([0.2]))[0].requires_grad


def test_the_time_of_no_number_is_no_number():
    assert Cosine().time(torch.tensor([torch.nan, 0.0])).isnan().tolist() == [True, False]
