"""Series with missing values, learned and drawn, have the spectrum of the process they came from.

The process is autoregressive, x_k = a₁ x_{k−1} + a₂ x_{k−2} + e_k, with the poles r e^{±iω}. Its
autocovariance γ follows from the Yule–Walker equations, and with it the mean periodogram of a series of
n values, the leakage of its short window included:

    E |Σ x_k e^{−ifk}|² / n = Σ_{|k| < n} (1 − |k|/n) γ_k cos(fk)
"""

from math import cos, pi

import numpy as np
import pytest
import torch

from anydiff import Cosine, GaussianDiffusion, Masked
from anydiff.data.sequences import (
    LengthDistribution,
    Scaling,
    Sequences,
    loader,
    split_items,
    unpack,
)
from anydiff.denoisers.sequences.birnn import BiRNN
from anydiff.training.muon import Muon

LONGEST, EPOCHS = 64, 20
R, OMEGA = 0.9, 2 * pi / 8
FREQUENCIES = np.linspace(0, pi, 25)

# The mean over the frequencies of |log(measured / expected)|. 400 series of the process itself have
# 0.04, a periodogram's value being exponentially distributed; this short training reaches 0.1 to 0.15.
TOLERANCE = 0.25


def autocovariance(size):
    """γ_0 … γ_{size − 1}, scaled to γ_0 = 1."""
    a1, a2 = 2 * R * cos(OMEGA), -R * R
    gamma = [1, a1 / (1 - a2)]
    while len(gamma) < size:
        gamma.append(a1 * gamma[-1] + a2 * gamma[-2])
    return np.array(gamma)


def draw(num, rng):
    """Exact draws of 40 to 64 values, begun in the stationary state."""
    lags = np.abs(np.subtract.outer(np.arange(LONGEST), np.arange(LONGEST)))
    x = rng.standard_normal((num, LONGEST)) @ np.linalg.cholesky(autocovariance(LONGEST)[lags]).T
    return [item[:n] for item, n in zip(x, rng.integers(40, LONGEST + 1, num), strict=True)]


def distance(items):
    """The mean of |log(measured / expected)| over the frequencies."""
    measured, expected = np.zeros((2, len(FREQUENCIES)))
    for x in items:
        k, n = np.arange(len(x)), len(x)
        measured += np.abs(np.exp(-1j * np.outer(FREQUENCIES, k)) @ x) ** 2 / n
        weights = np.where(k == 0, 1, 2) * (1 - k / n) * autocovariance(n)
        expected += np.cos(np.outer(FREQUENCIES, k)) @ weights
    return np.abs(np.log(measured / expected)).mean()


@pytest.fixture(scope="module")
def gappy():
    """800 series of which a tenth of the values is missing."""
    rng = np.random.default_rng(0)
    return [np.where(rng.random(len(x)) < 0.1, np.nan, x) for x in draw(800, rng)]


def test_the_distance_tells_the_process_from_others(gappy):
    rng = np.random.default_rng(1)
    # five standard errors: at one frequency it is 0.04 on average, with a deviation of 0.03
    assert distance(draw(400, rng)) < 0.04 + 5 * 0.03 / len(FREQUENCIES) ** 0.5
    white = [rng.standard_normal(n) for n in rng.integers(40, LONGEST + 1, 400)]
    assert distance(white) > 4 * TOLERANCE
    # what is learned where a missing value is taken for a zero
    assert distance([np.nan_to_num(x) for x in gappy]) > 1.5 * TOLERANCE


@pytest.mark.slow
def test_drawn_series_have_the_spectrum_of_the_process(gappy):
    torch.manual_seed(0)
    series = Sequences.from_lists(gappy)
    scaling = Scaling.from_sequences(series)
    batches = loader(series.scaled(scaling), 64, window=4)
    diffusion = GaussianDiffusion(BiRNN(1, hidden=32, layers=1, observed=True), Cosine(), "v")
    optimizer = Muon(diffusion.parameters(), 0.01)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(batches))

    for _ in range(EPOCHS):
        for batch in batches:
            x0, space, cond = unpack(batch)
            loss = diffusion.loss(x0, space=space, **cond).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
            optimizer.step()
            cosine.step()

    lengths = LengthDistribution.from_sizes(series.sizes)
    space = Masked.from_lengths(lengths.sample(400, torch.Generator().manual_seed(0)))
    x = diffusion.sample((*space.mask.shape, 1), space=space, steps=30, seed=0)
    drawn = [item[:, 0].double().numpy() for item in split_items(scaling.decode(x), space.mask)]
    assert distance(drawn) < TOLERANCE
