"""Autoencoders of rows: their posterior, what they respect, and what they can learn in closed form."""

import math

import pytest
import torch
from torch import nn

from anydiff.autoencoders import Autoencoding, Posterior, Rowwise
from anydiff.autoencoders.autoencoder import bounded
from anydiff.denoisers import EGNN, BiRNN, PairNet, Transformer
from anydiff.spaces import DENSE, Masked, Packed, Ragged
from tests.helpers.networks import awake
from tests.helpers.points import ROUNDING
from tests.helpers.spaces import draw

SIZES = [4, 1, 3]
POINTS = Ragged.from_sizes(SIZES, centered=3)
ROWS = Masked.from_lengths(SIZES)


def points(network, latent=2):
    """An autoencoder of points with three positions and four features, in float64."""
    torch.manual_seed(0)
    widths = Rowwise.widths(7, latent, 3)
    return awake(Rowwise(*(network(w - 3) for w in widths), 7, latent, 3).double())


def rows(network, latent=2):
    torch.manual_seed(0)
    return awake(Rowwise(*(network(w) for w in Rowwise.widths(3, latent)), 3, latent).double())


AUTOENCODERS = {
    "egnn": lambda: points(lambda w: EGNN(w, 8, 2)),
    "pairnet": lambda: points(lambda w: PairNet(w, 16, layers=2)),
    "positions alone": lambda: points(lambda w: PairNet(w, 16, layers=2), latent=0),
    "birnn": lambda: rows(lambda w: BiRNN(w, 8, 1)),
    "transformer": lambda: rows(lambda w: Transformer(w, 16, 1)),
}


def batch(name):
    if name in ("egnn", "pairnet", "positions alone"):
        return POINTS.project(draw((8, 7))), POINTS
    return ROWS.project(draw((3, 4, 3))), ROWS


# the posterior --------------------


def test_it_is_a_normal_distribution_of_torch_where_the_data_are_dense():
    mean, log_variance = draw((5, 4)), draw((5, 4), 1)
    q = Posterior(mean, log_variance, DENSE)
    of = torch.distributions.Normal(mean, (log_variance / 2).exp())
    z = draw((5, 4), 2)
    torch.testing.assert_close(q.log_prob(z), of.log_prob(z).sum(1), **ROUNDING)
    torch.testing.assert_close(q.entropy(), of.entropy().sum(1), **ROUNDING)
    standard = torch.distributions.Normal(torch.zeros(5, 4).double(), 1.0)
    wanted = torch.distributions.kl_divergence(of, standard).sum(1)
    torch.testing.assert_close(q.kl(), wanted, **ROUNDING)
    many = torch.stack([q.sample(torch.Generator().manual_seed(k)) for k in range(4000)])
    spread = (log_variance / 2).exp() / math.sqrt(4000)
    assert ((many.mean(0) - mean).abs() < 5 * spread).all()
    assert ((many.std(0) / (log_variance / 2).exp() - 1).abs() < 0.06).all()


def test_of_centred_points_it_is_that_of_the_subspace():
    """By brute force: the covariance P diag(v) P, its eigenvalues and its pseudo-inverse."""
    n, space = 4, Ragged.from_sizes([4], centered=3)
    mean = space.project(draw((n, 4)))
    log_variance = torch.cat([draw((1, 1)).expand(n, 3), draw((n, 1), 1)], 1)
    q, z = Posterior(mean, log_variance, space), space.project(draw((n, 4), 2))
    center = torch.eye(n).double() - 1 / n
    P = torch.block_diag(center, center, center, torch.eye(n).double())
    variance = log_variance.exp().t().flatten()
    covariance = P @ torch.diag(variance) @ P
    values = torch.linalg.eigvalsh(covariance)
    values = values[values > 1e-9]
    dim = len(values)
    assert dim == int(space.dim(z)) == 3 * (n - 1) + n
    away = (z - mean).t().flatten()
    squares = away @ torch.linalg.pinv(covariance, rtol=1e-9) @ away
    log_prob = -0.5 * (squares + values.log().sum() + dim * math.log(2 * math.pi))
    torch.testing.assert_close(q.log_prob(z)[0], log_prob, **ROUNDING)
    entropy = 0.5 * (values.log().sum() + dim * math.log(2 * math.pi * math.e))
    torch.testing.assert_close(q.entropy()[0], entropy, **ROUNDING)
    m = mean.t().flatten()
    kl = 0.5 * (values.sum() - dim - values.log().sum() + m @ m)
    torch.testing.assert_close(q.kl()[0], kl, **ROUNDING)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_a_sample_is_in_the_space_of_the_latent(name):
    net, (x, space) = AUTOENCODERS[name](), batch(name)
    q = net.encode(x, space)
    assert q.space is net.latent_space(space)
    z = q.sample(torch.Generator().manual_seed(0))
    assert z.shape == net.latent_shape(x.shape) and not torch.equal(z, q.mode)
    torch.testing.assert_close(q.space.project(z), z, **ROUNDING)
    y = net.decode(z, space)
    assert y.shape == x.shape
    torch.testing.assert_close(space.project(y), y, **ROUNDING)


def test_a_log_variance_is_bounded_for_any_input():
    raw = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4, -math.inf, math.inf], requires_grad=True)
    values = bounded(raw)
    assert (values >= -18).all() and (values <= 6).all() and values[2] == -6
    values.sum().backward()
    assert raw.grad.isfinite().all() and raw.grad[2] == 1


def test_without_noise_there_is_no_density():
    q = Posterior(draw((2, 3)), None, DENSE)
    assert q.sample() is q.mean
    for ask in (q.kl, q.entropy, lambda: q.log_prob(draw((2, 3)))):
        with pytest.raises(ValueError, match=r"the latent has no noise, and so no density"):
            ask()


# what it respects --------------------


def turned(x, turn):
    return torch.cat([x[:, :3] @ turn, x[:, 3:]], 1)


@pytest.mark.parametrize("name", ["egnn", "pairnet", "positions alone"])
def test_latents_of_points_turn_and_are_permuted_with_them(name):
    net, (x, space) = AUTOENCODERS[name](), batch(name)
    turn = torch.linalg.qr(draw((3, 3), 5))[0]
    q, other = net.encode(x, space), net.encode(turned(x, turn), space)
    torch.testing.assert_close(other.mean, turned(q.mean, turn), **ROUNDING)
    torch.testing.assert_close(other.log_variance, q.log_variance, **ROUNDING)
    back = net.decode(other.mean, space)
    torch.testing.assert_close(back, turned(net.decode(q.mean, space), turn), **ROUNDING)
    order = torch.tensor([2, 0, 3, 1, 4, 7, 6, 5])
    torch.testing.assert_close(net.encode(x[order], space).mean, q.mean[order], **ROUNDING)
    y = net.decode(q.mean[order], space)
    torch.testing.assert_close(y, net.decode(q.mean, space)[order], **ROUNDING)


@pytest.mark.parametrize("name", ["egnn", "pairnet"])
def test_the_noise_of_positions_has_one_variance_in_each_item(name):
    net, (x, space) = AUTOENCODERS[name](), batch(name)
    v = net.encode(x, space).log_variance
    assert torch.equal(v[:, :3], v[:, :1].expand(-1, 3))
    for item in range(3):
        of = v[space.index == item, 0]
        assert torch.equal(of, of[:1].expand_as(of))
    assert len(v[:, 0].unique()) == 3


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_the_latent_of_an_item_is_its_own_whatever_is_beside_it(name):
    net, (x, space) = AUTOENCODERS[name](), batch(name)
    q = net.encode(x, space)
    y = net.decode(q.mean, space)
    if isinstance(space, Ragged):
        alone, mine = Ragged.from_sizes([3], centered=3), slice(5, 8)
        p = net.encode(x[mine], alone)
        pairs = [(p.mean, q.mean[mine]), (p.log_variance, q.log_variance[mine])]
        pairs.append((net.decode(p.mean, alone), y[mine]))
    else:
        alone = Masked.from_lengths([3])
        p = net.encode(x[2:, :3], alone)
        pairs = [(p.mean, q.mean[2:, :3]), (net.decode(p.mean, alone), y[2:, :3])]
    for a, b in pairs:
        torch.testing.assert_close(a, b, **ROUNDING)


def test_values_that_were_not_observed_are_in_the_data_alone():
    observed = torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.7
    space = Masked(ROWS.mask, observed & ROWS.mask[..., None])
    torch.manual_seed(0)
    widths = Rowwise.widths(3, 2)
    net = awake(Rowwise(*(BiRNN(w, 8, 1, observed=k == 0) for k, w in enumerate(widths)), 3, 2))
    net = net.double()
    x = space.project(draw((3, 4, 3)))
    inner = net.latent_space(space)
    assert inner.observed is None and net.latent_space(space) is inner
    q = net.encode(x, space)
    assert (q.mean != 0).sum() == 2 * ROWS.mask.sum()


# what it can learn --------------------


class Linear(nn.Module):
    """A linear denoiser, whatever the time."""

    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width).double()

    def forward(self, x_t, t):
        return self.map(x_t)


def linear(columns, latent, noisy=True):
    torch.manual_seed(0)
    widths = Rowwise.widths(columns, latent, noisy=noisy)
    return Rowwise(*(Linear(w) for w in widths), columns, latent, noisy=noisy)


def minimised(loss, parameters, steps=60):
    optimizer = torch.optim.LBFGS(
        list(parameters), max_iter=50, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(steps):
        value = optimizer.step(closure)
    return value.detach()


def normal_data(num=400, dims=4):
    """Data whose covariance is exactly diagonal in a turned basis, and its eigenvalues."""
    x = draw((num, dims))
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.t() @ x / num)).t()
    values = torch.tensor([4.0, 2.0, 0.5, 0.1]).double()
    turn = torch.linalg.qr(draw((dims, dims), 1))[0]
    return x * values.sqrt() @ turn, values


def test_without_noise_two_linear_networks_find_the_principal_components():
    x, values = normal_data()
    net = linear(4, 2, noisy=False)

    def loss():
        return (net.decode(net.encode(x).mean) - x).square().sum(1).mean()

    assert minimised(loss, net.parameters()) == pytest.approx(float(values[2:].sum()), rel=1e-6)


def test_with_noise_they_reach_the_likelihood_of_probabilistic_pca():
    """Tipping and Bishop: the noise is the mean of the eigenvalues that are left out."""
    x, values = normal_data()
    objective = Autoencoding(linear(4, 2))
    noise = draw((400, 2), 9)
    # the noise in antithetic pairs with unit covariance, so that its mean is the expectation
    noise = torch.cat([noise, -noise])
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.t() @ noise / 800)).t()
    twice = torch.cat([x, x])

    class Known:
        def noise(self, like, generator=None):
            return noise

        def __getattr__(self, name):
            return getattr(DENSE, name)

    def loss():
        q = objective.autoencoder.encode(twice)
        z = q.mean + torch.exp(q.log_variance / 2) * noise
        return (q.kl() - objective.log_likelihood(twice, z)).mean()

    found = minimised(loss, objective.parameters())
    left = values[2:].mean()
    wanted = 0.5 * (4 * math.log(2 * math.pi) + values[:2].log().sum() + 2 * left.log() + 4)
    assert float(found - wanted) == pytest.approx(0, abs=0.01)
    assert objective.log_noise.exp().item() == pytest.approx(float(left), rel=0.02)


def test_the_objective_is_the_negative_bound_for_each_dimension():
    net, (x, space) = AUTOENCODERS["pairnet"](), batch("pairnet")
    objective = Autoencoding(net, beta=0.3, noise=0.2).double()
    found = objective.loss(x, space=space, generator=torch.Generator().manual_seed(0))
    q = net.encode(x, space)
    z = q.sample(torch.Generator().manual_seed(0))
    away = (x - net.decode(z, space)) / 0.2
    dim = space.dim(x)
    log_p = -0.5 * (space.sum(away.square()) + dim * math.log(2 * math.pi * 0.04))
    wanted = (0.3 * q.kl() - log_p) / dim.clamp(min=1)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    assert objective(x, space=space).shape == (3,)
    assert [n for n, _ in objective.named_parameters() if "level" in n] == []
    assert [n for n, _ in Autoencoding(net).named_parameters() if "level" in n] == ["level"]


# what is refused --------------------


def test_networks_and_spaces_that_do_not_fit_are_named():
    assert Rowwise.widths(8, 2, 3) == (13, 8) and Rowwise.widths(4, 3, 3) == (11, 6)
    assert Rowwise.widths(3, 2) == (7, 3) and Rowwise.widths(3, 2, noisy=False) == (5, 3)
    told = r"the encoder, BiRNN, takes rows of 3 columns, and 7 are needed; see Rowwise.widths"
    with pytest.raises(ValueError, match=told):
        Rowwise(BiRNN(3, 8, 1), BiRNN(3, 8, 1), 3, 2)
    with pytest.raises(ValueError, match=r"the decoder, PairNet, takes rows of 10 columns, and 7"):
        Rowwise(PairNet(9, 8, layers=1), PairNet(7, 8, layers=1), 7, 2, 3)
    net = AUTOENCODERS["pairnet"]()
    for space in (Ragged.from_sizes(SIZES), ROWS, Packed({"a": (DENSE, (2, 3))})):
        with pytest.raises(ValueError, match=r"centred columns; give rows with 3: Ragged"):
            net.encode(draw((8, 7)), space)
    with pytest.raises(ValueError, match=r"x is \(8, 6\).*7"):
        net.encode(draw((8, 6)), POINTS)
    with pytest.raises(ValueError, match=r"z is \(8, 7\).*5"):
        net.decode(draw((8, 7)), POINTS)
    for wrong in ({"columns": 2, "centered": 3}, {"latent": 0}, {"latent": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Rowwise(Linear(4), Linear(4), **{"columns": 4, "latent": 2} | wrong)
    for wrong in ({"beta": -1.0}, {"noise": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Autoencoding(net, **wrong)
