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
        ({"dropout": None}, "dropout null.*FromDiffusers"),
        ({"dropout": "a"}, 'dropout "a".*FromDiffusers'),
        ({"attention_head_dim": [8, 8]}, r"attention_head_dim \[8, 8\].*FromDiffusers"),
        ({"attention_head_dim": 3}, "a width is 16; give multiples of the 3 .*FromDiffusers"),
        ({"norm_num_groups": 7}, "a width is 8; give multiples of the 7 .*FromDiffusers"),
        ({"block_out_channels": "wide"}, 'block_out_channels "wide"'),
        ({"block_out_channels": [8, "16"]}, r'block_out_channels \[8, "16"\]'),
        ({"block_out_channels": [8]}, "1 block_out_channels for 2 down_block_types"),
        ({"block_out_channels": [40_000, 80_000]}, "which its config.json has as .*40000"),
        ({"block_out_channels": [4e6, 16]}, "block_out_channels"),
        ({"block_out_channels": [2**40, 16]}, "block_out_channels"),
        ({"down_block_types": "DownBlock2D"}, "down_block_types"),
        ({"down_block_types": [["DownBlock2D"]]}, "down_block_types"),
        (
            {"layers_per_block": 10**6},
            "2,000,000 blocks and .* tensors; they do not belong together",
        ),
        ({"layers_per_block": True}, "layers_per_block true"),
        ({"in_channels": None}, "in_channels null"),
        ({"num_class_embeds": "ten"}, "num_class_embeds"),
        ({"norm_eps": "small"}, "norm_eps"),
        ({"freq_shift": {}}, "freq_shift"),
        ({"act_fn": ["silu"]}, "act_fn"),
        ({"attn_norm_num_groups": "x" * 999}, "attn_norm_num_groups 'xxx"),
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

    faulty = [
        ([torch.zeros(2)], "holds a list, not tensors by their names"),
        (torch.zeros(2), "holds a Tensor"),
        ({"x": [1.0]}, "has x of list"),
        ({1: torch.zeros(2)}, "not tensors by their names"),
        ({"x": torch.zeros(2, dtype=torch.int8)}, r"has x of torch.int8; the weights"),
        ({"x": torch.zeros(2, dtype=torch.complex64)}, "has x of torch.complex64"),
        ({"x": torch.tensor([1.0, torch.nan])}, "values in x that are not finite"),
        (theirs_of(folder[2]) | {"conv_in.weight": torch.zeros(())}, "other shapes"),
    ]
    for value, words in faulty:
        torch.save(value, weights)
        with pytest.raises(ValueError, match=words) as error:
            load_diffusers(path)
        assert str(weights) in str(error.value)

    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.safetensors"):
        load_diffusers(path)
    weights.write_bytes(b"")
    for text in ("{", "[" * 100_000, "\xff", "9" * 5000):
        (path / "config.json").write_text(text, encoding="latin1")
        with pytest.raises(ValueError, match=r"config.json is not JSON"):
            load_diffusers(path)
    (path / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a list, not a dictionary"):
        load_diffusers(path)
    (path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        load_diffusers(path)


# which weights, which chain --------------------


def test_variants_are_read(folder) -> None:
    path, _, ours = folder
    whole = path / "diffusion_pytorch_model.bin"
    half = {name: value.half() for name, value in theirs_of(ours).items()}
    torch.save(half, path / "diffusion_pytorch_model.fp16.bin")
    x, t = torch.randn(2, 3, 8, 8), torch.rand(2)
    assert torch.equal(load_diffusers(path)(x, t), ours(x, t))  # the one without a variant
    near = load_diffusers(path, variant="fp16")(x, t)
    assert not torch.equal(near, ours(x, t)) and torch.allclose(near, ours(x, t), atol=1e-2)
    with pytest.raises(FileNotFoundError, match=r"no diffusion_pytorch_model\.bf16\..*fp16\.bin"):
        load_diffusers(path, variant="bf16")

    whole.rename(path / "diffusion_pytorch_model.non_ema.bin")
    with pytest.raises(ValueError, match="the variants fp16, non_ema; choose one, variant='fp16'"):
        load_diffusers(path)
    assert torch.equal(load_diffusers(path, variant="non_ema")(x, t), ours(x, t))
    (path / "diffusion_pytorch_model.non_ema.bin").unlink()
    assert torch.equal(load_diffusers(path)(x, t), near)  # the only one


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("safe", [True, False])
def test_sharded_weights_are_read(tmp_path, variant, safe) -> None:
    theirs = make(OTHER)
    options = {"variant": variant, "safe_serialization": safe, "max_shard_size": "200KB"}
    theirs.save_pretrained(tmp_path, **options)
    names = [path.name for path in tmp_path.iterdir()]
    assert any("index" in name for name in names) and len(names) > 4
    x, label = torch.randn(2, 4, 8, 8), torch.tensor([0, 6])
    with torch.no_grad():
        expected = theirs(x, torch.tensor([0, 9]), class_labels=label).sample
        found = load_diffusers(tmp_path)(x, torch.tensor([0.001, 0.01]), label=label)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    next(path for path in tmp_path.iterdir() if "00001-of" in path.name).unlink()
    with pytest.raises(FileNotFoundError, match=r"00001-of-.*, which .*index.* names"):
        load_diffusers(tmp_path)


@pytest.mark.parametrize(
    "index", ['{"weight_map": {"x": "../x"}}', '{"weight_map": {"x": 3}}', "{}"]
)
def test_an_index_names_files_of_its_folder(folder, index) -> None:
    path, _, _ = folder
    (path / "diffusion_pytorch_model.bin").rename(path.parent / "x")
    (path / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    with pytest.raises((ValueError, FileNotFoundError), match=r"weight_map|holds no \.\./x"):
        load_diffusers(path)


def test_the_length_of_the_chain_comes_with_a_pipeline(folder) -> None:
    path, _, _ = folder
    unet, scheduler = path / "unet", path / "scheduler"
    unet.mkdir()
    scheduler.mkdir()
    for name in ("config.json", "diffusion_pytorch_model.bin"):
        (path / name).rename(unet / name)
    assert load_diffusers(path).config["steps"] == 1000
    (scheduler / "scheduler_config.json").write_text('{"num_train_timesteps": 50}')
    assert load_diffusers(path).config["steps"] == load_diffusers(unet).config["steps"] == 50
    assert load_diffusers(path, steps=20).config["steps"] == 20
    (scheduler / "scheduler_config.json").write_text('{"num_train_timesteps": "many"}')
    with pytest.raises(ValueError, match=r"scheduler_config\.json has num_train_timesteps 'many'"):
        load_diffusers(path)
