"""Latent models on the command line: two stages, all commands, and what is refused."""

import json

import numpy as np
import pytest
import torch

import anydiff
from anydiff.cli import train
from anydiff.cli.main import main
from anydiff.cli.runs import open_model
from anydiff.latent import Latent
from anydiff.molecules.files import read_molecules, write_npz
from anydiff.molecules.qm9 import load_qm9
from anydiff.sketches.files import write_ndjson
from anydiff.sketches.kanji import load_kanji

KINDS = ["images", "molecules", "sketches"]
SMALL = {
    "images": {"widths": [8], "groups": 4, "latent": 3},
    "molecules": {"hidden": 8, "layers": 1, "latent": 2},
    "sketches": {"hidden": 8, "layers": 1, "latent": 4},
}
FILES = {"images": "samples.npz", "molecules": "samples.sdf", "sketches": "samples.ndjson"}


def call(*words):
    main([str(word) for word in words])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A latent model of each kind, and its data."""
    folder = tmp_path_factory.mktemp("latents")
    names = {"images": "d.npz", "molecules": "m.npz", "sketches": "s.ndjson"}
    data = {kind: folder / name for kind, name in names.items()}
    pixels = np.random.default_rng(0).integers(0, 255, (60, 1, 8, 8), dtype=np.uint8)
    np.savez(data["images"], pixels=pixels)
    write_npz(data["molecules"], load_qm9().subset(range(60)))
    write_ndjson(data["sketches"], load_kanji().subset(range(60)))
    files = {}
    for kind in KINDS:
        files[kind] = getattr(train, kind)(
            str(data[kind]), **SMALL[kind], epochs=3, accelerator="cpu", out=folder / kind
        )
    return files, data


@pytest.mark.parametrize("kind", KINDS)
def test_both_stages_are_trained_and_the_file_holds_both(kind, models, capsys):
    files, _ = models
    folder, model = files[kind].parent, open_model(files[kind])
    assert isinstance(model.diffusion, Latent) and model.diffusion.likelihood is not None
    assert (folder / "autoencoder/last.ckpt").exists() and (folder / "last.ckpt").exists()
    both = (folder, folder / "autoencoder")
    settings = [json.loads((f / "settings.json").read_text()) for f in both]
    assert settings[0] == settings[1] and settings[0]["latent"] == SMALL[kind]["latent"]
    steps = [torch.load(f / "last.ckpt", weights_only=True)["global_step"] for f in both]
    assert steps[0] == 2 * steps[1] > 0  # of three passes one is the first stage
    assert not model.diffusion.scale.eq(1).all()
    call("info", files[kind])
    assert "latents" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_commands_work_with_them(kind, models, tmp_path, capsys):
    files, data = models
    few = ["--num", 6, "--accelerator", "cpu", "--data", data[kind]]
    commands = [
        ["sample", "--steps", 3],
        ["edit", "--steps", 5, "--strength", 0.4],
        ["reconstruct"],
    ]
    if kind != "molecules":
        commands.append(["interpolate", "--steps", 2])
    for name, *more in commands:
        words = [*more, *few]
        if name == "interpolate":
            words = [*more, "--num", 8, "--accelerator", "cpu", "--data", data[kind]]
        call(name, files[kind], *words, "--out", tmp_path / name)
        assert (tmp_path / name / FILES[kind]).exists(), name
    capsys.readouterr()
    with pytest.raises(SystemExit):
        call("inpaint", files[kind], *few, "--out", tmp_path / "inpaint")
    assert "a known part of the data is no part" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_distilled_and_finetuned_with_the_same_autoencoder(kind, models, tmp_path):
    files, data = models
    common = ["--data", data[kind], "--epochs", 1, "--accelerator", "cpu"]
    words = ["--to", 4, "--measure", "false", "--num", 2, *common, "--out", tmp_path / "d"]
    call("distill", files[kind], *words)
    call("finetune", files[kind], *common, "--out", tmp_path / "f")
    before = dict(open_model(files[kind]).diffusion.autoencoder.named_parameters())
    for folder in ("d", "f"):
        model = open_model(tmp_path / folder / "model.safetensors")
        after = dict(model.diffusion.autoencoder.named_parameters())
        assert all(torch.equal(before[name], p) for name, p in after.items())
        assert torch.equal(model.diffusion.scale, open_model(files[kind]).diffusion.scale)
    student = open_model(tmp_path / "d/model.safetensors")
    assert len(student.inner.times.times) == 5
    assert len(student.sample(3, seed=0)) == 3


def test_a_reconstruction_is_what_the_autoencoder_makes_of_the_data(models, tmp_path):
    files, data = models
    few = ["--num", 4, "--accelerator", "cpu", "--data", data["molecules"], "--measure", "false"]
    call("reconstruct", files["molecules"], *few, "--out", tmp_path)
    drawn = read_molecules(tmp_path / "samples.sdf")
    model = open_model(files["molecules"])
    real = load_qm9(str(data["molecules"]))
    assert len(drawn) == 4
    item = model.edit(real.subset([3]), 0.0)
    space = model.atoms.space(anydiff.Ragged.from_sizes(real.sizes[3:4], centered=3))
    x = model.atoms.state(real.subset([3]), space)
    with torch.no_grad():
        y = model.diffusion.decode(model.diffusion.encode(x, space, mode=True), space)
    assert np.allclose(item.pos, y[:, :3].numpy(), atol=1e-5)


def test_a_resumed_run_measures_the_latents_once(models, tmp_path, monkeypatch):
    _, data = models
    how = {**SMALL["sketches"], "accelerator": "cpu", "out": tmp_path / "m"}
    file = train.sketches(str(data["sketches"]), epochs=3, **how)
    scale = open_model(file).diffusion.scale
    monkeypatch.setattr(Latent, "fit", lambda *_: 1 / 0)
    train.sketches(str(data["sketches"]), epochs=4, **how, resume=True)
    assert torch.equal(open_model(file).diffusion.scale, scale)


@pytest.mark.parametrize(
    "words, told",
    [
        (["molecules", "--bonds"], "--bonds does not apply to latents"),
        (["sketches", "--parts"], "--parts does not apply to latents"),
        (["images", "--parts", "--data", "digits"], "--parts does not apply to latents"),
    ],
)
def test_bonds_and_parts_have_no_latents(words, told, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        call("train", *words, "--latent", 2, "--out", tmp_path / "m")
    assert stop.value.code == 2 and told in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_model_without_latents_has_nothing_to_reconstruct(models, tmp_path, capsys):
    _, data = models
    file = train.sketches(
        str(data["sketches"]), hidden=8, layers=1, epochs=1, accelerator="cpu", out=tmp_path / "m"
    )
    with pytest.raises(SystemExit):
        call("reconstruct", file, "--data", data["sketches"])
    assert "draws data and no latents" in capsys.readouterr().err
