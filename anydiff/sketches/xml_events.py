"""XML files, read element by element; errors name the file and the line, and no entity is fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.parsers import expat

from anydiff.files import PathLike
from anydiff.sketches.sketches import SketchError

__all__ = ["read_events"]


def read_events(
    path: PathLike,
    name: str,
    start: Callable[[str, dict[str, str], int], Any],
    end: Callable[[str], Any],
    characters: Callable[[str], Any] | None = None,
) -> None:
    """Read an XML file and call a function at each start and end of an element, and for text.

    Arguments:
        path: The file.
        name: What errors call it.
        start: Called with the tag without its prefix, the attributes and the line.
        end: Called with the tag without its prefix.
        characters: Called with text, if given.

    Raises:
        SketchError: The file does not exist or is not XML; or from a call.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SketchError(f"{name}: not a readable file ({error}).") from error
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = lambda tag, attributes: start(
        tag.rpartition(":")[2], attributes, parser.CurrentLineNumber
    )
    parser.EndElementHandler = lambda tag: end(tag.rpartition(":")[2])
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
