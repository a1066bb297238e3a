"""The flags that the examples share."""

import sys

import pytest
import torch
from anydiff.cli.flags import (
    calls,
    draw_all,
    labels_in_turn,
    moments,
    parse,
    parser,
    run_folder,
    seeds,
    training_settings,
    which_finite,
)
from torch import nn

from anydiff import GaussianDiffusion


def given(monkeypatch, *flags, positive=()):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, flags)])
    made = parser("What it does.\n\nMore.", out="runs/x", items="things", num=7)
    made.add_argument("--widths", type=int, nargs="+")
    made.add_argument("--label", type=int, nargs="+")
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


# drawing --------------------


class Remembers(nn.Module):
    """A denoiser of v that keeps the labels it was told."""

    classes = 4

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.told = []

    def forward(self, x_t, t, label=None):
        self.told.append(label)
        shift = 0.0 if label is None else label.reshape(-1, 1, 1, 1)
        return self.scale * x_t + shift


def drawn(args, cond=None, **options):
    diffusion = GaussianDiffusion(Remembers(), prediction="v")
    return diffusion.denoiser, *draw_all(args, diffusion, (1, 2, 4), cond, **options)


def test_items_are_the_same_however_they_are_batched(monkeypatch):
    args = given(monkeypatch, "--steps", 3)
    cond = {"label": torch.arange(7) % 4}
    _, x, path = drawn(args, cond, shown=2)
    assert x.shape == (7, 1, 2, 4) and path.shape == (3, 2, 1, 2, 4)
    assert torch.equal(path[-1], x[:2])  # it ends where they are
    denoiser, again, _ = drawn(args, cond, batch=3, shown=2)
    torch.testing.assert_close(again, x)  # to the rounding of another batch size
    assert torch.equal(torch.cat(denoiser.told[::3]), cond["label"])


def test_guidance_goes_beyond_what_labels_say(monkeypatch):
    cond = {"label": torch.full((7,), 3)}
    by = {w: drawn(given(monkeypatch, "--steps", 3, "--guidance", w), cond)[1] for w in (0, 1, 2)}
    torch.testing.assert_close(by[0], drawn(given(monkeypatch, "--steps", 3))[1])
    torch.testing.assert_close(by[2], 2 * by[1] - by[0])  # the network is linear in its label
    assert not torch.allclose(by[1], by[0])


def test_what_is_known_stays_and_edits_are_near(monkeypatch):
    x = torch.linspace(-1, 1, 56).reshape(7, 1, 2, 4)
    known = (torch.arange(4) < 2).expand_as(x)
    args = given(monkeypatch, "--steps", 3, "--inpaint", "--resamples", 2)
    _, whole, path = drawn(args, x=x, known=known, batch=3)
    assert torch.equal(whole[known], x[known]) and not torch.equal(whole, x)
    assert len(path) == 6  # each step twice
    little = drawn(given(monkeypatch, "--edit", 0.02), x=x)[1]
    assert (little - x).abs().max() < 0.3 < (drawn(given(monkeypatch))[1] - x).abs().max()


def test_labels_come_in_turn(monkeypatch):
    args = given(monkeypatch)
    assert labels_in_turn(args, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert labels_in_turn(args, 0) is None
    args.label = [2, 0]
    assert labels_in_turn(args, 3).tolist() == [2, 0, 2, 0, 2, 0, 2]


@pytest.mark.parametrize(
    "label, flags, classes, message",
    [
        ([2, 3], [], 3, "--label is 3; .* 0 to 2"),
        ([-1], [], 3, "--label is -1"),
        ([0], [], 0, "no classes, which --label is about.*--classes"),
        (None, ["--guidance", 2], 0, "no classes, which --guidance is about"),
    ],
)
def test_labels_that_a_model_does_not_know(label, flags, classes, message, monkeypatch):
    args = given(monkeypatch, *flags)
    args.label = label
    with pytest.raises(ValueError, match=message):
        labels_in_turn(args, classes)


def test_calls_of_the_network_are_counted(monkeypatch):
    for flags in ([], ["--guidance", 2], ["--guidance", 0], ["--inpaint", "--guidance", 3]):
        args = given(monkeypatch, "--steps", 4, "--resamples", 2, "--num", 5, *flags)
        x = torch.zeros(5, 1, 2, 4)
        cond = {"label": torch.arange(5) % 4}
        denoiser, _, _ = drawn(args, cond, x=x, known=torch.ones_like(x, dtype=torch.bool))
        assert calls(args, guided=True) == len(denoiser.told), flags
    assert calls(args, guided=False) == 8


def test_what_is_not_finite_is_left_out(capsys):
    x = torch.zeros(3, 1, 2, 2)
    assert which_finite(x, "images").all() and capsys.readouterr().out == ""
    x[1, 0, 0, 0], x[2, 0, 1, 1] = torch.nan, torch.inf
    assert which_finite(x, "images").tolist() == [True, False, False]
    assert "2 of the images" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"none of the images.*--lr"):
        which_finite(x[1:], "images")
