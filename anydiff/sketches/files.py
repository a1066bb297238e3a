r"""Files of sketches: the reader for each kind of file, and the lines of Quick, Draw!

Reading returns :class:`~anydiff.sketches.sketches.Sketches`, or raises a
:class:`~anydiff.sketches.sketches.SketchError` that names the file and the line or the sketch.

- `.ndjson`, `.ndjson.gz`: Quick, Draw!, one sketch in each line, ``{"word": …, "drawing": [[xs, ys],
  …]}``; in the raw form with times in milliseconds, ``[xs, ys, ts]``. Labels are the words. `.json`:
  such lines, or one list of such objects.
- `.npz`, `.npy`: stroke-3 and stroke-5, sketch-rnn's files, our own (:mod:`~anydiff.sketches.arrays`).
- `.svg` (or `.svgz`) and `.inkml` (or `.xml`): one sketch in each file (:mod:`~anydiff.sketches.svg`,
  :mod:`~anydiff.sketches.inkml`).
- A folder of such files, except `.json` and `.xml`, and their folders, sorted by path. Where a file has
  no labels, its name without the ending is the label. Hidden files are passed over, others counted in a
  warning.

Writing is atomic: a file is complete or absent.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import reprlib
import warnings
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anydiff.data.stored import cut
from anydiff.files import PathLike, whole
from anydiff.sketches.arrays import check_ending, check_size, read_arrays, write_npz
from anydiff.sketches.inkml import read_inkml
from anydiff.sketches.sketches import EmptySketch, SketchError, Sketches
from anydiff.sketches.svg import read_svg

__all__ = ["read_parts", "read_sketches", "write_ndjson", "write_npz"]

_IN_FOLDERS = (".ndjson", ".npz", ".npy", ".svg", ".inkml", ".ndjson.gz", ".svgz")
_ENDINGS = (*_IN_FOLDERS, ".json", ".xml")
_LINES = (".ndjson", ".ndjson.gz", ".json")


def read_sketches(
    path: PathLike,
    name: str | None = None,
    *,
    part: str | None = None,
    tolerance: float | None = None,
    skip_empty: bool = False,
    num: int | None = None,
    recognized: bool = False,
) -> Sketches:
    """Read the sketches of a file or a folder.

    Arguments:
        path: A file that ends in .ndjson, .npz, .npy, .svg, .inkml, .ndjson.gz, .svgz, .json or .xml; or
            a folder.
        name: What errors call it; by default the path.
        part: ``"train"``, ``"valid"`` or ``"test"`` of an npz that has these parts; by default all.
        tolerance: How far curves of SVG files may be off, see :func:`~anydiff.sketches.svg.read_svg`.
        skip_empty: Leave out sketches of ndjson, SVG and InkML in which nothing is drawn, and strokes
            of ndjson without points; otherwise they are errors. A `<path>` or `<trace>` without
            points is always left out if others in the file have some.
        num: The most sketches to read, the first ones; all if None. Lines after them are not read.
        recognized: Leave out sketches that Quick, Draw! did not recognise, ``"recognized": false``.

    Raises:
        SketchError: A file is missing, cut short or faulty; the message names it and the place in it.
            Or `num` is not a number of sketches.
    """
    path = Path(path)
    name = name or str(path)
    if num is not None and not (isinstance(num, (int, np.integer)) and num >= 1):
        raise SketchError(f"num is {num!r}; give a whole number of sketches, 1 or more.")
    if path.is_dir():
        options = {"part": part, "tolerance": tolerance, "skip_empty": skip_empty}
        return _read_folder(path, name, num, recognized=recognized, **options)
    if not path.exists():
        raise SketchError(f"{name}: there is no such file.")
    ending = _ending(path)
    if ending is None:
        raise SketchError(f"{name}: give a folder, or a file that ends in {', '.join(_ENDINGS)}.")
    if not path.is_file():
        raise SketchError(f"{name}: it is no regular file.")
    if ending in (".npz", ".npy"):
        sketches = read_arrays(path, name, part)
        return sketches if num is None else sketches.subset(np.arange(min(num, len(sketches))))
    if part is not None:
        raise SketchError(f"{name}: a {ending} file has no parts; leave out part={part!r}.")
    if ending in _LINES:
        records = _records(path, name)
        return _gathered(records, name, skip_empty=skip_empty, num=num, recognized=recognized)
    try:
        return (
            read_svg(path, tolerance, name)
            if ending in (".svg", ".svgz")
            else read_inkml(path, name)
        )
    except EmptySketch:
        if not skip_empty:
            raise
        return Sketches.from_lists([], name=name)


def _ending(path: Path, endings: Sequence[str] = _ENDINGS) -> str | None:
    """Which of the endings a file has."""
    return next((ending for ending in endings if path.name.lower().endswith(ending)), None)


# folders --------------------


def _read_folder(folder: Path, name: str, num: int | None, **options: Any) -> Sketches:
    paths, others = _files(folder, name)
    if not paths:
        raise SketchError(f"{name}: there are no files in it that end in {', '.join(_IN_FOLDERS)}.")
    if others:
        warnings.warn(
            f"{name}: {len(others)} other files in it are not read, the first is "
            f"{others[0].relative_to(folder)}.",
            stacklevel=3,
        )
    files: list[Sketches] = []
    found = 0
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for path in paths:
            left = None if num is None else num - found
            if left == 0:
                break
            files.append(_labelled(read_sketches(path, num=left, **options), path))
            found += len(files[-1])
    if said:
        more = f"{len(said)} warnings about files in it, the first is: " if len(said) > 1 else ""
        warnings.warn(f"{name}: {more}{said[0].message}", stacklevel=3)
    return Sketches.concatenate(files, name)


def _labelled(sketches: Sketches, path: Path) -> Sketches:
    """Sketches of a file in a folder; without labels of their own they have its name."""
    if sketches.labels is not None:
        return sketches
    stem = path.name[: -len(_ending(path) or "")]
    return replace(sketches, labels=[stem] * len(sketches))


def read_parts(path: PathLike, each: int, **options: Any) -> Iterator[Sketches]:
    """The sketches of a file of lines or a folder, of which a part is in memory at a time.

    Arguments:
        path: An .ndjson file, packed or not; or a folder, whose other files are read one at a time.
        each: The most sketches of a part of lines.
        options: `skip_empty` and `recognized`, as of :func:`read_sketches`.

    Yields:
        Sketches, with the name of their file as labels in a folder if they have no own.

    Raises:
        SketchError: As :func:`read_sketches`.
    """
    path = Path(path)
    if path.is_dir():
        for file in _files(path, str(path))[0]:
            for part in read_parts(file, each, **options):
                yield _labelled(part, file)
    elif path.is_file() and _ending(path) in _LINES:
        for records in cut(_records(path, str(path)), each):
            yield _gathered(records, str(path), **options)
    else:
        yield read_sketches(path, skip_empty=options.get("skip_empty", False))


def _files(folder: Path, name: str) -> tuple[list[Path], list[Path]]:
    """The files of sketches in a folder and in its folders, and the others; hidden ones are neither."""

    def refused(error: OSError) -> None:
        raise SketchError(f"{name}: a folder in it cannot be read ({error}).") from error

    found: list[Path] = []
    others: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        folders[:] = [inner for inner in sorted(folders) if not inner.startswith(".")]
        if (real := os.path.realpath(root)) in seen:  # by links, maybe in a circle
            folders.clear()
            continue
        seen.add(real)
        for path in (Path(root, file) for file in names if not file.startswith(".")):
            readable = _ending(path, _IN_FOLDERS) and path.is_file()  # a pipe would be waited for
            (found if readable else others).append(path)
    return sorted(found), sorted(others)


# lines --------------------


def _gathered(
    records: Iterable[tuple[str, Any]],
    name: str,
    *,
    skip_empty: bool = False,
    num: int | None = None,
    recognized: bool = False,
) -> Sketches:
    values = (array("d"), array("d"), array("d"))  # x, y, t of all points
    sizes, counts = array("q"), array("q")
    words: list[str | None] = []
    lists = 0  # in each stroke: 2, or 3 with times
    for where, record in records:
        drawing = record.get("drawing") if isinstance(record, dict) else None
        if not isinstance(drawing, list):
            raise SketchError(f'{where}: should be an object with a list "drawing".')
        if recognized and record.get("recognized") is False:
            continue
        count = 0
        for s, stroke in enumerate(drawing):
            fault = _stroke_fault(stroke, lists)
            if fault:
                raise SketchError(f"{where}: stroke {s} {fault}.")
            lists = len(stroke)
            if not stroke[0]:
                if skip_empty:
                    continue
                raise SketchError(
                    f"{where}: stroke {s} is empty; skip_empty=True leaves such ones out."
                )
            for kept, new in zip(values, stroke, strict=False):
                kept.extend(new)
            sizes.append(len(stroke[0]))
            count += 1
        if count:
            word = record.get("word")
            counts.append(count)
            words.append(word if word is None else str(word))
        elif not skip_empty:
            raise SketchError(
                f"{where}: the drawing is empty; skip_empty=True leaves such sketches out."
            )
        if len(counts) == num:
            break
    return Sketches(
        np.stack([np.frombuffer(axis, np.float64) for axis in values[:2]], axis=1),
        np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]),
        np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        None if all(word is None for word in words) else [word or "" for word in words],
        np.frombuffer(values[2], np.float64) if lists == 3 else None,
        name,
    )


def _records(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Where each object of a file stands, and the object."""
    try:
        if path.suffix.lower() == ".json":
            text = path.read_text(encoding="utf-8-sig")
            try:
                found = json.loads(text)
            except (ValueError, RecursionError):
                pass  # lines, or faulty ones
            else:
                for m, record in enumerate(found if isinstance(found, list) else [found]):
                    yield f"{name}, record {m}", record
                return
        for line, text in _lines(path, name):
            if text.strip():
                yield f"{name}, line {line}", _parsed(text, f"{name}, line {line}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SketchError(f"{name}: not a readable text file ({error}).") from error


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers, from 1."""
    if path.suffix.lower() != ".gz":
        with open(path, encoding="utf-8-sig") as file:
            yield from enumerate(file, 1)
        return
    packed, size = path.stat().st_size, 0
    with gzip.open(path, "rt", encoding="utf-8-sig") as file:
        for line in itertools.count(1):
            if not (text := file.readline(2**30)):
                return
            size += len(text)
            check_size(size, packed, name)
            yield line, text


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise SketchError(f"{where}: not JSON, or cut short ({error}).") from None
    except ValueError:  # an integer of thousands of digits
        raise SketchError(f"{where}: holds a number that is not finite.") from None


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
        # the sum tells in one go, but it may overflow where no number does
        if not _finite(sum(values)) and not all(map(_finite, values)):
            return "holds a number that is not finite"
    return None


def _finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer beyond any float
        return False


def write_ndjson(path: PathLike, sketches: Sketches) -> None:
    """Write the lines of Quick, Draw!, with words if there are labels, and times if there are times.

    `read_sketches` returns exactly the same numbers.

    Arguments:
        path: The file, which ends in .ndjson, and is complete or absent.
        sketches: What to write.

    Raises:
        SketchError: The path has another ending, by which it would not be read.
    """
    check_ending(path, ".ndjson")
    xs, ys = (_plain(values) for values in sketches.points.T)
    ts = None if sketches.times is None else _plain(np.asarray(sketches.times))
    strokes, offsets = sketches.strokes.tolist(), sketches.offsets.tolist()
    with whole(path, ".ndjson") as temporary, open(temporary, "w", encoding="utf-8") as file:
        for m, (first, last) in enumerate(itertools.pairwise(offsets)):
            drawing = [
                [values[a:b].tolist() for values in (xs, ys, ts) if values is not None]
                for a, b in itertools.pairwise(strokes[first : last + 1])
            ]
            record = {} if sketches.labels is None else {"word": str(sketches.labels[m])}
            text = json.dumps({**record, "drawing": drawing}, separators=(",", ":"))
            file.write(text + "\n")


def _plain(values: np.ndarray) -> np.ndarray:
    """As integers if all are whole, as in Quick, Draw!, and otherwise in float64."""
    whole_numbers = (np.abs(values) < 2**53).all() and (values == np.rint(values)).all()
    whole_numbers &= not (np.signbit(values) & (values == 0)).any()  # -0.0
    return values.astype(np.int64 if whole_numbers else np.float64)
