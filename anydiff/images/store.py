"""Images that are larger than memory, in a folder of numbered files (:mod:`anydiff.data.stored`).

`store.write(source, folder)` writes one, and `store.open(folder)` opens it.
"""

from __future__ import annotations

from anydiff.data.stored import Storage
from anydiff.images.arrays import read_array, write_array
from anydiff.images.files import read_parts
from anydiff.images.images import Images

__all__ = ["open", "write"]

_OWN: Storage[Images] = Storage(read_array, Images.concatenate, read_parts, write_array)
open, write = _OWN.open, _OWN.write
