"""A mixture of two normals in three kinds of space, its density known."""

import pytest
import torch

from anydiff import Dense, Masked, Ragged, exact
from tests.helpers.spaces import MASK, SIZES

MIXTURE = {"means": [[-0.8], [0.8]], "stds": [0.3, 0.5], "weights": [0.3, 0.7]}


def mixture(schedule, space, shape, prediction="v"):
    columns = torch.tensor([1.0, -0.5, 0.7, 1.0, 0.3]).double()[: shape[-1]]
    means = torch.tensor(MIXTURE["means"]).double() * columns
    means[:, : getattr(space, "centered", 0)] = 0  # the means lie in the space
    return exact.mixture(
        schedule, prediction, means=means, stds=[0.3, 0.5], weights=torch.tensor([0.3, 0.7])
    )


SPACES = {
    "dense": (Dense(), (4, 3)),
    "masked": (Masked(MASK), (4, 7, 2)),
    "centered": (Ragged.from_sizes(SIZES, centered=3), (14, 5)),
}
three_spaces = pytest.mark.parametrize("space, shape", SPACES.values(), ids=SPACES.keys())
