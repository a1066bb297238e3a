import json

import pytest
import torch

from anydiff import GaussianDiffusion, Tabulated, load, save
from anydiff.denoisers import UNet
from anydiff.denoisers.unet.diffusers import FromDiffusers, load_diffusers

CIFAR = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (128, 256, 256, 256),
    "downsample_padding": 0,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
}
OTHER = {
    "in_channels": 4,
    "out_channels": 2,
    "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
    "block_out_channels": (32, 48, 64),
    "norm_num_groups": 16,
    "attention_head_dim": 16,
    "layers_per_block": 1,
    "num_class_embeds": 7,
}
ADAPTIVE = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "block_out_channels": (32, 64),
    "norm_num_groups": 16,
    "attn_norm_num_groups": 16,
    "layers_per_block": 1,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
}


def make(config: dict):
    """A network of diffusers with random weights, biases and norms included."""
    UNet2DModel = pytest.importorskip("diffusers").UNet2DModel
    torch.manual_seed(0)
    net = UNet2DModel(**config).eval()
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 1:
                p.add_(0.3 * torch.randn_like(p))
    return net


@pytest.mark.parametrize("config", [CIFAR, OTHER, ADAPTIVE], ids=["cifar", "other", "adaptive"])
def test_is_the_same_function(config: dict, tmp_path) -> None:
    theirs = make(config)
    theirs.save_pretrained(tmp_path)
    ours = load_diffusers(tmp_path)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())

    size = (32, 32) if config is CIFAR else (16, 24)
    x, step = torch.randn(2, config.get("in_channels", 3), *size), torch.tensor([12, 801])
    labels = torch.tensor([1, 5]) if "num_class_embeds" in config else None
    t = (step + 1) / 1000
    with torch.no_grad():
        expected = theirs(x, step, class_labels=labels).sample
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(x, t, label=labels), expected, rtol=0, atol=1e-5)
        wrapped = FromDiffusers(theirs)(x, t, label=labels)
        torch.testing.assert_close(wrapped, expected, rtol=0, atol=1e-5)


def test_twice_the_channels_are_a_prediction_and_a_learned_variance(tmp_path) -> None:
    theirs = make(ADAPTIVE | {"out_channels": 6})
    theirs.save_pretrained(tmp_path)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.013, 0.802])
    with torch.no_grad():
        expected = theirs(x, 1000 * t - 1).sample.chunk(2, 1)
        for net in (load_diffusers(tmp_path), FromDiffusers(theirs)):
            torch.testing.assert_close(net(x, t), expected, rtol=0, atol=1e-5)


def test_gradients_are_the_same(tmp_path) -> None:
    theirs = make(OTHER)
    theirs.save_pretrained(tmp_path)
    ours = load_diffusers(tmp_path)
    x, t, label = torch.randn(2, 4, 8, 8), torch.tensor([0.1, 0.9]), torch.tensor([1, 5])
    theirs(x, 1000 * t - 1, class_labels=label).sample.square().sum().backward()
    ours(x, t, label=label).square().sum().backward()
    pairs = [
        (ours.conv_in, theirs.conv_in),
        (ours.up[0].resample.conv, theirs.up_blocks[0].upsamplers[0].conv),
        (ours.mid[1].out, theirs.mid_block.attentions[0].to_out[0]),
        (ours.embed_time[3], theirs.time_embedding.linear_2),
    ]
    for a, b in pairs:
        torch.testing.assert_close(a.weight.grad, b.weight.grad, rtol=1e-3, atol=1e-3)


def test_samples_and_goes_into_our_own_file(tmp_path) -> None:
    make(OTHER | {"num_class_embeds": None, "out_channels": 4}).save_pretrained(tmp_path / "unet")
    diffusion = GaussianDiffusion(load_diffusers(tmp_path, steps=50), Tabulated.linear(50), "eps")
    assert diffusion.denoiser.config["steps"] == 50
    save(tmp_path / "m.safetensors", diffusion)
    again = load(tmp_path / "m.safetensors")[0]
    x = diffusion.sample((2, 4, 8, 8), steps=3, seed=0)
    assert x.isfinite().all() and torch.equal(x, again.sample((2, 4, 8, 8), steps=3, seed=0))


def theirs_of(ours: UNet) -> dict[str, torch.Tensor]:
    """The weights of a network without attention but in the middle, as a file of before 2023 has them."""
    names = {
        "embed_time.1": "time_embedding.linear_1",
        "embed_time.3": "time_embedding.linear_2",
        "norm_out": "conv_norm_out",
        "mid.0": "mid_block.resnets.0",
        "mid.2": "mid_block.resnets.1",
        "mid.1.norm": "mid_block.attentions.0.group_norm",
        "mid.1.out": "mid_block.attentions.0.proj_attn",
        "down.0.blocks": "down_blocks.0.resnets",
        "down.0.resample": "down_blocks.0.downsamplers.0",
        "down.1.blocks": "down_blocks.1.resnets",
        "up.0.blocks": "up_blocks.0.resnets",
        "up.0.resample": "up_blocks.0.upsamplers.0",
        "up.1.blocks": "up_blocks.1.resnets",
        ".modulation.": ".time_emb_proj.",
        ".shortcut.": ".conv_shortcut.",
    }
    state = {}
    for name, value in ours.state_dict().items():
        if ".qkv." in name:
            part = name.rsplit(".", 1)[1]
            for kind, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                state[f"mid_block.attentions.0.{kind}.{part}"] = rows.contiguous()
            continue
        for mine, other in names.items():
            name = name.replace(mine, other)
        state[name] = value.contiguous()
    return state


@pytest.fixture
def folder(tmp_path):
    """An older folder, its weights pickled by PyTorch; nothing of diffusers is needed."""
    torch.manual_seed(0)
    ours = UNet(3, (8, 16), 1, (), groups=4, eps=1e-5, centered=True, head_channels=8)
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.2)
    config = {
        "_class_name": "UNet2DModel",
        "down_block_types": ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(theirs_of(ours), tmp_path / "diffusion_pytorch_model.bin")
    return tmp_path, config, ours.eval()


def test_older_names_and_pickled_weights(folder) -> None:
    path, _, ours = folder
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    assert torch.equal(load_diffusers(path)(x, t), ours(x, t))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel.*FromDiffusers"),
        ({"act_fn": "gelu"}, "act_fn 'gelu'.*FromDiffusers"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type 'fourier'"),
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "SkipDownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "mirror"),
        ({"attn_norm_num_groups": 2}, "attn_norm_num_groups 2"),
        ({"block_out_channels": [8, 32]}, r"\(16, .* for down.1.*config.json has as \(32, "),
        ({"layers_per_block": 2}, "has no .*resnets.1"),
        ({"norm_num_groups": None}, "norm_num_groups null"),
    ],
)
def test_what_is_not_a_unet_is_named(folder, change: dict, words: str) -> None:
    path, config, _ = folder
    (path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=words) as error:
        load_diffusers(path)
    assert str(path) in str(error.value)


def test_weights_of_another_configuration_are_named(folder) -> None:
    path, _, ours = folder
    state = theirs_of(ours) | {"class_embedding.weight": torch.zeros(3, 32)}
    torch.save(state, path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has class_embedding\.weight, which its config\.json"):
        load_diffusers(path)


def test_faulty_files_are_named(folder) -> None:
    path, _, _ = folder
    weights = path / "diffusion_pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:-500])
    with pytest.raises(ValueError, match="damaged"):
        load_diffusers(path)

    class Evil:
        def __reduce__(self):
            return (open, (str(path / "hacked"), "w"))

    torch.save({"x": Evil()}, weights)
    with pytest.raises(ValueError, match="more than tensors"):
        load_diffusers(path)
    assert not (path / "hacked").exists()

    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.safetensors"):
        load_diffusers(path)
    (path / "config.json").write_text("{")
    weights.write_bytes(b"")
    with pytest.raises(ValueError, match="not JSON"):
        load_diffusers(path)
