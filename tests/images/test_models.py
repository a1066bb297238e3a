"""A model of images: labels, what is kept and redrawn, and files of older versions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import anydiff
from anydiff import DDIM, Cosine, GaussianDiffusion
from anydiff.denoisers import UNet
from anydiff.images import load_images
from anydiff.images.models import ImageModel, left_half

FORMAT2 = Path(__file__).parents[1] / "goldens/format2"
DIGITS = load_images("digits").subset(range(6))


def model(classes=0):
    torch.manual_seed(0)
    network = UNet(1, [8], groups=4, classes=classes)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    diffusion = GaussianDiffusion(network, Cosine(), "v").eval()
    return ImageModel(diffusion, (1, 8, 8), "digits")


def test_files_of_format_2_load_and_draw_as_they_did():
    old = ImageModel.load(FORMAT2 / "images.safetensors")
    assert (old.data, old.root, old.size, old.shape, old.classes) == (
        "digits", None, None, (1, 8, 8), 10,
    )  # fmt: skip
    with np.load(FORMAT2 / "drawn.npz") as file:
        expected = torch.from_numpy(file["images"])
    predictor = old.diffusion.predictor(label=torch.tensor([3, 8]))
    drawn = anydiff.sample(predictor, (2, 1, 8, 8), DDIM(), 4, seed=[3, 4])
    torch.testing.assert_close(drawn, expected)
    assert old.sample(3, steps=2, label=[3, 8]).labels.tolist() == [3, 8, 3]
    assert len(old.read_data()) == 1797
    with pytest.raises(ValueError, match=r"is not a model of images"):
        ImageModel.load(FORMAT2 / "sketches.safetensors")


def test_a_model_comes_back_from_its_file(tmp_path):
    one = model()
    one.save(tmp_path / "model.safetensors")
    assert anydiff.load(tmp_path / "model.safetensors")[1]["kind"] == "images"
    again = ImageModel.load(tmp_path / "model.safetensors")
    assert again.shape == one.shape and again.data == "digits"
    assert torch.equal(one.sample(3, steps=2).pixels, again.sample(3, steps=2).pixels)


def test_labels_come_in_turn():
    one = model(classes=3)
    assert one.sample(7, steps=1).labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert one.sample(5, steps=1, label=[2, 0]).labels.tolist() == [2, 0, 2, 0, 2]
    assert one.sample(5, steps=1, label=1, skip=2).labels.tolist() == [1, 1, 1]
    assert model().sample(2, steps=1).labels is None
    for two in (np.int64(2), np.array([2], np.uint8), torch.tensor(2), (2,)):
        assert one.sample(2, steps=1, label=two).labels.tolist() == [2, 2]


@pytest.mark.parametrize(
    "asked, classes, message",
    [
        ({"label": [2, 3]}, 3, "label is 3; .* 0 to 2"),
        ({"label": -1}, 3, "label is -1"),
        ({"label": 1.5}, 3, "label is 1.5; .* 0 to 2"),
        ({"label": True}, 3, "label is True"),
        ({"label": "two"}, 3, "labels are an array of <U3"),
        ({"label": 0}, 0, "no labels, which label is about; leave label out"),
        ({"guidance": 2.0}, 0, "no labels, which guidance is about"),
    ],
)
def test_labels_that_a_model_does_not_know(asked, classes, message):
    with pytest.raises(ValueError, match=message):
        model(classes).sample(2, **asked)


def test_the_left_half_is_kept_with_the_pictures_own_labels():
    one, states = model(classes=10), []
    drawn = one.inpaint(DIGITS, steps=3, resamples=2, watch=states.append)
    left = left_half(one.shape).expand_as(DIGITS.pixels)
    assert torch.equal(drawn.pixels[left], DIGITS.pixels[left])
    assert not torch.equal(drawn.pixels, DIGITS.pixels)
    assert torch.equal(drawn.labels, DIGITS.labels) and len(states) == 6
    other = one.inpaint(DIGITS, steps=3, resamples=2, label=[1])
    assert other.labels.tolist() == [1] * 6 and not torch.equal(other.pixels, drawn.pixels)
    with pytest.raises(ValueError, match=r"label is 3; the model knows 0 to 2"):
        model(classes=3).edit(DIGITS, 0.5)  # digits up to 5
    top = torch.zeros(6, 1, 8, 8, dtype=torch.bool)
    top[:, :, :4] = True
    drawn = one.inpaint(DIGITS, top, steps=2, resamples=1)
    assert torch.equal(drawn.pixels[top], DIGITS.pixels[top])


@pytest.mark.slow
def test_edits_and_blends_are_near_what_they_began_from():
    one = model()
    drawn = one.edit(DIGITS, 0.02, steps=2)
    assert (drawn.pixels.int() - DIGITS.pixels.int()).abs().max() < 40
    ways = one.interpolate(DIGITS, 4, steps=60)
    apart = one.interpolate(DIGITS, 4, steps=60, batch=4)
    assert len(ways) == 12 and (ways.pixels.int() - apart.pixels.int()).abs().max() <= 1
    ends = ways.pixels[[0, 3, 4, 7, 8, 11]].int()
    assert (ends - DIGITS.pixels.int()).abs().max() < 10  # of the flow's steps
    with pytest.raises(ValueError, match=r"are \(1, 8, 8\) and the model draws \(3, 8, 8\)"):
        ImageModel(one.diffusion, (3, 8, 8)).edit(DIGITS, 0.3)


def test_pictures_and_masks_of_another_kind_are_named():
    one = model()
    with pytest.raises(ValueError, match=r"the pictures are a Tensor; give Images"):
        one.edit(DIGITS.pixels, 0.5, steps=1)
    mask = np.arange(8) < 4
    with pytest.raises(ValueError, match=r"known is \(8,\) of torch.bool.*\(M, C, H, W\)"):
        one.inpaint(DIGITS, mask, steps=1)
    with pytest.raises(ValueError, match=r"known is .* of torch.float32"):
        one.inpaint(DIGITS, torch.ones(1, 1, 8, 8), steps=1)
    mask = np.broadcast_to(mask, (1, 1, 8, 8))
    kept = one.inpaint(DIGITS, mask, steps=1, resamples=1).pixels
    assert torch.equal(kept[..., :4], DIGITS.pixels[..., :4])


def test_only_data_that_are_asked_for_are_fetched(monkeypatch):
    """A model that has travelled names its data, and drawing from it does not fetch them."""
    fetched = []

    def read(data, root, *, size, download):
        fetched.append((data, download))
        return load_images("digits")

    monkeypatch.setattr("anydiff.images.models.load_images", read)
    known = replace(model(), data="cifar10")
    known.read_data()
    known.read_data("cifar10")
    assert fetched == [("cifar10", False), ("cifar10", True)]
