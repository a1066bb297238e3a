"""The code in the pages runs."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

PAGES = Path(__file__).parents[1]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (PAGES / page).read_text(), re.S)


def test_the_readme_s_lines_run():
    index = torch.tensor([0, 0, 0, 1, 1])
    names = {"x0": torch.randn(5, 8), "index": index, "num_items": 2}
    (block,) = blocks("README.md")
    exec(block.replace("steps=250", "steps=3"), names)
    assert names["x"].shape == (44, 8) and names["loss"].isfinite()


def test_nothing_is_left_to_fill_in():
    pages = [PAGES / "README.md", *(PAGES / "docs").glob("*.md")]
    assert not [p.name for p in pages if re.search(r"@[A-Z]+@", p.read_text())]


def test_links_lead_somewhere():
    for page in [PAGES / "README.md", *(PAGES / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", linked.read_text(), re.M)
                anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads]
                assert anchor in anchors, f"{page.name}: {target}"


def test_a_series_is_learned_from_the_page():
    names = {}
    exec(blocks("docs/your-data.md")[1].replace("range(20)", "range(8)"), names)
    # twelve hours apart, day and night are opposite: -0.4 in the data
    product = [((x[12:] - 15) * (x[:-12] - 15) / 64).mean() for x in names["drawn"]]
    assert sum(product) / len(product) < -0.2


def test_strokes_are_drawn_as_on_the_page():
    names = {}
    for block in blocks("docs/strokes.md"):
        exec(block.replace("steps=100", "steps=3"), names)
    assert len(names["back"]) == len(names["kanji"]) and len(names["sketches"]) == 4
    assert names["loss"].isfinite()


def test_a_circle_is_learned_from_the_page():
    block = blocks("docs/your-data.md")[0]
    names = {}
    exec(block.replace("range(1500)", "range(300)"), names)
    radius = names["x"].norm(dim=1)
    assert abs(radius.mean() - 1) < 0.25 and radius.std() < 0.4


def test_digits_are_read_and_measured_as_on_the_page():
    names = {}
    for block in blocks("docs/images.md"):
        exec(block, names)
    assert names["small"](torch.randn(1, 3, 12, 10), torch.rand(1)).shape == (1, 3, 12, 10)
    assert names["floor"].frechet < 2


def test_the_methods_of_one_s_own_do_what_the_page_asks_of_them():
    names = {}
    for block in blocks("docs/extending.md"):
        exec(block, names)
    assert {"Tempered", "Straight", "Labelled", "Symmetric", "with_total", "translate"} <= names.keys()


def commands():
    for page in [
        PAGES / "README.md",
        *(PAGES / "docs").glob("*.md"),
        *(PAGES / "examples").glob("*.py"),
    ]:
        for line in re.findall(r"^ *(python examples/.*)$", page.read_text(), re.M):
            yield re.split(r" {2,}| # ", line)[0].replace(" S", " 1")


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_the_examples_take_the_flags_of_the_pages(command, monkeypatch):
    path, *flags = shlex.split(command)[1:]
    spec = importlib.util.spec_from_file_location("example", PAGES / path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(sys, "argv", [path, *flags])
    args = example.arguments()
    assert args.num > 0 and args.accelerator in ("cpu", "gpu")
