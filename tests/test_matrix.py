"""Every sampler, on every schedule, with every prediction, in every space.

Mean and deviation of what a sampler gives are known without drawing anything (see helpers/runs.py, where
a sampler joins), and have to be those of the data. That any prediction in any space makes the same run,
to rounding, is the other half.
"""

import functools
import math
import re
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch

from anydiff import editing, exact, guidance, sample
from anydiff.predictions import TARGETS
from anydiff.samplers import (
    AdaptiveODE,
    AdaptiveSDE,
    AnnealedLangevin,
    Euler,
    EulerMaruyama,
    PredictorCorrector,
    plan,
)
from anydiff.schedules import Cosine, Geometric, Schedule, SigmoidAlphaBar
from tests.helpers.paths import ROOT
from tests.helpers.runs import SAMPLERS, SCHEDULES, response
from tests.helpers.spaces import EVERYTHING, every_space, generators

MEAN, STD = 0.7, 0.5


@pytest.fixture(autouse=True, scope="module")
def levels_are_computed_once():
    """Thousands of runs share some hundred plans, whose rates are most of the time otherwise."""
    known, compute = {}, Schedule.levels

    def levels(schedule, times):
        key = schedule, tuple(times.tolist())
        if key not in known:
            known[key] = compute(schedule, times)
        return list(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Schedule, "levels", levels)
        yield


@functools.cache
def model(schedule, prediction="v"):
    return exact.gaussian(schedule, prediction, mean=MEAN, std=STD)


every_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)

CHOOSES_ITS_STEPS = (AdaptiveODE, AdaptiveSDE)
DIVIDES_BY_ALPHA = (EulerMaruyama, AdaptiveSDE, AnnealedLangevin)
FOLLOWS_T = (Euler, EulerMaruyama, AdaptiveSDE)  # and so the pace of the schedule


def inner(sampler):
    return sampler.predictor if isinstance(sampler, PredictorCorrector) else sampler


def pure_noise(schedule):
    return schedule.levels(torch.ones(1))[0].alpha == 0


def says_nothing(prediction, schedule):
    """Whether an output does not determine x0 where the schedule ends."""
    stands_still = schedule.levels(torch.ones(1))[0].rates == (0, 0)  # Polynomial's last thousandth
    nothing = ("eps", "score") if pure_noise(schedule) else ()
    return prediction in nothing or (prediction == "velocity" and stands_still)


def refused(sampler, schedule):
    """Whether a run cannot start where the schedule ends."""
    return pure_noise(schedule) and isinstance(inner(sampler), DIVIDES_BY_ALPHA)


def steep(sampler, schedule):
    """Whether no step in t can follow the end, where alpha falls to nothing as a root does."""
    falls = isinstance(schedule, SigmoidAlphaBar | Geometric)
    return falls and isinstance(inner(sampler), FOLLOWS_T)


def times(sampler, schedule, steps):
    """A run's times: the sampler's own, or what its refusal says to take."""
    if isinstance(sampler, CHOOSES_ITS_STEPS):
        steps = sampler.steps
    knots = sampler.grid(schedule, steps)
    if steep(sampler, schedule):
        return knots * (0.95 if isinstance(schedule, Geometric) else 0.99)
    return knots.clamp(max=0.999) if refused(sampler, schedule) else knots


def order(sampler):
    """As its paper counts it, where that is not how its error falls."""
    return getattr(sampler, "order", sampler.convergence)


def bound(sampler, levels):
    r"""How far a sampler of its order may be off, relative to the data's deviation.

    With tan(theta) = sigma / (alpha s), the outputs x0 / s and eps are cos(theta) and sin(theta) times a
    constant on the way, a quarter of a circle in all. A method of order p takes them for polynomials of
    degree p - 1 in each step, and is off by half the angle of the step times (its length in the log of
    alpha / sigma) ** p, half the angle at most; one that follows t, by the state's own growth too. The
    half stands for Taylor's 1 / (p + 1)!.
    """
    total = 0.0
    for t, s in pairwise(levels):
        angle = abs(math.atan2(t.sigma, STD * t.alpha) - math.atan2(s.sigma, STD * s.alpha))
        if isinstance(inner(sampler), FOLLOWS_T):
            size = [math.hypot(STD * level.alpha, level.sigma) for level in (t, s)]
            angle += abs(math.log(size[0] / size[1]))
        length = min(1.0, (s.logsnr - t.logsnr) / 2)
        total += angle / 2 * length ** min(order(sampler), 4)
    return total


def steps_of(sampler):
    """Enough for a step of a lower order to be found out; some make several at each level."""
    if isinstance(sampler, AnnealedLangevin):
        return 40
    return 120 if order(sampler) <= 2 else 60


@pytest.mark.slow
@every_sampler
def test_moments_are_those_of_the_data(sampler):
    if isinstance(sampler, AdaptiveSDE):
        pytest.skip("not linear; drawn below")
    if not sampler.convergence:
        pytest.skip("of consistency models; see samplers/test_renoise.py")
    for schedule in SCHEDULES:
        knots = times(sampler, schedule, steps_of(sampler))
        levels = plan(schedule, knots, sampler)
        start = levels[0]
        marginal = start.alpha * MEAN, math.hypot(start.alpha * STD, start.sigma)
        mean, std = response(model(schedule), sampler, knots).moments(*marginal)
        most = 100 * sampler.rtol if isinstance(sampler, AdaptiveODE) else bound(sampler, levels)
        assert abs(std / STD - 1) < most, f"{schedule}: deviation {std:.4f}, allowed {most:.2%}"
        assert abs(mean - MEAN) < MEAN * most, f"{schedule}: mean {mean:.4f}, allowed {most:.2%}"


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_a_sampler_whose_steps_depend_on_the_noise_gives_the_moments_too(schedule):
    # of many dimensions: in one, a step far too long is at times right by chance
    sampler, shape, n = AdaptiveSDE(atol=0.05), (100, 20), 2000
    knots = times(sampler, schedule, 1)
    at = plan(schedule, knots, sampler)[0]
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(shape, generator=generator, dtype=torch.float64)
    x_T = at.alpha * MEAN + math.hypot(at.alpha * STD, at.sigma) * z
    x = sample(model(schedule).predictor(), x_T, sampler, knots, seed=generator)
    # five standard errors, and the tolerance of a step
    assert abs(x.mean() - MEAN) < 5 * STD / n**0.5 + sampler.rtol
    assert abs(x.std() / STD - 1) < 5 / (2 * n) ** 0.5 + sampler.rtol


# --- any prediction in any space makes the same run ---------------------------------------------


@dataclass(frozen=True, eq=False)
class Recorded:
    """A space that keeps the noise it draws."""

    space: object
    drawn: list = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.space, name)

    def noise(self, x, generator=None):
        self.drawn.append(self.space.noise(x, generator))
        return self.drawn[-1]


def run(space, shape, schedule, sampler, knots, prediction):
    """A run's end, where it came from, and the noise that it drew."""
    recorded = Recorded(space)
    x_T = 1.3 * space.noise(torch.empty(shape, dtype=torch.float64), generators())
    predictor = model(schedule, prediction).predictor(recorded)
    x = sample(predictor, x_T, sampler, knots, seed=generators())
    return x, x_T, recorded.drawn


def predicted(space, schedule, sampler, knots, x_T, drawn):
    """The same run's end, as far as the response of one dense number says."""
    c, gain, noise = response(model(schedule), sampler, knots)
    x = space.project(torch.full_like(x_T, c)) + gain * x_T
    for b, z in zip(noise, drawn, strict=True):
        x = x + b * z
    return x


@pytest.mark.slow
@every_sampler
def test_every_prediction_makes_the_same_run_in_every_space(sampler):
    """All spaces at once, packed. Rounding is magnified by 1 / alpha where a schedule ends, some 1e5."""
    if isinstance(sampler, AnnealedLangevin):
        sampler = AnnealedLangevin(2)
    for schedule in SCHEDULES:
        knots, expected = times(sampler, schedule, 3), None
        if isinstance(sampler, CHOOSES_ITS_STEPS):
            knots = (0.6, 0.58)  # where a step that is made again does not magnify rounding
        for prediction in ("v", *(name for name in TARGETS if name != "v")):
            if not says_nothing(prediction, schedule):
                run_of = EVERYTHING, EVERYTHING.shape, schedule, sampler, knots, prediction
                x, x_T, drawn = run(*run_of)
                if expected is None:
                    linear = not isinstance(sampler, CHOOSES_ITS_STEPS)
                    known = EVERYTHING, schedule, sampler, knots, x_T, drawn
                    expected = predicted(*known) if linear else x
                off = (x - expected).abs().max().item()
                most = 1e-9 * (1 + expected.abs().max().item())
                assert off < most, f"{schedule}, {prediction}: off by {off:g}"


@every_space
def test_every_sampler_makes_the_same_run_in_each_space(space, shape):
    for sampler in SAMPLERS:
        if not isinstance(sampler, CHOOSES_ITS_STEPS):
            knots = times(sampler, Cosine(), 5)
            x, x_T, drawn = run(space, shape, Cosine(), sampler, knots, "v")
            expected = predicted(space, Cosine(), sampler, knots, x_T, drawn)
            assert torch.allclose(x, expected, atol=1e-10), sampler
            assert torch.allclose(space.project(x), x, atol=1e-11), sampler


# --- what cannot work is refused beforehand -----------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("prediction", TARGETS)
def test_a_prediction_that_says_nothing_of_x0_is_refused(schedule, prediction):
    if says_nothing(prediction, schedule):
        with pytest.raises(ValueError, match="use one of 'v'"):
            exact.gaussian(schedule, prediction)
    else:
        p = exact.gaussian(schedule, prediction).predictor().predict(torch.ones(2, 1).double(), 1.0)
        assert p.x0.isfinite().all() and p.eps.isfinite().all()


@every_sampler
def test_a_sampler_that_cannot_start_is_refused_before_the_network_is_called(sampler):
    for schedule in SCHEDULES:
        if refused(sampler, schedule):
            diffusion, calls = exact.gaussian(schedule, "v"), []
            diffusion.denoiser.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            with pytest.raises(ValueError, match=r"begin at steps=.*or use DDPM"):
                diffusion.sample((2, 1), sampler=sampler, steps=3)
            assert not calls
        elif steep(sampler, schedule) and not isinstance(sampler, CHOOSES_ITS_STEPS):
            with pytest.raises(ValueError, match="too long"):
                plan(schedule, 3, sampler)
        else:
            plan(schedule, 3, sampler)


def test_every_method_is_on_the_page():
    page = (ROOT / "docs/methods.md").read_text()
    for method in (*SAMPLERS, *SCHEDULES):
        kind = type(method).__name__
        assert re.search(rf"`{kind}\b", page), f"{kind}: run python benchmarks/methods.py --write"
    for method in (*guidance.__all__, *editing.__all__):
        documented = getattr(guidance, method, None) or getattr(editing, method)
        if "References:" in (documented.__doc__ or ""):
            assert f"`{method}`" in page, f"{method}: run python benchmarks/methods.py --write"
