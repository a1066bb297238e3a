"""What every denoiser for points in space owes to the points: motions, order, batches, small items."""

import json

import pytest
import torch
from e3nn import o3
from torch import Tensor

from anydiff import Dense, GaussianDiffusion, Polynomial, Ragged
from anydiff.denoisers import EGNN, Harmonic, PairNet
from tests.helpers.count import Reads
from tests.helpers.points import FEATURES, ROUNDING, SIZES, batch

PAIRNET = {"features": FEATURES, "hidden": 16, "pair": 12, "vectors": 5, "layers": 2, "bases": 8}
HARMONIC = {"features": FEATURES, "hidden": 16, "pair": 12, "tensors": 5, "layers": 2, "bases": 8}
KINDS = {
    "EGNN": (EGNN, {"features": FEATURES, "hidden": 16, "layers": 2}),
    "PairNet": (PairNet, PAIRNET),
    "PairNet, modulated": (PairNet, {**PAIRNET, "modulated": True}),
    "Harmonic": (Harmonic, HARMONIC),
}
every_network = pytest.mark.parametrize("name", KINDS)


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def network(name, **arguments):
    """A small network with every path awake, also those that start at zero."""
    kind, own = KINDS[name]
    net = kind(**(own | arguments))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def moved(x: Tensor, rotation: Tensor) -> Tensor:
    return torch.cat([x[:, :3] @ rotation.T, x[:, 3:]], dim=1)


@every_network
@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
def test_commutes_with_rotations_and_reflections(name, sign):
    net, (x_t, t, space) = network(name), batch()
    rotation = sign * o3.rand_matrix()
    out = net(x_t, t, space=space)
    assert out[:, :3].abs().max() > 0.1  # there is something to rotate
    torch.testing.assert_close(
        net(moved(x_t, rotation), t, space=space), moved(out, rotation), **ROUNDING
    )


@every_network
def test_translations_change_nothing(name):
    net, (x_t, t, space) = network(name), batch()
    shift = torch.zeros(len(SIZES), x_t.shape[1])
    shift[:, :3] = 3 * torch.randn(len(SIZES), 3)  # each item its own
    out = net(x_t + shift[space.index], t, space=space)
    torch.testing.assert_close(out, net(x_t, t, space=space), **ROUNDING)


@every_network
def test_time_and_features_are_seen(name):
    net, (x_t, t, space) = network(name), batch()
    out = net(x_t, t, space=space)
    assert (net(x_t, 1 - t, space=space) - out).abs().max() > 1e-3
    changed = x_t.clone()
    changed[:, 3:] += 1
    assert (net(changed, t, space=space) - out)[:, :3].abs().max() > 1e-3


@every_network
def test_permuting_the_rows_of_an_item_permutes_its_output(name):
    net, (x_t, t, space) = network(name), batch()
    order = torch.cat(
        [start + torch.randperm(n) for start, n in zip(space.ptr.tolist(), SIZES, strict=False)]
    )
    torch.testing.assert_close(
        net(x_t[order], t, space=space), net(x_t, t, space=space)[order], **ROUNDING
    )


@every_network
def test_an_item_does_not_see_the_rest_of_its_batch(name):
    net, (x_t, t, space) = network(name), batch()
    out = net(x_t, t, space=space)
    for b, rows in enumerate(x_t.split(SIZES)):
        alone = net(rows, t[b : b + 1], space=Ragged.from_sizes([len(rows)], centered=3))
        torch.testing.assert_close(alone, out[space.index == b], **ROUNDING)


@every_network
def test_the_output_lies_in_the_space(name):
    net, (x_t, t, space) = network(name), batch()
    out = net(x_t, t, space=space)
    torch.testing.assert_close(space.project(out), out, rtol=0, atol=1e-12)


@every_network
@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [2], [1, 2]], ids=str)
def test_the_smallest_items(name, sizes):
    net, (x_t, t, space) = network(name), batch(sizes)
    x_t.requires_grad_()
    out = net(x_t, t, space=space)
    single = torch.tensor(sizes)[space.index] == 1
    assert (out[single, :3] == 0).all()  # nothing pulls, and the mean of one is itself
    assert out[:, 3:].abs().min() > 0
    out.square().sum().backward()
    assert x_t.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@every_network
def test_context_has_influence_and_keeps_the_symmetry(name):
    net, (x_t, t, space) = network(name, context=2), batch()
    context, rotation = torch.randn(len(SIZES), 2), -o3.rand_matrix()
    out = net(x_t, t, space=space, context=context)
    assert (net(x_t, t, space=space, context=context + 1) - out).abs().max() > 1e-3
    rows = context[space.index]
    torch.testing.assert_close(net(x_t, t, space=space, context=rows), out, **ROUNDING)
    torch.testing.assert_close(
        net(moved(x_t, rotation), t, space=space, context=context), moved(out, rotation), **ROUNDING
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["EGNN", "PairNet", "Harmonic"]
)  # what is written by hand is in these
def test_gradients_are_right(name):
    net, (x_t, t, space) = network(name), batch([3, 1, 2])
    assert torch.autograd.gradcheck(lambda x: net(x, t, space=space), x_t.requires_grad_())
    parameters = [p for p in net.parameters() if p.numel() <= 48]
    names = [n for n, p in net.named_parameters() if p.numel() <= 48]

    def output(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(net, given, (x_t.detach(), t), {"space": space})

    assert torch.autograd.gradcheck(output, tuple(p.detach().requires_grad_() for p in parameters))


@every_network
def test_reads_nothing_back_once_the_structure_is_built(name):
    net, (x_t, t, space) = network(name), batch()
    net(x_t, t, space=space)
    with Reads() as reads:
        net(x_t, t, space=space).square().sum().backward()
    assert reads.count == 0


@every_network
def test_samples_move_with_their_noise(name):
    """The whole chain is equivariant: x_T turned gives the molecule turned."""
    from anydiff import DDIM, sample

    diffusion = GaussianDiffusion(network(name), Polynomial())
    x_T, _, space = batch()
    for parameter in diffusion.parameters():
        parameter.data.mul_(0.3)
    rotation = -o3.rand_matrix()
    x0 = sample(diffusion.predictor(space), x_T, DDIM(), 5)
    turned = sample(diffusion.predictor(space), moved(x_T, rotation), DDIM(), 5)
    # rounding, magnified by the first steps' 1 / alpha, 300
    torch.testing.assert_close(turned, moved(x0, rotation), rtol=1e-6, atol=1e-6)


@every_network
def test_the_config_is_json_and_builds_the_same_network(name):
    net = network(name, context=1)
    again = KINDS[name][0](**json.loads(json.dumps(net.config)))
    again.load_state_dict(net.state_dict())
    assert again.config == net.config


@every_network
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, t, s: (x[:, 1:], t, s), r"not \(\d+, 7\)"),
        (lambda x, t, s: (x[1:], t, s), "same batch's space"),
        (lambda x, t, s: (x, t[1:], s), "one time for each item"),
        (
            lambda x, t, s: (x, t, Dense()),
            "the space is Dense, and (EGNN|PairNet|Harmonic) needs Ragged",
        ),
    ],
)
def test_errors_name_the_value_and_the_way_out(name, change, message):
    x_t, t, space = change(*batch())
    with pytest.raises(ValueError, match=message):
        network(name)(x_t, t, space=space)
    x_t, t, space = batch()
    with pytest.raises(ValueError, match=r"context is \(\d, 2\)"):
        network(name)(x_t, t, space=space, context=torch.zeros(len(SIZES), 2))
