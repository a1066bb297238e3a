"""Conditions that are dropped, noised and joined, item by item."""

import pytest
import torch
from torch import nn

from anydiff import Cosine, Dense, GaussianDiffusion
from anydiff.losses.conditions import absent, augment, drop, join
from tests.helpers.spaces import NODES


class Recorder(nn.Module):
    """A denoiser that keeps what it was told."""

    def forward(self, x_t, t, **cond):
        self.told = cond
        return 0 * x_t


def missing(value):
    gone = value.isnan() if value.is_floating_point() else value == -1
    return gone.flatten(1).all(1) if gone.ndim > 1 else gone


def given(items=4000):
    return {
        "label": torch.arange(items) % 7,
        "context": torch.randn(items, 3),
        "tokens": torch.randn(items, 2, 4),
        "tokens_mask": torch.ones(items, 2, dtype=torch.bool),
    }


def test_each_condition_goes_by_its_own_share_and_by_itself():
    cond, x = given(), torch.randn(4000, 2)
    generator = torch.Generator().manual_seed(0)
    out = drop(cond, {"label": 0.1, "context": 0.4}, x, Dense(), generator)
    label, context = missing(out["label"]), missing(out["context"])
    for gone, share in ((label, 0.1), (context, 0.4), (label & context, 0.04)):
        assert abs(gone.float().mean() - share) < 5 * (share * (1 - share) / 4000) ** 0.5
    assert torch.equal(out["tokens"], cond["tokens"])
    # whole items go, or stay as they were
    assert torch.equal(out["context"][~context], cond["context"][~context])
    assert torch.equal(out["label"][~label], cond["label"][~label])
    assert out["context"].isnan().any(1).equal(context)


def test_one_share_is_for_all_that_can_go():
    out = drop(given(), 1.0, torch.randn(4000, 2), Dense())
    assert all(missing(out[name]).all() for name in ("label", "context", "tokens"))
    assert out["tokens_mask"].all()
    same = drop(given(10), 0.0, torch.randn(10, 2), Dense())
    assert not any(missing(same[name]).any() for name in ("label", "context", "tokens"))


def test_rows_of_an_item_go_together():
    x, rows = torch.randn(14, 5), torch.randn(14, 2)
    generators = [torch.Generator().manual_seed(s) for s in range(4)]
    gone = missing(drop({"context": rows}, 0.5, x, NODES, generators)["context"])
    each = torch.stack([gone[NODES.index == b].float().mean() for b in range(4)])
    assert set(each.tolist()) == {0.0, 1.0}


def test_an_item_s_choice_does_not_depend_on_its_batch():
    x, cond = torch.randn(4, 2), {"label": torch.arange(4)}

    def choice(items):
        some = {"label": cond["label"][items]}
        generators = [torch.Generator().manual_seed(s) for s in items]
        return drop(some, 0.5, x[items], Dense(), generators)["label"]

    whole = choice([0, 1, 2, 3])
    assert torch.equal(torch.cat([choice([k]) for k in range(4)]), whole)
    assert 0 < (whole == -1).sum() < 4


def test_the_loss_drops_in_training_and_not_in_evaluation():
    network = Recorder()
    diffusion = GaussianDiffusion(network, Cosine(), "v", drop={"label": 0.5})
    x0, label = torch.randn(400, 2), torch.arange(400)
    diffusion.loss(x0, label=label, generator=torch.Generator().manual_seed(0))
    assert 150 < (network.told["label"] == -1).sum() < 250
    diffusion.eval().loss(x0, label=label)
    assert torch.equal(network.told["label"], label)


def test_a_loss_without_drops_draws_what_it_drew():
    x0, label = torch.randn(50, 2), torch.arange(50)
    losses = []
    for options in ({}, {"drop": 0.5}):
        diffusion = GaussianDiffusion(Recorder(), Cosine(), "eps", **options)
        generator = torch.Generator().manual_seed(0)
        losses.append(diffusion.loss(x0, label=label, generator=generator))
    assert torch.equal(*losses)  # the noise and the times come first


def test_no_noised_condition_goes_without_its_time():
    network = Recorder()
    diffusion = GaussianDiffusion(network, Cosine(), "v", drop=0.5, augment={"image": 0.6})
    diffusion.loss(torch.zeros(64, 2, 3), image=torch.ones(64, 4))
    told = network.told
    there = ~missing(told["image"])
    assert 0 < there.sum() < 64
    assert not told["image_t"][there].isnan().any()


def test_augmented_conditions_have_the_noise_of_the_level_they_are_told_with():
    schedule, c = Cosine(), torch.full((2000, 4, 4), 0.7)
    x, generator = torch.randn(2000, 3), torch.Generator().manual_seed(0)
    out = augment({"image": c}, {"image": 0.6}, schedule, x, Dense(), generator)
    s = out["image_t"]
    assert s.shape == (2000,) and s.min() >= 0 and 0.55 < s.max() <= 0.6
    alpha, sigma = schedule(s)
    z = (out["image"] - alpha[:, None, None] * c) / sigma[:, None, None]
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    assert (z[s < 0.05].std() - 1).abs() < 0.1 and (z[s > 0.5].std() - 1).abs() < 0.1

    network = Recorder()
    diffusion = GaussianDiffusion(network, schedule, "v", augment={"image": 0.6})
    diffusion.loss(x, image=c)
    assert not torch.equal(network.told["image"], c) and network.told["image_t"].shape == (2000,)


def test_joined_conditions_are_absent_where_they_are_lacking():
    cond = given(5)
    joined = join([cond, {}, {"label": torch.zeros(5, dtype=torch.long)}])
    assert torch.equal(joined["label"][:5], cond["label"])
    assert (joined["label"][5:10] == -1).all() and (joined["label"][10:] == 0).all()
    assert joined["context"][5:].isnan().all() and joined["tokens_mask"].shape == (15, 2)
    assert absent(torch.arange(3)).tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: GaussianDiffusion(Recorder(), drop=1.5),
            r"drop.* is 1\.5; give a number in \[0, 1\]",
        ),
        (lambda: GaussianDiffusion(Recorder(), augment={"image": -1}), r"augment of image is -1"),
        (lambda: drop(given(3), {"lable": 0.1}, torch.ones(3), Dense()), "label, context, tokens"),
        (
            lambda: drop({}, {"label": 0.1}, torch.ones(3), Dense()),
            "conditions of this batch are none",
        ),
        (
            lambda: drop({"context": torch.ones(5, 1)}, 0.1, torch.ones(3), Dense()),
            "3 rows, one per item",
        ),
        (lambda: join([{"a": torch.ones(2, 3)}, {"a": torch.ones(2, 4)}]), "batched=False"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
