"""`anydiff evaluate`: figures of a file of molecules, sketches or images, beside those of real ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

from anydiff.cli.options import check_flags, check_packages
from anydiff.cli.runs import kind_of, kind_of_file, positive, printable, writable
from anydiff.files import whole

__all__ = ["evaluate"]

_USES = ("root", "size"), ("inception", "relax", "posebusters")  # by reading, by measuring


def evaluate(
    file: Path,
    *,
    against: str,
    kind: Literal["molecules", "sketches", "images", "smiles"] | None = None,
    root: str | None = None,
    size: int | None = None,
    inception: str | None = None,
    relax: int | None = None,
    posebusters: int | None = None,
    out: Path | None = None,
) -> None:
    """Compute metrics of a file of samples against held-out data.

    Arguments:
        file: Samples: an .sdf or .xyz file of molecules, .ndjson of sketches, .npz of images, .smi of
            SMILES; or another file or folder, with --kind.
        against: Data, by name (5k, full; kanji, kanjivg; digits, cifar10) or path. Samples are compared
            with the held-out part of the split that training uses.
        kind: What the file holds; by default derived from its extension.
        root: Folder of PyG's QM9, or of image files.
        size: Resize the images of the data to this number of pixels a side.
        inception: For images: weights of torch-fidelity's Inception v3, for FID.
        relax: For molecules: relax this many drawn and real ones with GFN2-xTB, to show how far from
            equilibrium they are.
        posebusters: For molecules: let PoseBusters check this many drawn and real ones.
        out: File for the table, which is printed as well.

    Raises:
        ValueError: If the kind is not plain, or a file cannot be read.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; give a file of samples.")
    name = kind or kind_of_file(file)
    given: dict[str, Any] = {"root": root, "size": size, "inception": inception}
    given |= {"relax": relax, "posebusters": posebusters}
    positive(relax=relax, posebusters=posebusters)
    check_flags(name, **given)
    module = kind_of(name)
    check_packages(name, module.MEASURES)
    if relax:
        check_packages("xtb", ("tblite", "scipy", "threadpoolctl"))
    if posebusters:
        check_packages("posebusters", ("posebusters",))
    if out is not None:
        _check_out(out, file, against)
    place, more = ({k: given[k] for k in keys if given[k] is not None} for keys in _USES)
    with warnings.catch_warnings(record=True) as said:
        drawn = module.read_items(str(file))
    lost = sum(getattr(warning.message, "num", 0) for warning in said)
    text = module.measure(drawn, module.read_data(against, **place), lost=lost, **more)
    # such as how many are not finite, and so left out
    text = "\n\n".join([text, *dict.fromkeys(str(warning.message) for warning in said)])
    print("\n".join(map(printable, text.split("\n"))))
    if out is not None:
        with whole(out) as temporary:
            Path(temporary).write_text(text + "\n", encoding="utf-8")


def _check_out(out: Path, *inputs: str | Path) -> None:
    """An error if the table could not be written, or would replace what is evaluated."""
    if out.exists():
        if not out.is_file():
            raise ValueError(f"--out {out} is a folder or a device; give the name of a file.")
        if any(Path(path).exists() and out.samefile(path) for path in inputs):
            raise ValueError(
                f"--out {out} is what is evaluated, and would be lost; give another file."
            )
    writable(out.parent)
