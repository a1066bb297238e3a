"""`anydiff sample`, `inpaint`, `edit` and `interpolate`: what a trained model draws, as files.

A model file says what it is of, and so which files are written: molecules as SDF, sketches as ndjson and
SVG, images as one array, each with pictures. What was drawn is written before it is measured; after
Ctrl-C there are the files of what was drawn until then.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from anydiff.cli.drawing import Drawing, how_of, named, ready, sampler_of
from anydiff.cli.drawn import run
from anydiff.cli.options import check_flags
from anydiff.cli.report import NAME as REPORT
from anydiff.cli.runs import beside, fingerprint, kind_of, open_model, positive

__all__ = ["edit", "inpaint", "interpolate", "reconstruct", "sample"]

Keep = Literal["ring", "ends", "heavy", "elements", "graph", "positions"]


def sample(
    model: Path,
    *,
    data: str | None = None,
    formula: str | None = None,
    length: int | None = None,
    text: str | None = None,
    pattern: str | None = None,
    temperature: float | None = None,
    strength: float | None = None,
    part: int | None = None,
    devices: str | None = None,
    num_nodes: int | None = None,
    **drawing: Any,
) -> None:
    """Sample new items from a model.

    Arguments:
        model: Model file, the model.safetensors that training has written; or a name that
            `anydiff models` lists, qm9 for instance.
        data: Data to compare with, by name or path. By default the model's own training data, if they
            have a name; a path in a model file is not opened.
        formula: For a model of molecules: formula of all of them, C7H10O2 for instance; or data, to take
            formulas from the training data, with --target of molecules whose property is near it.
        length: For a model of sketches: number of strokes (or points); by default as in the data.
        text: For a model with texts: what is asked for, fire for instance, or seven carbons, ring of
            five; several texts in turn with semicolons between them.
        pattern: For a model of SMILES: what is known of them, ??c1ccccc1 for instance, where ? is
            any token; the model fills it in.
        temperature: For a model of SMILES: below 1, 0.6 for instance, more of them are molecules, and
            fewer are different.
        strength: With --adapter: how much it changes the model, 0 not at all, 1, the default, as trained.
        part: Write numbered files of so many samples, without pictures and metrics. The same command
            again goes on where it was interrupted.
        devices: With --part: number of GPUs or processes that share the parts out, or which ones; by
            default all GPUs, or one process.
        num_nodes: With --part: number of machines, each of which runs this command, with one folder for
            all; torchrun or SLURM tell them which one they are.
        drawing: See :class:`Drawing`.

    Raises:
        ValueError: If the model is asked for what it does not know.
    """
    asked = Drawing(**drawing)
    positive(length=length, temperature=temperature)
    if data is not None and not asked.measure:
        raise ValueError(
            "--data are compared with, which --measure false leaves out; leave one out."
        )
    if strength is not None and asked.adapter is None:
        raise ValueError(
            "--strength is that of an adapter; give one by --adapter, or leave it out."
        )
    if part is None and (devices is not None or num_nodes is not None):
        raise ValueError(
            "--devices and --num-nodes share parts out; give --part too, 1000 for instance."
        )
    if part is not None and (asked.skip or data is not None):
        name = "--skip" if asked.skip else "--data"
        raise ValueError(f"{name} has no effect with --part; leave it out.")
    if part is not None:
        asked = replace(asked, measure=False)
    known = _open(model, asked, 1.0 if strength is None else strength)
    texts = None if text is None else [part.strip() for part in text.split(";")]
    draw = ready(
        known, asked, length=length, formula=formula, text=texts, pattern=pattern,
        temperature=temperature,
    )  # fmt: skip
    wishes = draw | {"adapter": asked.adapter and asked.adapter.name, "strength": strength}
    repeats = 1 if formula is None else _repeats(known)
    if part is None:
        run(
            "sample", model, known, asked,
            lambda num, how: known.sample(num, **draw, **how),
            data=data, repeats=repeats, wishes=wishes,
        )  # fmt: skip
        return
    from anydiff.cli.numbered import Parts, write_parts
    from anydiff.data.stored import MANIFEST
    from anydiff.files import free_folder

    kind, how = kind_of(known.kind), how_of(known, asked, repeats)
    num, place_of = asked.num or kind.NUM, (devices or "auto", num_nodes or 1, asked.accelerator)
    out = asked.out or beside(model, "sample")
    out = out if (out / MANIFEST).exists() else free_folder(out, kind.DRAWN, REPORT)
    write_parts(
        out, known.kind, known,
        lambda some: known.sample(num, **draw, **how, **some), Parts(num, part, *place_of),
        {
            **wishes, "model": fingerprint(model), "batch_size": asked.batch_size,
            "adapter": asked.adapter and fingerprint(asked.adapter), **named(known, asked, repeats),
        },
    )  # fmt: skip


def inpaint(
    model: Path,
    *,
    data: str | None = None,
    keep: Keep | None = None,
    resamples: int | None = None,
    **drawing: Any,
) -> None:
    """Keep a part of each item and generate the rest.

    Kept are the largest ring system of a molecule or what --keep says, the first half of the strokes of a
    sketch, the left half of an image. before.png shows the original items.

    Arguments:
        model: Model file, the model.safetensors that training has written; or a name that
            `anydiff models` lists, qm9 for instance.
        keep: For a model of molecules: ring, the default; the two ends, to link them; all heavy atoms, to
            add hydrogens; all elements. Of molecules with bonds also the graph of elements and bonds, for
            conformers of it, or the positions of all atoms, to find their bonds.
        data: Original items: a file; or data by name, or what the model was trained on, of which the
            held-out part is used. By default the model's own training data, if they have a name.
        resamples: Repetitions of each step, which fit the generated part to the kept part; 5 by default,
            and none for a model that was trained to complete.
        drawing: See :class:`Drawing`.

    Raises:
        ValueError: If the model is asked for what it does not know, or there is nothing to begin from.
    """
    asked = Drawing(**drawing)
    positive(resamples=resamples)
    known = _open(model, asked)
    check_flags(known.kind, keep=keep)
    if resamples is not None and known.completes:
        raise ValueError(
            f"--resamples is {resamples}, and the model was trained to complete, so that no step is "
            "repeated; leave it out."
        )
    repeats = _repeats(known, resamples)
    draw, kind = ready(known, asked), kind_of(known.kind)
    what = {} if keep is None else {"keep": keep}
    kept = partial(kind.kept, **what)
    before = kind.with_parts(kind.begin(known, data), asked.num or kind.NUM, **what)
    run(
        "inpaint", model, known, asked,
        lambda num, how: known.inpaint(before, kept(before), resamples=repeats, **draw, **how),
        data=_other(known, data), before=before, kept=kept, repeats=repeats,
        wishes=draw | what | {"resamples": resamples},
    )  # fmt: skip


def edit(model: Path, *, strength: float = 0.3, data: str | None = None, **drawing: Any) -> None:
    """Noise items up to a time and denoise them, for variations of them.

    before.png shows the original items.

    Arguments:
        model: Model file, the model.safetensors that training has written; or a name that
            `anydiff models` lists, qm9 for instance.
        strength: Time in (0, 1] up to which the items are noised; 1 keeps nothing of them. A distilled
            model begins at its own times only.
        data: Original items: a file; or data by name, or what the model was trained on, of which the
            held-out part is used. By default the model's own training data, if they have a name.
        drawing: See :class:`Drawing`.

    Raises:
        ValueError: If the model is asked for what it does not know, or there is nothing to begin from.
    """
    from anydiff.kinds import first

    asked = Drawing(**drawing)
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; it is a time, above 0 and at most 1.")
    known = _open(model, asked)
    draw, kind = ready(known, asked, strength=strength), kind_of(known.kind)
    before = first(kind.begin(known, data), asked.num or kind.NUM)
    run(
        "edit", model, known, asked,
        lambda num, how: known.edit(before, strength, **draw, **how),
        data=_other(known, data), before=before, strength=strength,
        wishes=draw | {"strength": strength},
    )  # fmt: skip


def reconstruct(model: Path, *, data: str | None = None, **drawing: Any) -> None:
    """Encode items to latents and decode them: what a latent model can draw at best.

    before.png shows the original items.

    Arguments:
        model: Model file of a latent model, which training with --latent has written.
        data: Original items: a file; or data by name, or what the model was trained on, of which the
            held-out part is used. By default the model's own training data, if they have a name.
        drawing: See :class:`Drawing`.

    Raises:
        ValueError: If the model draws no latents, or there is nothing to begin from.
    """
    from anydiff.kinds import first
    from anydiff.latent import Latent

    asked = Drawing(**drawing)
    known = _open(model, asked)
    if not isinstance(known.diffusion, Latent):
        raise ValueError(
            f"{model} draws data and no latents, so that there is nothing to reconstruct; train a model "
            "with --latent."
        )
    draw, kind = ready(known, asked), kind_of(known.kind)
    before = first(kind.begin(known, data), asked.num or kind.NUM)
    run(
        "reconstruct", model, known, asked,
        lambda num, how: known.edit(before, 0.0, **draw, **how),
        data=_other(known, data), before=before, repeats=0,
        wishes={"steps": None, "sampler": None, "seed": None},
    )  # fmt: skip


def interpolate(
    model: Path,
    *,
    data: str | None = None,
    num: int | None = None,
    steps: int | None = None,
    sampler: Literal["ddim", "dpm"] = "dpm",
    out: Path | None = None,
    measure: bool = True,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
) -> None:
    """Interpolate between pairs of sketches or images, eight items per pair.

    before.png shows the pairs.

    Arguments:
        model: Model file, the model.safetensors that training has written; or a name that
            `anydiff models` lists, kanji for instance.
        data: Original items: a file; or data by name, or what the model was trained on, of which the
            held-out part is used. By default the model's own training data, if they have a name.
        num: Number of samples; by default 360 sketches or 400 images.
        steps: Number of sampling steps in each direction; 100 by default.
        sampler: Sampling method.
        out: Folder for the files; by default next to the model, with the name of the command.
        measure: Compute metrics against held-out data.
        accelerator: Device; auto is a GPU if there is one.

    Raises:
        ValueError: If the model is one of molecules, or there is nothing to begin from.
    """
    asked = Drawing(num=num, steps=steps, out=out, measure=measure, accelerator=accelerator)
    known = open_model(model)
    kind = kind_of(known.kind)
    if not hasattr(known, "interpolate"):
        raise ValueError(
            f"{model} draws {known.kind}, which cannot be interpolated: their atoms have no order, "
            "or are written as tokens; give a model of sketches or images."
        )
    if known.diffusion.times.run is not None:
        raise ValueError(
            f"{model} was distilled, and knows no way from data to noise, which lies between two items; "
            "give its teacher."
        )
    ready(known, asked)
    before = kind.begin_pairs(known, kind.begin(known, data), max((num or kind.NUM) // 8, 1))
    run(
        "interpolate", model, known, asked,
        lambda _, how: known.interpolate(
            before, 8, sampler=sampler_of(sampler), steps=asked.steps or kind.STEPS
        ),
        data=_other(known, data), before=before, num=len(before) // 2 * 8,
        wishes={"sampler": sampler, "seed": None},
    )  # fmt: skip


def _open(path: Path, asked: Drawing, strength: float = 1.0) -> Any:
    """The model in a file, with an adapter in it if there is one."""
    known = open_model(path)
    if asked.adapter is not None:
        from anydiff.lora import load_adapter, merge

        load_adapter(asked.adapter, known.diffusion.denoiser, strength)
        merge(known.diffusion.denoiser)
    return known


def _repeats(known: Any, resamples: int | None = None) -> int:
    """How many times each step is made where a part is known."""
    return 1 if known.completes else resamples or 5


def _other(known: Any, data: str | None) -> str | None:
    """What to compare with where `data` are what is begun from: its own data, if they have a name."""
    return None if known.data in known.names else data
