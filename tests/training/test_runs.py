"""Training: it learns, its weights are averaged, and a resumed run equals an uninterrupted one."""

import logging
import signal

import pytest
import torch
from torch.utils.data import DataLoader

from anydiff import Dense
from anydiff.files import free_folder
from anydiff.training.curve import plot_curve
from anydiff.training.module import DiffusionModule
from anydiff.training.runs import Interrupted, trainer
from anydiff.training.runs import fit as fit_in_folder
from tests.helpers.training import DATA, Point, fresh


def fit(module, folder, *, ckpt_path=None, callbacks=None, batch_size=16, **limits):
    data = DataLoader(DATA, batch_size=batch_size)
    flags = {"accelerator": "cpu", "enable_progress_bar": False}
    run = trainer(folder, callbacks=callbacks, save_every=0.0, **limits, **flags)
    run.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return run


@pytest.mark.slow
def test_training_lowers_the_loss_and_leaves_averaged_weights(tmp_path):
    module = fresh()
    before = module.objective.loss(DATA, generator=torch.Generator().manual_seed(0)).mean()
    run = fit(module, tmp_path, epochs=60, ema=0.9)
    after = module.objective.loss(DATA, generator=torch.Generator().manual_seed(0)).mean()
    assert after < 0.6 * before
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    average, current = (
        saved[k]["objective.denoiser.layers.0.weight"]
        for k in ("state_dict", "current_model_state")
    )
    assert not torch.equal(average, current)
    assert torch.equal(module.objective.denoiser.layers[0].weight, average)
    assert run.global_step == 240
    rows = (tmp_path / "logs/version_0/metrics.csv").read_text().splitlines()
    assert "loss" in rows[0] and len(rows) > 5


def test_the_average_forgets_the_start_of_a_short_run(tmp_path):
    from pytorch_lightning.callbacks import Callback

    class Weights(Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, *_):
            self.seen.append(pl_module.objective.denoiser.layers[0].weight.detach().clone())

    weights, module = Weights(), fresh()
    fit(module, tmp_path, epochs=25, ema=0.9, callbacks=[weights])
    average = weights.seen[0]
    for n, weight in enumerate(weights.seen[1:], start=1):
        average = average.lerp(weight, 1 - min(0.9, (1 + n) / (10 + n)))
    assert len(weights.seen) == 100
    torch.testing.assert_close(module.objective.denoiser.layers[0].weight, average)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    from pytorch_lightning.callbacks import Callback

    class Kill(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 3:
                raise KeyboardInterrupt

    whole = fresh()
    fit(whole, tmp_path / "whole", epochs=6)

    with pytest.raises(SystemExit):
        fit(fresh(), tmp_path / "cut", epochs=6, callbacks=[Kill()])
    resumed = fresh()
    fit(resumed, tmp_path / "cut", epochs=6, ckpt_path=tmp_path / "cut/last.ckpt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_unpack_draws_is_the_step_s_own(tmp_path):
    """Known parts, for instance: the same after a resumption, and nothing else draws differently."""
    from pytorch_lightning.callbacks import Callback

    class Kill(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                raise KeyboardInterrupt

    seen = []

    def noisy(x):
        seen.append(torch.rand(3))
        return x + 0.1 * torch.randn_like(x), Dense(), {}

    def run(folder, **options):
        module = fresh()
        module.unpack = noisy
        torch.manual_seed(next(seeds))  # wherever torch's own generator stands
        fit(module, tmp_path / folder, epochs=4, **options)
        return module

    seeds = iter(range(3))
    whole = run("whole")
    drawn = seen.copy()
    assert len(drawn) == 16 and len({tuple(r.tolist()) for r in drawn}) == 16
    seen.clear()
    with pytest.raises(SystemExit):
        run("cut", callbacks=[Kill()])
    resumed = run("cut", ckpt_path=tmp_path / "cut/last.ckpt")
    assert torch.equal(torch.stack(seen), torch.stack(drawn))
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    # the same in every validation
    seen.clear()
    for _ in range(2):
        whole.log = lambda *_, **options: None
        whole.validation_step(DATA, 0)
    assert torch.equal(*seen)


def test_a_run_cut_amid_an_epoch_goes_on_with_the_next_batch(tmp_path):
    from pytorch_lightning.callbacks import Callback

    from anydiff.data.batches import ResumableLoader
    from anydiff.molecules.batches import SizeBatchSampler

    class Kill(Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 6:  # four make an epoch
                raise KeyboardInterrupt

    def run(module, folder, callbacks=None):
        batches = SizeBatchSampler([1] * 64, 16, seed=3)
        data = ResumableLoader(DATA, batch_sampler=batches)
        options = {"accelerator": "cpu", "enable_progress_bar": False, "save_every": 0.0}
        fit_in_folder(module, folder, data, epochs=4, callbacks=callbacks, **options)

    whole, resumed = fresh(), fresh()
    run(whole, tmp_path / "whole")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"last\.ckpt is kept; run the same again") as stop:
        run(fresh(), tmp_path / "cut", [Kill()])
    assert isinstance(stop.value, KeyboardInterrupt)
    assert stop.value.checkpoint == tmp_path / "cut/last.ckpt"
    assert signal.getsignal(signal.SIGINT) is handler  # Ctrl-C works again
    run(resumed, tmp_path / "cut")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_interrupted_validation_leaves_the_weights_in_their_places(tmp_path):
    module = fresh()

    def broken(batch, batch_idx):
        raise KeyboardInterrupt

    module.validation_step = broken
    data = DataLoader(DATA, batch_size=16)
    flags = {"accelerator": "cpu", "enable_progress_bar": False}
    run = trainer(tmp_path, epochs=3, ema=0.9, **flags)
    with pytest.raises(SystemExit):
        run.fit(module, data, data)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    # after four steps the average is behind the weights, which have gone further
    start = fresh().objective.denoiser.layers[0].weight
    name = "objective.denoiser.layers.0.weight"
    moved = {k: (saved[k][name] - start).norm() for k in ("state_dict", "current_model_state")}
    assert moved["current_model_state"] > 1.05 * moved["state_dict"]


def test_the_end_of_a_run_is_kept(tmp_path):
    data = DataLoader(DATA, batch_size=16)
    flags = {"accelerator": "cpu", "enable_progress_bar": False}
    run = trainer(tmp_path, epochs=2, **flags)  # over long before the first minute
    run.fit(fresh(), data)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 8


def test_the_rate_rises_and_falls_to_zero(tmp_path):
    from pytorch_lightning.callbacks import Callback

    class Rates(Callback):
        def __init__(self):
            self.rates = []

        def on_train_batch_end(self, trainer, *_):
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    seen = Rates()
    fit(fresh(), tmp_path, epochs=10, callbacks=[seen])
    height = max(seen.rates)
    assert 0.9e-2 < height <= 1e-2 and seen.rates.index(height) in (3, 4, 5)
    assert seen.rates[-1] < 1e-4
    assert all(a >= b for a, b in zip(seen.rates[5:], seen.rates[6:], strict=False))

    seen = Rates()
    fit(fresh(decay=False), tmp_path / "constant", epochs=10, callbacks=[seen])
    assert seen.rates[:5] == sorted(seen.rates[:5]) and set(seen.rates[5:]) == {1e-2}


def test_minutes_end_a_run(tmp_path):
    run = fit(fresh(), tmp_path, minutes=0.02)
    assert run.global_step > 0 and run.should_stop


def test_a_seed_repeats_a_run(tmp_path):
    runs = [fresh(seed=s) for s in (0, 0, 1)]
    for k, module in enumerate(runs):
        fit(module, tmp_path / str(k), epochs=2)
    a, b, c = (m.objective.denoiser.layers[0].weight for m in runs)
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_run_without_an_end_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="give minutes, epochs or max_steps"):
        trainer(tmp_path)


def test_any_objective_is_trained(tmp_path):
    module = DiffusionModule(Point(), lambda x: (x, Dense(), {}), lr=0.1, warmup=5)
    fit(module, tmp_path, epochs=40, ema=0.5)
    torch.testing.assert_close(module.objective.point, DATA.mean(0), rtol=0, atol=0.02)
    with pytest.raises(TypeError, match=r"is a function, which is not an nn\.Module"):
        DiffusionModule(lambda: None, lambda x: (x, Dense(), {}))


def test_a_folder_is_gone_on_with_unless_its_settings_differ(tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO, "anydiff.training")
    data = DataLoader(DATA, batch_size=16)
    options = {"accelerator": "cpu", "enable_progress_bar": False, "save_every": 0.0}
    fit_in_folder(fresh(), tmp_path, data, settings={"width": 32}, epochs=2, **options)
    assert not caplog.messages
    run = fit_in_folder(fresh(), tmp_path, data, settings={"width": 32}, epochs=3, **options)
    assert caplog.messages == [f"going on from {tmp_path / 'last.ckpt'}"] and run.global_step == 12
    assert not capsys.readouterr().out  # a library says nothing by itself
    before = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match="width 32 there and 64 here"):
        fit_in_folder(fresh(), tmp_path, data, settings={"width": 64}, epochs=4, **options)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_finished_folder_is_not_written_over(tmp_path):
    assert free_folder(tmp_path / "run", "a", "model.safetensors") == tmp_path / "run"
    for name in ("run", "run-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    assert free_folder(tmp_path / "run", "a", "model.safetensors") == tmp_path / "run-3"


def test_the_curve_covers_all_resumptions(tmp_path):
    with pytest.raises(ValueError, match="train first"):
        plot_curve(tmp_path, tmp_path / "curve.png")
    for version, steps in enumerate(["1,0.9,\n2,0.8,", "3,0.7,\n4,,0.75"]):
        folder = tmp_path / f"logs/version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,loss,val_loss\n" + steps + "\n")
    plot_curve(tmp_path, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
