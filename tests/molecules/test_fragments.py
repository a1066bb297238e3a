"""Parts of molecules to keep."""

import numpy as np
import pytest
import torch

from anydiff.molecules import load_qm9
from anydiff.molecules.evaluate import to_rdkit
from anydiff.molecules.fragments import count_pieces, first_with, largest_ring, two_ends
from tests.helpers.molecules import embedded


@pytest.fixture(scope="module")
def molecules():
    return load_qm9().subset(range(150))


def of(molecules):
    return molecules.pos, molecules.z, molecules.index


def test_rings_are_rdkit_s(molecules):
    """Fused, bridged and joined at an atom, but not joined by a bond."""
    kept = largest_ring(*of(molecules), least=3)
    for m, mol in enumerate(to_rdkit(*of(molecules))):
        from rdkit import Chem

        Chem.FastFindRings(mol)
        systems = []
        for ring in map(set, mol.GetRingInfo().AtomRings()):
            touching = [s for s in systems if s & ring]
            systems = [s for s in systems if not s & ring] + [ring.union(*touching)]
        ours = set(np.flatnonzero(kept[molecules.index == m]).tolist())
        assert len(ours) == max(map(len, systems), default=0)
        assert not systems or ours in systems


def test_the_largest_ring_and_nothing_else():
    some = embedded("CC1CCC1C1CCCC1O", "CCO", "C1CC1CC")
    kept = largest_ring(*of(some))
    assert np.bincount(some.index[kept], minlength=3).tolist() == [5, 0, 0]
    assert (some.z[kept] == 6).all()
    assert np.bincount(some.index[largest_ring(*of(some), least=3)]).tolist() == [5, 0, 3]
    assert not largest_ring(*of(some), least=6).any()


def test_two_ends_of_a_chain():
    some = embedded("NCCCCCO", "CC", "C1CCCCC1")
    kept = two_ends(*of(some))
    first = some.index == 0
    # N-C and C-O with their hydrogens stay; three of the five carbons and theirs go
    assert sorted(some.z[kept & first]) == [1] * 7 + [6, 6, 7, 8]
    assert not kept[some.index == 1].any()
    assert count_pieces(some.pos[kept & first], some.z[kept & first], 0 * some.z[kept & first]) == 2


def test_two_ends_are_two_pieces_with_their_hydrogens(molecules):
    kept = two_ends(*of(molecules))
    some = molecules.index[kept]
    assert len(np.unique(some)) > 40  # the first are small
    assert (count_pieces(molecules.pos[kept], molecules.z[kept], some) == 2).all()
    heavy = molecules.z > 1
    out = np.bincount(molecules.index[heavy & ~kept], minlength=150)[np.unique(some)]
    assert out.min() >= 3 and out.max() <= 5


def test_parts_follow_their_atoms(molecules):
    some = molecules.subset(range(30))
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(np.flatnonzero(some.index == m)) for m in range(30)])
    turned = some.pos @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 5
    a = largest_ring(*of(some), least=3)[order]
    b = largest_ring(turned[order], some.z[order], some.index, least=3)
    assert np.array_equal(np.bincount(some.index[a]), np.bincount(some.index[b]))


def test_the_first_with_a_ring(molecules):
    kept = largest_ring(*of(molecules))
    have = np.unique(molecules.index[kept])
    for num in (1, 7, 1000):
        chosen, rows = first_with(molecules, num, largest_ring)
        assert len(chosen) == min(num, len(have)) and len(rows) == len(chosen.z)
        assert np.array_equal(chosen.pos, molecules.subset(have[:num]).pos)
        assert np.array_equal(rows, largest_ring(*of(chosen)))
    with pytest.raises(ValueError, match=r"largest_ring finds no part in any of the 1 molecules"):
        first_with(embedded("CCO"), 3, largest_ring)


def test_pieces_are_counted():
    pos = torch.tensor([[0, 0, 0], [1.1, 0, 0], [9, 0, 0], [0, 0, 0], [1.1, 0, 0]])
    z, index = torch.tensor([6, 1, 6, 6, 1]), torch.tensor([0, 0, 0, 1, 1])
    assert count_pieces(pos, z, index).tolist() == [2, 1]


def test_numbers_that_find_nothing_are_named(molecules):
    with pytest.raises(ValueError, match="num is 0; give a number"):
        first_with(molecules, 0, largest_ring)
    with pytest.raises(ValueError, match="the smaller one first"):
        two_ends(*of(molecules), between=(5, 3))
