"""Scores of forecasts against closed forms."""

import math

import numpy as np
import pytest
import torch

from anydiff.series.scores import coverage, crps


def draws(n, *shape, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)).double()


def test_crps_of_a_normal_distribution():
    """sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), Gneiting and Raftery's equation 5."""
    y = torch.tensor([-1.0, 0.0, 0.5, 2.0]).double()
    x = 0.7 + 1.3 * draws(200_000, 1).expand(-1, 4)
    z = (y - 0.7) / 1.3
    phi, Phi = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi), torch.special.ndtr(z)
    expected = 1.3 * (z * (2 * Phi - 1) + 2 * phi - 1 / math.sqrt(math.pi))
    assert torch.allclose(crps(x, y), expected, atol=0.01)


def test_crps_is_the_definition_and_has_no_bias():
    x, y = draws(7, 3, 2), draws(1, 3, 2, seed=1)[0]
    pairs = (x[:, None] - x[None]).abs().sum((0, 1)) / (7 * 6)
    assert torch.allclose(crps(x, y), (x - y).abs().mean(0) - pairs / 2, atol=1e-12)
    few = torch.stack([crps(x, torch.zeros(2).double()).mean() for x in draws(3000, 3, 2)])
    many = crps(draws(100_000, 1), torch.zeros(1).double())
    assert abs(few.mean() - many) < 4 * few.std() / 3000**0.5
    assert torch.equal(crps(y[None], y + 1), torch.ones(3, 2).double())  # one value: its error


def test_coverage_of_the_right_distribution_is_the_share():
    x, y = draws(400, 5000), draws(1, 5000, seed=1)[0]
    assert abs(coverage(x, y, 0.8).double().mean() - 0.8) < 0.03
    assert abs(coverage(2 * x, y, 0.8).double().mean() - 0.99) < 0.01  # too wide
    assert coverage(x / 4, y, 0.8).double().mean() < 0.35  # too narrow


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: crps(draws(3, 4), draws(4, 1)), r"draws is \(3, 4\).*not \(\*, 4, 1\)"),
        (lambda: coverage(draws(3, 4), draws(4), 1.0), r"share is 1.0; give a number in \(0, 1\)"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_integers_arrays_and_lists_are_scored_like_floats():
    x, y = torch.randint(0, 9, (5, 3)), torch.randint(0, 9, (3,))
    for score in (crps, coverage):
        expected = score(x.double(), y.double())
        for kind in (torch.Tensor.int, torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.float):
            assert torch.allclose(score(kind(x), kind(y)).double(), expected.double())
            assert torch.allclose(score(x.double(), kind(y)).double(), expected.double())
    assert crps(x.bool(), y.bool()).is_floating_point()


def test_a_score_of_what_is_missing_is_missing():
    masked = np.ma.masked_array([1.0, 999.0], mask=[0, 1])
    assert crps([[1, 2], [3, 4]], masked).isnan().tolist() == [False, True]


@pytest.mark.parametrize("score", [crps, coverage])
def test_what_cannot_be_scored_is_named(score):
    with pytest.raises(ValueError, match="truth: it holds <U4"):
        score([[1.0]], ["2020"])
    with pytest.raises(ValueError, match="draws: it holds complex64"):
        score(torch.ones(3, 1, dtype=torch.complex64), [1.0])
    with pytest.raises(ValueError, match=r"draws is \(3,\)"):
        score([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])


def test_halves_are_scored_in_single_precision():
    x = torch.tensor([60000.0, -60000.0, 60000.0]).half()
    y = torch.tensor(0.0).half()
    assert torch.equal(crps(x, y), crps(x.float(), y.float()))
    assert bool(coverage(x, y))


@pytest.mark.filterwarnings("error")
def test_arrays_that_cannot_be_written_are_scored():
    x = np.array([[1.0], [2.0]])
    x.flags.writeable = False
    assert crps(x, [1.0]).tolist() == [0.0]
