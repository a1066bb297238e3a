"""The flags that every example has, and what follows from them.

A command trains into one folder and draws from what it trained, for so many minutes or passes over the
data, on whatever Lightning finds; it goes on with a run that was broken off, or draws only. What the data
is, the command says itself.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anydiff.diffusion import GaussianDiffusion
from anydiff.editing import edit, inpaint
from anydiff.guidance import classifier_free
from anydiff.samplers import DDIM, DDPM, DPMSolver, Progress, Sampler, sample
from anydiff.spaces import Dense, Space

__all__ = [
    "SAMPLERS",
    "TRAINER_FLAGS",
    "calls",
    "draw",
    "draw_all",
    "labels_in_turn",
    "moments",
    "parse",
    "parser",
    "run_folder",
    "seeds",
    "training_settings",
    "which_finite",
]

TRAINER_FLAGS = ("accelerator", "devices", "precision", "strategy")
"""Those that go to Lightning's Trainer as they are."""

SAMPLERS: dict[str, Sampler] = {"ddpm": DDPM(), "ddim": DDIM(), "dpm": DPMSolver()}
"""What --sampler may be; each lays its steps on its own grid."""

_POSITIVE = ("minutes", "epochs", "batch_size", "lr", "steps", "num", "resamples", "edit")


class Help(argparse.HelpFormatter):
    """Help that shows the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        plain = any(action.default is none for none in (None, False, argparse.SUPPRESS))
        return action.help if plain else f"{action.help} (default: %(default)s)"


def parser(
    doc: str | None,
    *,
    out: str,
    items: str,
    minutes: float = 5.0,
    batch_size: int | None = 64,
    lr: float = 8e-3,
    steps: int = 100,
    num: int = 100,
) -> argparse.ArgumentParser:
    """A parser with the shared flags.

    Arguments:
        doc: The command's docstring, of which the first line is shown.
        out: The folder for everything, by default.
        items: What is drawn, in the plural.
        minutes, batch_size, lr, steps, num: The flags' defaults.
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0], formatter_class=Help)
    add = parser.add_argument_group("the run").add_argument  # after the command's own
    add("--minutes", type=float, default=minutes, help="how long to train")
    add("--epochs", type=int, help="train for so many passes, instead of --minutes")
    by_size = "; by the size if not given" * (batch_size is None)
    add("--batch-size", type=int, default=batch_size, help=f"{items} in a batch{by_size}")
    add("--lr", type=float, default=lr, help="learning rate at its height")
    add(
        "--sampler",
        choices=SAMPLERS,
        default="ddpm",
        help="how to draw; dpm needs the fewest steps",
    )
    add("--steps", type=int, default=steps, help="network calls to draw with")
    add("--num", type=int, default=num, help=f"{items} to draw")
    add(
        "--guidance", type=float, default=1.0, metavar="W",
        help="1 heeds a condition as it was learnt, more heeds it more, 0 not at all",
    )  # fmt: skip
    add(
        "--inpaint",
        action="store_true",
        help=f"keep a part of {items} that were held out and draw the rest",
    )
    add("--resamples", type=int, default=5, help="how often --inpaint goes each step")
    add(
        "--edit", type=float, metavar="STRENGTH",
        help=f"noise {items} that were held out, up to this time in (0, 1], and denoise them",
    )  # fmt: skip
    add("--seed", type=int, default=0, help="of the weights, the noise and the draw")
    add("--out", type=Path, default=Path(out), help="folder for everything")
    add(
        "--resume",
        action="store_true",
        help="train the run in --out on, to --minutes or --epochs in all",
    )
    add("--sample-only", type=Path, metavar="CHECKPOINT", help="draw from a model.safetensors")
    add("--accelerator", default="auto", choices=["auto", "cpu", "gpu"], help="where to run")
    add("--devices", default="auto", help="how many, or which")
    add("--precision", default="32-true", help="of the training, bf16-mixed for instance")
    add("--strategy", default="auto", help="for several devices, ddp for instance")
    return parser


def parse(parser: argparse.ArgumentParser, *positive: str) -> argparse.Namespace:
    """The flags that were given, checked; `accelerator` is "cpu" or "gpu".

    Arguments:
        positive: Flags of the command's own that must be above zero, if given.
    """
    args = parser.parse_args()
    for name in (*_POSITIVE, *positive):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and not value > 0:
                parser.error(f"--{name.replace('_', '-')} is {value}; it must be positive")
    if args.edit is not None and args.edit > 1:
        parser.error(f"--edit is {args.edit}; it is a time, at most 1")
    if args.edit is not None and args.inpaint:
        parser.error("--edit and --inpaint are two ways to begin from data; give one")
    if args.accelerator == "auto":
        args.accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    logging.getLogger("anydiff").setLevel(logging.INFO)
    return args


def run_folder(args: argparse.Namespace, drawn: str) -> Path:
    """The folder to write to: a fresh one, that of the run to go on with, or that of a broken-off one.

    Arguments:
        drawn: A file that says that there are results in a folder.

    Raises:
        ValueError: There is nothing to go on with.
    """
    from anydiff.training.runs import free_folder

    if not args.resume:
        finished = ["model.safetensors", drawn, *["last.ckpt"] * bool(args.sample_only)]
        return free_folder(args.out, *finished)
    if not (args.out / "last.ckpt").exists():
        raise ValueError(f"{args.out} holds no last.ckpt to go on from; leave --resume out.")
    return args.out


def seeds(args: argparse.Namespace, start: int, count: int) -> list[int]:
    """A seed for each item from `start` on: it is then the same in whatever batch it is drawn."""
    return [1_000_003 * args.seed + start + k for k in range(count)]


def draw(
    args: argparse.Namespace,
    diffusion: GaussianDiffusion,
    shape: Sequence[int],
    space: Space,
    start: int,
    *,
    cond: Mapping[str, Any] | None = None,
    x: Tensor | None = None,
    known: Tensor | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> Tensor:
    """A batch as the flags say: from noise, from a part that is known, or from data; guided or not.

    Arguments:
        shape: Of the batch.
        start: The number of its first item among all that are drawn.
        cond: Conditions, which --guidance is about.
        x: Data that --edit and --inpaint begin from, shaped so.
        known: What --inpaint keeps of it.
    """
    predictor = diffusion.predictor(space, **(cond or {}))
    if cond and args.guidance != 1:
        predictor = classifier_free(predictor, diffusion.predictor(space), args.guidance)
    items = getattr(space, "num_items", shape[0])
    options: dict[str, Any] = {
        "sampler": SAMPLERS[args.sampler],
        "steps": args.steps,
        "seed": seeds(args, start, items),
        "progress": True,
        "callback": callback,
    }
    if args.inpaint and x is not None and known is not None:
        if args.sampler == "ddpm":  # the smaller variance falls short where steps are repeated
            options["sampler"] = DDPM("large")
        return inpaint(predictor, x, known, resamples=args.resamples, **options)
    if args.edit and x is not None:
        return edit(predictor, x, args.edit, **options)
    return sample(predictor, shape, **options)


def draw_all(
    args: argparse.Namespace,
    diffusion: GaussianDiffusion,
    shape: Sequence[int],
    cond: Mapping[str, Tensor] | None = None,
    *,
    x: Tensor | None = None,
    known: Tensor | None = None,
    batch: int = 64,
    shown: int = 8,
) -> tuple[Tensor, Tensor]:
    """--num items of one shape as the flags say, batch after batch, and the way of the first ones.

    Arguments:
        shape: Of one item.
        cond: Conditions, of one row for each item.
        x, known: As :func:`draw` has them, a row for each item.
        batch: Items drawn at once.
        shown: How many are watched.

    Returns:
        The items, (num, \\*shape), and the states of the first ones after each step,
        (steps, shown, \\*shape); on the CPU.
    """
    device = next(diffusion.parameters()).device
    drawn: list[Tensor] = []
    path: list[Tensor] = []

    def keep(p: Progress) -> None:
        if not drawn:  # of the first batch
            path.append(p.x_s[:shown].cpu())

    for start in range(0, args.num, batch):
        some = slice(start, min(start + batch, args.num))

        def of(value: Tensor | None, some: slice = some) -> Any:
            return None if value is None else value[some].to(device)

        drawn.append(
            draw(
                args, diffusion, (some.stop - start, *shape), Dense(), start,
                cond={name: of(value) for name, value in (cond or {}).items()},
                x=of(x), known=of(known), callback=keep,
            ).cpu()
        )  # fmt: skip
    return torch.cat(drawn), torch.stack(path)


def labels_in_turn(args: argparse.Namespace, classes: int) -> Tensor | None:
    """The label of each of --num items: those of --label in turn, all if not given; None of no classes.

    Arguments:
        classes: How many the model knows.

    Raises:
        ValueError: Labels or guidance are asked for that the model doesn't know.
    """
    if not classes:
        if args.label or args.guidance != 1:
            flag = "label" if args.label else "guidance"
            raise ValueError(
                f"the model knows no classes, which --{flag} is about; train one with --classes, or "
                f"leave --{flag} out."
            )
        return None
    wanted = args.label or list(range(classes))
    if wrong := [n for n in wanted if not 0 <= n < classes]:
        raise ValueError(f"--label is {wrong[0]}; the model knows the labels 0 to {classes - 1}.")
    return torch.tensor(wanted)[torch.arange(args.num) % len(wanted)]


def which_finite(drawn: Tensor, items: str) -> Tensor:
    """Which of what was drawn are finite, (num,) of booleans; the command says how many are not.

    Raises:
        ValueError: None is.
    """
    finite = drawn.isfinite().flatten(1).all(1)
    if not finite.any():
        raise ValueError(f"none of the {items} came out finite: the training diverged; lower --lr.")
    if not finite.all():
        print(f"{int((~finite).sum())} of the {items} are left out: not finite")
    return finite


def calls(args: argparse.Namespace, guided: bool) -> int:
    """Network calls for an item, `guided` if there is a condition that --guidance is about."""
    twice = guided and args.guidance not in (0, 1)  # with the condition, and without
    return args.steps * (args.resamples if args.inpaint else 1) * (2 if twice else 1)


def moments(count: int, most: int = 40) -> list[int]:
    """Numbers of the steps that a film shows: more towards the end, where things take shape."""
    return sorted({round((count - 1) * (1 - (1 - k / (most - 1)) ** 2)) for k in range(most)})


def training_settings(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What must be the same when a run goes on."""
    return {name: getattr(args, name) for name in (*names, "batch_size", "lr", "seed")}
