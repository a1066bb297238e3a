"""Learned variances: their formula, what trains them, and what they are in the end."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from anydiff import DDIM, DDPM, Cosine, DPMSolver, GaussianDiffusion, Tabulated, exact
from anydiff.likelihood import variational_bound
from anydiff.likelihood.chain import Chain
from anydiff.losses import Hybrid
from anydiff.predictions import Prediction
from anydiff.samplers.variances import log_variances, reverse_log_variance
from tests.helpers.spaces import draw, every_space

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ABAR = torch.cumprod(1 - BETAS, 0)


@pytest.mark.parametrize("k", [2, 700, 1000])
def test_the_ends_are_ho_s_two_variances(k):
    t, s = Tabulated.linear().levels(torch.tensor([k, k - 1]).double() / 1000)
    small = BETAS[k - 1] * (1 - ABAR[k - 2]) / (1 - ABAR[k - 1])
    ends = (small.log().item(), BETAS[k - 1].log().item())
    assert log_variances(t, s) == pytest.approx(ends, rel=1e-7)

    said = torch.tensor([-1.0, 0.0, 1.0]).double()
    expected = torch.tensor([ends[0], sum(ends) / 2, ends[1]])
    assert torch.allclose(reverse_log_variance(t, s, said), expected.double(), rtol=1e-7)
    times = torch.tensor([k, k - 1]).double() / 1000
    t, s = (Tabulated.linear().at(time.expand(3)) for time in times)
    assert torch.allclose(reverse_log_variance(t, s, said), expected.double(), rtol=1e-7)


def test_a_short_step_keeps_its_digits():
    """beta = sigma_t² (logsnr_s - logsnr_t) for a step of 1e-9; a difference of squares has 7 left."""
    schedule = Cosine()
    t, s = schedule.levels(torch.tensor([0.5, 0.5 - 1e-9], dtype=torch.float64))
    _, large = log_variances(t, s)
    assert large == pytest.approx(math.log(-(t.sigma**2) * t.logsnr_rate * 1e-9), abs=1e-6)
    data = replace(s, alpha=1.0, sigma=0.0)
    assert log_variances(t, data) == (-math.inf, pytest.approx(2 * math.log(t.sigma)))


class TwoHeads(nn.Module):
    """A mean and a variance that share no weight."""

    def __init__(self, columns=3):
        super().__init__()
        self.mean = nn.Linear(columns, columns).double()
        self.variance = nn.Linear(columns, columns).double()

    def forward(self, x_t, t):
        return self.mean(x_t), self.variance(x_t)


def gradients(model, weights, **options):
    loss = model.loss(draw((6, 3)), generator=torch.Generator().manual_seed(0), **options).mean()
    return torch.autograd.grad(loss, weights, allow_unused=True)


@pytest.mark.parametrize("schedule", [Tabulated.linear(40), Cosine()], ids=str)
def test_the_mean_learns_from_the_one_and_the_variance_from_the_other(schedule):
    net, t = TwoHeads(), (torch.arange(6, dtype=torch.float64) + 0.3) / 20  # the first row as well
    mean, variance = list(net.mean.parameters()), list(net.variance.parameters())
    simple = GaussianDiffusion(net, schedule, "v")
    hybrid, twice = (
        GaussianDiffusion(net, schedule, "v", error=Hybrid(20, weight)) for weight in (0.001, 0.002)
    )
    rows = hybrid.error.times(t)
    for a, b in zip(gradients(simple, mean, t=rows), gradients(hybrid, mean, t=t), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
    assert all(g is None for g in gradients(simple, variance, t=rows))
    for a, b in zip(gradients(hybrid, variance, t=t), gradients(twice, variance, t=t), strict=True):
        assert a.abs().min() > 0 and torch.allclose(2 * a, b, rtol=1e-9)


@every_space
def test_the_term_is_that_of_the_bound(space, shape):
    """weight T KL / dim in bits, of the item's own step, in every space."""
    x0, eps, said, extra = (space.project(draw(shape, seed)) for seed in range(4))
    k = torch.tensor([2, 7, 1, 10])
    at = Cosine().at(k.double() / 10)
    alpha, sigma = (space.expand(c, x0) for c in (at.alpha, at.sigma))
    p = Prediction(alpha * x0 + sigma * eps, said, 0.0, 1.0, alpha, sigma, extra)
    found = Hybrid(10, 0.01).term(p, x0, eps, at, space)
    nats = Chain.of(Cosine(), 10, "learned", x0.device).divergence(p, x0, eps, k, space)
    free = space.dim(x0) > 0
    expected = 0.01 * 10 * nats / (space.dim(x0) * math.log(2))
    assert torch.allclose(found[free], expected[free]) and found.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_are_rounded_up_to_a_row_and_rows_stay(dtype):
    hybrid = Hybrid(1000)
    rows = (torch.arange(1, 1001, dtype=torch.float64) / 1000).to(dtype)
    assert torch.allclose(hybrid.times(rows), rows, rtol=1e-6)
    between = (torch.arange(1000, dtype=torch.float64) + 0.5).div(1000).to(dtype)
    assert torch.allclose(hybrid.times(between), rows, rtol=1e-6)
    assert hybrid.times(torch.zeros(1, dtype=dtype)).item() == pytest.approx(0.001)


class Table(nn.Module):
    """The right mean of Gaussian data, and one free number for each row's variance."""

    def __init__(self, schedule, steps, std):
        super().__init__()
        self.exact, self.steps = exact.Gaussian(schedule, "v", std=std), steps
        self.rows = nn.Parameter(torch.zeros(steps, dtype=torch.float64))

    def forward(self, x_t, t):
        said = self.rows[(t * self.steps).round().long() - 1]
        return self.exact(x_t, t), said[:, None].expand_as(x_t)


def best(schedule, steps, std):
    """Where the true variance of x_s given x_t lies between the two: the share v, rows 2 to T.

    The posterior's, and that of its mean, alpha_s (1 - e^(logsnr_t - logsnr_s)) x0 given x_t.
    """
    result = []
    for k in range(2, steps + 1):
        t, s = schedule.levels(torch.tensor([k, k - 1]).double() / steps)
        spread = std**2 * t.sigma**2 / (t.alpha**2 * std**2 + t.sigma**2)
        gain = s.alpha * (1 - (t.alpha * s.sigma / (t.sigma * s.alpha)) ** 2)
        small, large = log_variances(t, s)
        true = math.log(math.exp(small) + gain**2 * spread)
        result.append((true - small) / (large - small))
    return torch.tensor(result).double()


@pytest.mark.slow
def test_the_variance_of_gaussian_data_is_found():
    steps, std, schedule = 8, 0.5, Cosine(-6.0, 6.0)
    net = Table(schedule, steps, std)
    model = GaussianDiffusion(net, schedule, "v", error=Hybrid(steps, weight=1.0))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([net.rows], lr=0.1)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        optimizer.zero_grad()
        model.loss(std * draw((256, 4)), generator=generator).mean().backward()
        optimizer.step()
        decay.step()
    learned, expected = (net.rows.detach()[1:] + 1) / 2, best(schedule, steps, std)
    # Some 1e5 squares about the true variance, in the last steps alone: one percent of log-variance;
    # between the two lie from 0.6 to 2.6 nats
    assert torch.allclose(learned, expected, atol=0.05), (learned, expected)
    assert expected.min() < 0.85  # and not all are at an end

    x0 = std * draw((2000, 4), seed=5)
    totals = {}
    for variance in ("small", "large", "learned"):
        options = {"variance": variance, "generator": torch.Generator().manual_seed(1)}
        with torch.no_grad():
            totals[variance] = variational_bound(
                model.predictor(), x0, steps, **options
            ).diffusion.mean()
    assert totals["learned"] < min(totals["small"], totals["large"])


def test_a_variance_at_its_ends_is_small_and_large():
    schedule, x0 = Tabulated.linear(48), draw((5, 2))
    net = Table(schedule, 6, 0.5)
    model = GaussianDiffusion(net, schedule, "v")
    for said, variance in ((-1.0, "small"), (1.0, "large")):
        net.rows.data.fill_(said)
        a, b = (
            variational_bound(
                model.predictor(), x0, 6, variance=v, generator=torch.Generator().manual_seed(0)
            ).diffusion
            for v in ("learned", variance)
        )
        assert torch.allclose(a, b, rtol=1e-10)


def test_ancestral_sampling_draws_with_the_same_variance():
    t, s = Cosine().levels(torch.tensor([0.6, 0.5], dtype=torch.float64))
    x_t, extra = draw((4, 3)), draw((4, 3), 1)
    net = nn.Linear(1, 1)
    net.forward = lambda x_t, t: (x_t, extra)
    predictor = GaussianDiffusion(net, Cosine(), "v").predictor()
    away = []
    for variance in ("learned", "small"):
        generator = torch.Generator().manual_seed(0)
        x_s, p = DDPM(variance).step(predictor, x_t, t, s, (), generator)
        mean = p.at(s.alpha, t.alpha / s.alpha * s.sigma**2 / t.sigma)
        away.append((x_s - mean).abs().log() * 2)
    expected = reverse_log_variance(t, s, extra) - log_variances(t, s)[0]
    assert torch.allclose(away[0] - away[1], expected, atol=1e-9)


@pytest.mark.parametrize(
    "sampler", [DDIM(), DDPM("small"), DDPM("large"), DDPM("learned"), DPMSolver()], ids=str
)
def test_such_a_model_works_with_every_sampler(sampler):
    net = Table(Cosine(), 200, 0.5)
    model = GaussianDiffusion(net, Cosine(), "v", error=Hybrid(200))
    x = model.sample((4000, 2), sampler=sampler, steps=200, seed=0)
    # five standard errors of a deviation, and the one percent of 200 steps
    assert abs(x.std() / 0.5 - 1) < 5 / math.sqrt(2 * 8000) + 0.01


def test_errors_name_the_value_and_the_way_out():
    model = GaussianDiffusion(exact.Gaussian(Cosine()), error=Hybrid(10))
    with pytest.raises(ValueError, match="the denoiser gives no variance"):
        model.loss(draw((2, 3)))
    with pytest.raises(ValueError, match="steps is 0"):
        Hybrid(0)
