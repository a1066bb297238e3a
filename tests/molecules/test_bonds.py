"""Bonds and valences of other elements than QM9's, and of ions."""

import sys

import numpy as np
import pytest

from anydiff.molecules import bonds
from anydiff.molecules.bonds import bond_orders, stability, stable
from anydiff.molecules.evaluate import evaluate, smiles, strict, to_rdkit
from anydiff.molecules.fragments import count_pieces, largest_ring
from tests.helpers.molecules import embedded, rows

# of S, P, Si, B, Al, Se, halogens and others, in the bonds that are usual of them
OTHER = [
    "CCS", "CSC", "CSSC", "CCl", "CBr", "CI", "ClCCBr", "CP", "CP(C)C", "C[Si](C)(C)C",
    "C[Si](C)(C)Cl", "C[Si](C)(C)OC", "C[Si](C)(C)N", "CS(C)=O", "CS(C)(=O)=O", "CS(N)(=O)=O",
    "CS(=O)(=O)O", "COS(C)=O", "COS(=O)(=O)OC", "CS(C)(=N)=O", "CP(C)(C)=O", "COP(=O)(OC)OC",
    "OP(=O)(O)O", "CN(C)P(=O)(N(C)C)N(C)C", "CC(=O)SC", "CSC#N", "c1ccsc1", "c1cscn1", "CB(C)C",
    "COB(OC)OC", "CB(F)F", "FC(F)(F)Cl", "C[Se]C", "C[Ge](C)(C)C", "C[As](C)C", "C[Sn](C)(C)C",
    "C[Hg]C",
]  # fmt: skip


def pair(a, b, picometres):
    return np.array([[0, 0, 0], [picometres / 100, 0, 0]]), np.array([a, b]), np.zeros(2, int)


@pytest.mark.parametrize(
    "a, b, limits",
    [
        (1, 16, (144,)),
        (1, 53, (171,)),
        (6, 14, (195,)),
        (6, 16, (192, 165)),
        (6, 17, (187,)),
        (6, 35, (204,)),
        (7, 15, (187,)),
        (8, 15, (173, 155)),
        (15, 16, (220, 191)),
        (16, 16, (214,)),
        (53, 53, (276,)),
        (8, 16, (176, 155)),  # not EDM's, as its table has no S=O and no S=N
        (7, 16, (178, 159)),
        (6, 34, (226,)),  # by radii of 76 and 120 pm
        (5, 6, (190,)),
    ],
)
def test_limits_of_other_elements(a, b, limits):
    for order, limit in enumerate(limits, start=1):
        for first, second in ((a, b), (b, a)):
            assert bond_orders(*pair(first, second, limit - 0.01))[1].tolist() == [order]
            above = bond_orders(*pair(first, second, limit + 0.01))[1].tolist()
            assert above == ([order - 1] if order > 1 else [])


@pytest.mark.parametrize("text", OTHER)
def test_molecules_of_other_elements_are_themselves(text):
    from rdkit import Chem

    one = embedded(text)
    found = strict(*rows(one))[0]
    assert found is not None and Chem.CanonSmiles(text) == Chem.MolToSmiles(
        Chem.RemoveHs(Chem.MolFromSmiles(found))
    )
    atoms, whole = stable(*rows(one))
    assert atoms.all() and whole.all() and count_pieces(*rows(one)) == 1


def test_every_element_has_bonds_and_valences():
    limits, allowed = bonds._every_element()
    assert (limits[0, 1:, 1:] > 0).all() and allowed[1:].any(1).all()
    assert (limits[:, :, :] == limits.transpose(0, 2, 1)).all()
    assert (limits[1] < limits[0])[1:, 1:].all() and (limits[2] <= limits[1]).all()
    known = bonds._LIMITS[0] > 0
    assert np.array_equal(limits[:, known], bonds._LIMITS[:, known])
    assert allowed[16].nonzero()[0].tolist() == [2, 4, 6]  # EDM has only 4
    assert allowed[15].nonzero()[0].tolist() == [3, 5] and allowed[26].all()
    noble = stability(*pair(10, 18, 400))
    assert noble.stable_atoms == 2


def test_metrics_know_every_element():
    some = embedded("CCS", "CS(N)(=O)=O", "CCBr", "C1CCSC1", "C[Si](C)(C)C")
    report = evaluate(*rows(some), reference=rows(some), train_smiles=[])
    assert report.valid == report.strict == report.connected == report.stability.molecules == 5
    assert report.bonds == report.elements == 0
    ring = largest_ring(*rows(some))
    assert some.index[ring].tolist() == [3] * 5 and sorted(some.z[ring]) == [6] * 4 + [16]


def test_without_rdkit_the_elements_of_qm9_are_known(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    bonds._every_element.cache_clear()
    assert bond_orders(*pair(1, 6, 109))[1].tolist() == [1]
    with pytest.raises(ImportError, match=r"anydiff\[molecules\]"):
        bond_orders(*pair(1, 16, 134))


# ions --------------------


def charged(text):
    """An ion, and the formal charges of its atoms."""
    from rdkit import Chem

    mol = Chem.AddHs(Chem.MolFromSmiles(text))
    return rows(embedded(text)), [atom.GetFormalCharge() for atom in mol.GetAtoms()]


@pytest.mark.parametrize(
    "text",
    [
        "[NH4+]",
        "C[NH3+]",
        "C[O-]",
        "C[S-]",
        "C[S+](C)C",
        "[H+]",
        "[Cl-]",
        "[Na+]",
        "C[P+](C)(C)C",
        "F[B-](F)(F)F",
    ],
)
def test_ions_are_stable_and_valid_with_their_charges(text):
    from rdkit import Chem

    atoms, charges = charged(text)
    plain, told = evaluate(*atoms), evaluate(*atoms, charges=charges)
    assert plain.stability.stable_molecules == 0 or text == "[Na+]"  # any valence
    assert told.stability.stable_molecules == told.valid == told.strict == 1
    mol = to_rdkit(*atoms, charges=charges)[0]
    assert [a.GetFormalCharge() for a in mol.GetAtoms()] == charges
    read = Chem.MolFromMolBlock(Chem.MolToMolBlock(mol, kekulize=False), removeHs=False)
    assert read is not None and Chem.GetFormalCharge(read) == sum(charges)


def test_a_charge_that_does_not_explain_the_bonds_is_not_set():
    atoms, charges = charged("C[N+](=O)[O-]")  # by distance both N-O are double, as is usual
    assert sorted(charges) == [-1, 0, 0, 0, 0, 0, 1]
    assert smiles(*atoms, charges) == smiles(*atoms) != [None]
