"""`anydiff distill`: a student that samples in a few steps, from a trained model of whatever kind.

The training has one stage or several, each in a folder of its own; :func:`recipe` has what they are. At
the end the teacher and its students draw from the same noise, see :mod:`anydiff.cli.comparison`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anydiff.cli.options import check_flags, check_packages
from anydiff.cli.runs import (
    Run,
    beside,
    called,
    fingerprint,
    kind_of,
    open_model,
    place,
    positive,
    run_folder,
    say_files,
    seed_all,
)
from anydiff.diffusion import GaussianDiffusion
from anydiff.distillation import consistent, merged
from anydiff.guidance import classifier_free
from anydiff.kinds import named
from anydiff.latent import Latent
from anydiff.losses import Rows
from anydiff.predictions import Predictor
from anydiff.samplers import DDIM, DPMSolver, LogSNR, Renoise, Sampler, plan
from anydiff.spaces import Space

__all__ = ["GRID", "Even", "Lesson", "distill", "recipe"]

# What the recipe has in numbers -----

FINE = 32, 4
"""A model of all times is learned at this many steps at least, and at so many for each of the student."""
FIRST = 4
"""Fewer steps than these are learned from a student of twice as many."""
CONSISTENT = 8, 4
"""The times of a consistency model, at least, and the steps of its teacher from one to the next."""
GRID = LogSNR(1.0, 8.0, -4.0)
"""Where the times lie: equal steps in the log-SNR, where it is decided what is drawn."""
WORSE = 20.0
"""By how much an error of the network's output may be larger in x0: that of eps is, at pure noise."""
SHARE = 2.0
"""The time of the first stage, which asks its teacher most often; that of each other one is 1."""
SLOWER, WARMUP = 4, 50
"""A student's learning rate is that of training over the first; it rises over the second, in steps."""


def distill(
    model: Path,
    *,
    to: int = 4,
    guidance: float | None = None,
    consistency: bool = False,
    data: str | None = None,
    minutes: float = 10.0,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    num: int | None = None,
    measure: bool = True,
    out: Path | None = None,
    **run: Any,
) -> Path:
    """Distill a model: train a student of it that samples in a few steps.

    The student is a model file like any other. Students of one and two steps learn from one of four and
    two steps, which are kept as well. comparison.png and table.txt show teacher and students.

    Arguments:
        model: Model file of the teacher, the model.safetensors that training has written; or a name that
            `anydiff models` lists, qm9 for instance.
        to: Number of steps of the student.
        guidance: For a teacher with a condition: fold guidance of this scale in; the student has it with
            one call a step.
        consistency: Train a consistency model, which makes an item in one step, and noises it again for
            each further step.
        data: Data to learn from, by name or path: the teacher's training data. By default these, if they
            have a name; a path in a model file is not opened.
        minutes: Training time, of all stages together.
        epochs: Number of passes over the data in each stage, instead of a time.
        batch_size: Batch size; by default that of training.
        lr: Peak learning rate; by default a quarter of that of training.
        num: Number of samples in each row of the table; by default 100 molecules, 360 sketches or 400
            images.
        measure: Compute the table.
        out: Folder for all files; by default distill, next to the teacher. A number is appended if it
            holds a model already.
        run: See :class:`~anydiff.cli.runs.Run`.

    Returns:
        The file of the student.

    Raises:
        ValueError: If the model cannot be distilled in this way, or its data are not there.
    """
    from anydiff.cli.comparison import CALLS, compare
    from anydiff.cli.fitting import compile_network, learn
    from anydiff.distillation import Distillation, student
    from anydiff.files import whole
    from anydiff.training.muon import Muon

    positive(1000, to=to)
    positive(num=num, lr=lr, batch_size=batch_size)
    known = open_model(model)
    if known.kind == "smiles":
        raise ValueError(
            f"{model} draws tokens, and distillation is of paths that are smooth; give a model of "
            "molecules, sketches or images."
        )
    kind = kind_of(known.kind)
    usual = kind.habits(known)
    asked = Run(
        out=out or beside(model, "distill"), minutes=minutes, epochs=epochs,
        batch_size=batch_size or usual["batch_size"], lr=lr or usual["lr"] / SLOWER, **run,
    )  # fmt: skip
    check_flags(known.kind, known, guidance=guidance)
    if guidance is not None and known.kind == "sketches":
        raise ValueError(
            f"--guidance is {guidance:g}, and sketches are compared without texts, so that none is "
            "folded in; leave it out."
        )
    stages = recipe(known.inner, to, guidance, consistency)
    check_packages(known.kind, kind.PACKAGES + (kind.MEASURES if measure else ()))
    check_packages("train", ["matplotlib"])
    folder = run_folder(asked, f"{stages[0].name}/last.ckpt")
    name = data or named(known.data, known.names)
    items = known.read_data(name)
    if len(items) < 10:
        raise ValueError(f"{items.name} holds {len(items)} {known.kind}; give at least 10.")

    batches = kind.batches(known, items, name, asked.batch_size, asked.seed)
    if isinstance(latent := known.diffusion, Latent):
        batches = (*batches[:2], latent.unpack(batches[2]))
    made = {"teacher": called(model), "to": to}
    more = {"guidance": guidance, "consistency": consistency or None}
    made |= {k: v for k, v in more.items() if v is not None}
    digest = fingerprint(model)  # to go on with the same only
    share = sum(stage.share for stage in stages)
    teacher, students, alone = known.inner, {}, True
    seed_all(asked.seed)
    for k, stage in enumerate(stages):
        title = f"stage {k + 1} of {len(stages)}"
        print(f"{title}: {stage}", flush=True)
        pupil = student(teacher, stage.rows).train()
        learned = known.around(stage.drawn(pupil))
        if asked.compile:
            compile_network(pupil.denoiser)
        alone = learn(
            replace(asked, minutes=asked.minutes * stage.share / share),
            folder / stage.name,
            learned,
            Distillation(pupil, stage.target(teacher, pupil, None if k else guidance)),
            batches,
            {**made, "data": name, "teacher": digest},
            {"warmup": WARMUP, "optimizer": Muon},
            {
                "ema": usual["ema"],
                "val_check_interval": 500,
                "limit_val_batches": 10,
                "title": title,
            },
            {**made, "to": stage.steps},
        )
        teacher, students[stage.steps] = learned.inner, learned

    result = folder / "model.safetensors"
    if not alone:  # the first of several processes does the rest
        return result
    for name in (result.name, "curve.png"):
        if (last := folder / stages[-1].name / name).exists():
            with whole(folder / name) as temporary:
                shutil.copyfile(last, temporary)
    if consistency:
        students = {
            steps: known.around(stages[-1].drawn(teacher, steps))
            for steps in sorted({to, *(k for k in CALLS if k < to)}, reverse=True)
        }
    for one in (known, *students.values()):
        one.diffusion.to(place(asked.accelerator))
    try:
        compare(
            folder, known, students, items if measure else None, num, guidance, asked.seed, called(model)
        )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{result} is written, and not yet compared; the same command with --resume does that."
        ) from None
    say_files(folder)
    if len(stages) > 1:
        print("students of more steps:", *(folder / s.name / result.name for s in stages[:-1]))
    print(f"To sample from it: anydiff sample {result}")
    return result


class Even(DPMSolver):
    """DPM-Solver++ on the times of students, which decide every part of an item alike."""

    grid = GRID


@dataclass(frozen=True)
class Lesson:
    """One training: a student of the run of a teacher.

    Arguments:
        times: Of the teacher's run, falling to 0.
        n: How many steps of it are one of the student.
        sampler: The teacher's.
        share: Of the whole training time.
        kept: Of a consistency model, which learns at all of ``times[::n]``: how many it draws at.
    """

    times: tuple[float, ...]
    n: int
    sampler: Sampler
    share: float = 1.0
    kept: int | None = None

    @property
    def rows(self) -> Rows:
        """The times at which the student is trained."""
        return Rows(self.times[:: self.n])

    @property
    def steps(self) -> int:
        """The number of steps that the student is for."""
        return self.kept or (len(self.times) - 1) // self.n

    @property
    def name(self) -> str:
        """Of its folder."""
        return "consistency" if self.kept else f"{self.steps}-steps"

    def __str__(self) -> str:
        if self.kept:
            return f"one answer from all of {len(self.rows.times) - 1} times"
        return f"{len(self.times) - 1} steps as {self.steps}"

    def target(
        self, teacher: GaussianDiffusion, pupil: GaussianDiffusion, guidance: float | None
    ) -> Callable[..., Predictor]:
        """What the student learns, for :class:`anydiff.distillation.Distillation`.

        Arguments:
            teacher: The teacher.
            pupil: The student.
            guidance: Of the teacher.
        """

        rows = self.rows

        def guide(space: Space, cond: dict[str, Any]) -> Predictor:
            asked = teacher.predictor(space, **cond)
            if guidance is not None:
                # a known part is given to both
                free = {name: value for name, value in cond.items() if name == "given"}
                asked = classifier_free(asked, teacher.predictor(space, **free), guidance)
            return merged(asked, self.times, self.n, self.sampler)

        def target(x0: Any, space: Space, **cond: Any) -> Predictor:
            if self.kept is None:
                return guide(space, cond)
            own = pupil.predictor(space, **cond)
            return consistent(guide(space, cond), own, rows.nearer)

        return target

    def drawn(self, pupil: GaussianDiffusion, steps: int | None = None) -> GaussianDiffusion:
        """The student with the run that it draws in; the network is the same.

        Arguments:
            pupil: As it is trained.
            steps: Of a consistency model, how many; None is `kept`.
        """
        rows = self.rows
        if self.kept is not None:
            num, end = steps or self.kept, len(rows.times) - 1
            rows = Rows([rows.times[round(k * end / num)] for k in range(num + 1)], Renoise(1.0))
        return GaussianDiffusion(
            pupil.denoiser, pupil.schedule, pupil.target, pupil.weighting, rows
        )


def recipe(
    teacher: GaussianDiffusion, to: int, guidance: float | None = None, consistency: bool = False
) -> list[Lesson]:
    """The stages from a teacher to a student of so many steps.

    The first learns many steps of a good solver as a few at once, which replaces most of the halvings of
    progressive distillation; the others halve.

    Arguments:
        teacher: The teacher, of all times or itself a student.
        to: The number of steps.
        guidance: Of the teacher, to be folded in.
        consistency: Whether the student is a consistency model.

    Raises:
        ValueError: If the teacher has no such student.

    References:
        Progressive Distillation (Salimans & Ho, 2022). https://arxiv.org/abs/2202.00512
        Consistency Models (Song et al., 2023). https://arxiv.org/abs/2303.01469
    """
    own = teacher.times
    if isinstance(own, Rows):
        return _further(own, to, guidance, consistency)
    if consistency:
        rows, n = max(to, CONSISTENT[0]), CONSISTENT[1]
        p = teacher.predictor()
        consistent(p, p, Rows([1.0, 0.0]).nearer)  # says if the prediction allows it
        return [Lesson(_times(teacher, rows * n), n, DPMSolver(), kept=to)]
    first = to if to >= FIRST or to == 3 else FIRST
    least, each = FINE
    n = max(each, -(-least // first))
    stages = [Lesson(_times(teacher, first * n), n, DPMSolver(), SHARE)]
    return stages + _halved(stages[0].rows, to)


def _times(teacher: GaussianDiffusion, steps: int) -> tuple[float, ...]:
    """The times of the teacher's run, from the first at which its output determines x0 well."""
    t = torch.linspace(1, 0, 1001, dtype=torch.float64)
    at = teacher.schedule.at(t)
    a, b = teacher.target.coefficients(at)
    worse = (at.sigma / (at.alpha * b - at.sigma * a)).abs()  # an error of the output, in x0
    start = float(t[(worse <= WORSE).nonzero()[0]])
    return tuple(at.t for at in plan(teacher.schedule, steps, DPMSolver(), GRID, start))


def _halved(rows: Rows, to: int) -> list[Lesson]:
    """From a student to one of so many steps, by the smallest factor at a time."""
    stages: list[Lesson] = []
    while (steps := len(rows.times) - 1) > to:
        n = next(n for n in range(2, steps + 1) if steps // to % n == 0)
        stages.append(Lesson(tuple(rows.times), n, rows.sampler))
        rows = stages[-1].rows
    return stages


def _further(own: Rows, to: int, guidance: float | None, consistency: bool) -> list[Lesson]:
    """From a model that is itself a student."""
    steps = len(own.times) - 1
    if consistency or guidance is not None or own.sampler != DDIM():
        what = f"{'--consistency' if consistency else '--guidance'} needs a model of all times"
        if own.sampler != DDIM():
            what = f"its steps, of {own.sampler}, add noise, so that they cannot be learned"
        raise ValueError(f"the model was distilled already, and {what}; give its teacher.")
    if to >= steps or steps % to:
        fewer = [str(k) for k in range(1, steps) if steps % k == 0]
        raise ValueError(
            f"to is {to}, and the model was distilled to {steps} step{'s' * (steps > 1)} already; "
            f"give {' or '.join([*fewer, 'its teacher'])}."
        )
    return _halved(own, to)
