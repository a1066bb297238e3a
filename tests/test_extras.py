"""The core needs four packages; every other is imported under the extra that installs it."""

import ast
import re
import sys
import tomllib

import pytest

from anydiff.extras import extra
from tests.helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {
    "PIL": "pillow",
    "huggingface_hub": "huggingface_hub",
}  # where the name to import is another than that to install
FILES = sorted((ROOT / "anydiff").rglob("*.py"))


def names(requirements):
    return {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}


def needed(body, extras=()):
    """The other packages that statements import, each with the extra of the block that it stands in."""
    for node in body:
        inner, guards = ast.iter_child_nodes(node), extras
        if isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items]
            guards = [ast.unparse(c.args[0]) for c in calls if ast.unparse(c).startswith("extra(")]
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module]
        else:
            modules = []
        for module in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names:
            package = PACKAGES.get(module, module.replace("_", "-"))
            if package != "anydiff" and package not in names(PROJECT["dependencies"]):
                yield package, [ast.literal_eval(guard) for guard in guards]
        yield from needed(inner, guards)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_package_beyond_the_core_s_is_imported_under_its_extra(path):
    for package, extras in needed(ast.parse(path.read_text()).body):
        assert extras, f"{package} is imported outside of `with extra(...)`"
        assert package in names(PROJECT["optional-dependencies"][extras[0]])


def test_the_core_depends_on_four_packages():
    assert names(PROJECT["dependencies"]) == {"torch", "numpy", "safetensors", "tqdm"}
    chosen = PROJECT["optional-dependencies"]["all"][0]
    rest = PROJECT["optional-dependencies"].keys() - {
        "all",
        "test",
        "qm9",
        "kanji",
        "diffusers",
        "hub",
        "docs",
        "posebusters",
        "xtb",
    }
    assert set(re.findall(r"\w+", chosen)[1:]) == rest


@pytest.mark.parametrize(
    "otherwise, end", [("", r"\."), ("give the folder", r", or give the folder\.")]
)
def test_what_is_missing_names_its_extra(otherwise, end):
    message = r'^absent is not installed: pip install "anydiff\[molecules\]"' + end
    with pytest.raises(ImportError, match=message), extra("molecules", otherwise):
        import absent.part  # noqa: F401
