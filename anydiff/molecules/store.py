"""Molecules that are larger than memory, in a folder of numbered files (:mod:`anydiff.data.stored`).

`store.write(source, folder)` writes one, and `store.open(folder)` opens it.
"""

from __future__ import annotations

from anydiff.data.stored import Storage
from anydiff.molecules.arrays import write_npz
from anydiff.molecules.files import read_molecules, read_parts
from anydiff.molecules.molecules import Molecules

__all__ = ["open", "write"]

_OWN: Storage[Molecules] = Storage(read_molecules, Molecules.concatenate, read_parts, write_npz)
open, write = _OWN.open, _OWN.write
