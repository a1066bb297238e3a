"""Fields of different row counts in one tensor: packing, spaces, a model of several fields."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from anydiff import DDIM, DDPM, Cosine, Dense, GaussianDiffusion, Masked, Ragged, exact
from anydiff.spaces import Packed, Space
from tests.helpers.spaces import (
    EDGES,
    EVERYTHING,
    MASK,
    NODES,
    OBSERVED,
    PACKED,
    SIZES,
    draw,
    generators,
)

FIELDS = {"nodes": draw((14, 5), 1), "edges": draw((56, 2), 2), "cell": draw((4, 3), 3)}


def test_packing_and_unpacking_are_inverse():
    x = PACKED.pack(FIELDS)
    assert x.shape == PACKED.shape == (70 + 112 + 12,)
    assert all(torch.equal(PACKED.unpack(x)[name], FIELDS[name]) for name in FIELDS)
    assert torch.equal(PACKED.pack(PACKED.unpack(draw(PACKED.shape))), draw(PACKED.shape))
    # the order of the fields is the space's, not the caller's
    assert torch.equal(PACKED.pack(dict(reversed(FIELDS.items()))), x)


def test_unpacked_fields_share_memory_and_gradients():
    x = draw(PACKED.shape)
    PACKED.unpack(x)["edges"].zero_()
    assert (x == 0).sum() == 112
    x.requires_grad_()
    PACKED.unpack(x)["cell"].sum().backward()
    assert torch.equal(
        x.grad, PACKED.pack({n: torch.ones_like(f) * (n == "cell") for n, f in FIELDS.items()})
    )


def test_every_operation_is_that_of_the_fields():
    parts = {name: draw(shape, k) for k, (name, (_, shape)) in enumerate(EVERYTHING.fields.items())}
    x, c = EVERYTHING.pack(parts), draw((4,), 9)
    spaces = {name: EVERYTHING[name] for name in parts}
    project, scaled = (
        EVERYTHING.unpack(EVERYTHING.project(x)),
        EVERYTHING.unpack(EVERYTHING.expand(c, x) * x),
    )
    for name, part in parts.items():
        assert torch.equal(project[name], spaces[name].project(part))
        assert torch.equal(scaled[name], spaces[name].expand(c, part) * part)
    for operation in ("sum", "dim"):
        each = [getattr(spaces[name], operation)(part) for name, part in parts.items()]
        assert torch.allclose(
            getattr(EVERYTHING, operation)(x), torch.stack(each).sum(0), atol=1e-12
        )


def test_one_field_is_that_field():
    space, x = Packed({"rows": (NODES, (14, 5))}), draw((14, 5))
    z, flat = NODES.noise(x, generators()), space.noise(x.flatten(), generators())
    assert torch.equal(flat, z.flatten())
    model = exact.gaussian(Cosine(), "eps", std=0.5)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    packed = model.loss(x.flatten(), t, space=space, noise=flat)
    assert torch.allclose(packed, model.loss(x, t, space=NODES, noise=z), atol=1e-12)


def test_the_noise_of_one_generator_goes_field_by_field():
    one, x = torch.Generator().manual_seed(3), torch.empty(PACKED.shape, dtype=torch.float64)
    z = PACKED.unpack(PACKED.noise(x, one))
    again = torch.Generator().manual_seed(3)
    for name, (space, shape) in PACKED.fields.items():
        assert torch.equal(z[name], space.noise(torch.empty(shape, dtype=torch.float64), again))


class Graph(nn.Module):
    """Unpacks, mixes nodes, edges and cell, and packs."""

    def __init__(self, learned=False):
        super().__init__()
        self.learned = learned
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x_t, t, space):
        fields, nodes = space.unpack(x_t), space["nodes"]
        i, j = nodes.edge_index
        assert torch.equal(nodes.index[i], space["edges"].index) and t.shape == (space.num_items,)
        relative = (fields["nodes"][i, :2] - fields["nodes"][j, :2]) * t[nodes.index[i], None]
        fields["edges"] = self.scale * relative + fields["edges"]
        fields["nodes"] = fields["nodes"] + fields["cell"].sum(1)[nodes.index, None]
        y = space.pack(fields)
        return (y, torch.zeros_like(y)) if self.learned else y


@pytest.mark.parametrize("sampler", [DDIM(), DDPM()], ids=str)
def test_a_network_of_several_fields_trains_and_draws(sampler):
    diffusion, x0 = GaussianDiffusion(Graph(), prediction="v"), PACKED.pack(FIELDS)
    loss = diffusion.loss(x0, space=PACKED)
    loss.sum().backward()
    assert loss.shape == (4,) and diffusion.denoiser.scale.grad != 0
    x = diffusion.sample(PACKED.shape, space=PACKED, sampler=sampler, steps=4, seed=[1, 2, 3, 4])
    assert torch.allclose(PACKED.project(x), x, atol=1e-12) and x.isfinite().all()

    # the last item by itself is the same as in its batch
    nodes = Ragged.from_sizes([7], centered=3)
    edges = Ragged(nodes.index[nodes.edge_index[0]], 1)
    one = Packed({"nodes": (nodes, (7, 5)), "edges": (edges, (42, 2)), "cell": (Dense(), (1, 3))})
    alone = diffusion.sample(one.shape, space=one, sampler=sampler, steps=4, seed=[4])
    for name, y in one.unpack(alone).items():
        assert torch.allclose(y, PACKED.unpack(x)[name][-len(y) :], atol=1e-12)


def test_a_learned_variance_follows_the_prediction():
    p = GaussianDiffusion(Graph(True)).predictor(PACKED).predict(draw(PACKED.shape), 0.5)
    assert p.y.shape == p.extra.shape == PACKED.shape and not p.extra.any()


def test_each_field_keeps_its_own_deviation():
    """A different deviation for each field: the density is the product of the fields'."""
    deviations = {"nodes": 0.5, "edges": 2.0, "cell": 0.1}
    std = PACKED.pack({name: torch.full_like(f, deviations[name]) for name, f in FIELDS.items()})
    model = exact.Gaussian(Cosine(), "v", std=std)
    x = model.draw(PACKED.shape, space=PACKED, generator=torch.Generator().manual_seed(0))
    separate = [
        exact.Gaussian(Cosine(), "v", std=deviations[name]).log_prob(part, 0.3, space=PACKED[name])
        for name, part in PACKED.unpack(x).items()
    ]
    together = model.log_prob(x, 0.3, space=PACKED)
    assert torch.allclose(together, torch.stack(separate).sum(0), atol=1e-9)


WEIGHTS = {"edges": 0.25, "cell": 4}
WEIGHTED = Packed(PACKED.fields, WEIGHTS)


def test_a_loss_is_the_weighted_mean_of_the_fields_errors():
    model, x0 = exact.gaussian(Cosine(), "eps", std=0.5), PACKED.project(PACKED.pack(FIELDS))
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    z = PACKED.noise(x0, torch.Generator().manual_seed(0))
    total = dims = 0.0
    for name, noise in PACKED.unpack(z).items():
        space, part, w = PACKED[name], PACKED.unpack(x0)[name], WEIGHTS.get(name, 1)
        dim = space.dim(part)
        total = total + w * dim * model.loss(part, t, space=space, noise=noise)
        dims = dims + w * dim
    loss = model.loss(x0, t, space=WEIGHTED, noise=z)
    assert torch.allclose(loss, total / dims, atol=1e-12)
    assert (loss - model.loss(x0, t, space=PACKED, noise=z)).abs().min() > 1e-3

    # the first item has no edges: its error is that of its node and cell
    alike = Packed(PACKED.fields, {"edges": 0.25})
    plain = model.loss(x0, t, space=PACKED, noise=z)
    assert torch.equal(model.loss(x0, t, space=alike, noise=z)[0], plain[0])


def test_weights_are_relative_and_none_change_nothing():
    x = draw(PACKED.shape)
    by_hand = PACKED.sum(x) / PACKED.dim(x)
    assert torch.equal(PACKED.mean(x), by_hand)
    for weights in ({}, dict.fromkeys(FIELDS, 1), dict.fromkeys(FIELDS, 8.0)):
        assert torch.equal(Packed(PACKED.fields, weights).mean(x), by_hand)
    more = Packed(PACKED.fields, {n: 3 * WEIGHTS.get(n, 1) for n in FIELDS})
    assert torch.allclose(more.mean(x), WEIGHTED.mean(x), atol=1e-14)
    # a field of little weight counts, if the item has nothing else
    small = Packed(
        {"a": (Dense(), (2, 1)), "b": (Ragged.from_sizes([1, 1], 3), (2, 3))}, {"a": 0.1}
    )
    assert torch.allclose(
        small.mean(torch.tensor([3.0, 5.0, *[0.0] * 6])), torch.tensor([3.0, 5.0])
    )


def test_weights_leave_sums_dimensions_and_likelihoods_alone():
    x = WEIGHTED.project(draw(PACKED.shape))
    for operation in ("sum", "dim", "diagonal", "project"):
        assert torch.equal(getattr(WEIGHTED, operation)(x), getattr(PACKED, operation)(x))
    model = exact.Gaussian(Cosine(), "v", std=0.5)
    weighted, plain = (model.log_prob(x, 0.3, space=space) for space in (WEIGHTED, PACKED))
    assert torch.equal(weighted, plain)


def test_weights_stay_with_copies_devices_and_fields_of_fields():
    x, y = draw(PACKED.shape, 0), draw(PACKED.shape, 1)
    means = torch.cat([WEIGHTED.mean(x), WEIGHTED.mean(y)])
    assert torch.allclose(WEIGHTED.copies(2).mean(WEIGHTED.join([x, y])), means, atol=1e-14)
    assert WEIGHTED.to("meta").weights == WEIGHTED.weights == WEIGHTS
    within = Packed({"all": (WEIGHTED, WEIGHTED.shape)})
    assert torch.equal(within.mean(x), WEIGHTED.mean(x))


class Scales(nn.Module):
    """A multiple of x_t for each field: the form of the best estimate of Gaussian data."""

    def __init__(self, factor):
        super().__init__()
        self.factors = nn.ParameterDict({n: nn.Parameter(torch.tensor(factor)) for n in FIELDS})

    def forward(self, x_t, t, space):
        return space.pack({n: self.factors[n] * x for n, x in space.unpack(x_t).items()})


def test_weights_leave_the_optimum_where_it_is():
    """Data of another deviation per field: the best factor is σ / (α² std² + σ²), at any weights."""
    deviations = {"nodes": 0.5, "edges": 2.0, "cell": 0.1}
    std = PACKED.pack({name: torch.full_like(f, deviations[name]) for name, f in FIELDS.items()})
    at = Cosine()._at(torch.tensor(0.5, dtype=torch.float64))
    draws, steepness = 100, {}
    for space in (PACKED, WEIGHTED):
        slopes = []
        for factor in (0.0, 1.0):
            generator = torch.Generator().manual_seed(0)
            diffusion = GaussianDiffusion(Scales(factor).double(), Cosine(), "eps")
            for _ in range(draws):
                x0 = std * space.noise(std, generator)
                diffusion.loss(x0, 0.5, space=space, generator=generator).mean().backward()
            slopes.append({n: p.grad / draws for n, p in diffusion.denoiser.factors.items()})
        for name, s in deviations.items():
            # the loss is a parabola in each factor, so two slopes tell its minimum
            steepness[space is WEIGHTED, name] = slopes[1][name] - slopes[0][name]
            found = -slopes[0][name] / steepness[space is WEIGHTED, name]
            best = at.sigma / (at.alpha**2 * s**2 + at.sigma**2)
            # a regression on at least 12 numbers a draw: five standard errors
            assert abs(found - best) < 5 / math.sqrt(12 * draws)
    # how steep it is follows the weights
    ratio = {n: steepness[True, n] / steepness[False, n] for n in FIELDS}
    assert ratio["cell"] > 2 * ratio["nodes"] > 4 * ratio["edges"]


@dataclass(frozen=True)
class Symmetric(Space):
    """(B, n, n): matrices that are their own transpose. A space of somebody else's."""

    def expand(self, c, x):
        return c[:, None, None] if isinstance(c, torch.Tensor) and c.ndim else c

    def project(self, x):
        return (x + x.mT) / 2

    def sum(self, x):
        return x.sum((1, 2))

    def dim(self, x):
        n = x.shape[1]
        return torch.full((len(x),), n * (n + 1) / 2, dtype=x.dtype)

    def noise(self, x, generator=None):
        return self.project(Dense().noise(x, generator))


def test_a_space_of_one_s_own_is_a_field():
    assert isinstance(Symmetric(), Space)
    space = Packed({"rows": (Dense(), (4, 3)), "bonds": (Symmetric(), (4, 6, 6))})
    assert space.dim(draw(space.shape)).tolist() == [3 + 21] * 4
    x = exact.gaussian(Cosine(), std=0.5).sample(space.shape, space=space, steps=20, seed=0)
    bonds = space.unpack(x)["bonds"]
    assert torch.allclose(bonds, bonds.mT, atol=1e-12)
    # the trace of P, and with it the loss of an item, is right: |z|² / dim is 1; five standard errors
    norms = [space.sum(space.noise(x, torch.Generator().manual_seed(s)) ** 2) for s in range(1000)]
    assert abs(torch.stack(norms).mean() / 24 - 1) < 5 * math.sqrt(2 / 24 / 4000)


def test_nothing_of_a_field_in_the_whole_batch():
    nodes = Ragged.from_sizes([1, 1])
    edges = Ragged(nodes.index[nodes.edge_index[0]], 2)
    space = Packed({"nodes": (nodes, (2, 3)), "edges": (edges, (0, 4))})
    assert space.dim(draw(space.shape)).tolist() == [3.0, 3.0]
    z = space.noise(draw(space.shape), generators()[:2])
    assert z.shape == (6,) and space.unpack(z)["edges"].shape == (0, 4)


def test_to_moves_every_field():
    moved = EVERYTHING.to("meta")
    assert moved["masked"].mask.is_meta and moved["observed"].observed.is_meta
    assert moved["centered"].index.is_meta and moved["centered"].centered == 3
    assert moved.shape == EVERYTHING.shape and moved.num_items == 4


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Packed({}), "no field"),
        (lambda: Packed({"rows": (NODES, (13, 5))}), "field 'rows': x has 13 rows"),
        (lambda: Packed({"rows": (NODES, (14, 2))}), "field 'rows': .* centred"),
        (
            lambda: Packed({"a": (NODES, (14, 5)), "b": (Dense(), (3, 2))}),
            "field 'b' has 3 items, not 4; use one batch for all",
        ),
        (
            lambda: Packed({"x": (Masked(MASK, OBSERVED), (4, 7, 2))}),
            r"field 'x': x is .* 2\) .*, not .* 3\)",
        ),
        (
            lambda: Packed(PACKED.fields, {"bonds": 0.3}),
            "a field of the weights is 'bonds'; choose one of 'nodes', 'edges', 'cell'",
        ),
        (lambda: Packed(PACKED.fields, 0.3), "weights is 0.3; give numbers by field"),
        (lambda: Packed(PACKED.fields, {"edges": 0}), r"weights\['edges'\] is 0; .* \(0, inf\)"),
        (lambda: Packed(PACKED.fields, {"edges": math.nan}), r"weights\['edges'\] is nan"),
        (lambda: Packed(PACKED.fields, {"edges": math.inf}), r"weights\['edges'\] is inf"),
        (lambda: Packed(PACKED.fields, {"edges": "0.3"}), r"weights\['edges'\] is '0.3'; give a"),
        (lambda: PACKED.pack({"nodes": FIELDS["nodes"]}), "give nodes, edges, cell"),
        (lambda: PACKED.pack(FIELDS | {"extra": draw((4, 3))}), "give nodes, edges, cell"),
        (
            lambda: PACKED.pack(FIELDS | {"edges": draw((55, 2))}),
            r"edges is \(55, 2\) .*, not \(56, 2\)",
        ),
        (
            lambda: PACKED.pack(FIELDS | {"edges": FIELDS["edges"].float()}),
            "edges is .* of torch.float32, not .* of torch.float64",
        ),
        (
            lambda: PACKED.pack(FIELDS | {"nodes": torch.ones(14, 5).long()}),
            "nodes is .* of torch.int64, .* one floating dtype",
        ),
        (lambda: PACKED.unpack(draw((193,))), r"x is \(193,\).* edges \(56, 2\)"),
        (lambda: PACKED.project(draw((14, 5))), "same batch"),
        (lambda: PACKED.noise(draw(PACKED.shape), generators()[:3]), "3 generators for 4 items"),
    ],
)
def test_errors_name_the_field_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_unknown_field_is_named():
    with pytest.raises(KeyError, match="no field 'bonds'; there are nodes, edges, cell"):
        PACKED["bonds"]
    assert PACKED["edges"] is EDGES and PACKED.num_items == len(SIZES)
