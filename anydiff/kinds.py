"""What the models of all kinds of data share: sampling in batches, with a seed for each item.

A model of one kind (:mod:`anydiff.molecules.models`, :mod:`anydiff.sketches.models`,
:mod:`anydiff.images.models`) holds a diffusion and whatever else its data need. It defines how a batch is
built and how samples become data of its kind; :func:`draw_all` does the rest. The seed of an item does
not depend on its batch, so that an interrupted run can continue where it stopped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from typing import Any, ClassVar, Generic, Self, TypedDict, TypeVar

import torch
from torch import Tensor

from anydiff import checkpoints
from anydiff.checkpoints.loading import reading
from anydiff.checkpoints.saving import bare
from anydiff.checks import check_range
from anydiff.denoisers import Completing
from anydiff.diffusion import GaussianDiffusion
from anydiff.editing import complete, edit, inpaint
from anydiff.files import PathLike
from anydiff.guidance import classifier_free
from anydiff.latent import Latent
from anydiff.losses import Rows
from anydiff.predictions import Predictor
from anydiff.samplers import DDPM, Progress, Sampler, sample
from anydiff.spaces import Space, child

__all__ = [
    "Batch", "How", "KindModel", "Stopped", "calls", "draw_all", "in_batches", "latent_shape",
    "steps_of", "to_data", "to_latents",
]  # fmt: skip

Data = TypeVar("Data")

_LARGE = 1e18


class How(TypedDict, total=False):
    """How items are sampled: keyword arguments of the models' methods.

    Arguments:
        sampler: The sampler; None takes that of the run of a distilled model, and ancestral sampling,
            :class:`anydiff.DDPM`, for others.
        steps: The number of sampling steps; None takes the run of a distilled model, and 100 for others.
        guidance: The scale of classifier-free guidance: 0 is unconditional, 1, the default, conditional,
            above 1 stronger. A distilled model takes 1 only: what guidance it has was folded in.
        seed: The seed of the run, from which a seed for each item is derived. 0 by default.
        skip: The number of items that an earlier call with the same arguments has sampled; these are
            left out.
        stop: The number of the item before which to stop; all of them by default.
        batch: The number of items sampled at once; of molecules of the mean size, and fewer of larger
            ones. Where a device has not the memory, batches are halved.
        progress: Show a progress bar for each batch.
    """

    sampler: Sampler | None
    steps: int | None
    guidance: float
    seed: int
    skip: int
    stop: int | None
    batch: int
    progress: bool


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
        return _completes(self.diffusion)

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


@dataclass(frozen=True, eq=False)
class Batch:
    """Items that are sampled together.

    Arguments:
        shape: The shape of the whole batch, as its space defines it.
        space: The batch's space, on the device of the diffusion.
        cond: Conditions, by name.
        x: Data to start from, of this shape; None starts from noise.
        known: Which entries of x are kept: a mask, as :func:`anydiff.inpaint` takes it.
    """

    shape: Sequence[int]
    space: Space
    cond: Mapping[str, Tensor] = field(default_factory=dict)
    x: Tensor | None = None
    known: Tensor | None = None


class Stopped(KeyboardInterrupt, Generic[Data]):
    """Sampling was stopped by Ctrl-C after at least one complete batch.

    Arguments:
        drawn: The items sampled so far, in the form in which the call would have returned them.
        num: The number of items that are done, including those that were skipped.
    """

    def __init__(self, drawn: Data, num: int) -> None:
        super().__init__(f"{num} items are drawn; skip={num} draws the others.")
        self.drawn, self.num = drawn, num


def draw_all(
    diffusion: GaussianDiffusion | Latent,
    num: int,
    make: Callable[[slice], Batch],
    finish: Callable[[list[Tensor]], Data],
    *,
    watch: Callable[[Tensor], None] | None = None,
    strength: float | None = None,
    resamples: int = 5,
    sampler: Sampler | None = None,
    steps: int | None = None,
    guidance: float = 1.0,
    seed: int = 0,
    skip: int = 0,
    stop: int | None = None,
    batch: int = 100,
    costs: Tensor | None = None,
    progress: bool = False,
) -> Data:
    """Sample items of one kind in batches.

    Arguments:
        diffusion: The model.
        num: The number of items in all, including those that are skipped.
        make: A slice of the items -> their batch.
        finish: The samples, a CPU tensor for each batch -> data of the kind.
        watch: Called with the state of the first batch after each step.
        strength: The time in (0, 1] up to which x is noised before it is denoised; for a distilled model
            one of its rows. 0 is the reconstruction of a latent model, which needs no run.
        resamples: How many times each step is repeated when a part of x is known, but for a model that
            completes.
        sampler: See :class:`How`.
        steps: See :class:`How`.
        guidance: See :class:`How`.
        seed: See :class:`How`.
        skip: See :class:`How`.
        stop: See :class:`How`.
        batch: See :class:`How`.
        costs: As :func:`in_batches` takes them.
        progress: See :class:`How`.

    Returns:
        What `finish` returns.

    Raises:
        Stopped: After Ctrl-C, if at least one batch is complete. It is a ``KeyboardInterrupt``.
        ValueError: If `skip` leaves no items to sample, the guidance is not finite, a batch is empty, or
            a distilled model is not for such a run.
    """
    check_range("(-inf, inf)", guidance=guidance)
    if strength:
        strength = _first_time(diffusion, strength)
    completes = _completes(diffusion)

    def draw(some: slice, seeds: list[int]) -> Tensor:
        made = make(some)

        def see(p: Progress) -> None:
            if watch is not None and some.start == skip:
                watch(to_data(diffusion, p.x_s, made.space).cpu())

        shape = latent_shape(diffusion, made.shape)
        begun = None if made.x is None else to_latents(diffusion, made.x, made.space)
        if made.known is not None and isinstance(diffusion, Latent):
            raise ValueError(
                "the model draws latents, of which a known part of the data is no part; edit instead, or "
                "take a model without latents."
            )
        guided = partial(_guided, diffusion, made.cond, guidance)
        predictor, repeated = guided(made.space), made.known is not None and not completes
        options: dict[str, Any] = {
            "sampler": sampler, "steps": steps, "seed": seeds, "progress": progress, "callback": see,
        }  # fmt: skip
        if predictor.run is None:  # a distilled model takes its own where none is given
            # the smaller variance is slightly too small, which adds up over repeated steps
            options["sampler"] = sampler or (DDPM("large") if repeated else DDPM())
            options["steps"] = 100 if steps is None else steps
        if begun is not None and made.known is not None and completes:
            x = complete(guided, begun, known=made.known, space=made.space, **options)[0]
        elif begun is not None and made.known is not None:
            x = inpaint(predictor, begun, made.known, resamples=resamples, **options)
        elif begun is not None and strength == 0 and isinstance(diffusion, Latent):
            x = begun
        elif begun is not None and strength is not None:
            x = edit(predictor, begun, strength, **options)
        else:
            x = sample(predictor, shape, **options)
        return to_data(diffusion, x, made.space).cpu()

    own: dict[str, Any] = {"skip": skip, "stop": stop, "batch": batch, "costs": costs}
    return in_batches(num, draw, finish, seed=seed, **own)


def in_batches(
    num: int,
    draw: Callable[[slice, list[int]], Tensor],
    finish: Callable[[list[Tensor]], Data],
    *,
    seed: int = 0,
    skip: int = 0,
    stop: int | None = None,
    batch: int = 100,
    costs: Tensor | None = None,
) -> Data:
    """Sample items batch by batch, until all are done or Ctrl-C is pressed.

    Arguments:
        num: The number of items in all, including those that are skipped.
        draw: A slice of the items and a seed for each, which does not depend on its batch -> the batch.
            It is called again with fewer items if there is not the memory for so many.
        finish: The batches -> data of the kind.
        seed: See :class:`How`.
        skip: See :class:`How`.
        stop: See :class:`How`.
        batch: See :class:`How`.
        costs: What each item takes of memory and time, (num,), in any unit; None if all take the same.

    Returns:
        What `finish` returns.

    Raises:
        Stopped: As :func:`draw_all`.
        ValueError: If `skip` and `stop` leave no items to sample, or a batch is empty.
    """
    end = num if stop is None else stop
    if not 0 <= skip < end <= num:
        until = "" if stop is None else f" and stop is {stop}"
        raise ValueError(
            f"skip is {skip}{until} of {num} items; give less, so that some are left to draw."
        )
    check_range("[1, inf)", batch=batch)
    each = torch.ones(num) if costs is None else costs
    before = torch.cat([torch.zeros(1, dtype=torch.float64), each.double().cumsum(0)])
    room = batch * float(before[-1]) / num * (1 + 1e-9)
    drawn: list[Tensor] = []
    start = skip
    try:
        while start < end:
            last = int(torch.searchsorted(before, before[start] + room, right=True)) - 1
            some = slice(start, min(max(last, start + 1), end))
            try:
                drawn.append(draw(some, [child(seed, k) for k in range(some.start, some.stop)]))
                start = some.stop
            except torch.OutOfMemoryError:
                if some.stop == start + 1:
                    raise
                room = float(before[some.stop] - before[start]) / 2
    except KeyboardInterrupt as interrupt:
        if not drawn:
            raise
        raise Stopped(finish(drawn), start) from interrupt
    return finish(drawn)


def latent_shape(diffusion: GaussianDiffusion | Latent, shape: Sequence[int]) -> Sequence[int]:
    """The shape of what a diffusion draws, for data of a shape.

    Arguments:
        diffusion: Of the data, or of latents.
        shape: That of the data.
    """
    return diffusion.autoencoder.latent_shape(shape) if isinstance(diffusion, Latent) else shape


@torch.no_grad()
def to_latents(diffusion: GaussianDiffusion | Latent, x: Tensor, space: Space) -> Tensor:
    """What a diffusion begins from: data, or their latents without the posterior's noise.

    Arguments:
        diffusion: Of the data, or of latents.
        x: Data.
        space: Their space.
    """
    return diffusion.encode(x, space, mode=True) if isinstance(diffusion, Latent) else x


@torch.no_grad()
def to_data(diffusion: GaussianDiffusion | Latent, x: Tensor, space: Space) -> Tensor:
    """The data of what a diffusion has drawn.

    Arguments:
        diffusion: Of the data, or of latents.
        x: A state of it.
        space: That of the data.
    """
    return diffusion.decode(x, space) if isinstance(diffusion, Latent) else x


def _completes(diffusion: GaussianDiffusion | Latent) -> bool:
    return isinstance(bare(diffusion), Completing)


def _guided(
    diffusion: GaussianDiffusion | Latent,
    cond: Mapping[str, Tensor],
    guidance: float,
    space: Space,
    **given: Tensor,
) -> Predictor:
    """A predictor with conditions, guided by them; what is given of the items themselves always is."""
    told = diffusion.predictor(space, **cond, **given)
    if not cond or guidance == 1:
        return told
    return classifier_free(told, diffusion.predictor(space, **given), guidance)


def _first_time(diffusion: GaussianDiffusion | Latent, strength: float) -> float:
    """The time to begin at; of a distilled model the row that is given in four digits."""
    rows = diffusion.times
    if not isinstance(rows, Rows) or not 0 < strength <= 1:
        return strength
    row: float = rows.times[rows.nearest(strength)]
    if abs(row - strength) > 1e-3 * row:
        known = " or ".join(f"{t:.4g}" for t in rows.times[:-1])
        raise ValueError(
            f"strength is {strength:g}, and the model was distilled for a run through some times alone; "
            f"give {known}, or its teacher."
        )
    return row


def steps_of(diffusion: GaussianDiffusion | Latent, steps: int, strength: float = 1.0) -> int:
    """The number of steps of a run: those of a distilled model from the strength on, or `steps`.

    Arguments:
        diffusion: The model.
        steps: The number of steps of a model that is not distilled.
        strength: The time at which the run begins.
    """
    if not isinstance(rows := diffusion.times, Rows):
        return steps
    return sum(t <= 1.001 * strength for t in rows.times[:-1])


def calls(steps: int, guidance: float = 1.0, conditions: bool = False, resamples: int = 1) -> int:
    """The number of network calls for an item.

    Arguments:
        steps: The number of sampling steps, of one call each.
        guidance: The guidance scale.
        conditions: Whether there is a condition to guide with.
        resamples: How many times each step is repeated.
    """
    twice = conditions and guidance not in (0, 1)  # with the condition, and without
    return steps * resamples * (2 if twice else 1)


def finite(items: Sequence[Tensor], kind: str, all_of_them: bool = False) -> Tensor:
    """Which of the items are finite, (M,), boolean; a warning states how many are left out.

    Numbers whose squares are infinite in float32 are not, as no distance follows from them.

    Arguments:
        items: The rows or pixels of each item.
        kind: What the items are called in messages, in the plural.
        all_of_them: Whether every item is needed, so that none may be left out.

    Raises:
        ValueError: If no item is finite, or if not all are where all are needed.
    """
    import warnings

    sound = torch.tensor([bool((item.abs() < _LARGE).all()) for item in items])  # not if nan
    lost = int((~sound).sum())
    if lost and (all_of_them or lost == len(items)):
        raise ValueError(
            f"{lost} of the {len(items)} {kind} are not finite: the training diverged; train again "
            "with a smaller lr."
        )
    if lost:
        warnings.warn(
            f"{lost} of the {len(items)} {kind} are not finite and left out.", stacklevel=3
        )
    return sound


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
