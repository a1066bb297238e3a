r"""Pipelines of the library diffusers: the chain that a network was trained on, from its scheduler.

A scheduler's configuration says which table of rates, how many steps, and what the network predicts;
the rest of it concerns sampling, and is chosen here by sampler and grid. With the folder of a pipeline
that has a `UNet2DModel`, and with objects of diffusers:

    diffusion = load_pipeline("ddpm-cifar10-32")

    chain = read_chain(pipeline.scheduler.config)
    network = FromDiffusers(pipeline.unet, chain.steps, absent={"encoder_hidden_states": empty})
    diffusion = GaussianDiffusion(network, chain.schedule, chain.prediction)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anydiff.denoisers.unet.diffusers import load_diffusers, read_config
from anydiff.diffusion import GaussianDiffusion
from anydiff.files import PathLike
from anydiff.predictions import as_target
from anydiff.schedules import Flow, Schedule, Tabulated, ZeroTerminalSNR

__all__ = ["Trained", "load_pipeline", "read_chain"]

_FILE = "scheduler_config.json"
_PREDICTIONS = {
    "epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "velocity",
}  # fmt: skip


class Trained(NamedTuple):
    """What a network was trained on.

    Arguments:
        schedule: t -> (alpha, sigma).
        prediction: What the network predicts.
        steps: As :class:`~anydiff.denoisers.unet.foreign.FromDiffusers` takes it: the number of steps,
            or the time that the network is given.
    """

    schedule: Schedule
    prediction: str
    steps: int | Callable[[Tensor], Tensor]


def load_pipeline(folder: PathLike, variant: str | None = None) -> GaussianDiffusion:
    """A pipeline of a `UNet2DModel` with its chain, which need not have 1,000 steps.

    Arguments:
        folder: The folder with ``unet`` and ``scheduler``.
        variant: Which weights, as for :func:`~anydiff.denoisers.unet.diffusers.load_diffusers`.

    Returns:
        The diffusion, in eval mode on the CPU.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If the scheduler or the network is not one that is known here.
    """
    chain = read_chain(folder)
    if not isinstance(chain.steps, int):
        raise ValueError(
            f"{folder} has a network of flow matching, which is not given the steps of a chain; wrap the "
            "object with FromDiffusers and read_chain."
        )
    network = load_diffusers(folder, chain.steps, variant)
    return GaussianDiffusion(network, chain.schedule, chain.prediction).eval()


def read_chain(config: PathLike | Mapping[str, Any]) -> Trained:
    """The chain of a scheduler.

    Whether samples are clipped, how steps are spaced, and which solver takes them is not read.

    Arguments:
        config: The configuration of a scheduler object; or the folder of a pipeline or a scheduler, or
            the file ``scheduler_config.json``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the scheduler is none of a table of rates or of flow matching, or an entry has a
            value that is not known here.
    """
    about = "the configuration"
    if isinstance(config, str | os.PathLike):
        path = Path(config)
        tries = (path, path / _FILE, path / "scheduler" / _FILE)
        file = next((file for file in tries if file.is_file()), None)
        if file is None:
            raise FileNotFoundError(f"{path} holds no {_FILE}; give the folder of a pipeline.")
        about, config = str(file), read_config(file)
    get, name = config.get, config.get("_class_name", "scheduler")

    def refuse(what: str) -> ValueError:
        return ValueError(
            f"{about} of {name} has {what:.300}, which is not read; build the schedule yourself."
        )

    steps, kind = get("num_train_timesteps", 1000), get("prediction_type", "epsilon")
    if type(steps) is not int or not 1 <= steps <= 2**20:
        raise refuse(f"num_train_timesteps {steps!r}")
    flows = str(name).startswith("FlowMatch") or bool(get("use_flow_sigmas"))
    if flows or kind == "flow_prediction":
        if get("invert_sigmas"):
            raise refuse("invert_sigmas true")
        return Trained(Flow(), "velocity", lambda t: steps * t)
    if not isinstance(kind, str) or kind not in _PREDICTIONS:
        raise refuse(f"prediction_type {kind!r}")
    if get("snr_shift_scale") not in (None, 1):
        raise refuse(f"snr_shift_scale {get('snr_shift_scale')!r}")
    try:
        table = Tabulated.from_betas(_betas(config, steps))
        schedule = _rescaled(table) if get("rescale_betas_zero_snr") else table
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise refuse(
            f"trained_betas, beta_schedule, beta_start or beta_end that make no table ({error})"
        ) from error
    try:
        as_target(_PREDICTIONS[kind], schedule)
    except ValueError as error:
        raise refuse(f"rescale_betas_zero_snr and prediction_type {kind!r} ({error})") from error
    return Trained(schedule, _PREDICTIONS[kind], steps)


def _rescaled(table: Tabulated) -> Schedule:
    """The table rescaled to zero SNR as diffusers does it: row 1 stays, not the state at t = 0."""
    alpha = table.alpha_bar.sqrt()
    first, last = alpha[0], alpha[-1]
    if len(alpha) == 1:
        raise ValueError("a table of one row cannot be rescaled")
    theirs = first * (alpha - last) / (first - last)
    # of this, ZeroTerminalSNR makes theirs
    return ZeroTerminalSNR(Tabulated((last + (1 - last) * theirs).square()))


def _betas(config: Mapping[str, Any], steps: int) -> Tensor:
    """The rates of a table, (T,); an error of some kind if the configuration does not say them."""
    if (betas := config.get("trained_betas")) is not None:
        table = torch.as_tensor(betas, dtype=torch.float64)
        if table.shape != (steps,):
            raise ValueError(f"{tuple(table.shape)} of them for {steps} steps")
        return table
    kind = config.get("beta_schedule")
    if kind == "squaredcos_cap_v2":
        alpha_bar = torch.cat([torch.ones(1), Tabulated.cosine(steps).alpha_bar])
        return 1 - alpha_bar[1:] / alpha_bar[:-1]
    low, high = (float(config.get(end, "nan")) for end in ("beta_start", "beta_end"))
    if not (low > 0 and high > 0):
        raise ValueError(f"beta_start is {low:g} and beta_end {high:g}")
    even = torch.linspace(0, 1, steps, dtype=torch.float64)
    if kind == "linear":
        return low + (high - low) * even
    if kind == "scaled_linear":
        return torch.square(low**0.5 + (high**0.5 - low**0.5) * even)
    if kind == "sigmoid":
        return low + (high - low) * torch.sigmoid(12 * even - 6)
    raise ValueError(f"beta_schedule is {kind!r}")
