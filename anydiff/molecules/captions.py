"""Texts for molecules: their formula, rings, groups and properties in words.

    seven carbons, ten hydrogens, two oxygens, ring of five, alcohol, high polarizability

:func:`captions` makes the phrases of each molecule, of which training tells some at random, in any order
(:func:`with_captions`). Numbers may be asked for in digits, and "a", "an", "and" and the like say
nothing. :class:`Formulas` says how many atoms a molecule has that is asked for by some of its phrases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from anydiff.checks import check_shape
from anydiff.data.vocabulary import Vocabulary, words_of
from anydiff.extras import extra
from anydiff.molecules.compositions import compositions
from anydiff.molecules.elements import symbol
from anydiff.molecules.evaluate import graphs
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.properties import Properties

__all__ = ["LENGTH", "Formulas", "captions", "counts_in", "plain", "table_of", "with_captions"]

LENGTH = 48
"""Words of a text; further ones are left out of training."""

NUMBERS = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
ELEMENTS = {
    1: "hydrogen", 5: "boron", 6: "carbon", 7: "nitrogen", 8: "oxygen", 9: "fluorine", 14: "silicon",
    15: "phosphorus", 16: "sulfur", 17: "chlorine", 34: "selenium", 35: "bromine", 53: "iodine",
}  # fmt: skip
SILENT = {"a", "an", "and", "the", "with", "of"}
"""Words that say nothing here."""

GROUPS = {
    "alcohol": "[CX4][OX2H1]",
    "ether": "[OX2H0]([#6;!$(C=O)])[#6;!$(C=O)]",
    "aldehyde": "[CX3;H1,H2](=O)",
    "ketone": "[#6][CX3](=O)[#6]",
    "acid": "[CX3](=O)[OX2H1]",
    "ester": "[CX3](=O)[OX2H0][#6]",
    "amide": "[CX3](=O)[NX3]",
    "amine": "[NX3;!$(N[#6]=[!#6]);!$(N[#6]#[!#6]);!$(Na)]",
    "nitrile": "[CX2]#[NX1]",
    "alkyne": "[CX2]#[CX2]",
    "alkene": "[CX3]=[CX3]",
    "aromatic": "a",
}
"""Functional groups and the like, as SMARTS."""

PROPERTIES = {"mu": "dipole", "alpha": "polarizability", "gap": "gap"}
"""What properties are called that may be high or low, for a molecule of that size."""

_FAR = 1.0  # mean absolute deviations from which on a value is high or low


def _number(n: int) -> str:
    return NUMBERS[n] if n < len(NUMBERS) else str(n)


def _element(z: int) -> str:
    return ELEMENTS.get(z, symbol(z).casefold())


def _counted(n: int, what: str) -> str:
    return f"{_number(n)} {what}{'s' * (n > 1)}"


def plain(text: str) -> str:
    """A text in the words of captions: small letters, numbers in words, without words that say nothing.

    Arguments:
        text: As a user writes it.
    """
    words = (word for word in words_of(text) if word not in SILENT)
    return " ".join(
        _number(int(w)) if w.isascii() and w.isdigit() and len(w) < 9 else w for w in words
    )


def captions(molecules: Molecules, elements: Sequence[int] | None = None) -> list[list[str]]:
    """The phrases of each molecule: its formula, rings, groups, and properties that are known.

    Rings and groups are those of RDKit, by the molecules' own bonds, or by distances if they have none.

    Arguments:
        molecules: The molecules.
        elements: Atomic numbers of what is counted, also where there is none; those that occur if None.

    Raises:
        ImportError: RDKit is not installed.
    """
    with extra("molecules"):
        from rdkit import Chem, rdBase

    elements = molecules.elements if elements is None else elements
    counts = compositions(molecules, elements)
    mols = graphs(molecules)
    patterns = {name: Chem.MolFromSmarts(smarts) for name, smarts in GROUPS.items()}
    said = _levels(molecules)
    found = []
    with rdBase.BlockLogs():
        for mol, row, levels in zip(mols, counts, said, strict=True):
            phrases = [_counted(int(n), _element(z)) for z, n in zip(elements, row, strict=True)]
            if Chem.SanitizeMol(mol, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE:
                sizes = [len(ring) for ring in mol.GetRingInfo().AtomRings()]
                phrases += [
                    f"{'ring' if (n := sizes.count(size)) == 1 else _counted(n, 'ring')} {_number(size)}"
                    for size in sorted(set(sizes))
                ] or ["no ring"]
                phrases += [name for name, of in patterns.items() if mol.HasSubstructMatch(of)]
            found.append(phrases + levels)
    return found


def _levels(molecules: Molecules) -> list[list[str]]:
    """Which properties of each molecule are high or low, beside molecules of its size."""
    said: list[list[str]] = [[] for _ in range(len(molecules))]
    for name in (name for name in PROPERTIES if name in molecules.prop_names):
        try:
            units = Properties.from_molecules(molecules, name, by_size=True)
        except ValueError:  # all alike, or none known
            continue
        values = torch.from_numpy(molecules.property(name).reshape(-1, 1))
        far = units.encode(values, torch.from_numpy(molecules.sizes))[:, 0]
        for level, where in (("high", far > _FAR), ("low", far < -_FAR)):
            for m in where.nonzero()[:, 0].tolist():
                said[m].append(f"{level} {PROPERTIES[name]}")
    return said


def table_of(phrases: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Tensor:
    """The phrases of molecules as numbers, (M, P, W) of int16, -1 for no word.

    Arguments:
        phrases: As :func:`captions` makes them.
        vocabulary: The words that are known; others are left out.
    """
    number = {word: k for k, word in enumerate(vocabulary.words)}
    each = [[[number[w] for w in phrase.split() if w in number] for phrase in of] for of in phrases]
    most = max(map(len, each), default=0)
    longest = max((len(words) for of in each for words in of), default=0)
    table = torch.full((len(each), max(most, 1), max(longest, 1)), -1, dtype=torch.int16)
    for row, of in zip(table.numpy(), each, strict=True):
        for place, words in zip(row, of, strict=False):
            place[: len(words)] = words
    return table


def with_captions(unpack: Callable[[Any], Any], table: Tensor) -> Callable[[Any], Any]:
    """An `unpack` that tells each molecule some of its phrases, in random order, as `words`.

    Half of the molecules are told all of their phrases, and others a share that is drawn for each. What
    is drawn comes from torch's generator.

    Arguments:
        unpack: batch -> (x0, space, cond).
        table: As :func:`table_of` makes it, by `batch.number`.
    """

    def unpacked(batch: Any) -> Any:
        x, space, cond = unpack(batch)
        words = table[batch.number.cpu()].long()
        share = (2 * torch.rand(len(words), 1)).clamp(max=1)
        drawn = torch.rand(words.shape[:2])
        kept = drawn < share  # and where a phrase stands says nothing of whether it is told
        order = torch.rand(words.shape[:2]).argsort(1)
        words = words.masked_fill(~kept[..., None], -1)
        words = words.gather(1, order[..., None].expand_as(words)).flatten(1)
        first = (
            (words < 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :LENGTH]
        )  # words, then none
        return x, space, {**cond, "words": words.gather(1, first).to(x.device)}

    return unpacked


def counts_in(text: str, elements: Sequence[int]) -> Tensor:
    """The number of atoms of each element that a text asks for, (E,); -1 where it says nothing.

    Arguments:
        text: Such as "seven carbons, no nitrogen".
        elements: E atomic numbers.
    """
    found = torch.full((len(elements),), -1)
    value = {word: n for n, word in enumerate(NUMBERS)}
    for phrase in re.split("[,;.]", text):
        words = plain(phrase).split()
        value |= {w: int(w) for w in words if w.isascii() and w.isdigit() and len(w) < 9}
        for before, number, what in zip(["", *words], words, words[1:], strict=False):
            for k, z in enumerate(elements):
                named = what in (name := _element(z), f"{name}s")
                size = before in ("ring", "rings") and number != "no"  # of the ring
                if named and number in value and not size:
                    found[k] = value[number]
    return found


@dataclass(frozen=True, eq=False)
class Formulas:
    """The formulas of some molecules, and how often each occurs.

    Arguments:
        counts: (F, E) of uint8, the number of atoms of each element; 255 are more.
        molecules: (F,), how many molecules have each.

    Raises:
        ValueError: If these are no such numbers.
    """

    counts: Tensor
    molecules: Tensor

    def __post_init__(self) -> None:
        check_shape((None, None), "a column for each element", torch.uint8, counts=self.counts)
        check_shape((len(self.counts),), "a number for each formula", molecules=self.molecules)
        if not (len(self.counts) and bool((self.molecules > 0).all())):
            raise ValueError("the formulas are of no molecules; give one or more of each.")

    @classmethod
    def of(cls, molecules: Molecules, elements: Sequence[int]) -> Formulas:
        """The formulas of molecules.

        Arguments:
            molecules: The molecules.
            elements: E atomic numbers.
        """
        counts = torch.from_numpy(compositions(molecules, elements)).clamp(max=255)
        formulas, how_many = torch.unique(counts.to(torch.uint8), dim=0, return_counts=True)
        return cls(formulas, how_many)

    def sizes(self, asked: Tensor, num: int, generator: Generator) -> Tensor | None:
        """Numbers of atoms of molecules that have what is asked for, (num,); None if there is none.

        Arguments:
            asked: (E,), as :func:`counts_in` finds them.
            num: How many.
            generator: Of random numbers.
        """
        if (asked >= 0).all() and asked.sum() > 0:
            return asked.sum().expand(num).clone()
        fits = ((asked < 0) | (self.counts == asked)).all(1)
        weights = self.molecules.double() * fits
        if not weights.sum() > 0:
            return None
        picked = torch.multinomial(weights, num, replacement=True, generator=generator)
        return self.counts[picked].long().sum(1)
