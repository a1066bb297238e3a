import dataclasses
import math
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch

from anydiff.sketches.evaluate import (
    SketchReport,
    chamfer,
    evaluate,
    noise_sketches,
    statistics,
    table,
)
from anydiff.sketches.features import SketchFeatures
from anydiff.sketches.geometry import resample
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.named import split
from anydiff.sketches.pictures import rasterize
from anydiff.sketches.sketches import Sketches


def sketch(*strokes):
    return Sketches.from_lists([[np.array(s, float) for s in strokes]])


@pytest.fixture(scope="module")
def kanji():
    return load_kanji()


@pytest.fixture(scope="module")
def parts(kanji):
    """300 sketches to judge, 300 of reference, and training ones: no two the same."""
    numbers = split(kanji)
    return tuple(kanji.subset(part[:300]) for part in (numbers.valid, numbers.test, numbers.train))


def jittered(sketches, share, seed=0):
    """Points moved by normal noise of a share of KanjiVG's side, 109."""
    noise = np.random.default_rng(seed).standard_normal(sketches.points.shape)
    points = sketches.points + 109 * share * noise
    return Sketches(points, sketches.strokes, sketches.offsets)


# statistics --------------------


def test_statistics_of_a_drawing_known_by_heart():
    # a square of side 4 with one stroke for three sides, one for the fourth, and a dot outside
    found = statistics(sketch([(0, 0), (4, 0), (4, 4), (0, 4)], [(0, 4), (0, 0)], [(8, 0)]))
    assert found["strokes"].tolist() == [3] and found["points"].tolist() == [7]
    assert found["length"] == pytest.approx([12 / 8, 4 / 8, 0])  # the longer side is 8
    assert found["ink"] == pytest.approx([2])
    assert found["pen_up"] == pytest.approx([1 / 3])  # 8 of 24
    assert found["aspect"] == pytest.approx([8 / 12])
    turns = found["turning"][np.abs(found["turning"]) > 1e-6]
    assert turns == pytest.approx([math.pi / 2] * 2)  # clockwise, for y points down
    assert len(found["turning"]) == (30 - 1) + (10 - 1)


def test_turning_does_not_depend_on_where_the_points_lie():
    t = np.linspace(0, 2 * np.pi, 400)
    circle = np.stack([np.cos(t), np.sin(t)], 1)
    rng = np.random.default_rng(0)
    kept = np.sort(np.append(rng.choice(400, 250, replace=False), [0, 399]))
    for points, sign in ((circle, 1), (circle[np.unique(kept)], 1), (circle[::-1], -1)):
        turning = statistics(sketch(points))["turning"]
        assert turning == pytest.approx(sign * 2 * np.arcsin(0.05), abs=0.02)  # chords of 0.1 radii


def test_statistics_do_not_depend_on_scale_place_or_company(kanji):
    part = kanji.subset(range(40))
    found = statistics(part)
    moved = statistics(Sketches(part.points * 7.5 - 300, part.strokes, part.offsets))
    for name, values in found.items():
        alone = np.concatenate([statistics(part.subset([m]))[name] for m in range(40)])
        assert alone == pytest.approx(values, abs=1e-9)
        assert moved[name] == pytest.approx(values, abs=1e-6)  # points may be float32


def test_sketches_without_extent_have_statistics():
    found = statistics(sketch([(3, 3)], [(3, 3), (3, 3)]))
    assert found["ink"].tolist() == [0] and found["pen_up"].tolist() == [0]
    assert found["aspect"].tolist() == [0] and len(found["turning"]) == 0


def test_a_distance_of_ink_known_by_heart():
    line, below = sketch([(0, 0), (100, 0)]), sketch([(0, 7), (100, 7)])
    assert chamfer(line, below, 1.0) == pytest.approx([7])
    # from the short one to the long one nothing, and back a mean of 25, over half of the way
    short = sketch([(0, 0), (50, 0)])
    assert chamfer(line, short, 0.01) == pytest.approx([12.5 / 2], rel=1e-3)
    assert chamfer(short, line, 0.01) == pytest.approx([12.5 / 2], rel=1e-3)


def test_a_distance_of_ink_sees_neither_order_nor_direction(kanji):
    some, others = kanji.subset(range(8)), kanji.subset(range(8, 16))
    apart = chamfer(some, others, 1.0)
    assert np.allclose(chamfer(some, some, 1.0), 0) and apart.min() > 1
    turned = Sketches.from_lists([[s[::-1] for s in some[m]][::-1] for m in range(8)])
    assert np.allclose(chamfer(turned, others, 1.0), apart, rtol=0.02)  # of the points' places
    assert np.allclose(chamfer(others, some, 1.0), apart)
    assert chamfer(some.subset([5]), others.subset([5]), 1.0) == pytest.approx(apart[5:6])
    with pytest.raises(ValueError, match="8 sketches and 1 to compare"):
        chamfer(some, others.subset([0]), 1.0)


def test_noise_has_the_counts_and_the_spread_of_the_reference(kanji):
    noise = noise_sketches(kanji, seed=1)
    assert np.array_equal(noise.strokes, kanji.strokes)
    assert np.array_equal(noise.offsets, kanji.offsets)
    assert noise.points.std(0) == pytest.approx(kanji.points.std(0), rel=0.1)
    assert np.abs(noise.points.mean(0)).max() < 0.3
    assert np.array_equal(noise.points, noise_sketches(kanji, seed=1).points)
    assert not np.array_equal(noise.points, noise_sketches(kanji, seed=2).points)


# features --------------------


def test_features_are_the_shipped_ones_and_no_others(tmp_path, monkeypatch):
    copy = tmp_path / "a.safetensors"
    shutil.copy(SketchFeatures.file, copy)
    assert copy.stat().st_size < 500_000
    net = SketchFeatures.load(copy)
    assert sum(p.numel() for p in net.parameters()) <= 150_000
    assert not any(p.requires_grad for p in net.parameters()) and not net.training
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    with pytest.raises(ValueError, match=SketchFeatures.sha256[:12]):
        SketchFeatures.load(copy)


def test_a_saved_network_is_read_back(tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = SketchFeatures(["水", "木"])
    about = {str(k): "note" for k in range(9)}
    monkeypatch.setattr(SketchFeatures, "sha256", net.save(tmp_path / "a", about))
    assert {net.save(tmp_path / "b", about) for _ in range(9)} == {SketchFeatures.sha256}
    read = SketchFeatures.load(tmp_path / "a")
    assert read.classes == ["水", "木"]
    images = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    net.load_state_dict({k: v.half().float() for k, v in net.state_dict().items()})
    assert torch.equal(read.features(images), net.eval().features(images))


def test_features_do_not_depend_on_the_batch(kanji):
    net = SketchFeatures.load()
    images = rasterize(kanji.subset(range(20)))
    together, apart = net.features(images), net.features(images, batch_size=3)
    assert together.shape == (20, 64) and torch.allclose(together, apart, atol=1e-4)
    assert net.features(images[:0]).shape == (0, 64)
    with pytest.raises(ValueError, match=r"\(20, 32, 64\)"):
        net.features(images[:, ::2])
    with pytest.raises(ValueError, match="float32"):
        net.features(images.astype(np.float32))


def test_features_are_standardised_and_know_radicals(kanji):
    net = SketchFeatures.load()
    numbers = split(kanji)
    z = net.features(rasterize(kanji.subset(numbers.test)))
    assert z.mean(0).abs().max() < 0.4 and 0.6 < z.std(0).mean() < 1.4  # not what it learnt from
    water = [k for k in numbers.test if kanji.labels[k] in "河海湖池波泳汁汗沖油沸治泣"]
    images = torch.from_numpy(rasterize(kanji.subset(water)))[:, None] / 255
    if water:
        right = (net(images).argmax(1) == net.classes.index("水")).float().mean()
        assert right > 0.5


# the report --------------------


def test_real_sketches_are_near_and_noise_is_far(parts):
    real, reference, _ = parts
    floor = evaluate(real, reference, name="floor")
    ceiling = evaluate(noise_sketches(reference), reference, name="noise")
    assert ceiling.frechet > 8 * floor.frechet and ceiling.mmd > 30 * abs(floor.mmd)
    assert floor.precision > 0.85 and floor.recall > 0.85 and floor.coverage > 0.85
    assert ceiling.precision < 0.2 and ceiling.coverage < 0.2 and ceiling.recall < 0.2
    a, b = floor.strokes, ceiling.strokes
    assert b.strokes == 0  # noise keeps the counts
    for name in ("points", "length", "ink", "turning", "pen_up", "aspect"):
        assert getattr(b, name) > max(0.2, 2 * getattr(a, name))
    assert max(dataclasses.astuple(a)) < 0.2


def test_the_reference_against_itself_is_nothing_apart(parts):
    _, reference, _ = parts
    same = evaluate(reference, reference)
    assert same.frechet == pytest.approx(0, abs=1e-9) and same.mmd < 0  # each has its copy there
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert dataclasses.astuple(same.strokes) == (0,) * 7


@pytest.mark.slow
def test_figures_worsen_as_points_are_jittered(parts):
    real, reference, _ = parts
    rows = [evaluate(jittered(real, share), reference) for share in (0, 0.015, 0.03, 0.06, 0.12)]
    for name in ("frechet", "mmd"):
        values = [getattr(row, name) for row in rows]
        assert all(b > 1.1 * a for a, b in pairwise(values[1:])), name
        assert values[1] > values[0]
    for name in ("points", "pen_up", "length", "ink"):
        values = [getattr(row.strokes, name) for row in rows]
        assert values[1:] == sorted(values[1:]) and values[-1] > 2 * values[0], name
    assert rows[-1].recall < rows[2].recall < rows[0].recall + 0.02


def test_merging_strokes_shows_in_the_strokes(parts):
    real, reference, _ = parts
    merged = Sketches(real.points, real.strokes[real.offsets], np.arange(len(real) + 1))
    before, after = evaluate(real, reference).strokes, evaluate(merged, reference).strokes
    assert after.strokes > 0.8 and after.pen_up > 0.8 and after.length > 0.8
    assert after.points == pytest.approx(before.points, abs=0.05)
    assert after.aspect == before.aspect


def test_points_are_those_that_a_drawing_needs(kanji):
    part = kanji.subset(range(60))
    needed = statistics(part)["points"]
    dense = statistics(resample(part, spacing=1.0))["points"]
    assert (
        np.abs(dense / needed - 1).max() < 0.25 and np.abs(dense.mean() / needed.mean() - 1) < 0.03
    )
    assert (statistics(jittered(part, 0.03))["points"] > 1.2 * needed).mean() > 0.9


def test_copies_of_the_training_set_are_found_out(parts):
    real, reference, train = parts
    assert evaluate(train.subset(range(0, 300, 2)), reference, train).nearest == 0
    assert evaluate(real, reference, train).nearest == pytest.approx(1, abs=0.1)
    assert evaluate(jittered(train, 0.004), reference, train).nearest < 0.6
    assert evaluate(real, reference).nearest is None


def test_what_cannot_be_drawn_is_counted_and_left_out(parts):
    real, reference, _ = parts
    lists = [real[m] for m in range(50)]
    bad = [
        [np.array([(0.0, np.nan), (1, 1)])],
        [np.array([(0.0, np.inf), (1, 1)]), lists[0][0]],
        [np.array([(5.0, 5.0)]), np.array([(5.0, 5.0)])],
        [],
        [np.empty((0, 2))],
        [np.array([(-1e300, 0.0), (1e300, 0)])],
        [np.array([(1e15, 0.0), (1e15 + 3, 1)])],  # all rounding
    ]
    row = evaluate([*bad, *lists], reference)
    assert (row.num, row.valid) == (57, 50)
    alone = evaluate(real.subset(range(50)), reference)
    assert row.frechet == pytest.approx(alone.frechet) and row.strokes == alone.strokes

    nothing = evaluate(bad, reference, name="bad")
    assert (nothing.num, nothing.valid) == (7, 0) and math.isnan(nothing.frechet)
    assert evaluate([], reference).num == 0
    dots = Sketches.from_lists([[np.ones((1, 2))]] * 9)
    assert evaluate(dots, reference).valid == 0
    with pytest.raises(ValueError, match="reference has 0"):
        evaluate(real, dots)


def test_the_table_is_aligned_and_says_what_it_was_measured_with(parts):
    real, reference, train = parts
    rows = [
        evaluate(real, reference, train, name="validation against test"),
        evaluate(real.subset(range(60)), reference, name="few", nfe=1000, seconds=0.01234),
        SketchReport("nothing drawn", 12345, 0),
    ]
    lines = table(rows).splitlines()
    assert max(map(len, lines)) <= 110
    first, second = lines[:5], lines[6:11]
    for block in (first, second):
        assert len(set(map(len, block))) == 1
        assert [line.split("  ")[0] for line in block[2:]] == [row.name for row in rows]
    assert first[3].split()[-2:] == ["1000", "0.0123"]
    assert f"{rows[0].frechet:.2f}" in first[2] and f"{1000 * rows[0].mmd:.2f}" in first[2]
    assert f"{rows[0].strokes.pen_up:.3f}" in second[2]
    assert second[4].split() == ["nothing", "drawn", *"–––––––"]
    assert SketchFeatures.sha256[:12] in table(rows) and "FID" not in table(rows)
    assert len(table([]).splitlines()) == 8
