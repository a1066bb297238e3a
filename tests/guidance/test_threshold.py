"""Dynamic thresholding: the quantile in every space, and what it does to a prediction."""

import pytest
import torch

from anydiff import (
    Cosine,
    Dense,
    GaussianDiffusion,
    Masked,
    Packed,
    Ragged,
    classifier_free,
    sample,
)
from anydiff.guidance import thresholded
from anydiff.guidance.threshold import quantile
from anydiff.predictions import Network, Predictor, as_target

LENGTHS = [7, 3, 5]


def spaces(lengths=LENGTHS):
    """Spaces and states of the same number of items, with the entries of each item."""
    generator = torch.Generator().manual_seed(len(lengths))
    items = len(lengths)
    dense = torch.randn(items, 3, 4, generator=generator)
    yield Dense(), dense, list(dense.flatten(1))
    masked = Masked.from_lengths(lengths)
    x = masked.project(torch.randn(items, max(lengths), 2, generator=generator))
    yield masked, x, [row[:n].flatten() for row, n in zip(x, lengths, strict=True)]
    ragged = Ragged.from_sizes(lengths)
    y = torch.randn(sum(lengths), 3, generator=generator)
    yield ragged, y, [part.flatten() for part in y.split(lengths)]
    packed = Packed({"a": (masked, x.shape), "b": (ragged, y.shape)})
    both = packed.pack({"a": x, "b": y})
    rows = zip(x, lengths, y.split(lengths), strict=True)
    yield packed, both, [torch.cat([r[:n].flatten(), part.flatten()]) for r, n, part in rows]


KINDS = range(4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.995, 1.0])
def test_the_quantile_is_that_of_the_valid_entries(kind, share):
    space, x, entries = list(spaces())[kind]
    found = quantile(x.abs(), space, share)
    for value, own in zip(found, entries, strict=True):
        ordered = own.abs().sort().values
        k = next(k for k in range(len(own)) if k + 1 >= share * len(own) - 1e-4)
        assert value == ordered[k]  # to the last bit


def bound(x0, space, schedule=None):
    """A predictor whose x0 is given, whatever x_t is."""
    network = Network(lambda x_t, t, space=None: x0.to(x_t.dtype), as_target("x0"), space, {})
    return Predictor(network, schedule or Cosine(), space)


def level_of(predictor, t=0.6):
    return predictor.schedule.levels(torch.tensor([t], dtype=torch.float64))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_range_stays_to_the_last_bit(kind):
    space, x, _ = list(spaces())[kind]
    plain = bound(x / x.abs().max(), space)
    for percentile in (0.5, 1.0):
        p = thresholded(plain, percentile).predict(x, level_of(plain))
        q = plain.predict(x, level_of(plain))
        assert torch.equal(p.x0, q.x0) and torch.equal(p.eps, q.eps)


@pytest.mark.parametrize("kind", KINDS)
def test_x0_is_in_range_and_x_t_as_it_was(kind):
    space, x, entries = list(spaces())[kind]
    x = x.double()
    plain = bound(5 * x, space)
    p = thresholded(plain, 0.8, limit=2.0).predict(x, level_of(plain))
    assert p.x0.abs().max() <= 2 * (1 + 1e-12)
    back = p.alpha * p.x0 + p.sigma * p.eps
    assert torch.allclose(space.project(back), x, rtol=0, atol=1e-12)
    if kind == 0:
        s = torch.stack([quantile(5 * e[None].abs(), Dense(), 0.8)[0] for e in entries]).double()
        s = s.clamp(min=2)[:, None, None]
        expected = (5 * x).clamp(-s, s) * 2 / s
        assert torch.allclose(p.x0, expected, rtol=1e-12)
        assert (p.x0.abs() > 1.999).double().mean() > 0.15  # some are clipped


def test_an_item_depends_on_no_other_one():
    x0, x = 4 * torch.randn(5, 6), torch.randn(5, 6)
    level, order = level_of(bound(x0, Dense())), [3, 1, 4, 0, 2]
    whole = thresholded(bound(x0, Dense()), 0.7).predict(x, level).x0
    mixed = thresholded(bound(x0[order], Dense()), 0.7).predict(x[order], level).x0
    alone = thresholded(bound(x0[2:3], Dense()), 0.7).predict(x[2:3], level).x0
    assert torch.equal(mixed, whole[order]) and torch.equal(alone, whole[2:3])


def test_it_goes_around_a_guidance():
    """Strong guidance of a mixture leaves the range, and comes back into it at its sign."""
    target = torch.tensor([[0.5, -0.5, 0.25]])
    given, free = bound(target, Dense()), bound(torch.zeros(1, 3), Dense())
    guided = classifier_free(given, free, 8.0)
    x = torch.randn(1, 3)
    assert sample(guided, x, steps=5).abs().max() > 3
    held = sample(thresholded(guided), x, steps=5)
    assert held.abs().max() <= 1 + 1e-5 and torch.equal(held.sign(), target.sign())
    assert held[0, 2] == pytest.approx(0.5, abs=1e-4)  # scaled with the rest, not clipped


def test_copies_of_a_batch_are_thresholded_too():
    class Threefold(torch.nn.Module):
        def forward(self, x_t, t, *, space):
            return 3 * x_t

    space, x, _ = list(spaces())[1]
    plain = GaussianDiffusion(Threefold(), Cosine(), "x0").predictor(space)
    several = thresholded(plain, 0.9).copies(2)
    level, both = level_of(plain), torch.cat([x, x])
    assert several.space.mask.shape[0] == 2 * len(LENGTHS)
    once = thresholded(plain, 0.9).predict(x, level).x0
    assert torch.equal(several.predict(both, level).x0, torch.cat([once, once]))
    assert once.abs().max() == pytest.approx(1) and plain.predict(x, level).x0.abs().max() > 2


def test_arguments():
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"percentile is -0\.5; give a number in \[0, 1\]"):
        thresholded(bound(x, Dense()), -0.5)
    with pytest.raises(ValueError, match=r"limit is -1; give a number in \(0, inf\)"):
        thresholded(bound(x, Dense()), limit=-1)
    with pytest.raises(ValueError, match="the space Ragged has centred columns, whose values have"):
        thresholded(bound(x, Ragged.from_sizes([2, 2], centered=3)))
    with pytest.raises((TypeError, ValueError), match="predictor"):
        thresholded(lambda x, t: x)


def test_at_0_values_are_clipped_alone():
    x0 = 3 * torch.randn(4, 6, dtype=torch.float64)
    plain, x = bound(x0, Dense()), torch.randn(4, 6, dtype=torch.float64)
    found = thresholded(plain, 0, limit=1.5).predict(x, level_of(plain)).x0
    torch.testing.assert_close(found, x0.clamp(-1.5, 1.5))
