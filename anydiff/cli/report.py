"""`report.html` of a run, and `anydiff view`: pages to look at what was drawn, without a network."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from anydiff.cli.options import check_packages
from anydiff.cli.runs import kind_of, kind_of_file, printable, writable
from anydiff.pages import Page, facts, figures, picture

__all__ = ["NAME", "in_turn", "view", "write_report"]

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
    table: str = "",
    pictures: Mapping[str, str] | None = None,
) -> None:
    """The page of a run: what was asked, its figures, what was drawn, and pictures of its folder.

    A run does not fail because its page does: what is wrong is printed.

    Arguments:
        folder: With the files of the run.
        kind: "molecules", "sketches", "images" or "smiles".
        title: Of the page.
        drawn: Items of the kind; None after a training.
        before: What they were begun from.
        asked: What was asked for, by name; what is None is left out.
        captions: What each item was asked to be.
        table: The figures, as they are printed.
        pictures: The names of files in the folder, such as curve.png, by the headings above them.
    """
    page = Page(title)
    try:
        page.add("What was asked", facts(asked or {}))
        page.add("Figures", figures(table) if table else "")
        if drawn is not None:
            kind_of(kind).show(page, folder, drawn, before, captions)
        for heading, name in (pictures or {}).items():
            page.add(heading, picture(folder / name, heading.lower()))
        page.write(folder / NAME)
    except (ValueError, OSError, ImportError) as error:
        print(f"no {NAME}: {printable(str(error))}")


def in_turn(wishes: Mapping[str, Any], skip: int, num: int) -> list[str]:
    """What each item was asked to be, where several texts or patterns were asked for in turn.

    Arguments:
        wishes: What was asked for, by name.
        skip: How many items were left out before.
        num: How many there are.
    """
    asked: Any = next((wishes[name] for name in ("text", "pattern") if name in wishes), [])
    texts = [asked] if isinstance(asked, str) else list(asked)
    return [texts[(skip + k) % len(texts)] for k in range(num)] if texts else []


def view(
    file: Path,
    *,
    kind: Literal["molecules", "sketches", "images", "smiles"] | None = None,
    out: Path | None = None,
    browser: bool = True,
) -> None:
    """Look at a file of molecules, sketches, images or SMILES, or at the folder of a run, in a browser.

    Arguments:
        file: An .sdf or .xyz file of molecules, .ndjson or .svg of sketches, .npz of images, .smi of
            SMILES, another one or a folder with --kind; or the folder of a run, which has a report.html.
        kind: What the file holds; by default derived from its extension.
        out: The page to write; by default next to the file, with .html after its name.
        browser: Open the page.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the kind is not plain, a file cannot be read, or another one would be replaced.
    """
    file = file.absolute()
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
    if browser and not webbrowser.open(path.absolute().as_uri()):
        print("no browser was found here; open the file in one.")


def _place(file: Path, out: Path | None) -> Path:
    """Where the page goes: of what is there, only an older page is replaced."""
    if out is None and not file.name:
        raise ValueError(f"{file} has no name for the page to have; give one by --out.")
    path = file.with_name(f"{file.name}.html") if out is None else out
    old = path.is_file() and path.name != NAME and _MADE in path.read_bytes()[:2000]
    if path.exists() and not old:
        raise ValueError(
            f"{path} is there, and no page of anydiff's view; give another file by --out."
        )
    writable(path.parent)
    return path
