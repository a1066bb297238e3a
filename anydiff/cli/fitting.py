"""What training does for every kind of data: two stages or one, the files of a run, and its curve."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anydiff.cli.latents import first_stage
from anydiff.cli.options import check_packages
from anydiff.cli.report import write_report
from anydiff.cli.runs import Run, kind_of, say_files
from anydiff.extras import extra

__all__ = ["Batches", "compile_network", "fit_model", "given", "learn", "no_parts", "say_size"]

Batches = tuple[Any, Any, Callable[[Any], Any]]
"""The loader of training batches, that of validation batches, and batch -> (x0, space, cond)."""


def no_parts(latent: int | None, **flags: bool) -> None:
    """Check that nothing is asked of latents that they do not have.

    Arguments:
        latent: The number of their columns, or None.
        flags: By name.

    Raises:
        ValueError: If one is.
    """
    for name, given in flags.items():
        if latent is not None and given:
            raise ValueError(f"--{name} does not apply to latents; leave it or --latent out.")


def given(**flags: Any) -> dict[str, Any]:
    """The flags that ask for something. Others are no settings, since a run may be older than a flag.

    Arguments:
        flags: By name.
    """
    return {name: value for name, value in flags.items() if value}


def compile_network(network: Any) -> None:
    """Compile a network in place, for all sizes of batches at once.

    Arguments:
        network: The network.
    """
    # which lines are not compiled helps nobody who trains
    logging.getLogger("torch._dynamo.variables.tensor").setLevel(logging.ERROR)
    network.compile(dynamic=True)


def say_size(model: Any, learn: int, check: int) -> None:
    """Print how much there is to learn from, and how large the network is.

    Arguments:
        model: A model of a kind.
        learn: Items of the training part.
        check: Items of the validation part.
    """
    with extra("train"):
        from pytorch_lightning.utilities import rank_zero_only

    if getattr(rank_zero_only, "rank", 0):  # one of several processes says it
        return
    parameters = sum(p.numel() for p in model.diffusion.denoiser.parameters())
    print(
        f"{learn:,} {model.kind} for training, {check:,} for validation; {parameters:,} parameters",
        flush=True,
    )


def fit_model(
    run: Run,
    folder: Path,
    model: Any,
    batches: Batches,
    settings: Mapping[str, Any],
    module: Mapping[str, Any],
    trainer: Mapping[str, Any],
    made: Mapping[str, Any] | None = None,
    finish: Callable[[], None] = lambda: None,
    first: bool = True,
) -> Path:
    """Train a model, write it and its curve, and say so.

    Arguments:
        run: The flags of the run.
        folder: Where everything goes.
        model: A model of a kind.
        batches: The loaders of training and of validation batches, and batch -> (x0, space, cond).
        settings: What must be the same when the run goes on, beside the flags of the run.
        module: Options of :class:`~anydiff.training.module.DiffusionModule`.
        trainer: Options of :func:`~anydiff.training.runs.trainer`.
        made: Notes that the file keeps beside the seed and the number of steps.
        finish: Called after the training, before the model is written.
        first: Whether the autoencoder of a latent model is trained first.

    Returns:
        The file of the model.

    Raises:
        ImportError: If a package is not installed.
    """
    result = folder / "model.safetensors"
    from anydiff.latent import Latent

    if isinstance(latent := model.diffusion, Latent):
        if first:
            beta = kind_of(model.kind).habits(model)["beta"]
            run = first_stage(run, folder, latent, beta, batches, settings, module, trainer)
        batches = (*batches[:2], latent.unpack(batches[2]))
    if run.compile:
        compile_network(model.inner.denoiser)
    if learn(run, folder, model, model.inner, batches, settings, module, trainer, made, finish):
        say_files(folder)
        print(f"To sample from it: anydiff sample {result}")
    return result


def learn(
    run: Run,
    folder: Path,
    model: Any,
    objective: Any,
    batches: Batches,
    settings: Mapping[str, Any],
    module: Mapping[str, Any],
    trainer: Mapping[str, Any],
    made: Mapping[str, Any] | None = None,
    finish: Callable[[], None] = lambda: None,
) -> bool:
    """Train an objective, and write a model and the curve.

    Arguments:
        run: As of :func:`fit_model`.
        folder: Likewise.
        model: Likewise; its diffusion is a part of the objective.
        objective: What is trained.
        batches: As of :func:`fit_model`.
        settings: Likewise.
        module: Likewise.
        trainer: Likewise.
        made: Likewise.
        finish: Likewise.

    Returns:
        Whether this process is the one that writes, the first of several.

    Raises:
        ImportError: If a package is not installed.
    """
    from anydiff.training.curve import plot_curve
    from anydiff.training.module import DiffusionModule
    from anydiff.training.runs import fit

    check_packages("train", ["matplotlib"])  # before the training, not after it
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # its import sets it to INFO
    train, valid, unpack = batches
    trained = fit(
        DiffusionModule(objective, unpack, lr=run.lr, seed=run.seed, **module),
        folder, train, valid,
        settings={**settings, "batch_size": run.batch_size, "lr": run.lr, "seed": run.seed},
        **run.trainer(), **trainer,
    )  # fmt: skip
    if not trained.is_global_zero:  # the first of several processes does the rest
        return False
    notes = {"seed": run.seed, "steps": trained.global_step, **(made or {})}
    finish()
    model.save(folder / "model.safetensors", notes)
    try:
        plot_curve(folder, folder / "curve.png")
    except ValueError as error:  # a run of a few steps, or one that diverged
        print(f"no curve.png: {error}")
    about = _about(model, notes, settings)
    write_report(
        folder, model.kind, f"A model of {model.kind}", asked=about, pictures={"Training": "curve.png"}
    )  # fmt: skip
    return True


def _about(model: Any, notes: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a page says of a training: what it learned from and for how long, and what was chosen."""
    inner, size = model.inner, sum(p.numel() for p in model.diffusion.parameters())
    chosen = {
        name: value for name, value in settings.items()
        if name != "data" and value is not None and value is not False
    }  # fmt: skip
    return {
        "data": model.data and Path(model.data).name, "network": type(inner.denoiser).__name__,
        "parameters": f"{size:,}", "schedule": inner.schedule, **chosen, **notes,
    }  # fmt: skip
