"""Completing with a model that knows how: against the exact conditional, and what is kept."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from anydiff import (
    DDIM,
    DDPM,
    Cosine,
    DPMSolver,
    Flow,
    GaussianDiffusion,
    Heun,
    Packed,
    Ragged,
    classifier_free,
    log_prob,
    sample,
)
from anydiff.denoisers import BiRNN, Completing, PairNet, UNet
from anydiff.editing import complete
from anydiff.spaces import DENSE, Masked, Rest
from tests.helpers.networks import awake
from tests.helpers.spaces import draw

C = torch.tensor([[1.0, 0.6, 0.3], [0.6, 0.8, 0.2], [0.3, 0.2, 0.5]], dtype=torch.float64)
M = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)


def conditional(x, known):
    """The means of the unknown entries of items of one mask, given the others, and their covariance."""
    gain = C[~known][:, known] @ torch.linalg.inv(C[known][:, known])
    mean = M[~known] + (x[..., known] - M[known]) @ gain.T
    return mean, C[~known][:, ~known] - gain @ C[known][:, ~known]


class Exact(nn.Module):
    """E[x0 | x_t] of the unknown entries of correlated normal data, given the known ones."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule
        self.like = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t):
        x, flags = x[:, :3], x[:, 3:] > 0.5
        alpha, sigma = (c[:, None, None] for c in self.schedule(t))
        x0 = torch.zeros_like(x)
        for known in flags.unique(dim=0):
            rows = (flags == known).all(1)
            mean, S = conditional(x[rows], known)
            total = alpha[rows] ** 2 * S + sigma[rows] ** 2 * torch.eye(len(S))
            away = (x[rows][:, ~known] - alpha[rows, 0] * mean)[..., None]
            rest = mean + (alpha[rows] * S @ torch.linalg.solve(total, away))[..., 0]
            x0[rows] = torch.zeros_like(x[rows]).masked_scatter(~known.expand(len(rest), 3), rest)
        return torch.cat([x0, torch.full_like(x0, 7.0)], 1)  # of the flags, which nobody reads


def exact(schedule):
    return GaussianDiffusion(Completing(Exact(schedule)), schedule, "x0")


KNOWN = torch.tensor([[True, False, False], [False, True, False], [True, False, True]])
X = torch.tensor([[1.5, 7.0, 7.0], [7.0, -0.4, 7.0], [1.0, 7.0, 0.3]], dtype=torch.float64)


# correlated normal data --------------------


@pytest.mark.parametrize("sampler, order", [(DDIM(), 1), (DPMSolver(), 2), (Heun(), 2)], ids=str)
@pytest.mark.parametrize("schedule", [Cosine(-14.0), Flow()], ids=str)
def test_draws_have_the_conditional_s_moments_at_the_sampler_s_order(sampler, order, schedule):
    """A run is an affine map of its noise: its moments are numbers, without any sampling error."""
    known, x = KNOWN[:1].expand(3, 3), X[:1].expand(3, 3)
    p = exact(schedule).predictor(Rest(DENSE, known), given=x * known)
    start = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    mean, S = conditional(x[0], known[0])

    def errors(steps):
        y = sample(p, start, sampler, steps)
        assert not y[known].any()
        offset, K = y[0, 1:], (y[1:] - y[:1])[:, 1:].T
        return max((offset - mean).abs().max(), (K @ K.T - S).abs().max())

    coarse, fine = errors(40), errors(80)
    # the order, less a fifth since the steps are not yet small
    assert fine < coarse / 2 ** (order - 0.2) and fine < (0.03 if order == 1 else 3e-3)


def test_many_draws_have_its_moments():
    """Whatever the mask of an item; three standard errors of 3,000 draws."""
    seen = []
    y = complete(
        exact(Cosine()), X.masked_fill(~KNOWN, torch.nan), 3000,
        sampler=DPMSolver(eta=1.0), steps=20, seed=0, callback=seen.append,
    )  # fmt: skip
    assert y.shape == (3000, 3, 3) and torch.equal(y[:, KNOWN], X[KNOWN].expand(3000, -1))
    for k in range(3):
        mean, S = conditional(X[k], KNOWN[k])
        free = y[:, k, ~KNOWN[k]]
        assert ((free.mean(0) - mean).abs() < 3 * (S.diagonal() / 3000).sqrt()).all()
        assert (free.T.cov() - S).abs().max() < 3 * (2 / 3000) ** 0.5 * S.max() + 0.01
    for p in seen:  # the known part is clean at every time
        assert torch.equal(p.x_s.view(3000, 3, 3)[:, KNOWN], X[KNOWN].expand(3000, -1))


def test_what_is_known_beside_nan_is_what_both_say():
    x, some = X.masked_fill(~KNOWN, torch.nan), torch.tensor([True, True, False]).expand(3, 3)
    p = exact(Cosine())
    y = complete(p, x, known=some, steps=5, seed=[1, 2, 3])[0]
    kept = KNOWN & some
    assert torch.equal(y[kept], X[kept]) and not torch.isclose(y[~kept], X[~kept]).any()
    again = complete(p, X, known=kept, steps=5, seed=[1, 2, 3])[0]
    assert torch.equal(y, again)


def test_the_exact_likelihood_is_the_density_of_the_conditional():
    x0 = draw((3, 3))
    p = exact(Cosine(-20.0)).predictor(Rest(DENSE, KNOWN), given=x0 * KNOWN)
    found = log_prob(p, x0, trace="exact", logsnr_min=-20.0, rtol=1e-6, atol=1e-6)
    for k in range(3):
        mean, S = conditional(x0[k], KNOWN[k])
        expected = MultivariateNormal(mean, S).log_prob(x0[k, ~KNOWN[k]])
        assert abs(found[k] - expected) < 1e-3


# what is kept --------------------


def pairnet(pairs=0, ready=awake):
    torch.manual_seed(0)
    net = PairNet(2 * 5 - 3, hidden=16, pair=8, vectors=4, layers=2, pairs=2 * pairs)
    return GaussianDiffusion(Completing(ready(net)), Cosine(), "eps")


def calm(net):
    """Weights as they begin, with every path a little awake: what is drawn has the size of the noise."""
    for p in net.parameters():
        p.data += 0.02 * torch.randn(p.shape)
    return net.eval()


SPACE = Ragged.from_sizes([9, 12], centered=3)
ROWS = torch.zeros(21, dtype=torch.bool)
ROWS[[0, 1, 2, 9, 10, 11, 12]] = True


def test_a_fragment_keeps_its_distances_and_the_whole_its_centre():
    x = 2 * draw((21, 5)).float()  # not centred, as from a file
    diffusion = pairnet(ready=calm)
    y = complete(diffusion, x, 3, known=ROWS, space=SPACE, steps=10, seed=0)
    assert torch.allclose(y[:, ROWS, 3:], x[ROWS, 3:], atol=0)
    assert y.isfinite().all() and (y.std(0) > 1e-3)[~ROWS].all()
    for one in y:
        assert torch.allclose(SPACE.project(one), one, atol=1e-5)
        for rows in (ROWS & (SPACE.index == 0), ROWS & (SPACE.index == 1)):
            before, after = (
                torch.cdist(z[rows, :3].double(), z[rows, :3].double()) for z in (x, one)
            )
            assert torch.allclose(before, after, rtol=0, atol=1e-6)
    # in double precision, to rounding
    double = diffusion.double()
    y = complete(double, x.double(), known=ROWS, space=SPACE, steps=10, seed=0)[0]
    gaps = [torch.cdist(z[ROWS][:3, :3], z[ROWS][:3, :3]) for z in (x.double(), y)]
    assert torch.allclose(*gaps, rtol=0, atol=1e-12)


def test_a_composition_has_its_features_and_free_positions():
    x, types = draw((21, 5)).float(), torch.tensor([False] * 3 + [True] * 2).expand(21, 5)
    y = complete(pairnet(), x, known=types, space=SPACE, steps=3, seed=0)[0]
    assert torch.equal(y[:, 3:], x[:, 3:])
    assert not torch.allclose(y[:, :3], SPACE.project(x)[:, :3], atol=0.1)


def test_turning_the_part_turns_what_is_grown():
    turn = torch.linalg.qr(draw((3, 3), 1))[0]
    x, diffusion = draw((21, 5)), pairnet().double()

    class Turned(Ragged):
        def noise(self, x, generator=None):
            z = Ragged.noise(self, x, generator)
            return torch.cat([z[:, :3] @ turn.T, z[:, 3:]], 1)

        def copied(self, n):
            return Turned(Ragged.copied(self, n).index, n * self.num_items, self.centered)

    other = Turned(SPACE.index, 2, centered=3)
    moved = torch.cat([x[:, :3] @ turn.T + 5, x[:, 3:]], 1)  # moved too: only the shape counts
    y, z = (
        complete(diffusion, a, known=ROWS, space=s, sampler=DDPM(), steps=5, seed=0)[0]
        for a, s in ((x, SPACE), (moved, other))
    )
    assert torch.allclose(torch.cat([y[:, :3] @ turn.T, y[:, 3:]], 1), z, atol=1e-9)


def test_a_completion_does_not_depend_on_its_batch():
    x, diffusion = draw((21, 5)), pairnet().double()
    whole = complete(diffusion, x, 2, known=ROWS, space=SPACE, steps=4, seed=[5, 6])
    alone = complete(
        diffusion, x[9:], 2, known=ROWS[9:], space=Ragged.from_sizes([12], centered=3),
        steps=4, seed=[6],
    )  # fmt: skip
    assert torch.allclose(whole[:, 9:], alone, atol=1e-10)


def test_nothing_known_is_sampling():
    diffusion, x = pairnet(), torch.full((21, 5), torch.nan)
    y = complete(diffusion, x, space=SPACE, steps=4, seed=3)[0]
    plain = diffusion.sample((21, 5), space=SPACE, steps=4, seed=3)
    assert torch.equal(y, SPACE.project(plain))


# several fields --------------------


def packed():
    bonds = SPACE.pair_space
    return Packed({"atoms": (SPACE, (21, 5)), "bonds": (bonds, (len(bonds.index), 2))})


@pytest.mark.parametrize("part", ["fragment", "bonds", "types"])
def test_fields_are_completed_in_one_run_or_one_after_the_other(part):
    """The copies of a packed state do not follow one another, and neither do those of what is given."""
    space, diffusion = packed(), pairnet(pairs=2).double()
    x = draw(space.shape)
    known = space.unpack(torch.zeros(space.shape))
    i, j = SPACE.pairs
    known["atoms"][:, 3:] = part != "fragment"
    known["bonds"][:] = float(part == "bonds")
    if part == "fragment":
        known["atoms"][ROWS] = 1
        known["bonds"][ROWS[i] & ROWS[j]] = 1
    known = space.pack(known) > 0
    at_once = diffusion
    in_turn = partial(one_by_one, diffusion)
    a, b = (
        complete(p, x, 3, known=known, space=space, steps=3, seed=[5, 6])
        for p in (at_once, in_turn)
    )
    assert torch.allclose(a, b, atol=1e-10)
    kept = [space.unpack(z) for z in (x, a[0])]
    mask = space.unpack(known)
    assert torch.equal(kept[0]["bonds"][mask["bonds"]], kept[1]["bonds"][mask["bonds"]])
    features = mask["atoms"][:, 3:]
    assert torch.equal(kept[0]["atoms"][:, 3:][features], kept[1]["atoms"][:, 3:][features])


def one_by_one(diffusion, space, **cond):
    """A scale for each item has no copies."""
    p = diffusion.predictor(space, **cond)
    guided = classifier_free(p, p, torch.ones(space.items(cond["given"])))
    assert guided.copies(2) is None
    return guided


def test_guidance_in_one_call_is_that_in_two():
    space, diffusion = packed(), pairnet(pairs=2).double()
    x, known = draw(space.shape), draw(space.shape, 5) > 0.3

    def predict(space, given, batched):
        told, free = diffusion.predictor(space, given=given), diffusion.predictor(space)
        return classifier_free(told, free, 2.0, batched=batched)

    one, two = (
        complete(partial(predict, batched=batched), x, known=known, space=space, steps=3, seed=0)
        for batched in (True, False)
    )
    assert torch.allclose(one, two, atol=1e-10)
    plain = complete(diffusion, x, known=known, space=space, steps=3, seed=0)
    assert not torch.allclose(one, plain, atol=1e-3)


# networks of every kind --------------------


def test_images_and_sequences_are_completed():
    torch.manual_seed(0)
    images = GaussianDiffusion(
        Completing(awake(UNet(2, (8, 16), groups=4, classes=3)), 1), Cosine(), "v"
    )
    x = draw((2, 1, 8, 8)).float()
    left = (torch.arange(8) < 4).expand(1, 1, 8, 8)
    y = complete(
        partial(images.predictor, label=torch.tensor([0, 2])), x, 2, known=left.expand_as(x),
        steps=3, seed=0,
    )  # fmt: skip
    assert torch.equal(y[..., :4], x[..., :4].expand(2, -1, -1, -1, -1)) and y.isfinite().all()
    assert not torch.isclose(y[..., 4:], x[..., 4:]).any()

    rows = GaussianDiffusion(Completing(awake(BiRNN(6, 8, 1, observed=True))), Cosine(), "v")
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    observed = draw((2, 7, 3), 4) < 1
    space, x = Masked(mask, observed), draw((2, 7, 3)).float()
    y = complete(rows, x, known=torch.arange(7).expand(2, 7) < 3, space=space, steps=3)[0]
    kept = space.valid & (torch.arange(7) < 3)[None, :, None]
    assert torch.equal(y[kept], x[kept]) and not y[~space.valid].any()
