"""Losses and samplers in every mode of PyTorch: the same numbers, or as close as the dtype allows.

Without gradients and in inference mode, within vmap, grad and jvp, compiled for batches of several sizes,
and in float64, bfloat16 and half precision.
"""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from anydiff import GaussianDiffusion, editing, guidance, likelihood, sample
from anydiff.denoisers.embeddings import FourierTime
from anydiff.distillation import Distillation, consistent, known, merged, student
from anydiff.losses import (
    P2,
    Hybrid,
    KarrasWeighting,
    LearnedUncertainty,
    Likelihood,
    LossSecondMoment,
    MinSNR,
    Rows,
    Sigmoid,
    TruncatedSNR,
    Unit,
)
from anydiff.predictions import TARGETS
from anydiff.samplers import AdaptiveODE, AdaptiveSDE, plan
from anydiff.schedules import Cosine, Learned, Schedule
from tests.helpers.runs import SAMPLERS, SCHEDULES

pytestmark = pytest.mark.filterwarnings("ignore")  # of the compiler


class Small(nn.Module):
    """A smooth network, whose second output is a learned variance if it has one."""

    def __init__(self, outputs=1):
        super().__init__()
        self.outputs = outputs
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2 * outputs))

    def forward(self, x_t, t):
        assert t.dtype == torch.float64 if x_t.dtype == torch.float64 else t.dtype == torch.float32
        y = self.layers(torch.cat([x_t, t[:, None].to(x_t.dtype)], 1))
        return y if self.outputs == 1 else y.chunk(self.outputs, 1)


class Own(Schedule):
    """A schedule of one's own, which defines its levels only."""

    def _levels(self, t):
        return torch.cos(1.5 * t), torch.sin(1.5 * t)


LOSSES = {f"prediction {name}": (Cosine(), name, None) for name in TARGETS}
WEIGHTINGS = [Likelihood(), MinSNR(), P2(), TruncatedSNR(), KarrasWeighting(), Sigmoid(-1.0)]
for k, schedule in enumerate([*SCHEDULES, Own()]):
    LOSSES[f"velocity of {type(schedule).__name__}-{k}"] = schedule, "v", Unit("velocity")
LOSSES |= {str(weighting): (Cosine(), "v", weighting) for weighting in WEIGHTINGS}
LOSSES |= {"a function": (Cosine(), "v", torch.sigmoid), "Hybrid": (Cosine(), "eps", None)}
DISTILLED = ("merged", "consistent")
LOSSES |= {name: (Cosine(), "v", None) for name in DISTILLED}
every_loss = pytest.mark.parametrize("name", LOSSES)
DTYPES = {
    torch.float64: 1e-5,
    torch.bfloat16: 0.1,
    torch.half: 0.02,
}  # float32's and their rounding


def model(name, dtype=torch.float32):
    schedule, prediction, weighting = LOSSES[name]
    of = {"error": Hybrid(100)} if name == "Hybrid" else {}
    denoiser = Small(2 if of else 1).to(dtype)
    diffusion = GaussianDiffusion(denoiser, schedule, prediction, weighting, **of)
    return distilled(name, diffusion) if name in DISTILLED else diffusion


def distilled(name, teacher):
    """A student of a model, for the times of `batch`."""
    rows = Rows([0.9, 1.9 / 3, 0.5, 1.1 / 3, 0.1, 0.0])
    own = student(teacher, rows)

    def target(x0, space):
        if name == "merged":
            times = sorted({*rows.times, 0.8, 0.6, 0.4, 0.2, 0.05}, reverse=True)
            return merged(teacher.predictor(space), times)
        return consistent(known(x0, own.schedule, space), own.predictor(space), rows.nearer)

    return Distillation(own, target)


def batch(num=4):
    g = torch.Generator().manual_seed(1)
    return (
        torch.randn(num, 2, generator=g),
        torch.linspace(0.1, 0.9, num),
        torch.randn(num, 2, generator=g),
    )


class Loss(nn.Module):
    """The loss as a function of tensors alone."""

    def __init__(self, diffusion):
        super().__init__()
        self.diffusion = diffusion

    def forward(self, x, t, noise):
        return self.diffusion.loss(x, t, noise=noise)

    def one(self, weights, x, t, noise):
        return functional_call(self, weights, (x[None], t[None], noise[None]))[0]


@every_loss
def test_a_loss_is_the_same_without_gradients_and_within_transforms(name):
    loss, (x, t, noise) = Loss(model(name)), batch()
    expected = loss(x, t, noise)
    with torch.no_grad():
        assert torch.equal(loss(x, t, noise), expected)
    with torch.inference_mode():
        assert torch.equal(loss(x.clone(), t.clone(), noise.clone()), expected)

    weights = dict(loss.named_parameters())
    each = vmap(loss.one, (None, 0, 0, 0))(weights, x, t, noise)
    assert torch.allclose(each, expected, rtol=1e-4)
    _, along = jvp(lambda x: loss(x, t, noise), (x,), (torch.ones_like(x),))
    assert torch.allclose(along.sum(), grad(lambda x: loss(x, t, noise).sum())(x).sum(), rtol=1e-4)
    if isinstance(LOSSES[name][0], Learned):
        return
    per_item = vmap(grad(loss.one), (None, 0, 0, 0))(weights, x, t, noise)
    expected.sum().backward()
    for weight, gradients in zip(loss.parameters(), per_item.values(), strict=True):
        assert torch.allclose(
            gradients.sum(0), weight.grad, rtol=1e-3, atol=1e-4 * weight.grad.abs().max()
        )


# the rates of all schedules are compiled with their other tests, and so are the losses of students
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in LOSSES if n not in DISTILLED and ("velocity of" not in n or "Own" in n)]
)
def test_a_compiled_loss_takes_batches_of_several_sizes(name):
    torch._dynamo.reset()
    loss = Loss(model(name))
    compiled = torch.compile(loss, fullgraph=True, backend="eager", dynamic=True)
    for num in (4, 3):
        assert torch.allclose(compiled(*batch(num)), loss(*batch(num)), rtol=1e-4)
    compiled(*batch()).sum().backward()


@every_loss
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_loss_in_another_dtype_is_the_same_to_its_rounding(name, dtype):
    x, t, noise = batch()
    expected = model(name).loss(x, t, noise=noise)
    low, most = model(name, dtype), DTYPES[dtype]
    for x0, eps in ((x.to(dtype), noise.to(dtype)), (x, noise)):  # data of either dtype
        found = low.loss(x0, t, noise=eps)
        assert found.dtype == torch.promote_types(x0.dtype, torch.float32)
        assert (found - expected).abs().max() < most * (1 + expected.abs().max())
    low.loss(x.to(dtype)).mean().backward()


every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
CHOOSES_ITS_STEPS = (AdaptiveODE, AdaptiveSDE)  # by the values, which transforms do not show


def times(sampler):
    return (0.6, 0.5, 0.4) if isinstance(sampler, CHOOSES_ITS_STEPS) else 4


def loop(diffusion, sampler, x):
    """The loop written by hand, through which gradients pass."""
    predictor, past, generator = diffusion.predictor(), (), torch.Generator().manual_seed(0)
    for t, s in pairwise(plan(diffusion.schedule, times(sampler), sampler)):
        x, p = sampler.step(predictor, x, t, s, past, generator)
        past = (*past, p)[-sampler.past :] if sampler.past else ()
    return x


@every_sampler
def test_a_run_is_the_same_without_gradients_and_within_transforms(sampler):
    diffusion, x = GaussianDiffusion(Small(), Cosine(), "v"), batch()[0]
    expected = sample(diffusion.predictor(), x, sampler, times(sampler), seed=0)
    with torch.inference_mode():
        again = sample(diffusion.predictor(), x.clone(), sampler, times(sampler), seed=0)
        assert torch.equal(again, expected)
    assert torch.allclose(loop(diffusion, sampler, x), expected)

    leaf = x.clone().requires_grad_()
    loop(diffusion, sampler, leaf).sum().backward()
    assert leaf.grad.isfinite().all()
    if isinstance(sampler, CHOOSES_ITS_STEPS):
        return
    gradient = grad(lambda x: loop(diffusion, sampler, x).sum())(x)
    assert torch.allclose(gradient, leaf.grad, rtol=1e-4)
    _, along = jvp(lambda x: loop(diffusion, sampler, x), (x,), (torch.ones_like(x),))
    assert torch.allclose(along.sum(), gradient.sum(), rtol=1e-3)


@pytest.mark.slow
@every_sampler
def test_a_compiled_step_takes_batches_of_several_sizes(sampler):
    if isinstance(sampler, CHOOSES_ITS_STEPS):
        pytest.skip("it reads how long its steps may be")
    torch._dynamo.reset()
    predictor = GaussianDiffusion(Small(), Cosine(), "v").predictor()
    *before, t, s = plan(predictor.schedule, 4 + sampler.past, sampler)[: 2 + sampler.past]

    def step(x):
        past = tuple(predictor.predict(x, level) for level in before)
        return sampler.step(predictor, x, t, s, past, None)[0]

    compiled = torch.compile(step, backend="eager", dynamic=True)
    for num in (4, 3):
        x = batch(num)[0]
        torch.manual_seed(0)
        expected = step(x)
        torch.manual_seed(0)
        assert torch.allclose(compiled(x), expected, rtol=1e-4, atol=1e-5)


@every_sampler
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_run_in_another_dtype_keeps_it_and_its_state_in_float32(sampler, dtype):
    diffusion = GaussianDiffusion(Small().to(dtype), Cosine(), "v")
    full, x = GaussianDiffusion(Small(), Cosine(), "v"), batch()[0]
    states = set()
    run = {"sampler": sampler, "steps": times(sampler), "seed": 0}
    found = sample(
        diffusion.predictor(), x.to(dtype), **run, callback=lambda p: states.add(p.x_s.dtype)
    )
    assert found.dtype == dtype and found.isfinite().all()
    assert states == {torch.promote_types(dtype, torch.float32)}
    assert diffusion.sample((4, 2), **run).dtype == dtype
    # the state is the data's, whatever the network's
    mixed = sample(diffusion.predictor(), x, **run)
    assert mixed.dtype == torch.float32
    if not isinstance(sampler, CHOOSES_ITS_STEPS):
        expected = sample(full.predictor(), x, **run)
        assert (mixed - expected).abs().max() < 10 * DTYPES[dtype] * expected.abs().max()


def test_a_long_run_of_a_network_in_half_precision_does_not_drift():
    """Of 1000 steps each is less than the rounding of bfloat16, in which the state would stand still."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.tensor(0.5))

        def forward(self, x_t, t):
            return self.value.expand_as(x_t)

    x, found = torch.ones(1, 1), []
    for dtype in (torch.float64, torch.bfloat16):
        diffusion = GaussianDiffusion(Constant().to(dtype), Cosine(), "v")
        found.append(sample(diffusion.predictor(), x.to(dtype), steps=1000).double())
    assert torch.allclose(*found, atol=0.01)


class Labelled(Small):
    def forward(self, x_t, t, label=None):
        shift = 0 if label is None else label[:, None].clamp(min=0)
        return super().forward(x_t, t) + shift


def first(x):
    return x[:, :1]


DOORS = {
    "dps": lambda p, x: sample(guidance.dps(p, first, first(x), noise=1.0), x, steps=3),
    "pigdm": lambda p, x: sample(guidance.pigdm(p, first, first(x), noise=0.5), x, steps=3),
    "classifier": lambda p, x: sample(
        guidance.classifier(p, lambda x_t, t: -x_t.square().sum(1), 0.5), x, steps=3
    ),
    "inpaint": lambda p, x: editing.inpaint(p, x, x > 0, steps=3, seed=0),
    "edit": lambda p, x: editing.edit(p, x, 0.5, steps=3, seed=0),
    "encode": lambda p, x: editing.encode(p, x, steps=3),
    "decode": lambda p, x: editing.decode(p, x, steps=3),
    "interpolate": lambda p, x: editing.interpolate(p, x, -x, steps=3),
    "ilvr": lambda p, x: editing.ilvr(p, x, lambda x: x.mean(1, True).expand_as(x), steps=3, seed=0),
    "variational_bound": lambda p, x: likelihood.variational_bound(
        p, x, steps=3, generator=torch.Generator().manual_seed(0)
    ).total,
    "log_prob": lambda p, x: likelihood.log_prob(p, x, method="midpoint", steps=3),
    "log_prob, estimated": lambda p, x: likelihood.log_prob(
        p, x, method="midpoint", steps=3, trace="hutchinson", generator=torch.Generator().manual_seed(0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_a_door_works_in_inference_mode_and_with_a_network_in_half_precision(door):
    call, x = DOORS[door], batch()[0]
    predictor = GaussianDiffusion(Labelled(), Cosine(), "v").predictor()
    expected = call(predictor, x)
    with torch.inference_mode():
        found = call(predictor, x.clone())
    assert torch.equal(found, expected)
    low = GaussianDiffusion(Labelled().bfloat16(), Cosine(), "v").predictor()
    assert (call(low, x) - expected).abs().max() < 0.3 * (1 + expected.abs().max())
    assert call(low, x.bfloat16()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_what_must_not_be_rounded_is_not(dtype):
    """Frequencies and statistics, where a network's weights are converted to another dtype."""
    t = torch.linspace(0, 1, 9)
    time = FourierTime(64)
    expected = time(t)
    assert torch.equal(time.to(dtype)(t), expected)

    uncertainty = LearnedUncertainty()
    frequencies = uncertainty.frequencies.clone()
    assert torch.equal(uncertainty.to(dtype).frequencies, frequencies)
    times = LossSecondMoment(bins=4)
    times.losses.fill_(1 / 3)
    probabilities = times.probabilities
    assert torch.equal(times.to(dtype).probabilities, probabilities)
    assert times.to("meta").losses.device.type == "meta"
