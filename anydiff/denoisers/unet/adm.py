r"""The weights that Dhariwal & Nichol published, in a `UNet`.

Their files of PyTorch (``64x64_diffusion.pt`` and others) hold the weights alone, so that the network is
built first. That for ImageNet at 64 × 64, which also learns a variance, is the default:

    network = load_adm("64x64_diffusion.pt")
    diffusion = GaussianDiffusion(network, Tabulated.cosine(), "eps")
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from anydiff.denoisers.unet.diffusers import read_weights
from anydiff.denoisers.unet.layers import Attention, ResBlock
from anydiff.denoisers.unet.network import UNet
from anydiff.files import PathLike

__all__ = ["load_adm"]

_PARTS = {  # of a block and of an attention
    "norm1": "in_layers.0", "conv1": "in_layers.2", "modulation": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "shortcut": "skip_connection",
    "norm": "norm", "qkv": "qkv", "out": "proj_out",
}  # fmt: skip
_ENDS = {
    "embed_time.1": "time_embed.0", "embed_time.3": "time_embed.2", "embed_label": "label_emb",
    "conv_in": "input_blocks.0.0", "norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def load_adm(path: PathLike, network: UNet | None = None, *, new_order: bool = True) -> UNet:
    """The weights of a file of guided-diffusion, read without running code.

    Arguments:
        path: The file.
        network: The network that they belong to, which gets them; ``UNet.adm(out_channels=6)`` if None.
        new_order: Whether the network was trained with ``use_new_attention_order``, as that for 64 × 64
            was and those for larger images were not. The file does not say it.

    Returns:
        The network, in eval mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is faulty, or holds the weights of another network.

    References:
        Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021).
        https://arxiv.org/abs/2105.05233
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give one that guided-diffusion published.")
    theirs = read_weights(path)
    network = UNet.adm(out_channels=6) if network is None else network
    names = dict(_names(network))
    state: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        module, _, kind = name.rpartition(".")
        if (other := f"{names.get(module, module)}.{kind}") not in theirs:
            raise ValueError(
                f"{path} has no {other}, which the network has as {name}; build another."
            )
        found = theirs.pop(other)
        if ".qkv" in name or module.endswith(".out"):
            found = found.flatten(1) if found.ndim > 2 else found  # a convolution of kernel 1
        if found.shape != value.shape:
            raise ValueError(
                f"{path}: {tuple(found.shape)} for {other}, which the network has as "
                f"{tuple(value.shape)}; build another."
            )
        if ".qkv" in name and not new_order:  # of each head q, k and v
            heads: Any = network.get_submodule(module.removesuffix(".qkv")).heads
            parts = found.reshape(heads, 3, -1, *found.shape[1:])
            found = parts.transpose(0, 1).flatten(0, 2)
        if name == "embed_time.1.weight":  # theirs has the cosines first
            found = found.roll(found.shape[1] // 2, 1)
        state[name] = found
    if theirs:
        raise ValueError(f"{path} has {min(theirs)}, which the network has not; build another.")
    network.load_state_dict(state)
    return network.eval()


def _names(network: UNet) -> Iterator[tuple[str, str]]:
    """The names of our layers and of theirs, which number the blocks of a way on end."""
    yield from _ENDS.items()
    number = 1
    level: Any
    for k, level in enumerate(network.down):
        for j, attend in enumerate(level.attentions):
            yield from _layers(network, f"down.{k}.blocks.{j}", f"input_blocks.{number}.0")
            if isinstance(attend, Attention):
                yield from _layers(network, f"down.{k}.attentions.{j}", f"input_blocks.{number}.1")
            number += 1
        if level.resample is not None:
            yield from _layers(network, f"down.{k}.resample", f"input_blocks.{number}.0")
            number += 1
    for j in range(3):
        yield from _layers(network, f"mid.{j}", f"middle_block.{j}")
    number = 0
    for k, level in enumerate(network.up):
        for j, attend in enumerate(level.attentions):
            yield from _layers(network, f"up.{k}.blocks.{j}", f"output_blocks.{number}.0")
            attends = isinstance(attend, Attention)
            if attends:
                yield from _layers(network, f"up.{k}.attentions.{j}", f"output_blocks.{number}.1")
            if level.resample is not None and j == len(level.attentions) - 1:
                theirs = f"output_blocks.{number}.{1 + attends}"
                yield from _layers(network, f"up.{k}.resample", theirs)
            number += 1


def _layers(network: UNet, ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    """The names of the layers of a block, an attention or a convolution between resolutions."""
    module = network.get_submodule(ours)
    if isinstance(module, ResBlock | Attention):
        for part, other in _PARTS.items():
            yield f"{ours}.{part}", f"{theirs}.{other}"
    else:
        yield f"{ours}.conv", f"{theirs}.{'op' if ours.startswith('down') else 'conv'}"
