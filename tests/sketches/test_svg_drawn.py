"""What an SVG file draws and hides: groups, use, symbols, windows, styles, units, faults."""

import gzip
import math
import time
import warnings

import numpy as np
import pytest

from anydiff.sketches import svg as svg_files
from anydiff.sketches.files import read_sketches
from anydiff.sketches.sketches import EmptySketch, SketchError
from anydiff.sketches.svg import read_svg
from anydiff.sketches.svg_styles import StyleSheet, is_painted

LINE = '<path d="M1 2L3 4"/>'
SEEN = [[1, 2], [3, 4]]


def svg(body, head='viewBox="0 0 100 100"'):
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f"{head}>\n{body}\n</svg>\n"
    )


def read(tmp_path, body, head='viewBox="0 0 100 100"', **arguments):
    """The strokes as lists; a warning is an error."""
    (tmp_path / "a.svg").write_text(svg(body, head), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sketch = read_svg(tmp_path / "a.svg", **arguments)[0]
    return [np.round(stroke, 9).tolist() for stroke in sketch]


# all at once, against a slow and obvious reference --------------------

PROPERTIES = {
    "fill": ["none", "black", "red", "url(#g)", "transparent", "rgba(0, 0, 0, 0)", "#ffffff00"],
    "stroke": ["none", "blue", "#000"],
    "visibility": ["hidden", "visible", "collapse"],
    "display": ["none", "inline", "inline", "inline"],
    "stroke-width": ["0", "2", "0px"],
    "opacity": ["0", "0.5", "1"],
}
CLEAR = {"none", "transparent", "rgba(0, 0, 0, 0)", "#ffffff00"}


class Node:
    """A random element: its text, and what it draws under a matrix (3, 3) and a style."""

    def __init__(self, rng, rules, targets, depth):
        self.tag = rng.choice(
            ["path", "path", "use"] if depth == 0 else ["g", "g", "a", "path", "use"]
        )
        if self.tag == "use" and not targets:
            self.tag = "path"
        self.id = f"n{len(rules)}x{rng.integers(10**9)}"
        self.a, self.b = rng.integers(0, 50, (2, 2)).tolist()
        self.target = targets[rng.integers(len(targets))] if self.tag == "use" else None
        self.children = []
        if self.tag in ("g", "a"):
            self.children = [
                Node(rng, rules, targets, depth - 1) for _ in range(rng.integers(1, 4))
            ]

        self.matrix, self.transform = np.eye(3), ""
        if rng.random() < 0.5:
            parts = [self.random_transform(rng) for _ in range(rng.integers(1, 3))]
            self.transform = " ".join(text for text, _ in parts)
            for _, matrix in parts:
                self.matrix = self.matrix @ matrix

        # of three places for a property the one that counts is written last
        self.own, self.places = {}, [{}, {}, {}]
        for key, values in PROPERTIES.items():
            for place in self.places:
                if rng.random() < 0.08:
                    place[key] = self.own[key] = values[rng.integers(len(values))]
        if self.transform:
            self.places[rng.integers(3)]["transform"] = self.transform
        if self.places[1]:
            text = ";".join(f"{k}: {v}" for k, v in self.places[1].items())
            rules.append(f"{rng.choice([f'.{self.id}', f'{self.tag}.{self.id}'])} {{ {text} }}")

    @staticmethod
    def random_transform(rng):
        x, y = rng.integers(-5, 6, 2).tolist()
        angle = math.radians(30 * (x + 5))
        cos, sin = math.cos(angle), math.sin(angle)
        return [
            (f"translate({x}px, {y}px)", np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])),
            (f"scale({x}, {y})", np.diag([x, y, 1.0])),
            (f"rotate({30 * (x + 5)}deg)", np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])),
            (f"matrix(1, 0, {x}, 2, {y}, 3)", np.array([[1, x, y], [0, 2, 3], [0, 0, 1.0]])),
        ][rng.integers(4)]

    def text(self):
        attributes = [f'{k}="{v}"' for k, v in self.places[0].items()]
        attributes = [
            a.replace("px", "").replace("deg", "") if "transform" in a else a for a in attributes
        ]
        style = ";".join(f"{k}:{v}" for k, v in self.places[2].items())
        if self.tag == "use":
            attributes.append(f'xlink:href="#{self.target.id}" x="{self.a[0]}" y="{self.a[1]}"')
        if self.tag == "path":
            attributes.append(f'd="M{self.a[0]} {self.a[1]}L{self.b[0]} {self.b[1]}"')
        return (
            f'<{self.tag} id="{self.id}" class="x {self.id}" style="{style}" {" ".join(attributes)}>'
            f"{''.join(child.text() for child in self.children)}</{self.tag}>\n"
        )

    def strokes(self, matrix, style):
        if self.own.get("display") == "none" or self.own.get("opacity") == "0":
            return []
        style, matrix = {**style, **self.own}, matrix @ self.matrix
        if abs(np.linalg.det(matrix)) < 1e-12:
            return []
        if self.tag == "use":
            return self.target.strokes(
                matrix @ [[1, 0, self.a[0]], [0, 1, self.a[1]], [0, 0, 1]], style
            )
        if self.tag != "path":
            return [stroke for child in self.children for stroke in child.strokes(matrix, style)]
        filled = style["fill"] not in CLEAR
        stroked = style["stroke"] not in CLEAR and style["stroke-width"] not in ("0", "0px")
        if style["visibility"] != "visible" or not (filled or stroked):
            return []
        return [np.array([[*self.a, 1], [*self.b, 1]]) @ matrix.T[:, :2]]


def test_random_trees_are_drawn_as_a_slow_reader_draws_them(tmp_path):
    rng = np.random.default_rng(0)
    start = {"fill": "black", "stroke": "none", "visibility": "visible", "stroke-width": "1"}
    drawn = 0
    for _ in range(150):
        rules, targets = [], []
        for _ in range(4):
            targets.append(Node(rng, rules, list(targets), 1))
        nodes = [Node(rng, rules, targets, 3) for _ in range(3)]
        body = f"<defs>{''.join(target.text() for target in targets)}</defs>"
        body += "".join(node.text() for node in nodes) + LINE
        body += f"<style>{' '.join(rules)}</style>"  # rules count wherever they stand
        expected = [stroke for node in nodes for stroke in node.strokes(np.eye(3), start)]
        strokes = read(tmp_path, body)
        assert len(strokes) == len(expected) + 1 and strokes[-1] == SEEN
        for stroke, other in zip(strokes[:-1], expected, strict=True):
            assert np.allclose(stroke, other, atol=1e-6 * max(1, np.abs(other).max()))
        drawn += len(expected)
    assert drawn > 400


# what is used --------------------

ARROW = '<path id="a" d="M0 0L10 10"/>'


@pytest.mark.parametrize(
    "body, strokes",
    [
        (f'<defs>{ARROW}</defs><use href="#a" x="3"/>', [[[3, 0], [13, 10]]]),
        (f'<use xlink:href="#a" y="3"/><defs>{ARROW}</defs>', [[[0, 3], [10, 13]]]),
        # the transform of a <use> acts after its x and y
        (f'<defs>{ARROW}</defs><use href="#a" x="1" transform="scale(2)"/>', [[[2, 0], [22, 20]]]),
        (f'<symbol id="s">{ARROW}</symbol><use href="#s"/>', [[[0, 0], [10, 10]]]),
        (f'<g display="none">{ARROW}</g><use href="#a"/>', [[[0, 0], [10, 10]]]),
        (
            f'<symbol id="s" viewBox="0 0 10 10">{ARROW}</symbol>'
            '<use href="#s" x="5" width="50" height="100"/>',
            [[[5, 25], [55, 75]]],
        ),
        (f'<svg id="s" viewBox="0 0 10 10" width="20">{ARROW}</svg>', [[[0, 40], [20, 60]]]),
        (  # a shape stays one stroke if <use> draws it where it stands, and is two elsewhere
            f'{ARROW}<use href="#a"/><use href="#a" x="1"/>',
            [[[0, 0], [10, 10]], [[1, 0], [11, 10]]],
        ),
        (  # what has no paint of its own takes that of the <use>
            f'<g fill="none">{ARROW}</g><use href="#a" stroke="red" x="1" fill="none"/>',
            [[[1, 0], [11, 10]]],
        ),
    ],
)
def test_what_is_used_is_drawn(tmp_path, body, strokes):
    assert read(tmp_path, body) == strokes


@pytest.mark.parametrize(
    "window, ends",
    [
        ('x="10" y="20" width="40" height="20"', [[20, 20], [40, 40]]),
        ('width="40" height="20" preserveAspectRatio="none"', [[0, 0], [40, 20]]),
        ('width="40" height="20" preserveAspectRatio="xMaxYMin"', [[20, 0], [40, 20]]),
        ('width="40" height="20" preserveAspectRatio="xMinYMax slice"', [[0, -20], [40, 20]]),
        ("", [[0, 0], [100, 100]]),
        ('width="50%" height="1in"', [[0, 23], [50, 73]]),
        ('width="10" height="10" viewBox="5 5 5 5"', [[-10, -10], [10, 10]]),
        ('transform="translate(1 1)" width="10" height="10"', [[1, 1], [11, 11]]),
    ],
)
def test_windows_scale_and_shift(tmp_path, window, ends):
    box = "" if "viewBox" in window else 'viewBox="0 0 10 10"'
    assert read(tmp_path, f"<svg {box} {window}>{ARROW}</svg>") == [ends]


def test_a_window_without_a_size_draws_nothing(tmp_path):
    for window in ('viewBox="0 0 0 9"', 'viewBox="0 0 9 9" width="0"'):
        assert read(tmp_path, f"<svg {window}>{ARROW}</svg>{LINE}") == [SEEN]


@pytest.mark.parametrize(
    "body, message",
    [
        ('<g id="a">\n<use href="#a"/></g>', "line 3: <use> of #a is within 64 others.*itself"),
        (
            '<g id="a"><use href="#b"/><use href="#b"/></g>\n<g id="b"><use href="#a"/></g>',
            "<use> of #[ab] is within 64 others",
        ),
        (  # 10 billion lines
            '<path id="u0" d="M0 0L1 1"/>'
            + "".join(
                f'<g id="u{k + 1}">{10 * f"""<use href="#u{k}" x="1"/>"""}</g>' for k in range(10)
            ),
            "<use> draws too much",
        ),
    ],
)
def test_use_without_end_is_refused_soon(tmp_path, monkeypatch, body, message):
    monkeypatch.setattr(svg_files, "_MOST_WORK", 1_000_000)
    begin = time.process_time()
    with pytest.raises(SketchError, match=message):
        read(tmp_path, body)
    assert time.process_time() - begin < 2


def test_points_of_use_have_a_limit_before_the_work(tmp_path):
    path = f'<path id="a" d="M0 0{"h1" * 10_000}"/>'
    many = "".join(f'<use href="#a" y="{k + 1}"/>' for k in range(2_000))
    begin = time.process_time()
    with pytest.raises(SketchError, match=r"line 2: .*(10,000,000 points|<use> draws too much)"):
        read(tmp_path, path + many)
    assert time.process_time() - begin < 10


# what is hidden --------------------


@pytest.mark.parametrize(
    "hidden",
    [
        '<path stroke="none" fill="none" d="M0 0h24v24H0z"/>',
        '<path d="M0 0h24v24H0z" style="fill: none"/>',
        '<g fill="none"><rect width="9" height="9"/></g>',
        '<rect width="9" height="9" fill="Transparent" stroke="red" stroke-width="0"/>',
        '<rect width="9" height="9" fill-opacity="0" stroke="red" stroke-opacity="0%"/>',
        '<rect width="9" height="9" fill="rgb(0 0 0 / 0%)"/>',
        '<g display="none"><g display="inline"><path d="M0 0L9 9"/></g></g>',
        '<g style="opacity:0.0"><path d="M0 0L9 9"/></g>',
        '<g visibility="hidden"><path d="M0 0L9 9"/></g>',
        '<x:path xmlns:x="http://x" d="M0 0L9 9"/>',
        '<g xmlns="http://x"><path d="M0 0L9 9"/></g>',
        '<inkscape:path d="M0 0L9 9"/>',  # a prefix that nobody declared
        '<pattern id="p"><path d="M0 0L9 9"/></pattern>',
        '<symbol><path d="M0 0L9 9"/></symbol>',
        '<path d="M0 0L9 9" systemLanguage="de"/>',
        '<g transform="scale(0 1)"><circle r="9"/></g>',
        '<path d="M0 0L9 9" transform="matrix(1e-200 2e-200 2e-200 4e-200 0 0)"/>',
        '<path d="M0 0L9 9" requiredExtensions="http://x"/>',
        '<path d="none"/>',
        '<rect height="9"/>',
        '<text display="none">a</text><text/><text visibility="hidden">a</text>',
    ],
)
def test_what_is_hidden_is_left_out_in_silence(tmp_path, hidden):
    assert read(tmp_path, hidden + LINE) == [SEEN]


@pytest.mark.parametrize(
    "seen",
    [
        '<g visibility="hidden"><path visibility="visible" d="M0 0L9 9"/></g>',
        '<g fill="none"><path stroke="red" d="M0 0L9 9"/></g>',
        '<g fill="none"><path fill="#00000010" d="M0 0L9 9"/></g>',
        '<path fill="rgb(1, 0, 0)" d="M0 0L9 9"/>',
        '<path fill="url(#g)" d="M0 0L9 9"/>',
        '<a href="https://example.org"><path d="M0 0L9 9"/></a>',
        '<switch><foreignObject requiredExtensions="x"/><g><path d="M0 0L9 9"/></g><g/></switch>',
        '<switch><path systemLanguage="de" d="M8 8L9 9"/><path d="M0 0L9 9"/></switch>',
        '<switch><path systemLanguage="fr, en-GB" d="M0 0L9 9"/><path d="M8 8L9 9"/></switch>',
        '<path transform="none" d="M0 0L9 9"/>',
        '<path d="M8 8L1 1" style="d: path(&quot;M0 0L9 9&quot;)"/>',
    ],
)
def test_what_is_seen_is_drawn(tmp_path, seen):
    assert read(tmp_path, seen) == [[[0, 0], [9, 9]]]


def test_a_prefix_for_all_of_svg(tmp_path):
    text = '<s:svg xmlns:s="http://www.w3.org/2000/svg"><s:path d="M1 2L3 4"/></s:svg>'
    (tmp_path / "a.svg").write_text(text)
    assert read_svg(tmp_path / "a.svg")[0][0].tolist() == SEEN


@pytest.mark.parametrize(
    "rule, hidden",
    [
        ("path {display: none}", "abc"),
        ("svg *{display:none}", "abc"),
        (".p{display:none}", "a"),
        (".p.q{display:none}", "a"),
        (".p.r{display:none}", ""),
        ("path#b{display:none}", "b"),
        ("g path {display:none}", "bc"),
        ("g.z > path {display:none}", "b"),
        ("g > path {display:none}", "bc"),
        ("g g path {display:none}", "c"),
        ("svg>g>g>path, .p {display:none}", "ac"),
        ("g.z path {display:none}", "bc"),
        ("svg > path {display:none}", "a"),
        ("rect > path {display:none}", ""),
        ("path[class] {display:none}", "a"),
        ("path[data-k='v w'] {display:none}", "b"),
        ("path[data-k~=w] {display:none}", "b"),
        ("path[data-k^=v],path[class$=q] {display:none}", "ab"),
        ("/* .p{ */ #c{display:none} /* } */", "c"),
        ("@media print {path {display:none}} #a{display:none}", "a"),
        ("@media screen, print {path {display:none}}", "abc"),
        ("@import url(x.css); @font-face {src: url(y)} #a{display:none}", "a"),
        ("@keyframes k {from {display:none} to {display:none}}", ""),
        ("#a{display:none} path{display:inline}", "a"),  # an id is stronger
        (".p{display:none} path{display:inline}", "a"),
        ("path{display:none} path{display:inline}", ""),  # the last of equals
        ("path{display:none !important} #a{display:inline}", "abc"),
        ("path:hover {display:none}", ""),
    ],
)
def test_rules_select(tmp_path, rule, hidden):
    body = """
      <path id="a" class="p q" d="M1 0h1"/>
      <g class="z"><path id="b" data-k="v w" d="M2 0h1"/><g><path id="c" d="M3 0h1"/></g></g>
      <path d="M9 0h1" style="display:inline !important"/>
    """
    strokes = read(tmp_path, f"<style><![CDATA[{rule}]]></style>{body}")
    shown = "".join("abc"[int(stroke[0][0]) - 1] for stroke in strokes[:-1])
    assert set(shown) == set("abc") - set(hidden)


def test_a_style_of_another_medium_or_with_rules_that_are_not_read(tmp_path):
    assert read(tmp_path, f'<style media="print">path{{display:none}}</style>{LINE}') == [SEEN]
    (tmp_path / "a.svg").write_text(svg(f"<style>path:nth-child(2){{display:none}}</style>{LINE}"))
    with pytest.warns(UserWarning, match=r"a\.svg: <style> has a selector, 'path:nth-child\(2\)'"):
        read_svg(tmp_path / "a.svg")


def test_rules_for_many_elements_have_a_limit(monkeypatch, tmp_path):
    monkeypatch.setattr("anydiff.sketches.svg_styles._MOST_TRIES", 1000)
    rules = "".join(f"g .a{{fill:#{k:06x}}}" for k in range(100))
    with pytest.raises(SketchError, match="line 2: the <style> has too many rules"):
        read(tmp_path, f'<style>{rules}</style><g>{50 * """<path class="a" d="M0 0h1"/>"""}</g>')


def test_paint():
    assert is_painted({}) and not is_painted({"fill": "none"})
    assert is_painted({"fill": "none", "stroke": "red"})
    assert is_painted({"fill": "#fff0f0"}) and not is_painted({"fill": "#FFF0"})
    assert is_painted({"fill": "initial"}) and not is_painted({"fill": "none", "stroke": "initial"})
    current = {"fill": "none", "stroke": "currentColor"}
    assert is_painted(current) and not is_painted(current | {"color": "transparent"})
    assert is_painted({"fill": "hsl(0, 0%, 0%)"}) and not is_painted({"fill": "hsla(0,0%,0%,.0)"})
    assert StyleSheet([]).unread == []


# transforms and units --------------------


@pytest.mark.parametrize(
    "attributes, end",
    [
        ('style="transform: translate(5px, 1mm)"', (6, 2 + 96 / 25.4)),
        ('style="transform: translate(10%, 50%)"', (21, 52)),
        ('style="transform: translateX(5px) translateY(-1px)"', (6, 1)),
        ('style="transform: rotate(0.25turn)"', (-2, 1)),
        ('style="transform: rotate(100grad) scale(2)"', (-4, 2)),
        (f'style="transform: rotate({math.pi / 2}rad)"', (-2, 1)),
        ('style="transform: skew(45deg)"', (3, 2)),
        ('style="transform: skew(0, 45deg)"', (1, 3)),
        ('style="transform: scaleX(3) scaleY(50%)"', (3, 1)),
        ('transform="translate(9)" style="transform: scale(2)"', (2, 4)),  # the style counts
        ('transform="rotate(90)" transform-origin="1 1"', (0, 1)),
        ('transform="rotate(180)" style="transform-origin: center"', (199, 98)),
        ('transform="scale(-1 1)" transform-origin="right top"', (399, 2)),
        ('transform="scale(1 -1)" transform-origin="bottom"', (1, 198)),
    ],
)
def test_transforms_of_css(tmp_path, attributes, end):
    path = f'<path {attributes} d="M0 0L1 2"/>'
    assert np.allclose(read(tmp_path, path, 'viewBox="0 0 200 100"')[0][1], end, atol=1e-8)


def test_an_origin_that_is_not_read_is_refused(tmp_path):
    style = "transform: rotate(9deg); transform-origin: center; transform-box: fill-box"
    with pytest.raises(SketchError, match="line 2: transform-box"):
        read(tmp_path, f'<path style="{style}" d="M0 0L1 2"/>')


@pytest.mark.parametrize("unit", ["", "px", "mm", "cm", "in", "pt", "pc", "em", "ex", "%", "vw"])
def test_the_size_of_the_picture_is_no_scale(tmp_path, unit):
    for box in ("", 'viewBox="0 0 210 297"'):
        assert read(tmp_path, LINE, f'width="210{unit}" height="297.000{unit}" {box}') == [SEEN]


@pytest.mark.parametrize(
    "length, pixels",
    [
        ("3", 3),
        (" 3px ", 3),
        ("1in", 96),
        ("2.54cm", 96),
        ("25.4MM", 96),
        ("72pt", 96),
        ("6pc", 96),
        ("2em", 32),
        ("1ex", 8),
        ("25%", 50),
        ("1e1", 10),
    ],
)
def test_lengths(tmp_path, length, pixels):
    for body in (
        f'<line x1="{length}"/>',
        f'<path d="M0 0L1 1"/><line style="x:3" x1="{length}"/>',
    ):
        x = read(tmp_path, body, 'width="200" height="100"')[-1][0][0]
        assert x == pytest.approx(pixels)


def test_percentages_are_of_the_nearest_window(tmp_path):
    rect = '<rect width="100%" height="50%" rx="auto"/>'
    (outer, inner) = read(
        tmp_path, f'{rect}<svg viewBox="0 0 4 8" width="4" height="8">{rect}</svg>'
    )
    assert outer[2] == [100, 50] and inner[2] == [4, 4]
    circle = read(tmp_path, '<circle r="10%"/>', 'viewBox="0 0 30 40"')[0]
    assert np.max(circle) == pytest.approx(0.1 * 50 / math.sqrt(2))
    sizes = ["20px", "2em", "200%", "large"]
    texts = "".join(f'<g style="font-size:{size}"><line x1="1em"/></g>' for size in sizes)
    lines = read(tmp_path, f'<g font-size="15pt">{texts}</g>')
    assert [line[0][0] for line in lines] == [20, 40, 40, 20]


def test_arcs_are_within_the_tolerance_however_they_are_scaled(tmp_path):
    half = '<path id="a" d="M1 0A1 1 0 0 1 -1 0"/>'
    scales = [1, 50, 0.1]
    uses = "".join(f'<use href="#a" transform="scale({scale} {-scale})"/>' for scale in scales)
    groups = "".join(f'<g transform="rotate(30) scale({s})">{half}</g>' for s in scales)
    strokes = read(tmp_path, f"<defs>{half}</defs>{uses}{groups}", tolerance=0.01)
    for stroke, scale in zip(strokes, [*scales, *scales], strict=True):
        line = np.array(stroke)
        middle = np.linalg.norm((line[1:] + line[:-1]) / 2, axis=1)
        assert np.allclose(np.linalg.norm(line, axis=1), scale) and scale - middle.min() <= 0.01
    assert len(strokes[3]) < len(strokes[4]) / 5  # and no more points than they need


# what is said --------------------


def warned(tmp_path, body, head='viewBox="0 0 100 100"'):
    (tmp_path / "a.svg").write_text(svg(body, head))
    with pytest.warns(UserWarning, match=r"a\.svg: ") as caught:
        strokes = [stroke.tolist() for stroke in read_svg(tmp_path / "a.svg")[0]]
    assert len(caught) == 1
    return strokes, str(caught[0].message)


@pytest.mark.parametrize(
    "body, message",
    [
        ("<text>a</text><g><text><tspan>b</tspan></text></g>", "left out 2 text."),
        ('<image href="a.png"/><text>a</text>', "left out 1 image, 1 text."),
        ("<foreignObject><p>a</p></foreignObject>", "left out 1 foreignObject."),
        ("<layer><path d='M0 0L1 1'/></layer>", "left out 1 layer."),
        (
            "<clipPath id='c'><circle r='1'/></clipPath><g clip-path='url(#c)'/>",
            "left out 1 clip-path (what it cuts is read whole).",
        ),
        (
            "<mask id='c'><circle r='1'/></mask><g style='mask: url(\"#c\")'/>",
            "1 mask (what it cuts",
        ),
        ("<g style='clip-path: circle(3px)'/>", "1 clip-path (what it cuts"),
        (
            "<g opacity='0'><path d='M0 0h1'/><animate attributeName='opacity' to='1'/></g>",
            "left out 1 g hidden until it moves.",
        ),
        ('<use href="#b"/>', "line 2: '#b' is not in the file; <use> of it is left out."),
        ('<use href="b.svg#b"/>', "line 2: 'b.svg#b' is not in the file"),
        (
            "<path d='M0 0x'/>",
            "line 2: 'x' at character 4 .* lower case; <path> is drawn up to there.",
        ),
        ("<path d='x'/>\n<path d='y'/>", "line 2: 'x' .* (and 1 more)."),
        ("<rect width='a' height='1'/>", "line 2: width='a' is no length .* ; <rect> is left out."),
    ],
)
def test_what_is_left_out_is_said_once(tmp_path, body, message):
    strokes, said = warned(tmp_path, body + LINE)
    assert strokes == [SEEN] or strokes == [[[0, 0]], SEEN]
    assert all(part in said for part in message.split(" .* "))


def test_an_arrow_loses_its_head(tmp_path):
    strokes, said = warned(tmp_path, f'<g marker-end="url(#m)">{LINE}</g>')
    assert strokes == [SEEN] and "left out 1 marker." in said


def test_a_pattern_loses_its_lines(tmp_path):
    body = f'<pattern id="p">{LINE}</pattern><rect width="1" height="1" fill="url(#p)"/>'
    strokes, said = warned(tmp_path, body)
    assert len(strokes) == 1 and "left out 1 pattern." in said


@pytest.mark.parametrize(
    "shape",
    [
        '<rect x=".1" y=".7" width="100.2" height="100"/>',
        '<rect width="100%" height="100%"/>',
        '<path d="M0 0h24.1v24H0z"/>',
    ],
)
def test_a_clip_that_is_a_window_is_like_a_view_box(tmp_path, shape):
    clip = f'<defs><clipPath id="c">{shape}</clipPath></defs>'
    for value in ("url(#c)", "url( '#c' )", "none", "url(#missing)"):
        assert read(tmp_path, f'{clip}<g clip-path="{value}">{LINE}</g>') == [SEEN]


def test_a_share_of_a_page_without_a_size(tmp_path):
    rect = '<rect width="100%" height="100%"/>'
    strokes, said = warned(tmp_path, rect + LINE, 'width="100%" height="100%"')
    assert strokes == [SEEN] and "width='100%' is a share" in said


@pytest.mark.parametrize(
    "d, strokes",
    [
        ("M1 1L2 2 3 3 x 4 4", [[[1, 1], [2, 2], [3, 3]]]),
        ("M1 1L2 2 3", [[[1, 1], [2, 2]]]),
        ("M1 1L2 2 3 3 x", [[[1, 1], [2, 2], [3, 3]]]),
        ("M1 1h1v1z m5 5 h", [[[1, 1], [2, 1], [2, 2], [1, 1]]]),
        ("M1 1H2 3 --4", [[[1, 1], [2, 1], [3, 1]]]),
        ("M1 1L2 2L1e999 3L5 5", [[[1, 1], [2, 2]]]),
        ("M1 1L2 2a1 1 0 2 1 3 3", [[[1, 1], [2, 2]]]),
        ("M1 1L2 2z z9", [[[1, 1], [2, 2], [1, 1]]]),
        ("M1 1L2 2NaN", [[[1, 1], [2, 2]]]),
    ],
)
def test_a_path_is_drawn_up_to_its_fault(tmp_path, d, strokes):
    drawn, said = warned(tmp_path, f'<path d="{d}"/>{LINE}')
    assert drawn == [*strokes, SEEN] and "; <path> is drawn up to there" in said


@pytest.mark.parametrize(
    "tag, points, stroke",
    [
        ("polyline", "0,0 5,5 9", [[0, 0], [5, 5]]),
        ("polygon", "0,0 5,5 5,0 9", [[0, 0], [5, 5], [5, 0], [0, 0]]),
        ("polyline", "0,0 5,5 L 9 9", [[0, 0], [5, 5]]),
    ],
)
def test_points_are_drawn_up_to_their_fault(tmp_path, tag, points, stroke):
    drawn, said = warned(tmp_path, f'<{tag} points="{points}"/>{LINE}')
    assert drawn == [stroke, SEEN] and f"of <{tag}> should be pairs of numbers" in said


@pytest.mark.parametrize(
    "body, message",
    [
        ("<text>a</text><image/>", r"left out 1 text, 1 image"),
        (f'<symbol id="s">{LINE}</symbol>', "1 symbol that no <use> draws"),
        (f"<defs>{LINE}</defs>", "1 defs"),
        ('<defs><font><glyph d="M0 0L1 1"/></font></defs>', "1 glyph"),
        (f'<g transform="scale(0)">{LINE}</g>', "1 g scaled to nothing"),
        (f'<g display="none">{LINE}</g>', "1 hidden g"),
        ('<path fill="none" d="M0 0L1 1"/>', "1 path without fill and stroke"),
        ('<path d="x"/>', "line 2: 'x' at character 0"),
    ],
)
def test_nothing_to_draw_names_what_was_left_out(tmp_path, body, message):
    with pytest.raises(EmptySketch, match=rf"a\.svg: nothing is drawn in it.*{message}"):
        read(tmp_path, body)


# size and depth --------------------


def test_many_small_elements_cost_little(tmp_path):
    """About a second for 50,000; here a tenth, with room for a busy machine."""
    paths = "".join(f'<path d="M{k % 97} {k % 89}l3 4"/>' for k in range(5_000))
    turned = "".join(
        f'<g transform="translate({k})"><path d="M0 0l3 4"/></g>' for k in range(5_000)
    )
    begin = time.process_time()
    assert len(read(tmp_path, paths + turned)) == 10_000
    assert time.process_time() - begin < 3


@pytest.mark.parametrize(
    "text", ["a", "@", "a}", "a{", "@a{", "@a{b{}", "/*", "[a", "a ", ".a,", ":", ";", "a{b"]
)
def test_any_style_sheet_is_read_soon(text):
    begin = time.process_time()
    for end in ("", "{display:none}"):
        StyleSheet([100_000 * text + end])
    assert time.process_time() - begin < 3


def test_depth_is_no_limit(tmp_path):
    assert read(tmp_path, 20_000 * "<g>" + LINE + 20_000 * "</g>") == [SEEN]


def test_a_text_too_long_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(svg_files, "MOST_POINTS", 1000)
    monkeypatch.setattr("anydiff.sketches.svg_commands.float", None, raising=False)  # never called
    for d in ("M0 0" + "l1 1" * 1001, "M0 0 " + "1 1 " * 1001, "M0 0" + "h1e-1 1 1 1" * 600):
        with pytest.raises(SketchError, match=r"a\.svg, line 2: .* points"):
            read(tmp_path, f'<path d="{d}"/>')
    monkeypatch.setattr("anydiff.sketches.xml_events._MOST_BYTES", 100)
    with pytest.raises(SketchError, match=r"a\.svg: has more than 100 bytes"):
        read(tmp_path, LINE)
    bomb = tmp_path / "b.svgz"
    bomb.write_bytes(gzip.compress(b" " * 1_000_000))
    with pytest.raises(
        SketchError, match=r"b\.svgz: not a readable|b\.svgz: has more than 100 bytes"
    ):
        read_sketches(bomb)


def test_a_compressed_file_is_read_like_a_plain_one(tmp_path):
    packed = gzip.compress(svg(LINE).encode())
    for name in ("a.svgz", "b.svg"):
        (tmp_path / name).write_bytes(packed)
        assert read_sketches(tmp_path / name)[0][0].tolist() == SEEN
    assert len(read_sketches(tmp_path)) == 2
    for broken in (packed[:20], packed[:10] + bytes(20)):
        (tmp_path / "a.svgz").write_bytes(broken)
        with pytest.raises(SketchError, match=r"a\.svgz"):
            read_sketches(tmp_path / "a.svgz")
