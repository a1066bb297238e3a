"""Training that goes on from a model: its weights, the new data, and what is refused."""

import json
import re

import numpy as np
import pytest
import torch

import anydiff
from anydiff.cli import train
from anydiff.cli.main import main
from anydiff.cli.runs import open_model
from anydiff.lora import adapt, adapted, load_adapter, save_adapter
from anydiff.molecules.evaluate import to_rdkit
from anydiff.molecules.files import write_npz, write_sdf
from anydiff.molecules.qm9 import load_qm9, split
from anydiff.sketches.files import write_ndjson
from anydiff.sketches.kanji import load_kanji
from tests.helpers.molecules import embedded, rows

KINDS = ["images", "molecules", "sketches"]
FEW = {"epochs": 1, "accelerator": "cpu"}


def call(*words):
    main([str(word) for word in words])


def weights(path):
    return torch.cat([p.detach().flatten() for p in anydiff.load(path)[0].parameters()])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small model of each kind, and other data of the kind."""
    folder, of = tmp_path_factory.mktemp("models"), {}
    known = load_qm9()
    large = known.subset(np.flatnonzero(known.sizes > 21)[:60])
    write_npz(folder / "some.npz", known.subset(range(60)))
    write_npz(folder / "large.npz", large)
    small = {"hidden": 8, "layers": 1}
    of["molecules"] = (
        train.molecules(
            str(folder / "some.npz"), **small, out=folder / "m", property="alpha", **FEW
        ),
        folder / "large.npz",
    )
    kanji = load_kanji()
    write_ndjson(folder / "some.ndjson", kanji.subset(range(60)))
    write_ndjson(folder / "other.ndjson", kanji.subset(range(60, 120)))
    of["sketches"] = (
        train.sketches(str(folder / "some.ndjson"), **small, out=folder / "s", **FEW),
        folder / "other.ndjson",
    )
    pixels = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    np.savez(folder / "other-images.npz", pixels=pixels[:, None])
    net = {"widths": [4], "groups": 2, "batch_size": 512}
    of["images"] = (
        train.images("digits", **net, out=folder / "i", **FEW), folder / "other-images.npz",
    )  # fmt: skip
    return of


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_from_the_model_and_learns_the_new_data(kind, models, tmp_path, capsys):
    model, data = models[kind]
    flags = ["--data", data, "--accelerator", "cpu", "--epochs"]
    call("finetune", model, *flags, 1, "--lr", 1e-12, "--out", tmp_path / "same")
    torch.testing.assert_close(weights(tmp_path / "same/model.safetensors"), weights(model))
    call("finetune", model, *flags, 2, "--out", tmp_path / "new")
    assert not torch.allclose(weights(tmp_path / "new/model.safetensors"), weights(model))
    out = capsys.readouterr().out
    assert f"going on from {model}, with 60 {kind}\n" in out and "anydiff sample" in out
    new, old = open_model(tmp_path / "new/model.safetensors"), open_model(model)
    assert new.data == str(data) and new.diffusion.times == old.diffusion.times
    settings = json.loads((tmp_path / "new/settings.json").read_text())
    assert settings["lr"] == (0.003 if kind == "images" else 0.008) / 4
    call("info", tmp_path / "new/model.safetensors")
    made = f"finetuned {model.parent.name}/model.safetensors"
    assert made in capsys.readouterr().out


def test_sizes_and_properties_are_those_of_the_new_data(models, tmp_path):
    model, data = models["molecules"]
    call(
        "finetune", model, "--data", data, "--epochs", 1, "--accelerator", "cpu", "--out", tmp_path
    )
    new, known = open_model(tmp_path / "model.safetensors"), load_qm9(str(data))
    learn = known.subset(split(len(known)).train)
    assert new.sizes.counts.tolist() == np.bincount(learn.sizes).tolist()
    assert sorted(new.pairs.sizes.tolist()) == sorted(learn.sizes.tolist())
    assert new.properties == open_model(model).properties  # the scale that the network knows
    assert (new.sample(5, steps=1).sizes > 21).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_a_small_file_beside_the_new_model(kind, models, tmp_path, capsys):
    model, data = models[kind]
    words = ["--data", data, "--accelerator", "cpu", "--epochs", 12, "--rank", 2, "--lr", 0.05]
    call("finetune", model, *words, "--out", tmp_path / "new")
    assert re.search(r"\d+ matrices get adapters of rank 2, \d+", capsys.readouterr().out)
    new, adapter = tmp_path / "new/model.safetensors", tmp_path / "new/adapter.safetensors"
    assert adapter.stat().st_size < new.stat().st_size
    assert json.loads((tmp_path / "new/settings.json").read_text())["rank"] == 2
    network = open_model(model).diffusion.denoiser
    load_adapter(adapter, network)
    for name, value in open_model(new).diffusion.denoiser.named_parameters():
        weight = next((w for w in adapted(network) if w.name == name), None)
        wanted = (
            network.get_parameter(name) if weight is None else getattr(weight.layer, weight.own)
        )
        assert torch.equal(value, wanted), name

    few = ["--num", 3, "--steps", 2, "--accelerator", "cpu", "--measure", "false"]
    runs = {
        "plain": [model], "off": [model, "--adapter", adapter, "--strength", 0],
        "half": [model, "--adapter", adapter, "--strength", 0.5],
        "on": [model, "--adapter", adapter],
    }  # fmt: skip
    drawn = {}
    for name, words in runs.items():
        call("sample", *words, *few, "--out", tmp_path / name)
        (file,) = (tmp_path / name).glob("samples.[nos][pdd][zjf]*")
        drawn[name] = file.read_bytes()
    assert drawn["plain"] == drawn["off"]
    assert len({drawn["off"], drawn["half"], drawn["on"]}) == 3


@pytest.mark.slow
def test_adapters_begin_from_the_seed_and_nothing_else(models, tmp_path):
    model, data = models["images"]
    words = ["--data", data, "--accelerator", "cpu", "--epochs", 1, "--rank", 2, "--lr", 0.05]
    new = []
    for state, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(state)
        call("finetune", model, *words, "--seed", seed, "--out", tmp_path / f"{state}-{seed}")
        new.append(weights(tmp_path / f"{state}-{seed}/model.safetensors"))
    assert torch.equal(new[0], new[1]) and not torch.allclose(new[0], new[2])


def test_an_adapter_of_another_model_and_a_strength_of_none_are_refused(models, tmp_path, capsys):
    model, _ = models["sketches"]
    save = tmp_path / "adapter.safetensors"
    network = open_model(model).diffusion.denoiser
    adapt(network, 2)
    save_adapter(save, network)
    for words, told in (
        ([models["images"][0], "--adapter", save], "was made for BiRNN"),
        ([model, "--strength", 0.5], "--strength is that of an adapter"),
        ([model, "--adapter", model], "holds no adapters that save_adapter wrote"),
    ):
        with pytest.raises(SystemExit) as stop:
            call("sample", *words, "--out", tmp_path / "out")
        assert stop.value.code == 2 and told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_goes_on_with_the_same_model_only(models, tmp_path, capsys):
    model, data = models["sketches"]
    flags = ["--data", data, "--accelerator", "cpu", "--out", tmp_path]
    call("finetune", model, *flags, "--epochs", 1)
    call("finetune", model, *flags, "--epochs", 2, "--resume")
    first = weights(tmp_path / "model.safetensors")
    other = tmp_path / "other.safetensors"
    open_model(tmp_path / "model.safetensors").save(other)
    with pytest.raises(SystemExit):
        call("finetune", other, *flags, "--epochs", 3, "--resume")
    assert "finetuned" in capsys.readouterr().err
    assert torch.equal(weights(tmp_path / "model.safetensors"), first)


def test_data_that_it_cannot_learn_from_are_refused(models, tmp_path, capsys):
    model, _ = models["molecules"]
    write_npz(tmp_path / "few.npz", load_qm9().subset(range(5)))
    write_sdf(tmp_path / "sulfur.sdf", to_rdkit(*rows(embedded(*["C1CCSC1"] * 12))))
    for name, told in (
        ("few.npz", "few.npz holds 5 molecules; give at least 10"),
        ("sulfur.sdf", "S"),
    ):
        with pytest.raises(SystemExit) as stop:
            call("finetune", model, "--data", tmp_path / name, "--out", tmp_path / "out")
        assert stop.value.code == 2 and told in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_distilled_model_is_refused(models, tmp_path, capsys):
    model, data = models["sketches"]
    words = ["--to", 4, "--data", data, "--epochs", 1, "--accelerator", "cpu", "--measure", "false"]
    call("distill", model, *words, "--num", 2, "--out", tmp_path)
    with pytest.raises(SystemExit) as stop:
        call("finetune", tmp_path / "model.safetensors", "--data", data)
    assert stop.value.code == 2
    assert "was distilled" in (told := capsys.readouterr().err) and "finetune its teacher" in told
