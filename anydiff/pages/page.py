"""A page and what all kinds of data put on it: facts, tables of figures, pictures, films with a slider.

A page is one file that can be mailed. It holds its pictures, its style and its scripts, and asks its
reader's browser to fetch nothing. Kinds of data add parts of their own, with a script if they move.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anydiff.drawing import pillow, png
from anydiff.files import PathLike, whole

__all__ = [
    "Page", "address", "data", "facts", "figures", "film", "frames_of", "lines", "of_many", "picture",
    "slider", "tiles",
]  # fmt: skip

_HERE = Path(__file__).parent
_IMAGE = "data:image/"
_WIDEST = 760  # of a film's frames, in pixels
_ALLOWED = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


class Page:
    """One HTML file.

        page = Page("A run")
        page.add("Figures", figures(table))
        page.write("report.html")

    Arguments:
        title: Its heading, and what the browser's tab says.
        about: A line below it.
    """

    def __init__(self, title: str, about: str = "") -> None:
        self.title, self.about = title, about
        self._parts: list[str] = []
        self._files: dict[Path, str] = {}

    def add(self, heading: str, content: str, note: str = "", files: Sequence[Path] = ()) -> None:
        """A part of the page; nothing, if it has no content.

        Arguments:
            heading: Above it.
            content: HTML.
            note: A line above the content.
            files: Of JavaScript and of style, which the content needs, in their order; each is there
                once. They come after the page's own, which have `film` and the colours.
        """
        if not content:
            return
        self._files |= {path: path.read_text(encoding="utf-8") for path in files}
        about = f'<p class="note">{html.escape(note)}</p>' if note else ""
        self._parts.append(f"<section><h2>{html.escape(heading)}</h2>{about}{content}</section>")

    def html(self) -> str:
        """The file's text."""
        own = {
            path: path.read_text(encoding="utf-8")
            for path in (_HERE / "page.css", _HERE / "page.js")
        }
        every = own | self._files
        style = "".join(text for path, text in every.items() if path.suffix == ".css")
        title, about = html.escape(self.title), html.escape(self.about)
        scripts = "".join(
            f"<script>{_inside(text)}</script>\n"
            for path, text in every.items()
            if path.suffix == ".js"
        )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_ALLOWED}">\n'
            f'<meta name="generator" content="anydiff">\n<title>{title}</title>\n'
            f"<style>{style}</style>\n</head>\n<body>\n<header><h1>{title}</h1>"
            f"{f'<p>{about}</p>' if about else ''}</header>\n<main>\n"
            + "\n".join(self._parts)
            + f'\n</main>\n<dialog id="large"><img alt=""></dialog>\n{scripts}</body>\n</html>\n'
        )

    def write(self, path: PathLike) -> None:
        """Write the file, which is complete or absent.

        Arguments:
            path: The file.
        """
        with whole(path, ".html") as temporary:
            text = self.html().encode("utf-8", "xmlcharrefreplace")  # half of a pair of surrogates
            Path(temporary).write_bytes(text)


def _inside(script: str) -> str:
    """A script that nothing in it ends."""
    return re.sub(r"</(?=script)", r"<\\/", script, flags=re.I)


def data(values: Any) -> str:
    """Values for a script, as the text of an element that is not shown.

    Arguments:
        values: What JSON can hold.
    """
    text = json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def of_many(shown: int, there: int) -> str:
    """What a note begins with, if not all things are shown.

    Arguments:
        shown: How many are.
        there: How many there are.
    """
    return f"The first {shown:,} of {there:,}. " if shown < there else ""


def facts(pairs: Mapping[str, Any]) -> str:
    """Names and values, side by side.

    Arguments:
        pairs: Values by name; those that are None are left out.
    """
    rows = [
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(_told(value))}</dd></div>"
        for name, value in pairs.items()
        if value is not None
    ]
    return f'<dl class="facts">{"".join(rows)}</dl>' if rows else ""


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        words = any(isinstance(v, str) for v in value)
        return ("; " if words else ", ").join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def figures(text: str) -> str:
    """A table as :func:`anydiff.metrics.tables.aligned` writes it; several, and lines between them, too.

    Arguments:
        text: For a terminal: a header, a line of hyphens, and rows, whose cells stand two spaces apart.
    """
    shown = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        rows = block.split("\n")
        if len(rows) < 2 or set(rows[1]) != {"-"}:
            shown.append(f'<p class="note">{html.escape(block)}</p>')
            continue
        header, *body = (re.split(r" {2,}", row.strip()) for row in (rows[0], *rows[2:]))
        width = max(map(len, (header, *body)))
        heads = [""] * (width - len(header)) + header  # a first column without a title
        cells = "".join(f"<th>{html.escape(c)}</th>" for c in heads)
        filled = ["".join(f"<td>{html.escape(c)}</td>" for c in row) for row in body]
        shown.append(
            f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>'
            + "".join(f"<tr>{row}</tr>" for row in filled)
            + "</tbody></table></div>"
        )
    return "".join(shown)


def lines(texts: Iterable[str]) -> str:
    """Short texts, each in a box of its own.

    Arguments:
        texts: What they say.
    """
    each = "".join(f"<li><code>{html.escape(text)}</code></li>" for text in texts)
    return f'<ul class="lines">{each}</ul>' if each else ""


def tiles(
    contents: Sequence[str], captions: Sequence[str] = (), side: int = 84, kind: str = ""
) -> str:
    """Many things in equal places, row after row, as many in a row as there is room for.

    Arguments:
        contents: The HTML of each.
        captions: Below each, or below the first ones.
        side: The least width of a place in pixels; more for long captions.
        kind: Of what they are, for style sheets and scripts.
    """
    each = []
    for m, content in enumerate(contents):
        words = f"<figcaption>{html.escape(captions[m])}</figcaption>" if m < len(captions) else ""
        each.append(f"<figure>{content}{words}</figure>")
    side = max(side, min(160, 4 * max(map(len, captions), default=0)))
    look = f'class="tiles {kind}" style="--side: {side}px"'
    return f"<div {look}>{''.join(each)}</div>" if each else ""


def address(content: bytes, form: str = "png") -> str:
    """The file of a picture as the address of itself.

    Arguments:
        content: The bytes of the file.
        form: Its format, png or jpeg.
    """
    return f"{_IMAGE}{form};base64,{base64.b64encode(content).decode()}"


def picture(path: Path, alt: str) -> str:
    """A PNG file, which a click enlarges; nothing, if it is not there.

    Arguments:
        path: The file.
        alt: What it shows.
    """
    if not path.is_file():
        return ""
    return f'<img class="picture" alt="{html.escape(alt)}" src="{address(path.read_bytes())}">'


def frames_of(path: Path) -> list[str]:
    """The frames of a GIF, at most 760 pixels wide or tall, as addresses; none, if it is not there.

    Arguments:
        path: The file.
    """
    if not path.is_file():
        return []
    with pillow()[0].open(path) as images:
        found = []
        for k in range(getattr(images, "n_frames", 1)):
            images.seek(k)
            frame = images.convert("RGB")
            if max(frame.size) > _WIDEST:
                frame.thumbnail((_WIDEST, _WIDEST))
            found.append(address(png(frame.quantize(32))))
    return found


def film(frames: Sequence[str], alt: str) -> str:
    """Frames with a slider: pictures, or texts.

    Arguments:
        frames: From the first to the last: addresses of pictures, or texts; nothing is shown for none.
        alt: What they show.
    """
    if not frames:
        return ""
    last, name = html.escape(frames[-1]), html.escape(alt)
    is_image = last.startswith(_IMAGE)
    shown = f'<img alt="{name}" src="{last}">' if is_image else f"<pre>{last}</pre>"
    return f'<div class="film">{shown}{slider(len(frames), name)}{data(list(frames))}</div>'


def slider(count: int, name: str) -> str:
    """What moves through the frames of a film.

    Arguments:
        count: How many there are.
        name: What they show.
    """
    return (
        '<div class="control"><button type="button">Play</button>'
        f'<input type="range" min="0" max="{count - 1}" value="{count - 1}" aria-label="{name}">'
        "<output></output></div>"
    )
