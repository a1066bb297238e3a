"""A weighting means the same loss whatever the network predicts."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from anydiff import VE, Cosine, Dense, Flow, GaussianDiffusion, Karras, Ragged, Tabulated, exact
from anydiff.losses.weightings import (
    P2,
    KarrasWeighting,
    LearnedUncertainty,
    Likelihood,
    MinSNR,
    PseudoHuber,
    Sigmoid,
    TruncatedSNR,
    Unit,
)
from anydiff.predictions import as_target
from tests.helpers.spaces import SPACES, draw

TYPES = ["eps", "x0", "v", "score", "velocity", "karras"]
T = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)

# the weight of eps as published, from the SNR and the rate of its logarithm
PUBLISHED = {
    Unit("eps"): lambda snr, rate: torch.ones_like(snr),
    Unit("x0"): lambda snr, rate: 1 / snr,
    MinSNR(): lambda snr, rate: snr.clamp(max=5) / snr,
    MinSNR(1.0): lambda snr, rate: snr.clamp(max=1) / snr,
    TruncatedSNR(): lambda snr, rate: snr.clamp(min=1) / snr,
    P2(): lambda snr, rate: 1 / (1 + snr),
    P2(0.5, 2.0): lambda snr, rate: (0.5 + snr) ** -2,
    KarrasWeighting(): lambda snr, rate: (1 / snr + 0.25) / (0.25 / snr) / snr,
    Likelihood(): lambda snr, rate: -rate / 2,
    Sigmoid(-1.0): lambda snr, rate: -rate / 2 * torch.sigmoid(-1 - snr.log()),
}
every_weighting = pytest.mark.parametrize("weighting", PUBLISHED, ids=str)


class Zero(nn.Module):
    def forward(self, x_t, t, space=None):
        return torch.zeros_like(x_t)


class Network(nn.Module):
    """One guess of the noise, said as any prediction type."""

    def __init__(self, schedule, prediction):
        super().__init__()
        self.schedule, self.target = schedule, as_target(prediction, schedule)

    def forward(self, seen, t, space):
        at = self.schedule.at(t)
        x_t = seen / space.expand(torch.ones_like(t) * self.target.input_scale(at), seen)
        alpha, sigma = (space.expand(c, x_t) for c in (at.alpha, at.sigma))
        a, b = (space.expand(c, x_t) for c in self.target.coefficients(at))
        eps = torch.sin(3 * x_t)
        return a * (x_t - sigma * eps) / alpha + b * eps


@every_weighting
@pytest.mark.parametrize("schedule", [Cosine(), Flow(), Karras()], ids=str)
def test_weights_are_the_published_ones(weighting, schedule):
    t = T.clone().requires_grad_()
    logsnr = schedule.logsnr(t)
    (rate,) = torch.autograd.grad(logsnr.sum(), t)
    snr = logsnr.exp().detach()
    weight = PUBLISHED[weighting](snr, rate)
    assert torch.allclose(weighting.of("eps", schedule.at(T)), weight, rtol=1e-9)
    # |eps error|² = SNR |x0 error|²
    assert torch.allclose(weighting.of("x0", schedule.at(T)), snr * weight, rtol=1e-9)


def test_the_unit_weight_of_v_is_that_of_x0_times_snr_plus_one():
    at = Cosine().at(T)
    assert torch.allclose(Unit("v").of("x0", at), at.logsnr.exp() + 1, rtol=1e-9)


@every_weighting
@pytest.mark.parametrize(
    "space, shape", [SPACES["dense"], SPACES["centered"]], ids=["dense", "sub"]
)
def test_the_loss_is_the_same_for_every_prediction_type(weighting, space, shape):
    schedule, x0 = Cosine(), space.project(draw(shape))
    eps = space.noise(x0, torch.Generator().manual_seed(1))
    alpha, sigma = (space.expand(c, x0) for c in schedule(T))
    guess = space.project(torch.sin(3 * (alpha * x0 + sigma * eps)))
    error = space.sum((eps - guess) ** 2) / space.dim(x0).clamp(min=1)
    expected = weighting.of("eps", schedule.at(T)) * error

    for prediction in TYPES:
        network = Network(schedule, prediction)
        diffusion = GaussianDiffusion(network, schedule, prediction, weighting=weighting)
        loss = diffusion.loss(x0, T, space=space, noise=eps)
        assert torch.allclose(loss, expected, rtol=1e-9), prediction


# --- the pseudo-Huber loss -------------------------------------------------------------------------


class Says(nn.Module):
    """x0, but for a given error of it."""

    def __init__(self, x0, error):
        super().__init__()
        self.x0, self.error = x0, error

    def forward(self, x_t, t, space=None):
        return self.x0 + self.error


def of_x0(error, weighting, t=T, space=Dense(), schedule=Cosine()):  # noqa: B008
    """The loss of a network whose x0 is wrong by this."""
    x0 = space.project(draw(error.shape, 4))
    network = Says(x0, space.project(error))
    return GaussianDiffusion(network, schedule, "x0", weighting=weighting).loss(x0, t, space=space)


@pytest.mark.parametrize("width", [5.4e-4, 0.1, 3.0])
def test_pseudo_huber_is_the_published_distance(width):
    """sqrt(|x - y|² + c²) - c with c = width sqrt(d), divided by sqrt(d)."""
    error = draw((4, 3, 5))
    d = 15
    c = width * d**0.5
    published = (error.square().sum((1, 2)) + c**2).sqrt() - c
    assert torch.allclose(of_x0(error, PseudoHuber(width)), published / d**0.5, rtol=1e-9)
    # a weight of the squared error counts by its root, that of eps as alpha / sigma
    alpha, sigma = Cosine()(T)
    weighed = of_x0(error, PseudoHuber(width, Unit("eps")))
    assert torch.allclose(weighed, alpha / sigma * published / d**0.5, rtol=1e-9)


def test_pseudo_huber_of_small_and_of_large_errors():
    """e / 2 c far below c, to e / 4 c² of it; sqrt(e) - c far above, to c² / 2 sqrt(e)."""
    error = draw((4, 8))
    e, c = error.square().mean(1), 5.4e-4
    small = of_x0(1e-7 * error, PseudoHuber(c))
    assert torch.allclose(small, 1e-14 * e / (2 * c), rtol=1e-6)
    assert torch.allclose(of_x0(error, PseudoHuber(c)), e.sqrt() - c, atol=c**2)
    # float32 keeps its digits, where the difference of roots would be 0
    one = PseudoHuber(c).weigh(
        torch.tensor([1e-14]), Cosine().at(torch.tensor([0.5])), as_target("x0")
    )
    assert one.item() == pytest.approx(1e-14 / (2 * c), rel=1e-5)


def test_pseudo_huber_has_a_gradient_without_an_error():
    """1 / 2 c of the squared error, and so 0 of the error itself."""
    error = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    of_x0(error, PseudoHuber(0.02)).sum().backward()
    assert torch.equal(error.grad, torch.zeros_like(error))
    squares = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    loss = PseudoHuber(0.02).weigh(squares, Cosine().at(T), as_target("x0"))
    assert torch.allclose(torch.autograd.grad(loss.sum(), squares)[0], squares + 1 / 0.04)
    large = (1e3 * draw((4, 3))).requires_grad_()  # of an outlier it is its direction
    of_x0(large, PseudoHuber(0.02)).sum().backward()
    expected = large.detach() / large.detach().norm(dim=1, keepdim=True) / 3**0.5
    assert torch.allclose(large.grad, expected, rtol=1e-6)


def test_pseudo_huber_is_the_same_for_items_of_any_size():
    """Of the mean square of an item: copies of the same row err by as much as one."""
    space, row = Ragged.from_sizes([1, 4, 2, 7]), draw((1, 5))
    loss = of_x0(row.expand(14, 5), PseudoHuber(), space=space)
    assert torch.allclose(loss, loss[:1].expand(4), rtol=1e-12)
    centred = Ragged.from_sizes([1, 4], centered=5)  # an item without dimension has no error
    lost = of_x0(draw((5, 5)), PseudoHuber(), T[:2], centred)
    assert lost[0] == 0 and lost[1] > 0


@pytest.mark.parametrize("weighting", [PseudoHuber(0.1), PseudoHuber(0.1, MinSNR())], ids=str)
@pytest.mark.parametrize("name", ["dense", "ragged", "centered"])
def test_pseudo_huber_is_the_same_for_every_prediction_type(weighting, name):
    space, shape = SPACES[name]
    schedule, x0 = Cosine(), space.project(draw(shape))
    eps = space.noise(x0, torch.Generator().manual_seed(1))
    losses = [
        GaussianDiffusion(Network(schedule, p), schedule, p, weighting=weighting).loss(
            x0, T, space=space, noise=eps
        )
        for p in TYPES
    ]
    assert (
        all(torch.allclose(loss, losses[0], rtol=1e-9) for loss in losses) and losses[0].max() > 0
    )


def test_karras_weighting_is_the_unit_weight_of_its_network():
    for schedule in (Karras(), Cosine(), Flow()):
        at = schedule.at(torch.linspace(0, 1, 9).double())
        assert torch.allclose(KarrasWeighting().of("karras", at), torch.ones(9).double())
        assert torch.allclose(Unit("karras").of("eps", at), KarrasWeighting().of("eps", at))


@pytest.mark.parametrize(
    "weighting",
    [*PUBLISHED, LearnedUncertainty(MinSNR()), PseudoHuber(), PseudoHuber(weighting=P2())],
    ids=lambda w: type(w).__name__,
)
@pytest.mark.parametrize("schedule", [Flow(), Tabulated.linear()], ids=["flow", "table"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_are_finite_where_alpha_or_sigma_is_zero(weighting, schedule, dtype):
    x0, t = draw((3, 4)).to(dtype), torch.tensor([0.0, 0.5, 1.0], dtype=dtype)
    for prediction in ("x0", "v", "velocity"):
        if prediction == "velocity" and isinstance(schedule, Tabulated):
            continue  # a table's rates are infinite at its row 0
        diffusion = GaussianDiffusion(Zero(), schedule, prediction, weighting=weighting)
        loss = diffusion.loss(x0, t)
        assert loss.dtype == dtype and loss.isfinite().all(), prediction


def test_at_the_ends_weights_are_the_limits():
    """A millionth of a millionth inside; 1e-9 is far above what that leaves."""
    at = Flow().at(torch.tensor([0.0, 1.0], dtype=torch.float64))

    def ends(weighting, prediction):
        return weighting.of(prediction, at)

    limits = [
        (MinSNR(), "x0", [5.0, 0.0]),
        (MinSNR(), "eps", [0.0, 1.0]),
        (MinSNR(), "velocity", [0.0, 0.0]),
        (P2(), "eps", [0.0, 1.0]),
        (P2(), "x0", [1.0, 0.0]),
        (TruncatedSNR(), "velocity", [1.0, 1.0]),
        (Unit("velocity"), "v", [1.0, 1.0]),
        (KarrasWeighting(), "velocity", [1.0, 4.0]),
        # alpha sigma (alpha sigma' - alpha' sigma) e^b / (alpha² + e^b sigma²)
        (Sigmoid(0.0), "velocity", [0.0, 0.0]),
    ]
    for weighting, prediction, limit in limits:
        expected = torch.tensor(limit, dtype=torch.float64)
        assert torch.allclose(ends(weighting, prediction), expected, atol=1e-9), weighting


@pytest.mark.parametrize("schedule", [Cosine(-9, 5), VE(0.1, 20), Karras(0.1, 20)], ids=str)
def test_likelihood_is_the_information_that_the_noise_takes(schedule):
    """Of Gaussian data, eps is known but for sigmoid(logsnr + ln s²), whose half integral is softplus.

    The midpoint rule on n points is wrong by a few n⁻² of the integrand's curvature; 1e-4 holds it.
    """
    n, log_s2, bias = 20_000, 2 * torch.tensor(0.5).double().log(), -1.0
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    logsnr = schedule.logsnr(t)
    mmse = torch.sigmoid(logsnr + log_s2)
    low, high = schedule.logsnr(torch.tensor([1.0, 0.0], dtype=torch.float64))

    nats = (Likelihood().of("eps", schedule.at(t)) * mmse).mean()
    assert torch.isclose(nats, 0.5 * (softplus(high + log_s2) - softplus(low + log_s2)), rtol=1e-4)

    # and Sigmoid is an integral over the log-SNR too: no schedule in it but its range
    knots = torch.linspace(low, high, n + 1, dtype=torch.float64)
    integrand = 0.5 * torch.sigmoid(bias - knots) * torch.sigmoid(knots + log_s2)
    expected = torch.trapezoid(integrand, knots)
    value = (Sigmoid(bias).of("eps", schedule.at(t)) * mmse).mean()
    assert torch.isclose(value, expected, rtol=1e-4)


def test_likelihood_times_the_dimension_is_in_nats():
    diffusion = exact.gaussian(Cosine(-9, 5), "v", std=0.5)
    diffusion.weighting = Likelihood()
    x0 = 0.5 * draw((20_000, 3))
    nats = 3 * diffusion.loss(x0, generator=torch.Generator().manual_seed(1))
    log_s2 = 2 * torch.tensor(0.5).log()
    expected = 1.5 * (softplus(5 + log_s2) - softplus(-9 + log_s2))
    # five standard errors of independent draws; stratified times do better
    assert abs(nats.mean() - expected) < 5 * nats.std() / 20_000**0.5


def test_learned_uncertainty_begins_as_the_loss_it_wraps():
    x0, noise = draw((4, 3)).float(), draw((4, 3), 1).float()
    t = T.float()
    for inner in (None, MinSNR(), torch.sigmoid):
        plain = GaussianDiffusion(Zero(), weighting=inner).loss(x0, t, noise=noise)
        learned = LearnedUncertainty(inner)
        assert torch.allclose(
            GaussianDiffusion(Zero(), weighting=learned).loss(x0, t, noise=noise), plain
        )


def test_learned_uncertainty_is_trained_and_saved_with_the_diffusion():
    diffusion = GaussianDiffusion(Zero(), weighting=LearnedUncertainty(MinSNR()))
    assert len(list(diffusion.parameters())) == 2
    diffusion.loss(draw((4, 3)), T).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in diffusion.parameters())
    other = GaussianDiffusion(Zero(), weighting=LearnedUncertainty(MinSNR()))
    other.load_state_dict(diffusion.state_dict())


def test_learned_uncertainty_finds_the_expected_loss():
    """v of data with deviation 1/2 has the variance alpha² + sigma² / 4, which Zero misses by all of it.

    A squared error of 64 dimensions has the relative deviation sqrt(2 / 64); 129 parameters from 4000
    of them leave sqrt(129 / 4000) of that, 3 percent, on average; five of these are allowed.
    """
    learned = LearnedUncertainty().double()
    diffusion = GaussianDiffusion(Zero(), Cosine(), "v", weighting=learned)
    x0, noise = 0.5 * draw((4000, 64)), draw((4000, 64), 1)
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    optimizer = torch.optim.LBFGS(learned.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = diffusion.loss(x0, t, noise=noise).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    alpha, sigma = Cosine()(t)
    ratio = learned(Cosine().logsnr(t)).exp() / (alpha**2 + sigma**2 / 4)
    assert ((ratio - 1).abs() < 0.15).all(), ratio


def test_learned_uncertainty_says_nothing_of_an_item_without_dimension():
    space = Ragged.from_sizes([1, 4], centered=3)
    learned = LearnedUncertainty()
    nn.init.ones_(learned.linear.bias)
    x0, t = draw((5, 3)).float(), torch.tensor([0.3, 0.6])
    loss = GaussianDiffusion(Zero(), weighting=learned).loss(x0, t, space=space)
    assert loss[0] == 0 and loss[1] > 0


def test_errors_say_what_to_give():
    with pytest.raises(ValueError, match="'epsilon'; choose one of 'eps'"):
        Unit("epsilon")
    with pytest.raises(ValueError, match="gamma is 0"):
        MinSNR(0)
    with pytest.raises(ValueError, match="sigma_data is -1"):
        KarrasWeighting(-1)
    with pytest.raises(ValueError, match="width is 0"):
        PseudoHuber(0)
    with pytest.raises(ValueError, match="give a weighting of a fixed target, such as MinSNR"):
        PseudoHuber(weighting=PseudoHuber())
    with pytest.raises(ValueError, match="features is 5"):
        LearnedUncertainty(features=5)
