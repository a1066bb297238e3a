"""The loss against its definition, in every space."""

import pytest
import torch
from torch import nn

from anydiff import DDPM, Cosine, Dense, GaussianDiffusion, Karras, Masked, Ragged, exact
from anydiff.denoisers import BiRNN
from anydiff.losses.times import LogNormal, LossSecondMoment
from anydiff.losses.weightings import LearnedUncertainty, MinSNR
from anydiff.spaces import DENSE
from tests.helpers.networks import awake
from tests.helpers.spaces import MASK, SPACES, draw, every_space


class Zero(nn.Module):
    def forward(self, x_t, t, space=None):
        return torch.zeros_like(x_t)


class Spy(nn.Module):
    """Answers with noise, and keeps what it was given."""

    def forward(self, x_t, t, space=None, label=None):
        self.seen = (x_t, t, space, label)
        return draw(x_t.shape, seed=9).to(x_t.dtype)


@pytest.mark.slow
@every_space
def test_loss_of_saying_nothing_is_one(space, shape):
    """E |eps|² / dim = 1 in any space, whatever its dimension; chi-squared, five standard errors."""
    diffusion, x0 = GaussianDiffusion(Zero()), draw(shape)
    generator = torch.Generator().manual_seed(0)
    losses = torch.stack(
        [diffusion.loss(x0, space=space, generator=generator) for _ in range(3000)]
    )
    dim = space.dim(x0)
    free = dim > 0
    assert ((losses.mean(0) - 1).abs() <= 5 * (2 / dim / 3000).sqrt())[free].all()


@every_space
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "score", "velocity", "karras"])
def test_loss_is_the_squared_error_of_the_target(space, shape, prediction):
    spy = Spy()
    diffusion = GaussianDiffusion(spy, Cosine(), prediction)
    x0, eps = space.project(draw(shape, 0)), space.project(draw(shape, 1))
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    loss = diffusion.loss(x0, t, space=space, noise=eps, label=5)

    alpha, sigma = (space.expand(c, x0) for c in Cosine()(t))
    rates = (space.expand(c, x0) for c in Cosine().rates(t))
    c_in = (alpha**2 / 4 + sigma**2) ** -0.5  # sigma_data is 1/2
    target = {
        "eps": eps,
        "x0": x0,
        "v": alpha * eps - sigma * x0,
        "score": -eps / sigma,
        "velocity": next(rates) * x0 + next(rates) * eps,
        "karras": (x0 - alpha * c_in**2 / 4 * (alpha * x0 + sigma * eps)) / (sigma * c_in / 2),
    }[prediction]
    expected = space.sum((target - space.project(draw(shape, 9))) ** 2) / space.dim(x0)
    assert torch.allclose(loss, expected)
    x_t, time, given, label = spy.seen
    seen = alpha * x0 + sigma * eps
    assert torch.allclose(x_t, c_in * seen if prediction == "karras" else seen)
    assert torch.equal(time, t) and given is space and label == 5


@every_space
def test_weighting_multiplies(space, shape):
    x0, t = draw(shape), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    noise = space.noise(x0, torch.Generator().manual_seed(0))
    plain = GaussianDiffusion(Zero()).loss(x0, t, space=space, noise=noise)
    weighted = GaussianDiffusion(Zero(), weighting=torch.sigmoid).loss(
        x0, t, space=space, noise=noise
    )
    assert torch.allclose(weighted, plain * Cosine().logsnr(t).sigmoid())


def test_the_exact_denoiser_has_the_least_loss():
    """The loss of the posterior mean is the posterior variance, sigma² s² / (alpha² s² + sigma²)."""
    schedule, std = Cosine(), 0.5
    diffusion = exact.gaussian(schedule, "x0", std=std)
    x0 = std * draw((2000, 10))
    t = torch.full((2000,), 0.5, dtype=torch.float64)
    loss = diffusion.loss(x0, t, generator=torch.Generator().manual_seed(1)).mean()
    alpha, sigma = schedule(t[0])
    variance = sigma**2 * std**2 / (alpha**2 * std**2 + sigma**2)
    assert abs(loss / variance - 1) < 5 * (2 / 20000) ** 0.5


def test_an_item_s_loss_does_not_depend_on_its_batch():
    space = Ragged.from_sizes([2, 5], centered=3)
    alone = Ragged.from_sizes([5], centered=3)
    x0, t = draw((7, 4)), torch.tensor([0.2, 0.7], dtype=torch.float64)
    noise = space.noise(x0, torch.Generator().manual_seed(0))
    diffusion = GaussianDiffusion(Zero(), prediction="v")
    both = diffusion.loss(x0, t, space=space, noise=noise)
    assert torch.allclose(both[1], diffusion.loss(x0[2:], t[1:], space=alone, noise=noise[2:])[0])

    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    x0 = draw((2, 4, 3))
    noise = Masked(mask).project(draw((2, 4, 3), 1))
    padded = diffusion.loss(x0, t, space=Masked(mask), noise=noise)
    short = diffusion.loss(x0[:1, :2], t[:1], space=Dense(), noise=noise[:1, :2])
    assert torch.allclose(padded[0], short[0])


def test_training_looks_where_it_is_told_to():
    spy = Spy()
    GaussianDiffusion(spy, times=lambda u: u**3).loss(draw((1000, 2)))
    t = spy.seen[1]
    # stratified: the k-th smallest is within one stratum of its quantile
    quantiles = (torch.arange(1000) / 1000).double()
    assert ((t.sort().values ** (1 / 3) - quantiles).abs() < 1.1e-3).all()


def test_karras_recipe_has_the_loss_one_everywhere():
    """For data of deviation sigma_data F has nothing to add: its target is standard normal."""
    diffusion = GaussianDiffusion(Zero(), Karras(), "karras", times=LogNormal())
    x0 = 0.5 * draw((2000, 10))
    losses = diffusion.loss(x0, generator=torch.Generator().manual_seed(1))
    assert abs(losses.mean() - 1) < 5 * (2 / 20_000) ** 0.5  # chi-squared


@every_space
def test_weighting_and_times_work_together_and_are_saved(space, shape):
    def make():
        options = {"weighting": LearnedUncertainty(MinSNR()), "times": LossSecondMoment(2, 3)}
        return GaussianDiffusion(Spy(), prediction="v", **options)

    diffusion, x0 = make(), draw(shape)
    for seed in range(9):
        loss = diffusion.loss(x0, space=space, generator=torch.Generator().manual_seed(seed))
    assert loss.isfinite().all() and diffusion.times.count.sum() == 36
    loss.sum().backward()
    assert diffusion.weighting.linear.bias.grad != 0

    other = make()
    other.load_state_dict(diffusion.state_dict())
    once, again = (
        d.loss(x0, space=space, generator=torch.Generator().manual_seed(1))
        for d in (diffusion, other)
    )
    assert torch.equal(once, again)


def test_the_output_is_projected_onto_the_space():
    space = Ragged.from_sizes([3, 4], centered=3)
    predictor = GaussianDiffusion(Spy()).predictor(space)
    y = predictor.predict(draw((7, 5)), torch.full((2,), 0.5)).y
    assert torch.allclose(space.project(y), y, atol=1e-14)
    assert not torch.allclose(y, draw((7, 5), seed=9))


def test_one_generator_per_item_asks_for_the_times():
    with pytest.raises(ValueError, match="give the times t"):
        GaussianDiffusion(Zero()).loss(draw((2, 3)), generator=[torch.Generator()] * 2)


def test_sampling_leaves_the_training_mode_and_draws_without_dropout():
    class Drops(nn.Dropout):
        def forward(self, x_t, t):
            return super().forward(x_t)

    diffusion = GaussianDiffusion(Drops(0.5)).train()
    once, again = (diffusion.sample((2, 8), steps=3, seed=0) for _ in range(2))
    assert torch.equal(once, again) and diffusion.training

    diffusion.denoiser.eval()  # a frozen part stays frozen
    diffusion.sample((2, 8), steps=3, seed=0)
    assert diffusion.training and not diffusion.denoiser.training


def test_an_item_without_dimension_has_no_loss():
    space = Ragged.from_sizes([1, 4], centered=3)  # a single point, centred, is nowhere else
    loss = GaussianDiffusion(Zero()).loss(draw((5, 3)), space=space)
    assert loss[0] == 0 and loss[1] > 0


# networks inside others


class Passes(nn.Module):
    """A wrapper of no known kind, that passes on what it is given."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x_t, t, **cond):
        return self.net(x_t, t, **cond)


WRAPPERS = {
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "averaged": torch.optim.swa_utils.AveragedModel,
    "both": lambda net: torch.optim.swa_utils.AveragedModel(torch.compile(net, backend="eager")),
    "passes": Passes,
    "passes compiled": lambda net: Passes(torch.compile(net, backend="eager")),
}


class FromMean(nn.Module):
    """A network that needs the space: by default all entries belong to their item's mean."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x_t, t, space=DENSE):
        mean = space.expand(space.sum(x_t) / space.dim(x_t).clamp(min=1) + t, x_t)
        return self.weight * (x_t - mean).tanh()


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
@pytest.mark.parametrize("kind", ["masked", "ragged"])
def test_a_wrapped_network_knows_the_space_as_the_bare_one_does(kind, wrap):
    space, shape = SPACES[kind]
    net, x0, t = FromMean(), draw(shape), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    noise = space.noise(x0, torch.Generator().manual_seed(0))
    answers = []
    for denoiser in (net, wrap(net)):
        diffusion = GaussianDiffusion(denoiser, Cosine(), "v")
        loss = diffusion.loss(x0, t, space=space, noise=noise)
        drawn = diffusion.sample(shape, space=space, sampler=DDPM(), steps=3, seed=[1, 2, 3, 4])
        answers.append((loss, drawn))
    for bare, wrapped in zip(*answers, strict=True):
        assert torch.allclose(wrapped, bare, rtol=1e-12, atol=1e-12)
    if kind == "masked":  # and it does make a difference
        everywhere = diffusion.loss(x0, t, space=Masked(torch.ones_like(MASK)), noise=noise)
        assert not torch.allclose(everywhere, answers[0][0])


def test_a_wrapped_network_of_sequences_knows_what_is_padding():
    space, (x0, t) = Masked(MASK), (draw((4, 7, 3)), torch.full((4,), 0.4, dtype=torch.float64))
    net = awake(BiRNN(3, hidden=8, layers=1)).double()
    noise = space.noise(x0, torch.Generator().manual_seed(0))
    bare, *others = (
        GaussianDiffusion(denoiser, Cosine(), "v").loss(x0, t, space=space, noise=noise)
        for denoiser in (net, torch.optim.swa_utils.AveragedModel(net), Passes(net))
    )
    assert all(torch.equal(other, bare) for other in others)
    assert not torch.allclose(GaussianDiffusion(net, Cosine(), "v").loss(x0, t, noise=noise), bare)


@pytest.mark.parametrize("wrap", [lambda net: net, *list(WRAPPERS.values())[:3]])
def test_a_network_that_takes_no_space_is_refused_where_there_is_one(wrap):
    class Plain(nn.Module):
        def forward(self, x_t, t, label=None):
            return 0.5 * x_t

    diffusion = GaussianDiffusion(wrap(Plain()), Cosine(), "v")
    for kind in ("masked", "ragged"):
        space, shape = SPACES[kind]
        message = f"in {type(space).__name__} and the denoiser does not .*parameter `space`"
        with pytest.raises(ValueError, match=message):
            diffusion.loss(draw(shape), space=space)
        with pytest.raises(ValueError, match=message):
            diffusion.sample(shape, space=space, steps=2)
    assert diffusion.loss(draw((4, 3))).shape == (4,)  # a dense batch has nothing to be told


def test_a_wrapper_gets_no_dense_space_that_it_could_not_pass_on():
    class Plain(nn.Module):
        def forward(self, x_t, t):
            return 0.5 * x_t

    diffusion = GaussianDiffusion(Passes(Plain()), Cosine(), "v")
    assert diffusion.loss(draw((4, 3))).shape == (4,)


# a learned variance


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x_t, t):
        return self.answer(x_t)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: torch.cat([x, x], 1),  # twice the channels
        lambda x: torch.cat([x, x], 0),  # twice the batch, as of two branches of guidance
        lambda x: torch.cat([x, x], -1),
        lambda x: x[:, :1],
        lambda x: (torch.cat([x, x], 1), x),
    ],
)
def test_an_output_of_another_shape_is_an_error(answer):
    diffusion = GaussianDiffusion(Answers(answer), Cosine(), "v")
    x0 = draw((4, 2, 3))
    message = r"x_t is \(4, 2, 3\) and the denoiser gives \(.*the same shape, or a pair"
    with pytest.raises(ValueError, match=message):
        diffusion.loss(x0)
    with pytest.raises(ValueError, match=message):
        diffusion.predictor().predict(x0, 0.5)


def test_a_pair_is_the_prediction_and_a_variance():
    x_t = draw((4, 2, 3))
    alone = GaussianDiffusion(Answers(torch.sin), Cosine(), "v").predictor()
    pair = GaussianDiffusion(Answers(lambda x: (x.sin(), x.cos())), Cosine(), "v").predictor()
    p = pair.predict(x_t, 0.5)
    assert torch.equal(p.y, alone.predict(x_t, 0.5).y) and torch.equal(p.extra, x_t.cos())
    assert alone.predict(x_t, 0.5).extra is None
