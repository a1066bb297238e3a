"""Callbacks of the trainer: averaged weights, checkpoints at any moment, one progress bar."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from anydiff.extras import extra

with extra("train"):
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.callbacks import Callback, ProgressBar, Timer, WeightAveraging

__all__ = ["AtTheEnd", "Averaged", "PutBack", "RunBar", "done"]


def done(trainer: Trainer) -> float:
    """The fraction of a run that is done, by time, epochs or steps, whichever is largest.

    Arguments:
        trainer: The trainer of the run.
    """
    fractions = [0.0]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None:
            elapsed = callback.time_elapsed()
            fractions.append(elapsed / (elapsed + left))
    if isfinite(total := trainer.estimated_stepping_batches):
        fractions.append(trainer.global_step / max(total, 1))
    return max(fractions)


class Averaged(WeightAveraging):
    """Lightning's averaged weights, which are also restored when a validation is interrupted.

    After n steps the decay is at most (1 + n) / (10 + n), so that the average of a short run is not
    dominated by its initial weights.

    Arguments:
        decay: The decay of the exponential moving average per step, in [0, 1).
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
    """Write a checkpoint at the end of the run, before the averaged weights replace the trained ones.

    Arguments:
        path: The file to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)


class PutBack(Callback):
    """Return the batch of an interrupted step to its loader, before the loader's state is saved."""

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
    """One progress bar for the whole run, with the loss, the step and the remaining time."""

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
        # a running mean, since the loss of a single batch is noisy
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
