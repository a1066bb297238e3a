"""What Chinese characters mean in English, and which parts they are made of.

References:
    KANJIDIC2, by the Electronic Dictionary Research and Development Group.
    https://www.edrdg.org/wiki/index.php/KANJIDIC_Project (CC BY-SA 4.0)
    KanjiVG, by Ulrich Apel. https://kanjivg.tagaini.net (CC BY-SA 3.0)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["kanji_components", "kanji_meanings"]

MEANINGS = Path(__file__).with_name("kanji_meanings.npz")
COMPONENTS = Path(__file__).with_name("kanji_components.npz")


def kanji_meanings() -> dict[str, list[str]]:
    """The meanings of the characters of KanjiVG, by character, as Japanese dictionaries have them.

    Shipped with the package (see KANJIDIC.md beside this file).
    """
    return {character: text.split("; ") for character, text in _lines(MEANINGS)}


def kanji_components() -> dict[str, list[tuple[str, str]]]:
    """The parts of the characters of KanjiVG, by character: places and characters.

    A place is left, right, top, bottom, around or inside. A part has the character that it is a form of,
    the three drops of water on the left that of water. Shipped with the package (see KANJIVG.md beside
    this file).
    """
    each = ((character, text.split(" ")) for character, text in _lines(COMPONENTS))
    return {c: list(zip(words[::2], words[1::2], strict=True)) for c, words in each}


def _lines(path: Path) -> list[tuple[str, str]]:
    """What stands before and after the tabulator of each line."""
    with np.load(path, allow_pickle=False) as arrays:
        text = arrays["text"].tobytes().decode()
    pairs = (line.split("\t") for line in text.split("\n"))
    return [(before, after) for before, after in pairs]
