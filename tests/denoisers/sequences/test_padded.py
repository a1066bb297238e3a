"""What every denoiser for padded sequences owes to its items; what is special about each."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import anydiff
from anydiff import DDPM, Cosine, Dense, GaussianDiffusion, Masked, Ragged
from anydiff.denoisers import BiRNN, Transformer
from anydiff.training.muon import Muon

LENGTHS = [7, 1, 12, 4]
ROUNDING = {"rtol": 1e-10, "atol": 1e-10}  # float64; outputs are of order one
KINDS = {
    "gru": (BiRNN, {}),
    "lstm": (BiRNN, {"cell": "lstm"}),
    "chirodiff": (BiRNN, {"residual": False, "velocity": 2}),
    "no velocity": (BiRNN, {"velocity": 0}),
    "gru, observed": (BiRNN, {"observed": True}),
    "gru, context": (BiRNN, {"context": 2}),
    "chirodiff, context": (BiRNN, {"residual": False, "context": 2}),
    "transformer": (Transformer, {}),
    "transformer, observed": (Transformer, {"observed": True}),
    "transformer, context": (Transformer, {"context": 2, "expansion": 2}),
}
every_two = pytest.mark.parametrize("kind", [BiRNN, Transformer])
every_kind = pytest.mark.parametrize("kind, options", KINDS.values(), ids=KINDS)


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def network(kind=BiRNN, **options):
    """A small network with every path awake, also those that start at zero."""
    net = kind(3, 8, 2, **options)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def batch(**options):
    """x_t, t, space and conditions of a padded batch."""
    space = Masked.from_lengths(LENGTHS)
    x_t = space.noise(torch.empty(*space.mask.shape, 3))
    if options.get("observed"):
        observed = torch.rand(x_t.shape) < 0.7
        observed[..., 0] = True  # something of every row
        space = Masked(space.mask, observed)
        x_t = space.project(x_t)
    cond = {"context": torch.randn(len(LENGTHS), 2)} if options.get("context") else {}
    return x_t, torch.rand(len(LENGTHS)), space, cond


@every_kind
def test_an_item_is_the_same_alone_and_in_a_batch(kind, options):
    net = network(kind, **options)
    x_t, t, space, cond = batch(**options)
    together = net(x_t, t, space=space, **cond)
    for b, n in enumerate(LENGTHS):
        observed = None if space.observed is None else space.observed[b : b + 1, :n]
        own = Masked(torch.ones(1, n, dtype=torch.bool), observed)
        of = {k: v[b : b + 1] for k, v in cond.items()}
        alone = net(x_t[b : b + 1, :n], t[b : b + 1], space=own, **of)
        torch.testing.assert_close(together[b, :n], alone[0], **ROUNDING)
        assert not together[b, n:].any()


@every_kind
def test_more_padding_changes_neither_output_nor_gradient(kind, options):
    net = network(kind, **options)
    x_t, t, space, cond = batch(**options)

    def run(x_t, space):
        net.zero_grad()
        y = net(x_t, t, space=space, **cond)
        y.square().sum().backward()
        return y.detach(), [p.grad.clone() for p in net.parameters()]

    y, gradients = run(x_t, space)
    longer = [nn.functional.pad(a, (0, 0, 0, 5)) for a in (x_t, space.mask[..., None])]
    observed = space.observed
    observed = None if observed is None else nn.functional.pad(observed, (0, 0, 0, 5), value=True)
    y_longer, gradients_longer = run(longer[0], Masked(longer[1][..., 0], observed))
    torch.testing.assert_close(y_longer[:, : y.shape[1]], y, **ROUNDING)
    torch.testing.assert_close(gradients_longer, gradients, **ROUNDING)


@every_kind
def test_what_stands_outside_the_space_is_not_read(kind, options):
    net = network(kind, **options)
    x_t, t, space, cond = batch(**options)
    expected = net(x_t, t, space=space, **cond)
    nan = x_t.masked_fill(~space.valid.expand_as(x_t), torch.nan)
    if cond:
        context = cond["context"][:, None].repeat(1, x_t.shape[1], 1)
        cond = {"context": context.masked_fill(~space.mask[..., None], torch.nan)}
    y = net(nan, t, space=space, **cond)
    torch.testing.assert_close(y, expected, **ROUNDING)
    y.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_no_velocity_leads_to_or_from_a_missing_value():
    net = network(observed=True)
    observed = torch.ones(1, 4, 3, dtype=torch.bool)
    observed[0, 1, 0] = observed[0, 3, 2] = False
    space = Masked(torch.ones(1, 4, dtype=torch.bool), observed)
    x_t = space.project(torch.tensor([[[1.0, 2, 3], [9, 5, 5], [4, 7, 8], [7, 7, 9]]]))
    expected = torch.tensor([[[0.0, 0, 0], [0, 3, 2], [0, 2, 3], [3, 0, 0]]])
    torch.testing.assert_close(net._velocity(x_t, space), expected)


@every_kind
def test_every_row_and_the_time_and_the_condition_reach_every_row(kind, options):
    net = network(kind, **options)
    x_t, t, space, cond = batch(**options)
    y = net(x_t, t, space=space, **cond)

    def rows_that_change(x_t, t, **cond):
        changed = (net(x_t, t, space=space, **cond) - y).abs().amax(2) > 0
        return changed[2]  # the longest item, all of its rows valid

    for row in (0, 5, 11):
        moved = x_t.clone()
        moved[2, row] += 1.0
        assert rows_that_change(moved, t, **cond).all()
    assert rows_that_change(x_t, t + 0.1, **cond).all()
    if cond:
        assert rows_that_change(x_t, t, context=cond["context"] + 1).all()


@every_two
def test_all_rows_are_valid_without_a_space(kind):
    net, x_t, t = network(kind), torch.randn(2, 5, 3), torch.rand(2)
    full = Masked(torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(net(x_t, t), net(x_t, t, space=full), rtol=0, atol=0)
    torch.testing.assert_close(net(x_t, t, space=Dense()), net(x_t, t), rtol=0, atol=0)


@every_two
def test_training_and_evaluation_agree(kind):
    """PyTorch has a second implementation for eval mode without gradients."""
    net = network(kind)
    x_t, t, space, _ = batch()
    trained = net(x_t, t, space=space)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x_t, t, space=space), trained, **ROUNDING)


@every_two
def test_an_item_without_rows_is_zero_and_has_no_nan(kind):
    net = network(kind)
    mask = torch.arange(6) < torch.tensor([[4], [0]])
    x_t, t = torch.randn(2, 6, 3), torch.rand(2)
    y = net(x_t, t, space=Masked(mask))
    y.square().sum().backward()
    assert not y[1].any() and y[0, :4].all()
    with torch.no_grad():  # masked attention in PyTorch's implementation for evaluation too
        torch.testing.assert_close(net.eval()(x_t, t, space=Masked(mask)), y, **ROUNDING)
    assert all(p.grad.isfinite().all() for p in net.parameters())
    torch.testing.assert_close(y[:1, :4], net(x_t[:1, :4], t[:1]), **ROUNDING)


def test_chirodiff_as_published():
    """Its 416,859 parameters, and its equations over PyTorch's packed GRU."""
    net = BiRNN(3, hidden=96, layers=3, residual=False, velocity=2)
    assert sum(p.numel() for p in net.parameters()) == 416_859

    gru = nn.GRU(5 + 8, 96, 3, batch_first=True, bidirectional=True)
    own = {
        name.replace("_l0", f"_l{k}"): p
        for k, layer in enumerate(net.layers)
        for name, p in layer.named_parameters()
    }
    gru.load_state_dict(own)
    x_t, t, space, _ = batch()
    velocity = torch.zeros(*x_t.shape[:2], 2)
    velocity[:, 1:] = x_t[:, 1:, :2] - x_t[:, :-1, :2]
    angle = 2 * torch.pi * 4 * t[:, None] * net.time.w
    time = torch.cat([angle.sin(), angle.cos()], 1)[:, None].expand(-1, x_t.shape[1], -1)
    packed = pack_padded_sequence(
        torch.cat([x_t, velocity, time], 2), torch.tensor(LENGTHS), True, enforce_sorted=False
    )
    h, _ = pad_packed_sequence(gru(packed)[0], batch_first=True)
    y = net.head(torch.cat([net.merge(h), time], 2)) * space.mask[..., None]
    torch.testing.assert_close(net(x_t, t, space=space), y, **ROUNDING)


@every_kind
def test_a_checkpoint_brings_it_back(kind, options, tmp_path):
    net = network(kind, **options)
    anydiff.save(tmp_path / "m.safetensors", GaussianDiffusion(net, Cosine()))
    diffusion, _ = anydiff.load(tmp_path / "m.safetensors")
    x_t, t, space, cond = batch(**options)
    expected = net(x_t, t, space=space, **cond)
    torch.testing.assert_close(diffusion.denoiser(x_t, t, space=space, **cond), expected)


@pytest.mark.slow
def test_the_recurrent_network_learns_lines():
    """Two ends of a line decide its middle: drawn lines must be straight, at any of the lengths."""
    torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(0)
    diffusion = GaussianDiffusion(BiRNN(2, 32, 2), Cosine(), "eps")
    optimizer = Muon(diffusion.parameters(), 0.02)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)

    def lines(num):
        space = Masked.from_lengths(torch.randint(3, 9, (num,), generator=generator))
        ends = torch.randn(2, num, 1, 2, generator=generator)
        along = torch.arange(space.mask.shape[1])[None, :, None] / (
            space.lengths[:, None, None] - 1
        )
        return space.project(ends[0] * (1 - along) + ends[1] * along), space

    for _ in range(300):
        x0, space = lines(64)
        optimizer.zero_grad()
        diffusion.loss(x0, space=space, generator=generator).mean().backward()
        optimizer.step()
        decay.step()

    _, space = lines(200)
    x = diffusion.sample((*space.mask.shape, 2), space=space, sampler=DDPM(), steps=50, seed=0)
    second = x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]
    valid = space.mask[:, 2:]
    bend = second[valid].square().mean().sqrt()
    step = (x[:, 1:] - x[:, :-1])[space.mask[:, 1:]].square().mean().sqrt()
    # noise has √3 of it, lines none, rows that do not see one another's states 0.47; from several
    # initial weights, training leaves 0.16 to 0.18
    assert bend < 0.35 * step
    ends = torch.stack([x[:, 0], x[torch.arange(200), space.lengths - 1]])
    assert 0.75 < ends.std() < 1.25


def test_both_ends_place_a_row():
    """Equal rows differ by their places, from either end, even if they cannot see each other."""
    net, t = network(Transformer), torch.tensor([0.5])
    for layer in net.encoder.layers:
        for module in (layer.self_attn.out_proj, layer.linear2):
            nn.init.zeros_(module.weight)
    rows = torch.cat([net(torch.ones(1, n, 3), t)[0] for n in (5, 6)])
    assert (torch.cdist(rows, rows) + torch.eye(11)).min() > 1e-3

    net = network(Transformer)
    x_t = torch.randn(1, 5, 3)
    order = torch.tensor([1, 0, 2, 3, 4])
    assert (net(x_t[:, order], t) - net(x_t, t)[:, order]).abs().max() > 1e-2


def test_a_new_transformer_predicts_zero_with_layers_of_their_own():
    net = Transformer(3, 16, 2)
    assert not net(torch.randn(2, 5, 3), torch.rand(2)).any()
    first, second = (layer.linear1.weight for layer in net.encoder.layers)
    assert (first - second).abs().max() > 0.01


def test_the_transformer_learns_to_tell_noise_from_a_line():
    torch.set_default_dtype(torch.float32)
    net = Transformer(2, 16, 1, heads=2)
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


@every_two
def test_a_call_that_does_not_fit_says_how(kind):
    net = network(kind, context=2)
    x_t, t, space, cond = batch(context=2)
    with pytest.raises(ValueError, match=r"not \(\*, \*, 3\)"):
        net(x_t[..., :2], t, space=space, **cond)
    with pytest.raises(ValueError, match="same batch"):
        net(x_t[:, :5], t, space=space, **cond)
    with pytest.raises(ValueError, match="a time for each item"):
        net(x_t, t[:2], space=space, **cond)
    with pytest.raises(ValueError, match=r"context is .*; give .*, 2\)"):
        net(x_t, t, space=space, context=cond["context"][:, :1])
    missing = Masked(space.mask, torch.rand(x_t.shape) < 0.5)
    with pytest.raises(ValueError, match="observed=True"):
        net(x_t, t, space=missing, **cond)
    narrow = Masked(space.mask, space.mask[..., None])
    with pytest.raises(ValueError, match=r"not \(4, 12, 1\)"):
        network(kind, observed=True)(x_t, t, space=narrow)
    with pytest.raises(ValueError, match=f"is Ragged, and {kind.__name__} takes padded sequences"):
        net(x_t, t, space=Ragged.from_sizes(LENGTHS), **cond)
    with pytest.raises(ValueError, match=r"velocity is 4; give a number in \[0, 3\]"):
        BiRNN(3, velocity=4)
    with pytest.raises(ValueError, match="multiple of 4"):
        Transformer(3, 18)


@every_two
def test_padding_in_front_or_in_between_is_refused(kind):
    """Both count rows from the first: where an item begins later, they would answer something else."""
    net, x, t = network(kind), torch.randn(2, 4, 3), torch.rand(2)
    net(x, t, space=Masked(torch.tensor([[True] * 4, [True, True, False, False]])))
    for row in ([False, True, True, True], [True, False, True, False]):
        mask = torch.tensor([[True] * 4, row])
        assert not Masked(mask).leading and Masked(mask).copies(2).leading is False
        with pytest.raises(ValueError, match="put the padding at the end"):
            net(x, t, space=Masked(mask))
