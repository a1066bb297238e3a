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
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anydiff.cli.runs import kind_of, place, positive, writable
from anydiff.data.stored import MANIFEST
from anydiff.extras import extra
from anydiff.files import whole

with extra("train"):
    from pytorch_lightning import LightningDataModule, LightningModule, Trainer
    from pytorch_lightning.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader

__all__ = ["Parts", "write_parts"]


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
        """The items of a part, as :class:`anydiff.kinds.How` has them.

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
    from pytorch_lightning.utilities import exceptions

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
        )
    except (vars(exceptions)["MisconfigurationException"], TypeError, ValueError) as error:
        raise ValueError(
            f"there are no such devices, --devices {parts.devices}: {error}"
        ) from error
    if trainer.is_global_zero:
        _begin(writable(folder), settings)
    try:
        if not writer.finished:
            trainer.predict(
                _Drawing(model, draw, parts), _Numbers(writer), return_predictions=False
            )
    except SystemExit as error:  # Lightning's answer to Ctrl-C
        done = sum(parts.size for number in range(len(parts)) if writer.done(number))
        raise KeyboardInterrupt(
            f"about {min(done, parts.num):,} of {parts.num:,} {kind} are written; the same command "
            "draws the others."
        ) from error
    if trainer.is_global_zero:
        writer.finish(settings)


def _begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write down what is drawn, or compare it with what the folder holds."""
    path = folder / MANIFEST
    if not path.exists():
        with whole(path) as temporary:
            Path(temporary).write_text(json.dumps({"settings": settings}, indent=1))
        return
    try:
        before = json.loads(path.read_text())["settings"]
        other = [k for k in {**settings, **before} if settings.get(k) != before.get(k)]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} is no manifest of samples ({error}); give another folder by --out."
        ) from error
    if other:
        differs = ", ".join(f"{k} {before.get(k)} there and {settings.get(k)} here" for k in other)
        raise ValueError(
            f"{folder} holds parts of another run: {differs}; give the same flags to go on with it, or "
            "another folder by --out."
        )


class _Drawing(LightningModule):
    """Draws the parts whose numbers it is given."""

    def __init__(self, model: Any, draw: Callable[[Mapping[str, int]], Any], parts: Parts) -> None:
        super().__init__()
        self.diffusion = model.diffusion  # which goes to the device of this process
        self.draw, self.parts = draw, parts

    def predict_step(self, number: int, batch_idx: int) -> Any:
        start = time.perf_counter()
        items = self.draw(self.parts.items(number))
        return items, time.perf_counter() - start


class _Numbers(LightningDataModule):
    """The numbers of the parts that are not there yet, each once, for all processes together."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self.writer = writer

    def predict_dataloader(self) -> DataLoader[int]:
        assert self.trainer is not None
        left = [n for n in range(len(self.writer.parts)) if not self.writer.done(n)]
        # those of one process: another may look later, when some more are done
        shared: Any = self.trainer.strategy.broadcast(left)
        return DataLoader(shared, batch_size=None)


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
        """Whether a part is there."""
        return self.path(number).exists() and (self._about(number).exists() or self._listed)

    @property
    def _listed(self) -> bool:
        """Whether the manifest says what each part holds."""
        path = self.folder / MANIFEST
        return path.exists() and "parts" in json.loads(path.read_text())

    @property
    def finished(self) -> bool:
        """Whether the manifest is complete, and all parts are there."""
        return self._listed and all(map(self.done, range(len(self.parts))))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self.parts.num, desc=f"drawing {self.kind}", unit="")
            self._show()

    def _show(self) -> None:
        there = sum(1 for _ in self.folder.glob(".part-*.json"))  # of all processes
        self._bar.n = min(there * self.parts.size, self.parts.num)
        self._bar.refresh()

    def write_on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, prediction: Any, batch_indices: Any,
        batch: Any, batch_idx: int, dataloader_idx: int,
    ) -> None:  # fmt: skip
        (items, seconds), number = prediction, int(batch)
        path = self.path(number)
        plain = path.with_name(f".{path.name.removesuffix('.gz')}")
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

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier()
        if self._bar is not None:
            self._show()
            self._bar.close()

    def finish(self, settings: Mapping[str, Any]) -> None:
        """Write the manifest of all parts, unless it is there, and say what there is."""
        notes = [self._about(number) for number in range(len(self.parts))]
        path = self.folder / MANIFEST
        if any(note.exists() for note in notes):
            known = {of["file"]: of for of in json.loads(path.read_text()).get("parts", [])}
            for note in notes:
                if note.exists():
                    of = json.loads(note.read_text())
                    known[of["file"]] = of
            about = {"settings": settings, "parts": [known[name] for name in sorted(known)]}
            with whole(path) as temporary:
                Path(temporary).write_text(json.dumps(about, indent=1))
            for note in notes:
                note.unlink(missing_ok=True)
        each = json.loads(path.read_text())["parts"]
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
