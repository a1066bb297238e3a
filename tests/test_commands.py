"""The flags that the examples share."""

import sys

import pytest

from anydiff.commands import moments, parse, parser, run_folder, seeds, training_settings


def given(monkeypatch, *flags, positive=()):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, flags)])
    made = parser("What it does.\n\nMore.", out="runs/x", items="things", num=7)
    made.add_argument("--widths", type=int, nargs="+")
    made.add_argument("--quiet", action="store_true", help="say less")
    return parse(made, *positive)


def test_defaults_are_the_command_s(monkeypatch):
    args = given(monkeypatch)
    assert (args.num, args.minutes, args.batch_size, args.epochs) == (7, 5.0, 64, None)
    assert args.accelerator in ("cpu", "gpu")


@pytest.mark.parametrize("flags", [["--minutes", 0], ["--num", -1], ["--widths", 8, 0]])
def test_what_must_be_positive_is_named(flags, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        given(monkeypatch, *flags, positive=["widths"])
    assert f"{flags[0]} is {float(flags[-1]) if '--minutes' in flags else flags[-1]}" in (
        capsys.readouterr().err
    )


def test_help_shows_defaults_that_say_something(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        given(monkeypatch, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert (
        text.count("(default: 7)") == 1 and "(default: 0)" in text and "(default: None)" not in text
    )
    assert "What it does." in text and "More." not in text
    assert text.index("--quiet say less") < text.index("how long to train")


def test_a_seed_for_each_item_wherever_it_is_drawn(monkeypatch):
    args = given(monkeypatch, "--seed", 3)
    assert seeds(args, 0, 5)[2:] == seeds(args, 2, 3)
    other = given(monkeypatch, "--seed", 4)
    assert not set(seeds(args, 0, 1000)) & set(seeds(other, 0, 1000))


def test_a_film_shows_both_ends_and_more_of_the_later():
    shown = moments(100)
    assert shown[0] == 0 and shown[-1] == 99 and len(shown) <= 40
    assert sum(k >= 50 for k in shown) > sum(k < 50 for k in shown)
    assert moments(1) == [0] and moments(3) == [0, 1, 2]


def test_settings_are_those_that_shape_the_training(monkeypatch):
    args = given(monkeypatch, "--widths", 4, 8)
    assert training_settings(args, "widths") == {
        "widths": [4, 8], "batch_size": 64, "lr": 8e-3, "seed": 0,
    }  # fmt: skip


def test_the_folder_of_a_run(monkeypatch, tmp_path):
    out = tmp_path / "run"
    assert run_folder(given(monkeypatch, "--out", out), "drawn") == out
    with pytest.raises(ValueError, match=r"no last\.ckpt"):
        run_folder(given(monkeypatch, "--out", out, "--resume"), "drawn")
    out.mkdir()
    (out / "last.ckpt").touch()  # broken off: the same command goes on there
    assert run_folder(given(monkeypatch, "--out", out), "drawn") == out
    assert run_folder(given(monkeypatch, "--out", out, "--resume"), "drawn") == out
    sampling = given(monkeypatch, "--out", out, "--sample-only", "m.safetensors")
    assert run_folder(sampling, "drawn") == tmp_path / "run-2"
    (out / "drawn").touch()  # there are results, which nothing overwrites
    assert run_folder(given(monkeypatch, "--out", out), "drawn") == tmp_path / "run-2"
    assert run_folder(given(monkeypatch, "--out", out, "--resume"), "drawn") == out
