"""What commands that draw sketches begin from, draw and write."""

import importlib.util
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

import anydiff
from anydiff import Cosine, GaussianDiffusion
from anydiff.cli.sketches import (
    blend_sequences,
    draw_sequences,
    first_half,
    held_out,
    sound,
)
from anydiff.data.sequences import Sequences
from anydiff.denoisers import BiRNN
from anydiff.sketches.files import read_sketches, write_ndjson
from anydiff.sketches.named import split
from anydiff.sketches.rows import PointRows, StrokeRows
from anydiff.sketches.sketches import Sketches
from tests.helpers.paths import ROOT


def scribbles(num, seed=0):
    rng = np.random.default_rng(seed)
    return Sketches.from_lists(
        [
            [rng.normal(0, 20, (rng.integers(2, 9), 2)) for _ in range(rng.integers(1, 6))]
            for _ in range(num)
        ]
    )


def flags(**given):
    usual = {
        "inpaint": False, "edit": None, "interpolate": False, "resamples": 1, "guidance": 1.0,
        "sampler": "ddpm", "steps": 3, "seed": 0, "num": 40, "rows": "strokes", "accelerator": "cpu",
    }  # fmt: skip
    return Namespace(**usual | given)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = BiRNN(6, 8, 1)
    torch.nn.init.normal_(network.head.weight, std=0.3)  # it begins at zero
    return GaussianDiffusion(network, Cosine(), "v").eval()


def sequences(*lengths):
    rng = np.random.default_rng(1)
    return Sequences.from_lists([rng.normal(size=(n, 6)) for n in lengths])


def test_what_is_kept_stays_and_the_rest_is_drawn(model):
    items, kept = sequences(5, 2, 4), torch.tensor([3, 1, 2])
    drawn = draw_sequences(
        flags(inpaint=True), model, torch.tensor(items.sizes), 6, items=items, kept=kept
    )
    for m, n in enumerate(kept.tolist()):
        assert np.array_equal(drawn[m][:n], items[m][:n]) and len(drawn[m]) == len(items[m])
        assert not np.isclose(drawn[m][n:], items[m][n:]).any()


@pytest.mark.parametrize("given", [{}, {"edit": 0.3}, {"inpaint": True}])
def test_batches_change_nothing(model, given):
    items = sequences(5, 2, 4, 1, 3)
    args, lengths = flags(**given), torch.tensor(items.sizes)
    data = {"items": items, "kept": (lengths + 1) // 2} if given else {}
    one, other = (
        draw_sequences(args, model, lengths, 6, **data, batch=batch) for batch in (2, 180)
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # float32, in other batches


def test_a_blend_leads_from_one_to_the_other(model):
    items = sequences(3, 3, 5, 5, 2, 2)
    args = flags(interpolate=True, steps=60)
    drawn = blend_sequences(args, model, items, 4)
    assert [len(d) for d in drawn] == [3] * 4 + [5] * 4 + [2] * 4
    for pair in range(3):
        ends = drawn[4 * pair], drawn[4 * pair + 3]
        for end, item in zip(ends, (items[2 * pair], items[2 * pair + 1]), strict=True):
            assert np.abs(end - item).max() < 0.05  # of the flow's steps
    apart = blend_sequences(args, model, items, 4, batch=4)
    for a, b in zip(drawn, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="pairs of as many"):
        blend_sequences(args, model, sequences(3, 4), 4)


def test_what_is_begun_from_is_held_out():
    sketches = scribbles(200)
    rows = StrokeRows.fit(sketches, 3)
    valid = sketches.subset(split(range(200)).valid)
    some = held_out(flags(num=5, edit=0.2), sketches, rows)
    assert np.array_equal(some.points, valid.subset(range(5)).points)
    assert len(held_out(flags(num=500, inpaint=True), sketches, rows)) == 20
    blended = held_out(flags(num=24, interpolate=True), sketches, rows)
    counts = np.diff(blended.offsets).reshape(-1, 2)
    assert len(counts) == 3 and np.array_equal(counts[:, 0], counts[:, 1])
    with pytest.raises(ValueError, match="needs more data"):
        held_out(flags(interpolate=True), sketches.subset(range(10)), rows)


def test_the_first_half_is_a_prefix_of_the_rows():
    sketches = scribbles(30)
    half = first_half(sketches)
    assert np.array_equal(np.diff(half.offsets), (np.diff(sketches.offsets) + 1) // 2)
    for rows in (StrokeRows.fit(sketches, 4), PointRows.fit(sketches)):
        whole, kept = rows.encode(sketches), rows.encode(half)
        for m in range(30):
            assert np.array_equal(whole[m][: kept.sizes[m]], kept[m])


def test_what_is_not_finite_is_left_out_where_it_may(capsys):
    good, bad = torch.zeros(2, 6), torch.full((1, 6), torch.nan)
    assert sound([good, good]) == [good, good] and not capsys.readouterr().out
    assert len(sound([good, bad])) == 1 and "1 sketches are left out" in capsys.readouterr().out
    for items, every in (([good, bad], True), ([bad], False)):
        with pytest.raises(ValueError, match=r"1 of . sketches did not come out"):
            sound(items, every)


@pytest.fixture(scope="module")
def example():
    path = ROOT / "examples" / "sketch_bidirnn.py"
    spec = importlib.util.spec_from_file_location("sketch_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", [StrokeRows, PointRows])
@pytest.mark.parametrize("how", [["--inpaint", "--resamples=2"], ["--edit=0.3"], ["--interpolate"]])
def test_the_example_writes_what_it_began_from(how, kind, example, monkeypatch, tmp_path):
    sketches = scribbles(100, seed=4)
    write_ndjson(tmp_path / "data.ndjson", sketches)
    rows = kind.fit(sketches, 4) if kind is StrokeRows else kind.fit(sketches, 3.0)
    diffusion = GaussianDiffusion(BiRNN(rows.channels, 8, 1), Cosine(), "v")
    extra = {"rows": rows.config, "lengths": [1], "data": str(tmp_path / "data.ndjson")}
    anydiff.save(tmp_path / "model.safetensors", diffusion, extra)
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", [
        "sketch", f"--sample-only={tmp_path}/model.safetensors", f"--out={out}", "--steps=2",
        "--num=8", "--accelerator=cpu", *how,
    ])  # fmt: skip
    if kind is PointRows and how == ["--interpolate"]:  # hardly two have as many points
        sketches = Sketches.from_lists([[np.array([(0, 0), (m, 3.0)])] for m in range(100)])
        write_ndjson(tmp_path / "data.ndjson", sketches)
    example.read.cache_clear()
    example.main()
    drawn = read_sketches(out / "samples.ndjson")
    assert len(drawn) == 8
    assert (out / "denoising.gif").exists() == (how != ["--interpolate"])
    pictures = [np.asarray(Image.open(out / f"{name}.png")) for name in ("before", "samples")]
    if how != ["--interpolate"]:
        assert pictures[0].shape == pictures[1].shape
        valid = sketches.subset(split(range(100)).valid[:8])
    if kind is StrokeRows and how[0] == "--inpaint":
        half = first_half(rows.decode(rows.encode(valid).values, np.diff(valid.offsets)))
        kept = drawn.part(0, np.diff(half.offsets))
        assert np.allclose(kept.points, half.points, atol=1e-4)
        several = np.diff(half.offsets) < np.diff(valid.offsets)
        rest = drawn.subset(several).part(np.diff(half.offsets)[several])
        truth = valid.subset(several).part(np.diff(half.offsets)[several])
        ends = [[s[-1] for s in part[0]] for part in (rest, truth)]
        assert np.abs(np.subtract(*ends)).max() > 1  # and they are drawn anew
        grey = np.ptp(pictures[0].astype(int), axis=2) < 40
        assert grey.all() and not (np.ptp(pictures[1].astype(int), axis=2) < 40).all()


@pytest.mark.parametrize("wrong", [
    ["--inpaint", "--interpolate"], ["--edit=0.5", "--length=4"], ["--guidance=3"],
])  # fmt: skip
def test_flags_that_do_not_go_together_say_so(wrong, example, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sketch", *wrong])
    with pytest.raises(SystemExit):
        example.arguments()
    assert wrong[-1].split("=")[0] in capsys.readouterr().err
