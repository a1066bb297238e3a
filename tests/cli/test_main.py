"""From a function to flags, and from what goes wrong to one line."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import anydiff
from anydiff.cli.main import main, run
from anydiff.cli.numbers import Numbers
from anydiff.cli.runs import Run, positive, run_folder

COMMANDS = ["finetune", "distill", "sample", "inpaint", "edit", "interpolate", "evaluate", "info"]
COMMANDS += ["reconstruct", "models"]
COMMANDS += ["train molecules", "train sketches", "train images"]


def told(*words, of=main, code=2):
    """A call that ends with this status."""
    with pytest.raises(SystemExit) as stop:
        of(list(map(str, words)))
    assert stop.value.code == code


def test_help_names_every_command(capsys):
    told("--help", code=0)
    text = capsys.readouterr().out
    assert all(name in text for name in ("train", *COMMANDS[:10]))
    told()  # no command at all
    assert capsys.readouterr().err == text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_flag(command, capsys):
    told(*command.split(), "--help", code=0)
    text = capsys.readouterr().out
    assert text.startswith(f"usage: anydiff {command} ")
    described = text.split("options:")[1].replace("\n                          ", " ")
    flags = [line.split() for line in described.splitlines() if line.strip().startswith("-")]
    assert len(flags) > 2 and all(len(words) > 3 for words in flags), flags
    names = [words[0] for words in flags if words[0] != "--print_config"]
    assert not [name for name in names if "_" in name]


@pytest.mark.parametrize(
    "words,line",
    [
        ("dance", "dance is unknown; give one of train, finetune, distill, sample, inpaint"),
        ("train", "give one of molecules, sketches, images, smiles (see anydiff train --help)"),
        ("train cats", "cats is unknown; give one of molecules, sketches, images"),
        ("train molecules --lr x", "--lr is x; give a number (see anydiff train molecules --help)"),
        ("train images --widths 8,a", "--widths is 8,a; give numbers such as 3,8"),
        ("train images --classes maybe", "--classes is maybe; give true or false"),
        ("train sketches --cell rnn", "--cell is rnn; give gru or lstm"),
        ("train sketches --num 3", "unrecognized arguments: --num 3 (see anydiff train sketches"),
        ("train molecules --lr 0", "lr is 0.0; it must be positive"),
        ("train images --widths 8,0", "widths is 0; it must be positive"),
        ("train images --data digits --devices 0 --out {0}/a", "there is no trainer with"),
        ("train images --data digits --widths 100000000", "there is not enough memory"),
        ("train images --data digits --minutes 1e300", "minutes is 1e+300; it must be positive"),
        ("train images --data digits --out {1}/a", "nothing can be written to"),
        ("sample m --num 100000000000", "num is 100000000000; it must be positive and at most"),
        ("sample m --steps 1000000000000", "steps is 1000000000000; it must be positive and at"),
        ("train molecules --data no.sdf --out {0}/a", "no.sdf: there is no such file"),
        (
            "train molecules --resume --out {0}",
            "holds no last.ckpt to continue from; leave resume out",
        ),
        ("train molecules --config no.yaml", "--config: File does not exist"),
        (
            "train molecules --config {2}/a.npy",
            "a.npy is no text; give a YAML file with lines such",
        ),
        (
            "train molecules --config {2}/empty.yaml",
            "--config: the file holds no flags; give a YAML",
        ),
        ("sample {0}", ": a folder; give a checkpoint"),
        ("train sketches --data kanjy", "kanjy: give kanji, kanjivg, or the path of a file"),
        ("evaluate {2}/empty.ndjson --against kanji", "empty.ndjson holds no sketches"),
        (
            "evaluate {2}/a.sdf --against 5k --out {2}/a.sdf",
            "is what is evaluated, and would be lost",
        ),
        ("evaluate {2}/a.sdf --against {1} --out {1}", "is what is evaluated, and would be lost"),
        ("evaluate {2}/a.sdf --against 5k --out {1}/a", "nothing can be written to"),
        (
            "evaluate {2}/a.sdf --against 5k --out {2}",
            "is a folder or a device; give the name of a",
        ),
        ("sample", "model is missing (see anydiff sample --help)"),
        ("sample no.safetensors", "no.safetensors: no such file"),
        ("sample m --sampler euler", "--sampler is euler; give ddpm or ddim or dpm"),
        ("sample m --num 2.5", "--num is 2.5; give a whole number"),
        ("sample m --skip -1", "skip is -1"),
        ("edit m --strength 2", "strength is 2.0; it is a time, above 0 and at most 1"),
        ("evaluate no.sdf", "against is missing (see anydiff evaluate --help)"),
        ("evaluate no.sdf --against 5k", "no.sdf: no such file"),
        ("evaluate {1} --against 5k", "its name does not tell what it holds; give --kind"),
        (
            "evaluate {1} --against 5k --kind molecules --size 8",
            "--size does not apply to molecules",
        ),
    ],
)
def test_bad_input_is_told_in_one_line(words, line, capsys, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    np.save(files / "a.npy", np.full(9, 200, np.uint8))
    for name in ("empty.yaml", "empty.ndjson", "a.sdf"):
        (files / name).touch()
    told(*words.format(tmp_path, __file__, files).split())
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and line in lines[0]


def example(
    *, num: int = 3, at_least: float | None = None, label: Numbers | None = None,
    how: Literal["well", "badly"] = "well", quiet: bool = False, out: Path = Path("runs/x"),
) -> None:  # fmt: skip
    """Do a thing.

    Arguments:
        num: How many.
        at_least: A bound.
        label: Labels.
        how: In which way.
        quiet: Say less.
        out: Where.
    """
    if how == "badly":
        raise ValueError("it went\n  badly.")
    if num == 0:
        raise KeyboardInterrupt("nothing is lost.")
    print(num, at_least, label, quiet, out)


def test_a_function_of_one_s_own_has_flags(capsys, tmp_path):
    run(example, ["--num", "5", "--at-least", "2", "--label", "3,8", "--quiet", "--out", "q"])
    assert capsys.readouterr().out == "5 2.0 [3, 8] True q\n"
    run(example, ["--at_least", "2.5", "--label", "3", "--quiet", "false"])
    assert capsys.readouterr().out == "3 2.5 [3] False runs/x\n"
    told("--print_config", of=lambda words: run(example, words), code=0)
    config = capsys.readouterr().out
    assert "num: 3" in config and "at_least: null" in config
    config = config.replace("num: 3", "num: 7").replace("label: null", "label: [1, 2]")
    (tmp_path / "run.yaml").write_text(config)
    run(example, ["--config", str(tmp_path / "run.yaml"), "--quiet"])
    assert capsys.readouterr().out == "7 None [1, 2] True runs/x\n"


def test_errors_and_stops_have_their_status(capsys):
    told("--how", "badly", of=lambda words: run(example, words))
    assert capsys.readouterr().err == "error: it went badly.\n"
    told("--num", "0", of=lambda words: run(example, words), code=130)
    assert capsys.readouterr().err.strip() == "Stopped: nothing is lost."


def test_the_flags_of_a_run_are_those_of_lightning():
    run = Run(out=Path("x"), epochs=3, accelerator="cpu", precision="bf16-mixed")
    options = run.trainer()
    assert (options["minutes"], options["epochs"], options["accelerator"]) == (None, 3, "cpu")
    assert options["precision"] == "bf16-mixed" and options["devices"] == "auto"
    with pytest.raises(ValueError, match=r"batch_size is -1; it must be positive and at most 1,0"):
        Run(out=Path("x"), batch_size=-1)
    positive(a=None, b=[1, 2], c=0.5)


def test_the_folder_of_a_run(tmp_path):
    out = tmp_path / "run"
    assert run_folder(Run(out=out)) == out
    out.mkdir()
    (out / "last.ckpt").touch()  # broken off: the same command goes on there
    assert run_folder(Run(out=out)) == out == run_folder(Run(out=out, resume=True))
    (out / "model.safetensors").touch()  # there is a model, which nothing overwrites
    assert run_folder(Run(out=out)) == tmp_path / "run-2"
    assert run_folder(Run(out=out, resume=True)) == out


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom anydiff.cli.main import main\n"
        "try: main(['train', 'molecules', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'pytorch_lightning', 'rdkit', 'torch_geometric', 'matplotlib', 'torchmetrics'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_module_is_the_command():
    words = [sys.executable, "-m", "anydiff", "--version"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("anydiff ")


def test_a_reader_that_has_read_enough_is_no_error():
    code = (
        "import sys\nfrom anydiff.cli.main import run\n"
        "def tell() -> None:\n    'Tell.'\n    print('told', flush=True)\n"
        "sys.stdin.read()\nrun(tell, [])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as told:  # fmt: skip
        told.stdout.close()
        told.stdin.close()
        assert told.stderr.read() == b""
    assert told.returncode == 1


@pytest.mark.parametrize("name", ["/usr/bin/anydiff", "-m", "train.py", "pytest"])
def test_waiting_threads_of_the_command_sleep_from_the_start(name, monkeypatch):
    head = Path(anydiff.__file__).read_text().split("\nfrom anydiff")[0]  # before torch is imported
    assert "import torch" not in head
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setattr(os, "environ", own := dict(os.environ))
    exec(head, {})
    command = not name.endswith(("py", "pytest"))
    assert own.pop("GOMP_SPINCOUNT", None) == ("3000" if command else None)
    own["OMP_WAIT_POLICY"] = "active"  # the user's own
    exec(head, {})
    assert "GOMP_SPINCOUNT" not in own
