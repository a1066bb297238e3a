"""Formulas of molecules: text such as C7H10O2, and counts of atoms by element.

Formulas are written in Hill's order: carbon and hydrogen first, then the other elements by the alphabet.
Isomers are different molecules of one formula.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from anydiff.molecules.elements import NUMBERS, MoleculeError, symbol
from anydiff.molecules.molecules import Molecules

__all__ = ["compositions", "counts_of", "parse_formula"]


def parse_formula(formula: str) -> dict[int, int]:
    """The number of atoms of each element, by atomic number, ascending.

    Elements may occur several times, as in CH3CH2OH.

    Arguments:
        formula: Symbols of elements, each with a number of atoms if there are several.

    Raises:
        MoleculeError: The text is no such formula, a symbol is of no element, or there are no atoms.
    """
    parts = re.findall(r"([A-Z][a-z]?)(\d{0,6})", formula)
    if not parts or "".join(map("".join, parts)) != formula:
        raise MoleculeError(
            f"the formula is {formula[:60]!r}; give symbols of elements with numbers of atoms, such as "
            "C7H10O2, without brackets and charges."
        )
    counts: Counter[int] = Counter()
    for name, number in parts:
        if name not in NUMBERS:
            raise MoleculeError(
                f"the formula {formula[:60]} has {name}, which is no element; give symbols such as C, H "
                "and Cl, with a capital letter first."
            )
        counts[NUMBERS[name]] += int(number or 1)
    if not (found := {z: counts[z] for z in sorted(counts) if counts[z]}):
        raise MoleculeError(f"the formula {formula[:60]} has no atoms; give one atom or more.")
    return found


def counts_of(formula: str, elements: Sequence[int]) -> np.ndarray:
    """The number of atoms of each of some elements, (E,), int64.

    Arguments:
        formula: As for :func:`parse_formula`.
        elements: E atomic numbers.

    Raises:
        MoleculeError: As for :func:`parse_formula`, or the formula has another element.
    """
    found = parse_formula(formula)
    if unknown := [symbol(z) for z in found if z not in elements]:
        raise MoleculeError(
            f"{unknown[0]} of the formula {formula[:60]} is not among {' '.join(map(symbol, elements))}, "
            "the elements of the model; leave it out, or train a model of molecules that have it."
        )
    return np.array([found.get(z, 0) for z in elements])


def compositions(molecules: Molecules, elements: Sequence[int] | None = None) -> np.ndarray:
    """The number of atoms of each element in each molecule, (M, E), int64.

    Arguments:
        molecules: The molecules.
        elements: E atomic numbers, others are not counted; by default those that occur.
    """
    index, M = molecules.index, len(molecules)
    wanted = molecules.elements if elements is None else elements
    counts = [np.bincount(index[molecules.z == z], minlength=M) for z in wanted]
    return np.stack(counts, axis=1)
