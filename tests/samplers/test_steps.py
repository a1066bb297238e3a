"""What a step costs and where it works: operations, memory, threads, compilation, spaces, dtypes."""

import dataclasses
import itertools
import threading
import weakref

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
    Heun,
    Karras,
    Linear,
    Masked,
    Ragged,
    Renoise,
    UniPC,
    exact,
    sample,
)
from anydiff.samplers import AdamsBashforth, Euler, EulerMaruyama, KarrasGrid, plan
from anydiff.schedules import SigmoidAlphaBar
from tests.helpers.count import Count
from tests.helpers.methods import SAMPLERS, every_sampler
from tests.helpers.spaces import SIZES, draw, every_space, generators

CHURNED = Heun(churn=20.0, s_noise=1.003)
every_one = pytest.mark.parametrize("sampler", [*SAMPLERS, CHURNED, Renoise()], ids=str)


class Half(nn.Module):
    """A network of one operation on the state."""

    def forward(self, x_t, t):
        return 0.5 * x_t


def predictor(prediction="v", network=None):
    return GaussianDiffusion(network or Half(), Cosine(), prediction).predictor()


@every_space
@every_one
def test_samples_stay_in_their_space(space, shape, sampler):
    diffusion = exact.gaussian(Cosine(), "v", std=0.5)
    for seed in (5, [1, 2, 3, 4]):
        x = diffusion.sample(shape, space=space, sampler=sampler, steps=7, seed=seed)
        assert torch.allclose(space.project(x), x, atol=1e-12) and x.isfinite().all()


@every_one
def test_an_item_s_sample_does_not_depend_on_its_batch(sampler):
    diffusion = exact.gaussian(Cosine(), "v", std=0.5)
    rows = torch.tensor([False, True, True, True, True, *[False] * 9])
    spaces = [
        (Dense(), (4, 3, 5), Dense(), (1, 3, 5), slice(1, 2)),
        (Masked.from_lengths(SIZES), (4, 7, 3), Masked.from_lengths([4]), (1, 4, 3), None),
        (Ragged.from_sizes(SIZES), (14, 5), Ragged.from_sizes([4]), (4, 5), rows),
        (Ragged.from_sizes(SIZES, 3), (14, 5), Ragged.from_sizes([4], 3), (4, 5), rows),
    ]
    for space, shape, alone, part, item in spaces:
        together = diffusion.sample(shape, space=space, sampler=sampler, steps=6, seed=[1, 2, 3, 4])
        single = diffusion.sample(part, space=alone, sampler=sampler, steps=6, seed=[2])
        expected = together[1:2, :4] if item is None else together[item]
        assert torch.allclose(single, expected, atol=1e-12)


@pytest.mark.parametrize(
    "sampler, most",
    [
        (DDIM(), 3),
        (Renoise(), 5),
        (Renoise(0.0), 3),
        (Euler(), 3),
        (Heun(), 9),
        (CHURNED, 12),
        (DPMSolver(), 6),
        (DPMSolver(3), 7),
        (UniPC(), 10),
        (UniPC(3), 12),
        (AdamsBashforth(), 6),
        (AdamsBashforth(4), 8),
    ],
    ids=str,
)
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_step_is_a_few_operations_and_reads_nothing_back(sampler, most, prediction):
    """The times of the network are one for each call; a draw of noise is one, and adding it two."""

    class Nothing(nn.Module):
        def forward(self, x_t, t):
            return x_t

    asked, x_T = predictor(prediction, Nothing()), draw((3, 4))

    def calls(steps):
        with Count() as count:
            sample(asked, x_T, sampler, steps, grid=KarrasGrid())
        return count.calls

    few, many = calls(10), calls(20)
    assert len(many) - len(few) <= 10 * most
    assert not any("_local_scalar_dense" in call for call in many)


@pytest.mark.slow
@every_one
def test_a_step_compiles_into_one_graph(sampler):
    asked, x, past = predictor(), draw((4, 3)), ()
    levels = plan(Cosine(), 8, sampler)
    for t, s in itertools.pairwise(levels[:6]):
        x, p = sampler.step(asked, x, t, s, past, None)
        past = (*past, p)[-sampler.past :] if sampler.past else ()
    torch.compiler.reset()
    compiled = torch.compile(sampler.step, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    x_s, _ = compiled(asked, x, *levels[5:7], past, None)
    torch.manual_seed(0)
    assert torch.allclose(x_s, sampler.step(asked, x, *levels[5:7], past, None)[0], atol=1e-14)


def in_two_threads(work):
    """work(0) and work(1), at once."""
    ends, errors = {}, []

    def run(k):
        try:
            ends[k] = work(k)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return ends[0], ends[1]


@every_sampler
def test_threads_share_a_sampler(sampler):
    """None keeps anything of a run: two runs that take turns end where each ends alone."""
    turn = threading.Barrier(2, timeout=5)

    class InTurns(Half):
        def forward(self, x_t, t):
            turn.wait()
            return super().forward(x_t, t)

    levels, starts = plan(Cosine(), 6, sampler), (draw((3, 4), 1), draw((3, 4), 2))

    def work(k, asked):
        x, past = starts[k], ()
        for t, s in itertools.pairwise(levels):
            x, p = sampler.step(asked, x, t, s, past, None)
            past = (*past, p)[-sampler.past :] if sampler.past else ()
        return x

    shared, alone = predictor(network=InTurns()), predictor()
    together = in_two_threads(lambda k: work(k, shared))
    assert all(torch.equal(x, work(k, alone)) for k, x in enumerate(together))


def test_threads_may_sample_at_once():
    x_T, asked = draw((3, 4)), predictor()
    runs = in_two_threads(lambda k: [sample(asked, x_T, DPMSolver(), 3) for _ in range(20)])
    assert all(torch.equal(x, sample(asked, x_T, DPMSolver(), 3)) for run in runs for x in run)


@every_one
def test_memory_does_not_grow_with_steps(sampler):
    """Of what the network said, and of the states, no more is kept than the past a step looks at."""
    kept = []

    class Watched(Half):
        def forward(self, x_t, t):
            y = super().forward(x_t, t)
            kept.extend([weakref.ref(y), weakref.ref(x_t)])
            return y

    most = []

    def count(progress):
        most.append(sum(reference() is not None for reference in kept))

    sample(predictor(network=Watched()), draw((3, 4)), sampler, 20, callback=count)
    # an output and a state for each of the past, for this step's and its next state
    assert max(most) <= 2 * (sampler.past + 2) and len(most) == 20
    assert most[18] <= most[9]


@every_sampler
def test_float32_is_as_good_as_its_digits(sampler):
    x_T, asked = draw((50, 4)), exact.gaussian(Cosine(), "v", std=0.5).predictor()
    x = sample(asked, x_T.float(), sampler, 20)
    assert x.dtype == torch.float32
    # a state of sigma / alpha = 150 that is subtracted again: 150 times float32's 6e-8, 20 steps
    assert torch.allclose(x.double(), sample(asked, x_T, sampler, 20), atol=150 * 6e-8 * 20)


@every_one
def test_a_network_in_half_precision_leaves_the_state_its_own(sampler):
    class Autocast(Half):
        def forward(self, x_t, t):
            y = super().forward(x_t, t)
            return y.bfloat16() if torch.is_autocast_enabled("cpu") else y

    x_T, asked = draw((50, 4)).float(), predictor(network=Autocast())
    ends = []
    for enabled in (True, False):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            ends.append(sample(asked, x_T, sampler, 10, grid=KarrasGrid()))
    half, whole = ends
    assert half.dtype == torch.float32
    # outputs are off by 2^-9 of themselves, ten times
    assert (half - whole).abs().max() < 10 * 2**-9 * (1 + whole.abs().max())


@every_sampler
def test_no_noise_is_drawn_in_vain(sampler, monkeypatch):
    x_T = draw((3, 4))
    monkeypatch.setattr(torch, "randn", None)
    assert sample(predictor(), x_T, sampler, 5).isfinite().all()


@pytest.mark.parametrize("schedule", [Cosine(), VE(), Karras(), Flow()], ids=str)
def test_no_churn_raises_nothing_and_draws_nothing(schedule):
    asked, x_T = exact.gaussian(schedule, "v", mean=0.4, std=0.5).predictor(), draw((5, 3))
    a, b = (sample(asked, x_T, sampler, 9) for sampler in (Heun(s_noise=1.5), Heun()))
    assert torch.equal(a, b)
    assert all(at.raised is None for at in plan(schedule, 9, Heun()))


def test_heun_calls_its_network_twice():
    """Once out of pure noise, and once onto the data."""
    labels = []

    class Listening(Half):
        def forward(self, x_t, t):
            labels.append(t[0].item())
            return super().forward(x_t, t)

    for schedule, calls in ((Cosine(), 9), (Flow(), 8)):
        labels.clear()
        asked = GaussianDiffusion(Listening(), schedule, "v").predictor()
        sample(asked, draw((3, 4)), Heun(), [1.0, 0.8, 0.5, 0.3, 0.1, 0.0])
        assert len(labels) == calls


@pytest.mark.parametrize("schedule", [Karras(), Cosine(), Linear()], ids=str)
def test_churn_raises_the_noise_as_algorithm_2(schedule):
    """sigma-hat = (1 + gamma) sigma, gamma = min(churn / N, sqrt(2) - 1), between s_min and s_max."""
    n, churned = 20, Heun(churn=4.0, s_min=0.05, s_max=5.0)
    raised = 0
    for at in plan(schedule, n, churned)[:-1]:
        hat, ratio = at.raised or at, at.noise_to_signal
        inside = 0.05 <= ratio <= 5.0
        raised += inside
        assert hat.noise_to_signal == pytest.approx(ratio * (1 + 4.0 / n * inside), rel=1e-6)
        assert inside or hat is at

    class Counted(Dense):
        def noise(self, x, generator=None):
            draws.append(x)
            return super().noise(x, generator)

    draws = []
    asked = exact.gaussian(schedule, "v", std=0.5).predictor(space=Counted())
    sample(asked, draw((3, 4)), churned, n, grid=KarrasGrid())
    assert len(draws) == raised > 3

    churned = Heun(churn=1e9)
    most = plan(schedule, 2, churned, KarrasGrid(1.0, 0.5, 2.0))[1]
    hat = most.raised
    assert hat.noise_to_signal == pytest.approx(2**0.5 * most.noise_to_signal, rel=1e-6)
    assert plan(schedule, 2, churned)[0].raised is None  # no further than the end


def test_noise_that_is_raised_has_the_variance_of_its_level():
    """alpha² v + sigma² at t becomes that of the level raised to, with s_noise the added part scaled."""
    x_t = torch.zeros(200_000, 1, dtype=torch.float64)
    churned, seen = Heun(churn=0.9, s_noise=1.5), []
    t, s = plan(Cosine(), 3, churned)[1:3]
    still = predictor(network=Half())

    def answer(x, at):
        seen.append(x)
        return still.predict(x, at)

    watching = dataclasses.replace(still, answer=answer)
    churned.step(watching, x_t, t, s, (), torch.Generator().manual_seed(0))
    hat = t.raised
    added = hat.alpha**2 * (hat.noise_to_signal**2 - t.noise_to_signal**2)
    # five standard errors of a variance
    assert seen[0].var().item() == pytest.approx(1.5**2 * added, rel=5 * (2 / 200_000) ** 0.5)


@pytest.mark.parametrize("schedule", [Cosine(), Karras(), Flow()], ids=str)
def test_churned_samples_have_the_moments_of_the_data(schedule):
    diffusion = exact.gaussian(schedule, "v", mean=0.7, std=0.5)
    x = diffusion.sample((10_000, 1), sampler=Heun(churn=30.0), steps=100, seed=0)
    # five standard errors, and 1 % for the hundred steps
    assert abs(x.mean() - 0.7) < 5 * 0.5 / 100 + 0.01
    assert abs(x.std() / 0.5 - 1) < 5 / 20_000**0.5 + 0.01


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: DPMSolver(4), "order is 4; choose one of 1, 2, 3"),
        (lambda: DPMSolver(eta=-1.0), "eta is -1.0"),
        (lambda: UniPC(1), "order is 1; choose one of 2, 3"),
        (lambda: UniPC(2, "bh3"), "variant is 'bh3'"),
        (lambda: AdamsBashforth(5), "order is 5; choose one of 1, 2, 3, 4"),
        (lambda: Heun(churn=-1.0), "churn is -1.0"),
        (lambda: Heun(s_min=2.0, s_max=1.0), r"s_max is 1.0; give a number in \[2.0, inf\]"),
        (lambda: Heun(s_noise=0.0), r"s_noise is 0.0; give a number in \(0, inf\)"),
        (
            lambda: plan(Cosine(), [0.1, 0.9], sampler=CHURNED),
            r"the times rise, .*; encode with DDIM\(\)",
        ),
        (lambda: plan(Linear(), [0.0, 0.9], sampler=Euler()), r"at t = 0.*use DDIM\(\)"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_generator_per_item_goes_through_churn():
    asked = predictor()
    both = sample(asked, draw((4, 3)), CHURNED, 5, seed=generators())
    again = sample(asked, draw((4, 3)), CHURNED, 5, seed=generators())
    assert torch.equal(both, again)


@pytest.mark.parametrize("sampler", [Euler(), EulerMaruyama()], ids=str)
def test_a_step_that_overshoots_is_refused(sampler):
    """alpha of this schedule rises from its end as a root does: 0.02 further on, a tangent is at 47."""
    with pytest.raises(
        ValueError, match=r"from t = 1 to 0.98 is too long for .*; begin at steps=\[0.99"
    ):
        plan(SigmoidAlphaBar(), 50, sampler=sampler)
    plan(SigmoidAlphaBar(), torch.linspace(0.99, 0, 50), sampler=sampler)
