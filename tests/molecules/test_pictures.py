"""Pictures of molecules: words beside the rows of a grid."""

import numpy as np
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
