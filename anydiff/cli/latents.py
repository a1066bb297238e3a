"""The first stage of a latent diffusion on the command line: its autoencoder, and the scale of latents.

The folder of a run gets a folder `autoencoder` with the checkpoint of this stage. It takes a share of the
time, and a resumed run goes on in the stage that it was stopped in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from anydiff.cli.runs import Run
from anydiff.files import whole

__all__ = ["first_stage"]

SHARE = 0.3
"""The share of the time, or of the passes, that trains the autoencoder."""


def first_stage(
    run: Run,
    folder: Path,
    latent: Any,
    beta: float,
    batches: tuple[Any, Any, Any],
    settings: Mapping[str, Any],
    module: Mapping[str, Any],
    trainer: Mapping[str, Any],
) -> Run:
    """Train the autoencoder, and fit the scale of the latents.

    Arguments:
        run: The flags of the run.
        folder: That of the run.
        latent: What is trained; its autoencoder and its scale are changed in place.
        beta: The weight of the autoencoder's KL divergence: enough to keep latents together, and too
            little to blur them.
        batches: The loaders of training and of validation batches, and `unpack`, of data.
        settings: What must be the same when the run goes on, beside the flags of the run.
        module: Options of :class:`~anydiff.training.module.DiffusionModule`.
        trainer: Options of :func:`~anydiff.training.runs.trainer`.

    Returns:
        The run with the time that is left for the second stage.
    """
    import torch

    from anydiff.autoencoders import Autoencoding
    from anydiff.training.module import DiffusionModule
    from anydiff.training.runs import fit

    train, valid, unpack = batches
    objective = Autoencoding(latent.autoencoder, beta)
    epochs = None if run.epochs is None else max(1, round(SHARE * run.epochs))
    stage = replace(run, minutes=SHARE * run.minutes, epochs=epochs)
    where = folder / "autoencoder"
    fit(
        DiffusionModule(objective, unpack, lr=run.lr, seed=run.seed, **module),
        where, train, valid,
        settings={**settings, "batch_size": run.batch_size, "lr": run.lr, "seed": run.seed},
        **stage.trainer(), **trainer, title="autoencoder",
    )  # fmt: skip
    latent.likelihood = objective
    known = where / "standard.json"
    if known.exists():  # the noise of the latents must not make a resumed run another one
        numbers = json.loads(known.read_text())
        for name in ("shift", "scale"):
            getattr(latent.standard, name).copy_(torch.tensor(numbers[name]))
    else:
        print("measuring the latents ...", flush=True)
        latent.fit(train, unpack, torch.Generator().manual_seed(run.seed))
        numbers = {name: getattr(latent.standard, name).tolist() for name in ("shift", "scale")}
        with whole(known) as temporary:
            Path(temporary).write_text(json.dumps(numbers))
    return replace(
        run, minutes=(1 - SHARE) * run.minutes,
        epochs=None if run.epochs is None or epochs is None else max(1, run.epochs - epochs),
    )  # fmt: skip
