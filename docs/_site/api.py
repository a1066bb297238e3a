"""One page for each room of the package: its public names, from their docstrings.

A room is a folder or a file at the top of the package. A name stands where it is defined, if the module
says in `__all__` that it is public; what a folder's `__init__` passes on is listed at the top.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import anydiff

LEFT_OUT = {"cli", "__main__"}


def modules(room: str) -> list[str]:
    """A room and all modules in it.

    Arguments:
        room: Its name in the package.
    """
    top = importlib.import_module(f"anydiff.{room}")
    inner = pkgutil.walk_packages(getattr(top, "__path__", []), f"{top.__name__}.")
    return [top.__name__, *(found.name for found in inner)]


def page(room: str) -> str:
    """The text of a room's page.

    Arguments:
        room: Its name in the package.
    """
    title = f"anydiff.{room}"
    lines = [title, "=" * len(title), ""]
    for name in modules(room):
        module = importlib.import_module(name)
        public = getattr(module, "__all__", [])
        own = [n for n in public if _home(module, n) == name]
        passed = [n for n in public if n not in own]
        if name != title:
            lines += [name, "-" * len(name), ""]
        lines += [f".. automodule:: {name}", "   :no-members:", ""]
        if passed:
            lines += [
                "From here: "
                + ", ".join(f":py:obj:`{n} <{_home(module, n)}.{n}>`" for n in passed),
                "",
            ]
        for n in own:
            what = getattr(module, n)
            if isinstance(what, type):
                lines += [f".. autoclass:: {name}.{n}", "   :members:", "   :show-inheritance:", ""]
            elif callable(what):
                lines += [f".. autofunction:: {name}.{n}", ""]
            else:
                lines += [f".. autodata:: {name}.{n}", "   :no-value:", ""]
    return "\n".join(lines)


def _home(module: Any, name: str) -> str:
    """The module in which a public name is defined."""
    return str(getattr(getattr(module, name), "__module__", module.__name__))


def write(app: Any) -> None:
    """All pages, and one that leads to them, in `api`.

    Arguments:
        app: Sphinx.
    """
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    found = pkgutil.iter_modules(anydiff.__path__)
    rooms = [m.name for m in found if m.name not in LEFT_OUT]
    names = ", ".join(f":py:obj:`{n} <{_home(anydiff, n)}.{n}>`" for n in sorted(anydiff.__all__))
    tree = "\n".join(f"   {room}" for room in rooms)
    index = (
        f"API\n===\n\nAt the top, from ``anydiff`` itself: {names}.\n\n"
        f".. toctree::\n   :maxdepth: 2\n\n{tree}\n"
    )
    for path in folder.glob("*.rst"):
        if path.stem not in (*rooms, "index"):  # of a room that is gone
            path.unlink()
    for name, text in {"index": index, **{room: page(room) for room in rooms}}.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def own_words(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Mark code, and leave out what is from another package, as `dict` or a class of PyTorch says it.

    Arguments:
        app: Sphinx.
        what: The type of the object, such as "method".
        name: Its full name.
        obj: The object.
        options: Of the directive.
        lines: Of the docstring, which are changed.
    """
    for k in range(len(lines) - 2):  # a block after a colon is code
        line, following = lines[k].rstrip(), lines[k + 2]
        if (
            line.endswith(":")
            and not line.lstrip().startswith((":", ".. "))
            and not line.endswith("::")
        ):
            indent = len(line) - len(line.lstrip())
            if not lines[k + 1].strip() and following.startswith(" " * (indent + 4)):
                lines[k] = f"{line}:"
    if what == "data" and lines and (type(obj).__doc__ or "").startswith(lines[0]):
        lines.clear()
    if what == "method" and "." in name:
        owner, _, method = name.rpartition(".")
        module, _, cls = owner.rpartition(".")
        found = getattr(importlib.import_module(module), cls, object)
        for base in found.__mro__:
            if (known := base.__dict__.get(method)) is not None and known.__doc__:
                if not base.__module__.startswith("anydiff"):
                    lines.clear()
                return


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", own_words)
    return {"parallel_read_safe": True}
