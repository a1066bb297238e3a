"""The house: which room takes from which, no circle of files, one name for one thing.

A room is a folder or a file at the top of the package. The sources are parsed, not imported, so imports
inside functions and those for type checkers count like any other.
"""

import ast
import itertools
import re
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.helpers.paths import ROOT

# Each room of the core takes from those before it; checkpoints and training also from BESIDE.
CORE = [
    "checks",
    "extras",
    "files",
    "drawing",
    "pages",
    "precision",
    "spaces",
    "schedules",
    "predictions",
]
CORE += [
    "samplers",
    "likelihood",
    "losses",
    "diffusion",
    "guidance",
    "editing",
    "exact",
    "distillation",
    "autoencoders",
    "latent",
    "lora",
    "contrastive",
    "discrete",
    "adversarial",
    "recovery",
    "export",
    "checkpoints",
]
CORE += ["training"]
BESIDE = {"denoisers", "data", "metrics"}  # take from spaces and from what is before them
KINDS = {"images", "molecules", "sketches", "series"}  # take from these, kinds.py and batched.py
SHARED = {"files", "batches"}  # names of modules that a kind may have in common with the rest
WORDS = (
    r"molecul|(?<![a-z])atoms?(?![a-z])|qm9|sketch|(?<![a-z])strokes?(?![a-z])|kanji|pixel|image"
)
# Public modules that nothing else in the package needs: users import them by their path.
LEAVES = {
    "exact",
    "export",
    "contrastive",
    "images.canvases",
    "likelihood.score_matching",
    "images.pipelines",
    "denoisers.unet.adm",
}
LEAVES |= {"recovery", "training.critics", "discrete.joint", "hub"}
LEAVES |= {"molecules.property_bounds", "molecules.property_model"}
LEAVES |= {"data.streamed", "molecules.store"}


class Package:
    """The parsed modules of a package, by their names below it: "" is its own __init__.

    Arguments:
        root: The folder of the package.
    """

    def __init__(self, root):
        paths = {path.relative_to(root).with_suffix("").parts: path for path in root.rglob("*.py")}
        self.name, self.root = root.name, root
        self.text = {
            ".".join(parts[:-1] if parts[-1] == "__init__" else parts): path.read_text()
            for parts, path in paths.items()
        }
        self.folders = {".".join(p[:-1]) for p in paths if p[-1] == "__init__"}
        self.trees = {name: ast.parse(text) for name, text in self.text.items()}
        self.taken = {name: set(self._imports(name)) - {name} for name in self.trees}

    def _imports(self, module):
        here = [self.name, *filter(None, module.split("."))]
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                up = node.level - (module in self.folders)
                base = here[: len(here) - up] if node.level else []
                base = ".".join([*base, *filter(None, [node.module])])
                targets = [f"{base}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in targets:
                inside, _, name = target.partition(".")
                while inside == self.name and name not in self.text:
                    name = name.rpartition(".")[0]
                if inside == self.name:
                    yield name


def room(module):
    return module.partition(".")[0]


def allowed():
    """The rooms that each room may take from."""
    takes = {name: set(CORE[:k]) | {name} for k, name in enumerate(CORE)}
    takes |= {name: takes["spaces"] | {name} for name in BESIDE}
    for name in ("autoencoders", "checkpoints", "training"):
        takes[name] |= BESIDE
    shared = set(CORE) | BESIDE | {"batched"}
    takes |= {"batched": shared}
    takes |= {name: shared | {"kinds", name} for name in ("kinds", "ready", "hub", *KINDS)}
    everything = {*takes, "cli", ""}
    return takes | {"cli": everything, "__main__": everything, "": everything}


def order(package):
    takes = allowed()
    for module, others in package.taken.items():
        if room(module) not in takes:
            yield f"{room(module)} has no place in the order of tests/test_house.py"
        for other in others:
            if room(other) not in takes.get(room(module), [room(other)]):
                yield f"{module} takes from {other or 'the top'}"


def circles(package):
    graph = {module: set(others) for module, others in package.taken.items()}
    while True:
        try:
            return TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1]
            start = circle.index(min(circle))
            yield " <- ".join([*circle[start:-1], *circle[:start]])
            for other, module in itertools.pairwise(circle):
                graph[module].discard(other)


def words(package):
    """What the core says of kinds of data, the titles of papers aside."""
    titles = re.compile(r"^( *)References:\n(?:\1 +.*\n|\n)*", re.M)
    for module in package.text:
        if room(module) in CORE[CORE.index("spaces") :]:
            text = f"{module}\n{titles.sub('', package.text[module])}"
            for word in re.findall(WORDS, text, re.I):
                yield f"{module} says {word.lower()}"


def unused(package):
    taken = set().union(*package.taken.values())
    for module in package.text.keys() - taken - package.folders - {"__main__"}:
        if module not in LEAVES:
            yield f"nothing takes from {module}"
    yield from (f"{m} is no leaf: something takes from it" for m in LEAVES & taken)


def names(package):
    modules, classes = {}, {}
    for module in package.text.keys() - package.folders:
        where = "a kind" if room(module) in KINDS else "the rest"
        if room(module) != "cli":  # which has a file for each kind
            modules.setdefault(module.rpartition(".")[2], []).append((where, module))
    for name, places in modules.items():
        rest = [module for where, module in places if where == "the rest"]
        if len(rest) > 1 or (rest and len(places) > 1 and name not in SHARED):
            yield f"modules {' and '.join(sorted(module for _, module in places))}"
    for module, tree in package.trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes.setdefault(node.name, []).append(module)
    for name, homes in classes.items():
        if len(homes) > 1:
            yield f"{name} of {' and '.join(sorted(homes))}"


CHECKS = [order, circles, words, unused, names]


@pytest.fixture(scope="module")
def house():
    return Package(ROOT / "anydiff")


@pytest.mark.parametrize("check", CHECKS)
def test_the_house_is_in_order(check, house):
    assert set(check(house)) == set()


def test_tests_mirror_the_package_and_take_nothing_from_one_another(house):
    tests = Package(ROOT / "tests")
    folders = {module.rpartition(".")[0] for module in tests.text if "test_" in module}
    assert folders <= house.folders
    for module, taken in tests.taken.items():
        assert all(other.startswith("helpers.") for other in taken), module


SOUND = {
    "__init__": "from house.spaces import Dense",
    "files": "",
    "spaces/__init__": "from house.spaces.dense import Dense",
    "spaces/dense": 'class Dense:\n    """Flat.\n\n    References:\n        Atoms (2020).\n    """\n',
    "samplers": "def sample():\n    from house.spaces import Dense",
    "checkpoints": "from house import samplers",
    "images/__init__": "",
    "images/files": "from house.files import x",
    "cli": "import house.checkpoints, house.images.files",
    "__main__": "from house.cli import main",
}


UP = "from ..samplers import sample"
DOWN = "spaces.dense takes from samplers"
BROKEN = [
    (order, "spaces/dense", "from house.samplers import sample", DOWN),
    (order, "spaces/dense", "from house import samplers", DOWN),
    (order, "spaces/dense", "import house.samplers", DOWN),
    (order, "spaces/dense", UP, DOWN),
    (order, "spaces/__init__", UP, "spaces takes from samplers"),
    (
        order,
        "samplers",
        "def f():\n    import house.images.files",
        "samplers takes from images.files",
    ),
    (order, "samplers", "from house import Dense", "samplers takes from the top"),
    (order, "data", "from house import samplers", "data takes from samplers"),
    (order, "series", "from house.images import files", "series takes from images.files"),
    (order, "utils", "", "utils has no place in the order of tests/test_house.py"),
    (circles, "spaces/dense", UP, "samplers <- spaces.dense <- spaces"),
    (circles, "files", "def f():\n    import house.images.files", "files <- images.files"),
    (circles, "files", "if TYPE_CHECKING:\n    import house.images.files", "files <- images.files"),
    (words, "samplers", "# clip the pixels", "samplers says pixel"),
    (words, "samplers", "def draw_atoms(): ...", "samplers says atoms"),
    (words, "samplers", '"""Of images.\n\nReferences:\n    A paper."""', "samplers says image"),
    (words, "samplers/strokes", "", "samplers.strokes says strokes"),
    (unused, "schedules", "", "nothing takes from schedules"),
    (names, "schedules/dense", "", "modules schedules.dense and spaces.dense"),
    (names, "images/dense", "", "modules images.dense and spaces.dense"),
    (names, "images/files", "class Dense: ...", "Dense of images.files and spaces.dense"),
]


def build(root, files):
    for name, text in files.items():
        path = root / "house" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Package(root / "house")


@pytest.mark.parametrize("check", CHECKS)
def test_a_sound_house_is_in_order(check, tmp_path):
    assert not list(check(build(tmp_path, SOUND)))


@pytest.mark.parametrize("check, name, text, complaint", BROKEN)
def test_a_house_out_of_order_is_seen(check, name, text, complaint, tmp_path):
    assert complaint in check(build(tmp_path, SOUND | {name: text}))


def test_a_leaf_that_is_taken_from_is_no_leaf(tmp_path):
    package = build(tmp_path, SOUND | {"exact": "", "checkpoints": "from house import exact"})
    assert "exact is no leaf: something takes from it" in unused(package)
