import json

import numpy as np
import pytest
import torch

from anydiff.data.sequences import (
    LengthDistribution,
    Scaling,
    SequenceDataset,
    SequenceError,
    Sequences,
    loader,
    pad,
    pairs,
    split_items,
    unpack,
)

NAN = float("nan")


def draw(num=40, channels=2, missing=0.2, seed=0):
    """Items of 1 to 30 rows, at scales far from one, with values missing at random."""
    rng = np.random.default_rng(seed)
    items = []
    for n in rng.integers(1, 31, num):
        item = rng.normal(5, 3, (n, channels)) * 10.0 ** np.arange(channels)
        gone = rng.random(item.shape) < missing
        gone[0, 0] = False  # something is always known
        items.append(np.where(gone, NAN, item).astype(np.float32))
    return items


@pytest.fixture(scope="module")
def sequences():
    return Sequences.from_lists(draw())


# the container --------------------


def test_items_come_back_as_they_went_in(sequences):
    items = draw()
    assert len(sequences) == 40 and sequences.sizes.tolist() == [len(i) for i in items]
    for m, item in enumerate(items):
        assert np.array_equal(sequences[m], item, equal_nan=True)
    assert np.array_equal(sequences[-1], items[-1], equal_nan=True)
    with pytest.raises(IndexError, match="40"):
        sequences[40]


def test_one_channel_and_whole_numbers_do():
    sequences = Sequences.from_lists([[1, 2, 3], np.array([4]), torch.tensor([[5.0], [NAN]])])
    assert sequences.sizes.tolist() == [3, 1, 2] and sequences.channels == 1
    assert sequences.values[:, 0].tolist() == [1, 2, 3, 4, 5, 0]
    assert sequences.observed[:, 0].tolist() == [True] * 5 + [False]
    assert Sequences.from_lists([[1, 2]]).observed is None  # nothing is missing


def test_a_subset_holds_the_items_asked_for(sequences):
    part = sequences.subset([7, 3, 7])
    for k, m in enumerate([7, 3, 7]):
        assert np.array_equal(part[k], sequences[m], equal_nan=True)
    short = sequences.subset(sequences.sizes < 10)
    assert short.sizes.max() == 9 and len(short) == (sequences.sizes < 10).sum()


def test_nan_and_an_unobserved_value_are_the_same(sequences):
    spoiled = np.where(sequences.observed, sequences.values, 1e9)
    other = Sequences(spoiled, sequences.offsets, sequences.observed)
    assert np.array_equal(other.values, sequences.values)
    assert np.array_equal(other.observed, sequences.observed)


@pytest.mark.parametrize(
    "items, message",
    [
        ([], "no items"),
        ([[1, 2], []], "item 1 is empty"),
        ([[[1, 2]], [[1, 2, 3]]], r"item 1 is \(1, 3\); give \(n, 2\)"),
        ([[[1, 2]], [1, 2]], r"item 1 is \(2, 1\); give \(n, 2\)"),
        ([[1], [[[1]]]], "item 1 is"),
        ([[1], ["a"]], "item 1 is not an array of numbers"),
        ([[1, 2], [3, np.inf]], "item 1, row 1, channel 0 is inf"),
        ([[1, 2], [3, 1e300]], "item 1, row 1, channel 0 is 1e.300"),
        ([[1, 2], [NAN, NAN]], "item 1 has no observed value"),
    ],
)
def test_items_that_cannot_be_right_are_refused(items, message):
    with pytest.raises(SequenceError, match=message) as error:
        Sequences.from_lists(items, name="here.csv")
    assert "here.csv" in str(error.value)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ((np.zeros(3), [0, 3]), r"give numbers \(R, C\)"),
        ((np.zeros((3, 1)), [0.0, 3.0]), "integers"),
        ((np.zeros((3, 1)), [0, 2]), "from 0 to 2; give 0 to the number of rows, 3"),
        ((np.zeros((3, 1)), [0, 2, 2, 3]), "item 1 is empty"),
        ((np.zeros((3, 1)), [0, 3], np.ones((3, 2), bool)), "booleans"),
        ((np.zeros((3, 1)), [0, 2, 3], np.array([[True], [True], [False]])), "item 1 has no"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, message):
    with pytest.raises(SequenceError, match=message):
        Sequences(*arrays)


# scales --------------------


def test_the_scale_is_that_of_the_observed_values(sequences):
    rows = np.concatenate(draw())
    assert sequences.mean == pytest.approx(np.nanmean(rows, 0), rel=1e-5)  # float32
    assert sequences.std == pytest.approx(np.nanstd(rows, 0), rel=1e-5)
    scaled = sequences.scaled(Scaling.from_sequences(sequences))
    assert scaled.mean == pytest.approx([0, 0], abs=1e-6)
    assert scaled.std == pytest.approx([1, 1], rel=1e-6)
    assert np.array_equal(scaled.observed, sequences.observed)


def test_scaling_goes_back_and_keeps_what_is_missing(sequences):
    scaling = Scaling.from_sequences(sequences)
    assert Scaling.from_config(json.loads(json.dumps(scaling.config))) == scaling
    item = sequences[5]
    back = scaling.decode(scaling.encode(item))
    assert np.allclose(back, item, rtol=1e-6, equal_nan=True) and back.dtype == np.float32
    x = torch.randn(3, 4, 2, dtype=torch.float64)
    assert torch.allclose(scaling.decode(scaling.encode(x)), x, atol=1e-13)
    assert np.allclose(scaling.encode(x).numpy(), scaling.encode(x.numpy()), atol=1e-13)


def test_a_constant_channel_is_only_moved():
    same = np.full(100, 273.15, np.float32)
    rounded = np.where(np.arange(100) % 2, same, np.nextafter(same, np.float32(0)))
    rows = np.column_stack([same, rounded, np.arange(100), np.full(100, NAN)])
    sequences = Sequences.from_lists([rows])
    scaling = Scaling.from_sequences(sequences)
    assert scaling.std[0] == scaling.std[1] == scaling.std[3] == 1 and scaling.mean[3] == 0
    assert np.abs(scaling.encode(sequences[0])[:, :2]).max() < 1e-4


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Scaling((0,), (1, 1)), "1 means and 2"),
        (lambda: Scaling((0,), (0,)), "positive"),
        (lambda: Scaling((0, 0), (1, 1)).encode(torch.zeros(3, 1)), "2 channels"),
        (lambda: Scaling((0.5,), (1,)).encode(np.array([[1]])), "floating"),
        (lambda: Scaling(3, (1,)), "mean is 3; give a number for each channel"),
        (lambda: Scaling((0,), ["a"]), "std is .'a'.; give a number"),
        (lambda: Scaling.from_config({"mean": [0]}), "no config of a scaling"),
        (lambda: loader([[1, 2]]), r"a list; give Sequences.from_lists\(items\)"),
    ],
)
def test_scales_that_cannot_be_right_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# batches --------------------


def test_a_batch_from_arrays_is_the_padded_items(sequences):
    numbers = [4, 17, 39, 0]
    batch = SequenceDataset(sequences).__getitems__(numbers)
    items = [sequences[m] for m in numbers]
    x, mask = pad([np.nan_to_num(item) for item in items])
    assert torch.equal(batch.x, x) and torch.equal(batch.mask, mask)
    observed, _ = pad([~np.isnan(item) for item in items])
    assert torch.equal(batch.observed, observed.bool())


def test_the_loader_serves_every_value_once(sequences):
    data = loader(sequences, 7, seed=1)
    batches = list(data)
    assert len(batches) == len(data) == 6
    total = sum(batch.x.double().sum() for batch in batches)
    assert total.item() == pytest.approx(sequences.values.sum(dtype=np.float64))
    assert sum(int(batch.observed.sum()) for batch in batches) == sequences.observed.sum()
    assert sum(int(batch.mask.sum()) for batch in batches) == len(sequences.values)


def test_a_loader_goes_on_where_it_was_saved(sequences):
    running = loader(sequences, 7, seed=2)
    batches = iter(running)
    for _ in range(3):
        next(batches)
    state = running.state_dict()
    rest = [batch.x for batch in batches]
    resumed = loader(sequences, 7, seed=9)
    resumed.load_state_dict(state)
    again = [batch.x for batch in resumed]
    assert len(rest) == 3 and all(torch.equal(a, b) for a, b in zip(rest, again, strict=True))


def test_what_is_unpacked_lies_in_its_space(sequences):
    for batch in loader(sequences, 7):
        x, space, cond = unpack(batch)
        assert torch.equal(space.project(x), x) and cond == {}
        assert torch.equal(space.dim(x), batch.observed.sum((1, 2)).float())
    whole = Sequences.from_lists(draw(missing=0))
    x, space, _ = unpack(next(iter(loader(whole, 7))))
    assert space.observed is None and torch.equal(space.dim(x), 2.0 * space.lengths)


def test_the_loss_does_not_see_what_is_missing(sequences):
    from anydiff import GaussianDiffusion

    class Running(torch.nn.Module):  # mixes the rows, as a recurrent network does
        def forward(self, x_t, t, space):
            return x_t.cumsum(1)

    x, space, _ = unpack(next(iter(loader(sequences, 7))))
    spoiled = torch.where(space.valid, x, torch.full_like(x, 1e6))
    t = torch.linspace(0.1, 0.9, len(x))

    def loss(x0):
        return GaussianDiffusion(Running()).loss(
            x0, t, space=space, generator=[torch.Generator().manual_seed(k) for k in range(len(x))]
        )

    assert torch.equal(loss(x), loss(spoiled))


# in and out of padding --------------------


def test_padding_is_undone(sequences):
    items = [torch.from_numpy(np.nan_to_num(item)) for item in draw()]
    x, mask = pad(items)
    assert x.shape == (40, max(map(len, items)), 2) and x.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(split_items(x, mask), items, strict=True))
    assert x[~mask].abs().sum() == 0
    again = split_items(x.numpy(), mask.numpy())
    assert all(torch.equal(a, b) for a, b in zip(again, items, strict=True))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pad([]), "no items"),
        (lambda: pad([np.zeros((3, 2)), np.zeros((3, 1))]), "item 1"),
        (lambda: pad([np.zeros((3, 2)), np.zeros((0, 2))]), "item 1"),
        (lambda: split_items(torch.zeros(2, 3, 1), torch.ones(2, 4, dtype=torch.bool)), "mask"),
    ],
)
def test_what_cannot_be_padded_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_pairs_are_of_one_size_and_leave_one_of_a_size_at_most():
    sizes = np.random.default_rng(0).integers(1, 9, 101)
    found = pairs(sizes)
    assert np.array_equal(sizes[found[:, 0]], sizes[found[:, 1]])
    assert len(np.unique(found)) == found.size and (np.diff(found[:, 0]) > 0).all()
    left = np.delete(sizes, found.ravel())
    assert len(np.unique(left)) == len(left)
    assert pairs([4, 2, 4, 2, 4]).tolist() == [[0, 2], [1, 3]]
    assert pairs([1, 2, 3]).shape == (0, 2)


def test_lengths_are_drawn_as_counted(sequences):
    lengths = LengthDistribution.from_sizes(sequences.sizes)
    drawn = lengths.sample(1000, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) <= set(sequences.sizes.tolist())
    # five standard errors of the mean
    error = abs(drawn.double().mean().item() - sequences.sizes.mean())
    assert error < 5 * sequences.sizes.std() / 1000**0.5
    assert torch.equal(LengthDistribution(lengths.counts).counts, lengths.counts)


@pytest.mark.parametrize("sizes", [[2.5, 3], [0, 1], [-1], [[1, 2]], ["3"], [NAN, 2], []])
def test_lengths_that_are_none_are_refused(sizes):
    with pytest.raises(ValueError, match=r"size|whole"):
        LengthDistribution.from_sizes(sizes)
    assert LengthDistribution.from_sizes([2.0, 3.0]).counts.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("counts", [[0, 0.5, 0.5], [0, NAN], [0, -1], [1, 1], [0, 0], ["1"]])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        LengthDistribution(counts)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_accepted_comes_back_and_is_accepted_again(seed):
    rng = np.random.default_rng(seed)
    odd = [0.0, -0.0, 5e-324, -1e-300, 0.1, 2.0**53 + 2, 1e17, -3e38, NAN]
    items = [rng.choice(odd, (n, 2)) for n in rng.integers(1, 9, 6)]
    for item in items:
        item[0, 0] = 0.1
    once = Sequences.from_lists(items)
    again = Sequences.from_lists([once[m] for m in range(6)])
    assert all(np.array_equal(again[m], item, equal_nan=True) for m, item in enumerate(items))
    assert np.array_equal(np.signbit(again.values), np.signbit(once.values))
    assert np.array_equal(again.known, once.known) and again.values.dtype == once.values.dtype
    part = again.subset([3, 1])
    assert np.array_equal(part[0], items[3], equal_nan=True)
