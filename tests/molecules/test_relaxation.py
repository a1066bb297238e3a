"""Relaxation by GFN2-xTB against what must hold of any potential, and against tblite itself."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from anydiff.molecules import load_qm9
from anydiff.molecules.evaluate import evaluate, table
from anydiff.molecules.relaxation import _valence_electrons, relax, rmsd
from tests.helpers.molecules import embedded_rdkit

pytest.importorskip("tblite", reason="relaxation needs the extra xtb")

BOHR = 0.529177210544


def calculator(z, pos, charge=0):
    from tblite.interface import Calculator

    made = Calculator("GFN2-xTB", np.array(z), np.array(pos, float) / BOHR, charge=charge)
    made.set("verbosity", 0)
    return made.singlepoint()


def one(z, pos, **how):
    return relax(np.array(pos, float), np.array(z), np.zeros(len(z), int), **how)


@pytest.fixture(scope="module")
def some():
    """Eight of QM9, the same in every run."""
    return load_qm9().subset(range(1000, 1008))


def noisy(molecules, noise=0.05):
    shifts = np.random.default_rng(0).standard_normal(molecules.pos.shape)
    return molecules.pos + noise * shifts


# geometries --------------------


def turn(rng):
    q = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


def test_moved_and_turned_geometries_are_the_same_and_mirrored_ones_are_not():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((6, 3))
    b = a @ turn(rng).T + [3, -20, 7]
    assert rmsd(a, b) < 1e-12
    assert rmsd(a, -a) > 0.1
    flat = a * [1, 1, 0]  # of which the mirror image is a turned one
    assert rmsd(flat, flat * [1, -1, 1]) < 1e-12
    assert rmsd(a[:1], b[:1]) == 0


def test_no_turn_superposes_better():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 5, 3))
    a, b = a - a.mean(0), b - b.mean(0)
    best = rmsd(a, b)
    others = [np.sqrt(((a @ turn(rng).T - b) ** 2).sum(1).mean()) for _ in range(2000)]
    assert best <= min(others) < 1.1 * best
    assert rmsd(b, a) == pytest.approx(best)


def test_stretched_pairs_are_as_far_as_their_atoms():
    # both ends of a bond that is longer by 2 d are d away
    assert rmsd([[0, 0, 0], [0, 0, 1]], [[5, 0, 0], [5, 1.2, 0]]) == pytest.approx(0.1)


def test_geometries_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 3\); give \(n, 3\) twice"):
        rmsd(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="a position is not finite"):
        rmsd([[0, 0, np.nan]], [[0, 0, 0]])


# energies --------------------


def test_two_hydrogens_relax_to_the_minimum_of_their_curve():
    found = one([1, 1], [[0, 0, 0], [0, 0, 0.9]])
    length = np.linalg.norm(found.pos[1] - found.pos[0])

    def energy(r):
        return float(calculator([1, 1], [[0, 0, 0], [r, 0, 0]])["energy"])

    # the parabola through three points near the minimum has it within 1e-4 Å
    h = 0.005
    a, b, c = energy(length - h), energy(length), energy(length + h)
    assert b < min(a, c)
    minimum = length + h * (a - c) / (2 * (a - 2 * b + c))
    # 1e-3 hartree per bohr by the curvature
    slack = 1e-3 / BOHR * h**2 / (a - 2 * b + c)
    assert abs(length - minimum) < slack < 2e-3
    assert minimum == pytest.approx(0.7772, abs=5e-4)  # GFN2-xTB; experiment has 0.741
    assert found.gain[0] == pytest.approx(627.509474 * (energy(0.9) - b), abs=1e-6)
    assert found.rmsd[0] == pytest.approx((0.9 - length) / 2)
    assert found.kept.tolist() == [True]


def test_energies_know_no_frame(some):
    rng = np.random.default_rng(0)
    few = some.subset([0, 1])
    pos = noisy(few)
    first = relax(pos, few.z, few.index)
    moved = relax(pos @ turn(rng).T + [1.0, -2.0, 5.0], few.z, few.index)
    # both end within the tolerance of the minimum, on ways of other rounding
    assert moved.gain == pytest.approx(first.gain, abs=0.05)
    assert moved.rmsd == pytest.approx(first.rmsd, abs=2e-3)
    mirrored = relax(pos * [1, 1, -1], few.z, few.index)
    assert mirrored.gain == pytest.approx(first.gain, abs=0.05)


def test_what_is_relaxed_has_nothing_to_gain(some):
    few = some.subset([0, 1, 2])
    once = relax(noisy(few), few.z, few.index)
    twice = relax(once.pos, few.z, few.index)
    assert once.gain.min() > 5
    assert abs(twice.gain).max() < 1e-3 and twice.rmsd.max() < 1e-6
    for m in range(3):
        rows = few.index == m
        gradient = calculator(few.z[rows], once.pos[rows])["gradient"]
        assert 1e-6 < abs(gradient).max() < 1.1e-3
    finer = relax(noisy(few), few.z, few.index, tolerance=1e-4)
    # what soft torsions still hold at the tolerance
    assert (finer.gain > once.gain - 1e-3).all() and finer.gain == pytest.approx(once.gain, abs=0.5)


@pytest.mark.slow
def test_molecules_of_the_data_are_near_equilibrium_and_noisy_ones_are_not(some):
    rows = some.z, some.index
    real, far = relax(some.pos, *rows), relax(noisy(some), *rows)
    assert 0.3 < real.median_gain < 2.5 and 0.005 < real.median_rmsd < 0.05
    assert 25 < far.median_gain < 80 and 0.06 < far.median_rmsd < 0.12
    assert real.failed == far.failed == 0 and real.survival == far.survival == 1
    # a third as much noise costs a ninth, where a parabola is all there is
    near = relax(noisy(some, 0.05 / 3), *rows)
    assert 4 < np.median((far.gain - real.gain) / (near.gain - real.gain)) < 18


def test_a_molecule_alone_is_as_among_others(some):
    few = some.subset([3, 4, 5])
    together = relax(noisy(few), few.z, few.index)
    rows = few.index == 1
    alone = relax(noisy(few)[rows], few.z[rows], few.index[rows])
    assert alone.gain[0] == together.gain[1] and (alone.pos == together.pos[rows]).all()
    tensors = (torch.tensor(noisy(few)), torch.tensor(few.z), torch.tensor(few.index))
    assert (relax(*tensors).gain == together.gain).all()


def test_threads_change_nothing(some):
    threads = torch.get_num_threads()
    found = []
    try:
        for num in (1, 4):
            torch.set_num_threads(num)
            found.append(relax(noisy(some), some.z, some.index, progress=True))
    finally:
        torch.set_num_threads(threads)
    assert (found[0].pos == found[1].pos).all() and (found[0].gain == found[1].gain).all()


def test_ions_have_their_charge():
    mol = embedded_rdkit("C[NH3+]")
    z = [a.GetAtomicNum() for a in mol.GetAtoms()]
    charges = [a.GetFormalCharge() for a in mol.GetAtoms()]
    pos = mol.GetConformer().GetPositions()
    ion, other = one(z, pos, charges=charges), one(z, pos)
    before = float(calculator(z, pos, 1)["energy"])
    after = float(calculator(z, ion.pos, 1)["energy"])
    assert ion.gain[0] == pytest.approx(627.509474 * (before - after), abs=1e-3)
    assert abs(other.gain[0] - ion.gain[0]) > 1 and ion.kept[0]


# bonds --------------------


def test_bonds_that_are_given_are_compared_with():
    mol = embedded_rdkit("CO")
    z = [a.GetAtomicNum() for a in mol.GetAtoms()]
    pos = mol.GetConformer().GetPositions()
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    twice = np.concatenate([pos, pos + 1]), np.array([*z, *z]), np.repeat([0, 1], len(z))
    n = len(z)
    second = [(j + n, i + n) for i, j in bonds]  # either atom may be the first
    assert relax(*twice, bonds=bonds + second).kept.tolist() == [True, True]
    assert relax(*twice, bonds=bonds + second[1:]).kept.tolist() == [True, False]
    assert relax(*twice, bonds=[*bonds, (0, n - 1), *second]).kept.tolist() == [False, True]
    assert relax(*twice, bonds=[]).kept.tolist() == [False, False]
    for wrong, words in ([(0, 2 * n)], f"rows 0 to {2 * n}"), ([0, 1], r"give \(E, 2\) whole"):
        with pytest.raises(ValueError, match=words):
            relax(*twice, bonds=wrong)


def test_bonds_that_are_made_are_seen():
    # halfway from two molecules HF to two others no pair is bonded
    square = [[0, 0, 0], [1.1, 0, 0], [1.1, 1.0, 0], [0, 1.0, 0]]
    found = one([1, 9, 1, 9], square)
    assert found.failed == 0 and not found.kept[0] and found.gain[0] > 100
    assert one([1, 9, 1, 9], found.pos).kept[0]


@pytest.mark.parametrize("text", ["CS(C)=O", "C[N+](=O)[O-]", "CBr", "CI", "C[Si](C)(C)C", "CP"])
def test_bonds_of_electrons_are_those_of_the_formula(text):
    mol = embedded_rdkit(text)
    z = [a.GetAtomicNum() for a in mol.GetAtoms()]
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    assert one(z, mol.GetConformer().GetPositions(), bonds=bonds).kept.tolist() == [True]


# failures --------------------


def test_failures_are_counted_and_spoil_nothing(some):
    few = some.subset([0, 1, 2])
    pos = noisy(few).astype(float)
    whole = relax(pos, few.z, few.index)
    pos[few.index == 1] = np.nan
    found = relax(pos, few.z, few.index)
    assert (found.molecules, found.failed) == (3, 1)
    assert np.isnan(found.gain).tolist() == [False, True, False]
    assert np.isnan(found.pos).all(1).tolist() == (few.index == 1).tolist()
    assert found.kept.tolist() == [True, False, True] and found.survival == pytest.approx(2 / 3)
    assert (found.gain == whole.gain)[[0, 2]].all()
    assert found.median_gain == pytest.approx(np.mean(whole.gain[[0, 2]]))
    assert found.mean_gain == pytest.approx(np.mean(whole.gain[[0, 2]]))


def test_too_few_steps_fail():
    found = one([1, 1], [[0, 0, 0], [0, 0, 1.5]], steps=1)
    assert found.failed == 1 and np.isnan(found.median_gain) and np.isnan(found.median_rmsd)


@pytest.mark.parametrize(
    "z, pos, charges",
    [
        ([1, 1], [[0, 0, 0], [0, 0, 0]], None),  # at the same point
        ([1, 1], [[0, 0, 0], [0, 0, 0.8]], [1, 2]),  # fewer electrons than none
        ([13], [[0, 0, 0]], [4]),
        ([6, 1], [[0, 0, 0], [0, 0, np.inf]], None),
    ],
)
def test_what_has_no_energy_fails(z, pos, charges):
    assert one(z, pos, charges=charges).failed == 1


def test_a_nucleus_has_nothing_to_gain():
    found = one([1], [[1, 2, 3]], charges=[1])
    assert found.failed == 0 and found.gain[0] == 0 and found.kept[0]


def test_electrons_are_counted_as_the_method_does():
    for z in range(1, 87):
        found = float(calculator([z], np.zeros((1, 3)))["orbital-occupations"].sum())
        assert round(found) == _valence_electrons(np.array([z]))[0]


def test_no_molecules_are_no_error():
    found = relax(np.zeros((0, 3)), np.zeros(0, int), np.zeros(0, int))
    assert found.molecules == found.failed == 0 and np.isnan(found.survival)


def test_what_cannot_be_done_is_named(monkeypatch):
    with pytest.raises(ValueError, match="z has 92; GFN2-xTB knows elements up to 86"):
        one([92], [[0, 0, 0]])
    with pytest.raises(ValueError, match=r"tolerance is 0; give a number in \(0, inf\)"):
        one([1], [[0, 0, 0]], tolerance=0)
    monkeypatch.setitem(sys.modules, "tblite.interface", None)
    with pytest.raises(ImportError, match=r'pip install "anydiff\[xtb\]"'):
        one([1], [[0, 0, 0]])


def test_the_table_has_a_second_part(some):
    rows = some.pos, some.z, some.index
    plain = evaluate(*rows, name="real")
    relaxed = replace(plain, relaxed=relax(*rows))
    first, second, caption = table([relaxed, plain]).split("\n\n")
    assert first == table([plain, plain]).split("\n\n")[0]
    assert "count for neither" in caption and len(second.split("\n")) == 3
    name, num, failed, median, *_, kept = second.split("\n")[2].split()
    assert (name, num, failed, kept) == ("real", "8", "0", "100.0")
    assert float(median) == pytest.approx(relaxed.relaxed.median_gain, abs=0.006)
