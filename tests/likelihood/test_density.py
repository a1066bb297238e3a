"""The probability-flow ODE's likelihood against densities that are known."""

import math
import sys

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from anydiff import (
    VE,
    Cosine,
    Flow,
    GaussianDiffusion,
    Karras,
    Linear,
    Polynomial,
    Ragged,
    Tabulated,
    exact,
    log_prob,
)
from anydiff.likelihood import Dequantize
from anydiff.likelihood.density import CHUNK, _directions
from anydiff.likelihood.traces import basis, divergence, ranks
from tests.helpers.mixtures import SPACES, mixture, three_spaces
from tests.helpers.spaces import PACKED, SIZES, Bare, draw, generators

# The prior is N(0, 1), and the last state is that of the data times alpha: at a log-SNR of -20, alpha
# is 5e-5 and the difference below 1e-3 for any of these data.
DEEP = Cosine(-20.0)
TIGHT = {"rtol": 1e-6, "atol": 1e-6}


@three_spaces
def test_the_likelihood_of_a_mixture(space, shape):
    model = mixture(DEEP, space, shape)
    x0 = model.denoiser.draw(shape, space=space, generator=torch.Generator().manual_seed(0))
    found = log_prob(model.predictor(space), x0, trace="exact", logsnr_min=-20.0, **TIGHT)
    assert torch.allclose(found, model.denoiser.log_prob(x0, space=space), rtol=0, atol=1e-3)


SCHEDULES = [Cosine(-14.0), Linear(), Polynomial(), Tabulated.linear(), Flow(), VE(), Karras()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("prediction", ["v", "karras"])
def test_the_likelihood_of_a_gaussian_under_every_schedule(schedule, prediction):
    """Of the data blurred by the noise of the schedule's clean end, as the model's last state is."""
    std, x0 = 0.7, 0.7 * draw((5, 3))
    model = exact.gaussian(schedule, prediction, std=std)
    clean, noisy = schedule.logsnr(torch.tensor([0.0, 1.0]).double()).clamp(-15, 15).tolist()
    expected = Normal(0.0, math.sqrt(std**2 + math.exp(-clean))).log_prob(x0).sum(1)
    found = log_prob(model.predictor(), x0, trace="exact", rtol=1e-6, atol=1e-6)
    # the prior's variance is 1 and the last state's 1 + (std² - 1) alpha²: half of that, for |u|² ~ 20
    assert torch.allclose(found, expected, rtol=0, atol=1e-4 + 10 * math.exp(noisy) * (1 - std**2))


def test_the_data_are_blurred_by_the_noise_where_the_flow_is_cut():
    model, x0 = exact.gaussian(DEEP, "v", std=0.7), 0.7 * draw((5, 3))
    found = log_prob(model.predictor(), x0, logsnr_max=2.0, logsnr_min=-20.0, rtol=1e-6, atol=1e-6)
    expected = Normal(0.0, math.sqrt(0.7**2 + math.exp(-2))).log_prob(x0).sum(1)
    assert torch.allclose(found, expected, atol=1e-4)


def test_every_direction_of_an_item_once():
    """The sum of d (J^T d) is the trace of P J P, for a matrix that mixes all entries of an item."""
    for space, shape in [*SPACES.values(), (PACKED, PACKED.shape)]:
        x = space.project(draw(shape))
        matrix = draw((x.numel(), x.numel()), 1)
        items = space.expand(torch.arange(4), x).expand_as(x).flatten()
        matrix = matrix * (items[:, None] == items)

        def field(u, space=space, matrix=matrix):
            return space.project((matrix @ u.flatten()).view_as(u)) + 2 * u

        directions, count = _directions(x, space, "exact", 1, None)
        _, entries = divergence(field, x, directions(), False)
        units = torch.eye(x.numel(), dtype=torch.float64)
        p = torch.stack([space.project(e.view(shape)).flatten() for e in units])
        diagonal = (p @ matrix @ p + 2 * p).diagonal()
        total = torch.zeros(4).double().index_add(0, items, diagonal)
        assert count == 1 and torch.allclose(space.sum(entries), total)
        # as many directions as the largest item has entries, not as many as the batch
        rank, most = ranks(x, space)
        assert most == max((items == b).logical_and(p.diagonal() > 0).sum() for b in range(4))
        assert sum(len(chunk) for chunk in basis(x, space, rank, most, CHUNK)) == most


@three_spaces
def test_random_directions_estimate_the_trace_without_bias(space, shape):
    model = mixture(Cosine(), space, shape)
    x0 = model.denoiser.draw(shape, space=space, generator=torch.Generator().manual_seed(0))
    predictor, options = model.predictor(space), {"method": "midpoint", "steps": 4}
    truth = log_prob(predictor, x0, trace="exact", **options)
    generator = torch.Generator().manual_seed(1)
    found = torch.stack(
        [
            log_prob(predictor, x0, trace="hutchinson", probes=8, generator=generator, **options)
            for _ in range(16)
        ]
    )
    error = found.std(0) / math.sqrt(16)
    assert ((found.mean(0) - truth).abs() <= 4 * error + 1e-9).all()
    assert (error[space.dim(x0) > 2] > 1e-6).all()  # it is an estimate


def test_signs_leave_no_noise_where_entries_do_not_mix():
    model, x0 = exact.gaussian(Cosine(), "v", mean=0.3, std=0.5), draw((3, 4))
    options = {"method": "rk4", "steps": 5}
    one = log_prob(model.predictor(), x0, trace="hutchinson", generator=generators()[0], **options)
    assert torch.allclose(
        one, log_prob(model.predictor(), x0, trace="exact", **options), atol=1e-10
    )


def test_the_gradient_in_the_data():
    mean, std = 0.3, 0.5
    model = exact.gaussian(DEEP, "v", mean=mean, std=std)
    x0 = (0.5 * draw((4, 2))).requires_grad_()
    found = log_prob(model.predictor(), x0, logsnr_min=-20.0, **TIGHT)
    (slope,) = torch.autograd.grad(found.sum(), x0)
    assert torch.allclose(slope, -(x0 - mean) / std**2, atol=1e-3)
    with torch.no_grad():
        assert not log_prob(model.predictor(), x0).requires_grad
    assert not log_prob(model.predictor(), x0.detach()).requires_grad


def test_the_gradient_in_the_data_of_a_mixture():
    space, shape = SPACES["dense"]
    model = mixture(DEEP, space, shape)
    x0 = (0.5 * draw(shape)).requires_grad_()
    options = {"method": "rk4", "steps": 40, "logsnr_min": -20.0}
    (slope,) = torch.autograd.grad(log_prob(model.predictor(), x0, **options).sum(), x0)
    (truth,) = torch.autograd.grad(model.denoiser.log_prob(x0).sum(), x0)
    assert torch.allclose(slope, truth, atol=1e-3 * truth.abs().max().item())


@pytest.mark.parametrize(
    "method, order, steps", [("euler", 1, 80), ("midpoint", 2, 40), ("rk4", 4, 20)]
)
def test_fixed_steps_converge_at_the_solver_s_order(method, order, steps):
    """To where the flow of a Gaussian leads in closed form, and by how much it stretches."""
    mean, std, x0 = 0.3, 0.5, 0.5 * draw((4, 2))
    model = exact.gaussian(Cosine(), "v", mean=mean, std=std)
    (a0, a1), (s0, s1) = (c.tolist() for c in Cosine()(torch.tensor([0.0, 1.0]).double()))
    stretch = math.sqrt(((a1 * std) ** 2 + s1**2) / ((a0 * std) ** 2 + s0**2))
    last = a1 * mean + stretch * a0 * (x0 - mean)
    truth = Normal(0.0, 1.0).log_prob(last).sum(1) + 2 * math.log(a0 * stretch)
    errors = [
        (log_prob(model.predictor(), x0, method=method, steps=n) - truth).abs().max().item()
        for n in (steps, 2 * steps)
    ]
    assert errors[1] < 0.15 and math.log2(errors[0] / errors[1]) > order - 0.3, errors


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_with_fixed_steps_an_item_does_not_depend_on_its_batch(trace):
    space, shape = SPACES["centered"]
    model, x0 = mixture(Cosine(), space, shape), space.project(draw(shape))
    options = {"trace": trace, "method": "rk4", "steps": 6}
    together = log_prob(model.predictor(space), x0, generator=generators(), **options)
    alone = Ragged.from_sizes(SIZES[3:], centered=3)
    one = log_prob(model.predictor(alone), x0[-7:], generator=generators()[3:], **options)
    assert torch.allclose(one, together[3:], rtol=1e-10)


def test_a_hundred_dimensions_one_direction_after_the_other():
    """More than are differentiated at once; auto takes a random one there."""
    mixed = draw((100, 100)) / 20
    model = exact.gaussian(DEEP, "v", covariance=mixed @ mixed.T + 0.3 * torch.eye(100))
    x0, options = 0.5 * draw((2, 100)), {"method": "rk4", "steps": 40, "logsnr_min": -20.0}
    found = log_prob(model.predictor(), x0, trace="exact", **options)
    assert torch.allclose(found, model.denoiser.log_prob(x0), rtol=0, atol=1e-3)
    options["steps"] = 3
    found = log_prob(model.predictor(), x0, trace="exact", **options)
    auto = log_prob(model.predictor(), x0, generator=torch.Generator().manual_seed(0), **options)
    assert not torch.equal(auto, found)


class Doubled(torch.autograd.Function):
    """A kernel of one's own, which cannot be differentiated along several directions at once."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        if torch._C._functorch.is_batchedtensor(grad):
            raise RuntimeError("no batching rule")
        return 2 * grad


def test_kernels_without_a_batching_rule_are_followed_one_direction_after_the_other():
    x = draw((3, 5))
    directions = [torch.eye(5).double()[:, None].expand(5, 3, 5)]
    plain = divergence(lambda x: (2 * x).sin(), x, directions, False)
    own = divergence(lambda x: Doubled.apply(x).sin(), x, directions, False)
    assert torch.equal(own[0], plain[0]) and torch.allclose(own[1], plain[1], atol=1e-14)
    assert torch.allclose(own[1], 2 * (2 * x).cos(), atol=1e-14)


def test_single_precision():
    model, x0 = exact.gaussian(DEEP, "v", mean=0.3, std=0.5), 0.5 * draw((4, 3))
    found = log_prob(model.float().predictor(), x0.float(), logsnr_min=-20.0)
    assert found.dtype == torch.float32
    # the default tolerance of 1e-5 a step, some tens of steps
    assert torch.allclose(found.double(), model.denoiser.log_prob(x0), atol=2e-3)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.line = nn.Dropout(0.5), nn.Linear(3, 6).double()
        self.calls = 0

    def forward(self, x_t, t):
        self.calls += 1
        return self.drop(self.line(x_t)).chunk(2, dim=1)


def test_dropout_is_off_meanwhile_and_a_learned_variance_is_passed_over():
    model, x0 = GaussianDiffusion(Noisy(), Cosine(), "v").train(), draw((2, 3))
    model.denoiser.line.eval()
    a, b = (log_prob(model.predictor(), x0, method="rk4", steps=3) for _ in range(2))
    assert torch.equal(a, b) and model.denoiser.calls == 2 * 3 * 4  # four stages a step
    assert model.training and model.denoiser.drop.training and not model.denoiser.line.training


def test_a_network_that_ignores_its_input_has_a_likelihood_too():
    class Zero(nn.Module):
        def forward(self, x_t, t):
            return torch.zeros_like(x_t)

    x0 = draw((2, 3))
    model = GaussianDiffusion(Zero(), Cosine(), "v")  # v = 0: the flow stands still
    # but for the clean end's alpha, 1 - e^-15 / 2
    expected = Normal(0.0, 1.0).log_prob(x0).sum(1)
    assert torch.allclose(log_prob(model.predictor(), x0), expected, atol=1e-5)


def test_bits_of_levels_by_the_ode():
    """Of coin flips spread over their bins: between one bit and what the density's mass outside costs."""
    grid = Dequantize(bits=1)
    levels = torch.tensor([-1.0, 1.0]).double()
    # the bins are [-2, 0] and [0, 2]; a mixture of normals in them is a poor uniform, so more than 1
    model = exact.mixture(DEEP, "v", means=levels[:, None], stds=0.6)
    x0 = levels[torch.arange(40) % 2][:, None]
    noisy = grid(x0, generator=torch.Generator().manual_seed(0))
    bits = grid.bits_per_dim(
        log_prob(model.predictor(), noisy, logsnr_min=-20.0, **TIGHT), torch.ones(40)
    )
    truth = grid.bits_per_dim(model.denoiser.log_prob(noisy), torch.ones(40))
    assert torch.allclose(bits, truth, atol=1e-3) and 1 < bits.mean() < 1.5


def test_a_space_without_a_diagonal_has_random_directions_alone():
    space, options = Bare(torch.ones(2)), {"method": "rk4", "steps": 20, "logsnr_min": -20.0}
    model, x0 = exact.gaussian(DEEP, "v", std=0.5), space.project(draw((4, 3)))
    found = log_prob(
        model.predictor(space),
        x0,
        trace="hutchinson",
        probes=400,
        generator=generators()[0],
        **options,
    )
    # each direction says |v|² / 2 of 2 log 2, what the flow stretches: five standard errors
    truth = model.denoiser.log_prob(x0, space=space)
    assert torch.allclose(found, truth, rtol=0, atol=5 * 2 * math.log(2) / 400**0.5)
    for trace in ("exact", "auto"):
        with pytest.raises(NotImplementedError, match=r"Bare has no method `diagonal\(x\)`"):
            log_prob(model.predictor(space), x0, trace=trace, **options)


def test_errors_name_the_value_and_the_way_out(monkeypatch):
    model, x0 = exact.gaussian(Cosine()), draw((2, 3))
    with pytest.raises(ValueError, match="trace is 'some'"):
        log_prob(model.predictor(), x0, trace="some")
    with pytest.raises(ValueError, match="probes is 0"):
        log_prob(model.predictor(), x0, trace="hutchinson", probes=0)
    with pytest.raises(ValueError, match="fixed steps"):
        log_prob(model.predictor(), x0, method="rk4")
    with pytest.raises(ValueError, match="fixed steps"):
        log_prob(model.predictor(), x0, steps=10)
    with pytest.raises(ValueError, match="steps is 0"):
        log_prob(model.predictor(), x0, method="rk4", steps=0)
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r"anydiff\[ode\]"):
        log_prob(model.predictor(), x0)


def test_a_network_that_is_not_finite_is_an_error():
    class Nothing(nn.Module):
        def forward(self, x_t, t):
            return x_t * float("nan")

    predictor = GaussianDiffusion(Nothing(), Cosine(), "v").predictor()
    with pytest.raises(ValueError, match=r"log_prob by 'dopri5' found no step.*output is finite"):
        log_prob(predictor, torch.zeros(3, 2))
