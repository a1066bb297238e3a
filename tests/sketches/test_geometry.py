"""Geometry of sketches that are unlike drawings: bounded time and memory."""

import time

import numpy as np
import pytest

from anydiff.sketches.evaluate import chamfer
from anydiff.sketches.geometry import needed_points, resample, segment_distances, simplify
from anydiff.sketches.rows import along
from anydiff.sketches.sketches import Sketches, from_stroke3, to_stroke3


def saw(num):
    """A stroke up and down, lower each time: it can be cut only at its begin, again and again."""
    k = np.arange(num)
    return Sketches.from_lists([[np.stack([k, (k % 2) * (num - k)], 1)]])


def test_a_saw_is_simplified_in_proportion_to_its_points():
    begin = time.process_time()
    assert len(simplify(saw(16_000), 0.5).points) == 16_000
    assert time.process_time() - begin < 3  # 0.4 s; with a round for each point, 24 s


@pytest.mark.parametrize("epsilon", [0.5, 30.0, 200.0])
def test_what_is_removed_lies_within_the_tolerance_of_what_stays(epsilon):
    stroke = saw(3000)
    kept = simplify(stroke, epsilon)
    number = np.flatnonzero((stroke.points[:, None] == kept.points[None]).all(2).any(1))
    assert len(number) == len(kept.points)
    k = np.arange(3000)
    left = np.searchsorted(number, k, side="right").clip(1, len(number) - 1)
    a, b = stroke.points[number[left - 1]], stroke.points[number[left]]
    assert segment_distances(stroke.points, a, b).max() <= epsilon


@pytest.mark.parametrize("scale", [1e300, 1e-300, 2.0**-20])
def test_the_size_of_the_unit_does_not_matter(scale):
    rng = np.random.default_rng(0)
    some = Sketches.from_lists([[rng.normal(size=(99, 2)).cumsum(0)], [rng.normal(size=(1, 2))]])
    other = Sketches(some.points * scale, some.strokes, some.offsets)
    kept, again = simplify(some, 0.5), simplify(other, 0.5 * scale)
    assert 2 < len(kept.points) < 99 and np.array_equal(kept.strokes, again.strokes)
    assert np.allclose(along(other, 9) / scale, along(some, 9), rtol=1e-9, atol=1e-9)


def test_half_precision_overflows_nowhere():
    rng = np.random.default_rng(0)
    points = rng.integers(0, 1000, (99, 2)).astype(np.float16)
    half, double = (Sketches(p, [0, 99], [0, 1]) for p in (points, points.astype(float)))
    assert np.array_equal(simplify(half, 9.0).points, simplify(double, 9.0).points)
    assert np.allclose(along(half, 9), along(double, 9))
    assert np.array_equal(from_stroke3(to_stroke3(half)).points, double.points)


def test_a_spacing_by_mistake_does_not_fill_the_memory():
    for spacing in (1e-9, 1e-300):
        with pytest.raises(ValueError, match="points would be made of 3000; give a larger spacing"):
            resample(saw(3000), spacing=spacing)
    with pytest.raises(ValueError, match="points would be made"):
        resample(saw(3000), points=10**12)


def test_the_points_needed_are_those_that_are_made():
    rng = np.random.default_rng(0)
    some = Sketches.from_lists(
        [[rng.normal(size=(n, 2)) for n in rng.integers(1, 9, 3)] for _ in range(9)]
    )
    for spacing in (0.1, 1.0, 10.0):
        made = resample(some, spacing=spacing).stroke_sizes
        assert np.array_equal(needed_points(some, spacing), made)


def test_chamfer_distances_of_many_points_are_computed_in_blocks(monkeypatch):
    import torch

    rng = np.random.default_rng(0)
    a, b = (Sketches.from_lists([[rng.random((3000, 2)) * 100]]) for _ in range(2))
    largest, cdist = [], torch.cdist

    def watched(x, y, **options):
        largest.append(len(x) * len(y))
        return cdist(x, y, **options)

    monkeypatch.setattr(torch, "cdist", watched)
    found = chamfer(a, b, 50.0)
    assert max(largest) <= 2**22 < sum(largest)
    p, q = (torch.from_numpy(resample(s, spacing=50.0).points) for s in (a, b))
    away = cdist(p, q)
    assert found[0] == pytest.approx(float(away.amin(1).mean() + away.amin(0).mean()) / 2)


@pytest.mark.parametrize("spacing", [0, -1.0, np.nan, "1", True])
def test_a_spacing_is_a_number_above_0(spacing):
    with pytest.raises(ValueError, match=r"spacing is .*; give a number in \(0, inf\]"):
        resample(saw(3), spacing=spacing)
