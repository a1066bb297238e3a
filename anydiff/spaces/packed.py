r"""Several fields of one item in one tensor: nodes and edges, points and the cell they lie in.

The fields are flattened and concatenated into one tensor, as ODE solvers do with a tuple of states. A
step of a sampler, a guidance or a loss is then the same few operations as for one field, and needs no
knowledge of the fields. Only the denoiser, which is given the space, takes them apart again.

The tensor has no batch axis, because the fields have none in common: an item has one row for each of its
nodes, and one for each of its edges. The whole first field comes first, then the whole second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from anydiff.checks import check_choice, check_kind, check_range, check_shape, number, shown
from anydiff.spaces.draws import Random, check_count
from anydiff.spaces.space import Coefficient, Space, check_space

__all__ = ["Packed"]


@dataclass(frozen=True, eq=False)
class Packed(Space):
    r"""(M,): several fields, each with its own space, flattened one after the other.

    .. code-block:: python

        nodes = Ragged(index, num_items, centered=3)
        edges = Ragged(index[nodes.edge_index[0]], num_items)
        space = Packed({"nodes": (nodes, (N, 8)), "edges": (edges, (E, 2)), "cell": (Dense(), (B, 6))})

        loss = diffusion.loss(space.pack({"nodes": x, "edges": e, "cell": c}), space=space)
        samples = space.unpack(diffusion.sample(space.shape, space=space))["nodes"]

        def forward(self, x_t, t, space):                            # of the denoiser
            fields = space.unpack(x_t)                               # "nodes": (N, 8), ...
            graph = space["nodes"].edge_index
            ...
            return space.pack({"nodes": ..., "edges": ..., "cell": ...})

    The dimension of an item is the sum over its fields, so that entries of all fields have the same
    weight in a loss, unless `weights` says otherwise. With the weights w_f, the error of an item is

    .. math:: \sum_f w_f \lVert y_f - \hat y_f \rVert^2 \Big/ \sum_f w_f \dim_f

    so that weighting all fields alike changes nothing. Sums, dimensions and likelihoods are not weighted.
    The scale of a field's data is no weight where the network predicts the noise, which has one scale
    for all; it decides at which time a field is settled: the larger the data, the earlier in sampling.

    A learned variance is packed like the prediction: ``return space.pack(means), space.pack(variances)``.

    Arguments:
        fields: The space and the shape of each field, by name. All fields have the same items in the
            same order. An item may have no entries in a field, as a single node has no edges. Spaces
            of all kinds are allowed.
        weights: The weight of a field's entries in a loss, by name, as in ``{"edges": 0.3}``; 1 for
            fields that are not named. None weights all alike.

    Raises:
        ValueError: If there is no field, if one is not a space and a shape, or if the fields have
            different numbers of items; if a weight is not positive, or of a field that is not there.
    """

    fields: Mapping[str, tuple[Space, tuple[int, ...]]]
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.fields, Mapping) or not self.fields:
            raise ValueError(
                f"there is no field in {shown(self.fields)}; give each a name, a space and a shape."
            )
        fields: dict[str, tuple[Space, tuple[Any, ...]]] = {}
        for name, field in self.fields.items():
            space, shape = (
                field if isinstance(field, tuple | list) and len(field) == 2 else (None, None)
            )
            sizes = [number(n) for n in shape] if isinstance(shape, Sequence | np.ndarray) else []
            if not sizes or not all(isinstance(n, int) and n >= 0 for n in sizes):
                raise ValueError(
                    f"field {name!r} is {shown(field)}; give a space and a shape, items or rows first."
                )
            with _named(name):
                check_space(space=space)
            fields[name] = space, tuple(sizes)
        object.__setattr__(self, "fields", fields)  # a copy, since the caller may change the dict
        for name, (space, shape) in fields.items():
            with _named(name):  # errors of the field's own space about the shape
                items = len(space.dim(torch.empty(shape)))
            if items != self.num_items:
                raise ValueError(
                    f"field {name!r} has {items} items, not {self.num_items}; use one batch for all."
                )
        check_kind(Mapping | None, "numbers by field, as {'edges': 0.3}", weights=self.weights)
        for name, weight in (self.weights or {}).items():
            check_choice(fields, **{"a field of the weights": name})
            check_range("(0, inf)", **{f"weights[{name!r}]": weight})
        weights = {name: number(weight) for name, weight in (self.weights or {}).items()}
        object.__setattr__(self, "weights", weights or None)

    @property
    def shape(self) -> tuple[int]:
        """The shape of the packed tensor, (M,)."""
        return (sum(self._counts),)

    @cached_property
    def num_items(self) -> int:
        """The number of items B."""
        space, shape = next(iter(self.fields.values()))
        return len(space.dim(torch.empty(shape)))

    @cached_property
    def _counts(self) -> list[int]:
        return [math.prod(shape) for _, shape in self.fields.values()]

    def __getitem__(self, name: str) -> Any:
        """The space of a field. Typed as Any, for attributes of one kind of space: a mask, edges."""
        if name not in self.fields:
            raise KeyError(f"there is no field {name!r}; there are {', '.join(self.fields)}.")
        return self.fields[name][0]

    def to(self, device: torch.device | str) -> Packed:
        moved = {name: (space.to(device), shape) for name, (space, shape) in self.fields.items()}
        return Packed(moved, self.weights)

    def items(self, x: Tensor) -> int:
        return self.num_items

    @property
    def free(self) -> bool:
        return all(space.free for space, _ in self.fields.values())

    def copied(self, n: int) -> Packed | None:
        more = {}
        for name, (space, shape) in self.fields.items():
            copies = space.copies(n)
            if copies is None:
                return None
            more[name] = copies, (n * shape[0], *shape[1:])
        return Packed(more, self.weights)

    def join(self, states: Sequence[Tensor]) -> Tensor:
        parts = [self.unpack(x) for x in states]
        fields = [self[name].join([part[name] for part in parts]) for name in self.fields]
        return torch.cat([x.flatten() for x in fields])

    def separate(self, x: Tensor, n: int) -> list[Tensor]:
        sizes = [n * count for count in self._counts]
        fields = [part.chunk(n) for part in torch.split(x, sizes)]
        return [torch.cat(parts) for parts in zip(*fields, strict=True)]

    def restrict(self, x: Tensor, mask: Tensor) -> Tensor:
        """Each field restricted to its part of a packed mask, (M,) booleans.

        Arguments:
            x: A packed state, (M,).
            mask: (M,) booleans.
        """
        parts = zip(self._each(x), self._each(mask), strict=True)
        return torch.cat([space.restrict(part, m).flatten() for (space, part), (_, m) in parts])

    def pack(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Flatten and concatenate the fields into one tensor, (M,).

        Arguments:
            fields: The tensor of each field, by name, with the shape given to the space; all of one
                floating-point dtype.

        Raises:
            ValueError: If the names, a shape or a dtype do not match the space.
        """
        check_kind(Mapping, "tensors by name", fields=fields)
        check_kind(Tensor, "a tensor", **fields)
        if fields.keys() != self.fields.keys():
            raise ValueError(
                f"the fields are {', '.join(fields) or 'none'}; give {', '.join(self.fields)}."
            )
        one = next(iter(fields.values())).dtype  # one tensor holds them all
        for name, (_, shape) in self.fields.items():
            hint = "give all the shapes of the space's batch and one floating dtype"
            check_shape(
                shape, hint, one if one.is_floating_point else torch.float32, **{name: fields[name]}
            )
        return torch.cat([fields[name].flatten() for name in self.fields])

    def unpack(self, x: Tensor) -> dict[str, Tensor]:
        """The fields of a packed tensor, by name, as views of it.

        Arguments:
            x: A packed tensor, (M,).

        Raises:
            ValueError: If x is not (M,).
        """
        if x.shape != self.shape:
            sizes = ", ".join(f"{name} {shape}" for name, (_, shape) in self.fields.items())
            raise ValueError(
                f"x is {tuple(x.shape)}, not {self.shape} as packed of {sizes}; use the same batch."
            )
        parts = zip(self.fields.items(), torch.split(x, self._counts), strict=True)
        return {name: part.view(shape) for (name, (_, shape)), part in parts}

    def _each(self, x: Tensor) -> list[tuple[Space, Tensor]]:
        return [(self.fields[name][0], part) for name, part in self.unpack(x).items()]

    def expand(self, c: Coefficient, x: Tensor) -> Coefficient:
        return c[self._items(x)] if isinstance(c, Tensor) and c.ndim > 0 else c

    def _items(self, x: Tensor) -> Tensor:
        """The item that each entry belongs to, (M,): what the fields make of the items' numbers."""
        known: Tensor | None = self.__dict__.get("_index")
        if known is None or known.device != x.device:
            numbers = torch.arange(self.num_items, device=x.device)
            parts = [space.expand(numbers, part).expand_as(part) for space, part in self._each(x)]
            known = self.__dict__["_index"] = torch.cat([part.flatten() for part in parts])
        return known

    def project(self, x: Tensor) -> Tensor:
        return torch.cat([space.project(part).flatten() for space, part in self._each(x)])

    def sum(self, x: Tensor) -> Tensor:
        return torch.stack([space.sum(part) for space, part in self._each(x)]).sum(0)

    def dim(self, x: Tensor) -> Tensor:
        return torch.stack([space.dim(part) for space, part in self._each(x)]).sum(0)

    def mean(self, x: Tensor) -> Tensor:
        total, dim = self._weighted(x)
        return total / torch.where(dim > 0, dim, 1)

    def _weighted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The sum and the dimension of each item, (B,), with the weights of the fields."""
        each = []
        for name, part in self.unpack(x).items():
            space, weight = self[name], (self.weights or {}).get(name, 1.0)
            own = space._weighted(part) if isinstance(space, Packed) else None
            total, dim = own or (space.sum(part), space.dim(part))
            each.append((weight * total, weight * dim))
        totals, dims = zip(*each, strict=True)
        return torch.stack(totals).sum(0), torch.stack(dims).sum(0)

    def diagonal(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        masks = [None] * len(self.fields) if mask is None else [m for _, m in self._each(mask)]
        parts = zip(self._each(x), masks, strict=True)
        return torch.cat([space.diagonal(part, m).flatten() for (space, part), m in parts])

    def noise(self, x: Tensor, generator: Random = None) -> Tensor:
        if not (generator is None or isinstance(generator, Generator)):
            check_count(generator, self.num_items)
        # all fields use the same generators: an item's noise is its own, whatever the batch
        return torch.cat([space.noise(part, generator).flatten() for space, part in self._each(x)])


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the field in errors about it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"field {name!r}: {error}") from error
