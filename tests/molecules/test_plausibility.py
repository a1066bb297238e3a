"""PoseBusters' checks: what is right passes all of them, and each fault fails its own."""

import sys

import numpy as np
import pytest

from anydiff.molecules import Molecules
from anydiff.molecules.plausibility import plausibility
from tests.helpers.molecules import embedded_rdkit

pytest.importorskip("posebusters", reason="these checks need the extra posebusters")


def changed(text, change):
    mol = embedded_rdkit(text)
    conformer = mol.GetConformer()
    pos = conformer.GetPositions().copy()
    change(pos)
    conformer.SetPositions(pos)
    return mol


def stretch(pos):
    pos *= 1.5


def fold(pos):
    pos[0] += 1.2 * np.linalg.svd(pos[:6] - pos[:6].mean(0))[2][2]  # out of the plane of the ring


def failed(passed, m):
    return {name for name, found in passed.items() if not found[m]}


def test_each_fault_fails_its_own_check(capfd):
    from rdkit import Chem

    good = [embedded_rdkit(text) for text in ("c1ccccc1C", "CC(=O)N", "C1CCCCC1O")]
    over = Chem.RWMol(good[1])
    over.AddBond(0, 3, Chem.BondType.TRIPLE)  # a carbon with a valence of seven
    bare = embedded_rdkit("CC")
    bare = Chem.RWMol(bare)
    bare.RemoveAtom(bare.GetNumAtoms() - 1)
    faulty = [
        changed("CC(=O)N", stretch),
        changed("c1ccccc1C", fold),
        Chem.CombineMols(good[0], changed("CC(=O)N", lambda pos: pos.__iadd__(20))),
        over.GetMol(),
        bare.GetMol(),
    ]
    # by way of arrays, in which no hydrogens are implied
    mols = Molecules.from_rdkit([*good, *faulty]).to_rdkit()
    passed = plausibility(mols)
    assert not capfd.readouterr().err  # of what RDKit finds wrong
    assert len(passed) == 11 and all(found.shape == (8,) for found in passed.values())
    assert all(found.dtype == bool for found in passed.values())
    assert [failed(passed, m) for m in range(3)] == [set()] * 3
    assert "bond lengths" in failed(passed, 3)
    assert "aromatic ring flatness" in failed(passed, 4)
    assert failed(passed, 5) == {"all atoms connected"}
    assert {"sanitization", "bond lengths"} <= failed(passed, 6)
    assert "no radicals" in failed(passed, 7)
    # a molecule alone is as among others, also where no check can be made
    alone = plausibility(mols[6:7])
    assert failed(alone, 0) == failed(passed, 6)


def test_bonds_of_the_data_are_checked():
    mols = [embedded_rdkit(text) for text in ("CCO", "C[N+](=O)[O-]", "c1ccncc1")]
    again = Molecules.from_rdkit(mols).to_rdkit()
    passed = plausibility(again)
    assert [failed(passed, m) for m in range(3)] == [set()] * 3


def test_what_cannot_be_done_is_named(monkeypatch):
    with pytest.raises(ValueError, match="there are no molecules to check"):
        plausibility([])
    monkeypatch.setitem(sys.modules, "posebusters", None)
    with pytest.raises(ImportError, match=r'pip install "anydiff\[posebusters\]"'):
        plausibility([embedded_rdkit("C")])
