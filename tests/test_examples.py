"""The examples: short, complete, and the same training as the command line's."""

import ast
import importlib.util

import pytest
import torch
from PIL import Image

import anydiff
from anydiff.cli import train
from anydiff.images.named import load_images
from anydiff.molecules.files import write_npz
from anydiff.molecules.qm9 import load_qm9
from anydiff.sketches.files import write_ndjson
from anydiff.sketches.kanji import load_kanji
from tests.helpers.paths import ROOT

FLAGS = {"data", "minutes", "epochs", "num", "steps", "seed", "out", "resume"}
KINDS = {"qm9_molecules": "molecules", "sketch_bidirnn": "sketches", "cifar_unet": "images"}


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def little(kind, folder):
    """Data of a kind that are learned from in seconds."""
    if kind == "molecules":
        write_npz(folder / "data.npz", load_qm9().subset(range(30)))
        return str(folder / "data.npz")
    if kind == "sketches":
        write_ndjson(folder / "data.ndjson", load_kanji().subset(range(70)))
        return str(folder / "data.ndjson")
    (folder / "photos").mkdir()
    for m, pixels in enumerate(load_images("digits").pixels[:60].numpy()):
        Image.fromarray(pixels[0]).save(folder / f"photos/{m:02}.png")
    return str(folder / "photos")


@pytest.mark.parametrize("name", KINDS)
def test_an_example_is_two_screens_that_show_the_library(name):
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 120
    calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)}
    assert "GaussianDiffusion" in calls and any(c.endswith(".sample") for c in calls)
    main = next(n for n in ast.parse(text).body if getattr(n, "name", "") == "main")
    assert {arg.arg for arg in main.args.kwonlyargs} == FLAGS and not main.args.args


@pytest.mark.slow
@pytest.mark.parametrize("name,kind", KINDS.items())
def test_an_example_learns_what_the_command_learns(name, kind, tmp_path, monkeypatch):
    data, options = little(kind, tmp_path), {"epochs": 1, "seed": 3}
    written = []
    module = example(name)
    monkeypatch.setattr(module, "plot_curve", lambda *paths: written.append(paths))  # too few steps
    module.main(data=data, num=3, steps=2, out=tmp_path / "example", **options)
    more = {"bonds": True} if kind == "molecules" else {}
    out = tmp_path / "command"
    file = getattr(train, kind)(data, out=out, accelerator="cpu", **options, **more)
    one, extra = anydiff.load(tmp_path / "example/model.safetensors")
    other, also = anydiff.load(file)
    weights = one.state_dict()
    assert weights.keys() == other.state_dict().keys()
    assert all(torch.equal(weights[k], v) for k, v in other.state_dict().items())
    assert extra["kind"] == also["kind"] == kind and extra.keys() == also.keys()
    files = {p.name for p in (tmp_path / "example").iterdir()}
    assert {"model.safetensors", "samples.png", "table.txt", "report.html"} <= files and written

    # stopped before the last file, the same command draws again, and does not train anew
    before = (tmp_path / "example/last.ckpt").read_bytes()
    module.main(data=data, num=3, steps=2, out=tmp_path / "example", **options)
    assert (tmp_path / "example/last.ckpt").read_bytes() == before
    assert not (tmp_path / "example-2").exists()
    again = anydiff.load(tmp_path / "example/model.safetensors")[0].state_dict()
    assert all(torch.equal(weights[k], v) for k, v in again.items())


@pytest.mark.slow
def test_three_systems_draw_from_texts(tmp_path, capsys):
    module = example("text_to_image")
    assert len((ROOT / "examples/text_to_image.py").read_text().splitlines()) <= 120
    module.main(text="two sevens above nothing", minutes=0.05, num=8, out=tmp_path)
    rows = (tmp_path / "table.txt").read_text().splitlines()
    assert [row.split("  ")[0] for row in rows[2:]] == ["GLIDE", "DALL·E 2", "Imagen", "real"]
    assert all("%" in row for row in rows[2:]) and rows[-1].count("100.0 %") >= 1
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.width > 2 * picture.height  # a row of nine for each system
    assert "two sevens above nothing" in capsys.readouterr().out
