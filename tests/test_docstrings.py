"""What every docstring owes to its reader: whole sentences, the arguments, and the errors.

The sources are parsed, not imported. Ruff's D417 asks that an Arguments section names every argument;
here it is asked for, with a Raises section wherever something is raised.
"""

import ast
import re

import pytest

from tests.helpers.paths import ROOT

SECTIONS = ("Arguments", "Returns", "Yields", "Raises", "References", "Examples", "Attributes")
FILES = sorted([*(ROOT / "anydiff").rglob("*.py"), *(ROOT / "examples").glob("*.py")])
DISPLAYS = r"\s*(\.\. |>>> |- |\| )"
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def documented(body, prefix=""):
    """The public definitions that have a docstring, by their names, methods after their classes."""
    for node in body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
            if text := ast.get_docstring(node):
                yield prefix + node.name, node, text
            if isinstance(node, ast.ClassDef):
                yield from documented(node.body, f"{prefix}{node.name}.")


def sections(text):
    """The body of each section, and the text before them under ""."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):$", text, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def own(node, kind):
    """The nodes of a kind in a function, but not those of functions inside it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, kind):
            yield child
        if not isinstance(child, DEFINITIONS | ast.Lambda):
            yield from own(child, kind)


def builders(node):
    """Where the arguments of a definition are: itself, or what builds an object of the class."""
    if not isinstance(node, ast.ClassDef):
        return [node]
    names = ("__init__", "__post_init__", "__new__")
    return [child for child in node.body if getattr(child, "name", "") in names]


def unfinished(text):
    """The last lines of paragraphs and of entries in sections that stop without a full stop.

    Lists, tables, code and formulas may do so, and a sentence may lead to one of them.
    """
    for name, body in sections(text).items():
        split = (
            r"\n\s*\n"
            if name in ("", "Returns", "Yields", "References")
            else r"\n\s*\n|\n(?= {4}\S)"
        )
        parts = [part for part in re.split(split, body.strip("\n")) if part.strip()]
        shown = [
            bool(re.match(DISPLAYS if name else rf" {{4}}|{DISPLAYS}", part)) for part in parts
        ]
        for part, display, after in zip(parts, shown, [*shown[1:], False], strict=True):
            last = part.rpartition("\n")[2].strip()
            whole = display or after or name == "References" or re.search(r"[.:?!…]\W*$", last)
            if not whole:
                yield last


def takes_several(node):
    """Whether a summary cannot explain what a function takes, or what an object is built from."""
    given = set()
    if isinstance(node, ast.ClassDef):
        made = " ".join(ast.unparse(part) for part in (*node.decorator_list, *node.bases))
        if re.search(r"dataclass|frozen|NamedTuple|TypedDict", made):
            after = [*node.body[1:], None]  # a string under a field documents it
            told = [isinstance(child, ast.Expr) for child in after]
            pairs = zip(node.body, told, strict=True)
            fields = [f for f, string in pairs if isinstance(f, ast.AnnAssign) and not string]
            given = {f.target.id for f in fields if "ClassVar" not in ast.unparse(f.annotation)}
    for function in builders(node):
        args = function.args
        given |= {arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
    return len(given - {"self", "cls"}) > 1


def raises(node):
    """Whether a function raises, or building an object: by itself, by a check, or by its limits."""
    limited = any(re.match(r"frozen\(\w", ast.unparse(part)) for part in node.decorator_list)
    return limited or any(
        raised.exc is not None and "NotImplementedError" not in ast.unparse(raised.exc)
        if isinstance(raised, ast.Raise)
        else ast.unparse(raised.func).startswith("check_")
        for function in builders(node)
        for raised in own(function, ast.Raise | ast.Call)
    )


def exported(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def stops(tree):
    """Where docstrings of a module, and of what is public in it, stop in a sentence."""
    yield from (
        f"the module stops at: {line}" for line in unfinished(ast.get_docstring(tree) or "")
    )
    for name, _, text in documented(tree.body):
        yield from (f"{name} stops at: {line}" for line in unfinished(text))


def faults(source):
    """What is wrong with the docstrings of a module."""
    tree = ast.parse(source)
    public = exported(tree)
    yield from stops(tree)
    for name, node, text in documented(tree.body):
        parts = sections(text)
        if (
            name in public
            and not {"Arguments", "Attributes"} & parts.keys()
            and takes_several(node)
        ):
            yield f"{name} lacks Arguments"
        if "Raises" not in parts and raises(node):
            yield f"{name} lacks Raises"


def room(path):
    package, *rest = path.relative_to(ROOT).parts
    return rest[0].removesuffix(".py") if package == "anydiff" else package


ROOMS = sorted({room(path) for path in FILES})


@pytest.mark.parametrize("name", ROOMS)
def test_docstrings_are_whole(name):
    found = []
    for path in FILES:
        if room(path) == name:
            source = path.read_text()
            seen = stops(ast.parse(source)) if name == "examples" else faults(source)
            found += [f"{path.relative_to(ROOT)}: {fault}" for fault in seen]
    assert not found, "\n".join(found)


WHOLE = '''
"""A module.

A table follows:

    one | two
"""

__all__ = ["Thing", "add"]


def add(a, b):
    """The sum is

    .. math:: a + b

    Arguments:
        a: The first, as described in
            two lines.
        b: The second.

    Raises:
        ValueError: If a is zero.

    References:
        A paper
    """
    if a == 0:
        raise ValueError(a)

    def inner():
        raise TypeError

    return a + b


class Thing:
    """A thing.

    Arguments:
        first, second: Numbers.

    Raises:
        ValueError: If the first is zero.
    """

    def __init__(self, first, second):
        if not first:
            raise ValueError(first)

    def twice(self, one, other):
        """Twice both."""
        raise NotImplementedError


def _private(a, b):
    """Unfinished and"""
    raise ValueError(a)
'''


@pytest.mark.parametrize(
    "old, new, fault",
    [
        ("A module.\n", "A module\n", "the module stops at: A module"),
        ("    one | two\n", "And one\n", "the module stops at: And one"),
        ("            two lines.", "            two", "add stops at: two"),
        ("If a is zero.", "If a is", "add stops at: ValueError: If a is"),
        ("Twice both.", "Twice", "Thing.twice stops at: Twice"),
        ("    Arguments:\n        a: The", "    a: The", "add lacks Arguments"),
        ("    Arguments:\n        first", "    first", "Thing lacks Arguments"),
        ("    Raises:\n        ValueError: If a", "    ValueError: If a", "add lacks Raises"),
        ("    Raises:\n        ValueError: If the", "    ValueError: If the", "Thing lacks Raises"),
        ("raise NotImplementedError", "raise TypeError(one)", "Thing.twice lacks Raises"),
    ],
)
def test_what_is_not_whole_is_seen(old, new, fault):
    assert not list(faults(WHOLE)) and old in WHOLE
    assert fault in list(faults(WHOLE.replace(old, new)))
