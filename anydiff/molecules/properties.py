r"""Properties of molecules as conditions: their units for a network, and their distribution.

A network is given a property c as

.. math:: \frac{c - \text{mean}}{\text{MAD}}, \qquad \text{MAD} = \text{mean}\,|c - \text{mean}|

with mean and MAD of the training molecules, which :class:`Properties` holds. :func:`with_properties`
adds the condition to a batch. Sizes and properties depend on one another (a polarizability of 100 bohr³
takes about twenty atoms), and :class:`PropertyDistribution` draws them together. Unknown values are NaN.

:func:`halves` is the protocol for evaluating whether generated molecules have the wanted property: the
network that predicts it and the one that generates learn from different molecules.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), sections 4 and 5.2.
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from anydiff.checks import check_range, check_shape
from anydiff.molecules.molecules import Molecules

__all__ = ["Properties", "PropertyDistribution", "halves", "with_properties"]

Unpack = Callable[[Any], tuple[Tensor, Any, dict[str, Any]]]


@dataclass(frozen=True)
class Properties:
    """Names of properties in their order, and the units in which a network is given them.

    Arguments:
        names: P names.
        mean: The mean of each property, in its own unit.
        mad: The mean absolute deviation of each, in the same unit.

    Raises:
        ValueError: The names are not distinct, there are not as many numbers as names, a mean is not
            finite, or a deviation not positive and finite.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    mad: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        for key in ("mean", "mad"):
            object.__setattr__(self, key, tuple(float(value) for value in getattr(self, key)))
        P = len(self.names)
        if not P or len(set(self.names)) != P or {len(self.mean), len(self.mad)} != {P}:
            raise ValueError(
                f"names {self.names}, mean {self.mean}, mad {self.mad}; give one or more different "
                "names, with as many means and deviations."
            )
        for name, mean, mad in zip(self.names, self.mean, self.mad, strict=True):
            if not (math.isfinite(mean) and 0 < mad < math.inf):
                raise ValueError(
                    f"{name} has mean {mean} and mean absolute deviation {mad}; a condition needs "
                    "finite values that differ."
                )

    @classmethod
    def from_molecules(cls, molecules: Molecules, names: str | Sequence[str]) -> Properties:
        """Properties with the mean and MAD of their known values.

        Arguments:
            molecules: The training molecules.
            names: One or more of their properties.

        Raises:
            ValueError: The molecules lack a property, or its known values are all equal, or nearly so in
                float32.
        """
        names = (names,) if isinstance(names, str) else tuple(names)
        values = molecules_values(molecules, names)
        known = abs(values) <= np.finfo(np.float32).max  # as in batches; false for nan
        count = known.sum(0)
        if (count == 0).any():
            k = int(count.argmin())
            raise ValueError(
                f"{molecules.name}: no value of {names[k]} is known and within float32."
            )
        mean = np.where(known, values, 0).sum(0) / count
        mad = np.where(known, abs(values - mean), 0).sum(0) / count
        single = np.finfo(np.float32)
        lost = (mad > 0) & (mad < 1000 * np.maximum(abs(mean) * single.eps, single.tiny))
        if lost.any():
            k = int(np.argmax(lost))
            raise ValueError(
                f"{molecules.name}: {names[k]} differs by {mad[k]:g} around {mean[k]:g}, too little for "
                "batches in float32; subtract a number that all have in common, or take another unit."
            )
        return cls(names, tuple(mean), tuple(mad))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, ready for JSON."""
        return {"names": list(self.names), "mean": list(self.mean), "mad": list(self.mad)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Properties:
        """The object whose :attr:`config` was saved."""
        return cls(**config)

    def encode(self, values: Tensor) -> Tensor:
        """(value − mean) / MAD; NaN, unknown, for values that are not finite.

        Arguments:
            values: (*, P), in the properties' own units.

        Raises:
            ValueError: The last axis is not of size P.
        """
        self._check(values)
        c = (values - values.new_tensor(self.mean)) / values.new_tensor(self.mad)
        return c.where(c.isfinite(), torch.nan)

    def decode(self, c: Tensor) -> Tensor:
        """The inverse of :meth:`encode`: c · MAD + mean.

        Arguments:
            c: (*, P).

        Raises:
            ValueError: The last axis is not of size P.
        """
        self._check(c)
        return c * c.new_tensor(self.mad) + c.new_tensor(self.mean)

    def _check(self, values: Tensor) -> None:
        if values.ndim == 0 or values.shape[-1] != len(self.names):
            raise ValueError(
                f"values are {tuple(values.shape)}; give (*, {len(self.names)}), a column each for "
                f"{', '.join(self.names)}."
            )


def check_whole(**tensors: Tensor) -> None:
    """Check that numbers are whole.

    Arguments:
        tensors: The numbers, by the names of the arguments.

    Raises:
        ValueError: One is not.
    """
    for name, x in tensors.items():
        if not bool((x == x.long()).all()):
            raise ValueError(f"{name} hold {float(x[x != x.long()][0])}; give whole numbers.")


def columns(names: Sequence[str], known: Sequence[str], where: str) -> list[int]:
    """The positions of names in a list.

    Arguments:
        names: What to look for.
        known: The list.
        where: The beginning of the error message.

    Raises:
        ValueError: A name is not in the list.
    """
    for name in names:
        if name not in known:
            has = f"the properties {', '.join(known)}" if known else "no properties"
            raise ValueError(f"{where}: there is no property {name!r}; there are {has}.")
    return [list(known).index(name) for name in names]


def molecules_values(molecules: Molecules, names: Sequence[str]) -> np.ndarray:
    """The values of some properties, (M, P) in float64.

    Arguments:
        molecules: The molecules.
        names: P names.

    Raises:
        ValueError: The molecules lack a property.
    """
    known = () if molecules.props is None else molecules.prop_names
    picked = columns(names, known, molecules.name)
    assert molecules.props is not None
    return molecules.props[:, picked].astype(np.float64)


def with_properties(unpack: Unpack, properties: Properties, prop_names: Sequence[str]) -> Unpack:
    """An `unpack` that adds the condition: batch -> (x0, space, {..., "context": (B, P)}).

        unpack = with_properties(atoms.unpack, properties, molecules.prop_names)

    Arguments:
        unpack: batch -> (x0, space, cond), such as :meth:`Atoms.unpack`.
        properties: The properties to be given to the network.
        prop_names: The names of the columns of `batch.y`, those of the molecules.

    Raises:
        ValueError: A property is not among `prop_names`; or, for a batch, `batch.y` has other columns.
    """
    picked = columns(properties.names, prop_names, "with_properties")

    def unpack_with_properties(batch: Any) -> tuple[Tensor, Any, dict[str, Any]]:
        x, space, cond = unpack(batch)
        if batch.y is None or batch.y.shape[1:] != (len(prop_names),):
            found = "none" if batch.y is None else tuple(batch.y.shape)
            raise ValueError(
                f"batch.y is {found}; expected (B, {len(prop_names)}): {', '.join(prop_names)}."
            )
        return x, space, {**cond, "context": properties.encode(batch.y[:, picked])}

    return unpack_with_properties


@dataclass(frozen=True, eq=False)
class PropertyDistribution:
    """The joint empirical distribution of sizes and properties, from which targets are drawn.

    A draw is the pair of one of the molecules. EDM draws from histograms instead, for each size and
    property, with 1,000 bins over the range of values. So narrow bins give nearly the same numbers, but
    pairs need no choice of bins, keep several properties of a molecule together, and are two tensors to
    store in a checkpoint:

        anydiff.save(path, diffusion, {"sizes": targets.sizes, "values": targets.values})

    Unknown values are drawn as they occur, as NaN; so are infinite ones.

    Arguments:
        sizes: (M,), the number of atoms of each molecule.
        values: (M, P), its properties in their own units.

    Raises:
        ValueError: The shapes do not fit, there are no molecules, or a size is not whole or less than 1.
    """

    sizes: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        sizes, values = torch.as_tensor(self.sizes), torch.as_tensor(self.values)
        if sizes.ndim != 1 or len(sizes) == 0 or values.ndim != 2 or len(values) != len(sizes):
            raise ValueError(
                f"sizes are {tuple(sizes.shape)} and values {tuple(values.shape)}; give (M,) and (M, P)."
            )
        check_whole(sizes=sizes)
        if bool((sizes < 1).any()):
            raise ValueError(f"there is the size {int(sizes.min())}; sizes must be at least 1.")
        order = sizes.argsort(stable=True).cpu()  # equal sizes are a range
        values = values.to(torch.float32).cpu()[order]
        object.__setattr__(self, "sizes", sizes.to(torch.int32).cpu()[order])
        object.__setattr__(self, "values", values.where(values.isfinite(), torch.nan))

    @classmethod
    def from_molecules(
        cls, molecules: Molecules, names: str | Sequence[str]
    ) -> PropertyDistribution:
        """The distribution of some molecules.

        Arguments:
            molecules: The molecules.
            names: One or more of their properties.

        Raises:
            ValueError: The molecules lack a property.
        """
        names = (names,) if isinstance(names, str) else tuple(names)
        values = molecules_values(molecules, names)
        return cls(torch.from_numpy(molecules.sizes), torch.from_numpy(values))

    def sample(self, num: int, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Sizes (num,) and values (num, P), drawn together.

        Arguments:
            num: The number of draws.
            generator: Of the random numbers; torch's global one by default.

        Raises:
            ValueError: `num` is negative.
        """
        check_range("[0, inf)", num=num)
        picked = (self._uniform(num, generator) * len(self.sizes)).long()
        return self.sizes[picked].long(), self.values[picked]

    def given(self, sizes: Tensor, generator: Generator | None = None) -> Tensor:
        """Values (num, P) for given sizes: draws from p(c | n).

        Arguments:
            sizes: (num,), numbers of atoms.
            generator: Of the random numbers; torch's global one by default.

        Raises:
            ValueError: No molecule has one of the sizes.
        """
        check_whole(sizes=torch.as_tensor(sizes))
        wanted = torch.as_tensor(sizes).to(self.sizes)
        first = torch.searchsorted(self.sizes, wanted)
        count = torch.searchsorted(self.sizes, wanted, right=True) - first
        if bool((count == 0).any()):
            raise ValueError(
                f"no molecule has {int(wanted[count == 0][0])} atoms; there are "
                f"{', '.join(map(str, sorted(set(self.sizes.tolist()))))}."
            )
        return self.values[first + (self._uniform(len(wanted), generator) * count).long()]

    def sizes_near(
        self, value: Tensor, num: int, generator: Generator | None = None, share: float = 0.01
    ) -> Tensor:
        """Sizes (num,) for a given value: draws from the molecules with the nearest properties.

        Distances are in units of each property's standard deviation.

        Arguments:
            value: (P,), in the properties' own units.
            num: The number of draws.
            generator: Of the random numbers; torch's global one by default.
            share: The share of the molecules that count as nearest.

        Raises:
            ValueError: `value` is not (P,) or not finite, no molecule has all properties, or `num` or
                `share` is out of range.
        """
        check_range("[0, inf)", num=num)
        check_range("(0, 1]", share=share)
        wanted = torch.as_tensor(value).to(self.values)
        check_shape(self.values.shape[1:], "give a number for each property", value=wanted)
        if not wanted.isfinite().all():
            raise ValueError(f"value is {wanted.tolist()}; give a finite number for each property.")
        known = self.values.isfinite().all(1).nonzero()[:, 0]
        if not len(known):
            raise ValueError(
                f"no molecule has all {self.values.shape[1]} properties, so that none is near a value; "
                "draw sizes and values together with `sample`."
            )
        values = self.values[known].double()  # float64: a distant value still has a nearest one
        spread = values.std(0, correction=0).clamp(min=1e-12)
        far = ((values - wanted) / spread).square().sum(1)
        nearest = known[far.argsort(stable=True)[: max(1, round(share * len(known)))]]
        picked = (self._uniform(num, generator) * len(nearest)).long()
        return self.sizes[nearest[picked]].long()

    @staticmethod
    def _uniform(num: int, generator: Generator | None) -> Tensor:
        device = "cpu" if generator is None else generator.device
        # float64, for in float32 1 − 2⁻²⁴ times a count would round to the count
        return torch.rand(num, generator=generator, dtype=torch.float64, device=device).cpu()


def halves(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of the training part: one to train a property model, the other to train the generator.

    A property model that had been trained on the generator's molecules could not judge copies of them.
    The 100,000 training molecules of QM9 (:func:`anydiff.molecules.qm9.split`) give 50,000 each. EDM's
    halves are different random ones, as they were shuffled again.

    Arguments:
        train: Numbers of the training molecules.

    Raises:
        ValueError: There are fewer than two molecules.
    """
    if len(train) < 2:
        raise ValueError(f"the training part has {len(train)} molecules; two halves need 2.")
    return train[: len(train) // 2], train[len(train) // 2 :]
