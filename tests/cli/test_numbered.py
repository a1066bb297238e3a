"""`anydiff sample --part`: the same files, whoever draws the parts and whatever was killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from anydiff.cli import numbered
from anydiff.cli.main import main
from anydiff.cli.runs import kind_of, kind_of_file
from tests.helpers.small_models import call, made

KINDS = {"molecules": ".sdf.gz", "sketches": ".ndjson.gz", "images": ".npz"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {kind: made(kind, folder) for kind in KINDS}


def asked(out, *more):
    return ["--steps", 2, "--num", 11, "--part", 4, "--out", out, "--accelerator", "cpu", *more]


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def hashes(folder):
    return [of["sha256"] for of in manifest(folder)["parts"]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_parts_hold_what_one_file_holds(kind, models, tmp_path, capsys):
    model = models[kind]
    call("sample", model, *asked(tmp_path / "parts"))
    assert f"11 {kind} in 3 parts" in capsys.readouterr().out
    files = sorted(p.name for p in (tmp_path / "parts").iterdir() if p.name != ".lock")
    assert files == ["manifest.json", *(f"part-{k:05d}{KINDS[kind]}" for k in range(3))]
    each = manifest(tmp_path / "parts")["parts"]
    assert [of["items"] for of in each] == [4, 4, 3] and not any(of["lost"] for of in each)
    for of in each:
        content = (tmp_path / "parts" / of["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == of["sha256"]
    one = tmp_path / "one"
    call("sample", model, *asked(one)[:4], "--out", one, "--measure", "false")
    module = kind_of(kind)
    whole = module.read_items(str(one / module.DRAWN))
    parts = [module.read_items(str(tmp_path / "parts" / of["file"])) for of in each]
    assert [len(part) for part in parts] == [4, 4, 3] and len(whole) == 11
    of = {"molecules": ("pos",), "sketches": ("points",), "images": ("pixels", "labels")}[kind]
    for field in of:
        values = np.concatenate([np.asarray(getattr(part, field)) for part in parts])
        np.testing.assert_allclose(values, np.asarray(getattr(whole, field)), atol=2e-4)
    assert kind_of_file(tmp_path / "parts") == kind
    back = module.read_items(str(tmp_path / "parts"))  # the folder as one set
    assert len(back) == 11


def test_what_is_drawn_beside_parts_goes_elsewhere(models, tmp_path):
    out = tmp_path / "parts"
    call("sample", models["images"], *asked(out))
    (out / "part-00001.npz").unlink()
    call("sample", models["images"], *asked(out)[:4], "--out", out, "--measure", "false")
    assert (tmp_path / "parts-2/samples.npz").exists()
    call("sample", models["images"], *asked(out))  # goes on in its folder
    assert (out / "part-00001.npz").exists() and not (tmp_path / "parts-3").exists()


def test_smiles_in_parts(tmp_path):
    call("sample", "smiles", *asked(tmp_path / "parts"))
    lines = [of["items"] for of in manifest(tmp_path / "parts")["parts"]]
    assert lines == [4, 4, 3]
    assert len(kind_of("smiles").read_items(str(tmp_path / "parts"))) == 11


@pytest.mark.slow
def test_two_processes_and_a_killed_one_write_the_same(models, tmp_path):
    model = str(models["sketches"])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def command(out, *more):
        words = ["sample", model, *asked(out, "--num", 40, *more)]
        return [sys.executable, "-m", "anydiff", *map(str, words)]

    def run(out, *more):
        subprocess.run(
            command(out, *more), env=environment, check=True, capture_output=True, timeout=120
        )

    run(tmp_path / "one")
    run(tmp_path / "two", "--devices", 2)
    killed = tmp_path / "killed"
    for times in range(2):
        process = subprocess.Popen(
            command(killed, "--steps", 200), env=environment, stderr=subprocess.DEVNULL
        )
        before, end = times, time.monotonic() + 100
        while len(list(killed.glob("part-*"))) <= before and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert 0 < len(list(killed.glob("part-*"))) < 10
    noted = [json.loads(p.read_text())["file"] for p in killed.glob(".part-*.json")]
    first = {name: (killed / name).stat().st_mtime_ns for name in noted}
    run(killed, "--steps", 200, "--devices", 2)
    assert all((killed / name).stat().st_mtime_ns == was for name, was in first.items())
    run(tmp_path / "long", "--steps", 200)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two") and 0 < len(first) < 10
    assert hashes(killed) == hashes(tmp_path / "long") != hashes(tmp_path / "one")
    assert [path.name for path in killed.glob(".*")] == [".lock"]


@pytest.mark.slow
def test_molecules_by_more_processes_than_parts(models, tmp_path):
    model, environment = str(models["molecules"]), os.environ | {"OMP_NUM_THREADS": "1"}
    for name, more in (("one", ()), ("two", ("--devices", 2))):
        words = ["sample", model, *asked(tmp_path / name, "--num", 5, "--part", 5, *more)]
        subprocess.run(
            [sys.executable, "-m", "anydiff", *map(str, words)],
            env=environment, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


@pytest.mark.slow
def test_a_second_command_waits_outside(models, tmp_path, capsys):
    out = tmp_path / "parts"
    call("sample", models["images"], *asked(out))
    (out / "part-00001.npz").unlink()
    held = "from pathlib import Path; from anydiff.files import alone; import time, sys\n"
    held += (
        f"with alone(Path({str(out)!r}), 'draws parts'): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", held], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(SystemExit):
            call("sample", models["images"], *asked(out))
        other.kill()
    assert "another process draws parts in" in capsys.readouterr().err


def test_what_is_there_is_not_drawn_again(models, tmp_path, capsys, monkeypatch):
    out = tmp_path / "parts"
    call("sample", models["images"], *asked(out))
    before = hashes(out)
    (out / "part-00001.npz").unlink()
    cut = [".part-00001.npz.0123456789abcdef", ".0123456789abcdef.part-00001.npz"]
    for name in (*cut, ".own"):
        (out / name).write_text("cut short")
    seen = []
    writes = numbered._Writer.write_on_batch_end

    def watched(self, *rest, **more):
        seen.append(rest[-3] if len(rest) > 4 else None)
        return writes(self, *rest, **more)

    monkeypatch.setattr(numbered._Writer, "write_on_batch_end", watched)
    call("sample", models["images"], *asked(out))
    assert len(seen) == 1 and hashes(out) == before
    assert {path.name for path in out.glob(".*")} == {".lock", ".own"}  # and nobody else's file
    call("sample", models["images"], *asked(out))  # nothing is left
    assert len(seen) == 1
    assert "11 images in 3 parts" in capsys.readouterr().out


@pytest.mark.slow
def test_what_cannot_be_is_told(models, tmp_path, capsys):
    model, out = models["images"], tmp_path / "parts"
    call("sample", model, *asked(out))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/manifest.json").write_text("[]")
    wrong = {
        "seed 0 there and 1 here": asked(out, "--seed", 1),
        "label None there and [3] here": asked(out, "--label", 3),
        "is no manifest of samples": asked(tmp_path / "other"),
        "give --part too": ["--devices", 2],
        "--skip has no effect with --part": asked(out, "--skip", 2),
        "--data has no effect with --part": asked(out, "--data", "digits"),
        "part is 0": asked(out, "--part", 0),
        "no such devices, --devices no": asked(tmp_path / "new", "--devices", "no"),
    }
    for text, words in wrong.items():
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in ["sample", model, *words]])
        assert stop.value.code == 2 and text in capsys.readouterr().err, text
