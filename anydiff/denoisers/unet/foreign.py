r"""Networks of the library diffusers as denoisers: their objects, unchanged.

Two conventions of theirs are translated. They count the steps of their chain from 0, so that step k is
the time t = (k + 1) / T. And they have no value for an absent condition: what a network takes in its
place, a label of its own or the tokens of an empty text, is known to whoever trained it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from anydiff.checks import check_range, shown
from anydiff.spaces import Space

__all__ = ["FromDiffusers"]

# what says in a network's configuration that a condition is not optional
_NEEDS = {
    "class_labels": ("num_class_embeds", "class_embed_type", "num_embeds_ada_norm"),
    "encoder_hidden_states": ("cross_attention_dim", "joint_attention_dim", "encoder_hid_dim"),
}
# conditions without an absent item, and labels that are in range: a run reads them once
_WHOLE: Any = WeakIdKeyDictionary()
_KNOWN: Any = WeakIdKeyDictionary()


class FromDiffusers(nn.Module):
    """Any network of diffusers for arrays as a denoiser.

        guided = FromDiffusers(network, absent={"label": 1000})
        guided = FromDiffusers(network, absent={"encoder_hidden_states": tokens_of_the_empty_text})

    Arguments:
        network: Called as ``network(x_t, step, ..., return_dict=False)[0]``: a `UNet2DModel`,
            `UNet2DConditionModel`, `DiTTransformer2DModel` and others.
        steps: T of the chain that the network was trained on; its step is then T t - 1. Or the network's
            own time as a function of t, (B,) -> (B,): ``lambda t: 1000 * t`` for those of flow matching,
            ``lambda t: schedule(t)[1]`` for those that are given the standard deviation of the noise.
        absent: What the network takes where an item has no condition, by name: a label, or a tensor of
            one item, (L, D) for tokens. It replaces -1 in integers and rows with a NaN, and stands for a
            condition that is left out. Without it, a condition that the network needs cannot be dropped.

    If the network's configuration has twice as many `out_channels` as `in_channels`, the second half is
    a learned variance.

    Raises:
        ValueError: If `steps` is below 1, or an integer for a network that is not given the steps of a
            chain; or if `absent` names what the network does not take.
    """

    def __init__(
        self,
        network: nn.Module,
        steps: int | Callable[[Tensor], Tensor] = 1000,
        absent: Mapping[str, Tensor | int] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.steps = network, steps
        inner = getattr(network, "_orig_mod", None) or getattr(network, "module", None)
        inner = inner if isinstance(inner, nn.Module) else network  # compiled, or data parallel
        given = getattr(inner, "config", None)
        config = dict(given) if isinstance(given, Mapping) else {}
        self.learns_variance = config.get("out_channels") == 2 * (config.get("in_channels") or 0)
        self._check_steps(config)

        _, *others = inspect.signature(inner.forward).parameters.values()
        names = [p.name for p in others]
        # Stable Diffusion 3 and others have their tokens in the second place
        self._by_name = "timestep" in names[1:]
        skipped = {"timestep", names[0] if names and not self._by_name else ""}
        self._needs = [
            p.name
            for p in others
            if p.name not in skipped
            and (
                (p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)
                or any(config.get(key) for key in _NEEDS.get(p.name, ()))
            )
        ]
        self._absent, self._labels = [], _labels(config)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in others)
        if absent is not None and not isinstance(absent, Mapping):
            raise ValueError(f'absent is {absent!r:.60}; give a dict, as {{"label": 10}}.')
        for name, value in (absent or {}).items():
            name = "class_labels" if name == "label" else name
            if name not in names and not open_ended:
                raise ValueError(
                    f"absent names {name!r}, and {type(inner).__name__} takes {', '.join(names)}."
                )
            try:
                value = torch.as_tensor(value).detach()
            except (TypeError, ValueError, RuntimeError) as error:
                raise ValueError(
                    f"absent of {name} is {value!r:.60}; give the tensor of one item, or a label."
                ) from error
            if name == "encoder_hidden_states":
                if value.ndim == 3 and len(value) == 1:  # an encoder gives them as a batch of one
                    value = value[0]
                value = value if value.ndim > 1 else value[None]
            elif name == "class_labels" and self._labels is not None:
                if value.numel() != 1 or value.is_floating_point():
                    raise ValueError(f"absent of label is {shown(value)}; give one whole number.")
                value = value.flatten()[0]
                check_range(f"[0, {self._labels - 1}]", **{"absent label": value.item()})
            self.register_buffer(f"absent_{name}", value, persistent=False)
            self._absent.append(name)
        # for `anydiff.save`; `load` is given the network
        self.config = {
            "network": type(inner).__name__,
            "arguments": {k: v for k, v in config.items() if k[:1] != "_" and _is_json(v)},
            "steps": None if callable(steps) else steps,
        }

    def _check_steps(self, config: Mapping[str, Any]) -> None:
        if callable(self.steps):
            return
        check_range("[1, inf)", steps=self.steps)
        if config.get("time_embedding_type") == "fourier":
            raise ValueError(
                "the network has time_embedding_type 'fourier' and is given no steps of a chain; say "
                "what it is given as steps=..., a function of t, such as lambda t: schedule(t)[1] for "
                "the standard deviation of the noise."
            )

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
            label: (B,) integers, for the network's `class_labels`; -1 for none.
            **cond: Passed on by name, `encoder_hidden_states` for instance, in the dtype of x_t.

        Returns:
            Shaped like x_t; a tuple of the prediction and the learned variance if there is one.

        Raises:
            ValueError: If a condition is absent, for all items or for some, and `absent` does not say
                what the network takes in its place; or if labels are not integers that it has.
        """
        if label is not None:
            cond["class_labels"] = label
        for name in dict.fromkeys((*cond, *self._needs, *self._absent)):
            cond[name] = self._complete(name, cond.get(name), x_t)
        step = self.steps(t) if callable(self.steps) else self.steps * t - 1
        times = {"timestep": step} if self._by_name else {}
        args = () if self._by_name else (step,)
        y: Tensor = self.network(x_t, *args, **times, **cond, return_dict=False)[0]
        C = x_t.shape[1]
        return (y[:, :C], y[:, C:]) if self.learns_variance else y

    def _complete(self, name: str, value: Any, x_t: Tensor) -> Any:
        """A condition in which no item is absent."""
        empty = getattr(self, f"absent_{name}") if name in self._absent else None
        if value is None:
            if empty is None and name in self._needs:
                raise self._refusal(name, "is not given")
            if empty is not None:
                value = empty.to(x_t.dtype) if empty.is_floating_point() else empty
                return value.expand(x_t.shape[0], *value.shape)
        if name == "class_labels" and self._labels is not None:
            self._check_labels(value, x_t.shape[0], self._labels)
        if not isinstance(value, Tensor) or value.ndim == 0 or value.dtype == torch.bool:
            return value
        if not value.is_floating_point():
            value = value if value.dtype == torch.int32 else value.long()
        if empty is None:
            if not torch.compiler.is_compiling() and value not in _WHOLE:
                if _any(_gone(value)):
                    raise self._refusal(name, "is -1 or NaN, which is absent, in some items")
                _WHOLE[value] = True
            return value.to(x_t.dtype) if value.is_floating_point() else value
        axes = zip(reversed(empty.shape), reversed(value.shape), strict=False)
        if empty.ndim >= value.ndim or not all(n in (1, m) for n, m in axes):
            raise ValueError(
                f"{name} is {tuple(value.shape)} and absent is {tuple(empty.shape)}; give that of one "
                "item."
            )
        value = torch.where(_gone(value), empty.to(value.dtype), value)
        return value.to(x_t.dtype) if value.is_floating_point() else value

    def _check_labels(self, value: Any, items: int, labels: int) -> None:
        if (
            not isinstance(value, Tensor)
            or value.dtype.is_floating_point
            or value.dtype == torch.bool
        ):
            raise ValueError(f"label is {shown(value)}; give a tensor of integers, ({items},).")
        if value.ndim and value.shape != (items,):
            raise ValueError(f"label is {shown(value)}; give one for each item, ({items},).")
        # elsewhere than on a CPU it would wait for the device
        if torch.compiler.is_compiling() or value.device.type != "cpu" or value in _KNOWN:
            return
        if _any(value >= labels):
            raise ValueError(
                f"label is up to {value.max().item()}, and {self.config['network']} has "
                f"{labels} labels; give numbers below, and -1 for none."
            )
        _KNOWN[value] = True

    def _refusal(self, name: str, what: str) -> ValueError:
        said = "label" if name == "class_labels" else name
        value = (
            "the label that the network takes for none"
            if said == "label"
            else "a tensor of one item"
        )
        return ValueError(
            f"{said} {what}, and {self.config['network']} needs it; give it to all items, or say "
            f"what is absent as FromDiffusers(network, absent={{{said!r}: ...}}), with {value}."
        )


def _gone(value: Tensor) -> Tensor:
    """Where a condition is absent: entries of integers, rows of numbers."""
    if not value.is_floating_point():
        return value < 0
    return value.isnan().any(-1, keepdim=True) if value.ndim > 1 else value.isnan()


def _any(choice: Tensor) -> bool:
    try:
        return bool(choice.any())
    except RuntimeError:  # under vmap no value can be read
        return False


def _labels(config: Mapping[str, Any]) -> int | None:
    """How many labels the network has rows for; None if the configuration does not say."""
    if config.get("class_embed_type"):  # numbers, which are no rows of a table
        return None
    if isinstance(num := config.get("num_class_embeds"), int):
        return num
    num = config.get("num_embeds_ada_norm")
    return num + 1 if isinstance(num, int) else None  # the last is that of no label


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
