r"""Files of sketches: the reader for each kind of file, and the lines of Quick, Draw!

Reading returns :class:`~anydiff.sketches.sketches.Sketches`, or raises a
:class:`~anydiff.sketches.sketches.SketchError` that names the file and the line or the sketch.

- `.ndjson`: Quick, Draw!, one sketch in each line, ``{"word": …, "drawing": [[xs, ys], …]}``; in the raw
  form with times in milliseconds, ``[xs, ys, ts]``. Labels are the words.
- `.npz`, `.npy`: stroke-3 and stroke-5, sketch-rnn's files, our own (:mod:`~anydiff.sketches.arrays`).
- `.svg` and `.inkml`: one sketch in each file (:mod:`~anydiff.sketches.svg`,
  :mod:`~anydiff.sketches.inkml`).
- A folder of `.svg`, `.inkml` and `.ndjson` files, sorted by name. Where a file has no labels, its name
  without the ending is the label.

Writing is atomic: a file is complete or absent.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from anydiff.files import PathLike, whole
from anydiff.sketches.arrays import read_arrays, write_npz
from anydiff.sketches.inkml import read_inkml
from anydiff.sketches.sketches import EmptySketch, SketchError, Sketches
from anydiff.sketches.svg import read_svg

__all__ = ["read_sketches", "write_ndjson", "write_npz"]

_ENDINGS = (".ndjson", ".npz", ".npy", ".svg", ".inkml")
_IN_FOLDERS = (".ndjson", ".svg", ".inkml")


def read_sketches(
    path: PathLike,
    name: str | None = None,
    *,
    part: str | None = None,
    tolerance: float | None = None,
    skip_empty: bool = False,
) -> Sketches:
    """Read the sketches of a file or a folder.

    Arguments:
        path: A file that ends in .ndjson, .npz, .npy, .svg or .inkml, or a folder.
        name: What errors call it; by default the path.
        part: ``"train"``, ``"valid"`` or ``"test"`` of an npz that has these parts; by default all.
        tolerance: How far curves of SVG files may be off, see :func:`~anydiff.sketches.svg.read_svg`.
        skip_empty: Leave out sketches of ndjson, SVG and InkML in which nothing is drawn, and strokes
            of ndjson without points; otherwise they are errors. A `<path>` or `<trace>` without
            points is always left out if others in the file have some.

    Raises:
        SketchError: A file is missing, cut short or faulty; the message names it and the place in it.
    """
    path = Path(path)
    name = name or str(path)
    ending = path.suffix.lower()
    if path.is_dir():
        return _read_folder(path, name, part=part, tolerance=tolerance, skip_empty=skip_empty)
    if ending not in _ENDINGS:
        raise SketchError(f"{name}: give a folder, or a file that ends in {', '.join(_ENDINGS)}.")
    if not path.is_file():
        raise SketchError(f"{name}: there is no such file.")
    if ending in (".npz", ".npy"):
        return read_arrays(path, name, part)
    if part is not None:
        raise SketchError(f"{name}: a {ending} file has no parts; leave out part={part!r}.")
    if ending == ".ndjson":
        return _read_ndjson(path, name, skip_empty)
    try:
        return read_svg(path, tolerance, name) if ending == ".svg" else read_inkml(path, name)
    except EmptySketch:
        if not skip_empty:
            raise
        return Sketches.from_lists([], name=name)


def _read_folder(folder: Path, name: str, **options: Any) -> Sketches:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _IN_FOLDERS)
    if not paths:
        raise SketchError(f"{name}: there are no files in it that end in {', '.join(_IN_FOLDERS)}.")
    files = [read_sketches(path, **options) for path in paths]
    labels: list[str] = []
    for path, sketches in zip(paths, files, strict=True):
        labels += [path.stem] * len(sketches) if sketches.labels is None else list(sketches.labels)
    timed = all(sketches.times is not None for sketches in files if len(sketches))
    sizes = [sketches.stroke_sizes for sketches in files]
    counts = [sketches.counts for sketches in files]
    times = [sketches.times for sketches in files if sketches.times is not None]
    return Sketches(
        np.concatenate([sketches.points for sketches in files]),
        np.cumsum(np.concatenate([[0], *sizes])),
        np.cumsum(np.concatenate([[0], *counts])),
        labels,
        np.concatenate(times) if timed and labels else None,
        name,
    )


# ndjson --------------------


def _read_ndjson(path: Path, name: str, skip_empty: bool) -> Sketches:
    values: tuple[list[float], ...] = ([], [], [])  # x, y, t of all points
    sizes: list[int] = []
    counts: list[int] = []
    words: list[str | None] = []
    lists = 0  # in each stroke: 2, or 3 with times
    try:
        with open(path, encoding="utf-8") as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue

                def wrong(message: str, line: int = line) -> SketchError:
                    return SketchError(f"{name}, line {line}: {message}")

                try:
                    record = json.loads(text)
                except (json.JSONDecodeError, RecursionError) as error:
                    raise wrong(f"not JSON, or cut short ({error}).") from None
                except ValueError:  # an integer of thousands of digits
                    raise wrong("holds a number that is not finite.") from None
                drawing = record.get("drawing") if isinstance(record, dict) else None
                if not isinstance(drawing, list):
                    raise wrong('should be an object with a list "drawing".')
                count = 0
                for s, stroke in enumerate(drawing):
                    fault = _stroke_fault(stroke, lists)
                    if fault:
                        raise wrong(f"stroke {s} {fault}.")
                    lists = len(stroke)
                    if not stroke[0]:
                        if skip_empty:
                            continue
                        raise wrong(f"stroke {s} is empty; skip_empty=True leaves such ones out.")
                    for kept, new in zip(values, stroke, strict=False):
                        kept += new
                    sizes.append(len(stroke[0]))
                    count += 1
                if count:
                    word = record.get("word")
                    counts.append(count)
                    words.append(word if word is None else str(word))
                elif not skip_empty:
                    raise wrong("the drawing is empty; skip_empty=True leaves such sketches out.")
    except (OSError, UnicodeDecodeError) as error:
        raise SketchError(f"{name}: not a readable text file ({error}).") from error
    return Sketches(
        np.array(values[:2], np.float64).T.copy(),
        np.cumsum([0, *sizes]),
        np.cumsum([0, *counts]),
        None if all(word is None for word in words) else [word or "" for word in words],
        np.array(values[2], np.float64) if lists == 3 else None,
        name,
    )


_NUMERIC = {int, float}


def _stroke_fault(stroke: Any, lists: int) -> str | None:
    """What is wrong with a stroke [xs, ys] or [xs, ys, ts], or None."""
    if not (
        isinstance(stroke, list)
        and len(stroke) in (2, 3)
        and all(isinstance(values, list) for values in stroke)
    ):
        return "should be [[x, …], [y, …]], or that with times [t, …] as a third list"
    sizes = [len(values) for values in stroke]
    if len(set(sizes)) > 1:
        return f"has lists of {', '.join(map(str, sizes))} numbers; they should be as many"
    if lists and len(stroke) != lists:
        return f"has {len(stroke)} lists, but those before have {lists}; times are for all or none"
    for values in stroke:
        if not _NUMERIC.issuperset(map(type, values)):
            bad = next(value for value in values if type(value) not in _NUMERIC)
            return f"holds {reprlib.repr(bad)}, which is not a number"
        try:
            finite = math.isfinite(sum(values))
        except OverflowError:  # an integer beyond any float
            finite = False
        if not finite:
            return "holds a number that is not finite"
    return None


def write_ndjson(path: PathLike, sketches: Sketches) -> None:
    """Write the lines of Quick, Draw!, with words if there are labels, and times if there are times.

    `read_sketches` returns exactly the same numbers.

    Arguments:
        path: The file, which is complete or absent.
        sketches: What to write.
    """
    xs, ys = (_plain(values) for values in sketches.points.T)
    ts = None if sketches.times is None else _plain(np.asarray(sketches.times))
    strokes, offsets = sketches.strokes.tolist(), sketches.offsets.tolist()
    with whole(path, ".ndjson") as temporary, open(temporary, "w", encoding="utf-8") as file:
        for m, (first, last) in enumerate(pairwise(offsets)):
            drawing = [
                [values[a:b] for values in (xs, ys, ts) if values is not None]
                for a, b in pairwise(strokes[first : last + 1])
            ]
            record = {} if sketches.labels is None else {"word": str(sketches.labels[m])}
            text = json.dumps({**record, "drawing": drawing}, separators=(",", ":"))
            file.write(text + "\n")


def _plain(values: np.ndarray) -> Sequence[float]:
    """As Python's integers if all are whole, as in Quick, Draw!, and otherwise as its floats."""
    whole_numbers = (np.abs(values) < 2**53).all() and (values == np.rint(values)).all()
    plain: Sequence[float] = values.astype(np.int64 if whole_numbers else np.float64).tolist()
    return plain
