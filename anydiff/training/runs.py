"""Training with Lightning: the loss becomes a module, and a trainer comes ready to use.

This is the only module that imports Lightning. The module draws its noise and times from a generator
seeded by the step, so that a run that was killed and resumed takes the same steps as one that was not.
A run is limited by minutes or by epochs, and the learning rate falls to zero over whichever it is.
"""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib.util import find_spec
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import (
    Callback,
    ModelCheckpoint,
    ProgressBar,
    Timer,
    WeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor
from torch.optim import Optimizer

from anydiff.diffusion import GaussianDiffusion
from anydiff.spaces import Space

__all__ = ["DiffusionModule", "RunBar", "fit", "free_folder", "plot_curve", "trainer"]

Unpack = Callable[[Any], tuple[Tensor, Space, dict[str, Any]]]


class DiffusionModule(LightningModule):
    """A diffusion in training.

    Arguments:
        diffusion: What to train.
        unpack: batch -> (x0, space, cond), from the data module.
        lr: The learning rate at its height.
        warmup: Steps in which it rises from 0.
        decay: Let it fall to zero over the run, along a cosine.
        seed: Where the noise and the times of training come from.
        optimizer: (parameters, lr) -> Optimizer. AdamW without weight decay if None.
    """

    def __init__(
        self,
        diffusion: GaussianDiffusion,
        unpack: Unpack,
        *,
        lr: float = 1e-3,
        warmup: int = 100,
        decay: bool = True,
        seed: int = 0,
        optimizer: Callable[[Any, float], Optimizer] | None = None,
    ) -> None:
        super().__init__()
        self.diffusion = diffusion
        self.unpack = unpack
        self.lr, self.warmup, self.decay, self.seed = lr, warmup, decay, seed
        self.optimizer = optimizer

    def _generator(self, *key: int) -> torch.Generator:
        seed = self.seed
        for k in (*key, self.global_rank):
            seed = (seed * 1_000_003 + k + 1) % 2**63
        return torch.Generator(self.device).manual_seed(seed)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x0, space, cond = self.unpack(batch)
        # the batch too: several may add up to one step
        generator = self._generator(0, self.global_step, batch_idx)
        loss = self.diffusion.loss(x0, space=space, generator=generator, **cond)
        self.log("loss", loss.mean(), batch_size=len(loss))
        return loss.mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        # the same noise in every validation, so that its curve compares like with like
        x0, space, cond = self.unpack(batch)
        loss = self.diffusion.loss(x0, space=space, generator=self._generator(1, batch_idx), **cond)
        self.log("val_loss", loss.mean(), batch_size=len(loss), sync_dist=True)

    def configure_optimizers(self) -> Any:
        make = self.optimizer or (
            lambda p, lr: torch.optim.AdamW(p, lr, betas=(0.9, 0.99), weight_decay=0)
        )
        optimizer = make(self.diffusion.parameters(), self.lr)

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / max(self.warmup, 1))
            if not self.decay:
                return rise
            # at step 0 Lightning has not yet restored the loaders, and must not be asked for them
            over = 0.0 if step == 0 else min(1.0, done(self.trainer))
            return rise * 0.5 * (1 + cos(pi * over))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def done(trainer: Trainer) -> float:
    """The fraction of a run that is over, by time, epochs or steps, whichever is furthest."""
    fractions = [0.0]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None:
            elapsed = callback.time_elapsed()
            fractions.append(elapsed / (elapsed + left))
    if isfinite(total := trainer.estimated_stepping_batches):
        fractions.append(trainer.global_step / max(total, 1))
    return max(fractions)


class Averaged(WeightAveraging):
    """Lightning's averaged weights, put back in their place when validation is interrupted.

    After n steps the decay is at most (1 + n) / (10 + n): a short run doesn't drag its initial weights
    along.
    """

    _swapped = False

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, n: Tensor) -> Tensor:
            share = (9 / (10 + n)).clamp(min=1 - decay)
            return averaged.lerp(current, share.to(averaged.dtype))

        super().__init__(use_buffers=False, avg_fn=average)

    def on_validation_epoch_start(self, *args: Any) -> None:
        super().on_validation_epoch_start(*args)
        self._swapped = True

    def on_validation_epoch_end(self, *args: Any) -> None:
        super().on_validation_epoch_end(*args)
        self._swapped = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: Any) -> None:
        if self._swapped:  # the checkpoint of the interruption is written after this
            self.on_validation_epoch_end(trainer, pl_module)


class AtTheEnd(Callback):
    """A checkpoint of the end of the run. It comes before the averaged weights replace the others."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)


class PutBack(Callback):
    """Gives the batch of a step that was broken off back to its loader, before that is saved."""

    _step: int | None = None

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, *_: Any) -> None:
        self._step = None

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        put_back = getattr(trainer.train_dataloader, "put_back", None)
        if put_back is not None and self._step == trainer.global_step:
            put_back()


class RunBar(ProgressBar):
    """One progress bar for the whole run, with the loss, the step and the time that is left."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._loss: float | None = None
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(
            total=100,
            desc="training",
            disable=not self._enabled,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % 20 or self._bar is None:  # reading the loss waits for the device
            return
        loss = float(trainer.callback_metrics["loss"])
        # a running mean: single batches say little
        self._loss = loss if self._loss is None else 0.9 * self._loss + 0.1 * loss
        self._bar.n = round(100 * min(1.0, done(trainer)), 1)
        self._bar.set_postfix_str(
            f"loss {self._loss:.3f}, step {trainer.global_step}, epoch {trainer.current_epoch + 1}"
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._bar.n = 100
            self._bar.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def trainer(
    folder: str | os.PathLike[str],
    *,
    minutes: float | None = None,
    epochs: int | None = None,
    ema: float = 0.999,
    clip: float = 1.0,
    save_every: float = 60.0,
    callbacks: list[Callback] | None = None,
    **flags: Any,
) -> Trainer:
    """A trainer with averaged weights, gradient clipping, checkpoints, logs and a progress bar.

    Checkpoints go to ``folder/last.ckpt``, every `save_every` seconds, at the end, and when the run is
    interrupted; ``trainer.fit(..., ckpt_path=..., weights_only=True)`` goes on from there. After `fit`
    the diffusion holds the averaged weights. Logs go to ``folder/logs``, as CSV and, where TensorBoard
    is installed, for that.

    Arguments:
        minutes: Train for so long. The learning rate falls over this time.
        epochs: Train for so many passes over the data.
        ema: The decay of the averaged weights, per step; less at first, (1 + n) / (10 + n) after n steps.
        clip: The largest norm of a gradient.
        flags: Any flag of Lightning's Trainer: devices, accelerator, precision, strategy, ...
    """
    if minutes is None and epochs is None and "max_steps" not in flags:
        raise ValueError("nothing ends the run; give minutes, epochs or max_steps.")
    folder = Path(folder)
    # notices that mean nothing here: runs go on in their own folder, and batches are made at once
    for notice in ("exists and is not empty", "does not have many workers", "is deprecated, use"):
        warnings.filterwarnings("ignore", message=f".*{notice}", module="pytorch_lightning")
    loggers: list[Logger] = [CSVLogger(folder, name="logs")]
    if find_spec("tensorboard") or find_spec("tensorboardX"):
        loggers.append(TensorBoardLogger(folder, name="tensorboard"))
    checkpoint = ModelCheckpoint(
        folder,
        filename="last",
        train_time_interval=timedelta(seconds=save_every),
        save_on_exception=True,
        enable_version_counter=False,
    )
    options: dict[str, Any] = {
        "max_epochs": -1 if epochs is None else epochs,
        "max_time": None if minutes is None else timedelta(minutes=minutes),
        "gradient_clip_val": clip,
        "logger": loggers,
        "log_every_n_steps": 20,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    ready: list[Callback] = [AtTheEnd(folder / "last.ckpt"), Averaged(ema)]
    ready += [PutBack(), checkpoint]
    if flags.get("enable_progress_bar", True):
        ready.append(RunBar())
    return Trainer(callbacks=[*ready, *(callbacks or [])], **(options | flags))


def free_folder(folder: str | os.PathLike[str], *markers: str) -> Path:
    """The folder itself, or, where a run has left one of its `markers`, the next number after it."""
    wanted = folder = Path(folder)
    number = 1
    while any((folder / marker).exists() for marker in markers):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def fit(
    module: DiffusionModule,
    folder: str | os.PathLike[str],
    train: Any,
    valid: Any = None,
    *,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Trainer:
    """Train in a folder, going on from ``folder/last.ckpt`` where a run was broken off there.

    Arguments:
        train, valid: Loaders. One with `state_dict` and `load_state_dict` is resumed amid an epoch,
            and one with `put_back` also amid a step.
        settings: What must be the same when the run goes on, kept as ``folder/settings.json``.
        options: For :func:`trainer`.

    Raises:
        ValueError: If the run that was broken off had other settings.
        SystemExit: After Ctrl-C, once the checkpoint is written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    last, kept = folder / "last.ckpt", folder / "settings.json"
    now = json.loads(json.dumps(dict(settings or {})))
    if last.exists():
        before = json.loads(kept.read_text()) if kept.exists() else {}
        if other := [k for k in now | before if now.get(k) != before.get(k)]:
            differs = ", ".join(f"{k} {before.get(k)} there and {now.get(k)} here" for k in other)
            raise ValueError(
                f"{folder} holds a run with other settings: {differs}; give the same to go on with it, "
                "or another folder."
            )
        print(f"going on from {last}")
    kept.write_text(json.dumps(now, indent=1))

    run = trainer(folder, **options)
    resume = last if last.exists() else None
    try:
        run.fit(module, train, valid, ckpt_path=resume, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C, after it has saved
        print(f"Stopped. {last} is kept, and the same command goes on from there.")
        raise
    return run


def plot_curve(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Draw the losses that a run logged under ``folder/logs``, over all its resumptions, to a picture."""
    from matplotlib.figure import Figure

    points: dict[str, dict[int, float]] = {"loss": {}, "val_loss": {}}
    logs = sorted(Path(folder).glob("logs/version_*/metrics.csv"), key=lambda p: p.stat().st_mtime)
    for log in logs:
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, curve in points.items():
                    if row.get(name):
                        curve[int(row["step"])] = float(row[name])
    if not points["loss"]:
        raise ValueError(f"{folder} has no losses in logs/version_*/metrics.csv; train first.")

    steps, losses = zip(*sorted(points["loss"].items()), strict=True)
    window = max(1, len(losses) // 50)
    smooth = [
        sum(part) / len(part)
        for k in range(len(losses))
        if (part := losses[max(0, k - window) : k + 1])
    ]

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#9ecae1", linewidth=0.8, label="single batches")
    axes.plot(steps, smooth, color="#08519c", label="running mean")
    if points["val_loss"]:
        axes.plot(*zip(*sorted(points["val_loss"].items()), strict=True), "o-", color="#d94801",
                  markersize=3, label="validation, averaged weights")  # fmt: skip
    axes.set_ylim(0, 1.25 * max(smooth[len(smooth) // 20 :]))
    axes.set(xlabel="training step", ylabel="loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=160)
