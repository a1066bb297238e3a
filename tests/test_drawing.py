import numpy as np
import pytest
from PIL import Image

from anydiff.drawing import beside, text_width, tiled, write_gif, write_image


@pytest.mark.parametrize("num, columns, gap", [(6, 3, 2), (5, 3, 1), (1, 1, 0), (4, 9, 3)])
@pytest.mark.parametrize("rest", [(), (3,)])
def test_every_tile_is_at_its_place(num, columns, gap, rest):
    tiles = np.random.default_rng(0).integers(0, 200, (num, 4, 5, *rest), np.uint8)
    sheet = tiled(tiles, columns, gap, ground=255)
    rows = -(-num // columns)
    assert sheet.shape == (rows * (4 + gap) + gap, columns * (5 + gap) + gap, *rest)
    for k, tile in enumerate(tiles):
        row, column = divmod(k, columns)
        y, x = gap + row * (4 + gap), gap + column * (5 + gap)
        assert np.array_equal(sheet[y : y + 4, x : x + 5], tile)
    assert (sheet != 255).sum() == tiles.size  # the ground is everywhere else


def test_captions_stand_in_the_margin():
    sheet = np.zeros((60, 40, 3), np.uint8)
    margin = 8 + round(text_width(["one", "a longer one"]))
    picture = np.asarray(
        beside(
            sheet, ["one", "a longer one"], [15, 45],
            margin=margin, left=4, ink=(0, 0, 255), ground=255,
        )
    )  # fmt: skip
    assert picture.shape == (60, margin + 40, 3) and not picture[:, margin:].any()
    written = (picture[:, :margin, 0] < 255).any(1)
    assert written[10:20].any() and written[40:50].any() and not written[25:35].any()


def test_files_are_complete_and_hold_the_picture(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_image(tmp_path / "new" / "a.png", picture, dpi=200)
    with Image.open(tmp_path / "new" / "a.png") as read:
        assert np.array_equal(np.asarray(read), picture)
        assert read.info["dpi"] == pytest.approx((200, 200), abs=0.1)

    frames = [Image.fromarray(np.full((4, 4), k, np.uint8), "P") for k in range(3)]
    for frame in frames:
        frame.putpalette(bytes(range(9)))
    write_gif(tmp_path / "a.gif", frames, fps=10, hold=1)
    with Image.open(tmp_path / "a.gif") as read:
        assert read.n_frames == 3 and read.info["loop"] == 0 and read.info["duration"] == 100
    for wrong in ({"fps": 0, "hold": 1}, {"fps": 60, "hold": 1}, {"fps": 10, "hold": -1}):
        with pytest.raises(ValueError, match=r"(fps|hold) is .*; give a number in"):
            write_gif(tmp_path / "b.gif", frames, **wrong)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "a.gif"}
