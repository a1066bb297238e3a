"""Networks of diffusers as denoisers: what they take where a condition is absent, and which time."""

import copy
import pickle

import pytest
import torch
from torch import nn

from anydiff import Flow, GaussianDiffusion, Tabulated, classifier_free, load, sample, save
from anydiff.denoisers.unet.foreign import FromDiffusers

TABLE = Tabulated.linear(50)
B = 4


class Labelled(nn.Module):
    """As a UNet2DModel with labels; it gives what it took."""

    def __init__(self, **config):
        super().__init__()
        self.rows = nn.Embedding(11, 1)
        self.config = {"in_channels": 2, "out_channels": 2, "num_class_embeds": 11, **config}

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        self.took, self.step = class_labels, timestep
        return (0 * sample + self.rows(class_labels)[:, :, None, None],)


class Reading(nn.Module):
    """As a UNet2DConditionModel; it gives what it took."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.config = {"in_channels": 2, "out_channels": 2, "cross_attention_dim": 6}

    def forward(self, sample, timestep, encoder_hidden_states, return_dict=True):
        self.took, self.step = encoder_hidden_states, timestep
        return (0 * sample + self.scale * encoder_hidden_states.mean((1, 2))[:, None, None, None],)


def items():
    torch.manual_seed(0)
    return torch.randn(B, 2, 4, 4), torch.randn(B, 3, 6)


@pytest.mark.parametrize("batched", [True, False])
def test_what_is_absent_is_what_was_said(batched):
    x, tokens = items()
    empty = torch.randn(3, 6)
    network = Reading()
    diffusion = GaussianDiffusion(
        FromDiffusers(network, 50, {"encoder_hidden_states": empty}), TABLE, "eps", drop=1.0
    )
    assert diffusion.loss(x, encoder_hidden_states=tokens).isfinite().all()
    assert torch.equal(network.took, empty.expand(B, 3, 6))

    without, given = diffusion.predictor(), diffusion.predictor(encoder_hidden_states=tokens)
    guided = classifier_free(given, without, 2.0, batched=batched)
    assert sample(guided, x.shape, steps=2, seed=0).isfinite().all()
    assert torch.equal(network.took[-B:], empty.expand(B, 3, 6))

    some = tokens.clone()
    some[1], some[2, 0, 3] = torch.nan, torch.nan  # an item, and a token of another
    diffusion.predictor(encoder_hidden_states=some).predict(x, 0.5)
    kept = tokens.clone()
    kept[1], kept[2, 0] = empty, empty[0]
    assert torch.equal(network.took, kept)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("name", ["label", "class_labels"])
def test_a_label_of_the_network_s_own_stands_for_none(batched, name):
    x, _ = items()
    network, label = Labelled(), torch.tensor([3, -1, 5, 0])
    diffusion = GaussianDiffusion(FromDiffusers(network, 50, {name: 10}), TABLE, "eps", drop=1.0)
    assert diffusion.loss(x, label=label).isfinite().all()
    assert network.took.tolist() == [10] * B
    diffusion.eval().loss(x, label=label)
    assert network.took.tolist() == [3, 10, 5, 0]
    guided = classifier_free(
        diffusion.predictor(label=label), diffusion.predictor(), 2.0, batched=batched
    )
    sample(guided, x.shape, steps=2, seed=0)
    assert network.took[-B:].tolist() == [10] * B


def test_without_it_an_absent_condition_is_refused_by_name():
    x, tokens = items()
    label = torch.tensor([3, 1, 5, 0])
    for network, name, value, gone in [
        (Reading(), "encoder_hidden_states", tokens, torch.nan),
        (Labelled(), "label", label, -1),
    ]:
        diffusion = GaussianDiffusion(FromDiffusers(network, 50), TABLE, "eps", drop=1.0)
        some = value.clone()
        some[2] = gone
        given, without = diffusion.predictor(**{name: value}), diffusion.predictor()
        both = classifier_free(given, without, 2.0, batched=True)
        for call in (
            lambda d=diffusion, n=name, v=value: d.loss(x, **{n: v}),
            lambda p=both: sample(p, x.shape, steps=2),
            lambda p=without: sample(p, x.shape, steps=2),
            lambda d=diffusion, n=name, v=some: d.predictor(**{n: v}).predict(x, 0.5),
            lambda d=diffusion: d.denoiser(x, torch.full((B,), 0.5)),
        ):
            with pytest.raises(ValueError, match=f"^{name} is .* absent={{'{name}': "):
                call()
        assert given.predict(x, 0.5).x0.isfinite().all()
        diffusion.drop = None
        assert diffusion.loss(x, **{name: value}).isfinite().all()


def test_a_run_reads_a_condition_once(monkeypatch):
    x, tokens = items()
    predictor = GaussianDiffusion(FromDiffusers(Reading(), 50), TABLE, "eps").predictor
    reads = []
    monkeypatch.setattr(
        "anydiff.denoisers.unet.foreign._gone", lambda v: reads.append(v) or torch.zeros(1)
    )
    sample(predictor(encoder_hidden_states=tokens), x.shape, steps=5)
    assert len(reads) == 1


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: FromDiffusers(Reading(), absent={"lable": 3}),
            "absent names 'lable'.*takes timestep",
        ),
        (lambda: FromDiffusers(Labelled(), absent={"label": 11}), r"absent label is 11.*\[0, 10\]"),
        (lambda: FromDiffusers(Labelled(), 0), "steps is 0"),
        (lambda: FromDiffusers(Labelled(), absent=10), "absent is 10; give a dict"),
        (lambda: FromDiffusers(Labelled(), absent={"label": None}), "is None; give the tensor"),
        (lambda: FromDiffusers(Labelled(), absent={"label": "ten"}), "is 'ten'; give the tensor"),
        (
            lambda: FromDiffusers(Labelled(time_embedding_type="fourier")),
            "'fourier'.*a function of t",
        ),
        (
            lambda: FromDiffusers(Reading(), absent={"encoder_hidden_states": torch.zeros(5, 6)})(
                items()[0], torch.rand(B), encoder_hidden_states=items()[1]
            ),
            r"\(4, 3, 6\) and absent is \(5, 6\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("absent", [None, {"label": 10}])
@pytest.mark.parametrize(
    "label, words",
    [
        (torch.tensor([0, 1, 2, 11]), "up to 11, and Labelled has 11 labels"),
        (torch.tensor([0.0, 1, 2, 3]), r"\(4,\) of torch.float32; give a tensor of integers"),
        (torch.tensor([True] * 4), "torch.bool; give a tensor of integers"),
        ([0, 1, 2, 3], r"\[0, 1, 2, 3\]; give a tensor of integers"),
        (torch.tensor([0, 1]), r"one for each item, \(4,\)"),
        (torch.tensor([[0], [1], [2], [3]]), r"one for each item, \(4,\)"),
    ],
)
def test_labels_are_integers_that_the_network_has(label, words, absent):
    x, _ = items()
    network = FromDiffusers(torch.compile(Labelled(), backend="eager"), 50, absent)
    with pytest.raises(ValueError, match=words):
        network(x, torch.ones(4), label=label)


def test_classes_that_are_numbers_are_not_labels():
    x, _ = items()
    network = Labelled(class_embed_type="timestep")
    network.rows = nn.Linear(4, 4)
    with pytest.raises(IndexError):  # it was handed on: this network makes a matrix of (4,)
        FromDiffusers(network, 50)(x, torch.ones(4), label=torch.full((4,), 11.5))
    assert network.took.tolist() == [11.5] * 4


@pytest.mark.parametrize("label", [1.5, [1, 2], torch.ones(2, dtype=torch.long)])
def test_an_absent_label_is_one_whole_number(label):
    with pytest.raises(ValueError, match=r"absent of label is .*; give one whole number"):
        FromDiffusers(Labelled(), 50, {"label": label})


@pytest.mark.parametrize("absent", [None, {"encoder_hidden_states": torch.zeros(3, 6)}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_conditions_have_the_dtype_of_the_network(dtype, absent):
    x, tokens = items()
    network = Reading().to(dtype)
    FromDiffusers(network, 50, absent)(x.to(dtype), torch.ones(4), encoder_hidden_states=tokens)
    assert network.took.dtype == dtype


def test_tokens_may_come_as_an_encoder_gives_them():
    x, tokens = items()
    network = Reading()
    for empty in (torch.ones(1, 3, 6), torch.ones(3, 6), torch.ones(1, 6), torch.ones(6)):
        net = FromDiffusers(network, absent={"encoder_hidden_states": empty})
        net(x, torch.rand(B))
        assert network.took.shape[0] == B and (network.took == 1).all()
        net(x, torch.rand(B), encoder_hidden_states=torch.full_like(tokens, torch.nan))
        assert (network.took == 1).all() and network.took.shape == tokens.shape


def test_each_network_is_given_its_own_time():
    x, _ = items()
    t, label, network = torch.tensor([0.25, 0.5, 0.75, 1.0]), torch.zeros(B).long(), Labelled()
    FromDiffusers(network, 200)(x, t, label=label)
    assert network.step.tolist() == [49, 99, 149, 199]
    FromDiffusers(network, lambda t: 1000 * t)(x, t, label=label)
    assert network.step.tolist() == [250, 500, 750, 1000]
    score = Labelled(time_embedding_type="fourier")
    FromDiffusers(score, lambda t: Flow()(t)[1])(x, t, label=label)
    assert torch.equal(score.step, t)

    class Third(nn.Module):  # as of Stable Diffusion 3
        def forward(
            self, hidden_states, encoder_hidden_states=None, timestep=None, return_dict=True
        ):
            self.step, self.took = timestep, encoder_hidden_states
            return (hidden_states,)

    third = Third()
    FromDiffusers(third)(x, t)
    assert torch.equal(third.step, 1000 * t - 1) and third.took is None


def test_it_is_saved_and_loaded_into_the_same_network(tmp_path):
    x, label = items()[0], torch.tensor([1, 2, -1, 4])
    net = FromDiffusers(Labelled(), 50, {"label": 10})
    diffusion = GaussianDiffusion(net, TABLE, "eps").eval()
    save(tmp_path / "m.safetensors", diffusion)
    with pytest.raises(ValueError, match=r"FromDiffusers.*load\(path, denoiser=\.\.\.\)"):
        load(tmp_path / "m.safetensors")
    other = FromDiffusers(Labelled(), 50, {"label": 10})
    again, _ = load(tmp_path / "m.safetensors", denoiser=other)
    t = torch.rand(B)
    assert torch.equal(
        again.loss(x, t, noise=x, label=label), diffusion.loss(x, t, noise=x, label=label)
    )


def test_wrapped_and_transformed_networks():
    x, label = items()[0], torch.tensor([1, 2, 0, 4])
    for wrap in (nn.DataParallel, lambda net: torch.compile(net, backend="eager")):
        net = FromDiffusers(wrap(Labelled()), 50)
        assert net(x, torch.rand(B), label=label).shape == x.shape
        with pytest.raises(ValueError, match=r"^label is not given, and \w+ needs it"):
            net(x, torch.rand(B))
    net = FromDiffusers(Labelled(), 50)
    t = torch.rand(B)
    each = torch.func.vmap(lambda x, t, label: net(x[None], t[None], label=label[None])[0])
    assert torch.allclose(each(x, t, label), net(x, t, label=label))
    said = FromDiffusers(Labelled(), 50, {"label": 10})
    compiled = torch.compile(said, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, t, label=label), said(x, t, label=label))


def test_it_is_copied_and_pickled():
    x, t, label = items()[0], torch.rand(B), torch.tensor([1, 2, -1, 4])
    net = FromDiffusers(Labelled(), 50, {"label": 10})
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x, t, label=label), net(x, t, label=label))
    assert net.double().absent_class_labels.dtype == torch.int64


def test_networks_of_diffusers_themselves():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=2, out_channels=4, num_layers=1,
        sample_size=4, patch_size=2, num_embeds_ada_norm=10, norm_num_groups=2,
    )  # fmt: skip
    reading = diffusers.UNet2DConditionModel(
        in_channels=2, out_channels=2, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), cross_attention_dim=6,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=4, attention_head_dim=4,
    )  # fmt: skip
    x, tokens = items()
    for network, name, value, empty in [
        (dit, "label", torch.tensor([0, 9, 4, 4]), 10),
        (reading, "encoder_hidden_states", tokens, torch.zeros(3, 6)),
    ]:
        bare = GaussianDiffusion(FromDiffusers(network, 50), TABLE, "eps", drop=1.0)
        with pytest.raises(ValueError, match=f"^{name} is"):
            bare.loss(x, **{name: value})
        with pytest.raises(ValueError, match=f"^{name} is not given"):
            bare.sample(x.shape, steps=1)
        said = GaussianDiffusion(FromDiffusers(network, 50, {name: empty}), TABLE, "eps", drop=0.5)
        assert said.loss(x, **{name: value}).isfinite().all()
        given, without = said.predictor(**{name: value}), said.predictor()
        two, one = (
            sample(classifier_free(given, without, 2.0, batched=b), x.shape, steps=2, seed=0)
            for b in (False, True)
        )
        assert torch.allclose(two, one, atol=1e-5)
