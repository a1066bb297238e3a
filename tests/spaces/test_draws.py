"""Seeds: one for a batch or for each item, and those of the parts of a run."""

import contextlib

import numpy as np
import pytest
import torch

from anydiff.spaces import child, generators
from anydiff.spaces.draws import check_count, rand, randn, undrawn, uniforms

CHILDREN = [3325833263181678374, 2327230056060148179, 6376957211144432179, 5807428094540669881]
LIKE = torch.empty(0, dtype=torch.float64)


def test_seeds_become_generators_and_generators_stay():
    one = torch.Generator().manual_seed(3)
    assert generators(None) is None and generators(one) is one
    for seed in (3, np.int64(3)):
        assert torch.equal(randn((4,), LIKE, generators(seed)), randn((4,), LIKE, generators(3)))
    first, second = generators([one, 5])
    assert first is one and second.initial_seed() == 5


def test_children_of_different_seeds_never_coincide():
    """Of neighbouring seeds, and of those that arithmetic makes of one another."""
    seeds = [*range(100), *(1_000_003 * k for k in range(1, 100)), -1, 2**63 - 1]
    assert len(set(seeds)) == 201
    made = [child(s, k) for s in seeds for k in range(100)]
    made += [child(s, j, k) for s in seeds[:20] for j in range(10) for k in range(10)]
    made += [child(s) for s in seeds] + [child(s, 1, 0) for s in seeds[20:]]
    made += [child(2**32, k) for k in range(1, 100)]
    assert len(set(made)) == len(made) and all(0 <= s < 2**63 for s in made)


def test_a_child_is_the_same_wherever_it_is_made():
    """Runs that were made with a seed can be made again: these numbers do not change."""
    assert [child(0, 0), child(0, 1), child(1, 0), child(3, 1, 4)] == CHILDREN
    assert generators(child(7, 2)).initial_seed() == child(7, 2)  # any of them is a seed


def test_the_draws_of_children_are_independent():
    """Correlations of 1000 numbers each are of deviation 1 / sqrt(1000); five of these."""
    draws = [
        torch.randn(1000, generator=generators(child(s, k))) for s in range(3) for k in range(3)
    ]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(9)
    assert correlations.abs().max() < 5 / 1000**0.5


def test_uniform_numbers_are_each_item_s_own():
    both = uniforms(3, 2, LIKE, generators([1, 2]))
    assert both.shape == (3, 2) and both.dtype == torch.float64
    assert torch.equal(both[:, 1:], uniforms(3, 1, LIKE, generators([2])))
    assert torch.equal(both[:, 0], rand((3,), LIKE, generators(1)))
    assert uniforms(3, 2, LIKE, None).shape == (3, 2)
    with pytest.raises(ValueError, match="1 generators for 2 items; give one, or one each"):
        uniforms(3, 2, LIKE, generators([1]))
    with pytest.raises(ValueError, match="3 generators for 2 items"):
        check_count([1, 2, 3], 2)


def test_what_is_drawn_in_between_is_drawn_again():
    torch.manual_seed(0)
    after = torch.rand(3)
    torch.manual_seed(0)
    with undrawn(torch.device("cpu")) as own:
        assert own == [torch.default_generator] and torch.equal(torch.rand(3), after)
    assert torch.equal(torch.rand(3), after)
    torch.manual_seed(0)
    with contextlib.suppress(ZeroDivisionError), undrawn(torch.device("cpu")):
        torch.rand(2) / (1 // 0)
    assert torch.equal(torch.rand(3), after)
