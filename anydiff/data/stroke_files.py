r"""Sketches on disk.

Our own npz: `points` (P, 2), `strokes` (S + 1,), `offsets` (M + 1,), optional `labels` (M,) and
`times` (P,).
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .molecule_files import whole
from .strokes import SketchError, Sketches

__all__ = ["read_sketches", "write_npz"]

PathLike = str | os.PathLike[str]


def read_sketches(path: PathLike, name: str | None = None) -> Sketches:
    path = Path(path)
    name = name or str(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise SketchError(f"{path}: not a readable npz file, or cut short ({error}).") from error
    return _from_arrays(arrays, name)


def _from_arrays(arrays: dict[str, np.ndarray], name: str) -> Sketches:
    if "steps" in arrays:
        points = np.cumsum(arrays["steps"], axis=0, dtype=np.int64) * float(arrays["unit"])
    else:
        points = arrays["points"]
    strokes, offsets = (
        np.concatenate([[0], np.cumsum(arrays[key], dtype=np.int64)])
        for key in ("stroke_sizes", "sketch_sizes")
    )
    return Sketches(
        points,
        strokes,
        offsets,
        arrays["labels"].tolist() if "labels" in arrays else None,
        arrays.get("times"),
        name,
    )


def write_npz(path: PathLike, sketches: Sketches, *, unit: float | None = None) -> None:
    """Writes sketches so that `read_sketches` gives them back.

    Arguments:
        unit: Round coordinates to multiples of this and keep them as integer steps from point to
            point, which takes a fraction of the space; a power of two loses nothing more.
    """
    arrays = {
        "stroke_sizes": _small(np.diff(sketches.strokes)),
        "sketch_sizes": _small(np.diff(sketches.offsets)),
    }
    if unit is None:
        arrays["points"] = sketches.points
    else:
        whole_steps = np.diff(np.rint(sketches.points / unit).astype(np.int64), axis=0, prepend=0)
        arrays |= {"steps": _small(whole_steps), "unit": np.array(float(unit))}
    if sketches.labels is not None:
        arrays["labels"] = np.array(list(sketches.labels), dtype=np.str_)
    if sketches.times is not None:
        arrays["times"] = sketches.times
    with whole(path, ".npz") as temporary:
        np.savez_compressed(temporary, **arrays)


def _small(values: np.ndarray) -> np.ndarray:
    """The same integers in the smallest type that holds them all."""
    low, high = values.min(initial=0), values.max(initial=0)
    types = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64)
    return values.astype(next(t for t in types if np.iinfo(t).min <= low and high <= np.iinfo(t).max))
