"""Callbacks of the trainer: averaged weights, an end to diverged runs, one progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import get_total_norm

from anydiff.extras import extra

with extra("train"):
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.callbacks import Callback, ProgressBar, Timer, WeightAveraging
    from pytorch_lightning.trainer.states import TrainerFn

__all__ = ["Averaged", "Diverged", "Finite", "RunBar", "done"]


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
    if trainer.max_steps > 0:
        fractions.append(trainer.global_step / trainer.max_steps)
    if isfinite(total := trainer.estimated_stepping_batches):
        # of batches, and each of several optimisers makes a step of global_step
        several = max(len(trainer.optimizers), 1)
        fractions.append(trainer.global_step / several / max(total, 1))
    return max(fractions)


def _average(averaged: Tensor, current: Tensor, n: Tensor, decay: float) -> Tensor:
    share = (9 / (10 + n)).clamp(min=1 - decay)
    return averaged.lerp(current.to(averaged.dtype), share.to(averaged.dtype))


class Averaged(WeightAveraging):
    """Lightning's averaged weights, in float32 at least, which the module holds after every `fit`.

    After n steps the decay is at most (1 + n) / (10 + n), so that the average of a short run is not
    dominated by its initial weights. In half precision an average would stand still, since its steps are
    smaller than the distance of two numbers.

    A `fit` that finds nothing left to do takes no step, but leaves the averaged weights as well.

    Arguments:
        decay: The decay of the exponential moving average per step, in [0, 1).
    """

    _trained: dict[Tensor, Tensor] | None = None
    """The trained values of the parameters, while the averages are in their places."""

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, avg_fn=partial(_average, decay=decay))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.precision == "64-true":
            pl_module.double()  # the trainer does so too, but rounds what it has loaded before
        super().setup(trainer, pl_module, stage)
        self._trained = None
        if stage == "fit":
            for average in self._averages():
                average.data = average.data.to(torch.promote_types(average.dtype, torch.float32))

    def _averages(self) -> Iterator[Parameter]:
        assert self._average_model is not None
        return self._average_model.module.parameters()

    def _put(self, pl_module: LightningModule) -> None:
        self._trained = {p: p.detach().clone() for p in pl_module.parameters()}
        for p, average in zip(pl_module.parameters(), self._averages(), strict=True):
            p.data.copy_(average)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._put(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and self._trained is not None:
            for p, trained in self._trained.items():
                p.data.copy_(trained)
            self._trained = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: a run that was finished before comes to `on_fit_end` only."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._put(pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._trained is not None:  # within a validation, or after the end
            names = pl_module.named_parameters(remove_duplicate=False)
            trained = {name: self._trained[p] for name, p in names}
            checkpoint["current_model_state"] = checkpoint["current_model_state"] | trained


class Diverged(ValueError):
    """The gradients of a training step are not finite."""


class Finite(Callback):
    """End a run at the first step whose loss or gradients are not finite, before they are applied.

    On a CPU the step raises. Another device would have to be waited for in every step; there, the
    gradients of that step and of those after it are zero, until the host reads the device: every
    `log_every_n_steps`, and before a checkpoint is written.
    """

    at_once: ClassVar[set[str]] = {"cpu"}
    """Devices for which the host need not wait."""

    _loss: Tensor

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = torch.tensor(-1, device=pl_module.device)  # the first step that is not finite
        self._its_loss = torch.tensor(0.0, device=pl_module.device)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        size = self._loss.float()
        if getattr(trainer.precision_plugin, "scaler", None) is None:  # it skips such steps itself
            size = size + get_total_norm(grads)
        if pl_module.device.type in self.at_once:
            if not isfinite(float(size)):
                raise _diverged(trainer.global_step, self._loss)
            return
        first = ~size.isfinite() & (self._step < 0)
        self._step = torch.where(first, trainer.global_step, self._step)
        self._its_loss = torch.where(first, self._loss.float(), self._its_loss)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._read()
        for grad in grads:
            grad.masked_fill_(self._step >= 0, 0)

    def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
        self._read()

    def _read(self) -> None:
        if (step := int(self._step)) >= 0:
            raise _diverged(step, self._its_loss)


def _diverged(step: int, loss: Tensor) -> Diverged:
    return Diverged(
        f"the training diverged: the loss of step {step} is {float(loss):g} and its gradients are not "
        "finite; nothing of it was kept. Check the data, or train with a smaller learning rate."
    )


class RunBar(ProgressBar):
    """One progress bar for the whole run, with the loss, the step and the remaining time.

    Arguments:
        title: What stands before the bar.
    """

    def __init__(self, title: str = "training") -> None:
        super().__init__()
        self.title = title
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
            desc=self.title,
            disable=not self._enabled,
            initial=round(100 * min(1.0, done(trainer)), 1),  # of a run that goes on
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
