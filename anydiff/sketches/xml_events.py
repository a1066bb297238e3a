"""XML files read event by event, with the file and the line in every error; no entity is fetched."""

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
    """Call `start` and `end` for each element, by its name without a prefix, `characters` for text.

    Arguments:
        start: (tag, attributes, line).

    Raises:
        SketchError: A file that isn't there or isn't XML; and what the calls raise, as it is.
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
        raise SketchError(f"{name}, line {error.lineno}: not sound XML ({reason}).") from error
    except SketchError:
        raise
    except (LookupError, ValueError) as error:  # expat, of encodings unknown or of several bytes
        raise SketchError(
            f"{name}, line {parser.CurrentLineNumber}: its encoding can't be read ({error}); save it "
            "as UTF-8."
        ) from error
