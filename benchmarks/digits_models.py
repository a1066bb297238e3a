"""The models that digits.py steers, each kept as a file; they learn from 1,258 of the shipped digits.

- conditional: p(8 × 8 | label), a tenth of the labels dropped; the example's network and settings.
- weak: the same after a fifth of the time, for autoguidance.
- superres: p(8 × 8 | its 2 × 2 means, label), noise on the means, a tenth of both dropped.
- coarse: p(2 × 2 means | label), where a cascade begins.
- classifier: p(label | x_t, t), of noisy digits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import seed_everything
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

import anydiff
from anydiff import Cosine, GaussianDiffusion
from anydiff.denoisers import UNet
from anydiff.denoisers.embeddings import SinusoidalTime
from anydiff.images import Images, load_images, loader, split, unpack
from anydiff.images.batches import ImageBatch
from anydiff.spaces import Dense
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit

__all__ = ["MODELS", "Models", "NoisyClassifier", "coarse", "digits", "trained"]

MODELS = {"conditional": 1.0, "weak": 1 / 5, "superres": 1.0, "coarse": 1 / 6, "classifier": 1 / 3}
"""The share of the minutes that each is trained for."""


@dataclass(frozen=True)
class Models:
    """What one seed gave."""

    conditional: GaussianDiffusion
    weak: GaussianDiffusion
    superres: GaussianDiffusion
    coarse: GaussianDiffusion
    classifier: NoisyClassifier


@cache
def digits() -> tuple[Images, Images]:
    """Those to learn from, and those held out."""
    images = load_images("digits")
    parts = split(images)
    return images.subset(parts.train), images.subset(parts.test)


def coarse(x: Tensor) -> Tensor:
    """The means of 4 × 4 pixels: (B, 1, 8, 8) -> (B, 1, 2, 2)."""
    return F.avg_pool2d(x, 4)


def trained(folder: Path, name: str, minutes: float, seed: int) -> Any:
    """A model from its file, trained for its share of the minutes where there is none."""
    path = folder / f"{name}.safetensors"
    if name == "classifier":
        classifier = NoisyClassifier()
        if not path.exists():
            train_classifier(classifier, minutes * MODELS[name], seed)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(classifier.state_dict(), path)
        classifier.load_state_dict(load_file(path))
        return classifier.eval().requires_grad_(False)
    if not path.exists():
        train(name, folder / name, path, minutes * MODELS[name], seed)
    return anydiff.load(path)[0].eval()


def train(name: str, folder: Path, path: Path, minutes: float, seed: int) -> None:
    """The example's training; what was broken off in the folder goes on."""
    print(f"{name}, seed {seed}: {minutes:.1f} minutes")
    known, _ = digits()
    seed_everything(seed, verbose=False)
    network = UNet(1, (32, 64), classes=10, image=1 if name == "superres" else 0)
    several = name == "superres"
    diffusion = GaussianDiffusion(
        network, Cosine(), "v",
        drop={"label": 0.1, "image": 0.1} if several else 0.1,
        augment={"image": 0.3} if several else None,
    )  # fmt: skip

    def given(batch: ImageBatch) -> tuple[Tensor, Dense, dict[str, Any]]:
        x0, space, cond = unpack(batch)
        if name == "superres":
            cond["image"] = coarse(x0)
        return coarse(x0) if name == "coarse" else x0, space, cond

    module = DiffusionModule(diffusion, given, lr=3e-3, warmup=100, seed=seed, optimizer=Muon)
    run = fit(
        module, folder, loader(known, 64, seed=seed, labels=True),
        settings={"minutes": minutes, "seed": seed}, minutes=minutes, ema=0.998, accelerator="cpu",
        use_distributed_sampler=False,
    )  # fmt: skip
    anydiff.save(path, diffusion, {"steps": run.global_step})


class NoisyClassifier(nn.Module):
    """The label of noisy digits: x_t (B, 1, 8, 8), t (B,) -> logits (B, 10)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.time = nn.Sequential(SinusoidalTime(32), nn.Linear(32, 2 * width), nn.SiLU())
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.GroupNorm(8, width))
        self.second = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.GroupNorm(8, 2 * width), nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(2 * width * 16, 10),
        )  # fmt: skip

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        scale, shift = self.time(t)[..., None, None].chunk(2, 1)
        return self.second(self.first(x_t) * (1 + scale) + shift)

    def log_prob(self, label: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self(x_t, t).log_softmax(1).gather(1, label[:, None])[:, 0]


def train_classifier(classifier: NoisyClassifier, minutes: float, seed: int) -> None:
    torch.manual_seed(seed)
    known, _ = digits()
    schedule, space = Cosine(), Dense()
    optimizer = torch.optim.AdamW(classifier.parameters(), 1e-3, weight_decay=1e-2)
    for batch in timed(loader(known, 64, seed=seed, labels=True), minutes, "classifier"):
        x0, _, cond = unpack(batch)
        t = torch.rand(len(x0))
        alpha, sigma = (space.expand(c, x0) for c in schedule(t))
        loss = -classifier.log_prob(cond["label"], alpha * x0 + sigma * space.noise(x0), t).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def timed(batches: Any, minutes: float, name: str) -> Iterator[Any]:
    """Batches, epoch after epoch, for so many minutes, with a bar."""
    start, total = time.perf_counter(), 60 * minutes
    with tqdm(total=100, desc=name, bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}") as bar:
        while True:
            for batch in batches:
                elapsed = time.perf_counter() - start
                bar.n = min(100.0, round(100 * elapsed / total, 1))
                bar.refresh(nolock=True) if int(bar.n) > bar.last_print_n else None
                bar.last_print_n = int(bar.n)
                if elapsed >= total:
                    return
                yield batch
