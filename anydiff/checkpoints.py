"""A trained diffusion in one file that anyone may open.

The file is safetensors: the denoiser's weights by their names, with those of a schedule that is learned,
and in its header a JSON config that says which denoiser, schedule and prediction they belong to.
Whatever else a model needs to be used (the distribution of sizes, the scaling of the data) travels with
it: tensors among the weights, the rest in the config. Opening such a file reads numbers and text; it
never runs code from it.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anydiff import schedules
from anydiff.diffusion import GaussianDiffusion
from anydiff.predictions import PREDICTIONS, Preconditioned, PredictionType
from anydiff.schedules import Schedule

__all__ = ["load", "save"]

FORMAT = 2  # 1 had the prediction's name alone


def save(
    path: str | os.PathLike[str],
    diffusion: GaussianDiffusion,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a diffusion to a file, whole or not at all.

    The weighting of the loss is not kept: it has done its work.

    Arguments:
        path: The file, by custom ``*.safetensors``. One that exists is replaced in one step.
        extra: What else to keep: tensors, and values that JSON can hold.

    Raises:
        ValueError: If the denoiser has no ``config``, a dict of its constructor's arguments.
    """
    from safetensors.torch import save as to_bytes

    denoiser, extra = diffusion.denoiser, dict(extra or {})
    if not hasattr(denoiser, "config"):
        raise ValueError(
            f"{type(denoiser).__name__} has no attribute `config`; set it to the JSON-able arguments "
            "of its constructor, so that the network can be built again."
        )
    tensors = {f"extra.{k}": v for k, v in extra.items() if isinstance(v, Tensor)}
    for part, module in (("denoiser", denoiser), ("schedule", diffusion.schedule)):
        if isinstance(module, nn.Module):
            tensors |= {f"{part}.{k}": v for k, v in module.state_dict().items()}
    config = {
        "format": FORMAT,
        "denoiser": {"name": type(denoiser).__name__, "config": denoiser.config},
        "schedule": _describe_schedule(diffusion.schedule),
        "prediction": _describe_prediction(diffusion.predicts),
        "extra": {k: v for k, v in extra.items() if not isinstance(v, Tensor)},
    }

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    partial.write_bytes(to_bytes(tensors, metadata={"anydiff": json.dumps(config)}))
    os.replace(partial, path)


def load(
    path: str | os.PathLike[str],
    denoiser: nn.Module | None = None,
    schedule: Schedule | None = None,
    prediction: str | PredictionType | None = None,
) -> tuple[GaussianDiffusion, dict[str, Any]]:
    """Read a diffusion, in eval mode on the CPU, and what was kept beside it.

    Arguments:
        path: A file that :func:`save` wrote.
        denoiser: The network to fill, for one of your own. One of `anydiff.denoisers` is built from
            the file's config.
        schedule: The schedule, for one of your own; filled too if it is a module.
        prediction: The prediction type, for one of your own.

    Returns:
        The diffusion and the dict `extra`.

    Raises:
        ValueError: If the file is not such a file, is damaged, or its weights are of another shape.
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
        schedule = _build_schedule(path, config["schedule"])
    if isinstance(schedule, nn.Module):
        _fill(path, schedule, _part(tensors, "schedule"))
    if prediction is None:
        prediction = _build_prediction(path, config["prediction"])

    diffusion = GaussianDiffusion(network, schedule, prediction)
    extra = config["extra"] | _part(tensors, "extra")
    return diffusion.eval(), extra


def _describe_schedule(schedule: Schedule) -> dict[str, Any]:
    name = type(schedule).__name__
    if _schedule_class(name) is not type(schedule):
        return {"name": name, "config": None}  # load asks for it
    if isinstance(schedule, nn.Module):
        return {"name": name, "config": schedule.config}
    values = {f.name: getattr(schedule, f.name) for f in fields(schedule)}  # type: ignore[arg-type]
    for key, value in values.items():
        if isinstance(value, Schedule):
            values[key] = _describe_schedule(value)
        elif isinstance(value, Tensor):
            values[key] = value.tolist()
    return {"name": name, "config": values}


def _build_schedule(path: str | os.PathLike[str], entry: dict[str, Any]) -> Schedule:
    known = _schedule_class(entry["name"])
    if known is None or entry["config"] is None:
        raise ValueError(
            f"{path} uses the schedule {entry['name']!r}, which is not one of "
            "anydiff.schedules; pass it as load(path, schedule=...)."
        )
    values = {
        k: _build_schedule(path, v) if isinstance(v, dict) else v
        for k, v in entry["config"].items()
    }
    return known(**values)


def _schedule_class(name: str) -> type[Schedule] | None:
    """The schedule of this library that has the name, if one has."""
    known = getattr(schedules, name) if name in schedules.__all__ else None
    if isinstance(known, type) and issubclass(known, Schedule) and not inspect.isabstract(known):
        return known
    return None


def _describe_prediction(prediction: PredictionType) -> dict[str, Any]:
    config: dict[str, Any] | None = None  # then load asks for it
    if prediction == PREDICTIONS.get(prediction.name):
        config = {}
    elif type(prediction) is Preconditioned:
        config = {"sigma_data": prediction.sigma_data}
    return {"name": prediction.name, "config": config}


def _build_prediction(
    path: str | os.PathLike[str], entry: dict[str, Any] | str
) -> str | PredictionType:
    if isinstance(entry, str):  # format 1
        entry = {"name": entry, "config": {}}
    name, config = entry["name"], entry["config"]
    if name not in PREDICTIONS or config is None or (config and name != "karras"):
        raise ValueError(
            f"{path} has the prediction type {name!r}, which is not one of "
            f"{', '.join(PREDICTIONS)}; pass it as load(path, prediction=...)."
        )
    return Preconditioned(sigma_data=config["sigma_data"]) if config else name


def _build_denoiser(path: str | os.PathLike[str], entry: dict[str, Any]) -> nn.Module:
    from anydiff import denoisers

    if entry["name"] not in denoisers.__all__:
        raise ValueError(
            f"{path} holds a {entry['name']}, which is not one of anydiff.denoisers; build the network "
            "and pass it as load(path, denoiser=...)."
        )
    return getattr(denoisers, entry["name"])(**entry["config"])


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    prefix = f"{part}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _fill(path: str | os.PathLike[str], module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights that have the shapes of the module's own, which takes on their dtype."""
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
