import importlib.util
import io
import json
import os
import pickle
import tracemalloc
import zipfile
from itertools import pairwise

import numpy as np
import pytest

from anydiff.sketches import arrays as stroke_arrays
from anydiff.sketches import kanji
from anydiff.sketches.files import read_sketches, write_ndjson, write_npz
from anydiff.sketches.geometry import resample, scale, simplify
from anydiff.sketches.kanji import load_kanji, read_kanjivg
from anydiff.sketches.named import load_sketches, split
from anydiff.sketches.sketches import (
    EmptySketch,
    SketchError,
    Sketches,
    from_stroke3,
    from_stroke5,
    to_stroke3,
    to_stroke5,
)
from anydiff.sketches.svg import read_svg, write_svg
from tests.helpers.paths import ROOT, SHARED

needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the data for trials isn't here")


@pytest.fixture(scope="module")
def characters():
    return load_kanji()


def scribbles(num=20, seed=0, times=False, labels=False):
    """Random walks with dots, repeated points and strokes of very different length among them."""
    rng = np.random.default_rng(seed)
    sketches = [
        [rng.normal(size=(rng.integers(1, 40), 2)).cumsum(0) for _ in range(rng.integers(1, 6))]
        for _ in range(num)
    ]
    sketches[1] = [np.array([[3.0, 4.0]])]
    sketches[2] = [np.array([[3.0, 4.0], [3.0, 4.0]]), np.array([[1.0, 1.0], [2.0, 1.0]])]
    made = Sketches.from_lists(sketches, [f"w{m} é" for m in range(num)] if labels else None)
    if times:
        walk = np.sort(rng.uniform(0, 1e4, len(made.points)))
        made = Sketches(made.points, made.strokes, made.offsets, made.labels, walk)
    return made


def strokes_of(sketches):
    return [stroke for m in range(len(sketches)) for stroke in sketches[m]]


def assert_same(a, b):
    assert np.array_equal(a.points, b.points)
    assert np.array_equal(a.strokes, b.strokes) and np.array_equal(a.offsets, b.offsets)
    assert (a.labels is None) == (b.labels is None) and (a.times is None) == (b.times is None)
    assert a.labels is None or list(a.labels) == list(b.labels)
    assert a.times is None or np.array_equal(a.times, b.times)


# the container --------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"points": np.zeros((4, 3))}, r"\(4, 3\) of float64"),
        ({"points": np.zeros((4, 2), int)}, "of int64"),
        (
            {"points": np.array([[0, 0], [1, 1], [2, 2], [3, np.nan]])},
            "sketch 1, stroke 1, point 0",
        ),
        ({"strokes": [0, 1, 2, 3]}, "strokes must run from 0 to the 4 points"),
        ({"strokes": [0, 2, 2, 4]}, "sketch 1, stroke 0 is empty"),
        ({"strokes": [0, 3, 2, 4]}, "sketch 1, stroke 0 is empty"),
        ({"offsets": [0, 2]}, "offsets must run from 0 to the 3 strokes"),
        ({"offsets": [0, 0, 3]}, "sketch 0 is empty"),
        ({"labels": ["cat"]}, "1 labels, but 2 are needed"),
        ({"times": np.zeros(3)}, "3 times, but 4"),
    ],
)
def test_arrays_that_cannot_be_right_are_refused(changes, message):
    arrays = {"points": np.zeros((4, 2)), "strokes": [0, 2, 3, 4], "offsets": [0, 1, 3], **changes}
    with pytest.raises(SketchError, match=message) as error:
        Sketches(**arrays, name="here.npz")
    assert "here.npz" in str(error.value)


@pytest.mark.parametrize(
    "stroke, message",
    [
        (np.zeros((2, 5)), r"is \(2, 5\); give \(n, 2\) rows, np.transpose of"),
        ([[1, 2, 3], [4, 5, 6]], r"is \(2, 3\)"),
        (np.zeros((4, 3)), r"is \(4, 3\)"),
        (np.zeros((1, 3, 2)), r"is \(1, 3, 2\)"),
        (np.zeros(4), r"is \(4,\); give \(n, 2\) rows, in a list of strokes for each sketch"),
        (3.0, r"is \(\)"),
        ([[1, 2], [3]], "is not of numbers"),
        ([["a", "b"]], "is not of numbers"),
        ([], "is empty; each needs at least one point"),
        (np.zeros((0, 2)), "is empty"),
        ([[], []], "is empty"),
    ],
)
def test_strokes_of_another_shape_are_refused(stroke, message):
    with pytest.raises(SketchError, match=f"here: sketch 1, stroke 1 {message}"):
        Sketches.from_lists([[np.zeros((3, 2))], [np.zeros((3, 2)), stroke]], name="here")


@pytest.mark.parametrize("given", [3, None, "abc", {"a": [[1, 2]]}, [[[[0, 0]]], 4]])
def test_what_is_no_list_of_sketches_is_named(given):
    with pytest.raises(SketchError, match=r"mine: (\w+ is given; give a list of|sketch 1 is 4;)"):
        Sketches.from_lists(given, name="mine")


def test_a_subset_holds_the_sketches_asked_for():
    sketches = scribbles(times=True, labels=True)
    part = sketches.subset([7, 3, 7])
    for k, m in enumerate([7, 3, 7]):
        assert all(np.array_equal(a, b) for a, b in zip(part[k], sketches[m], strict=True))
        assert part.labels[k] == sketches.labels[m]
    begin = sketches.strokes[sketches.offsets]
    ends = np.concatenate([sketches.times[begin[m] : begin[m + 1]] for m in (7, 3, 7)])
    assert np.array_equal(part.times, ends)
    assert len(sketches.subset([])) == 0
    assert len(sketches.subset(np.arange(20) % 2 == 0)) == 10
    for numbers in (range(2, 12, 3), range(20)[2:12:3], np.arange(20)[2:12:3], [2, 5, 8, -9]):
        assert_same(sketches.subset(numbers), sketches.subset([2, 5, 8, 11]))
    with pytest.raises(IndexError, match="sketch 20 of 20"):
        sketches[20]


def test_a_part_holds_the_strokes_asked_for():
    sketches = scribbles(times=True, labels=True)
    counts = np.diff(sketches.offsets)
    assert_same(sketches.part(), sketches)
    half = (counts + 1) // 2
    several = sketches.subset(counts > 1)
    first, rest = several.part(0, half[counts > 1]), several.part(half[counts > 1])
    assert list(first.labels) == list(rest.labels) == list(several.labels)
    for m in range(len(several)):
        strokes = [*first[m], *rest[m]]
        assert all(map(np.array_equal, strokes, several[m])) and len(strokes) == len(several[m])
    assert sorted([*first.times, *rest.times]) == sorted(several.times)
    assert np.array_equal(several.order[several.offsets[:-1]], np.zeros(len(several)))
    assert max(several.order) == max(counts) - 1
    with pytest.raises(SketchError, match="is empty"):
        sketches.part(1)  # one of them has one stroke alone


# geometry --------------------


def to_segment(point, a, b):
    along = b - a
    share = np.clip(np.dot(point - a, along) / max(np.dot(along, along), 1e-300), 0, 1)
    return np.linalg.norm(point - a - share * along)


def peucker(line, epsilon):
    """Ramer–Douglas–Peucker as its recursion has it."""
    if len(line) < 3:
        return list(line)
    distances = [to_segment(point, line[0], line[-1]) for point in line[1:-1]]
    far = int(np.argmax(distances)) + 1
    if distances[far - 1] <= epsilon:
        return [line[0], line[-1]]
    return peucker(line[: far + 1], epsilon)[:-1] + peucker(line[far:], epsilon)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 5.0])
def test_simplify_is_the_recursion(epsilon):
    sketches = scribbles(times=True)
    simple = simplify(sketches, epsilon)
    for fine, rough in zip(strokes_of(sketches), strokes_of(simple), strict=True):
        assert np.array_equal(rough, np.array(peucker(fine, epsilon)))
        for point in fine:  # nothing is farther away than was asked
            pieces = list(pairwise(rough)) or [(rough[0], rough[0])]
            assert min(to_segment(point, a, b) for a, b in pieces) <= epsilon
    assert_same(simplify(simple, epsilon / 2), simplify(simplify(simple, epsilon / 2), epsilon / 2))
    time = dict(zip(map(tuple, sketches.points), sketches.times, strict=True))
    kept = {tuple(p): t for p, t in zip(simple.points, simple.times, strict=True)}
    repeated = {(3.0, 4.0)}
    assert all(time[p] == t for p, t in kept.items() if p not in repeated)


def test_simplify_keeps_where_a_stroke_turns_back():
    line = np.array([[0.0, 0], [5, 0], [10, 0], [4, 0], [2, 0]])
    assert simplify(Sketches.from_lists([[line]]), 0.1)[0][0].tolist() == [[0, 0], [10, 0], [2, 0]]
    with pytest.raises(ValueError, match="epsilon is -1"):
        simplify(scribbles(), -1)


def test_a_long_stroke_needs_no_deep_recursion():
    turns = np.linspace(0, 400, 20_000)
    spiral = np.stack([turns * np.cos(turns), turns * np.sin(turns)], 1)
    assert len(simplify(Sketches.from_lists([[spiral]]), 1e-9)[0][0]) > 19_000


def test_resampling_a_circle():
    angle = np.linspace(0, 2 * np.pi, 100_001)
    circle = Sketches.from_lists([[5 * np.stack([np.cos(angle), np.sin(angle)], 1)]])
    (line,) = resample(circle, spacing=0.1)[0]
    n = int(np.ceil(10 * np.pi / 0.1)) + 1
    assert len(line) == n
    where = np.linspace(0, 2 * np.pi, n)
    assert np.allclose(line, 5 * np.stack([np.cos(where), np.sin(where)], 1), atol=1e-7)
    assert len(resample(circle, points=7)[0][0]) == 7


def test_resampling_a_line_with_a_corner():
    corner = Sketches(
        np.array([[0.0, 0], [3, 0], [3, 4]]), [0, 3], [0, 1], times=np.array([0, 30, 430])
    )
    even = resample(corner, spacing=1.0)
    assert even.points.tolist() == [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [3, 2], [3, 3], [3, 4]]
    assert np.allclose(even.times, [0, 10, 20, 30, 130, 230, 330, 430])
    assert np.allclose(resample(corner, points=3).points, [[0, 0], [3, 0.5], [3, 4]])


@pytest.mark.parametrize(
    "how", [{"spacing": 0.7}, {"spacing": 100.0}, {"points": 2}, {"points": 9}]
)
def test_resampling_keeps_ends_and_stays_on_the_stroke(how):
    sketches = scribbles(times=True, labels=True)
    even = resample(sketches, **how)
    assert list(even.labels) == list(sketches.labels)
    assert np.array_equal(even.offsets, sketches.offsets)
    first = even.strokes[:-1]
    last = even.strokes[1:] - 1
    assert np.array_equal(even.times[first], sketches.times[sketches.strokes[:-1]])
    assert np.array_equal(
        even.times[last[last > first]], sketches.times[sketches.strokes[1:] - 1][last > first]
    )
    for old, new in zip(strokes_of(sketches), strokes_of(even), strict=True):
        assert np.array_equal(new[0], old[0]) and np.array_equal(new[-1], old[-1])
        length = np.linalg.norm(np.diff(old, axis=0), axis=1).sum()
        steps = np.linalg.norm(np.diff(new, axis=0), axis=1)
        if "points" in how:
            assert len(new) == how["points"]
        else:
            assert len(new) == (
                1 if len(old) == 1 else max(2, np.ceil(length / how["spacing"]) + 1)
            )
            assert (steps <= how["spacing"] * (1 + 1e-9)).all()
        pieces = list(pairwise(old)) or [(old[0], old[0])]
        assert all(min(to_segment(p, a, b) for a, b in pieces) < 1e-9 for p in new)


def test_resampling_does_not_depend_on_the_company():
    sketches = scribbles(60)
    alone = resample(sketches.subset([50]), spacing=0.3)
    among = resample(sketches, spacing=0.3).subset([50])
    assert np.array_equal(alone.strokes, among.strokes)
    assert np.allclose(alone.points, among.points, atol=1e-10)


@pytest.mark.parametrize(
    "how, message",
    [
        ({}, "either"),
        ({"spacing": 1.0, "points": 3}, "either"),
        ({"spacing": 0.0}, "spacing is 0"),
        ({"points": 1}, "points is 1"),
    ],
)
def test_resampling_that_cannot_be_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        resample(scribbles(), **how)


@pytest.mark.parametrize("center", [True, False])
def test_scale_fits_each_sketch_into_the_box(center):
    sketches = scribbles()
    scaled = scale(sketches, 2.0, center)
    for m in range(len(sketches)):
        old, new = np.concatenate(sketches[m]), np.concatenate(scaled[m])
        extent, side = np.ptp(new, axis=0), np.ptp(old, axis=0).max()
        if side > 0:
            assert extent.max() == pytest.approx(2)
            factor = 2 / side  # the aspect stays
            assert np.allclose(new - new[0], factor * (old - old[0]))
        else:
            assert m == 1 and (extent == 0).all()
        if center:
            assert np.abs(new).max() <= 1 + 1e-12  # half the size to each side
        else:
            assert new.min() >= -1e-12 and new.max() <= 2 + 1e-12
        middle = (new.max(0) + new.min(0)) / 2
        assert np.allclose(middle if center else new.min(0), 0)
    again = scale(scaled, 2.0, center)
    assert np.allclose(again.points, scaled.points)
    with pytest.raises(ValueError, match="size is 0"):
        scale(sketches, 0)


def test_functions_leave_what_they_are_given_alone_and_take_nothing():
    sketches = scribbles(times=True)
    before = sketches.points.copy()
    nothing = sketches.subset([])
    for function in (lambda s: resample(s, 1.0), scale, lambda s: simplify(s, 1.0)):
        function(sketches)
        assert np.array_equal(sketches.points, before)
        assert len(function(nothing)) == 0
    assert to_stroke3(nothing) == [] and len(from_stroke3([])) == 0
    assert to_stroke5(nothing).shape == (0, 1, 5) and len(from_stroke5([])) == 0
    single = Sketches(before.astype(np.float32), sketches.strokes, sketches.offsets)
    for function in (lambda s: resample(s, 1.0), scale, lambda s: simplify(s, 1.0)):
        assert function(single).points.dtype == np.float32


# rows --------------------


def test_rows_by_hand():
    sketches = Sketches.from_lists([[[[3, 4], [5, 4]], [[1, 1]]], [[[2, 2]]]])
    assert [rows.tolist() for rows in to_stroke3(sketches)] == [
        [[3, 4, 0], [2, 0, 1], [-4, -3, 1]],
        [[2, 2, 1]],
    ]
    end = [0, 0, 0, 0, 1]
    assert to_stroke5(sketches).tolist() == [
        [[3, 4, 1, 0, 0], [2, 0, 0, 1, 0], [-4, -3, 0, 1, 0], end],
        [[2, 2, 0, 1, 0], end, end, end],
    ]
    unfinished = from_stroke3([[[3, 4, 0], [2, 0, 1], [-4, -3, 0]], [[2, 2, 0]]])
    assert_same(unfinished, sketches)


def test_rows_round_trip(characters):
    whole = Sketches(np.rint(scribbles().points * 100), scribbles().strokes, scribbles().offsets)
    for sketches in (whole, Sketches(characters.points, characters.strokes, characters.offsets)):
        assert_same(from_stroke3(to_stroke3(sketches)), sketches)
        rows = to_stroke5(sketches, length=400)
        assert rows.shape[1:] == (400, 5) and (rows[..., 2:].sum(-1) == 1).all()
        assert_same(from_stroke5(rows), sketches)
    rough = scribbles()
    assert np.allclose(from_stroke3(to_stroke3(rough)).points, rough.points, atol=1e-12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: from_stroke3([np.zeros((4, 5))]), r"sketch 0 is \(4, 5\)"),
        (lambda: from_stroke3([np.ones((4, 3)), np.zeros((0, 3))]), "sketch 1 is"),
        (
            lambda: from_stroke3([np.ones((2, 3)), [[0, 0, 0], [1, 1, 0.7]]]),
            "sketch 1, row 1 .*0.7",
        ),
        (lambda: from_stroke3([[[0, 0, np.nan]]]), "sketch 0, row 0"),
        (lambda: from_stroke3([[[np.inf, 0, 1]]]), "finite"),
        (lambda: from_stroke5([np.zeros((4, 3))]), r"sketch 0 is \(4, 3\)"),
        (lambda: from_stroke5([[[0, 0, 1, 1, 0]]]), "sketch 0, row 0 has pen states"),
        (lambda: from_stroke5([[[0, 0, 0, 0, 1]]]), "sketch 0 is"),
        (lambda: to_stroke5(scribbles(), length=10), "needs .* rows, not 10"),
    ],
)
def test_rows_that_cannot_be_right_are_refused(make, message):
    with pytest.raises(SketchError, match=message):
        make()


# files --------------------


@pytest.mark.parametrize("ending", ["npz", "ndjson"])
@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_files_give_back_what_was_written(tmp_path, ending, times, labels):
    path = tmp_path / f"a.{ending}"
    write = write_npz if ending == "npz" else write_ndjson
    rough = scribbles(times=times, labels=labels)
    plain = Sketches(np.rint(rough.points), rough.strokes, rough.offsets, rough.labels, rough.times)
    for sketches in (rough, plain, rough.subset([1])):
        write(path, sketches)
        assert_same(read_sketches(path), sketches)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file is left
    if ending == "npz":
        with np.load(path, allow_pickle=False) as file:
            assert all(file[key].dtype.kind != "O" for key in file.files)


def test_integer_steps_lose_nothing_on_their_grid(tmp_path, characters):
    write_npz(tmp_path / "a.npz", characters, unit=1 / 16)
    assert_same(read_sketches(tmp_path / "a.npz"), characters)
    write_npz(tmp_path / "b.npz", scribbles(), unit=0.01)
    assert np.abs(read_sketches(tmp_path / "b.npz").points - scribbles().points).max() <= 0.005001


def test_an_unfinished_file_does_not_take_the_old_ones_place(tmp_path, monkeypatch):
    path = tmp_path / "a.ndjson"
    path.write_text("old")

    def fail(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match="full"):
        write_ndjson(path, scribbles())
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_quickdraw_lines(tmp_path):
    path = tmp_path / "a.ndjson"
    path.write_text(
        '{"word":"cat","recognized":true,"drawing":[[[1,2],[3,4],[0,16]],[[5.5],[6],[30]]]}\n\n'
        '{"drawing":[[[7],[8],[0]]]}\n'
    )
    sketches = read_sketches(path)
    assert [stroke.tolist() for stroke in sketches[0]] == [[[1, 3], [2, 4]], [[5.5, 6]]]
    assert sketches.times.tolist() == [0, 16, 30, 0] and list(sketches.labels) == ["cat", ""]


GOOD = '{"word":"cat","drawing":[[[1,2],[3,4]]]}\n'


@pytest.mark.parametrize(
    "line, message",
    [
        (GOOD[:-8], "not JSON, or cut short"),
        ("[1, 2]", 'should be an object with a list "drawing"'),
        ('{"drawing": 3}', 'a list "drawing"'),
        ('{"drawing": [[[1, 2], [3]]]}', "stroke 0 has lists of 2, 1 numbers"),
        ('{"drawing": [[[1], [2]], [[1]]]}', "stroke 1 should be"),
        ('{"drawing": [[[1], [2], [3]]]}', "stroke 0 has 3 lists, but those before have 2"),
        ('{"drawing": [[[1, NaN], [3, 4]]]}', "stroke 0 holds a number that is not finite"),
        ('{"drawing": [[[1, 1e999], [3, 4]]]}', "not finite"),
        ('{"drawing": [[[1, 1' + 400 * "0" + "], [3, 4]]]}", "not finite"),
        ('{"drawing": [[[1, 1' + 5000 * "0" + "], [3, 4]]]}", "not finite"),
        ('{"drawing": [[[1, "2"], [3, 4]]]}', "stroke 0 holds '2'"),
        ('{"drawing": [[[1, true], [3, 4]]]}', "stroke 0 holds True"),
        ('{"drawing": [[[1, [2]], [3, 4]]]}', r"stroke 0 holds \[2\]"),
        ('{"drawing": []}', "the drawing is empty; skip_empty"),
        ('{"drawing": [[[], []]]}', "stroke 0 is empty; skip_empty"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, line, message):
    path = tmp_path / "mine.ndjson"
    path.write_text(GOOD + "\n" + line)
    with pytest.raises(SketchError, match=f"line 3: .*{message}") as error:
        read_sketches(path)
    assert str(path) in str(error.value)
    if "empty" in message:
        assert_same(read_sketches(path, skip_empty=True), read_sketches(path_of(tmp_path, GOOD)))


def path_of(folder, text, name="b.ndjson"):
    (folder / name).write_text(text)
    return folder / name


def test_rows_in_numpy_files(tmp_path):
    sketches = Sketches(np.rint(scribbles().points * 9), scribbles().strokes, scribbles().offsets)
    rows = to_stroke3(sketches)
    ends = np.cumsum([0, *map(len, rows)])
    flat = {"strokes": np.concatenate(rows).astype(np.int16), "offsets": ends.astype(np.int32)}
    path = tmp_path / "a.npz"

    np.savez(path, **flat)
    assert_same(read_sketches(path), sketches)
    np.savez(path, **flat, unit=0.5, label=np.arange(20) % 2, categories=np.array(["a", "b"]))
    labelled = read_sketches(path)
    assert np.array_equal(labelled.points, sketches.points / 2)
    assert list(labelled.labels) == ["a", "b"] * 10
    part = np.arange(20) % 3
    np.savez(path, **flat, split=part, label=np.arange(20))
    valid = read_sketches(path, part="valid")
    assert np.array_equal(valid.points, sketches.subset(part == 1).points)
    assert list(valid.labels) == [str(m) for m in range(20) if m % 3 == 1]

    np.save(tmp_path / "a.npy", rows[0])
    assert_same(read_sketches(tmp_path / "a.npy"), sketches.subset([0]))
    np.savez(path, to_stroke5(sketches))
    assert_same(read_sketches(path), sketches)
    np.save(tmp_path / "a.npy", to_stroke5(sketches)[3])
    assert_same(read_sketches(tmp_path / "a.npy"), sketches.subset([3]))


def test_labels_as_pythons_strings(tmp_path):
    sketches = scribbles(labels=True)
    path = tmp_path / "a.npz"
    labels = np.array(sketches.labels, object)
    arrays = {key: getattr(sketches, key) for key in ("points", "strokes", "offsets")}
    np.savez(path, **arrays, labels=labels)
    assert_same(read_sketches(path), sketches)

    rows = to_stroke3(sketches)
    flat = {"strokes": np.concatenate(rows), "offsets": np.cumsum([0, *map(len, rows)])}
    np.savez(path, **flat, labels=labels)
    assert list(read_sketches(path).labels) == sketches.labels
    names = np.array(["one", "other"], object)
    np.savez(path, **flat, label=np.arange(20) % 2, categories=names, split=np.arange(20) % 2)
    assert list(read_sketches(path).labels) == ["one", "other"] * 10
    np.savez(path, **flat, split=np.arange(20) % 2, split_names=names)
    assert len(read_sketches(path, part="other")) == 10

    for wrong in (of_objects([np.ones(2)] * 20), of_objects([np.ones(2)] * 19 + ["a"])):
        np.savez(path, **flat, labels=wrong)
        with pytest.raises(SketchError, match=r"labels should be one|not of arrays"):
            read_sketches(path)
    np.savez(path, labels)
    with pytest.raises(SketchError, match=r"sketch 0 is \(\); give \(n, 3\) of dx"):
        read_sketches(path)


@pytest.mark.parametrize("key", ["points", "strokes", "offsets", "times"])
def test_objects_where_numbers_belong_are_refused(tmp_path, key):
    rows = of_objects([np.ones((2, 3)), np.ones((1, 3))])
    for form in ("points", "rows"):
        arrays = {"points": np.zeros((3, 2)), "strokes": [0, 3], "offsets": [0, 1]}
        if form == "rows":
            arrays = {"strokes": np.ones((3, 3)), "offsets": [0, 3]}
        np.savez(tmp_path / "a.npz", **{**arrays, key: rows})
        with pytest.raises(SketchError, match=f"{key} is of Python objects") as error:
            read_sketches(tmp_path / "a.npz")
        assert str(tmp_path / "a.npz") in str(error.value)


def test_a_small_file_does_not_fill_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, points=np.zeros((100_000, 2)), strokes=[0, 100_000], offsets=[0, 1])
    assert len(read_sketches(path)) == 1
    monkeypatch.setattr(stroke_arrays, "_LARGE", 1_000_000)
    with pytest.raises(SketchError, match=r"a\.npz: its [\d,]+ bytes unpack to 1,600,\d+,"):
        read_sketches(path)
    write_npz(path, scribbles(3000))  # as large, but as a drawing is
    assert len(read_sketches(path).points) * 16 > 1_000_000

    same = np.zeros((1000, 3))  # a thousand times in the list, once in the file
    np.savez(path, train=of_objects([same] * 1000))
    with pytest.raises(SketchError, match=r"train\.npy: its [\d,]+ bytes unpack to 24,000,000"):
        read_sketches(path)

    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("points.npy", b"")
    with pytest.raises(SketchError, match=r"points\.npy: not compressed as by NumPy"):
        read_sketches(path)


def test_a_member_is_unpacked_no_further_than_it_says(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, points=np.zeros((1_000_000, 2)))
    data = path.read_bytes()
    size = (16_000_000 + 128).to_bytes(4, "little")
    assert size in data
    path.write_bytes(data.replace(size, (500).to_bytes(4, "little")))
    tracemalloc.start()
    try:
        with pytest.raises(SketchError, match="cut short"):
            read_sketches(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def of_objects(items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


def test_sketch_rnn_files(tmp_path):
    sketches = Sketches(np.rint(scribbles().points * 9), scribbles().strokes, scribbles().offsets)
    rows = of_objects([r.astype(np.int16) for r in to_stroke3(sketches)])
    path = tmp_path / "a.npz"
    np.savez_compressed(path, train=rows[:10], valid=rows[10:13], test=rows[13:])
    assert_same(read_sketches(path), sketches)
    assert_same(read_sketches(path, part="valid"), sketches.subset([10, 11, 12]))

    for core in (b"numpy._core", b"numpy.core"):  # as NumPy 2 and NumPy 1 name it
        text = pickle.dumps(rows, 3)
        write_objects(tmp_path / "b.npz", text.replace(b"numpy._core", core), len(rows))
        assert_same(read_sketches(tmp_path / "b.npz"), sketches)


def write_objects(path, text, num, key="train"):
    """An npz whose array of objects is this pickle."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|O", "fortran_order": False, "shape": (num,)}
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{key}.npy", head.getvalue() + text)


def test_arrays_as_python_2_pickled_them(tmp_path):
    # an object array of one (2, 3) array of int16, protocol 2, strings for bytes
    def array(shape, dtype, kind, raw):
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
            + shape
            + b"cnumpy\ndtype\nU\x02"
            + dtype
            + b"K\x00K\x01\x87R(K\x03U\x01"
            + kind
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
            + raw
            + b"tb"
        )

    rows = np.array([[1, 200, 0], [-3, 4, 1]], "<i2")
    raw = b"U" + bytes([rows.nbytes]) + rows.tobytes()
    text = (
        b"\x80\x02"
        + array(b"K\x01\x85", b"O8", b"|", b"]" + array(b"K\x02K\x03\x86", b"i2", b"<", raw) + b"a")
        + b"."
    )
    write_objects(tmp_path / "a.npz", text, 1)
    assert read_sketches(tmp_path / "a.npz")[0][0].tolist() == [[1, 200], [-2, 204]]


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_asks_for_more_is_refused_and_not_run(tmp_path):
    made = tmp_path / "made"
    rows = np.array([[1, 1, 1]], np.int16)
    for num, objects in enumerate(
        [of_objects([rows, Evil(made)]), of_objects([Evil(made)]), Evil(made)]
    ):
        for ending in ("npz", "npy"):
            path = tmp_path / f"{num}.{ending}"
            if isinstance(objects, Evil):
                text = pickle.dumps(objects)
                write_objects(path, text, 1)
                if ending == "npy":
                    path.write_bytes(zipfile.ZipFile(path).read("train.npy"))
            elif ending == "npz":
                np.savez(path, train=objects)
            else:
                np.save(path, objects)
            with pytest.raises(SketchError, match=r"asks for (posix|nt|os)\.mkdir") as error:
                read_sketches(path)
            assert str(path) in str(error.value) and not made.exists()
    np.load(tmp_path / "0.npz", allow_pickle=True)["train"]
    assert made.exists()  # it would have run


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x80\x02.",
        b"\x80\x02K\x01.",
        b"cnumpy\nndarray\n.",
        b"cnumpy\nndarray\nK\x01\x85R.",
        b"cnumpy\ndtype\nK\x01b.",
        b"cnumpy\nndarray\nN}U\x0c__setstate__K\x01s\x86b.",
        pickle.dumps([np.zeros((2, 3))], 3),
        pickle.dumps(np.array([[1, 2, 3.0]]), 3),
        pickle.dumps(of_objects([np.zeros((2, 3)), 3]), 3),
        pickle.dumps(of_objects([of_objects([1, 2])]), 3),
        pickle.dumps(of_objects([np.zeros((2, 3))] * 9), 3)[:-30],
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, text):
    write_objects(tmp_path / "a.npz", text, 1)
    with pytest.raises(SketchError, match="cut short or not of arrays"):
        read_sketches(tmp_path / "a.npz")
    good = of_objects([np.ones((1, 3))])  # and nothing is left behind
    np.savez(tmp_path / "b.npz", train=good)
    assert len(read_sketches(tmp_path / "b.npz")) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"\x80\x05]r\x00\x00\x00\x02.",  # a number for the memo, 33 million
        b"\x80\x05\x96\x00\x00\x00\x10\x00\x00\x00\x00.",  # a bytearray of 256 MiB
    ],
)
def test_a_few_bytes_of_pickle_do_not_fill_the_memory(tmp_path, text):
    write_objects(tmp_path / "a.npz", text, 1)
    tracemalloc.start()
    try:
        with pytest.raises(SketchError, match="cut short or not of arrays"):
            read_sketches(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_faulty_npz_is_named(tmp_path):
    path = tmp_path / "mine.npz"

    def refuse(message, **arguments):
        with pytest.raises(SketchError, match=message) as error:
            read_sketches(path, **arguments)
        assert str(path) in str(error.value)

    refuse("no such file")
    write_npz(path, scribbles(labels=True))
    refuse("has no parts", part="train")
    whole = path.read_bytes()
    for share in (0.0, 0.3, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        refuse("not a readable file, or cut short")
    path.write_bytes(whole[:400] + bytes(20) + whole[420:])
    refuse("cut short")
    rows = np.array([[1, 1, 0], [1, 1, 1]])
    np.savez(path, strokes=rows, offsets=np.array([0, 3]))
    refuse("offsets should run from 0")
    np.savez(path, strokes=rows, offsets=np.array([0, 2]))
    refuse("has no part 'train'; its parts are none", part="train")
    np.savez(path, points=np.zeros((3, 2)))
    refuse("do not fit together .*strokes")
    np.savez(path, a=rows, b=rows)
    refuse(r"holds \['a', 'b'\]; give strokes and offsets")
    np.savez(path, train=rows[None])
    refuse("has no part 'test'", part="test")
    np.savez(path, np.zeros((4, 7)))
    refuse(r"sketch 0 is \(4, 7\)")
    path = tmp_path / "mine.npy"
    np.save(path, rows)
    good = path.read_bytes()
    for bad in (b"", good[:6], good[:40], good[:-1], good.replace(b"}", b"(")):
        path.write_bytes(bad)
        refuse("not a NumPy array|cut short")


@pytest.mark.filterwarnings("ignore:.* other files in it")
def test_a_folder_of_drawings(tmp_path):
    sketches = Sketches(np.rint(scribbles(3).points), scribbles(3).strokes, scribbles(3).offsets)
    for m in (0, 1):
        write_svg(tmp_path / f"drawing {m}.svg", sketches[m])
    write_ndjson(tmp_path / "z.ndjson", sketches.subset([2, 2]))
    (tmp_path / "notes.txt").write_text("nothing")
    both = read_sketches(tmp_path)
    assert list(both.labels) == ["drawing 0", "drawing 1", "z", "z"]
    assert np.array_equal(both.points, sketches.subset([0, 1, 2, 2]).points)
    assert_same(load_sketches(tmp_path / "z.ndjson"), sketches.subset([2, 2]))
    path_of(tmp_path, '<svg xmlns="http://www.w3.org/2000/svg"/>', "e.svg")
    with pytest.raises(SketchError, match=r"e\.svg: nothing is drawn"):
        read_sketches(tmp_path)
    assert len(read_sketches(tmp_path, skip_empty=True)) == 4
    with pytest.raises(SketchError, match=r"a \.svg file has no parts"):
        read_sketches(tmp_path / "e.svg", part="train")


def ink(body, head='<ink xmlns="http://www.w3.org/2003/InkML">'):
    return f"{head}\n{body}\n</ink>\n"


def test_what_is_empty(tmp_path):
    head = '<svg xmlns="http://www.w3.org/2000/svg">'
    nothing = {
        "a.svg": f'{head}<path d=""/><path/><path d="M1 1"/><polyline points=""/></svg>',
        "b.inkml": ink("<trace></trace><trace> \n </trace>"),
    }
    for name, text in nothing.items():
        path = path_of(tmp_path, text, name)
        with pytest.raises(EmptySketch, match=name):
            read_sketches(path)
        assert len(read_sketches(path, skip_empty=True)) == 0
        one = text.replace("</svg>", '<path d="M1 2L3 4"/></svg>')
        one = one.replace("</ink>", "<trace>1 2,3 4</trace></ink>")
        for skip in (False, True):
            some = read_sketches(path_of(tmp_path, one, f"one {name}"), skip_empty=skip)
            assert some[0][0].tolist() == [[1, 2], [3, 4]] and len(some.strokes) == 2
    with pytest.raises(EmptySketch, match=r"a\.svg"):
        load_sketches(tmp_path)
    assert list(load_sketches(tmp_path, skip_empty=True).labels) == ["one a", "one b"]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(SketchError, match=r"ends in \.ndjson, \.npz, \.npy, \.svg, \.inkml"):
        read_sketches(path_of(tmp_path, "", "a.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SketchError, match="no files in it that end in"):
        read_sketches(tmp_path / "empty")
    path_of(tmp_path, "é").write_bytes(b'{"word": "\xff"}')
    with pytest.raises(SketchError, match="not a readable text file"):
        read_sketches(tmp_path / "b.ndjson")


# KanjiVG --------------------


def test_the_shipped_characters_are_sound(characters):
    assert len(characters) == 3600 and len(set(characters.labels)) == 3600
    assert all(0x4E00 <= ord(label) <= 0x9FFF for label in characters.labels)
    assert characters.points.min() >= 0 and characters.points.max() <= 109
    assert (characters.points * 16 == np.rint(characters.points * 16)).all()
    assert len(characters[list(characters.labels).index("三")]) == 3
    assert_same(load_sketches("kanji"), characters)
    with pytest.raises(ValueError, match='there are "3k" and "full"'):
        load_kanji("4k")


def test_the_split_is_the_same_each_time():
    parts = split(range(3600))
    assert [len(part) for part in parts] == [2880, 360, 360]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(3600))
    assert parts.train[:5].tolist() == split(range(3600)).train[:5].tolist()
    assert [len(part) for part in split(range(7))] == [5, 0, 2]


FILE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 109 109">\n<g>{}</g></svg>'


def test_a_folder_of_kanjivg(tmp_path):
    one = '<path id="kvg:04e00-s1" d="M11,54c3,0.5 6,1 20,0"/>\n'
    path_of(tmp_path, FILE.format(one), "04e00.svg")
    path_of(tmp_path, FILE.format(one + one), "04e8c.svg")
    path_of(tmp_path, FILE.format(one), "04e8c-Kaisho.svg")
    sketches = read_kanjivg(tmp_path, progress=False)
    assert list(sketches.labels) == ["一", "二"] and np.diff(sketches.offsets).tolist() == [1, 2]
    slow = read_svg(tmp_path / "04e8c.svg", tolerance=0.05)
    assert np.array_equal(np.concatenate(sketches[1]), slow.points)
    everything = read_kanjivg(tmp_path, variants=True, progress=False)
    assert sorted(everything.labels) == ["一", "二", "二"]

    path_of(tmp_path, FILE.format(one), "ffffff.svg")  # beyond Unicode: no character's
    assert len(read_kanjivg(tmp_path, progress=False)) == 2
    path_of(tmp_path, FILE.format('<path d="M1,1C9,9 9,9 1,2"/>'), "04e8d.svg")
    with pytest.raises(SketchError, match=f"{tmp_path}: .*larger tolerance"):
        read_kanjivg(tmp_path, tolerance=1e-20, progress=False)

    path_of(tmp_path, FILE.format('<path d="M1,1c2"/>'), "04e8d.svg")
    with pytest.raises(SketchError, match=r"04e8d\.svg: 'c' at character 4"):
        read_kanjivg(tmp_path, progress=False)
    path_of(tmp_path, FILE.format(""), "04e8d.svg")
    with pytest.raises(SketchError, match=r"04e8d\.svg: there is no stroke"):
        read_kanjivg(tmp_path, progress=False)
    with pytest.raises(SketchError, match="no files like"):
        read_kanjivg(tmp_path / "nowhere", progress=False)


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise kanji.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(kanji.metadata, "distribution", missing)
    with pytest.raises(ImportError, match=r"anydiff\[kanji\]"):
        load_kanji("full")


def test_the_script_says_whether_the_shipped_file_is_the_same(
    tmp_path, monkeypatch, capsys, characters
):
    path = ROOT / "scripts" / "make_kanji.py"
    spec = importlib.util.spec_from_file_location("make_kanji", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "COUNT", 5)
    monkeypatch.setattr(script, "read_kanjivg", lambda **_: characters.subset(range(8)))
    made = str(tmp_path / "made.npz")

    monkeypatch.setattr("sys.argv", ["make_kanji.py", "--write", made])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 1 and "points DIFFER" in capsys.readouterr().out

    monkeypatch.setattr("sys.argv", ["make_kanji.py"])
    monkeypatch.setattr(script, "load_kanji", lambda _: read_sketches(made))
    script.main()
    assert "DIFFER" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*left out .* text")  # the numbers of the strokes
def test_some_shipped_characters_are_those_of_the_package(characters):
    try:
        folder = kanji.kanjivg_folder()
    except ImportError:
        pytest.skip("kanjivg isn't installed")
    for m in range(0, 3600, 600):
        original = read_svg(folder / f"{ord(characters.labels[m]):05x}.svg", tolerance=0.01)
        assert len(original[0]) == len(characters[m])
        for curve, line in zip(original[0], characters[m], strict=True):
            for point in curve:
                pieces = pairwise(line)
                assert min(to_segment(point, a, b) for a, b in pieces) <= 0.2


# real data --------------------


@needs_shared
@pytest.mark.parametrize(
    "file, count",
    [
        ("sketches_quickdraw.npz", 10541),
        ("sketches_omniglot.npz", 32000),
        ("quickdraw_sample.ndjson", 75),
        ("short_kanji.npz", 11100),
    ],
)
def test_real_files(tmp_path, file, count):
    sketches = read_sketches(SHARED / file)
    assert len(sketches) == count
    part = sketches.subset(np.arange(50))
    for name in ("a.npz", "a.ndjson"):
        (write_npz if name.endswith("npz") else write_ndjson)(tmp_path / name, part)
        assert_same(read_sketches(tmp_path / name), part)
    if file == "sketches_omniglot.npz":
        with np.load(SHARED / file) as arrays:
            assert np.array_equal(np.concatenate(to_stroke3(sketches)), arrays["strokes"])
    if file == "short_kanji.npz":
        with np.load(SHARED / file, allow_pickle=True, encoding="latin1") as arrays:
            rows = to_stroke3(read_sketches(SHARED / file, part="test"))
            assert all(np.array_equal(a, b) for a, b in zip(rows, arrays["test"], strict=True))
