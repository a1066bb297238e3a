"""What every denoiser owes to its conditions: absent ones, other items and padding count for nothing."""

import pytest
import torch
import torch.nn.functional as F
from e3nn import o3
from torch import Tensor

from anydiff import Cosine, Dense, GaussianDiffusion, Masked, Packed, Ragged, load, save
from anydiff.denoisers import EGNN, BiRNN, Harmonic, PairNet, Transformer, UNet
from anydiff.denoisers.inputs import CrossAttention, Tokens, read_image, read_tokens
from anydiff.denoisers.points.sets import PointDenoiser
from anydiff.losses.conditions import absent
from tests.helpers.count import Reads
from tests.helpers.networks import awake
from tests.helpers.textbook_egnn import TextbookEGNN

B = 3
EXACT = {"rtol": 0, "atol": 1e-10}  # float64; outputs are of order one
SMALL = {"channels": 2, "widths": (8, 16), "groups": 4, "image": 2}
POINTS = {"features": 2, "hidden": 8, "layers": 2}
PAIRNET = {**POINTS, "pair": 6, "vectors": 3, "bases": 4}
KINDS = {
    "unet": (UNet, SMALL),
    "unet, every level": (UNet, {**SMALL, "attention": (0, 1), "head_channels": 4, "blocks": 2}),
    "unet, patch": (UNet, {**SMALL, "patch": 2, "modulation": "scale_shift", "time": "fourier"}),
    "unet, signal": (UNet, {**SMALL, "dims": 1, "resample": "block"}),
    "birnn": (BiRNN, {"channels": 2, "hidden": 8, "layers": 2}),
    "birnn, odd": (BiRNN, {"channels": 2, "hidden": 6, "layers": 1, "observed": True}),
    "chirodiff": (BiRNN, {"channels": 2, "hidden": 8, "layers": 2, "residual": False, "tokens": 0}),
    "transformer": (Transformer, {"channels": 2, "hidden": 8, "layers": 2, "heads": 2}),
    "pairnet": (PairNet, PAIRNET),
    "pairnet, modulated": (PairNet, {**PAIRNET, "modulated": True}),
    "pairnet, pairs": (PairNet, {**PAIRNET, "pairs": 2, "modulated": True}),
    "harmonic": (Harmonic, {**POINTS, "pair": 6, "tensors": 3, "bases": 4}),
    "egnn": (EGNN, POINTS),
    "egnn, sublayers": (EGNN, {**POINTS, "layers": 1, "sublayers": 2, "attention": False}),
}
every_kind = pytest.mark.parametrize("name", KINDS)
every_ragged = pytest.mark.parametrize(
    "name", ["pairnet", "pairnet, modulated", "harmonic", "egnn"]
)
with_tokens = pytest.mark.parametrize("name", [n for n in KINDS if n != "chirodiff"])


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def network(name: str, **options):
    """With every path awake, also those that start at zero."""
    kind, own = KINDS[name]
    net = awake(kind(**{"classes": 3, "context": 2, "tokens": 5, **own, **options}))
    if issubclass(kind, PointDenoiser):  # a tanh of large numbers would hide what it is of
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.5)
    return net


def batch(net) -> tuple[Tensor, Tensor, dict]:
    """x_t, t and the space."""
    t = torch.rand(B)
    if isinstance(net, UNet):
        return torch.randn(B, 2, *(7, 6)[: net.dims]), t, {}
    if isinstance(net, (BiRNN, Transformer)):
        space = Masked.from_lengths([5, 2, 6])
        return space.noise(torch.empty(B, 6, 2)), t, {"space": space}
    space = points([4, 1, 6], net)
    return space.noise(torch.empty(getattr(space, "shape", (11, 5)))), t, {"space": space}


def points(sizes: list[int], net) -> Ragged | Packed:
    """The space of items of these sizes, with their pairs if the network takes them."""
    space = Ragged.from_sizes(sizes, centered=3)
    if not getattr(net, "pairs", 0):
        return space
    bonds = space.pair_space
    return Packed({"atoms": (space, (sum(sizes), 5)), "bonds": (bonds, (len(bonds.index), 2))})


def conditions(net) -> dict[str, Tensor]:
    cond = {"label": torch.tensor([0, 2, 1]), "context": torch.randn(B, 2)}
    if net.tokens:
        cond["tokens"] = torch.randn(B, 4, 5)
        cond["tokens_mask"] = torch.arange(4) < torch.tensor([[3], [1], [4]])
    if isinstance(net, UNet):
        cond["image"] = torch.randn(B, 2, *(3, 4)[: net.dims])
        cond["image_t"] = torch.rand(B)
    return cond


def item(y: Tensor, b: int, space=None) -> Tensor:
    if isinstance(space, Packed):
        rows = [part[space[name].index == b] for name, part in space.unpack(y).items()]
        return torch.cat([part.flatten() for part in rows])
    return y[space.index == b] if isinstance(space, Ragged) else y[b]


def replaced(cond: dict, name: str, value: Tensor, b: int = 0) -> dict:
    """With another value for one item."""
    changed = cond[name].clone()
    changed[b] = value
    return {**cond, name: changed}


@every_kind
def test_left_out_is_wholly_absent(name):
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    for key in cond.keys() - {"tokens_mask"}:
        gone = {key, f"{key}_mask"}
        rest = {k: v for k, v in cond.items() if k not in gone}
        without = net(x, t, **space, **rest)
        nothing = {k: absent(v) for k, v in cond.items() if k in gone}
        torch.testing.assert_close(net(x, t, **space, **rest, **nothing), without, **EXACT)
        assert (net(x, t, **space, **cond) - without).abs().max() > 1e-4
    nothing = {k: absent(v) for k, v in cond.items()}
    torch.testing.assert_close(net(x, t, **space, **nothing), net(x, t, **space), **EXACT)
    if net.tokens:
        nothing["tokens"], nothing["tokens_mask"] = cond["tokens"], torch.zeros(B, 4).bool()
        torch.testing.assert_close(net(x, t, **space, **nothing), net(x, t, **space), **EXACT)


@every_kind
def test_a_condition_counts_for_its_item_and_for_no_other(name):
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    y = net(x, t, **space, **cond)
    for key in cond.keys() - {"tokens_mask"}:
        own = cond[key][0]
        for value in (own + 1 if key == "label" else own + 0.5, absent(own)):
            changed = net(x, t, **space, **replaced(cond, key, value))
            assert (item(changed, 0, **space) - item(y, 0, **space)).abs().max() > 1e-4
            for b in (1, 2):
                torch.testing.assert_close(item(changed, b, **space), item(y, b, **space), **EXACT)


@with_tokens
def test_every_token_counts_and_their_order_does_not(name):
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    y = net(x, t, **space, **cond)
    for k in range(4):
        tokens = cond["tokens"].clone()
        tokens[2, k] += 1
        assert (net(x, t, **space, **{**cond, "tokens": tokens}) - y).abs().max() > 1e-5
    turned = {**cond, "tokens": cond["tokens"].flip(1), "tokens_mask": cond["tokens_mask"].flip(1)}
    torch.testing.assert_close(net(x, t, **space, **turned), y, **EXACT)


@with_tokens
def test_padding_of_tokens_counts_for_nothing(name):
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    tokens, mask = cond["tokens"], cond.pop("tokens_mask")

    def run(tokens, mask=None):
        given = {**cond, "tokens": tokens, "tokens_mask": mask}
        net.zero_grad()
        y = net(x, t, **space, **given)
        y.square().sum().backward()
        return y.detach(), [p.grad.clone() for p in net.parameters()]

    expected = run(tokens, mask)
    for junk in (0.0, 1e300, torch.inf, torch.nan):
        filled = tokens.masked_fill(~mask[..., None], junk)
        torch.testing.assert_close(run(filled, mask), expected, **EXACT)
    torch.testing.assert_close(run(filled), expected, **EXACT)  # a row with a NaN is none
    filled[0, 3, 1:] = 7.0  # … in any of its numbers
    torch.testing.assert_close(run(filled), expected, **EXACT)
    longer = F.pad(tokens, (0, 0, 2, 3), value=5.0), F.pad(mask, (2, 3))
    torch.testing.assert_close(run(*longer), expected, **EXACT)


@every_kind
def test_nan_stays_outside(name):
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    cond["label"] = torch.tensor([-1, 2, -1])
    for key in cond.keys() & {"context", "tokens", "image", "image_t"}:
        some = torch.rand(cond[key].shape) < 0.3
        some[0] = True
        cond[key] = cond[key].masked_fill(some, torch.nan)
    inputs = [x, *(v for v in cond.values() if v.is_floating_point())]
    for value in inputs:
        value.requires_grad_()
    y = net(x, t, **space, **cond)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert all(v.grad.isfinite().all() for v in inputs)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@every_kind
def test_what_reads_conditions_learns(name):
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    cond["context"][0, 0] = cond["context"][1, 1] = torch.nan
    net(x, t, **space, **cond).square().sum().backward()
    words = ("embed_label", "embed_context", "embed_image_t", "unknown", "cross", "conv_in")
    readers = [p for n, p in net.named_parameters() if any(word in n for word in words)]
    assert readers and all(p.grad is not None and p.grad.any() for p in readers)


@every_kind
def test_unknown_is_not_zero_and_entries_are_unknown_one_by_one(name):
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    del cond["context"]
    outs = [
        net(x, t, **space, **cond, context=torch.tensor([row]).expand(B, -1))
        for row in ([0.0, 0.0], [torch.nan, 0.0], [0.0, torch.nan], [torch.nan, torch.nan])
    ]
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(outs) for b in outs[:i])


@pytest.mark.parametrize(
    "name",
    [
        "birnn",
        "chirodiff",
        "transformer",
        "pairnet",
        "pairnet, modulated",
        "pairnet, pairs",
        "egnn",
    ],
)
def test_context_may_differ_from_row_to_row(name):
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    cond["context"][1, 0] = torch.nan
    y = net(x, t, **space, **cond)
    atoms = space["space"]["atoms"] if name == "pairnet, pairs" else space["space"]
    index = getattr(atoms, "index", None)
    context = cond["context"]
    rows = context[:, None].repeat(1, 6, 1) if index is None else context[index]
    torch.testing.assert_close(net(x, t, **space, **{**cond, "context": rows}), y, **EXACT)
    for value in (1.0, torch.nan):
        one = rows.clone()
        one[0] = value if index is not None else rows[0].index_fill(0, torch.tensor([0]), value)
        changed = net(x, t, **space, **{**cond, "context": one})
        assert (item(changed, 0, **space) - item(y, 0, **space)).abs().max() > 1e-4
        torch.testing.assert_close(item(changed, 2, **space), item(y, 2, **space), **EXACT)


@every_kind
def test_a_new_network_hears_neither_tokens_nor_flags(name):
    """Both begin at zero: what was trained without may go on with."""
    kind, own = KINDS[name]
    options = {"classes": 3, "context": 2, "tokens": 5, **own}
    with_any = kind(**options)
    without = kind(**{**options, "tokens": 0})
    with torch.no_grad():
        for key, p in with_any.named_parameters():
            if not key.startswith(("unknown", "modulations")) and "cross" not in key:
                p.normal_(std=0.3)
    state = with_any.state_dict()
    without.load_state_dict({k: state[k] for k in without.state_dict()})
    (x, t, space), cond = batch(without), conditions(with_any)
    fewer = {k: v for k, v in cond.items() if not k.startswith("tokens")}
    y = without(x, t, **space, **fewer)
    torch.testing.assert_close(with_any(x, t, **space, **cond), y, **EXACT)
    if kind is not UNet:
        unknown, zero = torch.full((B, 2), torch.nan), torch.zeros(B, 2)
        y, y0 = (with_any(x, t, **space, context=c) for c in (unknown, zero))
        torch.testing.assert_close(y, y0, **EXACT)


@pytest.mark.parametrize("own", [False, True], ids=["one for an item", "one for a point"])
def test_modulation_is_its_equation_in_every_layer(own):
    """(1 + γ) LayerNorm(h) + β is what a layer reads, and γ, β follow time, label and context."""
    net, seen = network("pairnet, modulated", layers=3), {}
    for k, layer in enumerate(net.layers):
        for name, part in (("norm", layer.norm), ("ends", layer.ends), ("γβ", net.modulations[k])):
            part.register_forward_hook(
                lambda _, given, out, key=(k, name): seen.update({key: (given[0], out)})
            )
    (x, t, space), cond = batch(net), conditions(net)
    if own:
        cond["context"] = torch.randn(11, 2)
    cond["context"][0] = 0  # an unknown number is not 0
    net(x, t, **space, **cond)
    first = dict(seen)
    for k in range(3):
        told = first[k, "γβ"][1]
        gamma, beta = (told if own else told[space["space"].index]).chunk(2, 1)
        expected = (1 + gamma) * first[k, "norm"][1] + beta
        torch.testing.assert_close(first[k, "ends"][0], expected, **EXACT)

    index = space["space"].index if own else torch.arange(B)
    changes = [
        ("t", t[0] / 2),
        ("label", 1),
        ("label", -1),
        ("context", 1.0),
        ("context", torch.nan),
    ]
    for name, value in changes:
        net(x, **space, **replaced({"t": t, **cond}, name, value))
        for k in range(3):
            change = (seen[k, "γβ"][1] - first[k, "γβ"][1]).abs().amax(1)
            of_item = index == 0 if name != "context" else torch.arange(len(index)) == 0
            assert change[of_item].min() > 1e-4 and not change[~of_item].any()


def test_a_new_network_is_not_modulated():
    """The same seed gives both the same weights; γ and β are zero at first, and learn at once."""
    nets = []
    for modulated in (False, True):
        torch.manual_seed(2)
        net = PairNet(**PAIRNET, classes=3, context=2, tokens=5, modulated=modulated)
        nets.append(net)
    (plain, net), added = nets, ("told.", "modulations.")
    assert all(k.startswith(added) for k in net.state_dict().keys() - plain.state_dict().keys())
    with torch.no_grad():
        for name, p in net.named_parameters():
            if not name.startswith("modulations."):
                p.normal_(std=0.3)
    plain.load_state_dict({k: net.state_dict()[k] for k in plain.state_dict()})
    (x, t, space), cond = batch(net), conditions(net)
    y = net(x, t, **space, **cond)
    torch.testing.assert_close(y, plain(x, t, **space, **cond), rtol=0, atol=0)
    y.square().sum().backward()
    assert all(m.weight.grad.any() and m.bias.grad.any() for m in net.modulations)


@every_kind
def test_without_conditions_nothing_is_built(name):
    kind, own = KINDS[name]
    net = kind(**{k: v for k, v in own.items() if k not in ("image", "tokens")})
    words = ("label", "unknown", "cross", "context", "image")
    assert not [key for key in net.state_dict() if any(word in key for word in words)]
    assert all(net.config.get(key, 0) == 0 for key in ("classes", "context", "tokens", "image"))


@every_ragged
@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
def test_motions_commute_with_every_condition(name, sign):
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    cond["context"][0, 1] = torch.nan
    rotation = sign * o3.rand_matrix()

    def moved(x: Tensor) -> Tensor:
        return torch.cat([x[:, :3] @ rotation.T, x[:, 3:]], 1)

    y = net(x, t, **space, **cond)
    assert y[:, :3].abs().max() > 1e-3
    torch.testing.assert_close(net(moved(x), t, **space, **cond), moved(y), **EXACT)
    order = torch.tensor([3, 0, 2, 1, 4, 10, 9, 8, 7, 5, 6])  # within the items
    torch.testing.assert_close(net(x[order], t, **space, **cond), y[order], **EXACT)


@every_kind
def test_an_item_is_the_same_alone(name):
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    y = net(x, t, **space, **cond)
    for b in range(B):
        own = {}
        rows = item(x, b, **space)
        if isinstance(net, PointDenoiser):
            own["space"] = points([[4, 1, 6][b]], net)
        elif space:
            own["space"] = Masked(space["space"].mask[b : b + 1])
        rows = rows if isinstance(net, PointDenoiser) else rows[None]
        alone = net(rows, t[b : b + 1], **own, **{k: v[b : b + 1] for k, v in cond.items()})
        torch.testing.assert_close(item(alone, 0, **own), item(y, b, **space), **EXACT)


@pytest.mark.parametrize("name", ["pairnet", "pairnet, pairs", "harmonic", "egnn"])
def test_nothing_is_read_back(name):
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    net(x, t, **space, **cond)
    with Reads() as reads:
        net(x, t, **space, **cond).square().sum().backward()
    assert reads.count == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet, every level", "unet, signal"])
def test_compiles_without_a_break(name):
    torch._dynamo.reset()
    net = network(name)
    (x, t, space), cond = batch(net), conditions(net)
    cond["context"][0, 1] = cond["tokens"][2, 0, 0] = torch.nan
    quick = torch.compile(net, backend="eager", fullgraph=True)
    for given in (cond, {}, {"space": Dense()}):
        torch.testing.assert_close(quick(x, t, **space, **given), net(x, t, **space, **given))


@every_kind
def test_comes_back_from_a_file(name, tmp_path):
    net = network(name)
    save(tmp_path / "m.safetensors", GaussianDiffusion(net, Cosine(), "eps"))
    again = load(tmp_path / "m.safetensors")[0].denoiser
    (x, t, space), cond = batch(net), conditions(net)
    assert again.config == net.config
    assert torch.equal(again(x, t, **space, **cond), net(x, t, **space, **cond))


def test_edms_conditional_weights_stay_its_function():
    published = awake(TextbookEGNN(2, hidden=8, layers=2, context=2))
    plain = EGNN.from_edm(published.state_dict(), context=2)
    more = EGNN.from_edm(published.state_dict(), context=2, classes=3, tokens=5)
    x, t, space = batch(plain)
    cond = conditions(more)
    y = plain(x, t, **space, context=cond["context"])
    del cond["label"]
    torch.testing.assert_close(more(x, t, **space, **cond), y, **EXACT)
    zero, unknown = (plain(x, t, **space, context=c) for c in (torch.zeros(B, 2), None))
    torch.testing.assert_close(zero, unknown, **EXACT)


def test_cross_attention_is_the_softmax_of_its_definition():
    attend = awake(CrossAttention(8, 5, 2))
    h, tokens = torch.randn(2, 3, 8), torch.randn(2, 4, 5)
    mask = torch.tensor([[True, False, True, True], [False] * 4])
    told = read_tokens(tokens, mask, 2, 5, h)
    assert isinstance(told, Tokens)
    for b in range(2):
        rows = torch.cat([attend.null[None], tokens[b][mask[b]]])
        q, (k, v) = attend.q(attend.norm(h[b])), attend.kv(rows).chunk(2, 1)
        heads = [(q[:, p] @ k[:, p].T / 2).softmax(1) @ v[:, p] for p in (slice(0, 4), slice(4, 8))]
        expected = h[b] + attend.out(torch.cat(heads, 1))
        torch.testing.assert_close(attend(h, told)[b], expected, **EXACT)


class TestImages:
    def test_another_size_is_interpolated(self):
        net = network("unet")
        x, t, _ = batch(net)
        image = torch.randn(B, 2, 3, 4)
        whole = F.interpolate(image, (7, 6), mode="bilinear")
        torch.testing.assert_close(net(x, t, image=image), net(x, t, image=whole), **EXACT)
        near = F.interpolate(image, (7, 6), mode="nearest")
        assert (net(x, t, image=near) - net(x, t, image=whole)).abs().max() > 1e-3

    @pytest.mark.parametrize("size", [(4, 6), (8, 12), (3, 3), (5, 9)])
    def test_a_pixel_is_unknown_whole_and_where_one_enters_it(self, size):
        image, x = torch.randn(2, 3, *size), torch.empty(2, 1, 4, 6)
        image[0, 1, 0, 0] = torch.nan
        told = read_image(image, 3, x)
        values, flags = told.split([3, 1], 1)
        whole = F.interpolate(image, (4, 6), mode="bilinear")
        assert ((flags == 0) | (flags == 1)).all()
        assert flags[0, 0, 0, 0] == 1 and flags[0, 0, 3, 5] == 0 and not flags[1].any()
        assert not (values * flags).any()
        assert torch.equal(values[0, :, 3, 5], whole[0, :, 3, 5])

    def test_an_image_of_another_type(self):
        net = network("unet")
        x, t, _ = batch(net)
        image = torch.randint(0, 2, (B, 2, 7, 6))
        assert torch.equal(net(x, t, image=image), net(x, t, image=image.double()))


@every_kind
def test_errors_name_the_value_and_the_way_out(name):
    net, (kind, own) = network(name), KINDS[name]
    (x, t, space), cond = batch(net), conditions(net)
    bare = kind(**{k: v for k, v in own.items() if k not in ("image", "tokens")})
    wrong = [
        ({"label": torch.zeros(2).long()}, r"label is \(2,\).*not \(3\)"),
        ({"label": torch.zeros(3, 1).long()}, r"label is \(3, 1\).*not \(3\)"),
        ({"label": torch.zeros(3)}, "integers, -1 for none"),
        ({"context": torch.zeros(3, 4)}, r"context is \(3, 4\); give \(3, 2\)"),
        ({"context": torch.zeros(2, 2)}, r"context is \(2, 2\); give \(3, 2\)"),
    ]
    absent_here = [
        ({"label": cond["label"]}, "classes=0"),
        ({"context": cond["context"]}, "context=0"),
    ]
    if net.tokens:
        mask = cond["tokens_mask"]
        wrong += [
            ({"tokens": torch.zeros(3, 4, 6)}, r"not \(3, \*, 5\)"),
            ({"tokens": torch.zeros(2, 4, 5)}, r"not \(3, \*, 5\)"),
            ({"tokens_mask": mask}, "there are no tokens"),
            ({"tokens": cond["tokens"], "tokens_mask": mask[:, 1:]}, r"\(3, 3\).*\(3, 4\)"),
            ({"tokens": cond["tokens"], "tokens_mask": mask.long()}, "torch.bool"),
        ]
    absent_here.append(({"tokens": torch.zeros(3, 4, 5)}, "tokens=0"))
    absent_here.append(({"tokens_mask": torch.ones(3, 4).bool()}, "tokens=0"))
    if kind is UNet:
        wrong += [
            ({"image": cond["image"][:, :1]}, r"image is .*not \(3, 2"),
            ({"image": cond["image"][None]}, r"image is .*not \(3, 2"),
            ({"image_t": torch.zeros(2)}, r"image_t is \(2,\).*not \(3\)"),
        ]
        absent_here += [({k: cond[k]}, "image=0") for k in ("image", "image_t")]
    for network_, calls in ((net, wrong), (bare, absent_here)):
        for given, message in calls:
            with pytest.raises(ValueError, match=message):
                network_(x, t, **space, **given)
    for key in ("classes", "context", "tokens", *(["image"] if kind is UNet else [])):
        with pytest.raises(ValueError, match=f"{key} is -1"):
            kind(**{**own, key: -1})


def test_chirodiff_has_no_attention_for_tokens():
    with pytest.raises(ValueError, match="residual=True"):
        BiRNN(2, residual=False, tokens=4)
