"""The published weights of ADM, against a network that is written here with their names."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anydiff.denoisers import UNet
from anydiff.denoisers.unet.adm import load_adm

WIDE, BLOCKS, GROUPS, HEAD = (16, 32, 32), 2, 4, 8
BUILD = {
    "attention": (1, 2),
    "head_channels": HEAD,
    "groups": GROUPS,
    "out_channels": 6,
    "classes": 5,
}


class Block(nn.Module):
    def __init__(self, before, after, change=None):
        super().__init__()
        self.change = change
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * WIDE[0], 2 * after))
        last = nn.Conv2d(after, after, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, after), nn.SiLU(), nn.Dropout(0), last)
        same = before == after
        self.skip_connection = nn.Identity() if same else nn.Conv2d(before, after, 1)

    def moved(self, x):
        if self.change == "up":
            return F.interpolate(x, scale_factor=2)
        return F.avg_pool2d(x, 2) if self.change == "down" else x

    def forward(self, x, emb):
        norm, act, conv = self.in_layers
        h = conv(self.moved(act(norm(x))))
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, 1)
        norm, *rest = self.out_layers
        h = nn.Sequential(*rest)(norm(h) * (1 + scale) + shift)
        return self.skip_connection(self.moved(x)) + h


class Attention(nn.Module):
    def __init__(self, width, new_order):
        super().__init__()
        self.new_order, self.heads = new_order, width // HEAD
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv, self.proj_out = nn.Conv1d(width, 3 * width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x, emb):
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x).flatten(2))
        if self.new_order:
            q, k, v = qkv.reshape(B, 3, self.heads, HEAD, H * W).unbind(1)
        else:
            q, k, v = qkv.reshape(B, self.heads, 3, HEAD, H * W).unbind(2)
        weights = (q.mT @ k / math.sqrt(HEAD)).softmax(-1)
        return x + self.proj_out((v @ weights.mT).reshape(B, C, H * W)).view(B, C, H, W)


class Plain(nn.Module):
    """A convolution between resolutions, called op on the way down and conv on the way up."""

    def __init__(self, width, way):
        super().__init__()
        self.way = way
        conv = nn.Conv2d(width, width, 3, 2 if way == "op" else 1, padding=1)
        self.add_module(way, conv)

    def forward(self, x, emb):
        x = F.interpolate(x, scale_factor=2) if self.way == "conv" else x
        return getattr(self, self.way)(x)


class Model(nn.Module):
    def __init__(self, new_order=True, updown=True):
        super().__init__()
        wide = 4 * WIDE[0]
        self.time_embed = nn.Sequential(nn.Linear(WIDE[0], wide), nn.SiLU(), nn.Linear(wide, wide))
        self.label_emb = nn.Embedding(5, wide)

        def change(width, way):
            return (
                Block(width, width, way)
                if updown
                else Plain(width, {"down": "op", "up": "conv"}[way])
            )

        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, WIDE[0], 3, padding=1)])])
        widths, now = [WIDE[0]], WIDE[0]
        for level, width in enumerate(WIDE):
            for _ in range(BLOCKS):
                layers = [Block(now, width)] + ([Attention(width, new_order)] if level else [])
                self.input_blocks.append(nn.ModuleList(layers))
                widths.append(now := width)
            if level < len(WIDE) - 1:
                self.input_blocks.append(nn.ModuleList([change(width, "down")]))
                widths.append(width)
        self.middle_block = nn.ModuleList(
            [Block(now, now), Attention(now, new_order), Block(now, now)]
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(WIDE))):
            width = WIDE[level]
            for j in range(BLOCKS + 1):
                layers = [Block(now + widths.pop(), width)]
                layers += [Attention(width, new_order)] if level else []
                layers += [change(width, "up")] if level and j == BLOCKS else []
                self.output_blocks.append(nn.ModuleList(layers))
                now = width
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, now), nn.SiLU(), nn.Conv2d(now, 6, 3, padding=1)
        )

    def forward(self, x, step, label):
        half = WIDE[0] // 2
        angles = step[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1)) + self.label_emb(label)
        h, states = self.input_blocks[0][0](x), []
        states.append(h)
        for layers in self.input_blocks[1:]:
            for layer in layers:
                h = layer(h, emb)
            states.append(h)
        for layer in self.middle_block:
            h = layer(h, emb)
        for layers in self.output_blocks:
            h = torch.cat([h, states.pop()], 1)
            for layer in layers:
                h = layer(h, emb)
        return self.out(h)


def make(**options):
    torch.manual_seed(0)
    theirs = Model(**options).eval()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.15)
    return theirs


@pytest.mark.parametrize("new_order", [True, False])
@pytest.mark.parametrize("updown", [True, False])
def test_is_the_same_function(tmp_path, new_order, updown):
    theirs = make(new_order=new_order, updown=updown)
    torch.save(theirs.state_dict(), tmp_path / "m.pt")
    more = {} if updown else {"resample": "conv", "centered": True}
    ours = load_adm(
        tmp_path / "m.pt",
        UNet.adm(widths=WIDE, blocks=BLOCKS, **BUILD, **more),
        new_order=new_order,
    )
    x, step, label = torch.randn(2, 3, 8, 8), torch.tensor([3, 900]), torch.tensor([4, 0])
    with torch.no_grad():
        expected = theirs(x, step, label).chunk(2, 1)
        assert expected[0].std() > 0.1
        found = ours(x, (step + 1) / 1000, label=label)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_another_network_is_refused_by_name(tmp_path):
    path = tmp_path / "m.pt"
    torch.save(make().state_dict(), path)
    for change, words in [
        ({"blocks": 1}, "input_blocks|middle|output_blocks"),
        ({"classes": 0}, "has label_emb.weight, which the network has not"),
        ({"out_channels": 3}, r"\(6, 16, 3, 3\) for out.2.weight, which the network has as \(3, "),
        ({"attention": (2,)}, "which the network has not|has no"),
        ({"widths": (16, 32, 64)}, "which the network has as"),
    ]:
        with pytest.raises(ValueError, match=f"^{path}.*({words})"):
            load_adm(path, UNet.adm(**{"widths": WIDE, "blocks": BLOCKS, **BUILD, **change}))
    torch.save([1], path)
    with pytest.raises(ValueError, match="holds a list"):
        load_adm(path, UNet(3))
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_adm(tmp_path / "none.pt", UNet(3))
