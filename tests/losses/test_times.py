"""Times are drawn from the density they name, one from each stratum of it."""

import math
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from anydiff import VE, Cosine, Flow, GaussianDiffusion, Karras, Linear
from anydiff.denoisers.embeddings import SinusoidalTime, time_features
from anydiff.losses import Rows
from anydiff.losses.times import (
    LogitNormal,
    LogNormal,
    LossSecondMoment,
    Mapped,
    Power,
    SoftTruncation,
    UniformLogSNR,
    as_times,
    stratified,
)
from tests.helpers.count import Count
from tests.helpers.spaces import draw

LIKE = torch.empty(0, dtype=torch.float64)


def ln_sigma(t, schedule):
    return -schedule.logsnr(t) / 2


# a density, a schedule wide enough for it, and its distribution function of t
DENSITIES = {
    "uniform": (Mapped, Cosine(), lambda t, s: t),
    "lognormal": (LogNormal, Karras(1e-4, 1e3), lambda t, s: normal((ln_sigma(t, s) + 1.2) / 1.2)),
    "lognormal of flow": (LogNormal, Flow(), lambda t, s: normal((ln_sigma(t, s) + 1.2) / 1.2)),
    "logitnormal": (LogitNormal, Cosine(), lambda t, s: normal(torch.logit(t))),
    "power": (Power, Cosine(), lambda t, s: t ** (1 / 1.5)),
    "logsnr": (UniformLogSNR, Flow(), lambda t, s: (10 - s.logsnr(t)) / 20),
    "logsnr of all": (UniformLogSNR, VE(0.1, 10), lambda t, s: t),
    "moments": (LossSecondMoment, Cosine(), lambda t, s: t),
}
every_density = pytest.mark.parametrize("kind, schedule, cdf", DENSITIES.values(), ids=DENSITIES)


def normal(x):
    return torch.special.ndtr(x)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Zero(nn.Module):
    def forward(self, x_t, t):
        return torch.zeros_like(x_t)


def test_stratified_draws_fill_every_stratum_in_random_order():
    u = stratified(64, LIKE, generator())
    assert ((u * 64).long().sort().values == torch.arange(64)).all()
    assert not (u.diff() > 0).all()


@every_density
def test_each_stratum_of_the_density_has_one_time(kind, schedule, cdf):
    n = 256
    t = kind().draw(n, schedule, like=LIKE, generator=generator())
    assert t.dtype == torch.float64 and ((t >= 0) & (t <= 1)).all()
    quantiles = n * cdf(t, schedule).sort().values - torch.arange(n)
    # inverse functions in float64, of steep schedules
    assert ((quantiles > -1e-6) & (quantiles < 1 + 1e-6)).all()


@every_density
def test_times_of_independent_quantiles_have_the_density(kind, schedule, cdf):
    n = 4000
    t = kind()(torch.rand(n, generator=generator(), dtype=torch.float64), schedule)
    quantiles = cdf(t, schedule).sort().values
    steps = torch.arange(n, dtype=torch.float64) / n
    # Kolmogorov and Smirnov: above 1.95 / sqrt(n) once in a thousand
    assert torch.maximum(quantiles - steps, steps + 1 / n - quantiles).max() < 1.95 / n**0.5
    # a draw misses a stratum with the probability 1/e
    missed = n - len((quantiles * n).long().unique())
    assert abs(missed / n - math.exp(-1)) < 5 * 0.5 / n**0.5


@every_density
def test_draws_are_seeded_and_of_the_data_s_dtype(kind, schedule, cdf):
    like = torch.empty(0)
    once, again = (kind().draw(9, schedule, like=like, generator=generator(3)) for _ in range(2))
    assert torch.equal(once, again) and once.dtype == torch.float32
    assert not torch.equal(once, kind().draw(9, schedule, like=like, generator=generator(4)))


@every_density
def test_times_rise_with_the_quantile(kind, schedule, cdf):
    t = kind()(torch.linspace(0, 1, 101, dtype=torch.float64), schedule)
    assert t.isfinite().all() and (t.diff() >= 0).all()


def test_levels_outside_the_schedule_become_its_ends():
    for mean, end in ((20.0, 1.0), (-20.0, 0.0)):
        assert (LogNormal(mean).draw(50, Karras(), like=LIKE) == end).all()
    t = UniformLogSNR(-100, 100).draw(64, VE(0.1, 10), like=LIKE, generator=generator())
    assert ((t * 64).long().sort().values == torch.arange(64)).all()


def test_a_plain_function_maps_uniform_draws_and_its_times_have_the_data_s_dtype():
    seen = []
    times = as_times(lambda u: seen.append(u) or u**2)
    t = times.draw(8, Cosine(), like=torch.empty(0), generator=generator())
    u = stratified(8, torch.empty(0), generator())
    assert u.dtype == torch.float64 and torch.equal(seen[0], u)
    assert torch.equal(t, (u**2).float())
    assert torch.equal(
        as_times(None).draw(8, Cosine(), like=torch.empty(0), generator=generator()), u.float()
    )
    beyond = as_times(lambda u: 3 * u - 1).draw(9, Cosine(), like=LIKE)
    assert ((beyond >= 0) & (beyond <= 1)).all()


# soft truncation


def nodes(n, low=0.0, high=1.0):
    """Gauss and Legendre's nodes and weights on an interval: exact to rounding for smooth functions."""
    x, w = np.polynomial.legendre.leggauss(n)
    x, w = torch.from_numpy(x), torch.from_numpy(w)
    return low + (high - low) * (x + 1) / 2, (high - low) / 2 * w


def test_the_least_time_has_its_distribution():
    """P(tau <= t) = 1 - ln t / ln eps for k = 1; else (1 - (eps / t)^(k - 1)) / (1 - eps^(k - 1))."""
    t, eps = torch.tensor([1e-5, 3e-4, 0.01, 0.2, 0.9], dtype=torch.float64), 1e-5
    assert torch.allclose(SoftTruncation().truncation(1 - t.log() / math.log(eps)), t, rtol=1e-10)
    for k in (0.0, 0.5, 1.5, 2.0, 3.0, 80.0):
        u = (1 - (eps / t) ** (k - 1)) / (1 - eps ** (k - 1))
        u = u[u < 1 - 1e-9]  # where a number below 1 says which
        found = SoftTruncation(k).truncation(u)
        assert torch.allclose(found, t[: len(u)], rtol=1e-6), k
        assert found.numel() > (k < 10) and torch.allclose(found[:2], t[: len(u)][:2], rtol=1e-10)
    near = SoftTruncation(1 + 1e-9).truncation(torch.linspace(0, 0.99, 9).double())
    there = SoftTruncation().truncation(torch.linspace(0, 0.99, 9).double())
    assert torch.allclose(near, there, rtol=1e-6)


LEAST = 1e-5
MOMENTS = torch.tensor([1e-4, 3e-3, 0.1, 0.5, 0.8], dtype=torch.float64)


def test_softly_truncated_times_have_their_density():
    """(logit t - logit eps) / ln(1 / eps); the integral of logit t is t ln t + (1 - t) ln(1 - t).

    The share of times up to t is the quadrature over tau of its share from tau to t.
    """
    times, ends = SoftTruncation(), torch.tensor([0.0, 1.0], dtype=torch.float64)

    def integral(t):
        return t * math.log(t) + (1 - t) * math.log(1 - t)

    for t in MOMENTS.tolist():
        u, weights = nodes(60, 0.0, 1 - math.log(t) / math.log(LEAST))
        found = 0.0
        for tau, weight in zip(times.truncation(u), weights, strict=True):
            low, high = times.above(tau[None], ends, Cosine())  # a line between these
            found += weight * (t - low) / (high - low)
        logit = math.log(LEAST / (1 - LEAST))
        expected = integral(t) - integral(LEAST) - (t - LEAST) * logit
        assert found.item() == pytest.approx(expected / math.log(1 / LEAST), abs=1e-10)


@pytest.mark.parametrize("h", [torch.exp, torch.square, torch.log], ids=["exp", "square", "log"])
def test_a_loss_over_the_rest_of_the_times_has_their_weight(h):
    """A batch that counts by 1 - tau is an integral over its times: P(tau <= t) dt in all."""
    times = SoftTruncation()
    (u1, w1), (u2, w2) = nodes(60), nodes(40)
    tau = times.truncation(u1)
    t = torch.stack([times.above(least[None], u2, Cosine()) for least in tau])
    if h is torch.log:  # smooth in the root of where a batch's own times begin
        t, w2 = torch.stack([times.above(a[None], u2**4, Cosine()) for a in tau]), w2 * 4 * u2**3
    log_t, w = nodes(60, math.log(LEAST), 0.0)
    expected = w @ (log_t.exp() * (1 - log_t / math.log(LEAST)) * h(log_t.exp()))
    assert ((w1 * (1 - tau)) @ h(t) @ w2).item() == pytest.approx(expected.item(), abs=1e-10)


TRUNCATED = {
    "uniform": (None, Cosine(), lambda t, s: t),
    "power": (Power(2.0), Cosine(), lambda t, s: t**0.5),
    "lognormal": (LogNormal(), Cosine(), lambda t, s: normal((ln_sigma(t, s) + 1.2) / 1.2)),
    "a function": (lambda u: u**3, Linear(), lambda t, s: t ** (1 / 3)),
}


@pytest.mark.parametrize("inner, schedule, cdf", TRUNCATED.values(), ids=TRUNCATED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_fills_the_strata_above_its_least_time(inner, schedule, cdf, dtype):
    times, n, like = SoftTruncation(times=inner), 64, torch.empty(0, dtype=dtype)
    for seed in range(8):
        t = times.draw(n, schedule, like=like, generator=generator(seed))
        tau = times.truncation(torch.rand(1, generator=generator(seed), dtype=torch.float64))
        assert t.dtype == dtype and (t >= tau.to(dtype)).all() and (t <= 1).all()
        if dtype == torch.float64:
            below = cdf(tau, schedule)
            within = n * (cdf(t, schedule).sort().values - below) / (1 - below) - torch.arange(n)
            # of 16 digits, the distance from 1 has lost some where tau is near
            assert ((within > -1e-6) & (within < 1 + 1e-6)).all()


def test_above_all_times_there_is_the_least_one_itself():
    times = SoftTruncation(times=lambda u: u / 2)
    tau = torch.tensor([0.7], dtype=torch.float64)
    assert (times.above(tau, torch.linspace(0, 1, 5).double(), Cosine()) == 0.7).all()


def test_soft_truncation_goes_on_from_the_state_of_its_generator():
    diffusion, x0 = GaussianDiffusion(Zero(), times=SoftTruncation()), draw((6, 2))
    source = generator(3)
    diffusion.loss(x0, generator=source)
    state = source.get_state()
    expected = [diffusion.loss(x0, generator=source) for _ in range(2)]
    again = torch.Generator()
    again.set_state(state)
    for loss in expected:
        assert torch.equal(diffusion.loss(x0, generator=again), loss)
    assert not torch.equal(*expected)


def test_the_least_times_are_told_apart_in_float32():
    """By a thousandth of themselves; 1e-5 and 2e-5 are 0.01 apart in an angle of 1000 rows."""
    t = LEAST * torch.tensor([1.0, 1.001, 2.0])
    for embedding in (SinusoidalTime(32), time_features):
        first, near, far = embedding(t)
        assert not torch.equal(first, near) and (first - far).abs().max() > 1e-3
    assert SinusoidalTime(32)(t)[0, 0].item() == pytest.approx(math.sin(1000 * LEAST - 1), rel=1e-6)


# the history of losses


def filled(bins=4, history=2, mixing=0.1, losses=(1.0, 2.0, 3.0, 6.0), **options):
    """Every bin full of the same loss."""
    times = LossSecondMoment(bins, history, mixing, **options)
    middles = (torch.arange(bins).repeat(history) + 0.5) / bins
    times.reweigh(middles, torch.tensor(losses).repeat(history))
    return times


def test_bins_are_drawn_by_the_root_of_their_second_moment():
    expected = 0.9 * torch.tensor([1.0, 2.0, 3.0, 6.0]).double() / 12 + 0.1 / 4
    assert torch.allclose(filled().probabilities, expected)
    times = filled()
    times.reweigh(torch.tensor([0.1]), torch.tensor([7.0]))  # over one of the two ones
    moments = torch.tensor([5.0, 2.0, 3.0, 6.0]).double()
    assert torch.allclose(times.probabilities, 0.9 * moments / 16 + 0.1 / 4)

    t = times.draw(1000, Cosine(), like=LIKE, generator=generator())
    counts = torch.bincount((t * 4).long(), minlength=4)
    # a bin cuts one stratum at either end
    assert ((counts - 1000 * times.probabilities).abs() < 2).all()


def test_the_weights_keep_the_expectation():
    """A bin has n p_k draws to two, each weighing 1 / (bins p_k)."""
    n, losses = 10_000, torch.tensor([1.0, 2.0, 3.0, 6.0]).double()
    independent = torch.rand(n, generator=generator(), dtype=torch.float64)
    for u, spread in ((stratified(n, LIKE, generator()), 0.0), (independent, 5.0)):
        times = filled()
        p = times.probabilities
        t = times(u, Cosine())
        weighed = times.reweigh(t, losses[(t * 4).long()])
        tolerance = 2 * (losses / (4 * p)).sum() / n + spread * weighed.std() / n**0.5
        assert abs(weighed.mean() - losses.mean()) < tolerance


def test_the_loss_of_a_diffusion_keeps_its_mean_and_loses_variance():
    """A score that is zero errs by 1 / sigma², which few times are responsible for."""
    schedule = Cosine(-5, 7)
    times = LossSecondMoment(50, 4)
    diffusion = GaussianDiffusion(Zero(), schedule, "score", times=times)
    x0 = draw((4000, 8))
    for seed in range(3):  # fills every bin
        diffusion.loss(x0, generator=generator(seed))
    assert (times.count >= 4).all()
    importance = diffusion.loss(x0, generator=generator(5))
    diffusion = GaussianDiffusion(Zero(), schedule, "score", times=Mapped())
    uniform = diffusion.loss(x0, generator=generator(6))

    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    expected = (schedule(t)[1] ** -2).mean()
    for loss in (importance, uniform):
        assert abs(loss.mean() - expected) < 5 * loss.std() / 4000**0.5
    assert importance.std() < uniform.std() / 2


def test_times_are_uniform_until_every_bin_is_full():
    times = LossSecondMoment(3, 2)
    for t, count in ((0.1, 1), (0.1, 2), (0.5, 3), (0.5, 4), (0.9, 5)):
        times.reweigh(torch.tensor([t]), torch.tensor([10 * t + 1]))
        assert times.count.sum() == count and (times.probabilities == 1 / 3).all()
    times.reweigh(torch.tensor([0.9]), torch.tensor([1.0]))
    assert times.probabilities[1] > times.probabilities[0]


def test_the_history_is_the_last_losses_of_each_bin():
    """Against a queue for each bin, with batches that put more into one than it holds."""
    times, queues = LossSecondMoment(5, 3), [deque(maxlen=3) for _ in range(5)]
    for seed in range(12):
        t, losses = torch.rand(9, generator=generator(seed)) ** 2, draw(9, seed).abs()
        times.reweigh(t, losses)
        for k, loss in zip((t * 5).long().tolist(), losses.tolist(), strict=True):
            queues[k].append(loss)
    assert times.count.sum() == 12 * 9
    for kept, queue in zip(times.losses, queues, strict=True):
        assert sorted(kept.tolist()) == pytest.approx(sorted(queue), rel=1e-6)


def test_nothing_is_read_from_the_device():
    times = filled()
    with Count() as calls:
        t = times.draw(8, Cosine(), like=LIKE)
        times.reweigh(t, t)
        SoftTruncation(times=LogNormal()).draw(8, Cosine(), like=LIKE)
    reads = ("_local_scalar_dense", "item", "nonzero", "unique", "masked_select", "is_nonzero")
    assert calls.calls and not [n for n in calls.calls if any(read in n for read in reads)]


def test_the_history_is_saved_with_the_diffusion():
    diffusion = GaussianDiffusion(Zero(), times=filled())
    other = GaussianDiffusion(Zero(), times=LossSecondMoment(4, 2, 0.1))
    other.load_state_dict(diffusion.state_dict())
    once, again = (d.loss(draw((6, 2)), generator=generator()) for d in (diffusion, other))
    assert torch.equal(once, again)


def test_in_eval_mode_times_are_uniform_and_nothing_is_remembered():
    diffusion = GaussianDiffusion(Zero(), times=filled())
    plain = GaussianDiffusion(Zero())
    x0, before = draw((6, 2)), diffusion.state_dict()["times.losses"].clone()
    trained = diffusion.loss(x0, generator=generator())
    assert not torch.equal(diffusion.state_dict()["times.losses"], before)
    diffusion.eval()
    before = diffusion.state_dict()["times.losses"].clone()
    loss = diffusion.loss(x0, generator=generator())
    assert torch.allclose(loss, plain.loss(x0, generator=generator()))
    assert not torch.allclose(loss, trained)
    assert torch.equal(diffusion.state_dict()["times.losses"], before)


def test_given_times_are_neither_weighed_nor_remembered():
    diffusion, t = GaussianDiffusion(Zero(), times=filled()), torch.full((6,), 0.9).double()
    x0, noise, before = draw((6, 2)), draw((6, 2), 1), diffusion.times.count.clone()
    loss = diffusion.loss(x0, t, noise=noise)
    assert torch.equal(loss, GaussianDiffusion(Zero()).loss(x0, t, noise=noise))
    assert torch.equal(diffusion.times.count, before)


def test_a_loss_that_overflowed_is_forgotten():
    times = filled()
    before = times.probabilities
    times.reweigh(torch.tensor([0.1, 0.6]), torch.tensor([math.inf, math.nan]))
    assert torch.equal(times.probabilities, before)
    zero = filled(losses=(0.0, 0.0, 0.0, 0.0))  # a perfect model is drawn for uniformly
    assert (zero.probabilities == 0.25).all()


def test_errors_say_what_to_give():
    with pytest.raises(ValueError, match="std is 0"):
        LogNormal(std=0)
    with pytest.raises(ValueError, match="std is -1"):
        LogitNormal(std=-1)
    with pytest.raises(ValueError, match=r"logsnr_max is 2; give a number in \(3, inf\)"):
        UniformLogSNR(3, 2)
    with pytest.raises(ValueError, match="power is 0"):
        Power(0)
    with pytest.raises(ValueError, match="mixing is 0"):
        LossSecondMoment(mixing=0)
    with pytest.raises(ValueError, match=r"power is -1; give a number in \[0, inf\)"):
        SoftTruncation(-1)
    with pytest.raises(ValueError, match=r"smallest is 0; give a number in \(0, 1\)"):
        SoftTruncation(smallest=0)
    for times in (LossSecondMoment(), Rows([1.0, 0.5, 0.0]), SoftTruncation()):
        with pytest.raises(ValueError, match="give a fixed distribution of all times"):
            SoftTruncation(times=times)
