r"""LoRA: low-rank adapters, for every matrix of every network.

.. math:: W' = W + s\, \frac{a}{r}\, B A

W is seen as a matrix (out, rest), A is (r, rest) and random at first, B is (out, r) and zero. Only A and
B are trained; they are a small file of their own, which changes the model that it was made for by s.

An adapter is a parametrization of the weight itself (``torch.nn.utils.parametrize``), so that every
layer is adapted that reads a weight in whatever way: recurrent matrices, those of attention, layers
whose code multiplies by ``layer.weight``. The network keeps its class, its arguments and its names.

References:
    LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2022). https://arxiv.org/abs/2106.09685
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from anydiff.checks import check_kind, check_range, check_whole
from anydiff.files import PathLike, whole
from anydiff.precision import at_least_float32

__all__ = [
    "AdapterError", "LowRank", "adapt", "adapted", "difference", "fingerprint", "load_adapter", "merge",
    "remove", "save_adapter", "strength",
]  # fmt: skip

FORMAT = 1
# what `remove` puts back: of a module which parameters learned, and of a layer their order
_FROZEN, _ORDER = "_frozen_by_adapt", "_order_before_adapt"


class AdapterError(ValueError):
    """An adapter that does not fit, or a file without one. The message names the layer or the file."""


class LowRank(nn.Module):
    """The parametrization W -> W + strength · scale · B A of one weight.

    Arguments:
        weight: W, of two axes or more; the axes after the first count as one.
        rank: Of B A; at most that of W.
        scale: The factor a / r.

    Attributes:
        A: (rank, rest), uniform at first as the weights of a linear layer are.
        B: (out, rank), zero at first.
        strength: s, a number.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        out, rest = weight.flatten(1).shape
        rank, dtype = min(rank, out, rest), at_least_float32(weight)
        self.A = nn.Parameter(torch.empty(rank, rest, device=weight.device, dtype=dtype))
        self.B = nn.Parameter(torch.zeros(out, rank, device=weight.device, dtype=dtype))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.scale, self.strength = scale, 1.0

    @property
    def rank(self) -> int:
        """The rank of B A."""
        return len(self.A)

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the shape, dtype and strides of W.

        Arguments:
            weight: W.
        """
        low = (self.B @ self.A).view(weight.shape)
        # in the dtype of A and B, which is float32 at least, and rounded once
        added = torch.add(weight, low, alpha=self.scale * self.strength).to(weight.dtype)
        if added.stride() != weight.stride() and _alike(added, weight):
            # an axis of length 1 loses its stride; then another kernel is taken, which rounds otherwise
            added = added.as_strided(weight.shape, weight.stride())
        return added


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether the elements of two tensors of one shape lie alike."""
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(n == 1 or one == other for n, one, other in strides)


class Weight(NamedTuple):
    """A weight that is adapted.

    Arguments:
        name: As in ``named_parameters`` without an adapter.
        layer: The module it belongs to.
        own: Its name there.
        original: W itself.
        adapters: One or more, whose changes add up.
    """

    name: str
    layer: Any
    own: str
    original: nn.Parameter
    adapters: list[LowRank]


def adapted(module: nn.Module) -> list[Weight]:
    """The weights of a module that have adapters.

    Arguments:
        module: Any module.
    """
    found = []
    for name, layer in module.named_modules():
        chains: Any = layer.parametrizations if parametrize.is_parametrized(layer) else {}
        for own, chain in chains.items():
            low = [part for part in chain if isinstance(part, LowRank)]
            if low:
                found.append(Weight(f"{name}.{own}".lstrip("."), layer, own, chain.original, low))
    return found


def adapt(
    module: nn.Module,
    rank: int = 8,
    alpha: float | None = None,
    where: Callable[[str], bool] | None = None,
) -> list[str]:
    """Give the matrices of a network adapters, which change nothing yet, and freeze everything else.

    Matrices are parameters of two axes or more, kernels of convolutions too, but not embeddings. A weight
    that has an adapter gets a second one; their changes add up.

    Arguments:
        module: The network, changed in place.
        rank: The rank r of the changes; less where a matrix is smaller.
        alpha: The factor a of :math:`a / r`; r if None.
        where: Which of them: a function of the name, as in ``named_parameters``.

    Returns:
        The names of the adapted weights.

    Raises:
        AdapterError: There is nothing to adapt, two layers share a weight, or a layer would not see its
            adapter.
    """
    check_kind(nn.Module, "a network", module=module)
    check_whole("[1, inf)", rank=rank)
    if alpha is not None:
        check_range("(0, inf)", alpha=alpha)
    like = rank, (alpha or rank) / rank
    return _adapt(module, dict.fromkeys(_matrices(module, where), like))


def _adapt(module: nn.Module, like: dict[str, tuple[int, float]]) -> list[str]:
    """Adapters of given ranks and scales, by the names of weights."""
    matrices = _matrices(module, lambda name: name in like)
    frozen = [name for name, p in _plain(module) if p.requires_grad]
    module.__dict__.setdefault(_FROZEN, frozen)
    module.requires_grad_(False)
    for name, (rank, scale) in like.items():
        layer, own, weight = matrices[name]
        layer.__dict__.setdefault(_ORDER, list(layer._parameters))
        parametrize.register_parametrization(layer, own, LowRank(weight, rank, scale))
    return list(like)


def _matrices(
    module: nn.Module, where: Callable[[str], bool] | None
) -> dict[str, tuple[nn.Module, str, Tensor]]:
    """By name the layer, the name in it and the weight of what can be adapted."""
    originals = {weight.name: weight for weight in adapted(module)}
    found: dict[str, tuple[nn.Module, str, Tensor]] = {}
    for prefix, layer in module.named_modules():
        if isinstance(layer, nn.Embedding | LowRank | parametrize.ParametrizationList):
            continue
        own = dict(layer.named_parameters(recurse=False))
        if parametrize.is_parametrized(layer):
            others = {f"{prefix}.{n}".lstrip("."): n for n in layer.parametrizations}
            own |= {n: originals[name].original for name, n in others.items() if name in originals}
        for n, weight in own.items():
            name = f"{prefix}.{n}".lstrip(".")
            if weight.ndim > 1 and weight.is_floating_point() and (where is None or where(name)):
                found[name] = layer, n, weight
    if not found:
        raise AdapterError(
            f"{type(module).__name__} has no matrix to adapt{' that `where` chooses' * bool(where)}; "
            "give a network with weights of two axes or more."
        )
    seen: dict[int, str] = {}
    for name, (layer, _, weight) in found.items():
        if (other := seen.setdefault(id(weight), name)) != name:
            raise AdapterError(
                f"{name} and {other} are one weight, which would be adapted twice; leave one out by "
                "`where`."
            )
        if type(layer).forward in _FLAT:
            raise AdapterError(
                f"{name} belongs to {type(layer).__name__}, whose kernel would not see an adapter; leave "
                "it out by `where`, or use anydiff.denoisers.BiRNN."
            )
    return found


_FLAT = (nn.RNN.forward, nn.GRU.forward, nn.LSTM.forward)


def strength(module: nn.Module, s: float) -> None:
    """Set how much the adapters change a module: 0 is the module without them, 1 as trained.

    Arguments:
        module: The module with adapters.
        s: The strength, of all of them.

    Raises:
        AdapterError: It has none.
    """
    check_range("(-inf, inf)", s=s)
    for weight in _some(module):
        for low in weight.adapters:
            low.strength = float(s)


def merge(module: nn.Module) -> None:
    """Put the changes into the weights themselves, and take the adapters off.

    What the module computes stays the same to the last bit, and sampling costs what it cost before.

    Arguments:
        module: The module with adapters.

    Raises:
        AdapterError: It has none.
    """
    with torch.no_grad():
        for weight in _some(module):
            changed = getattr(weight.layer, weight.own)
            weight.original.data = changed.clone(memory_format=torch.preserve_format).as_strided(
                changed.shape, changed.stride()
            )
    remove(module)


def remove(module: nn.Module) -> None:
    """Take the adapters off. The module is what it was before, to the last bit.

    Arguments:
        module: The module with adapters.

    Raises:
        AdapterError: It has none, or a weight has parametrizations of another kind too.
    """
    layers: dict[nn.Module, dict[str, nn.Parameter | None]] = {}
    for weight in _some(module):
        chains = weight.layer.parametrizations
        layers.setdefault(weight.layer, {})[weight.own] = weight.original
        if any(not isinstance(part, LowRank) for chain in chains.values() for part in chain):
            raise AdapterError(
                f"the layer of {weight.name} has other parametrizations beside its adapters; remove "
                "those first."
            )
    for layer, originals in layers.items():
        # by hand: torch would take the weight from the copies of the module too, which share its class
        del layer.parametrizations
        layer.__class__ = type(layer).__bases__[0]
        originals |= layer._parameters
        order = dict.fromkeys([*layer.__dict__.pop(_ORDER), *originals])
        layer._parameters = {name: originals[name] for name in order}
    for part in module.modules():
        for name in part.__dict__.pop(_FROZEN, ()):
            part.get_parameter(name).requires_grad_(True)


def _some(module: nn.Module) -> list[Weight]:
    check_kind(nn.Module, "a network", module=module)
    if not (weights := adapted(module)):
        raise AdapterError(
            f"{type(module).__name__} has no adapters; give it some by adapt or load_adapter."
        )
    return weights


# files --------------------


def save_adapter(path: PathLike, module: nn.Module) -> None:
    """Write the adapters of a module to a small file, whole or not at all.

    Tensors have the names that readers of PEFT expect after their prefix: ``{layer}.lora_A.weight`` and
    ``{layer}.lora_B.weight``, or ``{layer}.{name}.lora_A`` where a parameter is not called weight.

    Arguments:
        path: The file, by custom ``*.safetensors``.
        module: The network with one adapter for each of its adapted weights.

    Raises:
        AdapterError: It has none, or several for one weight.
        OSError: The file cannot be written.
    """
    from safetensors.torch import save

    weights, tensors = _some(module), {}
    for weight in weights:
        if len(weight.adapters) > 1:
            raise AdapterError(
                f"{weight.name} has {len(weight.adapters)} adapters; merge the first ones before the "
                "last is trained, and save that."
            )
        (low,) = weight.adapters
        for name, value in zip(_names(weight.name), (low.A, low.B), strict=True):
            tensors[name] = value.detach().cpu().contiguous()
    scales = {weight.name: weight.adapters[0].scale for weight in weights}
    rank = max(weight.adapters[0].rank for weight in weights)
    header = {
        "format": FORMAT, "rank": rank, "alpha": rank * max(scales.values()), "scales": scales,
        "base": {"class": type(module).__name__, "fingerprint": fingerprint(module)},
    }  # fmt: skip
    contents = save(tensors, metadata={"anydiff.lora": json.dumps(header)})
    with whole(path) as partial:
        Path(partial).write_bytes(contents)


def load_adapter(path: PathLike, module: nn.Module, strength: float = 1.0) -> list[str]:
    """Give a network the adapters of a file, and freeze everything else. No code of the file is run.

    Arguments:
        path: A file that :func:`save_adapter` wrote.
        module: The network that they were made for, changed in place.
        strength: How much they change it, usually from 0 to 1.

    Returns:
        The names of the adapted weights.

    Raises:
        AdapterError: The file holds no adapters, or they were made for another network.
        OSError: The file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    check_kind(nn.Module, "a network, after the path", module=module)
    check_range("(-inf, inf)", strength=strength)
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["anydiff.lora"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["format"] > FORMAT:
            raise AdapterError(
                f"{path} is of format {header['format']}, and this version of anydiff reads {FORMAT}; "
                "install a newer one."
            )
        base, scales = header["base"], {str(n): float(s) for n, s in header["scales"].items()}
        pairs = {name: [tensors[key] for key in _names(name)] for name in scales}
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(f"{path} holds no adapters that save_adapter wrote: {error}.") from error
    own = {"class": type(module).__name__, "fingerprint": fingerprint(module)}
    if base != own:
        told = [f"{of.get('class')} {str(of.get('fingerprint'))[:12]}" for of in (base, own)]
        raise AdapterError(
            f"{path} was made for {told[0]}, and the network is {told[1]}; give the model that it was "
            "trained on."
        )
    matrices = _matrices(module, None)
    for name, (A, B) in pairs.items():
        shape = tuple(matrices[name][2].flatten(1).shape) if name in matrices else None
        if (*B.shape[:1], *A.shape[1:]) != shape or A.ndim != 2 or B.shape[1:] != A.shape[:1]:
            raise AdapterError(
                f"{path}: the adapter of {name} is {tuple(B.shape)} times {tuple(A.shape)}, and the "
                f"weight {shape or 'is not there'}."
            )
    names = _adapt(module, {name: (len(A), scales[name]) for name, (A, _) in pairs.items()})
    with torch.no_grad():
        for weight in adapted(module):
            if weight.name in pairs:
                low = weight.adapters[-1]
                low.A.copy_(pairs[weight.name][0])
                low.B.copy_(pairs[weight.name][1])
                low.strength = float(strength)
    return names


def _names(weight: str) -> tuple[str, str]:
    """What A and B of a weight are called in a file."""
    layer, _, own = weight.rpartition(".")
    if own == "weight" and layer:
        return f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
    return f"{weight}.lora_A", f"{weight}.lora_B"


def fingerprint(module: nn.Module) -> str:
    """A number of the weights of a network without its adapters, in hexadecimal digits.

    Arguments:
        module: The network, on any device and in any dtype that holds its weights.
    """
    digest = hashlib.sha256()
    for name, value in sorted(_plain(module)):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _plain(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters without adapters, by the names that they have then."""
    weights = adapted(module)
    names = {id(weight.original): weight.name for weight in weights}
    low = {id(p) for weight in weights for part in weight.adapters for p in part.parameters()}
    for name, value in module.named_parameters():
        if id(value) not in low:
            yield names.get(id(value), name), value


# from two networks --------------------


def difference(base: nn.Module, tuned: nn.Module, rank: int) -> list[str]:
    """Adapters that make one network another as well as this rank can, from a full finetuning of it.

    What is best in the sense of least squares is the truncated singular value decomposition of each
    difference. What is no matrix, as biases and norms, stays that of the base.

    Arguments:
        base: The network, which gets the adapters.
        tuned: The same network with other weights, without adapters.
        rank: The rank of each difference.

    Returns:
        The names of the adapted weights.

    Raises:
        AdapterError: The networks have not the same matrices.
    """
    check_kind(nn.Module, "a network", base=base, tuned=tuned)
    check_whole("[1, inf)", rank=rank)
    if adapted(base) or adapted(tuned):
        raise AdapterError("one of the networks has adapters already; merge or remove them first.")
    mine, theirs = _matrices(base, None), _matrices(tuned, None)
    shapes = [{name: tuple(w.shape) for name, (_, _, w) in each.items()} for each in (mine, theirs)]
    if shapes[0] != shapes[1]:
        other = next(n for n in shapes[0] | shapes[1] if shapes[0].get(n) != shapes[1].get(n))
        raise AdapterError(
            f"{other} is {shapes[0].get(other)} in one network and {shapes[1].get(other)} in the other; "
            "give two of the same network."
        )
    changes = {n: (theirs[n][2] - mine[n][2]).detach().flatten(1) for n in mine}
    names = _adapt(base, dict.fromkeys(mine, (rank, 1.0)))
    with torch.no_grad():
        for weight in adapted(base):
            (low,) = weight.adapters
            u, s, v = torch.linalg.svd(changes[weight.name].double(), full_matrices=False)
            root = s[: low.rank].sqrt()
            low.B.copy_(u[:, : low.rank] * root)
            low.A.copy_(root[:, None] * v[: low.rank])
    return names
