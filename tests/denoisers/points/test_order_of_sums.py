"""Sums over the atoms of an item are made in one order, so that a seed gives the same weights again."""

import pytest
import torch

from anydiff import Cosine, GaussianDiffusion, Ragged
from anydiff.denoisers import EGNN, Harmonic, PairNet
from tests.helpers.count import Count
from tests.helpers.networks import awake


@pytest.mark.parametrize("network", [EGNN, Harmonic, PairNet])
def test_no_gradient_is_added_up_by_threads_that_race(network):
    """The gradient of x[index] is; on a CPU that of index_select adds row after row."""
    net = awake(network(5, hidden=16, layers=2, classes=3))
    space = Ragged.from_sizes(torch.tensor([3, 5, 4]), centered=3)
    x = space.project(torch.randn(12, 8)).requires_grad_()
    diffusion = GaussianDiffusion(net, Cosine(), "v")
    with Count() as count:
        loss = diffusion.loss(x, torch.rand(3), space=space, label=torch.tensor([0, 2, 1]))
        loss.sum().backward()
    assert not [call for call in count.calls if "index_put" in call]
