"""Known parts of molecules: each is what it says, and all are drawn for a whole batch at once."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anydiff import Ragged
from anydiff.data.parts import with_parts
from anydiff.molecules import Atoms, load_qm9, loader
from anydiff.molecules.bonded import Bonded
from anydiff.molecules.bonds import longest
from anydiff.molecules.fragments import largest_ring
from anydiff.molecules.skeletons import BETWEEN, SHARES, Skeletons, molecule_parts
from anydiff.spaces import Rest
from tests.helpers.count import Reads

MOLECULES = load_qm9("5k").subset(range(120))
BATCH = next(iter(loader(MOLECULES, 120, shuffle=False)))
ATOMS = Atoms(charge_scale=None)
ROWS = Ragged(BATCH.batch, BATCH.num_graphs, centered=3)
LIMITS = torch.from_numpy(longest(np.array(MOLECULES.elements)))


@pytest.fixture
def graph():
    torch.manual_seed(0)
    return Skeletons.of(BATCH, ROWS, LIMITS)


def pieces(graph, atoms):
    """How many connected pieces the marked atoms of each molecule are, the long way."""
    label = torch.arange(len(atoms))
    inside = atoms[graph.i] & atoms[graph.j]
    i, j = graph.i[inside], graph.j[inside]
    for _ in range(40):
        label = label.scatter_reduce(0, i, label[j], "amin")
    return torch.tensor(
        [len(label[atoms & (ROWS.index == m)].unique()) for m in range(ROWS.num_items)]
    )


def test_bonds_of_the_batch_are_those_of_distances(graph):
    """The shipped molecules have bonds; without them the same follow from distances, all but a few."""
    bare = SimpleNamespace(pos=BATCH.pos, z=BATCH.z)
    other = Skeletons.of(bare, ROWS, LIMITS)
    pairs = [set(zip(g.i.tolist(), g.j.tolist(), strict=True)) for g in (graph, other)]
    assert len(pairs[0] ^ pairs[1]) < 0.01 * len(pairs[0]) and len(pairs[0]) > 1000


def test_a_fragment_is_connected_and_has_its_hydrogens(graph):
    shares = []
    for _ in range(5):
        known = graph.fragment()
        assert (pieces(graph, known) == 1).all()
        heavy = graph._count(known & graph.heavy)
        several = graph.num_heavy > 1
        assert (heavy >= 1).all() and (heavy[several] < graph.num_heavy[several]).all()
        # a hydrogen is known just as its heavy atom is
        h = ~graph.heavy[graph.i] & graph.heavy[graph.j]
        assert torch.equal(known[graph.i[h]], known[graph.j[h]])
        shares.append((heavy - 1)[several] / (graph.num_heavy - 1)[several])
    shares = torch.cat(shares)
    # of h atoms, uniform on 0 … h - 2 of h - 1: a little below a half
    assert 0.35 < shares.mean() < 0.5 and shares.std() > 0.25


def test_a_framework_is_rings_and_what_links_them(graph):
    known = graph.framework()
    degree = torch.zeros(len(known)).index_add(0, graph.i, known[graph.j].float())
    assert (degree[known] >= 2).all() and not known[~graph.heavy].any()
    rings = torch.from_numpy(largest_ring(BATCH.pos, BATCH.z, BATCH.batch, least=3))
    assert not (rings & ~known).any()  # every ring is in it
    assert torch.equal(graph.any(known), graph.any(rings)) and 20 < graph.any(rings).sum() < 120
    assert (pieces(graph, known)[graph.any(known)] == 1).all()


def test_two_ends_lack_the_atoms_between_them(graph):
    known = graph.two_ends()
    some = graph.any(known)
    left = graph.num_heavy - graph._count(known & graph.heavy)
    assert some.float().mean() > 0.7
    assert ((left >= BETWEEN[0]) & (left <= BETWEEN[1]))[some].all()
    assert set(left[some].tolist()) == {3, 4, 5}
    several = pieces(graph, known)[some]
    assert (several >= 2).float().mean() > 0.7  # rings may hold them together
    h = ~graph.heavy[graph.i] & graph.heavy[graph.j]
    assert torch.equal(known[graph.i[h]], known[graph.j[h]])


@pytest.mark.parametrize("kind", [ATOMS, Bonded(ATOMS)], ids=["atoms", "bonds"])
def test_the_mixture_has_all_parts_in_their_shares(kind):
    torch.manual_seed(0)
    draw = molecule_parts(MOLECULES.elements)
    counts = torch.zeros(7)
    x0, space, _ = kind.unpack(BATCH)
    graph = Skeletons.of(BATCH, ROWS, LIMITS)
    i, j = ROWS.pairs
    for _ in range(10):
        known, pairs = draw(BATCH, x0, space), None
        if kind is not ATOMS:
            fields = space.unpack(known)
            known, pairs = fields["atoms"], fields["bonds"]
            assert torch.equal(pairs[:, 0], pairs[:, 1])
            pairs = pairs[:, 0]
        rows = known.all(1)
        types = known[:, 3:].all(1) & ~known[:, :3].any(1)
        assert torch.equal(known.any(1), rows | types)
        for m in range(ROWS.num_items):
            atoms = ROWS.index == m
            mine, all_types = rows[atoms], bool(types[atoms].all())
            both = None if pairs is None else pairs[ROWS.index[i] == m]
            if all_types:
                whole = both is not None and bool(both.all()) and len(both) > 0
                counts[5 if whole else 4] += 1
                assert both is None or whole or not both.any()
            elif mine.all() and both is not None and len(both) and not both.any():
                counts[6] += 1
            else:
                heavy = bool((mine == graph.heavy[atoms]).all())
                counts[3 if heavy else 0] += 1
                assert both is None or torch.equal(both, (rows[i] & rows[j])[ROWS.index[i] == m])
    shares = torch.tensor(SHARES if kind is not ATOMS else SHARES[:5])
    shares = shares / shares.sum()
    expected = [
        shares[:3].sum(),
        shares[3],
        shares[4],
        *(shares[5:] if pairs is not None else (0, 0)),
    ]
    found = torch.stack([counts[0], *counts[3:]]) / counts.sum()
    # five deviations of 1,200 molecules; frameworks of all heavy atoms are counted as these
    assert ((found - torch.tensor(expected)).abs() < 0.07).all()


def test_a_molecule_s_part_is_a_molecule_s_whatever_is_beside_it():
    """No part reaches into another molecule, and one without heavy atoms has none."""
    pos = torch.tensor([[0.0, 0, 0], [0.74, 0, 0], [0, 0, 0], [1.09, 0, 0], [0, 1.09, 0]])
    z, index = torch.tensor([1, 1, 6, 1, 1]), torch.tensor([0, 0, 1, 1, 1])
    batch = SimpleNamespace(pos=pos, z=z)
    graph = Skeletons.of(batch, Ragged(index, 2, centered=3), LIMITS)
    for part in (graph.fragment(), graph.framework(), graph.two_ends(), graph.heavy):
        assert not part[index == 0].any()
    assert graph.fragment()[index == 1].all() and not graph.framework().any()


def test_nothing_of_it_waits_for_each_molecule():
    """The host reads the device as often for 120 molecules as for 10."""
    draw, counts = molecule_parts(MOLECULES.elements), []
    for num in (10, 120):
        batch = next(iter(loader(MOLECULES.subset(range(num)), num, shuffle=False)))
        x0, space, _ = ATOMS.unpack(batch)
        with Reads() as reads:
            draw(batch, x0, space)
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0


def test_a_training_batch_is_in_the_rest_of_the_molecules():
    torch.manual_seed(0)
    unpack = with_parts(ATOMS.unpack, molecule_parts(MOLECULES.elements))
    x0, space, cond = unpack(BATCH)
    assert isinstance(space, Rest) and cond["given"].shape == x0.shape
    none = space.dim(x0) == ROWS.dim(x0)
    assert 0.1 < none.float().mean() < 0.5  # three in ten
    torch.manual_seed(0)
    assert torch.equal(unpack(BATCH)[1].known, space.known)
    assert not torch.equal(unpack(BATCH)[1].known, space.known)
