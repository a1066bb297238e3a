import functools
import gzip
import hashlib
import io
import os
import pickle
import runpy
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import anydiff.images
from anydiff.images import (
    ImageError,
    Images,
    from_uint8,
    held_out,
    load_images,
    loader,
    split,
    to_uint8,
    unpack,
)
from anydiff.images.batches import ImageBatchSampler, ImageDataset
from anydiff.images.cifar import Source, fetch, is_cifar10, load_cifar10
from anydiff.images.files import adapt, read_folder, read_idx, read_mnist
from anydiff.spaces import Dense
from tests.helpers.paths import ROOT


def random(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def some(num=23, channels=3, side=4, labels=True, **options):
    pixels = torch.from_numpy(random(num, channels, side, side))
    return Images(pixels, torch.arange(num) % 5 if labels else None, tuple("abcde"), **options)


# the container --------------------


def test_images_know_their_shape_and_parts():
    images = some(7, 3, 4)
    assert len(images) == 7 and images.shape == (3, 4, 4) and images.labels.dtype == torch.int64
    part = images.subset([5, 0])
    assert torch.equal(part.pixels, images.pixels[[5, 0]]) and part.labels.tolist() == [0, 0]
    assert part.classes == images.classes
    mask = np.arange(7) % 2 == 1
    assert torch.equal(images.subset(mask).pixels, images.pixels[1::2])
    assert some(7, num_test=3).subset(torch.tensor([6])).num_test == 0
    pixels = random(3, 1, 2, 2)
    assert np.array_equal(Images(pixels, np.array([0, 2, 1], np.uint8)).pixels.numpy(), pixels)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"pixels": torch.zeros(2, 3, 4, 4)}, r"\(2, 3, 4, 4\) of torch.float32.*to_uint8"),
        ({"pixels": torch.zeros(3, 4, 4, dtype=torch.uint8)}, r"\(M, C, H, W\)"),
        ({"pixels": np.ma.masked_greater(random(2, 3, 8, 8), 9)}, "have masked values"),
        (
            {"pixels": np.zeros((2, 8, 8, 3), np.uint8)},
            r"with 3 channels last; give \(M, C, H, W\)",
        ),
        ({"pixels": torch.zeros(0, 3, 4, 4, dtype=torch.uint8)}, "there is no image"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "each of the 2 images"),
        ({"labels": torch.zeros(2)}, "one integer"),
        ({"labels": torch.tensor([0, 2])}, "image 1 has label 2; labels are 0 to 1"),
        ({"labels": torch.tensor([-1, 0])}, "image 0 has label -1"),
        ({"num_test": 3}, "num_test is 3"),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    good = {"pixels": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "classes": ("a", "b")}
    Images(**good)
    with pytest.raises(ImageError, match="^mine: .*" + words):
        Images(**{**good, **change}, name="mine")


# parts --------------------


@pytest.mark.parametrize(
    "num, num_test, sizes",
    [
        (1797, 0, (1258, 90, 449)),
        (10, 0, (7, 1, 2)),
        (60_000, 10_000, (49_000, 1000, 10_000)),
        (30, 5, (23, 2, 5)),
    ],
)
def test_parts_share_no_picture_and_are_the_same_each_time(num, num_test, sizes):
    images = Images(torch.zeros(num, 1, 1, 1, dtype=torch.uint8), num_test=num_test)
    parts = split(images)
    assert tuple(map(len, parts)) == sizes
    assert sorted(np.concatenate(parts).tolist()) == list(range(num))
    for one, other in zip(parts, split(images), strict=True):
        assert np.array_equal(one, other)
    order = np.random.RandomState(0).permutation(num - num_test)
    assert np.array_equal(parts.train, order[: sizes[0]])
    if num_test:
        assert parts.test.tolist() == list(range(num - num_test, num))


@pytest.mark.parametrize("num, num_test", [(1, 0), (3, 0), (9, 9), (12, 5)])
def test_too_few_pictures_make_no_parts(num, num_test):
    with pytest.raises(ImageError, match=f"{num} images, {num_test} of them"):
        split(some(num, num_test=num_test))


def test_as_many_are_held_out_as_are_wanted():
    images = some(20)
    test = split(images).test
    chosen = held_out(images, 7, [3, 4, 4])
    assert torch.equal(chosen.pixels, images.pixels[np.resize(test, 7)])
    assert torch.equal(chosen.labels, images.labels[np.resize(test, 7)])
    with pytest.raises(ImageError, match=r"\(3, 4, 4\) and the model generates \(1, 8, 8\)"):
        held_out(images, 7, [1, 8, 8])


# scale --------------------


def test_all_bytes_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8)
    x = from_uint8(pixels)
    assert x.dtype == torch.float32 and x[0] == -1 and x[-1] == 1
    assert torch.allclose(-x, x.flip(0), rtol=0, atol=2**-23)  # black and white are alike
    assert torch.equal(to_uint8(x), pixels) and torch.equal(to_uint8(x.double()), pixels)
    assert torch.equal(to_uint8(x + 0.99 / 255), pixels)  # to the nearest
    assert torch.equal(to_uint8(x - 0.99 / 255), pixels)
    assert to_uint8(torch.tensor([-7.0, 1.01, 1e30])).tolist() == [0, 255, 255]


def test_what_has_no_byte_is_refused():
    with pytest.raises(ValueError, match="2 of the 3 values"):
        to_uint8(torch.tensor([0.0, float("nan"), float("inf")]))
    with pytest.raises(ValueError, match="floating"):
        to_uint8(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="give uint8"):
        from_uint8(torch.zeros(2))


# batches --------------------


def rows(batches):
    """Each picture as bytes."""
    return [row.tobytes() for batch in batches for row in batch.pixels.numpy()]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [5, 23, 64])
def test_an_epoch_has_every_picture_once(flip, shuffle, batch_size):
    images = some(23)
    batches = list(loader(images, batch_size, flip=flip, shuffle=shuffle))
    every = [images.pixels, images.pixels.flip(-1)][: 1 + flip]
    expected = [row.tobytes() for part in every for row in part.numpy()]
    assert sorted(rows(batches)) == sorted(expected)
    assert (rows(batches) == expected) is not shuffle
    sizes = [len(batch.pixels) for batch in batches]
    assert max(sizes) <= batch_size and len(sizes) == -(-len(expected) // batch_size)
    if shuffle:
        assert max(sizes) - min(sizes) <= 1


def test_labels_stay_with_their_pictures():
    images = some(23)
    number = {row.tobytes(): m for m, row in enumerate(images.pixels.numpy())}
    number |= {row.tobytes(): m for m, row in enumerate(images.pixels.flip(-1).numpy())}
    for batch in loader(images, 5, flip=True, labels=True):
        found = [number[row.tobytes()] for row in batch.pixels.numpy()]
        assert torch.equal(batch.labels, images.labels[found])
    with pytest.raises(ImageError, match="have no labels"):
        loader(some(labels=False), labels=True)


def test_the_pictures_themselves_are_not_mirrored():
    images = some(4)
    before = images.pixels.clone()
    list(loader(images, 8, flip=True))
    assert torch.equal(images.pixels, before)
    dataset = ImageDataset(images, flip=True)
    assert len(dataset) == 8
    assert torch.equal(dataset[5], images.pixels[1].flip(-1))
    assert torch.equal(dataset[-1], images.pixels[3].flip(-1))
    with pytest.raises(IndexError):
        dataset[8]


def test_order_follows_seed_and_epoch_alone():
    one, other = loader(some(), 5, seed=3), loader(some(), 5, seed=3)
    first, second = rows(one), rows(one)
    assert first != second and sorted(first) == sorted(second)
    other.batch_sampler.set_epoch(1)
    assert rows(other) == second
    assert rows(loader(some(), 5, seed=4)) != first


@pytest.mark.parametrize("done", [0, 1, 7, 9, 10])
def test_a_run_goes_on_with_the_batch_that_was_next(done):
    whole_run = loader(some(), 5, seed=1, flip=True)
    expected = rows(whole_run) + rows(whole_run)

    begun = loader(some(), 5, seed=1, flip=True)
    batches = iter(begun)
    seen = rows(next(batches) for _ in range(done))
    resumed = loader(some(), 5, seed=1, flip=True)
    resumed.load_state_dict(begun.state_dict())
    seen += rows(resumed)
    while len(seen) < len(expected):
        seen += rows(resumed)
    assert seen == expected

    if done:
        begun.put_back()
        again = loader(some(), 5, seed=1, flip=True)
        again.load_state_dict(begun.state_dict())
        sizes = [len(batch) for batch in ImageBatchSampler(46, 5, seed=1)]
        assert rows(again) == expected[sum(sizes[: done - 1]) : 46]


def test_processes_share_an_epoch(monkeypatch):
    together = []
    for rank in range(3):
        monkeypatch.setattr("anydiff.data.batches.rank_and_size", lambda rank=rank: (rank, 3))
        sampler = ImageBatchSampler(60, 5, seed=2)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 4
        together += [m for batch in batches for m in batch]
    assert sorted(together) == list(range(60))


def test_a_batch_unpacks_to_what_diffuses():
    images = some()
    x0, space, cond = unpack(next(iter(loader(images, 5, shuffle=False, labels=True))))
    assert x0.dtype == torch.float32 and isinstance(space, Dense)
    assert torch.equal(to_uint8(x0), images.pixels[:5])
    assert list(cond) == ["label"] and torch.equal(cond["label"], images.labels[:5])
    assert unpack(next(iter(loader(images, 5))))[2] == {}


def test_lightning_can_move_a_batch():
    from lightning_utilities.core.apply_func import apply_to_collection

    for labels in (False, True):
        batch = next(iter(loader(some(), 5, labels=labels)))
        moved = apply_to_collection(batch, torch.Tensor, lambda x: x.to("meta"))
        assert type(moved) is type(batch) and moved.pixels.device.type == "meta"
        assert (moved.labels is None) is not labels


# the digits --------------------


def test_digits_are_shipped():
    images = load_images("digits")
    assert images.pixels.shape == (1797, 1, 8, 8) and images.classes == tuple("0123456789")
    values = images.pixels.unique().tolist()
    assert values == [round(v * 255 / 16) for v in range(17)]
    assert images.labels[:10].tolist() == list(range(10)) and images.num_test == 0
    sklearn = pytest.importorskip("sklearn.datasets").load_digits()
    assert np.array_equal(images.labels.numpy(), sklearn.target)
    assert np.array_equal(np.rint(images.pixels[:, 0].numpy() * (16 / 255)), sklearn.images)


# one size, grey or RGB --------------------


def test_a_centred_part_is_resampled():
    wide = random(2, 8, 16, 3)
    pixels = torch.from_numpy(wide).permute(0, 3, 1, 2)
    images = adapt(Images(pixels, torch.tensor([0, 0]), ("a",), 1), 4)
    assert images.labels.tolist() == [0, 0] and images.classes == ("a",) and images.num_test == 1
    for given, made in zip(wide, images.pixels.permute(0, 2, 3, 1).numpy(), strict=True):
        small = np.asarray(Image.fromarray(given).resize((8, 4), Image.Resampling.LANCZOS))
        assert np.array_equal(made, small[:, 2:6])

    board = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)[None, None]
    small = adapt(Images(torch.from_numpy(board)), 2).pixels.float()
    assert (small - 127.5).abs().max() < 20  # antialiased: picked pixels would be 0 or 255
    assert adapt(Images(torch.from_numpy(board)), (2, 6)).shape == (1, 2, 6)


def test_grey_and_rgb():
    grey = some(3, 1)
    rgb = adapt(grey, channels=3)
    assert rgb.shape == (3, 4, 4) and (rgb.pixels == grey.pixels).all()
    assert torch.equal(adapt(rgb, channels=1).pixels, grey.pixels)
    primary = torch.eye(3, dtype=torch.uint8)[:, :, None, None] * 255
    luma = adapt(Images(primary), channels=1).pixels.flatten().tolist()
    assert luma == [76, 150, 29]  # 255 · (0.299, 0.587, 0.114)
    assert adapt(grey) is grey and adapt(grey, 4, 1) is grey
    with pytest.raises(ValueError, match="channels is 2"):
        adapt(grey, channels=2)
    with pytest.raises(ValueError, match="size is 0"):
        adapt(grey, 0)
    with pytest.raises(ImageError, match="2 channels"):
        adapt(some(3, 2), 5)


# as MNIST --------------------


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def mnist(folder, dot="-", pack=False, train=12, test=5):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, num in (("train", train), ("t10k", test)):
        arrays[part] = random(num, 6, 5, seed=num), np.arange(num, dtype=np.uint8) % 4
        for name, array in zip((f"images{dot}idx3", f"labels{dot}idx1"), arrays[part], strict=True):
            raw = idx(array)
            path = folder / f"{part}-{name}-ubyte{'.gz' if pack else ''}"
            path.write_bytes(gzip.compress(raw) if pack else raw)
    return arrays


@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("pack", [False, True])
def test_mnist_round_trips(tmp_path, dot, pack):
    arrays = mnist(tmp_path, dot, pack)
    for images in (
        load_images(tmp_path),
        load_images("mnist", tmp_path),
        read_mnist(str(tmp_path)),
    ):
        together = np.concatenate([arrays["train"][0], arrays["t10k"][0]])
        assert np.array_equal(images.pixels[:, 0].numpy(), together)
        assert images.labels.tolist() == [*(m % 4 for m in range(12)), 0, 1, 2, 3, 0]
        assert images.num_test == 5 and images.classes == tuple("0123")
    assert load_images(tmp_path, size=3, channels=3).shape == (3, 3, 3)


def test_a_file_of_images_finds_its_labels(tmp_path):
    arrays = mnist(tmp_path)
    images = load_images(tmp_path / "t10k-images-idx3-ubyte")
    assert np.array_equal(images.pixels[:, 0].numpy(), arrays["t10k"][0])
    assert images.labels.tolist() == [0, 1, 2, 3, 0] and images.num_test == 0
    alone = tmp_path / "mine.idx"
    alone.write_bytes(idx(arrays["train"][0]))
    assert load_images(alone).labels is None and len(load_images(alone)) == 12
    (tmp_path / "train-images-idx3-ubyte").unlink()
    assert read_mnist(tmp_path).num_test == 0  # nothing but the test part


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda raw: raw[:-1], r"only 359 of the 12 × 6 × 5 bytes|cut short"),
        (lambda raw: raw + b"\0", r"more than the 12 × 6 × 5 bytes|cut short"),
        (lambda raw: raw[:9], "cut short"),
        (lambda raw: b"", "begins with nothing"),
        (lambda raw: b"\0\0\x0d\x03" + raw[4:], "begins with 00 00 0d 03"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "cut short.*4,294,967,295 ×"),
        (lambda raw: raw[:4] + b"\0\0\0\x0b" + raw[8:], "more than the 11 × 6 × 5"),
    ],
)
def test_a_faulty_idx_file_is_named(tmp_path, change, words, pack):
    path = tmp_path / ("a.gz" if pack else "a")
    raw = change(idx(random(12, 6, 5)))
    path.write_bytes(gzip.compress(raw) if pack else raw)
    with pytest.raises(ImageError, match=f"{path}: .*({words})"):
        read_idx(path)


def test_mnist_files_that_do_not_fit_are_named(tmp_path):
    mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(ImageError, match="t10k-labels-idx1-ubyte: 4 labels for the 5 images"):
        read_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ImageError, match="t10k-images-idx3-ubyte: has no file of labels"):
        read_mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(random(5, 6, 6)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(5, np.uint8)))
    with pytest.raises(ImageError, match=r"images of 6 × 6, but .* 6 × 5"):
        read_mnist(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="it holds nothing"):
        read_mnist(tmp_path / "empty")
    with pytest.raises(ImageError, match="there is no such file"):
        read_mnist(tmp_path / "none")


# folders of pictures --------------------


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def test_sub_folders_are_classes(tmp_path):
    arrays = {f"{c}/{k}.png": random(5, 6, 3, seed=k) for c, k in (("b", 3), ("a", 2), ("a", 10))}
    for name, array in arrays.items():
        save(tmp_path / name, array)
    (tmp_path / "notes.txt").write_text("not a picture")
    save(tmp_path / ".hidden" / "x.png", random(2, 2))
    with pytest.warns(UserWarning, match="1 file is no image and left out, notes.txt") as told:
        images = load_images(tmp_path)
    assert len(told) == 1
    assert images.classes == ("a", "b") and images.labels.tolist() == [0, 0, 1]
    expected = [arrays[name] for name in ("a/10.png", "a/2.png", "b/3.png")]
    assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), expected)
    save(tmp_path / "top.png", random(5, 6, 3))
    with pytest.warns(UserWarning, match=r"1 image is in no sub-folder, so that no .*, top\.png"):
        images = load_images("folder", tmp_path)
    assert len(images) == 4 and images.labels is None and images.classes == ()


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "webp", "jpg", "JPEG"])
def test_kinds_of_pictures(tmp_path, suffix):
    array = np.full((8, 8), 100, np.uint8)
    array[2:6, 2:6] = 200
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 100}, "JPEG": {"quality": 100}}
    save(tmp_path / f"a.{suffix}", array, **lossless.get(suffix, {}))
    images = read_folder(tmp_path)
    assert images.shape == (1, 8, 8)  # grey in every pixel, however it is kept
    assert np.abs(images.pixels[0, 0].numpy().astype(int) - array).max() <= 2
    assert read_folder(tmp_path, channels=3).shape == (3, 8, 8)


def test_one_colour_makes_all_rgb(tmp_path):
    save(tmp_path / "a.png", random(4, 4))
    red = np.zeros((4, 4, 3), np.uint8)
    red[1, 2, 0] = 9
    save(tmp_path / "b.png", red)
    save(tmp_path / "c.png", random(4, 4))
    assert read_folder(tmp_path).shape == (3, 4, 4)
    assert read_folder(tmp_path, channels=1).shape == (1, 4, 4)


def test_transparency_is_on_white(tmp_path):
    values = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    save(tmp_path / "rgba.png", values)
    assert read_folder(tmp_path).pixels[0, :, 0].T.tolist() == [[200, 0, 0], [255] * 3, [204] * 3]
    (tmp_path / "rgba.png").unlink()
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([5, 6, 7, 8, 9, 10])
    palette.save(tmp_path / "p.png", transparency=1)
    assert read_folder(tmp_path).pixels[0, :, 0].T.tolist() == [[5, 6, 7], [255] * 3]


def test_pictures_are_turned_as_exif_says(tmp_path):
    array = random(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise shows it upright
    save(tmp_path / "a.png", array, exif=exif)
    turned = read_folder(tmp_path).pixels[0].permute(1, 2, 0).numpy()
    assert np.array_equal(turned, np.rot90(array, -1))


def test_greys_of_16_bits_keep_their_range(tmp_path):
    deep = np.array([[0, 257, 25700, 65535]], np.uint16)
    save(tmp_path / "a.png", deep)
    save(tmp_path / "b.tif", deep)
    assert read_folder(tmp_path).pixels[:, 0, 0].tolist() == [[0, 1, 100, 255]] * 2
    save(tmp_path / "c.tif", deep.astype(np.float32))
    with pytest.raises(ImageError, match=r"c.tif: .*more than 16 bits"):
        read_folder(tmp_path)


def test_pictures_of_different_sizes_need_one(tmp_path):
    save(tmp_path / "a.png", random(4, 6, 3))
    save(tmp_path / "b.png", random(9, 5, 3))
    with pytest.raises(ImageError, match=r"b.png: 5 × 9 pixels, but .*a.png is 6 × 4; give a size"):
        read_folder(tmp_path)
    assert load_images(tmp_path, size=3).shape == (3, 3, 3)
    assert load_images(tmp_path, size=(3, 2), channels=1).shape == (1, 3, 2)


def test_a_faulty_picture_is_named(tmp_path):
    save(tmp_path / "good.png", random(20, 20, 3))
    raw = (tmp_path / "good.png").read_bytes()
    netpbm = b"P5 2 2 255\nabcd"  # which Pillow could read, as it could run Ghostscript
    for bad in (
        raw[:200],
        b"",
        netpbm,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowprocess\n",
    ):
        (tmp_path / "worse.png").write_bytes(bad)
        with pytest.raises(ImageError, match=r"worse.png: cannot be read as an image"):
            read_folder(tmp_path)


def test_a_picture_too_large_to_be_one_is_refused(tmp_path, monkeypatch):
    save(tmp_path / "a.png", random(20, 20, 3))
    for most, words in ((100, "decompression bomb"), (300, "MAX_IMAGE_PIXELS")):
        monkeypatch.setattr(
            Image, "MAX_IMAGE_PIXELS", most
        )  # an error above twice of it, or a warning
        with pytest.raises(ImageError, match=rf"a\.png: .*{words}"):
            read_folder(tmp_path)


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    for args, words in [
        ((tmp_path / "none",), "no such file or folder; give"),
        ((tmp_path,), "holds nothing, no images"),
        (("mnist",), "needs the path"),
        (("folder",), "needs the path"),
        (("folder", tmp_path / "none"), "there is no such folder"),
        (("digits", tmp_path), "goes with"),
        (
            ("cifar10", tmp_path),
            r"CIFAR-10's files are not all in .*cifar-10-python.tar.gz.*come with the package",
        ),
    ]:
        with pytest.raises(ImageError, match=words):
            load_images(*args, download=False)
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(ImageError, match="a file of no known kind"):
        load_images(tmp_path / "a.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ImageError, match=f"{tmp_path}/cache/anydiff"):
        load_images("cifar10", download=False)


# CIFAR-10 --------------------

COUNT = 4  # pictures in a file here
NAMES = ("batches.meta", *(f"data_batch_{k}" for k in range(1, 6)), "test_batch")


def python2(values):
    """A pickle as Python 2 wrote it: protocol 2, its strings bytes."""

    def string(raw):
        return b"T" + len(raw).to_bytes(4, "little") + raw

    def put(value):
        if isinstance(value, dict):
            return b"}(" + b"".join(put(k) + put(v) for k, v in value.items()) + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(put, value)) + b"e"
        if isinstance(value, np.ndarray):
            shape = b"(" + b"".join(map(put, value.shape)) + b"t"
            dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
            dtype += b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            make = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
            make += string(b"b") + b"\x87R"
            return make + b"(K\x01" + shape + dtype + b"\x89" + string(value.tobytes()) + b"tb"
        if isinstance(value, int):
            return b"J" + value.to_bytes(4, "little", signed=True)
        return string(value.encode())

    return b"\x80\x02" + put(values) + b"."


def python3(values):
    """As Python 3 writes it for Python 2, with bytes as keys."""

    def raw(value):
        if isinstance(value, dict):
            return {k.encode(): raw(v) for k, v in value.items()}
        if isinstance(value, list):
            return [raw(v) for v in value]
        return value.encode() if isinstance(value, str) else value

    return pickle.dumps(raw(values), 2)


def cifar_files(dump=python2):
    """The seven files' bytes, and the pixels and labels in them."""
    rows, labels = random(6, COUNT, 3072), random(6, COUNT, seed=1) % 10
    classes = [f"class {k}" for k in range(10)]
    meta = {"num_cases_per_batch": COUNT, "label_names": classes, "num_vis": 3072}
    files = {"batches.meta": dump(meta)}
    for name, data, numbers in zip(NAMES[1:], rows, labels, strict=True):
        files[name] = dump(
            {"batch_label": name, "labels": numbers.tolist(), "data": data, "filenames": ["a.png"]}
        )
    return files, rows.reshape(-1, 3, 32, 32), labels.flatten()


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)


def tar(files, extra=()):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        members = [(f"cifar-10-batches-py/{name}", raw) for name, raw in files.items()]
        for name, raw in [*extra, *members]:
            if isinstance(name, tarfile.TarInfo):
                archive.addfile(name)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return stream.getvalue()


@pytest.mark.parametrize("dump", [python2, python3])
def test_cifar_files_round_trip(tmp_path, dump):
    files, pixels, labels = cifar_files(dump)
    folder = tmp_path / "cifar-10-batches-py"
    write(folder, files)
    for images in (
        load_images("cifar10", tmp_path),
        load_images("cifar10", folder),
        load_images(tmp_path),
        load_images(folder),
    ):
        assert np.array_equal(images.pixels.numpy(), pixels)
        assert np.array_equal(images.labels.numpy(), labels)
        assert images.num_test == COUNT and images.classes[3] == "class 3"
    assert load_images(folder, size=8, channels=1).shape == (1, 8, 8)


def test_our_python_2_is_pythons():
    """The pickles written here by hand are what pickle itself reads."""
    files, pixels, _ = cifar_files()
    read = pickle.loads(files["data_batch_1"], encoding="bytes")
    assert np.array_equal(read[b"data"].reshape(-1, 3, 32, 32), pixels[:COUNT])
    assert read[b"batch_label"] == b"data_batch_1"


@pytest.mark.parametrize(
    "name, value, words",
    [
        (
            "test_batch",
            {"data": random(COUNT, 3071), "labels": [0] * COUNT},
            r"\(4, 3071\) of uint8",
        ),
        ("test_batch", {"data": random(3, 3072), "labels": [0] * 3}, r"\(3, 3072\) of uint8"),
        ("test_batch", {"data": random(COUNT, 3072), "labels": [0] * 3}, "with 3 labels"),
        ("data_batch_2", {"data": random(COUNT, 3072), "labels": [0, 10, 2, 3]}, "a label is 10"),
        ("data_batch_2", {"data": random(COUNT, 3072), "labels": ["a"] * COUNT}, "a label is 'a'"),
        ("data_batch_2", {"data": [1], "labels": [0]}, "expected data and labels"),
        ("data_batch_2", [1, 2], "holds no dictionary"),
        ("batches.meta", {"num_vis": 3072}, "no list of the classes"),
    ],
)
def test_a_faulty_cifar_file_is_named(tmp_path, name, value, words):
    files, *_ = cifar_files()
    write(tmp_path, {**files, name: python2(value)})
    with pytest.raises(ImageError, match=f"{name}: .*{words}"):
        load_cifar10(tmp_path)


def test_a_missing_cifar_file_is_named(tmp_path):
    files, *_ = cifar_files()
    write(tmp_path, files)
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(ImageError, match="data_batch_3 are missing"):
        load_images(tmp_path)


class Folder:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_cifar_file_runs_nothing(tmp_path):
    files, *_ = cifar_files()
    made = str(tmp_path / "made")
    attacks = [
        pickle.dumps({"data": Folder(made), "labels": []}, 2),
        b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
        b"\x80\x02c_codecs\nencode\n}X\x08\x00\x00\x00__code__K\x01sb.",
        b"cbuiltins\neval\n(Vprint(1)\ntR.",
    ]
    for attack in attacks:
        write(tmp_path, {**files, "data_batch_4": attack})
        with pytest.raises(
            ImageError, match=r"data_batch_4: its pickle (asks for|is cut short or not)"
        ):
            load_cifar10(tmp_path)
    assert not os.path.exists(made)
    pickle.loads(attacks[0])  # which would have
    assert os.path.exists(made)


# archive and download --------------------


def test_an_archive_is_unpacked_and_nothing_else_of_it(tmp_path):
    files, pixels, _ = cifar_files()
    link = tarfile.TarInfo("cifar-10-batches-py/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    extra = [
        ("../out", b"x"),
        ("/tmp/out", b"x"),
        ("cifar-10-batches-py/readme.html", b"x"),
        (link, b""),
    ]
    root = tmp_path / "root"
    write(root, {"cifar-10-python.tar.gz": tar(files, extra)})
    assert np.array_equal(load_images(root).pixels.numpy(), pixels)
    assert sorted(p.name for p in (root / "cifar-10-batches-py").iterdir()) == sorted(NAMES)
    assert sorted(p.name for p in root.iterdir()) == [
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
    ]
    assert not (tmp_path / "out").exists()

    (root / "cifar-10-batches-py" / "data_batch_5").unlink()  # as after an interruption
    assert np.array_equal(load_images(root / "cifar-10-python.tar.gz").pixels.numpy(), pixels)


def test_a_faulty_archive_is_named(tmp_path):
    files, *_ = cifar_files()
    linked = tarfile.TarInfo("cifar-10-batches-py/test_batch")
    linked.type, linked.linkname = tarfile.SYMTYPE, "/etc/passwd"
    without = {name: raw for name, raw in files.items() if name != "test_batch"}
    for raw, words in [
        (tar(files)[:-5000], "cannot be unpacked"),
        (b"nothing of the kind", "cannot be unpacked"),
        (tar(without), "test_batch is not in it"),
        (tar(without, [(linked, b"")]), "test_batch in it is not a file"),
    ]:
        write(tmp_path, {"cifar-10-python.tar.gz": raw})
        with pytest.raises(ImageError, match=f"cifar-10-python.tar.gz: .*{words}"):
            load_cifar10(tmp_path)


class Handler(BaseHTTPRequestHandler):
    """Serves `raw`; breaks off after `most` bytes of an answer; `ranges` says whether it has them."""

    def __init__(self, served, *args):
        self.served = served
        super().__init__(*args)

    def do_GET(self):
        raw, wanted = self.served["raw"], self.headers["Range"]
        self.served["asked"].append(wanted)
        begin = 0
        if wanted and self.served["ranges"]:
            begin = int(wanted.removeprefix("bytes=").rstrip("-")) * self.served.get("heeds", 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(raw) - 1}/{len(raw)}")
        else:
            self.send_response(self.served.get("status", 200))
        if self.served.get("length", True):
            self.send_header("Content-Length", str(len(raw) - begin))
        self.end_headers()
        self.wfile.write(raw[begin:][: self.served.get("most")])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    served = {"asked": [], "ranges": True}
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, served))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served["url"] = f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
    yield served
    server.shutdown()
    server.server_close()


def source(server, raw):
    return Source(server["url"], len(raw), hashlib.md5(raw).hexdigest())


def test_cifar_is_downloaded_once(tmp_path, server):
    files, pixels, _ = cifar_files()
    raw = server["raw"] = tar(files)
    root = tmp_path / "new" / "cache"
    for _ in range(2):
        images = load_cifar10(root, source=source(server, raw))
        assert np.array_equal(images.pixels.numpy(), pixels)
    assert server["asked"] == [None]
    assert is_cifar10(root) and (root / "cifar-10-python.tar.gz").read_bytes() == raw


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("length", [True, False])
def test_a_download_that_broke_off_goes_on(tmp_path, server, ranges, length):
    raw = random(700_000).tobytes()
    server.update(raw=raw, ranges=ranges, length=length, most=300_000)
    path = tmp_path / "a"
    with pytest.raises(ConnectionError, match="after 300,000 of 700,000 bytes; they are kept"):
        fetch(source(server, raw), path)
    assert not path.exists() and (tmp_path / "a.part").stat().st_size == 300_000
    server["most"] = None
    fetch(source(server, raw), path)
    assert path.read_bytes() == raw and not (tmp_path / "a.part").exists()
    assert server["asked"] == [None, "bytes=300000-"]


def test_what_is_there_already_is_only_checked(tmp_path, server):
    raw = server["raw"] = random(1000).tobytes()
    (tmp_path / "a.part").write_bytes(raw)
    fetch(source(server, raw), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == raw and server["asked"] == []
    (tmp_path / "b.part").write_bytes(raw + b"x")  # more than it can be
    fetch(source(server, raw), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == raw and server["asked"] == [None]


def test_a_server_that_has_other_ranges(tmp_path, server):
    raw = random(1000).tobytes()
    server.update(raw=raw, heeds=0)
    (tmp_path / "a.part").write_bytes(raw[:400])
    fetch(source(server, raw), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == raw

    server.update(ranges=False, status=416)  # then what there is is of no use
    (tmp_path / "b.part").write_bytes(raw[:400])
    with pytest.raises(OSError, match="416"):
        fetch(source(server, raw), tmp_path / "b")
    assert not (tmp_path / "b.part").exists()


def test_another_file_is_refused(tmp_path, server):
    raw = random(1000).tobytes()
    path, part = tmp_path / "a", tmp_path / "a.part"
    server["raw"] = bytes(1000)
    with pytest.raises(ImageError, match=f"{part}: .*its MD5 is .*removed; try again"):
        fetch(source(server, raw), path)
    assert not path.exists() and not part.exists()

    part.write_bytes(b"stale")  # goes on from it, and finds out at the end
    server["raw"] = raw
    with pytest.raises(ImageError, match="its MD5 is"):
        fetch(source(server, raw), path)
    assert not part.exists()

    for length in (True, False):
        server.update(raw=b"please log in" * 100, length=length)
        with pytest.raises(ImageError, match=r"has 1,300 bytes, not 1,000|its MD5 is"):
            fetch(source(server, raw), path)
    assert not path.exists() and not part.exists()


def test_a_failed_download_says_what_to_do(tmp_path, server):
    raw = server["raw"] = tar(cifar_files()[0])
    server.update(status=404)
    words = r"cannot be downloaded \(HTTP Error 404.*Put cifar-10-python.tar.gz from http.* into {}"
    with pytest.raises(
        ImageError, match=words.format(tmp_path) + ".*digits that come with the package"
    ):
        load_cifar10(tmp_path, source=source(server, raw))


def test_a_log_in_page_in_place_of_the_file_says_what_to_do(tmp_path, server):
    raw = random(1000).tobytes()
    for length in (True, False):
        server.update(raw=b"please log in" * 100, length=length)
        with pytest.raises(ImageError, match=r"cannot be downloaded .*Put .*come with the package"):
            load_cifar10(tmp_path, source=source(server, raw))


def test_processes_download_one_after_the_other(tmp_path, server):
    files, *_ = cifar_files()
    raw = server["raw"] = tar(files)
    options = {"source": source(server, raw)}
    processs = [
        threading.Thread(target=load_cifar10, args=(tmp_path,), kwargs=options) for _ in "abcd"
    ]
    for process in processs:
        process.start()
    for process in processs:
        process.join()
    assert server["asked"] == [None]
    assert len(load_cifar10(tmp_path)) == 6 * COUNT


# any damage --------------------


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of what it reads all the same
def test_damaged_files_are_refused_or_read(tmp_path):
    """Cut anywhere, or with flipped bits: an ImageError with the path, or images, nothing else."""
    rng = np.random.default_rng(0)
    files, *_ = cifar_files()
    mnist(tmp_path / "mnist", pack=False)
    mnist(tmp_path / "packed", pack=True)
    write(tmp_path / "cifar", files)
    write(tmp_path / "tar", {"cifar-10-python.tar.gz": tar(files)})
    for suffix in ("png", "jpg", "gif", "webp", "tif", "bmp"):
        save(tmp_path / suffix / f"a.{suffix}", random(9, 9, 3))
    refused = 0
    for path in sorted(tmp_path.rglob("*")):
        if path.is_dir() or (path.name.startswith("data_batch") and path.name[-1] != "1"):
            continue
        raw = path.read_bytes()
        for trial in range(12):
            damaged = bytearray(raw)
            if trial % 3 == 0:
                damaged = damaged[: rng.integers(len(raw))]
            else:  # near the beginning there is more to break
                for at in rng.integers(0, [len(raw), min(len(raw), 150)][trial % 2], 2):
                    damaged[at] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            top = tmp_path / path.relative_to(tmp_path).parts[0]
            kind = "cifar10" if top.name in ("cifar", "tar") else "folder"
            kind = "mnist" if top.name in ("mnist", "packed") else kind
            try:
                load_images(kind, top, download=False)
            except ImageError as error:
                refused += 1
                assert str(top) in str(error)  # noqa: PT017, many are read
        path.write_bytes(raw)
    assert refused > 100


def test_the_script_makes_the_digits_again(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    made = tmp_path / "digits.npz"
    script = ROOT / "scripts" / "make_digits.py"
    monkeypatch.setattr("sys.argv", ["make_digits.py", "--write", str(made)])
    runpy.run_path(str(script), run_name="__main__")
    assert "pixels same, labels same" in capsys.readouterr().out
    with (
        np.load(made) as file,
        np.load(Path(anydiff.images.__file__).with_name("digits.npz")) as shipped,
    ):
        assert all(np.array_equal(file[key], shipped[key]) for key in ("pixels", "labels"))


@pytest.mark.parametrize("num_test", [1.5, True, "1", 3, -1])
def test_the_test_part_is_a_whole_number(num_test):
    with pytest.raises(ImageError, match=r"num_test is .* of 2 images; give how many"):
        Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), num_test=num_test)
