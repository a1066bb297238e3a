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
from contextlib import nullcontext
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from anydiff.checks import check_range, differences
from anydiff.data.batches import Position
from anydiff.extras import extra
from anydiff.files import alone, whole
from anydiff.training.callbacks import Averaged, Finite, RunBar
from anydiff.training.memory import keep_freed
from anydiff.training.module import DiffusionModule
from anydiff.training.stops import CheckpointFiles, LastCheckpoint

with extra("train"):
    from pytorch_lightning import Trainer
    from pytorch_lightning.callbacks import Callback
    from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
    from pytorch_lightning.plugins.io import CheckpointIO
    from pytorch_lightning.utilities import exceptions

__all__ = ["Interrupted", "fit", "trainer"]

MISCONFIGURED: type[Exception] = vars(exceptions)["MisconfigurationException"]  # not typed

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
            else "there was no checkpoint yet; run the same again to begin anew."
        )
        self.checkpoint = checkpoint


def trainer(
    folder: str | os.PathLike[str],
    *,
    minutes: float | None = None,
    epochs: int | None = None,
    ema: float = 0.999,
    clip: float | None = 1.0,
    save_every: float = 60.0,
    title: str = "training",
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
        clip: The norm to which gradients are clipped; None for none.
        save_every: The seconds between checkpoints.
        title: What stands before the progress bar.
        callbacks: Additional Lightning callbacks.
        flags: Any argument of Lightning's Trainer: devices, accelerator, precision, strategy, ...

    Raises:
        ValueError: If none of `minutes`, `epochs` and `max_steps` is given, an argument is out of its
            range, or Lightning has no such trainer.
    """
    if minutes is None and epochs is None and "max_steps" not in flags:
        raise ValueError("nothing ends the run; give minutes, epochs or max_steps.")
    if epochs is not None and epochs != int(epochs):
        raise ValueError(f"epochs is {epochs}; give a whole number.")
    check_range("[0, 1)", ema=ema)
    check_range("(0, 1e9]", minutes=1 if minutes is None else minutes)
    check_range("[0, 1e9]", save_every=save_every, clip=clip or 0)
    folder = Path(folder)
    # warnings that do not apply: runs resume in their own folder, and batches are built quickly
    for notice in (
        *("exists and is not empty", "does not have many workers", "is deprecated, use"),
        "smaller than the logging interval",
    ):
        warnings.filterwarnings("ignore", message=f".*{notice}", module="pytorch_lightning")
    loggers: list[Logger] = [CSVLogger(folder, name="logs")]
    if find_spec("tensorboard") or find_spec("tensorboardX"):
        loggers.append(TensorBoardLogger(folder, name="tensorboard"))
    options: dict[str, Any] = {
        "accelerator": "gpu" if torch.cuda.is_available() else "cpu",  # MPS has no float64
        "max_epochs": -1 if epochs is None else int(epochs),
        "max_time": None if minutes is None else timedelta(minutes=minutes),
        "gradient_clip_val": clip,
        "logger": loggers,
        "log_every_n_steps": 20,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    ready: list[Callback] = [Averaged(ema), Finite(), LastCheckpoint(folder, save_every)]
    if flags.get("enable_progress_bar", True):
        ready.append(RunBar(title))
    plugins = flags.pop("plugins", None) or []
    plugins = plugins if isinstance(plugins, list) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, CheckpointFiles()]
    options |= {"callbacks": [*ready, *(callbacks or [])], "plugins": plugins}
    try:
        return Trainer(**(options | flags))
    except (MISCONFIGURED, TypeError) as error:
        names = ("accelerator", "devices", "strategy", "precision", "plugins")
        given = ", ".join(f"{name} {flags[name]}" for name in names if name in flags)
        raise ValueError(f"there is no trainer with {given}: {error}") from error


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

    A resumed run is logged (``logging.getLogger("anydiff.training")``, level INFO). On Linux the process
    keeps memory that it has freed (:func:`~anydiff.training.memory.keep_freed`).

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
        ValueError: If the run to resume has other settings, its files are damaged or of something else,
            another process trains in the folder, the loss or gradients of a step are not finite, there
            are no batches, or as :func:`trainer`.
        Interrupted: After Ctrl-C, once the checkpoint is written. It is a ``KeyboardInterrupt``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # these share out the batches themselves
    own = isinstance(getattr(train, "batch_sampler", train), Position)
    usual: dict[str, Any] = {"use_distributed_sampler": not own}
    if not module.automatic_optimization:  # of several optimisers: it clips for itself
        cast(Any, module).clip = options.get("clip")
        options["clip"] = None
    run = trainer(folder, **usual | options)
    last = folder / "last.ckpt"
    keep_freed()
    handler = signal.getsignal(signal.SIGINT)
    with alone(folder, "trains") if run.is_global_zero else nullcontext():
        if run.is_global_zero:
            for cut in folder.glob(".last.ckpt.*"):  # of a process that was killed while it wrote
                cut.unlink()
            _same_settings(folder, settings or {})
        try:
            resume = last if last.exists() else None
            run.fit(module, train, valid, ckpt_path=resume, weights_only=True)
        except exceptions.SIGTERMException:  # a request to end the process, not only the training
            raise
        except MISCONFIGURED as error:
            raise ValueError(str(error)) from error
        except SystemExit as error:  # Lightning's answer to Ctrl-C, after it has saved
            signal.signal(signal.SIGINT, handler)  # it leaves Ctrl-C without effect
            raise Interrupted(last) from error
    if run.num_training_batches == 0:
        raise ValueError("the loader has no batches; give one with data to learn from.")
    return run


def _same_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down the settings of a new run, or compare them with those of the run in the folder."""
    path, last = folder / "settings.json", folder / "last.ckpt"
    try:
        now = json.loads(json.dumps(dict(settings)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"settings have to be values that JSON can hold: {error}") from error
    if not last.exists():
        with whole(path) as partial:
            Path(partial).write_text(json.dumps(now, indent=1))
        return
    try:
        before = json.loads(path.read_text()) if path.exists() else {}
        other = differences(before, now)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} does not hold the settings of a run ({error}); put a copy of it back, or train in "
            "another folder."
        ) from error
    if other:
        raise ValueError(
            f"{folder} holds a run with other settings: {other}; give the same to go on with it, "
            "or another folder."
        )
    log.info("going on from %s", last)
