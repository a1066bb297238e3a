"""The objectives of score matching against their closed forms, in every space."""

import pytest
import torch
from torch import nn

from anydiff import Cosine, Dense, exact
from anydiff.likelihood import score_matching as matching
from tests.helpers.spaces import draw, every_space


def trace(c, space):
    """The trace of P diag(c) P, item by item, from the matrix of P itself."""
    eye = torch.eye(c.numel(), dtype=c.dtype)
    columns = torch.stack([space.project(e.view(c.shape)).flatten() for e in eye])
    return space.sum(((columns**2) @ c.flatten()).view(c.shape))


def bend(c):
    """A linear score that squeezes every entry by its own."""
    return lambda x: -c * x


@every_space
@pytest.mark.parametrize("chunk_size", [1, 4])
def test_the_exact_objective_of_a_linear_score(space, shape, chunk_size):
    x, c = space.project(draw(shape)), draw(shape, 1).exp()
    expected = 0.5 * space.sum(space.project(c * x) ** 2) - trace(c, space)
    loss = matching.exact(bend(c), x, space=space, chunk_size=chunk_size)
    assert torch.allclose(loss, expected, atol=1e-10)


@every_space
@pytest.mark.parametrize("variance_reduced", [True, False])
def test_the_sliced_objective_is_unbiased(space, shape, variance_reduced):
    """Five standard errors of 400 estimates."""
    x, c = draw(shape), draw(shape, 1).exp()
    generator = torch.Generator().manual_seed(2)
    estimates = torch.stack(
        [
            matching.sliced(
                bend(c), x, space=space, variance_reduced=variance_reduced, generator=generator
            )
            for _ in range(400)
        ]
    )
    away = (estimates.mean(0) - matching.exact(bend(c), x, space=space)).abs()
    assert (away <= 5 * estimates.std(0) / 400**0.5 + 1e-10).all()


def test_variance_reduction_reduces_it_and_so_do_projections():
    """Of s(x) = -x the reduced form varies as |v|², 2 · 5; the other with |x|⁴ / 2 - 2 |x|² more.

    The variance of 2000 draws of |v|² is right to 5 percent; six times that is allowed.
    """
    x = torch.full((2000, 5), 1.5)

    def variance(**options):
        generator = torch.Generator().manual_seed(0)
        return matching.sliced(lambda x: -x, x, generator=generator, **options).var()

    assert abs(variance() / 10 - 1) < 0.3
    assert abs(variance(projections=4) / 2.5 - 1) < 0.3
    assert variance(variance_reduced=False) > 3 * variance()


def test_the_exact_objective_of_a_network_is_the_jacobian_s_trace():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x, t = draw((5, 3)), torch.linspace(0, 1, 5, dtype=torch.float64)

    def score(x, t):
        return net(torch.cat([x, t[:, None]], -1))

    expected = []
    for item, time in zip(x, t, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda z: score(z[None], time[None])[0], item)  # noqa: B023
        expected.append(0.5 * (score(item[None], time[None]) ** 2).sum() + jacobian.trace())
    loss = matching.exact(score, x, t)
    assert torch.allclose(loss, torch.stack(expected), atol=1e-12)
    # and it trains
    loss.mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters()) and net[0].weight.grad.any()


@every_space
def test_the_objectives_of_a_predictor_at_one_time(space, shape):
    """x_t of Gaussian data is Gaussian: the score is -(x - alpha m) / (alpha² s² + sigma²)."""
    predictor = exact.gaussian(Cosine(), "v", std=0.5).predictor(space)
    x, t = space.project(draw(shape)), torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    alpha, sigma = Cosine()(t)
    variance = alpha**2 / 4 + sigma**2
    expected = 0.5 * space.sum(x**2) / variance**2 - space.dim(x) / variance
    loss = matching.exact(lambda x, t: predictor.predict(x, t).score, x, t, space=space)
    assert torch.allclose(loss, expected, atol=1e-9)


def vertex(loss):
    """Where a parabola has its minimum."""
    a, b, c = (loss(torch.tensor(p, dtype=torch.float64)) for p in (0.0, 1.0, 2.0))
    assert a - 2 * b + c > 0
    return (1.5 * a - 2 * b + 0.5 * c) / (a - 2 * b + c)


@every_space
def test_the_best_isotropic_score_is_that_of_the_data_s_variance(space, shape):
    """Of s(x) = -p x the least is at p = dim / |x|², the data's own precision."""
    x = space.project(2 * draw(shape))
    best = vertex(lambda p: matching.exact(lambda x: -p * x, x, space=space).sum())
    assert torch.isclose(best, space.dim(x).sum() / space.sum(x**2).sum(), rtol=1e-9)


def test_the_best_linear_score_is_that_of_the_data_s_covariance():
    """Of s(x) = -A (x - b) the least is at the inverse covariance and the mean."""
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.7, 0.6, 0.0], [-0.4, 0.2, 1.5]], dtype=torch.float64)
    x = draw((600, 3)) @ mix.T + torch.tensor([0.5, -1.0, 2.0])
    a = torch.eye(3, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [a, b], max_iter=300, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = matching.exact(lambda x: -(x - b) @ a.T, x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.allclose(a, torch.cov(x.T, correction=0).inverse(), atol=1e-6)
    assert torch.allclose(b, x.mean(0), atol=1e-6)


@every_space
def test_denoising_learns_the_score_of_the_noised_density(space, shape):
    """With x ~ N(0, s²) and noise sigma the best p is 1 / (s² + sigma²).

    Its relative standard error over n dimensions is (s / sigma) / sqrt(n); five of them.
    """
    repeats, s, sigma = 60, 1.5, 0.8

    def loss(p):
        generator = torch.Generator().manual_seed(0)
        draws = (s * space.noise(draw(shape), generator) for _ in range(repeats))
        return sum(
            matching.denoising(lambda x: -p * x, x, sigma, space=space, generator=generator).sum()
            for x in draws
        )

    dims = repeats * space.dim(draw(shape)).sum()
    relative = vertex(loss) * (s**2 + sigma**2) - 1
    assert relative.abs() < 5 * (s / sigma) / dims.sqrt()


@every_space
def test_denoising_of_a_perfect_answer_is_zero_and_of_none_the_noise(space, shape):
    x, eps = space.project(draw(shape)), space.project(draw(shape, 1))
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=torch.float64)
    own = space.expand(sigma, x)
    perfect = matching.denoising(lambda z: -(z - x) / own**2, x, sigma, space=space, noise=eps)
    assert torch.allclose(perfect, torch.zeros(4).double(), atol=1e-18)
    none = matching.denoising(torch.zeros_like, x, sigma, space=space, noise=eps)
    assert torch.allclose(none, 0.5 * space.sum(eps**2) / sigma**2)


@every_space
def test_only_the_space_counts(space, shape):
    """What lies outside it, of the data or of the score, changes nothing."""
    x, outside = draw(shape), draw(shape, 5)
    outside = outside - space.project(outside)
    for objective in (
        lambda score, x: matching.exact(score, x, space=space),
        lambda s, x: matching.sliced(s, x, space=space, generator=torch.Generator().manual_seed(0)),
        lambda s, x: matching.denoising(s, x, 0.5, space=space, noise=space.project(draw(shape))),
    ):
        plain = objective(torch.sin, space.project(x))
        assert torch.allclose(plain, objective(lambda x: torch.sin(x) + outside, x), atol=1e-12)
        assert plain.shape == (4,)


def test_a_constant_score_has_no_trace():
    x, c = draw((4, 3)), draw((4, 3), 1)
    size = 0.5 * (c**2).sum(1)
    assert torch.allclose(matching.exact(lambda x: c, x), size)
    assert torch.allclose(matching.sliced(lambda x: c, x), size)


def test_one_generator_per_item_keeps_items_apart():
    x = draw((3, 4))
    seeds = [torch.Generator().manual_seed(k) for k in range(3)]
    together = matching.sliced(torch.sin, x, generator=seeds)
    alone = matching.sliced(torch.sin, x[2:], generator=[torch.Generator().manual_seed(2)])
    assert torch.allclose(together[2], alone[0])


def test_objectives_are_of_use_without_gradients_and_in_float32():
    x = draw((3, 4)).float()
    with torch.no_grad():
        losses = [
            matching.exact(torch.sin, x),
            matching.sliced(torch.sin, x),
            matching.denoising(torch.sin, x, 0.1, space=Dense()),
        ]
    assert all(loss.dtype == torch.float32 and loss.isfinite().all() for loss in losses)
    with pytest.raises(ValueError, match="projections is 0"):
        matching.sliced(torch.sin, x, projections=0)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        matching.exact(torch.sin, x, chunk_size=0)
