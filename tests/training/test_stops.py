"""Runs that stop, however they do: what is kept is complete, and goes on exactly."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from anydiff.training.callbacks import Diverged, Finite
from anydiff.training.muon import Muon
from anydiff.training.runs import Interrupted, trainer
from tests.helpers.training import DATA, MLP, QUIET, At, batches, fresh, plain, sgd, train, weights


def last(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def same(folder, other):
    """Whether two checkpoints hold the same weights, averages and moments."""
    a, b = last(folder), last(other)
    return a["global_step"] == b["global_step"] and all(
        torch.equal(value, b[part][name])
        for part in ("state_dict", "current_model_state")
        for name, value in a[part].items()
    )


# the end of a run


@pytest.mark.parametrize("limit", [{"epochs": 3}, {"epochs": -1, "max_steps": 10}])
def test_a_finished_run_is_left_as_it_is_and_gives_the_same_weights(tmp_path, limit):
    first = weights(train(tmp_path, **limit))
    kept = (tmp_path / "last.ckpt").read_bytes()
    assert torch.equal(weights(train(tmp_path, **limit)), first)
    assert (tmp_path / "last.ckpt").read_bytes() == kept
    average = torch.cat([v.flatten() for v in last(tmp_path)["state_dict"].values()])
    assert torch.equal(first, average)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}])
@pytest.mark.parametrize("workers", [0, 2])
def test_more_steps_go_on_where_the_last_ones_ended(tmp_path, workers, options):
    def go(folder, steps):
        module = fresh(decay=False)
        return weights(
            train(folder, module, batches(num_workers=workers), max_steps=steps, **options)
        )

    for steps in (3, 4, 9):  # within an epoch, and at its end
        cut = go(tmp_path / "cut", steps)
    assert torch.equal(cut, go(tmp_path / "whole", 9))
    assert same(tmp_path / "cut", tmp_path / "whole")
    assert last(tmp_path / "cut")["epoch"] == last(tmp_path / "whole")["epoch"]


def test_a_run_over_in_time_gives_its_average_again(tmp_path):
    first = weights(train(tmp_path, minutes=0.01))
    assert torch.equal(weights(train(tmp_path, minutes=0.01)), first)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_end", "on_train_end"])
def test_a_run_killed_after_its_last_step_ends_as_if_it_had_not_been(tmp_path, hook):
    def kill():
        raise MemoryError  # nothing is saved after this, as after SIGKILL

    with pytest.raises(MemoryError):
        train(tmp_path / "cut", epochs=3, callbacks=[Kill(hook, 12)])
    cut = weights(train(tmp_path / "cut", epochs=3))
    assert torch.equal(cut, weights(train(tmp_path / "whole", epochs=3)))
    assert same(tmp_path / "cut", tmp_path / "whole")


class Kill(At):
    """End the process's run so that no hook runs any more."""

    def __init__(self, hook, step):
        super().__init__(hook, step, None)

    def _hook(self, trainer, *_):
        if trainer.global_step >= self.step:
            trainer.callbacks.clear()
            raise MemoryError


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_more_epochs_go_on_from_the_end(tmp_path, workers):
    def run(folder, epochs, options):
        module = fresh(decay=False)
        return train(tmp_path / folder, module, batches(**options), epochs=epochs)

    options = {"num_workers": workers} if workers else {}
    run("cut", 3, options)
    assert torch.equal(weights(run("cut", 6, options)), weights(run("whole", 6, {})))
    assert same(tmp_path / "cut", tmp_path / "whole")


def test_fewer_epochs_than_there_are_is_an_error_that_changes_nothing(tmp_path):
    train(tmp_path, epochs=3)
    kept = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=r"3 epochs .* epochs is 2"):
        train(tmp_path, epochs=2)
    assert (tmp_path / "last.ckpt").read_bytes() == kept


def test_a_checkpoint_saved_after_the_end_holds_weights_and_averages(tmp_path):
    run = trainer(tmp_path, epochs=2, **QUIET)
    module = fresh()
    run.fit(module, batches())
    run.save_checkpoint(tmp_path / "again.ckpt")
    again = torch.load(tmp_path / "again.ckpt", weights_only=True)
    for part in ("state_dict", "current_model_state"):
        for name, value in last(tmp_path)[part].items():
            assert torch.equal(again[part][name], value)
    average = torch.cat([v.flatten() for v in again["state_dict"].values()])
    assert torch.equal(weights(module), average)


# stops in the middle


HOOKS = [
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end", "on_train_epoch_end",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, fresh(Dropout), epochs=3)
    return folder


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("hook", HOOKS)
def test_ctrl_c_at_any_moment_is_gone_on_from_exactly(tmp_path, whole, hook, again):
    def press():
        signal.raise_signal(signal.SIGINT)
        if again:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    options = {"epochs": 3, "save_every": 60.0}
    with pytest.raises(Interrupted) as stop:
        train(tmp_path, fresh(Dropout), callbacks=[At(hook, 6, press)], **options)
    assert signal.getsignal(signal.SIGINT) is handler
    if again:  # at once, and with no checkpoint before
        assert "no checkpoint yet" in str(stop.value) and not (tmp_path / "last.ckpt").exists()
    else:
        assert last(tmp_path)["global_step"] in (6, 7, 8)
        train(tmp_path, fresh(Dropout), **options)
        assert same(tmp_path, whole)


def Dropout():
    return MLP(dropout=0.3)


def test_ctrl_c_after_the_last_step_stops_too(tmp_path):
    press = At("on_train_end", 4, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train(tmp_path, epochs=1, callbacks=[press])
    assert last(tmp_path)["global_step"] == 4


def test_ctrl_c_within_a_validation_keeps_weights_and_averages_apart(tmp_path):
    press = At("on_validation_batch_start", 6, lambda: signal.raise_signal(signal.SIGINT))
    options = {"valid": plain(), "epochs": 3, "save_every": 60.0}
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", callbacks=[press], **options)
    train(tmp_path / "cut", **options)
    train(tmp_path / "whole", **options)
    assert same(tmp_path / "cut", tmp_path / "whole")


def test_sigterm_ends_with_status_143_and_is_gone_on_from_exactly(tmp_path):
    term = At("on_before_backward", 6, lambda: signal.raise_signal(signal.SIGTERM))
    options = {"epochs": 3, "save_every": 60.0}
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "cut", callbacks=[term], **options)
    assert stop.value.code == 143
    train(tmp_path / "cut", **options)
    train(tmp_path / "whole", **options)
    assert same(tmp_path / "cut", tmp_path / "whole")


def test_accumulated_gradients_are_in_no_checkpoint(tmp_path):
    options = {"epochs": 3, "accumulate_grad_batches": 3}
    press = At("on_train_batch_end", 3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", callbacks=[press], **options)
    train(tmp_path / "cut", **options)
    train(tmp_path / "whole", **options)
    assert same(tmp_path / "cut", tmp_path / "whole")


def test_a_stop_in_the_first_step_says_that_it_leaves_nothing_behind(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="no checkpoint yet"):
        train(tmp_path, epochs=2, callbacks=[At("on_train_batch_start", 0, fail)])
    assert not (tmp_path / "last.ckpt").exists()


# steps that are not finite


def broken(at):
    """Data with an item that is not finite, of which the loss and all gradients are not."""
    data = DATA.clone()
    data[at] = torch.nan
    return data


@pytest.mark.parametrize("optimizer", [None, Muon, lambda p, lr: torch.optim.SGD(p, lr, 0.9)])
def test_a_step_that_is_not_finite_is_named_and_nothing_of_it_is_kept(tmp_path, optimizer):
    module, before = (fresh(optimizer=optimizer, decay=False) for _ in range(2))
    with pytest.raises(Diverged, match="the loss of step 2 is nan") as stop:
        train(tmp_path / "nan", module, plain(broken(40)), epochs=2)
    assert isinstance(stop.value, ValueError)
    train(tmp_path / "good", before, plain(), epochs=-1, max_steps=2)
    assert same(tmp_path / "nan", tmp_path / "good")
    state = last(tmp_path / "good")["current_model_state"]
    assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_gradients_alone_are_looked_at_too(tmp_path, value):
    module = fresh()
    module.objective.denoiser.layers[0].weight.register_hook(
        lambda grad: grad * value if module.global_step == 5 else grad
    )
    with pytest.raises(Diverged, match="step 5"):
        train(tmp_path, module, epochs=3)
    assert last(tmp_path)["global_step"] == 5 and weights(module).isfinite().all()


def test_a_device_that_would_be_waited_for_is_read_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(Finite, "at_once", set())
    options = {"save_every": 60.0, "log_every_n_steps": 20}

    def module():  # without momentum, steps of zero gradients change nothing
        return fresh(optimizer=lambda p, lr: torch.optim.SGD(p, lr), decay=False)

    held = module()
    with pytest.raises(Diverged, match="the loss of step 2 is nan"):
        train(tmp_path / "nan", held, plain(broken(40)), epochs=20, **options)
    assert not (tmp_path / "nan/last.ckpt").exists()
    train(tmp_path / "good", module(), plain(), epochs=-1, max_steps=2, **options)
    state = last(tmp_path / "good")["current_model_state"]
    assert all(torch.equal(state[k], v) for k, v in held.state_dict().items())


def test_a_device_is_read_before_a_checkpoint_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(Finite, "at_once", set())
    with pytest.raises(Diverged, match="the loss of step 2 is nan"):
        train(tmp_path, loader=plain(broken(40)), epochs=20, log_every_n_steps=1000)
    saved = last(tmp_path)
    assert saved["global_step"] == 2
    assert all(v.isfinite().all() for v in saved["current_model_state"].values())


# files


def limited(monkeypatch, allowed):
    """Let writing fail as on a full disk, after some bytes."""
    from anydiff.training import stops

    class Full:
        def __init__(self, *args):
            self.file = open(*args)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, content):
            self.file.write(content[:allowed])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(stops, "open", Full, raising=False)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    train(tmp_path, epochs=2)
    kept = (tmp_path / "last.ckpt").read_bytes()
    limited(monkeypatch, 1000)
    with pytest.raises(OSError, match=r"No space left on device: .*last\.ckpt"):
        train(tmp_path, epochs=4)
    assert (tmp_path / "last.ckpt").read_bytes() == kept
    assert not list(tmp_path.glob(".last.ckpt*"))


def test_ctrl_c_on_a_full_disk_is_still_ctrl_c(tmp_path, monkeypatch):
    train(tmp_path, epochs=2)
    kept = (tmp_path / "last.ckpt").read_bytes()
    limited(monkeypatch, 1000)
    press = At("on_train_batch_start", 9, lambda: signal.raise_signal(signal.SIGINT))
    with (
        pytest.warns(UserWarning, match="no checkpoint of the last step: .*No space left"),
        pytest.raises(Interrupted),
    ):
        train(tmp_path, epochs=4, save_every=60.0, callbacks=[press])
    assert (tmp_path / "last.ckpt").read_bytes() == kept


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage", [cut, lambda _: b"", lambda _: b"\x80\x04]\x94.", lambda _: b"PK\x03\x04junk"]
)
def test_a_damaged_checkpoint_is_named_and_left(tmp_path, damage):
    train(tmp_path, epochs=1)
    path = tmp_path / "last.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"last\.ckpt is not the checkpoint of a run, or is damaged; "
    ):
        train(tmp_path, epochs=2)
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [[1, 2], {"state_dict": {}}, torch.zeros(3)])
def test_another_file_of_torch_s_is_no_checkpoint(tmp_path, value):
    torch.save(value, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is not the checkpoint of a run"):
        train(tmp_path, epochs=2)


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", "null", "[" * 100_000, '{"a": 1}\x00', "\udcff"]
)
def test_damaged_settings_are_named(tmp_path, text):
    train(tmp_path, epochs=1, settings={"width": 32})
    (tmp_path / "settings.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(
        ValueError, match=r"settings\.json does not hold the settings of a run"
    ) as stop:
        train(tmp_path, epochs=2, settings={"width": 32})
    assert len(str(stop.value).splitlines()) == 1


def test_settings_that_json_cannot_hold_are_named(tmp_path):
    with pytest.raises(ValueError, match="settings have to be values that JSON can hold"):
        train(tmp_path, epochs=1, settings={"path": tmp_path})


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    train(tmp_path, epochs=1)
    kept = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(
        ValueError, match=r"has \(32, 3\) where the network has \(4, 3\) \(.*weight\)"
    ):
        train(tmp_path, fresh(lambda: Narrow(4)), epochs=2)
    assert (tmp_path / "last.ckpt").read_bytes() == kept


class Narrow(MLP):
    def __init__(self, width):
        super().__init__()
        self.layers[0], self.layers[3] = torch.nn.Linear(3, width), torch.nn.Linear(width, 2)


@pytest.mark.parametrize("before, after", [(None, Muon), (None, sgd), (sgd, None), (Muon, None)])
def test_a_checkpoint_of_another_optimizer_is_named(tmp_path, before, after):
    train(tmp_path, fresh(optimizer=before), epochs=1)
    kept = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=r"another optimizer|parameter group"):
        train(tmp_path, fresh(optimizer=after), epochs=2)
    assert (tmp_path / "last.ckpt").read_bytes() == kept


def test_settings_that_are_nan_are_themselves(tmp_path):
    for epochs in (1, 2):
        train(tmp_path, epochs=epochs, settings={"a": float("nan"), "b": (1, 2), 3: 4})


@pytest.mark.parametrize(
    "options, line",
    [
        ({"epochs": 1.5}, "epochs is 1.5; give a whole number"),
        ({"epochs": 1, "ema": 1.0}, "ema is 1.0"),
        ({"epochs": 1, "clip": float("nan")}, "clip is nan"),
        ({"epochs": 1, "save_every": float("inf")}, "save_every is inf"),
        ({"minutes": float("nan")}, "minutes is nan"),
        ({"epochs": 1, "devices": 0}, "there is no trainer with .*devices 0"),
        ({"epochs": 1, "color": 3}, "there is no trainer with .*color"),
        ({"epochs": 1, "loader": []}, "the loader has no batches"),
    ],
)
def test_what_makes_no_run_is_named(tmp_path, options, line):
    with pytest.raises(ValueError, match=line):
        train(tmp_path, **options)


# two processes, one folder

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("process 123", file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path):
    train(tmp_path, epochs=1)
    kept = (tmp_path / "last.ckpt").read_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / ".lock"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"another process trains in .*process 123"):
            train(tmp_path, epochs=2)
        assert (tmp_path / "last.ckpt").read_bytes() == kept
        os.kill(other.pid, signal.SIGKILL)  # whoever is killed holds nothing
    train(tmp_path, epochs=2)
    assert last(tmp_path)["global_step"] == 8


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path):
    (tmp_path / ".last.ckpt.abcd").write_bytes(b"half")
    train(tmp_path, epochs=1)
    assert not list(tmp_path.glob(".last.ckpt.*"))
    assert json.loads((tmp_path / "settings.json").read_text()) == {}
