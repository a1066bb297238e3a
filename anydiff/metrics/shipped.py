"""Weights that come with the package: safetensors in half precision, with notes, known by their hash.

A number measured with a network means something only beside one measured with the same network. So a
module that ships one names the SHA-256 of its file, `read` refuses any other, and `write` says the new
one. The same weights and notes give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from anydiff.files import PathLike, whole

__all__ = ["read", "write"]


def read(path: PathLike, sha256: str, way_out: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in float32, and the notes.

    Arguments:
        sha256: The hash that the file must have.
        way_out: What to do where it has another; the error ends with it.

    Raises:
        ValueError: The file's SHA-256 isn't `sha256`.
    """
    data = Path(path).read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(
            f"{path}: its SHA-256 is {found[:12]}…, not {sha256[:12]}…; numbers measured "
            f"with it would compare with nothing. {way_out}"
        )
    size = int.from_bytes(data[:8], "little")  # safetensors: the length of a JSON header
    about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["about"])
    return {name: value.float() for name, value in load(data).items()}, about


def write(path: PathLike, weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """Writes the weights in half precision, with notes `about` them; returns the SHA-256."""
    # one entry: safetensors writes several in any order, and the hash is of all bytes
    notes = json.dumps(about, ensure_ascii=False)
    half = {name: value.half().contiguous() for name, value in weights.items()}
    data = save(half, {"about": notes})
    with whole(path, ".safetensors") as temporary:
        Path(temporary).write_bytes(data)
    return hashlib.sha256(data).hexdigest()
