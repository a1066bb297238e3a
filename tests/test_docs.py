"""The code in the pages runs."""

import importlib.util
import re
import shlex
from functools import cache

import pytest
import torch

from anydiff.cli.main import build, parser
from tests.helpers.paths import ROOT


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def test_the_readme_s_lines_run():
    names = {}
    (block,) = blocks("README.md")
    exec(block.replace("steps=250", "steps=3"), names)
    assert names["x"].shape == (44, 8) and names["loss"].isfinite()


def test_the_tour_s_steering_runs():
    """Each snippet with a network that has learnt nothing, on the data that it speaks of."""
    import anydiff
    from anydiff.data.sequences import pad
    from anydiff.denoisers import BiRNN, Completing, PairNet, UNet
    from anydiff.molecules import Atoms, load_qm9, loader
    from anydiff.sketches.kanji import load_kanji
    from anydiff.sketches.rows import StrokeRows

    atoms, kanji = Atoms(charge_scale=None), load_kanji().subset(range(4))
    rows = StrokeRows.fit(kanji)
    batch = next(iter(loader(load_qm9("5k").subset(range(3)), 3, shuffle=False)))
    names = {
        **vars(anydiff), "torch": torch, "pad": pad, "atoms": atoms, "batch": batch, "rows": rows,
        "scaffold": batch.z > 1, "sketches": kanji, "history": torch.randn(2, 30, 1),
        "kept": torch.as_tensor(rows.encode(kanji).sizes) // 2,
    }  # fmt: skip
    networks = [
        Completing(PairNet(13, hidden=16, pair=8, vectors=4, layers=1)),
        BiRNN(rows.channels, hidden=8, layers=1),
        UNet(1, (8, 16), classes=10),
        BiRNN(1, hidden=8, layers=1),
    ]
    snippets = blocks("docs/tour.md")
    assert len(snippets) == len(networks)
    for block, network in zip(snippets, networks, strict=True):
        assert len(block.strip().splitlines()) <= 5
        names["diffusion"] = anydiff.GaussianDiffusion(network, anydiff.Cosine(), "v").eval()
        short = re.sub(r"resamples=\d+", "resamples=1, steps=3", block)
        short = re.sub(r"steps=\d\d", "steps=3", short)
        exec(short, names)
    assert names["grown"].shape == (3, len(batch.z), 8) and len(names["z"]) == len(batch.z)
    assert len(names["finished"]) == 4 and names["digits"].shape == (10, 1, 8, 8)
    assert names["days"].shape == (24, 2, 24, 1) and (names["low"] < names["high"]).all()


@pytest.mark.slow
def test_the_ideas_are_true_and_the_lines_are_those_of_the_code():
    text = (ROOT / "docs/ideas.md").read_text()
    names = {}
    for block in blocks("docs/ideas.md"):
        exec(block, names)
    rest = re.sub(r"```python\n.*?```", "", text, flags=re.S)
    lines = re.findall(r"```\n(.*?)\n```", rest, re.S)
    files = re.findall(r"\(`(anydiff/[\w/]+\.py)`", rest)
    assert len(lines) == len(files) == 6
    for line, file in zip(lines, files, strict=True):
        assert line in (ROOT / file).read_text(), (line, file)


def test_the_first_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("docs/start.md"):
        exec(block, names)
    assert len(names["mols"]) == 8 and names["x"].shape == (3, 30, 4)


@pytest.mark.slow
def test_what_other_libraries_do_is_done_as_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (first,) = blocks("docs/coming-from.md")
    names = {}
    exec(first, names)
    rows = [line.split(" | ") for line in (ROOT / "docs/coming-from.md").read_text().splitlines()]
    cells = [row[2] for row in rows if len(row) == 3 and row[0] != "| task"]
    assert len(cells) == 40
    for cell in cells:
        exec(re.fullmatch(r"`(.*)` \|", cell)[1], names)


def test_every_page_is_on_the_site():
    listed = re.findall(r"^([\w/-]+)$", (ROOT / "docs/index.md").read_text(), re.M)
    pages = {
        str(p.relative_to(ROOT / "docs").with_suffix("")) for p in (ROOT / "docs").rglob("*.md")
    }
    assert set(listed) == pages - {"index"} | {"api/index"}


def test_the_citation_is_of_this_version():
    from anydiff import __version__

    text = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (\S+)$", text, re.M)[1] == __version__


def test_nothing_is_left_to_fill_in():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert not [p.name for p in pages if re.search(r"@[A-Z]+@", p.read_text())]


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", linked.read_text(), re.M)
                anchors = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads]
                assert anchor in anchors, f"{page.name}: {target}"


@pytest.mark.slow
def test_a_series_is_learned_from_the_page():
    names = {}
    exec(blocks("docs/your-data.md")[1].replace("range(20)", "range(8)"), names)
    # twelve hours apart, day and night are opposite: -0.4 in the data
    product = [((x[12:] - 15) * (x[:-12] - 15) / 64).mean() for x in names["drawn"]]
    assert sum(product) / len(product) < -0.2


def test_sketches_are_drawn_as_on_the_page():
    names = {}
    for block in blocks("docs/sketches.md"):
        exec(block.replace("steps=100", "steps=3"), names)
    assert len(names["back"]) == len(names["kanji"]) and len(names["sketches"]) == 4
    assert names["loss"].isfinite()
    x0, known, mask = (names[name] for name in ("x0", "known", "mask"))
    for drawn in names["drawn"]:
        assert torch.equal(drawn[known], x0[known]) and not known[mask].all()
    for name in ("repaired", "edited"):
        assert names[name].shape == x0.shape and names[name].isfinite().all()
    assert names["blended"].shape[:2] == (7, len(names["a"]))


def test_molecules_are_steered_as_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the page writes a file
    names = {}
    for block in blocks("docs/molecules.md"):
        exec(block, names)
    rings, _ = names["first_with"](names["molecules"], 4, names["largest_ring"])
    assert (names["atoms"].decode(names["isomers"])[1].numpy() == rings.z).all()
    assert names["grown"].shape[:2] == (3, len(rings.z)) and names["grown"].isfinite().all()
    assert len(names["linked"]) == len(names["some"].z)
    assert len(names["z"]) == int(names["sizes"].sum())


@pytest.mark.slow
def test_a_circle_is_learned_from_the_page():
    block = blocks("docs/your-data.md")[0]
    names = {}
    exec(block.replace("range(1500)", "range(600)"), names)
    radius = names["x"].norm(dim=1)
    # a normal distribution with the moments of the circle has 0.46; from several initial weights, 600
    # steps reach 0.2 to 0.3
    assert abs(radius.mean() - 1) < 0.25 and radius.std() < 0.4


def test_digits_are_read_and_measured_as_on_the_page():
    names = {}
    for block in blocks("docs/images.md"):
        exec(block, names)
    assert names["small"](torch.randn(1, 3, 12, 10), torch.rand(1)).shape == (1, 3, 12, 10)
    assert names["floor"].frechet < 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No complete tensor found")  # torch's, of shared storage
def test_the_methods_of_one_s_own_do_what_the_page_asks_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the page writes a file
    names = {}
    for block in blocks("docs/extending.md"):
        exec(block, names)
    assert {
        "Tempered",
        "Straight",
        "Labelled",
        "Symmetric",
        "with_total",
        "translate",
    } <= names.keys()


def test_points_are_steered_as_on_the_page():
    names = {}
    for block in blocks("docs/steering.md"):
        exec(block, names)
    assert names["draws"].shape == (8, 50, 2) and names["between"].shape == (5, 25, 2)
    assert names["loss"].isfinite().all()


def test_few_steps_are_learned_as_on_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("docs/few-steps.md"):
        exec(block, names)
    assert names["four"].shape == (1000, 1) and names["x"].shape == (2, 1, 8, 8)
    assert names["loss"].isfinite()


@pytest.mark.parametrize("page", ["latent", "lora", "text", "discrete", "adversarial"])
def test_a_page_runs_from_its_first_line_to_its_last(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    found = blocks(f"docs/{page}.md")
    assert found
    for block in found:
        exec(block, names)


def family():
    """The lines of the table of systems."""
    text = (ROOT / "docs/family.md").read_text()
    return re.findall(r"^\| \[([^\]]+)\].*?\| `([^`]+)` \|", text, re.M)


def test_the_family_is_whole():
    wanted = ["NCSN", "DDPM", "DDIM", "FastDPM", "UDM", "LSGM", "D3PM", "EDM", "DDGAN"]
    assert {*wanted, "Recovery EBM", "DDPM distillation"} <= {name for name, _ in family()}


@pytest.mark.slow
@pytest.mark.parametrize("name, line", family(), ids=[name for name, _ in family()])
def test_a_system_of_the_family_runs(name, line):
    import anydiff
    from anydiff import (
        adversarial,
        autoencoders,
        discrete,
        distillation,
        losses,
        recovery,
        samplers,
        schedules,
    )
    from anydiff.denoisers import Energy, UNet
    from anydiff.latent import Latent

    def small(channels, **more):
        return UNet(channels, (8, 16), groups=4, **more)

    names = {}
    for module in (autoencoders, losses, schedules, samplers, distillation, adversarial, recovery):
        names |= vars(module)
    names |= vars(discrete) | vars(anydiff)
    shape = (2, 3, 8, 8)
    teacher = anydiff.GaussianDiffusion(small(3), anydiff.Cosine(), "v")
    names |= {
        "Latent": Latent, "Energy": Energy, "sample": anydiff.sample, "shape": shape,
        "x0": torch.randn(shape),
        "net": small(3), "two": small(3, out_channels=6), "drawing": small(3, context=16),
        "pairs": small(6), "another": small(3), "tokens": small(6), "values": torch.randint(6, (2, 8, 8)),
        "autoencoder": autoencoders.Convolutional(3, 4, (8, 16), groups=4), "of_latents": small(4),
        "teacher": teacher.predictor(), "times": samplers.Uniform()(teacher.schedule, 4),
    }  # fmt: skip
    result = eval(re.sub(r"steps=\d+", "steps=3", line), names)
    assert result.isfinite().all() and result.shape in (shape, (2,))


one_parser = cache(parser)  # which takes longer to build than words to parse


def commands():
    for page in [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "examples").glob("*.py"),
    ]:
        text = page.read_text()
        if page.suffix == ".md":
            text = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S))
        for line in re.findall(r"^ *((?:python examples/|anydiff [a-z]).*)$", text, re.M):
            yield re.split(r" {2,}| # ", line)[0].replace(" S", " 1")


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_the_commands_of_the_pages_have_their_flags(command):
    program, *words = shlex.split(command)
    if program == "anydiff":
        assert one_parser().parse_args(words)
        return
    spec = importlib.util.spec_from_file_location("example", ROOT / words[0])
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert build(example.main, command).parse_args(words[1:]).num > 0


def test_a_commit_is_checked_as_ci_checks_it():
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.M)
    lines = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines()]
    assert len(hooks) == 3 and set(hooks) <= set(lines)
