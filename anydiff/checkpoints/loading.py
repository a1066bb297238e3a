"""Reading a diffusion from a file that may come from anybody.

What a file says is compared with its tensors before anything is built, and an error in any part of it
ends as one :class:`CheckpointError` that names the file and the part.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_type_hints

import torch
from torch import nn

from anydiff import denoisers
from anydiff.autoencoders import Autoencoder, Autoencoding
from anydiff.autoencoders.autoencoder import QUICK
from anydiff.checkpoints.described import Unknown, build, build_target, check, check_shapes, within
from anydiff.checkpoints.saving import FORMAT, clean, parts, state
from anydiff.diffusion import GaussianDiffusion
from anydiff.discrete import CategoricalDiffusion, Kernel
from anydiff.files import PathLike
from anydiff.latent import Latent
from anydiff.losses import SquaredError, Times, Weighting
from anydiff.predictions import TARGETS, Target
from anydiff.schedules import Schedule

__all__ = ["CheckpointError", "contents", "fill", "load", "reading"]

CLASSES: dict[str, Any] = {
    "denoiser": nn.Module, "schedule": Schedule, "weighting": Weighting, "times": Times,
    "error": SquaredError,
}  # fmt: skip
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckpointError(ValueError):
    """A file that holds no such model. The message names the file, and the part that is wrong."""


@contextmanager
def reading(path: PathLike, part: object) -> Iterator[None]:
    """Turn whatever goes wrong while a part of a file is read into an error that names both.

    Arguments:
        path: The file.
        part: What is read, as text or an object that is made into text when something goes wrong.

    Raises:
        CheckpointError: If anything goes wrong.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # a file may hold anything, and constructors raise of every kind
        text = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        text = f"no {text}" if isinstance(error, KeyError) else text
        raise CheckpointError(f"{path}: its {part} cannot be read: {text}.") from error


def load(
    path: PathLike,
    denoiser: nn.Module | None = None,
    schedule: Schedule | None = None,
    prediction: str | Target | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Read a diffusion, in eval mode on the CPU, and the values stored with it.

    A warning names the parts of the objective that no file can store, such as functions.

    Weights that are built in one dtype come back in one dtype, the widest that they have in the file. A
    file whose weights are not finite is refused, since such a model draws nothing: its training has
    diverged. To inspect them, read the tensors with ``safetensors.torch.load_file(path)``.

    Arguments:
        path: A file written by :func:`save`.
        denoiser: The network to load the weights into, if it is your own. A network of
            `anydiff.denoisers` is built from the config of the file.
        schedule: The schedule, if it is your own; the weights of a module are loaded too.
        prediction: The prediction target, if it is your own.

    Returns:
        The diffusion, :class:`~anydiff.GaussianDiffusion`, :class:`~anydiff.latent.Latent` or
        :class:`~anydiff.discrete.CategoricalDiffusion`, and the dict `extra`.

    Raises:
        FileNotFoundError: If the file does not exist.
        CheckpointError: If it is not a checkpoint, is damaged or of a newer format, if it needs a
            denoiser, schedule or prediction of your own, or if its weights have other shapes or dtypes
            or are not finite. It is a ValueError.
    """
    config, tensors = _read(path)
    given = {"denoiser": denoiser, "schedule": schedule}
    built: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    described = {k: config.get(k) for k in given} | config["objective"]
    lost: dict[str, str] = {}
    for part, wanted in CLASSES.items():
        if part in built or part not in described:
            continue
        with reading(path, part):
            try:
                if part == "denoiser" and described[part]["name"] not in denoisers.__all__:
                    raise Unknown(str(described[part]["name"])[:60])
                built[part] = build(described[part], wanted, within(tensors, part))
            except Unknown as name:
                lost[part] = str(name)
    for part in given.keys() & lost.keys():
        raise CheckpointError(
            f"{path} has the {part} '{lost[part]}', which is not one of anydiff.{part}s; build it and "
            f"pass it as load(path, {part}=...)."
        )
    with reading(path, "prediction"):
        target = None
        try:
            if "tokens" not in config:
                target = prediction or build_target(config["prediction"])
        except Unknown as name:
            raise CheckpointError(
                f"{path} has the prediction '{name}', which is not one of {', '.join(TARGETS)}; pass it "
                "as load(path, prediction=...)."
            ) from None
    if lost:
        names = " and ".join(f"the {k} '{name}'" for k, name in lost.items())
        warnings.warn(
            f"{path} was trained with {names}, which no file can store; set "
            f"{', '.join(f'diffusion.{k}' for k in lost)} before you continue training, and the times of "
            "a distilled model before you draw.",
            stacklevel=2,
        )
    with reading(path, "objective"):
        kind: Any = CategoricalDiffusion if "tokens" in config else GaussianDiffusion
        hints = get_type_hints(kind.__init__)
        shares = {k: described.get(k) for k in ("drop", "augment") if k in hints}
        for k, value in shares.items():
            check(value, hints[k], k)
    with reading(path, "diffusion"):
        diffusion: Any
        if target is None:
            tokens, wanted = config["tokens"], cast(Any, Kernel)
            check(tokens["axis"], int, "axis")
            kernel = build(tokens["kernel"], wanted, {})
            diffusion = CategoricalDiffusion(**built, kernel=kernel, axis=tokens["axis"], **shares)
        else:
            diffusion = GaussianDiffusion(**built, prediction=target, **shares)
    if "latent" in config:
        with reading(path, "latent"):
            diffusion = _latent(diffusion, config["latent"], tensors)
    for part, module in parts(diffusion).items():
        with reading(path, part):
            fill(module, within(tensors, part))
        for key, parameter in module.named_parameters():
            if f"{part}.{clean(key)}" in config["fixed"]:
                parameter.requires_grad_(False)
    return diffusion.eval(), config["extra"] | within(tensors, "extra")


def _latent(
    diffusion: GaussianDiffusion, described: Mapping[str, Any], tensors: Mapping[str, Any]
) -> Latent:
    """A latent diffusion around the diffusion of its latents."""
    try:
        wanted: Any = Autoencoder
        autoencoder = build(described["autoencoder"], wanted, within(tensors, "autoencoder"))
    except Unknown as other:
        raise ValueError(
            f"the autoencoder is '{other}', which is not one of anydiff.autoencoders"
        ) from None
    check(described["cross"], float, "cross")
    if (how := described["likelihood"]) is None:
        return Latent(autoencoder, diffusion, cross=described["cross"])
    for name, hint in (("beta", float), ("log_noise", float), ("learned", bool)):
        check(how[name], hint, name)
    noise = math.exp(how["log_noise"] / 2)
    objective = Autoencoding(autoencoder, how["beta"], None if how["learned"] else noise)
    objective.level.data.fill_(how["log_noise"] / QUICK)
    return Latent(autoencoder, diffusion, objective, described["cross"])


def _read(path: PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config of a file and all that it holds by name, tensors and states."""
    if not Path(path).is_file():
        what = "a folder" if Path(path).is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {what}; give a checkpoint written by anydiff.save.")
    header, tensors = contents(path, "anydiff")
    if header is None:
        raise CheckpointError(
            f"{path} holds tensors but no anydiff config; load it with safetensors itself."
        )
    with reading(path, "config"):
        config = {"objective": {}, "states": {}, "fixed": []} | json.loads(header)
        number = config["format"]
        if type(number) is not int or number < 1:
            raise ValueError(f"format is {repr(number)[:60]}, not a number from 1")
        if number > FORMAT:
            raise CheckpointError(
                f"{path} is of format {number} and this anydiff reads up to {FORMAT}; upgrade it."
            )
        for name in ("objective", "states", "extra"):
            if not isinstance(config[name], dict):
                raise ValueError(f"{name} is {repr(config[name])[:60]}, not a dict")
        check(config["fixed"], list[str], "fixed", longest=len(tensors))
    return config, config["states"] | tensors


def contents(path: PathLike, key: str) -> tuple[str | None, dict[str, Any]]:
    """An entry of a file's header, None if there is none, and the tensors by name.

    Arguments:
        path: The file.
        key: The entry.

    Raises:
        CheckpointError: If it is no file of safetensors.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(key)
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # of safetensors, of the system, or of a dtype that torch lacks
        raise CheckpointError(
            f"{path} is not a safetensors file, or is damaged ({error}); give a file that anydiff wrote."
        ) from error


def fill(module: nn.Module, held: Mapping[str, Any]) -> None:
    """Load the state of a module after checking its shapes and dtypes, which the module takes on.

    Arguments:
        module: The module.
        held: Its state, by name.

    Raises:
        ValueError: If the state is another module's, is no floats where there should be some, or is not
            finite.
    """
    own, kind = state(module), type(module).__name__
    check_shapes(own, held, kind)
    wide: dict[torch.dtype, torch.dtype] = {}
    for name, value in held.items():
        if name.endswith("_extra_state"):  # of whatever type
            continue
        here, there = own[name].dtype, value.dtype
        if here != there and not (here in FLOATS and there in FLOATS):
            raise ValueError(f"the file has {there} where {kind} has {here} ({name})")
        if not value.isfinite().all() and own[name].isfinite().all():
            raise ValueError(
                f"{name} is not finite: the training diverged; train again with a smaller lr"
            )
        wide[here] = torch.promote_types(wide.get(here, there), there)
    module._apply(lambda x: x.to(wide.get(x.dtype, x.dtype)))  # type: ignore[no-untyped-call]
    module.load_state_dict({k: held[clean(k)] for k in module.state_dict()})
