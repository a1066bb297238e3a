"""Files and folders as users have them: read right, or refused by name; and what is left out is said."""

import gzip
import io
import json
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from anydiff.images import ImageError, Images, from_uint8, load_images, to_uint8
from anydiff.images.arrays import read_array
from anydiff.images.cifar import load_cifar
from anydiff.images.digit_features import DigitFeatures
from anydiff.images.features import PixelFeatures
from anydiff.images.files import adapt, read_folder
from anydiff.images.idx import read_idx, read_mnist
from anydiff.images.pictures import animate_denoising, draw_grid, draw_rows, draw_strip, sheet


def random(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path, array=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random(4, 5, 3) if array is None else array).save(path, **options)
    return path


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# folders --------------------


def test_what_is_left_out_is_said_once(tmp_path):
    for name in ("b.PNG", "a.png", "c.Jpeg"):
        save(tmp_path / name)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/a.png", ".hidden/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"clutter")
    assert len(read_folder(tmp_path)) == 3  # clutter is no news
    for name in ("notes.txt", "labels.csv", "d.heic"):
        (tmp_path / name).write_text("x")
    with pytest.warns(
        UserWarning, match="3 files are no images and left out, first d.heic"
    ) as told:
        assert len(load_images(tmp_path)) == 3
    assert len(told) == 1 and str(told[0].message).startswith(str(tmp_path))


def test_pipes_and_bad_links_are_left_out(tmp_path):
    save(tmp_path / "x" / "good.png")
    os.mkfifo(tmp_path / "x" / "a.png")
    os.symlink(tmp_path / "gone.png", tmp_path / "x" / "b.png")
    os.symlink("c.png", tmp_path / "x" / "c.png")  # to itself
    os.symlink("..", tmp_path / "x" / "loop")
    with pytest.warns(UserWarning, match=r"4 files are no images and left out, first x/a\.png"):
        assert len(load_images(tmp_path)) == 1
    os.mkfifo(tmp_path / "pipe.gz")
    with pytest.raises(ImageError, match="no known kind"):
        load_images(tmp_path / "pipe.gz")
    for read in (read_idx, read_array):
        with pytest.raises(ImageError, match=r"pipe\.gz: not a file"):
            read(tmp_path / "pipe.gz")


def test_linked_folders_are_entered_and_loops_end(tmp_path):
    save(tmp_path / "far" / "1.png")
    save(tmp_path / "data" / "a" / "2.png")
    os.symlink(tmp_path / "far", tmp_path / "data" / "b")
    images = read_folder(tmp_path / "data")
    assert images.classes == ("a", "b") and images.labels.tolist() == [0, 1]
    os.symlink(tmp_path / "data" / "a", tmp_path / "far" / "there")
    os.symlink(tmp_path / "far", tmp_path / "data" / "a" / "back")
    with pytest.warns(UserWarning, match="left out"):
        assert len(read_folder(tmp_path / "data")) == 4


def test_names_that_are_not_text(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    save(tmp_path / "ok" / "1.png")
    with open(folder + b"/\xff.png", "wb") as file:
        file.write(png(random(4, 5, 3)))
    images = read_folder(tmp_path)
    assert images.classes == (r"caf\udce9", "ok") and "".join(images.classes).encode()
    with open(folder + b"/\xfe.png", "wb") as file:
        file.write(b"bad")
    with pytest.raises(ImageError, match=r"cannot be read as an image") as error:
        read_folder(tmp_path)
    assert str(error.value).encode()


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "VAL", "test"), ("training",)])
def test_parts_of_a_data_set_are_no_classes(tmp_path, names):
    for name in names:
        save(tmp_path / name / "cat" / "1.png")
    with pytest.warns(UserWarning, match=f"the classes are .*{names[0]}.*give one of them") as told:
        read_folder(tmp_path)
    assert len(told) == 1
    assert read_folder(tmp_path / names[0]).classes == ("cat",)


def test_a_stray_image_and_an_empty_class_are_said(tmp_path):
    save(tmp_path / "a" / "1.png")
    save(tmp_path / "c" / "2.png")
    assert read_folder(tmp_path).classes == ("a", "c")
    (tmp_path / "b").mkdir()
    with pytest.warns(UserWarning, match="1 folder has no image and is no class, b"):
        assert read_folder(tmp_path).labels.tolist() == [0, 1]
    save(tmp_path / "stray.png")
    save(tmp_path / "other.png")
    with pytest.warns(
        UserWarning, match=r"2 images are in no sub-folder, .*label, first other\.png"
    ):
        assert read_folder(tmp_path).labels is None
    (tmp_path / "none").mkdir()
    with pytest.raises(ImageError, match=r"holds nothing, no images"):
        read_folder(tmp_path / "none")


def test_what_pillow_warns_of_is_said_with_the_file(tmp_path):
    save(tmp_path / "a.png")
    for name in ("b.tif", "c.tif"):
        raw = bytearray(save(tmp_path / name, random(4, 5, 3)).read_bytes())
        at = int.from_bytes(raw[4:8], "little")  # the table of tags
        raw[at : at + 2] = (int.from_bytes(raw[at : at + 2], "little") + 9).to_bytes(2, "little")
        (tmp_path / name).write_bytes(raw)
    with pytest.warns(UserWarning, match=r"2 files are doubtful, first .*b\.tif: ") as told:
        assert len(read_folder(tmp_path)) == 3
    assert len(told) == 1


def test_images_that_fill_the_memory_are_refused(tmp_path, monkeypatch):
    for k in range(3):
        save(tmp_path / f"{k}.png", random(20, 20, 3))
    monkeypatch.setattr("anydiff.images.files._memory", lambda: 3000.0)
    with pytest.raises(
        ImageError, match=r"3 images of 20 × 20 pixels .* more than .*; give a size"
    ):
        read_folder(tmp_path)
    assert len(read_folder(tmp_path, size=8)) == 3


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_is_turned_right_or_refused(tmp_path, orientation, compression):
    array = random(3, 5)
    options = {"compression": compression} if compression else {}
    save(tmp_path / "a.tif", array, tiffinfo={0x0112: orientation}, **options)
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    if orientation > 4 and not compression:
        with pytest.raises(ImageError, match=r"a\.tif: an uncompressed TIFF .*on its side"):
            read_folder(tmp_path)
    else:
        found = read_folder(tmp_path).pixels[0, 0].numpy()
        assert np.array_equal(found, np.rot90(array, turns))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "I;16", "RGB"])
def test_every_mode_of_a_file_is_read(tmp_path, mode):
    grey = np.repeat(np.array([[0, 255], [255, 0]], np.uint8), 4, 1)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert(mode)
    image.save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), quality=100, subsampling=0)
    found = read_folder(tmp_path, channels=1).pixels[0, 0].numpy()
    assert np.abs(found.astype(int) - grey).max() <= (8 if mode == "CMYK" else 0)


def test_of_a_film_the_first_frame_is_read(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (10, 200)]
    for name in ("a.gif", "b.webp", "c.png", "d.tif"):
        options = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert (read_folder(tmp_path, channels=1).pixels == 10).all()


@pytest.mark.parametrize(
    "size", [np.int64(3), [3, 3], np.array([3, 3]), torch.Size([3, 3])], ids=str
)
def test_sizes_are_whole_numbers_of_any_type(tmp_path, size):
    save(tmp_path / "a.png")
    assert load_images(tmp_path, size=size).shape == (3, 3, 3)
    for wrong in (0, -1, 2.5, True, "8", (3,), (3, 3, 3), (3, 0), [2.5, 2]):
        with pytest.raises(ValueError, match="give the pixels of a side, or"):
            load_images(tmp_path, size=wrong)


# zips, with labels --------------------


def zipped(path, files, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def edm(labels, num=4):
    files = {f"00000/img0000000{k}.png": png(random(4, 4, 3, seed=k)) for k in range(num)}
    return files | {"dataset.json": json.dumps({"labels": labels})}


def test_data_sets_of_edm_keep_their_labels(tmp_path):
    names = [f"00000/img0000000{k}.png" for k in range(4)]
    numbers = [2, 0, 1, 2]
    labels = [list(pair) for pair in reversed(list(zip(names, numbers, strict=True)))]
    path = zipped(tmp_path / "edm.zip", edm(labels))
    images = load_images(path)
    assert images.labels.tolist() == numbers and images.classes == ("0", "1", "2")
    assert np.array_equal(images.pixels[3].permute(1, 2, 0).numpy(), random(4, 4, 3, seed=3))
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "folder")
    assert load_images(tmp_path / "folder").labels.tolist() == numbers
    assert load_images(zipped(tmp_path / "b.zip", edm(None)), size=2).labels is None


def test_a_zip_is_a_folder(tmp_path):
    files = {f"photos/{c}/{k}.png": png(random(4, 4, seed=k)) for c in "ab" for k in range(2)}
    path = zipped(
        tmp_path / "a.zip", files | {"__MACOSX/photos/a/._0.png": b"x"}, zipfile.ZIP_DEFLATED
    )
    images = load_images(path)
    assert images.classes == ("a", "b") and images.labels.tolist() == [0, 0, 1, 1]
    assert load_images("folder", path, channels=3).shape == (3, 4, 4)
    path = zipped(tmp_path / "b.zip", files | {"photos/readme.md": b"x"})
    with pytest.warns(UserWarning, match="1 file is no image and left out"):
        load_images(path)


@pytest.mark.parametrize(
    "labels, words",
    [
        ([["00000/img00000000.png", 1]], r"img00000001\.png has no label"),
        (
            [[f"00000/img0000000{k}.png", 0.5] for k in range(4)],
            "has label 0.5; labels count from 0",
        ),
        ([[f"00000/img0000000{k}.png", -1] for k in range(4)], "has label -1"),
        ([[f"00000/img0000000{k}.png", [0, 1]] for k in range(4)], r"has label \[0, 1\]"),
        ("x", "dataset.json: is not"),
        ([1], "dataset.json: is not"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, words):
    path = zipped(tmp_path / "a.zip", edm(labels))
    with pytest.raises(ImageError, match=f"^{path}, .*{words}"):
        load_images(path)


def test_faulty_zips_are_refused_by_name(tmp_path):
    with pytest.raises(ImageError, match=r"a\.zip: holds nothing, no images"):
        load_images(zipped(tmp_path / "a.zip", {}))
    bomb = {f"{k}.png": b"\0" * 2**20 for k in range(3)}
    path = zipped(tmp_path / "a.zip", bomb, zipfile.ZIP_DEFLATED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anydiff.images.images._LARGE", 2**20)
        with pytest.raises(ImageError, match=r"a\.zip: its .* bytes unpack to 3,145,728"):
            load_images(path)
    with pytest.raises(ImageError, match=r"a\.zip, 0\.png: cannot be read as an image"):
        load_images(path)
    path = zipped(tmp_path / "a.zip", {"a.png": png(random(4, 4))}, zipfile.ZIP_BZIP2)
    with pytest.raises(ImageError, match=r"a\.zip, a\.png: not stored or deflated"):
        load_images(path)
    raw = bytearray(zipped(tmp_path / "a.zip", {"a.png": png(random(40, 40))}).read_bytes())
    raw[200] ^= 255
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(ImageError, match=r"a\.zip, a\.png: cannot be read as an image"):
        load_images(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_bytes(raw[:100])
    with pytest.raises(ImageError, match="no known kind"):
        load_images(tmp_path / "a.zip")


# arrays --------------------


def test_samples_of_adm_are_read(tmp_path):
    pixels, labels = random(6, 4, 5, 3), np.arange(6)
    np.savez(tmp_path / "a.npz", pixels, labels)
    np.savez_compressed(tmp_path / "b.npz", arr_0=np.asfortranarray(pixels), mu=np.zeros(3))
    np.save(tmp_path / "c.npy", pixels)
    for name in ("a.npz", "b.npz", "c.npy"):
        images = load_images(tmp_path / name)
        assert np.array_equal(images.pixels.permute(0, 2, 3, 1).numpy(), pixels)
        assert (images.labels is None) == (name != "a.npz")
    assert load_images(tmp_path / "a.npz").labels.tolist() == labels.tolist()
    with open(tmp_path / "d.NPY", "wb") as file:
        np.save(file, pixels[..., 0])
    assert load_images(tmp_path / "d.NPY", size=2).shape == (1, 2, 2)
    np.savez(
        tmp_path / "own.npz", pixels=pixels.transpose(0, 3, 1, 2), labels=labels.astype(np.uint8)
    )
    own = load_images(tmp_path / "own.npz")
    assert own.labels.tolist() == labels.tolist() and own.shape == (3, 4, 5)


@pytest.mark.parametrize(
    "arrays, words",
    [
        (
            {"arr_0": np.zeros((2, 4, 4, 3))},
            r"arr_0 is \(2, 4, 4, 3\) of float64; give \(M, H, W, C\)",
        ),
        ({"arr_0": random(2, 3, 4, 4)}, r"arr_0 is \(2, 3, 4, 4\)"),
        ({"arr_0": random(2, 4)}, r"arr_0 is \(2, 4\)"),
        ({"arr_0": random(0, 4, 4, 3)}, "there is no image"),
        ({"arr_0": random(2, 4, 4, 3), "arr_1": np.arange(3)}, "one integer for each of the 2"),
        (
            {"arr_0": random(2, 4, 4, 3), "arr_1": np.array(["a", "b"])},
            "array of <U1; give numbers",
        ),
        ({"mu": np.zeros(3), "sigma": np.zeros(3)}, "holds mu, sigma; give pixels"),
        ({"pixels": np.zeros((2, 1, 4, 4))}, "of torch.float64.*to_uint8"),
        ({"pixels": np.array([random(3)], object)}, "array of object; give numbers"),
        ({"pixels": np.array([{}, None], object)}, "array of object; give numbers"),
        ({}, "holds nothing"),
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, arrays, words):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(ImageError, match=f"^{path}.*{words}"):
        read_array(path)


def test_faulty_arrays_are_refused_by_name(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, pixels=random(20, 3, 8, 8))
    raw = path.read_bytes()
    for bad in (b"", b"x", raw[:-9], raw[: len(raw) // 2]):
        path.write_bytes(bad)
        with pytest.raises(ImageError, match=f"^{path}: cannot be read, or is cut short"):
            read_array(path)
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000, 3), }"
    huge = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 9
    for files, words in [
        ({"pixels.npy": huge}, "holds 9 bytes for .* cut short"),
        ({"pixels.npy": b"not an array"}, "cannot be read"),
    ]:
        zipped(path, files)
        with pytest.raises(ImageError, match=words):
            read_array(path)
    zipped(path, {"pixels.npy": huge}, zipfile.ZIP_LZMA)
    with pytest.raises(ImageError, match="not compressed as by NumPy"):
        read_array(path)
    zipped(path, {"pixels.npy": b"\0" * 2**20}, zipfile.ZIP_DEFLATED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anydiff.images.images._LARGE", 2**16)
        with pytest.raises(ImageError, match="bytes unpack to 1,048,576, far more"):
            read_array(path)
    with pytest.raises(ImageError, match="there is no such file"):
        read_array(tmp_path / "none.npz")


@pytest.mark.parametrize("read", [np.asarray, lambda x: np.flip(x, 3), np.asfortranarray])
def test_arrays_are_taken_as_tensors_are(read):
    pixels = read(random(2, 3, 4, 4))
    expected = torch.from_numpy(pixels.copy())
    assert torch.equal(from_uint8(pixels), from_uint8(expected))
    assert torch.equal(to_uint8(from_uint8(pixels).numpy()), expected)
    labels = np.array([0, 1], np.uint8)
    labels.flags.writeable = False
    for kind in (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64):
        images = Images(pixels, labels.astype(kind))
        assert torch.equal(images.pixels, expected) and images.labels.dtype == torch.int64
    assert (
        Images(pixels, labels).labels.tolist() == Images(pixels, [0, 1]).labels.tolist() == [0, 1]
    )
    for wrong, words in [
        (pixels.astype(np.float32), "pixels are of torch.float32; give uint8"),
        (pixels.astype(object), "pixels are an array of object; give a tensor"),
        ("x", "give a tensor or an array"),
        (None, "give a tensor or an array"),
    ]:
        with pytest.raises(ValueError, match=words):
            from_uint8(wrong)
    with pytest.raises(ImageError, match="images: labels are an array of <U1"):
        Images(pixels, np.array(["a", "b"]))


def test_arrays_are_drawn_and_have_features(tmp_path):
    frames = random(3, 2, 1, 8, 8)
    tensors = torch.from_numpy(frames)
    assert np.array_equal(sheet(frames[0]), sheet(tensors[0]))
    for name, draw, value in [
        ("a", draw_grid, frames[0]), ("b", draw_strip, frames), ("c", draw_rows, {"x": frames[0]}),
        ("d", animate_denoising, frames),
    ]:  # fmt: skip
        draw(tmp_path / f"{name}.gif", value)
        assert (tmp_path / f"{name}.gif").stat().st_size > 0
    for wrong, words in [
        (frames[0].astype(float), "of torch.float64; give uint8.*to_uint8"),
        ("x", "give a"),
    ]:
        with pytest.raises(ValueError, match=words):
            sheet(wrong)
    for features in (PixelFeatures(4), DigitFeatures.load()):
        assert torch.equal(features.features(frames[0]), features.features(tensors[0]))


# idx files --------------------


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def emnist(folder, name="emnist-balanced", pack=False, parts=("train", "test")):
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for kind, array in (("images-idx3", random(7, 6, 5)), ("labels-idx1", random(7) % 47)):
            raw = idx(array)
            path = folder / f"{name}{'-' * bool(name)}{part}-{kind}-ubyte{'.gz' * pack}"
            path.write_bytes(gzip.compress(raw) if pack else raw)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("name", ["emnist-balanced", "emnist-letters", "qmnist", ""])
def test_emnist_keeps_its_labels(tmp_path, name, pack):
    emnist(tmp_path, name, pack)
    images = load_images(tmp_path)
    expected = (random(7) % 47).tolist()
    assert images.labels.tolist() == expected * 2 and images.num_test == 7
    for file in tmp_path.glob("*images*"):
        assert load_images(file).labels.tolist() == expected
    emnist(tmp_path, "emnist-digits")
    with pytest.raises(ImageError, match=r"holds several data sets, .*emnist-digits"):
        load_images(tmp_path)


def test_missing_labels_are_said(tmp_path):
    emnist(tmp_path)
    for file in tmp_path.glob("*labels*"):
        file.unlink()
    wanted = "emnist-balanced-train-labels-idx1-ubyte"
    with pytest.warns(UserWarning, match=f"there are no labels, {wanted}, beside it") as told:
        assert load_images(tmp_path).labels is None
    assert len(told) == 1
    with pytest.warns(UserWarning, match=wanted):
        assert read_mnist(tmp_path / "emnist-balanced-train-images-idx3-ubyte").labels is None


def test_the_folders_of_torchvision_are_found(tmp_path):
    emnist(tmp_path / "MNIST" / "raw", "", parts=("train", "t10k"))
    for path in (tmp_path, tmp_path / "MNIST", tmp_path / "MNIST" / "raw"):
        images = load_images(path)
        assert len(images) == 14 and images.num_test == 7 and images.labels is not None
        assert len(load_images("mnist", path)) == 14
    emnist(tmp_path / "FashionMNIST" / "raw", "", parts=("train", "t10k"))
    with pytest.raises(
        ImageError, match=r"several data sets, .*FashionMNIST/raw, .*MNIST/raw; give"
    ):
        load_images(tmp_path)
    assert len(load_images(tmp_path / "FashionMNIST")) == 14


def test_a_small_file_that_fills_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("anydiff.images.images._LARGE", 2**16)
    path = tmp_path / "a-images-idx3-ubyte.GZ"
    path.write_bytes(gzip.compress(idx(np.zeros((1000, 20, 20), np.uint8))))
    with pytest.raises(
        ImageError, match=r"its .* bytes unpack to 400,000, far more than pictures do"
    ):
        read_idx(path)


# CIFAR-100 --------------------


def cifar100(folder, num=6):
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        fine, coarse = list(range(num)), [0] * num
        batch = {b"data": random(num, 3072), b"fine_labels": fine, b"coarse_labels": coarse}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = {
        b"fine_label_names": [f"f{k}".encode() for k in range(num)],
        b"coarse_label_names": [b"c"],
    }
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))


def test_cifar_100_has_its_fine_labels(tmp_path):
    cifar100(tmp_path / "cifar-100-python")
    for path in (tmp_path, tmp_path / "cifar-100-python"):
        for images in (
            load_images(path),
            load_images("cifar100", path),
            load_cifar("cifar100", path),
        ):
            assert images.pixels.shape == (12, 3, 32, 32) and images.num_test == 6
            assert (
                images.classes == ("f0", "f1", "f2", "f3", "f4", "f5") and images.name == "cifar100"
            )
            assert images.labels.tolist() == [0, 1, 2, 3, 4, 5] * 2
    (tmp_path / "cifar-100-python" / "test").write_bytes(pickle.dumps({b"data": random(2, 3072)}))
    with pytest.raises(ImageError, match=r"test: holds .*data.*; expected data and fine_labels"):
        load_images(tmp_path)
    (tmp_path / "cifar-100-python" / "test").unlink()
    with pytest.raises(
        ImageError, match=r"CIFAR-100's files are not all in .*cifar-100-python\.tar\.gz"
    ):
        load_images("cifar100", tmp_path, download=False)


def test_a_size_that_fills_the_memory_is_refused_before_it_is_made(tmp_path):
    save(tmp_path / "a.png", random(4, 4, 3))
    message = r"1 images of 10000000 × 10000000 pixels .* more than .*; give a smaller size"
    with pytest.raises(ImageError, match=message):
        read_folder(tmp_path, size=10**7)
    with pytest.raises(ImageError, match=message):
        adapt(read_folder(tmp_path), size=10**7)
