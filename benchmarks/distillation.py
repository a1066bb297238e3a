"""Few steps: teachers and their students, at equal numbers of network calls, on all kinds of data.

Trains a teacher for each seed (`anydiff train`), distils it (`anydiff distill`), and draws from both.
All trainings are limited by passes over the data, not by time, so that what else runs does not change the
figures. What is in the folder already is kept, so that the command goes on where it stopped.

    python benchmarks/distillation.py                              # all, for hours
    python benchmarks/distillation.py --only digits --seeds 0       # one system, one seed
    python benchmarks/distillation.py --qm9 qm9.npz --picture docs/pictures/few_steps.png
    python benchmarks/distillation.py --seeds 1 2 --brief           # without the curves of the teachers
    python benchmarks/distillation.py --time                       # milliseconds, on an idle machine
    python benchmarks/distillation.py --short --out runs/short     # to see that it runs

Fréchet distances are those of `anydiff evaluate`. Students are distilled from DPM-Solver++, and drawn
from in their own run.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch

from anydiff import DDIM, DDPM, DPMSolver, GaussianDiffusion, Renoise, Sampler
from anydiff.cli import train
from anydiff.cli.distill import Even, distill, recipe
from anydiff.cli.runs import kind_of, open_model
from anydiff.distillation import merged
from anydiff.files import whole
from anydiff.losses import Rows
from anydiff.metrics.tables import aligned
from anydiff.predictions import Predictor
from anydiff.samplers import LogSNR
from anydiff.spaces import DENSE, Space

CALLS = (1, 2, 4, 8, 16, 24, 50)

SAMPLERS = {"DPMSolver": DPMSolver(), "DDIM": DDIM(), "DDPM": DDPM(), "SDE": Even(eta=1.0)}

Figures = dict[str, float]


@dataclass(frozen=True)
class System:
    """A teacher and its students.

    Arguments:
        title: In the tables.
        train: Of the teacher: (epochs, seed, out, **options).
        options: Of the teacher's training.
        epochs: Of the teacher.
        students: By name the flags of `anydiff distill`.
        num: How many items are drawn for each figure.
        most: The steps of ancestral sampling that the teacher is usually drawn with.
        guidance: Of the teacher.
        batch: How many items are drawn at once.
    """

    title: str
    train: Callable[..., Any]
    options: Mapping[str, Any]
    epochs: int
    students: Mapping[str, Mapping[str, Any]]
    num: int
    most: int = 100
    guidance: float = 1.0
    batch: int = 180


SYSTEMS = {
    "digits": System(
        "digits", train.images, {"data": "digits"}, 100,
        {
            "consistency": {"to": 8, "consistency": True, "epochs": 50},
            "distilled": {"to": 1, "epochs": 50},
        },
        1258,
    ),
    "classes": System(
        "digits, guidance 2", train.images, {"data": "digits", "classes": True}, 100,
        {"distilled": {"to": 4, "guidance": 2.0, "epochs": 30}},
        1258, guidance=2.0,
    ),
    "kanji": System(
        "kanji", train.sketches, {}, 70,
        {
            "consistency": {"to": 8, "consistency": True, "epochs": 60},
            "distilled": {"to": 1, "epochs": 30},
        },
        720,
    ),
    "qm9": System(
        "QM9", train.molecules, {"data": "full"}, 3,
        {
            "consistency": {"to": 8, "consistency": True, "epochs": 3},
            "distilled": {"to": 4, "epochs": 1},
        },
        500, 250, batch=100,
    ),
}  # fmt: skip


class Bench:
    """A system with a seed: its files, and the figures that are known already."""

    def __init__(self, args: argparse.Namespace, name: str, seed: int) -> None:
        self.args, self.system, self.seed = args, SYSTEMS[name], seed
        self.folder = args.out / f"{name}-{seed}"
        self.teacher = self.folder / "model.safetensors"
        self.file = self.folder / "figures.json"
        self.figures: dict[str, Figures] = (
            json.loads(self.file.read_text()) if self.file.exists() else {}
        )
        options = dict(self.system.options)
        self.data = options.get("data")
        if name == "qm9" and args.qm9:
            options["data"] = self.data = str(args.qm9)
        self.options = options

    def train(self) -> None:
        """The teacher and its students, as far as they are not there."""
        epochs = {"epochs": 1} if self.args.short else {}
        if not self.teacher.exists():
            self.system.train(
                **self.options, **{"epochs": self.system.epochs} | epochs, seed=self.seed,
                out=self.folder, resume=(self.folder / "last.ckpt").exists(),
            )  # fmt: skip
        for name, flags in self.system.students.items():
            out = self.folder / name
            if name not in self.args.students:
                continue
            if not (out / "model.safetensors").exists():
                distill(
                    self.teacher, **{**flags} | epochs, seed=self.seed, out=out, measure=False,
                    data=self.data if self.args.qm9 else None, resume=any(out.glob("*/last.ckpt")),
                )  # fmt: skip

    def runs(self) -> dict[str, tuple[Path, Sampler | None, int | None, float]]:
        """What is drawn: by name the file, the sampler, the steps and the guidance."""
        guided = self.system.guidance
        runs: dict[str, Any] = {}
        for name, sampler in SAMPLERS.items():
            for k in (50,) if self.args.brief else CALLS:
                runs[f"{name} {k}"] = self.teacher, sampler, k, guided
        runs[f"DDPM {self.system.most}"] = self.teacher, DDPM(), self.system.most, guided
        if guided == 1 and not self.args.brief:
            for k in (4, 8):
                for method in ("distilled", "consistency"):
                    runs[f"without error, {method} {k}"] = self.teacher, None, k, 1.0
        for name in self.system.students:
            for path in sorted((self.folder / name).glob("*/model.safetensors")):
                diffusion = open_model(path).diffusion
                steps = len(diffusion.times.times) - 1
                if name == "consistency":
                    for k in (1, 2, 4, 8):
                        runs[f"{name} {k}"] = path, Renoise(), k, 1.0
                else:
                    runs[f"{name} {steps}"] = path, None, None, 1.0
        return runs

    def measure(self) -> None:
        """Draw and judge what was not yet."""
        judge = None
        for name, (path, sampler, steps, guidance) in self.runs().items():
            if name in self.figures:
                continue
            known = open_model(path)
            kind = kind_of(known.kind)
            judge = judge or kind.judge(known.read_data(self.data))[1]
            num = 40 if self.args.short else self.system.num
            if name.startswith("consistency"):
                known, sampler, steps = in_steps(known, steps), None, None
            if name.startswith("without error"):
                perfect = Perfect(known.diffusion, steps, "consistency" in name)
                known, sampler, steps = replace(known, diffusion=perfect), None, None
            drawn = known.sample(
                num, sampler=sampler, steps=steps, guidance=guidance, seed=1000 + self.seed,
                batch=self.system.batch,
            )  # fmt: skip
            report = judge(drawn, num - len(drawn))
            # as the command shows them, and as numbers
            cells = {c.title: c.cell(report).rstrip("%") for c in kind.FIGURES}
            self.figures[name] = {
                title.strip("↑↓"): float(cell) for title, cell in cells.items() if cell != "–"
            }
            with whole(self.file) as temporary:
                Path(temporary).write_text(json.dumps(self.figures, indent=1))
            told = ", ".join(f"{k} {v:.4g}" for k, v in self.figures[name].items())
            print(f"{time.strftime('%H:%M:%S')}  {self.folder.name}, {name}: {told}", flush=True)


class Perfect(GaussianDiffusion):
    """A student without error: it solves its teacher's path at each call, with many calls of its own.

    Arguments:
        teacher: The teacher.
        steps: The number of its steps.
        consistency: Whether it answers the end of the path, and not where one step leads.
    """

    def __init__(self, teacher: GaussianDiffusion, steps: int, consistency: bool) -> None:
        super().__init__(teacher.denoiser, teacher.schedule, teacher.target)
        lesson = recipe(teacher, steps, consistency=consistency)[0]
        rows = lesson.drawn(teacher, steps).times.times if consistency else lesson.rows.times
        self.times = Rows(rows, Renoise() if consistency else DDIM())
        schedule, grid = teacher.schedule, LogSNR(1.0, 10.0, -4.0)
        last = float(schedule.time(torch.tensor(8.0, dtype=torch.float64)))
        self.paths = {
            t: grid(schedule, 12, t).tolist() if t > last else [t, 0.0] for t in rows[:-1]
        }
        self.lesson = lesson

    def predictor(self, space: Space = DENSE, **cond: Any) -> Predictor:
        asked = GaussianDiffusion(self.denoiser, self.schedule, self.target).predictor(
            space, **cond
        )
        lesson, run = self.lesson, self.times.run
        if lesson.kept is None:
            return merged(asked, lesson.times, lesson.n, lesson.sampler)
        ends = {
            t: merged(asked, path, len(path) - 1, DPMSolver()) for t, path in self.paths.items()
        }
        return replace(asked, answer=lambda x, at: ends[at.t].predict(x, at), run=run)


def in_steps(known: Any, steps: int) -> Any:
    """A consistency model of a kind, drawn from in so many steps: at every so many-th of its times.

    Arguments:
        known: The model, which was trained at the rows of its folder's settings.
        steps: The number of steps.
    """
    diffusion = known.diffusion
    times = diffusion.times.times
    end = len(times) - 1
    rows = Rows([times[round(k * end / steps)] for k in range(steps + 1)], Renoise())
    return replace(
        known,
        diffusion=GaussianDiffusion(
            diffusion.denoiser, diffusion.schedule, diffusion.target, times=rows
        ),
    )


def tables(benches: Sequence[Bench]) -> str:
    """A table for each system: the mean over the seeds, and the least and the largest."""
    texts = []
    for system in SYSTEMS.values():
        known = [b for b in benches if b.system is system and b.figures]
        if not known:
            continue
        rows = list(dict.fromkeys(row for b in known for row in b.figures))
        titles = list(dict.fromkeys(t for b in known for f in b.figures.values() for t in f))
        cells = [[f"{system.title}, seeds {', '.join(str(b.seed) for b in known)}", *titles]]
        for row in rows:
            values = [
                [b.figures[row][t] for b in known if t in b.figures.get(row, {})] for t in titles
            ]
            cells.append([row, *(spread(v) for v in values)])
        texts.append(aligned(cells, "markdown"))
    return "\n\n".join(texts)


def spread(values: Sequence[float]) -> str:
    """The mean of some values, and their range."""
    if not values:
        return "–"
    mean = f"{np.mean(values):.3g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3g} – {max(values):.3g})"


def picture(benches: Sequence[Bench], path: Path) -> None:
    """The quality over the network calls, a panel for each kind of data: means over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = [
        name
        for name in ("qm9", "kanji", "digits")
        if any(b.system is SYSTEMS[name] for b in benches)
    ]
    fig, axes = plt.subplots(1, len(kinds), figsize=(3.6 * len(kinds), 3.4), squeeze=False)
    styles = {
        "DDIM": ("#999999", "--"), "DPMSolver": ("#555555", "-"), "DDPM": ("#bbbbbb", ":"),
        "SDE": ("#7a9e3a", "--"),
        "distilled": ("#c0392b", "-"), "consistency": ("#2c6fbb", "-"),
    }  # fmt: skip
    for axis, name in zip(axes[0], kinds, strict=True):
        known = [b for b in benches if b.system is SYSTEMS[name]]
        title = next(iter(next(iter(known[0].figures.values()))))
        for method, (color, line) in styles.items():
            points: dict[int, list[float]] = {}
            for b in known:
                for row, figures in b.figures.items():
                    of, _, calls = row.rpartition(" ")
                    if of == method and title in figures:
                        points.setdefault(int(calls), []).append(figures[title])
            if points:
                x = sorted(points)
                y = [float(np.mean(points[k])) for k in x]
                label = "DPMSolver(eta=1)" if method == "SDE" else method
                axis.plot(x, y, line, color=color, marker="o", markersize=3.5, label=label)
        axis.set_xscale("log", base=2)
        ticks = [1, 2, 4, 8, 16, 50, *([250] if name == "qm9" else [100])]
        axis.set_xticks(ticks, [str(k) for k in ticks])
        axis.set_xlabel("network calls")
        axis.set_title(SYSTEMS[name].title, fontsize=11)
        if title == "Fréchet":
            axis.set_yscale("log")
        axis.set_ylabel(title)
        axis.spines[["top", "right"]].set_visible(False)
    lines = {
        line.get_label(): line for axis in axes[0] for line in axis.get_lines()
    }  # of all panels
    axes[0, -1].legend(lines.values(), lines.keys(), frameon=False, fontsize=9)
    fig.tight_layout()
    fig.savefig(path, dpi=110)
    print(path)


def timed(bench: Bench, num: int = 100, repeats: int = 3) -> None:
    """Milliseconds for an item, of the teacher's usual run and of its students: in turn, the medians."""
    usual = f"DDPM {bench.system.most}"
    runs = {
        name: run
        for name, run in bench.runs().items()
        if name.startswith(("distilled", "consistency")) or name == usual
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (path, sampler, steps, guidance) in runs.items():
            known = open_model(path)
            if name.startswith("consistency"):
                known, sampler, steps = in_steps(known, steps), None, None
            how = {"sampler": sampler, "steps": steps, "guidance": guidance, "batch": num}
            known.sample(8, **how)
            start = time.perf_counter()
            known.sample(num, **how)
            seconds[name].append((time.perf_counter() - start) / num)
    cells = [[bench.folder.name, "ms", "times faster"]]
    for name, values in seconds.items():
        middle = float(np.median(values))
        faster = float(np.median(seconds[usual])) / middle
        cells.append([name, f"{1000 * middle:.3g}", f"{faster:.3g}"])
    print(aligned(cells, "markdown"), flush=True)


def main() -> None:
    """Train, distil, measure, as the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--students", nargs="+", default=["consistency", "distilled"])
    parser.add_argument("--qm9", type=Path, help="the full QM9 as a file, to read it from there")
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--picture", type=Path, help="write the picture here")
    parser.add_argument("--time", action="store_true", help="time what is trained already")
    parser.add_argument("--brief", action="store_true", help="the teacher at 50 calls and at most")
    parser.add_argument("--short", action="store_true", help="an epoch and 40 items of everything")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    benches = [Bench(args, name, seed) for seed in args.seeds for name in args.only]
    for bench in benches:
        if args.time:
            timed(bench)
            continue
        bench.train()
        bench.measure()
    if not args.time:
        print(tables(benches))
    if args.picture:
        picture(benches, args.picture)


if __name__ == "__main__":
    main()
