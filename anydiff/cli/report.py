"""`report.html` of a run, and `anydiff view`: pages to look at what was drawn, without a network."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from anydiff.cli.options import check_packages
from anydiff.cli.runs import kind_of, kind_of_file, printable, writable
from anydiff.pages import Page, facts, figures, picture

__all__ = ["view", "write_report"]

NAME = "report.html"
_MADE = b'<meta name="generator" content="anydiff">'


def write_report(
    folder: Path,
    kind: str,
    title: str,
    drawn: Any = None,
    *,
    before: Any = None,
    asked: Mapping[str, Any] | None = None,
    captions: Sequence[str] = (),
) -> Path:
    """The page of a folder: what was asked, the table and the curve that are there, and what was drawn.

    Arguments:
        folder: With the files of a run.
        kind: "molecules", "sketches", "images" or "smiles".
        title: Of the page.
        drawn: Items of the kind; None after a training.
        before: What they were begun from.
        asked: What was asked for, by name; what is None is left out.
        captions: What each item was asked to be.

    Returns:
        The file.

    Raises:
        ImportError: If a package that draws is not installed.
    """
    page, path = Page(title), folder / NAME
    page.add("What was asked", facts(asked or {}))
    if (table := folder / "table.txt").is_file():
        page.add("Figures", figures(table.read_text(encoding="utf-8")))
    if drawn is not None:
        kind_of(kind).show(page, folder, drawn, before, captions)
    page.add("Training", picture(folder / "curve.png", "the loss by training step"))
    page.write(path)
    return path


def view(
    file: Path,
    *,
    kind: Literal["molecules", "sketches", "images", "smiles"] | None = None,
    out: Path | None = None,
    open: bool = True,
) -> None:
    """Look at a file of molecules, sketches, images or SMILES, or at the folder of a run, in a browser.

    Arguments:
        file: An .sdf or .xyz file of molecules, .ndjson or .svg of sketches, .npz of images, .smi of
            SMILES, another one with --kind; or a folder with a report.html.
        kind: What the file holds; by default derived from its extension.
        out: The page to write; by default next to the file, with .html after its name.
        open: Open the page in the browser.

    Raises:
        ValueError: If the kind is not plain, a file cannot be read, or another one would be replaced.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; give a file of samples, or a folder.")
    if (path := file / NAME).is_file() and kind is None:
        if out is not None:
            raise ValueError(
                f"{path} is there already, and --out would be a copy of it; leave it out."
            )
    else:
        name = kind or kind_of_file(file)
        module = kind_of(name)
        check_packages(name, module.PACKAGES)
        items = module.read_items(str(file))
        path = _place(file, out)
        page = Page(printable(file.name), f"{len(items):,} {name}")
        module.show(page, None, items)
        page.write(path)
    print(path)
    if open and not webbrowser.open(path.absolute().as_uri()):
        print("no browser was found here; open the file in one.")


def _place(file: Path, out: Path | None) -> Path:
    """Where the page goes: of what is there, only an older page is replaced."""
    path = file.absolute().with_name(f"{file.name}.html") if out is None else out
    if path.exists() and not (path.is_file() and _MADE in path.read_bytes()[:2000]):
        raise ValueError(f"{path} is there, and no page of anydiff's; give another file by --out.")
    writable(path.parent)
    return path
