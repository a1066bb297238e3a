"""Models that are trained with known parts, from the command to what they complete."""

import json

import numpy as np
import pytest
import torch

from anydiff.cli import train
from anydiff.cli.main import main
from anydiff.cli.runs import kind_of, open_model
from anydiff.denoisers import Completing
from anydiff.molecules.files import write_npz
from anydiff.molecules.fragments import first_with, largest_ring
from anydiff.molecules.qm9 import load_qm9
from anydiff.sketches.files import read_sketches, write_ndjson
from anydiff.sketches.kanji import load_kanji
from anydiff.spaces import Rest

KINDS = ("molecules", "sketches", "images")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small model of each kind, trained for one pass with known parts; and its data."""
    folder, files = tmp_path_factory.mktemp("parts"), {}
    common = {"epochs": 1, "accelerator": "cpu", "parts": True}
    write_npz(folder / "data.npz", load_qm9().subset(range(100)))
    write_ndjson(folder / "data.ndjson", load_kanji().subset(range(100)))
    data = {
        "molecules": folder / "data.npz",
        "sketches": folder / "data.ndjson",
        "images": "digits",
    }
    small = {
        "molecules": {"hidden": 8, "layers": 1, "property": "alpha"},
        "sketches": {"hidden": 8, "layers": 1},
        "images": {"widths": [4], "groups": 2, "classes": True, "batch_size": 512},
    }
    for kind in KINDS:
        command = getattr(train, kind)
        files[kind] = command(str(data[kind]), out=folder / kind, **small[kind], **common)
    return files, data


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_says_that_it_completes_and_learns_from_parts(kind, models):
    files, data = models
    model = open_model(files[kind])
    assert model.completes and isinstance(model.diffusion.denoiser, Completing)
    assert json.loads((files[kind].parent / "settings.json").read_text())["parts"] is True
    of = kind_of(kind)
    loader, _, unpack = of.batches(model, model.read_data(str(data[kind])), str(data[kind]), 64, 0)
    torch.manual_seed(0)
    x0, space, cond = unpack(next(iter(loader)))
    assert isinstance(space, Rest) and space.known.any() and not space.known.all()
    assert torch.equal(cond["given"], space.space.restrict(x0, space.known))
    if kind != "sketches":
        assert model.conditional and cond.keys() == {
            "given",
            {"images": "label"}.get(kind, "context"),
        }
    assert model.diffusion.drop in (None, {"label": 0.1}, {"context": 0.1})  # never the part


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_sampled_from_and_completes_in_as_many_calls(kind, models, tmp_path, capsys):
    files, data = models
    flags = ["--steps", "3", "--accelerator", "cpu", "--num", "6", "--data", str(data[kind])]
    for command in ("sample", "inpaint"):
        main([command, str(files[kind]), *flags, "--out", str(tmp_path / command)])
        table = (tmp_path / command / "table.txt").read_text()
        assert "drawn" in table
    # calls of an item, which the tables of images and sketches have
    assert [w for w in table.split() if w == "15"] == []
    if kind == "sketches":
        before = load_kanji().subset(range(100))
        drawn = read_sketches(tmp_path / "inpaint/samples.ndjson")
        assert len(drawn) == 6 and len(before) == 100
    if kind == "images":
        with np.load(tmp_path / "inpaint/samples.npz") as file:
            assert (file["pixels"][..., :4] == file["before"][..., :4]).all()
    with pytest.raises(SystemExit) as stop:
        main(["inpaint", str(files[kind]), *flags, "--resamples", "2"])
    assert stop.value.code == 2
    assert "--resamples is 2, and" in (told := capsys.readouterr().err) and "leave it out" in told


@pytest.mark.slow
def test_a_student_of_it_completes_too(models, tmp_path):
    files, _ = models
    words = ["--to", "4", "--epochs", "1", "--num", "2", "--measure", "false", "--guidance", "2"]
    main(["distill", str(files["images"]), *words, "--out", str(tmp_path), "--accelerator", "cpu"])
    student = open_model(tmp_path / "model.safetensors")
    assert student.completes and student.diffusion.times.run is not None
    known = student.read_data().subset(range(3))
    drawn = student.inpaint(known, seed=1)
    assert torch.equal(drawn.pixels[..., :4], known.pixels[..., :4])


def test_bonds_between_known_atoms_are_known(tmp_path):
    write_npz(tmp_path / "data.npz", load_qm9().subset(range(60)))
    file = train.molecules(
        str(tmp_path / "data.npz"), hidden=8, layers=1, bonds=True, parts=True,
        epochs=1, accelerator="cpu", out=tmp_path / "m",
    )  # fmt: skip
    model = open_model(file)
    assert model.completes and model.diffusion.denoiser.pairs == 2
    some, known = first_with(load_qm9(), 3, largest_ring)
    drawn = model.inpaint(some, known, steps=3, seed=1)
    assert (drawn.z[known] == some.z[known]).all()

    def within(molecules):
        both = known[molecules.bonds].all(1)
        rows = np.column_stack([molecules.bonds[both], molecules.orders[both]])
        return sorted(map(tuple, rows.tolist()))

    assert within(drawn) == within(some) and within(some)
