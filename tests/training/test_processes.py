"""Several processes: one step is that of all their items."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anydiff.data.batches import LengthBatchSampler, ResumableLoader
from anydiff.data.stored import Store, write_store
from anydiff.data.streamed import Streamed
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


@pytest.mark.slow
def test_a_step_of_two_processes_is_one_over_all_items(tmp_path):
    alone(two_processes, tmp_path)


def read_points(path):
    return torch.from_numpy(np.load(path))


def from_a_store(folder):
    folder = Path(folder)
    parts = DATA.split(16)
    write_store(folder / "s", parts, lambda path, part: np.save(path, part.numpy()), ".npy")
    store = Store(folder / "s", read_points, torch.cat)

    def load(data):
        return ResumableLoader(data, batch_sampler=LengthBatchSampler([1] * len(data), 8))

    points = []
    for devices in (2, 1):  # two processes with batches of 8, one with both of them
        module = DiffusionModule(Point(), dense, lr=0.1, warmup=1, decay=False, optimizer=sgd)
        options = {"ema": 0.0, "clip": None, "devices": devices, "epochs": 2}
        options |= {"strategy": "ddp_fork"} if devices == 2 else {"accumulate_grad_batches": 2}
        loader = Streamed(store, load, 8, block=2)
        module = train(folder / str(devices), module, loader, load(DATA[:16]), **options)
        points.append(module.objective.point.detach())
    torch.testing.assert_close(*points)


@pytest.mark.slow
def test_two_processes_learn_from_a_store(tmp_path):
    alone(from_a_store, tmp_path)


@pytest.mark.slow
def test_spawned_processes_hand_the_averaged_weights_back(tmp_path):
    torch.testing.assert_close(run(tmp_path, "ddp_spawn", 1), 0.2 * DATA[:12].mean(0))
