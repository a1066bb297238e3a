"""Bonds of SMILES: the graph that they say, on the atoms that are there."""

from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem, rdBase

from anydiff.molecules import MoleculeError, Molecules, load_qm9
from anydiff.molecules.matching import bonds_from_smiles

GLYCINE = "[NH3+]CC(=O)[O-]"


@pytest.fixture(scope="module")
def qm9():
    return load_qm9().subset(np.arange(0, 5000, 5))


def bare(molecules):
    return replace(molecules, bonds=None, orders=None, charges=None)


def of(text, pos=None, smiles=None):
    """A molecule of SMILES, embedded, with SMILES of its own or others'."""
    mol = Chem.AddHs(Chem.MolFromSmiles(text))
    if pos is None:
        from rdkit.Chem import AllChem

        AllChem.EmbedMolecule(mol, randomSeed=1)
        pos = mol.GetConformer().GetPositions()
    z = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    return Molecules.from_lists([z], [pos], smiles=[smiles or text])


def test_the_shipped_bonds_are_those_of_the_smiles(qm9):
    found, share = bonds_from_smiles(bare(qm9))
    assert share == 1
    for name in ("bonds", "orders", "charges"):
        assert np.array_equal(getattr(found, name), getattr(qm9, name))
    with rdBase.BlockLogs():
        for mol, text in zip(qm9.to_rdkit(), qm9.smiles, strict=True):
            mol.RemoveAllConformers()  # whose stereochemistry the SMILES do not say
            assert Chem.SanitizeMol(mol, catchErrors=True) == 0
            assert not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
            plain = Chem.MolFromSmiles(text)
            Chem.RemoveStereochemistry(plain)
            assert Chem.MolToInchi(mol) == Chem.MolToInchi(plain)


def test_bonds_go_with_the_atoms_in_whatever_order_these_are(qm9):
    some = qm9.subset(np.arange(40))
    turned = np.concatenate(
        [np.arange(a, b)[::-1] for a, b in zip(some.offsets[:-1], some.offsets[1:], strict=True)]
    )
    found, _ = bonds_from_smiles(bare(replace(some, z=some.z[turned], pos=some.pos[turned])))
    back = np.sort(turned[found.bonds], axis=1)
    assert {tuple(row) for row in back.tolist()} == {tuple(row) for row in some.bonds.tolist()}
    with rdBase.BlockLogs():
        for one, other in zip(found.to_rdkit(), some.to_rdkit(), strict=True):
            one.RemoveAllConformers(), other.RemoveAllConformers()
            assert Chem.MolToInchi(one) == Chem.MolToInchi(other)


def test_charges_are_carried_over():
    found, _ = bonds_from_smiles(of(GLYCINE))
    assert found.charges.tolist() == [1, 0, 0, 0, -1, 0, 0, 0, 0, 0]
    order = {
        tuple(bond): kind for bond, kind in zip(found.bonds.tolist(), found.orders, strict=True)
    }
    assert order[2, 3] == 2 and order[2, 4] == 1


def test_molecules_that_do_not_agree_are_left_out():
    water, methane = of("O"), of("C")
    faulty = [
        of("CO", smiles="CN"), of("CCO", smiles="COC"), of("O", smiles="no SMILES"),
        of("O", smiles="OO"), of("C=C", smiles="[CH3].[CH]"),
    ]  # fmt: skip
    found, share = bonds_from_smiles(Molecules.concatenate([water, *faulty, methane]))
    assert list(found.smiles) == ["O", "C"] and share == pytest.approx(2 / 7)
    assert found.bonds.tolist() == [[0, 1], [0, 2], [3, 4], [3, 5], [3, 6], [3, 7]]
    with pytest.raises(MoleculeError, match=r"of none of 5 molecules .* give all hydrogens"):
        bonds_from_smiles(Molecules.concatenate(faulty))
    with pytest.raises(MoleculeError, match="molecules has no SMILES; give"):
        bonds_from_smiles(replace(water, smiles=None))


@pytest.mark.parametrize("length, agrees", [(0.96, True), (1.2, True), (1.3, False)])
def test_a_long_bond_is_one_where_no_other_atoms_are_closer(length, agrees):
    pos = [[0, 0, 0], [0.96, 0, 0], [-0.25, length, 0]]
    both = Molecules.concatenate([of("C"), of("O", pos)])
    found, _ = bonds_from_smiles(both)
    assert list(found.smiles) == (["C", "O"] if agrees else ["C"])
