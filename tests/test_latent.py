"""Latent diffusion: standardised latents, draws that are those of the data, and LSGM in closed form."""

import math

import pytest
import torch
from torch import nn

import anydiff
from anydiff import DDIM, Cosine, DPMSolver, GaussianDiffusion, exact, sample
from anydiff.autoencoders import (
    Autoencoder,
    Autoencoding,
    Convolutional,
    Posterior,
    Quantized,
    Rowwise,
)
from anydiff.denoisers import PairNet, UNet
from anydiff.latent import Latent
from anydiff.losses import Likelihood
from anydiff.samplers import plan
from anydiff.schedules import Shifted
from anydiff.spaces import DENSE, Masked, Ragged
from tests.helpers.networks import awake
from tests.helpers.points import ROUNDING
from tests.helpers.spaces import draw

SIZES = [3, 1, 5]
SPACES = {
    "dense": (DENSE, (6, 3)),
    "masked": (Masked.from_lengths(SIZES), (3, 5, 3)),
    "ragged": (Ragged.from_sizes(SIZES), (9, 3)),
}
TURN = torch.linalg.qr(draw((3, 3), 4))[0]


class Turned(Autoencoder):
    """z = x Q, without noise or with some of one size."""

    columns = 3

    def __init__(self, matrix, log_variance=None):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.log_variance = log_variance

    def encode(self, x, space=DENSE):
        log_variance = self.log_variance
        if log_variance is not None:
            log_variance = torch.full_like(x, log_variance)
        return Posterior(x @ self.matrix, log_variance, space)

    def decode(self, z, space=DENSE):
        return z @ torch.linalg.inv(self.matrix)

    def latent_shape(self, shape):
        return tuple(shape)


def batches(x, space, num=1):
    return [(x, space)] * num, lambda batch: (*batch, {})


# draws --------------------


@pytest.mark.parametrize("sampler", [DDIM(), DPMSolver()], ids=["ddim", "dpm"])
@pytest.mark.parametrize("space, shape", SPACES.values(), ids=SPACES)
def test_draws_of_a_turned_latent_are_those_of_the_data(space, shape, sampler):
    means = draw((4, 3), 7)
    data = exact.mixture(Cosine(), "v", means=means, stds=0.3)
    latent = Latent(
        Turned(TURN), exact.mixture(Cosine(), "v", means=means @ TURN, stds=0.3)
    ).double()
    noise = space.noise(torch.empty(shape, dtype=torch.float64), torch.Generator().manual_seed(0))
    x = sample(data.predictor(space), noise, sampler, 12)
    z = sample(latent.diffusion.predictor(space), noise @ TURN, sampler, 12)
    torch.testing.assert_close(latent.decode(z, space), x, rtol=0, atol=1e-12)
    assert latent.sample(shape, space=space, steps=3, seed=0).shape == shape


@pytest.mark.parametrize("factor", [0.18215, 3.0])
def test_a_scaled_latent_is_a_shifted_schedule_of_the_data(factor):
    """The constant of Stable Diffusion, for instance; the first noise has the length of x at t = 1."""
    data = exact.gaussian(Shifted(Cosine(), factor), "v", mean=0.4, std=0.6)
    inner = exact.gaussian(Cosine(), "v", mean=0.4 * factor, std=0.6 * factor)
    latent = Latent(Turned(torch.eye(3).double()), inner).double()
    latent.scale.fill_(factor)
    times = [at.t for at in plan(Cosine(), 10, DDIM())]
    noise = draw((6, 3))
    at = Cosine().levels(torch.tensor([1.0]))[0]
    length = math.hypot(factor * at.alpha, at.sigma)
    z = sample(inner.predictor(), noise, DDIM(), times)
    x = sample(data.predictor(), noise / length, DDIM(), times)
    torch.testing.assert_close(latent.decode(z), x, rtol=0, atol=1e-12)


# standardisation --------------------


@pytest.mark.parametrize("space, shape", SPACES.values(), ids=SPACES)
def test_latents_are_of_mean_0_and_variance_1(space, shape):
    x = space.project(draw(shape) * torch.tensor([3.0, 0.1, 1.0]) + torch.tensor([1.0, -2.0, 0.0]))
    latent = Latent(Turned(TURN.mul(2.0)), exact.gaussian(Cosine(), std=1.0)).double()
    dirty = x if isinstance(space, Ragged) else x + (x == 0)  # what lies in the padding counts not
    latent.fit(*batches(dirty, space, 2))
    z = latent.encode(x, space)
    torch.testing.assert_close(space.project(z), z)
    count = space.dim(z).sum() / 3
    rows = z.flatten(0, -2)
    torch.testing.assert_close(rows.sum(0) / count, torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.square().sum(0) / count, torch.ones(3).double(), **ROUNDING)
    torch.testing.assert_close(latent.decode(z, space), x, **ROUNDING)
    latent.fit(*batches(x, space), means=False)
    assert not latent.shift.any()


def points(latent=2):
    torch.manual_seed(0)
    widths = Rowwise.widths(7, latent, 3)
    return awake(Rowwise(*(PairNet(w - 3, 16, layers=1) for w in widths), 7, latent, 3).double())


def test_centred_latents_have_one_scale_and_stay_centred():
    space = Ragged.from_sizes(SIZES, centered=3)
    x = space.project(draw((9, 7)))
    latent = Latent(points(), exact.gaussian(Cosine(), std=1.0)).double()
    latent.fit(*batches(x, space), torch.Generator().manual_seed(1))
    assert not latent.shift[:3].any() and len(latent.scale[:3].unique()) == 1
    z = latent.encode(x, space, torch.Generator().manual_seed(1))
    torch.testing.assert_close(space.project(z), z, **ROUNDING)
    dims = space.diagonal(z)
    groups = [z[:, :3].square().sum() / dims[:, :3].sum(), *z[:, 3:].square().mean(0)]
    torch.testing.assert_close(torch.stack(groups), torch.ones(3).double(), **ROUNDING)
    turn = torch.linalg.qr(draw((3, 3), 5))[0]

    def turned(x):
        return torch.cat([x[:, :3] @ turn, x[:, 3:]], 1)

    ours = latent.encode(turned(x), space, mode=True)
    torch.testing.assert_close(ours, turned(latent.encode(x, space, mode=True)), **ROUNDING)
    torch.testing.assert_close(latent.decode(turned(z), space), turned(latent.decode(z, space)))


def test_a_scale_changes_the_posterior_and_not_what_it_says():
    latent = Latent(Turned(TURN, -1.0), exact.gaussian(Cosine(), std=1.0)).double()
    latent.scale.copy_(torch.tensor([2.0, 0.5, 3.0]))
    latent.shift.copy_(torch.tensor([1.0, 0.0, -1.0]))
    x = draw((4, 3))
    plain, q = latent.autoencoder.encode(x), latent.posterior(x)
    stretched = latent.scale.log().sum()
    torch.testing.assert_close(q.entropy(), plain.entropy() + stretched, **ROUNDING)
    z = plain.sample(torch.Generator().manual_seed(0))
    moved = latent.standardized(z, DENSE)
    torch.testing.assert_close(q.log_prob(moved), plain.log_prob(z) - stretched, **ROUNDING)
    torch.testing.assert_close(q.sample(torch.Generator().manual_seed(0)), moved, **ROUNDING)


def test_latents_that_are_all_the_same_and_no_data_are_refused():
    latent = Latent(Turned(TURN), exact.gaussian(Cosine(), std=1.0)).double()
    with pytest.raises(ValueError, match=r"there are no data to fit the latents to"):
        latent.fit([], lambda batch: batch)
    with pytest.raises(ValueError, match=r"column \d of the latents is the same for all data"):
        latent.fit(*batches(torch.zeros(4, 3).double(), DENSE))
    assert latent.scale.eq(1).all()


# training --------------------


class Counted(nn.Dropout):
    """Whether it was in training mode when it ran."""

    def forward(self, x):
        self.seen = self.training
        return super().forward(x)


def test_the_second_stage_is_the_loss_of_the_diffusion_on_latents():
    net = points()
    net.dropout = Counted(0.5)
    encode = net.encode
    net.encode = lambda x, space: encode(net.dropout(x), space)
    diffusion = GaussianDiffusion(awake(PairNet(2, 8, layers=1)).double(), Cosine(), "v")
    latent = Latent(net, diffusion).double().train()
    space = Ragged.from_sizes(SIZES, centered=3)
    x = space.project(draw((9, 7)))
    unpack = latent.unpack(lambda batch: (*batch, {}))
    torch.manual_seed(5)
    z, inner, cond = unpack((x, space))
    assert inner is space and cond == {} and not z.requires_grad
    assert net.dropout.seen is False and net.training
    torch.manual_seed(5)
    with latent._fixed():
        torch.testing.assert_close(z, latent.posterior(x, space).sample(), rtol=0, atol=0)
    loss = diffusion.loss(z, space=inner, generator=torch.Generator().manual_seed(0))
    assert loss.shape == (3,) and loss.requires_grad


# LSGM --------------------


@pytest.mark.slow
@pytest.mark.parametrize("space, shape", SPACES.values(), ids=SPACES)
def test_the_cross_entropy_is_that_of_normal_distributions(space, shape):
    """Of q with a normal prior: in value, and in the gradient that reaches the encoder."""
    prior, s = exact.gaussian(Cosine(), "v", mean=0.2, std=0.7), 0.3
    latent = Latent(Turned(torch.eye(3).double(), 2 * math.log(s)), prior).double()
    mean = space.project(draw(shape)).requires_grad_()
    objective = Autoencoding(latent.autoencoder, noise=1.0).double()
    latent.likelihood = objective
    values, gradients, generator = [], [], torch.Generator().manual_seed(0)
    for _ in range(100):
        q = latent.posterior(mean, space)
        z = q.sample(generator)
        bound = latent.bound(mean.detach(), z, q, space, generator, draws=16)
        value = bound + q.entropy() + objective.log_likelihood(mean.detach(), z, space)
        gradients.append(torch.autograd.grad(value.sum(), mean)[0])
        values.append(value.detach())
    dim, away = space.dim(mean), space.project((mean - 0.2).detach()) / 0.49
    squares = space.sum(away.square()) * 0.49
    wanted = 0.5 * (dim * (math.log(2 * math.pi * 0.49) + s**2 / 0.49) + squares)
    for found, exact_value in ((torch.stack(values), wanted), (torch.stack(gradients), away)):
        error = found.std(0) / 10
        assert ((found.mean(0) - exact_value).abs() <= 5 * error + 2e-3 * dim.max()).all()
        assert error.mean() < 0.1 * dim.mean()


def joint(**options):
    torch.manual_seed(0)
    net = Turned(TURN, -2.0)
    del net.matrix
    net.matrix = nn.Parameter(TURN.clone())
    diffusion = GaussianDiffusion(Told(3), Cosine(), "v", weighting=Likelihood())
    return Latent(net, diffusion, Autoencoding(net), **options).double()


class Told(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x_t, t):
        return self.map(x_t)


def test_each_part_is_trained_by_its_own_term():
    latent, x = joint(), draw((5, 3))
    encoder = [*latent.likelihood.parameters()]
    prior = [*latent.diffusion.parameters()]

    def gradients(loss):
        loss.sum().backward()
        found = [None if p.grad is None else p.grad.clone() for p in (*encoder, *prior)]
        latent.zero_grad()
        return found[: len(encoder)], found[len(encoder) :]

    def q_and_z():
        generator = torch.Generator().manual_seed(0)
        q = latent.posterior(x)
        return q, q.sample(generator), generator

    both = gradients(latent.loss(x, generator=torch.Generator().manual_seed(0)))
    q, z, generator = q_and_z()
    first = gradients(latent.bound(x, z, q, generator=generator) / 3)
    assert all(g is None for g in first[1]) and all(p.requires_grad for p in prior)
    torch.testing.assert_close(both[0], first[0])
    _, z, generator = q_and_z()
    with torch.no_grad():
        latent.bound(x, z, q, generator=generator)  # takes its numbers
    second = gradients(latent.diffusion.loss(z.detach(), generator=generator))
    assert all(g is None for g in second[0])
    torch.testing.assert_close(both[1], second[1])


def test_with_a_fixed_encoder_the_second_term_is_the_loss_of_latent_diffusion():
    latent, x, t = joint(), draw((5, 3)), draw((5,)).sigmoid()
    noise = draw((5, 3), 3)
    total = latent.loss(x, t, noise=noise, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    q = latent.posterior(x)
    z = q.sample(generator)
    bound = latent.bound(x, z, q, generator=generator) / 3
    torch.testing.assert_close(total - bound, latent.diffusion.loss(z, t, noise=noise))


@pytest.mark.slow
def test_a_prior_that_predicts_nothing_is_the_standard_normal():
    """v = 0: the cross entropy is -log N(z; 0, I), in centred spaces too."""
    for space, shape in (*SPACES.values(), (Ragged.from_sizes(SIZES, centered=3), (9, 3))):
        net = Turned(torch.eye(3).double(), -30.0)
        prior = GaussianDiffusion(lambda x_t, t, space: 0 * x_t, Cosine(), "v")
        latent = Latent(net, prior, Autoencoding(net, noise=1.0)).double()
        x = space.project(draw(shape))
        q = latent.posterior(x, space)
        generator = torch.Generator().manual_seed(0)
        found = torch.stack([latent.bound(x, x, q, space, generator, draws=8) for _ in range(150)])
        plain = -latent.likelihood.log_likelihood(x, x, space) - q.entropy()
        dim = space.dim(x)
        wanted = 0.5 * (dim * math.log(2 * math.pi) + space.sum(x.square()))
        error = found.std(0) / math.sqrt(150)
        assert ((found.mean(0) - plain - wanted).abs() < 5 * error + 1e-3).all()
        assert (error <= 0.1 * dim).all()


def test_what_is_missing_or_wrong_is_named():
    net, diffusion = Turned(TURN, -2.0), exact.gaussian(Cosine(), std=1.0)
    with pytest.raises(ValueError, match=r"not said how likely data are.*likelihood=Autoencoding"):
        Latent(net, diffusion).double().loss(draw((2, 3)))
    with pytest.raises(ValueError, match=r"likelihood is the objective of another autoencoder"):
        Latent(net, diffusion, Autoencoding(Turned(TURN)))
    for wrong in ((nn.Linear(3, 3), diffusion), (net, nn.Linear(3, 3))):
        with pytest.raises(ValueError, match=r"autoencoder|diffusion"):
            Latent(*wrong)
    with pytest.raises(ValueError, match="cross"):
        Latent(net, diffusion, cross=-1.0)


# files --------------------


def saved(latent, path):
    anydiff.save(path, latent, {"note": 3})
    again, extra = anydiff.load(path)
    assert extra == {"note": 3} and isinstance(again, Latent)
    return again


def of_points(**options):
    net = points().float()
    prior = GaussianDiffusion(awake(PairNet(2, 8, layers=1)), Cosine(), "v", drop=0.1)
    return Latent(net, prior, **options)


def test_a_file_draws_the_same_bits(tmp_path):
    latent, space = of_points(), Ragged.from_sizes(SIZES, centered=3)
    x = space.project(draw((9, 7)).float())
    latent.fit(*batches(x, space))
    latent.diffusion.denoiser.requires_grad_(False)
    again = saved(latent, tmp_path / "m.safetensors")
    how = {"space": space, "steps": 3, "seed": 0}
    assert torch.equal(latent.sample((9, 7), **how), again.sample((9, 7), **how))
    assert again.diffusion.drop == latent.diffusion.drop == 0.1
    assert not any(p.requires_grad for p in again.diffusion.denoiser.parameters())
    assert all(p.requires_grad for p in again.autoencoder.parameters())
    assert again.likelihood is None and torch.equal(again.scale, latent.scale)


@pytest.mark.parametrize("noise", [None, 0.2])
def test_a_file_keeps_the_objective_of_both(tmp_path, noise):
    latent = of_points(cross=0.7)
    latent.likelihood = Autoencoding(latent.autoencoder, 0.5, noise)
    latent.likelihood.level.data.fill_(-0.3)
    again = saved(latent, tmp_path / "m.safetensors")
    assert again.cross == 0.7 and again.likelihood.beta == 0.5
    assert again.likelihood.log_noise.item() == pytest.approx(-3.0)
    assert isinstance(again.likelihood.level, nn.Parameter) == (noise is None)
    space = Ragged.from_sizes(SIZES, centered=3)
    x, seeds = space.project(draw((9, 7)).float()), [torch.Generator().manual_seed(2) for _ in "12"]
    losses = [
        m.eval().loss(x, space=space, generator=g)
        for m, g in zip((latent, again), seeds, strict=True)
    ]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("kind", ["grid", "codes"])
def test_files_of_other_autoencoders(tmp_path, kind):
    net = Convolutional(1, 2, (8, 8), noisy=kind == "grid", groups=4)
    net = awake(net if kind == "grid" else Quantized(net, 5))
    prior = GaussianDiffusion(awake(UNet(2, [8], groups=4)), Cosine(), "v")
    latent = Latent(net, prior)
    again = saved(latent, tmp_path / "m.safetensors")
    a, b = (m.sample((2, 1, 8, 8), steps=3, seed=0) for m in (latent.eval(), again))
    assert torch.equal(a, b)


def test_an_autoencoder_of_one_s_own_and_a_later_format_are_refused(tmp_path, monkeypatch):
    latent = Latent(Turned(TURN.float()), GaussianDiffusion(Told(3), Cosine(), "v"))
    anydiff.save(tmp_path / "m.safetensors", latent)
    with pytest.raises(ValueError, match=r"denoiser 'Told'"):
        anydiff.load(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"the autoencoder is 'Turned', which is not one of"):
        anydiff.load(tmp_path / "m.safetensors", Told(3))
    saved(of_points(), tmp_path / "n.safetensors")
    monkeypatch.setattr("anydiff.checkpoints.loading.FORMAT", 3)
    with pytest.raises(ValueError, match=r"is of format 4 and this anydiff reads up to 3"):
        anydiff.load(tmp_path / "n.safetensors")
    plain = GaussianDiffusion(PairNet(2, 8, layers=1), Cosine(), "v")
    anydiff.save(tmp_path / "o.safetensors", plain)  # older versions read it
    assert isinstance(anydiff.load(tmp_path / "o.safetensors")[0], GaussianDiffusion)


# what both stages reach at once --------------------


class Level(nn.Module):
    """A linear prior of latents: v = A(t) z, by a network of t that can be exact for a normal prior."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.log_std = nn.Parameter(torch.zeros(width))
        self.like = Cosine()

    def forward(self, z, t):
        at = self.like._at(t.to(z.dtype))
        alpha, sigma = at.alpha[:, None], at.sigma[:, None]
        variance = torch.exp(2 * self.log_std).to(z.dtype)
        total = alpha**2 * variance + sigma**2
        return alpha * sigma * (1 - variance) / total * z


class Straight(Autoencoder):
    """Linear, with noise: q = N(W x, diag)."""

    def __init__(self, data, columns):
        super().__init__()
        self.columns = columns
        self.w = nn.Parameter(0.5 * draw((data, columns), 8))
        self.back = nn.Parameter(0.5 * draw((columns, data), 9))
        self.log_variance = nn.Parameter(-torch.ones(columns).double())

    def encode(self, x, space=DENSE):
        return Posterior(x @ self.w, self.log_variance.expand(len(x), -1), space)

    def decode(self, z, space=DENSE):
        return z @ self.back

    def latent_shape(self, shape):
        return (shape[0], self.columns)


@pytest.mark.slow
def test_linear_parts_reach_the_likelihood_of_probabilistic_pca():
    """A learned prior and a learned encoder, both normal: no better bound is possible, and none worse."""
    x = draw((512, 4))
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.t() @ x / 512)).t()
    values = torch.tensor([4.0, 2.0, 0.5, 0.1]).double()
    x = x @ torch.diag(values.sqrt()) @ torch.linalg.qr(draw((4, 4), 1))[0]
    net = Straight(4, 2).double()
    objective = Autoencoding(net).double()
    prior = GaussianDiffusion(Level(2).double(), Cosine(), "v", weighting=Likelihood())
    latent = Latent(net, prior, objective).double()
    optimizer = torch.optim.Adam(latent.parameters(), 0.03)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    generator = torch.Generator().manual_seed(0)
    for _ in range(800):
        optimizer.zero_grad()
        latent.loss(x, generator=generator).mean().backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        found = []
        for _ in range(40):
            q = latent.posterior(x)
            z = q.sample(generator)
            found.append(latent.bound(x, z, q, generator=generator, draws=32).mean())
    found = torch.stack(found)
    left = values[2:].mean()
    wanted = 0.5 * (4 * math.log(2 * math.pi) + values[:2].log().sum() + 2 * left.log() + 4)
    error = found.std() / math.sqrt(40)
    assert error < 0.015
    assert -4 * error - 0.005 < found.mean() - wanted < 0.02 + 4 * error
