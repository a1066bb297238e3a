"""Sketches that are larger than memory, in a folder of numbered files (:mod:`anydiff.data.stored`).

`store.write(source, folder)` writes one, and `store.open(folder)` opens it.
"""

from __future__ import annotations

from anydiff.data.stored import Storage
from anydiff.sketches.files import read_parts, read_sketches, write_npz
from anydiff.sketches.sketches import Sketches

__all__ = ["open", "write"]

_OWN: Storage[Sketches] = Storage(read_sketches, Sketches.concatenate, read_parts, write_npz)
open, write = _OWN.open, _OWN.write
