"""Sketches by name or path, and their parts for training, validation and test."""

from __future__ import annotations

import os
from collections.abc import Sized

import numpy as np

from anydiff.data.batches import Split
from anydiff.files import PathLike
from anydiff.sketches.fields import SketchError
from anydiff.sketches.files import read_sketches
from anydiff.sketches.geometry import scale
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.sketches import Sketches

__all__ = ["load_sketches", "split"]


def load_sketches(data: PathLike, *, skip_empty: bool = False, normalise: bool = False) -> Sketches:
    """Read sketches by name or path.

    Arguments:
        data: ``"kanji"``, the characters shipped with the package; ``"kanjivg"``, all of KanjiVG from
            the package of this name; or a path for :func:`~anydiff.sketches.files.read_sketches`.
        skip_empty: Of a path: leave out empty sketches, as `read_sketches` does.
        normalise: Bring each sketch to the size 1, around the origin, by
            :func:`~anydiff.sketches.geometry.scale`. Its own size and place are not kept.

    Raises:
        SketchError: As `read_sketches`.
        ImportError: ``"kanjivg"``, and that package is not installed.
    """
    if data in ("kanji", "kanjivg"):
        sketches = load_kanji("3k" if data == "kanji" else "full")
    elif not os.path.exists(data):
        raise SketchError(f"{data}: give kanji, kanjivg, or the path of a file or folder.")
    else:
        sketches = read_sketches(data, skip_empty=skip_empty)
    return scale(sketches) if normalise else sketches


def split(sketches: Sized) -> Split:
    """Numbers of the sketches for training, validation and test, the same each time.

    A permutation by NumPy's legacy generator, seed 0, is cut at 80 and 90 %. The first two parts are
    rounded down.

    Arguments:
        sketches: All of them, of which only the number counts.
    """
    num = len(sketches)
    order = np.random.RandomState(0).permutation(num)
    return Split(*np.split(order, [num * 8 // 10, num * 8 // 10 + num // 10]))
