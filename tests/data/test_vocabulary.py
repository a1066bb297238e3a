"""Texts as numbers of words, and back."""

import pytest
import torch

from anydiff.data.vocabulary import Vocabulary, words_of

TEXTS = ["Two sevens above a three.", "a three, left of a nine", "A NINE"]


def test_words_have_no_case_and_nothing_between_them():
    assert words_of("  Two\tSEVENS, above-a three!") == ["two", "sevens", "above", "a", "three"]
    assert words_of("水 Straße ２") == ["水", "strasse", "2"]
    assert words_of("… !") == []
    assert words_of("fire_horse") == ["fire", "horse"] and words_of("हिन्दी") == ["हिन्दी"]


def test_there_and_back():
    vocabulary = Vocabulary.of(TEXTS)
    assert vocabulary.words[:3] == [
        "a",
        "nine",
        "three",
    ]  # the frequent ones first, then by letters
    numbers = vocabulary(TEXTS)
    assert numbers.shape == (3, 6) and numbers.dtype == torch.int64
    assert vocabulary.text(numbers) == [" ".join(words_of(text)) for text in TEXTS]
    assert (vocabulary(["NINE  a!"], length=4) == torch.tensor([[1, 0, -1, -1]])).all()
    again = Vocabulary(vocabulary.words)
    assert torch.equal(again(TEXTS), numbers) and len(again) == len(vocabulary) == 8
    assert Vocabulary.of(TEXTS, least=2).words == ["a", "nine", "three"]


def test_unknown_words_are_absent_and_named():
    vocabulary = Vocabulary.of(TEXTS)
    with pytest.warns(
        UserWarning, match="that the model does not know are left out: eight, sixes."
    ):
        numbers = vocabulary(["two sixes above eight nine"])
    assert vocabulary.text(numbers) == ["two above nine"] and (numbers == -1).sum() == 2
    assert vocabulary(["", "nine"]).tolist() == [[-1], [1]]
    with pytest.warns(UserWarning, match="w10.* and 4 more"):
        vocabulary([" ".join(f"w{k}" for k in range(12))])


def test_arguments():
    vocabulary = Vocabulary.of(TEXTS)
    with pytest.raises(
        ValueError, match=r"'Two sevens above a three\.' has 5 words; give at most 4"
    ):
        vocabulary(["nine", TEXTS[0]], length=4)
    with pytest.raises(ValueError, match="the texts are one text, 'nine'; give a list of texts"):
        vocabulary("nine")
    with pytest.raises(ValueError, match="'nine' is there twice"):
        Vocabulary(["nine", "a", "nine"])
    with pytest.raises(ValueError, match="'A nine' is not one word in small letters"):
        Vocabulary(["A nine"])
    with pytest.raises(ValueError, match="there are no words"):
        Vocabulary.of(TEXTS, least=9)
