"""XML files, as events or as a tree; errors name the file and the line, and no entity is fetched.

The tags are local names where an element belongs to the namespace of the outermost one, or to none;
others keep their prefix and the colon, so that the `path` of another language is no `path`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.parsers import expat

from anydiff.files import PathLike
from anydiff.sketches.sketches import SketchError

__all__ = ["Element", "read_events", "read_tree"]

_MOST_BYTES = 2**29  # as many as ten million points have with every digit


def read_events(
    path: PathLike,
    name: str,
    start: Callable[[str, dict[str, str], int], Any],
    end: Callable[[str], Any],
    characters: Callable[[str], Any] | None = None,
) -> None:
    """Read an XML file and call a function at each start and end of an element, and for text.

    Arguments:
        path: The file, which may be compressed by gzip.
        name: What errors call it.
        start: Called with the tag, the attributes and the line.
        end: Called with the tag.
        characters: Called with text, if given.

    Raises:
        SketchError: The file does not exist or is not XML; or from a call.
    """
    data = _read(Path(path), name)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    scopes: list[dict[str, str]] = [{}]  # the namespace of each prefix, for each open element
    home: list[tuple[str, str | None]] = []  # prefix and namespace of the outermost element
    tags: list[str] = []

    def started(tag: str, attributes: dict[str, str]) -> None:
        scope = scopes[-1]
        if declared := [key for key in attributes if key.startswith("xmlns")]:
            scope = scope | {key[6:]: attributes[key] for key in declared}
        prefix, _, local = tag.rpartition(":")
        space = scope.get(prefix) or None
        if not home:
            home.append((prefix, space))
        if space is None:  # leniently: prefixes are often left undeclared
            foreign = prefix not in ("", home[0][0])
        else:
            foreign = space != home[0][1] and (home[0][1] is not None or prefix != "")
        scopes.append(scope)
        tags.append(f"{prefix}:{local}" if foreign else local)
        start(tags[-1], attributes, parser.CurrentLineNumber)

    def ended(tag: str) -> None:
        scopes.pop()
        end(tags.pop())

    parser.StartElementHandler, parser.EndElementHandler = started, ended
    if characters is not None:
        parser.CharacterDataHandler = characters
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise SketchError(f"{name}, line {error.lineno}: not well-formed XML: {reason}.") from error
    except SketchError:
        raise
    except (LookupError, ValueError) as error:
        # from expat: an unknown encoding, or one of several bytes
        raise SketchError(
            f"{name}, line {parser.CurrentLineNumber}: its encoding cannot be read ({error}); save it "
            "as UTF-8."
        ) from error


def _read(path: Path, name: str) -> bytes:
    """The bytes of a file, which may be compressed by gzip."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _MOST_BYTES else b""
        if data.startswith(b"\x1f\x8b"):
            data = zlib.decompressobj(wbits=31).decompress(data, _MOST_BYTES + 1)
            size = len(data)
    except (OSError, zlib.error) as error:
        raise SketchError(f"{name}: not a readable file ({error}).") from error
    if size > _MOST_BYTES:
        raise SketchError(
            f"{name}: has more than {_MOST_BYTES:,} bytes, which are not read. Divide it."
        )
    return data


_NO_CHILDREN: list[Element] = []  # shared by all that have none, and never added to


class Element:
    """An element of a tree.

    Arguments:
        tag: As of :func:`read_events`.
        attributes: Its attributes.
        line: Where it starts.
        parent: The element around it.
    """

    __slots__ = ("attributes", "children", "line", "parent", "tag", "text")

    def __init__(
        self, tag: str, attributes: dict[str, str], line: int, parent: Element | None = None
    ) -> None:
        self.tag, self.attributes, self.line, self.parent = tag, attributes, line, parent
        self.children = _NO_CHILDREN
        self.text = ""  # inside it, not inside its children


def read_tree(path: PathLike, name: str) -> Element:
    """Read an XML file as a tree, and return its outermost element.

    Arguments:
        path: The file.
        name: What errors call it.

    Raises:
        SketchError: As of :func:`read_events`.
    """
    roots: list[Element] = []
    here: list[Element] = []
    texts: list[list[str]] = []

    def start(tag: str, attributes: dict[str, str], line: int) -> None:
        around = here[-1] if here else None
        element = Element(tag, attributes, line, around)
        if around is None:
            roots.append(element)
        else:
            around.children = around.children or []
            around.children.append(element)
        here.append(element)
        texts.append([])

    def end(tag: str) -> None:
        here.pop().text = "".join(texts.pop()).strip()

    read_events(path, name, start, end, lambda text: texts[-1].append(text))
    return roots[0]
