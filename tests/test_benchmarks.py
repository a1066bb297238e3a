"""The benchmarks that need a quiet machine or a device run, in small."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT


def run(script, *words):
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
def test_the_script_for_a_device_runs_on_a_cpu(tmp_path):
    pytest.importorskip("diffusers")
    run("gpu.py", "--device", "cpu", "--short", "--no-compile", "--out", tmp_path / "gpu.json")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "faults" not in found
    assert set(found["largest difference of losses"].values()) == {0.0}
    for network in ("UNet", "EGNN", "PairNet", "BiRNN"):
        assert {"float32", "bfloat16"} <= found[f"{network}, step"].keys()
        assert found[f"{network}, 10 steps of DDIM"]["eager"] > 0
    assert found["UNet, step"]["peer"] > 0 and found["EGNN, step"]["peer"] > 0


@pytest.mark.slow
def test_growth_is_measured():
    out = run("growth.py", "--only", "PairNet", "--short", "--repeats", 1, "--threads", 1)
    assert out.count("| PairNet |") == 6
    assert "| PairNet, sampling" in out


@pytest.mark.slow
def test_a_step_is_measured_alone_and_beside_others():
    out = run("steps.py", "--only", "UNet", "BiRNN", "--repeats", 1, "--threads", 1)
    assert "other programs: 0" in out and out.count(" %)") == 6
    out = run("steps.py", "--only", "UNet", "--repeats", 1, "--threads", 1, "--busy", 1)
    assert "other programs: 1" in out and "| UNet" in out
