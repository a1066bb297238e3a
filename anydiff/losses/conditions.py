r"""Conditions: inputs of a denoiser besides x_t and t, and how a model learns to do without them.

A condition is a tensor that is passed to the denoiser by its name: a label, values, tokens, arrays. It
has one row for each item, or one for each row of x. Where an item has no condition, the tensor holds a
special value, by item or by entry: -1 for integers, NaN for floating-point numbers. One batch can
therefore hold items with and without a condition. A model trained with a fraction of its conditions
dropped learns both p(x | c) and p(x), as classifier-free guidance requires, and can evaluate both in one
call.

References:
    Classifier-Free Diffusion Guidance (Ho & Salimans, 2022), algorithm 1.
    https://arxiv.org/abs/2207.12598
    Cascaded Diffusion Models (Ho et al., 2022), section 4.2, on noise in a condition.
    https://arxiv.org/abs/2106.15282
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from anydiff.checks import check_range, shown
from anydiff.precision import at_least_float32
from anydiff.schedules import Schedule
from anydiff.spaces import DENSE, Random, Space
from anydiff.spaces.draws import uniforms

__all__ = ["absent", "augment", "drop", "join", "joinable", "noise", "shares"]

Shares = float | Mapping[str, float] | None


def absent(value: Tensor) -> Tensor:
    """The absent form of a condition: -1 or NaN in all entries; booleans are returned unchanged.

    Unsigned integers cannot hold -1; their absent form is of int64, as what is combined with it becomes.

    Arguments:
        value: A condition.
    """
    if value.dtype == torch.bool:
        return value
    value = _signed(value)
    return torch.full_like(value, torch.nan if value.is_floating_point() else -1)


def _signed(value: Tensor) -> Tensor:
    unsigned = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
    return value.long() if value.dtype in unsigned else value


def shares(values: Shares, what: str) -> Any:
    """Check that fractions lie in [0, 1], and return them.

    Arguments:
        values: One fraction for all conditions, one for each by name, or None.
        what: What error messages call them.

    Raises:
        ValueError: If one lies outside [0, 1].
    """
    given: dict[str, Any] = {what: values}
    if isinstance(values, Mapping):
        given = {f"{what} of {name}": value for name, value in values.items()}
    check_range("[0, 1]", **{name: value for name, value in given.items() if value is not None})
    return values


def drop(
    cond: Mapping[str, Any], share: Shares, x: Tensor, space: Space, generator: Random = None
) -> dict[str, Any]:
    """The conditions, each dropped from a random fraction of the items, independently of the others.

    Arguments:
        cond: The conditions, by name.
        share: The fraction in [0, 1]: one for all conditions, or one for each by name, which leaves
            conditions without a fraction unchanged.
        x: A state of the batch.
        space: The batch's space.
        generator: The source of the choice: one generator, or one per item.

    Raises:
        ValueError: If a fraction is given for a condition that the batch does not have, or if a condition
            has neither a row per item nor a row per row of x.
    """
    if share is None:
        return dict(cond)
    if not isinstance(share, Mapping):
        share = dict.fromkeys((k for k, v in cond.items() if _is_droppable(v)), share)
    _check_names(share, cond, "drop")
    dropped = dict(cond)
    for name, p in share.items():
        value, out = (cond[name], uniforms(1, space.items(x), x, generator)[0] < p)
        dropped[name] = torch.where(_rows(out, value, x, space), absent(value), _signed(value))
    return dropped


def augment(
    cond: Mapping[str, Any],
    most: Mapping[str, float],
    schedule: Schedule,
    x: Tensor,
    space: Space,
    generator: Random = None,
) -> dict[str, Any]:
    r"""The conditions, with noise added to some of them: conditioning augmentation.

    A condition c becomes :math:`\alpha_s c + \sigma_s \epsilon` with s uniform in [0, most]. The
    denoiser gets s, (B,), as an additional condition ``{name}_t``.

    Arguments:
        cond: The conditions, by name.
        most: For each condition that gets noise, by its name, the largest time.
        schedule: The schedule of the noise.
        x: A state of the batch.
        space: The batch's space.
        generator: The source of times and noise: one generator, or one per item.

    Raises:
        ValueError: If the batch does not have a condition, or if it does not have one row per item.
    """
    _check_names(most, cond, "augment")
    noised = dict(cond)
    items = space.items(x)
    for name, end in most.items():
        if len(cond[name]) != items:
            raise ValueError(
                f"{name!r} is {tuple(cond[name].shape)}; augment needs a row for each of {items} items."
            )
        s = end * uniforms(1, items, x, generator)[0].to(at_least_float32(x))
        noised |= noise(name, cond[name], s, schedule, generator=generator)
    return noised


def noise(
    name: str,
    value: Tensor,
    s: Tensor,
    schedule: Schedule,
    space: Space = DENSE,
    generator: Random = None,
) -> dict[str, Tensor]:
    """A condition noised to the times s, and the times as a second condition.

    Arguments:
        name: The name of the condition.
        value: The condition, in its space.
        s: The time of each item, (B,).
        schedule: The schedule of the noise.
        space: The space of the condition.
        generator: The source of noise.

    Returns:
        The noised condition under `name`, and s under ``{name}_t``.
    """
    alpha, sigma = (space.expand(c.detach().to(value.dtype), value) for c in schedule(s))
    return {name: alpha * value + sigma * space.noise(value, generator), f"{name}_t": s}


def joinable(cond: Mapping[str, Any]) -> bool:
    """Whether copies of a batch can have these conditions: tensors of rows, or single values."""
    return all(v is None or isinstance(v, _SINGLE) or _is_rows(v) for v in cond.values())


_SINGLE = (bool, int, float, str)  # one value for the whole batch


def join(conditions: Sequence[Mapping[str, Any]], space: Space = DENSE) -> dict[str, Any]:
    """Concatenate the conditions of several copies of a batch.

    A condition that some of the copies do not have becomes absent there.

    Arguments:
        conditions: The conditions of each copy, by name.
        space: The batch's space, which joins a condition that is a packed state.

    Raises:
        ValueError: If a condition is neither a tensor of rows nor the same for all copies, if shapes
            differ, or if some copies do not have a boolean condition.
    """
    names = dict.fromkeys(name for cond in conditions for name in cond)
    return {name: _joined(name, conditions, space) for name in names}


def _joined(name: str, conditions: Sequence[Mapping[str, Any]], space: Space) -> Any:
    def refuse(why: str) -> NoReturn:
        raise ValueError(
            f"the condition {name!r} {why}, or call the model once for each, with batched=False."
        )

    values = [cond.get(name) for cond in conditions]
    known = next((v for v in values if v is not None), None)
    if not isinstance(known, Tensor) or known.ndim == 0:
        if not (known is None or isinstance(known, _SINGLE)) or any(v != known for v in values):
            refuse(f"is {shown(known)} or the like; give rows, or one value for all")
        return known
    # {name}_mask marks the valid entries of {name}, and is not needed where {name} is absent too
    masked = name.removesuffix("_mask")
    lacking = [cond for cond in conditions if cond.get(name) is None]
    if known.dtype == torch.bool and any(
        masked == name or cond.get(masked) is not None for cond in lacking
    ):
        refuse("is boolean, which has no value for absence, and some lack it; give it to all")
    shapes = {tuple(v.shape) for v in values if v is not None}
    if len(shapes) > 1:
        refuse(f"is {', '.join(map(str, shapes))}; give one shape")
    parts = [absent(known) if v is None else _signed(v) for v in values]
    # the copies of a packed state do not follow one another as a whole
    packed = known.shape == getattr(space, "shape", None)
    return space.join(parts) if packed else torch.cat(parts)


def _is_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _is_droppable(value: Any) -> bool:
    return _is_rows(value) and value.dtype != torch.bool


def _check_names(given: Mapping[str, float], cond: Mapping[str, Any], what: str) -> None:
    for name in given:
        if not _is_droppable(cond.get(name)):
            known = ", ".join(k for k, v in cond.items() if _is_droppable(v)) or "none"
            raise ValueError(f"{what} names {name!r}; the conditions of this batch are {known}.")


def _rows(choice: Tensor, value: Tensor, x: Tensor, space: Space) -> Tensor:
    """One value per item, (B,), reshaped for a condition with a row per item or per row of x."""
    if len(value) == len(choice):
        return choice.reshape(-1, *(1,) * (value.ndim - 1))
    if len(value) == len(x):
        return space.expand(choice, x).reshape(-1, *(1,) * (value.ndim - 1))
    raise ValueError(
        f"a condition is {tuple(value.shape)}; give {len(choice)} rows, one per item, or {len(x)}, as x0."
    )
