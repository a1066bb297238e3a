"""The learned schedule: monotone, differentiable, a module, and a way to a bound that scatters less."""

import copy
import math

import pytest
import torch
from torch import nn

from anydiff import Cosine, Dense, GaussianDiffusion, exact
from anydiff.schedules import Learned, Schedule

TIMES = torch.linspace(0, 1, 201, dtype=torch.float64)


def wild(width=32, seed=0, scale=1.5):
    """A schedule far from where it starts."""
    torch.manual_seed(seed)
    schedule = Learned(-5.0, 13.3, width)
    with torch.no_grad():
        for weight in schedule.interior():
            weight += scale * torch.randn(weight.shape)
    return schedule


@pytest.mark.parametrize("seed", range(5))
def test_it_falls_whatever_the_weights(seed):
    schedule = wild(seed=seed)
    logsnr = schedule.logsnr(TIMES)
    assert (logsnr.diff() <= 0).all() and (schedule.at(TIMES[1:-1]).logsnr_rate <= 0).all()
    # the ends' float32 rounding
    assert logsnr[0].item() == pytest.approx(13.3, rel=1e-6)
    assert logsnr[-1].item() == pytest.approx(-5.0, rel=1e-6)


def test_it_starts_near_a_straight_line():
    torch.manual_seed(0)
    logsnr = Learned().logsnr(TIMES)
    # the mean of 1024 steps around uniform centres is uniform to 1 / sqrt(1024), half of u is the line
    line = 13.3 - 18.3 * TIMES
    assert (logsnr - line).abs().max() < 18.3 * 0.1


def test_a_call_is_a_schedule_s():
    schedule = wild()
    assert isinstance(schedule, Schedule) and type(schedule).__call__ is Schedule.__call__
    alpha = schedule(TIMES.float())[0]
    assert alpha.dtype == torch.float32 and alpha.shape == (201,)
    assert schedule(torch.tensor(0.5))[0].shape == () and schedule(TIMES.view(3, 67))[1].shape == (
        3,
        67,
    )
    assert schedule.rates(torch.tensor(0.5))[0].shape == ()
    level = schedule.levels(torch.tensor([0.3]))[0]
    floats = (level.t, level.alpha, level.sigma, *level.rates, level.logsnr, level.logsnr_rate)
    assert all(type(value) is float for value in floats)
    assert repr(schedule) == "Learned(logsnr_min=-5.0, logsnr_max=13.3, width=32)"


def test_it_is_evaluated_in_float64_whatever_the_weights_are():
    schedule = wild()
    half = copy.deepcopy(schedule).to(torch.bfloat16)
    rounded = copy.deepcopy(half).double()
    t = TIMES[1:].float()
    assert torch.equal(half.logsnr(t), rounded.logsnr(t))
    # in float32, u itself would be off by 6e-8, which makes 1e-6 of a log-SNR that spans 18
    assert torch.equal(schedule.logsnr(t), copy.deepcopy(schedule).double().logsnr(t))


def test_rates_and_levels_are_differentiable():
    schedule = wild(width=4, scale=0.5).double()
    names = [name for name, _ in schedule.named_parameters()]
    t = torch.tensor([0.0, 0.21, 0.68, 1.0], dtype=torch.float64, requires_grad=True)

    def say(t, *weights):
        """All that a level says, with these weights."""
        for name, weight in zip(names, weights, strict=True):
            delattr(schedule, name)
            setattr(schedule, name, weight)
        at = schedule.at(t)
        return at.alpha, at.sigma, *at.rates, at.logsnr, at.logsnr_rate, at.diffusion2

    weights = [nn.Parameter(w.detach().clone()) for w in schedule.parameters()]
    assert torch.autograd.gradcheck(say, (t, *weights), atol=1e-6)


def test_rates_are_those_of_forward_differentiation():
    schedule = wild()
    mine, theirs = schedule.rates(TIMES), Schedule.rates(schedule, TIMES)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-13)


def test_a_diffusion_has_it_among_its_weights():
    diffusion = GaussianDiffusion(nn.Linear(2, 2), wild(), "v")
    names = {f"schedule.{name}" for name, _ in wild().named_parameters()}
    assert names <= set(diffusion.state_dict()) and names <= {
        n for n, _ in diffusion.named_parameters()
    }

    other = copy.deepcopy(diffusion)
    assert other.schedule is not diffusion.schedule
    with torch.no_grad():
        other.schedule.gamma_1 += 1
    assert other.schedule.logsnr(torch.ones(1)) == diffusion.schedule.logsnr(torch.ones(1)) - 1
    fresh = GaussianDiffusion(nn.Linear(2, 2), Learned(width=32), "v")
    fresh.load_state_dict(other.state_dict())
    assert torch.equal(fresh.schedule.logsnr(TIMES), other.schedule.logsnr(TIMES))
    assert fresh.to(torch.float64).schedule.weight.dtype == torch.float64
    assert fresh.to("meta").schedule.weight.device.type == "meta"


class Small(nn.Module):
    """A denoiser of two weights that depends on t."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, 0.5], dtype=torch.float64))

    def forward(self, x_t, t):
        return (self.weight[0] + self.weight[1] * t[:, None]) * x_t


def test_a_loss_reaches_the_schedule_and_sampling_plans_with_it():
    diffusion = GaussianDiffusion(Small(), wild(), "v")
    x0 = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    diffusion.loss(x0).mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in diffusion.schedule.parameters())
    assert diffusion.sample((3, 2), steps=4, seed=0).isfinite().all()


# --- the variance of a bound --------------------------------------------------------------------------


def estimate(schedule, model, x0, t, eps):
    """1/2 (-dλ/dt) |eps - eps_hat|² at the times t, (B,), of an exact denoiser that goes by the level."""
    at = schedule.at(t)
    x_t = at.alpha[:, None] * x0 + at.sigma[:, None] * eps
    _, guess = model.posterior(x_t, at.alpha, at.sigma, Dense())
    return -0.5 * at.logsnr_rate * (eps - guess).square().sum(1)


def batch(model, n, seed, d=4):
    generator = torch.Generator().manual_seed(seed)
    x0, eps = (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))
    if isinstance(model, exact.Gaussian):
        x0 = x0 * model.variance.sqrt()
    else:
        x0 = model.draw((n, d), generator=generator)
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    return x0, (torch.arange(n) + u) / n, eps


STDS = torch.tensor([0.05, 0.2, 0.6, 1.5], dtype=torch.float64)


def test_the_interior_learns_from_the_variance_and_the_rest_from_the_mean():
    schedule = wild(scale=0.5).double()
    scale = nn.Parameter(torch.tensor(1.1, dtype=torch.float64))  # stands for a denoiser's weights
    model = exact.Gaussian(Cosine(), std=STDS)

    def losses():
        x0, t, eps = batch(model, 12, 0)
        ends = schedule.logsnr(torch.ones(1)) + schedule.logsnr(torch.zeros(12))  # a prior's, say
        return estimate(schedule, model, x0, t, eps) * scale + ends.double()

    ends = [schedule.gamma_0, schedule.gamma_1, scale]
    expected = torch.autograd.grad(losses().mean(), ends)
    interior = torch.autograd.grad(losses().var(), schedule.interior())
    plain = torch.autograd.grad(losses().mean(), schedule.interior())

    learn(schedule, losses())
    for weight, gradient in zip([*ends, *schedule.interior()], [*expected, *interior], strict=True):
        assert torch.allclose(weight.grad, gradient, rtol=1e-9, atol=1e-12 * gradient.abs().max())

    # and a later pass is none of its business
    again = torch.autograd.grad(losses().mean(), schedule.interior())
    for a, b in zip(again, plain, strict=True):
        assert torch.equal(a, b)


def test_losses_that_average_several_times_of_each_item():
    schedule, model = wild(scale=0.5).double(), exact.Gaussian(Cosine(), std=STDS)

    def losses():
        return torch.stack([estimate(schedule, model, *batch(model, 8, k)) for k in range(3)]).mean(
            0
        )

    expected = torch.autograd.grad(losses().var(), schedule.interior())
    got = schedule.variance_gradient(losses())
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12 * b.abs().max())


def test_losses_that_do_not_fit_are_refused():
    schedule = wild()
    for shape in ((1,), (3, 4), ()):
        with pytest.raises(
            ValueError, match=r"losses are \(.*\); give \(B,\) of two items or more"
        ):
            schedule.variance_gradient(torch.ones(shape))


def learn(schedule, losses):
    """The gradients of a step: of the losses' variance in the interior, of their mean elsewhere."""
    gradients = schedule.variance_gradient(losses)
    losses.mean().backward()
    for weight, gradient in zip(schedule.interior(), gradients, strict=True):
        weight.grad = gradient


def train(schedule, model, d, steps=250):
    """Steps of the interior alone, at the ends that it has.

    Many items a step, so that the noise of the gradients does not decide how near to the least
    variance the steps come: rounding alone is enough to draw another noise. With 1024 items, and from
    8 initial weights, what is left of the variance is at most 3/4 of what the tests below allow; with
    256 items, it is above or below by chance.
    """
    for gamma in (schedule.gamma_0, schedule.gamma_1):
        gamma.requires_grad_(False)
    optimizer = torch.optim.Adam(schedule.interior(), lr=0.05)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        losses = estimate(schedule, model, *batch(model, 1024, step, d))
        learn(schedule, losses)
        optimizer.step()
        decay.step()


def moments(logsnr):
    """E|eps - eps_hat|² and the root of E|eps - eps_hat|⁴, for normal data of the deviations STDS.

    What is not known of eps is normal, of the variances m = s² / (s² + e^gamma).
    """
    m = STDS**2 / (STDS**2 + torch.exp(-logsnr)[:, None])
    return m.sum(1), torch.sqrt(m.sum(1) ** 2 + 2 * (m**2).sum(1))


@pytest.mark.slow
def test_training_takes_the_variance_out_of_a_bound_and_leaves_the_bound():
    """For a Gaussian all is known: the bound, its variance, and the least that an interior can reach."""
    torch.manual_seed(0)
    schedule = Learned(-5.0, 9.0, width=64).double()
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000

    def measure():
        """The bound, the variance of its estimates, and that of their expectations at each t."""
        with torch.no_grad():
            at = schedule.at(t)
            second, fourth = moments(at.logsnr)
            mean, root = (-0.5 * at.logsnr_rate * m for m in (second, fourth))
            return mean.mean().item(), (root**2).mean().item() - mean.mean().item() ** 2, mean.var()

    before = measure()
    train(schedule, exact.Gaussian(Cosine(), std=STDS), d=4)
    after = measure()

    # int 1/2 s² / (s² + e^gamma) dgamma, from gamma_0 = -9 to gamma_1 = 5; as midpoint sums, h² of it
    ends = torch.tensor([[-9.0], [5.0]], dtype=torch.float64)
    bound = 0.5 * (ends - torch.log(STDS**2 + ends.exp())).diff(dim=0).sum().item()
    assert before[0] == pytest.approx(bound, rel=1e-4) == after[0]
    assert after[2] < before[2] / 20

    # the second moment is int (dgamma/dt)² q dt, at least (int root(q) dgamma)²: where dgamma/dt is as
    # 1 / root(q), by Cauchy and Schwarz
    gamma = torch.linspace(-9, 5, 4001, dtype=torch.float64)
    least = torch.trapezoid(0.5 * moments(-gamma)[1], gamma).item() ** 2 - bound**2
    assert 0 < after[1] - least < (before[1] - least) / 20


@pytest.mark.slow
def test_the_estimates_of_a_mixture_scatter_less_too():
    means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    model = exact.GaussianMixture(Cosine(), means=means, stds=torch.tensor([0.3, 0.3]).double())
    torch.manual_seed(0)
    schedule = Learned(-5.0, 9.0, width=64).double()

    def scatter():
        """The mean of 20,000 estimates, their variance, and that of their means in 50 parts of t."""
        with torch.no_grad():
            losses = estimate(schedule, model, *batch(model, 20_000, 10_000, d=8))
        return losses.mean().item(), losses.var().item(), losses.view(50, -1).mean(1).var().item()

    before = scatter()
    train(schedule, model, d=8)
    after = scatter()
    # each mean is good to the root of its variance / 20,000
    assert abs(after[0] - before[0]) < 4 * math.sqrt((before[1] + after[1]) / 20_000)
    assert after[1] < before[1] / 2 and after[2] < before[2] / 10
