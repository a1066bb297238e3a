"""Pages: whole, closed to the outside, and true to what they were given."""

import base64
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from anydiff.drawing import write_gif
from anydiff.metrics.tables import aligned
from anydiff.pages import Page, data, facts, figures, film, frames_of, lines, picture, tiles

VOID = {"meta", "img", "input", "br", "link", "hr"}
NASTY = "</script><script>alert(1)</script> & \"quoted\" 'too'"


class Reader(html.parser.HTMLParser):
    """Tags that are opened and closed in their order, the cells of tables and the scripts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.cells, self.scripts, self.links = [], [], [], [], []
        self.handlers = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href")]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += text
        if self.open and self.open[-1] == "script":
            self.scripts.append(text)


def test_a_page_is_one_file_that_asks_for_no_other(tmp_path):
    page = Page("Title", "below it")
    page.add("Facts", facts({"seed": 0, "guidance": None}))
    page.add("Nothing", "")
    page.write(tmp_path / "a/page.html")
    text = (tmp_path / "a/page.html").read_text()
    read = Reader(text)
    assert all(link.startswith("data:") for link in read.links)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", text)
    assert "Nothing" not in text and "guidance" not in text
    assert text.count("<dt>") == 1


def test_what_it_is_told_stays_text():
    """Names of files and texts of users are no HTML, in headings, cells, films and scripts."""
    page = Page(NASTY, NASTY)
    page.add(NASTY, facts({NASTY: NASTY}) + lines([NASTY]) + film([NASTY, "b"], NASTY), NASTY)
    page.add("Figures", figures(aligned([["", "a"], [NASTY, "1"]])))
    page.add("Film", film(["a", 'data:" onerror="alert(2)'], NASTY) + tiles(["x"], [NASTY]))
    read = Reader(page.html())
    kept = [json.loads(script) for script in read.scripts if "alert" in script]
    assert kept == [[NASTY, "b"], ["a", 'data:" onerror="alert(2)']]
    assert not read.handlers
    assert read.cells[-2:] == [NASTY, "1"]


def test_scripts_come_once_after_the_pages_own(tmp_path):
    library = tmp_path / "library.js"
    library.write_text('const end = "</script>";')
    page = Page("Title")
    for name in "ab":
        page.add(name, "<p>x</p>", files=[library])
    scripts = Reader(page.html()).scripts
    assert "function film" in scripts[0]
    assert scripts[1:] == ['const end = "<\\/script>";']


TABLE = aligned(
    [["", "Fréchet↓", "as asked↑"], ["real, held out", "0.41", "–"], ["drawn", "1.2", "99.1%"]]
)


def test_tables_of_a_terminal_become_tables():
    cells = Reader(figures(f"{TABLE}\n\nA line below.\nAnd another.\n")).cells
    assert cells == [
        "",
        "Fréchet↓",
        "as asked↑",
        "real, held out",
        "0.41",
        "–",
        "drawn",
        "1.2",
        "99.1%",
    ]
    assert "A line below." in figures(f"{TABLE}\n\nA line below.\n")


def test_the_films_frames_are_those_of_the_gif(tmp_path):
    shades = [np.full((4, 6), 80 * k, np.uint8) for k in range(3)]
    images = [Image.fromarray(shade).convert("P") for shade in shades]
    write_gif(tmp_path / "a.gif", images, fps=10, hold=1)
    frames = frames_of(tmp_path / "a.gif")
    back = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(f.partition(",")[2]))).convert("L"))
        for f in frames
    ]
    for shade, frame in zip(shades, back, strict=True):
        assert np.array_equal(shade, frame)
    shown = film(frames, "shades")
    (script,) = Reader(shown).scripts
    assert json.loads(script) == frames
    assert 'max="2" value="2"' in shown
    assert film([], "shades") == ""


def test_large_frames_are_made_smaller(tmp_path):
    image = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(1000).reshape(256, 1000))
    write_gif(tmp_path / "a.gif", [image.convert("P")], fps=10, hold=1)
    (frame,) = frames_of(tmp_path / "a.gif")
    assert Image.open(io.BytesIO(base64.b64decode(frame.partition(",")[2]))).size == (760, 195)


def test_facts_are_said_as_one_writes_them():
    told = {"a": True, "b": [16, 32], "c": ["fire", "water"], "d": 2.0, "e": 0.05, "f": False}
    found = re.findall("<dd>(.*?)</dd>", facts(told))
    assert found == ["yes", "16, 32", "fire; water", "2", "0.05", "no"]


def test_what_is_not_there_is_left_out(tmp_path):
    assert picture(tmp_path / "a.png", "a") == ""
    assert frames_of(tmp_path / "a.gif") == []
    assert facts({"a": None}) == lines([]) == ""


def test_what_utf8_does_not_have_is_written_all_the_same(tmp_path):
    page = Page("half \ud83d of a pair")
    page.write(tmp_path / "a.html")
    assert "half &#55357; of a pair" in (tmp_path / "a.html").read_text()


def test_a_page_replaces_nothing_where_it_cannot_be_written(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError, match="give the name of a file"):
        Page("Title").write(tmp_path / "page.html")


def test_numbers_of_scripts_are_finite():
    with pytest.raises(ValueError, match="JSON"):
        data([float("nan")])
