"""The Transformer keeps items to themselves, knows the order of rows, and starts at zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import anydiff
from anydiff.denoisers import Transformer
from anydiff.spaces import Masked

LENGTHS = torch.tensor([7, 1, 12, 4])
ROUNDING = {"rtol": 1e-10, "atol": 1e-10}  # float64; outputs are of order one
KINDS = {"plain": {}, "observed": {"observed": True}, "context": {"context": 2}}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def network(**options) -> Transformer:
    """A small network with every path awake, also those that start at zero."""
    net = Transformer(3, 16, 2, 2, **options)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def batch(**options):
    """x_t, t, space and conditions of a padded batch."""
    mask = torch.arange(12) < LENGTHS[:, None]
    observed = torch.rand(4, 12, 3) < 0.7 if options.get("observed") else None
    space = Masked(mask, observed)
    cond = {"context": torch.randn(4, 2)} if options.get("context") else {}
    return space.noise(torch.empty(4, 12, 3)), torch.rand(4), space, cond


@every_kind
def test_an_item_is_the_same_alone_and_in_a_batch(options):
    net = network(**options)
    x_t, t, space, cond = batch(**options)
    together = net(x_t, t, space=space, **cond)
    for b, n in enumerate(LENGTHS):
        observed = None if space.observed is None else space.observed[b : b + 1, :n]
        own = Masked(torch.ones(1, n, dtype=torch.bool), observed)
        alone = net(
            x_t[b : b + 1, :n],
            t[b : b + 1],
            space=own,
            **{k: v[b : b + 1] for k, v in cond.items()},
        )
        torch.testing.assert_close(together[b : b + 1, :n], alone, **ROUNDING)
    torch.testing.assert_close(together, space.project(together), rtol=0, atol=0)


@pytest.mark.parametrize("rubbish", [1e6, torch.nan], ids=str)
def test_padding_is_never_read(rubbish):
    net = network()
    x_t, t, space, _ = batch()
    dirty = torch.where(space.valid, x_t, rubbish)
    torch.testing.assert_close(net(dirty, t, space=space), net(x_t, t, space=space), rtol=0, atol=0)


def test_training_and_evaluation_agree():
    """PyTorch has a second implementation for eval mode without gradients."""
    net = network()
    x_t, t, space, _ = batch()
    trained = net(x_t, t, space=space)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x_t, t, space=space), trained, **ROUNDING)


def test_all_rows_are_valid_without_a_space():
    net, x_t, t = network(), torch.randn(2, 5, 3), torch.rand(2)
    full = Masked(torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(net(x_t, t), net(x_t, t, space=full), rtol=0, atol=0)


def test_an_item_without_rows_is_zero_and_has_no_nan():
    net = network()
    mask = torch.arange(6) < torch.tensor([[4], [0]])
    x_t, t = torch.randn(2, 6, 3), torch.rand(2)
    y = net(x_t, t, space=Masked(mask))
    y.square().sum().backward()
    assert not y[1].any() and y[0, :4].all()
    with torch.no_grad():  # masked attention in PyTorch's implementation for evaluation too
        torch.testing.assert_close(net.eval()(x_t, t, space=Masked(mask)), y, **ROUNDING)
    assert all(p.grad.isfinite().all() for p in net.parameters())
    torch.testing.assert_close(y[:1, :4], net(x_t[:1, :4], t[:1]), **ROUNDING)


def test_both_ends_place_a_row():
    """Equal rows differ by their places, from either end, even if they cannot see each other."""
    net, t = network(), torch.tensor([0.5])
    for layer in net.encoder.layers:
        for module in (layer.self_attn.out_proj, layer.linear2):
            nn.init.zeros_(module.weight)
    rows = torch.cat([net(torch.ones(1, n, 3), t)[0] for n in (5, 6)])
    assert (torch.cdist(rows, rows) + torch.eye(11)).min() > 1e-3

    net = network()
    x_t = torch.randn(1, 5, 3)
    order = torch.tensor([1, 0, 2, 3, 4])
    assert (net(x_t[:, order], t) - net(x_t, t)[:, order]).abs().max() > 1e-2


def test_every_row_depends_on_every_other():
    net = network()
    x_t = torch.randn(1, 6, 3, requires_grad=True)
    y = net(x_t, torch.tensor([0.3]))
    for n in range(6):
        (gradient,) = torch.autograd.grad(y[0, n].sum(), x_t, retain_graph=True)
        assert (gradient.abs().amax(2) > 0).all()


def test_a_new_network_predicts_zero_with_layers_of_their_own():
    net = Transformer(3, 16, 2, 2)
    assert not net(torch.randn(2, 5, 3), torch.rand(2)).any()
    first, second = (layer.linear1.weight for layer in net.encoder.layers)
    assert (first - second).abs().max() > 0.01


def test_a_checkpoint_brings_it_back(tmp_path):
    net = network(context=2, observed=True, dropout=0.1, expansion=2)
    anydiff.save(tmp_path / "m.safetensors", anydiff.GaussianDiffusion(net))
    again = anydiff.load(tmp_path / "m.safetensors")[0].denoiser
    x_t, t, space, cond = batch(context=2, observed=True)
    torch.testing.assert_close(
        again(x_t, t, space=space, **cond), net.eval()(x_t, t, space=space, **cond)
    )


def test_it_learns_to_tell_noise_from_a_line():
    torch.set_default_dtype(torch.float32)
    net = Transformer(2, 16, 1, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    line = torch.linspace(-1, 1, 8)[:, None].expand(8, 2)
    losses = []
    for _ in range(80):
        lengths = torch.randint(4, 9, (32,))
        space = Masked(torch.arange(8) < lengths[:, None])
        t, eps = torch.rand(32), space.noise(torch.empty(32, 8, 2))
        alpha, sigma = torch.cos(t * torch.pi / 2), torch.sin(t * torch.pi / 2)
        x_t = space.project(alpha[:, None, None] * line + sigma[:, None, None] * eps)
        error = space.sum((net(x_t, t, space=space) - eps) ** 2) / space.dim(x_t)
        optimizer.zero_grad()
        error.mean().backward()
        optimizer.step()
        losses.append(float(error.detach().mean()))
    assert 0.8 < losses[0] < 1.2 and sum(losses[-20:]) / 20 < 0.35


def test_wrong_inputs_are_named():
    net = network()
    with pytest.raises(ValueError, match=r"expected \(B, N, 3\)"):
        net(torch.zeros(2, 5, 2), torch.rand(2))
    with pytest.raises(ValueError, match=r"expected \(2,\)"):
        net(torch.zeros(2, 5, 3), torch.rand(3))
    with pytest.raises(ValueError, match="context=0"):
        net(torch.zeros(2, 5, 3), torch.rand(2), context=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="multiple of 4"):
        Transformer(3, 18)
