r"""KanjiVG: Chinese characters as they are written in Japan, stroke by stroke.

Sketches of one size, 109 × 109 units with y down, with strokes in the order and direction of writing.
Labels are the characters themselves; ``f"{ord(label):05x}"`` is KanjiVG's number.

- ``"3k"``: a random 3,600 CJK ideographs, shipped with the package (see KANJIVG.md beside this file).
- ``"full"``: all 6,703 sketches, kana, Latin letters and digits among them, from the package `kanjivg`
  (``pip install anydiff[kanji]``).

References:
    KanjiVG, by Ulrich Apel. https://kanjivg.tagaini.net (CC BY-SA 3.0)
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import numpy as np

from anydiff.extras import extra
from anydiff.files import PathLike
from anydiff.sketches.files import read_sketches
from anydiff.sketches.sketches import SketchError, Sketches
from anydiff.sketches.svg_commands import MOST_POINTS
from anydiff.sketches.svg_paths import Paths, flatten

__all__ = ["kanjivg_folder", "load_kanji", "read_kanjivg"]

_PATH = re.compile(r'<path\b[^<>]*?\sd="([^"]*)"')
_FILE = re.compile(r"((?:10|0?[0-9a-f])?[0-9a-f]{4})(-.+)?")  # up to Unicode's last, 10ffff


def load_kanji(data: str = "3k") -> Sketches:
    """KanjiVG, labelled with the characters.

    Curves are polylines. In the shipped subset they are simplified and rounded to 1/16, at most 0.2
    of the 109 units from the curves; in the full set, at most 0.05.

    Arguments:
        data: ``"3k"``, the shipped subset, or ``"full"``.

    Raises:
        ImportError: ``"full"``, and the package `kanjivg` is not installed.
        ValueError: `data` is something else.
    """
    if data == "full":
        return read_kanjivg()
    if data != "3k":
        raise ValueError(f'data is {data!r}; there are "3k" and "full".')
    return read_sketches(Path(__file__).with_name("kanji_3k.npz"), name="kanji")


def read_kanjivg(
    folder: PathLike | None = None,
    *,
    tolerance: float = 0.05,
    variants: bool = False,
    progress: bool = True,
) -> Sketches:
    """The characters of KanjiVG's SVG files, by ascending number; a few seconds for all.

    Arguments:
        folder: Where the files are; by default those of the installed package `kanjivg`.
        tolerance: How far a polyline may be from its curve, where the box has a side of 109.
        variants: Include other ways of writing, files such as `04e14-Kaisho.svg`, which are labelled
            with the same character.
        progress: Show a progress bar.

    Raises:
        SketchError: The folder has no such files, or a faulty one, which the message names.
        ImportError: `folder` is None, and the package is not installed.
    """
    folder = kanjivg_folder() if folder is None else Path(folder)
    files = []
    for path in sorted(folder.glob("*.svg")):
        match = _FILE.fullmatch(path.stem)
        if match and (variants or match[2] is None) and path.is_file():
            files.append((path, chr(int(match[1], 16))))
    if not files:
        raise SketchError(f"{folder}: there are no files like 04e00.svg.")

    from tqdm import tqdm

    drawn = Paths()
    most = MOST_POINTS * len(files)
    sizes: list[int] = []
    for path, _ in tqdm(files, desc="reading KanjiVG", unit=" files", disable=not progress):
        before = len(drawn)
        try:
            for d in _PATH.findall(path.read_text(encoding="utf-8")):
                if fault := drawn.add(d, tolerance, most):
                    raise SketchError(fault)
        except (OSError, ValueError) as error:  # SketchError and UnicodeDecodeError among them
            raise SketchError(f"{path}: {error}") from error
        if len(drawn) == before:
            raise SketchError(f"{path}: there is no stroke in it.")
        sizes.append(len(drawn) - before)
    try:
        points, strokes = flatten(drawn.starts, drawn.curves, drawn.ends, tolerance, most)
    except SketchError as error:
        raise SketchError(f"{folder}: {error}") from error
    labels = [character for _, character in files]
    return Sketches(points, strokes, np.cumsum([0, *sizes]), labels, name="kanjivg")


def kanjivg_folder() -> Path:
    """The folder of the files of the package `kanjivg`, without importing anything.

    Raises:
        ImportError: If it is not installed.
    """
    with extra("kanji", "give the folder of KanjiVG's SVG files"):
        distribution = metadata.distribution("kanjivg")
    return Path(str(distribution.locate_file("kanji")))
