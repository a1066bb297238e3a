"""A small run: a few points, a network of two layers, a trainer that saves after every step."""

import logging
import warnings

import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from anydiff import Cosine, Dense, GaussianDiffusion
from anydiff.data.batches import LengthBatchSampler, ResumableLoader
from anydiff.training.module import DiffusionModule
from anydiff.training.runs import fit

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="pytorch_lightning")

DATA = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) * 0.3 + 1
QUIET = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}


class MLP(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 32), nn.SiLU(), nn.Dropout(dropout), nn.Linear(32, 2)
        )

    def forward(self, x_t, t):
        return self.layers(torch.cat([x_t, t[:, None].to(x_t.dtype)], 1))


class Point(nn.Module):
    """Anything with a loss: here the distance of the data from one learned point."""

    def __init__(self):
        super().__init__()
        self.point = nn.Parameter(torch.zeros(2))

    def loss(self, x0, t=None, *, space, noise=None, generator=None, **cond):
        return (x0 - self.point).square().sum(1)


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr)


def dense(x):
    return x, Dense(), {}


def fresh(make=MLP, **options):
    torch.manual_seed(1)
    diffusion = GaussianDiffusion(make(), Cosine(), "v")
    return DiffusionModule(diffusion, dense, **{"lr": 1e-2, "warmup": 5} | options)


def batches(data=DATA, size=16, **options):
    """A loader whose epochs are shuffled, and which can resume within one."""
    sampler = LengthBatchSampler([1] * len(data), size, seed=3)
    return ResumableLoader(data, batch_sampler=sampler, **options)


def train(folder, module=None, loader=None, valid=None, **options):
    """The module after `fit`."""
    module = module or fresh()
    limits = {"save_every": 0.0} | QUIET | options
    fit(module, folder, batches() if loader is None else loader, valid, **limits)
    return module


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def plain(data=DATA, size=16):
    return DataLoader(data, batch_size=size)


class At(Callback):
    """Do something at a hook, as soon as a number of steps is taken."""

    def __init__(self, hook, step, act):
        self.step, self.act, self.over = step, act, False
        setattr(self, hook, self._hook)

    def _hook(self, trainer, *_):
        if trainer.global_step >= self.step and not self.over:
            self.over = True
            self.act()
