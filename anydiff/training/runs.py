"""Training runs: a configured trainer, and training that resumes where it stopped.

A run is limited by minutes, epochs or steps. Its checkpoint, its logs and its settings are kept in one
folder.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import warnings
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from anydiff.extras import extra
from anydiff.training.callbacks import AtTheEnd, Averaged, PutBack, RunBar
from anydiff.training.module import DiffusionModule

with extra("train"):
    from pytorch_lightning import Trainer
    from pytorch_lightning.callbacks import Callback, ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
    from pytorch_lightning.utilities.exceptions import SIGTERMException

__all__ = ["Interrupted", "fit", "trainer"]

log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C, after its checkpoint was written.

    Arguments:
        checkpoint: The file from which :func:`fit` resumes.
    """

    def __init__(self, checkpoint: Path) -> None:
        kept = checkpoint.exists()
        super().__init__(
            f"{checkpoint} is kept; run the same again to go on from it."
            if kept
            else "nothing was learned yet."
        )
        self.checkpoint = checkpoint


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

    Checkpoints are written to ``folder/last.ckpt`` every `save_every` seconds, at the end, and when the
    run is interrupted; ``trainer.fit(..., ckpt_path=..., weights_only=True)`` resumes from there. After
    `fit` the diffusion holds the averaged weights. Logs are written to ``folder/logs`` as CSV and, if
    TensorBoard is installed, to ``folder/tensorboard``.

    Arguments:
        folder: The folder of checkpoints and logs.
        minutes: The duration of training. The learning rate falls over this time.
        epochs: The number of passes over the data.
        ema: The decay of the averaged weights per step; at most (1 + n) / (10 + n) after n steps.
        clip: The norm to which gradients are clipped.
        save_every: The seconds between checkpoints.
        callbacks: Additional Lightning callbacks.
        flags: Any argument of Lightning's Trainer: devices, accelerator, precision, strategy, ...

    Raises:
        ValueError: If none of `minutes`, `epochs` and `max_steps` is given.
    """
    if minutes is None and epochs is None and "max_steps" not in flags:
        raise ValueError("nothing ends the run; give minutes, epochs or max_steps.")
    folder = Path(folder)
    # warnings that do not apply: runs resume in their own folder, and batches are built quickly
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
        "accelerator": "gpu" if torch.cuda.is_available() else "cpu",  # MPS has no float64
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


def fit(
    module: DiffusionModule,
    folder: str | os.PathLike[str],
    train: Any,
    valid: Any = None,
    *,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Trainer:
    """Train in a folder; if it has a checkpoint ``folder/last.ckpt``, resume from there.

    A resumed run is logged (``logging.getLogger("anydiff.training")``, level INFO).

    Arguments:
        module: The module to train.
        folder: The folder of checkpoints, logs and settings.
        train: The loader of training batches. One with `state_dict` and `load_state_dict` can be resumed
            within an epoch, one with `put_back` also within a step.
        valid: The loader of validation batches; None skips validation.
        settings: Values that must not change when the run is resumed, saved as
            ``folder/settings.json``.
        options: Options of :func:`trainer`.

    Returns:
        The trainer, after training.

    Raises:
        ValueError: If the run to resume has other settings, or as :func:`trainer`.
        Interrupted: After Ctrl-C, once the checkpoint is written. It is a ``KeyboardInterrupt``.
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
        log.info("going on from %s", last)
    kept.write_text(json.dumps(now, indent=1))

    run = trainer(folder, **options)
    resume = last if last.exists() else None
    handler = signal.getsignal(signal.SIGINT)
    try:
        run.fit(module, train, valid, ckpt_path=resume, weights_only=True)
    except SIGTERMException:  # a request to end the process, not only the training
        raise
    except SystemExit as error:  # Lightning's answer to Ctrl-C, after it has saved
        signal.signal(signal.SIGINT, handler)  # it leaves Ctrl-C without effect
        raise Interrupted(last) from error
    return run
