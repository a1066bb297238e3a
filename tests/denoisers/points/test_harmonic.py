"""The tensors of degree 2 and their products: what they tell apart, and what e3nn leaves in a network."""

import copy
import pickle
import sys

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from anydiff import Cosine, GaussianDiffusion, Ragged, load, save
from anydiff.denoisers import Harmonic
from tests.helpers.alone import alone
from tests.helpers.points import FEATURES, ROUNDING, batch

SMALL = {"features": FEATURES, "hidden": 16, "pair": 12, "tensors": 5, "layers": 2, "bases": 8}
C = SMALL["tensors"]


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def network(std=0.3, **arguments) -> Harmonic:
    """A small network with every path awake, also those that start at zero."""
    net = Harmonic(**SMALL | arguments)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return net


def rotation():
    q = torch.linalg.qr(torch.randn(3, 3)).Q
    return q * q.det()


def turned(x, matrix):
    return torch.cat([x[:, :3] @ matrix.T, x[:, 3:]], dim=1)


def scalars(net, positions):
    """What the network says of points that differ in their places alone, (FEATURES,)."""
    x = torch.tensor(positions, dtype=torch.float64)
    x = torch.cat([x, torch.ones(len(x), FEATURES)], dim=1)
    space = Ragged.from_sizes([len(x)], centered=3)
    return net(x, torch.tensor([0.3]), space=space)[:, 3:].sum(0)


# what is told apart

# the last point is beside the others' planes of symmetry
CHIRAL = [[0, 0, 0], [1.2, 0, 0], [0, 1.5, 0], [0, 0, 0.8], [0.4, 0.9, -0.7]]


def test_a_hand_and_its_mirror_image_differ_without_parity_alone():
    for mirror in (torch.diag(torch.tensor([1.0, 1.0, -1.0])), -rotation()):
        other = (torch.tensor(CHIRAL) @ mirror.T).tolist()
        net = network(0.5, parity=False)
        assert (scalars(net, other) - scalars(net, CHIRAL)).abs().max() > 1e-3
        net = network(0.5)
        torch.testing.assert_close(scalars(net, other), scalars(net, CHIRAL), **ROUNDING)


def test_without_parity_rotations_and_translations_still_count_for_nothing():
    net, (x_t, t, space) = network(parity=False), batch()
    out, matrix = net(x_t, t, space=space), rotation()
    there = net(turned(x_t, matrix) + torch.eye(3 + FEATURES)[0], t, space=space)
    torch.testing.assert_close(there, turned(out, matrix), **ROUNDING)
    mirrored = net(turned(x_t, -matrix), t, space=space)
    assert (mirrored - turned(out, -matrix)).abs().max() > 1e-3


def test_clouds_with_the_same_distances_differ():
    hook = [[0.0, 0, 0], [0, 1, 0], [0, 2, 0], [1, 3, 0]]
    step = [[0.0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 3, 0]]
    distances = [torch.pdist(torch.tensor(cloud)).sort().values for cloud in (hook, step)]
    torch.testing.assert_close(*distances, **ROUNDING)
    net = network()
    assert (scalars(net, hook) - scalars(net, step)).abs().max() > 1e-3


PATHS = {True: {0: 2, 1: 2, 2: 2}, False: {0: 2, 1: 4, 2: 4}}


@pytest.mark.parametrize("parity", [True, False])
def test_every_degree_and_every_product_is_alive(parity):
    net, (x_t, t, space) = network(parity=parity), batch()
    out = net(x_t, t, space=space)
    first, last = net.layers
    D = PATHS[parity][1] * C
    assert len(last.M) == 2 * D and PATHS[parity][2] == PATHS[parity][1]
    after = SMALL["hidden"] + SMALL["pair"]
    slices = {}
    for degree in range(2):
        own = slice(degree * C, (degree + 1) * C)
        slices |= {
            f"a pair sees degree {degree + 1}": last.Q.weight[:, own],
            f"a density of degree {degree + 1}": first.S.weight[own],
            f"k of degree {degree + 1}": first.k[degree],
            f"q of degree {degree + 1}": first.q[degree],
            f"lengths of degree {degree + 1}": last.first.weight[:, after + 2 * C :][:, own],
            f"scalars of degree {degree + 1}": last.first.weight[:, after:][:, own],
        }
        for k in range(PATHS[parity][degree + 1]):
            of = first.M[degree * D :][k * C : (k + 1) * C]
            slices[f"product {k} of degree {degree + 1}"] = of
    for name, weights in slices.items():
        with torch.no_grad():
            kept = weights.clone()
            weights.zero_()
            assert (net(x_t, t, space=space) - out).abs().max() > 1e-4, name
            weights.copy_(kept)
    torch.testing.assert_close(net(x_t, t, space=space), out, rtol=0, atol=0)


# numbers


def test_a_new_network_says_t_times_the_input():
    net, (x_t, t, space) = Harmonic(**SMALL), batch()
    expected = t[space.index, None] * x_t
    torch.testing.assert_close(net(x_t, t, space=space), expected, **ROUNDING)


@pytest.mark.parametrize("parity", [True, False])
def test_points_at_one_place_have_gradients(parity):
    net, (_, t, space) = network(parity=parity), batch([5, 2])
    x = torch.randn(7, 3 + FEATURES)
    x[1, :3] = x[0, :3]
    x[3, :3] = x[2, :3] + 1e-9 * torch.randn(3)
    x.requires_grad_()
    net(x, t, space=space).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() < 1e4
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("built", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_constants_are_exact_in_whatever_precision_a_network_was(built):
    """e3nn's own modules would keep those of their first dtype: 3e-7 off, or 3e-3."""
    net, (x_t, t, space) = network().to(built), batch()
    net(x_t.to(built), t, space=space)
    net = net.double()
    matrix = -rotation()
    out = net(x_t, t, space=space)
    error = net(turned(x_t, matrix), t, space=space) - turned(out, matrix)
    assert error.abs().max() / out.abs().max() < 1e-13


def test_half_precision_is_near():
    net, (x_t, t, space) = Harmonic(**SMALL).float(), batch()
    for layer in (net.readout[-1], net.pull):
        torch.nn.init.normal_(layer.weight, std=0.3)
    x_t, t = x_t.float(), t.float()
    exact = net(x_t, t, space=space)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(x_t, t, space=space)
        mixed.square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in net.parameters())
    out = net.bfloat16()(x_t.bfloat16(), t, space=space)
    assert out.dtype == torch.bfloat16
    for near in (mixed, out):  # bfloat16 has 8 bits
        torch.testing.assert_close(near.float(), exact, rtol=0.05, atol=0.05)


# what e3nn leaves


def forgotten():
    """What makes the algebra, which has made none."""
    from anydiff.denoisers.points.algebra import algebra_of

    algebra_of.__wrapped__.cache_clear()
    return algebra_of


def same(net, other):
    x_t, t, space = batch()
    torch.testing.assert_close(other(x_t, t, space=space), net(x_t, t, space=space), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["eager", "script"])  # the latter is the default of old torch
def test_copies_compute_the_same(tmp_path, mode):
    import e3nn

    forgotten()
    before = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_mode=mode)
    try:
        net = network(parity=False)
        same(net, net)
        assert e3nn.get_optimization_defaults()["jit_mode"] == mode
    finally:
        e3nn.set_optimization_defaults(jit_mode=before["jit_mode"])
    same(net, copy.deepcopy(net))
    same(net, pickle.loads(pickle.dumps(net)))
    same(net, AveragedModel(net))
    save(tmp_path / "m", GaussianDiffusion(net, Cosine(), "eps"))
    same(net, load(tmp_path / "m")[0].denoiser)


def test_a_network_holds_its_weights_and_nothing_else():
    net, (x_t, t, space) = network(), batch()
    net(x_t, t, space=space)
    assert net.state_dict().keys() == dict(net.named_parameters()).keys()


def test_the_first_call_may_be_in_any_mode_and_leaves_no_trace():
    algebra_of = forgotten()
    net, (x_t, t, space) = network().float(), batch()
    torch.set_default_dtype(torch.float32)
    x_t, t = x_t.float(), t.float()
    with torch.inference_mode():
        net(x_t, t, space=space)
    with torch.device("meta"):
        algebra_of(3, True, torch.float32, torch.device("cpu"))
    net(x_t.requires_grad_(), t, space=space).square().sum().backward()
    assert x_t.grad.isfinite().all() and torch.get_default_dtype() == torch.float32


@pytest.mark.slow
def test_compiled_it_computes_the_same():
    forgotten()
    net = network(layers=1)
    same(net, torch.compile(net, backend="eager"))


def imports(path):
    import anydiff.denoisers  # noqa: F401

    assert not {"e3nn", "torch._dynamo"} & sys.modules.keys()
    diffusion, _ = load(path)  # which plans the network on the device meta
    assert "e3nn" in sys.modules
    torch.set_default_dtype(torch.float64)
    expected = torch.load(f"{path}.out")
    x_t, t, space = batch()
    out = diffusion.denoiser(x_t, t, space=space)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_e3nn_is_imported_by_those_who_use_it(tmp_path):
    net, (x_t, t, space) = network(), batch()
    save(tmp_path / "m", GaussianDiffusion(net, Cosine(), "eps"))
    torch.save(net(x_t, t, space=space).detach(), tmp_path / "m.out")
    alone(imports, tmp_path / "m")


def test_without_e3nn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "e3nn", None)
    with pytest.raises(
        ImportError, match=r'e3nn.* is not installed: pip install "anydiff\[e3nn\]"'
    ):
        Harmonic(2)


@pytest.mark.parametrize("tensors", [0, -1, 2.5])
def test_there_is_at_least_one_tensor(tensors):
    with pytest.raises(ValueError, match="tensors is"):
        Harmonic(2, tensors=tensors)
