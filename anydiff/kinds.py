"""What the models of all kinds of data share: their files, and what they can be asked for.

A model of one kind (:mod:`anydiff.molecules.models`, :mod:`anydiff.sketches.models`,
:mod:`anydiff.images.models`) holds a diffusion and whatever else its data need. It defines how a batch is
built and how samples become data of its kind; :func:`anydiff.batched.draw_all` does the rest.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, ClassVar, Self, TypeVar

import torch

from anydiff import checkpoints
from anydiff.batched import How, completes
from anydiff.checkpoints.loading import reading
from anydiff.diffusion import GaussianDiffusion
from anydiff.files import PathLike
from anydiff.latent import Latent

__all__ = ["Entries", "KindModel", "first", "named"]

Data = TypeVar("Data")


def _version() -> str:
    try:
        return metadata.version("anydiff")
    except metadata.PackageNotFoundError:  # run from its sources
        return "unknown"


class Entries(dict[str, Any]):
    """What a file keeps beside a diffusion. As text it is the entry that was asked for last."""

    last = ""

    def __getitem__(self, name: str) -> Any:
        self.last = name
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.last = name
        return super().get(name, default)

    def __str__(self) -> str:
        return f"entry {self.last!r}"


@dataclass(frozen=True, eq=False)
class KindModel(ABC):
    """A trained diffusion with all that it takes to sample data of its kind.

    Arguments:
        diffusion: The model.
    """

    diffusion: GaussianDiffusion | Latent

    kind: ClassVar[str]
    needs: ClassVar[set[str]]
    """What a file of such a model holds at least; older files do not name their kind."""
    names: ClassVar[set[str]]
    """Data that are read because a model names them; all others are given by the user."""
    shipped: ClassVar[str | None] = None
    """Which of these come with the package, if all of them do not."""

    def at_hand(self, data: str | None = None) -> Any:
        """The data, as `read_data` has them, or those that are shipped in place of others that it names.

        The latter is logged (``logging.getLogger("anydiff.kinds")``, level INFO).

        Arguments:
            data: By name or path; what the model was trained on if None.

        Raises:
            ValueError: As `read_data`.
        """
        own: Any = self
        try:
            return own.read_data(data)
        except (ValueError, OSError, ImportError):
            if (
                data is not None
                or self.shipped is None
                or own.data not in self.names - {self.shipped}
            ):
                raise
            said = "the data %s are not there; %s, which comes with the package, is in their place"
            logging.getLogger(__name__).info(said, own.data, self.shipped)
            return own.read_data(self.shipped)

    @abstractmethod
    def extra(self) -> dict[str, Any]:
        """What a file keeps beside the diffusion: tensors, and values that JSON can hold."""

    @classmethod
    @abstractmethod
    def restore(cls, diffusion: GaussianDiffusion | Latent, extra: Mapping[str, Any]) -> Self:
        """The model, from what :func:`anydiff.load` returns."""

    @abstractmethod
    def of(self, data: Any, name: str | None) -> Self:
        """The same model, to be trained on other data: what it keeps of its data is theirs.

        Arguments:
            data: All parts of the data.
            name: By name or path.
        """

    @property
    def device(self) -> torch.device:
        """Where the diffusion is."""
        return next(self.diffusion.parameters()).device

    @property
    def asks(self) -> Collection[str]:
        """What it can be asked for: names of arguments of `sample`, such as "text"."""
        return ()

    @property
    def conditional(self) -> bool:
        """Whether it takes a condition, which guidance needs."""
        return bool(self.asks)

    @property
    def inner(self) -> GaussianDiffusion:
        """What learns and is distilled: the diffusion, or that of its latents."""
        return self.diffusion.diffusion if isinstance(self.diffusion, Latent) else self.diffusion

    def around(self, inner: GaussianDiffusion) -> Self:
        """The same model with another diffusion in the place of :attr:`inner`.

        Arguments:
            inner: A student of it, for instance.
        """
        known = self.diffusion
        return replace(self, diffusion=known.around(inner) if isinstance(known, Latent) else inner)

    @property
    def completes(self) -> bool:
        """Whether it was trained to complete items of which a part is known, in one run."""
        return completes(self.diffusion)

    def save(self, path: PathLike, run: Mapping[str, Any] | None = None) -> None:
        """Write the model to one file, by custom ``*.safetensors``, whole or not at all.

        Arguments:
            path: The file.
            run: Notes on how it was trained, such as its seed, for `anydiff info`. The version of anydiff
                is noted with them.

        Raises:
            ValueError: As :func:`anydiff.save`.
        """
        made = {"anydiff": _version(), **(run or {})}
        checkpoints.save(path, self.diffusion, {"kind": self.kind, "made": made, **self.extra()})

    @classmethod
    def made(cls, extra: Mapping[str, Any]) -> bool:
        """Whether a checkpoint with this `extra` is such a model."""
        return extra.get("kind", cls.kind) == cls.kind and extra.keys() >= cls.needs

    @classmethod
    def load(cls, path: PathLike) -> Self:
        """Read a model, in eval mode on the CPU.

        Raises:
            ValueError: If the file holds no model, or one of something else.
        """
        diffusion, extra = checkpoints.load(path)
        if not cls.made(extra):
            raise ValueError(
                f"{path} is not a model of {cls.kind}; give one that was saved as such."
            )
        return cls.opened(path, diffusion, extra)

    @classmethod
    def opened(
        cls, path: PathLike, diffusion: GaussianDiffusion | Latent, extra: Mapping[str, Any]
    ) -> Self:
        """The model in a file that was read, in float32 at least: files may be of half precision.

        Arguments:
            path: The file, for errors.
            diffusion: As :func:`anydiff.load` returns it.
            extra: Likewise.

        Raises:
            ValueError: If something in the file is not as it should be; the error names it.
        """
        entries = Entries(extra)
        if all(p.dtype.itemsize < 4 for p in diffusion.parameters()):
            diffusion = diffusion.float()
        with reading(path, entries):
            return cls.restore(diffusion, entries)

    def fits(self, **columns: int) -> None:
        """Check that the network has the columns that the data have.

        Arguments:
            columns: The numbers of columns, by what the network calls them.

        Raises:
            ValueError: If it has others.
        """
        network, more = self.diffusion.denoiser, {"features": 0, "channels": 0, "pairs": 0}
        if isinstance(self.diffusion, Latent):  # whose columns are those of the autoencoder
            network, more["features"] = self.diffusion.autoencoder, 3
        for name, number in columns.items():
            holder = network if name in more else self.diffusion.denoiser
            if (own := getattr(holder, name, number)) != number:
                raise ValueError(f"the network has {name}={own}, and the data take {number}")

    def check(self, how: How, condition: str, **asked: Any) -> None:
        """Check that nothing is asked for that the model was not trained for.

        Arguments:
            how: Of the call.
            condition: What the condition is called.
            asked: Arguments of the call that are about it; None is not asked for.

        Raises:
            ValueError: If something needs a condition, and the model has none, or if a distilled model
                is to be guided.
        """
        given = {name for name, value in asked.items() if value is not None} - {*self.asks}
        guided = how.get("guidance", 1) != 1
        if given or (guided and not self.conditional):
            name = min(given, default="guidance")
            raise ValueError(
                f"the model knows no {condition}, which {name} is about; leave {name} out, or train a "
                f"model with {condition}."
            )
        if guided and self.diffusion.times.run is not None:
            raise ValueError(
                f"guidance is {how['guidance']:g}, and the model was distilled: it knows its {condition} "
                "with the guidance that was folded in, and nothing without; leave guidance out, or give "
                "its teacher."
            )


def named(data: str | None, names: Collection[str]) -> str:
    """The data that a model was trained on, if they have a name.

    A model may come from anybody, so that no file is opened because its path stands there.

    Arguments:
        data: A name or path, as the model has it.
        names: The names.

    Raises:
        ValueError: If the model does not say what it was trained on, or it is no name.
    """
    if data is None:
        raise ValueError("the model does not say what it was trained on; give the data (--data).")
    if data not in names:
        raise ValueError(
            f"the model was trained on {data!r}, and no path is opened because a model has it; give the "
            "data (--data)."
        )
    return data


def first(items: Data, num: int, skip: int = 0) -> Data:
    """The first items of a kind's data after `skip` others, as far as there are, as such data.

    Arguments:
        items: Anything with a length and `subset`.
        num: How many.
        skip: How many are left out.
    """
    of: Any = items
    chosen: Data = of.subset(range(skip, min(skip + num, len(of))))
    return chosen
