"""The best of several samples, in each space."""

import pytest
import torch

from anydiff import Cosine, Dense, GaussianDiffusion, Masked, Ragged, sample
from anydiff.editing import best_of


class Shrinks(torch.nn.Module):
    """x0 is half of x_t: samples differ by their noise."""

    def forward(self, x_t, t, *, space):
        return x_t / 2


SPACES = {
    "dense": (Dense(), (3, 4)),
    "masked": (Masked.from_lengths([4, 1, 3]), (3, 4, 2)),
    "ragged": (Ragged.from_sizes([4, 1, 3], centered=2), (8, 3)),
}


def draws(name, n, seed):
    """n samples of each item, as `best_of` draws them."""
    space, shape = SPACES[name]
    predictor = GaussianDiffusion(Shrinks(), Cosine(), "x0").eval().predictor(space)
    together = sample(predictor.copies(n), (n * shape[0], *shape[1:]), steps=3, seed=seed)
    return predictor, space.separate(together, n)


@pytest.mark.parametrize("name", SPACES)
def test_each_item_is_its_sample_with_the_highest_score(name):
    space, shape = SPACES[name]
    predictor, each = draws(name, 5, seed=1)
    scores = torch.stack([space.sum(x * x.cos()) for x in each])
    best = best_of(predictor, shape, 5, lambda x: space.sum(x * x.cos()), steps=3, seed=1)
    assert torch.equal(space.sum(best * best.cos()), scores.amax(0))
    chosen = scores.argmax(0)
    for k, x in enumerate(each):  # of the items whose best it is, all entries are those of draw k
        own = space.expand((chosen == k).float(), x) * torch.ones_like(x)
        assert torch.equal(best * own, x * own)
    assert len(chosen.unique()) > 1 or len(chosen) == 1


@pytest.mark.parametrize("name", SPACES)
def test_one_sample_is_the_sample(name):
    space, shape = SPACES[name]
    predictor, _ = draws(name, 1, seed=4)
    one = best_of(predictor, shape, 1, lambda x: space.sum(x), steps=3, seed=4)
    assert torch.equal(one, sample(predictor, shape, steps=3, seed=4))


def test_what_has_no_score_is_worst():
    predictor, each = draws("dense", 2, seed=2)
    calls = iter([torch.tensor([torch.nan, 1.0, torch.nan]), torch.tensor([0.0, torch.nan, 2.0])])
    best = best_of(predictor, (3, 4), 2, lambda x: next(calls), steps=3, seed=2)
    assert torch.equal(best, torch.stack([each[1][0], each[0][1], each[1][2]]))


def test_arguments():
    predictor, _ = draws("dense", 1, seed=0)
    with pytest.raises(ValueError, match=r"score is \(\) of .* not \(3\); give a number for each"):
        best_of(predictor, (3, 4), 2, lambda x: x.sum(), steps=1)
    with pytest.raises(ValueError, match="n is 0"):
        best_of(predictor, (3, 4), 0, lambda x: x.sum(1), steps=1)
