"""A model of molecules: what it is asked for, what it keeps, and files of older versions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import anydiff
from anydiff import DDIM, GaussianDiffusion, Polynomial, Ragged
from anydiff.data.sizes import SizeDistribution
from anydiff.denoisers import Completing, PairNet
from anydiff.molecules import Atoms, Bonded, load_qm9
from anydiff.molecules.fragments import first_with, largest_ring
from anydiff.molecules.models import MoleculeModel, compare_parts
from anydiff.molecules.properties import Properties
from anydiff.molecules.property_targets import PropertyDistribution

FORMAT2 = Path(__file__).parents[1] / "goldens/format2"
TEST = load_qm9().subset(range(100))


def model(context=0):
    torch.manual_seed(0)
    atoms = Atoms(charge_scale=None)
    network = PairNet(atoms.features - 3, 16, layers=1, context=context)
    asked = {}
    if context:
        asked["pairs"] = PropertyDistribution.from_molecules(TEST, "alpha")
        asked["properties"] = Properties.from_molecules(TEST, "alpha", by_size=True)
        with torch.no_grad():  # the last layers are zero at first
            for p in network.parameters():
                p.add_(0.1 * torch.randn_like(p))
    diffusion = GaussianDiffusion(network, Polynomial(), "eps").eval()
    return MoleculeModel(diffusion, atoms, SizeDistribution.from_sizes(TEST.sizes), **asked)


def formulas(molecules):
    """The number of atoms of each element, for each molecule."""
    each = np.split(molecules.z, molecules.offsets[1:-1])
    return [
        dict(zip(*(v.tolist() for v in np.unique(z, return_counts=True)), strict=True))
        for z in each
    ]


def test_files_of_format_2_load_and_draw_as_they_did():
    path = FORMAT2 / "molecules.safetensors"
    old = MoleculeModel.load(path)
    assert old.data == "5k" and old.root is None and old.properties.names == ("alpha",)
    with np.load(FORMAT2 / "drawn.npz") as file:
        expected = torch.from_numpy(file["molecules"])
    space = Ragged.from_sizes([5, 3], centered=3)
    predictor = old.diffusion.predictor(space, context=torch.tensor([[0.5], [-1.0]]))
    drawn = anydiff.sample(predictor, (8, 8), DDIM(), 4, seed=[3, 4])
    torch.testing.assert_close(drawn, expected)
    assert len(old.sample(3, steps=2)) == 3
    assert not old.properties.sizes  # relative to all molecules, as it was trained
    with pytest.raises(
        ValueError, match=r"keeps no formulas of its data, as it .* an older version"
    ):
        old.sample(3, formula="data", steps=2)
    assert formulas(old.sample(2, formula="CH4", steps=1)) == [{1: 4, 6: 1}] * 2
    for other in ("sketches", "images"):
        with pytest.raises(ValueError, match=r"is not a model of molecules"):
            MoleculeModel.load(FORMAT2 / f"{other}.safetensors")


def test_a_model_comes_back_from_its_file(tmp_path):
    one = model(context=1)
    one.save(tmp_path / "model.safetensors")
    assert anydiff.load(tmp_path / "model.safetensors")[1]["kind"] == "molecules"
    again = MoleculeModel.load(tmp_path / "model.safetensors")
    for a, b in zip(
        (one.sample(3, steps=2)[m] for m in range(3)),
        (again.sample(3, steps=2)[m] for m in range(3)),
        strict=True,
    ):
        assert torch.equal(a.pos, b.pos) and torch.equal(a.z, b.z)
    with pytest.raises(ValueError, match="does not say what it was trained on"):
        again.read_data()


def test_rings_are_kept():
    before, kept = first_with(TEST, 5, largest_ring)
    states = []
    drawn = model().inpaint(before, kept, resamples=2, steps=2, batch=2, watch=states.append)
    assert len(states) == 4 and len(states[0]) == 1
    assert np.array_equal(drawn.index, before.index)
    assert np.array_equal(drawn.z[kept], before.z[kept])
    for m in range(5):
        rows = kept & (drawn.index == m)
        ours, theirs = (p[rows] - p[rows].mean(0) for p in (drawn.pos, before.pos))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)  # positions are float32, of 10 Å


# with bonds --------------------


def bonded(**more):
    torch.manual_seed(0)
    atoms = Bonded(Atoms(charge_scale=None), **more)
    network = PairNet(atoms.features - 3, 16, layers=1, pairs=2)
    with torch.no_grad():  # the last layers are zero at first
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    diffusion = GaussianDiffusion(network, Polynomial(), "eps").eval()
    return MoleculeModel(diffusion, atoms, SizeDistribution.from_sizes(TEST.sizes), data="5k")


@pytest.mark.parametrize("formal_scale", [None, 0.25])
def test_a_model_with_bonds_comes_back_and_draws_them(tmp_path, formal_scale):
    one = bonded(formal_scale=formal_scale)
    one.save(tmp_path / "model.safetensors")
    again = MoleculeModel.load(tmp_path / "model.safetensors")
    assert again.atoms == one.atoms and again.read_data().bonds is not None
    states = []
    drawn = one.sample(5, steps=3, batch=2, watch=states.append)
    other = again.sample(5, steps=3, batch=3)  # an item's sample does not depend on its batch
    np.testing.assert_allclose(drawn.pos, other.pos, atol=1e-4)
    assert np.array_equal(drawn.bonds, other.bonds) and np.array_equal(drawn.orders, other.orders)
    assert len(drawn.bonds) and (drawn.charges is None) == (formal_scale is None)
    assert len(states) == 3 and states[-1].bonds.tolist() == drawn.subset([0]).bonds.tolist()
    rest = one.sample(5, steps=3, batch=2, skip=3)
    assert np.array_equal(rest.bonds, drawn.subset([3, 4]).bonds)


def test_a_network_without_bonds_is_no_model_with_them(tmp_path):
    one = bonded()
    replace(one, atoms=one.atoms.atoms).save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="the network has pairs=2, and the data take 0"):
        MoleculeModel.load(tmp_path / "model.safetensors")


def test_known_atoms_keep_their_bonds():
    before, kept = first_with(TEST, 5, largest_ring)
    drawn = bonded().inpaint(before, kept, resamples=2, steps=2, batch=2)
    inside = [m.bonds[kept[m.bonds].all(1)] for m in (before, drawn)]
    orders = [m.orders[kept[m.bonds].all(1)] for m in (before, drawn)]
    assert np.array_equal(*inside) and np.array_equal(*orders) and len(inside[0]) >= 25
    assert np.array_equal(drawn.z[kept], before.z[kept])
    assert not np.array_equal(before.bonds, drawn.bonds)  # those of the others are new
    with pytest.raises(ValueError, match=r"known is .* give True where an atom is kept"):
        bonded().inpaint(before, kept[:, None], steps=2)


KEPT = {  # positions, elements, bonds
    "elements": (False, True, False),
    "graph": (False, True, True),
    "positions": (True, True, False),
}


@pytest.mark.parametrize("completes", [False, True])
@pytest.mark.parametrize("what", KEPT)
def test_what_is_kept_by_a_word_is_kept_and_the_rest_is_drawn(what, completes):
    one, before = bonded(), TEST.subset(range(5))
    if completes:
        torch.manual_seed(0)
        network = Completing(PairNet(2 * one.atoms.features - 3, 16, layers=1, pairs=4))
        one = replace(one, diffusion=GaussianDiffusion(network, Polynomial(), "eps").eval())
    drawn = one.inpaint(before, what, resamples=1, steps=2, batch=2)

    def distances(molecules):
        within = np.diff(molecules.index) == 0
        return np.linalg.norm(np.diff(molecules.pos, axis=0), axis=1)[within]

    bonds = [np.column_stack([m.bonds, m.orders]).tolist() for m in (before, drawn)]
    positions, elements, graph = KEPT[what]
    assert np.allclose(distances(before), distances(drawn), atol=1e-4) == positions
    assert np.array_equal(before.z, drawn.z) == elements
    assert (bonds[0] == bonds[1]) == graph
    assert drawn.name == "drawn" and np.array_equal(before.offsets, drawn.offsets)


def test_words_that_a_model_does_not_know_are_named():
    before = TEST.subset(range(3))
    kept = model().inpaint(before, "elements", resamples=1, steps=2)
    assert np.array_equal(kept.z, before.z)
    with pytest.raises(ValueError, match=r"'graph' of molecules .* without bonds; give 'elements'"):
        model().inpaint(before, "graph", steps=2)
    with pytest.raises(ValueError, match=r"'ring'; give one of 'elements', 'graph', 'positions'"):
        bonded().inpaint(before, "ring", steps=2)


def test_edits_and_formulas_of_a_model_with_bonds():
    before = TEST.subset(range(5))
    drawn = bonded().edit(before, 0.02, steps=2)
    assert np.array_equal(drawn.bonds, before.bonds) and np.array_equal(drawn.orders, before.orders)
    assert np.array_equal(drawn.z, before.z)
    isomers = bonded(formal_scale=0.25).sample(3, formula="C3H8O", steps=2)
    assert sorted(isomers.z[:12].tolist()) == [1] * 8 + [6] * 3 + [8]
    assert isomers.bonds is not None and isomers.charges is not None
    with pytest.raises(ValueError, match="has no bonds; give molecules with them"):
        bonded().edit(replace(before, bonds=None, orders=None), 0.02)


def test_edits_are_near():
    before = TEST.subset(range(5))
    drawn = model().edit(before, 0.02, steps=2)
    center = np.stack([before.pos[before.index == m].mean(0) for m in range(5)])
    assert np.abs(drawn.pos - (before.pos - center[before.index])).max() < 0.5
    assert (drawn.z == before.z).all() and len(drawn) == 5


def told(model, monkeypatch, call):
    """The sizes and conditions of a call, which is not made."""
    asked = {}

    def remember(self, sizes, cond, **options):
        start, rows = options.get("start"), Ragged.from_sizes(sizes, centered=3)
        every = slice(0, len(sizes)), slice(0, int(sizes.sum()))
        asked.update(sizes=sizes, cond=cond, x=None if start is None else start(*every, rows)[0])

    with monkeypatch.context() as patch:
        patch.setattr(MoleculeModel, "_draw", remember)
        call(model)
    sizes, c = asked["sizes"], asked["cond"]["context"]
    told.elements = asked.get("x")
    return sizes, model.properties.decode(c, sizes)


def test_what_is_asked_for(monkeypatch):
    one = model(context=1)
    sizes, values = told(one, monkeypatch, lambda m: m.sample(5))
    occurring = set(zip(TEST.sizes.tolist(), TEST.property("alpha").tolist(), strict=True))
    for n, c in zip(sizes.tolist(), values[:, 0], strict=True):
        assert any(n == m and abs(c - v) < 1e-3 for m, v in occurring)

    alpha = torch.from_numpy(TEST.property("alpha")).float()
    for value in (alpha.min(), alpha.max()):
        sizes, values = told(one, monkeypatch, lambda m, v=float(value): m.sample(5, target=v))
        torch.testing.assert_close(values, value.expand(5, 1))
        assert set(sizes.tolist()) == {int(TEST.sizes[int((alpha - value).abs().argmin())])}

    some = TEST.subset(range(3))
    sizes, values = told(one, monkeypatch, lambda m: m.edit(some, 0.3))
    assert sizes.tolist() == some.sizes.tolist()
    torch.testing.assert_close(values[:, 0], alpha[:3])
    _, values = told(one, monkeypatch, lambda m: m.edit(some, 0.3, target=80.0))
    assert (values - 80).abs().max() < 1e-3


@pytest.mark.parametrize("wrong", [{"target": 2.0}, {"guidance": 2.0}])
def test_a_model_without_properties_is_asked_for_none(wrong):
    for call in (lambda m: m.sample(2, **wrong), lambda m: m.edit(TEST, 0.2, **wrong)):
        with pytest.raises(ValueError, match=f"knows no property, which {next(iter(wrong))} is"):
            call(model())


def test_guidance_reaches_the_model():
    one, some = model(context=1), TEST.subset([0, 1])
    pos = {
        (c, w): one.edit(some, 1.0, target=c, guidance=w, steps=2).pos
        for c in (60.0, 90.0)
        for w in (0.0, 1.0)
    }
    assert np.array_equal(pos[60, 0], pos[90, 0]) and not np.array_equal(pos[60, 1], pos[90, 1])


def test_real_molecules_are_beside_the_drawn():
    real, drawn = compare_parts(TEST.subset(range(4)), TEST, nfe=7, seconds=0.5)
    assert (real.name, drawn.name, drawn.molecules, drawn.nfe) == ("real, held out", "drawn", 4, 7)


@pytest.mark.parametrize("target", [np.nan, np.inf, -np.inf, 1e300])
def test_a_target_that_is_not_finite_is_refused(target):
    for call in (lambda m: m.sample(2, target=target), lambda m: m.edit(TEST, 0.2, target=target)):
        with pytest.raises(ValueError, match=r"target is .*; give a number, the property's value"):
            call(model(context=1))


def test_molecules_that_diverge_are_left_out_and_the_others_kept(monkeypatch):
    one = model()
    seen = []

    def spoil(diffusion, num, make, finish, *, watch, **how):
        rows = torch.cat([torch.randn(n, 8) for n in (4, 5, 6)])
        rows[0], rows[5, :3] = torch.nan, rows[4, :3] + 1e-6  # the second has fallen together
        make(slice(0, num))
        watch(rows)
        watch(torch.randn(15, 8))
        return finish([rows])

    monkeypatch.setattr("anydiff.molecules.models.draw_all", spoil)
    monkeypatch.setattr(SizeDistribution, "sample", lambda *_: torch.tensor([4, 5, 6]))
    with pytest.warns(UserWarning, match="2 of the 3 molecules are not finite and left out"):
        drawn = one.sample(3, watch=seen.append)
    assert drawn.sizes.tolist() == [6] and [len(s.z) for s in seen] == [4]


def test_too_few_molecules_to_compare_with_are_named():
    with pytest.raises(ValueError, match="holds 1 molecules; give at least 2 to compare with"):
        compare_parts(TEST, TEST.subset([0]))


def test_the_property_of_what_is_begun_from_is_known_or_given():
    bare = replace(TEST.subset([0]), props=None, prop_names=())
    with pytest.raises(ValueError, match="the molecules' alpha is not known; give a target"):
        model(context=1).edit(bare, 0.1, steps=2)
    assert len(model(context=1).edit(bare, 0.1, steps=2, target=70.0)) == 1


# formulas --------------------


@pytest.mark.parametrize("context", [0, 1])
def test_molecules_of_a_formula_have_it(context):
    drawn = model(context).sample(5, formula="C3H6O", steps=3, batch=2)
    assert formulas(drawn) == [{1: 6, 6: 3, 8: 1}] * 5
    assert np.abs(drawn.pos[:10] - drawn.pos[10:20]).max() > 0.1  # each has its own positions
    again = model(context).sample(5, formula="CH3COCH3", steps=3, skip=3)
    np.testing.assert_allclose(again.pos, drawn.pos[30:], atol=1e-4)


def test_formulas_of_the_data_are_near_the_target(monkeypatch):
    one, alpha = model(context=1), TEST.property("alpha")
    occurring = formulas(TEST)

    def drawn(**how):
        sizes, values = told(one, monkeypatch, lambda m: m.sample(40, formula="data", **how))
        _, z = one.atoms.decode(told.elements)
        of = [
            dict(zip(*(v.tolist() for v in part.unique(return_counts=True)), strict=True))
            for part in z.split(sizes.tolist())
        ]
        return of, values[:, 0]

    of, values = drawn()
    for formula, value in zip(of, values.tolist(), strict=True):
        same = [v for v, own in zip(alpha, occurring, strict=True) if own == formula]
        assert np.abs(np.array(same) - value).min() < 1e-3

    of, values = drawn(target=60.0)
    torch.testing.assert_close(values, torch.full((40,), 60.0))
    assert all(formula in occurring for formula in of)
    mean = [np.mean([v for v, own in zip(alpha, occurring, strict=True) if own == f]) for f in of]
    assert np.abs(np.array(mean) - 60).mean() < 4 < np.abs(alpha - 60).mean()


def test_a_formula_leaves_the_property_open_or_takes_the_target(monkeypatch):
    one = model(context=1)
    sizes, values = told(one, monkeypatch, lambda m: m.sample(3, formula="C2H6O"))
    assert sizes.tolist() == [9] * 3 and values.isnan().all()
    _, values = told(one, monkeypatch, lambda m: m.sample(3, formula="C2H6O", target=50.0))
    torch.testing.assert_close(values, torch.full((3, 1), 50.0))


def test_formulas_come_back_from_a_file_in_the_elements_of_the_model(tmp_path):
    one = replace(model(context=1), atoms=Atoms((9, 8, 7, 6, 1), charge_scale=None))
    one.save(tmp_path / "model.safetensors")
    again = MoleculeModel.load(tmp_path / "model.safetensors")
    assert again.properties == one.properties and again.pairs.elements == (9, 8, 7, 6, 1)
    drawn = [formulas(m.sample(4, formula="data", target=60.0, steps=1)) for m in (one, again)]
    assert drawn[0] == drawn[1] and all(f in formulas(TEST) for f in drawn[0])

    diffusion, extra = anydiff.load(tmp_path / "model.safetensors")
    for wrong, line in (
        ({"formulas": extra["formulas"] + 1}, "the atoms of a formula are not as many"),
        ({"formulas": extra["formulas"][:, :2]}, "formulas is"),
        ({"properties": extra["properties"] | {"sizes": [3]}}, "mean_of_size has"),
        ({"properties": extra["properties"] | {"mad_of_size": 3}}, "properties"),
    ):
        anydiff.save(tmp_path / "wrong.safetensors", diffusion, extra | wrong)
        with pytest.raises(ValueError, match=f"wrong.safetensors: .*{line}"):
            MoleculeModel.load(tmp_path / "wrong.safetensors")


@pytest.mark.parametrize(
    "formula, line",
    [
        (
            "CHCl3",
            "Cl of the formula CHCl3 is not among H C N O F, the elements of the model; leave",
        ),
        ("c2h6", "the formula is 'c2h6'; give symbols"),
        ("C999", "C999 has 999 atoms, and the molecules of the data have at most 21"),
        ("data", "keeps no formulas of its data, as it knows no property"),
    ],
)
def test_formulas_that_a_model_does_not_know(formula, line):
    assert TEST.sizes.max() == 21
    with pytest.raises(ValueError, match=line):
        model().sample(2, formula=formula)


@pytest.mark.parametrize("formula, size", [("H2O2", 4), ("C22", 22)])
def test_a_size_that_does_not_occur_is_told(formula, size):
    line = f"{formula} has {size} atoms, and no molecule of the data has as many"
    with pytest.warns(UserWarning, match=line):
        model().sample(1, formula=formula, steps=1)


def test_lost_molecules_of_a_formula_are_left_out(monkeypatch):
    def spoil(diffusion, num, make, finish, **how):
        rows = make(slice(0, num)).x.clone()
        rows[:, :3] = torch.randn(len(rows), 3)
        rows[0, 0] = torch.nan
        return finish([rows])

    monkeypatch.setattr("anydiff.molecules.models.draw_all", spoil)
    with pytest.warns(UserWarning, match="1 of the 3 molecules are not finite and left out"):
        assert formulas(model().sample(3, formula="H2O")) == [{1: 2, 8: 1}] * 2
    with pytest.raises(ValueError, match="1 of the 3 molecules are not finite"):
        model().edit(TEST.subset(range(3)), 0.2)  # each belongs to the one that it began from


@pytest.mark.parametrize("context", [0, 1])
def test_a_model_that_completes_draws_isomers_in_one_run(context, tmp_path):
    one = model(context)
    network = Completing(PairNet(2 * one.atoms.features - 3, 16, layers=1, context=context))
    one = replace(one, diffusion=GaussianDiffusion(network, Polynomial(), "eps").eval())
    one.save(tmp_path / "model.safetensors")
    again = MoleculeModel.load(tmp_path / "model.safetensors")
    assert again.completes and not model().completes
    compiled = GaussianDiffusion(torch.compile(network), Polynomial(), "eps")
    assert replace(one, diffusion=compiled).completes
    states = []
    drawn = again.sample(5, formula="C3H6O", steps=3, batch=2, watch=states.append)
    assert formulas(drawn) == [{1: 6, 6: 3, 8: 1}] * 5
    assert len(states) == 3 and formulas(states[0]) == [{1: 6, 6: 3, 8: 1}]
    np.testing.assert_allclose(one.sample(5, formula="C3H6O", steps=3).pos, drawn.pos, atol=1e-4)
    assert len(again.sample(3, steps=2)) == 3  # whole ones too

    before, kept = first_with(TEST, 5, largest_ring)
    grown = again.inpaint(before, kept, steps=2)
    assert np.array_equal(grown.z[kept], before.z[kept])
