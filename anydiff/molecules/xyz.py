r"""XYZ files: plain, extended, and those of QM9.

A plain frame is a number of atoms, a comment, and a line for each atom that begins with its element, as
symbol or number, and x y z in ångström; what follows on the line is not read.

Extended frames, whose comment says `Properties=` or `Lattice=`, or is all of the form `energy=-76.4`,
are read by ASE; numbers of the comment are properties.

QM9's own files (`dsgdb9nsd_*.xyz`) have the number of the molecule and 15 properties in the comment, and
three more lines after the atoms, of which the SMILES are read.

References:
    Quantum chemistry structures and properties of 134 kilo molecules (Ramakrishnan et al., 2014).
    https://doi.org/10.1038/sdata.2014.22
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from io import StringIO
from typing import Any

from anydiff.extras import extra
from anydiff.molecules.convert import records_of_ase
from anydiff.molecules.elements import SYMBOLS, MoleculeError
from anydiff.molecules.records import LARGE, Record, atomic_number
from anydiff.molecules.text import NUMBER, as_float, short

__all__ = ["QM9_PROPERTIES", "is_plain", "read_xyz"]

QM9_PROPERTIES = (
    *("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv"),
)
_EXTENDED = re.compile(r"(?:^|\s)(?:Properties|Lattice)\s*=")
_PAIRS = re.compile(r"[A-Za-z_][\w-]*=[^\s=]+(?:\s+[A-Za-z_][\w-]*=[^\s=]+)*")
_LONG = 10**5  # characters of a comment, which ASE takes some time for
_UNUSUAL = re.compile(r"\d_|_\d|[\d.][dD]|\*\^")
_NOT_FINITE = ("nan", "inf", "infinity")


def is_plain(comment: str) -> bool:
    """Whether the elements and positions of a frame with this comment are in the usual columns.

    Arguments:
        comment: The second line of the frame.
    """
    return not _EXTENDED.search(comment) and comment.split()[:1] != ["gdb"]


def read_xyz(lines: Iterable[str], path: str) -> Iterator[Record | MoleculeError]:
    """The molecules of an XYZ file; for each that is faulty, an error that is not raised.

    After a faulty one, reading goes on at the next line that is a number.

    Arguments:
        lines: The lines of the file, without their ends.
        path: What errors call the file.

    Yields:
        A record, or the reason why it could not be read.
    """
    frames = _Frames(lines, path)
    while frames.next_frame():
        try:
            yield frames.read()
            frames.searching = False
        except MoleculeError as error:
            yield error
            frames.searching = True


class _Frames:
    """The lines of a file, with the number of the last one.

    Arguments:
        lines: The lines.
        path: What errors call the file.
    """

    def __init__(self, lines: Iterable[str], path: str) -> None:
        self.lines, self.path, self.number = iter(lines), path, 0
        self.line, self.begin = "", 0  # the last line, and the number of the frame's first
        self.searching = False  # for a line that is a number, after a fault

    def error(self, words: str) -> MoleculeError:
        return MoleculeError(f"{self.path}, line {self.number}: {words}.")

    def next(self, what: str) -> str:
        self.number += 1
        line = next(self.lines, None)
        self.line = line or ""
        if line is None:
            raise self.error(f"the file ends where {what} should be")
        return line

    def next_frame(self) -> bool:
        """Go to the first line of the next frame, past blank lines; false if there is none."""
        if self.searching and self.is_count() and self.number > self.begin:
            return True  # the faulty line itself
        for line in self.lines:
            self.line, self.number = line, self.number + 1
            if self.line.strip() and not (self.searching and not self.is_count()):
                return True
        return False

    def is_count(self) -> bool:
        text = self.line.strip()
        return text.isascii() and text.isdigit()

    def read(self) -> Record:
        self.begin = self.number
        place, count = f"{self.path}, line {self.number}", self.line.strip()
        num = int(count) if self.is_count() and len(count) < 10 else 0
        if num < 1:
            raise self.error(f"{short(count)} should be the number of atoms, at least 1")
        comment = self.next("a comment")
        if _EXTENDED.search(comment) or _PAIRS.fullmatch(comment.strip()):
            return self.extended(place, num, comment)
        z: list[int] = []
        pos: list[list[float]] = []
        for _ in range(num):
            fields = self.next("an atom").split(None, 4)
            if len(fields) < 4:
                raise self.error("an atom should read: element x y z")
            z.append(self.element(fields[0]))
            pos.append(self.position(fields[1:4]))
        record = Record(place, z, pos)
        if comment.split()[:1] == ["gdb"]:
            self.qm9(record, comment.split()[1:])
        return record

    def position(self, texts: list[str]) -> list[float]:
        values = [as_float(text) for text in texts]
        if None in values:
            named = short(" ".join(texts))
            if all(NUMBER.fullmatch(t) or t.lower().strip("+-") in _NOT_FINITE for t in texts):
                raise self.error(f"the position {named} is not finite")
            raise self.error(f"{named} should be three numbers x y z")
        if max(map(abs, values)) >= LARGE:  # type: ignore[arg-type]
            raise self.error(f"the position {short(' '.join(texts))} is too far away")
        return values  # type: ignore[return-value]

    def qm9(self, record: Record, words: list[str]) -> None:
        """Add what QM9's files have beyond atoms."""
        values = [as_float(text) for text in words]
        if len(values) != 16 or None in values or not words[0].isdigit():
            raise MoleculeError(
                f"{record.place}: after gdb in the comment there should be a number and the 15 "
                "properties of QM9."
            )
        self.next("the frequencies")
        smiles = self.next("the SMILES").split()
        if len(smiles) != 2:
            raise self.error(f"{short(' '.join(smiles))} should be two SMILES")
        self.next("the InChI")
        record.id, record.smiles = int(words[0][:18]), smiles[1]
        record.props = dict(zip(QM9_PROPERTIES, values[1:], strict=True))  # type: ignore[arg-type]

    def extended(self, place: str, num: int, comment: str) -> Record:
        with extra("molecules"):
            from ase.io import extxyz
        if len(comment) > _LONG:
            raise self.error(f"the comment has {len(comment)} characters; give up to {_LONG}")
        pairs: Callable[[str], dict[str, Any]] = extxyz.key_val_str_to_dict
        try:
            info = pairs(comment)
        except Exception as error:  # ASE raises many kinds
            raise self.error(f"ASE refuses the comment ({type(error).__name__}: {error})") from None
        species = self.species(str(info.get("Properties", "species:S:1:pos:R:3")))
        text = [str(num), comment]
        for _ in range(num):  # ASE takes no numbers and no D for elements
            line = self.next("an atom")
            words = line.split()
            if _UNUSUAL.search(line):
                words = [self.plain(word) for word in words]
            if species is not None and species < len(words):
                words[species] = SYMBOLS[self.element(words[species])]
            text.append(" ".join(words))
        try:
            (atoms,) = extxyz.read_xyz(StringIO("\n".join(text) + "\n"), index=slice(None))
        except Exception as error:
            kind = type(error).__name__
            raise MoleculeError(f"{place}: ASE refuses the frame ({kind}: {error}).") from None
        (record,) = records_of_ase(atoms, place)
        for pair in comment.split() if _UNUSUAL.search(comment) else ():
            key, _, word = pair.partition("=")
            value = as_float(word)
            if key in record.props and "_" in word:
                del record.props[key]  # a text, which Python takes for a number
            elif value is not None and isinstance(info.get(key), str):
                record.props[key] = value
        return record

    def element(self, text: str) -> int:
        number = atomic_number(text)
        if number is None:
            raise self.error(f"{short(text)} is not an element")
        return number

    def species(self, columns: str) -> int | None:
        """The column of the elements, if there is one, in what `Properties` says; ASE would take any
        number of columns."""
        words = columns.split(":")
        triples = list(zip(words[::3], words[1::3], words[2::3], strict=False))
        if len(words) % 3 or not all(re.fullmatch("[1-9][0-9]{0,2}", n) for _, _, n in triples):
            raise self.error(f"Properties={short(columns)} should be name:type:columns:name: ...")
        if ("pos", "R", "3") not in triples:
            raise self.error("Properties= has no pos:R:3; give the columns of the positions")
        names = [name for name, _, _ in triples]
        if "species" not in names:
            return None
        return sum(int(n) for _, _, n in triples[: names.index("species")])

    def plain(self, word: str) -> str:
        """A word without what Python takes for a number and others don't, or the other way round."""
        if "_" in word and re.fullmatch(r"[+-]?[\d_.]+(?:[eE][+-]?[\d_]+)?", word):
            raise self.error(f"{word!r} should be a number")
        return re.sub(r"[dD]|\*\^", "e", word) if NUMBER.fullmatch(word) else word
