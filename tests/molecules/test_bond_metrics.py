"""Metrics of bonds that are given: real molecules are perfect, and each fault costs what it should."""

import math
from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem

from anydiff.molecules import MoleculeError, Molecules, load_qm9
from anydiff.molecules.bond_metrics import (
    agreement,
    evaluate_bonds,
    lengths_distance,
    stable_bonds,
    strict_bonds,
)
from anydiff.molecules.evaluate import evaluate, table
from anydiff.molecules.models import compare_parts
from anydiff.molecules.qm9 import split
from anydiff.molecules.valences import VALENCES
from tests.helpers.molecules import embedded_rdkit, rows

QM9 = load_qm9()
SOME = QM9.subset(range(100, 140))


def of(*texts):
    return Molecules.from_rdkit([embedded_rdkit(text) for text in texts])


def changed(molecules, order):
    """The molecules with other orders of bonds; 0 takes a bond away."""
    order = np.asarray(order)
    return replace(molecules, bonds=molecules.bonds[order > 0], orders=order[order > 0])


@pytest.mark.slow
def test_real_molecules_are_perfect():
    report = evaluate_bonds(QM9, reference=QM9)
    assert report.stability.atom_ratio == report.stability.molecule_ratio == 1
    assert report.strictness == 1 and report.lengths == 0 and report.missing == 0
    assert report.unique == 4999  # two are one graph
    assert report.agreement == pytest.approx(0.948, abs=5e-4)  # as many as are stable by distance


@pytest.mark.parametrize("order, atoms", [(0, 2), (2, 2), (3, 2)])
def test_a_wrong_order_costs_both_its_atoms(order, atoms):
    orders = SOME.orders.copy()
    e = int(np.flatnonzero((SOME.z[SOME.bonds] > 1).all(1) & (orders == 1))[0])
    orders[e] = order
    wrong = changed(SOME, orders)
    stable, whole = stable_bonds(wrong)
    assert np.flatnonzero(~stable).tolist() == SOME.bonds[e].tolist() and atoms == (~stable).sum()
    m = int(SOME.index[SOME.bonds[e, 0]])
    assert np.flatnonzero(~whole).tolist() == [m]
    texts = strict_bonds(wrong)
    assert [k for k, text in enumerate(texts) if text is None] == [m]
    same, missing = agreement(wrong)
    before, _ = agreement(SOME)
    assert not same[m] and (np.delete(same, m) == np.delete(before, m)).all()
    assert missing.sum() == missing[m] == (order == 0)


def test_charges_count_and_unknown_ones_have_no_fallback():
    ions = of("C[NH3+]", "CC(=O)[O-]", "C[N+](=O)[O-]", "CS(=O)(=O)C", "COP(=O)(O)OC", "c1cc[nH]c1")
    assert stable_bonds(ions)[1].all() and all(strict_bonds(ions))
    bare = replace(ions, charges=None)
    assert stable_bonds(bare)[1].tolist() == [False, False, False, True, True, True]
    assert [text is not None for text in strict_bonds(bare)] == [False] * 3 + [True] * 3
    water = of("O")
    for charge, atoms in (
        (1, [False, True, True]),
        (2, [False, True, True]),
        (-1, [False, True, True]),
    ):
        charged = replace(water, charges=np.array([charge, 0, 0]))
        assert stable_bonds(charged)[0].tolist() == atoms
    assert (8, 2) not in VALENCES and (36, 0) not in VALENCES
    krypton = Molecules.from_lists([["Kr"]], [[[0, 0, 0]]], bonds=[[]], orders=[[]])
    assert not stable_bonds(krypton)[0].any()


@pytest.mark.parametrize("text", ["[H]", "[CH3]", "C=[CH]"])
def test_radicals_are_not_strict(text):
    mol = embedded_rdkit(text)
    assert strict_bonds(Molecules.from_rdkit([mol])) == [None]


def test_pieces_and_aromatic_bonds_are_told_apart():
    both = of("C", "O")
    one = replace(both, offsets=both.offsets[[0, 2]], ids=None)
    assert stable_bonds(one)[1].all() and strict_bonds(one) == [None]
    benzene = of("c1ccccc1")
    ring = (benzene.z[benzene.bonds] == 6).all(1)
    aromatic = replace(benzene, orders=np.where(ring, 4, 1))
    assert (stable_bonds(aromatic)[0] == (benzene.z == 1)).all()
    pair = Molecules.from_lists(["CC"], [[[0, 0, 0], [0, 0, 1.4]]], bonds=[[[0, 1]]], orders=[[4]])
    assert not stable_bonds(pair)[0].any()  # the mark of an aromatic bond is no order
    assert strict_bonds(aromatic) == strict_bonds(benzene) == ["[H]c1c([H])c([H])c([H])c([H])c1[H]"]


def test_all_that_are_drawn_count():
    repeated = SOME.subset([0, 0, 1, 2])
    orders = repeated.orders.copy()
    orders[-1] = 3
    report = evaluate_bonds(
        replace(repeated, orders=orders), train_smiles=strict_bonds(SOME)[:1], lost=1
    )
    assert report.molecules == 5 and report.stability.stable_molecules == 3
    assert report.strict == 3 and report.unique == 2 and report.strict_unique == 2 / 5
    assert report.novel == 1 and report.novelty == 0.5 and math.isnan(evaluate_bonds(SOME).novelty)


def test_lengths_are_of_the_kinds_that_are_drawn():
    assert lengths_distance(SOME, SOME)[0] == 0
    longer = replace(SOME, pos=1.01 * SOME.pos)
    mean, kinds = lengths_distance(longer, SOME)
    assert kinds[1, 6, 1] == pytest.approx(0.0109, abs=2e-4) and 0.01 < mean < 0.0135
    carbonyl = (np.sort(SOME.z[SOME.bonds], axis=1) == [6, 8]).all(1) & (SOME.orders == 2)
    wrong = replace(
        SOME, orders=np.where(carbonyl, 1, SOME.orders)
    )  # short bonds among the single ones
    _, kinds = lengths_distance(wrong, SOME)
    assert math.isnan(kinds[6, 8, 2]) and kinds[6, 8, 1] > 0.04 and kinds[1, 6, 1] == 0


def test_order_of_atoms_and_molecules_changes_nothing():
    turned = np.concatenate(
        [np.arange(a, b)[::-1] for a, b in zip(SOME.offsets[:-1], SOME.offsets[1:], strict=True)]
    )
    back = np.argsort(turned)
    orders = SOME.orders.copy()
    orders[::17] = 2
    one = replace(SOME, orders=orders)
    other = replace(
        one,
        z=one.z[turned],
        pos=one.pos[turned],
        charges=one.charges[turned],
        bonds=back[one.bonds],
    ).subset(np.arange(len(one))[::-1])
    assert evaluate_bonds(one, reference=SOME) == evaluate_bonds(other, reference=SOME)
    assert (stable_bonds(one)[1] == stable_bonds(other)[1][::-1]).all()


def test_the_table_has_a_part_on_bonds_where_there_are_any():
    data = QM9.subset(range(300))
    bare = replace(data, bonds=None, orders=None, charges=None)
    assert "own bonds" not in table([evaluate(*rows(SOME))])
    assert "own bonds" not in table(compare_parts(replace(SOME, bonds=None, orders=None), data))
    text = table(compare_parts(data.subset(split(300).train[:40]), data, lost=10))
    part = text.split("\n\n")[1].splitlines()
    assert part[0].split()[:3] == ["own", "bonds", "molecules"]
    assert part[2].split()[3:8] == ["31", "100.0", "100.0", "100.0", "100.0"]  # real, held out
    assert part[3].split()[:7] == ["drawn", "50", "100.0", "80.0", "80.0", "80.0", "0.0"]
    alone = table(compare_parts(SOME, bare)).split("\n\n")[1].splitlines()
    assert len(alone) == 3 and alone[2].split()[0] == "drawn" and alone[2].split()[-1] == "–"
    with pytest.raises(MoleculeError, match="molecules has no bonds; give molecules with them"):
        evaluate_bonds(replace(SOME, bonds=None, orders=None, name="molecules"))


def test_rdkit_gets_the_bonds_and_charges():
    mols = SOME.to_rdkit()
    for mol, text in zip(mols, SOME.smiles, strict=True):
        assert Chem.SanitizeMol(mol, catchErrors=True) == 0
        assert Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False) == Chem.CanonSmiles(text)
    assert mols[0].GetProp("_Name") == str(SOME.ids[0]) and mols[0].GetConformer().Is3D()
