"""The closed-form denoisers against integrals, derivatives and the ODE that they solve."""

import math

import pytest
import torch

from anydiff import VE, Cosine, Dense, Flow, GaussianDiffusion, Karras, Ragged, exact
from anydiff.predictions import TARGETS, Preconditioned
from anydiff.schedules import Learned
from tests.helpers.spaces import NODES, PACKED, draw, every_space

SCHEDULES = [Cosine(), VE(), Karras(), Flow()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
TIMES = torch.tensor([0.15, 0.4, 0.6, 0.9], dtype=torch.float64)  # one for each item of every_space
COVARIANCE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.5, 0.1], [0.0, 0.1, 0.2]], dtype=torch.float64)


def column_stds(space, shape):
    """A deviation for each column, or for each entry of a packed tensor, the same in all its rows."""
    if space is PACKED:
        columns = {"nodes": 5, "edges": 2, "cell": 3}
        fields = {
            name: (0.3 + 0.2 * torch.arange(n)).double().expand(PACKED.fields[name][1])
            for name, n in columns.items()
        }
        return PACKED.pack(fields)
    return (0.3 + 0.2 * torch.arange(shape[-1])).double()


def models(space, shape, schedule=Cosine(), prediction="eps"):  # noqa: B008
    means = torch.stack([draw(shape, 5), draw(shape, 6)])
    yield exact.Gaussian(schedule, prediction, mean=0.4, std=0.5)
    yield exact.Gaussian(schedule, prediction, mean=draw(shape, 7), std=column_stds(space, shape))
    yield exact.GaussianMixture(schedule, prediction, means, (0.3, 0.6), (1.0, 2.0))


def noisy(model, space, shape, t=TIMES):
    """A draw of x_t."""
    x0 = model.draw(shape, space=space, generator=torch.Generator().manual_seed(0))
    alpha, sigma = (space.expand(c, x0) for c in model.schedule(t))
    return alpha * x0 + sigma * space.noise(x0, torch.Generator().manual_seed(1))


def scores(model, x_t, t, space):
    x = x_t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.log_prob(x, t, space=space).sum(), x)
    return space.project(gradient)


# --- the posterior ------------------------------------------------------------------------------


@every_space
@every_schedule
def test_the_score_is_the_gradient_of_the_log_density(space, shape, schedule):
    """Tweedie: E[eps | x_t] = -sigma grad log p_t, and E[x0 | x_t] = (x_t - sigma eps) / alpha."""
    for model in models(space, shape, schedule, "v"):
        x_t = noisy(model, space, shape)
        alpha, sigma = schedule(TIMES)
        x0, eps = model.posterior(x_t, alpha, sigma, space)
        a, s = space.expand(alpha, x_t), space.expand(sigma, x_t)
        # autograd and the formula differ by rounding, magnified by the score's size at most
        assert torch.allclose(eps, -s * scores(model, x_t, TIMES, space), atol=1e-9, rtol=1e-9)
        assert torch.allclose(a * x0 + s * eps, x_t, atol=1e-9 * (1 + float(sigma.max())))
        for value in (x0, eps):
            assert torch.allclose(space.project(value), value, atol=1e-12)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_posterior_means_are_the_integrals(t):
    """E[x0 | x_t] = ∫ x0 p(x0) N(x_t; alpha x0, sigma²) dx0 / p(x_t), by the trapezoidal rule."""
    mix = exact.GaussianMixture(Cosine(), "x0", [[-1.0], [0.8]], (0.3, 0.6), (1.0, 2.0))
    one = exact.Gaussian(Cosine(), "x0", mean=0.4, std=0.5)
    grid = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    alpha, sigma = Cosine()(torch.tensor([t], dtype=torch.float64))

    def normal(x, mean, std):
        return torch.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))

    densities = {one: normal(grid, 0.4, 0.5)}
    densities[mix] = (normal(grid, -1.0, 0.3) + 2 * normal(grid, 0.8, 0.6)) / 3
    for model, density in densities.items():
        for x_t in (-1.5, 0.1, 1.2):
            joint = density * normal(x_t, alpha * grid, sigma)
            mass = torch.trapezoid(joint, grid)
            mean = torch.trapezoid(grid * joint, grid) / mass
            x = torch.tensor([[x_t]], dtype=torch.float64)
            x0, eps = model.posterior(x, alpha, sigma, Dense())
            # the rule is exact to rounding for smooth densities that vanish at the ends
            assert x0.item() == pytest.approx(mean.item(), abs=1e-10)
            assert eps.item() == pytest.approx(((x_t - alpha * mean) / sigma).item(), abs=1e-10)
            assert model.log_prob(x, t).item() == pytest.approx(mass.log().item(), abs=1e-10)


def test_a_covariance_mixes_the_entries():
    """The regression of x0 on x_t: alpha C (alpha² C + sigma²)^-1 (x_t - alpha mean) + mean."""
    mean = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    model = exact.Gaussian(Cosine(), "v", mean=mean, covariance=COVARIANCE)
    x_t, (alpha, sigma) = draw((4, 3)), Cosine()(TIMES)
    x0, eps = model.posterior(x_t, alpha, sigma, Dense())
    for k in range(4):
        total = alpha[k] ** 2 * COVARIANCE + sigma[k] ** 2 * torch.eye(3)
        inner = torch.linalg.solve(total, x_t[k] - alpha[k] * mean)
        assert torch.allclose(x0[k], mean + alpha[k] * COVARIANCE @ inner, atol=1e-12)
        assert torch.allclose(eps[k], sigma[k] * inner, atol=1e-12)
        normal = torch.distributions.MultivariateNormal(alpha[k] * mean, total)
        density = model.log_prob(x_t[k : k + 1], TIMES[k])
        assert density.item() == pytest.approx(normal.log_prob(x_t[k]).item())


# --- the output, and both ends ------------------------------------------------------------------


@every_space
@pytest.mark.parametrize("prediction", TARGETS)
def test_every_prediction_says_the_same_x0_and_eps(space, shape, prediction):
    for model in models(space, shape, Cosine(), prediction):
        predictor = GaussianDiffusion(model, Cosine(), prediction).predictor(space)
        x_t = noisy(model, space, shape)
        p = predictor.predict(x_t, TIMES)
        x0, eps = model.posterior(x_t, *Cosine()(TIMES), space)
        assert torch.allclose(p.x0, x0, atol=1e-10) and torch.allclose(p.eps, eps, atol=1e-10)
        level = Cosine().levels(torch.tensor([0.3]))[0]
        p, q = predictor.predict(x_t, level), predictor.predict(x_t, 0.3)
        assert torch.allclose(p.x0, q.x0, atol=1e-6)  # 0.3 is a float32 in the one


def test_the_scaled_input_is_that_of_any_sigma_data():
    x_t = draw((4, 3))
    for sigma_data in (0.5, 2.0):
        kind = Preconditioned(sigma_data=sigma_data)
        p = exact.gaussian(Karras(), kind, std=0.7).predictor().predict(x_t, TIMES)
        x0, _ = exact.Gaussian(Karras(), std=0.7).posterior(x_t, *Karras()(TIMES), Dense())
        assert torch.allclose(p.x0, x0, atol=1e-9)


@pytest.mark.parametrize("prediction", ["x0", "v", "velocity", "karras"])
def test_pure_noise_says_the_mean(prediction):
    """At alpha = 0, x_t is eps, and x0 is whatever it was: its mean."""
    x_t, t = draw((4, 3)), torch.ones(4, dtype=torch.float64)
    means = torch.tensor([[-1.0], [2.0]])
    for model in (
        exact.gaussian(Flow(), prediction, mean=0.7, std=0.5),
        exact.mixture(Flow(), prediction, means=means, weights=torch.tensor([0.1, 0.2])),
    ):
        p = model.predictor().predict(x_t, t)
        mean = 0.7 if isinstance(model.denoiser, exact.Gaussian) else 1.0
        assert torch.allclose(p.x0, torch.full_like(x_t, mean), atol=1e-12)
        assert torch.allclose(p.eps, x_t, atol=1e-12)


@every_space
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "score", "velocity", "karras"])
def test_without_noise_the_data_are_themselves(space, shape, prediction):
    schedule, t = Flow(), torch.zeros(4, dtype=torch.float64)
    if prediction in ("eps", "score"):  # which Flow does not allow; a line of ours that does
        schedule = Truncated()
    for model in models(space, shape, schedule, prediction):
        x = model.draw(shape, space=space, generator=torch.Generator().manual_seed(0))
        seen = 2 * x if prediction == "karras" else x  # 1 / sigma_data
        expected = {
            "eps": 0 * x,
            "x0": x,
            "v": 0 * x,
            "score": scores(model, x, None, space),
            "velocity": schedule.rates(t)[0][0] * x,
            "karras": 0 * x,  # (x0 - c_skip x_t) / c_out, of the order sigma
        }
        y = model(seen, t, space)
        assert torch.allclose(y, expected[prediction], atol=1e-9, rtol=1e-9)


class Truncated(Flow):
    """Flow, up to 90 %."""

    def _levels(self, t):
        return super()._levels(0.9 * t)


def test_a_point_without_noise_is_a_point():
    x, t = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for model in (
        exact.Gaussian(Flow(), "v", mean=0.0, std=0.0),
        exact.GaussianMixture(Flow(), "v", torch.tensor([[0.0], [1.0]]), 0.0),
    ):
        x0, eps = model.posterior(x, *Flow()(t), Dense())
        assert torch.equal(x0, x) and torch.equal(eps, x)
        assert torch.equal(model(x, t), x)


def test_data_learnt_by_heart_are_the_nearest_ones():
    """Points as a mixture of no width: with little noise the mean of x0 is the nearest point."""
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    model = exact.GaussianMixture(Flow(), "x0", points, 0.0)
    x_t = points + 0.05 * draw((3, 2))
    assert torch.allclose(model(x_t, torch.full((3,), 0.02).double()), points, atol=1e-9)


def test_float32_is_right_to_its_own_precision():
    t, space = TIMES.float(), NODES
    for model in models(space, (14, 5), Cosine(), "v"):
        x_t = noisy(model, space, (14, 5), t.double())
        y = model(x_t.float(), t, space)
        assert y.dtype == torch.float32
        assert torch.allclose(y.double(), model(x_t, t.double(), space), atol=1e-5)
        assert model.log_prob(x_t.float(), t, space=space).dtype == torch.float32


# --- the flow -----------------------------------------------------------------------------------


def integrate(model, x, t, s, space=Dense(), steps=100):  # noqa: B008
    """The probability-flow ODE, dx/dt = alpha' x0 + sigma' eps, by the classical Runge-Kutta rule."""
    levels = model.schedule.levels(torch.linspace(t, s, 2 * steps + 1, dtype=torch.float64))
    ones, h = torch.ones_like(space.dim(x)), (s - t) / steps

    def velocity(x, at):
        x0, eps = model.posterior(x, at.alpha * ones, at.sigma * ones, space)
        return at.rates[0] * x0 + at.rates[1] * eps

    for first, middle, last in zip(levels[:-2:2], levels[1::2], levels[2::2], strict=True):
        k1 = velocity(x, first)
        k2 = velocity(x + h / 2 * k1, middle)
        k3 = velocity(x + h / 2 * k2, middle)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(x + h * k3, last))
    return x


@every_schedule
def test_the_flow_solves_its_ode(schedule):
    mean = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    for options in (
        {"mean": 0.4, "std": 0.5},
        {"mean": mean, "std": torch.tensor([0.2, 1.0, 3.0])},
        {"mean": mean, "covariance": COVARIANCE},
    ):
        model = exact.Gaussian(schedule, "v", **options)
        x = draw((5, 3))
        there = model.flow(x, 0.9, 0.2)
        # fourth order: (0.7 / 100)^4 / 120 times VE's (log 5000)^5, the largest rates, is 1e-6
        assert torch.allclose(integrate(model, x, 0.9, 0.2), there, atol=2e-6, rtol=2e-6)
        assert torch.allclose(model.flow(there, 0.2, 0.9), x, atol=1e-9, rtol=1e-9)
        assert torch.allclose(model.flow(model.flow(x, 0.9, 0.5), 0.5, 0.2), there, atol=1e-9)


@every_space
def test_the_flow_stays_in_every_space(space, shape):
    for model in list(models(space, shape, Cosine(), "v"))[:2]:
        x = space.noise(torch.empty(shape, dtype=torch.float64), torch.Generator().manual_seed(2))
        there = model.flow(x, 0.8, 0.3, space)
        assert torch.allclose(space.project(there), there, atol=1e-12)
        assert torch.allclose(integrate(model, x, 0.8, 0.3, space, 40), there, atol=1e-6)


@pytest.mark.parametrize("schedule", [Cosine(), VE(), Flow()], ids=lambda s: type(s).__name__)
def test_the_flow_ends_on_the_data_itself(schedule):
    """From noise of the deviation of t = 1 to data of deviation 0.5, at alpha = 1 and sigma = 0."""
    model = exact.Gaussian(schedule, "v", mean=0.4, std=0.5)
    alpha, sigma = (c.item() for c in schedule(torch.ones(1, dtype=torch.float64)))
    x_T = alpha * 0.4 + math.hypot(0.5 * alpha, sigma) * draw((5, 3))
    assert torch.allclose(model.flow(x_T, 1.0, 0.0), 0.4 + 0.5 * draw((5, 3)), atol=1e-12)


def test_the_flow_carries_the_density():
    """log p_t(x) = log p_s(flow(x)) + log |d flow / dx|, the determinant by autograd."""
    model = exact.Gaussian(Cosine(), "v", mean=0.3, covariance=COVARIANCE)
    x = draw((1, 3))
    jacobian = torch.autograd.functional.jacobian(lambda y: model.flow(y, 0.8, 0.3)[0], x)
    change = torch.linalg.slogdet(jacobian.reshape(3, 3)).logabsdet
    there = model.flow(x, 0.8, 0.3)
    assert torch.allclose(model.log_prob(x, 0.8), model.log_prob(there, 0.3) + change, atol=1e-9)


# --- a perfect consistency model ----------------------------------------------------------------


@every_space
@pytest.mark.parametrize("prediction", TARGETS)
def test_a_consistency_model_says_where_the_flow_ends(space, shape, prediction):
    """x0 is the flow to the data from each item's own time, and eps what is left of x_t."""
    for options in ({"mean": 0.4, "std": 0.5}, {"mean": draw(shape, 7), "std": 0.3}):
        model = exact.consistency(Cosine(), prediction, **options)
        x_t = noisy(model.denoiser, space, shape)
        p = model.predictor(space).predict(x_t, TIMES)
        assert torch.allclose(space.project(p.x0), p.x0, atol=1e-12)
        alpha, sigma = (space.expand(c, x_t) for c in Cosine()(TIMES))
        assert torch.allclose(alpha * p.x0 + sigma * p.eps, x_t, atol=1e-10)
        item = space.expand(torch.arange(4).double(), x_t).expand_as(x_t)
        for k, t in enumerate(TIMES.tolist()):
            end = model.denoiser.flow(x_t, t, 0.0, space)
            assert torch.allclose(p.x0[item == k], end[item == k], atol=1e-10)
            at = model.predictor(space).predict(x_t, Cosine().levels([t])[0])
            assert torch.allclose(at.x0, end, atol=1e-10)


@every_schedule
def test_a_consistency_model_of_mixed_entries_says_the_flow_too(schedule):
    mean, x_t = torch.tensor([0.5, -1.0, 2.0]), draw((4, 3))
    model = exact.consistency(schedule, "v", mean=mean, covariance=COVARIANCE)
    for t in (1.0, 0.5, 1e-4):
        p = model.predictor().predict(x_t, t)
        assert torch.allclose(p.x0, model.denoiser.flow(x_t, t, 0.0), atol=1e-9)


@pytest.mark.parametrize("std", [0.0, 0.5])
def test_a_consistency_model_is_exact_at_both_ends(std):
    model = exact.consistency(Flow(), "v", mean=0.7, std=std)
    x = draw((4, 3))
    there = model.predictor().predict(x, 1.0)  # nothing of the data is left
    assert torch.allclose(there.x0, 0.7 + std * x) and torch.allclose(there.eps, x)
    here = model.predictor().predict(0 * x + 0.7, 0.0)  # a point where std is 0
    assert torch.allclose(here.x0, 0 * x + 0.7) and here.eps.isfinite().all()
    # near the data eps tends to x_t's score times sigma / 2, and to x_t's own where there is no width
    near = model.predictor().predict(x, 1e-9)
    expected = (x - 0.7) * 1e-9 / (2 * std**2) if std else (x - 0.7) / 1e-9
    assert torch.allclose(near.eps, expected, rtol=1e-6)


# --- the density --------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [None, 0.0, 0.3, 1.0, "one for each"])
def test_densities_integrate_to_one(t):
    grid = torch.linspace(-12, 12, 24001, dtype=torch.float64)[:, None]
    times = torch.full((len(grid),), 0.5).double() if t == "one for each" else t
    for model in (
        exact.Gaussian(Flow(), "v", mean=0.4, std=0.5),
        exact.GaussianMixture(Flow(), "v", torch.tensor([[-1.0], [2.0]]), (0.3, 0.6), (1.0, 2.0)),
    ):
        density = model.log_prob(grid, times).exp()
        # the trapezoidal rule is exact to rounding for smooth densities
        assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1, abs=1e-10)


@every_space
def test_a_density_of_a_subspace_is_that_of_its_coordinates(space, shape):
    """In an orthonormal basis U of each space, U' x ~ N(U' mean, U' D U): torch's own normal."""
    n = math.prod(shape)
    matrix = torch.stack([space.project(e.reshape(shape)).flatten() for e in torch.eye(n).double()])
    values, vectors = torch.linalg.eigh(matrix)
    basis = vectors[:, values > 0.5]
    for model in list(models(space, shape))[:2]:
        std = model.variance.sqrt()
        x = model.draw(shape, space=space, generator=torch.Generator().manual_seed(3))
        spread = basis.T @ (std**2 + 0 * x).flatten().diag() @ basis
        mean = space.project(model.mean + 0 * x).flatten() @ basis
        normal = torch.distributions.MultivariateNormal(mean, spread)
        expected = normal.log_prob(x.flatten() @ basis)
        assert torch.allclose(model.log_prob(x, space=space).sum(), expected, atol=1e-8)


def test_a_mixture_of_one_is_a_normal():
    x = draw((4, 3))
    one = exact.GaussianMixture(Cosine(), "v", torch.tensor([[0.3]]), 0.5, (7.0,))
    normal = exact.Gaussian(Cosine(), "v", mean=0.3, std=0.5)
    for t in (None, TIMES):
        assert torch.allclose(one.log_prob(x, t), normal.log_prob(x, t), atol=1e-12)
    assert torch.allclose(one(x, TIMES), normal(x, TIMES), atol=1e-12)


# --- draws --------------------------------------------------------------------------------------


def test_draws_of_a_normal_have_its_moments():
    n = 200_000
    model = exact.Gaussian(Cosine(), mean=torch.tensor([0.5, 0, -2]), covariance=COVARIANCE)
    x = model.draw((n, 3), generator=torch.Generator().manual_seed(0))
    # five standard errors; a covariance's is at most sqrt(2 / n) times the largest variance
    assert ((x.mean(0) - model.mean).abs() < 5 * COVARIANCE.diagonal().sqrt() / n**0.5).all()
    assert ((x.T.cov() - COVARIANCE).abs() < 5 * math.sqrt(2 / n)).all()


def test_draws_of_a_mixture_have_its_moments():
    n = 200_000
    model = exact.GaussianMixture(
        Cosine(), means=torch.tensor([[-1.0], [2.0]]), stds=(0.3, 0.6), weights=(1.0, 2.0)
    )
    x = model.draw((n, 1), generator=torch.Generator().manual_seed(0))
    mean = 1.0
    variance = (0.3**2 + 2 * 0.6**2) / 3 + (1 * (-1 - mean) ** 2 + 2 * (2 - mean) ** 2) / 3
    assert abs(x.mean() - mean) < 5 * math.sqrt(variance / n)
    assert abs(x.var() / variance - 1) < 5 * math.sqrt(2 / n)  # flatter than normal: less than this
    # two items of a batch choose for themselves, all entries of an item together
    pairs = model.draw((1000, 2), generator=torch.Generator().manual_seed(1)) > 0.5
    assert (pairs[:, 0] == pairs[:, 1]).float().mean() > 0.95 and 0.5 < pairs.float().mean() < 0.8


@every_space
def test_draws_are_in_the_space(space, shape):
    for model in models(space, shape):
        x = model.draw(shape, space=space, generator=torch.Generator().manual_seed(0))
        assert x.dtype == torch.float64 and torch.allclose(space.project(x), x, atol=1e-12)


def test_draws_have_the_entropy_of_their_density():
    """E[-log p] of a normal is (d / 2) log(2 pi e) + the log-deviations; centred: n - 1 of each."""
    space = Ragged.from_sizes([3] * 4000, centered=1)
    model = exact.Gaussian(Cosine(), std=torch.tensor([0.5, 2.0]))
    x = model.draw((12000, 2), space=space, generator=torch.Generator().manual_seed(0))
    entropy = 5 / 2 * math.log(2 * math.pi * math.e) + 2 * math.log(0.5) + 3 * math.log(2)
    # the variance of -log p is d / 2
    error = -model.log_prob(x, space=space).mean() - entropy
    assert abs(error) < 5 * math.sqrt(5 / 2 / 4000)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: exact.Gaussian(Cosine(), covariance=-torch.eye(2)), "eigenvalue -1"),
        (lambda: exact.Gaussian(Cosine(), covariance=torch.ones(2, 3)), r"symmetric \(D, D\)"),
        (
            lambda: exact.Gaussian(Cosine(), covariance=COVARIANCE).log_prob(draw((4, 2))),
            "dense items with 3 entries",
        ),
        (
            lambda: exact.Gaussian(Cosine(), covariance=torch.eye(5)).draw((14, 5), space=NODES),
            "Ragged; give a std",
        ),
        (
            lambda: exact.GaussianMixture(Cosine(), weights=torch.tensor([1.0])),
            "give 2, one for each mean",
        ),
        (lambda: exact.gaussian(Flow(), "eps"), "use one of 'v', 'x0', 'velocity'"),
        (lambda: exact.mixture(Flow(), "score"), "use one of 'v', 'x0', 'velocity'"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_singular_covariance_is_one():
    """Data on a line in three dimensions; eigh says -1e-17 where the variance is 0."""
    direction = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
    model = exact.Gaussian(Cosine(), "v", covariance=direction.T @ direction)
    x = model.draw((50, 3), generator=torch.Generator().manual_seed(0))
    assert torch.linalg.matrix_rank(x, atol=1e-6) == 1
    assert model(x, torch.zeros(50).double()).isfinite().all()


@pytest.mark.parametrize("make", [exact.gaussian, exact.consistency, exact.mixture])
def test_misspelt_options_and_unknown_conditions_are_errors(make):
    model = make(Cosine())
    with pytest.raises(TypeError, match="step"):
        model.sample((2, 1), step=3)
    for name in ("step", "labels"):
        with pytest.raises(TypeError, match=name):
            model.sample((2, 1), cond={name: torch.zeros(2).long()}, steps=3)
        with pytest.raises(TypeError, match=name):
            model.loss(draw((2, 1)), **{name: torch.zeros(2).long()})
    if make is not exact.mixture:  # of one component
        with pytest.raises(TypeError, match="label"):
            model.sample((2, 1), cond={"label": torch.zeros(2).long()}, steps=3)


def test_a_learned_schedule_does_not_change_the_dtype_of_an_exact_model():
    model = exact.gaussian(Learned(width=8), "v")
    names = [name for name, _ in model.denoiser.named_parameters()]
    assert names == ["like"] and model.predictor().answer.dtype == torch.float64
    assert {name for name, _ in model.named_parameters()} > {"schedule.gamma_0", "denoiser.like"}
