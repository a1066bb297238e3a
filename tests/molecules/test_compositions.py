"""Formulas as text and as counts of atoms."""

import numpy as np
import pytest

from anydiff.molecules import MoleculeError, Molecules, load_qm9
from anydiff.molecules.compositions import compositions, counts_of, parse_formula
from anydiff.molecules.elements import formula_parts


@pytest.mark.parametrize(
    "formula, counts",
    [
        ("C7H10O2", {1: 10, 6: 7, 8: 2}),
        ("CH3CH2OH", {1: 6, 6: 2, 8: 1}),
        ("CCl4", {6: 1, 17: 4}),
        ("CO", {6: 1, 8: 1}),
        ("Co", {27: 1}),
        ("H2O0", {1: 2}),
        ("C100", {6: 100}),
    ],
)
def test_symbols_are_counted(formula, counts):
    assert parse_formula(formula) == counts
    assert list(parse_formula(formula)) == sorted(counts)


@pytest.mark.parametrize(
    "formula, line",
    [
        ("c7h10o2", "the formula is 'c7h10o2'; give symbols of elements"),
        ("C7H10O2+", "'C7H10O2.'; give .* without brackets and charges"),
        ("Ca(OH)2", "without brackets"),
        ("C7 H10", "the formula is 'C7 H10'"),
        ("2H", "the formula is '2H'"),
        ("", "the formula is ''"),
        ("C1234567", "the formula is 'C1234567'"),
        ("C7Xx2", "C7Xx2 has Xx, which is no element"),
        ("C0", "C0 has no atoms; give one atom or more"),
    ],
)
def test_what_is_no_formula_is_refused(formula, line):
    with pytest.raises(MoleculeError, match=line):
        parse_formula(formula)


def test_formulas_are_written_as_they_are_read():
    molecules = load_qm9().subset(range(50))
    counts = compositions(molecules)
    assert counts.shape == (50, len(molecules.elements))
    for m in range(50):
        z = molecules.z[molecules.index == m]
        text = "".join(map("".join, formula_parts(z)))
        found = dict(zip(*np.unique(z, return_counts=True), strict=True))
        assert parse_formula(text) == found
        assert counts_of(text, molecules.elements).tolist() == counts[m].tolist()


def test_hill_s_order():
    def written(z):
        return "".join(map("".join, formula_parts(np.array(z))))

    assert written([8, 1, 1]) == "H2O"
    assert written([17, 35, 6, 1, 6]) == "C2HBrCl"  # then by the alphabet
    assert written([14, 1, 17, 1]) == "ClH2Si"  # without carbon all by the alphabet


def test_counts_have_a_column_for_each_element_asked_for():
    two = Molecules.from_lists([["O", "H", "H"], ["C", "O"]], [np.eye(3), np.eye(3)[:2]])
    assert compositions(two).tolist() == [[2, 0, 1], [0, 1, 1]]  # H C O
    assert compositions(two, (8, 9, 1)).tolist() == [[1, 0, 2], [1, 0, 0]]
    assert counts_of("OH2", (8, 9, 1)).tolist() == [1, 0, 2]
    with pytest.raises(MoleculeError, match="Cl of the formula CHCl3 is not among H C O, the elem"):
        counts_of("CHCl3", (1, 6, 8))
