"""Adversarial training against closed forms: pairs, exact generators, optimal critics, slopes."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy

import anydiff
from anydiff import Cosine, GaussianDiffusion, Linear
from anydiff.adversarial import AdversarialScoreMatching, Critic, DenoisingGAN, pair, slope
from anydiff.denoisers import BiRNN, PairNet, Transformer, UNet
from anydiff.losses import Hybrid, Rows
from anydiff.samplers import DDPM, DrawnContext
from anydiff.samplers.ancestral import posterior as posterior_of
from anydiff.spaces import DENSE, Masked, Ragged
from anydiff.training.critics import AdversarialModule
from anydiff.training.runs import fit

DOUBLE = torch.float64
TIMES = (1.0, 0.75, 0.5, 0.25, 0.0)
V = 0.25


def posterior(t):
    """Mean factor and standard deviation of x0 given x_t, of N(0, V) with the linear schedule."""
    alpha, sigma = Linear()(t)
    total = alpha**2 * V + sigma**2
    return alpha * V / total, (V * sigma**2 / total).sqrt()


class Exact(torch.nn.Module):
    """Draws x0 given x_t exactly, or says its mean."""

    def __init__(self, noise=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones((), dtype=DOUBLE))
        self.noise = noise

    def forward(self, x, t, *, context):
        factor, std = posterior(t[:, None])
        return self.weight * (factor * x + self.noise * std * context)


def exact(noise=1.0):
    times = Rows(TIMES, DrawnContext(1))
    return GaussianDiffusion(Exact(noise), Linear(), "x0", times=times)


class Zero(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, t):
        return self.scale * x


def test_pairs_have_the_covariance_of_the_forward_process():
    num, generator = 400_000, torch.Generator().manual_seed(0)
    x0 = math.sqrt(V) * torch.randn(num, 1, generator=generator, dtype=DOUBLE)
    t, s = Linear().levels([0.6, 0.3])
    each = (Linear()._at(torch.full((num,), at.t, dtype=DOUBLE)) for at in (t, s))
    found = torch.cov(torch.cat(pair(x0, *each, DENSE, generator), 1).T)
    a_ts = t.alpha / s.alpha
    of_s = s.alpha**2 * V + s.sigma**2
    expected = torch.tensor([[of_s, a_ts * of_s], [a_ts * of_s, t.alpha**2 * V + t.sigma**2]])
    torch.testing.assert_close(found, expected.to(found), atol=6e-3, rtol=0)


def lost():
    """The variance of four steps from the mean of x0, in closed form."""
    variance = 1.0
    levels = Linear().levels(TIMES)
    for t, s in itertools.pairwise(levels):
        factor = posterior(torch.tensor(t.t, dtype=DOUBLE))[0].item()
        sigma = 0.0 if s.t == 0 else s.sigma
        alpha_ts = t.alpha / s.alpha
        kept = alpha_ts * sigma**2 / t.sigma * (1 - t.alpha * factor) / t.sigma
        new = (t.sigma**2 - alpha_ts**2 * sigma**2) * (sigma / t.sigma) ** 2
        variance = (s.alpha * factor + kept) ** 2 * variance + new
    return variance


@pytest.mark.parametrize("noise, variance", [(1.0, V), (0.0, lost())])
def test_a_generator_that_draws_makes_any_number_of_steps_exact(noise, variance):
    """The theorem of denoising diffusion GANs; with the mean in place of draws, variance is lost."""
    x = exact(noise).sample((200_000, 1), seed=0)
    assert x.var().item() == pytest.approx(variance, rel=0.02)
    assert lost() < V / 2


def test_drawn_pairs_have_the_law_of_real_ones():
    gan = DenoisingGAN(exact(), Critic(Zero()))
    x0 = math.sqrt(V) * torch.randn(800_000, 1, dtype=DOUBLE)
    x_s, x_t, times, drawn, _ = gan._steps(x0, DENSE, torch.Generator().manual_seed(0), {})
    for time in TIMES[:-1]:
        row = times == time
        assert row.double().mean().item() == pytest.approx(0.25, abs=0.01)
        real, false = (torch.cov(torch.cat([x, x_t], 1)[row].T) for x in (x_s, drawn))
        torch.testing.assert_close(real, false, atol=8e-3, rtol=0)


@pytest.mark.parametrize("space", [DENSE, Ragged.from_sizes([1, 2, 1, 3], centered=2)])
def test_a_posterior_for_each_item_is_the_step_of_one(space):
    """With the same noise it is that of ancestral sampling, in the rows of its times."""
    x_t = space.noise(torch.zeros(4 if space is DENSE else 7, 2, dtype=DOUBLE))
    predictor = GaussianDiffusion(Told(), Linear(), "x0").predictor(space)
    levels = Linear().levels(TIMES)
    t, s = (Linear()._at(torch.tensor(of, dtype=DOUBLE)) for of in (TIMES[:-1], TIMES[1:]))
    p = predictor.predict(x_t, t)
    found = posterior_of(p, t, s, space, torch.Generator().manual_seed(0))
    items = torch.arange(4) if space is DENSE else space.expand(torch.arange(4), x_t)[:, 0]
    for k, (a, b) in enumerate(itertools.pairwise(levels)):
        generator = torch.Generator().manual_seed(0)
        one, _ = DDPM().step(predictor, x_t, a, b, (), generator)
        torch.testing.assert_close(found[items == k], one[items == k])


def test_a_critic_without_an_opinion():
    """Equal laws: the best critic is 0 everywhere, its loss 2 log 2, and nothing moves the generator."""
    gan = DenoisingGAN(exact(), Critic(Zero()))
    x0 = torch.randn(64, 1, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(
        gan.critic_loss(x0, generator=generator), torch.full((64,), 2 * math.log(2), dtype=DOUBLE)
    )
    loss = gan.loss(x0, generator=generator).mean()
    assert loss.item() == pytest.approx(math.log(2))
    (grad,) = torch.autograd.grad(loss, gan.diffusion.denoiser.weight)
    assert grad == 0


class Ratio(torch.nn.Module):
    """The best critic of N(0, 1) against N(0, 4), times a scale, as x · F(x) of pairs (x, beside)."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, both, t):
        x, beside = both.chunk(2, -1)
        log_ratio = math.log(2) - x**2 / 2 + x**2 / 8
        return torch.cat([2 * self.scale * log_ratio / x, torch.zeros_like(beside)], -1)


def test_the_best_critic_measures_the_divergence_of_jensen_and_shannon(monkeypatch):
    """Of two Gaussians: the loss is 2 log 2 − 2 JSD at D = log p / q, and more at any other."""
    num, generator = 400_000, torch.Generator().manual_seed(0)
    real = torch.randn(num, 1, generator=generator, dtype=DOUBLE)
    false = 2 * torch.randn(num, 1, generator=generator, dtype=DOUBLE)

    def loss(scale):
        gan = DenoisingGAN(exact(), Critic(Ratio(scale)), penalty=0)
        t = torch.zeros(num, dtype=DOUBLE)
        monkeypatch.setattr(gan, "_steps", lambda *_: (real, real, t, false, {}))
        return gan.critic_loss(real).mean().item()

    x = torch.linspace(-14, 14, 20_001, dtype=DOUBLE)
    p, q = ((-(x**2) / 2 / v).exp() / math.sqrt(2 * math.pi * v) for v in (1, 4))
    middle = (p + q) / 2
    jsd = torch.trapezoid(p * (p / middle).log() + q * (q / middle).log(), x).item() / 2
    assert loss(1.0) == pytest.approx(2 * math.log(2) - 2 * jsd, abs=4e-3)
    assert loss(0.5) > loss(1.0) < loss(2.0)


class Quadratic(torch.nn.Module):
    """F(x) = A x, so that D(x) = x · A x / dim."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def forward(self, x, t):
        return x @ self.matrix


def test_slopes_of_a_quadratic_critic():
    torch.manual_seed(0)
    A = torch.randn(3, 3, dtype=DOUBLE)
    A, x, delta = (A + A.T) / 2, torch.randn(1, 3, dtype=DOUBLE), 0.5
    many = x.expand(400_000, -1)
    found = slope(
        Critic(Quadratic(A)), many, torch.zeros(len(many)), delta=delta,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    g, B = 2 * (x @ A)[0] / 3, A / 3
    # (g · n + δ n · B n)²: the odd terms vanish, and E (n · B n)² = 2 ‖B‖² + tr² B
    expected = g @ g + delta**2 * (2 * (B**2).sum() + B.trace() ** 2)
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - expected) < 4.5 * error


CRITICS = {
    "unet": lambda: (Critic(UNet(2, (8, 16), groups=4), 1), (2, 1, 8, 8), DENSE),
    "birnn": lambda: (Critic(BiRNN(6, 16, 1)), (2, 4, 3), Masked.from_lengths([4, 2])),
    "transformer": lambda: (Critic(Transformer(6, 16, 1)), (2, 4, 3), Masked.from_lengths([4, 2])),
}


@pytest.mark.parametrize("name", CRITICS)
def test_critics_of_networks(name):
    torch.manual_seed(0)
    critic, shape, space = CRITICS[name]()
    for p in critic.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, beside = (space.project(torch.randn(shape)) for _ in range(2))
    t = torch.tensor([0.3, 0.3])
    both = critic(x, t, beside, space=space)
    assert both.shape == (2,) and both.std() > 0
    alone = space if space is DENSE else Masked.from_lengths([4])
    torch.testing.assert_close(critic(x[:1], t[:1], beside[:1], space=alone), both[:1])
    if space is not DENSE:  # padding says nothing
        more = (
            torch.nn.functional.pad(x, (0, 0, 0, 3)),
            torch.nn.functional.pad(beside, (0, 0, 0, 3)),
        )
        wide = Masked(torch.nn.functional.pad(space.mask, (0, 3)))
        torch.testing.assert_close(critic(more[0], t, more[1], space=wide), both)
    loss = slope(critic, x, t, beside, space=space).mean()
    loss.backward()  # first derivatives do, of any network
    assert all(p.grad is not None for p in critic.parameters() if p.requires_grad)


def test_a_critic_of_points_is_invariant():
    torch.manual_seed(0)
    net = PairNet(0, 16, layers=1)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    space = Ragged.from_sizes([4, 3], centered=3)
    x, t = space.noise(torch.zeros(7, 3)), torch.tensor([0.1, 0.1])
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    critic = Critic(net)
    torch.testing.assert_close(critic(x, t, space=space), critic(x @ turn, t, space=space))


def test_a_critic_takes_no_pairs_of_points():
    """The positions of one would be features of the other, which do not turn."""
    space = Ragged.from_sizes([4, 3], centered=3)
    x, t = space.noise(torch.zeros(7, 3)), torch.tensor([0.1, 0.1])
    with pytest.raises(ValueError, match=r"have positions twice.*give a critic of single states"):
        Critic(PairNet(3, 16, layers=1))(x, t, x, space=space)


def test_contexts_are_drawn_for_each_item():
    diffusion = GaussianDiffusion(
        UNet(1, (8, 16), groups=4, context=3), Linear(), "x0", times=Rows(TIMES, DrawnContext(3))
    ).eval()
    for p in diffusion.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x = diffusion.sample((3, 1, 8, 8), seed=[5, 6, 7])
    torch.testing.assert_close(x[1:2], diffusion.sample((1, 1, 8, 8), seed=[6]))
    torch.testing.assert_close(x, diffusion.sample((3, 1, 8, 8), seed=[5, 6, 7]))
    seen = []
    diffusion.denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["context"]), with_kwargs=True
    )
    diffusion.sample((3, 1, 8, 8), seed=0)
    assert len(seen) == 4 and len({float(z.sum()) for z in seen}) == 4


def test_the_generator_in_a_file_draws_the_same(tmp_path):
    diffusion = GaussianDiffusion(
        UNet(1, (8, 16), groups=4, context=3), Linear(), "x0", times=Rows(TIMES, DrawnContext(3))
    ).eval()
    anydiff.save(tmp_path / "m.safetensors", diffusion)
    again, _ = anydiff.load(tmp_path / "m.safetensors")
    assert again.times == diffusion.times
    a, b = (d.sample((2, 1, 8, 8), seed=0) for d in (diffusion, again))
    torch.testing.assert_close(a, b, atol=0, rtol=0)


def mixture(num, generator=None):
    """Two points at ±1, which a mean of both is none of."""
    return 2.0 * torch.randint(2, (num, 1), generator=generator) - 1


class Small(torch.nn.Module):
    def __init__(self, columns, context=0, out=None):
        super().__init__()
        self.context = context
        self.net = torch.nn.Sequential(
            torch.nn.Linear(columns + context + 1, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64),
            torch.nn.SiLU(), torch.nn.Linear(64, out or columns),
        )  # fmt: skip

    def forward(self, x, t, *, context=None):
        parts = [x, t[:, None]] + ([context] if self.context else [])
        return self.net(torch.cat(parts, 1))


@pytest.mark.slow
def test_training_draws_both_of_two_modes_and_goes_on(tmp_path):
    data = mixture(4096, torch.Generator().manual_seed(0))

    def run(folder, epochs):
        torch.manual_seed(0)
        diffusion = GaussianDiffusion(
            Small(1, 4), Linear(), "x0", times=Rows((1.0, 0.5, 0.0), DrawnContext(4))
        )
        gan = DenoisingGAN(diffusion, Critic(Small(2)))
        module = AdversarialModule(
            gan, lambda x: (x, DENSE, {}), lr=2e-3, critic_lr=2e-3, warmup=1, decay=False
        )
        loading = torch.utils.data.DataLoader(data, batch_size=256)
        fit(module, folder, loading, epochs=epochs, ema=0.9, accelerator="cpu", devices=1)
        return diffusion

    whole = run(tmp_path / "whole", 40)
    x = whole.sample((4000, 1), seed=0)
    assert (x.abs() - 1).abs().median() < 0.25
    assert 0.25 < (x > 0).double().mean() < 0.75
    run(tmp_path / "parts", 20)
    parts = run(tmp_path / "parts", 40)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[key]), key


def test_gradients_of_both_are_clipped_if_asked(tmp_path):
    def run(**how):
        torch.manual_seed(0)
        times = Rows((1.0, 0.0), DrawnContext(2))
        gan = DenoisingGAN(
            GaussianDiffusion(Small(1, 2), Linear(), "x0", times=times), Critic(Small(2))
        )
        before = [torch.cat([p.detach().flatten() for p in of.parameters()]) for of in parts(gan)]
        module = AdversarialModule(
            gan, lambda x: (x, DENSE, {}), lr=1.0, warmup=1, decay=False,
            optimizer=lambda of, lr: torch.optim.SGD(of, lr),
        )  # fmt: skip
        loading = torch.utils.data.DataLoader(mixture(32), batch_size=32)
        folder = tmp_path / str(how)
        fit(module, folder, loading, epochs=1, ema=0.0, accelerator="cpu", devices=1, **how)
        after = [torch.cat([p.detach().flatten() for p in of.parameters()]) for of in parts(gan)]
        return [(b - a).norm().item() for a, b in zip(before, after, strict=True)]

    def parts(gan):
        return gan.diffusion, gan.critic

    free, clipped = run(), run(clip=1e-3)
    assert min(free) > 0.01 and clipped == pytest.approx([1e-3, 1e-3], rel=0.01)
    with pytest.raises(ValueError, match="accumulate_grad_batches"):
        run(accumulate_grad_batches=2)


def test_processes_that_would_wait_for_each_other_are_refused():
    diffusion = GaussianDiffusion(Small(1, 2), Linear(), "x0", times=Rows(TIMES, DrawnContext(2)))
    module = AdversarialModule(DenoisingGAN(diffusion, Critic(Small(2))), lambda x: (x, DENSE, {}))
    module.trainer = SimpleNamespace(strategy=DDPStrategy(find_unused_parameters=True))
    module.setup("fit")
    module.trainer = SimpleNamespace(strategy=DDPStrategy())
    with pytest.raises(ValueError, match=r"learn in turn.*ddp_find_unused_parameters_true"):
        module.setup("fit")


def test_score_matching_with_a_critic():
    torch.manual_seed(0)
    plain = GaussianDiffusion(Small(1), Cosine(), "v")
    x0, t = mixture(32), torch.rand(32)
    noise = torch.randn(32, 1)
    without, usual = plain.loss(x0, t, noise=noise), plain.error
    both = AdversarialScoreMatching(plain, Critic(Small(1)), 0.5)
    p = plain.predictor()
    alpha, sigma = plain.schedule(t)
    denoised = p.predict(alpha[:, None] * x0 + sigma[:, None] * noise, t).x0
    said = both.critic(denoised, torch.zeros(32))
    torch.testing.assert_close(both.loss(x0, t, noise=noise), without + 0.5 * (said - 1).square())
    loss = both.critic_loss(x0, generator=torch.Generator().manual_seed(0))
    loss.mean().backward()
    assert loss.shape == (32,)
    assert all(p.grad is None for p in plain.parameters())  # the critic's loss is of the critic
    assert plain.error is usual  # nothing of it is changed
    torch.testing.assert_close(plain.loss(x0, t, noise=noise), without)


def test_a_critic_adds_to_the_error_that_there_is():
    torch.manual_seed(0)
    net = UNet(1, (8, 16), groups=4, out_channels=2)
    diffusion = GaussianDiffusion(net, Cosine(), "eps", error=Hybrid())
    x0, noise, t = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8), torch.tensor([0.3, 0.6])
    none = AdversarialScoreMatching(diffusion, Critic(UNet(1, (8, 16), groups=4)), 0.0)
    torch.testing.assert_close(none.loss(x0, t, noise=noise), diffusion.loss(x0, t, noise=noise))


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: DenoisingGAN(GaussianDiffusion(Zero()), Critic(Zero())), "a run that draws contexts"),
        (lambda: DenoisingGAN(exact(), Zero()), "give Critic"),
        (lambda: DenoisingGAN(exact(), Critic(Zero()), penalty=-1), "penalty is -1"),
        (lambda: DenoisingGAN(exact(), Critic(Zero()), delta=0), "delta is 0"),
        (lambda: DrawnContext(0), "columns is 0"),
        (
            lambda: DenoisingGAN(exact(), Critic(Zero())).loss(
                torch.zeros(2, 1), generator=[torch.Generator()] * 2
            ),
            "generator is .* give one generator for the whole batch",
        ),
        (
            lambda: DenoisingGAN(exact(), Critic(Zero())).loss(torch.ones(2, 1, dtype=torch.long)),
            "x0 is of torch.int64",
        ),
        (
            lambda: exact().sample((2, 1), cond={"context": torch.zeros(2, 1)}),
            "the predictor has a context already",
        ),
        (
            lambda: anydiff.sample(
                anydiff.classifier_free(*[GaussianDiffusion(Zero()).predictor()] * 2, 2.0),
                (2, 1), DrawnContext(1),
            ),
            "the predictor is guided, so that it has no one network",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_an_error(make, error):
    with pytest.raises(ValueError, match=error):
        make()


def test_a_sampler_of_draws_is_ancestral():
    """Of a network to which the context says nothing it has the same law: here, the same moments."""
    x = torch.randn(200_000, 1, dtype=DOUBLE)

    class Mean(torch.nn.Module):
        def forward(self, x, t, *, context=None):
            return posterior(t[:, None])[0] * x

    predictor = GaussianDiffusion(Mean(), Linear(), "x0").predictor()
    found, own = (
        anydiff.sample(predictor, x, of, TIMES, seed=0) for of in (DrawnContext(1), DDPM())
    )
    assert found.std().item() == pytest.approx(own.std().item(), rel=0.02)


def test_dropout_of_a_critic_is_no_slope():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 4))

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, t):
            return self.net(x)

    x, t = torch.randn(64, 2), torch.zeros(64)
    critic = Critic(Plain())
    rough = slope(critic, x, t, x, generator=torch.Generator().manual_seed(0)).mean()
    still = slope(critic.eval(), x, t, x, generator=torch.Generator().manual_seed(0)).mean()
    assert rough < 10 * still  # and not a difference of masks, divided by delta


class Told(torch.nn.Module):
    """Keeps the labels that it is given."""

    def __init__(self):
        super().__init__()
        self.scale, self.seen = torch.nn.Parameter(torch.ones(())), []

    def forward(self, x, t, *, context=None, label=None, space=None):
        self.seen.append(label)
        return self.scale * x


def test_conditions_are_given_to_both_and_dropped_for_both():
    label, x0 = torch.arange(6), torch.randn(6, 1)
    for share in (0.0, 1.0):
        net, judge = Told(), Told()
        diffusion = GaussianDiffusion(
            net, Linear(), "x0", times=Rows(TIMES, DrawnContext(1)), drop={"label": share}
        )
        gan = DenoisingGAN(diffusion, Critic(judge))
        gan.loss(x0, label=label)
        gan.critic_loss(x0, label=label)
        for seen in (*net.seen, *judge.seen):
            assert torch.equal(seen, torch.full_like(label, -1) if share else label)
        assert len(judge.seen) == 5
        net.seen.clear()
        gan.eval().loss(x0, label=label)
        assert torch.equal(net.seen[0], label)


def test_the_critic_of_means_sees_what_the_loss_sees():
    net, label = Told(), torch.arange(6)
    both = AdversarialScoreMatching(
        GaussianDiffusion(net, Cosine(), "x0", drop={"label": 1.0}), Critic(Told())
    )
    both.critic_loss(torch.randn(6, 1), label=label)
    assert torch.equal(net.seen[0], torch.full_like(label, -1))
    both.eval().critic_loss(torch.randn(6, 1), label=label)
    assert torch.equal(net.seen[1], label)


def test_rates_fall_over_the_whole_run_and_both_alike(tmp_path):
    rates = []

    class Watched(AdversarialModule):
        def training_step(self, batch, batch_idx):
            rates.append([o.param_groups[0]["lr"] for o in self.optimizers()])
            return super().training_step(batch, batch_idx)

    diffusion = GaussianDiffusion(Small(1, 2), Linear(), "x0", times=Rows(TIMES, DrawnContext(2)))
    gan = DenoisingGAN(diffusion, Critic(Small(2)))
    module = Watched(gan, lambda x: (x, DENSE, {}), lr=1e-3, warmup=1)
    loading = torch.utils.data.DataLoader(mixture(64), batch_size=8)
    fit(module, tmp_path, loading, epochs=3, accelerator="cpu", devices=1)
    assert len(rates) == 24 and all(a == b for a, b in rates)
    assert rates[12][0] == pytest.approx(5e-4, rel=0.15) and 0 < rates[-1][0] < 5e-5
