"""`anydiff sample --part N`: many items in numbered parts, by one process or several.

A part is the unit of work: its items, their seeds and their batches depend on nothing but its number, so
that the files are the same however the parts are shared out, and whatever was interrupted. A part is
written whole or not at all. What each one holds is in `manifest.json` at the end.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from anydiff.checks import differences
from anydiff.cli.runs import kind_of, place, positive, writable
from anydiff.data.stored import MANIFEST
from anydiff.extras import extra
from anydiff.files import alone, whole

with extra("train"):
    from pytorch_lightning import LightningDataModule, LightningModule, Trainer
    from pytorch_lightning.callbacks import BasePredictionWriter
    from pytorch_lightning.utilities import exceptions

__all__ = ["Parts", "write_parts"]

_NOTE = re.compile(r"\.part-[0-9]+\.json")
_CUT = re.compile(r"\.+([0-9a-f]{16}\.)?(part-[0-9]+|manifest)\..*")
_NONE = -1
"""No part, for processes that have one less than others."""
_PATIENCE = 1800.0
"""Seconds without a new part after which those of other processes are given up."""


@dataclass(frozen=True)
class Parts:
    """How items are shared out.

    Arguments:
        num: Items in all.
        size: Items of a part.
        devices: Processes or GPUs of a machine, as in Lightning.
        num_nodes: Machines.
        accelerator: "auto", "cpu" or "gpu".

    Raises:
        ValueError: If a number is not positive.
    """

    num: int
    size: int = 1000
    devices: str = "auto"
    num_nodes: int = 1
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        positive(part=self.size, num_nodes=self.num_nodes)

    def __len__(self) -> int:
        return -(-self.num // self.size)

    def items(self, number: int) -> dict[str, int]:
        """The items of a part, as :class:`anydiff.batched.How` has them.

        Arguments:
            number: Of the part, from 0.
        """
        first = number * self.size
        return {"skip": first, "stop": min(first + self.size, self.num)}


def write_parts(
    folder: Path,
    kind: str,
    model: Any,
    draw: Callable[[Mapping[str, int]], Any],
    parts: Parts,
    settings: Mapping[str, Any],
) -> None:
    """Draw and write the parts that are not there yet, and the manifest.

    Arguments:
        folder: For all of them; one that holds parts of the same run, if it was interrupted.
        kind: "molecules", "sketches", "images" or "smiles".
        model: The model, whose `diffusion` goes to each process' device.
        draw: `skip` and `stop` -> these items.
        parts: Which ones there are, and who draws them.
        settings: What the items depend on, which JSON can hold.

    Raises:
        ValueError: If the folder holds parts of another run, or there are no such devices.
        KeyboardInterrupt: After Ctrl-C, with what is done and how to go on.
    """
    gpu = place(parts.accelerator) == "cuda"
    settings = {**settings, "num": parts.num, "part": parts.size}
    settings = json.loads(json.dumps(settings))  # tuples are lists there
    writer = _Writer(folder, kind, parts)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for notice in ("Couldn't infer the batch indices", ".*is deprecated, use"):
        warnings.filterwarnings("ignore", message=notice)
    try:
        trainer = Trainer(
            accelerator="gpu" if gpu else "cpu",
            devices=parts.devices if gpu or parts.devices != "auto" else 1,
            num_nodes=parts.num_nodes,
            callbacks=[writer],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,  # guidance may need gradients
            use_distributed_sampler=False,  # the numbers are shared out here
        )
    except (vars(exceptions)["MisconfigurationException"], TypeError, ValueError) as error:
        raise ValueError(
            f"there are no such devices, --devices {parts.devices}: {error}"
        ) from error
    first = trainer.is_global_zero
    _compare(folder, settings)
    writable(folder).mkdir(parents=True, exist_ok=True)
    with alone(folder, "draws parts") if first else nullcontext():
        if first:
            _begin(folder, settings)
        try:
            if not writer.finished:
                drawing = _Drawing(model, draw, parts)
                trainer.predict(drawing, _Numbers(writer), return_predictions=False)
        except SystemExit as error:  # Lightning's answer to Ctrl-C
            done = sum(parts.size for number in range(len(parts)) if writer.done(number))
            raise KeyboardInterrupt(
                f"about {min(done, parts.num):,} of {parts.num:,} {kind} are written; the same command "
                "draws the others."
            ) from error
        if first:
            writer.finish(settings)


def _begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down what is drawn, and clear away what a process that was killed has left half written."""
    for cut in folder.glob(".*"):
        if _CUT.fullmatch(cut.name) and not _NOTE.fullmatch(cut.name):
            cut.unlink(missing_ok=True)
    path = folder / MANIFEST
    if not path.exists():
        with whole(path) as temporary:
            Path(temporary).write_text(json.dumps({"settings": settings}, indent=1))


def _compare(folder: Path, settings: Mapping[str, Any]) -> None:
    """Check that what the folder holds is of the same run."""
    path = folder / MANIFEST
    if not path.exists():
        return
    try:
        other = differences(json.loads(path.read_text())["settings"], settings)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} is no manifest of samples ({error}); give another folder by --out."
        ) from error
    if other:
        raise ValueError(
            f"{folder} holds parts of another run: {other}; give the same flags to go on with it, or "
            "another folder by --out."
        )


class _Drawing(LightningModule):
    """Draws the parts whose numbers it is given."""

    def __init__(self, model: Any, draw: Callable[[Mapping[str, int]], Any], parts: Parts) -> None:
        super().__init__()
        self.diffusion = model.diffusion  # which goes to the device of this process
        self.draw, self.parts = draw, parts

    def predict_step(self, number: int, batch_idx: int) -> Any:
        if number == _NONE:
            return None
        start = time.perf_counter()
        items = self.draw(self.parts.items(number))
        return items, time.perf_counter() - start


class _Numbers(LightningDataModule):
    """The numbers of the parts that are not there yet, each for one process, equally many for all."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self.writer = writer

    def predict_dataloader(self) -> DataLoader[int]:
        assert self.trainer is not None
        left = [n for n in range(len(self.writer.parts)) if not self.writer.done(n)]
        # those of one process: another may look later, when some more are done
        shared: Any = self.trainer.strategy.broadcast(left)
        rank, world = self.trainer.global_rank, self.trainer.world_size
        shared += [_NONE] * (-len(shared) % world)
        return DataLoader(shared[rank::world], batch_size=None)


class _Writer(BasePredictionWriter):
    """Writes each part, and beside it what it holds, until the manifest says it of all."""

    def __init__(self, folder: Path, kind: str, parts: Parts) -> None:
        super().__init__("batch")
        self.folder, self.kind, self.parts = folder, kind, parts
        self._bar: Any = None

    def path(self, number: int) -> Path:
        """The file of a part."""
        name = Path(kind_of(self.kind).DRAWN)
        packed = "" if name.suffix == ".npz" else ".gz"
        return self.folder / f"part-{number:05d}{name.suffix}{packed}"

    def _about(self, number: int) -> Path:
        return self.folder / f".part-{number:05d}.json"

    def done(self, number: int) -> bool:
        """Whether a part is there, with what it holds."""
        path = self.path(number)
        return path.exists() and (self._about(number).exists() or path.name in self._listed)

    @cached_property
    def _listed(self) -> dict[str, Any]:
        """What the manifest says of the parts of an earlier command that ended."""
        path = self.folder / MANIFEST
        known = json.loads(path.read_text()) if path.exists() else {}
        return {of["file"]: of for of in known.get("parts", [])}

    @property
    def finished(self) -> bool:
        """Whether all parts are there, and in the manifest."""
        names = [self.path(number) for number in range(len(self.parts))]
        return all(path.name in self._listed and path.exists() for path in names)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self.parts.num, desc=f"drawing {self.kind}", unit="")
            self._show()

    def _show(self) -> None:
        # of all processes
        there = sum(1 for _ in self.folder.glob(".part-*.json")) + len(self._listed)
        self._bar.n = min(there * self.parts.size, self.parts.num)
        self._bar.refresh()

    def write_on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, prediction: Any, batch_indices: Any,
        batch: Any, batch_idx: int, dataloader_idx: int,
    ) -> None:  # fmt: skip
        if prediction is None:
            return
        (items, seconds), number = prediction, int(batch)
        path = self.path(number)
        plain = path.with_name(f".{secrets.token_hex(8)}.{path.name.removesuffix('.gz')}")
        try:
            kind_of(self.kind).write_items(plain, items)
            with whole(path) as temporary:
                _pack(plain, Path(temporary), packed=path.suffix == ".gz")
        finally:
            plain.unlink(missing_ok=True)
        span = self.parts.items(number)
        about = {
            "file": path.name, "first": span["skip"], "items": len(items),
            "lost": span["stop"] - span["skip"] - len(items), "seconds": round(seconds, 3),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }  # fmt: skip
        with whole(self._about(number)) as temporary:
            Path(temporary).write_text(json.dumps(about))
        if self._bar is not None:
            self._show()

    def finish(self, settings: Mapping[str, Any]) -> None:
        """Wait for the parts of other processes, write the manifest of all, and say what there is.

        Raises:
            ValueError: If parts of others do not come.
        """
        numbers, since, left = range(len(self.parts)), time.monotonic(), -1
        while missing := [number for number in numbers if not self.done(number)]:
            if len(missing) != left:
                left, since = len(missing), time.monotonic()
            if time.monotonic() - since > _PATIENCE:
                raise ValueError(
                    f"{len(missing)} parts of other processes have not come, the first is number "
                    f"{missing[0]}; give the same command again to draw them."
                )
            time.sleep(0.2)
        if self._bar is not None:
            self._show()
            self._bar.close()
        each = []
        for number in numbers:
            note = self._about(number)
            new = json.loads(note.read_text()) if note.exists() else None
            each.append(new or self._listed[self.path(number).name])
        path = self.folder / MANIFEST
        if not self.finished:
            with whole(path) as temporary:
                about = {"settings": settings, "parts": each}
                Path(temporary).write_text(json.dumps(about, indent=1))
        for number in numbers:
            self._about(number).unlink(missing_ok=True)
        items, lost = (sum(of[name] for of in each) for name in ("items", "lost"))
        more = f", {lost:,} more were not finite" if lost else ""
        print(f"{items:,} {self.kind} in {len(each):,} parts{more}", path, sep="\n")


def _pack(plain: Path, packed_path: Path, packed: bool) -> None:
    """Copy a file, packed without the time or its name, so that equal items make equal files."""
    with plain.open("rb") as source, packed_path.open("wb") as target:
        if not packed:
            shutil.copyfileobj(source, target)
            return
        with gzip.GzipFile("", "wb", fileobj=target, mtime=0) as file:
            shutil.copyfileobj(source, file)
