"""`anydiff evaluate`: figures of a file of molecules, sketches or images, beside those of real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from anydiff.cli.runs import kind_of

__all__ = ["evaluate"]

_KINDS = {
    "molecules": (".sdf", ".mol", ".xyz"),
    "sketches": (".ndjson", ".svg", ".inkml"),
    "images": (".npz",),
}


def evaluate(
    file: Path,
    *,
    against: str,
    kind: Literal["molecules", "sketches", "images"] | None = None,
    root: str | None = None,
    size: int | None = None,
    inception: str | None = None,
    out: Path | None = None,
) -> None:
    """Measure a file of items against the held-out part of data.

    Arguments:
        file: What is measured: an .sdf or .xyz of molecules, an .ndjson of sketches, an .npz of images,
            or another file or folder, with its kind.
        against: The data, by name (5k, full; kanji, kanjivg; digits, cifar10) or path. They are split as
            they are for training, and the held-out part is compared with.
        kind: What is in the file; by its ending if not given.
        root: Where molecules of PyG's QM9, or CIFAR-10, are.
        size: Bring the pictures of the data to so many pixels a side.
        inception: Of images: a file with the weights of torch-fidelity's Inception v3, to measure FID.
        out: A file for the table; it is printed in any case.

    Raises:
        ValueError: If the kind is not plain, or a file cannot be read.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; give one that was drawn.")
    found = [name for name, ends in _KINDS.items() if file.suffix.lower() in ends]
    name = kind or (found[0] if found else None)
    if name is None:
        raise ValueError(f"{file}: what it holds is not plain from its name; give --kind.")
    given = {"root": root, "size": size, "inception": inception}
    known = {"molecules": ("root",), "sketches": (), "images": ("root", "size", "inception")}[name]
    if wrong := [flag for flag, value in given.items() if value and flag not in known]:
        raise ValueError(f"--{wrong[0]} is not about {name}; leave it out.")
    module = kind_of(name)
    place: dict[str, Any] = {k: given[k] for k in ("root", "size") if k in known}
    more: dict[str, Any] = {"inception": inception} if inception else {}
    drawn = module.read_items(str(file))
    text = module.measure(drawn, module.read_data(against, **place), **more)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
