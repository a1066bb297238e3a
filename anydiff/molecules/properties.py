r"""Properties of molecules as conditions: their units for a network.

A network is given a property c as

.. math:: \frac{c - \text{mean}}{\text{MAD}}, \qquad \text{MAD} = \text{mean}\,|c - \text{mean}|

with mean and MAD of the training molecules, which :class:`Properties` holds: of all of them, or of those
with as many atoms. Sizes and properties depend on one another (a polarizability of 100 bohr³ takes about
twenty atoms), and a network that sees how many atoms there are learns from the first mostly what it knows
already. :func:`with_properties` adds the condition to a batch. Unknown values are NaN.

Means of groups, those of one size or one formula, are pooled, as most groups are small: a group of N
molecules with the mean m has

.. math:: \frac{N m + \kappa g}{N + \kappa}, \qquad \kappa = 3

where g is what a linear regression on the size, or on the number of atoms of each element, says of it.

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
from torch import Tensor

from anydiff.checks import check_shape
from anydiff.molecules.molecules import Molecules

__all__ = ["Properties", "halves", "with_properties"]

Unpack = Callable[[Any], tuple[Tensor, Any, dict[str, Any]]]

_KAPPA = 3.0  # molecules that a regression counts for, beside those of a group


@dataclass(frozen=True)
class Properties:
    """Names of properties in their order, and the units in which a network is given them.

    Arguments:
        names: P names.
        mean: The mean of each property, in its own unit.
        mad: The mean absolute deviation of each, in the same unit.
        sizes: S numbers of atoms, ascending, for which there are means and deviations of their own; of
            other sizes, the nearest one's are taken, of two the lower one's. None if empty.
        mean_of_size: S times the means of the P properties.
        mad_of_size: S times their deviations from these.

    Raises:
        ValueError: The names are not distinct, there are not as many numbers as names and sizes, these do
            not ascend from 1, a mean is not finite, or a deviation not positive and finite.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    mad: tuple[float, ...]
    sizes: tuple[int, ...] = ()
    mean_of_size: tuple[tuple[float, ...], ...] = ()
    mad_of_size: tuple[tuple[float, ...], ...] = ()

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
        self._check_sizes()

    def _check_sizes(self) -> None:
        shape = (len(self.sizes), len(self.names))
        whole = np.asarray(self.sizes, np.float64)
        if (whole != np.floor(whole)).any() or (np.diff([0, *whole]) < 1).any():
            raise ValueError(f"sizes are {self.sizes[:9]}; give ascending whole numbers from 1.")
        object.__setattr__(self, "sizes", tuple(map(int, self.sizes)))
        for key in ("mean_of_size", "mad_of_size"):
            table = getattr(self, key)
            rows = np.asarray(table, np.float64).reshape(shape) if _fits(table, shape) else None
            low = 0.0 if key == "mad_of_size" else -math.inf
            if rows is None or not (np.isfinite(rows) & (rows > low)).all():
                positive = "positive and finite" if low == 0 else "finite"
                raise ValueError(
                    f"{key} has {len(table)} rows; give one for each of the {shape[0]} sizes, with a "
                    f"number for each of {', '.join(self.names)}, {positive}."
                )
            object.__setattr__(self, key, tuple(map(tuple, rows.tolist())))

    @classmethod
    def from_molecules(
        cls, molecules: Molecules, names: str | Sequence[str], by_size: bool = False
    ) -> Properties:
        """Properties with the mean and MAD of their known values.

        Arguments:
            molecules: The training molecules.
            names: One or more of their properties.
            by_size: Give each size a mean and a deviation of its own, so that the network is told what it
                does not see from the number of atoms. The means are pooled with a straight line through
                the sizes, as the module says, and the deviations with that of all molecules.

        Raises:
            ValueError: The molecules lack a property, or its known values are all equal, or nearly so in
                float32; or, by size, they follow from the number of atoms.
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
        if not by_size:
            return cls(names, tuple(mean), tuple(mad))
        sizes, which = np.unique(molecules.sizes, return_inverse=True)
        known = np.where(known, values, np.nan)
        means = pooled(known, which, sizes[:, None])
        rest = abs(known - means[which])
        level = np.nanmean(rest, axis=0)
        if (same := level < 1000 * np.maximum(abs(mean) * single.eps, single.tiny)).any():
            k = int(np.argmax(same))
            raise ValueError(
                f"{molecules.name}: {names[k]} follows from the number of atoms, to {level[k]:g}; "
                "a network sees that number anyway; leave the property out, or by_size."
            )
        mads = _shrunk(rest, which, np.broadcast_to(level, means.shape))
        return cls(names, tuple(mean), tuple(mad), tuple(sizes), tuple(means), tuple(mads))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, ready for JSON."""
        config: dict[str, Any] = {"names": self.names, "mean": self.mean, "mad": self.mad}
        if self.sizes:
            config |= {"sizes": self.sizes, "mean_of_size": self.mean_of_size}
            config |= {"mad_of_size": self.mad_of_size}
        return {key: _listed(value) for key, value in config.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Properties:
        """The object whose :attr:`config` was saved."""
        return cls(**config)

    def encode(self, values: Tensor, sizes: Tensor | None = None) -> Tensor:
        r"""(value − mean) / MAD; NaN, unknown, for values that are not finite.

        Arguments:
            values: (\*, P), in the properties' own units.
            sizes: (\*), numbers of atoms, which properties by size need.

        Raises:
            ValueError: The last axis is not of size P, or sizes are missing or of another shape.
        """
        mean, mad = self._units(values, sizes)
        c = (values - mean) / mad
        return c.where(c.isfinite(), torch.nan)

    def decode(self, c: Tensor, sizes: Tensor | None = None) -> Tensor:
        r"""The inverse of :meth:`encode`: c · MAD + mean.

        Arguments:
            c: (\*, P).
            sizes: As for :meth:`encode`.

        Raises:
            ValueError: As for :meth:`encode`.
        """
        mean, mad = self._units(c, sizes)
        return c * mad + mean

    def _units(self, values: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mean and the deviation of each value, of shapes that go with theirs."""
        names = ", ".join(self.names)
        if values.ndim == 0 or values.shape[-1] != len(self.names):
            raise ValueError(
                f"values are {tuple(values.shape)}; give (*, {len(self.names)}), a column each for "
                f"{names}."
            )
        if not self.sizes:
            return values.new_tensor(self.mean), values.new_tensor(self.mad)
        if sizes is None:
            raise ValueError(
                f"{names}: a value is told relative to molecules of the same size; give sizes, their "
                "numbers of atoms."
            )
        check_shape(values.shape[:-1], "a number of atoms for each row of values", sizes=sizes)
        known = torch.tensor(self.sizes, device=values.device, dtype=torch.float64)
        between = (known[1:] + known[:-1]) / 2
        nearest = torch.bucketize(sizes.to(known), between)
        mean, mad = (values.new_tensor(rows) for rows in (self.mean_of_size, self.mad_of_size))
        return mean[nearest], mad[nearest]


def _fits(table: Any, shape: tuple[int, int]) -> bool:
    """Whether rows of numbers have a shape."""
    return len(table) == shape[0] and all(np.shape(row) == shape[1:] for row in table)


def _listed(value: Any) -> Any:
    """Tuples as lists, which JSON has."""
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def _sums(values: np.ndarray, which: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """The sums of the known values (M, P) of each group, (G, P), and how many they are."""
    known = np.isfinite(values)
    total, count = np.zeros((groups, values.shape[1])), np.zeros((groups, values.shape[1]))
    np.add.at(total, which, np.where(known, values, 0))
    np.add.at(count, which, known)
    return total, count


def _shrunk(values: np.ndarray, which: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """The mean of each group, (G, P), with a guess (G, P) that counts as some molecules more."""
    total, count = _sums(values, which, len(guess))
    shrunk: np.ndarray = (total + _KAPPA * guess) / (count + _KAPPA)
    return shrunk


def pooled(values: np.ndarray, which: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The pooled mean of each group, (G, P), as the module says.

    Arguments:
        values: (M, P), NaN where unknown.
        which: (M,), the group of each.
        columns: (G, D), what the regression knows of each group.
    """
    total, count = _sums(values, which, len(columns))
    x = np.c_[np.ones(len(columns)), columns]
    guess = np.zeros_like(total)
    for p in range(values.shape[1]):
        w = np.sqrt(count[:, p])  # groups weighted so are molecules alike
        mean = total[:, p] / np.maximum(count[:, p], 1)
        guess[:, p] = x @ np.linalg.lstsq(w[:, None] * x, w * mean, rcond=None)[0]
    return _shrunk(values, which, guess)


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
        sizes = batch.ptr.diff() if properties.sizes else None
        return x, space, {**cond, "context": properties.encode(batch.y[:, picked], sizes)}

    return unpack_with_properties


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
