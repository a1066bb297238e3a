r"""SDF and mol files, in both versions: V2000 and V3000.

RDKit reads the connection table of each record. What it doesn't look at is checked here: where a record
begins and ends, and whether each coordinate is a number (RDKit takes what a number begins with). So a
file means what RDKit reads, or there is an error with its line.

A line that begins with `$$$$` ends a record. After `M  END` only data fields, or the next record if the
line in between is missing, may follow. The header has no meaning, but for the mark 2D, which is believed
if all z are 0: drawings are refused. Data fields that are numbers are properties, and other ones are
left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from anydiff.extras import extra
from anydiff.molecules.convert import records_of_rdkit
from anydiff.molecules.elements import NUMBERS, SYMBOLS, MoleculeError
from anydiff.molecules.records import Record, atomic_number
from anydiff.molecules.text import NUMBER, as_float, short

__all__ = ["read_sdf"]

_COUNTS = re.compile(r"[ \d]{6}.*V([23])000\b", re.ASCII | re.IGNORECASE)
# of no version
_OLD_COUNTS = re.compile(r"[ \d]{2}\d([ \d]{2}\d)?(?![^ ])(?!.*V\d)", re.ASCII | re.IGNORECASE)
_FIELD = re.compile(r">[^<]*<(.*)>")
_PLAIN = re.compile(r" *-?\d+\.\d+", re.ASCII)
_V3_ATOM = re.compile(r"(\d+) +(\S+) +(\S+) +(\S+) +(\S+)(?: +\d+)?((?: +.*)?)$", re.ASCII)
_HEADER = f"\n{'  anydiff':20}3D\n\n"
_FLAT = "all z are 0: {why}; give it positions in space first"


def read_sdf(lines: Iterable[str], path: str) -> Iterator[Record | MoleculeError]:
    """The molecules of an SDF or mol file; for each that is faulty, an error that is not raised.

    Arguments:
        lines: The lines of the file, without their ends.
        path: What errors call the file.

    Yields:
        A record, or the reason why it could not be read.

    Raises:
        ImportError: RDKit is not installed.
    """
    chunk: list[str] = []
    first = number = 1
    for number, line in enumerate(lines, 1):
        if line.startswith("$$$$"):
            if any(line.strip() for line in chunk):
                yield from _Chunk(chunk, first, path).records()
            chunk, first = [], number + 1
        else:
            chunk.append(line)
    if any(line.strip() for line in chunk):
        yield from _Chunk(chunk, first, path).records()


class _Chunk:
    """The lines between two `$$$$`: one record, or several that nothing separates.

    Arguments:
        lines: The lines.
        first: The number of the first in the file.
        path: What errors call the file.
    """

    def __init__(self, lines: list[str], first: int, path: str) -> None:
        self.lines, self.first, self.path = lines, first, path

    def place(self, k: int) -> str:
        return f"{self.path}, line {self.first + k}"

    def error(self, k: int, words: str) -> MoleculeError:
        return MoleculeError(f"{self.place(k)}: {words}.")

    def records(self) -> Iterator[Record | MoleculeError]:
        start = 0
        while start < len(self.lines):
            try:
                counts = self.counts(start)
                end = self.end(counts)
                fields, following = self.fields(end + 1)
            except MoleculeError as error:  # where the next one would begin is not known
                yield error
                return
            try:
                yield self.record(start, counts, end, fields)
            except MoleculeError as error:
                yield error
            start = following

    def counts(self, start: int) -> int:
        """The counts line of the record that begins at a line: the fourth, as a rule."""
        blank = start
        while blank < len(self.lines) - 1 and not self.lines[blank].strip():
            blank += 1
        for k in range(start, min(blank + 5, len(self.lines))):
            if _COUNTS.match(self.lines[k]):
                break
        else:
            k = start + 3
            if k >= len(self.lines):
                raise self.error(len(self.lines), "the record ends where the counts line should be")
            if not _OLD_COUNTS.match(self.lines[k]):
                raise self.error(
                    k,
                    f"{short(self.lines[k])} should be the counts line, such as '  3  2 ... V2000'",
                )
        if any(line.strip() for line in self.lines[start : max(start, k - 3)]):
            raise self.error(k, "the counts line should be the fourth of a record")
        return k

    def end(self, counts: int) -> int:
        for k in range(counts + 1, len(self.lines)):
            line = self.lines[k]
            if "END" in line and line.split() == ["M", "END"]:
                return k
        raise self.error(len(self.lines), "the record ends where M  END should be")

    def fields(self, start: int) -> tuple[dict[str, float], int]:
        """The numbers of the data fields, and where the next record begins, if it does."""
        lines, k = self.lines, start
        fields: dict[str, float] = {}
        since = 0  # the end of a field
        text = False  # whether its value is one, which may hold blank lines
        while k < len(lines):
            line = lines[k]
            if line.startswith(">"):
                begin = k = k + 1
                while k < len(lines) and lines[k].strip() and not _FIELD.match(lines[k]):
                    k += 1
                name = _FIELD.match(line)
                value = as_float(lines[begin].strip()) if k == begin + 1 else None
                text = k > begin and value is None
                if name and value is not None and name[1].strip() and name[1].isprintable():
                    fields[name[1]] = value
                start = since = k
            elif line.strip():
                for counts in range(k, min(k + 4, len(lines))):
                    if _COUNTS.match(lines[counts]):
                        if counts - 3 < since:
                            raise self.error(k, "a blank line should end the data field before")
                        return fields, max(counts - 3, start)
                if not text or line.split() == ["M", "END"]:
                    raise self.error(k, f"{short(line)} should be a data field (> <name>) or $$$$")
                start = since = k = k + 1
            else:
                k += 1
        return fields, k

    def record(self, start: int, counts: int, end: int, fields: dict[str, float]) -> Record:
        title = self.lines[start].strip() if counts - start == 3 else ""
        marked = any(
            line[20:22] == "2D" for line in self.lines[max(start, counts - 2) : counts - 1]
        )
        spatial = any(
            line[20:22] == "3D" for line in self.lines[max(start, counts - 2) : counts - 1]
        )
        found = _COUNTS.match(self.lines[counts])
        if found and found[1] == "3":
            num, block = self.v3000(counts, end)
        else:
            num, block = self.v2000(counts, end)
        mol = self.parsed(block)
        if mol.GetNumAtoms() != num:
            raise self.error(counts, f"there are {mol.GetNumAtoms()} atoms, not {num}")
        (record,) = records_of_rdkit(mol, self.place(start))
        record.title, record.props = title, fields
        if found := re.fullmatch(r"gdb_(\d{1,9})", title, re.ASCII):  # QM9's numbers in its SDF
            record.id = int(found[1])
        if not record.pos[:, 2].any():
            if marked:
                raise self.error(counts, _FLAT.format(why="it is marked 2D, a drawing"))
            record.drawn = not spatial
        return record

    def v2000(self, counts: int, end: int) -> tuple[int, dict[int, str]]:
        """The number of atoms, and a connection table in which they are as RDKit wants them, line by
        line."""
        line = self.lines[counts]
        texts = [line[i : i + 3].strip() or "0" for i in (0, 3)]
        if not all(text.isdigit() for text in texts):
            raise self.error(counts, f"{line[:6]!r} should be two numbers, of atoms and of bonds")
        num, bonds = map(int, texts)
        if not num:
            raise self.error(counts, "the molecule has no atoms")
        if counts + 1 + num + bonds > end:
            raise self.error(end, f"M  END comes before the last of {num} atoms and {bonds} bonds")
        block = {counts: f"{num:3d}{bonds:3d}  0  0  0  0  0  0  0  0999 V2000"}
        for k in range(counts + 1, counts + 1 + num):
            line = self.lines[k]
            x, y, z = line[:10], line[10:20], line[20:30]
            symbol = line[31:34].strip()
            if not (
                symbol in NUMBERS
                and _PLAIN.fullmatch(x) and _PLAIN.fullmatch(y) and _PLAIN.fullmatch(z)
            ):  # fmt: skip
                x, y, z = (self.column(k, text) for text in (x, y, z))
                symbol = self.element(k, symbol)
            block[k] = f"{x}{y}{z} {symbol:<3}{line[34:39]}"
        rest = range(counts + 1 + num, end)
        return num, block | {k: self.lines[k] for k in rest} | {end: "M  END"}

    def v3000(self, counts: int, end: int) -> tuple[int, dict[int, str]]:
        """The same of a table in V3000, its continued lines put together. Templates, which follow the
        table, and blocks of text in space are left out: RDKit would not go past them."""
        num, atoms, seen = -1, False, set[str]()
        skipped = ""
        block = {counts: "  0  0  0     0  0            999 V3000"}
        k = counts + 1
        while k < end:
            begin, text = k, self.lines[k].rstrip()
            while text.endswith("-") and text.startswith("M  V30 ") and k + 1 < end:
                k += 1
                if not self.lines[k].startswith("M  V30 "):
                    raise self.error(
                        k, "after a line that ends in -, M  V30 and the rest should follow"
                    )
                text = text[:-1] + self.lines[k].removeprefix("M  V30 ").rstrip()
            k += 1
            words = text.split()[2:5]
            if words[:1] == ["BEGIN"] and words[1:] and words[1] in ("OBJ3D", "TEMPLATE"):
                skipped = words[1]
            if skipped:
                skipped = "" if words[:2] == ["END", skipped] else skipped
                continue
            if words[:1] == ["COUNTS"] and words[1:] and words[1].isascii() and words[1].isdigit():
                num = int(words[1][:9])
                if not num:
                    raise self.error(begin, "the molecule has no atoms")
            elif words[:2] == ["BEGIN", "ATOM"]:
                atoms = True
            elif words[:2] == ["END", "ATOM"]:
                if len(seen) < num:
                    raise self.error(begin, f"there are {len(seen)} atoms, not the {num} of COUNTS")
                atoms = False
            elif atoms:
                if len(seen) == num:
                    raise self.error(begin, f"there are more than the {num} atoms of COUNTS")
                found = _V3_ATOM.match(text.removeprefix("M  V30 ").strip())
                if not found:
                    raise self.error(
                        begin, f"{short(text)} should be an atom: number, element, x y z"
                    )
                number, symbol, *xyz, more = found.groups()
                if number in seen:
                    raise self.error(begin, f"there are two atoms with the number {number}")
                seen.add(number)
                values = [self.coordinate(begin, word) for word in xyz]
                symbol = self.element(begin, symbol)
                text = " ".join(["M  V30", number, symbol, *map(repr, values), "0", more.strip()])
            block[begin] = text
        return num, block | {end: "M  END"}

    def coordinate(self, k: int, text: str) -> float:
        value = as_float(text.strip())
        if value is None:
            odd = "is not finite" if NUMBER.fullmatch(text.strip()) else "should be a number"
            raise self.error(k, f"the coordinate {short(text)} {odd}")
        return value

    def column(self, k: int, text: str) -> str:
        """A coordinate in ten columns, with all digits that fit."""
        value = self.coordinate(k, text)
        plain = f"{value:.9f}"[:10]
        if abs(value) >= 1e8:
            raise self.error(k, f"the coordinate {short(text)} is too large")
        return plain

    def element(self, k: int, text: str) -> str:
        """A symbol as RDKit knows it, placeholders included, which are refused later."""
        text = text.strip('"')
        if text in ("D", "T"):
            return "H"
        z = atomic_number(text)
        if z is None:
            raise self.error(k, f"{short(text)} is not an element")
        return SYMBOLS[z]

    def parsed(self, block: dict[int, str]) -> Any:
        """RDKit's molecule, or its reason to refuse it."""
        with extra("molecules"):
            from rdkit import Chem, rdBase
        # RDKit takes ASCII; what else there is belongs to comments
        text = (_HEADER + "\n".join(block.values())).encode("ascii", "replace").decode()
        with rdBase.BlockLogs():
            mol = Chem.MolFromMolBlock(text, sanitize=False, removeHs=False, strictParsing=False)
        if mol is not None:
            return mol
        supplier = Chem.SDMolSupplier()  # it logs the reason as an error, which can be captured
        with rdBase.BlockLogs(), getattr(rdBase, "CaptureErrorLog", rdBase.BlockLogs)() as log:
            supplier.SetData(text + "\n$$$$\n", sanitize=False, removeHs=False, strictParsing=False)
            list(supplier)
        reason, line = _reason(getattr(log, "messages", ""))
        numbers = list(block)
        k = numbers[min(max(line - 4, 0), len(numbers) - 1)]  # after three lines of header
        raise self.error(k, f"RDKit refuses the record: {reason}")


def _reason(log: str) -> tuple[str, int]:
    """What RDKit's log says, and the line in its text."""
    lines = [re.sub(r"^\[[\d:]+\]|ERROR:", "", line).strip() for line in log.split("\n")]
    lines = [line for line in lines if line.strip("*-") and not line.startswith("Violation ")]
    if not lines:
        return "it gives no reason", 0
    # of a failed assertion, its words are on the lines after the first
    text = ", ".join(lines[1:3]) if lines[0].endswith((" Violation", " Error")) else lines[0]
    found = re.search(r",? (?:on|at|around) line (\d+)", text)
    return (text[: found.start()], int(found[1])) if found else (text.rstrip("."), 0)
