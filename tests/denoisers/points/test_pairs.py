"""PairNet of points and of what their pairs carry, such as bonds: motions, order, batches, sizes."""

import json

import pytest
import torch
from e3nn import o3
from torch import Tensor

from anydiff import DDIM, Dense, GaussianDiffusion, Packed, Polynomial, Ragged, load, sample, save
from anydiff.denoisers import PairNet
from anydiff.denoisers.points import pairnet
from anydiff.molecules import Atoms, Bonded, load_qm9, loader
from anydiff.training.muon import Muon
from tests.helpers.count import Count, Reads
from tests.helpers.points import FEATURES, ROUNDING, SIZES

K = 2
SMALL = {
    "features": FEATURES, "hidden": 16, "pair": 12, "vectors": 5, "layers": 2, "bases": 8,
}  # fmt: skip
EXACT = {"rtol": 0, "atol": 0}


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def network(**arguments) -> PairNet:
    """With every path awake, also those that start at zero."""
    net = PairNet(**SMALL, **{"pairs": K, **arguments})
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def bonded(sizes=SIZES) -> Packed:
    """The space of points and their pairs."""
    atoms = Ragged.from_sizes(sizes, centered=3)
    bonds = atoms.pair_space
    fields = {
        "atoms": (atoms, (len(atoms.index), 3 + FEATURES)),
        "bonds": (bonds, (len(bonds.index), K)),
    }
    return Packed(fields, weights={"bonds": 0.3})


def batch(sizes=SIZES, seed=0) -> tuple[Tensor, Tensor, Packed]:
    generator, space = torch.Generator().manual_seed(seed), bonded(sizes)
    return space.noise(torch.empty(space.shape), generator), torch.rand(len(sizes)), space


def changed(x: Tensor, space: Packed, **fields) -> Tensor:
    """With other fields: functions of those of x."""
    parts = space.unpack(x)
    return space.pack(parts | {name: change(parts[name]) for name, change in fields.items()})


def moved(x: Tensor, space: Packed, rotation: Tensor) -> Tensor:
    return changed(x, space, atoms=lambda a: torch.cat([a[:, :3] @ rotation.T, a[:, 3:]], 1))


@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
def test_motions_turn_the_positions_and_leave_the_pairs(sign):
    net, (x_t, t, space) = network(), batch()
    rotation = sign * o3.rand_matrix()
    out = net(x_t, t, space=space)
    assert space.unpack(out)["atoms"][:, :3].abs().max() > 0.1  # there is something to rotate
    assert space.unpack(out)["bonds"].abs().min() > 0
    turned = net(moved(x_t, space, rotation), t, space=space)
    torch.testing.assert_close(turned, moved(out, space, rotation), **ROUNDING)

    def shifted(a: Tensor) -> Tensor:
        shift = 3 * torch.randn(len(SIZES), 3)  # each item its own
        return torch.cat([a[:, :3] + shift[space["atoms"].index], a[:, 3:]], 1)

    away = net(changed(x_t, space, atoms=shifted), t, space=space)
    torch.testing.assert_close(away, out, **ROUNDING)


def test_permuting_the_points_permutes_their_pairs():
    net, (x_t, t, space) = network(), batch()
    atoms = space["atoms"]
    order = torch.cat(
        [start + torch.randperm(n) for start, n in zip(atoms.ptr.tolist(), SIZES, strict=False)]
    )
    # which pair the points order[i], order[j] are, whichever comes first
    number = {tuple(ij): p for p, ij in enumerate(atoms.pairs.T.tolist())}
    pairs = torch.tensor([number[tuple(sorted(ij))] for ij in order[atoms.pairs.T].tolist()])
    assert (pairs != torch.arange(len(pairs))).any()

    def permuted(x: Tensor) -> Tensor:
        return changed(x, space, atoms=lambda a: a[order], bonds=lambda e: e[pairs])

    out = net(x_t, t, space=space)
    torch.testing.assert_close(net(permuted(x_t), t, space=space), permuted(out), **ROUNDING)


def test_an_item_does_not_see_the_rest_of_its_batch():
    net, (x_t, t, space) = network(), batch([*SIZES, 1, 2])
    whole, given = space.unpack(net(x_t, t, space=space)), space.unpack(x_t)
    for b in range(len(t)):
        own = {name: space[name].index == b for name in ("atoms", "bonds")}
        one = bonded([int(own["atoms"].sum())])
        x = one.pack({name: given[name][rows] for name, rows in own.items()})
        alone = one.unpack(net(x, t[b : b + 1], space=one))
        for name, rows in own.items():
            torch.testing.assert_close(alone[name], whole[name][rows], **ROUNDING)


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [2], [1, 2]], ids=str)
def test_the_smallest_items(sizes):
    """No pair, one pair."""
    net, (x_t, t, space) = network(), batch(sizes)
    x_t.requires_grad_()
    out = net(x_t, t, space=space)
    fields, atoms = space.unpack(out), space["atoms"]
    single = torch.tensor(sizes)[atoms.index] == 1
    assert (fields["atoms"][single, :3] == 0).all() and fields["atoms"][:, 3:].abs().min() > 0
    assert fields["bonds"].shape == (sizes.count(2), K) and fields["bonds"].all()
    out.square().sum().backward()
    assert x_t.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_both_fields_see_both():
    net, (x_t, t, space) = network(), batch()
    out = space.unpack(net(x_t, t, space=space))
    for change in (
        {"bonds": lambda e: e + 1},
        {"atoms": lambda a: torch.cat([2 * a[:, :3], a[:, 3:]], 1)},
        {"atoms": lambda a: torch.cat([a[:, :3], a[:, 3:] + 1], 1)},
    ):
        other = space.unpack(net(changed(x_t, space, **change), t, space=space))
        assert (other["atoms"][:, :3] - out["atoms"][:, :3]).abs().max() > 1e-3
        assert (other["atoms"][:, 3:] - out["atoms"][:, 3:]).abs().max() > 1e-3
        assert (other["bonds"] - out["bonds"]).abs().max() > 1e-3
    other = space.unpack(net(x_t, 1 - t, space=space))
    assert all((other[name] - out[name]).abs().max() > 1e-3 for name in out)


def test_at_first_the_prediction_is_t_times_the_input():
    net, (x_t, t, space) = PairNet(**SMALL, pairs=K), batch()
    torch.testing.assert_close(net(x_t, t, space=space), space.expand(t, x_t) * x_t, **ROUNDING)
    # once a step is taken, everything learns
    for _ in range(2):
        net.zero_grad()
        net(x_t, t, space=space).sub(1).square().sum().backward()
        with torch.no_grad():
            for p in net.parameters():
                p.sub_(0.01 * p.grad)
    for name in ("pair_in.weight", "pair_out.weight", "pair_out.bias", "pair_skip.weight"):
        assert net.get_parameter(name).grad.any()


def test_without_pairs_it_is_the_network_of_points():
    """The same seed gives both the same weights, and at first pairs have no say about points."""
    torch.manual_seed(3)
    plain = PairNet(**SMALL, classes=2, tokens=3)
    after = torch.rand(())
    torch.manual_seed(3)
    net = PairNet(**SMALL, classes=2, tokens=3, pairs=K)
    state = net.state_dict()
    assert {k for k in state if k.startswith("pair_")} == state.keys() - plain.state_dict().keys()
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(state[name], weight, **EXACT)
    torch.manual_seed(3)
    PairNet(**SMALL, classes=2, tokens=3, pairs=0)
    assert torch.rand(()) == after

    with torch.no_grad():
        for name, p in net.named_parameters():
            if not name.startswith("pair_"):
                p.normal_(std=0.3)
    plain.load_state_dict({k: net.state_dict()[k] for k in plain.state_dict()})
    x_t, t, space = batch()
    expected = plain(space.unpack(x_t)["atoms"], t, space=space["atoms"])
    out = space.unpack(net(x_t, t, space=space))
    torch.testing.assert_close(out["atoms"], expected, **EXACT)
    torch.testing.assert_close(
        out["bonds"], t[space["bonds"].index, None] * space.unpack(x_t)["bonds"], **ROUNDING
    )


def test_the_output_lies_in_the_space_and_is_as_packed():
    net, (x_t, t, space) = network(), batch()
    out = net(x_t, t, space=space)
    torch.testing.assert_close(space.project(out), out, rtol=0, atol=1e-12)
    # fields have an order, not names
    renamed = Packed(dict(zip(["nodes", "edges"], space.fields.values(), strict=True)))
    assert torch.equal(net(x_t, t, space=renamed), out)
    # so has each copy of a batch
    twice = net(space.join([x_t, 2 * x_t]), torch.cat([t, t]), space=space.copies(2))
    parts = space.separate(twice, 2)
    torch.testing.assert_close(parts[0], out, **ROUNDING)
    torch.testing.assert_close(parts[1], net(2 * x_t, t, space=space), **ROUNDING)


@pytest.mark.slow
def test_gradients_are_right():
    net, (x_t, t, space) = network(), batch([3, 1, 2])
    assert torch.autograd.gradcheck(lambda x: net(x, t, space=space), x_t.requires_grad_())
    names = [n for n, _ in net.named_parameters() if n.startswith("pair_")]
    assert len(names) == 5

    def output(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(net, given, (x_t.detach(), t), {"space": space})

    values = tuple(net.get_parameter(n).detach().requires_grad_() for n in names)
    assert torch.autograd.gradcheck(output, values)


def test_nothing_is_read_back_and_no_sum_is_raced_for():
    net, (x_t, t, space) = network(classes=3), batch()
    label = torch.zeros(len(SIZES), dtype=torch.long)
    net(x_t, t, space=space, label=label)
    with Reads() as reads, Count() as count:
        net(x_t.requires_grad_(), t, space=space, label=label).square().sum().backward()
    assert reads.count == 0 and not [call for call in count.calls if "index_put" in call]


def test_the_structure_of_a_batch_is_built_once(monkeypatch):
    """Not at every step, also where both branches of guidance share a call."""
    made = []
    for kind in (Packed, Ragged):
        monkeypatch.setattr(
            kind, "__post_init__", lambda s, f=kind.__post_init__: (made.append(s), f(s))
        )
    bags = pairnet.Pairs
    monkeypatch.setattr(pairnet, "Pairs", lambda *a: made.append(a) or bags(*a))
    x_T, _, space = batch()
    predictor = GaussianDiffusion(network(), Polynomial()).predictor(space)
    made.clear()
    sample(predictor, x_T, DDIM(), 4)
    assert [type(m) for m in made] == [tuple]  # the bags of its pairs
    for _ in range(3):
        predictor.copies(2).predict(space.join([x_T, x_T]), 0.5)
    kinds = [type(m) for m in made[1:]]
    assert kinds.count(Packed) == kinds.count(tuple) == 1 and kinds.count(Ragged) == 3


def test_samples_move_with_their_noise_and_do_not_depend_on_their_batch():
    diffusion, (x_T, _, space) = GaussianDiffusion(network(), Polynomial()), batch()
    for parameter in diffusion.parameters():
        parameter.data.mul_(0.3)
    rotation = -o3.rand_matrix()
    x0 = sample(diffusion.predictor(space), x_T, DDIM(), 5)
    turned = sample(diffusion.predictor(space), moved(x_T, space, rotation), DDIM(), 5)
    # rounding, magnified by the first steps' 1 / alpha, 300
    torch.testing.assert_close(turned, moved(x0, space, rotation), rtol=1e-6, atol=1e-6)

    seeds = list(range(len(SIZES)))
    drawn = space.unpack(diffusion.sample(space.shape, space=space, steps=5, seed=seeds))
    one = bonded(SIZES[2:3])
    alone = one.unpack(diffusion.sample(one.shape, space=one, steps=5, seed=seeds[2:3]))
    for name, rows in alone.items():
        torch.testing.assert_close(rows, drawn[name][space[name].index == 2], rtol=1e-6, atol=1e-6)


def test_a_file_keeps_it(tmp_path):
    net, (x_t, t, space) = network(context=1), batch()
    again = PairNet(**json.loads(json.dumps(net.config)))
    again.load_state_dict(net.state_dict())
    assert again.config == net.config and net.config["pairs"] == K
    save(tmp_path / "m.safetensors", GaussianDiffusion(net, Polynomial(), "eps"))
    found = load(tmp_path / "m.safetensors")[0].denoiser
    assert torch.equal(found(x_t, t, space=space), net(x_t, t, space=space))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_are_near(dtype):
    net, (x_t, t, space) = PairNet(**SMALL, pairs=K, modulated=True), batch()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    expected = net(x_t, t, space=space)
    tolerance = 100 * torch.finfo(dtype).eps
    converted = PairNet(**SMALL, pairs=K, modulated=True).to(dtype)
    converted.load_state_dict(net.state_dict())
    diffusion = GaussianDiffusion(converted, Polynomial(), "eps")
    out = converted(x_t.to(dtype), t.to(dtype), space=space)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    loss = diffusion.loss(x_t.float(), t, space=space)
    assert loss.dtype == torch.float32 and loss.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net.float()(x_t.float(), t.float(), space=space)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.double(), expected, rtol=0.1, atol=0.1)


ATOMS = bonded()["atoms"]
ROWS, PAIRS = len(ATOMS.index), ATOMS.pairs.shape[1]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ATOMS, "the space is Ragged, and PairNet with pairs=2 needs Packed of two fields"),
        (lambda: Dense(), "the space is Dense, and PairNet with pairs=2 needs Packed"),
        (
            lambda: Packed({"atoms": (ATOMS, (ROWS, 7))}),
            "the space is Packed of Ragged, .* a row for each of its `pairs`",
        ),
        (
            lambda: Packed({"cell": (Dense(), (5, 3)), "atoms": (ATOMS, (ROWS, 7))}),
            "the space is Packed of Dense, Ragged, .* whose space is Ragged",
        ),
        (
            lambda: Packed({"atoms": (ATOMS, (ROWS, 8)), "bonds": (ATOMS.pair_space, (PAIRS, 2))}),
            r"x_t is \(29, 8\) .*, not \(29, 7\)",
        ),
        (
            lambda: Packed({"atoms": (ATOMS, (ROWS, 7)), "bonds": (ATOMS.pair_space, (PAIRS, 3))}),
            r"bonds is \(\d+, 3\) .*, not \(\d+, 2\); give 2 numbers for each of the points' `pairs`",
        ),
        (
            lambda: Packed(
                {
                    "atoms": (ATOMS, (ROWS, 7)),
                    "edges": (Ragged(ATOMS.index[ATOMS.edge_index[0]], len(SIZES)), (2 * PAIRS, 2)),
                }
            ),
            r"edges is \(226, 2\) .*, not \(113, 2\)",
        ),
    ],
)
def test_another_space_is_named(make, message):
    space = make()
    shape = space.shape if isinstance(space, Packed) else (ROWS, 7)
    with pytest.raises(ValueError, match=message):
        network()(torch.randn(shape), torch.rand(len(SIZES)), space=space)


def test_errors_name_the_value_and_the_way_out():
    net, (x_t, t, space) = network(context=1), batch()
    with pytest.raises(ValueError, match=r"x is .*; use the same batch"):
        net(x_t[1:], t, space=space)
    with pytest.raises(ValueError, match="one time for each item"):
        net(x_t, t[1:], space=space)
    with pytest.raises(ValueError, match=r"context is \(\d, 2\)"):
        net(x_t, t, space=space, context=torch.zeros(len(SIZES), 2))
    with pytest.raises(ValueError, match=r"the space is Packed, and PairNet needs Ragged"):
        network(pairs=0)(x_t, t, space=space)
    for wrong in (-1, 1.5):
        with pytest.raises(ValueError, match=f"pairs is {wrong}"):
            network(pairs=wrong)


@pytest.mark.slow
def test_the_bonds_of_a_few_molecules_are_learned():
    """They are read where the noisy ones do not tell them: from the positions."""
    torch.set_default_dtype(torch.float32)
    molecules, encoder = (
        load_qm9("5k").subset(range(0, 3200, 200)),
        Bonded(Atoms(charge_scale=None), 1.0),
    )
    x0, space, _ = encoder.unpack(next(iter(loader(molecules, 16, shuffle=False))))

    def read(state: Tensor) -> Tensor:
        """The order of each pair, 0 for no bond."""
        exists, order = space.unpack(state)["bonds"].T
        return torch.where(exists > 0, (1.5 * (order + 1)).round(), 0)

    orders = read(x0)
    torch.manual_seed(0)
    network = PairNet(encoder.features - 3, 64, 32, 8, 3, pairs=2)
    diffusion = GaussianDiffusion(network, Polynomial())
    optimizer = Muon(network.parameters(), lr=8e-3)
    for _ in range(120):
        optimizer.zero_grad()
        diffusion.loss(x0, space=space).mean().backward()
        optimizer.step()

    def right(state: Tensor) -> tuple[float, float]:
        """The share of all pairs whose order is read right, and of those with a bond."""
        same = read(state) == orders
        return same.float().mean().item(), same[orders > 0].float().mean().item()

    for t, least in ((0.05, (0.995, 0.98)), (0.4, (0.95, 0.65))):
        (level,) = diffusion.schedule.levels(torch.tensor([t]).double())
        x_t = level.alpha * x0 + level.sigma * space.noise(x0, torch.Generator().manual_seed(1))
        with torch.no_grad():
            learned = right(diffusion.predictor(space).predict(x_t, level).x0)
        assert all(a >= b for a, b in zip(learned, least, strict=True))
    assert right(x_t / level.alpha)[0] < 0.93  # all that the noisy bonds tell
