"""What Chinese characters mean in English.

References:
    KANJIDIC2, by the Electronic Dictionary Research and Development Group.
    https://www.edrdg.org/wiki/index.php/KANJIDIC_Project (CC BY-SA 4.0)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["kanji_meanings"]

FILE = Path(__file__).with_name("kanji_meanings.npz")


def kanji_meanings() -> dict[str, list[str]]:
    """The meanings of the characters of KanjiVG, by character, as Japanese dictionaries have them.

    Shipped with the package (see KANJIDIC.md beside this file).
    """
    with np.load(FILE, allow_pickle=False) as arrays:
        text = arrays["text"].tobytes().decode()
    lines = (line.split("\t") for line in text.split("\n"))
    return {character: meanings.split("; ") for character, meanings in lines}
