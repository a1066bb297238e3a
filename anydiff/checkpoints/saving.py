"""Writing a diffusion: what its parts are called in a file, and what no file can hold."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anydiff.checkpoints.described import (
    Unknown,
    assemble,
    check_shapes,
    describe,
    describe_target,
    known,
    plain,
)
from anydiff.checks import check_kind
from anydiff.denoisers.configured import as_json, planned
from anydiff.diffusion import GaussianDiffusion
from anydiff.discrete import CategoricalDiffusion
from anydiff.files import PathLike, whole
from anydiff.latent import Latent
from anydiff.lora import adapted
from anydiff.predictions import wrapped

__all__ = ["FORMAT", "OBJECTIVE", "clean", "parts", "save", "state"]

FORMAT = 5  # 5 has tokens, 4 latents, 2 no objective, 1 only the prediction's name
Diffusion = GaussianDiffusion | Latent | CategoricalDiffusion
OBJECTIVE = ("weighting", "times", "error")


def save(path: PathLike, diffusion: Diffusion, extra: Mapping[str, Any] | None = None) -> None:
    """Write a diffusion to a file, completely or not at all; a latent one with its autoencoder.

    Of the diffusion, everything that its constructor takes is kept, but functions and objects of your own
    classes; these are given to :func:`load`, which says what it needs and what is lost. A denoiser inside
    a compiled, parallel or averaged module is saved as itself. Kept beside it are which parameters are
    fixed (``requires_grad_(False)``), if not all are, and what ``get_extra_state`` of modules returns, if
    JSON can hold it.

    Arguments:
        path: The file, ``*.safetensors`` by convention. An existing file is replaced atomically.
        diffusion: The model, which is saved with its objective, so that training can continue.
        extra: Additional values to store, by name: tensors and arrays, which come back as tensors, and
            values that JSON can represent. Tuples come back as lists.

    Raises:
        ValueError: If a value can be stored neither as a tensor nor in JSON, which the error names, or if
            the model is no diffusion.
        OSError: If the file cannot be written.
    """
    from safetensors.torch import save as to_bytes

    while (inner := wrapped(diffusion)) is not None:
        diffusion = inner  # type: ignore[assignment]
    check_kind(Diffusion, "a diffusion, after the path", diffusion=diffusion)
    if adapted(diffusion):
        raise ValueError(
            "the model has adapters, which no file of a model holds; merge them into it, or save them "
            "alone by anydiff.lora.save_adapter."
        )
    model: Diffusion = diffusion
    diffusion = model.diffusion if isinstance(model, Latent) else model
    kind = (
        CategoricalDiffusion if isinstance(diffusion, CategoricalDiffusion) else GaussianDiffusion
    )
    if type(diffusion) is not kind:
        warnings.warn(
            f"a {type(diffusion).__name__} is saved as the {kind.__name__} that it is; what its class "
            "adds is not kept.",
            stacklevel=2,
        )
    values: dict[str, Any] = {}
    for part, module in parts(model).items():
        values |= {f"{part}.{k}": v for k, v in state(module).items()}
    fixed = {
        f"{part}.{clean(k)}": not p.requires_grad
        for part, module in parts(model).items()
        for k, p in module.named_parameters()
    }
    beside = plain_keys({} if extra is None else extra)
    arrays = {f"extra.{k}": v for k, v in beside.items() if isinstance(v, Tensor | np.ndarray)}
    tensors = {k: v for k, v in (values | arrays).items() if isinstance(v, Tensor | np.ndarray)}
    config = {
        "format": 4 if isinstance(model, Latent) else 3,
        "denoiser": _describe_denoiser(diffusion),
        "schedule": describe(diffusion.schedule),
        "objective": {
            k: describe(getattr(diffusion, k)) for k in OBJECTIVE if hasattr(diffusion, k)
        }
        | {
            k: plain(getattr(diffusion, k), k) for k in ("drop", "augment") if hasattr(diffusion, k)
        },
        "states": {k: plain(v, k) for k, v in values.items() if k not in tensors},
        "fixed": [] if all(fixed.values()) else [k for k, v in fixed.items() if v],
        "extra": {
            k: plain(v, f"extra[{k!r}]") for k, v in beside.items() if f"extra.{k}" not in arrays
        },
    }
    if isinstance(diffusion, CategoricalDiffusion):
        kernel = describe(diffusion.kernel)
        if kernel["config"] is None:
            raise ValueError(
                f"the kernel {kernel['name']} is one of your own, which no file can store; keep the "
                "weights alone, by safetensors."
            )
        tokens = {"kernel": kernel, "axis": diffusion.axis}
        config |= {"format": FORMAT, "tokens": tokens}
    else:
        config["prediction"] = describe_target(diffusion.target)
    if isinstance(model, Latent):
        config["latent"] = _describe_latent(model)
    contents = to_bytes(
        {k: _stored(v, k) for k, v in tensors.items()},
        metadata={"anydiff": json.dumps(plain(config, "config"))},
    )
    with whole(path) as partial:
        Path(partial).write_bytes(contents)


def parts(diffusion: Diffusion) -> dict[str, nn.Module]:
    """The modules whose weights a file keeps, by the names that they have in it.

    Arguments:
        diffusion: The model.
    """
    if isinstance(diffusion, Latent):
        beside = {"autoencoder": diffusion.autoencoder, "standard": diffusion.standard}
        return parts(diffusion.diffusion) | beside
    found = {"denoiser": bare(diffusion)} | {
        k: getattr(diffusion, k, None) for k in ("schedule", *OBJECTIVE)
    }
    return {k: v for k, v in found.items() if isinstance(v, nn.Module)}


def bare(diffusion: Diffusion) -> Any:
    """The denoiser without what compiles, parallelises or averages it; the modules that a function holds.

    Arguments:
        diffusion: The model.
    """
    denoiser: Any = diffusion.denoiser
    while (inner := wrapped(denoiser)) is not None:
        denoiser = inner
    return denoiser if isinstance(denoiser, nn.Module) else getattr(diffusion, "held", denoiser)


def state(module: nn.Module) -> dict[str, Any]:
    """The state of a module, under the names that it has while no part of it is compiled.

    Arguments:
        module: Whose state.
    """
    return {clean(k): v for k, v in module.state_dict().items()}


def clean(name: str) -> str:
    """The name of a tensor while no module is compiled.

    Arguments:
        name: The name.
    """
    return name.replace("_orig_mod.", "")


def _describe_latent(latent: Latent) -> dict[str, Any]:
    """The autoencoder, and the objective of both."""
    described: dict[str, Any] = {
        "autoencoder": describe(latent.autoencoder), "cross": latent.cross, "likelihood": None,
    }  # fmt: skip
    if (objective := latent.likelihood) is not None:
        described["likelihood"] = {
            "beta": objective.beta, "log_noise": float(objective.log_noise.detach()),
            "learned": isinstance(objective.level, nn.Parameter),
        }  # fmt: skip
    return described


def _describe_denoiser(diffusion: GaussianDiffusion | CategoricalDiffusion) -> dict[str, Any]:
    """Its class and config; one that is not as its class builds it is described as one of the user's."""
    network, given = bare(diffusion), diffusion.denoiser
    if not isinstance(given, nn.Module):  # a function around networks
        return {"name": getattr(given, "__name__", type(given).__name__), "config": None}
    kind = type(network)
    name, config = kind.__name__, getattr(network, "config", None)
    if isinstance(config, Mapping):
        config = plain({k: as_json(v) for k, v in config.items()}, f"{name}.config")
    else:
        config = None
    own = known().get(name)
    if own is None:
        return {"name": name, "config": config}
    if own is not kind:
        return {"name": f"{kind.__module__}.{name}", "config": config}
    held = state(network)
    try:
        check_shapes(
            state(planned(lambda: assemble(own, config or {}, held), len(held))), held, name
        )
    except Unknown:  # one of the user's own is a part of it, which load will ask for
        return {"name": name, "config": config}
    except Exception as error:
        warnings.warn(
            f"the {name} was changed after it was built ({str(error).partition(';')[0]}); only "
            "load(path, denoiser=...) will open the file, with a network that is changed likewise.",
            stacklevel=3,
        )
        return {"name": f"changed {name}", "config": config}
    return {"name": name, "config": config}


def plain_keys(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored beside a model, after a check of its names.

    Arguments:
        extra: Values by name.

    Raises:
        ValueError: If it is no dict, or a name is not a string.
    """
    if not isinstance(extra, Mapping):
        raise ValueError(
            f"extra is of type {type(extra).__name__}; give values by name, as a dict."
        )
    for key in extra:
        if not isinstance(key, str):
            raise ValueError(f"extra has the key {key!r}; give names, str(key) for instance.")
    return dict(extra)


def _stored(value: Tensor | np.ndarray, name: str) -> Tensor:
    """A tensor in memory of its own, as safetensors writes it."""
    from safetensors.torch import save as to_bytes

    try:
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
        to_bytes({name: torch.empty(0, dtype=value.dtype)})  # safetensors has not all dtypes
        return value.detach().cpu().contiguous().clone()
    except (KeyError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{name} cannot be stored as a tensor ({error}).") from error
