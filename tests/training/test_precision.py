"""Precisions of the trainer: averages, moments and momentum are in float32 at least."""

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from anydiff.training.callbacks import Averaged
from anydiff.training.muon import Muon
from tests.helpers.training import DATA, MLP, At, fresh, plain, train, weights


class Steps(At):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen.append({k: p.detach().clone() for k, p in pl_module.named_parameters()})


@pytest.mark.parametrize("optimizer", [None, Muon, lambda p, lr: torch.optim.SGD(p, lr)])
@pytest.mark.parametrize(
    "precision, weight, kept",
    [
        ("bf16-true", torch.bfloat16, torch.float32),
        ("64-true", torch.float64, torch.float64),
        ("bf16-mixed", torch.float32, torch.float32),
    ],
)
def test_averages_and_moments_are_kept_in_float32_at_least(
    tmp_path, precision, weight, kept, optimizer
):
    steps = Steps()
    module = train(
        tmp_path, fresh(Wide, optimizer=optimizer), valid=plain(), epochs=3, ema=0.999,
        precision=precision, callbacks=[steps],
    )  # fmt: skip
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {p.dtype for p in module.parameters()} == {weight}
    assert {v.dtype for v in saved["current_model_state"].values()} == {weight}
    state = saved["optimizer_states"][0]["state"]
    moments = [
        v
        for s in state.values()
        for k, v in s.items()
        if isinstance(v, torch.Tensor) and k != "step"
    ]
    assert {m.dtype for m in moments} <= {kept} and len(steps.seen) == 12
    for name, value in saved["state_dict"].items():  # the average follows, in steps of any size
        average = steps.seen[0][name].to(kept)
        for n, seen in enumerate(steps.seen[1:], start=1):
            average = average.lerp(seen[name].to(kept), 1 - min(0.999, (1 + n) / (10 + n)))
        assert value.dtype == kept
        torch.testing.assert_close(value, average)


class Wide(nn.Module):
    """With matrices that are large enough for Muon."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 32), nn.Linear(32, 2)
        )

    def forward(self, x_t, t):
        return self.layers(torch.cat([x_t, t[:, None].to(x_t.dtype)], 1))


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
@pytest.mark.parametrize("optimizer", [None, Muon])
def test_a_run_in_any_precision_resumes_exactly(tmp_path, optimizer, precision):
    def run(folder, epochs):
        module = fresh(Wide, optimizer=optimizer, decay=False)
        return weights(train(tmp_path / folder, module, epochs=epochs, precision=precision))

    run("cut", 2)
    assert torch.equal(run("cut", 4), run("whole", 4))


def test_an_average_in_half_precision_moves_by_less_than_the_weights_can(tmp_path):
    def run(epochs):
        data = DATA.clone()
        train(tmp_path, loader=plain(data), epochs=epochs, precision="bf16-true", ema=0.9999)
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
        return torch.cat([v.flatten() for v in saved.values()])

    before, after = run(10), run(11)
    step = (after - before).abs().median()
    assert step > 0 and not torch.equal(before.bfloat16().float(), before)


def test_a_module_in_half_precision_has_a_float32_average(tmp_path):
    module = fresh()
    module.objective.denoiser.layers[0].bfloat16()
    averaged = Averaged(0.9)
    averaged.setup(Trainer(accelerator="cpu", logger=False), module, "fit")
    assert {p.dtype for p in averaged._averages()} == {torch.float32}


def test_a_compiled_network_trains_with_a_smaller_last_batch(tmp_path):
    def compiled():
        return torch.compile(MLP(), backend="eager")

    runs = [
        train(tmp_path / make.__name__, fresh(make), plain(DATA[:41]), plain(DATA[:20]), epochs=2)
        for make in (compiled, MLP)
    ]
    torch.testing.assert_close(*map(weights, runs))
