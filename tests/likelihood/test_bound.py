"""The variational bound against closed forms, and against the likelihood that it bounds."""

import functools
import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from anydiff import Cosine, Dense, Flow, GaussianDiffusion, Linear, Masked, Ragged, Tabulated, exact
from anydiff.likelihood import (
    ContinuousGaussian,
    Dequantize,
    DiscretizedGaussian,
    bits_per_dim,
    continuous_bound,
    variational_bound,
)
from anydiff.likelihood.chain import Chain, mistake
from anydiff.predictions import Prediction
from anydiff.samplers.variances import tied
from anydiff.schedules import VariancePreserving
from tests.helpers.mixtures import SPACES, mixture
from tests.helpers.spaces import SIZES, Bare, draw, every_space, generators

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ABAR = torch.cumprod(1 - BETAS, 0)
every_variance = pytest.mark.parametrize("variance", ["small", "large", "learned"])


def answer(schedule, t, x0, eps, said, extra=None, space=Dense()):  # noqa: B008
    """A prediction of eps, `said`, at the time t of x0 and eps."""
    at = schedule.at(torch.full((len(space.dim(x0)),), t, dtype=torch.float64))
    alpha, sigma = (space.expand(c, x0) for c in (at.alpha, at.sigma))
    return Prediction(alpha * x0 + sigma * eps, said, 0.0, 1.0, alpha, sigma, extra)


@every_variance
@pytest.mark.parametrize("k", [2, 3, 500, 1000])
def test_each_divergence_is_that_of_ho_s_two_normals(variance, k):
    """q(x_{k-1} | x_k, x0) and p(x_{k-1} | x_k), written with the betas of the paper."""
    x0, eps, said, extra = (draw((4, 3), seed) for seed in range(4))
    beta, abar, before = BETAS[k - 1], ABAR[k - 1], ABAR[k - 2]
    x_k = abar.sqrt() * x0 + (1 - abar).sqrt() * eps
    small = beta * (1 - before) / (1 - abar)
    v = (extra + 1) / 2
    var = {"small": small, "large": beta, "learned": small ** (1 - v) * beta**v}[variance]
    q = before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - before) * x_k
    p = (x_k - beta / (1 - abar).sqrt() * said) / (1 - beta).sqrt()
    expected = kl_divergence(
        Normal(q / (1 - abar), small.sqrt()), Normal(p, torch.as_tensor(var).sqrt())
    )

    chain = Chain.of(Tabulated.linear(), 1000, variance, x0.device)
    given = answer(Tabulated.linear(), k / 1000, x0, eps, said, extra)
    found = chain.divergence(given, x0, eps, torch.full((4,), k), Dense())
    assert torch.allclose(found, expected.sum(1), rtol=1e-7)


def test_the_first_step_of_a_table_is_its_decoder_with_the_next_step_s_variance():
    x0, eps, said, extra = (draw((4, 3), seed) for seed in range(4))
    given = answer(Tabulated.linear(), 0.001, x0, eps, said, extra)
    clipped = BETAS[1] * BETAS[0] / (1 - ABAR[1])
    v = (extra + 1) / 2
    variances = {"small": clipped, "large": clipped, "learned": clipped ** (1 - v) * BETAS[0] ** v}
    for variance, var in variances.items():
        chain = Chain.of(Tabulated.linear(), 1000, variance, x0.device)
        found = chain.decode(given, x0, torch.ones(4).long(), ContinuousGaussian(), Dense())
        expected = -Normal(given.x0, torch.as_tensor(var).sqrt()).log_prob(x0).sum(1)
        assert torch.allclose(found, expected, rtol=1e-7)


@every_space
@every_variance
def test_a_divergence_is_that_of_the_normals_in_a_basis_of_the_space(space, shape, variance):
    x0, eps, said = (space.project(draw(shape, seed)) for seed in range(3))
    extra = draw(shape, 3)
    chain = Chain.of(Cosine(), 10, variance, x0.device)
    given = answer(Cosine(), 0.6, x0, eps, said, extra, space)
    k = torch.full((len(space.dim(x0)),), 6)
    found = chain.divergence(given, x0, eps, k, space)

    n = x0.numel()
    units = torch.eye(n, dtype=torch.float64)
    projection = torch.stack([space.project(e.view(shape)).flatten() for e in units])
    values, vectors = torch.linalg.eigh(projection)
    basis = vectors[:, values > 0.5]
    log_q, log_p = chain.log_variances(k, given, space)
    t, s = Cosine().levels(torch.tensor([0.6, 0.5], dtype=torch.float64))
    share = t.alpha / s.alpha * s.sigma**2 / t.sigma**2
    away = (s.alpha - share * t.alpha) * (x0 - given.x0)

    def normal(mean, log_variance):
        diagonal = log_variance.expand(shape).flatten().exp()
        return MultivariateNormal(mean.flatten() @ basis, basis.T @ (diagonal[:, None] * basis))

    expected = kl_divergence(normal(away, log_q), normal(torch.zeros_like(away), log_p))
    assert torch.allclose(found.sum(), expected, rtol=1e-8)


@every_space
def test_the_prior_s_divergence_is_that_of_the_space(space, shape):
    x0 = space.project(draw(shape))
    model = exact.gaussian(Flow() if shape == (4, 3, 5) else Linear(), "v", std=0.5)
    bound = variational_bound(model.predictor(space), x0, [0.4, 0.5])
    alpha, sigma = (c.item() for c in model.schedule(torch.tensor(0.5).double()))
    scale = math.hypot(alpha, sigma)
    unit = kl_divergence(Normal(0.0, sigma / scale), Normal(0.0, 1.0)).item()
    expected = unit * space.dim(x0) + 0.5 * (alpha / scale) ** 2 * space.sum(x0**2)
    assert torch.allclose(bound.prior, expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", [Cosine(), Tabulated.linear(48), Flow()], ids=str)
@pytest.mark.parametrize("prediction", ["v", "x0", "karras"])
def test_each_term_has_its_mean_for_gaussian_data(schedule, prediction):
    """The spread of x0 given x_t is known, so the mean of a step's cost is a formula.

    1/2 (SNR_s - SNR_t) dim s² sigma_t² / (alpha_t² s² + sigma_t²), with the posterior's variance.
    """
    std, dim, items, steps = 0.6, 3, 20000, 12
    model = exact.gaussian(schedule, prediction, mean=0.4, std=std)
    x0 = 0.4 + std * draw((items, dim))
    bound = variational_bound(
        model.predictor(), x0, steps, generator=torch.Generator().manual_seed(1)
    )
    assert bound.steps.shape == (steps - int(schedule(torch.zeros(1))[1] == 0), items)

    for divergence, time in zip(bound.steps, bound.times[:, 0], strict=True):
        t, s = (torch.stack(schedule(u)) for u in (time, time - 1 / steps))
        spread = std**2 * t[1] ** 2 / (t[0] ** 2 * std**2 + t[1] ** 2)
        expected = 0.5 * ((s[0] / s[1]) ** 2 - (t[0] / t[1]) ** 2) * dim * spread
        # the cost is a chi-squared of `dim` degrees about its mean: five standard errors
        assert abs(divergence.mean() / expected - 1) < 5 * math.sqrt(2 / dim / items)


@pytest.mark.parametrize("schedule", [Cosine(), Tabulated.linear(), Flow()], ids=str)
@pytest.mark.parametrize("uniform", ["time", "logsnr"])
def test_the_integral_over_time_has_its_value_for_gaussian_data(schedule, uniform):
    """1/2 dim log(1 + std² e^logsnr) between the ends, cut or not: the integral of the spread of eps."""
    std, dim, items = 0.6, 3, 20000
    model = exact.gaussian(schedule, "v", std=std)
    cut = {"logsnr_min": -4.0, "logsnr_max": 5.0}
    x0, generator = std * draw((items, dim)), torch.Generator().manual_seed(1)
    bound = continuous_bound(model.predictor(), x0, uniform=uniform, generator=generator, **cut)
    ends = [math.log1p(std**2 * math.exp(logsnr)) for logsnr in cut.values()]
    error = bound.diffusion.std().item() / math.sqrt(items)
    assert error < 0.2
    assert abs(bound.diffusion.mean().item() - 0.5 * dim * (ends[1] - ends[0])) < 4 * error
    # the decoder is a normal around its own noise
    entropy = 0.5 * dim * (1 + math.log(2 * math.pi) - 5.0)
    error = math.sqrt(dim / 2 / items)
    assert abs(bound.reconstruction.mean().item() - entropy) < 4 * error


@pytest.mark.parametrize("uniform", ["time", "logsnr"])
@pytest.mark.parametrize("space, shape", SPACES.values(), ids=SPACES)
def test_the_bound_of_a_standard_normal_has_no_noise_at_zero(space, shape, uniform):
    """Where eps is mistaken by alpha² eps, all that is drawn is subtracted, and the mean is added."""
    model = exact.gaussian(Cosine(), "v", std=1.0)
    x0 = torch.zeros(shape, dtype=torch.float64)
    bounds = [
        continuous_bound(model.predictor(space), x0, uniform=uniform, generator=generator)
        for generator in (torch.Generator().manual_seed(k) for k in (1, 2))
    ]
    first, last = (float(v) for v in Cosine().ends(x0.device).clamp(-20, 20))
    area = [math.log1p(math.exp(v)) + 1 / (1 + math.exp(v)) for v in (first, last)]
    for bound in bounds:
        wanted = 0.5 * space.dim(x0) * (area[0] - area[1])
        torch.testing.assert_close(bound.diffusion, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("std", [0.3, 2.0])
def test_an_estimate_of_the_bound_has_less_than_half_the_noise(std):
    """Beside that of the mistakes alone, which the prediction at the same times has."""
    model, dim = exact.gaussian(Cosine(), "v", std=std), 3
    x0, u = std * draw((1, dim)).expand(8000, dim), draw((8000,), 1).argsort().double() / 8000
    bound = continuous_bound(
        model.predictor(), x0, u=u, uniform="logsnr", generator=torch.Generator().manual_seed(1)
    )
    t, generator = bound.times[0], torch.Generator().manual_seed(1)
    at, eps = Cosine()._at(t), torch.randn(8000, dim, dtype=torch.float64, generator=generator)
    p = model.predictor().predict(at.alpha[:, None] * x0 + at.sigma[:, None] * eps, at)
    first, last = Cosine().ends(x0.device).clamp(-20, 20)
    raw = 0.5 * (first - last) * (p.eps - eps).square().sum(1)
    assert bound.diffusion.std() < raw.std() / 2
    error = raw.std() / math.sqrt(8000)
    assert abs(raw.mean() - bound.diffusion.mean()) < 4 * error


@pytest.mark.parametrize("bits", [1, 8])
def test_levels_that_are_known_at_little_noise_add_none(bits):
    decoder = DiscretizedGaussian(bits)
    assert decoder.resolution == pytest.approx(2 / (2**bits - 1))
    assert DiscretizedGaussian(levels=[0.0, 0.5, 0.6]).resolution == pytest.approx(0.1)
    schedule = Cosine(-12.0)
    model = GaussianDiffusion(Levels(schedule, bits), schedule, "x0")
    x0 = model.denoiser.levels[torch.arange(600) % 2**bits][:, None].expand(600, 3)
    spread = [
        continuous_bound(
            model.predictor(), x0, decoder=of, uniform="logsnr", draws=4,
            generator=torch.Generator().manual_seed(0),
        ).diffusion.std()
        for of in (decoder, ContinuousGaussian())
    ]  # fmt: skip
    assert spread[0] < 0.8 * spread[1]


def excesses(estimate, model, space, shape, repeats, seed=0):
    """The bound less -log p for data of the model, (repeats * B,), and its mean's standard error."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    with torch.no_grad():
        for _ in range(repeats):
            x0 = model.denoiser.draw(shape, space=space, generator=generator)
            bound = estimate(model.predictor(space), x0, generator=generator)
            result.append(bound.total + model.denoiser.log_prob(x0, space=space))
    result = torch.stack(result).mean(1)
    return result.mean().item(), (result.std() / math.sqrt(repeats)).item()


@pytest.mark.parametrize(
    "space, shape",
    [
        (Dense(), (1000, 3)),
        (Masked.from_lengths(SIZES * 75), (300, 7, 2)),
        (Ragged.from_sizes(SIZES * 75, centered=3), (14 * 75, 5)),
    ],
    ids=SPACES.keys(),
)
def test_the_continuous_bound_of_an_exact_model_is_the_likelihood(space, shape):
    """In the mean over data, but for the prior's term, which is below 1e-4 per dimension."""
    model = mixture(Cosine(-12.0), space, shape)

    def estimate(*args, **options):
        return continuous_bound(*args, uniform="logsnr", draws=16, **options)

    mean, error = excesses(estimate, model, space, shape, 20)
    dim = space.dim(torch.empty(shape)).mean().item()
    assert error < 0.02 * dim  # so that the next line says something
    assert abs(mean) < 4 * error + 1e-4 * dim


@pytest.mark.slow
def test_the_bound_falls_with_the_steps_to_the_continuous_one():
    space, shape = Dense(), (500, 3)
    model = mixture(Cosine(-12.0), space, shape)
    above = []
    for steps in (4, 8, 16, 64):

        def estimate(predictor, x0, steps=steps, **options):
            return variational_bound(predictor, x0, steps, **options)

        above.append(excesses(estimate, model, space, shape, 8))
    means = [mean for mean, _ in above]
    gaps = [a - b for a, b in itertools.pairwise(means)]
    assert all(gap > 3 * error for gap, (_, error) in zip(gaps, above[1:], strict=True)), above
    assert all(mean > -3 * error for mean, error in above)
    # from the left ends of the integral to its middle: the excess is of first order in 1 / steps
    assert means[3] < means[2] / 2.5


@pytest.mark.parametrize("schedule", [Tabulated.linear(50), Cosine()], ids=str)
def test_random_steps_estimate_the_sum_without_bias(schedule):
    model, x0 = exact.gaussian(schedule, "v", std=0.5), 0.5 * draw((1, 4)).expand(20000, 4)
    options = {"generator": torch.Generator().manual_seed(0)}
    few = variational_bound(model.predictor(), x0, 50, draws=2, **options)
    every = variational_bound(model.predictor(), x0, 50, **options)
    assert few.steps.shape == (2, 20000)
    error = math.hypot(few.diffusion.std(), every.diffusion.std()) / math.sqrt(20000)
    assert abs(few.diffusion.mean() - every.diffusion.mean()) < 4 * error
    assert torch.equal(few.prior, every.prior)


@pytest.mark.parametrize("estimate", [variational_bound, continuous_bound])
def test_an_item_s_bound_does_not_depend_on_its_batch(estimate):
    space, shape = SPACES["centered"]
    model, x0 = mixture(Cosine(), space, shape), space.project(draw(shape))
    options = {"steps": 6} if estimate is variational_bound else {}
    together = estimate(model.predictor(space), x0, draws=2, generator=generators(), **options)
    alone = Ragged.from_sizes(SIZES[3:], centered=3)
    one = estimate(model.predictor(alone), x0[-7:], draws=2, generator=generators()[3:], **options)
    assert torch.allclose(one.total, together.total[3:], rtol=1e-10)


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("mean, log_variance", [(0.1, -9.0), (-1.3, -2.0), (0.9, 3.0), (4.0, -4.0)])
def test_the_levels_probabilities_sum_to_one(bits, mean, log_variance):
    levels = torch.linspace(-1, 1, 2**bits, dtype=torch.float64)
    decoder = DiscretizedGaussian(bits)
    log_p = decoder.log_probs(
        levels, torch.tensor(mean).double(), torch.tensor(log_variance).double()
    )
    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-9)
    same = DiscretizedGaussian(levels=levels.tolist())
    assert torch.equal(
        log_p, same.log_probs(levels, torch.tensor(mean), torch.tensor(log_variance))
    )


def test_any_levels_have_their_bins_and_far_ones_their_digits():
    decoder = DiscretizedGaussian(levels=[0.0, 1.0, 5.0])
    x = torch.tensor([[0.0, 1.0, 5.0]]).double()
    normal = Normal(torch.tensor(0.5).double(), 2.0)
    a, b = normal.cdf(torch.tensor(0.5).double()), normal.cdf(torch.tensor(3.0).double())
    log_variance = torch.full_like(x, math.log(4))
    expected = torch.stack([a, b - a, 1 - b]).log()
    assert torch.allclose(decoder.log_probs(x, torch.full_like(x, 0.5), log_variance)[0], expected)

    # 40 deviations away, where a difference of distribution functions is 0: the density says it
    x = torch.tensor([[0.0, 128.0, 255.0]], dtype=torch.float32) / 127.5 - 1
    mean = torch.full_like(x, 40 * 0.01).requires_grad_()
    log_p = DiscretizedGaussian().log_probs(x, mean, torch.full_like(x, 2 * math.log(0.01)))
    (slope,) = torch.autograd.grad(log_p.sum(), mean)
    assert log_p.isfinite().all() and slope.isfinite().all() and (log_p < -600).all()


def test_a_decoder_of_levels_refuses_centred_columns():
    space, shape = SPACES["centered"]
    model = mixture(Cosine(), space, shape)
    with pytest.raises(ValueError, match="mixes entries"):
        variational_bound(model.predictor(space), draw(shape), 3, decoder=DiscretizedGaussian())
    with pytest.raises(ValueError, match="mixes entries"):
        Dequantize()(draw(shape), space=space)


class Levels(nn.Module):
    """Exactly right for entries that are, each by itself, any of 2 ** bits levels, equally likely."""

    def __init__(self, schedule, bits):
        super().__init__()
        self.schedule = schedule
        self.levels = torch.linspace(-1, 1, 2**bits, dtype=torch.float64)

    def forward(self, x_t, t):
        alpha, sigma = (c[:, None, None] for c in self.schedule(t))
        share = (-0.5 * ((x_t[..., None] - alpha * self.levels) / sigma) ** 2).softmax(-1)
        return share @ self.levels


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_noise_of_so_many_bits_costs_so_many_bits(bits):
    schedule = Cosine(-12.0)
    model = GaussianDiffusion(Levels(schedule, bits), schedule, "x0")
    generator = torch.Generator().manual_seed(0)
    x0 = model.denoiser.levels[torch.randint(2**bits, (400, 3), generator=generator)]
    bound = continuous_bound(
        model.predictor(),
        x0,
        decoder=DiscretizedGaussian(bits),
        uniform="logsnr",
        draws=20,
        generator=generator,
    ).bits_per_dim()
    error = bound.std() / math.sqrt(400)
    assert error < 0.06 * bits and abs(bound.mean() - bits) < 4 * error + 1e-3


def test_a_uniform_density_over_the_bins_costs_the_bits_of_the_levels():
    grid = Dequantize(bits=8)
    assert grid.width == pytest.approx(2 / 255)
    log_p = torch.full((5,), -12 * math.log(256 * 2 / 255))
    assert torch.allclose(grid.bits_per_dim(log_p, torch.full((5,), 12)), torch.tensor(8.0))
    assert torch.allclose(
        bits_per_dim(torch.tensor([-3 * math.log(2)]), torch.tensor([3])), torch.ones(1)
    )


def test_dequantised_data_cost_no_less_than_the_levels():
    """Jensen, for a normal coarse enough for the difference to show; and the noise fills the bin."""
    grid = Dequantize(bits=3)
    levels = torch.linspace(-1, 1, 8, dtype=torch.float64)
    normal = Normal(torch.tensor(0.2).double(), 0.25)
    noisy = grid(levels.expand(20000, 8), generator=torch.Generator().manual_seed(0))
    away = (noisy - levels) / grid.width
    assert away.abs().max() <= 0.5 and abs(away.mean()) < 5 / math.sqrt(12 * 160000)
    assert abs(away.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / 160000)

    inner = levels[1:-1]  # the outer bins are open
    p = normal.cdf(inner + grid.width / 2) - normal.cdf(inner - grid.width / 2)
    discrete = -p.log() / math.log(2)
    dequantised = grid.bits_per_dim(normal.log_prob(noisy[:, 1:-1]), torch.ones(1)).mean(0)
    assert (dequantised > discrete).all()


def test_dequantising_leaves_padding_alone():
    space, shape = SPACES["masked"]
    noisy = Dequantize()(space.project(draw(shape)), space=space, generator=generators())
    assert torch.equal(space.project(noisy), noisy) and (noisy[:, 0] != draw(shape)[:, 0]).all()


class Straight(VariancePreserving, nn.Module):
    """A schedule with weights: its ends, and how it bends between them."""

    def __init__(self):
        super().__init__()
        self.first_and_last = nn.Parameter(torch.tensor([6.0, -5.0]).double())
        self.bend = nn.Parameter(torch.tensor(0.3).double())

    def _logsnr(self, t):
        return torch.lerp(*self.first_and_last, t + self.bend * t * (1 - t))


def test_the_continuous_bound_is_differentiable_in_the_schedule_and_the_denoiser():
    class Told(nn.Linear):
        def forward(self, x_t, t):
            return super().forward(x_t)

    schedule, net = Straight(), Told(3, 3).double()
    model, x0, u = GaussianDiffusion(net, schedule, "v"), draw((5, 3)), draw((2, 5), 1).sigmoid()

    def loss():
        generator = torch.Generator().manual_seed(0)
        return continuous_bound(model.predictor(), x0, u=u, generator=generator).total.sum()

    weights = [schedule.first_and_last, schedule.bend, net.bias]
    gradients = torch.autograd.grad(loss(), weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        for k in range(weight.numel()):
            sides = []
            for step in (1e-5, -2e-5):
                weight.data.view(-1)[k] += step
                sides.append(loss().item())
            weight.data.view(-1)[k] += 1e-5
            slope = (sides[0] - sides[1]) / 2e-5
            assert gradient.view(-1)[k].item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_the_bend_of_a_schedule_does_not_move_the_mean():
    """VDM's invariance: only the ends count."""
    schedule, space = Straight(), Dense()
    x0 = 0.5 * draw((4000, 2))
    u = (draw(4000, 1).argsort() + 0.5) / 4000
    totals = []
    for bend in (0.0, 0.6):
        schedule.bend.data.fill_(bend)
        model = exact.gaussian(schedule, "v", std=0.5)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            bound = continuous_bound(model.predictor(space), x0, u=u, generator=generator)
        totals.append((bound.diffusion.mean(), bound.diffusion.std() / math.sqrt(4000)))
    (a, ea), (b, eb) = totals
    assert abs(a - b) < 4 * math.hypot(ea, eb)


@pytest.mark.parametrize("prediction", ["v", "x0", "eps"])
def test_no_digits_are_lost_at_either_end(prediction):
    """The mistakes of x0 and eps in float32, where sigma, or alpha, is 1e-6 of the other."""
    x0, eps, said = (draw((4, 3), seed) for seed in range(3))
    for alpha, sigma in ((1.0, 1e-6), (1e-6, 1.0), (1.0, 50.0)):
        a, b = {"v": (-sigma, alpha), "x0": (1.0, 0.0), "eps": (0.0, 1.0)}[prediction]

        def both(dtype, alpha=alpha, sigma=sigma, a=a, b=b):
            data, noise, y = (c.to(dtype) for c in (x0, eps, said))
            p = Prediction(alpha * data + sigma * noise, y, a, b, alpha, sigma)
            return mistake(p, data, noise)

        for single, double in zip(both(torch.float32), both(torch.float64), strict=True):
            # a sum of three numbers of one size: some 10 roundings of 6e-8
            assert torch.allclose(single.double(), double, atol=1e-6 * double.abs().max().item())


def test_tied_variances_commute_with_the_projection():
    space, shape = SPACES["centered"]
    x, values = space.project(draw(shape)), tied(draw(shape, 1), space)
    assert torch.allclose(space.project(values * x), values * x, atol=1e-12)
    assert torch.equal(values[:, 3:], draw(shape, 1)[:, 3:])


def test_a_predictor_brings_its_space_and_conditions():
    space, shape = SPACES["masked"]
    model, x0 = mixture(Cosine(), space, shape), space.project(draw(shape))
    unlabelled = variational_bound(model.predictor(space), x0, 3, generator=generators())
    told = model.predictor(space, label=torch.tensor([-1, 0, 1, 1]))
    labelled = variational_bound(told, x0, 3, generator=generators())
    assert torch.equal(labelled.dim, space.dim(x0))
    assert torch.equal(labelled.total[0], unlabelled.total[0])
    assert (labelled.total[1:] != unlabelled.total[1:]).all()
    with pytest.raises(TypeError):
        variational_bound(model.predictor(space), x0, 3, space=Dense())
    with pytest.raises(TypeError):
        continuous_bound(model.predictor(space), x0, label=3)


def test_a_space_without_a_diagonal_is_named():
    predictor, x0 = exact.gaussian(Cosine()).predictor(Bare(torch.ones(2))), draw((4, 3))
    for bound in (variational_bound, continuous_bound):
        with pytest.raises(NotImplementedError, match=r"Bare has no method `diagonal\(x\)`"):
            bound(predictor, x0)


def test_errors_name_the_value_and_the_way_out():
    model, x0 = exact.gaussian(Cosine()), draw((2, 3))
    with pytest.raises(ValueError, match="variance is 'tiny'"):
        variational_bound(model.predictor(), x0, 3, variance="tiny")
    with pytest.raises(
        ValueError, match="gives no variance; choose the variance 'small' or 'large'"
    ):
        variational_bound(model.predictor(), x0, 3, variance="learned")
    with pytest.raises(ValueError, match="steps is 0"):
        variational_bound(model.predictor(), x0, 0)
    with pytest.raises(ValueError, match="fall, or rise"):
        variational_bound(model.predictor(), x0, [0.0, 0.5, 0.2])
    with pytest.raises(ValueError, match="draws is 0"):
        variational_bound(model.predictor(), x0, 3, draws=0)
    with pytest.raises(ValueError, match="uniform is 'alpha'"):
        continuous_bound(model.predictor(), x0, uniform="alpha")
    with pytest.raises(ValueError, match=r"logsnr_max is 1.0; give a number in \(5.0, inf\)"):
        continuous_bound(model.predictor(), x0, logsnr_min=5.0, logsnr_max=1.0)
    with pytest.raises(ValueError, match="bits is 0"):
        DiscretizedGaussian(bits=0)
    with pytest.raises(ValueError, match="give two or more that rise"):
        DiscretizedGaussian(levels=[1.0, 0.0])


@pytest.mark.parametrize("bound", [functools.partial(variational_bound, steps=4), continuous_bound])
def test_bounds_of_data_in_half_precision_are_computed_in_float32(bound):
    model = exact.gaussian(Cosine(), "v", std=0.5)
    given = bound(model.predictor(), torch.full((3, 2), 0.25).half())
    assert given.total.dtype == torch.float32 and given.total.isfinite().all()
