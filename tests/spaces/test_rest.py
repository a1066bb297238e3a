"""What is left when a part is known is a space again: its laws, its noise, models in it."""

import math

import pytest
import torch

from anydiff import Cosine, GaussianDiffusion, exact
from anydiff.likelihood import log_prob
from anydiff.losses import Hybrid
from anydiff.spaces import Dense, Packed, Ragged, Rest
from tests.helpers.spaces import EVERYTHING, NODES, PACKED, SIZES, SPACES, Bare, draw, generators

SPACES = SPACES | {"everything": (EVERYTHING, EVERYTHING.shape)}
BODY = torch.arange(14) % 3 > 0  # rows of every item but the first, of one row


def masks(shape):
    """Entries at random; and whole rows, as (N,) where the state has rows."""
    half = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5
    return [half, half[:, 0]] if len(shape) == 2 else [half]


RESTS = {
    f"{kind}, {known.ndim} axes": (Rest(space, known), shape)
    for kind, (space, shape) in SPACES.items()
    for known in masks(shape)
}
RESTS["body"] = Rest(NODES, BODY), (14, 5)
every_rest = pytest.mark.parametrize("space, shape", RESTS.values(), ids=RESTS.keys())
every_kind = pytest.mark.parametrize("space, shape", SPACES.values(), ids=SPACES.keys())


def matrix(space, shape):
    n = torch.Size(shape).numel()
    rows = [space.project(e.reshape(shape)).flatten() for e in torch.eye(n).double()]
    return torch.stack(rows)


def items_of(space, shape):
    """The item of each entry."""
    return space.expand(torch.arange(4), draw(shape)).expand(shape).flatten()


# the laws of a space --------------------


@every_rest
def test_it_is_an_orthogonal_projection_within_the_space(space, shape):
    P, whole = matrix(space, shape), matrix(space.space, shape)
    assert torch.allclose(P, P.T, atol=1e-14) and torch.allclose(P @ P, P, atol=1e-14)
    assert torch.allclose(P @ whole, P, atol=1e-14)
    x = draw(shape)
    part = space.space.restrict(x, known_of(space, shape))
    assert torch.allclose(space.project(x) + part, space.space.project(x), atol=1e-14)
    assert space.project(part).abs().max() < 1e-14  # what is known is not in it


def known_of(space, shape):
    return space.known.reshape(*space.known.shape, *[1] * (len(shape) - space.known.ndim)).expand(
        shape
    )


@every_rest
def test_the_dimension_of_an_item_is_its_trace_exactly(space, shape):
    diagonal, item = matrix(space, shape).diagonal(), items_of(space, shape)
    trace = torch.zeros(4, dtype=torch.float64).index_add(0, item, diagonal)
    assert torch.allclose(space.dim(draw(shape)), trace, atol=1e-10)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(space.dim(draw(shape).to(dtype)), trace.round().to(dtype))
    assert (trace < space.space.dim(draw(shape))).any()
    assert torch.allclose(space.diagonal(draw(shape)).flatten(), diagonal, atol=1e-14)
    free = torch.equal(matrix(space, shape), diagonal.diag())
    assert free or not space.free


@every_rest
def test_the_noise_is_that_of_the_space_and_each_item_s_own(space, shape):
    x = torch.empty(shape, dtype=torch.float64)
    z = space.noise(x, generators())
    whole = space.space.noise(x, generators())
    assert torch.allclose(z, space.project(whole), atol=1e-14)
    assert torch.allclose(space.project(z), z, atol=1e-14)
    with pytest.raises(ValueError, match="2 generators for 4 items"):
        space.noise(x, generators()[:2])


@every_kind
def test_nothing_known_changes_nothing(space, shape):
    nothing = Rest(space, torch.zeros(shape, dtype=torch.bool))
    x, model = space.project(draw(shape)), exact.gaussian(Cosine(), "v", std=0.6)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    assert nothing.free == space.free
    for dtype in (torch.float32, torch.float64):
        y = x.to(dtype)
        assert torch.equal(nothing.project(y), space.project(y))
        assert torch.equal(nothing.dim(y), space.dim(y)) and torch.equal(
            nothing.sum(y), space.sum(y)
        )
        losses = [model.loss(y, t, space=s, generator=generators()) for s in (space, nothing)]
        assert torch.equal(*losses)


@every_kind
def test_all_known_leaves_nothing(space, shape):
    everything = Rest(space, torch.ones(shape, dtype=torch.bool))
    x, model = draw(shape).float(), exact.gaussian(Cosine(), "v", mean=0.3, std=0.6)
    zero = torch.zeros(4)
    for x0 in (x, x.double()):
        assert torch.equal(everything.dim(x0), zero.to(x0.dtype))
        assert not everything.project(x0).any() and not everything.noise(x0).any()
        assert torch.equal(model.loss(x0, space=everything), zero.to(x0.dtype))


def test_what_is_known_of_one_item_leaves_the_others_alone():
    known = torch.zeros(14, dtype=torch.bool)
    known[NODES.index == 1] = True
    space, x, model = Rest(NODES, known), draw((14, 5)), exact.gaussian(Cosine(), "eps", std=0.6)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    rest, whole = (model.loss(x, t, space=s, generator=generators()) for s in (space, NODES))
    assert rest[1] == 0 and torch.equal(rest[[0, 2, 3]], whole[[0, 2, 3]])
    # by itself an item has the loss that it has in the batch
    space = Rest(NODES, BODY)
    rest = model.loss(x, t, space=space, generator=generators())
    alone = Rest(Ragged.from_sizes(SIZES[3:], centered=3), BODY[7:])
    own = model.loss(x[7:], t[3:], space=alone, generator=generators()[3:])
    assert torch.allclose(own, rest[3:], atol=1e-14)


def test_the_known_rows_of_a_centred_item_move_as_one_body():
    space = Rest(NODES, BODY)
    z = space.noise(torch.empty(14, 5, dtype=torch.float64), torch.Generator().manual_seed(0))
    for m in range(4):
        rows = z[(NODES.index == m) & BODY]
        assert torch.allclose(rows[:, :3], rows[:1, :3].expand_as(rows[:, :3]), atol=1e-14)
        assert not rows[:, 3:].any()
    assert z[BODY, :3].abs().min() > 0
    assert torch.allclose(NODES.center(z[:, :3]), z[:, :3], atol=1e-14)


def test_values_that_are_known_never_count():
    known = draw((4, 3, 5)) > 0
    space, x = Rest(Dense(), known), draw((4, 3, 5))
    spoiled = x.masked_fill(known, float("nan"))
    assert torch.equal(space.sum(spoiled), space.sum(x))
    assert torch.equal(space.sum(x), Dense().sum(x * ~known))


@every_rest
def test_copies_are_the_batch_several_times(space, shape):
    x, y = draw(shape, 0), draw(shape, 1)
    twice, both = space.copies(2), space.join([x, y])
    assert twice is space.copies(2) and isinstance(twice, Rest) and space.items(x) == 4
    for part, whole in zip(space.separate(both, 2), (x, y), strict=True):
        assert torch.equal(part, whole)
    projected = space.separate(twice.project(both), 2)
    for part, whole in zip(projected, (x, y), strict=True):
        assert torch.allclose(part, space.project(whole), atol=1e-14)
    assert torch.equal(twice.dim(both), space.dim(x).repeat(2))
    c = draw((8,), 5)
    scaled = space.separate(twice.expand(c, both) * both, 2)
    assert torch.equal(scaled[1], space.expand(c[4:], y) * y)


def test_one_mask_for_all_items_is_one_for_all_copies():
    space = Rest(Dense(), (torch.arange(5) < 2)[None, None])
    x = draw((4, 3, 5))
    assert space.dim(x).tolist() == [9.0] * 4
    twice = space.copies(2)
    assert torch.equal(twice.project(space.join([x, -x])), space.join([space.project(x)] * 2)
                       * space.join([torch.ones_like(x), -torch.ones_like(x)]))  # fmt: skip


def test_a_space_without_copies_has_none_here():
    assert Rest(Bare(torch.ones(2)), torch.ones(4, 3) > 0).copies(2) is None


def test_to_moves_the_space_and_what_is_known():
    moved = Rest(EVERYTHING, torch.zeros(EVERYTHING.shape) > 0).to("meta")
    assert moved.known.is_meta and moved.space["masked"].mask.is_meta


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Rest(Dense, torch.ones(3) > 0), ValueError, "space is the class Dense; call it"),
        (lambda: Rest(Dense(), torch.ones(3)), ValueError, r"known is .* of torch.bool; it is True"),
        (lambda: Rest(Dense(), None), ValueError, "known is None"),
        (
            lambda: Rest(NODES, BODY[:13]).project(draw((14, 5))),
            ValueError,
            r"known is \(13,\) and x \(14, 5\); give it x's shape",
        ),
        (
            lambda: Rest(Bare(torch.ones(2)), torch.ones(4, 3) > 0).project(draw((4, 3))),
            NotImplementedError,
            "Bare has no method `restrict",
        ),
        (
            lambda: Rest(NODES, BODY).restrict(draw((14, 5)), BODY),
            NotImplementedError,
            "Rest has no method `restrict",
        ),
        (
            lambda: Rest(Rest(NODES, BODY), BODY).dim(draw((14, 5))),
            NotImplementedError,
            r"Rest has no method `diagonal\(x, mask\)`",
        ),
    ],
)  # fmt: skip
def test_errors_name_the_value_and_the_way_out(call, error, message):
    with pytest.raises(error, match=message):
        call()


@every_rest
def test_the_mean_is_the_sum_over_the_dimension(space, shape):
    for dtype in (torch.float32, torch.float64):
        x = draw(shape).to(dtype)
        dim = space.dim(x)
        mean = space.sum(x) / torch.where(dim > 0, dim, 1)
        assert torch.allclose(space.mean(x), mean, rtol=1e-5 if dtype == torch.float32 else 1e-12)


def test_weights_of_fields_hold_for_what_is_left_of_them():
    """The weighted mean over what is left, each field with its own dimension."""
    weights = {"edges": 0.25, "cell": 4.0}
    inner = Packed(PACKED.fields, weights)
    known = draw(PACKED.shape, 7) > 0.3
    space, x = Rest(inner, known), PACKED.project(draw(PACKED.shape))
    total = dims = 0.0
    for name, part in PACKED.unpack(x).items():
        rest = Rest(PACKED[name], PACKED.unpack(known)[name])
        total = total + weights.get(name, 1.0) * rest.sum(part)
        dims = dims + weights.get(name, 1.0) * rest.dim(part)
    assert torch.allclose(space.mean(x), total / dims, atol=1e-13)
    # a field of which all is known counts no more
    edges = PACKED.unpack(torch.zeros(PACKED.shape) > 0)
    edges["edges"][:] = True
    left = Rest(inner, torch.cat([m.flatten() for m in edges.values()]))
    alone = Packed({n: f for n, f in PACKED.fields.items() if n != "edges"}, {"cell": 4.0})
    parts = PACKED.unpack(x)
    own = alone.mean(torch.cat([parts["nodes"].flatten(), parts["cell"].flatten()]))
    assert torch.allclose(left.mean(x), own, atol=1e-13)


# models in it --------------------


@every_rest
def test_samples_stay_in_it(space, shape):
    x = exact.gaussian(Cosine(), "v", mean=0.3, std=0.6).sample(
        shape, space=space, steps=5, seed=[1, 2, 3, 4]
    )
    assert torch.allclose(space.project(x), x, atol=1e-12) and x.isfinite().all()
    assert not x[space.diagonal(x) == 0].any() and x.any()


@pytest.mark.parametrize("kind", ["observed, 3 axes", "body"])
def test_the_exact_likelihood_is_that_of_the_rest(kind):
    """Data of one deviation have it in the rest too; items of which nothing is left have density 1."""
    space, shape = RESTS[kind]
    model = exact.gaussian(Cosine(-20.0), "v", std=0.6)
    x = model.denoiser.draw(shape, space=space, generator=torch.Generator().manual_seed(0))
    found = log_prob(
        model.predictor(space), x, trace="exact", logsnr_min=-20.0, rtol=1e-6, atol=1e-6
    )
    dim, squares = space.dim(x), space.sum(x.square())
    expected = -0.5 * (squares / 0.36 + dim * math.log(2 * math.pi * 0.36))
    # as of the tests of the likelihood: the prior's variance is not quite the last state's
    assert torch.allclose(found, expected, rtol=0, atol=1e-3)


def test_a_learned_variance_counts_only_what_is_left():
    """The term of the bound is a sum over entries: those that are known add nothing to it."""

    class Both(torch.nn.Module):
        def forward(self, x_t, t, space):
            return 0.1 * x_t, torch.ones_like(x_t) + self.known

    network = Both()
    known = torch.arange(5) < 2
    space, x = Rest(Dense(), known.expand(4, 5)), draw((4, 5))
    t = torch.full((4,), 0.5, dtype=torch.float64)
    losses = []
    for spoil in (0.0, 3.0):
        network.known = spoil * known
        model = GaussianDiffusion(network, Cosine(), "eps", error=Hybrid(10))
        losses.append(model.loss(x, t, space=space, generator=generators()))
    assert torch.equal(*losses) and (losses[0] > 0).all()
