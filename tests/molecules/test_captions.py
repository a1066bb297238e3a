"""Molecules asked for by words: their texts, their sizes, the model and its file."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anydiff.cli.main import main
from anydiff.cli.molecules import batches
from anydiff.cli.train import molecules as train
from anydiff.data.vocabulary import Vocabulary
from anydiff.molecules.captions import Formulas, captions, counts_in, plain, table_of, with_captions
from anydiff.molecules.compositions import compositions
from anydiff.molecules.models import MoleculeModel
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.qm9 import load_qm9, split

pytest.importorskip("rdkit")
FEW = load_qm9("5k").subset(range(300))


def from_smiles(*smiles):
    """Molecules with hydrogens and bonds at positions that mean nothing."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mols = [Chem.AddHs(Chem.MolFromSmiles(s)) for s in smiles]
    for mol in mols:
        AllChem.EmbedMolecule(mol, randomSeed=0)
    return Molecules.from_rdkit(mols)


@pytest.mark.parametrize(
    "smiles, wanted, absent",
    [
        ("CCO", {"two carbons", "six hydrogens", "one oxygen", "no ring", "alcohol"}, {"ether"}),
        ("c1ccccc1O", {"ring six", "aromatic", "six carbons"}, {"alcohol", "no ring"}),
        ("CC(=O)O", {"acid"}, {"ester", "ketone", "alcohol", "aldehyde"}),
        ("CC(=O)OC", {"ester"}, {"acid", "ketone"}),
        ("CC(=O)C", {"ketone"}, {"aldehyde", "ester"}),
        ("CC=O", {"aldehyde"}, {"ketone"}),
        ("CC(=O)NC", {"amide"}, {"amine", "ketone"}),
        ("CCN", {"amine", "one nitrogen"}, {"amide", "nitrile"}),
        ("CC#N", {"nitrile"}, {"amine", "alkyne"}),
        ("CC#C", {"alkyne"}, {"alkene"}),
        ("C=CC", {"alkene"}, {"aromatic"}),
        ("COC", {"ether"}, {"alcohol", "ester"}),
        ("C1CC1C1CC1", {"two rings three"}, {"ring three"}),
    ],
)
def test_what_a_molecule_is_called(smiles, wanted, absent):
    (said,) = captions(from_smiles(smiles))
    assert wanted <= set(said) and not absent & set(said)
    assert not any(word in said for word in ("high gap", "low gap"))  # no properties are known


def test_elements_that_are_missing_are_told_too():
    ethanol, ammonia = captions(from_smiles("CCO", "N"))
    assert {"no nitrogen", "one oxygen"} <= set(ethanol) and "no carbon" in ammonia


def test_bonds_by_distance_say_the_same_of_whole_molecules():
    bonded = captions(FEW)
    bare = replace(FEW, bonds=None, orders=None)
    # distances within aromatic rings are between those of single and double bonds
    assert np.mean([a == b for a, b in zip(bonded, captions(bare), strict=True)]) > 0.9


def test_levels_are_those_among_molecules_of_one_size():
    said = Counter(phrase for of in captions(FEW) for phrase in of)
    levels = [f"{a} {b}" for a in ("high", "low") for b in ("polarizability", "gap", "dipole")]
    assert all(0.05 < said[level] / len(FEW) < 0.35 for level in levels)
    sizes = FEW.sizes[["high polarizability" in of for of in captions(FEW)]]
    assert abs(sizes.mean() - FEW.sizes.mean()) < 1  # not simply the large ones


def test_words_of_users():
    assert plain("7 Carbons, and a ring of five!") == "seven carbons ring five"
    assert counts_in("7 carbons, no nitrogen and twelve hydrogens", (1, 6, 7, 8)).tolist() == [
        12, 7, 0, -1,
    ]  # fmt: skip
    assert counts_in("one carbon, 30 hydrogens", (1, 6)).tolist() == [30, 1]
    assert counts_in("a ring of six", (1, 6)).tolist() == [-1, -1]
    assert counts_in("a ring of five, oxygen; two rings of six carbons", (6, 8)).tolist() == [
        -1,
        -1,
    ]
    assert counts_in(f"{'9' * 30} carbons", (6,)).tolist() == [-1]


def test_some_phrases_are_told_in_any_order():
    phrases = [["two carbons", "one oxygen", "alcohol"], ["no ring"]]
    vocabulary = Vocabulary.of(phrase for of in phrases for phrase in of)
    table = table_of(phrases, vocabulary)
    assert table.shape == (2, 3, 2)
    unpack = with_captions(lambda batch: (torch.zeros(1), None, {"other": 1}), table)
    batch, seen = SimpleNamespace(number=torch.tensor([1, 0])), Counter()
    for _ in range(400):
        _, _, cond = unpack(batch)
        assert cond["other"] == 1 and vocabulary.text(cond["words"])[0] in ("no ring", "")
        row = cond["words"][1]
        assert (row[(row >= 0).sum() :] == -1).all()  # no gaps
        seen[vocabulary.text(cond["words"])[1]] += 1
    whole = ["two carbons", "one oxygen", "alcohol"]
    told = sum(n for text, n in seen.items() if all(phrase in text for phrase in whole))
    assert told / 400 == pytest.approx(0.5 + 0.5 / 4, abs=0.08)  # all, or a share u: ∫ u³ du
    assert len(seen) == 1 + 3 + 6 + 6  # each subset in each order


def test_sizes_are_of_molecules_that_have_what_is_asked_for():
    elements = FEW.elements
    formulas = Formulas.of(FEW, elements)
    assert int(formulas.molecules.sum()) == len(FEW)
    generator = torch.Generator().manual_seed(0)
    asked = counts_in("six carbons, two oxygens, no nitrogen, no fluorine", elements)
    sizes = formulas.sizes(asked, 2000, generator)
    counts = compositions(FEW, elements)
    fits = np.all((counts == asked.numpy()) | (asked.numpy() < 0), axis=1)
    assert set(sizes.tolist()) <= set(FEW.sizes[fits].tolist())
    assert sizes.double().mean() == pytest.approx(FEW.sizes[fits].mean(), abs=0.15)
    whole = torch.tensor([20, 9, 0, 0, 0])  # of no molecule of the data, but it says all
    assert (formulas.sizes(whole[: len(elements)], 3, generator) == 29).all()
    none = counts_in("ninety carbons, 90 carbons", elements)
    assert formulas.sizes(none, 3, generator) is None
    with pytest.raises(ValueError, match="the formulas are of no molecules"):
        Formulas(torch.zeros(0, 5, dtype=torch.uint8), torch.zeros(0, dtype=torch.long))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    train(text=True, hidden=16, layers=1, epochs=1, out=folder / "run", accelerator="cpu")
    return folder


def call(*words):
    main([str(word) for word in words])


@pytest.mark.slow
def test_a_model_knows_its_words_again(folder):
    model = MoleculeModel.load(folder / "run/model.safetensors")
    assert model.asks == {"text"} and model.conditional and "carbons" in model.vocabulary.words
    how, text = (
        {"steps": 3, "seed": 1},
        "three carbons, 8 hydrogens, no oxygen, no nitrogen, no fluorine",
    )
    drawn = model.sample(4, text=[text, ""], **how)
    assert drawn.sizes[0] == drawn.sizes[2] == 11
    one, again = (model.sample(2, text=text, **how).pos for _ in range(2))
    assert np.array_equal(one, again)
    other = model.sample(2, text=text.replace("no oxygen", "no ring, no oxygen"), **how).pos
    assert other.shape == one.shape and abs(other - one).max() > 1e-4
    nothing, free = (model.sample(4, text=t, **how).pos for t in (None, ""))
    np.testing.assert_allclose(nothing, free, atol=1e-4)
    with pytest.warns(UserWarning, match="are left out: big"):
        model.sample(1, text="big", **how)
    with pytest.warns(
        UserWarning, match="no molecule of the data has the numbers of atoms of 'sixt"
    ):
        model.sample(1, text="sixteen carbons", **how)
    for wrong, error in (
        ({"text": []}, "text is an empty list; give one or more texts"),
        ({"formula": "CH4"}, "the model knows texts, which say the formula too"),
        ({"target": 70.0}, "the model knows no property, which target is about"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"text": "six carbons " * 25}, "has 50 words; give at most 48"),
    ):
        with pytest.raises(ValueError, match=error):
            model.sample(2, **wrong, **how)


@pytest.mark.slow
def test_what_is_begun_from_molecules_has_no_text_to_be_guided_by(folder):
    model = MoleculeModel.load(folder / "run/model.safetensors")
    with pytest.raises(ValueError, match="there is no text to be guided by"):
        model.edit(FEW, 0.3, guidance=2.0)
    with pytest.raises(ValueError, match="there is no text to be guided by"):
        model.inpaint(FEW, "elements", guidance=2.0)


@pytest.mark.slow
def test_batches_tell_each_molecule_its_own_words(folder):
    model = MoleculeModel.load(folder / "run/model.safetensors")
    known = load_qm9("5k")
    loading, _, unpack = batches(model, known, "5k", 64, 0)
    part, said = split(len(known)).train, captions(known)
    batch = next(iter(loading))
    assert set(batch.number.tolist()) <= set(part.tolist())
    _, _, cond = unpack(batch)
    for m, text in zip(batch.number.tolist(), model.vocabulary.text(cond["words"]), strict=True):
        assert all(word in " ".join(said[m]).split() for word in text.split())
    assert batch.to_data_list()[3].number == batch.number[3]


@pytest.mark.slow
def test_commands_ask_for_texts(folder, tmp_path, capsys):
    model = folder / "run/model.safetensors"
    few = ["--num", 2, "--steps", 2, "--measure", "false", "--accelerator", "cpu"]
    call(
        "sample",
        model,
        "--text",
        "one carbon, 4 hydrogens; a ring of five",
        *few,
        "--out",
        tmp_path / "a",
    )
    assert (tmp_path / "a/samples.sdf").exists()
    call("info", model)
    assert "--text, " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        call("sample", model, "--target", 70, *few)
    assert "--target needs a model that was trained with a property" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call("train", "molecules", "--text", "--property", "alpha", "--out", tmp_path / "b")
    assert "leave --property out, or --text" in capsys.readouterr().err
