"""Figures of SMILES: how many are valid, unique and new, and how like the data they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anydiff.extras import extra
from anydiff.metrics.tables import Column, rendered
from anydiff.molecules.evaluate import wasserstein
from anydiff.molecules.qm9 import split
from anydiff.molecules.strings import Strings

__all__ = [
    "COLUMNS",
    "StringReport",
    "canonical",
    "compare_strings",
    "evaluate_strings",
    "string_table",
]


def canonical(texts: Sequence[str]) -> list[str | None]:
    """The canonical SMILES of strings, None of one that is no molecule, or no single one.

    Arguments:
        texts: The strings.

    Raises:
        ImportError: RDKit is not installed.
    """
    with extra("molecules"):
        from rdkit import Chem, rdBase
    found: list[str | None] = []
    with rdBase.BlockLogs():
        for text in texts:
            mol = None if "." in text or not text else Chem.MolFromSmiles(text)
            found.append(None if mol is None else Chem.MolToSmiles(mol, isomericSmiles=False))
    return found


@dataclass(frozen=True)
class StringReport:
    """Figures of some strings.

    Attributes:
        name: What they are.
        num: How many.
        validity: The share that RDKit makes a single molecule of.
        uniqueness: Of the valid ones, the share of different molecules.
        novelty: Of the different ones, the share that is not in the training part.
        weight: Wasserstein distance of the molecular weights to those of the reference, in dalton; nan
            without one.
        rings: That of the numbers of rings.
        nfe: Network calls for a string, None of real ones.
        seconds: Seconds for a string.
    """

    name: str
    num: int
    validity: float
    uniqueness: float
    novelty: float
    weight: float = np.nan
    rings: float = np.nan
    nfe: int | None = None
    seconds: float | None = None


def evaluate_strings(
    strings: Strings,
    known: Collection[str],
    reference: Strings | None = None,
    *,
    name: str = "drawn",
    nfe: int | None = None,
    seconds: float | None = None,
) -> StringReport:
    """The figures of strings.

    Arguments:
        strings: What is judged.
        known: The canonical SMILES of the training part, as :func:`canonical` makes them.
        reference: Real strings to compare with, held out.
        name: What they are.
        nfe: Network calls for a string.
        seconds: Seconds for a string.

    Raises:
        ImportError: RDKit is not installed.
        ValueError: There are no strings.
    """
    if not len(strings):
        raise ValueError("there are no strings; give one or more.")
    found = [text for text in canonical(strings.texts) if text is not None]
    different = set(found)
    new = different.difference(known)
    distances = {}
    if reference is not None and found:
        drawn, real = (
            _sizes(texts) for texts in (found, [t for t in canonical(reference.texts) if t])
        )
        distances = {key: wasserstein(drawn[key], real[key]) for key in ("weight", "rings")}
    return StringReport(
        name, len(strings), len(found) / len(strings), len(different) / max(len(found), 1),
        len(new) / max(len(different), 1), nfe=nfe, seconds=seconds, **distances,
    )  # fmt: skip


def _sizes(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The weight and the number of rings of valid strings."""
    with extra("molecules"):
        from rdkit import Chem
        from rdkit.Chem import Descriptors

    weight: Any = Descriptors
    mols = [Chem.MolFromSmiles(text) for text in texts]
    return {
        "weight": np.array([weight.MolWt(mol) for mol in mols]),
        "rings": np.array([float(mol.GetRingInfo().NumRings()) for mol in mols]),
    }


def compare_strings(
    drawn: Strings, data: Strings, *, nfe: int | None = None, seconds: float | None = None
) -> list[StringReport]:
    """The figures of drawn strings beside those of real ones, which were held out.

    Arguments:
        drawn: Of a model of the training part.
        data: All parts, as :func:`anydiff.molecules.qm9.split` has them.
        nfe: Network calls for a string.
        seconds: Seconds for a string.

    Raises:
        ValueError: There are too few for all parts.
    """
    parts = split(len(data))
    if not min(map(len, parts)):
        raise ValueError(
            f"{data.name} holds {len(data)} strings; give at least 10 to compare with."
        )
    known = {text for text in canonical(data.subset(parts.train).texts) if text}
    test = data.subset(parts.test[:2000])
    real = data.subset(parts.valid[: len(drawn)])
    return [
        evaluate_strings(real, known, test, name="real, held out"),
        evaluate_strings(drawn, known, test, nfe=nfe, seconds=seconds),
    ]


COLUMNS = [
    Column("", "name"), Column("num", "num", "d"), Column("valid %↑", "validity", ".1f", 100),
    Column("unique %↑", "uniqueness", ".1f", 100), Column("new %", "novelty", ".1f", 100),
    Column("W1 weight↓", "weight", ".2f"), Column("W1 rings↓", "rings", ".3f"),
    Column("calls", "nfe", "d"), Column("s", "seconds", ".3g"),
]  # fmt: skip


def string_table(rows: Sequence[StringReport], style: str = "text") -> str:
    """Reports as a table.

    Arguments:
        rows: The reports.
        style: ``"text"`` or ``"markdown"``.
    """
    return rendered(rows, COLUMNS, style)
