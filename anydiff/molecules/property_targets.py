"""Properties to ask for: sizes, formulas and properties as they occur together, or near a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Generator, Tensor

from anydiff.checks import check_range, check_shape
from anydiff.molecules.compositions import compositions
from anydiff.molecules.elements import NUMBERS
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.properties import check_whole, molecules_values, pooled

__all__ = ["PropertyDistribution"]


@dataclass(frozen=True, eq=False)
class PropertyDistribution:
    """The joint empirical distribution of sizes, formulas and properties, from which targets are drawn.

    A draw is the pair of one of the molecules. EDM draws from histograms instead, for each size and
    property, with 1,000 bins over the range of values. So narrow bins give nearly the same numbers, but
    pairs need no choice of bins, keep several properties of a molecule together, and are two tensors to
    store in a checkpoint:

        anydiff.save(path, diffusion, {"sizes": targets.sizes, "values": targets.values})

    Unknown values are drawn as they occur, as NaN; so are infinite ones.

    Arguments:
        sizes: (M,), the number of atoms of each molecule.
        values: (M, P), its properties in their own units.
        formulas: (M, E), its number of atoms of each element; None if they are not kept.
        elements: E atomic numbers.

    Raises:
        ValueError: The shapes do not fit, there are no molecules, a size is not whole or less than 1, an
            element is not an atomic number, or the atoms of a formula are not as many as its size.
    """

    sizes: Tensor
    values: Tensor
    formulas: Tensor | None = None
    elements: tuple[int, ...] = ()

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
        elements = tuple(self.elements)
        if len({*elements} & {*NUMBERS.values()}) < len(elements):
            raise ValueError(f"elements are {elements[:9]}; give distinct atomic numbers.")
        object.__setattr__(self, "elements", elements)
        if self.formulas is not None:
            formulas = torch.as_tensor(self.formulas).cpu()
            check_shape((len(sizes), len(elements)), "a column for each element", formulas=formulas)
            check_whole(formulas=formulas)
            formulas = formulas.to(torch.int32)[order]
            if bool((formulas < 0).any()) or not torch.equal(formulas.sum(1).int(), self.sizes):
                raise ValueError(
                    "the atoms of a formula are not as many as its molecule has; give the number of "
                    "atoms of each element, for all elements that occur."
                )
            object.__setattr__(self, "formulas", formulas)

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
        return cls(
            torch.from_numpy(molecules.sizes), torch.from_numpy(values),
            torch.from_numpy(compositions(molecules)), molecules.elements,
        )  # fmt: skip

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
        return self.sizes[self._near(self.values, value, num, generator, share)].long()

    def formulas_near(
        self, value: Tensor, num: int, generator: Generator | None = None, share: float = 0.05
    ) -> Tensor:
        """Formulas (num, E) for a given value: draws from the molecules whose isomers are the nearest.

        A molecule counts with the mean of its formula, pooled as the module says: one that is near the
        value itself may be far from its isomers, and these are what is drawn of its formula. Molecules
        of QM9 with such formulas miss a wanted polarizability by 2.3 bohr³ on average; with the formulas
        of molecules that are near themselves it is 3.0 bohr³. A smaller share misses by less, and has
        fewer formulas.

        Arguments:
            value: As for :meth:`sizes_near`.
            num: The number of draws.
            generator: Of the random numbers; torch's global one by default.
            share: The share of the molecules that count as nearest.

        Raises:
            ValueError: As for :meth:`sizes_near`, or the formulas are not kept.
        """
        picked = self._near(self._of_formula, value, num, generator, share)
        return self._kept[picked].long()

    def sample_formulas(
        self, num: int, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Formulas (num, E) and values (num, P), drawn together.

        Arguments:
            num: The number of draws.
            generator: Of the random numbers; torch's global one by default.

        Raises:
            ValueError: `num` is negative, or the formulas are not kept.
        """
        check_range("[0, inf)", num=num)
        picked = (self._uniform(num, generator) * len(self.sizes)).long()
        return self._kept[picked].long(), self.values[picked]

    @property
    def _kept(self) -> Tensor:
        if self.formulas is None:
            raise ValueError(
                "there are no formulas beside the sizes and values; build them anew with from_molecules."
            )
        return self.formulas

    @cached_property
    def _of_formula(self) -> Tensor:
        """The pooled mean of each molecule's formula, (M, P), NaN where its own value is unknown."""
        formulas, which = np.unique(self._kept.numpy(), axis=0, return_inverse=True)
        values = self.values.double().numpy()
        means = torch.from_numpy(pooled(values, which.ravel(), formulas))[which.ravel()]
        return means.where(self.values.isfinite(), torch.nan)

    def _near(
        self, of: Tensor, value: Tensor, num: int, generator: Generator | None, share: float
    ) -> Tensor:
        """Rows (num,), drawn from those whose entries of (M, P) are the nearest to a value."""
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
        spread = self.values[known].double().std(0, correction=0).clamp(min=1e-12)
        # float64: a distant value still has a nearest one
        far = ((of[known].double() - wanted) / spread).square().sum(1)
        nearest = known[far.argsort(stable=True)[: max(1, round(share * len(known)))]]
        return nearest[(self._uniform(num, generator) * len(nearest)).long()]

    @staticmethod
    def _uniform(num: int, generator: Generator | None) -> Tensor:
        device = "cpu" if generator is None else generator.device
        # float64, for in float32 1 − 2⁻²⁴ times a count would round to the count
        return torch.rand(num, generator=generator, dtype=torch.float64, device=device).cpu()
