"""Pictures of molecules: words beside the rows of a grid, and bonds that are given."""

import numpy as np
import pytest
from PIL import Image

from anydiff.molecules import load_qm9, pictures
from anydiff.molecules.pictures import draw_grid


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_what_has_fallen_together_is_drawn_in_no_time(tmp_path, monkeypatch):
    sticks = []
    monkeypatch.setattr(pictures._Canvas, "stick", lambda self, a, b, *_: sticks.append((a, b)))
    some = load_qm9().subset([4000])
    look = {"size": 60, "columns": 1}
    draw_grid(tmp_path / "a.png", some.pos, some.z, some.index, **look)
    assert len(sticks) == some.orders.sum()
    sticks.clear()
    # as an untrained model draws them: every pair is a bond
    ball = np.random.default_rng(0).standard_normal((70, 3)) * 0.2
    draw_grid(tmp_path / "b.png", ball, np.full(70, 6), np.zeros(70, int), **look)
    assert not sticks and (pixels(tmp_path / "b.png").min(2) < 200).any()


def test_words_stand_before_their_rows(tmp_path):
    some = load_qm9().subset(range(4))
    plain, said = tmp_path / "a.png", tmp_path / "b.png"
    look = {"columns": 2, "size": 100}
    draw_grid(plain, some.pos, some.z, some.index, **look)
    draw_grid(said, some.pos, some.z, some.index, rows=["first row", "second"], **look)
    room = pixels(said).shape[1] - pixels(plain).shape[1]
    assert np.array_equal(pixels(said)[:, room:], pixels(plain)) and room > 30
    words = pixels(said)[:, :room].min(2) < 160
    first, second = words[:84], words[84:]
    assert first[30:54].sum() == first.sum() > 20 and second[30:54].sum() == second.sum() > 20


GREEN = (38, 166, 91)


def test_bonds_that_are_given_are_drawn_and_judged(tmp_path):
    some = load_qm9().subset([10, 13])
    path, look = tmp_path / "a.png", {"columns": 2, "size": 120}

    def drawn(**more):
        draw_grid(path, some.pos, some.z, some.index, **look, **more)
        found = pixels(path)
        dots = (found == GREEN).all(2)
        return found, dots[:, :120].any(), dots[:, 120:].any()

    by_distance = drawn()
    own = drawn(bonds=some.bonds, orders=some.orders, charges=some.charges)
    assert np.array_equal(own[0], by_distance[0]) and own[1:] == (True, True)
    orders = some.orders.copy()
    orders[np.flatnonzero((some.z[some.bonds] == 6).all(1) & (orders == 1))[0]] = 3
    wrong = drawn(bonds=some.bonds, orders=orders)
    changed = (wrong[0] != own[0]).any(2)
    assert wrong[1:] == (False, True) and changed[:90, :120].any() and not changed[:90, 120:].any()
    none = drawn(bonds=np.zeros((0, 2), int), orders=[])
    assert none[1:] == (False, False)

    lost = some.pos.copy()
    lost[some.bonds[0, 0]] = np.nan  # its bonds are not drawn, and it is not stable
    draw_grid(path, lost, some.z, some.index, bonds=some.bonds, orders=some.orders, **look)
    assert not (pixels(path)[:, :120] == GREEN).all(2).any()
    for bonds, orders in (([[0, 99]], [1]), ([[0, 1]], [5]), ([[0, 1]], None), ([[-1, 1]], [1])):
        with pytest.raises(
            ValueError, match=r"bonds are \(1, 2\) and orders .* give \(E, 2\) rows"
        ):
            draw_grid(path, some.pos, some.z, some.index, bonds=bonds, orders=orders)
