import math
import re
import time

import numpy as np
import pytest

from anydiff.sketches import svg as svg_files
from anydiff.sketches import svg_commands, svg_paths
from anydiff.sketches.films import write_animated_svg
from anydiff.sketches.sketches import SketchError, Sketches
from anydiff.sketches.svg import parse_path, read_svg, write_svg


def one(d, tolerance=0.01):
    (path,) = parse_path(d, tolerance)
    return path


def bezier(controls, t):
    """A curve of any degree at t, by de Casteljau's construction."""
    points = np.repeat(np.asarray(controls, float)[:, None], len(t), 1)
    while len(points) > 1:
        points = points[:-1] + t[:, None] * (points[1:] - points[:-1])
    return points[0]


def away(points, line):
    """How far points are from a polyline, each."""
    a, b = line[:-1], line[1:]
    share = ((points[:, None] - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1).clip(1e-300)
    foot = a + share.clip(0, 1)[..., None] * (b - a)
    return np.linalg.norm(points[:, None] - foot, axis=-1).min(1)


# path data --------------------


@pytest.mark.parametrize(
    "d, paths",
    [
        ("M1.5.5-3-4", [[(1.5, 0.5), (-3, -4)]]),
        ("M1e-3,2E+1L-1.e1 .5", [[(0.001, 20), (-10, 0.5)]]),
        ("m1 2 3 4 5 6", [[(1, 2), (4, 6), (9, 12)]]),
        ("M1 2 3 4", [[(1, 2), (3, 4)]]),
        ("M0 0l1 1 1 1L0 0", [[(0, 0), (1, 1), (2, 2), (0, 0)]]),
        ("M1 1H3h1V5v-2", [[(1, 1), (3, 1), (4, 1), (4, 5), (4, 3)]]),
        ("M0 0h1v1zl-1-1", [[(0, 0), (1, 0), (1, 1), (0, 0)], [(0, 0), (-1, -1)]]),
        ("M0 0h1v1zm5 5h1", [[(0, 0), (1, 0), (1, 1), (0, 0)], [(5, 5), (6, 5)]]),
        ("M1 1L2 2L1 1Z", [[(1, 1), (2, 2), (1, 1)]]),
        ("M7 8z", [[(7, 8)]]),  # a dot
        ("M7 8", []),  # a move alone draws nothing
        ("M7 8M1 1h1", [[(1, 1), (2, 1)]]),
        (" \n", []),
    ],
)
def test_straight_paths_are_exact(d, paths):
    read = parse_path(d)
    assert [path.tolist() for path in read] == [list(map(list, path)) for path in paths]


@pytest.mark.parametrize("tolerance", [1.0, 0.1, 1e-3])
@pytest.mark.parametrize("degree", [2, 3])
def test_curves_are_within_the_tolerance(degree, tolerance):
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, 500)
    worst = []
    for _ in range(30):
        controls = rng.normal(scale=30, size=(degree + 1, 2))
        pairs = " ".join(f"{x!r},{y!r}" for x, y in controls.tolist())
        line = one(f"M{pairs.replace(' ', 'Q' if degree == 2 else 'C', 1)}", tolerance)
        assert (line[0] == controls[0]).all() and (line[-1] == controls[-1]).all()
        worst.append(away(bezier(controls, t), line).max())
    assert 0.1 * tolerance < max(worst) <= tolerance  # and no more points than it needs


def test_smooth_commands_reflect_the_control_point():
    tail = "40,10 50,0"
    assert np.allclose(
        one(f"M0 0C1 2 10 20 30 30S{tail}"), one(f"M0 0C1 2 10 20 30 30C50 40 {tail}")
    )
    assert np.allclose(one(f"M0 0S{tail}"), one(f"M0 0C0 0 {tail}"))
    twice = "S40 10 50 0 70 20 80 5"
    assert np.allclose(one(f"M0 0{twice}"), one("M0 0C0 0 40 10 50 0C60 -10 70 20 80 5"))
    assert np.allclose(one("M0 0Q10 20 30 30T50 0"), one("M0 0Q10 20 30 30Q50 40 50 0"))
    assert np.allclose(one("M0 0Q1 9 8 8L9 9T20 0"), one("M0 0Q1 9 8 8L9 9Q9 9 20 0"))
    assert np.allclose(
        one("M0 0Q10 20 30 30T50 0 70 30"), one("M0 0Q10 20 30 30Q50 40 50 0Q50 -40 70 30")
    )


@pytest.mark.parametrize("letter", "CSQTHVLA")
def test_small_letters_are_relative(letter):
    large = {
        "C": "C6 9 13 4 10 22",
        "S": "S13 4 10 22",
        "Q": "Q13 4 10 22",
        "T": "T10 22",
        "H": "H10",
        "V": "V22",
        "L": "L10 22",
        "A": "A30 20 10 0 1 10 22",
    }
    small = {
        "C": "c1 2 8-3 5 15",
        "S": "s8-3 5 15",
        "Q": "q8-3 5 15",
        "T": "t5 15",
        "H": "h5",
        "V": "v15",
        "L": "l5 15",
        "A": "a30 20 10 0 1 5 15",
    }
    assert np.allclose(one("M5 7" + large[letter]), one("M5 7" + small[letter]))


@pytest.mark.parametrize("large, sweep", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_an_arc_lies_on_its_circle(large, sweep):
    # the chord from (0, 0) to (6, 0) of a circle of radius 5: the centre is 4 above or below it
    tolerance = 1e-3
    line = one(f"M0 0A5 5 33 {large}{sweep}6 0", tolerance)
    center = np.array([3, -4 if large == sweep else 4])
    radius = np.linalg.norm(line - center, axis=1)
    assert np.allclose(radius, 5, atol=1e-12)
    middle = np.linalg.norm((line[1:] + line[:-1]) / 2 - center, axis=1)
    assert 0.5 * tolerance < 5 - middle.min() <= tolerance
    angle = 2 * math.asin(3 / 5)
    length = 5 * (2 * math.pi - angle if large else angle)
    assert np.linalg.norm(np.diff(line, axis=0), axis=1).sum() == pytest.approx(length, rel=1e-3)
    (a, b), (c, d) = line[1] - line[0], line[2] - line[1]
    assert (a * d - b * c > 0) == bool(sweep)  # with y down, positive angles go to the right


def test_arcs_with_odd_numbers():
    turned = one("M0 0A10 5 30 0 1 10 10")
    radians = math.radians(-30)
    back = np.array(
        [[math.cos(radians), -math.sin(radians)], [math.sin(radians), math.cos(radians)]]
    )
    x, y = (turned @ back.T).T  # an ellipse along the axes: A x² + B y² + C x + D y = 0
    rows = np.stack([x**2 / 100 + y**2 / 25, x, y, np.ones_like(x)], 1)
    assert np.linalg.svd(rows)[1][-1] < 1e-10

    half = one("M0 0A1 1 0 0 1 10 0")  # too small: the radius grows to 5
    assert np.allclose(np.linalg.norm(half - [5, 0], axis=1), 5)
    assert one("M0 0A0 5 0 0 1 3 4").tolist() == [[0, 0], [3, 4]]
    assert parse_path("M0 0A5 5 0 0 1 0 0") == []
    assert np.allclose(one("M0 0a1 1 0 01.5.5"), one("M0 0 a 1 1 0 0 1 0.5 0.5"))
    assert np.allclose(
        one("M0 0a1 1 0 1110 5 2 2 0 003 4"), one("M0 0a1 1 0 1 1 10 5a2 2 0 0 0 3 4")
    )


@pytest.mark.parametrize(
    "d, message",
    [
        ("M0 0X1 1", "'X' at character 4 .* not a command"),
        ("M0 0L1,1 L2,--3", "'--3' at character 12 .* not a number"),
        ("M0 0L1 1e", "'e' at character 8"),
        ("M0 0L1 2 3", "'L' at character 4 .* has 3 numbers; it takes 2"),
        ("M0 0C1 2 3 4", "has 4 numbers; it takes 6"),
        ("M0 0L", "has 0 numbers"),
        ("M0 0z1", "has 1 numbers; it takes 0"),
        ("L1 1", "begins with 'L'"),
        ("1 1", "does not begin with a command"),
        ("M0 0A1 1 0 2 1 3 3", "character 5 .* not a number that 'A' takes"),
        ("M0 0L1e999 0", "too large"),
        (
            "M0 0A1 1 0110 5 5",
            "not a number that 'A' takes",
        ),  # the rotation is 0110, then come flags
        ("M1e308 0l1e308 0", "add up to numbers that are too large"),
        ("M9e307 0q0 0 9e307 1t9e307 1", "add up to numbers that are too large"),
    ],
)
def test_a_faulty_path_is_named_by_position(d, message):
    with pytest.raises(SketchError, match=message):
        parse_path(d)


def test_no_text_is_taken_for_longer_than_it_is():
    rng = np.random.default_rng(0)
    parts = "M1 1,m-1.5.5,l1-1,L1e-5 2,h1 2.5.5,V-1e+3,z,c1 2 3 4 5 6,a1 1 0 01.5.5,T1 1 2 2,x,1"
    for _ in range(2000):
        d = "".join(rng.choice(parts.split(","), rng.integers(1, 12)))
        paths = svg_paths.Paths()
        if not paths.add(d):
            assert svg_commands._fewest_points(d) <= len(paths) + len(paths.curves)
    assert svg_commands._fewest_points("M0 0l1 1-2-2 3,3h.5.5") == 4  # only .5.5 is missed


@pytest.mark.parametrize(
    "d",
    [
        "M0 0A" + 60 * "2",
        "M0 0A" + 100_000 * "2",
        "M0 0A" + 100_000 * "2 ",
        "M0 0A" + 100_000 * " ",
        "M0 0A1 1 0 0" + 100_000 * ",",
        "M0 0A" + 100_000 * "2." + "x",
        "M0 0L1 1" + 100_000 * " " + "x",
        "M0 0L" + 100_000 * "1e",
        100_000 * " " + "1",
    ],
)
def test_a_faulty_path_is_refused_soon(d):
    begin = time.process_time()
    with pytest.raises(SketchError) as error:
        parse_path(d)
    assert time.process_time() - begin < 1 and len(str(error.value)) < 500


def test_arcs_between_points_that_nearly_meet():
    for end in ("5e-324 0", "1e-200 1e-200"):
        for flags in ("0 0", "1 1"):
            line = one(f"M0 0A1e3 1e3 0 {flags} {end}")
            assert line[-1].tolist() == list(map(float, end.split()))


def test_a_drawing_has_a_limit_of_points(tmp_path, monkeypatch):
    with pytest.raises(SketchError, match=r"more than 10,000,000 points .* larger tolerance"):
        parse_path("M0 0" + 20 * "C0 30 30 30 30 0", 6e-11)
    circles = 20 * '<circle r="30"/>\n'
    points = len(read(tmp_path, svg(circles)).points)
    monkeypatch.setattr(svg_files, "MOST_POINTS", points)
    assert len(read(tmp_path, svg(circles)).points) == points
    monkeypatch.setattr(svg_files, "MOST_POINTS", points - 1)
    with pytest.raises(SketchError, match=r"a\.svg, line 21: .*points"):  # the last one's
        read(tmp_path, svg(circles))
    monkeypatch.setattr(svg_paths, "_MOST", 100)
    parse_path("M0 0A5 5 0 0 0 9 0", 1e-3)
    with pytest.raises(SketchError, match=r"arcs up to character .* larger tolerance"):
        parse_path("M0 0" + 20 * "a5 5 0 0 0 9 0", 1e-3)


def test_a_tolerance_must_be_possible():
    with pytest.raises(SketchError, match="above 0"):
        parse_path("M0 0L1 1", 0.0)
    for d in ("M0 0C9 9 5 5 8 0", "M0 0A1 1 0 0 1 1 1"):
        with pytest.raises(SketchError, match="larger tolerance"):
            parse_path(d, 1e-20)


# files --------------------


def svg(body, head='viewBox="0 0 100 100"'):
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head}>\n{body}\n</svg>\n'


def read(tmp_path, text, **arguments):
    (tmp_path / "a.svg").write_text(text, encoding="utf-8")
    return read_svg(tmp_path / "a.svg", **arguments)


def test_an_svg_gives_back_what_was_written(tmp_path):
    rng = np.random.default_rng(0)
    sketch = [
        rng.normal(size=(7, 2)) * 10.0 ** rng.integers(-12, 12, (7, 1)),
        np.array([[1 / 3, -2e-300]]),
        np.array([[5.0, 5.0], [5.0, 5.0]]),
        np.array([[0.0, 0], [1, 0], [0, 0]]),
    ]
    write_svg(tmp_path / "a.svg", sketch)
    back = read_svg(tmp_path / "a.svg")
    assert len(back) == 1 and len(back[0]) == 4
    assert all(np.array_equal(a, b) for a, b in zip(back[0], sketch, strict=True))
    write_svg(tmp_path / "b.svg", back)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    with pytest.raises(SketchError, match="one sketch, not 2"):
        write_svg(tmp_path / "a.svg", Sketches.from_lists([sketch, sketch]))


@pytest.mark.parametrize("far", [0.0, 12345678.0, -1e12])
def test_the_picture_of_what_was_written_shows_all_of_it(tmp_path, far):
    points = np.array([[0, 0], [1, 2.0], [3, 1]]) + far
    for write in (write_svg, write_animated_svg):
        write(tmp_path / "a.svg", [points])
        box = re.search('viewBox="(.*?)"', (tmp_path / "a.svg").read_text())[1]
        x, y, width, height = map(float, box.split())
        low, high = points.min(0), points.max(0)
        assert (low > [x, y]).all() and (high < [x + width, y + height]).all()
        assert 3 < width < 4.5 and 2 < height < 4.5


def test_shapes_in_the_order_of_the_file(tmp_path):
    body = """
      <line x1="1" y1="2" x2="3" y2="4px"/>
      <g><polyline points="0,0 1,1
        2,0"/></g>
      <defs><path d="M0 0L9 9"/><g><path d="M0 0X"/></g></defs>
      <clipPath id="c"><rect width="9" height="9"/></clipPath>
      <polygon points="0 0 4 0 4 4"/>
      <rect x="1" y="2" width="3" height="4"/>
      <path d="M0 0h1M5 5h1"/>
    """
    strokes = [stroke.tolist() for stroke in read(tmp_path, svg(body))[0]]
    assert strokes == [
        [[1, 2], [3, 4]],
        [[0, 0], [1, 1], [2, 0]],
        [[0, 0], [4, 0], [4, 4], [0, 0]],
        [[1, 2], [4, 2], [4, 6], [1, 6], [1, 2]],
        [[0, 0], [1, 0]],
        [[5, 5], [6, 5]],
    ]


def test_round_shapes(tmp_path):
    body = '<circle cx="50" cy="40" r="10"/><ellipse rx="4" ry="2"/>'
    body += '<rect width="20" height="10" rx="3"/>'
    circle, ellipse, rect = read(tmp_path, svg(body), tolerance=1e-3)[0]
    assert np.allclose(np.linalg.norm(circle - [50, 40], axis=1), 10)
    assert np.allclose(np.linalg.norm(ellipse / [4, 2], axis=1), 1)
    assert (circle[0] == circle[-1]).all() and (rect[0] == rect[-1]).all()
    length = np.linalg.norm(np.diff(rect, axis=0), axis=1).sum()
    assert length == pytest.approx(2 * (14 + 4) + 6 * math.pi, rel=1e-3)
    assert rect.min(0).tolist() == [0, 0] and rect.max(0).tolist() == [20, 10]


@pytest.mark.parametrize(
    "transform, end",
    [
        ("translate(3)", (4, 2)),
        ("translate(3, 4)", (4, 6)),
        ("scale(2)", (2, 4)),
        ("scale(2 -1)", (2, -2)),
        ("rotate(90)", (-2, 1)),  # y down: to the right
        ("rotate(90, 1, 1)", (0, 1)),
        ("skewX(45)", (3, 2)),
        ("skewY(45)", (1, 3)),
        ("matrix(1 2 3 4 5 6)", (1 + 6 + 5, 2 + 8 + 6)),
        ("translate(10) scale(2)", (12, 4)),
        ("scale(2),translate(10)", (22, 4)),
    ],
)
def test_transforms(tmp_path, transform, end):
    path = f'<path transform="{transform}" d="M0 0L1 2"/>'
    assert np.allclose(read(tmp_path, svg(path))[0][0][1], end)
    shifted = read(tmp_path, svg(f'<g transform="translate(100 0)">{path}</g>'))
    assert np.allclose(shifted[0][0][1], np.add(end, (100, 0)))
    after = read(tmp_path, svg(f'<g transform="{transform}"/><path d="M0 0L1 2"/>'))
    assert after[0][0][1].tolist() == [1, 2]  # a group's transform ends with it


def test_the_tolerance_holds_after_the_transform(tmp_path):
    curve = '<path d="M0 0C10 30 20 -30 30 0" {}/>'
    sizes = [
        len(read(tmp_path, svg(curve.format(t)), tolerance=0.1)[0][0])
        for t in ("", 'transform="scale(100)"', 'transform="scale(.001)"')
    ]
    assert sizes[1] == pytest.approx(10 * sizes[0], rel=0.1) and sizes[2] == 2
    small = read(tmp_path, svg('<path d="M0 0C.1 .3 .2 -.3 .3 0"/>', 'viewBox="0 0 1 1"'))
    large = read(tmp_path, svg('<path d="M0 0C10 30 20-30 30 0"/>'))
    assert np.allclose(small.points * 100, large.points)  # by default a share of the viewBox


def test_entities_are_read_but_never_from_outside(tmp_path):
    (tmp_path / "secret").write_text("L7 7")
    head = (
        '<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.0//EN" "missing.dtd" [\n'
        '<!ATTLIST path kvg:type CDATA #IMPLIED >\n<!ENTITY line "L1 1">\n'
        f'<!ENTITY secret SYSTEM "{(tmp_path / "secret").as_uri()}">\n]>\n'
    )
    sketch = read(tmp_path, head + svg('<path d="M0 0&line;"/><text>&secret;</text>'))
    assert sketch[0][0].tolist() == [[0, 0], [1, 1]]
    with pytest.raises(SketchError, match="line 9"):
        read(tmp_path, head + svg('\n<path d="M0 0&secret;"/>'))


@pytest.mark.parametrize(
    "text, message",
    [
        (svg('<g>\n<path d="M0 0L1 x"/>\n</g>'), r"line 3: .*character"),
        (svg('<path d="M0 0L1 1"/>\n<g>'), "line 4: not well-formed XML"),
        (svg('<path d="M0 0L1 1" transform="turn(3)"/>'), r"line 2: the transform 'turn\(3\)'"),
        (svg('<path d="M0 0L1 1" transform="rotate(3,"/>'), "line 2: the transform"),
        (svg('<path d="M0 0L1 1" transform="scale(a)"/>'), "line 2: the transform"),
        (svg('<line x1="3ell"/>'), "line 2: x1='3ell' has an unknown unit"),
        (svg('<polyline points="1 x"/>'), "line 2: the points '1 x'"),
        (svg("<text>M0 0</text>"), "nothing is drawn"),
        ("<html/>", "line 1: the outermost element is <html>"),
        ("", "not well-formed XML"),
        ('<?xml version="1.0" encoding="foo"?>\n' + svg(""), "line 1: its encoding .*foo.*UTF-8"),
        ('<?xml version="1.0" encoding="shift_jis"?>\n' + svg(""), "line 1: its encoding .*UTF-8"),
        (
            svg('<path d="M0 0L1 1" transform="rotate(1e999)"/>'),
            "line 2: the transform .*too large",
        ),
        (svg('<path d="M0 0L1 1" transform="skewX(1e999)"/>'), "line 2: the transform .*too large"),
        (svg('<g transform="translate(1e999)"/>'), "line 2: the transform .*too large"),
        (
            svg('<g transform="translate(1e308) translate(1e308)"/>'),
            "line 2: the transforms multiply",
        ),
        (
            svg('<g transform="scale(1e300)">\n<path d="M0 0L1 1" transform="scale(1e300)"/></g>'),
            "line 3: the transforms multiply",
        ),
        (
            svg('<g transform="scale(1e300)">\n<path d="M0 0L1e20 1"/></g>'),
            "line 3: .*transforms add up to numbers that are too large",
        ),
        (svg('\n<path d="M1e308 0l1e308 0"/>'), "line 3: relative coordinates"),
        (svg('<line x1="1e999"/>'), "line 2: x1='1e999' is too large"),
        (svg("", 'viewBox="0 0 1e999 1"'), "line 1: the picture's longer side is inf"),
        (svg("", 'width="-3"'), "line 1: the picture's longer side is -3"),
    ],
)
def test_a_faulty_svg_is_named_by_file_and_line(tmp_path, text, message):
    with pytest.raises(SketchError, match=message) as error:
        read(tmp_path, text)
    assert str(tmp_path / "a.svg") in str(error.value)


def test_a_missing_svg_is_named(tmp_path):
    with pytest.raises(SketchError, match=r"b\.svg: not a readable file"):
        read_svg(tmp_path / "b.svg")
