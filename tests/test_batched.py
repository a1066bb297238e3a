"""Drawing batch after batch: seeds, guidance, what is known, and what a stop leaves."""

import pytest
import torch
from torch import nn

from anydiff import DDIM, Dense, GaussianDiffusion, sample
from anydiff.batched import Batch, Stopped, calls, draw_all, finite, in_batches, steps_of
from anydiff.denoisers import Completing, UNet
from anydiff.distillation import student
from anydiff.images.models import ImageModel
from anydiff.losses import Rows
from anydiff.spaces import child


class Remembers(nn.Module):
    """A denoiser of v that is linear in its label, and keeps the labels it was told."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.told = []

    def forward(self, x_t, t, label=None):
        self.told.append(label)
        shift = 0.0 if label is None else label.reshape(-1, 1, 1, 1)
        return self.scale * x_t + shift


SHAPE = (1, 2, 4)


def drawn(label=None, *, x=None, known=None, denoiser=None, diffusion=None, **how):
    diffusion = diffusion or GaussianDiffusion(denoiser or Remembers(), prediction="v")

    def make(some):
        cond = {} if label is None else {"label": label[some]}
        of = (None if value is None else value[some] for value in (x, known))
        return Batch((some.stop - some.start, *SHAPE), Dense(), cond, *of)

    how = {"steps": 3, **how}
    return draw_all(diffusion, 7, make, torch.cat, **how)


def test_items_are_the_same_however_they_are_batched():
    label, denoiser = torch.arange(7) % 4, Remembers()
    whole = drawn(label)
    torch.testing.assert_close(drawn(label, denoiser=denoiser, batch=3), whole)
    assert torch.equal(torch.cat(denoiser.told[::3]), label)
    torch.testing.assert_close(drawn(label, skip=5), whole[5:])
    assert not torch.isclose(drawn(label, seed=1), whole).any()
    with pytest.raises(ValueError, match="skip is 7 of 7 items"):
        drawn(skip=7)
    with pytest.raises(ValueError, match="batch is 0; give a number"):
        drawn(batch=0)
    with pytest.raises(ValueError, match="guidance is nan"):
        drawn(label, guidance=float("nan"))


def test_a_stop_keeps_what_is_drawn_and_the_rest_can_follow():
    whole = drawn()

    class Tires(Remembers):
        def forward(self, x_t, t, label=None):
            if len(self.told) == 7:  # three steps a batch
                raise KeyboardInterrupt
            return super().forward(x_t, t, label)

    with pytest.raises(Stopped, match="skip=4 draws the others") as stop:
        drawn(denoiser=Tires(), batch=2)
    assert isinstance(stop.value, KeyboardInterrupt) and stop.value.num == 4
    torch.testing.assert_close(stop.value.drawn, whole[:4])
    torch.testing.assert_close(drawn(skip=stop.value.num), whole[4:])
    with pytest.raises(KeyboardInterrupt) as stop:
        drawn(denoiser=Tires(), steps=8)
    assert not isinstance(stop.value, Stopped)  # nothing is drawn yet


def test_guidance_goes_beyond_what_labels_say():
    label = torch.full((7,), 3)
    by = {w: drawn(label, guidance=w) for w in (0, 1, 2)}
    torch.testing.assert_close(by[0], drawn())
    torch.testing.assert_close(by[2], 2 * by[1] - by[0])  # the network is linear in its label
    assert not torch.allclose(by[1], by[0])


def test_what_is_known_stays_and_edits_are_near():
    x = torch.linspace(-1, 1, 56).reshape(7, *SHAPE)
    known = (torch.arange(4) < 2).expand_as(x)
    states = []
    whole = drawn(x=x, known=known, batch=3, resamples=2, watch=states.append)
    assert torch.equal(whole[known], x[known]) and not torch.equal(whole, x)
    assert len(states) == 6 and len(states[0]) == 3  # each step twice, of the first batch
    little = drawn(x=x, strength=0.02, steps=100)
    assert (little - x).abs().max() < 0.3 < (drawn(steps=100) - x).abs().max()


def test_calls_of_the_network_are_counted():
    label, x = torch.arange(7) % 4, torch.zeros(7, *SHAPE)
    known = torch.ones(7, *SHAPE, dtype=torch.bool)
    for guidance in (0, 1, 2):
        for data, resamples in (({}, 1), ({"x": x, "known": known, "resamples": 2}, 2)):
            denoiser = Remembers()
            drawn(label, denoiser=denoiser, guidance=guidance, steps=4, **data)
            assert calls(4, guidance, True, resamples) == len(denoiser.told)
    assert calls(4, 3.0) == 4  # no condition, no guidance


def test_what_is_not_finite_is_left_out_where_it_may(recwarn):
    x = torch.zeros(3, 1, 2, 2)
    assert finite(list(x), "images").all() and not recwarn
    x[1, 0, 0, 0], x[2, 0, 1, 1] = torch.nan, torch.inf
    with pytest.warns(UserWarning, match="2 of the 3 images are not finite and left out"):
        assert finite(list(x), "images").tolist() == [True, False, False]
    x[0, 0, 1, 0] = 1e20  # its square is infinite
    with pytest.raises(ValueError, match="3 of the 3 images"):
        finite(list(x), "images")
    x[0] = 1e15
    for items, every in ((x, True), (x[1:], False)):
        with pytest.raises(ValueError, match=r"2 of the . images .* a smaller lr"):
            finite(list(items), "images", every)


TIMES = (1.0, 0.8126, 0.4, 0.0)


def distilled(eta=0.0):
    teacher = GaussianDiffusion(Remembers(), prediction="v", drop=0.1)
    return student(teacher, Rows(TIMES, DDIM(eta)))


def test_a_distilled_model_takes_its_own_run():
    x = torch.linspace(-1, 1, 56).reshape(7, *SHAPE)
    known = (torch.arange(4) < 2).expand_as(x)
    for data, run in (({}, 3), ({"x": x, "known": known, "resamples": 2}, 6)):
        model = distilled()
        states = []
        drawn(diffusion=model, steps=None, watch=states.append, **data)
        assert len(model.denoiser.told) == len(states) == run  # not the hundred of others
    made = drawn(diffusion=distilled(), steps=None)
    seeds = [child(0, k) for k in range(7)]
    wanted = sample(distilled().predictor(), (7, *SHAPE), DDIM(), TIMES, seed=seeds)
    assert torch.equal(made, wanted)
    assert not torch.equal(drawn(diffusion=distilled(1.0), steps=None), made)
    assert torch.equal(drawn(diffusion=distilled(), steps=None, sampler=DDIM()), made)
    with pytest.raises(ValueError, match=r"steps is 4; it was trained for 3 steps of DDIM"):
        drawn(diffusion=distilled(), steps=4)


def test_an_edit_by_a_distilled_model_begins_at_one_of_its_times():
    x = torch.linspace(-1, 1, 56).reshape(7, *SHAPE)
    for strength, run in ((1.0, 3), (0.8126, 2), (0.812, 2), (0.4, 1)):
        model = distilled()
        drawn(diffusion=model, steps=None, x=x, strength=strength)
        assert len(model.denoiser.told) == steps_of(model, 100, strength) == run
        assert steps_of(GaussianDiffusion(Remembers()), 100, strength) == 100
    for strength in (0.3, 0.81, 0.99):
        with pytest.raises(
            ValueError, match=rf"strength is {strength}.*give 1 or 0.8126 or 0.4, or"
        ):
            drawn(diffusion=distilled(), steps=None, x=x, strength=strength)
    with pytest.raises(ValueError, match=r"strength is 2"):
        drawn(diffusion=distilled(), steps=None, x=x, strength=2)


def test_a_distilled_model_of_labels_is_asked_once_a_step_and_not_guided():
    network = UNet(1, [4], groups=2, classes=3)
    teacher = GaussianDiffusion(network, prediction="v", drop=0.1)
    model = ImageModel(student(teacher, Rows(TIMES)), (1, 8, 8))
    asked = []
    model.diffusion.denoiser.register_forward_pre_hook(lambda *_: asked.append(1))
    assert len(model.sample(2, label=1)) == 2 and len(asked) == 3 == calls(3, 1.0, True)
    images = model.sample(2)
    with pytest.raises(
        ValueError, match=r"guidance is 2, and the model was distilled: it knows its"
    ):
        model.sample(2, guidance=2.0)
    with pytest.raises(ValueError, match=r"the model is distilled: it knows one run to the data"):
        model.interpolate(images)
    assert len(ImageModel(teacher, (1, 8, 8)).sample(2, guidance=2.0, steps=2)) == 2


class Counts(nn.Module):
    """A denoiser of v of twice the channels, for `Completing`, which counts its calls."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(2, 2, 1)
        self.told = []

    def forward(self, x_t, t, label=None):
        self.told.append((x_t, label))
        return self.mix(x_t) + (0.0 if label is None else label.reshape(-1, 1, 1, 1))


def test_a_model_that_completes_is_given_what_is_known():
    x = torch.linspace(-1, 1, 56).reshape(7, *SHAPE)
    known, label = (torch.arange(4) < 2).expand_as(x), torch.arange(7.0)
    states, diffusion = [], GaussianDiffusion(Completing(Counts(), axis=1), prediction="v")
    part = {"x": x, "known": known, "diffusion": diffusion}
    whole = drawn(label, **part, batch=3, watch=states.append)
    told = diffusion.denoiser.net.told
    assert len(told) == 9  # three steps of three batches, and none is repeated
    for rows, labels in told[:3]:  # clean at every time, with flags beside it
        assert torch.equal(rows[:, :1][known[:3]], x[:3][known[:3]])
        assert torch.equal(rows[:, 1:].bool(), known[:3]) and torch.equal(labels, label[:3])
    assert torch.equal(whole[known], x[known]) and not torch.equal(whole, x)
    assert len(states) == 3 and all(torch.equal(s[known[:3]], x[:3][known[:3]]) for s in states)
    torch.testing.assert_close(drawn(label, **part), whole)  # however they are batched
    # guidance knows the part on both sides; the network is linear in its label
    by = [drawn(label, **part, guidance=w) for w in (0, 1, 2)]
    torch.testing.assert_close(by[2], 2 * by[1] - by[0])
    assert not torch.allclose(by[1], by[0])

    told.clear()
    assert drawn(diffusion=diffusion).shape == (7, *SHAPE)  # whole items, of which nothing is known
    assert not any(rows[:, 1:].any() for rows, _ in told)


def sliced(num=12, memory=99.0, **how):
    """The slices in which items are drawn, on a device that holds what costs so much."""
    costs, drawn = how.get("costs"), []

    def draw(some, seeds):
        of = torch.ones(num) if costs is None else costs
        assert seeds == [child(0, k) for k in range(some.start, some.stop)]
        if of[some].sum() > memory:
            raise torch.OutOfMemoryError("too much")
        drawn.append((some.start, some.stop))
        return torch.arange(some.start, some.stop)

    items = in_batches(num, draw, torch.cat, **how)
    return drawn, items.tolist()


def test_batches_are_cut_by_what_items_cost():
    assert sliced(batch=5) == ([(0, 5), (5, 10), (10, 12)], list(range(12)))
    costs = torch.tensor([1, 1, 1, 1, 9, 1, 1, 1, 1, 1, 5, 1])  # 24 in all: 2 each
    assert sliced(batch=3, costs=costs)[0] == [(0, 4), (4, 5), (5, 10), (10, 12)]
    assert sliced(batch=1, costs=costs)[0][:3] == [(0, 2), (2, 4), (4, 5)]
    assert sliced(batch=3, costs=costs, skip=3, stop=6)[0] == [(3, 4), (4, 5), (5, 6)]


def test_batches_are_halved_where_there_is_no_memory():
    drawn, items = sliced(batch=8, memory=3.0)
    assert drawn == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 12)] and items == list(range(12))
    with pytest.raises(torch.OutOfMemoryError):
        sliced(batch=8, memory=0.5)


def test_a_part_of_the_items():
    whole = drawn()
    torch.testing.assert_close(drawn(skip=2, stop=5), whole[2:5])
    for stop in (2, 8):
        with pytest.raises(ValueError, match=f"skip is 2 and stop is {stop} of 7"):
            drawn(skip=2, stop=stop)
