r"""Pipelines of the library diffusers: the chain that a network was trained on, from its scheduler.

A scheduler's configuration says which table of rates, how many steps, and what the network predicts;
the rest of it concerns sampling, and is chosen here by sampler and grid. With the folder of a pipeline,
and with objects of diffusers:

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
from torch import Tensor, nn

from anydiff.autoencoders import FromAutoencoder
from anydiff.checks import shown
from anydiff.denoisers.unet.diffusers import load_diffusers, read_config
from anydiff.denoisers.unet.foreign import FromDiffusers
from anydiff.diffusion import GaussianDiffusion
from anydiff.extras import extra
from anydiff.files import PathLike
from anydiff.latent import Latent
from anydiff.predictions import Preconditioned, Target, as_target
from anydiff.schedules import Flow, Karras, Schedule, Tabulated, ZeroTerminalSNR

__all__ = ["Trained", "load_pipeline", "read_chain"]

_FILE = "scheduler_config.json"
_PREDICTIONS = {
    "epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "velocity",
}  # fmt: skip
_LEFT: list[tuple[str, tuple[Any, ...], str]] = [
    ("clip_sample", (True,), "clip_sample: predictions of x0 are not clipped here"),
    ("thresholding", (True,), "thresholding: predictions of x0 are not clipped here"),
    (
        "timestep_spacing",
        ("leading",),
        "timestep_spacing leading: runs begin here at the last step",
    ),
    ("set_alpha_to_one", (False,), "set_alpha_to_one false: runs end here without noise"),
    ("use_dynamic_shifting", (True,), "use_dynamic_shifting: a grid that depends on the size"),
]


class Trained(NamedTuple):
    """What a network was trained on.

    Arguments:
        schedule: t -> (alpha, sigma).
        prediction: What the network predicts.
        steps: As :class:`~anydiff.denoisers.unet.foreign.FromDiffusers` takes it: the number of steps,
            or the time that the network is given.
        left: What the configuration asks of sampling and is not taken over, in words.
    """

    schedule: Schedule
    prediction: str | Target
    steps: int | Callable[[Tensor], Tensor]
    left: tuple[str, ...] = ()


def load_pipeline(
    folder: PathLike, variant: str | None = None, absent: Mapping[str, Tensor | int] | None = None
) -> GaussianDiffusion | Latent:
    """A saved pipeline: its network, its chain, and its autoencoder if it has one.

    A `UNet2DModel` that is given the steps of a chain is loaded into `UNet`. Other networks, and
    autoencoders, are built by diffusers, from safetensors alone. Encoders of texts are not read: give the
    tokens that they make as the condition `encoder_hidden_states`.

    Arguments:
        folder: The folder with ``scheduler``, ``unet`` or ``transformer``, and perhaps ``vae`` or
            ``vqvae``.
        variant: Which weights, as for :func:`~anydiff.denoisers.unet.diffusers.load_diffusers`.
        absent: As :class:`~anydiff.denoisers.unet.foreign.FromDiffusers` takes it, of a network that is
            built by diffusers.

    Returns:
        The diffusion, or :class:`~anydiff.latent.Latent` with the scale that the autoencoder's
        configuration has, in eval mode on the CPU.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ImportError: If diffusers is needed and not installed.
        ValueError: If the scheduler or the network is not one that is known here, or `absent` is given
            and the network is loaded into `UNet`, whose conditions may be absent anyway.
    """
    folder = Path(folder)
    chain = read_chain(folder)
    held = [folder / name for name in ("unet", "transformer") if (folder / name).is_dir()]
    part = held[0] if held else folder
    own = _class(part) in (None, "UNet2DModel") and isinstance(chain.steps, int)
    if own and absent is not None:
        raise ValueError(f"absent is given, and {part} is loaded into UNet; leave it out.")
    network: nn.Module = (
        load_diffusers(folder, chain.steps, variant)  # type: ignore[arg-type]
        if own
        else FromDiffusers(_built(part, variant), chain.steps, absent)
    )
    diffusion = GaussianDiffusion(network, chain.schedule, chain.prediction).eval()
    for name in ("vae", "vqvae"):
        if (folder / name).is_dir():
            return Latent(FromAutoencoder(_built(folder / name, variant)), diffusion).eval()
    return diffusion


def _class(folder: Path) -> str | None:
    """What a folder says that it holds; None without a word of it."""
    file = folder / "config.json"
    return read_config(file).get("_class_name") if file.is_file() else None


def _built(folder: Path, variant: str | None) -> nn.Module:
    """The object of diffusers that a folder holds."""
    with extra("diffusers"):
        import diffusers
    name = _class(folder)
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)):
        raise ValueError(f"{folder} holds {shown(name)}, which is no network that diffusers has.")
    reader: Any = kind
    try:
        made: nn.Module = reader.from_pretrained(  # pickles may run code
            str(folder), variant=variant, use_safetensors=True, low_cpu_mem_usage=False
        )
    except OSError as error:
        raise FileNotFoundError(f"{folder} cannot be read: {error}") from error
    return made.float()


def read_chain(config: PathLike | Mapping[str, Any]) -> Trained:
    """The chain of a scheduler.

    Whether samples are clipped, how steps are spaced, and which solver takes them is not taken over:
    `left` names what the configuration asks for.

    Arguments:
        config: The configuration of a scheduler object; or the folder of a pipeline or a scheduler, or
            the file ``scheduler_config.json``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the scheduler is none of a table of rates, of flow matching or of EDM, or an entry
            has a value that is not known here.
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
    left = tuple(text for key, values, text in _LEFT if get(key, None) in values)
    # objects do not say their class, but have what the others have not
    if str(name).startswith("EDM") or "sigma_schedule" in config:
        low, high, rho = get("sigma_min", 0.002), get("sigma_max", 80.0), get("rho", 7.0)
        try:
            target, levels = (
                Preconditioned(sigma_data=get("sigma_data", 0.5)),
                Karras(low, high, rho),
            )
        except (TypeError, ValueError) as error:
            raise refuse(f"noise levels that make no schedule ({error})") from error
        if kind != "epsilon":
            raise refuse(f"prediction_type {kind!r}")
        return Trained(levels, target, lambda t: (levels(t)[1].log() / 4).to(t.dtype), left)
    flows = str(name).startswith("FlowMatch") or "base_shift" in config
    if flows or get("use_flow_sigmas") or kind == "flow_prediction":
        if get("invert_sigmas"):
            raise refuse("invert_sigmas true")
        if get("shift") not in (None, 1):
            left += (f"shift {get('shift')}: steps that are denser at much noise",)
        return Trained(Flow(), "velocity", lambda t: steps * t, left)
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
    return Trained(schedule, _PREDICTIONS[kind], steps, left)


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
