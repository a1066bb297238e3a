"""What the commands have in common: the flags of a run, its folder, and models of whatever kind."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anydiff.data.stored import MANIFEST
from anydiff.extras import extra

__all__ = [
    "Run", "beside", "called", "fingerprint", "kind_of", "kind_of_file", "model_file", "model_of",
    "open_model", "place", "positive", "printable", "run_folder", "say_files", "seed_all", "writable",
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """How a model is trained, whatever it is of.

    Arguments:
        minutes: Training time.
        epochs: Number of passes over the data, instead of a time.
        batch_size: Batch size.
        lr: Peak learning rate.
        seed: Random seed of the weights and of training.
        out: Folder for all files. A number is appended if it holds a model already.
        resume: Continue the training in the folder, up to the given minutes or epochs in total.
        accelerator: Device; auto is a GPU if there is one.
        devices: Number of devices of a machine, or which ones, as in Lightning.
        num_nodes: Number of machines, each of which runs this command.
        precision: Precision of training, bf16-mixed for instance.
        strategy: Strategy for several devices, ddp for instance.
        compile: Compile the network first, which needs a C++ compiler, takes minutes and makes the steps
            of molecules a quarter shorter.
    """

    out: Path
    minutes: float = 5.0
    epochs: int | None = None
    batch_size: int = 64
    lr: float = 8e-3
    seed: int = 0
    resume: bool = False
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: str = "auto"
    num_nodes: int = 1
    precision: str = "32-true"
    strategy: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        positive(
            minutes=self.minutes, epochs=self.epochs, batch_size=self.batch_size, lr=self.lr,
            num_nodes=self.num_nodes,
        )  # fmt: skip

    def trainer(self) -> dict[str, Any]:
        """The arguments for :func:`anydiff.training.runs.trainer`."""
        return {
            "minutes": None if self.epochs else self.minutes,
            "epochs": self.epochs,
            "accelerator": "gpu" if place(self.accelerator) == "cuda" else "cpu",
            "devices": self.devices,
            "num_nodes": self.num_nodes,
            "precision": self.precision,
            "strategy": self.strategy,
            "check_val_every_n_epoch": None,
            "use_distributed_sampler": False,  # the loader shares its batches out itself
        }


def positive(most: float = 1e9, **values: Any) -> None:
    """Check that all that is given is above zero, and no more than makes sense.

    Arguments:
        most: The largest value.
        values: Numbers by name, or lists of them; None is not given.

    Raises:
        ValueError: If one is not.
    """
    for name, given in values.items():
        for value in given if isinstance(given, list | tuple) else [given]:
            if value is not None and not 0 < value <= most:
                raise ValueError(f"{name} is {value}; it must be positive and at most {most:,.0f}.")


def writable(folder: Path) -> Path:
    """The folder, after a file could be made there, of which nothing stays.

    Arguments:
        folder: Where results will go.

    Raises:
        ValueError: If nothing can be written there.
    """
    missing: list[Path] = []
    try:
        missing += [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, ValueError) as error:  # the latter of a name with a NUL
        raise ValueError(
            f"nothing can be written to {folder} ({error}); give another out."
        ) from error
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def place(accelerator: str) -> str:
    """The device: "cuda" or "cpu".

    Arguments:
        accelerator: "auto", "cpu" or "gpu".

    Raises:
        ValueError: If there is no GPU that torch can use.
    """
    import torch

    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ValueError("accelerator is gpu, but torch finds no GPU that it can use; give cpu.")
    return "cuda"


def run_folder(run: Run, checkpoint: str = "last.ckpt") -> Path:
    """The folder to train in: a fresh one, that of a run that was broken off, or that to go on with.

    Arguments:
        run: Of which `out` and `resume` count.
        checkpoint: What a run that was begun has in its folder.

    Raises:
        ValueError: If there is nothing to go on with, or nothing can be written there.
    """
    from anydiff.files import free_folder

    if not run.resume:
        return writable(free_folder(run.out, "model.safetensors", "report.html"))
    if not (run.out / checkpoint).exists():
        raise ValueError(f"{run.out} holds no {checkpoint} to continue from; leave resume out.")
    return writable(run.out)


def seed_all(seed: int) -> None:
    """Make what begins now the same each time: new weights, and what training draws, in all processes.

    Arguments:
        seed: The seed.
    """
    with extra("train"):
        from pytorch_lightning import seed_everything

    seed_everything(seed, verbose=False)


def model_file(model: Path) -> Path:
    """A file as it is given, or that of the model that comes with the package and has this name.

    Arguments:
        model: A file, or a name.

    Raises:
        FileNotFoundError: If it is neither.
    """
    from anydiff.ready import MODELS, model_path

    if model.is_file():
        return model
    if (name := str(model)) in MODELS:
        return model_path(name)
    what = "a folder" if model.is_dir() else "no such file"
    raise FileNotFoundError(
        f"{model}: {what}; give a checkpoint, the model.safetensors of a training for instance, or one "
        f"of {', '.join(MODELS)}."
    )


def beside(model: Path, command: str) -> Path:
    """The folder for what a command makes of a model: next to it, or in `runs` if the model has no folder
    of the user's own: one that comes with the package, or is in the cache of the Hub.

    Arguments:
        model: As it was given.
        command: What the folder is called.
    """
    return (model.parent if (name := _elsewhere(model)) is None else Path("runs") / name) / command


def _elsewhere(model: Path) -> str | None:
    """What a model is called that is in no folder of the user's own."""
    if model_file(model) != model:
        return model.name
    folder = model.absolute().parent
    own = [part for part in folder.parts if part.startswith("models--")]  # of the Hub's cache
    return own[-1].split("--")[-1] if own and "snapshots" in folder.parts else None


def called(model: Path) -> str:
    """What notes call a model: its name, or its file with the folder.

    Arguments:
        model: As it was given.
    """
    if (name := _elsewhere(model)) is not None:
        return name
    return f"{model.absolute().parent.name}/{model.name}"


def fingerprint(model: Path) -> str:
    """What a run that goes on from a model is told apart by: the hash of its file.

    Arguments:
        model: As it was given.
    """
    return hashlib.sha256(model_file(model).read_bytes()).hexdigest()[:12]


def open_model(path: str | os.PathLike[str]) -> Any:
    """The model in a file, of whatever kind it is.

    Arguments:
        path: What `anydiff train` or a model's `save` wrote, or the name of a model that comes with the
            package.

    Raises:
        ValueError: If it is of no kind that is known here.
    """
    from anydiff import checkpoints

    path = model_file(Path(path))
    if (model := model_of(path, *checkpoints.load(path))) is not None:
        return model
    raise ValueError(
        f"{path} holds a diffusion, but not what it takes to draw molecules, sketches, images or "
        "SMILES with it; open it with anydiff.load."
    )


def model_of(path: str | os.PathLike[str], diffusion: Any, extra: Mapping[str, Any]) -> Any:
    """The model of a kind that a checkpoint holds, or None if it holds none that is known here.

    Arguments:
        path: The checkpoint.
        diffusion: As :func:`anydiff.load` gives it.
        extra: What was kept beside it.
    """
    from anydiff.images.models import ImageModel
    from anydiff.molecules.models import MoleculeModel
    from anydiff.molecules.string_models import SmilesModel
    from anydiff.sketches.models import SketchModel

    models: list[Any] = [MoleculeModel, SketchModel, ImageModel, SmilesModel]
    return next((m.opened(path, diffusion, extra) for m in models if m.made(extra)), None)


def kind_of(kind: str) -> Any:
    """The module that reads, writes and measures items of a kind.

    Arguments:
        kind: "molecules", "sketches", "images" or "smiles".
    """
    if kind == "molecules":
        from anydiff.cli import molecules

        return molecules
    if kind == "sketches":
        from anydiff.cli import sketches

        return sketches
    if kind == "smiles":
        from anydiff.cli import smiles

        return smiles
    from anydiff.cli import images

    return images


_ENDINGS = {
    "molecules": (".sdf", ".sd", ".mol", ".xyz", ".extxyz"),
    "smiles": (".smi", ".smiles"),
    "sketches": (".ndjson", ".svg", ".inkml"),
    "images": (".npz",),
}


def kind_of_file(file: Path) -> str:
    """The kind of items that a file holds, or a folder of numbered parts, by its ending.

    Arguments:
        file: The file or folder.

    Raises:
        ValueError: If the name does not tell.
    """
    if (manifest := file / MANIFEST).is_file():  # of numbered parts
        file = next((path for path in sorted(file.glob("part-*"))), manifest)
    ending = Path(file.name.lower().removesuffix(".gz")).suffix
    for name, endings in _ENDINGS.items():
        if ending in endings:
            return name
    raise ValueError(f"{file}: its name does not tell what it holds; give --kind.")


def printable(text: str) -> str:
    """A text of a file for a terminal, on which it can do nothing but be read.

    Arguments:
        text: Of any characters.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def say_files(folder: Path) -> None:
    """Print the files in a folder.

    Arguments:
        folder: That of a run.
    """
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    print(*files, sep="\n")
