"""Commands that draw molecules."""

import sys

import numpy as np
import pytest
import torch
from anydiff.cli.flags import parse, parser
from PIL import Image

from anydiff import GaussianDiffusion, Polynomial
from anydiff.cli.molecules import ask, begin, draw_molecules, write_molecules
from anydiff.data.sizes import SizeDistribution
from anydiff.denoisers import PairNet
from anydiff.molecules import Atoms, load_qm9
from anydiff.molecules.pictures import draw_grid
from anydiff.molecules.properties import Properties, PropertyDistribution

TEST = load_qm9().subset(range(100))


def given(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, flags)])
    made = parser("Draws.", out="runs/x", items="molecules", num=5, steps=2)
    made.add_argument("--target", type=float)
    return parse(made)


def model(context=0):
    torch.manual_seed(0)
    atoms = Atoms(charge_scale=None)
    network = PairNet(atoms.features - 3, 16, layers=1, context=context)
    extra = {"atoms": atoms.config, "sizes": SizeDistribution.from_sizes(TEST.sizes).counts}
    if context:
        pairs = PropertyDistribution.from_molecules(TEST, "alpha")
        properties = Properties.from_molecules(TEST, "alpha")
        extra |= {"properties": properties.config, "values": pairs.values, "of_size": pairs.sizes}
    return GaussianDiffusion(network, Polynomial(), "eps").eval(), extra


def test_rings_are_kept_and_pictures_written(monkeypatch, tmp_path):
    args = given(monkeypatch, "--inpaint", "--resamples", 2)
    before, kept = begin(args, TEST)
    assert len(before) == 5 and len(kept) == len(before.z)
    diffusion, extra = model()
    drawn, path = draw_molecules(args, diffusion, extra, before, kept, batch=2)
    pos, z, index = (value.numpy() for value in drawn)
    kept_rows = kept.numpy()
    assert len(path) == 4 and np.array_equal(index, before.index)
    assert np.array_equal(z[kept_rows], before.z[kept_rows])
    for m in range(5):
        rows = kept_rows & (index == m)
        ours, theirs = (p[rows] - p[rows].mean(0) for p in (pos, before.pos))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)  # positions are float32, of 10 Å
    write_molecules(tmp_path, drawn, path, before, kept)
    with Image.open(tmp_path / "before.png") as a, Image.open(tmp_path / "samples.png") as b:
        assert a.size == b.size
    assert (tmp_path / "samples.sdf").exists() and (tmp_path / "path.gif").exists()


def test_edits_are_near(monkeypatch):
    args = given(monkeypatch, "--edit", 0.02)
    before, kept = begin(args, TEST)
    assert kept is None
    (pos, z, index), _ = draw_molecules(args, *model(), before)
    center = np.stack([before.pos[before.index == m].mean(0) for m in range(5)])
    assert np.abs(pos.numpy() - (before.pos - center[before.index])).max() < 0.5
    assert (z.numpy() == before.z).all() and index.max() == 4


def test_what_is_asked_for(monkeypatch):
    _, extra = model(context=1)
    properties = Properties.from_config(extra["properties"])
    sizes, cond = ask(given(monkeypatch), extra)
    occurring = set(zip(TEST.sizes.tolist(), TEST.property("alpha").tolist(), strict=True))
    for n, c in zip(sizes.tolist(), properties.decode(cond["context"])[:, 0], strict=True):
        assert any(n == m and abs(c - v) < 1e-3 for m, v in occurring)

    values = torch.from_numpy(TEST.property("alpha")).float()
    for value in (values.min(), values.max()):
        sizes, cond = ask(given(monkeypatch, "--target", float(value)), extra)
        torch.testing.assert_close(properties.decode(cond["context"]), value.expand(5, 1))
        assert set(sizes.tolist()) == {int(TEST.sizes[int((values - value).abs().argmin())])}

    some = TEST.subset(range(3))
    sizes, cond = ask(given(monkeypatch), extra, some)
    assert sizes.tolist() == some.sizes.tolist()
    torch.testing.assert_close(properties.decode(cond["context"])[:, 0], values[:3])


@pytest.mark.parametrize("flag", ["--target", "--guidance"])
def test_a_model_without_properties_is_asked_for_none(flag, monkeypatch):
    args = given(monkeypatch, flag, 2)
    with pytest.raises(ValueError, match=f"no property, which {flag} is about.*--property"):
        ask(args, model()[1])


def test_guidance_reaches_the_model(monkeypatch):
    diffusion, extra = model(context=1)
    with torch.no_grad():  # the last layers are zero at first
        for p in diffusion.parameters():
            p.add_(0.1 * torch.randn_like(p))
    drawn = {
        (c, w): draw_molecules(
            given(monkeypatch, "--target", c, "--guidance", w),
            diffusion,
            extra,
            TEST.subset([0, 1]),
        )[0][0]
        for c in (60, 90)
        for w in (0, 1)
    }
    assert torch.equal(drawn[60, 0], drawn[90, 0]) and not torch.equal(drawn[60, 1], drawn[90, 1])


def test_marked_atoms_are_seen(tmp_path):
    one = TEST.subset([0])
    marked = np.arange(len(one.z)) < 3
    for name, rows in (("a", None), ("b", marked), ("c", np.zeros_like(marked))):
        draw_grid(tmp_path / f"{name}.png", one.pos, one.z, one.index, marked=rows, size=120)

    def yellow(name):
        with Image.open(tmp_path / f"{name}.png") as picture:
            return (np.asarray(picture) == (255, 217, 112)).all(-1).sum()

    assert yellow("b") > 50 and yellow("a") == yellow("c") == 0
    with pytest.raises(ValueError, match="a boolean for each of"):
        draw_grid(tmp_path / "d.png", one.pos, one.z, one.index, marked=marked[:2])
