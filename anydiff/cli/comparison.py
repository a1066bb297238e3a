"""A teacher beside its students: what they draw from the same noise, in a picture and a table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydiff.batched import calls, steps_of
from anydiff.cli.report import write_report
from anydiff.cli.runs import kind_of, printable
from anydiff.files import whole
from anydiff.kinds import first
from anydiff.metrics.tables import aligned
from anydiff.samplers import DDPM, DPMSolver, Sampler

__all__ = ["CALLS", "compare"]

CALLS = 8, 4, 2, 1
"""The numbers of steps that are compared."""


@dataclass(frozen=True)
class Compared:
    """One row: a model with a run.

    Arguments:
        who: "teacher" or "student".
        model: The model of a kind.
        sampler: Its sampler.
        steps: The number of its steps.
        guidance: The scale of guidance.
    """

    who: str
    model: Any
    sampler: Sampler
    steps: int
    guidance: float = 1.0

    def __str__(self) -> str:
        return f"{self.who}, {self.steps} step{'s' * (self.steps > 1)}"

    @property
    def calls(self) -> int:
        """Network calls for an item."""
        return calls(self.steps, self.guidance, self.model.conditional)

    def draw(self, num: int, seed: int) -> tuple[Any, float]:
        """So many items, None if none is finite, and the seconds for one of them.

        Arguments:
            num: How many.
            seed: From which the noise of each follows.
        """
        how: dict[str, Any] = {"sampler": self.sampler, "steps": self.steps, "seed": seed}
        start = time.perf_counter()
        try:
            drawn = self.model.sample(num, guidance=self.guidance, progress=True, **how)
        except ValueError as error:  # as of a sampler with too few steps
            print(f"{self}: {printable(str(error))}", flush=True)
            return None, 0.0
        return drawn, (time.perf_counter() - start) / num


def compare(
    folder: Path,
    teacher: Any,
    students: Mapping[int, Any],
    items: Any,
    num: int | None,
    guidance: float | None,
    seed: int,
    name: str,
) -> None:
    """Draw from a teacher and its students, and write comparison.png, table.txt and report.html.

    Arguments:
        folder: Where to.
        teacher: A model of a kind.
        students: Others by the number of their steps.
        items: All parts of the data to compare with; None makes no table.
        num: How many samples of each.
        guidance: Of the teacher.
        seed: Of the noise, which is the same for all.
        name: What the teacher is called.
    """
    kind = kind_of(teacher.kind)
    scale = 1.0 if guidance is None else guidance
    runs = [Compared("teacher", teacher, DPMSolver(), k, scale) for k in (kind.LONG, *CALLS)]
    if items is not None:  # its own draws are others, which no picture compares
        runs.insert(0, Compared("teacher", teacher, DDPM(), kind.LONG, scale))
    if (rows := teacher.diffusion.times).run is not None:
        runs = [Compared("teacher", teacher, rows.sampler, steps_of(teacher.diffusion, 0))]
    runs += [Compared("student", s, s.diffusion.times.sampler, k) for k, s in students.items()]
    num = (num or kind.NUM) if items is not None else kind.SHOWN
    print(
        f"sampling {num:,} {teacher.kind} from teacher and students, {len(runs)} times", flush=True
    )

    judge, what = None, ""
    cells = [["", "steps", "calls", *(c.title for c in kind.FIGURES), "ms"]]
    try:
        if items is not None:
            real, judge, what = kind.judge(items)
            report = judge(first(real, num), 0)
            cells.append(["real", "–", "–", *(c.cell(report) for c in kind.FIGURES), "–"])
    except ValueError as error:  # as of too few data to compare with
        print(f"no table: {printable(str(error))}", flush=True)
        judge = None
    shown = {}
    for run in runs:
        drawn, seconds = run.draw(num, seed)
        figures = ["–"] * len(kind.FIGURES)
        if drawn is not None:
            if not isinstance(run.sampler, DDPM):
                shown[str(run)] = first(drawn, kind.SHOWN)
            if judge is not None:
                report = judge(drawn, num - len(drawn))
                figures = [c.cell(report) for c in kind.FIGURES]
        who = f"{run.who}, {type(run.sampler).__name__}"
        cells.append([who, str(run.steps), str(run.calls), *figures, f"{1000 * seconds:.3g}"])
    if shown:
        kind.draw_runs(folder / "comparison.png", shown)
    text = ""
    if judge is not None:
        text = _table(cells, num, teacher.kind, what, guidance)
        print("", text, "", sep="\n")
        with whole(folder / "table.txt") as temporary:
            Path(temporary).write_text(text + "\n", encoding="utf-8")
    write_report(
        folder, teacher.kind, f"Few steps: {teacher.kind}", table=text,
        pictures={"From the same noise": "comparison.png", "Training": "curve.png"},
        asked={"teacher": name, "steps": [*students], "guidance": guidance, "seed": seed},
    )  # fmt: skip


def _table(cells: list[list[str]], num: int, kind: str, what: str, guidance: float | None) -> str:
    """The figures of all runs, without columns that have none, and what they are of."""
    guided = f"The teacher is guided by {guidance:g}. " if guidance is not None else ""
    caption = (
        f"{num:,} {kind} in each row, from the same noise. {guided}Calls of the network and\n"
        f"milliseconds are for one of them. {what};\n↓ lower is better, ↑ higher."
    )
    rows = zip(*(c for c in zip(*cells, strict=True) if set(c[2:]) != {"–"}), strict=True)
    return f"{aligned([*rows])}\n\n{caption}"
