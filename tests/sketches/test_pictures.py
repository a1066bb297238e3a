import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest

from anydiff.sketches import pictures as stroke_pictures
from anydiff.sketches.films import animate_denoising, animate_drawing, write_animated_svg
from anydiff.sketches.pictures import around, draw_grid, rasterize, two_colors, write_png
from anydiff.sketches.sketches import Sketches
from anydiff.sketches.svg import read_svg


def sketch(*strokes):
    return Sketches.from_lists([[np.array(s, float) for s in strokes]])


def scribbles(num, seed=0):
    rng = np.random.default_rng(seed)
    return Sketches.from_lists(
        [
            [rng.normal(0, 20, (rng.integers(1, 9), 2)) for _ in range(rng.integers(1, 6))]
            for _ in range(num)
        ]
    )


BOX = (0.0, 0.0, 64.0, 64.0)  # a unit is a pixel of 64


# arrays --------------------


def test_ink_has_the_area_of_the_pens_path():
    for a, b, width in [
        ((10, 32), (50, 32), 4),
        ((9.3, 11.7), (48.2, 51.9), 3),
        ((20, 8), (21, 56), 1),
    ]:
        image = rasterize(sketch([a, b]), 64, width, BOX)[0]
        area = width * math.dist(a, b) + math.pi * (width / 2) ** 2
        assert image.sum() / 255 == pytest.approx(area, rel=0.03)


def test_ink_is_within_half_a_width_of_the_line_and_nowhere_else():
    p, q, width = np.array([12.0, 17.0]), np.array([49.0, 38.0]), 6
    image = rasterize(sketch([p, q]), 64, width, BOX)[0]
    y, x = np.mgrid[:64, :64] + 0.5
    along = np.clip(
        ((x - p[0]) * (q - p)[0] + (y - p[1]) * (q - p)[1]) / ((q - p) ** 2).sum(), 0, 1
    )
    away = np.hypot(x - p[0] - along * (q - p)[0], y - p[1] - along * (q - p)[1])
    assert (image[away < width / 2 - 0.51] == 255).all()
    assert (image[away > width / 2 + 0.51] == 0).all()
    edge = np.abs(away - width / 2) < 0.4
    assert ((image[edge] > 0) & (image[edge] < 255)).all()


def test_a_single_point_is_a_round_dot():
    image = rasterize(sketch([(32, 32)]), 64, 8, BOX)[0]
    assert image.sum() / 255 == pytest.approx(math.pi * 16, rel=0.02)
    assert np.array_equal(image, image.T) and np.array_equal(image, image[::-1])
    assert rasterize(sketch([(7, -3)], [(7, -3)]))[0, 31:33, 31:33].min() > 200  # in the middle


def test_cutting_a_stroke_changes_nothing():
    line = np.array([(5.0, 6.0), (58.0, 40.0), (20.0, 55.0)])
    fine = np.concatenate([np.linspace(a, b, 9) for a, b in pairwise(line)])
    images = [rasterize(sketch(s), 64, 3, BOX).astype(int) for s in (line, fine, line[::-1])]
    apart = rasterize(sketch(line[:2], line[1:]), 64, 3, BOX).astype(int)
    for other in (*images[1:], apart):
        assert np.abs(images[0] - other).max() <= 1


def test_pictures_do_not_depend_on_their_company():
    many = scribbles(300)
    images = rasterize(many, 28)
    assert images.shape == (300, 28, 28) and images.dtype == np.uint8
    for m in (0, 17, 299):
        assert np.array_equal(images[m], rasterize(many.subset([m]), 28)[0])
    assert rasterize(many.subset([]), 28).shape == (0, 28, 28)


def test_a_sketch_fills_its_picture_wherever_it_lies():
    many = scribbles(40)
    moved = Sketches(many.points * 0.037 + [1e4, -300], many.strokes, many.offsets)
    images = rasterize(many, 64).astype(int)
    # 4 pixels of margin, up to antialiasing
    assert (images[:, :4].max() == 0) and (images[:, :, -4:].max() == 0)
    several = np.diff(many.strokes[many.offsets]) > 1
    rows, columns = images.max(2) > 127, images.max(1) > 127
    extent = np.maximum(rows.sum(1), columns.sum(1))[several]
    assert extent.max() <= 56 and images.max((1, 2)).min() > 200
    full = (rows[:, [4, -5]].all(1) | columns[:, [4, -5]].all(1))[several]
    assert full.mean() > 0.9  # round caps of a slanted end may fall short of a half
    assert np.abs(images - rasterize(moved, 64)).max() <= 1


def test_aspect_is_kept_and_y_points_down():
    image = rasterize(sketch([(0, 0), (40, 0)], [(0, 10), (1, 10)]), 64)[0]
    rows = np.flatnonzero(image.max(1) > 127)
    columns = np.flatnonzero(image.max(0) > 127)
    assert np.ptp(columns) > 3 * np.ptp(rows)
    assert image[:32].sum() > image[32:].sum()  # the long line is above


def test_a_box_shows_the_same_part_of_the_plane():
    one = sketch([(10, 10), (20, 10)])
    image = rasterize(one, 64, 2, BOX)[0]
    assert image[:, :8].max() == 0 and image[:, 22:].max() == 0
    shifted = rasterize(sketch([(17, 13), (27, 13)]), 64, 2, BOX)[0]
    assert np.array_equal(np.roll(image, (3, 7), (0, 1)), shifted)
    wide = rasterize(one, 64, 2, (0, 0, 128, 64))[0]  # half the scale, centred
    assert wide[16 + 5].max() > 0 and wide[:20].max() == 0
    # what is far outside costs nothing and shows nothing; what crosses is cut off
    far = rasterize(sketch([(1e30, 1e30), (1e30, -1e30)], [(-1e9, 32), (1e9, 32)]), 64, 2, BOX)[0]
    assert np.array_equal(far, rasterize(sketch([(-9, 32), (99, 32)]), 64, 2, BOX)[0])
    assert far[31:33].min() == 255


def test_what_cannot_be_drawn_says_so(tmp_path):
    one = scribbles(1)
    with pytest.raises(ValueError, match="fit is 'page'"):
        rasterize(one, fit="page")
    with pytest.raises(ValueError, match="is empty"):
        rasterize(one, fit=(0, 0, 0, 1))
    with pytest.raises(ValueError, match="positive"):
        rasterize(one, width=0)
    with pytest.raises(ValueError, match="no finite point"):
        write_png(tmp_path / "a.png", [np.full((3, 2), np.nan)])
    with pytest.raises(ValueError, match="no sketches"):
        draw_grid(tmp_path / "a.png", one.subset([]))
    with pytest.raises(ValueError, match="no frames"):
        animate_denoising(tmp_path / "a.gif", [])
    with pytest.raises(ValueError, match=r"\[1, 2\] sketches"):
        animate_denoising(tmp_path / "a.gif", [scribbles(1), scribbles(2)])
    assert not list(tmp_path.iterdir())


# files --------------------


def pixels(path):
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def frames_of(path):
    from PIL import Image

    with Image.open(path) as film:
        for k in range(film.n_frames):
            film.seek(k)
            yield np.asarray(film.convert("L")), film.info["duration"]


@pytest.mark.parametrize("colors", [False, True])
def test_a_grid_shows_every_sketch(tmp_path, colors):
    draw_grid(tmp_path / "a.png", scribbles(5), columns=3, size=40, gap=6, stroke_colors=colors)
    picture = pixels(tmp_path / "a.png")
    assert picture.shape == (2 * 46 + 6, 3 * 46 + 6, 3)
    dark = picture.min(2) < 200
    cells = [dark[r : r + 40, c : c + 40].sum() for r in (6, 52) for c in (6, 52, 98)]
    assert min(cells[:5]) > 10 and cells[5] == 0
    assert dark.sum() == sum(cells)  # nothing between them


def test_captions_stand_before_their_rows(tmp_path):
    many = scribbles(6)
    plain, said = tmp_path / "a.png", tmp_path / "b.png"
    draw_grid(plain, many, columns=3, size=40, gap=6)
    draw_grid(said, many, columns=3, size=40, gap=6, captions=["first row", "second"])
    room = pixels(said).shape[1] - pixels(plain).shape[1]
    assert np.array_equal(pixels(said)[:, room:], pixels(plain)) and room > 30
    words = pixels(said)[:, :room].min(2) < 128
    assert words[6:46].any() and words[52:92].any() and not words[:, :6].any()


def test_one_frame_for_all_shows_where_each_lies(tmp_path):
    both = Sketches.from_lists(
        [[np.array([(10.0, 10), (20, 10)])], [np.array([(50.0, 50), (50, 50)])]]
    )
    draw_grid(tmp_path / "a.png", both, size=64, gap=0, fit=BOX)
    dark = pixels(tmp_path / "a.png").min(2) < 128
    assert dark[10, 10:20].all() and dark[50, 64 + 49] and not dark[:, 30:64].any()
    left, top, right, bottom = around(both)
    assert (left, top) == (7.5, 7.5) and (right, bottom) == (52.5, 52.5)  # a 16th of 40 more


def test_the_first_strokes_are_in_ink_and_the_others_in_colour(tmp_path):
    lines = [np.array([(0.0, y), (40.0, y)]) for y in (0, 10, 20, 30)]
    both = Sketches.from_lists([lines, lines[:3]])
    colors = two_colors(both, np.array([1, 2]))
    inked = (colors == stroke_pictures.INK).all(1)
    assert inked.tolist() == [True, False, False, False, True, True, False]
    assert (colors[~inked] == stroke_pictures.ACCENT).all()
    draw_grid(tmp_path / "a.png", both, size=80, gap=0, stroke_colors=colors, fit=around(both))
    column = pixels(tmp_path / "a.png")[:, 120].astype(int)
    grey = np.ptp(column, axis=1) < 40
    dark = column.min(1) < 100
    shown = np.flatnonzero(dark & grey), np.flatnonzero(dark & ~grey)
    assert len(shown[0]) and len(shown[1]) and shown[0].max() < shown[1].min()
    with pytest.raises(ValueError, match=r"not \(7, 3\): one for a stroke"):
        draw_grid(tmp_path / "b.png", both, stroke_colors=colors[1:])


def test_a_picture_is_the_raster_in_ink(tmp_path):
    one = scribbles(1, seed=3)
    write_png(tmp_path / "a.png", one[0], 50)
    picture = pixels(tmp_path / "a.png").astype(float)
    paper = 255 - picture[:, :, 0]
    assert np.abs(paper / paper.max() - rasterize(one, 50)[0] / 255).max() < 0.01


def test_strokes_are_coloured_by_their_order(tmp_path):
    rows = [np.array([(0.0, y), (40.0, y)]) for y in (0, 10, 20, 30)]
    write_png(tmp_path / "a.png", rows, 80, stroke_colors=True)
    picture = pixels(tmp_path / "a.png")
    colors = [tuple(c) for c in np.unique(picture[:, 40], axis=0).tolist()]
    first, last = (tuple(stroke_pictures._ORDER[k].tolist()) for k in (0, -1))
    assert first in colors and last in colors
    at = [np.abs(picture[:, 40] - np.array(c)).sum(1).argmin() for c in (first, last)]
    assert at[0] < at[1]


def test_a_film_of_denoising_keeps_its_place(tmp_path):
    last = scribbles(3)
    rng = np.random.default_rng(0)
    frames = [
        Sketches(last.points + s * rng.normal(0, 9, last.points.shape), last.strokes, last.offsets)
        for s in (9, 1, 0)
    ]
    animate_denoising(tmp_path / "a.gif", frames, size=60, columns=2, hold=1.5, fps=25)
    film = list(frames_of(tmp_path / "a.gif"))
    assert [d for _, d in film] == [40, 40, 1500]
    assert film[0][0].shape == (2 * 60 + 4, 120)
    bar = [(picture[-1] < 200).sum() for picture, _ in film]
    assert bar == [40, 80, 120]
    done = film[-1][0][:120]
    for r, c in ((0, 0), (0, 60), (60, 0)):
        cell = done[r : r + 60, c : c + 60] < 128
        assert cell.any() and not cell[:8].any() and not cell[:, -8:].any()  # with room around
    assert not (done[60:, 60:] < 250).any()

    alone = [frame[0] for frame in frames]
    alone[0][0][:] = np.nan
    animate_denoising(tmp_path / "b.gif", alone, size=60, progress=False)
    pictures = [picture for picture, _ in frames_of(tmp_path / "b.gif")]
    assert len(pictures) == 3 and pictures[0].shape == (60, 60)
    assert np.array_equal(pictures[-1], film[-1][0][:60, :60])


def test_a_film_of_drawing_adds_ink_and_ends_in_the_picture(tmp_path):
    one = scribbles(1, seed=5)
    animate_drawing(tmp_path / "a.gif", one[0], size=64, seconds=1, fps=20, hold=1.2)
    film = list(frames_of(tmp_path / "a.gif"))
    pictures = np.array([picture for picture, _ in film]).astype(int)
    assert (np.diff(pictures, axis=0) <= 0).all() and film[-1][1] == 1200
    assert sum(d for _, d in film[:-1]) == pytest.approx(950, abs=10)
    outline = pictures[-1] < 128
    assert (pictures[0][outline] < 250).all()  # there from the beginning, faintly
    ink = (pictures < 128).sum((1, 2))
    assert ink[0] < 0.3 * ink[-1] and ink[len(ink) // 2] == pytest.approx(ink[-1] / 2, rel=0.4)
    drawn = (255 - pictures[-1]) / (255 - pictures[-1].min())
    assert np.abs(drawn - rasterize(one, 64)[0] / 255).max() < 0.06  # a film has few greys


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_animated_svg_loses_nothing(tmp_path, dtype):
    many = scribbles(6)
    for m in range(len(many)):
        strokes = [(s / 3).astype(dtype) for s in many[m]]
        write_animated_svg(tmp_path / "a.svg", strokes, stroke_colors=m % 2 == 0)
        read = read_svg(tmp_path / "a.svg")
        assert len(read) == 1 and len(read[0]) == len(strokes)
        assert all(np.array_equal(a, b) for a, b in zip(read[0], strokes, strict=True))


def test_an_animated_svg_draws_in_order_and_then_waits(tmp_path):
    one = scribbles(1, seed=5)[0]
    write_animated_svg(tmp_path / "a.svg", one, seconds=3, hold=1)
    tags = "{http://www.w3.org/2000/svg}"
    root = ET.parse(tmp_path / "a.svg").getroot()
    paths = {path.get("id"): path for path in root.iter(f"{tags}path")}
    uses = root.findall(f"{tags}use")
    assert [use.get("href")[1:] for use in uses] == list(paths) and len(uses) == len(one)
    ends = [0.0]
    for use, stroke in zip(uses, one, strict=True):
        for animate in use:
            values, times = (animate.get(a).split(";") for a in ("values", "keyTimes"))
            times = [float(t) for t in times]
            assert len(values) == len(times) and times == sorted(times)
            assert times[0] == 0 and times[-1] == 1 and animate.get("dur") == "4s"
            if animate.get("attributeName") == "stroke-dashoffset":
                assert ends[-1] <= times[1] < times[2] and len(stroke) > 1
                ends.append(times[2])
    assert ends[-1] <= 0.75 + 1e-4
    # all is inside the picture
    left, top, width, height = map(float, root.get("viewBox").split())
    points = np.concatenate(one)
    assert (points > [left, top]).all() and (points < [left + width, top + height]).all()
