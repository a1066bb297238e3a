"""SMILES of what a model learned from, kept in the user's cache: those of all of QM9 take a minute."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from anydiff.extras import extra
from anydiff.files import cache_folder, whole
from anydiff.molecules.molecules import Molecules

__all__ = ["known_smiles"]

MANY = 20_000
"""Fewer molecules are read anew: nothing would be gained."""


def known_smiles(
    molecules: Molecules, rule: Callable[[Molecules], list[str | None]], name: str
) -> set[str]:
    """The different SMILES of many molecules by a rule; from the cache, if they were asked for before.

    Arguments:
        molecules: The molecules.
        rule: Molecules -> the SMILES of each, None where it has none.
        name: Of the rule.

    Raises:
        ImportError: RDKit is not installed.
    """
    if len(molecules) < MANY:
        return {text for text in rule(molecules) if text is not None}
    path = cache_folder() / f"smiles-{name}-{_fingerprint(molecules)}.txt"
    with suppress(OSError, UnicodeDecodeError):
        *texts, count = path.read_text(encoding="ascii").split("\n")
        if count == str(len(texts)):  # which a file that was cut off does not say
            return set(texts)
    found = sorted({text for text in rule(molecules) if text is not None})
    with suppress(OSError), whole(path) as temporary:
        Path(temporary).write_text("\n".join([*found, str(len(found))]), encoding="ascii")
    return set(found)


def _fingerprint(molecules: Molecules) -> str:
    """What the SMILES follow from: atoms, positions, bonds, charges, RDKit, and the rules themselves."""
    with extra("molecules"):
        import rdkit

    digest = hashlib.sha256(rdkit.__version__.encode())
    for rules in ("bonds", "bond_metrics", "evaluate", "valences"):
        digest.update(Path(__file__).with_name(f"{rules}.py").read_bytes())
    fields = "z", "pos", "offsets", "charges", "bonds", "orders"
    for name, array in ((name, getattr(molecules, name)) for name in fields):
        digest.update(name.encode())
        if array is not None:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()[:24]
