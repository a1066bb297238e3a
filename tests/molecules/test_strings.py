"""SMILES as tokens: reading, the model, its file, and the commands."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anydiff.batched import Stopped
from anydiff.cli.main import main
from anydiff.cli.runs import open_model
from anydiff.cli.train import smiles as train
from anydiff.data.sequences import LengthDistribution, loader
from anydiff.denoisers import Transformer
from anydiff.discrete import AbsorbingKernel, CategoricalDiffusion, FirstHitting, UniformKernel
from anydiff.molecules.elements import MoleculeError
from anydiff.molecules.qm9 import load_qm9, split
from anydiff.molecules.string_metrics import (
    canonical,
    compare_strings,
    evaluate_strings,
    string_table,
)
from anydiff.molecules.string_models import SmilesModel
from anydiff.molecules.strings import Alphabet, Strings, load_strings, split_smiles, strings_of

pytest.importorskip("rdkit")
FEW = Strings(("CCO", "c1ccccc1", "C#N", "C[NH+](C)CC(=O)[O-]", "ClCBr"))


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("CCO", ["C", "C", "O"]),
        ("ClC(Br)=O", ["Cl", "C", "(", "Br", ")", "=", "O"]),
        ("c1c[nH]cc1", ["c", "1", "c", "[nH]", "c", "c", "1"]),
        ("C%12CC%12", ["C", "%12", "C", "C", "%12"]),
        ("C??C", ["C", "?", "?", "C"]),
        ("[13CH3]C", ["[13CH3]", "C"]),
    ],
)
def test_strings_are_cut_into_tokens(text, tokens):
    assert split_smiles(text) == tokens and "".join(tokens) == text


@pytest.mark.parametrize("text", ["", "C C", "C[N", "C]", "Cé", "smiles", "Hello"])
def test_what_is_no_smiles(text):
    with pytest.raises(MoleculeError, match="is no SMILES at"):
        split_smiles(text)


def test_an_alphabet_has_each_token_once():
    alphabet = Alphabet.of(FEW.texts)
    assert alphabet.tokens[0] == "C" and len(set(alphabet.tokens)) == len(alphabet.tokens)
    rows = alphabet.numbers([*FEW.texts, "C?O"])
    assert [alphabet.text(row) for row in rows] == [*FEW.texts, "C?O"]
    assert rows[-1][1] == len(alphabet.tokens)  # the mask is the last state
    with pytest.raises(
        MoleculeError, match="'CI' has the token 'I', which the model does not know"
    ):
        alphabet.numbers(["CI"])
    for wrong in ((), ("C", "C"), ("CC",), ("?",)):
        with pytest.raises(ValueError, match="give each token of the strings once"):
            Alphabet(wrong)


def test_the_shipped_molecules_are_strings():
    molecules = load_qm9("5k").subset(range(40))
    strings = strings_of(molecules)
    assert len(strings) == 40 and strings[2] == "CC1CC1"
    assert canonical(strings.texts) == list(strings.texts)
    assert strings.subset([2, 0]).texts == (strings[2], strings[0])


def test_files_of_strings(tmp_path):
    path = tmp_path / "mine.smi"
    path.write_text("CCO ethanol\n\nC#N\n")
    assert load_strings(str(path)).texts == ("CCO", "C#N")
    for text, error in (
        ("CCO\nC C é\nxyz$$!\n", "mine.smi, line 3: 'xyz"),
        ("\n", "holds no SMILES"),
        (
            "smiles name\nCCO a\n",
            "line 1: 'smiles' is no SMILES at 'miles'. If it is a header, leave it out",
        ),
        ("C?C\n", "line 1: 'C.C' is too long, or has a"),
    ):
        path.write_text(text)
        with pytest.raises(MoleculeError, match=error):
            load_strings(str(path))
    path.write_bytes("CCO caf\xe9\n".encode("latin-1"))
    with pytest.raises(MoleculeError, match=r"mine\.smi is no text in UTF-8"):
        load_strings(str(path))
    with pytest.raises(MoleculeError, match="no such file; give 5k, full, or a file of SMILES"):
        load_strings(str(tmp_path / "none.smi"))


def test_figures_of_strings():
    known = {"CCO", "CC"}
    drawn = Strings(("OCC", "C1CC1", "C1CC1", "C1CC", "CC.CC", "C(C)(C)(C)(C)C"))
    report = evaluate_strings(drawn, known, FEW)
    assert report.validity == 0.5 and report.uniqueness == pytest.approx(2 / 3)
    assert report.novelty == 0.5 and report.rings > 0 and report.weight > 0
    same = evaluate_strings(FEW, known, FEW)
    assert same.weight == same.rings == 0 and same.validity == 1
    assert "valid %" in string_table([report, same])
    with pytest.raises(ValueError, match="there are no strings"):
        evaluate_strings(Strings(()), known)
    with pytest.raises(ValueError, match="give at least 10 to compare with"):
        compare_strings(drawn, FEW)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    alphabet = Alphabet.of(FEW.texts)
    kernel = AbsorbingKernel(len(alphabet.tokens))
    diffusion = CategoricalDiffusion(Transformer(kernel.states, 16, 1), kernel).eval()
    sizes = alphabet.sequences(FEW).sizes
    return SmilesModel(diffusion, alphabet, LengthDistribution.from_sizes(sizes))


def test_batches_are_one_hot(model):
    (batch,) = loader(model.alphabet.sequences(FEW), 5, shuffle=False)
    x0, space, cond = model.unpack(batch)
    assert cond == {} and torch.equal(x0.sum(-1) > 0, space.mask)
    assert model.diffusion.loss(x0, space=space).isfinite().all()
    assert sorted(model._texts(x0, [range(n) for n in batch.mask.sum(1)]).texts) == sorted(
        FEW.texts
    )


def test_draws_are_of_the_alphabet_and_repeatable(model):
    drawn = model.sample(20, steps=4, seed=3)
    assert len(drawn) == 20 and not any("?" in text for text in drawn.texts)
    assert {len(split_smiles(text)) for text in drawn.texts} <= {3, 8, 12}
    assert model.sample(20, steps=4, seed=3).texts == drawn.texts
    assert model.sample(20, steps=4, seed=3, batch=7).texts == drawn.texts
    assert model.sample(20, steps=4, seed=3, skip=15).texts == drawn.texts[15:]
    frames = []
    model.sample(3, steps=4, seed=3, watch=frames.append)
    assert len(frames) == 4 and frames[-1].texts == drawn.texts[:3]


def test_patterns_are_filled_in(model):
    drawn = model.sample(6, pattern=["??c1ccccc1??", "C?O"], steps=4)
    assert all("c1ccccc1" in text for text in drawn.texts[::2])
    for text in drawn.texts[1::2]:
        tokens = split_smiles(text)
        assert (tokens[0], tokens[2], len(tokens)) == ("C", "O", 3)
    halves = model.first_half(FEW)
    assert halves.texts[0] == "CC?" and halves.texts[1] == "c1cc????"
    filled = model.inpaint(FEW, steps=4)
    assert all(f.startswith(h.rstrip("?")) for f, h in zip(filled.texts, halves.texts, strict=True))
    with pytest.raises(MoleculeError, match="a pattern has 200 tokens"):
        model.sample(1, pattern="?" * 200)
    with pytest.raises(ValueError, match="pattern is an empty list"):
        model.sample(1, pattern=[])
    with pytest.raises(ValueError, match="the model knows no condition"):
        model.sample(1, guidance=2.0)


def test_edits_keep_a_share(model):
    many = Strings(FEW.texts * 40)
    drawn = model.edit(many, 0.3, steps=4)
    same = [
        np.mean([x == y for x, y in zip(split_smiles(a), split_smiles(b), strict=True)])
        for a, b in zip(many.texts, drawn.texts, strict=True)
    ]
    assert 0.65 < np.mean(same) < 0.85  # and some masked ones by chance
    anew = model.edit(many, 1.0, steps=4)
    same = [a == b for a, b in zip(many.texts, anew.texts, strict=True)]
    assert np.mean(same) < 0.2  # nothing of them is kept but their lengths
    with pytest.raises(ValueError, match="strength is 2"):
        model.edit(many, 2.0)


def test_a_run_that_is_stopped_has_what_is_drawn(model):
    def watch(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.sample(4, steps=2, watch=watch)
    calls = []

    class Slow(torch.nn.Module):
        def forward(self, x, t, *, space):
            calls.append(1)
            if len(calls) > 2:
                raise KeyboardInterrupt
            return x * 0

    slow = SmilesModel(
        CategoricalDiffusion(Slow(), model.diffusion.kernel), model.alphabet, model.lengths
    )
    slow.diffusion.register_parameter("here", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(Stopped) as stop:
        slow.sample(6, steps=2, batch=3)
    assert stop.value.num == 3 and len(stop.value.drawn) == 3


def test_tokens_are_uncovered_one_by_one_unless_a_number_of_steps_is_given(model):
    frames = []
    drawn = model.sample(20, seed=3, watch=frames.append)
    lengths = [len(split_smiles(text)) for text in drawn.texts]
    masked = [[text.count("?") for text in frame.texts] for frame in frames]
    expected = [[max(n - k, 0) for n in lengths] for k in range(1, max(lengths) + 1)]
    assert masked == expected
    for how in ({"batch": 7}, {"steps": 0}, {"sampler": FirstHitting()}):
        assert model.sample(20, seed=3, **how).texts == drawn.texts
    uniform = replace(model, diffusion=CategoricalDiffusion(
        model.diffusion.denoiser, UniformKernel(model.diffusion.kernel.states)
    ))  # fmt: skip
    assert len(uniform.sample(2, steps=None)) == 2  # which has no masks


def test_a_file_holds_the_model(model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    again = open_model(tmp_path / "m.safetensors")
    assert type(again) is SmilesModel and again.alphabet == model.alphabet
    assert again.sample(5, steps=3).texts == model.sample(5, steps=3).texts
    import anydiff

    diffusion, extra = anydiff.load(tmp_path / "m.safetensors")
    for wrong, error in (
        ({"alphabet": ["C", "O"]}, "the kernel has"),
        ({"alphabet": "CO"}, "alphabet"),
        ({"alphabet": [*model.alphabet.tokens[:-1], "CC"]}, "give each token"),
    ):
        anydiff.save(tmp_path / "w.safetensors", diffusion, extra | wrong)
        with pytest.raises(ValueError, match=error):
            open_model(tmp_path / "w.safetensors")


def call(*words):
    main([str(word) for word in words])


@pytest.mark.slow
def test_the_commands(tmp_path, capsys):
    run = ["--accelerator", "cpu"]
    train(hidden=16, layers=1, epochs=1, out=tmp_path / "run", accelerator="cpu")
    path = tmp_path / "run/model.safetensors"
    call("sample", path, "--num", 3, *run, "--measure", "false", "--out", tmp_path / "each")
    assert "one for each token" in (tmp_path / "each/report.html").read_text()
    call("sample", path, "--num", 30, "--steps", 4, *run)
    assert "valid %" in capsys.readouterr().out
    folder = tmp_path / "run/sample"
    assert len((folder / "samples.smi").read_text().splitlines()) == 30
    assert (folder / "samples.png").stat().st_size > 1000
    assert len((folder / "path.txt").read_text().splitlines()) == 4
    few = ["--num", 3, "--steps", 2, "--measure", "false", *run]
    call("sample", path, "--pattern", "??c1ccccc1", *few, "--out", tmp_path / "p")
    assert all("c1ccccc1" in t for t in (tmp_path / "p/samples.smi").read_text().splitlines())
    call("sample", path, "--temperature", 0.01, *few, "--out", tmp_path / "cold")
    cold = SmilesModel.load(path).sample(3, steps=2, temperature=0.01).texts
    assert tuple((tmp_path / "cold/samples.smi").read_text().split()) == cold
    assert cold != SmilesModel.load(path).sample(3, steps=2).texts
    for command in ("inpaint", "edit"):
        call(command, path, *few)
        assert (tmp_path / "run" / command / "before.png").exists()
    (tmp_path / "mine.smi").write_text("CCO\n" * 30 + "CCN\n")
    call(
        "finetune",
        path,
        "--data",
        tmp_path / "mine.smi",
        "--epochs",
        1,
        *run,
        "--out",
        tmp_path / "t",
    )
    assert SmilesModel.load(tmp_path / "t/model.safetensors").data == str(tmp_path / "mine.smi")
    call("evaluate", tmp_path / "mine.smi", "--against", "5k")
    assert "drawn" in capsys.readouterr().out
    call("info", path)
    out = capsys.readouterr().out
    assert "tokens       AbsorbingKernel" in out and "--pattern says what is known" in out
    for words, error in (
        (
            ["sample", path, "--sampler", "dpm", *few],
            "--sampler is dpm, which is for numbers with noise",
        ),
        (["sample", path, "--label", 3, *few], "--label does not apply to smiles"),
        (["sample", path, "--guidance", 2, *few], "--guidance needs a model that was trained with"),
        (["sample", path, "--pattern", "C C", *few], "'C C' is no SMILES at ' C'"),
        (["sample", path, "--temperature", 0, *few], "temperature is 0.0; it must be positive"),
        (["sample", "qm9", "--temperature", 1, *few], "--temperature does not apply to molecules"),
        (["distill", path], "distillation is of paths that are smooth"),
        (["interpolate", path], "which cannot be interpolated"),
        (["train", "smiles", "--data", tmp_path / "x.smi"], "no such file; give 5k, full"),
        (["train", "smiles", "--hidden", 0], "hidden is 0"),
    ):
        with pytest.raises(SystemExit):
            call(*words)
        assert error in capsys.readouterr().err, words


def test_the_split_is_that_of_molecules():
    assert list(map(len, split(5000))) == [3821, 678, 501]
