"""Sketches asked for by words: their texts, their lengths, the model and its file."""

import numpy as np
import pytest
import torch

from anydiff.cli.main import main
from anydiff.cli.sketches import batches
from anydiff.cli.train import sketches as train
from anydiff.data.vocabulary import Vocabulary
from anydiff.sketches.files import read_sketches, write_ndjson
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.models import SketchModel
from anydiff.sketches.named import split
from anydiff.sketches.sketches import Sketches
from anydiff.sketches.texts import WordLengths, numbered, texts_of

SOME = [["river", "stream"], ["tree"], [], ["a rapid stream of water"]]


def test_the_texts_of_sketches():
    kanji = load_kanji("3k").subset(range(50))
    texts = texts_of(kanji)
    assert len(texts) == 50 and sum(map(bool, texts)) >= 49
    chair = load_kanji("3k")
    chair = chair.subset([chair.labels.index("椅")])
    assert texts_of(chair) == [["chair", "tree left, strange right", "tree left", "strange right"]]
    strokes = [[np.zeros((2, 2))], [np.ones((3, 2))]]
    assert texts_of(Sketches.from_lists(strokes, ["cat", "…"])) == [["cat"], []]
    with pytest.raises(ValueError, match="has no labels, of which texts are made; give data with"):
        texts_of(Sketches.from_lists(strokes))


def test_texts_as_numbers():
    vocabulary = Vocabulary.of(text for each in SOME for text in each)
    table = numbered(SOME, vocabulary)
    assert table.shape == (4, 2, 12)
    assert vocabulary.text(table[0]) == ["river", "stream"]
    assert vocabulary.text(table[1]) == ["tree", "tree"]  # either is it
    assert (table[2] == -1).all()
    known = numbered(SOME, Vocabulary(["stream", "water"]))  # others are left out without a word
    assert Vocabulary(["stream", "water"]).text(known[3])[0] == "stream water"


def test_lengths_follow_the_words():
    vocabulary = Vocabulary(["rare", "often", "never"])
    table = numbered([["rare often"], *[["often"]] * 9], vocabulary)
    lengths = WordLengths.of(table, torch.tensor([3, *[7] * 9]), 3)
    assert lengths.counts[0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    generator = torch.Generator().manual_seed(0)
    assert (lengths.sample(torch.tensor([0, -1]), 20, generator) == 3).all()
    often = lengths.sample(torch.tensor([1]), 2000, generator)
    assert (often == 7).double().mean() == pytest.approx(0.9, abs=0.03)
    # (1 + .1 · .1) : (.1 · .9), since a word of many sketches says less
    both = lengths.sample(torch.tensor([0, 1]), 4000, generator)
    assert (both == 3).double().mean() == pytest.approx(1.01 / 1.1, abs=0.02)
    assert lengths.sample(torch.tensor([2, -1]), 5, generator) is None
    with pytest.raises(ValueError, match=r"counts are \(2,\) of torch\.int64; give \(W, n_max"):
        WordLengths(torch.zeros(2, dtype=torch.long))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Crosses and lines with names, and a model of them."""
    folder = tmp_path_factory.mktemp("named")
    rng, drawn, names = np.random.default_rng(0), [], []
    line = np.array([[-1.0, 0.0], [1.0, 0.0]])
    for k in range(60):
        strokes = [line + 0.05 * rng.normal(size=(2, 2))]
        if k % 2:
            strokes.append(line[:, ::-1] + 0.05 * rng.normal(size=(2, 2)))
        drawn.append(strokes)
        names.append("cross" if k % 2 else "line")
    write_ndjson(folder / "mine.ndjson", Sketches.from_lists(drawn, names))
    train(
        str(folder / "mine.ndjson"), text=True, hidden=16, layers=1, epochs=40, out=folder / "run",
        accelerator="cpu",
    )  # fmt: skip
    return folder


def call(*words):
    main([str(word) for word in words])


@pytest.mark.slow
def test_a_model_knows_its_words_again(folder):
    model = SketchModel.load(folder / "run/model.safetensors")
    assert model.conditional and model.vocabulary.words == ["line", "cross"]
    how = {"steps": 6, "seed": 1}
    both = model.sample(8, text=["line", "cross"], **how)
    assert both.counts.tolist() == [1, 2] * 4  # lengths follow the words
    one, again = (model.sample(4, text="cross", **how) for _ in range(2))
    assert np.array_equal(one.points, again.points)
    told, other = (model.sample(4, text=t, length=2, **how).points for t in ("cross", "line"))
    assert abs(told - other).max() > 1e-3  # the same noise
    nothing, free = (model.sample(4, text=t, length=2, **how).points for t in (None, ""))
    np.testing.assert_allclose(nothing, free, atol=1e-5)
    guided = model.sample(4, text="cross", length=2, guidance=3.0, **how).points
    assert abs(guided - told).max() > 1e-3
    with pytest.warns(UserWarning, match="are left out: circle"):
        model.sample(2, text="circle", **how)
    assert len(model.sample(1, text=["line", "cross"], **how)) == 1  # more texts than sketches
    with pytest.raises(ValueError, match="text is an empty list; give one or more texts"):
        model.sample(2, text=[], **how)
    with pytest.raises(ValueError, match="guidance is 3, and there is no text to be guided by"):
        model.sample(2, guidance=3.0, **how)
    with pytest.raises(ValueError, match="has 13 words; give at most 12"):
        model.sample(2, text=" ".join(["line"] * 13), **how)


def test_batches_have_the_texts_of_their_own_items(folder):
    model = SketchModel.load(folder / "run/model.safetensors")
    known = read_sketches(folder / "mine.ndjson")
    learn, check, unpack = batches(model, known, "mine", 16, 0)
    parts = split(known)
    for loader, part in ((learn, parts.train), (check, parts.valid)):
        seen = []
        for batch in loader:
            _, space, cond = unpack(batch)
            # a cross has two strokes
            assert torch.equal(cond["words"][:, 0] == 1, space.lengths == 2)
            seen += batch.items.tolist()
        assert sorted(seen) == sorted(part.tolist())


@pytest.mark.slow
def test_commands_ask_for_texts(folder, tmp_path, capsys):
    model = folder / "run/model.safetensors"
    few = ["--num", 4, "--steps", 3, "--measure", "false", "--accelerator", "cpu"]
    call("sample", model, "--text", "line; cross", "--guidance", 2, *few, "--out", tmp_path / "a")
    drawn = read_sketches(tmp_path / "a/samples.ndjson")
    assert drawn.counts.tolist() == [1, 2, 1, 2]
    data = ["--data", folder / "mine.ndjson", "--epochs", 1, "--accelerator", "cpu"]
    call("finetune", model, *data, "--out", tmp_path / "tuned")
    assert SketchModel.load(tmp_path / "tuned/model.safetensors").vocabulary.words
    call("info", model)
    assert "--text, 2 words (line, cross, …)" in capsys.readouterr().out
    train(str(folder / "mine.ndjson"), hidden=8, layers=1, epochs=1, out=tmp_path / "plain")
    with pytest.raises(SystemExit):
        call("sample", tmp_path / "plain/model.safetensors", "--text", "line", *few)
    told = "--text needs a model that was trained with texts, which this one was not; leave it out"
    assert told in capsys.readouterr().err
