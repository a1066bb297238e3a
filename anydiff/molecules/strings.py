r"""Molecules as text: SMILES, cut into tokens.

A token is an atom, in brackets or not, a bond, a branch, or the number of a ring: ``C``, ``Br``,
``[nH]``, ``=``, ``(``, ``1``, ``%10``.

References:
    SMILES, a chemical language and information system (Weininger, 1988).
    https://doi.org/10.1021/ci00057a005
"""

from __future__ import annotations

import gzip
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anydiff.data.sequences import Sequences
from anydiff.extras import extra
from anydiff.molecules.elements import LeftOut, MoleculeError
from anydiff.molecules.evaluate import graphs
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.qm9 import load_qm9

__all__ = ["MASK", "Alphabet", "Strings", "load_strings", "split_smiles", "strings_of"]

MASK = "?"
"""What stands for a token that is not known, in patterns and pictures."""

_TOKEN = re.compile(r"\[[^\[\]]+\]|Br|Cl|%\d\d|[BCNOPSFIbcnops*]|\d|[=#$/\\().:~-]|\?")
_LONGEST = 1000


def split_smiles(text: str) -> list[str]:
    """The tokens of a SMILES string, or of a pattern with ``?`` for tokens that are not known.

    Arguments:
        text: The string.

    Raises:
        MoleculeError: If a part of it is no token.
    """
    tokens, end = [], 0
    for match in _TOKEN.finditer(text):
        if match.start() != end:
            break
        tokens.append(match[0])
        end = match.end()
    if end != len(text) or not tokens:
        raise MoleculeError(f"{text[:60]!r} is no SMILES at {text[end : end + 10]!r}.")
    return tokens


@dataclass(frozen=True, eq=False)
class Strings:
    """Molecules as SMILES.

    Arguments:
        texts: The strings.
        name: What messages call them.
    """

    texts: tuple[str, ...]
    name: str = "strings"

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, m: int) -> str:
        return self.texts[m]

    def subset(self, indices: Sequence[int] | np.ndarray | range) -> Strings:
        """Some of them.

        Arguments:
            indices: Which ones.
        """
        return replace(self, texts=tuple(self.texts[int(m)] for m in indices))


@dataclass(frozen=True)
class Alphabet:
    """The tokens that a model knows, in the order of their numbers.

    Arguments:
        tokens: The tokens.

    Raises:
        ValueError: If there are none, one is there twice, or one is no token.
    """

    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        wrong = [t for t in self.tokens if t == MASK or not _TOKEN.fullmatch(t)]
        if not self.tokens or len(set(self.tokens)) < len(self.tokens) or wrong:
            raise ValueError(
                f"the tokens are {self.tokens[:9]}; give each token of the strings once."
            )

    @classmethod
    def of(cls, strings: Iterable[str]) -> Alphabet:
        """The tokens of strings, the most frequent first.

        Arguments:
            strings: SMILES.

        Raises:
            MoleculeError: If one is none.
        """
        counts = Counter(token for text in strings for token in split_smiles(text))
        return cls(
            tuple(t for t, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        )

    def numbers(self, texts: Iterable[str]) -> list[np.ndarray]:
        """The numbers of the tokens of each string; that of ``?`` is that of the mask.

        Arguments:
            texts: SMILES, or patterns.

        Raises:
            MoleculeError: If one is none, or has a token that is not known.
        """
        known = {token: k for k, token in enumerate((*self.tokens, MASK))}
        found = []
        for text in texts:
            tokens = split_smiles(text)
            if unknown := [t for t in tokens if t not in known]:
                raise MoleculeError(
                    f"{text[:60]!r} has the token {unknown[0]!r}, which the model does not know; its "
                    f"tokens are {' '.join(self.tokens)}."
                )
            found.append(np.array([known[t] for t in tokens]))
        return found

    def sequences(self, strings: Strings) -> Sequences:
        """Strings as sequences of one channel, the numbers of their tokens.

        Arguments:
            strings: The strings.

        Raises:
            MoleculeError: As :meth:`numbers`.
        """
        rows = self.numbers(strings.texts)
        return Sequences.from_lists([row.astype(np.float32) for row in rows], strings.name)

    def text(self, numbers: Iterable[int]) -> str:
        """The string of some numbers, ``?`` for the mask.

        Arguments:
            numbers: Of the tokens.
        """
        known = (*self.tokens, MASK)
        return "".join(known[k] for k in numbers)


def strings_of(molecules: Molecules) -> Strings:
    """The canonical SMILES of molecules without stereochemistry, and with hydrogens implied.

    Molecules that RDKit cannot make sense of are left out, and a warning says how many.

    Arguments:
        molecules: With bonds; without, they are read off distances.

    Raises:
        ImportError: RDKit is not installed.
        MoleculeError: None can be made sense of.
    """
    with extra("molecules"):
        from rdkit import Chem, rdBase

    mols = graphs(molecules)
    texts = list[str]()
    with rdBase.BlockLogs():
        for mol in mols:
            if Chem.SanitizeMol(mol, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE:
                mol.RemoveAllConformers()
                texts.append(Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False))
    if not texts:
        raise MoleculeError(f"{molecules.name}: no molecule has a SMILES.")
    if lost := len(mols) - len(texts):
        warnings.warn(
            LeftOut(f"{molecules.name}: {lost} molecules have no SMILES and are left out.", lost),
            stacklevel=2,
        )
    return Strings(tuple(texts), molecules.name)


def load_strings(data: str) -> Strings:
    """SMILES by name or path.

    Arguments:
        data: ``"5k"``, of the molecules of QM9 that are shipped; ``"full"``, of all of QM9; a ``.smi`` or
            ``.txt`` file, packed by gzip or not, the first word of each line; or a file of molecules, as
            :func:`~anydiff.molecules.qm9.load_qm9` takes them.

    Raises:
        MoleculeError: The file is not there, or has a line that is no SMILES.
        ImportError: RDKit is not installed, and molecules are read.
    """
    path = Path(data)
    packed = path.suffix.lower() == ".gz"
    if Path(path.stem if packed else path).suffix.lower() not in (".smi", ".smiles", ".txt"):
        return strings_of(load_qm9(data, bonds=data in ("5k", "full")))
    if not path.is_file():
        raise MoleculeError(f"{data}: no such file; give 5k, full, or a file of SMILES.")
    texts = list[str]()
    try:
        with (gzip.open if packed else open)(path, "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except UnicodeDecodeError as error:
        raise MoleculeError(f"{data} is no text in UTF-8: {error}.") from error
    except (OSError, EOFError) as error:
        raise MoleculeError(f"{data} cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if words := line.split():
            try:
                if len(split_smiles(words[0])) > _LONGEST or MASK in words[0]:
                    raise MoleculeError(f"{words[0][:60]!r} is too long, or has a ?.")
            except MoleculeError as error:
                hint = "" if texts else " If it is a header, leave it out."
                raise MoleculeError(f"{data}, line {number}: {error}{hint}") from None
            texts.append(words[0])
    if not texts:
        raise MoleculeError(f"{data} holds no SMILES.")
    return Strings(tuple(texts), path.name)
