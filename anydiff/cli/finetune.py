"""`anydiff finetune`: go on training a model, on the data it knows or on others of its kind.

All weights learn, or adapters of low rank alone (:mod:`anydiff.lora`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anydiff.cli.fitting import fit_model
from anydiff.cli.options import check_packages
from anydiff.cli.runs import (
    Run,
    beside,
    called,
    fingerprint,
    kind_of,
    open_model,
    positive,
    run_folder,
    seed_all,
)
from anydiff.kinds import named

__all__ = ["finetune"]

SLOWER, FASTER, WARMUP = 4, 12, 100
"""The learning rate is that of training over the first, and of adapters, which begin at nothing, times
the second; it rises over the third, in steps."""


def finetune(
    model: Path,
    *,
    data: str | None = None,
    minutes: float = 5.0,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    rank: int | None = None,
    out: Path | None = None,
    **run: Any,
) -> Path:
    """Go on training a model, on other data of its kind or longer on its own.

    All weights learn, or with --rank an adapter of low rank (LoRA) for each matrix. The new model is a
    file of its own, and draws sizes as the new data have them; an adapter is written beside it.

    Arguments:
        model: Model file, the model.safetensors that training has written; or a name that
            `anydiff models` lists, qm9 for instance.
        data: Data to learn from, by name or path. By default the model's own training data, if they
            have a name; a path in a model file is not opened.
        minutes: Training time.
        epochs: Number of passes over the data, instead of a time.
        batch_size: Batch size; by default that of training.
        lr: Peak learning rate; by default a quarter of that of training, and twelve times as much as that
            with --rank.
        rank: Rank of the adapters, 4 for instance, which take a twentieth of the model's size on the
            disk: anydiff sample MODEL --adapter FILE.
        out: Folder for all files; by default finetune, next to the model. A number is appended if it
            holds a model already.
        run: See :class:`~anydiff.cli.runs.Run`.

    Returns:
        The file of the new model.

    Raises:
        ValueError: If the model cannot learn from the data, was distilled, or its data are not there.
    """
    from anydiff.lora import adapt, merge, save_adapter
    from anydiff.training.muon import Muon

    positive(lr=lr, batch_size=batch_size, rank=rank)
    known = open_model(model)
    if known.diffusion.times.run is not None:
        raise ValueError(
            f"{model} was distilled, and knows its own times only; finetune its teacher, and distill "
            "that."
        )
    kind = kind_of(known.kind)
    usual = kind.habits(known)
    asked = Run(
        out=out or beside(model, "finetune"), minutes=minutes, epochs=epochs,
        batch_size=batch_size or usual["batch_size"],
        lr=lr or (FASTER * usual["lr"] if rank else usual["lr"] / SLOWER), **run,
    )  # fmt: skip
    check_packages(known.kind, kind.PACKAGES)
    folder = run_folder(asked)
    name = data or named(known.data, known.names)
    items = known.read_data(name)
    if len(items) < 10:
        raise ValueError(f"{items.name} holds {len(items)} {known.kind}; give at least 10.")
    batches = kind.batches(known, items, name, asked.batch_size, asked.seed)
    learned = known.of(items, name)
    learned.inner.train()
    network = learned.inner.denoiser
    seed_all(asked.seed)
    if rank:
        weights = adapt(network, rank)
        number = sum(p.numel() for p in network.parameters() if p.requires_grad)
        print(f"{len(weights)} matrices get adapters of rank {rank}, {number:,} parameters")

    def finish() -> None:
        if rank:
            save_adapter(folder / "adapter.safetensors", network)
            merge(network)

    print(f"going on from {model}, with {len(items):,} {known.kind}", flush=True)
    made = {"finetuned": called(model)}
    digest = fingerprint(model)  # to go on with the same only
    more = {"rank": rank} if rank else {}
    return fit_model(
        asked, folder, learned, batches, {**made, **more, "data": name, "finetuned": digest},
        {"warmup": WARMUP, "optimizer": Muon},
        {"ema": usual["ema"], "val_check_interval": 500, "limit_val_batches": 20},
        {**made, **more}, finish, first=False,
    )  # fmt: skip
