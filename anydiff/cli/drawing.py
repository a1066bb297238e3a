"""How items are drawn by a command: flags that `sample`, `inpaint`, `edit` and `reconstruct` share, and
what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anydiff.checks import check_range
from anydiff.cli.numbers import Numbers
from anydiff.cli.options import check_flags, check_packages
from anydiff.cli.runs import kind_of, positive

__all__ = ["Drawing", "how_of", "named", "ready", "sampler_of"]


@dataclass(frozen=True)
class Drawing:
    """How items are drawn, whatever they are.

    Arguments:
        num: Number of samples; by default 100 molecules or SMILES, 360 sketches or 400 images.
        steps: Number of sampling steps; by default 50 for molecules, or 250 where each step is repeated,
            100 for sketches and images, and of a distilled model its own, which are the only ones. SMILES
            are uncovered token by token; with a number of steps, several tokens at once.
        sampler: Sampling method: sde, the default for molecules, is DPM-Solver++ with noise, for which 50
            steps are usually enough; ddpm, the default for sketches and images and where each step is
            repeated, is ancestral and needs the most; ddim and dpm have no noise, and dpm needs the
            fewest. A distilled model has its own, which is the only one.
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


def sampler_of(name: str) -> Any:
    """A sampler by its flag.

    Arguments:
        name: Of --sampler.
    """
    from anydiff import DDIM, DDPM, DPMSolver
    from anydiff.cli.distill import Even

    return {"ddpm": DDPM(), "ddim": DDIM(), "dpm": DPMSolver(), "sde": Even(eta=1.0)}[name]


def ready(
    known: Any,
    asked: Drawing,
    length: int | None = None,
    formula: str | None = None,
    text: list[str] | None = None,
    pattern: str | None = None,
    temperature: float | None = None,
    strength: float = 1.0,
) -> dict[str, Any]:
    """Check flags and packages; the flags that only one kind knows, as its methods take them.

    Arguments:
        known: The model.
        asked: The flags that all commands share.
        length: Of `sample`.
        formula: Likewise.
        text: Likewise.
        pattern: Likewise.
        temperature: Likewise.
        strength: The time from which `edit` begins.

    Raises:
        ValueError: If the model is asked for what it does not know.
        ImportError: If a package is missing.
    """
    from anydiff.batched import steps_of

    label = None if asked.label is None else list(asked.label)
    given: dict[str, Any] = {"label": label, "target": asked.target, "length": length}
    given |= {"formula": formula, "text": text, "pattern": pattern, "temperature": temperature}
    check_flags(known.kind, known, guidance=asked.guidance, **given)
    if asked.steps:
        own = steps_of(known.diffusion, asked.steps, strength)
        if own not in (0, asked.steps):  # 0: no time of the model is so low, which is told later
            begun = f" from t = {strength:g} on" if strength < 1 else ""
            raise ValueError(
                f"--steps is {asked.steps}, and the model was distilled for {own} step{'s' * (own > 1)}"
                f"{begun}; leave --steps out, or give its teacher."
            )
    rows = known.diffusion.times
    if asked.sampler and rows.run is not None and sampler_of(asked.sampler) != rows.sampler:
        raise ValueError(
            f"--sampler is {asked.sampler}, and the model was distilled for the steps of "
            f"{type(rows.sampler).__name__}; leave --sampler out, or give its teacher."
        )
    kind = kind_of(known.kind)
    check_packages(known.kind, kind.PACKAGES + (kind.MEASURES if asked.measure else ()))
    return {name: value for name, value in given.items() if value is not None}


def _method(known: Any, asked: Drawing, repeats: int) -> str | None:
    """The sampler by its flag; None is that of the model."""
    own = known.diffusion.times.run is not None
    # repeated steps are of the ancestral kind, and as many as these need
    usual: str | None = None if own or repeats > 1 else kind_of(known.kind).SAMPLER
    return asked.sampler or usual


def how_of(known: Any, asked: Drawing, repeats: int) -> dict[str, Any]:
    """How to sample, as the models' methods take it.

    Arguments:
        known: The model.
        asked: The flags.
        repeats: How many times each step is made.
    """
    kind, method = kind_of(known.kind), _method(known, asked, repeats)
    own = known.diffusion.times.run is not None
    usual = None if own else kind.LONG if repeats > 1 else kind.STEPS
    guidance = 1.0 if asked.guidance is None else asked.guidance
    how: dict[str, Any] = {
        "steps": asked.steps or usual, "guidance": guidance, "seed": asked.seed,
    }  # fmt: skip
    if method not in (None, "ddpm"):
        # the ancestral variance that suits is known better where it is used
        how["sampler"] = kind.sampler(method) if hasattr(kind, "sampler") else sampler_of(method)
    if asked.batch_size:
        how["batch"] = asked.batch_size
    return how


def named(known: Any, asked: Drawing, repeats: int) -> dict[str, Any]:
    """How items are sampled, in words and numbers.

    Arguments:
        known: The model.
        asked: The flags.
        repeats: How many times each step is made.
    """
    own = known.diffusion.times.run is not None
    steps = how_of(known, asked, repeats)["steps"] or (
        "those of the model" if own else "one for each token"
    )
    method = _method(known, asked, repeats)
    return {"steps": steps, "sampler": method, "guidance": asked.guidance, "seed": asked.seed}
