"""Numbers as users have them: what is missing becomes NaN, what is no number is refused."""

import datetime
import decimal
import math

import numpy as np
import pytest
import torch

from anydiff.data.sequences import Scaling, SequenceError, Sequences, loader, pad
from anydiff.data.values import numbers, single

NAN = float("nan")
MASKED = np.ma.masked_array([1.0, 2.0, 999.0], mask=[0, 0, 1])


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1, 2.5], [1, 2.5]),
        (MASKED, [1, 2, NAN]),
        (np.ma.masked_array([1, 2, 999], mask=[0, 0, 1]), [1, 2, NAN]),
        (np.ma.masked_array([1, 2]), [1, 2]),
        ([MASKED, MASKED + 1], [[1, 2, NAN], [2, 3, NAN]]),
        ([None, 2.5], [NAN, 2.5]),
        ([np.ma.masked, 1], [NAN, 1]),
        ([decimal.Decimal("0.5"), True], [0.5, 1]),
        (torch.tensor([1, 2]), [1, 2]),
        (torch.ones(2, dtype=torch.bfloat16, requires_grad=True), [1, 1]),
        ([torch.ones(2), np.zeros(2)], [[1, 1], [0, 0]]),
        (np.array([2**60, 5]), [2.0**60, 5]),
        ([[], []], [[], []]),
        (3, 3),
    ],
)
def test_numbers_are_float64_and_nan_where_missing(values, expected):
    made = numbers(values)
    assert type(made) is np.ndarray and made.dtype == np.float64
    assert np.array_equal(made, np.array(expected, float), equal_nan=True)


@pytest.mark.parametrize(
    "values, message",
    [
        (["1", "2"], "holds <U1, such as "),
        ([[1, "2"], [3, None]], "holds '2'"),
        (np.array([1j]), "holds complex128"),
        ([1j, None], "holds 1j"),
        (np.array(["2020", "NaT"], "M8[D]"), r"holds datetime64\[D\]; give dates as numbers"),
        (np.array([1], "m8[s]"), "holds timedelta64"),
        ([datetime.date(2020, 1, 1), 1.0], "holds datetime.date.*; give dates as numbers"),
        ([np.datetime64("2020"), None], "holds np.datetime64.*; give dates"),
        (np.zeros(2, [("a", "f4"), ("b", "f4")]), "holds .*'a'"),
        ([[1, 2], [3]], "cannot be made one array"),
        (np.array([2**60, 2**60 + 1]), "too large to differ as floats"),
        ([2**70, 10**400], "holds 1000"),
        ({"a": 1}, "holds {'a': 1}"),
        (torch.eye(2).to_sparse(), "cannot be made one array"),
        (torch.ones(2, device="meta"), "cannot be made one array"),
    ],
)
def test_what_is_no_number_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        numbers(values)


def test_objects_of_pandas():
    pd = pytest.importorskip("pandas")
    whole = pd.Series([1, None, 3], dtype="Int64")
    assert np.array_equal(numbers(whole), [1, NAN, 3], equal_nan=True)
    frame = pd.DataFrame({"a": whole, "b": pd.array([0.5, 1, None], "Float64"), "c": [1, 2, 3]})
    expected = [[1, 0.5, 1], [NAN, 1, 2], [3, NAN, 3]]
    assert np.array_equal(numbers(frame), expected, equal_nan=True)
    assert np.array_equal(Sequences.from_lists([frame, frame[["c", "a", "b"]]])[0], expected, True)
    assert len(Sequences.from_lists(pd.Series([[1.0, 2], [3.0]]))) == 2
    when = pd.to_datetime(["2020-01-01", None, "2020-01-03"])
    for dates in (when, pd.Series(when), frame.assign(when=when), [pd.NaT, 1.0]):
        with pytest.raises(ValueError, match="give dates as numbers"):
            numbers(dates)
    with pytest.raises(SequenceError, match="x: the items are a DataFrame; give a list of arrays"):
        Sequences.from_lists(frame, name="x")
    with pytest.raises(
        SequenceError, match="item 1 is not an array of numbers: it holds Timestamp"
    ):
        Sequences.from_lists([frame, frame.assign(when=when)])


def test_a_mask_means_missing_at_every_door():
    for made in (
        Sequences.from_lists([MASKED, [1.0]]),
        Sequences(np.ma.masked_array([[1], [2], [9], [1]], [[0], [0], [1], [0]]), [0, 3, 4]),
    ):
        assert made.observed[:, 0].tolist() == [True, True, False, True]
        assert made.values[:, 0].tolist() == [1, 2, 0, 1]
    x, mask = pad([MASKED[:, None], np.ones((1, 1))])
    assert x[0, 2].isnan().all() and mask.tolist() == [[True] * 3, [True, False, False]]


# precision --------------------

LARGE = {
    "metres": 4.5e6 + 0.01 * np.sin(np.arange(200) / 9),
    "seconds": 1.7e9 + np.arange(1000),
    "nanoseconds": 1_700_000_000_000_000_000 + 10**9 * np.arange(1000),
    "half": 1e6 + np.linspace(-0.5, 0.5, 301),
    "small": -1e-300 * np.arange(1, 50),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_values_far_from_zero_stay_apart_through_scaling_and_batches(name, kind):
    values = LARGE[name].astype(np.float64)
    sequences = Sequences.from_lists([kind(LARGE[name]), values[:50]])
    assert np.array_equal(sequences[0][:, 0], values)
    scaling = Scaling.from_sequences(sequences)
    scaled = sequences.scaled(scaling)
    assert scaled.values.dtype == np.float32
    assert scaled.mean == pytest.approx([0], abs=1e-6) and scaled.std == pytest.approx([1], 1e-5)
    batch = next(iter(loader(scaled, 2, shuffle=False)))
    assert batch.x.dtype == torch.float32 and batch.x[0].unique().numel() == values.size
    for rows in (batch.x[0], batch.x[0].numpy(), pad([scaled[0]])[0][0]):
        back = np.asarray(scaling.decode(rows))[:, 0]
        assert np.unique(back).size == np.unique(values).size
        tolerance = 2.0**-22 * scaling.std[0] + 2.0**-50 * abs(scaling.mean[0])
        assert np.abs(back - values).max() <= tolerance
    again = scaling.encode(kind(values)[:, None])
    assert np.allclose(np.asarray(again), scaled[0], atol=1e-6)


def test_the_mean_of_many_values_far_from_zero_is_not_rounded():
    values = 4.5e6 + 0.01 * np.random.default_rng(0).normal(size=(300_000, 2))
    sequences = Sequences(values, [0, len(values)])
    exact = np.array([math.fsum(column) / len(values) for column in values.T])
    assert np.abs(sequences.mean - exact).max() < 1e-6 * 0.01


@pytest.mark.parametrize("name", ["metres", "seconds", "half"])
def test_batches_that_would_lose_the_values_are_refused(name):
    sequences = Sequences.from_lists([LARGE[name], LARGE[name]], name="mine")
    with pytest.raises(SequenceError, match=r"mine: channel 0 is .* float32 cannot tell apart"):
        loader(sequences)
    with pytest.raises(ValueError, match=r"channel 0 is .* float32 cannot tell apart"):
        pad([LARGE[name][:, None]])


def test_a_constant_far_from_zero_is_no_loss():
    for value in (1e9 / 3, 0.1, 1e-300, 0.0):
        sequences = Sequences.from_lists([np.full(1000, value), [value, NAN]])
        assert Scaling.from_sequences(sequences).std == (1.0,)
        assert loader(sequences) is not None and len(pad([sequences[0]])[0]) == 1
    assert single(np.zeros((0, 1)), np.zeros((0, 1), bool)).shape == (0, 1)


def test_what_float32_holds_exactly_is_kept_so():
    assert Sequences.from_lists([[1, 2, 0.5]]).values.dtype == np.float32
    assert Sequences.from_lists([[1, 2, 0.1]]).values.dtype == np.float64
    wide = Scaling((1e6, 0), (1, 1))
    assert wide.decode(torch.zeros(3, 2)).dtype == torch.float64
    assert wide.encode(np.zeros((3, 2), np.float32)).dtype == np.float32
    assert Scaling((3, 0), (1, 1)).decode(np.zeros((3, 2), np.float32)).dtype == np.float32


@pytest.mark.parametrize("items", [3, None, "abc", {"a": [1.0]}])
def test_what_is_no_list_of_items_is_named(items):
    with pytest.raises(SequenceError, match=f"mine: the items are a {type(items).__name__}; give"):
        Sequences.from_lists(items, name="mine")


def test_the_first_integers_that_floats_merge_are_refused():
    for pair in ([2**53, 2**53 + 1], [-(2**53), -(2**53) - 1]):
        with pytest.raises(ValueError, match=r"too large to differ as floats"):
            numbers(pair)
    assert numbers([2**53, 2**53 - 1]).tolist() == [2.0**53, 2.0**53 - 1]


@pytest.mark.parametrize("x", [[[0.0]], 1.0, None])
def test_a_scaling_names_what_is_no_array(x):
    scaling = Scaling((1.0,), (2.0,))
    for method in (scaling.encode, scaling.decode):
        with pytest.raises(ValueError, match=r"x is a .*; give an array or a tensor of floats"):
            method(x)


def test_no_items_of_sequences_are_refused_by_name():
    with pytest.raises(SequenceError, match="for M items, M > 0"):
        Sequences.from_lists([[1.0]]).subset([])
