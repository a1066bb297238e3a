"""Editing against closed forms, and what it keeps in every space."""

from functools import lru_cache, partial

import pytest
import torch
from torch import nn

from anydiff import (
    DDIM,
    DDPM,
    VE,
    Cosine,
    Dense,
    DPMSolver,
    GaussianDiffusion,
    Heun,
    Linear,
    Packed,
    Ragged,
    classifier_free,
    edit,
    exact,
    impute,
    inpaint,
    interpolate,
    sample,
)
from anydiff.denoisers import PairNet
from anydiff.editing import Stage, cascade, decode, denoise, encode, ilvr, variations
from anydiff.samplers import AdamsBashforth, KarrasGrid, LogSNR, Quadratic, Uniform
from anydiff.spaces import Space
from tests.helpers.spaces import NODES, SPACES, draw, every_space

C = torch.tensor([[1.0, 0.6, 0.3], [0.6, 0.8, 0.2], [0.3, 0.2, 0.5]], dtype=torch.float64)
M = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
GAUSSIAN = exact.gaussian(Cosine(), "v", mean=M, covariance=C)
MIXTURE = exact.mixture(
    Cosine(), "v", means=torch.tensor([[-1.0, 0.5], [0.8, 1.0], [0.3, -1.2]]), stds=0.3
)


def rows_of(space):
    """A mask of rows or entries of each kind of space: about half, of each item differently."""
    half = torch.rand(SPACES[space][1], generator=torch.Generator().manual_seed(3)) < 0.5
    return half[:, 0] if space == "centered" else half


every_kind = pytest.mark.parametrize("kind", SPACES)


# the part of a space --------------------


@every_kind
def test_a_part_is_a_projection_within_the_space(kind):
    space, shape = SPACES[kind]
    known, (x, y) = rows_of(kind), (draw(shape, 0), draw(shape, 1))
    part = space.restrict(x, known)
    assert torch.allclose(space.restrict(part, known), part, atol=1e-13)  # idempotent
    assert torch.allclose((space.restrict(y, known) * x).sum(), (y * part).sum(), atol=1e-11)
    assert torch.allclose(space.project(part), part, atol=1e-13)  # within the space
    assert torch.allclose(space.restrict(space.project(x), known), part, atol=1e-13)
    entries = known if known.ndim == x.ndim else known[:, None].expand(shape)
    assert (part[~entries] == 0).all()


def test_a_fragment_of_a_centred_item_is_where_its_rows_are_to_one_another():
    known = torch.rand(14, generator=torch.Generator().manual_seed(0)) < 0.6
    x = draw((14, 5))
    moved = x.clone()
    moved[:, :3] += draw((4, 3), 2)[NODES.index]  # each item elsewhere
    assert torch.allclose(NODES.restrict(x, known), NODES.restrict(moved, known), atol=1e-12)
    turned = x.clone()
    turned[known, 0] *= 2
    assert not torch.allclose(NODES.restrict(x, known), NODES.restrict(turned, known))
    # columns by themselves: the features known and the positions not
    types = torch.tensor([False] * 3 + [True] * 2).expand(14, 5)
    assert torch.equal(NODES.restrict(x, types), x * types)


@every_kind
def test_copies_are_the_batch_again(kind):
    space, shape = SPACES[kind]
    x, y = draw(shape, 0), draw(shape, 1)
    twice = space.copies(2)
    joined = space.join([x, y])
    assert all(torch.equal(a, b) for a, b in zip(space.separate(joined, 2), (x, y), strict=True))
    for whole, parts in (
        (twice.project(joined), [space.project(x), space.project(y)]),
        (twice.expand(draw((8,), 5), joined) * joined, None),
    ):
        if parts is None:
            c = draw((8,), 5)
            parts = [space.expand(c[:4], x) * x, space.expand(c[4:], y) * y]
        for a, b in zip(space.separate(whole, 2), parts, strict=True):
            assert torch.allclose(a, b, atol=1e-14)
    assert torch.allclose(twice.sum(joined), torch.cat([space.sum(x), space.sum(y)]), atol=1e-12)
    assert torch.equal(twice.dim(joined), torch.cat([space.dim(x), space.dim(y)]))


# inpainting --------------------


@lru_cache
def conditional():
    gain = C[1:, 0] / C[0, 0]
    return M[1:] + gain * (1.5 - M[0]), C[1:, 1:] - torch.outer(gain, C[0, 1:])


def completed(items=3000, **options):
    x = torch.tensor([1.5, 7.0, -7.0], dtype=torch.float64).expand(items, 3)  # two to be ignored
    known = torch.tensor([True, False, False]).expand(items, 3)
    y = inpaint(GAUSSIAN.predictor(), x, known, seed=0, **options)
    assert (y[:, 0] == 1.5).all()
    mean, covariance = conditional()
    error = (y[:, 1:].mean(0) - mean).abs().max() / covariance.diagonal().max().sqrt()
    return error, (y[:, 1:].T.cov() - covariance).abs().max() / covariance.abs().max()


@pytest.mark.slow
def test_enough_resampling_reaches_the_exact_posterior():
    """Measured: mean off by .38, .05 and .03 deviations, covariance by .19, .03 and .02 of its largest
    entry, of which 3,000 draws themselves make 0.03 and 0.05."""
    plain, some, enough = (completed(resamples=r) for r in (1, 10, 20))
    assert plain[0] > 0.25
    assert some[0] < 0.1 and some[1] < 0.1
    assert enough[0] < 0.08 and enough[1] < 0.1


def test_what_is_known_has_the_noise_of_its_level():
    x = torch.full((3000, 2), 1.5, dtype=torch.float64)
    known = torch.tensor([True, False]).expand(3000, 2)
    seen = []
    inpaint(GAUSSIAN_2.predictor(), x, known, steps=8, resamples=2, seed=0, callback=seen.append)
    for p in seen:
        s = torch.tensor(p.s, dtype=torch.float64)
        alpha, sigma = (float(c) for c in Cosine()(s)) if p.s else (1.0, 0.0)
        kept = p.x_s[:, 0]
        assert abs(kept.mean() - 1.5 * alpha) < 4 * sigma / 3000**0.5 + 1e-12
        assert abs(kept.std() - sigma) < 4 * sigma / 6000**0.5 + 1e-12


GAUSSIAN_2 = exact.gaussian(Cosine(), "v", std=0.7)


def test_longer_stretches_reach_it_too():
    error = completed(resamples=10, jump=5)
    assert error[0] < 0.12 and error[1] < 0.12


def test_the_smaller_variance_falls_short():
    """Why the larger one is the default."""
    assert completed(items=2000, sampler=DDPM(), resamples=10)[1] > 0.14


@every_kind
@pytest.mark.parametrize("resamples", [1, 3])
def test_what_is_known_stays_and_the_state_is_in_the_space(kind, resamples):
    space, shape = SPACES[kind]
    model, known = exact.gaussian(Cosine(), "v", std=0.6), rows_of(kind)
    x = space.project(draw(shape, 4))
    y = inpaint(model.predictor(space), x, known, steps=6, resamples=resamples, seed=0)
    assert torch.allclose(space.project(y), y, atol=1e-10)
    assert torch.allclose(space.restrict(y, known), space.restrict(x, known), atol=1e-12)
    free = ~known if known.ndim == y.ndim else ~known[:, None].expand(shape)
    assert not torch.allclose(y * free, x * free, atol=1e-3)
    if kind in ("dense", "masked", "observed", "ragged"):
        assert torch.equal(space.restrict(y, known), space.restrict(x, known))  # to the last bit


def test_a_fragment_keeps_its_shape_and_does_not_drift():
    """With a network that knows nothing: only the geometry is tested, in float32, over 100 steps."""
    torch.manual_seed(0)
    space = Ragged.from_sizes([9, 12], centered=3)
    diffusion = GaussianDiffusion(
        PairNet(2, hidden=16, pair=8, vectors=4, layers=2), Cosine(), "eps"
    )
    known = torch.zeros(21, dtype=torch.bool)
    known[[0, 1, 2, 9, 10, 11, 12]] = True
    x = 2 * torch.randn(21, 5)  # not centred, as from a file
    centres = []
    y = inpaint(
        diffusion.predictor(space), x, known, steps=100, resamples=1, seed=0,
        callback=lambda p: centres.append(space.sum(p.x_s[:, :1]).abs().max()),
    )  # fmt: skip
    assert max(centres) < 1e-3
    for rows in (known[:9], known[9:]):
        part = slice(0, 9) if len(rows) == 9 else slice(9, 21)
        before, after = (torch.cdist(z[part][rows, :3], z[part][rows, :3]) for z in (x, y))
        assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(y[known, 3:], x[known, 3:], atol=1e-5)


def test_turning_a_fragment_turns_what_is_grown():
    """The network is equivariant, and so is inpainting with it: the noise turned too."""
    torch.manual_seed(0)
    space = Ragged.from_sizes([7], centered=3)
    network = PairNet(2, hidden=16, pair=8, vectors=4, layers=2).double()
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    predictor = GaussianDiffusion(network, Cosine(), "eps").predictor(space)
    turn = torch.linalg.qr(draw((3, 3), 1))[0]
    x, known = draw((7, 5)), torch.arange(7) < 3

    class Turned(Ragged):
        def noise(self, x, generator=None):
            z = Ragged.noise(self, x, generator)
            return torch.cat([z[:, :3] @ turn.T, z[:, 3:]], 1)

    other = GaussianDiffusion(network, Cosine(), "eps").predictor(
        Turned(space.index, 1, centered=3)
    )
    y = inpaint(predictor, x, known, steps=5, resamples=2, seed=0)
    moved = torch.cat([x[:, :3] @ turn.T, x[:, 3:]], 1)
    z = inpaint(other, moved, known, steps=5, resamples=2, seed=0)
    assert torch.allclose(torch.cat([y[:, :3] @ turn.T, y[:, 3:]], 1), z, atol=1e-8)


def test_a_given_composition_has_its_features_and_free_positions():
    space = Ragged.from_sizes([4, 3], centered=3)
    model = exact.gaussian(Cosine(), "v", std=0.6)
    x = draw((7, 5))
    known = torch.tensor([False, False, False, True, True]).expand(7, 5)
    y = inpaint(model.predictor(space), x, known, steps=10, seed=0)
    assert torch.equal(y[:, 3:], x[:, 3:])
    assert not torch.allclose(y[:, :3], space.project(x)[:, :3], atol=0.1)


def test_calls_are_steps_times_resamples_and_all_are_reported():
    calls, seen = [], []

    class Counted(nn.Module):
        def forward(self, x_t, t):
            calls.append(float(t[0]))
            return 0 * x_t

    p = GaussianDiffusion(Counted(), Cosine(), "v").predictor()
    known = torch.tensor([True, False]).expand(3, 2)
    inpaint(p, torch.ones(3, 2), known, steps=6, resamples=4, jump=4, callback=seen.append)
    assert len(calls) == 24 and len(seen) == 24
    assert [s.step for s in seen] == list(range(1, 25)) and {s.steps for s in seen} == {24}
    # stretches of four and of two steps, each four times over
    assert calls[:4] == calls[4:8] == calls[12:16] and calls[16:18] == calls[22:24]


# what every edit keeps --------------------


def edits():
    mixture = exact.mixture(Cosine(), "v", means=torch.tensor([0.5, -0.5]), stds=0.4)
    return {
        "inpaint": lambda p, x, known, seed: inpaint(p, x, known, steps=5, resamples=2, seed=seed),
        "impute": lambda p, x, known, seed: impute(p, x, 1, known=known, steps=5, seed=seed)[0],
        "edit": lambda p, x, known, seed: edit(p, x, 0.4, steps=5, seed=seed),
        "denoise": lambda p, x, known, seed: denoise(p, x, 0.4, steps=5, seed=seed),
        "variations": lambda p, x, known, seed: variations(p, x, 1, steps=5, seed=seed)[0],
        "ilvr": lambda p, x, known, seed: ilvr(p, x, lambda z: 0.5 * z, steps=5, seed=seed),
        "encode": lambda p, x, known, seed: encode(p, x, steps=5),
        "interpolate": lambda p, x, known, seed: interpolate(p, x, -x, [0.3], steps=5)[0],
    }, mixture


@pytest.mark.parametrize("name", edits()[0])
@every_space
def test_edits_stay_in_their_space(space, shape, name):
    kinds, mixture = edits()
    x = space.project(draw(shape))
    known = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5
    y = kinds[name](mixture.predictor(space), x, known, 0)
    assert y.shape == x.shape and torch.allclose(space.project(y), y, atol=1e-10)
    assert y.isfinite().all() and not torch.allclose(x, y, atol=1e-4)


@pytest.mark.parametrize("name", edits()[0])
def test_an_item_s_edit_does_not_depend_on_its_batch(name):
    kinds, mixture = edits()
    x, known = draw((4, 5)), draw((4, 5), 1) > 0
    whole = kinds[name](mixture.predictor(), x, known, [11, 12, 13, 14])
    for k in range(4):
        alone = kinds[name](mixture.predictor(), x[k : k + 1], known[k : k + 1], [11 + k])
        assert torch.allclose(alone[0], whole[k], atol=1e-12)


@pytest.mark.parametrize("name", edits()[0])
def test_the_data_are_left_as_they_were(name):
    kinds, mixture = edits()
    x, known = draw((4, 5)), draw((4, 5), 1) > 0
    before = x.clone(), known.clone()
    kinds[name](mixture.predictor(), x, known, 0)
    assert torch.equal(x, before[0]) and torch.equal(known, before[1])


# several draws, and what is to come --------------------


def test_draws_differ_and_are_the_same_at_once_or_one_after_the_other():
    x = draw((3, 4))
    x[:, 1:3] = torch.nan
    at_once = GAUSSIAN_4.predictor()
    one_by_one = classifier_free(GAUSSIAN_4.predictor(), at_once, torch.ones(3))  # has no copies
    assert one_by_one.copies(4) is None
    seeds = [5, 6, 7]
    a, b = (impute(p, x, 4, steps=5, seed=seeds) for p in (at_once, one_by_one))
    assert a.shape == (4, 3, 4) and torch.allclose(a, b, atol=1e-12)
    assert (a[:, :, [0, 3]] == x[:, [0, 3]]).all()
    assert (a[:, :, 1:3].std(0) > 0.01).all()


GAUSSIAN_4 = exact.gaussian(Cosine(), "v", mean=0.2, std=0.7)


def test_guided_predictors_have_copies_where_theirs_have():
    c, u = MIXTURE.predictor(label=torch.tensor([0, 1, 2])), MIXTURE.predictor()
    x, guided = draw((3, 2)), classifier_free(c, u, 2.0)
    thrice = guided.copies(3)
    p = thrice.predict(torch.cat([x, x + 1, x - 1]), 0.5)
    for k, moved in enumerate((x, x + 1, x - 1)):
        assert torch.allclose(p.x0[3 * k : 3 * k + 3], guided.predict(moved, 0.5).x0, atol=1e-12)


@every_kind
def test_guided_predictors_have_copies_in_every_space(kind):
    space, shape = SPACES[kind]
    mixture = exact.mixture(Cosine(), "v", means=torch.tensor([0.5, -0.5]), stds=0.4)
    c = mixture.predictor(space, label=torch.tensor([0, 1, 1, 0]))
    guided = classifier_free(c, mixture.predictor(space), 2.0)
    x = space.project(draw(shape))
    y = variations(guided, x, 3, 0.5, steps=3, seed=0)
    assert y.shape == (3, *shape) and space.copies(3) is space.copies(3)
    p = guided.copies(2).predict(space.join([x, -x]), 0.5)
    for part, moved in zip(space.separate(p.x0, 2), (x, -x), strict=True):
        assert torch.allclose(part, guided.predict(moved, 0.5).x0, atol=1e-12)


def test_generators_draw_on_and_apart():
    x = draw((2, 3))
    gens = [torch.Generator().manual_seed(s) for s in (5, 6)]
    one, two = (variations(GAUSSIAN_4.predictor(), x, 3, 0.5, steps=3, seed=gens) for _ in range(2))
    assert not torch.isclose(one, two).any()  # as generators do
    z = (one - one.mean(0)).flatten(0, 1)
    assert (torch.cdist(z, z) + torch.eye(6) > 1e-6).all()  # no draw is another item's


def test_a_space_of_one_s_own_in_a_packed_one_draws_one_after_the_other():
    space = Packed({"a": (Bare(), (3, 2)), "b": (Dense(), (3, 1))})
    p = GAUSSIAN_4.predictor(space)
    assert p.copies(2) is None
    assert variations(p, draw((9,)), 2, 0.5, steps=3, seed=0).shape == (2, 9)
    with pytest.raises(NotImplementedError, match="restrict"):
        inpaint(p, draw((9,)), draw((9,)) > 0)


def test_a_multistep_sampler_looks_back_where_nothing_is_repeated():
    lengths = []

    class Spy(DPMSolver):
        def step(self, predictor, x_t, t, s, past, generator):
            lengths.append(len(past))
            return super().step(predictor, x_t, t, s, past, generator)

    known = torch.tensor([True, False]).expand(3, 2)
    inpaint(GAUSSIAN_4.predictor(), draw((3, 2)), known, sampler=Spy(), steps=4, resamples=1)
    assert lengths == [0, 1, 1, 1]


def test_a_cascade_of_ragged_items_has_a_level_for_each_item():
    space = Ragged.from_sizes([2, 3])
    told = []

    class Told(nn.Module):
        def forward(self, x_t, t, coarse=None, coarse_t=None, space=None):
            told.append((coarse, coarse_t))
            return 0 * x_t

    predict = partial(GaussianDiffusion(Told(), Cosine(), "v").predictor, space)
    stages = [
        Stage(predict, (5, 2), options={"steps": 2}),
        Stage(predict, (5, 2), name="coarse", noise=0.3, options={"steps": 2}),
    ]
    cascade(stages, seed=[1, 2])
    assert told[-1][1].tolist() == pytest.approx([0.3, 0.3]) and told[-1][0].shape == (5, 2)


# along the flow, and from noise --------------------


def test_decoding_what_was_encoded_returns_it():
    x = draw((200, 2)) * 0.3 + MIXTURE.denoiser.means[0]
    errors = []
    for steps in (50, 100, 200):
        z = encode(MIXTURE.predictor(), x, steps=steps)
        errors.append((decode(MIXTURE.predictor(), z, steps=steps) - x).abs().max())
    assert errors[2] < 2e-3 and errors[2] < errors[1] / 2 < errors[0] / 4


@pytest.mark.parametrize("sampler", [DDIM(), Heun(), AdamsBashforth()], ids=str)
def test_any_deterministic_sampler_encodes(sampler):
    x = GAUSSIAN.denoiser.draw((50, 3), generator=torch.Generator().manual_seed(0))
    options = {"sampler": sampler, "steps": 400, "grid": LogSNR(power=1.0)}
    z = encode(GAUSSIAN.predictor(), x, **options)
    exactly = GAUSSIAN.denoiser.flow(x, 0.0, 1.0)
    assert (z - exactly).abs().max() < 0.05
    assert (decode(GAUSSIAN.predictor(), z, **options) - x).abs().max() < 0.05


def test_encoded_data_are_noise():
    x = MIXTURE.denoiser.draw((4000, 2), generator=torch.Generator().manual_seed(0))
    z = encode(MIXTURE.predictor(), x, steps=100)
    assert (z.mean(0).abs() < 0.08).all() and ((z.std(0) - 1).abs() < 0.06).all()


def test_interpolation_ends_at_its_ends_and_stays_likely_between():
    generator = torch.Generator().manual_seed(0)
    a, b = (MIXTURE.denoiser.draw((200, 2), generator=generator) for _ in range(2))
    x = interpolate(MIXTURE.predictor(), a, b, 5, steps=200)
    assert x.shape == (5, 200, 2)
    assert (x[0] - a).abs().max() < 5e-3 and (x[-1] - b).abs().max() < 5e-3
    straight = (a + b) / 2  # leaves the data; the middle of the great circle does not
    log_prob = MIXTURE.denoiser.log_prob
    assert log_prob(x[2]).median() > log_prob(straight).median() + 1
    assert (x[1] - a).norm(dim=1).mean() < (x[3] - a).norm(dim=1).mean()


def test_the_great_circle_keeps_the_norm_of_noise():
    from anydiff.editing.encoding import _slerp

    a, b = draw((6, 50), 0), draw((6, 50), 1)
    a, b = (z / z.norm(dim=1, keepdim=True) for z in (a, b))
    for w in (0.0, 0.25, 0.5, 1.0):
        z = _slerp(a, b, w, Dense())
        assert torch.allclose(z.norm(dim=1), torch.ones(6).double(), atol=1e-12)
        assert torch.allclose((z * a).sum(1).acos(), w * (a * b).sum(1).acos(), atol=1e-6)
    assert torch.equal(_slerp(a, b, 0.0, Dense()), a) and torch.equal(_slerp(a, b, 1.0, Dense()), b)
    assert torch.allclose(_slerp(a, a, 0.3, Dense()), a)  # and of one direction, straight


@pytest.mark.parametrize("strength", [0.15, 0.5, 1.0])
def test_an_edit_is_a_draw_given_what_the_noise_left(strength):
    """x_t = alpha x + sigma eps, then the flow: for a normal distribution, all in closed form."""
    model = exact.gaussian(Linear(), "v", mean=0.4, std=0.5)
    x = torch.full((4000, 1), 1.9, dtype=torch.float64)
    y = edit(model.predictor(), x, strength, steps=100, seed=0)
    alpha, sigma = (float(c) for c in Linear()(torch.tensor(strength, dtype=torch.float64)))
    shrink = 0.5 / (alpha**2 * 0.25 + sigma**2) ** 0.5  # the flow's slope
    mean, std = 0.4 + shrink * alpha * 1.5, shrink * sigma
    assert abs(y.mean() - mean) < 4 * std / 4000**0.5 + 0.01 and abs(y.std() / std - 1) < 0.06


@pytest.mark.parametrize("schedule", [Cosine(), VE()], ids=str)
def test_known_noise_is_taken_off_along_the_flow(schedule):
    model = exact.gaussian(schedule, "v", mean=0.4, std=0.5)
    x = draw((100, 2))
    y = denoise(model.predictor(), x, 0.3, steps=100)
    t = schedule.time(torch.tensor([0.3], dtype=torch.float64).log() * -2)
    alpha = schedule(t)[0]
    assert torch.allclose(y, model.denoiser.flow(alpha * x, float(t), 0.0), atol=5e-3)
    # of which the data's own deviation is left, where x had more
    assert torch.allclose(y - 0.4, (x - 0.4) * 0.5 / (0.25 + 0.09) ** 0.5, atol=5e-3)


def test_a_stronger_edit_goes_further():
    x = draw((500, 2)) * 0.3 + MIXTURE.denoiser.means[1]
    moved = [
        (edit(MIXTURE.predictor(), x, s, seed=0) - x).norm(dim=1).mean() for s in (0.1, 0.4, 0.8)
    ]
    assert moved[0] < moved[1] < moved[2]
    y = variations(MIXTURE.predictor(), x, 3, 0.6, seed=0)
    assert y.shape == (3, 500, 2) and (y.std(0) > 0).all()


def test_ilvr_keeps_what_the_low_pass_sees():
    """With an average for a low-pass, which is a projection: the exact average, and the rest drawn."""
    model = exact.gaussian(Cosine(), "v", std=0.6)
    x = draw((300, 4))

    def average(z):
        return z.mean(1, keepdim=True).expand_as(z)

    y = ilvr(model.predictor(), x, average, steps=50, seed=0)
    assert torch.allclose(y.mean(1), x.mean(1), atol=1e-12)
    free = y - average(y)
    assert abs(free.std() / (0.6 * 0.75**0.5) - 1) < 0.1  # three of four dimensions are free
    late = ilvr(model.predictor(), x, average, until=0.5, steps=50, seed=0)
    off = (late.mean(1) - x.mean(1)).abs().mean()
    assert 0.02 < off < 0.5


def test_a_cascade_gives_each_stage_what_the_one_before_drew():
    told = []

    class Told(nn.Module):
        def forward(self, x_t, t, image=None, image_t=None, label=None):
            told.append((None if image is None else image.shape, image_t, label))
            return 0 * x_t if image is None else x_t - 0 * image.mean()

    first, second = (GaussianDiffusion(Told(), Cosine(), "v") for _ in range(2))
    label = torch.arange(3)
    stages = [
        Stage(partial(first.predictor, label=label), (3, 1, 2, 2), options={"steps": 2}),
        Stage(second.predictor, (3, 1, 8, 8), name="image", noise=0.2, options={"steps": 3}),
    ]
    low, high = cascade(stages, seed=0)
    assert low.shape == (3, 1, 2, 2) and high.shape == (3, 1, 8, 8)
    assert len(told) == 5 and told[0][0] is None and told[0][2] is label
    assert told[2][0] == (3, 1, 2, 2) and (told[2][1] == 0.2).all() and told[2][2] is None
    again = cascade(stages[1:], low, seed=1)
    assert len(again) == 1 and again[0].shape == (3, 1, 8, 8)
    assert torch.equal(cascade(stages, seed=0)[1], high)


def test_grids_begin_where_they_are_told_to():
    for grid in (Uniform(), Quadratic(), LogSNR(), KarrasGrid()):
        for start in (0.7, 0.2):
            times = grid(Cosine(), 12, start)
            assert times.shape == (13,) and times[-1] == 0 and abs(times[0] - start) < 1e-15
            assert (times.diff() < 0).all()
        assert torch.equal(grid(Cosine(), 12), grid(Cosine(), 12, 1.0))


class Bare(Space):
    """A space of one's own with the five methods and no more."""

    expand, project = Dense.expand, Dense.project
    sum, dim, noise = Dense.sum, Dense.dim, Dense.noise


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p, x, k: inpaint(p, x, k.double()), "booleans"),
        (lambda p, x, k: inpaint(p, x, k[0]), "first axes"),
        (lambda p, x, k: inpaint(p, x, k, steps=[0.0, 0.5, 1.0], sampler=DDIM()), "rise"),
        (lambda p, x, k: inpaint(p, k.int(), k), "floating"),
        (lambda p, x, k: edit(p, k.int(), 0.5), "floating"),
        (lambda p, x, k: edit(p, x, 0.5, steps=[0.5, 0.0]), "how many"),
        (lambda p, x, k: encode(p, x, steps=[0.0, 1.0]), "how many"),
        (lambda p, x, k: variations(p, x, 2, seed=[1, 2]), "2 generators for 3 items"),
        (
            lambda p, x, k: cascade([Stage(GAUSSIAN_4.predictor, (3, 4))], x),
            "name of the condition",
        ),
        (lambda p, x, k: sample(p, (3, 4), steps=[1.0, 0.0], start=0.5), "begin them there"),
        (lambda p, x, k: inpaint(p, x, k, resamples=0), r"resamples is 0; .* \[1, inf\)"),
        (lambda p, x, k: impute(p, x, 0), r"n is 0; .* \[1, inf\)"),
        (lambda p, x, k: impute(p, x.numpy()), "x is a ndarray; give a tensor, NaN where"),
        (lambda p, x, k: impute(p, x.tolist()), "x is a list; give a tensor"),
        (lambda p, x, k: impute(p, x / 0), "x holds inf where it is kept"),
        (
            lambda p, x, k: impute(p, x, known=k.numpy()),
            "known is of the type ndarray; give a tensor",
        ),
        (lambda p, x, k: edit(p, x, 0.0), r"strength is 0.0; .* \(0, 1\]"),
        (lambda p, x, k: edit(p, x, 1.2), r"strength is 1.2; .* \(0, 1\]"),
        (lambda p, x, k: denoise(p, x, 0.0), r"std is 0.0; .* \(0, inf\)"),
        (lambda p, x, k: denoise(p, x, 1e4), "another schedule"),
        (lambda p, x, k: interpolate(p, x, x, 1), r"weights is 1; .* \[2, inf\)"),
        (lambda p, x, k: encode(p, x, sampler=DDPM()), "adds noise; encode with DDIM"),
        (lambda p, x, k: sample(p, x, start=0.0), r"start is 0.0; .* \(0, 1\]"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    x = draw((3, 4))
    with pytest.raises(ValueError, match=message):
        call(GAUSSIAN_4.predictor(), x, x > 0)


def test_a_bare_space_draws_one_after_the_other():
    x = draw((3, 4))
    with pytest.raises(NotImplementedError, match=r"Bare has no method `restrict\(x, mask\)`"):
        inpaint(GAUSSIAN_4.predictor(Bare()), x, x > 0)
    y = variations(GAUSSIAN_4.predictor(Bare()), x, 2, 0.5, steps=4, seed=0)
    assert y.shape == (2, 3, 4)
    z = interpolate(GAUSSIAN_4.predictor(Bare()), x, -x, 3, steps=4)
    assert torch.allclose(z, interpolate(GAUSSIAN_4.predictor(), x, -x, 3, steps=4), atol=1e-12)
