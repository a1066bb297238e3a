"""What characters mean and are made of: the tables that are shipped."""

from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.meanings import COMPONENTS, MEANINGS, kanji_components, kanji_meanings


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
    assert MEANINGS.stat().st_size < 90_000


def test_characters_have_parts_in_their_places():
    parts = kanji_components()
    assert parts["橋"] == [("left", "木"), ("right", "喬")]
    assert parts["沈"][0] == ("left", "水")  # the three drops are a form of it
    assert parts["国"] == [("around", "囗"), ("inside", "玉")]
    assert len(parts) == 6018 and COMPONENTS.stat().st_size < 40_000
    places = {place for of in parts.values() for place, _ in of}
    assert places == {"left", "right", "top", "bottom", "around", "inside"}
    assert all(len(element) == 1 for of in parts.values() for _, element in of)


def test_most_parts_have_a_meaning():
    meanings = kanji_meanings()
    known = [element in meanings for of in kanji_components().values() for _, element in of]
    assert sum(known) / len(known) > 0.95
