import pytest
import torch
import torch.nn.functional as F

from anydiff import Cosine, GaussianDiffusion, load, save
from anydiff.denoisers import UNet
from anydiff.denoisers.embeddings import SinusoidalTime
from anydiff.denoisers.unet.layers import Attention, Downsample, ResBlock, Upsample
from tests.helpers.networks import awake

SMALL = {"widths": (8, 16), "attention": (), "blocks": 1, "groups": 4}
VARIANTS = {
    "plain": {},
    "attention": {"attention": (0, 1), "head_channels": 8},
    "adaptive": {"modulation": "scale_shift"},
    "block": {"resample": "block", "blocks": 2},
    "centered": {"centered": True},
    "fourier": {"time": "fourier"},
    "patch": {"patch": 2},
    "three levels": {"widths": (8, 16, 16), "attention": None},
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
class TestEveryNetwork:
    @pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 3), (12, 9)])
    def test_takes_any_height_and_width(self, options: dict, size: tuple) -> None:
        net = awake(UNet(3, **{**SMALL, **options}))
        x = torch.randn(2, 3, *size)
        y = net(x, torch.rand(2))
        assert y.shape == x.shape and y.isfinite().all() and y.is_contiguous()

    def test_a_signal_is_a_picture_one_pixel_high(self, options: dict) -> None:
        options = {**SMALL, **options}
        line = awake(UNet(2, dims=1, **options)).double()
        x, t = torch.randn(2, 2, 21, dtype=torch.float64), torch.rand(2, dtype=torch.float64)
        y = line(x, t)
        assert y.shape == x.shape
        if options.get("patch", 1) > 1:  # the patches of a picture are higher than one pixel
            return
        # the picture's network with the signal's kernels in its middle rows, on equal rows, says the
        # same in each; it halves 8 rows at most twice
        plane = UNet(2, **options).double().eval()
        state = line.state_dict()
        for name, value in plane.state_dict().items():
            if value.ndim == 4 and value.shape[2] == 3:
                centered = options.get("centered") or ".resample.conv.weight" not in name
                row = 1 if centered or not name.startswith("down") else 0
                kernel, state[name] = state[name], torch.zeros_like(value)
                state[name][:, :, row] = kernel[:, :, 0]
        plane.load_state_dict(state)
        rows = plane(x[:, :, None].expand(-1, -1, 8, -1), t)
        torch.testing.assert_close(rows, y[:, :, None].expand_as(rows), rtol=0, atol=1e-10)

    def test_an_item_does_not_depend_on_its_batch(self, options: dict) -> None:
        net = awake(UNet(3, **{**SMALL, **options})).double()
        x, t = torch.randn(3, 3, 9, 8, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
        together = net(x, t)
        alone = torch.cat([net(x[k : k + 1], t[k : k + 1]) for k in range(3)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)

    def test_every_parameter_learns_and_every_input_counts(self, options: dict) -> None:
        net = awake(UNet(3, **{**SMALL, **options}))
        x, t = torch.randn(2, 3, 8, 8, requires_grad=True), torch.rand(2)
        net(x, t).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in net.parameters())
        assert (x.grad != 0).all()
        assert not torch.allclose(net(x, t), net(x, t + 0.3), atol=1e-4)

    def test_comes_back_from_a_file(self, options: dict, tmp_path) -> None:
        net = awake(UNet(3, classes=4, **{**SMALL, **options}))
        save(tmp_path / "m.safetensors", GaussianDiffusion(net, Cosine(), "v"))
        again = load(tmp_path / "m.safetensors")[0].denoiser
        x, t, label = torch.randn(2, 3, 8, 8), torch.rand(2), torch.tensor([0, 3])
        assert torch.equal(net(x, t, label=label), again(x, t, label=label))

    def test_memory_layout_is_of_no_account(self, options: dict) -> None:
        net = awake(UNet(3, **{**SMALL, **options})).double()
        x, t = torch.randn(2, 3, 8, 6, dtype=torch.float64), torch.rand(2, dtype=torch.float64)
        y = net(x, t)
        last = net(x.contiguous(memory_format=torch.channels_last), t)
        net.to(memory_format=torch.contiguous_format)
        torch.testing.assert_close(last, y, rtol=0, atol=1e-12)
        torch.testing.assert_close(net(x, t), y, rtol=0, atol=1e-12)


def test_a_fresh_network_says_nothing() -> None:
    assert not UNet(3, **SMALL)(torch.randn(2, 3, 8, 8), torch.rand(2)).any()


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_upsampling_is_repetition_and_a_convolution(dims: int, size: tuple) -> None:
    up = awake(Upsample(5, dims)).double()
    h, w = size if dims == 2 else (1, size[1])
    x = torch.randn(2, 5, h, w, dtype=torch.float64)
    twice = x.repeat_interleave(2, 3)
    twice = twice.repeat_interleave(2, 2) if dims == 2 else twice
    expected = F.conv2d(twice, up.conv.weight, up.conv.bias, padding=up.conv.padding)
    torch.testing.assert_close(up(x, None), expected, rtol=0, atol=1e-12)
    cut = (2 * h - (dims == 2), 2 * w - 1)
    assert torch.equal(up(x, None, cut), up(x, None)[:, :, : cut[0], : cut[1]])


@pytest.mark.parametrize("centered", [False, True])
def test_downsampling_is_a_strided_convolution_of_same_padding(centered: bool) -> None:
    down = awake(Downsample(4, 2, centered)).double()
    for h, w in [(8, 6), (7, 5), (7, 8)]:
        x = torch.randn(2, 4, h, w, dtype=torch.float64)
        y = down(x, None)
        assert y.shape[2:] == (-(-h // 2), -(-w // 2))
        # the window of place 1 begins at pixel 2, or one before where it is centred
        i, j = (2 - (1 if centered else n % 2) for n in (h, w))
        window = x[:, :, i : i + 3, j : j + 3]
        expected = torch.einsum("bihw,oihw->bo", window, down.conv.weight) + down.conv.bias
        torch.testing.assert_close(y[:, :, 1, 1], expected, rtol=0, atol=1e-12)


def test_attention_is_the_softmax_of_its_definition() -> None:
    attend = awake(Attention(16, 4, 4, 1e-6)).double()
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    tokens = F.group_norm(x, 4, attend.norm.weight, attend.norm.bias, 1e-6).flatten(2).mT
    q, k, v = attend.qkv(tokens).chunk(3, 2)
    heads = []
    for h in range(4):
        part = slice(4 * h, 4 * h + 4)
        heads.append((q[..., part] @ k[..., part].mT / 2).softmax(2) @ v[..., part])
    expected = x + attend.out(torch.cat(heads, 2)).mT.reshape(x.shape)
    torch.testing.assert_close(attend(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_block_is_its_definition(adaptive: bool) -> None:
    options = {"change": None, "dropout": 0.5, "groups": 2, "eps": 1e-3, "dims": 2}
    block = awake(ResBlock(4, 6, 5, adaptive=adaptive, **options)).double()
    x, c = torch.randn(2, 4, 3, 4, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)

    def norm(h, layer):
        parts = h.reshape(2, 2, -1)
        parts = (parts - parts.mean(2, keepdim=True)) / (
            parts.var(2, keepdim=True, unbiased=False) + 1e-3
        ).sqrt()
        return parts.reshape(h.shape) * layer.weight[:, None, None] + layer.bias[:, None, None]

    h = F.conv2d(F.silu(norm(x, block.norm1)), block.conv1.weight, block.conv1.bias, padding=1)
    m = (c @ block.modulation.weight.T + block.modulation.bias)[:, :, None, None]
    h = norm(h, block.norm2) * (1 + m[:, :6]) + m[:, 6:] if adaptive else norm(h + m, block.norm2)
    h = F.conv2d(F.silu(h), block.conv2.weight, block.conv2.bias, padding=1)
    expected = h + F.conv2d(x, block.shortcut.weight, block.shortcut.bias)
    torch.testing.assert_close(block(x, c), expected, rtol=0, atol=1e-12)


def test_sinusoidal_times_count_the_steps() -> None:
    embed = SinusoidalTime(8, steps=50, shift=1)
    y = embed(torch.tensor([11 / 50]))[0]  # step 10 of a chain that counts from 0
    angles = torch.tensor([10.0 * 10 ** (-4 * k / 3) for k in range(4)])
    torch.testing.assert_close(y, torch.cat([angles.sin(), angles.cos()]), rtol=0, atol=2e-5)


def test_the_published_networks_have_their_sizes() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet.ddpm().parameters()) == 35_746_307
        # table 3 of the paper has 296 million
        assert round(sum(p.numel() for p in UNet.adm().parameters()) / 1e6) == 296


class TestLabels:
    def test_count(self) -> None:
        net = awake(UNet(1, classes=3, **SMALL))
        x, t = torch.randn(3, 1, 8, 8), torch.full((3,), 0.5)
        none = net(x, t)
        some = net(x, t, label=torch.tensor([0, -1, 2]))
        assert torch.equal(some[1], none[1])
        assert not torch.allclose(some[0], none[0]) and not torch.allclose(some[2], none[2])

    def test_are_refused_by_a_network_without(self) -> None:
        with pytest.raises(ValueError, match="classes=0"):
            UNet(1, **SMALL)(torch.randn(1, 1, 8, 8), torch.rand(1), label=torch.tensor([0]))

    def test_are_one_for_each(self) -> None:
        net = UNet(1, classes=3, **SMALL)
        with pytest.raises(ValueError, match="one label for each item"):
            net(torch.randn(2, 1, 8, 8), torch.rand(2), label=torch.tensor([0]))


def test_dropout_is_active_in_training_only() -> None:
    net = awake(UNet(1, dropout=0.5, **SMALL))
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    assert torch.equal(net(x, t), net(x, t))
    net.train()
    assert not torch.equal(net(x, t), net(x, t))


@pytest.mark.parametrize("dims", [1, 2])
def test_twice_the_channels_are_a_prediction_and_a_learned_variance(dims) -> None:
    net = awake(UNet(2, out_channels=4, dims=dims, patch=2, **SMALL))
    x, t = torch.randn(3, 2, *(6, 7)[:dims]), torch.rand(3)
    y, extra = net(x, t)
    assert y.shape == extra.shape == x.shape and not torch.allclose(y, extra)
    p = GaussianDiffusion(net).predictor().predict(x, t)
    assert torch.equal(p.y, y) and torch.equal(p.extra, extra)


def test_other_channels_out() -> None:
    assert UNet(2, out_channels=5, patch=2, **SMALL)(torch.randn(1, 2, 6, 6), torch.rand(1)).shape == (
        1, 5, 6, 6,
    )  # fmt: skip


@pytest.mark.parametrize(
    "options, words",
    [
        ({"widths": ()}, "number_of_widths is 0"),
        ({"widths": (8, 15)}, "15.*4 groups"),
        ({"attention": (2,)}, r"attention is 2; give a number in \[0, 1\]"),
        ({"attention": (1,), "head_channels": 5}, "16.*5 channels"),
        ({"modulation": "film"}, "'film'"),
        ({"dims": 3}, "dims is 3"),
        ({"blocks": 0}, "blocks is 0"),
        ({"attention": (1,), "head_channels": 0}, "head_channels is 0"),
        ({"classes": -1}, "classes is -1"),
    ],
)
def test_wrong_arguments_are_named(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNet(3, **{**SMALL, **options})


def test_a_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 8, 8\).*\(\*, 3, \*, \*\)"):
        UNet(3, **SMALL)(torch.randn(2, 4, 8, 8), torch.rand(2))
    with pytest.raises(ValueError, match=r"\(\*, 3, \*\).*dims=1"):
        UNet(3, dims=1, **SMALL)(torch.randn(2, 3, 8, 8), torch.rand(2))


@pytest.mark.slow
def test_compiles_once_for_a_shape() -> None:
    import torch._dynamo.testing

    torch._dynamo.reset()
    count = torch._dynamo.testing.CompileCounter()
    net = awake(UNet(3, **{**SMALL, "attention": (1,)}))
    quick = torch.compile(net, backend=count, fullgraph=True, dynamic=False)
    for size in (8, 8, 6, 8, 6):
        x, t = torch.randn(2, 3, size, size), torch.rand(2)
        torch.testing.assert_close(quick(x, t), net(x, t))
    assert count.frame_count == 2


@pytest.mark.slow
@pytest.mark.parametrize("options", [*VARIANTS.values(), {"dims": 1}], ids=[*VARIANTS, "signal"])
def test_compiles_without_a_break_gradient_and_all(options: dict) -> None:
    torch._dynamo.reset()
    net = awake(UNet(2, classes=3, **{**SMALL, **options}))
    shape = (2, 2, 8) if options.get("dims") == 1 else (2, 2, 8, 6)
    x, t, label = torch.randn(shape), torch.rand(2), torch.tensor([2, -1])
    grads = []
    for run in (net, torch.compile(net, backend="aot_eager", fullgraph=True)):
        net.zero_grad()
        run(x, t, label=label).square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("time", ["sinusoidal", "fourier"])
def test_half_precision_is_the_same_function(time: str) -> None:
    net = awake(UNet(2, time=time, **SMALL))
    x, t = torch.randn(4, 2, 8, 8), torch.tensor([0.0005, 0.1234, 0.4321, 0.9876])
    expected = net(x, t)
    # weights in half, times as exact as they were
    y = net.half()(x.half(), t)
    assert y.dtype == torch.float16
    assert (y.float() - expected).abs().max() < 0.05 * expected.std()


def test_gradients_of_each_picture_are_those_of_a_batch_of_one():
    net = awake(UNet(1, **SMALL, time="fourier"))
    weights = dict(net.named_parameters())

    def energy(weights, x, t):
        return torch.func.functional_call(net, weights, (x[None], t[None])).square().sum()

    x, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    each = torch.vmap(torch.func.grad(energy), (None, 0, 0))(weights, x, t)
    for k in range(3):
        alone = torch.func.grad(energy)(weights, x[k], t[k])
        for name, gradient in alone.items():
            assert torch.allclose(each[name][k], gradient, rtol=1e-3, atol=1e-4), name
