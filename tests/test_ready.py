"""Models that come with the package: by name, in Python and in the commands."""

import shutil
from pathlib import Path

import pytest
import torch

import anydiff
from anydiff import ready
from anydiff.cli.main import main
from anydiff.cli.runs import beside, called, model_file, open_model
from anydiff.cli.train import molecules
from anydiff.ready import MODELS, model_path

MODELS_LISTED = ", ".join(MODELS)


def call(*words):
    main([str(word) for word in words])


@pytest.mark.parametrize("name", MODELS)
def test_each_is_there_and_draws(name):
    diffusion, extra = anydiff.pretrained(name)
    assert not diffusion.training and extra["kind"] == open_model(name).kind
    few = open_model(name).sample(3, steps=4, seed=0)
    assert len(few) == 3
    assert model_path(name).stat().st_size < 4.2e6


def test_a_name_that_there_is_not():
    with pytest.raises(
        ValueError, match=rf"'qm8' is no model of anydiff; choose one of {MODELS_LISTED}\."
    ):
        anydiff.pretrained("qm8")
    with pytest.raises(FileNotFoundError):  # a path is one
        open_model("qm8")


def test_they_are_listed(tmp_path, capsys):
    call("models")
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines() if line[:1].strip()][:-1] == [*MODELS]
    assert "in 4 steps; --label, 0 to 9" in listed and "--pattern" in listed
    for path, what in ((tmp_path, "a folder"), (tmp_path / "qm8", "no such file")):
        with pytest.raises(FileNotFoundError, match=f"{what}; give .* or one of {MODELS_LISTED}"):
            model_file(path)


@pytest.mark.slow
def test_commands_take_names(tmp_path, monkeypatch, capsys):
    run = molecules("5k", hidden=8, layers=1, epochs=1, out=tmp_path / "run", accelerator="cpu")
    shutil.move(run, tmp_path / "tiny.safetensors")
    monkeypatch.setattr(ready, "_PACKAGE", tmp_path)
    monkeypatch.setitem(MODELS, "tiny", "tiny.safetensors")
    monkeypatch.chdir(tmp_path)
    few = ["--num", 3, "--steps", 2, "--measure", "false", "--accelerator", "cpu"]
    call("info", "tiny")
    call("sample", "tiny", *few)
    assert (tmp_path / "runs/tiny/sample/samples.sdf").exists()
    call("finetune", "tiny", "--epochs", 1, "--data", "5k", "--accelerator", "cpu")
    assert "kind         molecules" in capsys.readouterr().out
    tuned = tmp_path / "runs/tiny/finetune/model.safetensors"
    assert torch.isfinite(next(iter(anydiff.load(tuned)[0].parameters()))).all()
    # a file of that name is meant where there is one
    assert model_file(model_path("tiny").relative_to(tmp_path)) == model_path("tiny").relative_to(
        tmp_path
    )
    (tmp_path / "tiny").mkdir()  # a folder of that name is none
    assert model_file(tmp_path.relative_to(tmp_path) / "tiny") == model_path("tiny")
    assert anydiff.load(tuned)[1]["made"]["finetuned"] == "tiny"
    (tmp_path / "tiny").rmdir()
    shutil.copy(tuned, tmp_path / "tiny")
    here = tmp_path.relative_to(tmp_path) / "tiny"
    assert model_file(here) == here and beside(here, "sample") == here.parent / "sample"
    cached = tmp_path / "hub/models--me--molecules/snapshots/0a1b/model.safetensors"
    cached.parent.mkdir(parents=True)
    shutil.copy(here, cached)
    assert beside(cached, "sample") == Path("runs/molecules/sample")  # nothing of ours in the cache
    assert called(cached) == "molecules" and called(Path("digits")) == "digits"


def test_half_precision_is_of_the_file_alone(tmp_path):
    diffusion, extra = anydiff.pretrained("qm9")
    anydiff.save(tmp_path / "half.safetensors", diffusion.half(), extra)
    assert (tmp_path / "half.safetensors").stat().st_size < 1.3e6
    model = open_model(tmp_path / "half.safetensors")
    assert {p.dtype for p in model.diffusion.parameters()} == {torch.float32}
    assert len(model.sample(2, steps=2)) <= 2
