"""A model of sketches: what it keeps, redraws and blends, and files of older versions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import anydiff
from anydiff import DDIM, Cosine, GaussianDiffusion, Masked
from anydiff.data.sequences import LengthDistribution
from anydiff.denoisers import BiRNN
from anydiff.sketches.files import write_ndjson
from anydiff.sketches.models import SketchModel, compare_parts, first_half, of_one_length
from anydiff.sketches.named import load_sketches
from anydiff.sketches.rows import PointRows, StrokeRows
from anydiff.sketches.sketches import Sketches

FORMAT2 = Path(__file__).parents[1] / "goldens/format2"


def scribbles(num, seed=0, most=6):
    rng = np.random.default_rng(seed)
    return Sketches.from_lists(
        [
            [rng.normal(0, 20, (rng.integers(2, 9), 2)) for _ in range(rng.integers(1, most))]
            for _ in range(num)
        ]
    )


SKETCHES = scribbles(40)


def model(rows=None):
    torch.manual_seed(0)
    rows = rows or StrokeRows.fit(SKETCHES, 3)
    network = BiRNN(rows.channels, 8, 1)
    torch.nn.init.normal_(network.head.weight, std=0.3)  # it begins at zero
    diffusion = GaussianDiffusion(network, Cosine(), "v").eval()
    return SketchModel(
        diffusion, rows, LengthDistribution.from_sizes(rows.encode(SKETCHES).sizes), "kanji"
    )


def test_files_of_format_2_load_and_draw_as_they_did():
    old = SketchModel.load(FORMAT2 / "sketches.safetensors")
    assert old.data == "kanji" and not old.skip_empty and isinstance(old.rows, StrokeRows)
    with np.load(FORMAT2 / "drawn.npz") as file:
        expected = torch.from_numpy(file["sketches"])
    predictor = old.diffusion.predictor(Masked.from_lengths([3, 2]))
    drawn = anydiff.sample(predictor, (2, 3, 6), DDIM(), 4, seed=[3, 4])
    torch.testing.assert_close(drawn, expected)
    assert len(old.sample(3, steps=2)) == 3
    with pytest.raises(ValueError, match=r"is not a model of sketches"):
        SketchModel.load(FORMAT2 / "molecules.safetensors")


def test_a_model_comes_back_from_its_file(tmp_path):
    one = model()
    one.save(tmp_path / "model.safetensors")
    assert anydiff.load(tmp_path / "model.safetensors")[1]["kind"] == "sketches"
    again = SketchModel.load(tmp_path / "model.safetensors")
    assert np.array_equal(one.sample(3, steps=2).points, again.sample(3, steps=2).points)


@pytest.mark.parametrize("kind", [StrokeRows, PointRows])
def test_what_is_kept_stays_and_the_rest_is_drawn(kind):
    rows = kind.fit(SKETCHES, 3)
    drawn = model(rows).inpaint(SKETCHES, steps=3, resamples=2)
    kept, whole = (rows.encode(s) for s in (first_half(SKETCHES), SKETCHES))
    half, real = (rows.decode(items.values, items.sizes) for items in (kept, whole))
    ends = [np.cumsum(s.sizes) for s in (drawn, half, real)]
    for m, end in enumerate(zip(*ends, strict=True)):
        ours, known, theirs = (
            s.points[e - s.sizes[m] : e] for s, e in zip((drawn, half, real), end, strict=True)
        )
        np.testing.assert_allclose(ours[: len(known)], known, atol=1e-4)
        assert len(ours) == len(theirs)
        rest = np.abs(ours[len(known) :] - theirs[len(known) :])
        assert not rest.size or rest.max() > 0.1


@pytest.mark.parametrize(
    "draw",
    [
        lambda m, **how: m.sample(5, **how),
        lambda m, **how: m.edit(SKETCHES.subset(range(5)), 0.3, **how),
        lambda m, **how: m.inpaint(SKETCHES.subset(range(5)), **how),
    ],
)
def test_batches_change_nothing(draw):
    one, other = (draw(model(), steps=3, batch=batch) for batch in (2, 180))
    assert np.array_equal(one.offsets, other.offsets)
    # float32, in other batches, in units of some 20
    np.testing.assert_allclose(one.points, other.points, rtol=1e-4, atol=1e-3)
    rest = draw(model(), steps=3, skip=3)
    np.testing.assert_allclose(rest.points, other.subset([3, 4]).points, rtol=1e-4, atol=1e-3)


def test_lengths_are_those_asked_for():
    states = []
    drawn = model().sample(6, length=4, steps=2, watch=states.append)
    assert np.diff(drawn.offsets).tolist() == [4] * 6
    assert [len(s) for s in states] == [4, 4]
    assert np.array_equal(states[-1].points, drawn.subset(range(4)).points)
    with pytest.raises(ValueError, match="knows no texts, which guidance is about"):
        model().sample(2, guidance=2)


@pytest.mark.slow
def test_a_blend_leads_from_one_to_the_other():
    one = model()
    before = of_one_length(SKETCHES, one.rows, 3)
    counts = np.diff(before.offsets)
    assert len(before) == 6 and np.array_equal(counts[::2], counts[1::2])
    drawn = one.interpolate(before, 4, steps=60)
    assert np.array_equal(np.diff(drawn.offsets), counts[::2].repeat(4))
    ends = drawn.subset([0, 3, 4, 7, 8, 11])
    again = one.rows.decode(one.rows.encode(before).values, counts)
    assert np.abs(ends.points - again.points).max() < 0.05 * one.rows.scale  # of the flow's steps
    apart = one.interpolate(before, 4, steps=60, batch=4)
    np.testing.assert_allclose(apart.points, drawn.points, rtol=1e-3, atol=1e-2)
    with pytest.raises(ValueError, match="pairs of as many"):
        one.interpolate(SKETCHES.subset(np.argsort(np.diff(SKETCHES.offsets))[[0, -1]]), 4)
    with pytest.raises(ValueError, match="no two of the 2 sketches"):
        of_one_length(SKETCHES.subset(np.argsort(np.diff(SKETCHES.offsets))[[0, -1]]), one.rows, 1)


def test_the_first_half_is_a_prefix_of_the_rows():
    half = first_half(SKETCHES)
    assert np.array_equal(np.diff(half.offsets), (np.diff(SKETCHES.offsets) + 1) // 2)
    for rows in (StrokeRows.fit(SKETCHES, 4), PointRows.fit(SKETCHES)):
        whole, kept = rows.encode(SKETCHES), rows.encode(half)
        for m in range(len(SKETCHES)):
            assert np.array_equal(whole[m][: kept.sizes[m]], kept[m])


def test_real_ones_and_noise_are_beside_the_drawn():
    data = scribbles(100, seed=1)
    rows = compare_parts(SKETCHES, data, nfe=7, seconds=0.1)
    assert [r.name for r in rows] == ["real, held out", "drawn", "noise"]
    with pytest.raises(ValueError, match="4 of the 40 sketches are held out; 6 are needed"):
        compare_parts(SKETCHES, SKETCHES)


def test_sketches_of_any_size_are_brought_to_one_by_name_and_by_the_model(tmp_path):
    icons = Sketches.from_lists(
        [[np.random.default_rng(m).random((4, 2)) * 10.0**m + 5] for m in range(5)]
    )
    write_ndjson(tmp_path / "icons.ndjson", icons)
    data = str(tmp_path / "icons.ndjson")
    same = load_sketches(data, normalise=True)
    low, high = same.box
    assert (high - low).max(1) == pytest.approx(1) and np.allclose(low, -high)
    replace(model(), data=data, normalise=True).save(tmp_path / "model.safetensors")
    again = SketchModel.load(tmp_path / "model.safetensors")
    assert again.normalise and not again.skip_empty
    assert np.array_equal(again.read_data(data).points, same.points)
