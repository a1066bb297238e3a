"""From a teacher to a student of few steps: the stages, the files, what goes on and what is refused."""

import json
import re
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from anydiff import DDIM, Cosine, DPMSolver, GaussianDiffusion, Polynomial, sample
from anydiff.cli.comparison import Compared
from anydiff.cli.distill import recipe
from anydiff.cli.main import main, parser
from anydiff.data.sequences import LengthDistribution
from anydiff.data.sizes import SizeDistribution
from anydiff.denoisers import BiRNN, PairNet, UNet
from anydiff.distillation import merged, student
from anydiff.guidance import classifier_free
from anydiff.images.models import ImageModel
from anydiff.images.named import load_images
from anydiff.losses import Rows, TruncatedSNR
from anydiff.molecules import Atoms
from anydiff.molecules.files import write_npz
from anydiff.molecules.models import MoleculeModel
from anydiff.molecules.properties import Properties
from anydiff.molecules.property_targets import PropertyDistribution
from anydiff.molecules.qm9 import load_qm9
from anydiff.samplers import LogSNR, Renoise, plan
from anydiff.sketches.files import write_ndjson
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.models import SketchModel
from anydiff.sketches.rows import StrokeRows
from anydiff.training.module import DiffusionModule

KINDS = ["images", "molecules", "sketches"]
MODELS = {"images": ImageModel, "molecules": MoleculeModel, "sketches": SketchModel}


def images(prediction="v", classes=3, **objective):
    torch.manual_seed(0)
    network = UNet(1, [4], groups=2, classes=classes)
    return GaussianDiffusion(network, Cosine(), prediction, **objective)


def made(kind, folder):
    """An untrained model of a kind, and its data: 60 items."""
    torch.manual_seed(0)
    if kind == "images":
        model, data = ImageModel(images(classes=10, drop=0.1), (1, 8, 8), "digits"), "digits"
    elif kind == "molecules":
        known, data = load_qm9().subset(range(60)), folder / "data.npz"
        write_npz(data, known)
        atoms, sizes = Atoms(known.elements, charge_scale=None), known.sizes
        network = PairNet(atoms.features - 3, 8, layers=1, context=1)
        of = [c.from_molecules(known, "alpha") for c in (Properties, PropertyDistribution)]
        diffusion = GaussianDiffusion(network, prediction="v", drop=0.1)
        model = MoleculeModel(diffusion, atoms, SizeDistribution.from_sizes(sizes), *of, str(data))
    else:
        known, data = load_kanji().subset(range(60)), folder / "data.ndjson"
        write_ndjson(data, known)
        rows = StrokeRows.fit(known)
        lengths = LengthDistribution.from_sizes(rows.encode(known).sizes)
        diffusion = GaussianDiffusion(BiRNN(rows.channels, 8, 1), prediction="v")
        model = SketchModel(diffusion, rows, lengths, str(data))
    model.save(folder / "teacher.safetensors")
    return folder / "teacher.safetensors", data


def few_digits(folder):
    """A file of 120 digits."""
    few = load_images("digits").subset(range(120))
    np.savez(folder / "few.npz", pixels=few.pixels, labels=few.labels)
    return folder / "few.npz"


def call(*words):
    main([str(word) for word in words])


def distill(folder, model, *more):
    call(
        "distill", model, "--out", folder / "out", "--epochs", 1, "--batch-size", 512,
        "--num", 12, "--accelerator", "cpu", *more,
    )  # fmt: skip


one_parser = cache(parser)  # which takes longer to build than most of these commands to run


@pytest.fixture(autouse=True)
def few_calls(monkeypatch):
    monkeypatch.setattr("anydiff.cli.main.parser", one_parser)
    for kind in KINDS:
        monkeypatch.setattr(f"anydiff.cli.{kind}.LONG", 10)
        monkeypatch.setattr(f"anydiff.cli.{kind}.SHOWN", 2)  # molecules are drawn slowly


# the recipe --------------------


@pytest.mark.parametrize(
    "to, stages",
    [
        (1, [(32, 8), (4, 2), (2, 2)]),
        (2, [(32, 8), (4, 2)]),
        (3, [(33, 11)]),
        (4, [(32, 8)]),
        (5, [(35, 7)]),
        (8, [(32, 4)]),
        (16, [(64, 4)]),
    ],
)
def test_many_steps_are_learned_at_once_and_then_halved(to, stages):
    found = recipe(images(), to)
    assert [(len(s.times) - 1, s.n) for s in found] == stages
    assert found[-1].steps == to == len(found[-1].rows.times) - 1
    fine = [at.t for at in plan(Cosine(), stages[0][0], DPMSolver(), LogSNR(1.0, 8.0, -4.0))]
    assert found[0].times == tuple(fine)
    for before, after in pairwise(found):
        assert after.times == before.rows.times and after.sampler == DDIM()


@pytest.mark.parametrize(
    "prediction, most", [("v", 1.0), ("x0", 0.0), ("eps", 20.0), ("score", 20.0)]
)
def test_a_run_begins_where_the_output_determines_x0(prediction, most):
    schedule = Polynomial()
    (lesson,) = recipe(GaussianDiffusion(UNet(1, (8, 8)), schedule, prediction), 4)
    start = schedule.levels(lesson.times[:1])[0]
    # an error of eps is sigma / alpha times as large in x0, and one of the score sigma² / alpha times
    worse = start.sigma ** {"eps": 1, "score": 2}.get(prediction, 0) / start.alpha
    if most <= 1:
        assert start.t == 1
    else:
        assert 0.95 * most < worse <= most


@pytest.mark.parametrize("guidance", [None, 2.5])
def test_a_stage_learns_what_its_teacher_draws(guidance):
    teacher, label = images(drop=0.1).double().eval(), torch.tensor([0, 2])
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second, _ = recipe(teacher, 1)
    given = teacher.predictor(label=label)
    wanted = given if guidance is None else classifier_free(given, teacher.predictor(), guidance)
    pupil = student(teacher, first.rows)
    target = first.target(teacher, pupil, guidance)(x, given.space, label=label)
    run = merged(wanted, first.times, 8, DPMSolver())
    torch.testing.assert_close(sample(target, x), sample(run, x), rtol=0, atol=1e-12)
    # a halving: two steps of DDIM as one are the same run
    target = second.target(pupil, student(pupil, second.rows), None)(x, given.space, label=label)
    torch.testing.assert_close(
        sample(target, x), sample(pupil.predictor(label=label), x), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("steps, to, factors", [(8, 2, [2, 2]), (6, 1, [2, 3]), (4, 2, [2])])
def test_a_student_is_halved_along_its_own_steps(steps, to, factors):
    own = Rows([k / steps for k in range(steps, -1, -1)])
    stages = recipe(student(images(), own), to)
    assert [s.n for s in stages] == factors and stages[0].times == own.times
    assert stages[-1].rows.times == own.times[:: steps // to]


def test_a_consistency_model_learns_its_own_answer_one_time_nearer():
    teacher, x = images().double().eval(), torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    (stage,) = recipe(teacher, 4, consistency=True)
    rows = stage.rows.times
    assert len(rows) == 9 and rows == stage.times[::4] and stage.steps == 4
    pupil = student(teacher, stage.rows)
    target = stage.target(teacher, pupil, None)(x, teacher.predictor().space)
    noise = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_s = sample(teacher.predictor(), noise, DPMSolver(), stage.times[:5])  # to the second row
    wanted = pupil.predictor().predict(x_s, rows[1]).x0
    torch.testing.assert_close(target.predict(noise, 1.0).x0, wanted, rtol=0, atol=1e-12)
    for steps, kept in (
        (4, rows[::2]),
        (1, (1.0, 0.0)),
        (8, rows),
        (3, (1.0, rows[3], rows[5], 0)),
    ):
        drawn = stage.drawn(pupil, steps)
        assert drawn.times == Rows(kept, Renoise(1.0)) and drawn.denoiser is pupil.denoiser


# the command --------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_each_kind_and_its_files(kind, tmp_path, capsys, monkeypatch):
    teacher, data = made(kind, tmp_path)
    few = load_images("digits").subset(
        range(300)
    )  # still the digits that have a network of their own
    monkeypatch.setattr("anydiff.images.models.load_images", lambda *_, **__: few)
    more = [] if kind == "sketches" else ["--guidance", 2]
    distill(tmp_path, teacher, "--to", 2, "--data", data, *more)
    out, err = capsys.readouterr()
    files = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "comparison.png", "table.txt", "4-steps", "2-steps"} <= files
    assert "stage 1 of 2 " in err and "stage 2 of 2 " in err  # the progress bars
    assert re.findall("stage .*", out) == [
        "stage 1 of 2: 32 steps as 4",
        "stage 2 of 2: 4 steps as 2",
    ]
    assert "anydiff sample" in out and (tmp_path / "out/table.txt").read_text() in out
    for steps in (4, 2):
        model = MODELS[kind].load(tmp_path / f"out/{steps}-steps/model.safetensors")
        assert len(model.diffusion.times.times) - 1 == steps and model.diffusion.drop is None
    twice = 1 if kind == "sketches" else 2
    table = (tmp_path / "out/table.txt").read_text()
    rows = re.findall(r"(teacher|student), (\w+) +(\d+) +(\d+)  .*\d\n", table)
    teachers = [(s, k) for s, k in (("DDPM", 10), *(("DPMSolver", k) for k in (10, 8, 4, 2, 1)))]
    wanted = [("teacher", s, str(k), str(k * twice)) for s, k in teachers]
    assert rows == [*wanted, *(("student", "DDIM", str(k), str(k)) for k in (4, 2))]
    assert Image.open(tmp_path / "out/comparison.png").size > (300, 100)
    page = re.sub("<[^>]*>", " ", (tmp_path / "out/report.html").read_text())
    assert re.search(rf"teacher\s+{teacher.parent.name}/{teacher.name}\s", page)

    call("info", tmp_path / "out/model.safetensors")
    told = capsys.readouterr().out
    assert re.search(r"distilled +for 2 steps of DDIM, t = 1, 0\.\d+, 0\n", told)
    made_by = rf"made by .*teacher {tmp_path.name}/teacher.safetensors, to 2"
    assert re.search(made_by + (", guidance 2.0" if more else "") + "\n", told)
    assert "--guidance" not in told and (kind == "sketches" or "guidance 2" in told)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_consistency_model_of_each_kind(kind, tmp_path, capsys):
    teacher, data = made(kind, tmp_path)
    if kind == "images":
        data = few_digits(tmp_path)
    distill(tmp_path, teacher, "--to", 4, "--consistency", "--data", data)
    out, table = capsys.readouterr().out, (tmp_path / "out/table.txt").read_text()
    assert "stage 1 of 1: one answer from all of 8 times\n" in out
    assert re.findall(r"student, Renoise +(\d+) +(\d+)", table) == [
        ("4",) * 2,
        ("2",) * 2,
        ("1",) * 2,
    ]
    for path in ("out/model.safetensors", "out/consistency/model.safetensors"):
        rows = MODELS[kind].load(tmp_path / path).diffusion.times
        assert len(rows.times) == 5 and rows.sampler == Renoise(1.0)
    call("info", tmp_path / "out/model.safetensors")
    assert re.search("to 4, consistency true\n", capsys.readouterr().out)


def test_one_step_is_told_as_one(tmp_path, capsys):
    diffusion = student(images(), Rows([1.0, 0.0]))
    ImageModel(diffusion, (1, 8, 8), "digits").save(tmp_path / "m.safetensors")
    call("info", tmp_path / "m.safetensors")
    assert re.search(r"distilled +for 1 step of DDIM, t = 1, 0\n", capsys.readouterr().out)
    told = [str(Compared("teacher", None, DDIM(), steps)) for steps in (1, 2)]
    assert told == ["teacher, 1 step", "teacher, 2 steps"]


@pytest.mark.slow
def test_the_other_commands_take_the_steps_of_a_student(tmp_path, capsys):
    rows = Rows([1.0, 0.5, 0.0])
    path, out = tmp_path / "student.safetensors", ["--out", tmp_path / "drawn"]
    ImageModel(student(images(classes=10), rows), (1, 8, 8), "digits").save(path)
    call("sample", path, *out, "--num", 8)
    assert re.search(r"\ndrawn .* 2  +\S+\n", (tmp_path / "drawn/table.txt").read_text())  # calls
    call("edit", path, "--strength", 0.5, "--steps", 1, *out, "--num", 8)
    assert re.search(r"\ndrawn .* 1  +\S+\n", (tmp_path / "drawn-2/table.txt").read_text())
    call("inpaint", path, "--resamples", 3, *out, "--num", 8, "--sampler", "ddim")
    assert re.search(r"\ndrawn .* 6  +\S+\n", (tmp_path / "drawn-3/table.txt").read_text())
    capsys.readouterr()
    for words, line in (
        (
            ["sample", "--steps", 7],
            "--steps is 7, and the model was distilled for 2 steps; leave --steps out",
        ),
        (
            ["edit", "--strength", 0.5, "--steps", 2],
            "--steps is 2, and the model was distilled for 1 step from t = 0.5 on; leave",
        ),
        (
            ["sample", "--sampler", "ddpm"],
            "--sampler is ddpm, .* the steps of DDIM; leave --sampler",
        ),
        (["sample", "--guidance", 2], "guidance is 2, and the model was distilled"),
        (["edit"], "strength is 0.3, .* distilled for a run .*; give 1 or 0.5, or its teacher"),
        (["interpolate"], "was distilled, and knows no way from data to noise"),
    ):
        with pytest.raises(SystemExit) as stop:
            call(words[0], path, *words[1:], "--num", 8, "--out", tmp_path / "not")
        told = capsys.readouterr()
        assert stop.value.code == 2 and re.match(f"error: .*{line}", told.err.splitlines()[-1])
        assert told.out == "" or words[0] == "edit" or "--guidance" in words  # before any work
        assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("consistency", [False, True])
def test_time_is_shared_and_guidance_is_folded_in_once(consistency, tmp_path, monkeypatch):
    teacher, _ = made("images", tmp_path)
    known, before, stages, asked = ImageModel.load(teacher), [], [], []

    def learn(run, folder, model, objective, *more):
        pupil = objective.student
        assert pupil.denoiser.training and model.diffusion.denoiser is pupil.denoiser
        assert pupil.weighting == TruncatedSNR()
        stages.append((folder.name, round(run.minutes, 3), run.lr, len(pupil.times.times) - 1))
        of = before[-1] if before else known.diffusion
        for one, other in zip(pupil.parameters(), of.parameters(), strict=True):
            assert (
                torch.equal(one, other) and one is not other
            )  # it starts as a copy of its teacher
        before.append(pupil)
        model.save(folder / "model.safetensors", more[-1])
        return True

    def target(self, teacher, pupil, guidance):
        asked.append(
            (teacher.denoiser is (before[-1].denoiser if before else teacher.denoiser), guidance)
        )
        return lambda x0, space, **cond: pupil.predictor(space)

    monkeypatch.setattr("anydiff.cli.fitting.learn", learn)
    monkeypatch.setattr("anydiff.cli.comparison.compare", lambda *_: None)
    monkeypatch.setattr("anydiff.cli.distill.Lesson.target", target)
    out = tmp_path / "out"
    more = ["--consistency"] if consistency else []
    call("distill", teacher, "--to", 1, "--guidance", 3, "--minutes", 8, "--out", out, *more)
    lr = 3e-3 / 4
    if consistency:
        assert stages == [("consistency", 8, lr, 8)] and asked == [(True, 3.0)]
    else:
        assert stages == [("4-steps", 4, lr, 4), ("2-steps", 2, lr, 2), ("1-steps", 2, lr, 1)]
        assert asked == [(True, 3.0), (True, None), (True, None)]
    assert len(ImageModel.load(out / "model.safetensors").diffusion.times.times) == 2


@pytest.mark.slow
def test_a_broken_run_goes_on_in_its_stage(tmp_path, capsys, monkeypatch):
    teacher, _ = made("images", tmp_path)
    words = [teacher, "--to", 2, "--measure", "false", "--lr", 0.01, "--data", few_digits(tmp_path)]
    words += ["--batch-size", 64]  # and mirrored: three steps
    distill(tmp_path / "whole", *words)
    capsys.readouterr()
    step, steps = DiffusionModule.training_step, []

    def tired(self, batch, index):
        steps.append(self.global_step)
        if len(steps) == 5:  # the second of three of the second stage
            raise KeyboardInterrupt
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionModule, "training_step", tired)
        with pytest.raises(SystemExit) as stop:
            distill(tmp_path, *words)
    assert stop.value.code == 130 and steps == [0, 1, 2, 0, 1]
    assert "2-steps/last.ckpt is kept; run the same again" in capsys.readouterr().err
    assert not (tmp_path / "out/model.safetensors").exists()
    distill(tmp_path, *words)
    assert capsys.readouterr().out.count("going on from") == 2
    files = [folder / "out/model.safetensors" for folder in (tmp_path / "whole", tmp_path)]
    one, other = (ImageModel.load(path).diffusion.state_dict() for path in files)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "out/table.txt").exists()  # which was not asked for

    before = (tmp_path / "out/model.safetensors").read_bytes()
    distill(tmp_path, *words, "--resume")  # nothing is left to do but the comparison
    assert (tmp_path / "out/model.safetensors").read_bytes() == before
    with pytest.raises(SystemExit):
        distill(tmp_path, *words, "--resume", "--guidance", 2)
    assert "guidance None there and 2.0 here" in capsys.readouterr().err
    known = ImageModel.load(teacher)
    known.diffusion.denoiser.conv_out.bias.data.fill_(1)
    known.save(teacher)
    with pytest.raises(SystemExit):  # another teacher of this name
        distill(tmp_path, *words, "--resume")
    assert re.search(r"other settings: teacher \w+ there and \w+ here", capsys.readouterr().err)
    settings = json.loads((tmp_path / "out/2-steps/settings.json").read_text())
    assert settings["lr"] == 0.01 and len(settings["teacher"]) == 12


@pytest.mark.parametrize(
    "model, words, line",
    [
        ("plain", "--to 0", "to is 0; it must be positive and at most 1,000"),
        ("plain", "--to 2.5", "--to is 2.5; give a whole number"),
        ("plain", "--guidance 2", "--guidance needs a model that was trained with a condition"),
        ("plain", "--lr 0", "lr is 0.0; it must be positive"),
        ("plain", "--data nowhere", "nowhere: no such file or folder"),
        ("plain", "--resume", r"out holds no 4-steps/last.ckpt to continue from; leave resume out"),
        ("labels", "--guidance nan", "guidance is nan; give a number"),
        ("labels", "--data {0}/grey.npz", r"labels from 0 to 2, and .* has none; give the data it"),
        ("labels", "", r"the model knows labels from 0 to 2, and digits has others; give"),
        ("path", "", r"the model was trained on .*, and no path is opened .*; give the data"),
        ("student", "--to 3", "to is 3, and the model was distilled to 4 steps already; give 1 or 2 or"),
        ("student", "--to 4", "to is 4, and the model was distilled to 4 steps already"),
        ("student", "--to 2 --guidance 2", "was distilled already, and --guidance needs a model of all"),
        ("student", "--to 2 --consistency", "and --consistency needs a model of all times; give its"),
        ("noisy", "--to 2", "its steps, of Renoise.*, add noise, so that they cannot be learned; give"),
        ("x0", "--consistency", "prediction 'x0' does not make x0 the state itself at t = 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_distilled_is_told_at_once(model, words, line, tmp_path, capsys):
    classes = 3 if model in ("labels", "student") else 0
    diffusion = images("x0" if model == "x0" else "v", classes)
    if model in ("student", "noisy"):
        noise = Renoise() if model == "noisy" else DDIM()
        diffusion = student(diffusion, Rows([1.0, 0.7, 0.4, 0.2, 0.0], noise))
    data = "data/mine" if model == "path" else "digits"
    ImageModel(diffusion, (1, 8, 8), data).save(tmp_path / "m.safetensors")
    np.savez(tmp_path / "grey.npz", pixels=np.zeros((20, 1, 8, 8), np.uint8))
    files = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        distill(tmp_path, tmp_path / "m.safetensors", *words.format(tmp_path).split())
    told = capsys.readouterr()
    assert stop.value.code == 2 and re.match(f"error: .*{line}", told.err)
    assert told.err.count("\n") == 1 and "stage" not in told.out
    assert sorted(tmp_path.iterdir()) == files
