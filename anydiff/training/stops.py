"""Where a run may stop: between two steps, with a checkpoint from which it goes on exactly."""

from __future__ import annotations

import signal
import threading
import warnings
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from anydiff.extras import extra
from anydiff.files import whole
from anydiff.training.callbacks import Diverged

with extra("train"):
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.callbacks import ModelCheckpoint
    from pytorch_lightning.plugins.io import TorchCheckpointIO
    from pytorch_lightning.utilities.exceptions import SIGTERMException

__all__ = ["CheckpointFiles", "LastCheckpoint"]


class LastCheckpoint(ModelCheckpoint):
    """Write ``last.ckpt`` every so often, at the end, and when the run stops between two steps.

    Ctrl-C takes effect before the next step, so that the run goes on exactly; pressed twice it takes
    effect at once, and what was written before is kept.

    Arguments:
        folder: The folder of the run.
        seconds: The time between checkpoints.
    """

    _whole = False
    """Whether all that belongs to the last step is done, and nothing of the next one."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(
            folder,
            filename="last",
            train_time_interval=timedelta(seconds=seconds),
            save_on_exception=True,
            enable_version_counter=False,
        )
        self._stepped = self._asked = False

    def _ask(self, *_: Any) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _stop(self) -> None:
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        wanted = trainer.max_epochs
        if wanted is not None and -1 < wanted < checkpoint["epoch"]:
            raise ValueError(
                f"the run has {checkpoint['epoch']} epochs already and epochs is {wanted}; give at least "
                "as many, or another folder."
            )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # at a limit within an epoch the trainer counts it as done, and would skip its other batches
        loops = checkpoint["loops"]["fit_loop"]
        batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
        ready = batches["current"]["ready"]
        if 0 < ready < trainer.num_training_batches and not batches["is_last_batch"]:
            for count in epochs.values():
                for state in "processed", "completed":
                    count[state] = min(count[state], count["ready"] - 1)
            checkpoint["epoch"] = epochs["current"]["completed"]
        elif epochs["current"]["completed"] == epochs["current"]["ready"]:
            batches["current"] = dict.fromkeys(batches["current"], 0)  # the next epoch begins anew

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        for optimizer in trainer.optimizers:  # torch loads the state of whichever
            wanted = optimizer.defaults.keys() - {"differentiable"}  # which it adds itself
            if any(wanted - group.keys() for group in optimizer.param_groups):
                raise ValueError(
                    f"the checkpoint is of another optimizer than {type(optimizer).__name__}; give the "
                    "optimizer and the precision it was made with, or another folder."
                )
        self._whole, self._stepped, self._asked = True, False, False
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._ask)  # the trainer puts back what was before

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.world_size > 1:  # all at the same step
            self._asked = trainer.strategy.reduce_boolean_decision(self._asked, all=False)
        if self._whole:
            self._stop()

    def on_before_optimizer_step(self, *_: Any) -> None:
        self._whole, self._stepped = False, True

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        # gradients that wait for those of further batches are in no checkpoint
        self._whole, self._stepped = self._stepped, False
        if self._whole:
            super().on_train_batch_end(trainer, *args)

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.world_size == 1:
            self._stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_checkpoint(trainer, self.format_checkpoint_name({}))

    def on_fit_end(self, *_: Any) -> None:
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, SIGTERMException):
            exception.code = 128 + signal.SIGTERM
        twice = self._asked and isinstance(exception, KeyboardInterrupt)
        if twice or not self._whole or isinstance(exception, Diverged):
            return
        count: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        put_back = getattr(trainer.train_dataloader, "put_back", None)
        if put_back is not None and count.ready > count.processed:
            put_back()
        try:
            super().on_exception(trainer, pl_module, exception)
        except OSError as error:
            warnings.warn(f"no checkpoint of the last step: {error}", stacklevel=2)


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints that are written completely or not at all, and errors that name the file."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        content = BytesIO()
        torch.save(checkpoint, content)  # into a file it would hide that the disk is full
        with whole(path) as partial, open(partial, "wb") as file:
            file.write(content.getbuffer())

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        try:
            checkpoint = super().load_checkpoint(path, *args, **options)
            missing = {"state_dict", "loops", "optimizer_states"} - checkpoint.keys()
            if Path(path).name == ".temp.ckpt":  # weights that a spawned process hands back
                missing = set()
        except PermissionError:
            raise
        except Exception as error:  # whatever a damaged file leads to
            raise _unreadable(path) from error
        if missing:
            raise _unreadable(path)
        return checkpoint


def _unreadable(path: Any) -> ValueError:
    return ValueError(
        f"{path} is not the checkpoint of a run, or is damaged; put a copy of it back, or move it away "
        "to begin anew."
    )
