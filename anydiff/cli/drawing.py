"""How items are drawn by a command: flags that `sample`, `inpaint`, `edit` and `reconstruct` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anydiff.checks import check_range
from anydiff.cli.numbers import Numbers
from anydiff.cli.runs import positive

__all__ = ["Drawing"]


@dataclass(frozen=True)
class Drawing:
    """How items are drawn, whatever they are.

    Arguments:
        num: Number of samples; by default 100 molecules or SMILES, 360 sketches or 400 images.
        steps: Number of sampling steps; by default 50 for molecules, or 250 where each step is repeated,
            100 for sketches and images, 64 for SMILES, and of a distilled model its own, which are the
            only ones.
        sampler: Sampling method: sde, the default for molecules, is DPM-Solver++ with noise, for which 50
            steps are usually enough; ddpm, the default for all others and where each step is repeated, is
            ancestral and needs the most; ddim and dpm have no noise, and dpm needs the fewest. A
            distilled model has its own, which is the only one.
        guidance: For a model with a condition: 0 is unconditional, 1, the default, conditional, above 1
            stronger.
        label: For a model with labels: sample these in turn, 3,8 for instance; by default all of them.
        target: For a model with a property: its value; by default values as they occur in the data.
        adapter: An adapter of the model, the adapter.safetensors that finetune --rank has written.
        seed: Random seed; each item gets a seed of its own, derived from it.
        skip: Skip the first N items, which an interrupted command has already sampled.
        batch_size: Number of items sampled at once; by default 180 sketches, 100 molecules, 64 images or
            500 SMILES.
        out: Folder for the files; by default next to the model, with the name of the command. A number is
            appended if it holds samples already.
        measure: Compute metrics against held-out data.
        accelerator: Device; auto is a GPU if there is one.

    Raises:
        ValueError: If a number is out of range.
    """

    num: int | None = None
    steps: int | None = None
    sampler: Literal["ddpm", "ddim", "dpm", "sde"] | None = None
    guidance: float | None = None
    label: Numbers | None = None
    target: float | None = None
    adapter: Path | None = None
    seed: int = 0
    skip: int = 0
    batch_size: int | None = None
    out: Path | None = None
    measure: bool = True
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"

    def __post_init__(self) -> None:
        positive(num=self.num, batch_size=self.batch_size)
        positive(1e6, steps=self.steps)
        check_range("[-9e18, 9e18]", seed=self.seed)
        check_range("[0, inf)", skip=self.skip)
        for name in ("guidance", "target"):
            if (value := getattr(self, name)) is not None:
                check_range("(-inf, inf)", **{name: value})
