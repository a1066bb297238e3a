"""Deterministic samplers against flows known in closed form: their orders above all.

The probability flow of x / alpha over sigma / alpha is the same in every schedule. A run goes from one
inner log-SNR to another, evenly refined, so that the ends of a schedule do not hide the order. Multistep
methods are handed exact predictions for their first steps where the order is measured: their own,
of lower order, are measured apart.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from anydiff import (
    DDIM,
    VE,
    Cosine,
    Dense,
    DPMSolver,
    Flow,
    GaussianDiffusion,
    Karras,
    Linear,
    Polynomial,
    Predictor,
    Tabulated,
    UniPC,
    exact,
    sample,
)
from anydiff.predictions import TARGETS, Prediction, as_target
from anydiff.samplers import AdamsBashforth, Euler, LogSNR, plan
from anydiff.schedules import VariancePreserving
from tests.helpers.methods import METHODS, every_sampler
from tests.helpers.spaces import draw

SCHEDULES = [Cosine(), Linear(), Tabulated.linear(), Polynomial(), VE(), Karras(), Flow()]


def allowed(schedule, prediction):
    try:
        return bool(as_target(prediction, schedule))
    except ValueError:  # says nothing of x0 in pure noise
        return False


PAIRS = [(s, p) for s, p in itertools.product(SCHEDULES, TARGETS) if allowed(s, p)]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: str(m.sampler))
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
every_pair = pytest.mark.parametrize(
    "schedule, prediction", PAIRS, ids=[f"{type(s).__name__}-{p}" for s, p in PAIRS]
)


class Normal:
    """One, of four deviations, in closed form."""

    mean, variance = 0.4, torch.tensor([0.3, 0.5, 0.05, 1.5], dtype=torch.float64) ** 2
    steps = (24, 48)  # enough for the error to fall as it will

    def posterior(self, x_t, alpha, sigma):
        z = (x_t - alpha * self.mean) / (alpha**2 * self.variance + sigma**2)
        return self.mean + alpha * self.variance * z, sigma * z


class Mixture:
    """Of two normals, on a line: its flow is not linear."""

    mean = torch.tensor([-1.0, 0.8], dtype=torch.float64)
    variance = torch.tensor([0.5, 0.4], dtype=torch.float64) ** 2
    log_weight = torch.tensor([0.4, 0.6], dtype=torch.float64).log()
    steps = (48, 96)

    def posterior(self, x_t, alpha, sigma):
        v, z = alpha**2 * self.variance + sigma**2, x_t - alpha * self.mean
        share = (self.log_weight - 0.5 * (z**2 / v + v.log())).softmax(1)
        eps = sigma * (share * z / v).sum(1, keepdim=True)
        return (x_t - sigma * eps) / alpha, eps


REACH = 4.0  # of the log-SNR, both ways
LAWS = {"gaussian": Normal(), "mixture": Mixture()}


def exactly(law, schedule, prediction):
    """A law's predictor of any type, asked at levels of floats; the network's label is not needed."""

    def answer(x_t, at):
        x0, eps = LAWS[law].posterior(x_t, at.alpha, at.sigma)
        a, b = TARGETS[prediction].coefficients(at)
        return Prediction(x_t, a * x0 + b * eps, a, b, at.alpha, at.sigma)

    return Predictor(answer, schedule, Dense())


@functools.cache
def path(law, steps, up=False):
    """The exact x / alpha at evenly spaced log-SNRs, a list of (B, D)."""
    logsnrs = torch.linspace(-REACH, REACH, steps + 1, dtype=torch.float64)
    logsnrs = logsnrs.flip(0) if up else logsnrs
    if law == "gaussian":
        mean, variances = Normal.mean, Normal.variance + torch.exp(-logsnrs)[:, None]
        z = draw((3, 4))
        return [mean + v.sqrt() * z for v in variances]

    # Runge and Kutta's classic method in lambda: an error of order 1e-9 with steps of 1 / 192
    if steps < LAWS[law].steps[1]:
        return path(law, 2 * steps, up)[::2]

    def rate(half, u):
        ratio = math.exp(-half)
        alpha = 1 / math.hypot(1, ratio)
        return -ratio * LAWS[law].posterior(alpha * u, alpha, ratio * alpha)[1]

    u = [math.hypot(1, math.exp(-logsnrs[0] / 2)) * torch.linspace(-2, 2, 12).double()[:, None]]
    n = 768 // steps
    for a, b in itertools.pairwise((logsnrs / 2).tolist()):
        x, h = u[-1], (b - a) / n
        for half in (a + k * h for k in range(n)):
            k1 = rate(half, x)
            k2 = rate(half + h / 2, x + h / 2 * k1)
            k3 = rate(half + h / 2, x + h / 2 * k2)
            k4 = rate(half + h, x + h * k3)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        u.append(x)
    return u


@functools.cache
def knots(schedule, steps, up=False):
    times = schedule.time(torch.linspace(-REACH, REACH, steps + 1, dtype=torch.float64))
    return times.flip(0) if up else times


@functools.cache
def levels(schedule, steps, up=False):
    return plan(schedule, knots(schedule, steps, up))


def run(sampler, predictor, levels, states):
    """Where a run ends whose first states are given, all but the last with their predictions."""
    x, past = states[0], ()
    for k, (t, s) in enumerate(itertools.pairwise(levels)):
        if k + 1 < len(states):
            x, p = states[k + 1], predictor.predict(x, t)
        else:
            x, p = sampler.step(predictor, x, t, s, past, None)
        past = (*past, p)[-sampler.past :] if sampler.past else ()
    return x


def error(sampler, schedule, prediction, law, steps, cold=False, up=False):
    predictor = exactly(law, schedule, prediction)
    planned, truth = levels(schedule, steps, up), path(law, steps, up)
    given = 1 if cold else 1 + sampler.past
    states = [at.alpha * u for at, u in zip(planned, truth[:given], strict=False)]
    x = run(sampler, predictor, planned, states)
    return (x / planned[-1].alpha - truth[-1]).norm().item()


def observed_order(sampler, schedule=Cosine(), prediction="v", law="mixture", **how):  # noqa: B008
    """log2 of what twice the steps divide the error by: for the tests here and the table of the docs.

    Arguments:
        law: "gaussian", four deviations at once, or "mixture", whose flow is not linear.
        steps: Two numbers of steps; enough for the law if not given.
        cold: With the sampler's own first steps instead of exact ones.
        up: Towards the noise.
    """
    few, many = how.pop("steps", LAWS[law].steps)
    coarse, fine = (error(sampler, schedule, prediction, law, n, **how) for n in (few, many))
    return math.log(coarse / fine) / math.log(many / few)


# What the next power's share of the error leaves at these steps: never another order.
NEAR = 0.5


@every_method
@every_pair
def test_the_order_on_a_gaussian_is_the_declared_one(method, schedule, prediction):
    order = observed_order(method.sampler, schedule, prediction, "gaussian")
    assert order == pytest.approx(method.order, abs=NEAR)


@every_method
@every_schedule
def test_the_order_on_a_mixture_is_the_declared_one(method, schedule):
    order = observed_order(method.sampler, schedule)
    assert order == pytest.approx(method.order, abs=NEAR)


@every_method
def test_the_order_is_the_same_towards_the_noise(method):
    for law in LAWS:
        order = observed_order(method.sampler, law=law, up=True)
        assert order == pytest.approx(method.order, abs=NEAR)


@every_method
def test_the_declaration_is_the_sampler_s(method):
    assert method.sampler.convergence == method.order


@every_method
def test_own_first_steps_cost_what_they_should(method):
    """Their errors, h² from DDIM and h³ from a corrected one, are the largest after long refinement."""
    for law in LAWS:
        order = observed_order(method.sampler, law=law, cold=True)
        assert order > method.cold - NEAR


def curved(in_eps):
    """A predictor to whom x0 is a parabola in lambda, or eps one in sigma / alpha, whatever x is.

    With it the state at a level: a solution of the two integrals that open anydiff.samplers.multistep.
    """

    def answer(x_t, at):
        z = at.noise_to_signal if in_eps else at.logsnr / 2
        y = torch.full_like(x_t, 0.5 + z - 0.3 * z**2)
        return Prediction(x_t, y, 1.0 - in_eps, 1.0 * in_eps, at.alpha, at.sigma)

    def state(at):
        if in_eps:
            z = at.noise_to_signal
            u = 0.5 * z + z**2 / 2 - 0.1 * z**3
        else:  # of e^z (0.5 + z - 0.3 z²) the integral is e^z (...)
            z = at.logsnr / 2
            u = at.noise_to_signal * math.exp(z) * (-1.1 + 1.6 * z - 0.3 * z**2)
        return at.alpha * torch.full((1, 1), u, dtype=torch.float64)

    return Predictor(answer, Cosine(), Dense()), state


CURVED = [DPMSolver(3), UniPC(3), AdamsBashforth(3), AdamsBashforth(4)]


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("sampler", CURVED, ids=str)
def test_a_method_of_third_order_is_exact_on_a_parabola(sampler, up):
    """In steps of any lengths: lambda moves by 0.01 and by 4."""
    predictor, state = curved(isinstance(sampler, AdamsBashforth))
    logsnrs = torch.tensor([-8.0, -7.5, -7.0, -4.0, 4.0, 4.02, 6.0, 12.0], dtype=torch.float64)
    path = plan(Cosine(), Cosine().time(logsnrs.flip(0) if up else logsnrs))
    states = [state(at) for at in path[: 1 + sampler.past]]
    x, truth = run(sampler, predictor, path, states), state(path[-1])
    assert torch.allclose(x, truth, rtol=1e-9)


@dataclass(frozen=True)
class Draws(Dense):
    """Noise that is 1 for one item at each draw: for the first at the first, and so on."""

    items_of: Iterator[int] = field(default_factory=itertools.count)

    def noise(self, x, generator=None):
        z = torch.zeros_like(x)
        z[next(self.items_of)] = 1
        return z


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_variance_of_the_sde_converges_at_the_declared_order(order, eta):
    """On one normal: a run on each draw alone and on the start alone has all of it, without sampling."""

    def off(steps):
        predictor = exact.gaussian(Cosine(), "v", std=0.5).predictor(space=Draws())
        start, *_, end = Cosine().levels(knots(Cosine(), steps))
        x = torch.zeros(steps + 1, 1, dtype=torch.float64)
        x[-1] = math.hypot(0.5 * start.alpha, start.sigma)
        x = sample(predictor, x, DPMSolver(order, eta), knots(Cosine(), steps))
        return abs(x.square().sum().item() - (0.5 * end.alpha) ** 2 - end.sigma**2)

    observed = math.log2(off(32) / off(64))
    assert observed > min(order, 2) - NEAR / 2  # the first steps of the third are of lower ones
    assert off(64) < 0.02 / 4 ** (min(order, 2) - 1)


@every_pair
def test_a_network_that_is_told_the_time_gives_the_same(schedule, prediction):
    """The labels of the levels are right: what the predictor of floats leaves out."""
    law = LAWS["gaussian"]
    denoiser = exact.Gaussian(schedule, prediction, law.mean, law.variance.sqrt())
    predictor = GaussianDiffusion(denoiser, schedule, prediction).predictor()
    times = knots(schedule, 6)
    x = schedule.levels(times[:1])[0].alpha * path("gaussian", 6)[0]
    for sampler in (Euler(), UniPC()):
        told = sample(predictor, x, sampler, times)
        untold = exactly("gaussian", schedule, prediction)
        truth = run(sampler, untold, levels(schedule, 6), [x])
        assert torch.allclose(told, truth, atol=1e-9)


@every_method
def test_encoding_then_decoding_returns_the_data(method):
    """The error of the way there and back falls with the order of its first steps, or faster."""
    predictor = exactly("mixture", Cosine(), "v")
    x = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]

    def back_and_forth(steps):
        up = sample(predictor, x, method.sampler, knots(Cosine(), steps, up=True))
        return (sample(predictor, up, method.sampler, knots(Cosine(), steps)) - x).norm().item()

    coarse, fine = back_and_forth(32), back_and_forth(64)
    assert math.log2(coarse / fine) > method.cold - NEAR and fine < 0.2


# data with and without noise, noise with and without data
@every_sampler
@pytest.mark.parametrize("schedule", [Cosine(), Linear(), Karras(), Flow()], ids=str)
def test_the_whole_way_up_and_down(sampler, schedule):
    """From the data, where sigma may be 0, to noise, where alpha may be, and back."""
    if isinstance(sampler, Euler) and not isinstance(schedule, VariancePreserving | Flow):
        pytest.skip(
            "sigma grows as a power of t, which a straight line follows badly: see its order"
        )
    predictor, law = exactly("gaussian", schedule, "v"), LAWS["gaussian"]
    times = LogSNR()(schedule, 100)[:-1].flip(0)
    if not isinstance(sampler, Euler):  # the rates of some are infinite on the data
        times[0] = 0
    x = law.mean + law.variance.sqrt() * draw((20, 4))
    up = sample(predictor, x, sampler, times)
    down = sample(predictor, up, sampler, times.flip(0))
    # a hundred steps of 0.11 in lambda: first order leaves a share like that, both ways
    assert (down - x).abs().max() < 2 * 0.11
    top = schedule.levels(torch.ones(1))[0]
    deviations = (top.sigma**2 + top.alpha**2 * law.variance).sqrt()
    assert (up.std(0) / deviations / (x.std(0) / law.variance.sqrt()) - 1).abs().max() < 0.11


@every_sampler
@every_schedule
def test_the_final_mean_and_covariance_are_those_of_the_data(sampler, schedule):
    """A run is affine on a Gaussian: what it does to the axes is all of its moments."""
    mean = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64)
    root = torch.tensor([[0.9, 0.0, 0.0], [0.4, 0.6, 0.0], [-0.2, 0.3, 0.5]], dtype=torch.float64)
    predictor = exact.gaussian(schedule, "v", mean=mean, covariance=root @ root.T).predictor()
    steps = 256 if sampler.convergence == 1 else 64
    first = plan(schedule, steps, sampler, LogSNR())[0]
    deviation = math.hypot(first.alpha, first.sigma)
    axes = torch.cat([torch.zeros(1, 3), deviation * torch.eye(3)]).double()
    y = sample(predictor, axes, sampler, steps, grid=LogSNR())
    columns = y[1:] - y[0]
    # n steps of h = 11 / n in lambda leave n h² / 2 where a line is followed by its start, and where
    # a parabola by a line n h³ times 5 / 12 at most, of Adams and Bashforth's method; and x_T is
    # not noise alone: to the share of alpha in the mean, of its square in the covariance
    h, share = 11 / steps, first.alpha / deviation
    bound = 11 * h / 2 if sampler.convergence == 1 else 11 * h**2 * 5 / 12
    assert (columns.T @ columns - root @ root.T).abs().max() < bound + 2 * share**2
    assert (y[0] - mean).abs().max() < bound + 2 * share


PEERS = {  # diffusers and k-diffusion: the final deviations over the true ones, by calls
    "DDIM trailing": [(0.62, 0.74, 0.15), (0.80, 0.86, 0.28), (0.92, 0.94, 0.53)],
    "DDIM linspace": [(0.80, 0.83, 1.25), (0.88, 0.90, 0.74), (0.95, 0.95, 0.70)],
    "Euler linspace": [(0.61, 0.72, 0.32), (0.80, 0.86, 0.43), (0.93, 0.94, 0.65)],
    "DDPM trailing": [(0.57, 0.67, 0.14), (0.71, 0.79, 0.27), (0.84, 0.89, 0.51)],
    "DPM++2M trailing": [(0.65, 0.81, 0.15), (0.87, 0.95, 0.28), (0.995, 0.997, 0.54)],
    "DPM++2M Karras": [(1.08, 1.10, 0.84), (1.07, 1.05, 0.99), (1.02, 1.00, 0.99)],
    "DPM++2M sigma_min": [(0.68, 0.82, 0.34), (1.30, 1.22, 0.73), (1.11, 1.05, 1.01)],
    "Heun linspace": [(1.19, 1.08, 3.64), (1.05, 1.02, 1.93), (1.02, 1.00, 1.18)],
    "dpmpp_2m exponential": [(1.04, 1.03, 0.96), (1.02, 1.01, 0.99), (1.01, 1.00, 0.98)],
    "dpmpp_3m_sde Karras": [(1.93, 1.97, 1.31), (1.13, 1.07, 1.24), (1.01, 1.01, 1.00)],
    "dpm_2_ancestral Karras": [(1.58, 1.49, 1.95), (1.11, 1.11, 1.17), (1.02, 1.02, 1.00)],
}


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS.keys())
def test_the_default_ends_nearer_the_data_than_its_peers(peer):
    std = torch.tensor([0.3, 0.5, 0.05], dtype=torch.float64)
    diffusion = exact.gaussian(Tabulated.linear(), "eps", std=std)
    one = torch.ones(1, 3, dtype=torch.float64)  # all data of mean 0 need, for a linear run
    (first,) = diffusion.schedule.levels(torch.tensor([0.001]))
    left = 1 - std / torch.hypot(std, torch.tensor(first.sigma))  # by the step from row 1, the last
    for calls, theirs in zip((10, 20, 50), peer, strict=True):
        ours = sample(diffusion.predictor(), one, DPMSolver(), calls)[0] / std
        off, peers = (ours - 1).abs(), (torch.tensor(theirs) - 1).abs() + left
        assert off.max() < peers.max() and off.sum() < peers.sum()


def test_that_default_is_the_default():
    defaults = inspect.signature(sample).parameters
    assert all(defaults[name].default is None for name in ("sampler", "steps", "grid"))
    assert DPMSolver().steps == 50
    assert DPMSolver().grid == LogSNR() == LogSNR(0.8, 12.0, -10.0)
    model, x = exact.gaussian(Cosine(), std=0.5).predictor(), torch.ones(1, 2, dtype=torch.float64)
    assert torch.equal(sample(model, x), sample(model, x, DPMSolver(), 50, grid=LogSNR()))


@every_sampler
def test_one_step_from_pure_noise_is_ddim_s(sampler):
    """To the data or not: there is no past, and no finite lambda or sigma / alpha to start from."""
    predictor = exact.gaussian(Flow(), "v", mean=0.4, std=0.5).predictor()
    x_T = draw((5, 2))
    ddim = sample(predictor, x_T, DDIM(), [1.0, 0.0])
    assert torch.allclose(sample(predictor, x_T, sampler, [1.0, 0.0]), ddim, atol=1e-14)
    out_of_noise = sample(predictor, x_T, DDIM(), [1.0, 0.7])
    assert torch.allclose(sample(predictor, x_T, sampler, [1.0, 0.7]), out_of_noise, atol=1e-14)


@pytest.mark.parametrize("one", [DPMSolver(1), AdamsBashforth(1)], ids=str)
@every_pair
def test_the_first_of_a_family_is_ddim(one, schedule, prediction):
    predictor, times = exactly("gaussian", schedule, prediction), knots(schedule, 7)
    x = draw((3, 4))
    ddim = sample(predictor, x, DDIM(), times)
    assert torch.allclose(sample(predictor, x, one, times), ddim, atol=1e-12)


def test_euler_on_the_straight_path_is_ddim():
    predictor = exact.gaussian(Flow(), "velocity", mean=0.4, std=0.5).predictor()
    x_T = draw((5, 2))
    euler = sample(predictor, x_T, Euler(), 12)
    assert torch.allclose(euler, sample(predictor, x_T, DDIM(), 12), atol=1e-13)


def test_adams_bashforth_has_its_published_weights():
    """At even steps of sigma and alpha = 1: 55, -59, 37, -9 of 24, and the shorter ones before."""
    schedule = VE()
    sigmas = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6], dtype=torch.float64)
    outputs = iter([torch.eye(4, dtype=torch.float64)[k : k + 1] for k in range(4)])

    class InTurn(nn.Module):
        def forward(self, x_t, t):
            return next(outputs)

    diffusion = GaussianDiffusion(InTurn(), schedule, "eps")
    seen = []
    x = torch.zeros(1, 4, dtype=torch.float64)
    times = schedule.time(-2 * sigmas.log())
    sample(
        diffusion.predictor(), x, AdamsBashforth(4), times, callback=lambda p: seen.append(p.x_s)
    )
    moves = torch.cat(seen).diff(dim=0, prepend=x) / -0.1
    expected = [[1, 0, 0, 0], [-1 / 2, 3 / 2, 0, 0], [5 / 12, -16 / 12, 23 / 12, 0]]
    expected += [[-9 / 24, 37 / 24, -59 / 24, 55 / 24]]
    assert torch.allclose(moves, torch.tensor(expected).double(), atol=1e-6)


def test_unipc_keeps_the_corrected_states():
    """What its step returns is what UniC says, with the x0 that was said before the correction."""
    predictor = exactly("gaussian", Cosine(), "eps")
    t, s, u, *_ = levels(Cosine(), 4)
    x = path("gaussian", 4)[0] * t.alpha
    x, first = UniPC().step(predictor, x, t, s, (), None)
    said = predictor.predict(x, s)
    _, second = UniPC().step(predictor, x, s, u, (first,), None)
    assert torch.allclose(second.x0, said.x0) and not torch.allclose(second.x_t, said.x_t)
    # UniC-1 of bh2: (1 - e^-h) (x0_t + x0_s) / 2
    mean = (first.x0 + said.x0) / 2
    expected = s.sigma / t.sigma * first.x_t + (s.alpha - t.alpha * s.sigma / t.sigma) * mean
    assert torch.allclose(second.x_t, expected, atol=1e-12)
