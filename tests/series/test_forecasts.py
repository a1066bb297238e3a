"""Forecasts against a process whose forecasts are known in closed form."""

import numpy as np
import pytest
import torch
from torch import nn

from anydiff import Cosine, GaussianDiffusion, Masked, exact
from anydiff.series import forecast

AR = 0.8


def walk(length):
    """The covariance of a stationary first-order autoregression of unit variance."""
    k = torch.arange(length, dtype=torch.float64)
    return AR ** (k[:, None] - k).abs()


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Walk(nn.Module):
    """Its exact denoiser, of sequences (B, N, 1) of any length."""

    def __init__(self):
        super().__init__()
        self.like = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x_t, t, space):
        model = exact.Gaussian(Cosine(), "v", covariance=walk(x_t.shape[1]))
        return model(x_t[..., 0], t)[..., None]


@pytest.mark.slow
def test_a_forecast_has_the_moments_of_the_process():
    """1,000 draws of 20 resamples: off by up to 0.16 in the mean, of deviations from 0.6, as measured."""
    history = draw(1, 6, 1, seed=2)
    predict = GaussianDiffusion(Walk(), Cosine(), "v").predictor
    drawn = forecast(predict, history, 3, 1000, resamples=20, seed=0)
    assert drawn.shape == (1000, 1, 3, 1)
    steps = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    mean, variance = AR**steps * history[0, -1, 0], 1 - AR ** (2 * steps)
    y = drawn[:, 0, :, 0]
    assert ((y.mean(0) - mean).abs() < 0.25).all()
    assert ((y.var(0) / variance - 1).abs() < 0.3).all()


def test_a_forecast_begins_where_each_item_ends():
    seen, history = [], draw(2, 5, 1)
    history[0, 1] = torch.nan

    class Watched(nn.Module):
        def forward(self, x_t, t, space):
            seen.append((space.lengths.tolist(), x_t))
            return 0 * x_t

    predict = GaussianDiffusion(Watched().double(), Cosine(), "v").predictor
    options = {"steps": 3, "resamples": 1, "seed": 0}
    drawn = forecast(predict, history, 2, 4, lengths=[5, 3], **options)
    assert drawn.shape == (4, 2, 2, 1) and seen[0][0] == [7, 5] * 4
    assert drawn.isfinite().all() and (drawn != 0).all()
    history[1, 3:] = torch.inf  # padding, which is not looked at
    assert torch.equal(forecast(predict, history, 2, 4, lengths=[5, 3], **options), drawn)


@pytest.mark.parametrize(
    "shape, horizon, lengths, message",
    [
        ((3, 4), 2, None, r"history is \(3, 4\).*\(B, N, C\)"),
        ((2, 4, 1), 0, None, "horizon is 0"),
        ((2, 4, 1), 1, [4, 5], "0 to 4 rows"),
        ((2, 4, 1), 1, [4], "2 items"),
        ((2, 4, 1), 1, [4, 2.5], "0 to 4 rows"),
        ((2, 4, 1), 2.5, None, r"horizon is 2.5; give a whole number in \[1, inf\)"),
        ((2, 4, 1), "2", None, "horizon is '2'"),
    ],
)
def test_errors_name_the_value_and_the_way_out(shape, horizon, lengths, message):
    predict = GaussianDiffusion(Walk(), Cosine(), "v").predictor
    with pytest.raises(ValueError, match=message):
        forecast(predict, torch.zeros(shape), horizon, lengths=lengths)


@pytest.fixture
def half():
    """A model of half of x_t, of float32."""

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.share = nn.Parameter(torch.tensor(0.5))

        def forward(self, x_t, t, space):
            return self.share * x_t

    return GaussianDiffusion(Half(), Cosine(), "v").predictor


OPTIONS = {"steps": 3, "resamples": 1, "seed": 0}


def test_arrays_lists_and_whole_numbers_of_any_kind_do(half):
    history = draw(2, 5, 1).float()
    expected = forecast(half, history, 2, 3, **OPTIONS)
    for other in (history.numpy(), history.double().numpy(), history.tolist()):
        assert torch.equal(forecast(half, other, np.int64(2), np.int32(3), **OPTIONS), expected)
    whole = torch.tensor([[[1], [2], [3]]])
    kinds = (whole, whole.numpy(), whole.float())
    a, b, c = (forecast(half, h, torch.tensor(2), **OPTIONS) for h in kinds)
    assert torch.equal(a, b) and torch.equal(a, c)
    gap = np.ma.masked_array(history.numpy(), mask=history.numpy() > 1)
    missing = history.masked_fill(history > 1, torch.nan)
    assert torch.equal(forecast(half, gap, 2, **OPTIONS), forecast(half, missing, 2, **OPTIONS))


def test_rows_that_were_not_observed_are_no_padding(half):
    history = torch.tensor([torch.nan, torch.nan, 0.2, 0.3, 0.4]).view(1, 5, 1)
    drawn = forecast(half, history, 2, **OPTIONS)
    assert drawn.isfinite().all() and not set(drawn.flatten().tolist()) & {0.2, 0.3, 0.4}
    mask = torch.tensor([[False, False, True, True, True]])
    with pytest.raises(ValueError, match="lengths are"):
        forecast(half, history, 2, lengths=mask)
    with pytest.raises(ValueError, match="give no space, but lengths"):
        forecast(half, history, 2, space=Masked(mask))


@pytest.mark.parametrize(
    "history, message",
    [
        (torch.tensor([[[1.0], [torch.inf]]]), "item 0, row 1, channel 0 of the history is inf"),
        (np.array([[[1.0], [-np.inf]]]), "item 0, row 1, channel 0 of the history is -inf"),
        ([[["a"]]], "history: it holds <U1"),
        (np.zeros((1, 3, 1), "M8[s]"), "history: it holds datetime64"),
        (np.zeros((1, 3)), r"history is \(1, 3\).*\(B, N, C\)"),
    ],
)
def test_a_history_that_cannot_be_right_is_named(half, history, message):
    with pytest.raises(ValueError, match=message):
        forecast(half, history, 2, **OPTIONS)


def test_forecasts_that_are_not_finite_are_counted():
    class Broken(nn.Module):
        def forward(self, x_t, t, space):
            return torch.where(x_t[:, :1, :1] > 0, torch.nan, x_t)

    predict = GaussianDiffusion(Broken(), Cosine(), "v").predictor
    with pytest.warns(UserWarning, match="of the 8 forecasts are not finite") as said:
        drawn = forecast(predict, torch.tensor([[[1.0]], [[-1.0]]]), 1, 4, **OPTIONS)
    lost = (~drawn.isfinite()).sum()
    assert lost > 0 and str(said[0].message).startswith(f"{lost} of")


@pytest.mark.parametrize(
    "lengths",
    ["ab", ["a"], [None], torch.ones(1).half(), torch.ones(1).bfloat16(), [1j], 2, object()],
)
def test_lengths_that_are_no_whole_numbers_are_named(lengths):
    with pytest.raises(ValueError, match=r"lengths are .*; give 0 to 2 rows for each of 1 items"):
        forecast(None, [[[1.0], [2.0]]], 2, lengths=lengths)
    with pytest.raises(ValueError, match=r"lengths are .*; give 0 to 2 rows"):
        forecast(None, [[[1.0], [2.0]]], 2, lengths=np.array([3], np.uint64))
