import gzip
import io
import struct
import zipfile

import numpy as np
import pytest

from anydiff.data import archives
from anydiff.data.archives import is_gzip, read_npz


def npz(path, members, **how):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **how) as file:
        for name, raw in members.items():
            file.writestr(name, raw)
    return path


def npy(array, **header):
    """The bytes of an npy file, with entries of its header changed."""
    stream = io.BytesIO()
    np.save(stream, array)
    if not header:
        return stream.getvalue()
    whole = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | header
    text = repr(whole).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3), np.asfortranarray(np.random.default_rng(0).normal(size=(4, 3))),
        np.array(["a", "bcd"]), np.array(3.5), np.zeros((0, 2)), np.array([1, 2], ">i2"),
    ],
)  # fmt: skip
def test_arrays_are_as_numpy_reads_them(tmp_path, array):
    np.savez_compressed(tmp_path / "a.npz", a=array, b=np.array([None]))
    read = read_npz(tmp_path / "a.npz", {"a", "c"})  # others, such as pickles, are not looked at
    assert list(read) == ["a"]
    np.testing.assert_array_equal(read["a"], array)
    assert read["a"].dtype == array.dtype and read["a"].flags.writeable


ONE = np.arange(3)
FAULTY = {
    "far more than data": {"a.npy": b"\0" * 2**20},
    "not a readable npz array": {"a.npy": "some text"},
    "announces .1000000000000000,.": {"a.npy": npy(ONE, shape=(10**15,))},
    "announces .4,.": {"a.npy": npy(ONE, shape=(4,))},
    "announces .-3,.": {"a.npy": npy(ONE, shape=(-3,))},
    "announces .* of .U0": {"a.npy": npy(np.zeros(0), descr="<U0", shape=(10**15,))},
    "no readable header": {"a.npy": npy(ONE, descr="nonsense")},
    "header .*shape": {"a.npy": npy(ONE).replace(b"'shape'", b"'xhape'")},
    "Python objects": {"a.npy": npy(np.array([None]))},
}


@pytest.mark.parametrize("message", FAULTY)
def test_arrays_that_are_none_are_refused_by_name(tmp_path, monkeypatch, message):
    monkeypatch.setattr(archives, "_LARGE", 2**16)
    with pytest.raises(ValueError, match=message):
        read_npz(npz(tmp_path / "a.npz", FAULTY[message]), {"a"})


def test_a_small_file_is_not_unpacked_to_a_large_one(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_LARGE", 2**16)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"\0" * 2**22))
    with pytest.raises(
        ValueError, match=r"unpack to 1,048,576 or more"
    ):  # it stops at the first block
        is_gzip(path)
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(2**18)))
    assert is_gzip(path)  # as large as its content
    np.savez(tmp_path / "a.npz", a=np.zeros(2**16))
    assert not is_gzip(tmp_path / "a.npz") and len(read_npz(tmp_path / "a.npz", "a")["a"]) == 2**16


def test_a_member_that_unpacks_to_more_than_it_declares_is_cut(tmp_path):
    path = npz(tmp_path / "a.npz", {"a.npy": npy(np.zeros(10**5))})
    raw = path.read_bytes()
    declared = struct.pack("<I", len(npy(np.zeros(10**5))))
    path.write_bytes(raw.replace(declared, struct.pack("<I", 1000)))
    with pytest.raises(ValueError, match=r"cut short|announces"):
        read_npz(path, {"a"})


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 99])
def test_other_compressions_are_refused_by_name(tmp_path, method):
    path = npz(tmp_path / "a.npz", {"a.npy": npy(ONE)})
    raw = bytearray(path.read_bytes())
    raw[8:10] = struct.pack("<H", method)  # of the member, then of the directory
    at = raw.index(b"PK\x01\x02") + 10
    raw[at : at + 2] = struct.pack("<H", method)
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="a is not compressed as by"):
        read_npz(path, {"a"})


def test_an_encrypted_or_cut_file_is_refused_by_name(tmp_path):
    path = npz(tmp_path / "a.npz", {"a.npy": npy(np.arange(1000))})
    raw = bytearray(path.read_bytes())
    path.write_bytes(raw[:100])
    with pytest.raises(ValueError, match="cut short"):
        read_npz(path, {"a"})
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + offset] |= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="encrypted"):
        read_npz(path, {"a"})
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"abc" * 100)[:20])
    with pytest.raises(ValueError, match="cut short"):
        is_gzip(tmp_path / "b.gz")
