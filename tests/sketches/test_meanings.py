"""What characters mean: the table that is shipped."""

from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.meanings import FILE, kanji_meanings


def test_characters_have_meanings():
    meanings = kanji_meanings()
    assert meanings["橋"] == ["bridge"] and meanings["水"] == ["water"]
    assert meanings["森"][:2] == ["forest", "woods"]
    assert len(meanings) == 6414
    for character, each in meanings.items():
        assert len(character) == 1 and each and all(text == text.strip() != "" for text in each)


def test_nearly_all_characters_that_are_shipped_have_one():
    labels, meanings = load_kanji("3k").labels, kanji_meanings()
    assert sum(label in meanings for label in labels) == 3597
    assert FILE.stat().st_size < 90_000
