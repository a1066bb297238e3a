r"""Networks of the library diffusers: their weights in a `UNet`, or their objects unchanged.

`load_diffusers` reads a folder with ``config.json`` and weights, which ``save_pretrained`` writes for a
`UNet2DModel`; it does not need diffusers. In a published pipeline the folder is ``unet/``.
:class:`~anydiff.denoisers.unet.foreign.FromDiffusers` wraps any network of diffusers. For the chain of
Ho et al. the diffusion is

    GaussianDiffusion(load_diffusers(folder), Tabulated.linear(), "eps")

:func:`anydiff.images.pipelines.load_pipeline` also reads which chain it is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anydiff.denoisers.unet.foreign import FromDiffusers
from anydiff.denoisers.unet.network import UNet

__all__ = ["FromDiffusers", "load_diffusers", "read_config", "read_weights"]

# a variant stands before the ending, and before that of an index; older files have it in the middle
_WEIGHTS = re.compile(
    r"diffusion_pytorch_model(\.(?P<before>(?!safetensors|bin)\w+))?\.(?P<kind>safetensors|bin)"
    r"(?P<index>\.index(\.(?P<after>\w+))?\.json)?"
)

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


def load_diffusers(
    folder: str | os.PathLike[str], steps: int | None = None, variant: str | None = None
) -> UNet:
    """A `UNet2DModel` of diffusers as a `UNet`.

    Weights are read from safetensors or, by PyTorch's reader that runs no code, from ``.bin``; in one
    file or in several with an index. Of a network with labels, -1 adds nothing for the label, for which
    it was not trained: give it its own label for none, if it has one.

    Arguments:
        folder: The folder of ``config.json`` and ``diffusion_pytorch_model.safetensors`` or ``.bin``;
            or that of a pipeline, with these under ``unet``.
        steps: T of the chain that the network was trained on; if None, that of the pipeline's
            ``scheduler/scheduler_config.json``, or 1000 where there is none.
        variant: Which weights, such as ``fp16`` or ``non_ema``; if None, those without a variant, or
            else the only ones that there are.

    Returns:
        The network, in eval mode on the CPU.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If `UNet` does not compute such a network, or the weights do not belong to the
            configuration; or if there are several variants and none is chosen.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() and (folder / "unet" / "config.json").is_file():
        folder = folder / "unet"
    about = folder / "config.json"
    if not about.is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.json; give a folder that save_pretrained of diffusers wrote."
        )
    config = read_config(about)
    if (name := config.get("_class_name", "UNet2DModel")) != "UNet2DModel":
        raise ValueError(
            f"{about} describes a {name}, not a UNet2DModel; wrap the object with FromDiffusers."
        )
    chain = folder.parent / "scheduler" / "scheduler_config.json"
    if steps is None and chain.is_file():
        steps = read_config(chain).get("num_train_timesteps", 1000)
        if type(steps) is not int:
            raise ValueError(f"{chain} has num_train_timesteps {steps!r}; give steps.")
    weights = _weights(folder, variant)
    theirs = {name: w for path in weights for name, w in read_weights(path).items()}
    arguments = _arguments(config, about)
    blocks = len(arguments["widths"]) * arguments["blocks"]
    if blocks > len(theirs):
        raise ValueError(
            f"{about} has {blocks:,} blocks and {weights[0]} {len(theirs):,} tensors; they do not belong "
            "together."
        )

    def build(device: str) -> UNet:
        try:
            with torch.device(device):
                return UNet(steps=1000 if steps is None else steps, **arguments)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"{about}: {error} If diffusers builds it, wrap the object with FromDiffusers."
            ) from error

    planned = build("meta")  # sizes are compared before any memory is taken
    state = _translate(theirs, planned, config, weights[0])
    for name, value in planned.state_dict().items():
        here, there = tuple(value.shape), tuple(state[name].shape)
        if here != there:
            raise ValueError(
                f"{weights[0]}: {there} for {name}, which its config.json has as {here}."
            )
    network = build("cpu")
    network.load_state_dict(state)
    return network.eval()


def read_config(path: Path) -> dict[str, Any]:
    """A configuration, which save_pretrained wrote as JSON.

    Arguments:
        path: The file.

    Raises:
        ValueError: If it is not JSON, or not a dictionary.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, not a dictionary of arguments.")
    return config


def _weights(folder: Path, variant: str | None) -> list[Path]:
    """The files of the weights, of one variant."""
    names = {path.name: path for path in folder.iterdir() if path.is_file()}
    found: dict[
        str, tuple[int, str]
    ] = {}  # by variant; whole files are preferred, then safetensors
    for name in names:
        if match := _WEIGHTS.fullmatch(name):
            kind, sharded = match["kind"], match["index"] is not None
            rank = 2 * sharded + (kind == "bin")
            key = match["before"] or match["after"] or ""
            found[key] = min(found.get(key, (9, "")), (rank, name))
    if variant is None and "" not in found and len(found) > 1:
        raise ValueError(
            f"{folder} holds the variants {', '.join(sorted(found))}; choose one, variant={min(found)!r}."
        )
    key = variant if variant is not None else "" if "" in found else next(iter(found), "")
    if key not in found:
        held = ", ".join(sorted(names)[:6]) or "nothing"
        raise FileNotFoundError(
            f"{folder} holds no diffusion_pytorch_model{f'.{key}' if key else ''}.safetensors or .bin "
            f"but {held}; give a folder that save_pretrained of diffusers wrote."
        )
    path = names[found[key][1]]
    if path.suffix != ".json":
        return [path]
    shards = read_config(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(f"{path} has no weight_map, from weights to files.")
    files = sorted(set(shards.values()))
    if missing := [name for name in files if name not in names]:
        raise FileNotFoundError(f"{folder} holds no {missing[0]}, which {path.name} names.")
    return [names[name] for name in files]


def _arguments(config: dict[str, Any], about: Path) -> dict[str, Any]:
    """The arguments of `UNet`; what a configuration lacks has the value of diffusers."""
    get = config.get

    def refuse(what: str) -> ValueError:
        return ValueError(
            f"{about} has {what}, which UNet does not compute; wrap the object of diffusers with "
            "FromDiffusers."
        )

    for key, known in _FIXED.items():
        if (value := get(key, known[0])) not in known:
            raise refuse(f"{key} {value!r:.80}")
    for key, (default, kind) in _KINDS.items():
        if not kind(value := get(key, default)):
            raise refuse(f"{key} {json.dumps(value):.80}")
    down = list(get("down_block_types", ["DownBlock2D", *["AttnDownBlock2D"] * 3]))
    up = list(get("up_block_types", [*["AttnUpBlock2D"] * 3, "UpBlock2D"]))
    for kind in down:
        if kind not in ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"):
            raise refuse(f"down_block_types {kind!r:.80}")
    if up != [k.replace("Downs", "Ups").replace("Down", "Up") for k in reversed(down)]:
        raise refuse(
            f"up_block_types {up!s:.200} that do not mirror down_block_types {down!s:.200}"
        )
    widths = get("block_out_channels", [224, 448, 672, 896])
    if len(widths) != len(down):
        raise refuse(f"{len(widths)} block_out_channels for {len(down)} down_block_types")
    if len(ways := _resamplings(config, down, up)) > 1:
        raise refuse(f"resolutions changed by {' and by '.join(sorted(ways))}")
    adaptive = get("resnet_time_scale_shift") == "scale_shift"
    groups = get("norm_num_groups", 32)
    middle = get("attn_norm_num_groups") or (None if adaptive else groups)
    if middle != groups:
        raise refuse(f"attn_norm_num_groups {middle!r:.80} where norm_num_groups is {groups}")
    return {
        "channels": get("in_channels", 3),
        "widths": tuple(widths),
        "blocks": get("layers_per_block", 2),
        "attention": tuple(k for k, kind in enumerate(down) if kind.startswith("Attn")),
        "head_channels": get("attention_head_dim", 8),
        "out_channels": get("out_channels", 3),
        "shift": get("freq_shift", 0),
        "modulation": "scale_shift" if adaptive else "add",
        "resample": "block" if ways == {"resnet"} else "conv",
        "centered": get("downsample_padding", 1) == 1,
        "dropout": get("dropout", 0.0),
        "classes": get("num_class_embeds") or 0,
        "groups": groups,
        "eps": get("norm_eps", 1e-5),
    }


def _count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 2**20


def _share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1


def _list(value: Any, kind: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and 1 <= len(value) <= 64 and all(map(kind, value))


# the values of the other entries that are read: the default, and whether `UNet` takes a value
_KINDS: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    **dict.fromkeys(("in_channels", "out_channels", "layers_per_block"), (1, _count)),
    "norm_num_groups": (32, _count),
    "block_out_channels": ([1], lambda value: _list(value, _count)),
    "attention_head_dim": (None, lambda value: value is None or _count(value)),
    "num_class_embeds": (None, lambda value: value in (None, 0) or _count(value)),
    "dropout": (0.0, _share),
    "norm_eps": (1e-5, _share),
    "freq_shift": (0, lambda value: type(value) in (int, float) and abs(value) <= 1),
    **{key: (["x"], lambda value: _list(value, lambda v: isinstance(v, str)))
       for key in ("down_block_types", "up_block_types")},
}  # fmt: skip


def _resamplings(config: dict[str, Any], down: list[str], up: list[str]) -> set[str]:
    """How resolutions change, "conv" or "resnet"; plain blocks ignore the configuration."""
    fixed = {"DownBlock2D": "conv", "UpBlock2D": "conv"}
    fixed |= {"ResnetDownsampleBlock2D": "resnet", "ResnetUpsampleBlock2D": "resnet"}
    ways = {fixed.get(kind, config.get("downsample_type", "conv")) for kind in down[:-1]}
    return ways | {fixed.get(kind, config.get("upsample_type", "conv")) for kind in up[:-1]}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, by name; no code in it is run.

    Arguments:
        path: The file, safetensors or of PyTorch.

    Raises:
        ValueError: If it cannot be read, or holds something else than finite floating-point numbers.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: Any
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read, or is damaged ({error}).") from error
    except Exception as error:  # pickle has exceptions of its own
        raise ValueError(f"{path} holds more than tensors, or is damaged ({error}).") from error
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise ValueError(f"{path} holds a {type(weights).__name__}, not tensors by their names.")
    for name, value in weights.items():
        what = value.dtype if isinstance(value, Tensor) else type(value).__name__
        if what not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"{path} has {name} of {what}; the weights of a network are numbers.")
        if not bool(value.float().isfinite().all()):
            raise ValueError(f"{path} has values in {name} that are not finite.")
    return weights


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
    try:
        ours = {name: torch.cat([theirs[part] for part in names]) for name, names in parts.items()}
        for name in ours:
            if (
                ".qkv." in name or ".out." in name
            ):  # before 2023 these were convolutions of kernel 1
                ours[name] = ours[name].flatten(1) if ours[name].ndim > 2 else ours[name]
        if config.get("flip_sin_to_cos", True):  # cosines first
            weight = ours["embed_time.1.weight"]
            ours["embed_time.1.weight"] = weight.roll(weight.shape[1] // 2, 1)
    except (RuntimeError, IndexError, NotImplementedError) as error:
        raise ValueError(
            f"{path} has weights of other shapes than its config.json ({error})."
        ) from error
    return ours


def _their_names(name: str) -> list[str]:
    """The names of the weights that ours of a name consists of."""
    for ours, theirs in _NAMES:
        name = re.sub(ours, theirs, name)
    return [name.replace(".qkv.", f".to_{part}.") for part in ("qkv" if ".qkv." in name else "q")]
