import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from e3nn import o3

import anydiff
from anydiff import GaussianDiffusion, Polynomial
from anydiff.data.sizes import SizeDistribution
from anydiff.denoisers import PairNet
from anydiff.molecules import Atoms, Molecules, load_qm9, loader
from anydiff.molecules.properties import Properties, halves, with_properties
from anydiff.molecules.property_model import PropertyModel
from anydiff.molecules.property_targets import PropertyDistribution
from anydiff.molecules.qm9 import split
from anydiff.training.muon import Muon

NAMES = ("gap", "alpha")  # not in the order of the data


@pytest.fixture(scope="module")
def molecules():
    return load_qm9()


@pytest.fixture(scope="module")
def properties(molecules):
    return Properties.from_molecules(molecules, NAMES)


def with_props(molecules, props):
    return Molecules(
        molecules.z, molecules.pos, molecules.offsets, props=props, prop_names=molecules.prop_names
    )


# units --------------------


def test_mean_and_mad_are_what_they_say(molecules, properties):
    for k, name in enumerate(NAMES):
        values = molecules.property(name).tolist()
        mean = math.fsum(values) / len(values)
        mad = math.fsum(abs(v - mean) for v in values) / len(values)
        assert properties.mean[k] == pytest.approx(mean, rel=1e-12)
        assert properties.mad[k] == pytest.approx(mad, rel=1e-12)
    assert Properties.from_molecules(molecules, "gap") == Properties.from_molecules(
        molecules, ["gap"]
    )


def test_encoding_normalises_and_decoding_undoes_it(molecules, properties):
    values = torch.from_numpy(np.stack([molecules.property(n) for n in NAMES], 1))
    c = properties.encode(values)
    torch.testing.assert_close(c.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(c.abs().mean(0), torch.ones(2).double())
    torch.testing.assert_close(properties.decode(c), values)
    assert properties.encode(values.float()).dtype == torch.float32


def test_what_is_unknown_stays_so_and_does_not_count(molecules):
    props = molecules.props[:4].copy()
    props[1, 1] = np.nan
    part = with_props(molecules.subset([0, 1, 2, 3]), props)
    gaps = Properties.from_molecules(part, NAMES)
    whole = Properties.from_molecules(part.subset([0, 2, 3]), "alpha")
    assert gaps.mean[1] == pytest.approx(whole.mean[0]) and gaps.mad[1] == pytest.approx(
        whole.mad[0]
    )
    c = gaps.encode(torch.tensor([[0.2, math.nan]]))
    assert c.isnan().tolist() == [[False, True]]


def test_values_that_float32_cannot_tell_apart_are_refused(molecules):
    part = molecules.subset([0, 1, 2])
    far = np.array([[1e6], [1e6 + 1], [1e6 + 3]])
    with pytest.raises(ValueError, match=r"e differs by .* around .*subtract a number"):
        Properties.from_molecules(replace(part, props=far, prop_names=("e",)), "e")
    with pytest.raises(ValueError, match=r"e differs by .*another unit"):
        Properties.from_molecules(replace(part, props=(far - 1e6) * 1e-300, prop_names=("e",)), "e")
    with pytest.raises(ValueError, match="no value of e is known and within float32"):
        Properties.from_molecules(replace(part, props=far * 1e200, prop_names=("e",)), "e")
    near = Properties.from_molecules(replace(part, props=far - 1e6, prop_names=("e",)), "e")
    assert near.mad[0] == pytest.approx(10 / 9)


def test_the_config_goes_through_json(properties):
    assert Properties.from_config(json.loads(json.dumps(properties.config))) == properties


def test_errors_name_the_property_and_what_there_is(molecules, properties):
    with pytest.raises(ValueError, match=r"'colour'; there are the properties mu, alpha, .*Cv"):
        Properties.from_molecules(molecules, ["alpha", "colour"])
    bare = Molecules(molecules.z, molecules.pos, molecules.offsets, name="bare")
    with pytest.raises(ValueError, match=r"bare: .*'alpha'; there are no properties"):
        PropertyDistribution.from_molecules(bare, "alpha")
    with pytest.raises(ValueError, match=r"alpha has mean .* differ"):
        Properties.from_molecules(molecules.subset([5]), "alpha")
    lost = with_props(molecules.subset([0, 1]), np.full((2, 12), np.nan))
    with pytest.raises(ValueError, match="no value of gap is known"):
        Properties.from_molecules(lost, NAMES)
    with pytest.raises(ValueError, match=r"a column each for gap, alpha"):
        properties.encode(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="different names"):
        Properties(("a", "a"), (0, 0), (1, 1))
    with pytest.raises(ValueError, match="as many means"):
        Properties(("a", "b"), (0,), (1, 1))


# units of each size --------------------


@pytest.fixture(scope="module")
def by_size(molecules):
    return Properties.from_molecules(molecules, NAMES, by_size=True)


def test_a_property_by_size_says_what_the_size_does_not(molecules, properties, by_size):
    assert (by_size.mean, by_size.mad) == (properties.mean, properties.mad)
    values = torch.from_numpy(np.stack([molecules.property(n) for n in NAMES], 1))
    sizes = torch.from_numpy(molecules.sizes)
    c, plain = by_size.encode(values, sizes), properties.encode(values)
    torch.testing.assert_close(by_size.decode(c, sizes), values)
    assert by_size.encode(values.float(), sizes).dtype == torch.float32
    for n in (15, 16, 20, 21):  # of hundreds of molecules: three more change little
        own, of_all = c[sizes == n], plain[sizes == n]
        assert own.mean(0).abs().max() < 0.05 < of_all.mean(0).abs().max()
        torch.testing.assert_close(own.abs().mean(0), torch.ones(2).double(), rtol=0, atol=0.05)
    alpha = torch.corrcoef(torch.stack([sizes.double(), c[:, 1], plain[:, 1]]))[0]
    assert alpha[1].abs() < 0.01 and alpha[2] > 0.7


def test_the_table_is_the_pooled_mean(molecules):
    few = molecules.subset(range(40))
    alpha, n = few.property("alpha"), few.sizes
    found = Properties.from_molecules(few, "alpha", by_size=True)
    assert found.sizes == tuple(np.unique(n).tolist())
    slope, start = np.polyfit(n, alpha, 1)
    mean = {
        k: (alpha[n == k].sum() + 3 * (start + slope * k)) / ((n == k).sum() + 3) for k in set(n)
    }
    off = np.abs(alpha - [mean[k] for k in n])
    for k, (m,), (mad,) in zip(found.sizes, found.mean_of_size, found.mad_of_size, strict=True):
        assert m == pytest.approx(mean[k])
        assert mad == pytest.approx((off[n == k].sum() + 3 * off.mean()) / ((n == k).sum() + 3))


def test_a_size_that_was_not_seen_takes_the_nearest():
    three = Properties(
        ("a",), (0.0,), (1.0,), (3, 6, 12), ((1.0,), (2.0,), (3.0,)), ((1.0,), (10.0,), (100.0,))
    )
    sizes = torch.tensor([1, 3, 4, 5, 6, 9, 10, 12, 99])
    rows = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    c = three.encode(torch.zeros(9, 1), sizes)
    torch.testing.assert_close(
        c[:, 0], -torch.tensor([1.0, 2.0, 3.0])[rows] / 10.0**rows, rtol=1e-6, atol=0
    )
    one = Properties(("a",), (0.0,), (1.0,), (7,), ((1.0,),), ((2.0,),))
    assert one.encode(torch.tensor([[5.0], [torch.inf]]), torch.tensor([2, 9])).flatten().tolist()[
        0
    ] == pytest.approx(2.0)


def test_units_by_size_go_through_json_and_others_read_as_before(properties, by_size):
    assert Properties.from_config(json.loads(json.dumps(by_size.config))) == by_size
    assert set(properties.config) == {"names", "mean", "mad"}  # a file as older versions read it
    old = Properties.from_config(properties.config)
    assert old == properties and not old.sizes
    sizes = torch.tensor([5, 20])
    values = torch.tensor([[0.2, 70.0], [0.3, 80.0]])
    assert torch.equal(old.encode(values, sizes), old.encode(values))


def test_a_size_without_known_values_is_on_the_line(molecules):
    some = molecules.subset(np.arange(0, 5000, 10))
    props = some.props.copy()
    props[some.sizes == 18] = np.nan
    found = Properties.from_molecules(with_props(some, props), "alpha", by_size=True)
    rest = some.subset(some.sizes != 18)
    slope, start = np.polyfit(rest.sizes, rest.property("alpha"), 1)
    assert found.mean_of_size[found.sizes.index(18)][0] == pytest.approx(start + 18 * slope)


def test_errors_of_units_by_size(molecules, by_size):
    with pytest.raises(ValueError, match=r"gap, alpha: a value is told relative to .*; give sizes"):
        by_size.encode(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="sizes"):
        by_size.decode(torch.zeros(3, 2), torch.tensor([1, 2]))
    sizes = molecules.sizes[:, None].astype(float)
    counted = replace(molecules, props=3 * sizes + 1, prop_names=("e",))
    with pytest.raises(ValueError, match=r"e follows from the number of atoms, to .* leave"):
        Properties.from_molecules(counted, "e", by_size=True)
    assert Properties.from_molecules(counted, "e").mad[0] > 1
    units = (("a",), (0.0,), (1.0,))
    for sizes, means, mads, line in (
        ((3, 3), ((1.0,), (1.0,)), ((1.0,), (1.0,)), r"sizes are \(3, 3\); give ascending"),
        ((0,), ((1.0,),), ((1.0,),), "ascending whole numbers from 1"),
        ((2.5,), ((1.0,),), ((1.0,),), "ascending whole numbers"),
        ((3,), (), ((1.0,),), "mean_of_size has 0 rows; give one for each of the 1 sizes"),
        ((3,), ((1.0, 2.0),), ((1.0,),), "mean_of_size .* a number for each of a, finite"),
        ((3,), ((1.0,),), ((0.0,),), "mad_of_size .* positive and finite"),
        ((3,), ((math.nan,),), ((1.0,),), "mean_of_size .* finite"),
        ((), ((1.0,),), (), "mean_of_size has 1 rows; give one for each of the 0 sizes"),
    ):
        with pytest.raises(ValueError, match=line):
            Properties(*units, sizes, means, mads)
    with pytest.raises(ValueError, match="relative to molecules of the same size"):
        PropertyModel(by_size)


# the condition --------------------


def test_unpacking_makes_the_condition_of_each_molecule(molecules, properties):
    atoms = Atoms()
    unpack = with_properties(atoms.unpack, properties, molecules.prop_names)
    batch = next(iter(loader(molecules, 6, shuffle=False)))
    x, space, cond = unpack(batch)
    plain = atoms.unpack(batch)
    assert torch.equal(x, plain[0]) and torch.equal(space.index, plain[1].index)
    assert set(cond) == {"context"} and cond["context"].shape == (6, 2)
    own = torch.stack([torch.tensor(molecules.property(n)[:6]) for n in NAMES], 1)
    # y is float32: 6e-8 of alpha, 75, in units of 6
    torch.testing.assert_close(
        properties.decode(cond["context"]).double(), own, rtol=1e-6, atol=1e-6
    )

    units = Properties.from_molecules(molecules, NAMES, by_size=True)
    told = with_properties(atoms.unpack, units, molecules.prop_names)(batch)[2]["context"]
    torch.testing.assert_close(
        told, units.encode(own.float(), torch.from_numpy(molecules.sizes[:6])), rtol=0, atol=1e-5
    )

    kept = with_properties(lambda b: (*plain[:2], {"other": 1}), properties, molecules.prop_names)
    assert set(kept(batch)[2]) == {"other", "context"}


def test_a_network_takes_the_condition(molecules, properties):
    atoms = Atoms()
    unpack = with_properties(atoms.unpack, properties, molecules.prop_names)
    x, space, cond = unpack(next(iter(loader(molecules, 4))))
    net = PairNet(atoms.features - 3, 16, 8, 4, layers=1, bases=8, context=2)
    loss = GaussianDiffusion(net, Polynomial(), "eps").loss(x, space=space, **cond)
    assert loss.shape == (4,) and loss.isfinite().all()


def test_a_batch_that_has_other_properties_is_refused(molecules, properties):
    batch = next(iter(loader(molecules, 3)))
    unpack = Atoms().unpack
    with pytest.raises(ValueError, match=r"'gap'; there are the properties alpha"):
        with_properties(unpack, properties, ["alpha"])
    with pytest.raises(ValueError, match=r"batch.y is \(3, 12\); expected \(B, 2\)"):
        with_properties(unpack, properties, ["alpha", "gap"])(batch)
    bare = Molecules(molecules.z, molecules.pos, molecules.offsets)
    with pytest.raises(ValueError, match=r"batch\.y is none"):
        with_properties(unpack, properties, NAMES)(next(iter(loader(bare, 3))))


# targets --------------------


def test_drawn_pairs_follow_the_data(molecules):
    targets = PropertyDistribution.from_molecules(molecules, NAMES)
    sizes, values = targets.sample(20_000, torch.Generator().manual_seed(0))
    assert sizes.dtype == torch.long and values.shape == (20_000, 2)
    alpha = molecules.property("alpha")
    for n in (15, 17, 19, 21):
        own, drawn = alpha[molecules.sizes == n], values[sizes == n, 1]
        share, expected = (sizes == n).float().mean(), (molecules.sizes == n).mean()
        # five standard errors
        assert abs(share - expected) < 5 * math.sqrt(expected / 20_000)
        assert abs(drawn.mean() - own.mean()) < 5 * own.std() / math.sqrt(len(drawn))
        assert abs(drawn.std() - own.std()) < 0.1 * own.std()
    # the two properties of a draw are one molecule's
    pairs = set(map(tuple, molecules.props[:, [4, 1]].astype(np.float32).tolist()))
    assert all(tuple(pair) in pairs for pair in values[:500].tolist())


def test_values_given_a_size_are_those_of_that_size(molecules):
    targets = PropertyDistribution.from_molecules(molecules, "alpha")
    generator = torch.Generator().manual_seed(0)
    wanted = torch.tensor([18, 12, 25] * 3000)
    values = targets.given(wanted, generator)[:, 0]
    for n in (18, 12, 25):
        own = molecules.property("alpha")[molecules.sizes == n].astype(np.float32)
        drawn = values[wanted == n]
        assert set(drawn.tolist()) <= set(own.tolist())
        assert abs(drawn.mean() - own.mean()) < 5 * own.std() / math.sqrt(3000)
        if n == 12:  # of few, each is drawn, the first and the last too
            assert set(drawn.tolist()) == set(own.tolist())
    with pytest.raises(ValueError, match="no molecule has 4 atoms; there are 3, 5, 6"):
        targets.given(torch.tensor([18, 4]))


def test_targets_travel_with_a_checkpoint(molecules, properties, tmp_path):
    targets = PropertyDistribution.from_molecules(molecules, NAMES)
    net = PairNet(5, 16, 8, 4, layers=1, bases=8, context=2)
    extra = {"properties": properties.config, "sizes": targets.sizes, "values": targets.values}
    anydiff.save(tmp_path / "m.safetensors", GaussianDiffusion(net, Polynomial(), "eps"), extra)
    _, extra = anydiff.load(tmp_path / "m.safetensors")
    again = PropertyDistribution(extra["sizes"], extra["values"])
    assert Properties.from_config(extra["properties"]) == properties
    draws = [t.sample(50, torch.Generator().manual_seed(3)) for t in (targets, again)]
    assert all(torch.equal(a, b) for a, b in zip(*draws, strict=True))


def test_pairs_that_do_not_fit_are_refused():
    for sizes, values in (([3, 4], [[1.0]]), ([], np.zeros((0, 1))), ([3], [1.0])):
        with pytest.raises(ValueError, match=r"give \(M,\) and \(M, P\)"):
            PropertyDistribution(torch.tensor(sizes), torch.tensor(values))
    with pytest.raises(ValueError, match="size 0"):
        PropertyDistribution(torch.tensor([0]), torch.tensor([[1.0]]))


def test_the_judge_and_the_generator_share_no_molecule():
    train = split().train
    judge, generator = halves(train)
    assert len(judge) == len(generator) == 50_000
    assert (np.concatenate([judge, generator]) == train).all()
    assert not set(judge.tolist()) & set(generator.tolist())
    assert list(map(len, halves(split(5000).train))) == [1910, 1911]
    with pytest.raises(ValueError, match="two halves need 2"):
        halves(train[:1])


# the judge --------------------

SMALL = {"hidden": 16, "pair": 12, "vectors": 5, "layers": 2, "bases": 8}


@pytest.fixture(params=["sum", "mean"])
def judge(request, molecules, properties):
    """A small model with every path awake, also those that start at zero, in float64."""
    torch.manual_seed(0)
    model = PropertyModel(properties, pool=request.param, **SMALL).double()
    model.fit_composition(molecules)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def rows(molecules, indices=range(8)):
    part = molecules.subset(list(indices))
    return part.pos.astype(np.float64), part.z, part.index


def same(a, b):  # float64
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_motions_and_reflections_change_no_prediction(judge, molecules):
    pos, z, index = rows(molecules)
    before = judge.predict(pos, z, index)
    assert before.std(0).min() > 1e-3  # there is something to change
    # the network has a say, beside the composition
    assert (judge.predict(1.1 * pos, z, index) - before).abs().min() > 1e-6
    rotation = o3.rand_matrix(dtype=torch.float64).numpy()
    for matrix in (rotation, -rotation):
        same(judge.predict(pos @ matrix.T, z, index), before)
    shift = 3 * np.random.default_rng(0).normal(size=(8, 3))
    same(judge.predict(pos + shift[index], z, index), before)


def test_the_order_of_atoms_changes_no_prediction(judge, molecules):
    pos, z, index = rows(molecules)
    order = np.lexsort((np.random.default_rng(0).random(len(z)), index))
    assert (order != np.arange(len(z))).any()
    same(judge.predict(pos[order], z[order], index), judge.predict(pos, z, index))


def test_a_molecule_is_judged_alike_alone_and_in_company(judge, molecules):
    pos, z, index = rows(molecules)
    together = judge.predict(pos, z, index)
    for m in range(8):
        own = index == m
        same(judge.predict(pos[own], z[own], index[own])[0], together[m])
    same(judge.predict(pos, z, index, batch_size=3), together)
    tensors = map(torch.from_numpy, (pos, z, index))
    same(judge.predict(*tensors), together)
    assert judge.predict(pos[:0], z[:0], index[:0]).shape == (0, 2)


def test_a_diverged_sample_spoils_no_other(judge, molecules):
    pos, z, index = rows(molecules)
    before = judge.predict(pos, z, index)
    pos[index == 2] = np.nan
    after = judge.predict(pos, z, index)
    assert after[2].isnan().all()
    others = [0, 1, 3, 4, 5, 6, 7]
    same(after[others], before[others])


def test_two_far_copies_count_twice_if_summed(molecules, properties):
    """The pooling does what it says: what is far away adds, or averages."""
    pos, z, _ = rows(molecules, [3])
    twice = np.concatenate([pos, pos + 1e4]), np.concatenate([z, z]), np.zeros(2 * len(z), int)
    for pool, factor in (("sum", 2), ("mean", 1)):
        model = PropertyModel(properties, pool=pool, **SMALL).double()
        torch.nn.init.zeros_(model.net.readout[2].weight)
        model.composition[:-1] = torch.arange(5.0)[:, None]
        torch.nn.init.constant_(model.net.readout[2].bias, 0.3)
        one, two = (
            model.properties.encode(model.predict(*r)) for r in ((pos, z, 0 * z.astype(int)), twice)
        )
        same(two, factor * one)


def test_an_atom_alone_is_judged(judge):
    assert judge.predict(np.zeros((1, 3)), np.array([6]), np.array([0])).isfinite().all()


def test_what_the_judge_does_not_know_is_refused(judge, properties):
    with pytest.raises(ValueError, match="atomic number 17; this model knows 1, 6, 7, 8, 9"):
        judge.predict(np.zeros((1, 3)), np.array([17]), np.array([0]))
    with pytest.raises(ValueError, match="'sum' or 'mean'"):
        PropertyModel(properties, pool="max")


def test_the_composition_is_fitted_by_least_squares(molecules, properties):
    molecules = molecules.subset(np.arange(0, 5000, 5))
    for pool in ("sum", "mean"):
        model = PropertyModel(properties, pool=pool, **SMALL)
        model.fit_composition(molecules)
        own = np.stack([molecules.property(n) for n in NAMES], 1)
        rest = own - model.predict(molecules.pos, molecules.z, molecules.index).numpy()
        rest /= np.array(properties.mad)  # the network is silent at first
        assert np.abs(rest).mean(0) == pytest.approx(model.spread.numpy(), rel=1e-3)
        # nothing of the counts of atoms is left in it, to float32's precision
        counts = np.stack(
            [
                np.bincount(molecules.index[molecules.z == e], minlength=1000)
                for e in (1, 6, 7, 8, 9)
            ],
            1,
        )
        if pool == "mean":
            counts = counts / molecules.sizes[:, None]
        for r in rest.T:
            assert abs(r.mean()) < 1e-4
            assert np.abs((counts - counts.mean(0)).T @ r).max() / 1000 < 1e-3


def test_a_file_gives_the_same_judge(judge, molecules, tmp_path):
    path = tmp_path / "judge.safetensors"
    judge.float().save(path, {"steps": 3})
    again = PropertyModel.load(path)
    assert torch.equal(again.predict(*rows(molecules)), judge.predict(*rows(molecules)))
    assert again.about == {"steps": 3} and again.properties == judge.properties
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["judge.safetensors"]


def test_a_file_that_is_no_judge_is_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    with pytest.raises(FileNotFoundError, match="train_property_model"):
        PropertyModel.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="holds no PropertyModel"):
        PropertyModel.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="damaged"):
        PropertyModel.load(path)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda c: c["config"].update(layers=10**6), "config cannot be read"),
        (lambda c: c["config"].update(hidden=50_000), "config cannot be read: the file has"),
        (lambda c: c["config"].update(pool=3), "pool is 3, not str"),
        (lambda c: c["config"].update(properties=[]), "config cannot be read"),
        (lambda c: c["config"]["properties"].update(names=[5, 6]), "names is"),
        (lambda c: c["config"].update(elements=[1, 6]), "config cannot be read: the file has"),
        (lambda c: c.pop("about"), "no 'about'"),
        (lambda c: c.update(about=3), "config cannot be read"),
        (lambda c: c.clear(), "no 'config'"),
    ],
)
def test_a_file_of_a_judge_is_checked_before_it_is_built(judge, tmp_path, change, named):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "judge.safetensors"
    judge.float().save(path)
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["property_model"])
    change(config)
    save_file(weights, path, {"property_model": json.dumps(config)})
    with pytest.raises(ValueError, match=f"judge.safetensors: its .*{named}"):
        PropertyModel.load(path)


@pytest.mark.slow
def test_a_few_molecules_are_learnt_beyond_their_composition(molecules):
    torch.manual_seed(0)
    properties = Properties.from_molecules(molecules, "alpha")
    model = PropertyModel(properties, pool="sum", hidden=32, pair=32, vectors=8, layers=2, bases=24)
    model.fit_composition(molecules)
    few = molecules.subset(np.arange(0, 5000, 210))
    own = torch.from_numpy(few.property("alpha"))[:, None]

    def error():
        return float((model.predict(few.pos, few.z, few.index) - own).abs().mean())

    unpack = with_properties(Atoms().unpack, properties, few.prop_names)
    batch = next(iter(loader(few, len(few), shuffle=False)))
    _, space, cond = unpack(batch)
    before, optimizer = error(), Muon(model.parameters(), 0.01)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, 100)
    for _ in range(100):
        loss = (model(batch.pos, batch.z, space) - cond["context"]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    assert 1 < before < 4  # bohr³, of the composition alone; of the mean it is 6
    assert error() < 0.25 * before


def test_sizes_near_a_value_are_those_of_the_nearest():
    pairs = PropertyDistribution(torch.arange(1, 101), torch.arange(100.0)[:, None])
    generator = torch.Generator().manual_seed(0)
    drawn = pairs.sizes_near(torch.tensor([50.0]), 200, generator, share=0.05)
    assert drawn.unique().tolist() == [49, 50, 51, 52, 53]  # the value n - 1 is that of the size n
    assert pairs.sizes_near(torch.tensor([1e9]), 3).tolist() == [100] * 3
    unknown = PropertyDistribution(torch.tensor([1, 2]), torch.tensor([[torch.nan], [5.0]]))
    assert unknown.sizes_near(torch.tensor([0.0]), 3).tolist() == [2] * 3
    with pytest.raises(ValueError, match=r"value is \(2,\) of .*, not \(1\)"):
        pairs.sizes_near(torch.zeros(2), 3)
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="give a finite number for each"):
            pairs.sizes_near(torch.tensor([wrong]), 3)
    apart = PropertyDistribution(torch.tensor([3, 4]), [[1.0, torch.nan], [torch.inf, 1.0]])
    with pytest.raises(ValueError, match="no molecule has all 2 properties"):
        apart.sizes_near(torch.tensor([1.0, 1.0]), 2)


def test_infinite_values_are_unknown(molecules, properties):
    for wrong in (torch.inf, -torch.inf, torch.nan):
        values = torch.tensor([[80.0], [wrong]])
        pairs = PropertyDistribution(torch.tensor([3, 4]), values)
        assert pairs.values[:, 0].isnan().tolist() == [False, True]
        one = Properties(("alpha",), (75.0,), (6.0,))
        assert one.encode(values)[:, 0].isnan().tolist() == [False, True]


def test_numbers_out_of_range_are_named():
    pairs = PropertyDistribution(torch.tensor([3, 4]), torch.tensor([[1.0], [2.0]]))
    near = torch.tensor([1.0])
    for call, line in (
        (lambda: pairs.sample(-1), "num is -1; give a number"),
        (lambda: pairs.sizes_near(near, -1), "num is -1; give a number"),
        (lambda: pairs.sizes_near(near, 2, share=torch.nan), "share is nan; give a number"),
        (lambda: pairs.given(torch.tensor([3.7])), "sizes hold 3.7"),
        (
            lambda: PropertyDistribution(torch.tensor([3.5]), near[None]),
            "sizes hold 3.5; give whole",
        ),
        (lambda: SizeDistribution.from_sizes([3]).sample(-1), "num is -1; give a number"),
    ):
        with pytest.raises(ValueError, match=line):
            call()


# formulas --------------------


def test_formulas_are_drawn_with_their_values(molecules):
    targets = PropertyDistribution.from_molecules(molecules, "alpha")
    assert targets.elements == molecules.elements
    assert torch.equal(targets.formulas.sum(1), targets.sizes)
    occurring = {}
    for m in range(5000):
        z = molecules.z[molecules.offsets[m] : molecules.offsets[m + 1]]
        formula = tuple((z == e).sum() for e in targets.elements)
        occurring.setdefault(formula, set()).add(np.float32(molecules.property("alpha")[m]))
    formulas, values = targets.sample_formulas(300, torch.Generator().manual_seed(0))
    for formula, (value,) in zip(formulas.tolist(), values.tolist(), strict=True):
        assert value in occurring[tuple(formula)]


def test_formulas_near_a_value_are_those_whose_isomers_are():
    """A formula of many molecules counts by their mean, and not by one of them that is near."""
    carbon = torch.tensor([[1, 4]] * 40 + [[2, 4]] * 40 + [[1, 5]] * 2)
    values = torch.cat(
        [
            torch.linspace(0, 20, 40),  # with some near 15
            torch.linspace(14, 16, 40),
            torch.tensor([30.0, 31.0]),
        ]
    )
    targets = PropertyDistribution(carbon.sum(1), values[:, None], carbon, (6, 1))
    wanted = torch.tensor([15.0])
    drawn = targets.formulas_near(wanted, 50, torch.Generator().manual_seed(0), share=0.3)
    assert drawn.unique(dim=0).tolist() == [[2, 4]]
    far = targets.formulas_near(torch.tensor([99.0]), 50, share=0.02)  # two of the molecules
    assert far.unique(dim=0).tolist() == [[1, 5]]
    sizes = targets.sizes_near(wanted, 50, torch.Generator().manual_seed(0), share=0.3)
    assert set(sizes.tolist()) == {5, 6}  # by the molecules themselves


def test_molecules_of_near_formulas_have_the_property(molecules):
    """Other molecules of the drawn formulas miss by less than those of molecules that are near."""
    order = np.random.default_rng(0).permutation(5000)
    known, others = molecules.subset(order[:2500]), molecules.subset(order[2500:])
    targets = PropertyDistribution.from_molecules(known, "alpha")
    counts = [[(z == e).sum() for e in targets.elements]
              for z in np.split(others.z, others.offsets[1:-1])]  # fmt: skip
    alpha, generator = others.property("alpha"), torch.Generator().manual_seed(0)
    missed = {True: [], False: []}
    for value in np.linspace(65, 85, 21):
        wanted = torch.tensor([value]).float()
        of_size = targets.sizes_near(wanted, 100, generator)
        for by_formula in missed:
            drawn = (
                targets.formulas_near(wanted, 100, generator).tolist() if by_formula
                else of_size.tolist()
            )  # fmt: skip
            for one in drawn:
                same = [c == one for c in counts] if by_formula else others.sizes == one
                missed[by_formula] += np.abs(alpha[same] - value)[:5].tolist()
    near, far = (np.mean(missed[k]) for k in (True, False))
    assert near < 2.7 and far > 4  # bohr³; as the docstring says 2.3, and two of one size 5.4


def test_formulas_that_do_not_fit_are_refused(molecules):
    sizes, values = torch.tensor([3, 5]), torch.zeros(2, 1)
    for formulas, elements, line in (
        ([[2, 1], [4, 2]], (1, 8), "the atoms of a formula are not as many"),
        ([[4, -1], [4, 1]], (1, 8), "the atoms of a formula are not as many"),
        ([[2, 1]], (1, 8), "formulas is"),
        ([[2.5, 0.5], [4, 1]], (1, 8), "formulas hold 2.5; give whole"),
        ([[2, 1], [4, 1]], (1, 1), r"elements are \(1, 1\); give distinct atomic numbers"),
        ([[2, 1], [4, 1]], (1, 119), "give distinct atomic numbers"),
    ):
        with pytest.raises(ValueError, match=line):
            PropertyDistribution(sizes, values, torch.tensor(formulas), elements)
    bare = PropertyDistribution(sizes, values)
    for call in (lambda: bare.sample_formulas(2), lambda: bare.formulas_near(values[0], 2)):
        with pytest.raises(ValueError, match="no formulas beside the sizes"):
            call()
    with pytest.raises(ValueError, match="num is -1"):
        PropertyDistribution.from_molecules(molecules, "alpha").sample_formulas(-1)
