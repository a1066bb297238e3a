r"""Sketches in the files of NumPy, npz and npy.

Our own npz holds the arrays of :class:`~anydiff.sketches.sketches.Sketches`: `points`, `strokes`,
`offsets` and, if known, `labels` and `times`; and `label_sizes`, the letters of each label, if one
ends with a NUL, which NumPy cuts off. A smaller form has integers `steps` (P, 2) from each
point to the next, whose running sum times `unit` gives the points, and instead of the offsets
`stroke_sizes` (S,), the points of each stroke, and `sketch_sizes` (M,), the strokes of each sketch.
Also read are

- stroke-3 rows end to end: `strokes` (N, 3) and `offsets` (M + 1,), optional `labels`, or `label` with
  the names in `categories`; `split` numbers with `split_names`; `unit`, which rows are multiples of;
- sketch-rnn's files: arrays `train`, `valid`, `test` of stroke-3 arrays, or of stroke-5;
- one array of rows (n, 3) or (n, 5), or (M, n, 5) of many sketches.

Arrays of arrays, or of Python's strings, are pickles within NumPy's files. They are read without
unpickling (:mod:`anydiff.data.pickles`), so that no file can run code.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anydiff.checks import check_range
from anydiff.data.pickles import read_pickle
from anydiff.files import PathLike, whole
from anydiff.sketches.sketches import SketchError, Sketches, from_stroke3, from_stroke5

__all__ = ["check_ending", "check_size", "read_arrays", "write_npz"]

_PARTS = ("train", "valid", "test")
_NUMBERS = (
    *("points", "strokes", "offsets", "times", "steps", "unit", "stroke_sizes", "sketch_sizes"),
    *("label", "split", "label_sizes"),
)
# bytes, and how many times those of the file: sketches never exceed both at once
_LARGE, _RATIO = 2**30, 100


def read_arrays(path: PathLike, name: str | None = None, part: str | None = None) -> Sketches:
    """Read the sketches of an npz or npy file.

    Arguments:
        path: The file.
        name: What errors call it; by default the path.
        part: ``"train"``, ``"valid"`` or ``"test"`` if the file has these parts; by default all.

    Raises:
        SketchError: The file is cut short or faulty, would fill the memory, or has no such part.
    """
    name = name or str(path)
    try:
        if Path(path).suffix.lower() == ".npy":
            arrays = {"strokes": _array(Path(path).read_bytes(), name)}
        else:
            with zipfile.ZipFile(path) as file:
                size = sum(member.file_size for member in file.infolist())
                check_size(size, Path(path).stat().st_size, name)
                arrays = {}
                for member in file.infolist():
                    raw = _unpacked(file, member, where := f"{name}, {member.filename}")
                    arrays[member.filename.removesuffix(".npy")] = _array(raw, where)
    except SketchError:
        raise
    except Exception as error:  # zipfile and NumPy raise a dozen kinds on faulty files
        raise SketchError(f"{name}: not a readable file, or cut short ({error}).") from error

    try:
        for key in arrays.keys() & set(_NUMBERS):
            if isinstance(arrays[key], list) and len(arrays) > 1:
                raise SketchError(f"{name}: {key} is of Python objects; give an array of numbers.")
        if arrays.keys() & {"points", "steps"}:
            if part is not None:
                raise SketchError(f"{name}: has no parts; leave out part={part!r}.")
            return _own(arrays, name)
        if {"strokes", "offsets"} <= arrays.keys():
            return _flat(arrays, name, part)
        if arrays.keys() & set(_PARTS):
            return _parts(arrays, name, part)
        if len(arrays) == 1 and part is None:
            return _rows(next(iter(arrays.values())), name)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, SketchError):
            raise
        raise SketchError(f"{name}: its arrays do not fit together ({error}).") from error
    raise SketchError(
        f"{name}: holds {sorted(arrays)}; give strokes and offsets, {', '.join(_PARTS)}, or a single "
        "array of stroke-3 or stroke-5 rows."
    )


def check_size(size: int, packed: int, name: str) -> None:
    """An error if a small file would fill the memory.

    Arguments:
        size: Its bytes unpacked.
        packed: Its bytes as they are.
        name: What the error calls it.

    Raises:
        SketchError: It is so.
    """
    if size > max(_LARGE, _RATIO * packed):
        raise SketchError(
            f"{name}: its {packed:,} bytes unpack to {size:,}, far more than sketches do. If you trust "
            "the file, load it with NumPy and give Sketches or from_stroke3 its arrays."
        )


def _unpacked(file: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> bytes:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # the only two that NumPy writes, and the only ones that zipfile can stop at a size
        raise SketchError(f"{name}: not compressed as by NumPy; write it with np.savez_compressed.")
    with file.open(member) as stream:
        return stream.read(member.file_size)  # without a size it may unpack more than it declares


def _own(arrays: dict[str, Any], name: str) -> Sketches:
    if "points" in arrays:
        points, strokes, offsets = (arrays[key] for key in ("points", "strokes", "offsets"))
    else:
        points = np.cumsum(arrays["steps"], axis=0, dtype=np.int64) * float(arrays["unit"])
        strokes, offsets = (
            np.concatenate([[0], np.cumsum(arrays[key], dtype=np.int64)])
            for key in ("stroke_sizes", "sketch_sizes")
        )
    labels = _texts(arrays, "labels", name) if "labels" in arrays else None
    if labels is not None and "label_sizes" in arrays:
        sizes = arrays["label_sizes"].tolist()
        labels = [label.ljust(size, "\0") for label, size in zip(labels, sizes, strict=True)]
    return Sketches(points, strokes, offsets, labels, arrays.get("times"), name)


def _flat(arrays: dict[str, Any], name: str, part: str | None) -> Sketches:
    offsets = arrays["offsets"]
    rows = arrays["strokes"]
    if rows.ndim != 2 or len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(rows):
        raise SketchError(f"{name}: offsets should run from 0 to the rows of strokes {rows.shape}.")
    labels = None
    if "labels" in arrays:
        labels = _texts(arrays, "labels", name)
    elif "label" in arrays:
        labels = arrays["label"].tolist()
        if "categories" in arrays:
            labels = np.array(_texts(arrays, "categories", name), object)[arrays["label"]].tolist()
        labels = list(map(str, labels))
    sketches = from_stroke3(np.split(rows, offsets[1:-1]) if len(offsets) > 1 else [], labels, name)
    if "unit" in arrays:
        sketches = replace(sketches, points=sketches.points * float(arrays["unit"]))
    if part is None:
        return sketches
    names = _texts(arrays, "split_names", name) if "split_names" in arrays else list(_PARTS)
    if "split" not in arrays or part not in names:
        have = names if "split" in arrays else "none"
        raise SketchError(f"{name}: has no part {part!r}; its parts are {have}.")
    return sketches.subset(arrays["split"] == names.index(part))


def _texts(arrays: dict[str, Any], key: str, name: str) -> list[str]:
    """An array of strings, or a list of Python's strings, as a list."""
    texts = arrays[key] if isinstance(arrays[key], list) else np.atleast_1d(arrays[key]).tolist()
    if any(isinstance(text, (list, np.ndarray)) for text in texts):
        raise SketchError(f"{name}: {key} should be one string for each.")
    return [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in texts]


def _parts(arrays: dict[str, Any], name: str, part: str | None) -> Sketches:
    names = [key for key in _PARTS if key in arrays] if part is None else [part]
    rows: list[np.ndarray] = []
    for key in names:
        if key not in arrays:
            raise SketchError(f"{name}: has no part {key!r}; it holds {sorted(arrays)}.")
        rows += list(arrays[key])
    return _rows(rows, name)


def _rows(array: Any, name: str) -> Sketches:
    many = list(array) if isinstance(array, list) or array.ndim == 3 else [array]
    if many and np.ndim(many[0]) == 2 and np.shape(many[0])[1] == 5:
        return from_stroke5(many, name=name)
    return from_stroke3(many, name=name)


# pickles --------------------


def _array(raw: bytes, name: str) -> Any:
    """The array in the bytes of an npy file; a list if it holds arrays or strings."""
    if raw[:6] != b"\x93NUMPY":
        raise SketchError(f"{name}: not a NumPy array.")
    begin = 10 if raw[6] == 1 else 12
    end = begin + int.from_bytes(raw[8:begin], "little")
    if b"'|O'" not in raw[begin:end]:
        return np.load(io.BytesIO(raw), allow_pickle=False)
    try:
        value = read_pickle(raw[end:])
    except ValueError as error:
        raise SketchError(f"{name}: {error}") from error
    try:
        if not (isinstance(value.raw, list) and len(value.shape) in (1, 3)):
            raise ValueError("not a row of arrays")
        if len(value.shape) == 3:  # arrays of one size, which NumPy took apart
            if not all(type(number) in (int, float) for number in value.raw):
                raise ValueError("not a row of arrays of numbers")
            return np.array(value.raw, np.float64).reshape(value.shape)
        if all(isinstance(item, str) for item in value.raw):
            return value.raw
        rows = [item.numbers() for item in value.raw]
    except Exception as error:  # what a pickle has for an array may hold anything
        raise SketchError(
            f"{name}: its pickle is cut short or not of arrays ({type(error).__name__}: {error})."
        ) from error
    # a pickle may repeat one many times
    check_size(sum(row.nbytes for row in rows), len(raw), name)
    return rows


# writing --------------------


def write_npz(path: PathLike, sketches: Sketches, *, unit: float | None = None) -> None:
    """Write sketches to an npz file without pickles, which `read_sketches` reads.

    Arguments:
        path: The file, which ends in .npz, and is complete or absent.
        sketches: What to write; everything but the name is kept.
        unit: If given, coordinates are rounded to multiples of it and kept as integer steps from point
            to point, which takes a fraction of the space. Nothing is lost if they are such multiples
            already and the unit is a power of two.

    Raises:
        SketchError: The path has another ending, or the unit is so small that coordinates have more
            than 2⁵³ of it.
        ValueError: The unit is not positive and finite.
    """
    check_ending(path, ".npz")
    if unit is None:
        own = ("points", "strokes", "offsets")
        arrays: dict[str, Any] = {key: getattr(sketches, key) for key in own}
    else:
        check_range("(0, inf)", unit=unit)
        with np.errstate(over="ignore"):
            multiples = np.rint(sketches.points.astype(np.float64) / unit)
        if not (np.abs(multiples) <= 2**53).all():
            raise SketchError(
                f"{sketches.name}: a coordinate is over 2⁵³ times {unit}; give a larger unit."
            )
        rounded = multiples.astype(np.int64)
        arrays = {
            "steps": _small(np.diff(rounded, axis=0, prepend=np.zeros((1, 2), np.int64))),
            "unit": np.array(float(unit)),
            "stroke_sizes": _small(sketches.stroke_sizes),
            "sketch_sizes": _small(sketches.counts),
        }
    if sketches.labels is not None:
        arrays["labels"] = np.array(list(sketches.labels), dtype=np.str_)
        if any(label.endswith("\0") for label in sketches.labels):
            arrays["label_sizes"] = np.array(list(map(len, sketches.labels)))
    if sketches.times is not None:
        arrays["times"] = sketches.times
    with whole(path, ".npz") as temporary:
        np.savez_compressed(temporary, **arrays)
        with zipfile.ZipFile(temporary) as file:
            size = sum(member.file_size for member in file.infolist())
        if size > max(_LARGE, _RATIO * Path(temporary).stat().st_size):
            np.savez(temporary, **arrays)  # a small file of so much would not be read


def check_ending(path: PathLike, ending: str) -> None:
    """An error if a file would not be read again because of its name.

    Arguments:
        path: The file.
        ending: What it should end in.

    Raises:
        SketchError: It ends otherwise.
    """
    if Path(path).suffix.lower() != ending:
        raise SketchError(f"{path} is to be read by its ending; give a name that ends in {ending}.")


def _small(values: np.ndarray) -> np.ndarray:
    """The same integers in the smallest type that holds them all."""
    low, high = values.min(initial=0), values.max(initial=0)
    types = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64)
    fitting = (t for t in types if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return values.astype(next(fitting))
