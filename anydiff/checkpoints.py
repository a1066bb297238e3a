"""Checkpoints: a trained diffusion in one file that is safe to open.

The file is in the safetensors format. It holds the weights of the denoiser, and those of a learned
schedule or objective, by name; a JSON config in its header describes the denoiser, schedule, prediction
and objective. Whatever else a model needs (the distribution of sizes, the scaling of the data) is stored
in the same file: tensors with the weights, other values in the config. Loading reads numbers and text,
and never runs code from the file.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from anydiff import likelihood, losses, schedules
from anydiff.diffusion import GaussianDiffusion
from anydiff.files import PathLike, whole
from anydiff.losses import SquaredError, Times, Weighting
from anydiff.predictions import TARGETS, Preconditioned, Target, wrapped
from anydiff.schedules import Schedule

__all__ = ["load", "save"]

T = TypeVar("T")

FORMAT = 3  # format 2 has no objective, format 1 only the prediction's name
OBJECTIVE = {"weighting": Weighting, "times": Times, "error": SquaredError}


def save(
    path: PathLike, diffusion: GaussianDiffusion, extra: Mapping[str, Any] | None = None
) -> None:
    """Write a diffusion to a file, completely or not at all.

    Arguments:
        path: The file, ``*.safetensors`` by convention. An existing file is replaced atomically.
        diffusion: The model, which is saved with its objective, so that training can continue.
        extra: Additional values to store: tensors, and values that JSON can represent.

    Raises:
        ValueError: If the denoiser has no ``config``, a dict of its constructor's arguments.
    """
    from safetensors.torch import save as to_bytes

    denoiser, extra = diffusion.denoiser, dict(extra or {})
    while (inner := wrapped(denoiser)) is not None:
        if hasattr(denoiser, "config") and not hasattr(denoiser, "_orig_mod"):
            break  # a network of its own, with a part that is called `module`
        denoiser = inner
    if not hasattr(denoiser, "config"):
        raise ValueError(
            f"{type(denoiser).__name__} has no attribute `config` with the arguments of its constructor, "
            "from which it can be built again; decorate the class with anydiff.denoisers.configured."
        )
    tensors = {f"extra.{k}": v for k, v in extra.items() if isinstance(v, Tensor)}
    parts = {"denoiser": denoiser} | {k: getattr(diffusion, k) for k in ("schedule", *OBJECTIVE)}
    for part, module in parts.items():
        if isinstance(module, nn.Module):
            tensors |= {f"{part}.{k}": v for k, v in module.state_dict().items()}
    objective = {name: _describe(getattr(diffusion, name)) for name in OBJECTIVE}
    config = {
        "format": FORMAT,
        "denoiser": {"name": type(denoiser).__name__, "config": denoiser.config},
        "schedule": _describe(diffusion.schedule),
        "prediction": _describe_target(diffusion.target),
        "objective": objective | {"drop": diffusion.drop, "augment": diffusion.augment},
        "extra": {k: v for k, v in extra.items() if not isinstance(v, Tensor)},
    }
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    with whole(path) as partial:
        Path(partial).write_bytes(to_bytes(tensors, metadata={"anydiff": json.dumps(config)}))


def load(
    path: PathLike,
    denoiser: nn.Module | None = None,
    schedule: Schedule | None = None,
    prediction: str | Target | None = None,
) -> tuple[GaussianDiffusion, dict[str, Any]]:
    """Read a diffusion, in eval mode on the CPU, and the values stored with it.

    A warning names the parts of the objective that no file can store, such as functions.

    Arguments:
        path: A file written by :func:`save`.
        denoiser: The network to load the weights into, if it is your own. A network of
            `anydiff.denoisers` is built from the config of the file.
        schedule: The schedule, if it is your own; the weights of a module are loaded too.
        prediction: The prediction target, if it is your own.

    Returns:
        The diffusion and the dict `extra`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a checkpoint, is damaged or of a newer format, if it needs a denoiser,
            schedule or prediction of your own, or if its weights have other shapes.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give a checkpoint written by anydiff.save.")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("anydiff")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file, or is damaged ({error}); give a checkpoint written by "
            "anydiff.save."
        ) from error
    if header is None:
        raise ValueError(
            f"{path} holds tensors but no anydiff config; load it with safetensors itself."
        )
    config = json.loads(header)
    if config["format"] > FORMAT:
        raise ValueError(
            f"{path} is of format {config['format']} and this anydiff reads up to {FORMAT}; upgrade it."
        )

    network = _build_denoiser(path, config["denoiser"]) if denoiser is None else denoiser
    _fill(path, network, _part(tensors, "denoiser"))
    if schedule is None:
        try:
            schedule = _build(config["schedule"], Schedule)  # type: ignore[type-abstract]
        except _Unknown as name:
            raise ValueError(
                f"{path} uses the schedule '{name}', which is not one of anydiff.schedules; pass it as "
                "load(path, schedule=...)."
            ) from None
    if prediction is None:
        prediction = _build_target(path, config["prediction"])
    objective = config.get("objective", {})
    kept: dict[str, Any] = {}
    lost: dict[str, _Unknown] = {}
    for k, base in OBJECTIVE.items():
        try:
            if k in objective:
                kept[k] = _build(objective[k], base)
        except _Unknown as name:
            lost[k] = name
    if lost:
        names = " and ".join(f"the {k} '{name}'" for k, name in lost.items())
        warnings.warn(
            f"{path} was trained with {names}, which no file can store; sampling is unaffected, but set "
            f"{', '.join(f'diffusion.{k}' for k in lost)} before you continue training.",
            stacklevel=2,
        )
    shares: dict[str, Any] = {k: objective.get(k) for k in ("drop", "augment")}

    diffusion = GaussianDiffusion(network, schedule, prediction, **kept, **shares)
    for part in ("schedule", *kept):
        if isinstance(module := getattr(diffusion, part), nn.Module):
            _fill(path, module, _part(tensors, part))
    extra = config["extra"] | _part(tensors, "extra")
    return diffusion.eval(), extra


def _describe(value: Any) -> Any:
    """The class name and arguments of an object of the library, or a value that JSON can represent."""
    if isinstance(value, Tensor):
        return value.tolist()
    if value is None or isinstance(value, bool | int | float | str | list | tuple):
        return value
    kind = type(value)
    if _known().get(kind.__name__) is not kind:  # a class or function of the user
        return {"name": getattr(value, "__name__", kind.__name__), "config": None}
    config = getattr(value, "config", None)
    if config is None:
        names = inspect.signature(kind).parameters
        config = {name: _describe(getattr(value, name)) for name in names}
    return {"name": kind.__name__, "config": config}


class _Unknown(Exception):
    """The name of an object that is not part of the library, or not of the required class."""


def _build(entry: Any, base: type[T]) -> T:
    """Build the object from its description, the inverse of `_describe`."""
    known = _known().get(entry["name"])
    if known is None or entry["config"] is None or not issubclass(known, base):
        raise _Unknown(entry["name"])
    return known(
        **{k: _build(v, object) if isinstance(v, dict) else v for k, v in entry["config"].items()}
    )


def _known() -> dict[str, type[Any]]:
    """The classes that a file may refer to, by name."""
    rooms = (schedules, losses, likelihood)
    found = {name: getattr(room, name) for room in rooms for name in room.__all__}
    return {k: v for k, v in found.items() if isinstance(v, type) and not inspect.isabstract(v)}


def _describe_target(target: Target) -> dict[str, Any]:
    config: dict[str, Any] | None = None  # `load` then needs the target as an argument
    if target == TARGETS.get(target.name):
        config = {}
    elif type(target) is Preconditioned:
        config = {"sigma_data": target.sigma_data}
    return {"name": target.name, "config": config}


def _build_target(path: PathLike, entry: dict[str, Any] | str) -> str | Target:
    if isinstance(entry, str):  # format 1
        entry = {"name": entry, "config": {}}
    name, config = entry["name"], entry["config"]
    if name not in TARGETS or config is None or (config and name != "karras"):
        raise ValueError(
            f"{path} has the prediction {name!r}, which is not one of "
            f"{', '.join(TARGETS)}; pass it as load(path, prediction=...)."
        )
    return Preconditioned(sigma_data=config["sigma_data"]) if config else name


def _build_denoiser(path: PathLike, entry: dict[str, Any]) -> nn.Module:
    from anydiff import denoisers

    known = getattr(denoisers, entry["name"]) if entry["name"] in denoisers.__all__ else None
    if not (isinstance(known, type) and issubclass(known, nn.Module)):
        raise ValueError(
            f"{path} holds a {entry['name']}, which is not one of anydiff.denoisers; build the network "
            "and pass it as load(path, denoiser=...)."
        )
    return known(**entry["config"])


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors whose names have a prefix, with the prefix removed."""
    prefix = f"{part}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _fill(path: PathLike, module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights into a module after checking their shapes; the module takes on their dtype."""
    own = module.state_dict()
    for name in own | weights:
        here = tuple(own[name].shape) if name in own else "nothing"
        there = tuple(weights[name].shape) if name in weights else "nothing"
        if here != there:
            raise ValueError(
                f"{path} has {there} where {type(module).__name__} has {here} ({name}); build it with "
                "the arguments that the file was saved with."
            )
    floating = [w.dtype for w in weights.values() if w.is_floating_point()]
    module.to(floating[0] if floating else torch.get_default_dtype()).load_state_dict(weights)
