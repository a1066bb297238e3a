"""`report.html` and `anydiff view`: what is on the pages, and what they do not touch."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from anydiff.cli.fitting import _about
from anydiff.cli.main import main
from anydiff.cli.report import in_turn, write_report
from anydiff.images import Images, load_images
from anydiff.molecules.bonds import bond_orders
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
    call("view", file, "--browser", "false")
    assert capsys.readouterr().out == f"{tmp_path / file.name}.html\n"
    text = (tmp_path / f"{file.name}.html").read_text()
    assert text.count(shown) == many
    assert f"<h1>{file.name}</h1>" in text


def test_molecules_on_a_page_are_those_of_the_file(tmp_path):
    call(
        "view", write("molecules", tmp_path), "--out", tmp_path / "page.html", "--browser", "false"
    )
    (items,) = scripts((tmp_path / "page.html").read_text())
    assert len(items) == 24
    assert "The first 24 of 30." in (tmp_path / "page.html").read_text()
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


def test_a_report_has_what_it_is_told_and_nothing_of_other_runs(tmp_path):
    (tmp_path / "table.txt").write_text("of another run")
    write_report(
        tmp_path, "sketches", "5 sketches", SKETCHES, before=SKETCHES, captions=["fire", "water"],
        asked={"model": "kanji", "steps": 25, "label": None}, pictures={"Training": "none.png"},
        table="         a↓\n-----------\ndrawn  0.50\n\nA note.\n",
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == ["What was asked", "Figures", "Before", "After"]
    assert "<td>0.50</td>" in text and "A note." in text
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == ["fire", "water"]
    assert "label" not in re.findall(r"<dt>(.*?)</dt>", text)


def test_what_is_asked_in_turn_is_told_of_each():
    assert in_turn({"text": ["fire", "water"]}, 3, 4) == ["water", "fire", "water", "fire"]
    assert in_turn({"pattern": "??O"}, 0, 2) == ["??O", "??O"]
    assert in_turn({"label": [3, 8]}, 0, 2) == []


@pytest.mark.parametrize(
    "text", ["0\n\n", "2\n\nC 0 0 nan\nC 0 0 1\n", "1\n\nC 0 0\n", "²\n", "5\n\nC 0 0 0\n", ""]
)
def test_a_way_that_is_broken_is_shown_up_to_there(text, tmp_path):
    one = MOLECULES.subset([20])
    write_xyz(tmp_path / "path.xyz", [(one.pos, one.z)] * 3)
    with (tmp_path / "path.xyz").open("a") as file:
        file.write(text)
    write_report(tmp_path, "molecules", "title", one)
    _, way = scripts((tmp_path / "report.html").read_text())
    assert len(way) == 3


def test_a_page_that_cannot_be_written_does_not_end_a_run(tmp_path, capsys):
    (tmp_path / "report.html").mkdir()
    write_report(tmp_path, "images", "title", IMAGES)
    assert capsys.readouterr().out.startswith("no report.html: ")


def test_labels_have_their_names(tmp_path):
    images = Images(IMAGES.pixels[:2], torch.tensor([1, 0]), ("cat", "dog"))
    write_report(tmp_path, "images", "title", images)
    found = re.findall(r"<figcaption>(.*?)</figcaption>", (tmp_path / "report.html").read_text())
    assert found == ["dog", "cat"]


def test_bonds_by_distance_are_those_of_the_files(tmp_path):
    bare = replace(MOLECULES, bonds=None, orders=None)
    write_report(tmp_path, "molecules", "title", bare, before=MOLECULES)
    before, after = scripts((tmp_path / "report.html").read_text())
    pairs, orders = bond_orders(bare.pos, bare.z, bare.index)
    first = [
        [*p, o]
        for p, o in zip(pairs.tolist(), orders.tolist(), strict=True)
        if max(p) < len(before[0]["e"])
    ]
    assert before[0]["b"] == after[0]["b"] == first


def test_a_training_is_told_as_it_was(tmp_path):
    from anydiff.cli.runs import open_model

    known = replace(open_model("kanji"), data="/home/me/secret/mine.ndjson")
    told = _about(
        known, {"finetuned": "qm9", "steps": 3}, {"finetuned": "3fa5", "data": "x", "text": False}
    )
    assert told["finetuned"] == "qm9" and told["data"] == "mine.ndjson"
    assert told["parameters"] == "1,693,584" and "text" not in told


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


@pytest.mark.slow
def test_only_an_older_page_is_replaced(tmp_path, capsys):
    file = write("images", tmp_path)
    for _ in range(2):
        call("view", file, "--browser", "false")
    other = tmp_path / "mine.html"
    other.write_text("mine")
    for out in (other, file, tmp_path):
        with pytest.raises(SystemExit):
            call("view", file, "--out", out, "--browser", "false")
        assert "is there, and no page of anydiff's" in capsys.readouterr().err
    assert other.read_text() == "mine"
    call("view", file, "--out", tmp_path / "page.html", "--browser", "false")
    (tmp_path / "page.html").rename(tmp_path / "report.html")  # a run's, which has the same mark
    with pytest.raises(SystemExit):
        call("view", file, "--out", tmp_path / "report.html", "--browser", "false")
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
        call("view", tmp_path / name, "--browser", "false")
    assert stop.value.code == 2
    assert error in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))


def test_notebooks_show_items():
    """As PNG or as HTML, whichever suits; what cannot be drawn is left to its text."""
    some = [MOLECULES, load_qm9("5k").subset(range(3)), IMAGES]
    for items in some:
        assert items._repr_png_().startswith(b"\x89PNG")
    assert Images(torch.zeros(2, 4, 8, 8, dtype=torch.uint8))._repr_png_() is None
    large = Images(torch.zeros(64, 3, 300, 400, dtype=torch.uint8))._repr_png_()
    with Image.open(io.BytesIO(large)) as shown:
        assert max(shown.size) < 1400  # 16 side by side
    assert SKETCHES._repr_html_().count("<svg ") == 5
