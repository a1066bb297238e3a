"""Low-rank adapters: what they leave as it is, what they can learn, and what a file of them fits."""

import copy
import json
import threading

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import anydiff
from anydiff import DDIM, Cosine, GaussianDiffusion, sample
from anydiff.denoisers import EGNN, BiRNN, Completing, PairNet, Transformer, UNet
from anydiff.guidance import classifier_free
from anydiff.lora import (
    AdapterError,
    LowRank,
    adapt,
    adapted,
    difference,
    fingerprint,
    load_adapter,
    merge,
    remove,
    save_adapter,
    strength,
)
from anydiff.spaces import DENSE, Masked, Packed, Ragged
from tests.helpers.networks import awake
from tests.helpers.spaces import draw

SIZES = [3, 1, 5]
ATOMS = Ragged.from_sizes(torch.tensor(SIZES), centered=3)
BONDS = Packed({"atoms": (ATOMS, (9, 5)), "bonds": (ATOMS.pair_space, (13, 2))})
ROWS = Masked.from_lengths(SIZES)
T = torch.tensor([0.2, 0.5, 0.9])


def unet():
    return UNet(2, [8, 16], groups=4, classes=3)


NETWORKS = {
    "unet": (unet, (3, 2, 8, 8), DENSE),
    "egnn": (lambda: EGNN(2, 8, 2), (9, 5), ATOMS),
    "pairnet": (lambda: PairNet(2, 16, layers=2, modulated=True), (9, 5), ATOMS),
    "bonds": (lambda: PairNet(2, 16, layers=2, pairs=2), BONDS.shape, BONDS),
    "birnn": (lambda: BiRNN(3, 8, 1), (3, 5, 3), ROWS),
    "lstm": (lambda: BiRNN(3, 8, 1, "lstm"), (3, 5, 3), ROWS),
    "transformer": (lambda: Transformer(3, 16, 2), (3, 5, 3), ROWS),
    "completing": (lambda: Completing(BiRNN(6, 8, 1)), (3, 5, 3), ROWS),
}


def made(name):
    build, shape, space = NETWORKS[name]
    torch.manual_seed(0)
    net = awake(build())
    x = space.project(draw(shape, 1).float())
    return net, lambda net: net(x, T, **({} if space is DENSE else {"space": space}))


def changed(net, seed=3):
    """Adapters that have an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in adapted(net):
            low = weight.adapters[-1]
            low.B.copy_(torch.randn(low.B.shape, generator=generator) / 4)
    return net


def same(a, b):
    a, b = ([x] if isinstance(x, torch.Tensor) else x for x in (a, b))
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(params=NETWORKS)
def network(request):
    return made(request.param)


# what stays as it is --------------------


def test_a_new_adapter_changes_no_bit_and_a_removed_one_leaves_none(network):
    net, run = network
    before, names = run(net), [n for n, _ in net.named_parameters()]
    state = copy.deepcopy(net.state_dict())
    kinds = [type(m) for m in net.modules()]
    adapt(net, 4)
    assert same(run(net), before) and all(w.adapters[0].rank <= 4 for w in adapted(net))
    changed(net)
    assert not same(run(net), before)
    strength(net, 0.0)
    assert same(run(net), before)
    remove(net)
    assert same(run(net), before) and [type(m) for m in net.modules()] == kinds
    assert [n for n, _ in net.named_parameters()] == names  # and in the same order
    assert all(p.requires_grad for p in net.parameters()) and not adapted(net)
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_a_merged_adapter_computes_the_same_bits(network):
    net, run = network
    changed(adapt(net, 4) and net)
    strength(net, 0.7)
    before, strides = run(net), [w.original.stride() for w in adapted(net)]
    names = [w.name for w in adapted(net)]
    merge(net)
    assert same(run(net), before) and not adapted(net)
    assert [net.get_parameter(n).stride() for n in names] == strides


def test_only_the_adapters_learn_and_the_weights_stay(network):
    net, run = network
    print_before = fingerprint(net)
    adapt(net, 2)
    assert fingerprint(net) == print_before
    changed(net)
    learning = [p for p in net.parameters() if p.requires_grad]
    assert len(learning) == 2 * len(adapted(net))
    optimizer = torch.optim.SGD(learning, 0.1)
    for _ in range(3):
        out = run(net)
        sum(o.square().sum() for o in ([out] if isinstance(out, torch.Tensor) else out)).backward()
        optimizer.step()
    assert fingerprint(net) == print_before
    changed_weights = [w for w in adapted(net) if not w.adapters[0].B.grad.any()]
    # the vectors of the first layer are zero, so that nothing is read from them
    assert {w.name for w in changed_weights} <= {"layers.0.Q.weight", "layers.0.mix.weight"}


def test_frozen_parameters_stay_frozen():
    net, _ = made("unet")
    net.conv_in.requires_grad_(False)
    adapt(net)
    remove(net)
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    assert frozen == ["conv_in.weight", "conv_in.bias"]


# what it can learn --------------------


def test_two_adapters_add_up_in_either_order():
    outs = []
    for seeds in ((1, 2), (2, 1)):
        net, run = made("birnn")
        for seed in seeds:
            torch.manual_seed(seed)
            adapt(net, 3)
            changed(net, seed)
        outs.append(run(net))
        weight = adapted(net)[0]
        total = weight.original + sum(low.B @ low.A for low in weight.adapters)
        torch.testing.assert_close(getattr(weight.layer, weight.own), total)
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-6)


def test_a_difference_is_the_best_of_its_rank_and_at_full_rank_exact():
    torch.manual_seed(0)
    base, tuned = nn.Linear(6, 5).double(), nn.Linear(6, 5).double()
    change = (tuned.weight - base.weight).detach()
    singular = torch.linalg.svdvals(change)
    for rank in range(1, 6):
        net = copy.deepcopy(base)
        assert difference(net, tuned, rank) == ["weight"]
        error = (net.weight - tuned.weight).square().sum()
        torch.testing.assert_close(error, singular[rank:].square().sum(), rtol=1e-9, atol=1e-20)


def test_a_difference_is_that_of_whole_networks():
    (net, run), tuned = made("unet"), awake(unet())
    with torch.no_grad():
        for p in tuned.parameters():
            p.mul_(1.3) if p.ndim > 1 else p
        tuned.embed_label.weight.copy_(net.embed_label.weight)
        for p, q in zip(net.parameters(), tuned.parameters(), strict=True):
            if p.ndim == 1:
                q.copy_(p)
    wanted = run(tuned)
    difference(net, tuned, 1000)
    torch.testing.assert_close(run(net), wanted, rtol=1e-3, atol=1e-4)


def test_training_fits_any_change_of_its_rank():
    torch.manual_seed(0)
    net = nn.Linear(6, 5, bias=False).double()
    target = net.weight.detach() + torch.randn(5, 2).double() @ torch.randn(2, 6).double()
    adapt(net, 2)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 0.05)
    for _ in range(1500):
        optimizer.zero_grad()
        loss = (net.weight - target).square().sum()
        loss.backward()
        optimizer.step()
    assert loss < 1e-6


def test_strength_moves_the_weights_along_a_line():
    net, _ = made("pairnet")
    changed(adapt(net, 3) and net)
    weight = adapted(net)[5]
    at = []
    for s in (0.0, 0.5, 1.0, -1.0):
        strength(net, s)
        at.append(getattr(weight.layer, weight.own).detach())
    torch.testing.assert_close(at[1], (at[0] + at[2]) / 2)
    torch.testing.assert_close(at[3], 2 * at[0] - at[2])


def test_alpha_is_over_the_rank():
    net = nn.Linear(8, 8)
    adapt(net, 4, alpha=8.0)
    (weight,) = adapted(net)
    changed(net)
    low = weight.adapters[0]
    torch.testing.assert_close(net.weight, weight.original + 2 * low.B @ low.A)


def test_equivariance_holds_for_any_adapter():
    net, _ = made("egnn")
    changed(adapt(net, 4) and net)
    x, turn = ATOMS.project(draw((9, 5)).float()), torch.linalg.qr(draw((3, 3)).float())[0]
    moved = torch.cat([x[:, :3] @ turn, x[:, 3:]], 1)
    y, z = (net(of, T, space=ATOMS) for of in (x, moved))
    torch.testing.assert_close(torch.cat([y[:, :3] @ turn, y[:, 3:]], 1), z, rtol=1e-4, atol=1e-5)


def test_a_convolution_keeps_its_dilation_groups_and_padding():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2, padding_mode="circular")
    changed(adapt(conv, 2) and conv)
    (weight,) = adapted(conv)
    low, x = weight.adapters[0], torch.randn(2, 4, 9, 9)
    other = copy.deepcopy(conv)
    remove(other)
    with torch.no_grad():
        other.weight.add_((low.B @ low.A).view(other.weight.shape))
    torch.testing.assert_close(conv(x), other(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_changes_are_rounded_once(dtype):
    """Added in float32: in the narrow dtype B A would be rounded before."""
    torch.manual_seed(0)
    net = nn.Linear(64, 64, bias=False).to(dtype)
    changed(adapt(net, 8) and net)
    (weight,) = adapted(net)
    low = weight.adapters[0]
    assert low.A.dtype == torch.float32 and net.weight.dtype == dtype
    exact = (weight.original.float() + low.B @ low.A).to(dtype)
    assert torch.equal(net.weight, exact)
    before = net.weight.clone()
    merge(net)
    assert torch.equal(net.weight, before) and net.weight.dtype == dtype


# what else is done with a network --------------------


def test_copies_are_networks_of_their_own():
    net, run = made("unet")
    before = run(net)
    changed(adapt(net, 4) and net)
    twin, merged = copy.deepcopy(net), copy.deepcopy(net)
    with_adapter = run(net)
    remove(twin)
    merge(merged)
    assert same(run(twin), before) and same(run(net), with_adapter)
    assert same(run(merged), with_adapter) and len(adapted(net)) == len(
        [w for w in adapted(copy.deepcopy(net)) if w.adapters]
    )


@pytest.mark.slow
def test_averages_threads_and_compilers_see_the_adapter():
    net, run = made("transformer")
    changed(adapt(net, 2) and net)
    wanted = run(net)
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    torch.testing.assert_close(run(average), wanted)
    found = []
    threads = [threading.Thread(target=lambda: found.append(run(net))) for _ in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert all(same(out, wanted) for out in found) and len(found) == 4
    compiled = torch.compile(net, backend="eager")
    torch.testing.assert_close(run(compiled), wanted)


def test_a_guided_model_stays_guided_and_is_drawn_from():
    net, _ = made("unet")
    model = GaussianDiffusion(net, Cosine(), "v", drop=0.1).eval()
    label = torch.tensor([0, 1, 2])
    changed(adapt(model.denoiser, 2) and net)

    def run():
        guided = classifier_free(model.predictor(label=label), model.predictor(), 2.0)
        return sample(guided, (3, 2, 8, 8), DDIM(), 3, seed=0)

    before = run()
    merge(model)
    assert torch.equal(run(), before)
    x0 = torch.randn(3, 2, 8, 8)
    adapt(model.denoiser, 2)
    model.train().loss(x0, label=label).mean().backward()
    assert all(w.adapters[0].B.grad is not None for w in adapted(model))


def test_a_model_with_adapters_is_no_file_and_says_what_to_do(tmp_path):
    net, _ = made("unet")
    model = GaussianDiffusion(net, Cosine(), "v")
    adapt(net)
    with pytest.raises(ValueError, match=r"has adapters, .* merge them .*save_adapter"):
        anydiff.save(tmp_path / "m.safetensors", model)
    merge(model)
    anydiff.save(tmp_path / "m.safetensors", model)


# files --------------------


def test_a_file_gives_the_same_bits_and_is_small(network, tmp_path):
    net, run = network
    twin = copy.deepcopy(net)
    names = adapt(net, 2, alpha=6.0)
    changed(net)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, net)
    assert load_adapter(path, twin) == names and same(run(twin), run(net))
    numbers = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert path.stat().st_size < 1.1 * 4 * numbers + 400 * len(names) + 1000
    remove(twin)
    load_adapter(path, twin, strength=0.25)
    strength(net, 0.25)
    assert same(run(twin), run(net))
    with safe_open(path, "pt") as file:
        keys, header = set(file.keys()), json.loads(file.metadata()["anydiff.lora"])
    assert header["rank"] == 2 and header["alpha"] == 6.0
    assert all(".lora_A" in key or ".lora_B" in key for key in keys)


def test_names_are_those_of_peft():
    net, _ = made("birnn")
    names = adapt(net, 2)
    assert "layers.0.film.weight" in names and "layers.0.recurrent.weight_hh_l0" in names


def test_a_file_for_another_network_names_both(tmp_path):
    path = tmp_path / "adapter.safetensors"
    net, _ = made("unet")
    adapt(net)
    save_adapter(path, net)
    other = unet()  # the same class with other weights
    ours = fingerprint(net)[:12]
    told = (
        rf"made for UNet {ours}, and the network is UNet {fingerprint(other)[:12]}; give the model"
    )
    with pytest.raises(AdapterError, match=told):
        load_adapter(path, other)
    with pytest.raises(AdapterError, match="and the network is BiRNN"):
        load_adapter(path, made("birnn")[0])
    assert not adapted(other)


def test_a_file_for_a_model_of_double_precision_fits_it_in_float32(tmp_path):
    net, _ = made("birnn")
    twin = copy.deepcopy(net).double()
    changed(adapt(net, 2) and net)
    save_adapter(tmp_path / "a.safetensors", net)
    load_adapter(tmp_path / "a.safetensors", twin)
    assert adapted(twin)[0].adapters[0].A.dtype == torch.float64


def rewritten(path, change):
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["anydiff.lora"])
    change(header, tensors)
    save_file(tensors, path, metadata={"anydiff.lora": json.dumps(header)})


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda h, t: h.update(format=9), "is of format 9, and this version of anydiff reads 1"),
        (lambda h, t: h.pop("base"), "holds no adapters that save_adapter wrote: 'base'"),
        (lambda h, t: h.update(scales=[1]), "holds no adapters"),
        (lambda h, t: h["scales"].update({"no.weight": 1.0}), "holds no adapters"),
        (lambda h, t: t.pop("conv_in.lora_B.weight"), "holds no adapters"),
        (
            lambda h, t: t.update({"conv_in.lora_A.weight": torch.zeros(4, 5)}),
            r"the adapter of conv_in.weight is \(8, 4\) times \(4, 5\), and the weight \(8, 18\)",
        ),
    ],
)
def test_damaged_files_are_refused_and_change_nothing(change, told, tmp_path):
    path = tmp_path / "adapter.safetensors"
    net, _ = made("unet")
    twin = copy.deepcopy(net)
    adapt(net, 4)
    save_adapter(path, net)
    rewritten(path, change)
    with pytest.raises(AdapterError, match=told):
        load_adapter(path, twin)
    assert not adapted(twin) and all(p.requires_grad for p in twin.parameters())


def test_other_files_are_refused(tmp_path):
    net, _ = made("unet")
    anydiff.save(tmp_path / "m.safetensors", GaussianDiffusion(net, Cosine(), "v"))
    (tmp_path / "text").write_text("not a file of tensors")
    for name in ("m.safetensors", "text"):
        with pytest.raises(AdapterError, match=r"holds no adapters that save_adapter wrote"):
            load_adapter(tmp_path / name, net)
    with pytest.raises(FileNotFoundError, match="missing"):
        load_adapter(tmp_path / "missing", net)


# what is refused --------------------


def test_weights_that_cannot_have_an_adapter_are_named():
    with pytest.raises(AdapterError, match=r"LayerNorm has no matrix to adapt"):
        adapt(nn.LayerNorm(4))
    with pytest.raises(AdapterError, match=r"no matrix to adapt that `where` chooses"):
        adapt(unet(), where=lambda name: "nothing" in name)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(AdapterError, match=r"1\.weight and 0\.weight are one weight"):
        adapt(tied)
    with pytest.raises(
        AdapterError, match=r"weight_ih_l0 belongs to GRU, whose kernel would not see"
    ):
        adapt(nn.GRU(3, 4))
    with pytest.raises(AdapterError, match=r"has no adapters; give it some by adapt"):
        merge(unet())
    assert adapt(nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4))) == ["1.weight"]


def test_where_chooses():
    net, _ = made("transformer")
    names = adapt(net, 2, where=lambda name: "self_attn" in name)
    assert len(names) == 4 and all("self_attn" in name for name in names)
    learning = {n for n, p in net.named_parameters() if p.requires_grad}
    assert learning and all("self_attn" in n for n in learning)


def test_other_parametrizations_are_left_alone():
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    names = adapt(net, 2)
    assert names == ["1.weight"]  # the other is made of two tensors, which the names do not say
    remove(net)
    assert parametrize.is_parametrized(net[0]) and not parametrize.is_parametrized(net[1])
    net = nn.Linear(4, 4)
    adapt(net, 2)
    parametrize.register_parametrization(net, "bias", nn.Identity())
    with pytest.raises(AdapterError, match=r"other parametrizations beside its adapters"):
        remove(net)


def test_two_adapters_are_no_file(tmp_path):
    net, _ = made("birnn")
    adapt(net, 2)
    adapt(net, 2)
    with pytest.raises(AdapterError, match=r"has 2 adapters; merge the first ones"):
        save_adapter(tmp_path / "a.safetensors", net)


@pytest.mark.parametrize("rank", [0, -1, 2.5, "3"])
def test_ranks_are_whole(rank):
    with pytest.raises((ValueError, TypeError), match="rank"):
        adapt(unet(), rank)


def test_a_low_rank_is_at_most_that_of_its_weight():
    assert LowRank(torch.zeros(3, 50), 8).rank == 3
