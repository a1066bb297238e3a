"""Scores of forecasts against closed forms."""

import math

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
