"""Denoisers as programs of PyTorch's own, which run without anydiff and without their Python code.

Only the network is exported: a sampler is a loop around it. Batches may have any number of items.
"""

from __future__ import annotations

from collections.abc import Iterable
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.checks import check_kind, check_shape
from anydiff.predictions import takes_space
from anydiff.spaces import DENSE, Dense, Masked, Space

__all__ = ["export"]


class _OfTensors(nn.Module):
    """A denoiser as a function of tensors alone, as programs are: a mask stands for a space.

    Arguments:
        denoiser: The network.
        padded: Whether there is a mask.
        names: What the conditions are called.
    """

    def __init__(self, denoiser: nn.Module, padded: bool, names: Iterable[str]) -> None:
        super().__init__()
        self.denoiser = denoiser
        told = takes_space(denoiser)(DENSE)

        def forward(x_t: Tensor, t: Tensor, **cond: Any) -> Any:
            if padded:
                cond["space"] = Masked(cond.pop("mask"))
            elif told:
                cond["space"] = DENSE
            return denoiser(x_t, t, **cond)

        # conditions that it names: what torch makes of **cond has no axis of any length
        each = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("x_t", "t", *names)]
        forward.__signature__ = Signature(each)  # type: ignore[attr-defined]
        self.forward = forward


def export(
    denoiser: nn.Module, x_t: Tensor, t: Tensor, space: Space = DENSE, **cond: Tensor
) -> torch.export.ExportedProgram:
    """A denoiser as a program: its operations on tensors, with its weights.

    ``torch.export.save(program, "denoiser.pt2")`` writes it, and
    ``torch.export.load("denoiser.pt2").module()(x_t, t, **cond)`` runs it; of padded sequences the mask
    of the valid rows is a condition, `mask`. Any number of items may be given to it, of the shape of the
    example and with the same conditions.

    Arguments:
        denoiser: A network in eval mode, without hand-written gradients: `UNet` and `Transformer` are
            such, and so is what `torch.export` takes. One on rows of several items, or one that steps
            along sequences, reads sizes from its data, and no program can.
        x_t: An example of its input, of two items at least.
        t: Times, (B,).
        space: `Dense`, or `Masked` where every value of a valid row is observed.
        cond: Conditions, by name, of B items each.

    Raises:
        ValueError: If the network cannot be exported, with the reason, or the example does not fit.
    """
    check_kind(nn.Module, "a network", denoiser=denoiser)
    name = type(denoiser).__name__
    if denoiser.training:
        raise ValueError(f"{name} is in training mode, which its program would keep; call eval().")
    if not isinstance(space, Dense | Masked):
        raise ValueError(
            f"the space is {type(space).__name__}, whose items have sizes that are read from the data, "
            "and no program can do that; give Dense or Masked."
        )
    items = len(x_t)
    check_shape((items,), "give a time for each item", t=t)
    if items < 2:
        raise ValueError("the example has one item, which a program would be made for; give two.")
    if "mask" in cond:
        raise ValueError("a condition is called mask, which is the mask of the space; rename it.")
    padded = isinstance(space, Masked)
    if isinstance(space, Masked):
        if space.observed is not None:
            raise ValueError("the space has unobserved values; export takes the mask of rows only.")
        cond |= {"mask": space.mask}
    for key, value in cond.items():
        check_kind(Tensor, "a tensor of a row for each item", **{key: value})
        if value.ndim == 0 or len(value) != items:
            raise ValueError(
                f"{key} is {tuple(value.shape)} for {items} items; give a row for each."
            )
    dim = torch.export.Dim("items", min=1)
    axes = {name: {0: dim} for name in ("x_t", "t", *cond)}
    function = _OfTensors(denoiser, padded, cond)
    try:
        with torch.no_grad():
            return torch.export.export(function, (x_t, t), cond, dynamic_shapes=axes)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{name} cannot be exported for any number of items, as what it does depends on the values "
            f"or the number of its inputs ({type(error).__name__}: {reason}). UNet and Transformer can."
        ) from error
