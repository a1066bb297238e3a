"""What `sample`, `inpaint`, `edit`, `reconstruct` and `interpolate` do: draw, write, measure, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from anydiff.cli.drawing import Drawing, how_of, named
from anydiff.cli.report import NAME as REPORT
from anydiff.cli.report import in_turn, write_report
from anydiff.cli.runs import beside, called, kind_of, place, printable, say_files, writable
from anydiff.data.stored import MANIFEST

__all__ = ["run"]


def run(
    command: str,
    path: Path,
    known: Any,
    asked: Drawing,
    draw: Callable[[int, dict[str, Any]], Any],
    *,
    data: str | None,
    before: Any = None,
    kept: Callable[[Any], Any] | None = None,
    repeats: int = 1,
    strength: float = 1.0,
    num: int | None = None,
    wishes: Mapping[str, Any] | None = None,
) -> None:
    """Draw, write, measure against data, by default those that the model was trained on.

    Arguments:
        command: Its name.
        path: The model, as it was given.
        known: The model.
        asked: The flags.
        draw: (number of items, how) -> items.
        data: What is compared with, by name or path.
        before: What is begun from.
        kept: Items -> what of them is kept.
        repeats: How many times each step is made.
        strength: The time from which the run begins.
        num: How many items there will be, where they are not as many as those before.
        wishes: What else was asked for, for the report.

    Raises:
        ValueError: If nothing is left to draw.
        KeyboardInterrupt: After Ctrl-C, with how many are written.
    """
    from anydiff.batched import Stopped, calls, steps_of
    from anydiff.files import free_folder, whole
    from anydiff.kinds import first

    kind = kind_of(known.kind)
    real = _real(known, data) if asked.measure else None
    num = num or (asked.num or kind.NUM if before is None else len(before))
    if asked.skip >= num:
        raise ValueError(
            f"skip is {asked.skip} of {num} {known.kind}; give less, so that some are left."
        )
    folder = writable(free_folder(asked.out or beside(path, command), kind.DRAWN, REPORT, MANIFEST))
    known.diffusion.to(place(asked.accelerator))
    print(f"sampling {num - asked.skip:,} {known.kind} from {path}", flush=True)
    frames: list[Any] = []
    how = how_of(known, asked, repeats)
    how |= {"skip": asked.skip, "progress": True, "watch": frames.append}
    start, stopped = time.perf_counter(), None
    try:
        drawn = draw(num, how)
    except Stopped as stop:
        drawn, stopped = stop.drawn, stop
    seconds = (time.perf_counter() - start) / max(len(drawn), 1)

    folder.mkdir(parents=True, exist_ok=True)
    if before is not None and len(before) == num:  # pairs stay whole
        before = first(before, len(drawn), asked.skip)
    kind.write(folder, drawn, frames, before, None if kept is None else kept(before))
    lost = (stopped.num if stopped else num) - asked.skip - len(drawn)
    wishes = {
        "model": called(path), **named(known, asked, repeats), "skip": asked.skip or None,
        **(wishes or {}), "begun from": _source(before), "compared with": _source(real),
        "seconds for each": f"{seconds:.3g}",
    }  # fmt: skip
    report = partial(
        write_report, folder, known.kind, f"{len(drawn):,} {known.kind}: {command}", drawn,
        before=before, asked=wishes,
        captions=[] if lost else in_turn(wishes, asked.skip, len(drawn)),  # which one is lost?
    )  # fmt: skip
    if stopped:
        report()
        say_files(folder)
        raise KeyboardInterrupt(
            f"{stopped.num} of {num} {known.kind} are written; the same command with "
            f"--skip {stopped.num} samples the others."
        )
    text = ""
    if real is not None:
        print("computing metrics ...", flush=True)
        steps = steps_of(known.diffusion, how["steps"] or kind.STEPS, strength)
        guided = calls(steps, how["guidance"], known.conditional, repeats)
        try:
            text = kind.measure(drawn, real, nfe=guided, seconds=seconds, lost=lost)
            print("", text, "", sep="\n")
            with whole(folder / "table.txt") as temporary:
                Path(temporary).write_text(text + "\n", encoding="utf-8")
        except (ValueError, OSError, ImportError) as error:  # as of too few data to compare with
            print(f"no metrics: {printable(str(error))}")
    report(table=text)
    say_files(folder)


def _source(items: Any) -> str | None:
    """Where items come from, by name or file; without folders, as the page may be sent to others."""
    return None if items is None else Path(items.name).name


def _real(known: Any, data: str | None) -> Any:
    """What is compared with; None if the model does not name it, as it may have travelled alone."""
    if data is not None:
        real = known.read_data(data)
        if not len(real):
            raise ValueError(f"{data} holds no {known.kind}.")
        return real
    try:
        return known.at_hand()
    except (ValueError, OSError, ImportError) as error:
        print(f"no metrics: {printable(str(error))}", flush=True)
        return None
