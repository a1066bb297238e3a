"""The commands from training to figures, with small networks and little data."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import anydiff
from anydiff.batched import draw_all
from anydiff.cli import train
from anydiff.cli.sketches import begin
from anydiff.data.sizes import SizeDistribution
from anydiff.denoisers import Completing, PairNet, UNet
from anydiff.images.models import ImageModel
from anydiff.images.named import load_images
from anydiff.molecules import Atoms
from anydiff.molecules.files import read_molecules, write_npz
from anydiff.molecules.models import MoleculeModel
from anydiff.molecules.qm9 import load_qm9
from anydiff.sketches.files import read_sketches, write_ndjson
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.models import SketchModel
from tests.helpers.small_models import call, made

FORMAT2 = Path(__file__).parents[1] / "goldens/format2"
DRAWN = {"molecules": "samples.sdf", "sketches": "samples.ndjson", "images": "samples.npz"}
PICTURES = {
    "molecules": {"samples.png", "path.xyz", "path.gif"},
    "sketches": {"samples.png", "drawing.svg", "denoising.gif"},
    "images": {"samples.png", "strip.png", "denoising.gif"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {kind: made(kind, folder) for kind in DRAWN}


def flags(tmp_path, *more):
    return ["--out", tmp_path / "out", "--steps", 3, "--accelerator", "cpu", *more]


def data_of(kind, models):
    """What the models were trained on."""
    folder = models[kind].parents[1]
    files = {"molecules": folder / "data.npz", "sketches": folder / "data.ndjson"}
    return files.get(kind, "digits")


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize(
    "how",
    [
        ["sample"],
        ["sample", "--sampler", "sde"],
        ["inpaint", "--resamples", 2],
        ["edit", "--strength", 0.2],
    ],
)
def test_items_are_drawn_written_and_measured(kind, how, models, tmp_path, capsys):
    data = data_of(kind, models)
    call(how[0], models[kind], *how[1:], *flags(tmp_path, "--num", 7, "--data", data))
    files = {p.name for p in (tmp_path / "out").iterdir()}
    wanted = {DRAWN[kind], "table.txt", "report.html"} | PICTURES[kind]
    assert files == (wanted if how[0] == "sample" else wanted | {"before.png"})
    out = capsys.readouterr().out
    assert "sampling 7" in out or kind == "molecules"  # fewer of them have a ring
    assert "drawn" in (tmp_path / "out/table.txt").read_text()
    if "before.png" in files:
        pictures = [
            np.asarray(Image.open(tmp_path / f"out/{n}.png")) for n in ("before", "samples")
        ]
        assert pictures[0].shape == pictures[1].shape
    call("evaluate", tmp_path / "out" / DRAWN[kind], "--against", data)
    assert "drawn" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["molecules", "sketches"])
def test_no_path_in_a_model_is_opened(kind, models, tmp_path, capsys):
    model = models[kind]
    path = str(model.parents[1] / {"molecules": "data.npz", "sketches": "data.ndjson"}[kind])
    call("info", model)
    assert f"trained on   {path}\n" in capsys.readouterr().out
    line = f"the model was trained on {path!r}, and no path is opened because a model has it; give"
    for command in ("inpaint", "edit", "interpolate"):
        if (kind, command) != ("molecules", "interpolate"):
            with pytest.raises(SystemExit) as stop:
                call(command, model, *flags(tmp_path, "--num", 4))
            assert stop.value.code == 2 and line in capsys.readouterr().err
            assert not (tmp_path / "out").exists()
    call("sample", model, *flags(tmp_path, "--num", 4))
    assert f"no metrics: {line}" in capsys.readouterr().out


def test_its_own_data_are_split_and_others_are_not(models, tmp_path):
    data = models["sketches"].parents[1] / "data.ndjson"
    (tmp_path / "moved.ndjson").write_bytes(data.read_bytes())
    for path, count in ((data, 10), (tmp_path / "moved.ndjson", 12)):
        out = tmp_path / path.stem
        words = ["--data", path, "--out", out, "--num", 12, "--steps", 1, "--measure", "false"]
        call("edit", models["sketches"], *words, "--accelerator", "cpu")
        assert len(read_sketches(out / "samples.ndjson")) == count


def test_what_a_file_says_does_nothing_to_a_terminal(tmp_path, capsys):
    diffusion, extra = anydiff.load(FORMAT2 / "sketches.safetensors")
    anydiff.save(tmp_path / "m", diffusion, extra | {"data": "a\x1b[2Jb\x9bc"})
    call("info", tmp_path / "m")
    with pytest.raises(SystemExit):
        call("edit", tmp_path / "m")
    told = capsys.readouterr()
    assert "trained on   a\\x1b[2Jb\\x9bc" in told.out.replace("\\u001b", "\\x1b")
    assert all(c.isprintable() or c == "\n" for c in told.out + told.err)


def test_models_say_what_they_are(models, capsys):
    told = {}
    for kind, model in models.items():
        call("info", model)
        told[kind] = capsys.readouterr().out
        assert re.search(rf"kind +{kind}\nnetwork .* parameters\n", told[kind])
        assert "schedule" in told[kind] and "prediction" in told[kind]
        assert re.search(r"made by +anydiff \S+, seed 0, steps [1-9]\d*\n", told[kind])
    assert re.search("conditions +--target, alpha, .*--guidance", told["molecules"])
    assert re.search("draws +sketches of .* strokes", told["sketches"])
    assert re.search(r"trained on +digits\n", told["images"])
    assert re.search(r"draws .*1 × 8 × 8\nconditions +--label, 0 to 9", told["images"])


def test_a_model_of_one_s_own_has_some_information_too(tmp_path, capsys):
    diffusion = anydiff.GaussianDiffusion(UNet(1, [4], groups=2))
    anydiff.save(tmp_path / "m.safetensors", diffusion, {"mean": torch.ones(3), "unit": "m"})
    call("info", tmp_path / "m.safetensors")
    out = capsys.readouterr().out
    assert re.search(r"kind +of its own\n(.*\n)+beside it +", out)
    assert "mean (3,)" in out and "unit m" in out
    with pytest.raises(SystemExit):
        call("sample", tmp_path / "m.safetensors")
    assert "not what it takes to draw" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_asked_for_is_drawn(models, tmp_path):
    some = ["--num", 5, "--measure", "false"]
    call(
        "sample", models["images"], *flags(tmp_path, *some, "--label", "3,8", "--guidance", 2)
    )  # fmt: skip
    with np.load(tmp_path / "out/samples.npz") as file:
        assert file["labels"].tolist() == [3, 8, 3, 8, 3]
    call("sample", models["sketches"], *flags(tmp_path, *some, "--length", 3))
    drawn = read_sketches(tmp_path / "out-2/samples.ndjson")  # the first folder has a report
    assert np.diff(drawn.offsets).tolist() == [3] * 5
    call("sample", models["molecules"], *flags(tmp_path, *some, "--target", 75))
    assert len(read_molecules(tmp_path / "out-3/samples.sdf")) == 5
    call("sample", models["molecules"], *flags(tmp_path, *some, "--formula", "CH4O"))
    drawn = read_molecules(tmp_path / "out-4/samples.sdf")
    assert np.sort(drawn.z.reshape(5, 6)).tolist() == [[1, 1, 1, 1, 6, 8]] * 5
    call(
        "sample", models["molecules"], *flags(tmp_path, *some, "--formula", "data", "--target", 60)
    )
    assert len(read_molecules(tmp_path / "out-5/samples.sdf")) == 5


@pytest.mark.parametrize(
    "kind,wrong,line",
    [
        ("images", ["--label", 12], "label is 12; the model knows 0 to 9"),
        ("images", ["--skip", 9], "skip is 9 of 4 images"),
        ("molecules", ["--target", "nan"], "target is nan; give a number"),
        ("molecules", ["--target", ".nan"], r"target is nan; give a number in \(-inf, inf\)"),
        ("molecules", ["--target", ".inf"], r"target is inf; give a number in \(-inf, inf\)"),
        ("molecules", ["--target=-inf"], "target is -inf; give a number"),
        ("molecules", ["--target", "1e300"], r"target is 1e\+300; give a number"),
        ("molecules", ["--formula", "c2h6"], "the formula is 'c2h6'; give symbols of elements"),
        ("molecules", ["--formula", "CHCl3"], "Cl of the formula CHCl3 is not among H C N O"),
        ("molecules", ["--guidance", "nan"], "guidance is nan; give a number"),
        (
            "images",
            ["--seed", "99999999999999999999"],
            "seed is 99999999999999999999; give a number",
        ),
        ("images", ["--data", "digits", "--measure", "false"], "--measure false leaves out"),
        ("images", ["--data", "elsewhere"], "elsewhere: no such file or folder"),
        ("molecules", ["--data", "elsewhere.sdf"], "elsewhere.sdf"),
    ],
)
def test_what_a_model_does_not_know(kind, wrong, line, models, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        call("sample", models[kind], *flags(tmp_path, "--num", 4, *wrong))
    assert stop.value.code == 2 and re.search(line, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_that_completes_repeats_no_step(tmp_path, capsys):
    network = Completing(PairNet(2 * 8 - 3, 8, layers=1))
    atoms, sizes = Atoms(charge_scale=None), SizeDistribution.from_sizes([5, 6])
    path = tmp_path / "m.safetensors"
    MoleculeModel(anydiff.GaussianDiffusion(network), atoms, sizes, data="5k").save(path)
    with pytest.raises(SystemExit):
        call("inpaint", path, *flags(tmp_path, "--resamples", 2))
    assert "trained to complete, so that no step is repeated; leave" in capsys.readouterr().err
    for command in (["inpaint"], ["sample", "--formula", "CH4"]):
        call(*command[:1], path, *command[1:], *flags(tmp_path, "--num", 4, "--data", "5k"))
    for out in ("out", "out-2"):
        table = (tmp_path / out / "table.txt").read_text()
        assert re.search(r"drawn .* 3 +\S+\n", table)  # calls for each, and seconds


OPTIONS = {
    "label": 3, "target": 75, "guidance": 2, "length": 3, "formula": "CH4", "text": "tree",
}  # fmt: skip
OF_SAMPLE = {"length", "formula", "text"}
WITHOUT = {"guidance": "a condition", "text": "texts"}
UNTOLD = {"sketches": {"guidance", "text"}, "molecules": {"text"}, "images": set()}
TAKEN = {
    "molecules": {"target", "guidance", "formula"},
    "images": {"label", "guidance"},
    "sketches": {"length"},
}
MEASURED = {"root": "r", "size": 8, "inception": "i"}
READ = {"molecules": {"root"}, "images": {"root", "size", "inception"}, "sketches": set()}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("command", ["sample", "inpaint", "edit"])
def test_a_flag_without_effect_is_refused(command, kind, option, models, tmp_path, capsys):
    if option in TAKEN[kind] and (option not in OF_SAMPLE or command == "sample"):
        return  # drawn with in other tests
    with pytest.raises(SystemExit):
        call(command, models[kind], *flags(tmp_path), f"--{option}", OPTIONS[option])
    err = capsys.readouterr().err
    if option in OF_SAMPLE and command != "sample":
        assert f"unrecognized arguments: --{option}" in err
    elif option in UNTOLD[kind]:
        told = (
            f"--{option} needs a model that was trained with {WITHOUT[option]}, which this one was"
        )
        assert err == f"error: {told} not; leave it out.\n"
    else:
        assert err == f"error: --{option} does not apply to {kind}; leave it out.\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["label", "target", "guidance"])
def test_a_condition_is_asked_of_a_model_that_knows_it(option, models, tmp_path, capsys):
    kind = "images" if option == "label" else "molecules"
    plain = tmp_path / "plain.safetensors"
    network = UNet(1, [4], groups=2) if kind == "images" else PairNet(5, 8, layers=1)
    diffusion = anydiff.GaussianDiffusion(network, prediction="v")
    if kind == "images":
        ImageModel(diffusion, (1, 8, 8), "digits").save(plain)
    else:
        atoms, sizes = Atoms(charge_scale=None), SizeDistribution.from_sizes([5, 6])
        MoleculeModel(diffusion, atoms, sizes, data="5k").save(plain)
    for command in ("sample", "inpaint", "edit"):
        with pytest.raises(SystemExit):
            call(command, plain, *flags(tmp_path), f"--{option}", OPTIONS[option])
        assert f"--{option} needs a model that was trained with" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(models, tmp_path, capsys):
    for command in ("sample", "inpaint", "edit", "interpolate"):
        with pytest.raises(SystemExit):
            call(command, models["images"], "--accelerator", "gpu", "--out", tmp_path / "out")
        assert "torch finds no GPU that it can use; give cpu" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", MEASURED)
@pytest.mark.parametrize("kind", DRAWN)
def test_evaluate_refuses_a_flag_without_effect(kind, option, tmp_path, capsys):
    file = tmp_path / DRAWN[kind]
    file.touch()
    with pytest.raises(SystemExit):
        call("evaluate", file, "--against", "5k", f"--{option}", MEASURED[option])
    wrong = f"--{option} does not apply to {kind}; leave it out." in capsys.readouterr().err
    assert wrong == (option not in READ[kind])


def test_what_training_does_nothing_with_is_refused(tmp_path, capsys):
    for words in (
        ["train", "molecules", "--root", tmp_path],
        ["train", "molecules", "--root", tmp_path, "--data", "mine.sdf"],
        ["train", "images", "--data", "digits", "--root", tmp_path],
        ["train", "sketches", "--skip-empty"],
    ):
        with pytest.raises(SystemExit):
            call(*words, "--out", tmp_path / "run")
        assert re.search(r"leave it out|goes with \"cifar10\"", capsys.readouterr().err)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind,missing", [("molecules", "rdkit"), ("images", "PIL")])
def test_packages_are_missed_before_anything_is_drawn(
    kind, missing, models, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, missing, None)
    for command in ("sample", "inpaint", "edit"):
        with pytest.raises(SystemExit):
            call(command, models[kind], *flags(tmp_path))
        said = capsys.readouterr()
        assert f'{missing} is not installed: pip install "anydiff[{kind}]"' in said.err
        assert "sampling" not in said.out and not (tmp_path / "out").exists()


def spoilt(model, num, monkeypatch):
    """Let the samples of a model be nan, all but some."""

    def some(diffusion, total, make, finish, **how):
        def spoil(drawn):
            drawn = [x.clone() for x in drawn]
            for x in drawn:
                x.view(len(x), -1)[: len(x) // 2 if num else len(x)] = torch.nan
            return finish(drawn)

        return draw_all(diffusion, total, make, spoil, **how)

    monkeypatch.setattr(f"anydiff.{model}.models.draw_all", some)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DRAWN)
def test_samples_that_are_not_finite_are_counted(kind, models, tmp_path, capsys, monkeypatch):
    spoilt(kind, 1, monkeypatch)
    call("sample", models[kind], *flags(tmp_path, "--num", 12, "--data", data_of(kind, models)))
    said = capsys.readouterr()
    lost = int(
        re.search(rf"warning: (\d+) of the 12 {kind} are not finite and left out", said.err)[1]
    )
    assert 0 < lost < 12
    text = (tmp_path / "out/table.txt").read_text()
    if kind == "molecules":
        assert f"drawn: {lost} of 12 molecules are not finite or faulty, and so not valid." in text
    else:
        assert f"{lost} more {kind} were not finite, and are left out." in text
    if kind == "sketches":
        assert re.search(rf"\ndrawn +12 +0\.{1000 * (12 - lost) // 12}", text)  # n, valid
    spoilt(kind, 0, monkeypatch)
    with pytest.raises(SystemExit):
        call("sample", models[kind], *flags(tmp_path, "--num", 12))
    assert f"12 of the 12 {kind} are not finite: the training diverged" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["sketches", "images"])
def test_pairs_are_blended(kind, models, tmp_path):
    data = {"images": "digits", "sketches": models[kind].parents[1] / "data.ndjson"}[kind]
    more = ["--num", 16, "--measure", "false", "--data", data]
    call("interpolate", models[kind], *flags(tmp_path, *more))
    files = {p.name for p in (tmp_path / "out").iterdir()}
    assert {DRAWN[kind], "samples.png", "before.png"} <= files and "table.txt" not in files


def test_there_is_no_way_between_molecules(models, capsys):
    with pytest.raises(SystemExit):
        call("interpolate", models["molecules"])
    assert "their atoms have no order" in capsys.readouterr().err


def test_files_of_one_s_own_are_begun_from(models, tmp_path):
    digits = load_images("digits").subset(range(5))
    (tmp_path / "mine").mkdir()
    for m, pixels in enumerate(digits.pixels.numpy()):
        Image.fromarray(pixels[0]).save(tmp_path / f"mine/{m}.png")
    some = flags(tmp_path, "--measure", "false")
    call("inpaint", models["images"], "--data", tmp_path / "mine", *some)
    with np.load(tmp_path / "out/samples.npz") as file:
        assert np.array_equal(file["pixels"][..., :4], digits.pixels[..., :4].numpy())
        assert (file["before"][..., 4:] == 160).all()
    told = re.sub("<[^>]*>", " ", (tmp_path / "out/report.html").read_text())
    assert re.search(r"begun from\s+mine\s", told) and "compared with" not in told
    call("edit", models["images"], "--data", tmp_path / "out/samples.npz", *some)
    assert (tmp_path / "out-2/before.png").exists()


def test_what_was_drawn_before_a_stop_is_kept(models, tmp_path, capsys, monkeypatch):
    asked = ["--num", 8, "--batch-size", 2, "--measure", "false"]
    call("sample", models["images"], *flags(tmp_path, *asked))

    def tired(diffusion, num, make, finish, **how):
        def once(some):
            if some.start == 4:
                raise KeyboardInterrupt
            return make(some)

        return draw_all(diffusion, num, once, finish, **how)

    with monkeypatch.context() as patch:
        patch.setattr("anydiff.images.models.draw_all", tired)
        with pytest.raises(SystemExit) as stop:
            call("sample", models["images"], *flags(tmp_path, *asked))
    assert stop.value.code == 130
    assert "4 of 8 images are written; the same command with --skip 4" in capsys.readouterr().err
    call("sample", models["images"], *flags(tmp_path, *asked, "--skip", 4))
    parts = [np.load(tmp_path / f"{name}/samples.npz") for name in ("out", "out-2", "out-3")]
    for name in ("pixels", "labels"):
        assert np.array_equal(parts[0][name], np.concatenate([p[name] for p in parts[1:]]))


def test_a_run_goes_on_unless_its_settings_differ(tmp_path, capsys):
    write_npz(tmp_path / "data.npz", load_qm9().subset(range(60)))
    words = ["train", "molecules", "--data", tmp_path / "data.npz", "--layers", 1]
    words += ["--out", tmp_path / "run", "--accelerator", "cpu", "--hidden"]
    call(*words, 8, "--epochs", 1)
    out = capsys.readouterr().out
    assert "going on" not in out and "anydiff sample" in out
    call(*words, 8, "--epochs", 2, "--resume")
    assert "going on from" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call(*words, 16, "--epochs", 3, "--resume")
    assert "hidden 8 there and 16 here" in capsys.readouterr().err


def test_a_model_of_normalised_sketches_begins_with_such(tmp_path):
    data = tmp_path / "data.ndjson"
    write_ndjson(data, load_kanji().subset(range(40)))
    common = {"hidden": 8, "layers": 1, "epochs": 1, "accelerator": "cpu"}
    path = train.sketches(str(data), normalise=True, out=tmp_path / "run", **common)
    model = SketchModel.load(path)
    assert model.normalise and json.loads((path.parent / "settings.json").read_text())["normalise"]
    write_ndjson(tmp_path / "other.ndjson", load_kanji().subset(range(40, 50)))
    for given in (str(data), str(tmp_path / "other.ndjson")):
        low, high = begin(model, given).box
        assert np.allclose((high - low).max(1), 1)
