"""A space is an orthogonal projection, and its noise is the standard normal there."""

import pytest
import torch

from anydiff import Cosine, exact, inpaint
from anydiff.samplers import DDPM
from anydiff.samplers.variances import tied
from anydiff.spaces import Dense, Masked, Packed, Ragged, Space
from tests.helpers.spaces import MASK, OBSERVED, SIZES, Bare, draw, every_space, generators


@every_space
def test_projection_is_idempotent_and_symmetric(space, shape):
    x, y = draw(shape, 0), draw(shape, 1)
    once = space.project(x)
    assert torch.allclose(space.project(once), once, atol=1e-14)
    assert torch.allclose((space.project(y) * x).sum(), (y * once).sum(), atol=1e-12)


@every_space
def test_dimension_is_the_trace_of_the_projection(space, shape):
    n = torch.Size(shape).numel()
    matrix = torch.stack([space.project(e.reshape(shape)).flatten() for e in torch.eye(n).double()])
    assert torch.allclose(space.dim(draw(shape)).sum(), matrix.trace(), atol=1e-10)
    assert len(space.dim(draw(shape))) == 4


@every_space
def test_the_mean_is_the_sum_over_the_dimension(space, shape):
    x = draw(shape)
    dim = space.dim(x)
    assert torch.equal(space.mean(x), space.sum(x) / torch.where(dim > 0, dim, 1))


@every_space
def test_the_diagonal_is_the_projection_s(space, shape):
    n, x = torch.Size(shape).numel(), draw(shape)
    matrix = torch.stack([space.project(e.reshape(shape)).flatten() for e in torch.eye(n).double()])
    assert torch.allclose(space.diagonal(x).flatten(), matrix.diagonal(), atol=1e-14)
    assert torch.allclose(space.sum(space.diagonal(x)), space.dim(x), atol=1e-12)


@every_space
def test_the_covariance_of_the_noise_is_the_projection(space, shape):
    """E (u z)² = |P u|² for every direction u; chi-squared of one degree, five standard errors."""
    n, x, draws = torch.Size(shape).numel(), torch.empty(shape, dtype=torch.float64), 4000
    generator = torch.Generator().manual_seed(1)
    z = torch.stack([space.noise(x, generator).flatten() for _ in range(draws)])
    u = draw((6, n), 2)  # random directions, and their differences by the parallelogram law
    u = torch.cat([u, u[:1] + u[1:], u[:1] - u[1:]])
    measured = (z @ u.T).square().mean(0)
    expected = torch.stack([space.project(v.reshape(shape)).square().sum() for v in u])
    assert ((measured / expected - 1).abs() < 5 * (2 / draws) ** 0.5).all()


@every_space
def test_noise_is_standard_normal_in_the_space(space, shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.empty(shape, dtype=torch.float64)
    norms = torch.stack([space.sum(space.noise(x, generator) ** 2) for _ in range(4000)])
    # |z|² of d dimensions is chi-squared: mean d, variance 2 d; five standard errors
    dim = space.dim(x)
    assert ((norms.mean(0) - dim).abs() <= 5 * (2 * dim / 4000).sqrt()).all()
    z = space.noise(x, generator)
    assert torch.allclose(space.project(z), z, atol=1e-14)


@every_space
def test_an_items_noise_does_not_depend_on_its_batch(space, shape):
    x = torch.empty(shape, dtype=torch.float64)
    z = space.noise(x, generators())
    if isinstance(space, Ragged):
        alone = Ragged.from_sizes([SIZES[3]], centered=space.centered)
        assert torch.equal(alone.noise(x[-SIZES[3] :], generators()[3:]), z[-SIZES[3] :])
    elif isinstance(space, Masked):
        observed = None if space.observed is None else space.observed[1:2, :4]
        alone = Masked(torch.ones(1, 4, dtype=torch.bool), observed)
        assert torch.equal(alone.noise(x[1:2, :4], generators()[1:2])[0], z[1, :4])
    elif isinstance(space, Packed):
        nodes, edges = Ragged.from_sizes([7], centered=3), Ragged.from_sizes([42])
        alone = {"nodes": (nodes, (7, 5)), "edges": (edges, (42, 2)), "cell": (Dense(), (1, 3))}
        alone, batch = Packed(alone), space.unpack(z)
        for name, y in alone.unpack(alone.noise(x[: alone.shape[0]], generators()[3:])).items():
            assert torch.equal(y, batch[name][-len(y) :])
    else:
        assert torch.equal(space.noise(x[2:3], generators()[2:3])[0], z[2])
    with pytest.raises(ValueError, match="2 generators for 4 items"):
        space.noise(x, generators()[:2])


@every_space
def test_expand_gives_each_item_its_value(space, shape):
    x, c = draw(shape), torch.tensor([1.0, 2.0, 3.0, 4.0]).double()
    scaled = space.sum((space.expand(c, x) * x) ** 2)
    assert torch.allclose(scaled, c**2 * space.sum(x**2))
    assert space.expand(2.5, x) == 2.5


@every_space
def test_spaces_are_spaces(space, shape):
    assert isinstance(space, Space)


@every_space
def test_a_free_projection_is_one_whose_matrix_is_diagonal(space, shape):
    n = torch.Size(shape).numel()
    matrix = torch.stack([space.project(e.reshape(shape)).flatten() for e in torch.eye(n).double()])
    assert space.free == torch.equal(matrix, matrix.diagonal().diag())


@every_space
def test_copies_are_the_batch_several_times_and_remembered(space, shape):
    x, y = draw(shape, 0), draw(shape, 1)
    assert space.items(x) == 4
    twice = space.copies(2)
    assert space.copies(2) is twice and space.copies(3) is space.copies(3)
    both = space.join([x, y])
    assert twice.items(both) == 8
    for part, whole in zip(space.separate(both, 2), (x, y), strict=True):
        assert torch.equal(part, whole)
    projected = space.separate(twice.project(both), 2)
    assert torch.allclose(projected[0], space.project(x), atol=1e-14)
    assert torch.allclose(projected[1], space.project(y), atol=1e-14)
    assert torch.equal(twice.dim(both), space.dim(x).repeat(2))


def test_five_methods_make_a_space():
    with pytest.raises(TypeError, match=r"dim\W+expand\W+noise\W+project\W+sum"):
        Space()
    space, x = Bare(torch.ones(2)), draw((4, 3))
    assert space.items(x) == 4 and not space.free and space.copies(2) is None
    assert torch.equal(space.join([x, x + 1]), torch.cat([x, x + 1]))
    assert space.to("meta").weight.is_meta
    model = exact.gaussian(Cosine(), std=0.5)
    drawn = model.sample((4, 3), space=space, steps=4, seed=[0, 1, 2, 3])
    assert torch.allclose(space.project(drawn), drawn, atol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s, x: s.diagonal(x), r"Bare has no method `diagonal\(x\)`.* it gives the diagonal"),
        (
            lambda s, x: s.restrict(x, x > 0),
            r"Bare has no method `restrict\(x, mask\)`.* zero outside",
        ),
        (lambda s, x: tied(x, s), "no method `diagonal"),
        (
            lambda s, x: exact.Gaussian(Cosine(), std=torch.ones(3)).log_prob(x, space=s),
            "no method `diagonal",
        ),
        (
            lambda s, x: inpaint(
                exact.gaussian(Cosine()).predictor(s), x, x > 0, sampler=DDPM(), steps=2
            ),
            "no method `restrict",
        ),
    ],
)
def test_what_a_space_lacks_is_named(call, message):
    with pytest.raises(NotImplementedError, match=message):
        call(Bare(torch.ones(2)), draw((4, 3)))


def test_masked_padding_never_counts():
    space, x = Masked(MASK), draw((4, 7, 3))
    spoiled = x.masked_fill(~MASK[..., None], float("nan"))
    assert torch.equal(space.sum(spoiled), space.sum(x))
    assert torch.equal(space.dim(x), 3.0 * torch.tensor(SIZES))


def test_what_was_not_observed_never_counts():
    space, x = Masked(MASK, OBSERVED), draw((4, 7, 3))
    known = MASK[..., None] & OBSERVED
    assert torch.equal(space.valid, known)
    spoiled = x.masked_fill(~known, float("nan"))
    assert torch.equal(space.sum(spoiled), space.sum(x))
    assert torch.equal(space.project(spoiled), space.project(x))
    assert torch.equal(space.dim(x), known.sum((1, 2)).double())
    assert space.lengths.tolist() == SIZES  # an unobserved row is still a row in time
    everything = Masked(MASK, torch.ones_like(OBSERVED))
    assert torch.equal(everything.dim(x), Masked(MASK).dim(x))
    assert torch.equal(everything.project(x), Masked(MASK).project(x))


def test_what_is_observed_does_not_change_the_noise_of_the_rest():
    x = torch.empty(4, 7, 3, dtype=torch.float64)
    whole, part = Masked(MASK), Masked(MASK, OBSERVED)
    z = whole.noise(x, generators())
    assert torch.equal(part.noise(x, generators()), part.project(z))


def test_masked_from_lengths():
    assert torch.equal(Masked.from_lengths(SIZES).mask, MASK)
    assert torch.equal(Masked.from_lengths(torch.tensor(SIZES), size=7).mask, MASK)
    wide = Masked.from_lengths(SIZES, size=9)
    assert wide.mask.shape == (4, 9) and wide.lengths.tolist() == SIZES


def test_ragged_structure():
    space = Ragged.from_sizes(SIZES)
    assert space.sizes.tolist() == SIZES
    assert space.ptr.tolist() == [0, 1, 5, 7, 14]
    pairs = {
        (i, j) for i in range(14) for j in range(14) if i != j and space.index[i] == space.index[j]
    }
    assert set(map(tuple, space.edge_index.T.tolist())) == pairs
    assert space.edge_index.shape[1] == len(pairs)
    assert (space.edge_index[0].diff() >= 0).all()
    assert space.edge_index is space.edge_index  # built once


def test_ragged_of_single_rows_has_no_edges():
    assert Ragged.from_sizes([1, 1]).edge_index.shape == (2, 0)


def test_pairs_are_the_unordered_edges_in_order():
    space = Ragged.from_sizes(SIZES, centered=3)
    pairs = [
        (i, j) for i in range(14) for j in range(i + 1, 14) if space.index[i] == space.index[j]
    ]
    assert list(map(tuple, space.pairs.T.tolist())) == pairs
    of_pairs = space.pair_space
    assert of_pairs.sizes.tolist() == [0, 6, 1, 21] and of_pairs.centered == 0
    assert torch.equal(of_pairs.index, space.index[space.pairs[1]])
    assert of_pairs is space.pair_space  # built once
    # the pairs of copies are copies of the pairs
    assert torch.equal(space.copies(3).pair_space.index, of_pairs.copies(3).index)


@pytest.mark.parametrize("sizes", [[1], [1, 1], [2], [1, 2, 1], []], ids=str)
def test_the_pairs_of_small_items(sizes):
    index = torch.repeat_interleave(torch.tensor(sizes, dtype=torch.long))
    space = Ragged(index, len(sizes))
    count = [n * (n - 1) // 2 for n in sizes]
    assert space.pairs.shape == (2, sum(count)) and space.pair_space.sizes.tolist() == count
    first, last = space.edge_index
    assert torch.equal(space.pairs, space.edge_index[:, first < last])


def test_centering_makes_the_mean_zero_and_keeps_the_rest():
    space, x = Ragged.from_sizes(SIZES, centered=3), draw((14, 5)) + 7
    y = space.project(x)
    means = torch.stack([part.mean(0) for part in y[:, :3].split(SIZES)])
    assert means.abs().max() < 1e-14
    assert torch.equal(y[:, 3:], x[:, 3:])


def test_to_moves_the_structure_and_keeps_what_is_built():
    space = Ragged.from_sizes(SIZES, centered=3)
    edges, pairs, of_pairs = space.edge_index, space.pairs, space.pair_space
    moved = space.to("cpu")
    assert torch.equal(moved.__dict__["edge_index"], edges) and moved.centered == 3
    assert torch.equal(moved.__dict__["pairs"], pairs)
    assert torch.equal(moved.__dict__["pair_space"].index, of_pairs.index)
    assert space.to("meta").__dict__["pair_space"].index.is_meta
    assert torch.equal(moved.__dict__["sizes"], space.sizes)
    assert torch.equal(Masked(MASK).to("cpu").mask, MASK)
    assert torch.equal(Masked(MASK, OBSERVED).to("cpu").observed, OBSERVED)
    assert Masked(MASK, OBSERVED).to("meta").observed.is_meta


def test_an_item_without_rows_has_no_dimension():
    space = Ragged(torch.tensor([1, 1, 1]), 3, centered=2)
    assert space.dim(draw((3, 4))).tolist() == [0.0, 10.0, 0.0]
    assert space.noise(draw((3, 4)), generators()[:3]).isfinite().all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Ragged.from_sizes(SIZES, centered=3).dim(draw((14, 2))), "the 3 centred columns"),
        (lambda: Ragged.from_sizes(SIZES, centered=1).project(draw((14, 2, 2))), "give rows"),
        (
            lambda: Ragged(torch.tensor([0, 1, 0]), 2).noise(draw((3, 2)), generators()[:2]),
            "the index does not ascend; sort the rows",
        ),
        (lambda: Ragged.from_sizes([3, 0]), "at least 1"),
        (
            lambda: Ragged.from_sizes(SIZES).project(draw((13, 5))),
            "x has 13 rows, not 14; use one batch for both",
        ),
        (lambda: Masked(MASK.float()), "mask is .* of torch.float32, not .* of torch.bool"),
        (lambda: Masked(MASK).project(draw((4, 6, 3))), "same batch"),
        (
            lambda: Masked(MASK, OBSERVED.float()),
            "observed is .* of torch.float32, not .* torch.bool",
        ),
        (lambda: Masked(MASK, OBSERVED[:, :6]), r"observed is \(4, 6, 3\) .*, not \(4, 7, \*\)"),
        (
            lambda: Masked(MASK, OBSERVED).noise(draw((4, 7, 2))),
            r"not \(4, 7, 3\); build the space",
        ),
        (lambda: Masked.from_lengths([3, 0]), "at least 1"),
        (lambda: Masked.from_lengths([]), r"items is 0; give a number in \[1, inf\)"),
        (lambda: Masked.from_lengths([3, 5], size=4), r"size is 4; give a number in \[5, inf\)"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
