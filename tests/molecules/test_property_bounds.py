"""What errors of properties are compared with: sums over all pairs, and figures of the shipped data."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from anydiff.molecules import load_qm9
from anydiff.molecules.property_bounds import (
    correlation_within,
    gap_closure,
    mean_difference,
    property_bounds,
)
from anydiff.molecules.qm9 import split


@pytest.fixture(scope="module")
def molecules():
    return load_qm9()


def test_the_mean_difference_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=30), rng.integers(0, 8, 30)
    groups[:1] = 99  # of nobody else's group
    each = []
    for i in range(30):
        others = [j for j in range(30) if j != i and groups[j] == groups[i]]
        if others:
            each.append(np.mean([abs(values[i] - values[j]) for j in others]))
    assert mean_difference(values, groups) == pytest.approx(np.mean(each), rel=1e-12)
    every = [abs(a - b) for a, b in itertools.combinations(values, 2)]
    assert mean_difference(values) == pytest.approx(np.mean(every), rel=1e-12)
    assert np.isnan(mean_difference([1.0, 2.0], [0, 1])) and np.isnan(mean_difference([]))


def test_two_molecules_miss_one_another_by_more_than_their_mean():
    """Of normal values: √2 times as much as the mean does."""
    values = np.random.default_rng(0).normal(size=200_000)
    off = np.abs(values - values.mean()).mean()
    # standard errors of both are about 0.002
    assert mean_difference(values) / off == pytest.approx(np.sqrt(2), abs=0.01)


def test_the_figures_of_the_shipped_molecules(molecules):
    found = property_bounds(molecules, "alpha")  # bohr³
    assert {name: round(value, 2) for name, value in found.items()} == {
        "any two molecules": 8.98,
        "two of one size": 5.38,
        "median of the size": 3.72,
        "two isomers": 2.76,
        "linear in the composition": 2.12,
    }
    gap = property_bounds(molecules, "gap")  # 1,082 meV
    assert 27211.386 * gap["two isomers"] == pytest.approx(1082, abs=1)


def test_drawn_pairs_of_one_size_miss_by_as_much(molecules):
    alpha, sizes = molecules.property("alpha"), molecules.sizes
    rng, off = np.random.default_rng(0), []
    for n in np.unique(sizes):
        own = alpha[sizes == n]
        if len(own) > 1:
            for _ in range(10):  # any other one of its size
                shift = rng.integers(1, len(own), len(own))
                off.append(np.abs(own - own[(np.arange(len(own)) + shift) % len(own)]))
    off = np.concatenate(off)
    expected = property_bounds(molecules, "alpha")["two of one size"]
    # 50,000 draws of some 5,000 molecules: five standard errors of the former
    assert abs(off.mean() - expected) < 5 * off.std() / np.sqrt(len(off))


def test_guesses_are_learned_from_other_molecules(molecules):
    parts = split(len(molecules))
    learn, test = molecules.subset(parts.train), molecules.subset(parts.test)
    found = property_bounds(test, "alpha", learn)
    own = property_bounds(test, "alpha")
    for name in ("two of one size", "two isomers", "any two molecules"):
        assert found[name] == own[name]
    for name in ("median of the size", "linear in the composition"):
        assert own[name] < found[name] < 1.1 * own[name]
    # a molecule of a size that nobody has learned takes the nearest, one of another element no less
    few = learn.subset(np.flatnonzero(learn.sizes == 18))
    alpha = test.property("alpha")
    assert property_bounds(test, "alpha", few)["median of the size"] == pytest.approx(
        np.abs(alpha - np.median(few.property("alpha"))).mean()
    )


def test_unknown_values_are_left_out(molecules):
    some = molecules.subset(range(300))
    props = some.props.copy()
    props[::3, some.prop_names.index("alpha")] = np.nan
    part = some.subset(np.arange(300) % 3 > 0)
    assert property_bounds(replace(some, props=props), "alpha") == property_bounds(part, "alpha")
    with pytest.raises(ValueError, match="no value of alpha is known; give some"):
        property_bounds(replace(some, props=np.full_like(props, np.nan)), "alpha")
    with pytest.raises(ValueError, match="no property 'colour'"):
        property_bounds(some, "colour")


def test_a_generator_that_hears_nothing_closes_no_gap():
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 9, 20_000)
    asked, deaf = (10.0 * sizes + rng.normal(size=20_000) for _ in range(2))
    error = np.abs(asked - deaf).mean()
    shuffled = mean_difference(asked, sizes)
    assert abs(gap_closure(error, shuffled)) < 0.03  # both errors within 1 %
    assert abs(correlation_within(asked, deaf, sizes)) < 5 / np.sqrt(20_000)
    assert np.corrcoef(asked, deaf)[0, 1] > 0.99  # but for the sizes

    heard = asked + 0.5 * rng.normal(size=20_000)
    assert correlation_within(asked, heard, sizes) == pytest.approx(1 / np.sqrt(1.25), abs=0.01)
    assert gap_closure(np.abs(heard - asked).mean(), shuffled) == pytest.approx(
        1 - 0.5 / np.sqrt(2), abs=0.02
    )
    assert correlation_within(asked, 3 * asked + sizes**2, sizes) == pytest.approx(1)
    assert gap_closure(2.0, 5.0, 1.0) == 0.75 and np.isnan(gap_closure(2.0, 1.0, 1.0))


def test_what_does_not_vary_has_no_correlation():
    sizes = np.repeat([3, 4], 5)
    assert np.isnan(correlation_within(np.full(10, 90.1), np.arange(10), sizes))
    assert np.isnan(correlation_within(90.1 * sizes, np.arange(10), sizes))
    assert np.isnan(correlation_within([], [], []))
    with pytest.raises(ValueError, match=r"asked \(2,\), drawn \(3,\)"):
        correlation_within([1, 2], [1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="groups"):
        mean_difference([1.0], ["a"])
