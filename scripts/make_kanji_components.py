"""Make anydiff/sketches/kanji_components.npz: the parts of KanjiVG's characters, and where they stand.

    pip install -c constraints.txt -e ".[kanji]"
    python scripts/make_kanji_components.py

KanjiVG groups the strokes of a character: each group has an element, the character it is a form of, and
often a place; what stands in another is not always said to. Kept are the outermost groups, a line for
each character: the character, a tabulator, and place and element in turn. The script says whether the
shipped file differs, and ends with 1 if so. It writes only with --write.
"""

import argparse
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from anydiff.sketches.kanji import kanjivg_folder, load_kanji
from anydiff.sketches.meanings import COMPONENTS, kanji_components

SVG, KVG = "{http://www.w3.org/2000/svg}", "{https://kanjivg.tagaini.net/}"
PLACES = {
    "left": "left", "right": "right", "top": "top", "bottom": "bottom", "kamae": "around",
    "nyo": "around", "tare": "around", "kamaec": "inside", "nyoc": "inside", "tarec": "inside",
}  # fmt: skip
"""What KanjiVG calls places, in English."""


def components(path: Path) -> list[tuple[str, str]]:
    """The place and the element of each outermost group of a file."""
    text = re.sub(r"<!DOCTYPE.*?\]>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    whole = ElementTree.fromstring(text).find(f"./{SVG}g/{SVG}g")
    assert whole is not None, path
    found: list[tuple[str | None, str]] = []
    for group in whole.findall(f"{SVG}g"):
        place = PLACES.get(group.get(f"{KVG}position", ""))
        element = group.get(f"{KVG}original") or group.get(f"{KVG}element")
        # other parts are strokes that come later, and longer names no characters
        if element and len(element) == 1 and group.get(f"{KVG}part", "1") == "1":
            found.append((place, element))
    within = "inside" if "around" in dict(found) else None
    placed = ((place or within, element) for place, element in found)
    return [(place, element) for place, element in placed if place]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", metavar="PATH", help="write the parts to this .npz")
    args = parser.parse_args()

    folder = kanjivg_folder()
    characters = [label for label in load_kanji("full").labels if ord(label) >= 0x3400]
    each = ((c, components(folder / f"{ord(c):05x}.svg")) for c in characters)
    made = {character: found for character, found in each if found}
    lines = (f"{c}\t{' '.join(word for part in of for word in part)}" for c, of in made.items())
    if args.write:
        text = "\n".join(lines).encode()
        np.savez_compressed(args.write, text=np.frombuffer(text, np.uint8))
        print(f"{args.write}: {len(made):,} characters, {Path(args.write).stat().st_size:,} bytes")
        return
    same = COMPONENTS.exists() and kanji_components() == made
    print(f"{len(made):,} characters; {COMPONENTS.name} {'is the same' if same else 'differs'}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
