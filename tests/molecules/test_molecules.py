import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from anydiff.data.sizes import SizeDistribution
from anydiff.molecules import Atoms, MoleculeError, Molecules, load_qm9, loader, read_molecules
from anydiff.molecules.batches import SizeBatchSampler
from anydiff.molecules.bonds import bond_orders
from anydiff.molecules.evaluate import to_rdkit
from anydiff.molecules.files import write_npz, write_sdf, write_xyz
from anydiff.molecules.pictures import animate, draw_grid, principal_axes


@pytest.fixture(scope="module")
def molecules():
    return load_qm9()


def water(name="water", **changes):
    pos = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], np.float32)
    arrays = {"z": np.array([8, 1, 1]), "pos": pos, "offsets": np.array([0, 3]), **changes}
    return Molecules(**arrays, name=name)


# the container --------------------


def test_the_shipped_subset_is_sound(molecules):
    assert len(molecules) == 5000 and len(molecules.z) == 89873
    assert set(np.unique(molecules.z)) == {1, 6, 7, 8, 9}
    assert len(molecules.smiles) == 5000 and molecules.props.shape == (5000, 12)
    assert (np.diff(molecules.ids) > 0).all()
    assert molecules.property("gap") == pytest.approx(
        molecules.property("lumo") - molecules.property("homo"), abs=2e-4
    )  # the source rounds to 1e-4
    with pytest.raises(KeyError, match="mu"):
        molecules.property("colour")


def test_a_subset_holds_the_molecules_asked_for(molecules):
    part = molecules.subset([7, 3, 7])
    for k, m in enumerate([7, 3, 7]):
        assert torch.equal(part[k].pos, molecules[m].pos) and torch.equal(part[k].z, molecules[m].z)
        assert part[k].smiles == molecules[m].smiles and part.ids[k] == molecules.ids[m]
        assert torch.equal(part[k].y, molecules[m].y)
    small = molecules.subset(molecules.sizes < 10)
    assert small.sizes.max() == 9 and len(small) == (molecules.sizes < 10).sum()
    assert torch.equal(molecules[-1].pos, molecules[4999].pos)
    with pytest.raises(IndexError, match="5000"):
        molecules[5000]
    for several in (slice(3), [1, 2], np.array([1]), 1.0):
        with pytest.raises(TypeError, match="`subset` takes several"):
            molecules[several]


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"pos": np.array([[0, 0, 0], [np.nan, 0, 0], [1, 1, 1.0]])},
            "molecule 0, atom 1 .*finite",
        ),
        (
            {"pos": np.array([[0.5, 0, 0], [1, 0, 0], [0.5, -0.0, 0]])},
            "atom 2 .*same point as atom 0",
        ),
        ({"pos": np.zeros((2, 3))}, "3 atoms"),
        ({"z": np.array([8, 0, 1])}, "molecule 0, atom 1 has atomic number 0"),
        ({"z": np.array([8.0, 1, 1])}, "integers"),
        ({"offsets": np.array([0, 2])}, "cut short"),
        ({"offsets": np.array([0, 1, 1, 3])}, "molecule 1 has no atoms"),
        ({"offsets": np.array([0, 4, 3])}, "molecule 1 has no atoms"),
        ({"offsets": np.array([0])}, "no molecules"),
        ({"smiles": ["O", "N"]}, r"smiles are \(2,\) for 1"),
        ({"props": np.zeros((1, 2)), "prop_names": ("mu",)}, "1 prop_names"),
    ],
)
def test_arrays_that_cannot_be_right_are_refused(changes, message):
    with pytest.raises(MoleculeError, match=message) as error:
        water(name="here.npz", **changes)
    assert "here.npz" in str(error.value)


def test_one_point_in_two_molecules_is_no_fault():
    both = water(z=np.array([8, 8]), pos=np.zeros((2, 3)), offsets=np.array([0, 1, 2]))
    assert len(both) == 2


# files --------------------


def test_npz_round_trip(tmp_path, molecules):
    part = molecules.subset(np.arange(20))
    write_npz(tmp_path / "a.npz", part)
    back = read_molecules(tmp_path / "a.npz")
    for key in ("z", "pos", "offsets", "ids", "props"):
        assert np.array_equal(getattr(back, key), getattr(part, key))
    assert list(back.smiles) == list(part.smiles) and back.prop_names == part.prop_names
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]  # no temporary file is left


def test_xyz_round_trip(tmp_path, molecules):
    part = molecules.subset(np.arange(20))
    write_xyz(tmp_path / "a.xyz", [(part[m].pos, part[m].z) for m in range(20)])
    back = load_qm9(tmp_path / "a.xyz")
    assert np.array_equal(back.z, part.z) and np.array_equal(back.offsets, part.offsets)
    assert np.abs(back.pos - part.pos).max() < 1e-6  # six decimals are written


@pytest.mark.parametrize("v3000", [False, True])
def test_sdf_round_trip(tmp_path, molecules, v3000):
    part = molecules.subset(np.arange(20))
    mols = to_rdkit(part.pos, part.z, part.index)
    if v3000:
        from rdkit import Chem

        text = "".join(Chem.MolToV3KMolBlock(mol, kekulize=False) + "$$$$\n" for mol in mols)
        (tmp_path / "a.sdf").write_text(text)
    else:
        write_sdf(tmp_path / "a.sdf", mols)
    back = read_molecules(tmp_path / "a.sdf")
    assert np.array_equal(back.z, part.z) and np.array_equal(back.offsets, part.offsets)
    assert np.abs(back.pos - part.pos).max() < 1e-4  # SDF has four decimals


def test_an_unfinished_file_does_not_take_the_old_ones_place(tmp_path):
    (tmp_path / "a.xyz").write_text("old")
    with pytest.raises(MoleculeError, match="molecule 1, atom 0 has atomic number 999"):
        write_xyz(tmp_path / "a.xyz", [(np.zeros((1, 3)), [1]), (np.zeros((1, 3)), [999])])
    assert (tmp_path / "a.xyz").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


GOOD = "2\nhydrogen\nH 0 0 0\nH 0 0 0.74\n"


@pytest.mark.parametrize(
    "text, message",
    [
        (GOOD + "1\n\nQq 0 0 0\n", "line 7: 'Qq' is not an element"),
        (GOOD + "1\n\nH 0 nan 0\n", "line 7: the position .* not finite"),
        (GOOD + "1\n\nH 0 zero 0\n", "line 7: .*three numbers"),
        (GOOD + "1\n\nH 0 0\n", "line 7: .*element x y z"),
        (GOOD + "2\n\nH 0 0 0\n", "line 8: the file ends where an atom"),
        (GOOD + "0\n\n", "line 5: '0' should be the number of atoms"),
        (GOOD + "2\n\nH 0 0 0\nH 0 0 0\n", "line 5: atoms 1 and 2, .*at the same point"),
        ("\n", "no molecules"),
    ],
)
def test_a_faulty_xyz_is_named_by_file_and_line(tmp_path, text, message):
    path = tmp_path / "mine.xyz"
    path.write_text(text)
    with pytest.raises(MoleculeError, match=message) as error:
        read_molecules(path)
    assert str(path) in str(error.value)


def test_a_faulty_sdf_is_named_by_file_and_line(tmp_path, molecules):
    part = molecules.subset([0, 1])
    path = tmp_path / "mine.sdf"
    write_sdf(path, to_rdkit(part.pos, part.z, part.index))
    lines = path.read_text().splitlines()
    first = lines[4]

    def refuse(changed, message):
        path.write_text("\n".join(changed) + "\n")
        with pytest.raises(MoleculeError, match=message) as error:
            read_molecules(path)
        assert str(path) in str(error.value)

    refuse([*lines[:4], first.replace(" O ", " Q "), *lines[5:]], "line 5: 'Q' is not an element")
    refuse([*lines[:4], "nonsense", *lines[5:]], "line 5: .*should be a number")
    refuse(lines[: lines.index("$$$$") - 2], "the record ends where M  END")


def test_a_faulty_npz_is_named(tmp_path, molecules):
    path = tmp_path / "mine.npz"

    def refuse(message):
        with pytest.raises(MoleculeError, match=message) as error:
            read_molecules(path)
        assert str(path) in str(error.value)

    refuse("no such file")
    write_npz(path, molecules.subset(np.arange(50)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuse("cut short")
    path.write_bytes(b"\0" + whole[1:])
    refuse("not a readable npz")
    np.savez(path, z=np.array([1]), pos=np.zeros((1, 3)))
    refuse("has no offsets")
    np.savez(path, z=np.array([1], dtype=object), pos=np.zeros((1, 3)), offsets=np.array([0, 1]))
    refuse("not a readable npz")  # pickles are not opened
    with pytest.raises(MoleculeError, match=r"\.xyz"):
        read_molecules(tmp_path / "mine.pdb")


# batches --------------------


def test_a_batch_from_arrays_is_the_batch_pyg_collates(molecules):
    numbers = [4, 17, 4999, 0]
    ours = loader(molecules).dataset.__getitems__(numbers)
    theirs = Batch.from_data_list([molecules[m] for m in numbers])
    keys = ("pos", "z", "y", "charges", "edge_index", "edge_attr")
    for key in (*keys, "batch", "ptr"):
        assert torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype
    assert ours.num_graphs == 4 and ours.num_nodes == theirs.num_nodes
    for mine, item, m in zip(ours.to_data_list(), theirs.to_data_list(), numbers, strict=True):
        for key in keys:
            assert torch.equal(mine[key], item[key]) and torch.equal(mine[key], molecules[m][key])


def test_edges_are_bonds_in_both_directions(molecules):
    some = molecules.subset([7, 123, 44])
    batch = loader(some, 3, shuffle=False).dataset.__getitems__([0, 1, 2])
    assert batch.is_undirected() and batch.edge_attr.tolist() == np.repeat(some.orders, 2).tolist()
    forward = batch.edge_index[:, batch.edge_index[0] < batch.edge_index[1]]
    assert np.array_equal(forward.T, some.bonds)
    assert np.array_equal(batch.edge_index.T[1::2].flip(1), some.bonds)
    bare = replace(some, bonds=None, orders=None, charges=None)
    assert "edge_index" not in next(iter(loader(bare))) and "charges" not in bare[0]
    lone = Molecules.from_lists(["O", "HH"], [[[0, 0, 0]], [[0, 0, 0], [0, 0, 1]]],
                                bonds=[[], [[0, 1]]], orders=[[], [1]])  # fmt: skip
    items = next(iter(loader(lone, shuffle=False))).to_data_list()
    assert [item.edge_index.tolist() for item in items] == [[[], []], [[0, 1], [1, 0]]]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size, budget", [(64, None), (7, None), (None, 5000), (None, 900)])
def test_every_molecule_comes_once_within_the_bounds(molecules, batch_size, budget, shuffle):
    sampler = SizeBatchSampler(molecules.sizes, batch_size, budget, shuffle=shuffle)
    cost = molecules.sizes**2
    for _ in range(2):
        batches = list(sampler)
        assert sorted(i for batch in batches for i in batch) == list(range(5000))
        assert len(batches) == len(sampler) and all(batches)
        if budget is not None:
            assert max(cost[batch].sum() for batch in batches) <= budget
        else:
            assert max(map(len, batches)) <= batch_size
    if not shuffle:
        assert [i for batch in batches for i in batch] == list(range(5000))


def test_shuffled_batches_are_level(molecules):
    cost = molecules.sizes**2

    def spread(batches):
        totals = [cost[batch].sum() for batch in batches]
        return np.std(totals) / np.mean(totals)

    dealt = SizeBatchSampler(molecules.sizes, 50)
    drawn = np.array_split(np.random.default_rng(0).permutation(5000), 100)
    assert spread(list(dealt)) < 0.25 * spread(drawn)
    assert {len(batch) for batch in dealt} == {50}


def test_order_follows_seed_and_epoch_alone(molecules):
    def epoch(seed, number):
        sampler = SizeBatchSampler(molecules.sizes, 64, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    sampler = SizeBatchSampler(molecules.sizes, 64, seed=3)
    assert list(sampler) == epoch(3, 0)
    assert list(sampler) == epoch(3, 1)
    assert epoch(3, 0) != epoch(3, 1) and epoch(3, 0) != epoch(4, 0)


def test_an_epoch_goes_on_where_it_was_saved(molecules):
    running = SizeBatchSampler(molecules.sizes, 64, seed=1)
    list(running)
    batches = iter(running)
    for _ in range(10):
        next(batches)
    state = json.loads(json.dumps(running.state_dict()))
    rest = list(batches) + list(running)

    resumed = SizeBatchSampler(molecules.sizes, 64)
    resumed.load_state_dict(state)
    resumed.set_epoch(state["epoch"])  # as trainers do
    assert list(resumed) + list(resumed) == rest
    with pytest.raises(ValueError, match="batches an epoch"):
        SizeBatchSampler(molecules.sizes, 63).load_state_dict(state)


def test_a_state_after_the_last_batch_is_the_next_epochs_beginning(molecules):
    sampler = SizeBatchSampler(molecules.sizes, 64)
    batches = iter(sampler)
    for _ in range(len(sampler)):
        next(batches)
    assert (sampler.state_dict()["epoch"], sampler.state_dict()["step"]) == (1, 0)


def test_a_loader_goes_on_where_it_was_saved(molecules):
    small = molecules.subset(range(60))
    running = loader(small, 8, seed=2)
    batches = iter(running)
    for _ in range(3):
        next(batches)
    state = running.state_dict()
    rest = [batch.pos for batch in batches]
    resumed = loader(small, 8, seed=9)
    resumed.load_state_dict(state)
    again = [batch.pos for batch in resumed]
    assert len(rest) == 5 and all(torch.equal(a, b) for a, b in zip(rest, again, strict=True))


def test_processes_share_the_batches_out(molecules, monkeypatch):
    shares = []
    for rank in range(3):
        monkeypatch.setattr("anydiff.data.batches.rank_and_size", lambda rank=rank: (rank, 3))
        shares.append(list(SizeBatchSampler(molecules.sizes, 64, seed=1)))
    assert len({len(share) for share in shares}) == 1
    used = [m for share in shares for batch in share for m in batch]
    assert len(used) == len(set(used)) > 5000 - 3 * 64


def test_an_epoch_broken_off_is_over(molecules):
    sampler = SizeBatchSampler(molecules.sizes, 64)
    next(iter(sampler))
    whole = list(sampler)
    assert len(whole) == len(sampler) and sampler.epoch == 2


def test_a_sampler_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="either"):
        SizeBatchSampler([3, 4])
    with pytest.raises(ValueError, match="costs 16"):
        SizeBatchSampler([3, 4], budget=15)
    for sizes in ([], [[3]], [3, 0], [3, -1], [3.0], ["a"]):
        with pytest.raises(ValueError, match=r"sizes are .*whole numbers"):
            SizeBatchSampler(sizes, 2)
    for batch_size in (0, -1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"batch_size is .*whole number"):
            SizeBatchSampler([3, 4], batch_size)
    for budget in (0, math.nan, math.inf):
        with pytest.raises(ValueError, match="budget is"):
            SizeBatchSampler([3, 4], budget=budget)


def test_the_loader_serves_every_molecule(molecules):
    part = molecules.subset(np.arange(300))
    total = sum(batch.pos.double().sum() for batch in loader(part, 32))
    assert total == pytest.approx(part.pos.astype(np.float64).sum())


# rows --------------------


@pytest.mark.parametrize("atoms", [Atoms(), Atoms(charge_scale=None), Atoms((9, 8, 7, 6, 1), 1.0)])
def test_unpack_and_decode_round_trip(molecules, atoms):
    batch = next(iter(loader(molecules, 16)))
    x, space, cond = atoms.unpack(batch)
    assert x.shape == (len(batch.z), atoms.features) and x.dtype == torch.float32 and cond == {}
    assert torch.allclose(space.project(x), x, atol=1e-6)  # it lies in its space; float32
    assert space.num_items == 16 and space.centered == 3

    pos, z = atoms.decode(x, space)
    assert torch.equal(z, batch.z)
    shift = (batch.pos - pos)[batch.ptr[:-1]][batch.batch]
    assert torch.allclose(pos + shift, batch.pos, atol=1e-5)  # ångström, float32
    assert torch.equal(atoms.decode(x + 0.1 * atoms.type_scale * torch.rand_like(x))[1], batch.z)


def test_rows_are_scaled_as_published(molecules):
    x, *_ = Atoms().unpack(next(iter(loader(molecules, 4))))
    types = x[:, 3:8]
    assert set(types.unique().tolist()) == {0.0, 0.25} and bool((types.sum(1) == 0.25).all())
    charges = torch.tensor([1.0, 6, 7, 8, 9])[types.argmax(1)]
    assert torch.allclose(x[:, 8], charges / 10)


def test_atoms_are_made_again_from_json():
    atoms = Atoms((1, 6, 16), 0.5, None)
    assert Atoms.from_config(json.loads(json.dumps(atoms.config))) == atoms


def test_an_element_outside_the_vocabulary_is_named(molecules):
    with pytest.raises(MoleculeError, match="molecule 0, atom 0 is O, which is not among H C"):
        Atoms((1, 6)).check(water())
    with pytest.raises(MoleculeError, match="F is not among"):
        Atoms((1, 6, 7, 8)).encode(torch.zeros(2, 3), torch.tensor([6, 9]))
    assert Atoms().check(molecules) is molecules
    with pytest.raises(ValueError, match="distinct"):
        Atoms((1, 1))
    for elements in ((), (0,), (119,), (1.5,), ("H",), ((1, 6),), (True,), (None,)):
        with pytest.raises(ValueError, match=r"elements are .*; give atomic numbers from 1 to 118"):
            Atoms(elements)
    with pytest.raises(ValueError, match="type_scale is inf"):
        Atoms(type_scale=math.inf)


def test_what_is_no_batch_is_named():
    data = Data(pos=torch.rand(3, 3), z=torch.tensor([8, 1, 1]))
    with pytest.raises(
        MoleculeError, match=r"Data has no batch; give a Batch of PyG .*from_data_list"
    ):
        Atoms().unpack(data)
    with pytest.raises(MoleculeError, match="DataBatch has no pos and no z"):
        Atoms().unpack(Batch.from_data_list([Data(x=torch.rand(3, 2))]))
    assert Atoms().unpack(Batch.from_data_list([data]))[0].shape == (3, 9)


def test_sizes_are_drawn_as_counted():
    sizes = SizeDistribution.from_sizes([3] * 1 + [5] * 3)
    n = sizes.sample(4000, torch.Generator().manual_seed(0))
    assert set(n.tolist()) == {3, 5}
    assert (n == 5).float().mean().item() == pytest.approx(0.75, abs=0.03)  # 4 standard errors
    assert sizes.log_prob(torch.tensor([3, 5])).exp().tolist() == pytest.approx([0.25, 0.75])
    assert sizes.log_prob(torch.tensor([4, 0, -1, 99])).tolist() == [-math.inf] * 4
    assert sizes.entropy == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    again = SizeDistribution(sizes.counts)
    assert torch.equal(again.counts, sizes.counts)
    with pytest.raises(ValueError, match="zero"):
        SizeDistribution(torch.zeros(4))


# pictures --------------------


def test_principal_axes_rotate(molecules):
    rng = np.random.default_rng(0)
    pos = rng.standard_normal((9, 3)) * [1, 3, 2]
    axes = principal_axes(pos)
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-12) and np.linalg.det(axes) > 0
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    flat = (pos - pos.mean(0)) @ axes.T
    moved = pos @ turn.T + 5
    assert (moved - moved.mean(0)) @ principal_axes(moved).T == pytest.approx(flat, abs=1e-9)


def test_a_grid_shows_every_molecule(tmp_path, molecules):
    from PIL import Image

    part = molecules.subset(np.arange(3))
    draw_grid(tmp_path / "a.png", part.pos, part.z, part.index, columns=2, size=60)
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape == (100, 120)
    dark = [(pixels[r : r + 50, c : c + 60] < 200).sum() for r in (0, 50) for c in (0, 60)]
    assert min(dark[:3]) > 30 and dark[3] == 0


def test_a_film_has_all_frames_and_survives_nan(tmp_path, molecules):
    from PIL import Image

    item = molecules[5]
    frames = [item.pos + s * torch.randn(item.pos.shape) for s in (3, 1, 0)]
    frames[0][0, 0] = float("nan")
    animate(tmp_path / "a.gif", frames, item.z, size=50, hold=1)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 3 and film.size == (50, 50)
        film.seek(2)
        assert film.info["duration"] == 1000
    with pytest.raises(ValueError, match="every frame"):
        animate(tmp_path / "a.gif", [item.pos[1:]], item.z)


def test_sdf_keeps_the_bonds_of_the_table(tmp_path, molecules):
    from rdkit import Chem

    part = molecules.subset(np.arange(30))
    write_sdf(tmp_path / "a.sdf", to_rdkit(part.pos, part.z, part.index))
    read = list(Chem.SDMolSupplier(str(tmp_path / "a.sdf"), sanitize=False, removeHs=False))
    orders = [int(b.GetBondTypeAsDouble()) for mol in read for b in mol.GetBonds()]
    assert sorted(orders) == sorted(bond_orders(part.pos, part.z, part.index)[1].tolist())


def test_parts_are_molecules_and_numbers_of_molecules_are_known():
    one = Molecules.from_lists(["O", "C"], [np.zeros((1, 3))] * 2)
    assert len(Molecules.concatenate(part for part in (one, one))) == 4
    for parts, given in (([one, 3], "int"), (one, "Data")):
        with pytest.raises(ValueError, match=f"a part is {given}; give Molecules, in a list"):
            Molecules.concatenate(parts)
    with pytest.raises(IndexError, match="some indices are masked"):
        one.subset(np.ma.masked_equal([0, 1], 1))
