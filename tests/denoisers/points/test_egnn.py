"""The E(n) network is EDM's, commutes with motions and permutations; its gradients are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from anydiff.denoisers.points import edges
from anydiff.denoisers.points.egnn import EGNN
from anydiff.spaces import Ragged
from tests.helpers.count import Reads
from tests.helpers.paths import GOLDENS
from tests.helpers.points import FEATURES, ROUNDING, SIZES, batch
from tests.helpers.published_egnn import PublishedEGNN
from tests.helpers.textbook_egnn import TextbookEGNN


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def network(**arguments) -> EGNN:
    """A small network whose positions move by about an ångström, as in a trained one."""
    net = EGNN(**{"features": FEATURES, "hidden": 16, "layers": 2, **arguments})
    for name, parameter in net.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def padded(rows: Tensor, mask: Tensor) -> Tensor:
    return rows.new_zeros(*mask.shape, rows.shape[1]).masked_scatter(mask[..., None], rows)


def golden() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    with np.load(GOLDENS / "edm_egnn.npz") as data:
        arrays = {name: torch.from_numpy(data[name]) for name in data.files}
    weights = {
        name.removeprefix("weights/"): weight
        for name, weight in arrays.items()
        if name.startswith("weights/")
    }
    return arrays, weights


# EDM's function


def test_agrees_with_edm():
    arrays, weights = golden()
    space = Ragged.from_sizes(arrays["sizes"], centered=3)
    eps_hat = EGNN.from_edm(weights)(arrays["x_t"], arrays["step"].double() / 1000, space=space)
    torch.testing.assert_close(eps_hat, arrays["eps_hat"], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"attention": False},
        {"tanh": False, "normalization_factor": 7.0},
        {"norm_constant": 0.5, "coords_range": 2.0, "layers": 3},
        {"context": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("form", [TextbookEGNN, PublishedEGNN])
def test_outputs_and_gradients_are_those_of_the_textbook_form(form, arguments):
    size = {"features": FEATURES, "hidden": 16, "layers": 2, **arguments}
    textbook = form(**size)
    for k in range(size["layers"]):  # pulls of the size of a trained network's
        head = textbook.egnn.get_submodule(f"e_block_{k}").gcl_equiv.coord_mlp[-1]
        torch.nn.init.normal_(head.weight, std=0.1)
    net = EGNN.from_edm(textbook.state_dict(), **arguments)

    x_t, t, space = batch()
    mask = torch.arange(max(SIZES)) < torch.tensor(SIZES)[:, None]
    context = torch.randn(len(x_t), 2) if "context" in arguments else None
    columns = None if context is None else padded(context, mask)
    weight = torch.randn_like(x_t)  # so that every output has its own gradient

    rows, dense = x_t.clone().requires_grad_(), x_t.clone().requires_grad_()
    ours = net(rows, t, space=space, context=context)
    theirs = textbook(padded(dense, mask), t, mask, columns)[mask]
    torch.testing.assert_close(ours, theirs, **ROUNDING)

    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(rows.grad, dense.grad, **ROUNDING)
    # the same names on both sides
    translated = EGNN.from_edm(
        {name: p.grad for name, p in textbook.named_parameters()}, **arguments
    )
    expected = dict(translated.named_parameters())
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].data, **ROUNDING, msg=name)


def test_the_range_of_the_pulls_does_not_depend_on_the_number_of_layers():
    # One layer of four moves the points, and its tanh is saturated: each of two points is pulled by
    # range · u, with |u| = distance / (distance + 1).
    net = network(layers=4)
    with torch.no_grad():
        for block in net.blocks:
            block.coordinates.head.weight.zero_()
        last = net.blocks[-1].coordinates
        last.second.bias.fill_(1.0)
        last.second.weight.zero_()
        last.head.weight.fill_(1e6)
    x_t = torch.zeros(2, 3 + FEATURES)
    x_t[0, 0], x_t[1, 0] = 1.0, -1.0
    out = net(x_t, torch.rand(1), space=Ragged.from_sizes([2], centered=3))
    assert out[:, 0].tolist() == pytest.approx([15 * 2 / 3, -15 * 2 / 3], rel=1e-6)


# numerics


@pytest.mark.slow
@pytest.mark.parametrize("attention", [True, False])
def test_gradients_of_a_tiny_network(attention):
    net = network(hidden=3, layers=2, attention=attention)
    x_t, t, space = batch([3, 1, 2])
    names = [name for name, _ in net.named_parameters()]

    def output(x_t: Tensor, *parameters: Tensor) -> Tensor:
        arguments = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(net, arguments, (x_t, t), {"space": space})

    parameters = [p.detach().requires_grad_() for p in net.parameters()]
    assert torch.autograd.gradcheck(output, (x_t.requires_grad_(), *parameters))


def test_gradients_survive_other_passes_in_between():
    # the memory of one pass must not be another's while both are alive
    net, (x_t, t, space) = network(), batch()
    expected = torch.autograd.grad(net(x_t, t, space=space).square().sum(), net.parameters())

    loss = net(x_t, t, space=space).square().sum()
    other = net(2 * x_t, t, space=space).square().sum()
    with torch.inference_mode():
        net(3 * x_t, t, space=space)
    for _ in range(2):  # the second time over a graph that was retained
        gradients = torch.autograd.grad(loss, net.parameters(), retain_graph=True)
        other.backward(retain_graph=True)
        for gradient, reference in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=0, atol=0)


def test_the_memory_of_a_step_serves_the_next():
    net, (x_t, t, space) = network(hidden=13), batch()

    def addresses_after_a_step() -> set[int]:
        net(x_t, t, space=space).square().sum().backward()
        return {m.data_ptr() for key, free in edges._free.items() if key[1] == 13 for m in free}

    first = addresses_after_a_step()
    assert first
    assert addresses_after_a_step() == first


def test_trains_after_inference_mode_and_on_batches_of_other_sizes():
    net = network(hidden=11)
    with torch.inference_mode():
        x_t, t, space = batch([4, 4])
        net(x_t, t, space=space)
    for sizes in ([4, 4], [9, 9], [2], [9, 9]):
        x_t, t, space = batch(sizes)
        net(x_t, t, space=space).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_no_grad_computes_the_same():
    net, (x_t, t, space) = network(), batch()
    with torch.no_grad():
        out = net(x_t, t, space=space)
    assert not out.requires_grad
    torch.testing.assert_close(out, net(x_t, t, space=space), rtol=0, atol=0)


def test_autocast_runs_forward_and_backward_near_the_float32_result():
    net, (x_t, t, space) = network().float(), batch()
    x_t, t = x_t.float(), t.float()
    exact = net(x_t, t, space=space)
    with torch.autocast("cpu", dtype=torch.float16):
        out = net(x_t, t, space=space)
        out.square().mean().backward()
    assert out.dtype == torch.float32
    # float16 has 11 bits
    torch.testing.assert_close(out, exact, rtol=0.02, atol=0.02)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in net.parameters())


def test_the_edges_go_backward_in_the_type_they_went_forward():
    _, _, space = batch()
    N, F = len(space.index), 8
    shapes = {"w": (F,), "b": (), "P": (N, F), "Q": (N, F), "e": (2, space.edge_index.shape[1])}
    shapes |= {"W_e": (2, F), "W2": (F, F), "b2": (F,)}
    inputs = [torch.randn(shape, dtype=torch.float32).requires_grad_() for shape in shapes.values()]
    out = edges.EdgeSum.apply(edges.graph_of(space), *inputs)
    grad = torch.ones_like(out)
    expected = torch.autograd.grad(out, inputs, grad, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.float16):
        gradients = torch.autograd.grad(out, inputs, grad)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=0)


@pytest.mark.parametrize("most", [1, 80, 150])
def test_the_parts_of_a_batch_change_nothing(monkeypatch, most):
    net, (x_t, t, space) = network(), batch()
    net(x_t, t, space=space).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()

    monkeypatch.setattr(edges, "EDGES_PER_PART", most)
    again = Ragged(space.index, space.num_items, centered=3)
    parts = edges.graph_of(again).parts
    assert len(parts) == {1: 5, 80: 3, 150: 2}[most]
    assert all(torch.equal(p.i + p.rows.start, again.edge_index[0, p.edges]) for p in parts)
    net(x_t, t, space=again).square().sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], **ROUNDING, msg=name)


def test_edges_are_built_once_for_all_steps():
    net, (x_t, t, space) = network(), batch()
    net(x_t, t, space=space)
    with Sorts() as sorts:
        net(x_t, t, space=space)
    assert sorts.count == 0


class Sorts(Reads):
    waits = {  # noqa: RUF012
        torch.ops.aten.sort.default,
        torch.ops.aten.sort.stable,
        torch.ops.aten.cumsum.default,
    }


# checkpoints, configuration, errors


def test_from_edm_reads_published_checkpoints():
    arrays, weights = golden()
    published = {f"dynamics.{name}": weight for name, weight in weights.items()}
    published |= {"gamma.gamma": torch.zeros(1001), "buffer": torch.zeros(1)}
    plain, behind = EGNN.from_edm(weights), EGNN.from_edm(published)
    assert plain.config == behind.config == EGNN(features=6, hidden=16, layers=2).config
    space = Ragged.from_sizes(arrays["sizes"], centered=3)
    t = arrays["step"].double() / 1000
    torch.testing.assert_close(
        plain(arrays["x_t"], t, space=space), behind(arrays["x_t"], t, space=space), rtol=0, atol=0
    )


def test_from_edm_infers_what_shapes_tell():
    weights = TextbookEGNN(5, hidden=8, layers=3, context=2, attention=False).state_dict()
    config = EGNN.from_edm(weights, context=2, coords_range=4.0).config
    expected = {"features": 5, "hidden": 8, "layers": 3, "context": 2, "attention": False}
    assert {name: config[name] for name in expected} == expected
    assert config["coords_range"] == 4.0
    assert EGNN.from_edm(weights).config["features"] == 7


def test_from_edm_knows_several_message_layers_in_a_block():
    _, weights = golden()
    for name, weight in list(weights.items()):
        if ".gcl_0." in name:
            weights[name.replace(".gcl_0.", ".gcl_1.")] = weight.clone()
    assert EGNN.from_edm(weights).config["sublayers"] == 2


def test_from_edm_names_what_does_not_fit():
    _, weights = golden()
    lacking = dict(weights)
    del lacking["egnn.e_block_1.gcl_0.node_mlp.2.bias"]
    with pytest.raises(ValueError, match=r"egnn.e_block_1.gcl_0.node_mlp.2.bias is absent, not \("):
        EGNN.from_edm(lacking)
    with pytest.raises(ValueError, match=r"egnn.e_block_1.gcl_0.rotary is \(1,\), not absent"):
        EGNN.from_edm({**weights, "egnn.e_block_1.gcl_0.rotary": torch.zeros(1)})
    wide = {**weights, "egnn.e_block_0.gcl_0.edge_mlp.0.weight": torch.zeros(16, 56)}
    with pytest.raises(ValueError, match=r"edge_mlp.0.weight is \(16, 56\), not \(16, 34\)"):
        EGNN.from_edm(wide)
    with pytest.raises(ValueError, match=r"egnn\.embedding\.weight"):
        EGNN.from_edm({"unet.conv.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x_t": torch.zeros(29, 8)}, r"not \(29, 7\)"),
        ({"x_t": torch.zeros(28, 7)}, r"x_t is \(28, 7\).*not \(29, 7\)"),
        ({"t": torch.zeros(29)}, r"t is \(29,\).*not \(5\)"),
        ({"context": torch.zeros(5, 2)}, "built with context=0"),
    ],
    ids=str,
)
def test_errors_name_the_value_and_the_way_out(change, message):
    x_t, t, space = batch()
    arguments = {"x_t": x_t, "t": t, "space": space, **change}
    with pytest.raises(ValueError, match=message):
        network()(**arguments)
