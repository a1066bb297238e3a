"""Canvases of digits: their texts there and back, what is held out, and the judge."""

import itertools

import pytest
import torch

from anydiff.images.canvases import canvases, caption, cells_of, judge, unseen


def test_texts_there_and_back():
    rows = list(itertools.product(range(-1, 10), repeat=2))
    for above in rows:
        cells = torch.tensor([above, rows[(7 * len(above) + above[0]) % len(rows)]])
        assert torch.equal(cells_of(caption(cells)), cells)
    assert caption(torch.tensor([[7, 7], [3, -1]])) == "two sevens above a three on the left"
    assert caption(torch.tensor([[8, 6], [-1, -1]])) == "an eight left of a six above nothing"
    assert len({caption(torch.tensor([above, (1, 2)])) for above in rows}) == len(rows)
    for text in ("two sevens", "two tens above nothing", "a seven above a three", ""):
        with pytest.raises(ValueError, match="is no text of a canvas, such as"):
            cells_of(text)


def test_pairs_are_held_out():
    rows = torch.tensor(list(itertools.product(range(10), repeat=2)))
    held = unseen(torch.stack([rows, torch.full_like(rows, -1)], 1))
    assert held.sum() == 10 and {tuple(r) for r in rows[held].tolist()} == {
        (k, (k + 3) % 10) for k in range(10)
    }
    assert not unseen(canvases(300, seed=1).cells).any()
    assert unseen(canvases(300, seed=1, held_out=True).cells).all()


def test_real_canvases_are_right_and_others_are_not():
    real = canvases(400, "test", seed=2)
    assert real.pixels.shape == (400, 1, 16, 16) and len(real.captions) == 400
    assert [caption(c) for c in real.cells[:5]] == real.captions[:5]
    report = judge(real.pixels, real.cells)
    assert report.cells > 0.985 and report.identity > 0.985 and report.count > 0.985
    assert report.whole > 0.95
    # the same digits in other cells
    moved = judge(real.pixels, real.cells.flip(1))
    assert moved.identity == report.identity and moved.count == report.count
    assert moved.cells < 0.3
    other = judge(real.pixels, real.cells.roll(1, 0))
    assert other.cells < 0.3 and other.identity < 0.4
    noise = torch.randint(256, real.pixels.shape, dtype=torch.uint8)
    assert judge(noise, real.cells).identity < 0.2


def test_canvases_are_the_same_for_a_seed_and_differ_between_parts():
    one, again = (canvases(20, seed=3) for _ in range(2))
    assert torch.equal(one.pixels, again.pixels) and one.captions == again.captions
    other = canvases(20, "test", seed=3)
    assert torch.equal(one.cells, other.cells) and not torch.equal(one.pixels, other.pixels)
    share = (canvases(2000).cells == -1).double().mean()
    assert share == pytest.approx(0.25, abs=0.03)
