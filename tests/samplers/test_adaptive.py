"""Samplers that choose their own steps, against closed forms: the error follows the tolerance."""

import math
import sys

import pytest
import torch
from torch import nn

from anydiff import (
    VE,
    Cosine,
    Dense,
    Flow,
    GaussianDiffusion,
    Linear,
    Masked,
    Polynomial,
    Ragged,
    exact,
    sample,
)
from anydiff.samplers import AdaptiveODE, AdaptiveSDE, plan
from tests.helpers.normal import MEAN, SCHEDULES, STD, kolmogorov, marginal
from tests.helpers.spaces import SIZES, draw, every_space

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


@pytest.fixture(autouse=True)
def _torchdiffeq(request):
    if "ode" in request.node.name:
        pytest.importorskip("torchdiffeq")


def gaussian(schedule=Cosine(), prediction="v"):  # noqa: B008
    return exact.gaussian(schedule, prediction, mean=MEAN, std=STD)


@every_schedule
def test_the_error_of_the_ode_follows_its_tolerance(schedule):
    diffusion, x_T = gaussian(schedule), draw((6, 4))
    x_T = x_T * schedule.levels(torch.ones(1))[0].sigma
    truth = diffusion.denoiser.flow(x_T, 1.0, 0.02)
    errors = []
    for tolerance in (1e-3, 1e-5):
        sampler = AdaptiveODE(rtol=tolerance, atol=tolerance)
        x = sample(diffusion.predictor(), x_T, sampler, [1.0, 0.02])
        errors.append((x - truth).abs().max().item())
        # 15 to 30 steps, each off by the tolerance, absolute and relative, of a state of up to 3
        assert errors[-1] < 400 * tolerance
    assert errors[0] > 5 * errors[1]


@pytest.mark.parametrize(
    "schedule, prediction",
    [(s, "v") for s in SCHEDULES] + [(Cosine(), p) for p in ("eps", "x0", "velocity", "karras")],
    ids=str,
)
def test_the_ode_lands_on_the_data(schedule, prediction):
    diffusion, x_T = gaussian(schedule, prediction), draw((6, 4))
    last = max(1e-3, schedule.levels(torch.zeros(1))[0].noise_to_signal)
    x = sample(diffusion.predictor(), x_T, AdaptiveODE(1e-5, 1e-5), 1)
    truth = diffusion.denoiser.flow(x_T, 1.0, 0.0)
    # the mean of x0 at the noise s shrinks what is away from the mean by s² / 2 std² more than the flow
    assert (x - truth).abs().max() < 2 * last**2 / (2 * STD**2) * (truth - MEAN).abs().max() + 4e-3


@pytest.mark.parametrize("method", ["dopri8", "bosh3", "fehlberg2", "adaptive_heun"])
def test_the_ode_has_other_methods(method):
    diffusion, x_T = gaussian(), draw((3, 2))
    x = sample(diffusion.predictor(), x_T, AdaptiveODE(1e-4, 1e-4, method), 1)
    assert torch.allclose(x, diffusion.denoiser.flow(x_T, 1.0, 0.0), atol=2e-2)


def test_the_ode_takes_as_many_calls_as_it_needs():
    calls, diffusion = [], gaussian()
    diffusion.denoiser.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for tolerance in (1e-2, 1e-3, 1e-4):
        sample(diffusion.predictor(), draw((4, 2)), AdaptiveODE(tolerance, tolerance), 1)
        counts.append(len(calls))
        calls.clear()
    assert counts[0] < counts[1] < counts[2] and counts[0] < 60


def test_the_ode_and_the_sde_run_once_unless_told_otherwise():
    """A run in 50 parts would begin anew in each."""
    for sampler, most in ((AdaptiveODE(), 105), (AdaptiveSDE(0.1, 0.03), 1000)):
        calls, seen, diffusion = [], [], gaussian(Linear())
        diffusion.denoiser.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        x = diffusion.sample((4, 2), sampler=sampler, seed=0, callback=seen.append)
        assert len(seen) == sampler.steps == 1 and len(calls) <= most
        calls_by_default = len(calls)
        again = diffusion.sample((4, 2), sampler=sampler, steps=1, seed=0)
        assert torch.equal(again, x) and len(calls) == 2 * calls_by_default


def test_the_ode_encodes_and_decodes():
    for schedule in (Linear(), Flow()):
        diffusion, x0, sampler = gaussian(schedule), draw((5, 3)), AdaptiveODE(1e-5, 1e-5)
        there = sample(diffusion.predictor(), x0, sampler, [0.0, 1.0])
        assert torch.allclose(there, diffusion.denoiser.flow(x0, 0.0, 1.0), atol=4e-3)
        back = sample(diffusion.predictor(), there, sampler, [1.0, 0.0])
        assert torch.allclose(back, x0, atol=4e-3)


def test_the_ode_in_parts_is_the_ode():
    diffusion, x_T, sampler = gaussian(), draw((5, 3)), AdaptiveODE(1e-5, 1e-5)
    a, b = (sample(diffusion.predictor(), x_T, sampler, steps) for steps in (1, 4))
    assert torch.allclose(a, b, atol=4e-3)


def test_the_ode_is_as_exact_for_one_item_as_for_many():
    """The worst item's error counts: easy ones, and padding, don't average it away."""
    diffusion, sampler = exact.gaussian(Cosine(), "v", std=0.1), AdaptiveODE(1e-3, 1e-3)
    hard = draw((1, 1, 1)) + 2
    alone = sample(diffusion.predictor(), hard, sampler, 1)
    crowd = torch.cat([hard, torch.zeros(200, 1, 1).double()])  # at the mean, without any error
    among = sample(diffusion.predictor(), crowd, sampler, 1)[:1]
    space = Masked.from_lengths([1], size=100)
    padded = torch.cat([hard, torch.zeros(1, 99, 1).double()], 1)
    among_padding = sample(diffusion.predictor(space), padded, sampler, 1)[:, :1]
    assert torch.allclose(among, alone, atol=1e-12)
    assert torch.allclose(among_padding, alone, atol=1e-12)


def test_a_mixture_is_drawn_by_the_ode_with_its_distribution_function():
    # 0.027 is exceeded once in 10^6 runs of 10000 draws, see test_stochastic_samplers
    assert kolmogorov(AdaptiveODE(1e-4, 1e-4), Cosine(), 1) < 0.029
    assert kolmogorov(AdaptiveODE(1e-4, 1e-4), VE(0.01, 50.0), 1) < 0.029


def test_a_mixture_is_drawn_by_the_adaptive_sde_with_its_distribution_function():
    # 3000 draws are further away than 0.049 once in 10^6 runs
    assert kolmogorov(AdaptiveSDE(rtol=0.1, atol=0.03), VE(0.01, 10.0), 1, n=3000) < 0.051


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), VE()], ids=lambda s: type(s).__name__)
def test_moments_of_the_adaptive_sde(schedule):
    n, at = 2000, schedule.levels(torch.ones(1).double())[0]
    mean, variance = marginal(at)
    x = sample(
        gaussian(schedule).predictor(),
        mean + math.sqrt(variance) * draw((n, 1)),
        AdaptiveSDE(rtol=0.1, atol=0.03),
        1,
        seed=torch.Generator().manual_seed(0),
    )
    # five standard errors, and as much as the tolerance of a step, 6 % of the deviation
    assert abs(x.mean() - MEAN) < STD * (5 / math.sqrt(n) + 0.06)
    assert abs(x.var() / STD**2 - 1) < 5 * math.sqrt(2 / n) + 0.12


def test_the_adaptive_sde_is_its_algorithm():
    """Jolicoeur-Martineau et al., algorithm 1, on one path; with f and g² of the linear schedule."""
    schedule, sampler = Linear(), AdaptiveSDE(rtol=0.1, atol=0.05, first=0.02)
    diffusion, x = gaussian(schedule), draw((1, 3))
    mine = sample(
        diffusion.predictor(), x, sampler, [1.0, 0.3], seed=torch.Generator().manual_seed(3)
    )
    generator, t, h, before = torch.Generator().manual_seed(3), 1.0, 0.02, x
    rejected, ahead = 0, []  # what is known of the path: lengths and moves, the next last

    def reverse(x, t):
        """The reverse drift per time, and g."""
        beta = 0.1 + t * 19.9
        alpha2 = math.exp(-0.5 * t**2 * 19.9 - t * 0.1)
        score = -(x - math.sqrt(alpha2) * MEAN) / (alpha2 * STD**2 + 1 - alpha2)
        return 0.5 * beta * x + beta * score, math.sqrt(beta)

    while t > 0.3 + 1e-12:
        z = torch.randn(1, 3, generator=generator, dtype=torch.float64)
        w = math.sqrt(h) * z
        if ahead:
            length, move = ahead.pop()
            if h < length * (1 - 1e-12):  # a Brownian bridge
                w = h / length * move + math.sqrt(h * (length - h) / length) * z
                ahead.append((length - h, move - w))
            else:
                h, w = length, move
        ahead.append((h, w))
        drift, g = reverse(x, t)
        first = x + h * drift + g * w
        drift, g = reverse(first, t - h)
        second = (first + x + h * drift + g * w) / 2
        delta = torch.maximum(first.abs(), before.abs()).mul(0.1).clamp(min=0.05)
        error = ((first - second) / delta).square().mean().sqrt().item()
        if error <= 1:
            x, t, before = second, t - h, first
            ahead.pop()
        rejected += error > 1
        h = min(t - 0.3, h * min(0.9 * error**-0.9, 5.0))
    assert rejected > 0
    assert torch.allclose(mine, x, atol=1e-6)


class Watched(nn.Module):
    """A denoiser whose calls are kept."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, x_t, t, space):
        self.seen.append((x_t, t))
        return self.network(x_t, t, space)


def test_items_of_the_adaptive_sde_have_their_own_times_and_wait_at_the_end():
    network = Watched(exact.Gaussian(Linear(), "v", mean=MEAN, std=STD))
    diffusion = GaussianDiffusion(network, Linear(), "v")
    x_T = draw((6, 2)) * torch.tensor([0.1, 1, 1, 2, 5, 30]).double()[:, None]
    sample(diffusion.predictor(), x_T, AdaptiveSDE(0.1, 0.03), 1, seed=range(6))
    begins = network.seen[:-1:2]  # of every step, the call at its start
    times = torch.stack([t for _, t in begins])
    assert times.shape[1] == 6 and (times[-1] > times[-1].min()).any()  # some still on their way
    assert (times.diff(dim=0) <= 0).all()
    arrived = times == times.min()
    held = arrived[:-1] & arrived[1:]
    states = torch.stack([x for x, _ in begins])
    assert held.any() and (states.diff(dim=0)[held] == 0).all()
    last_x, last_t = network.seen[-1]
    assert len(last_t) == 6 and (last_t - times.min()).abs().max() < 1e-6
    assert torch.equal(last_x[held[-1]], states[-1][held[-1]])


def test_an_item_of_the_adaptive_sde_does_not_depend_on_its_batch():
    diffusion = exact.gaussian(Linear(), "v", std=0.5)
    batch = Ragged.from_sizes(SIZES, centered=3)
    sampler = AdaptiveSDE(0.1, 0.03)
    x = diffusion.sample((14, 5), space=batch, sampler=sampler, steps=1, seed=[1, 2, 3, 4])
    alone = Ragged.from_sizes(SIZES[1:2], centered=3)
    y = diffusion.sample((4, 5), space=alone, sampler=sampler, steps=1, seed=[2])
    assert torch.allclose(x[1:5], y, atol=1e-12)


@every_space
@pytest.mark.parametrize(
    "sampler", [AdaptiveODE(1e-2, 1e-2), AdaptiveSDE(0.2, 0.1)], ids=["ode", "sde"]
)
def test_samples_stay_in_their_space(space, shape, sampler):
    diffusion = exact.gaussian(Linear(), "v", std=0.5)
    x = diffusion.sample(shape, space=space, sampler=sampler, steps=1, seed=[1, 2, 3, 4])
    assert torch.allclose(space.project(x), x, atol=1e-12) and x.isfinite().all()


@pytest.mark.parametrize(
    "sampler", [AdaptiveODE(1e-2, 1e-2), AdaptiveSDE(0.2, 0.1)], ids=["ode", "sde"]
)
def test_float32_is_enough(sampler):
    for schedule in (Linear(), VE(), Flow()):
        knots = [0.99, 0.0] if isinstance(sampler, AdaptiveSDE) else [1.0, 0.0]
        predictor = gaussian(schedule).predictor()
        x_T = draw((5, 2)) * math.sqrt(marginal(plan(schedule, knots)[0])[1])
        results = [
            sample(predictor, x_T.to(dtype), sampler, knots, seed=torch.Generator().manual_seed(0))
            for dtype in (torch.float32, torch.float64)
        ]
        assert [r.dtype for r in results] == [torch.float32, torch.float64]
        if isinstance(sampler, AdaptiveODE):
            assert torch.allclose(results[0].double(), results[1], atol=0.1)
        assert all(r.isfinite().all() for r in results)


@pytest.mark.parametrize("sampler", [AdaptiveODE(), AdaptiveSDE()], ids=["ode", "sde"])
def test_a_network_that_is_not_finite_is_an_error_and_no_endless_run(sampler):
    class Nothing(nn.Module):
        def forward(self, x_t, t):
            return x_t * float("nan")

    diffusion = GaussianDiffusion(Nothing(), Linear(), "v")
    with pytest.raises(ValueError, match="output is finite"):
        sample(diffusion.predictor(), draw((3, 2)), sampler, 1)


@pytest.mark.parametrize("sampler", [AdaptiveODE(), AdaptiveSDE(0.1, 0.03)], ids=["ode", "sde"])
def test_the_callback_is_told_the_data_that_were_reached(sampler):
    seen = []
    x = gaussian(Polynomial()).sample((3, 2), sampler=sampler, steps=1, callback=seen.append)
    assert len(seen) == 1 and torch.equal(seen[0].prediction.x0, x)


def test_a_run_of_the_sde_or_the_ode_may_begin_next_to_the_data():
    """Below the least noise that the network is asked about there is only the landing."""
    x_t, space = draw((3, 2)), Dense()
    for sampler in (AdaptiveSDE(), AdaptiveODE()):
        p = gaussian(Linear()).predictor(space)
        x = sample(p, x_t, sampler, [1e-7, 0.0])
        assert x.isfinite().all() and (x - x_t).abs().max() < 1e-2


def test_a_missing_torchdiffeq_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r'pip install "anydiff\[ode\]"'):
        plan(Cosine(), 1, sampler=AdaptiveODE())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: AdaptiveODE(rtol=0.0), r"rtol is 0.0; give a number in \(0, inf\)"),
        (lambda: AdaptiveODE(method="euler"), "method is 'euler'; choose one of 'dopri5'"),
        (lambda: AdaptiveODE(sigma_min=0.0), "sigma_min is 0.0"),
        (lambda: AdaptiveSDE(atol=-1.0), "atol is -1.0"),
        (lambda: AdaptiveSDE(safety=1.5), "safety is 1.5"),
        (lambda: AdaptiveSDE(exponent=0.2), "exponent is 0.2"),
        (lambda: plan(Flow(), 1, sampler=AdaptiveSDE()), "alpha is 0"),
        (lambda: plan(Cosine(), [0.1, 0.9], sampler=AdaptiveSDE()), "the times rise"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
