"""The elements by number and symbol, and the error of molecules that cannot be right."""

from collections import Counter
from collections.abc import Iterable

__all__ = ["NUMBERS", "SYMBOLS", "LeftOut", "MoleculeError", "formula_parts", "symbol"]

_TABLE = """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br
    Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er
    Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md
    No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS = ["", *_TABLE.split()]
"""Symbols of the elements by atomic number."""
NUMBERS = {name: z for z, name in enumerate(SYMBOLS) if z}
"""Atomic numbers of the elements by symbol."""


def symbol(z: int) -> str:
    """The symbol of an element; ``?(z)`` for other numbers.

    Arguments:
        z: An atomic number.
    """
    return SYMBOLS[z] if 0 < z < len(SYMBOLS) else f"?({z})"


def formula_parts(z: Iterable[int]) -> list[tuple[str, str]]:
    """Symbols and counts of some atoms, in Hill's order; a count of 1 is empty.

    Joined they are the formula: ``"".join(map("".join, formula_parts(z)))``.

    Arguments:
        z: (n,), atomic numbers.
    """
    counts = Counter(symbol(int(n)) for n in z)
    order = sorted(counts, key=lambda s: (s != "C", s != "H", s) if "C" in counts else (s,))
    return [(s, "" if counts[s] == 1 else str(counts[s])) for s in order]


class MoleculeError(ValueError):
    """Molecules, or a file of them, that cannot be right. The message names the place."""


class LeftOut(UserWarning):
    """A warning that molecules are left out, because they are faulty.

    Arguments:
        words: The message.
        num: How many.
    """

    def __init__(self, words: str, num: int) -> None:
        super().__init__(words)
        self.num = num
