r"""Networks of the library diffusers: their weights in a `UNet`, or their objects unchanged.

`load_diffusers` reads a folder with ``config.json`` and weights, which ``save_pretrained`` writes for a
`UNet2DModel`; it does not need diffusers. In a published pipeline the folder is ``unet/``.
`FromDiffusers` wraps any U-Net of diffusers. These networks count the steps of their chain from 0, so
that step k is the time t = (k + 1) / T. For the chain of Ho et al. the diffusion is

    GaussianDiffusion(load_diffusers(folder), Tabulated.linear(), "eps")
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.denoisers.unet.network import UNet
from anydiff.spaces import Space

__all__ = ["FromDiffusers", "load_diffusers"]

_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

# the values of a configuration that `UNet` computes; the first is the default
_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1, 1.0),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "downsample_padding": (1, 0),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}
_NAMES = (  # ours, as regular expressions, and theirs
    (r"^embed_time\.1\.", "time_embedding.linear_1."),
    (r"^embed_time\.3\.", "time_embedding.linear_2."),
    (r"^embed_label\.", "class_embedding."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^mid\.1\.", "mid_block.attentions.0."),
    (r"^mid\.0\.", "mid_block.resnets.0."),
    (r"^mid\.2\.", "mid_block.resnets.1."),
    (r"^(down|up)\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0."),
    (r"^(down|up)\.", r"\1_blocks."),
    (r"\.blocks\.", ".resnets."),
    (r"\.modulation\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"\.norm\.", ".group_norm."),
    (r"\.out\.", ".to_out.0."),
)


def load_diffusers(folder: str | os.PathLike[str], steps: int = 1000) -> UNet:
    """A `UNet2DModel` of diffusers as a `UNet`.

    Weights are read from safetensors or, by PyTorch's reader that runs no code, from a ``.bin``.

    Arguments:
        folder: The folder of ``config.json`` and ``diffusion_pytorch_model.safetensors`` or ``.bin``;
            or that of a pipeline, with these under ``unet``.
        steps: T of the chain that the network was trained on.

    Returns:
        The network, in eval mode on the CPU.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If `UNet` does not compute such a network, or the weights do not belong to the
            configuration.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() and (folder / "unet" / "config.json").is_file():
        folder = folder / "unet"
    about = folder / "config.json"
    weights = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if not about.is_file() or weights is None:
        raise FileNotFoundError(
            f"{folder} holds no {'config.json' if not about.is_file() else ' or '.join(_FILES)}; give a "
            "folder that save_pretrained of diffusers wrote."
        )
    try:
        config = json.loads(about.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{about} is not JSON ({error}).") from error
    if not isinstance(config, dict) or config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        name = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
        raise ValueError(
            f"{about} describes a {name}, not a UNet2DModel; wrap the object with FromDiffusers."
        )
    network = _build(config, steps, about)
    state = _translate(_read(weights), network, config, weights)
    for name, value in network.state_dict().items():
        here, there = tuple(value.shape), tuple(state[name].shape) if name in state else "nothing"
        if here != there:
            raise ValueError(f"{weights}: {there} for {name}, which its config.json has as {here}.")
    network.load_state_dict(state)
    return network.eval()


class FromDiffusers(nn.Module):
    """Any U-Net of diffusers as a denoiser.

    Arguments:
        network: Called as ``network(x_t, step, ..., return_dict=False)[0]``: a `UNet2DModel`,
            `UNet2DConditionModel`, `UNet1DModel` and others.
        steps: T of the chain that the network was trained on.

    If the network's configuration has twice as many `out_channels` as `in_channels`, the second half is
    a learned variance.
    """

    def __init__(self, network: nn.Module, steps: int = 1000) -> None:
        super().__init__()
        self.network, self.steps = network, steps
        config = getattr(network, "config", {})
        self.learns_variance = config.get("out_channels") == 2 * config.get("in_channels", 0)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        space: Space | None = None,
        label: Tensor | None = None,
        **cond: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The prediction.

        Arguments:
            x_t: The network's input, usually (B, C, H, W).
            t: (B,), times in [0, 1].
            space: The batch's space, which changes nothing; see `UNet.forward`.
            label: (B,) integers, for the network's `class_labels`.
            **cond: Passed on by name, `encoder_hidden_states` for instance.

        Returns:
            Shaped like x_t; a tuple of the prediction and the learned variance if there is one.
        """
        if label is not None:
            cond["class_labels"] = label
        y: Tensor = self.network(x_t, self.steps * t - 1, **cond, return_dict=False)[0]
        C = x_t.shape[1]
        return (y[:, :C], y[:, C:]) if self.learns_variance else y


def _build(config: dict[str, Any], steps: int, about: Path) -> UNet:
    """The network of a configuration, without its weights; what it lacks has the value of diffusers."""
    get = config.get

    def refuse(what: str) -> ValueError:
        return ValueError(
            f"{about} has {what}, which UNet does not compute; wrap the object of diffusers with "
            "FromDiffusers."
        )

    for key, known in _FIXED.items():
        if (value := get(key, known[0])) not in known:
            raise refuse(f"{key} {value!r}")
    down = list(get("down_block_types", ["DownBlock2D", *["AttnDownBlock2D"] * 3]))
    up = list(get("up_block_types", [*["AttnUpBlock2D"] * 3, "UpBlock2D"]))
    for kind in down:
        if kind not in ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"):
            raise refuse(f"down_block_types {kind!r}")
    if up != [k.replace("Downs", "Ups").replace("Down", "Up") for k in reversed(down)]:
        raise refuse(f"up_block_types {up} that do not mirror down_block_types {down}")
    if len(ways := _resamplings(config, down, up)) > 1:
        raise refuse(f"resolutions changed by {' and by '.join(sorted(ways))}")
    adaptive = get("resnet_time_scale_shift") == "scale_shift"
    groups = get("norm_num_groups", 32)
    if groups is None:
        raise refuse("norm_num_groups null")
    middle = get("attn_norm_num_groups") or (None if adaptive else groups)
    if middle != groups:
        raise refuse(f"attn_norm_num_groups {middle} where norm_num_groups is {groups}")
    return UNet(
        get("in_channels", 3),
        tuple(get("block_out_channels", [224, 448, 672, 896])),
        get("layers_per_block", 2),
        tuple(k for k, kind in enumerate(down) if kind.startswith("Attn")),
        head_channels=get("attention_head_dim", 8),
        out_channels=get("out_channels", 3),
        steps=steps,
        shift=get("freq_shift", 0),
        modulation="scale_shift" if adaptive else "add",
        resample="block" if ways == {"resnet"} else "conv",
        centered=get("downsample_padding", 1) == 1,
        dropout=get("dropout", 0.0),
        classes=get("num_class_embeds") or 0,
        groups=groups,
        eps=get("norm_eps", 1e-5),
    )


def _resamplings(config: dict[str, Any], down: list[str], up: list[str]) -> set[str]:
    """How resolutions change, "conv" or "resnet"; plain blocks ignore the configuration."""
    fixed = {"DownBlock2D": "conv", "UpBlock2D": "conv"}
    fixed |= {"ResnetDownsampleBlock2D": "resnet", "ResnetUpsampleBlock2D": "resnet"}
    ways = {fixed.get(kind, config.get("downsample_type", "conv")) for kind in down[:-1]}
    return ways | {fixed.get(kind, config.get("upsample_type", "conv")) for kind in up[:-1]}


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return weights
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read, or is damaged ({error}).") from error
    except Exception as error:  # pickle has exceptions of its own
        raise ValueError(f"{path} holds more than tensors, or is damaged ({error}).") from error


def _translate(
    theirs: dict[str, Tensor], network: UNet, config: dict[str, Any], path: Path
) -> dict[str, Tensor]:
    """Their weights under our names."""
    # most published networks have the names that diffusers used before 2023
    theirs = {
        re.sub(r"\.([qkv])(uery|ey|alue)\.", r".to_\1.", name).replace("proj_attn", "to_out.0"): w
        for name, w in theirs.items()
    }
    parts = {name: _their_names(name) for name in network.state_dict()}
    asked = {name for names in parts.values() for name in names}
    if missing := sorted(asked - theirs.keys()):
        raise ValueError(f"{path} has no {missing[0]}, which its config.json asks for.")
    if odd := sorted(theirs.keys() - asked):
        raise ValueError(
            f"{path} has {odd[0]}, which its config.json does not ask for; they do not belong together."
        )
    ours = {name: torch.cat([theirs[part] for part in names]) for name, names in parts.items()}
    for name in ours:
        if ".qkv." in name or ".out." in name:  # before 2023 these were convolutions of kernel 1
            ours[name] = ours[name].flatten(1) if ours[name].ndim > 2 else ours[name]
    if config.get("flip_sin_to_cos", True):  # cosines first
        weight = ours["embed_time.1.weight"]
        ours["embed_time.1.weight"] = weight.roll(weight.shape[1] // 2, 1)
    return ours


def _their_names(name: str) -> list[str]:
    """The names of the weights that ours of a name consists of."""
    for ours, theirs in _NAMES:
        name = re.sub(ours, theirs, name)
    return [name.replace(".qkv.", f".to_{part}.") for part in ("qkv" if ".qkv." in name else "q")]
