import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from anydiff.images import Images
from anydiff.images.gallery import show_images
from anydiff.images.pictures import (
    animate_denoising,
    draw_grid,
    draw_rows,
    draw_strip,
    sheet,
    visible,
)
from anydiff.pages import Page

GROUND = 226


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def places(num, columns, side, scale):
    """The middle of each pixel of each image on a sheet: rows, columns (num, side)."""
    gap = max(2, scale * side // 24)
    row, column = np.divmod(np.arange(num), columns)
    inside = np.arange(side) * scale + scale // 2
    return tuple(gap + k[:, None] * (side * scale + gap) + inside for k in (row, column))


def frames_of(path):
    with Image.open(path) as film:
        shown, durations = [], []
        for k in range(film.n_frames):
            film.seek(k)
            shown.append(np.asarray(film.convert("RGB")))
            durations.append(film.info["duration"])
        return np.stack(shown), durations, film.info


# sheets --------------------


@pytest.mark.parametrize("num, columns, scale", [(6, 3, 4), (5, 3, 7), (1, 1, 1), (4, 9, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_is_a_square_at_its_place(num, columns, scale, channels):
    pixels = random(num, channels, 5, 5)
    picture = sheet(pixels, columns, scale)
    columns = min(columns, num)
    rows, gap = -(-num // columns), max(2, scale * 5 // 24)
    step = 5 * scale + gap
    assert picture.shape == (rows * step + gap, columns * step + gap, 3)

    y, x = places(num, columns, 5, scale)
    seen = picture[y[:, :, None], x[:, None, :]]
    assert np.array_equal(seen, pixels.permute(0, 2, 3, 1).expand(-1, -1, -1, 3))
    drawn = pixels.sum().item() * scale**2 * (3 // channels)
    ground = picture.shape[0] * picture.shape[1] - num * (5 * scale) ** 2
    assert picture.sum(dtype=int) == drawn + 3 * GROUND * ground  # and nothing else is there


def test_images_need_not_be_square():
    assert sheet(random(2, 1, 3, 7), 2, 2).shape == (2 * 3 + 4, 2 * 7 * 2 + 6, 3)


@pytest.mark.parametrize("num", [4, 16, 36, 64, 100])
@pytest.mark.parametrize("side", [8, 28, 32, 64])
def test_sheets_have_a_size_to_look_at(num, side):
    height, width, _ = sheet(random(num, 1, side, side)).shape
    assert height == width
    assert 400 < width < 1000 and (num < 16 or width > 520)
    assert sheet(random(1, 1, 8, 8)).shape[0] < 300
    assert sheet(random(1, 1, 1000, 1000)).shape[0] < 1100


@pytest.mark.parametrize("channels, shown", [(1, 1), (2, 1), (3, 3), (4, 3), (13, 3)])
def test_of_other_channels_the_first_are_shown(channels, shown):
    pixels = random(5, channels, 6, 7)
    assert torch.equal(visible(pixels), pixels[:, :shown])
    assert torch.equal(visible(pixels.unflatten(0, (1, 5))), pixels[None, :, :shown])


def test_a_page_of_photographs_is_small():
    y, x = np.mgrid[:300, :400]
    photograph = np.stack([np.sin(x / 20) * 100 + 100, y / 2, (x + y) / 3]).astype(np.uint8)
    pixels = torch.from_numpy(np.stack([photograph] * 3))
    page = Page("Photographs")
    show_images(page, Images(torch.cat([pixels, pixels[:, :1]], 1)))
    text = page.html()
    assert "Shown of 4 channels: the first three." in text and len(text) < 200_000
    first = text.split('src="data:image/jpeg;base64,')[1].split('"')[0]
    with Image.open(io.BytesIO(base64.b64decode(first))) as shown:
        assert shown.size == (200, 150)
        away = np.abs(np.asarray(shown, np.float32) - photograph[:, ::2, ::2].transpose(1, 2, 0))
        assert away.mean() < 3


def test_a_grid_is_the_sheet(tmp_path):
    pixels = random(7, 3, 6, 6)
    draw_grid(tmp_path / "new" / "a.png", pixels, columns=4, scale=3)
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.format == "PNG"
        assert np.array_equal(np.asarray(picture), sheet(pixels, 4, 3))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


def test_rows_lie_beside_their_captions(tmp_path):
    rows = {"a": random(3, 1, 4, 4), "a longer caption": random(3, 1, 4, 4, seed=1)}
    draw_rows(tmp_path / "a.png", rows, scale=6)
    with Image.open(tmp_path / "a.png") as picture:
        picture = np.asarray(picture)
    images = sheet(torch.cat(list(rows.values())), 3, 6)
    margin = picture.shape[1] - images.shape[1]
    assert np.array_equal(picture[:, margin:], images)
    dark = picture[:, :margin, 0] < 100
    down, along = np.nonzero(dark)
    middle = len(images) // 2
    assert (down < middle).any() and (down > middle).any()  # each beside its own
    assert along.min() > 0 and along.max() < margin - 5
    assert along[down > middle].max() > 2 * along[down < middle].max()
    for wrong, words in (
        ({}, "of the rows are none"),
        (rows | {"b": random(2, 1, 4, 4)}, r"\(2, 1, 4, 4\)"),
    ):
        with pytest.raises(ValueError, match=words):
            draw_rows(tmp_path / "b.png", wrong)
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    "count, moments", [(3, [0, 4, 8]), (None, range(9)), (1, [8]), (20, range(9))]
)
def test_a_strip_runs_from_left_to_right(tmp_path, count, moments):
    frames = random(9, 2, 1, 4, 4)
    draw_strip(tmp_path / "a.png", frames, columns=count, scale=2)
    with Image.open(tmp_path / "a.png") as picture:
        picture = np.asarray(picture)
    y, x = places(2 * len(moments), len(moments), 4, 2)
    seen = picture[y[:, :, None], x[:, None, :], 0].reshape(2, len(moments), 4, 4)
    assert np.array_equal(seen, frames[list(moments), :, 0].transpose(0, 1))


@pytest.mark.parametrize(
    "pixels, words",
    [
        (torch.zeros(2, 3, 4, 4), r"of torch.float32; give uint8 \(B, C, H, W\); .*to_uint8"),
        (random(3, 4, 4), r"\(3, 4, 4\) of torch.uint8; give uint8 \(B, C, H, W\)\.$"),
        (random(2, 4, 5, 5), "with 4 channels; a picture is grey"),
        (random(0, 3, 4, 4), "nothing to draw"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, pixels, words):
    with pytest.raises(ValueError, match=words):
        draw_grid(tmp_path / "a.png", pixels)
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_drawn_so_is_refused(tmp_path):
    path, frames = tmp_path / "a", random(3, 2, 1, 4, 4)
    for call, words in [
        (lambda: sheet(frames[0], scale=0), "scale is 0"),
        (lambda: sheet(frames[0], columns=0), "columns is 0"),
        (lambda: draw_strip(path, frames[0]), r"\(T, B, C, H, W\)"),
        (lambda: animate_denoising(path, frames[0]), r"\(T, B, C, H, W\)"),
        (lambda: animate_denoising(path, frames, fps=0), "fps is 0"),
        (lambda: animate_denoising(path, frames, fps=60), "fps is 60"),
        (lambda: animate_denoising(path, frames, hold=-1), "hold is -1"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    assert list(tmp_path.iterdir()) == []


# films --------------------


def test_a_grey_film_is_exact(tmp_path):
    frames = random(6, 5, 1, 8, 8)
    frames[3:, 2:] = frames[2, 2:]  # part of it stands still
    animate_denoising(tmp_path / "a.gif", frames, columns=3, scale=4, fps=10, hold=2)
    shown, durations, info = frames_of(tmp_path / "a.gif")
    assert np.array_equal(shown, [sheet(frame, 3, 4) for frame in frames])
    assert durations == [100] * 5 + [2000] and info["loop"] == 0


def test_few_colours_are_exact(tmp_path):
    palette = random(40, 3)
    frames = palette[random(4, 6, 8, 8).long() % 40].movedim(-1, 2)
    animate_denoising(tmp_path / "a.gif", frames, scale=3)
    shown, durations, _ = frames_of(tmp_path / "a.gif")
    assert np.array_equal(shown, [sheet(frame, scale=3) for frame in frames])
    assert durations == [70] * 3 + [1500]  # a fifteenth of a second, in hundredths


def test_many_colours_are_near(tmp_path):
    """Smooth colours, as photographs have; the last frame, which stands, is the nearest."""
    y, x = torch.meshgrid(torch.linspace(0, 255, 32), torch.linspace(0, 255, 32), indexing="ij")
    one = torch.stack([x, y, (x + y) / 2])
    frames = torch.stack([torch.stack([one, one.flip(0), one.flip(1)])] * 3).to(torch.uint8)
    frames[0] = random(3, 3, 32, 32)
    animate_denoising(tmp_path / "a.gif", frames, columns=2, scale=2)
    shown, *_ = frames_of(tmp_path / "a.gif")
    off = [
        np.abs(s.astype(int) - sheet(f, 2, 2)).mean() for s, f in zip(shown, frames, strict=True)
    ]
    assert off[2] < off[1] < 8 and off[0] < 20
    ground = sheet(torch.zeros_like(frames[0]), 2, 2) == GROUND
    assert (shown[:, ground] == GROUND).all()


def test_a_film_of_one_frame_and_of_large_images(tmp_path):
    frames = random(1, 1, 3, 300, 200)
    animate_denoising(tmp_path / "a.gif", frames)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 1 and film.size == (200 + 2 * 8, 300 + 2 * 8)
