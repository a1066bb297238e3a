"""Several processes: one step is that of all their items."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from anydiff.data.batches import LengthBatchSampler, ResumableLoader
from anydiff.training.module import DiffusionModule
from tests.helpers.alone import alone
from tests.helpers.training import DATA, Point, dense, sgd, train


def test_the_loss_of_processes_is_the_mean_over_all_items():
    parts = torch.randn(12, dtype=torch.float64).split([8, 4])
    mean = torch.tensor(6.0)
    trainer = SimpleNamespace(
        world_size=2, strategy=SimpleNamespace(reduce=lambda size, reduce_op: mean)
    )
    each = [DiffusionModule._mean(SimpleNamespace(trainer=trainer), part) for part in parts]
    torch.testing.assert_close(torch.stack(each).mean(), torch.cat(parts).mean())


def run(folder, strategy, epochs):
    module = DiffusionModule(Point(), dense, lr=0.1, warmup=1, decay=False, optimizer=sgd)
    sampler = LengthBatchSampler([1] * 12, 8, shuffle=False)  # batches of 8 and of 4
    loader = ResumableLoader(DATA[:12], batch_sampler=sampler)
    options = {"ema": 0.0, "clip": None, "devices": 2, "strategy": strategy, "epochs": epochs}
    return train(folder, module, loader, **options).objective.point.detach()


def two_processes(folder):
    folder = Path(folder)
    point = run(folder / "a", "ddp_fork", 1)
    torch.testing.assert_close(point, 0.2 * DATA[:12].mean(0))
    more, whole = (run(folder / name, "ddp_fork", 3) for name in ("a", "b"))
    assert torch.equal(more, whole)
    assert torch.equal(run(folder / "b", "ddp_fork", 3), whole)  # finished already


def test_a_step_of_two_processes_is_one_over_all_items(tmp_path):
    alone(two_processes, tmp_path)


@pytest.mark.slow
def test_spawned_processes_hand_the_averaged_weights_back(tmp_path):
    torch.testing.assert_close(run(tmp_path, "ddp_spawn", 1), 0.2 * DATA[:12].mean(0))
