"""`report.html` and `anydiff view`: what is on the pages, and what they do not touch."""

import json
import re

import numpy as np
import pytest

from anydiff.cli.main import main
from anydiff.cli.report import write_report
from anydiff.images import load_images
from anydiff.molecules.files import write_sdf, write_xyz
from anydiff.molecules.qm9 import load_qm9
from anydiff.molecules.strings import Strings
from anydiff.sketches.files import write_ndjson
from anydiff.sketches.kanji import load_kanji

MOLECULES = load_qm9("5k", bonds=True).subset(range(30))
SKETCHES = load_kanji().subset(range(5))
IMAGES = load_images("digits").subset(range(7))
STRINGS = Strings(("CCO", "c1ccccc1", "C1C"))


def call(*words):
    main([str(word) for word in words])


def scripts(text):
    return [
        json.loads(s) for s in re.findall(r'<script type="application/json">(.*?)</script>', text)
    ]


def write(kind, folder):
    """A file of each kind."""
    if kind == "molecules":
        write_sdf(folder / "some.sdf", MOLECULES)
        return folder / "some.sdf"
    if kind == "sketches":
        write_ndjson(folder / "some.ndjson", SKETCHES)
        return folder / "some.ndjson"
    if kind == "images":
        np.savez(folder / "some.npz", pixels=IMAGES.pixels.numpy(), labels=IMAGES.labels.numpy())
        return folder / "some.npz"
    (folder / "some.smi").write_text("CCO\nc1ccccc1\n")
    return folder / "some.smi"


@pytest.mark.parametrize(
    "kind, shown, many",
    [
        ("molecules", "<figcaption>", 24),
        ("sketches", "<svg ", 5),
        ("images", "<figcaption>", 7),
        ("smiles", "<li><code>", 2),
    ],
)
def test_files_of_all_kinds_are_shown(kind, shown, many, tmp_path, capsys):
    file = write(kind, tmp_path)
    call("view", file, "--open", "false")
    assert capsys.readouterr().out == f"{tmp_path / file.name}.html\n"
    text = (tmp_path / f"{file.name}.html").read_text()
    assert text.count(shown) == many
    assert f"<h1>{file.name}</h1>" in text


def test_molecules_on_a_page_are_those_of_the_file(tmp_path):
    call("view", write("molecules", tmp_path), "--out", tmp_path / "page.html", "--open", "false")
    (items,) = scripts((tmp_path / "page.html").read_text())
    for m, item in enumerate(items):
        one = MOLECULES.subset([m])
        assert len(item["e"]) == len(one.z)
        of = (one.pos[:, None] - one.pos[None]).astype(np.float64)
        there = np.array(item["p"])[:, None] - np.array(item["p"])[None]
        # turned, and rounded
        np.testing.assert_allclose(*(np.linalg.norm(d, axis=-1) for d in (of, there)), atol=4e-3)
        assert {tuple(b[:2]) for b in item["b"]} == {tuple(b) for b in one.bonds.tolist()}
        assert [b[2] for b in item["b"]] == one.orders.tolist()


def test_the_way_from_noise_ends_where_the_sample_is(tmp_path):
    one = MOLECULES.subset([20])
    frames = [(s * one.pos, one.z) for s in np.linspace(3, 1, 200)]
    write_xyz(tmp_path / "path.xyz", frames)
    write_report(tmp_path, "molecules", "title", one)
    _, way = scripts((tmp_path / "report.html").read_text())
    assert 40 <= len(way) <= 60
    spread = [np.std(np.array(frame["p"])) for frame in way]
    assert spread[0] == pytest.approx(3 * spread[-1], rel=1e-2)
    assert sorted(spread, reverse=True) == spread


def test_a_report_has_what_the_folder_has(tmp_path):
    (tmp_path / "table.txt").write_text("         a↓\n-----------\ndrawn  0.50\n\nA note.\n")
    write_report(
        tmp_path, "sketches", "5 sketches", SKETCHES, before=SKETCHES, captions=["fire", "water"],
        asked={"model": "kanji", "steps": 25, "label": None},
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == ["What was asked", "Figures", "Before", "After"]
    assert "<td>0.50</td>" in text and "A note." in text
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == ["fire", "water"]
    assert "label" not in re.findall(r"<dt>(.*?)</dt>", text)


def test_what_was_asked_of_smiles_is_beside_what_came_out(tmp_path):
    write_report(tmp_path, "smiles", "title", STRINGS, captions=["??O", "c1????1", "C??"])
    assert "<code>??O → CCO</code>" in (tmp_path / "report.html").read_text()


def test_the_folder_of_a_run_is_shown_by_its_report(tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda uri: opened.append(uri) or True)
    write_report(tmp_path, "images", "title", IMAGES)
    before = (tmp_path / "report.html").read_bytes()
    call("view", tmp_path)
    assert capsys.readouterr().out == f"{tmp_path}/report.html\n"
    assert opened == [(tmp_path / "report.html").as_uri()]
    assert (tmp_path / "report.html").read_bytes() == before


def test_without_a_browser_the_page_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda uri: False)
    call("view", write("images", tmp_path))
    assert "no browser was found here; open the file in one." in capsys.readouterr().out


def test_only_an_older_page_is_replaced(tmp_path, capsys):
    file = write("images", tmp_path)
    for _ in range(2):
        call("view", file, "--open", "false")
    other = tmp_path / "mine.html"
    other.write_text("mine")
    for out in (other, file, tmp_path):
        with pytest.raises(SystemExit):
            call("view", file, "--out", out, "--open", "false")
        assert "is there, and no page of anydiff's" in capsys.readouterr().err
    assert other.read_text() == "mine"
    assert np.load(file)["pixels"].shape == (7, 1, 8, 8)


@pytest.mark.parametrize(
    "name, error",
    [
        ("nothing.sdf", "no such file; give a file of samples, or a folder"),
        ("some.txt", "its name does not tell what it holds; give --kind"),
        ("faulty.sdf", "faulty.sdf"),
    ],
)
def test_what_cannot_be_shown_is_an_error(name, error, tmp_path, capsys):
    (tmp_path / "some.txt").write_text("CCO")
    (tmp_path / "faulty.sdf").write_text("nothing of the kind")
    with pytest.raises(SystemExit) as stop:
        call("view", tmp_path / name, "--open", "false")
    assert stop.value.code == 2
    assert error in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))


def test_notebooks_show_items():
    """As PNG or as HTML, whichever suits; an empty set shows nothing that fails."""
    some = [MOLECULES, load_qm9("5k").subset(range(3)), IMAGES]
    for items in some:
        assert items._repr_png_().startswith(b"\x89PNG")
    assert SKETCHES._repr_html_().count("<svg ") == 5
