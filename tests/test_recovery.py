"""Energies against closed forms: gradients, conditionals, Langevin moments, the likelihood."""

import math

import pytest
import torch

import anydiff
from anydiff import GaussianDiffusion, Linear, exact, log_prob
from anydiff.denoisers import Energy, PairNet, UNet
from anydiff.recovery import RecoveryLikelihood
from anydiff.spaces import DENSE, Masked, Ragged

DOUBLE = torch.float64
TIMES = (1.0, 0.6, 0.3, 0.0)
V = 0.25


class Quadratic(torch.nn.Module):
    """f = −x² / 2 V_t, with V_t = scale (α² V + σ²): right where the scale is 1."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(scale), dtype=DOUBLE))

    def forward(self, x, t):
        alpha, sigma = Linear()(t.double())
        variance = (alpha**2 * V + sigma**2) * self.log_scale.exp()
        return -x / (2 * variance.reshape(-1, *[1] * (x.ndim - 1)))


def recovery(scale=1.0, **how):
    return RecoveryLikelihood(Energy(Quadratic(scale)), times=TIMES, **how)


def test_the_gradient_is_the_score():
    energy = Energy(Quadratic())
    data = exact.gaussian(Linear(), "score", mean=0.0, std=math.sqrt(V))
    x = torch.randn(6, 2, dtype=DOUBLE)
    for time in (0.1, 0.5, 0.9):
        t = torch.full((6,), time, dtype=DOUBLE)
        level = Linear().levels([time])[0]
        variance = level.alpha**2 * V + level.sigma**2
        torch.testing.assert_close(energy(x, t), -x / variance)
        found = GaussianDiffusion(energy, Linear(), "score").predictor().predict(x, t).score
        torch.testing.assert_close(found, data.predictor().predict(x, t).score)


def test_differences_of_energies_are_those_of_log_densities():
    energy, x = Energy(Quadratic()), torch.randn(2, 5, dtype=DOUBLE)
    t = torch.full((2,), 0.4, dtype=DOUBLE)
    level = Linear().levels([0.4])[0]
    normal = torch.distributions.Normal(0.0, math.sqrt(level.alpha**2 * V + level.sigma**2))
    a, b = energy.value(x, t)
    log_a, log_b = normal.log_prob(x).sum(1)
    torch.testing.assert_close(a - b, log_a - log_b)


def test_energies_add_up():
    """The gradient of a sum is the score of a product."""
    one, two = Energy(Quadratic()), Energy(Quadratic(0.5))
    x, t = torch.randn(3, 2, dtype=DOUBLE), torch.full((3,), 0.2, dtype=DOUBLE)

    class Both(torch.nn.Module):
        def forward(self, x, t):
            return one.network(x, t) + two.network(x, t)

    torch.testing.assert_close(Energy(Both())(x, t), one(x, t) + two(x, t))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_langevin_steps_have_the_moments_of_the_conditional(scale):
    """K steps with the step δ have closed moments, and the variance 1 / (Λ (1 − δ² Λ / 4)) at last."""
    model = recovery(scale, steps=400, step_size=0.3)
    t, s = model._levels[1], model._levels[2]
    alpha = t.alpha / s.alpha
    variance = t.sigma**2 - alpha**2 * s.sigma**2
    precision = 1 / (scale * (s.alpha**2 * V + s.sigma**2)) + alpha**2 / variance
    step = 0.3 / math.sqrt(1 / (s.alpha**2 + s.sigma**2) + alpha**2 / variance)
    x_t = torch.full((100_000, 1), 0.7, dtype=DOUBLE)
    x = model.recover(x_t, t, s, DENSE, torch.Generator().manual_seed(0))
    assert x.mean().item() == pytest.approx(alpha * 0.7 / (variance * precision), abs=6e-3)
    stationary = 1 / (precision * (1 - step**2 * precision / 4))
    assert x.var().item() == pytest.approx(stationary, rel=0.015)
    few = recovery(scale, steps=3, step_size=0.3)
    y = few.recover(x_t, t, s, DENSE, torch.Generator().manual_seed(0))
    rest = (1 - step**2 * precision / 2) ** 3
    mean = alpha * 0.7 / (variance * precision)
    assert y.mean().item() == pytest.approx(mean + rest * (0.7 - mean), abs=6e-3)
    assert y.var().item() == pytest.approx(stationary * (1 - rest**2), rel=0.015)


@pytest.mark.slow
def test_the_right_energy_is_where_the_gradient_vanishes():
    """The mean gradient of the loss by the scale: 0 at 1, and towards 1 elsewhere."""
    gradients = {}
    for scale in (0.7, 1.0, 1.4):
        model = recovery(scale, steps=150, step_size=0.15)
        total = 0.0
        for seed in range(6):
            generator = torch.Generator().manual_seed(seed)
            x0 = math.sqrt(V) * torch.randn(20_000, 1, dtype=DOUBLE, generator=generator)
            loss = model.loss(x0, generator=generator).mean()
            total += torch.autograd.grad(loss, model.energy.network.log_scale)[0].item()
        gradients[scale] = total / 6
    assert abs(gradients[1.0]) < 0.015 and gradients[0.7] < -0.03 and gradients[1.4] > 0.03


def test_samples_of_the_right_energy_are_data():
    model = recovery(steps=60, step_size=0.3)
    x = model.sample((40_000, 1), seed=0)
    assert x.mean().item() == pytest.approx(0, abs=0.02)
    assert x.var().item() == pytest.approx(V, rel=0.06)


def test_items_do_not_depend_on_their_batch():
    class Rows(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)

        def forward(self, x, t, *, space):
            return -x + torch.tanh(self.layer(x))

    torch.manual_seed(0)
    model = RecoveryLikelihood(Energy(Rows()), times=TIMES, steps=3)
    space = Masked.from_lengths([4, 2])
    x = model.sample((2, 4, 3), space=space, seed=[3, 4])
    assert (x[1, 2:] == 0).all()
    alone = model.sample((1, 2, 3), space=Masked.from_lengths([2]), seed=[4])
    torch.testing.assert_close(x[1:, :2], alone)
    assert model.loss(x, space=space).shape == (2,) and model.training


def test_an_energy_of_points_is_invariant_and_its_gradient_turns_with_them():
    torch.manual_seed(0)
    net = PairNet(0, 16, layers=1)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    energy, space = Energy(net), Ragged.from_sizes([4, 3], centered=3)
    x, t = space.noise(torch.zeros(7, 3)), torch.tensor([0.1, 0.4])
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    torch.testing.assert_close(
        energy.value(x, t, space=space), energy.value(x @ turn, t, space=space)
    )
    gradient = energy(x, t, space=space)
    torch.testing.assert_close(
        gradient @ turn, energy(x @ turn, t, space=space), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(space.project(gradient), gradient)


def test_the_ordinary_loss_trains_an_energy_with_second_derivatives():
    torch.manual_seed(0)
    diffusion = GaussianDiffusion(Energy(Quadratic(3.0)), Linear(), "score")
    x0 = math.sqrt(V) * torch.randn(256, 1, dtype=DOUBLE)
    loss = diffusion.loss(x0, 0.3).mean()
    loss.backward()
    assert diffusion.denoiser.network.log_scale.grad > 0  # its variance is too large
    x = diffusion.sample((2000, 1), steps=40, seed=0)  # and samplers, without gradients, take it
    assert x.isfinite().all() and not x.requires_grad


def test_frozen_energies_have_derivatives_too():
    """What asks for the divergence of the score gets it, whether the weights learn or not."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)
    ).double()

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, t):
            return self.net(x) - x

    diffusion = GaussianDiffusion(Energy(Plain()), Linear(), "score").eval()
    x = torch.randn(3, 2, dtype=DOUBLE)
    first = log_prob(diffusion.predictor(), x, method="rk4", steps=6)
    diffusion.requires_grad_(False)
    torch.testing.assert_close(log_prob(diffusion.predictor(), x, method="rk4", steps=6), first)


def test_energies_work_in_inference_mode():
    """In which a validation runs."""
    model, x = recovery(steps=2), torch.randn(4, 1, dtype=DOUBLE)
    with torch.inference_mode():
        assert model.loss(x).isfinite().all()
        assert model.sample((4, 1), seed=0).isfinite().all()
        diffusion = GaussianDiffusion(Energy(Quadratic()), Linear(), "score")
        assert diffusion.loss(x, 0.3).isfinite().all()
        assert diffusion.sample((3, 1), steps=3, seed=0).isfinite().all()


def test_first_derivatives_are_enough_for_recovery():
    """A network with attention, which has no second derivatives on a CPU."""
    model = RecoveryLikelihood(Energy(UNet(1, (8, 16), groups=4, attention=(1,))), steps=2)
    loss = model.loss(torch.randn(2, 1, 8, 8)).mean()
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_an_energy_in_a_file(tmp_path):
    torch.manual_seed(0)
    model = RecoveryLikelihood(Energy(UNet(1, (8, 16), groups=4)), steps=2)
    anydiff.save(tmp_path / "m.safetensors", model.diffusion)
    again, _ = anydiff.load(tmp_path / "m.safetensors")
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.5])
    torch.testing.assert_close(again.denoiser.value(x, t), model.energy.eval().value(x, t))
    assert again.sample((2, 1, 8, 8), steps=2).isfinite().all()


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: Energy(3), "give a network"),
        (lambda: RecoveryLikelihood(Quadratic()), "energy is a Quadratic; give Energy"),
        (lambda: recovery(steps=0), "steps is 0"),
        (lambda: recovery(step_size=3), "step_size is 3"),
        (lambda: RecoveryLikelihood(Energy(Quadratic()), times=(0.0, 1.0)), "give falling times"),
    ],
)
def test_what_cannot_be_is_an_error(make, error):
    with pytest.raises(ValueError, match=error):
        make()
