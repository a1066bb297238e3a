"""Files of sketches: what is written is read again, what is not read is said."""

import gzip
import json
import os
import tracemalloc

import numpy as np
import pytest

from anydiff.sketches import arrays
from anydiff.sketches.arrays import write_npz
from anydiff.sketches.files import read_sketches, write_ndjson
from anydiff.sketches.films import write_animated_svg
from anydiff.sketches.sketches import (
    SketchError,
    Sketches,
    from_stroke3,
    from_stroke5,
    to_stroke3,
    to_stroke5,
)
from anydiff.sketches.svg import write_svg

LABELS = ["cat\0", "\0", "\0a", "", "a\u2028b\u2029", "x\x85\r\n\ty", "\ud800", "'\"\\", "𝔘é", " "]
ODD = [0.0, -0.0, 5e-324, 1e-300, -1e-300, 0.1, 2.0**53, 2.0**53 + 2, -1e17, 1e154, 3.4e38, 1e308]
DTYPES = (np.float16, np.float32, np.float64, np.longdouble)


def odd(seed, dtype=np.float64):
    """Sketches of coordinates, times and labels that are accepted, but unusual."""
    rng = np.random.default_rng(seed)
    num = int(rng.integers(1, 6))
    counts, values = rng.integers(1, 4, num), np.array(ODD) * rng.choice([-1, 1], len(ODD))
    sizes = rng.integers(1, 4, counts.sum())
    with np.errstate(over="ignore", under="ignore"):
        points = rng.choice(values, (sizes.sum(), 2)).astype(dtype)
    points[~np.isfinite(points)] = 1
    times = rng.choice(values[:-1], len(points)).clip(-3e38, 3e38)
    return Sketches(
        points,
        np.cumsum([0, *sizes]),
        np.cumsum([0, *counts]),
        rng.choice(np.array(LABELS, object), num).tolist() if seed % 3 else None,
        [None, times, times.astype(np.float32), np.arange(len(points))][seed % 4],
    )


def assert_same(a, b):
    assert np.array_equal(a.points, b.points)
    assert np.array_equal(np.signbit(a.points), np.signbit(b.points))
    assert np.array_equal(a.strokes, b.strokes) and np.array_equal(a.offsets, b.offsets)
    assert a.labels == b.labels and (a.times is None) == (b.times is None)
    assert a.times is None or np.array_equal(a.times, b.times)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("seed", range(24))
def test_what_is_accepted_is_written_and_read_again(tmp_path, seed):
    sketches = odd(seed, DTYPES[seed % 4])
    write_npz(tmp_path / "a.npz", sketches)
    assert_same(read_sketches(tmp_path / "a.npz"), sketches)
    write_ndjson(tmp_path / "a.ndjson", sketches)
    assert_same(read_sketches(tmp_path / "a.ndjson"), sketches)
    for line in (tmp_path / "a.ndjson").read_bytes().split(b"\n")[:-1]:
        json.loads(line, parse_constant=pytest.fail)  # no NaN, and no line within a label
    near = sketches.subset([0])
    if np.abs(near.points).max() < 1e100:
        for write in (write_svg, write_animated_svg):
            write(tmp_path / "a.svg", near[0])
            assert np.array_equal(read_sketches(tmp_path / "a.svg").points, near.points)


@pytest.mark.parametrize("seed", range(8))
def test_rows_of_what_is_accepted_are_read_again(seed):
    sketches = odd(seed)
    exact = Sketches(
        np.rint(np.clip(sketches.points, -1e6, 1e6)), sketches.strokes, sketches.offsets
    )
    assert np.array_equal(from_stroke3(to_stroke3(exact)).points, exact.points)
    back = from_stroke5(to_stroke5(exact), start=False)
    assert np.array_equal(back.points, exact.points)
    assert np.array_equal(back.strokes, exact.strokes)


LINE = Sketches.from_lists([[np.array([[0, 0], [1, 2.0]])]])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"times": [0, np.nan]}, "stroke 0, point 1 is nan; every time must be finite"),
        ({"times": np.ma.masked_array([0.0, 1], mask=[1, 0])}, "point 0 is nan; every time"),
        (
            {"times": np.array([0, 1], "M8[s]")},
            r"times is not of numbers: it holds datetime64\[s\]",
        ),
        ({"times": np.zeros((2, 1))}, r"times are \(2, 1\); give \(2,\)"),
        ({"labels": [None]}, "label 0 is None; give one string"),
        ({"labels": [3]}, "label 0 is 3; give one string"),
        ({"labels": "a"}, "labels are 'a'; give one string"),
        ({"points": np.ma.masked_array([[0, 0], [1, 2.0]], mask=[[0, 0], [0, 1]])}, "coordinate"),
        ({"strokes": [0.0, 2.0]}, "strokes are of float64; give integers"),
        ({"offsets": [0, 1.5]}, "offsets are of float64"),
    ],
)
def test_what_would_not_be_read_is_refused_when_built(changes, message):
    fields = {"points": LINE.points, "strokes": [0, 2], "offsets": [0, 1], **changes}
    with pytest.raises(SketchError, match=message) as error:
        Sketches(**fields, name="mine")
    assert str(error.value).startswith("mine: ")


@pytest.mark.parametrize(
    "stroke, message",
    [
        (np.ma.masked_array([[1, 2], [3, 999.0]], mask=[[0, 0], [0, 1]]), "point 1 is .3.0, nan."),
        ([["1", "2"]], "is not of numbers: it holds <U1"),
        ([[1j, 2]], "is not of numbers: it holds complex128"),
        (np.zeros((2, 2), "M8[s]"), "is not of numbers: it holds datetime64"),
    ],
)
def test_points_that_are_none_are_refused(stroke, message):
    with pytest.raises(SketchError, match=f"sketch 0, stroke 0,? {message}"):
        Sketches.from_lists([[stroke]])


def test_generators_do_as_well_as_lists():
    lists = [[LINE.points, LINE.points], [LINE.points]]
    made = Sketches.from_lists((iter(sketch) for sketch in lists), iter(["a", "b"]))
    assert_same(made, Sketches.from_lists(lists, ["a", "b"]))
    rows = to_stroke3(made)
    assert len(from_stroke3(iter(rows), np.array(["a", "b"]))) == 2


def test_a_name_by_which_a_file_would_not_be_read_is_refused(tmp_path):
    for write, ending in ((write_npz, "npz"), (write_ndjson, "ndjson")):
        with pytest.raises(SketchError, match=rf"give a name that ends in \.{ending}"):
            write(tmp_path / "a.txt", LINE)
        write(tmp_path / f"a.{ending.upper()}", LINE)
    assert len(read_sketches(tmp_path)) == 2


def test_a_unit_too_small_for_the_coordinates_is_refused(tmp_path):
    far = Sketches.from_lists([[np.array([[0, 0], [1e300, 2.0]])]])
    with pytest.raises(SketchError, match="give a larger unit"):
        write_npz(tmp_path / "a.npz", far, unit=0.5)
    for unit in (0, -1, np.nan):
        with pytest.raises(ValueError, match="unit is"):
            write_npz(tmp_path / "a.npz", LINE, unit=unit)


def test_a_file_of_much_of_the_same_is_written_so_that_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_LARGE", 100_000)
    same = Sketches(np.zeros((20_000, 2)), [0, 20_000], [0, 1])
    write_npz(tmp_path / "a.npz", same)
    assert_same(read_sketches(tmp_path / "a.npz"), same)


# lines --------------------


def records(num=4):
    return [
        {"word": f"w{m}", "recognized": m % 2 == 0, "drawing": [[[m, m + 1], [2, 3]]]}
        for m in range(num)
    ]


def test_lines_may_be_packed_and_begin_with_a_mark(tmp_path):
    text = "\ufeff" + "\n".join(map(json.dumps, records()))
    (tmp_path / "a.ndjson").write_bytes(text.encode())
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.json").write_bytes(text.encode())
    (tmp_path / "d.json").write_text(json.dumps(records(), indent=2))
    (tmp_path / "e.json").write_text(json.dumps(records(1)[0], indent=2))
    for name in ("a.ndjson", "b.ndjson.gz", "c.json", "d.json"):
        sketches = read_sketches(tmp_path / name)
        assert list(sketches.labels) == ["w0", "w1", "w2", "w3"] and sketches.points[2, 0] == 1
    assert len(read_sketches(tmp_path / "e.json")) == 1
    (tmp_path / "f.json").write_text(json.dumps([*records(), {"drawing": 3}]))
    with pytest.raises(SketchError, match=r"f\.json, record 4: should be an object"):
        read_sketches(tmp_path / "f.json")
    for text, message in (
        (f'[{{"drawing": [[[1{"0" * 5000}], [2]]]}}]', "not finite"),
        ("[" * 100_000, "cut short"),
        ('{"drawing": [[[1, 2],', "cut short"),
    ):
        (tmp_path / "f.json").write_text(text)
        with pytest.raises(SketchError, match=rf"f\.json, line 1: .*{message}"):
            read_sketches(tmp_path / "f.json")
    text = "\n".join(map(json.dumps, records()))
    cut = gzip.compress(text.encode())[:-12]
    (tmp_path / "b.ndjson.gz").write_bytes(cut)
    with pytest.raises(SketchError, match="not a readable text file"):
        read_sketches(tmp_path / "b.ndjson.gz")


def test_a_packed_file_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_LARGE", 100_000)
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(b"\n" * 10_000_000))
    with pytest.raises(SketchError, match="far more than sketches do"):
        read_sketches(tmp_path / "a.ndjson.gz")


def test_the_first_ones_and_the_recognised_ones(tmp_path):
    lines = [*map(json.dumps, records()), "not JSON"]
    (tmp_path / "a.ndjson").write_text("\n".join(lines))
    assert list(read_sketches(tmp_path / "a.ndjson", num=3).labels) == ["w0", "w1", "w2"]
    some = read_sketches(tmp_path / "a.ndjson", num=2, recognized=True)
    assert list(some.labels) == ["w0", "w2"]
    write_npz(tmp_path / "b.npz", some)
    assert list(read_sketches(tmp_path / "b.npz", num=1).labels) == ["w0"]
    assert len(read_sketches(tmp_path / "b.npz", num=9)) == 2
    assert list(read_sketches(tmp_path, num=4).labels) == ["w0", "w1", "w2", "w3"]
    for num in (0, -1, 2.5):
        with pytest.raises(SketchError, match="give a whole number of sketches"):
            read_sketches(tmp_path / "b.npz", num=num)


def test_numbers_whose_sum_overflows_are_finite(tmp_path):
    (tmp_path / "a.ndjson").write_text(
        f'{{"drawing": [[[1e308, 1e308, 1{"0" * 308}], [0, 1, 2]]]}}'
    )
    assert read_sketches(tmp_path / "a.ndjson").points[:, 0].tolist() == [1e308] * 3
    (tmp_path / "a.ndjson").write_text(f'{{"drawing": [[[1{"0" * 309}], [0]]]}}')
    with pytest.raises(SketchError, match="not finite"):
        read_sketches(tmp_path / "a.ndjson")


def test_reading_lines_takes_little_more_than_the_arrays(tmp_path):
    rng = np.random.default_rng(0)
    strokes = [[rng.normal(size=(50, 2))] for _ in range(2000)]
    write_ndjson(tmp_path / "a.ndjson", Sketches.from_lists(strokes))
    tracemalloc.start()
    sketches = read_sketches(tmp_path / "a.ndjson")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * sketches.points.nbytes  # as lists of numbers it was five times


# rows in NumPy's files --------------------

THREE = np.array([[1, 1, 0], [2, 3, 1], [1, 0, 1]], np.int16)
FIVE = np.array([[1, 1, 1, 0, 0], [2, 3, 0, 1, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]], np.int16)


@pytest.mark.parametrize("rows", [THREE, FIVE])
def test_parts_hold_rows_of_three_or_five_of_one_size_or_of_several(tmp_path, rows):
    several = np.empty(3, object)
    several[:] = [rows, rows[1:], rows]
    for k, train in enumerate(
        (several, np.array([rows] * 3, object), np.stack([rows] * 3), [rows] * 3)
    ):
        np.savez(tmp_path / f"{k}.npz", train=train, test=train)
        sketches = read_sketches(tmp_path / f"{k}.npz", part="train")
        assert len(sketches) == 3 and sketches[2][0].tolist() == [[1, 1], [3, 4]]
        assert len(read_sketches(tmp_path / f"{k}.npz")) == 6


def test_labels_of_bytes_are_text(tmp_path):
    fields = {key: getattr(LINE, key) for key in ("points", "strokes", "offsets")}
    np.savez(tmp_path / "a.npz", **fields, labels=np.array(["café".encode()]))
    assert read_sketches(tmp_path / "a.npz").labels == ["café"]
    np.savez(tmp_path / "a.npz", **fields, labels=np.array([b"caf\xe9"]))
    with pytest.raises(SketchError, match="do not fit together"):
        read_sketches(tmp_path / "a.npz")


def test_the_start_row_of_sketch_rnn_is_said_or_left_out(tmp_path):
    rows = np.concatenate([[[0, 0, 1, 0, 0]], FIVE])
    with pytest.warns(UserWarning, match="sketch-rnn's start row"):
        assert from_stroke5([rows, rows])[0][0].tolist() == [[0, 0], [1, 1], [3, 4]]
    assert from_stroke5([rows, rows], start=True)[1][0].tolist() == [[1, 1], [3, 4]]
    np.save(tmp_path / "a.npy", rows)
    with pytest.warns(UserWarning, match=r"a\.npy: every sketch begins with"):
        read_sketches(tmp_path / "a.npy")
    with pytest.raises(SketchError, match="sketch 1 has no start row"):
        from_stroke5([rows, FIVE], start=True)


# folders --------------------


def test_a_folder_is_read_with_all_that_is_in_it(tmp_path):
    write_ndjson(tmp_path / "b.ndjson", LINE)
    write_npz(tmp_path / "a.npz", LINE)
    np.save(tmp_path / "c.npy", to_stroke3(LINE)[0])
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    write_svg(tmp_path / "sub" / "d.svg", LINE[0])
    (tmp_path / "sub" / "deep" / "e.INKML").write_text("<ink><trace>1 2,3 4</trace></ink>")
    lines = gzip.compress((tmp_path / "b.ndjson").read_bytes())
    (tmp_path / "f.ndjson.gz").write_bytes(lines)
    (tmp_path / ".hidden").mkdir()
    for hidden in (".hidden/a.svg", "._b.svg", ".DS_Store"):
        (tmp_path / hidden).write_text("nothing")
    assert list(read_sketches(tmp_path).labels) == ["a", "b", "c", "f", "d", "e"]


def test_what_is_left_out_of_a_folder_is_said_once(tmp_path):
    write_ndjson(tmp_path / "b.ndjson", LINE)
    os.mkfifo(tmp_path / "pipe.svg")  # which would be waited for
    (tmp_path / "broken.svg").symlink_to(tmp_path / "nowhere.svg")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"3 other files .* the first is broken\.svg") as said:
        assert len(read_sketches(tmp_path)) == 1
    assert len(said) == 1 and said[0].filename == __file__
    with pytest.raises(SketchError, match="no regular file"):
        read_sketches(tmp_path / "pipe.svg")


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    write_ndjson(tmp_path / "a" / "b" / "c.ndjson", LINE)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "a" / "b")
    assert len(read_sketches(tmp_path / "a")) == 1  # each folder is read once
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "linked").symlink_to(tmp_path / "a" / "b")
    assert len(read_sketches(elsewhere)) == 1


def test_times_of_some_files_only_are_dropped_with_a_word(tmp_path):
    timed = Sketches(LINE.points, LINE.strokes, LINE.offsets, None, np.arange(2.0))
    for name, sketches in (("a", timed), ("b", LINE), ("c", LINE)):
        write_ndjson(tmp_path / f"{name}.ndjson", sketches)
    with pytest.warns(UserWarning, match="2 of its 3 files have no times"):
        assert read_sketches(tmp_path).times is None


@pytest.mark.parametrize("num", [1, 5])
def test_what_is_said_of_many_files_is_said_once(tmp_path, num):
    form = '<traceFormat><channel name="X"/><channel name="Y"/><channel name="T"/></traceFormat>'
    for m in range(num):
        text = f"<ink><trace>1 2</trace>{form}<trace>1 2 3</trace></ink>"
        (tmp_path / f"{m}.inkml").write_text(text)
    with pytest.warns(UserWarning, match=r"0\.inkml: 1 of its 2 traces lack times") as said:
        assert len(read_sketches(tmp_path)) == num
    assert len(said) == 1 and ("5 warnings about files in it" in str(said[0].message)) == (num > 1)
