"""A file is written completely or not at all, and nothing but it is touched."""

import errno
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from anydiff import GaussianDiffusion, files, save
from anydiff.denoisers import EGNN
from anydiff.files import whole


def write(path, text="new", **options):
    with whole(path, **options) as temporary:
        Path(temporary).write_text(text)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_file_is_there_with_its_folder_and_nothing_else(tmp_path):
    write(tmp_path / "a/b/m.txt", suffix=".txt")
    assert [p.name for p in (tmp_path / "a/b").iterdir()] == ["m.txt"]
    with whole(tmp_path / "m", ".gif") as temporary:
        assert temporary.endswith(".gif") and Path(temporary).parent == tmp_path
    name = "ü" * 125  # 250 of 255 bytes
    write(tmp_path / name)
    assert (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(errno.ENOSPC, "full")])
def test_an_error_leaves_what_was_there(tmp_path, error):
    write(tmp_path / "m", "old")
    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind) as caught, whole(tmp_path / "m") as temporary:  # noqa: PT012
        Path(temporary).write_text("half")
        raise error
    assert (tmp_path / "m").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    if isinstance(error, OSError):  # it says which file
        assert caught.value.filename == str(tmp_path / "m") and caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_at_the_end_leaves_what_was_there(tmp_path, monkeypatch, call):
    write(tmp_path / "m", "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(OSError, match=r"No space left on device: '.*m'$"):
        write(tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").read_text() == "old"


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace

    def fsync(handle):
        done.append(os.readlink(f"/proc/self/fd/{handle}") if sys.platform == "linux" else "")
        sync(handle)

    def rename(*names):
        done.append("replace")
        replace(*names)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", rename)
    write(tmp_path / "m")
    assert len(done) == 3 and done[1] == "replace"
    if sys.platform == "linux":
        assert ".m." in done[0] and done[2] == str(tmp_path)


def test_permissions_are_those_of_the_file_before_it_or_of_a_new_one(tmp_path, umask):
    write(tmp_path / "m")
    assert mode(tmp_path / "m") == 0o640
    for kept in (0o600, 0o444, 0o666, 0o755):
        (tmp_path / "m").chmod(kept)
        with whole(tmp_path / "m") as temporary:
            assert not mode(temporary) & ~kept & 0o077  # not readable by others in between either
        assert mode(tmp_path / "m") == kept


def test_the_umask_of_the_process_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", None)
    write(tmp_path / "m")


def test_names_in_between_cannot_be_guessed(tmp_path):
    names = set()
    for _ in range(20):
        with whole(tmp_path / "m") as temporary:
            names.add(temporary)
            assert str(os.getpid()) not in Path(temporary).name.split(".")
    assert len(names) == 20 and all(len(name.rpartition(".")[2]) >= 16 for name in names)


def test_no_link_is_followed(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("theirs")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "guessed")
    (tmp_path / ".m.guessed").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        write(tmp_path / "m")
    assert (tmp_path / "victim").read_text() == "theirs"


@pytest.mark.parametrize("target", ["victim", "absent"])
def test_a_link_is_replaced_and_its_target_stays(tmp_path, target):
    (tmp_path / "victim").write_text("theirs")
    (tmp_path / "m").symlink_to(tmp_path / target)
    write(tmp_path / "m")
    assert not (tmp_path / "m").is_symlink() and (tmp_path / "m").read_text() == "new"
    assert (tmp_path / "victim").read_text() == "theirs" and not (tmp_path / "absent").exists()


def test_what_is_no_file_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "folder", tmp_path / "link", tmp_path / "pipe", "/dev/null"):
        with pytest.raises(FileExistsError, match=f"{path} is a folder or a device; give the name"):
            write(path)
    assert not list((tmp_path / "folder").iterdir()) and Path("/dev/null").is_char_device()
    write(tmp_path / "m")
    with pytest.raises(OSError, match=f"'{tmp_path / 'm'}'$"):
        write(tmp_path / "m/inside")


@pytest.mark.skipif(not os.access("/proc/sys", os.F_OK), reason="has no folder that is read-only")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match="/proc/"):
        write("/proc/self/m")


def test_threads_and_processes_do_not_meet(tmp_path):
    path = tmp_path / "m"
    texts = [str(k) * 100_000 for k in range(8)]
    threads = [threading.Thread(target=write, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts and [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_disk_that_fills_up_leaves_no_part(tmp_path):
    resource = pytest.importorskip("resource")
    save(tmp_path / "m", GaussianDiffusion(EGNN(2, 32, 1)))
    before = (tmp_path / "m").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=f"'{tmp_path / 'm'}'$"):
            save(tmp_path / "m", GaussianDiffusion(EGNN(2, 32, 2)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["m"] and (tmp_path / "m").read_bytes() == before
