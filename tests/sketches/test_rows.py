"""Sketches as rows: what is kept, what the frame does, how drawings come back."""

import json
import warnings

import numpy as np
import pytest

from anydiff.sketches.evaluate import chamfer, noise_sketches, statistics
from anydiff.sketches.geometry import resample, scale
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.rows import PointRows, StrokeRows, along, rows_from_config
from anydiff.sketches.sketches import Sketches, to_stroke5


def sketches(seed=0, num=20) -> Sketches:
    rng = np.random.default_rng(seed)
    return Sketches.from_lists(
        [
            [rng.normal(size=(rng.integers(2, 9), 2)).cumsum(0) for _ in range(rng.integers(1, 6))]
            for _ in range(num)
        ]
    )


def moved(s: Sketches, factor=1.0, shift=(0.0, 0.0)) -> Sketches:
    return Sketches(s.points * factor + np.array(shift), s.strokes, s.offsets)


def test_points_along_a_straight_line_are_evenly_spaced():
    line = Sketches.from_lists([[np.array([[0.0, 0], [1, 1], [7, 7], [8, 8]])]])
    expected = np.linspace(0, 8, 5)[:, None].repeat(2, 1)
    np.testing.assert_allclose(along(line, 5)[0], expected, atol=1e-12)


def test_without_bend_they_are_equally_spaced_in_arc_length():
    turns = np.linspace(0, 1.5 * np.pi, 2001)
    circle = Sketches.from_lists([[3 * np.stack([np.cos(turns), np.sin(turns)], 1)]])
    chords = np.hypot(*np.diff(along(circle, 13, bend=0)[0], axis=0).T)
    np.testing.assert_allclose(chords, 2 * 3 * np.sin(1.5 * np.pi / 24), rtol=1e-5)


@pytest.mark.parametrize("points", [6, 8, 10])
def test_a_right_angle_keeps_its_corner_wherever_it_is(points):
    for where in np.linspace(0.05, 0.95, 31):
        corner = np.array([[0.0, 0], [where, 0], [where, 1 - where]])
        rows = along(Sketches.from_lists([[corner]]), points)[0]
        assert np.abs(rows - corner[1]).sum(1).min() < 1e-9
    cut = along(Sketches.from_lists([[corner]]), points, bend=0)[0]
    assert np.abs(cut - corner[1]).sum(1).min() > 1e-3


def test_ends_are_exact_and_each_stroke_is_its_own():
    many = sketches()
    rows = along(many, 7)
    np.testing.assert_array_equal(rows[:, 0], many.points[many.strokes[:-1]])
    np.testing.assert_array_equal(rows[:, -1], many.points[many.strokes[1:] - 1])
    singly = [along(Sketches.from_lists([[s]]), 7)[0] for m in range(len(many)) for s in many[m]]
    np.testing.assert_allclose(rows, singly, atol=1e-9)


def test_motion_and_scale_commute_with_the_points():
    many = sketches()
    expected = along(many, 8) * 3 + np.array([5, -2])
    np.testing.assert_allclose(along(moved(many, 3, (5, -2)), 8), expected, atol=1e-9)


def test_a_dot_is_its_point_over_and_over():
    dot = Sketches.from_lists([[np.array([[3.0, 4.0]])], [np.array([[1.0, 1], [1, 1]])]])
    rows = along(dot, 4)
    np.testing.assert_array_equal(rows[0], [[3.0, 4.0]] * 4)
    np.testing.assert_array_equal(rows[1], [[1.0, 1.0]] * 4)


@pytest.mark.parametrize("kind", [StrokeRows, PointRows])
def test_rows_bring_the_drawing_back(kind):
    kanji = load_kanji().subset(range(0, 3600, 40))
    rows = kind.fit(kanji)
    items = rows.encode(kanji)
    back = rows.decode(items.values, items.sizes)
    assert len(back) == len(kanji)
    np.testing.assert_array_equal(back.offsets, kanji.offsets)  # every stroke is one stroke
    ends = back.points[back.strokes[1:] - 1] - kanji.points[kanji.strokes[1:] - 1]
    assert np.abs(ends).max() < 1e-4  # of 109; the rows are float32
    assert rows_from_config(json.loads(json.dumps(rows.config))) == rows


@pytest.mark.parametrize("kind", [StrokeRows, PointRows])
def test_what_diffuses_does_not_depend_on_the_units_of_the_data(kind):
    many = sketches()
    other = moved(many, 40, (300, -70))
    values, same = (kind.fit(s).encode(s).values for s in (many, other))
    np.testing.assert_allclose(values, same, atol=1e-4)
    xy = values.reshape(-1, 2) if kind is StrokeRows else values[:, :2]
    assert 0.5 < xy.std() < 1.5


def test_fit_takes_as_many_points_as_the_strokes_need():
    straight = Sketches.from_lists([[np.array([[0.0, 0], [10, 10]])]] * 10)
    turns = np.linspace(0, 12 * np.pi, 500)
    spiral = Sketches.from_lists([[turns[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)]])
    assert StrokeRows.fit(straight).points == 8
    with pytest.warns(UserWarning, match="even 48 points"):
        assert StrokeRows.fit(spiral).points == 48
    wave = np.stack([turns, 10 * np.sin(turns / 4)], 1)
    assert 8 < StrokeRows.fit(Sketches.from_lists([[wave]])).points < 48
    assert StrokeRows.fit(spiral, points=5).points == 5


def test_pens_are_lifted_where_that_is_likelier():
    rows = PointRows(1.0, (0.0, 0.0), 1.0)
    drawn = np.array([[0, 0, -0.9], [1, 0, 0.1], [2, 0, -0.1], [3, 0, -2], [0, 1, -1], [1, 1, 0.3]])
    back = rows.decode(drawn, [4, 2])
    np.testing.assert_array_equal(back.strokes, [0, 2, 4, 6])
    np.testing.assert_array_equal(back.offsets, [0, 2, 3])  # a drawing's end ends its stroke


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected \(\*, 16\)"):
        StrokeRows(8, (0.0, 0.0), 1.0).decode(np.zeros((2, 3)), [2])
    with pytest.raises(ValueError, match="at least 2"):
        along(sketches(), 1)


NONE = Sketches.from_lists([], name="mine")


@pytest.mark.parametrize(
    "call",
    [
        lambda: along(NONE, 4),
        lambda: StrokeRows.fit(NONE),
        lambda: StrokeRows.fit(NONE, 8),
        lambda: PointRows.fit(NONE),
        lambda: StrokeRows(4, (0, 0), 1.0).encode(NONE),
        lambda: PointRows(1.0, (0, 0), 1.0).encode(NONE),
        lambda: statistics(NONE),
        lambda: noise_sketches(NONE),
    ],
)
def test_no_sketches_are_refused(call):
    with pytest.raises(ValueError, match="mine: there are no sketches; give one or more"):
        call()


def test_what_has_no_measure_is_as_empty_as_the_sketches():
    assert chamfer(NONE, NONE, 1.0).shape == (0,)
    assert len(resample(NONE, spacing=1.0)) == len(scale(NONE)) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda n: resample(sketches(), points=n),
        lambda n: along(sketches(), n),
        lambda n: StrokeRows.fit(sketches(), n),
        lambda n: to_stroke5(sketches(), 100 * n),
    ],
)
def test_numbers_of_points_are_whole(call):
    assert call(np.int64(4)) is not None
    with pytest.raises(ValueError, match=r"points is 2.505|length is 250.5"):
        call(2.505)


def test_a_sketch_of_another_size_does_not_fill_the_memory():
    rng = np.random.default_rng(0)
    alike = [[rng.random((4, 2))] for _ in range(99)]
    for size in (1e5, 1e9, 1e300):
        mixed = Sketches.from_lists([*alike, [rng.random((4, 2)) * size]], name="mine")
        rows = PointRows.fit(mixed)
        with pytest.raises(ValueError, match=r"mine: sketch 99 would have .* rows at a spacing of"):
            rows.encode(mixed)
        assert len(rows.encode(mixed.subset(range(99))).values) < 10_000
        assert len(PointRows.fit(scale(mixed)).encode(scale(mixed)).values) < 10_000


def test_sizes_of_several_orders_are_said():
    icons = Sketches.from_lists(
        [[np.random.default_rng(m).random((4, 2)) * (24 if m % 2 else 5000)] for m in range(40)]
    )
    for kind in (StrokeRows, PointRows):
        with pytest.warns(UserWarning, match="bring them to one size"):
            kind.fit(icons)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kind.fit(scale(icons))


def test_sketches_far_from_the_origin_keep_their_points():
    near = sketches()
    far = moved(near, 0.01, (4.5e6, -1.7e9))
    for rows in (StrokeRows.fit(far, 12), PointRows.fit(far)):
        items = rows.encode(far)
        here = type(rows).fit(near, **({"points": 12} if isinstance(rows, StrokeRows) else {}))
        assert np.allclose(items.values, here.encode(near).values, atol=1e-3)
        back = rows.decode(items.values, items.sizes)
        first = far.points[far.strokes[:-1]]
        assert np.abs(back.points[back.strokes[:-1]] - first).max() < 1e-6


@pytest.mark.parametrize("rows", [StrokeRows(4, (0.0, 0.0), 1.0), PointRows(1.0, (0.0, 0.0), 1.0)])
@pytest.mark.parametrize("lengths", [[2, 2], [1, 1], [3, 0], [1.5, 1.5], [[3]], [True, True, True]])
def test_lengths_that_do_not_fit_the_rows_are_refused(rows, lengths):
    with pytest.raises(ValueError, match=r"lengths are .*, of 3 rows; give"):
        rows.decode(np.zeros((3, rows.channels)), lengths)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "else"},
        {"points": 1},
        {"scale": 0.0},
        {"center": [0]},
        {"more": 1},
        {"center": None},
    ],
)
def test_a_config_of_something_else_is_named(changes):
    config = StrokeRows(4, (0.0, 0.0), 1.0).config
    with pytest.raises(ValueError, match="is no config of rows"):
        rows_from_config(config | changes)
    with pytest.raises(ValueError, match="is no config of rows"):
        rows_from_config({k: v for k, v in config.items() if k != "kind"})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ["1", np.nan, -1.0, np.inf, True])
def test_numbers_of_a_fit_are_checked_before_it(value):
    some = Sketches.from_lists([[[[0, 0], [9, 0], [9, 9]]]])
    shown = "'1'" if value == "1" else str(value)
    for name in ("bend", "tolerance"):
        with pytest.raises(ValueError, match=rf"{name} is {shown}; give a number in \[0, inf\)"):
            StrokeRows.fit(some, **{name: value})
    with pytest.raises(ValueError, match=rf"spacing is {shown}; give a number in \(0, inf\)"):
        PointRows.fit(some, spacing=value)
    with pytest.raises(ValueError, match=rf"bend is {shown}; give a number in \[0, inf\)"):
        along(some, 8, value)
