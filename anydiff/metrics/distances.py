r"""Distances between two samples, given as rows of features (N, D).

The caller chooses the features. Numbers are comparable only if measured in the same way: with the same
features and the same sizes of samples. The distance of real data from real data is the lower bound.

All are computed in float64. The Fréchet distance of finite samples is biased upwards, for two samples
of one standard normal by about :math:`(\frac{1}{n} + \frac{1}{m}) \frac{D^2 + 5 D}{4}`: compare only
values of equal n and m, or use `mmd`, whose mean does not depend on them.

torchmetrics has the Fréchet distance and MMD as metrics of pictures, and MMD as a mean over random
subsets. :mod:`anydiff.images.evaluate` uses those, as published figures do; the tests compare with them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from anydiff.checks import check_range

__all__ = [
    "PrecisionRecall", "frechet", "jensen_shannon", "mmd", "nearest_ratio", "precision_recall",
]  # fmt: skip


def frechet(x: Tensor, y: Tensor) -> float:
    r"""The Fréchet distance of two Gaussians with the samples' means and covariances.

    .. math:: |\mu_x - \mu_y|^2 +
        \operatorname{tr}\left(\Sigma_x + \Sigma_y - 2 (\Sigma_x \Sigma_y)^{1/2}\right)

    Covariances may be singular, as they are if N ≤ D.

    Arguments:
        x: (N, D), at least two rows.
        y: (M, D), at least two rows.

    Raises:
        ValueError: Shapes do not match, there are fewer rows, or a feature is not finite.

    References:
        The Fréchet distance between multivariate normal distributions (Dowson and Landau, 1982).
        https://doi.org/10.1016/0047-259X(82)90077-X
    """
    x, y = _pair(x, y, least=2)
    shift = (x.mean(0) - y.mean(0)).square().sum()
    # Σ = RᵀR for the R of the centred rows, and tr (Σx Σy)^½ is the sum of the singular values of
    # Rx Ryᵀ: so no root is taken of a rounding error, however few rows there are
    rx, ry = (torch.linalg.qr((a - a.mean(0)) / math.sqrt(len(a) - 1), "r").R for a in (x, y))
    cross = torch.linalg.svdvals(rx @ ry.T).sum()
    return float(shift + rx.square().sum() + ry.square().sum() - 2 * cross)


def mmd(x: Tensor, y: Tensor) -> float:
    r"""The squared maximum mean discrepancy with the kernel (x·y / D + 1)³, without bias.

    .. math:: \frac{1}{n (n - 1)} \sum_{i \ne j} k(x_i, x_j) +
        \frac{1}{m (m - 1)} \sum_{i \ne j} k(y_i, y_j) - \frac{2}{n m} \sum_{i, j} k(x_i, y_j)

    Its mean is 0 if the distributions are equal, so that it can be negative.

    Arguments:
        x: (N, D), at least two rows.
        y: (M, D), at least two rows.

    Raises:
        ValueError: Shapes do not match, there are fewer rows, or a feature is not finite.

    References:
        Demystifying MMD GANs (Bińkowski et al., 2018), section 4. https://arxiv.org/abs/1801.01401
    """
    x, y = _pair(x, y, least=2)
    (n, d), m = x.shape, len(y)

    def total(a: Tensor, b: Tensor) -> float:
        parts = torch.split(a, 2048)
        return sum((float((part @ b.T / d + 1).pow(3).sum()) for part in parts), 0.0)

    def others(a: Tensor) -> float:
        return total(a, a) - float((a.square().sum(1) / d + 1).pow(3).sum())

    return others(x) / (n * (n - 1)) + others(y) / (m * (m - 1)) - 2 * total(x, y) / (n * m)


class PrecisionRecall(NamedTuple):
    """What :func:`precision_recall` returns.

    Arguments:
        precision: The share of fake rows that resemble real ones, in [0, 1].
        recall: The share of real rows that resemble fake ones, in [0, 1].
        density: How many real rows a fake one resembles, over k; 0 or more.
        coverage: The share of real rows with a fake one nearby, in [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(fake: Tensor, real: Tensor, k: int = 5) -> PrecisionRecall:
    """Precision, recall, density and coverage.

    The ball of a row reaches to its k-th nearest neighbour in its own sample. `precision` is the share
    of fake rows in the ball of any real one, `recall` that of real rows in the ball of any fake one;
    `density` is the number of real balls that a fake row lies in, over k, which may exceed 1;
    `coverage` is the share of real balls with a fake row in them. Two samples of one distribution do
    not reach 1. N M + max(N, M)² numbers are kept in memory.

    Arguments:
        fake: (N, D), more than k rows.
        real: (M, D), more than k rows.
        k: Number of the neighbour, 1 or more.

    Raises:
        ValueError: k is below 1, shapes do not match, there are too few rows, or a feature is not finite.

    References:
        Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019).
        https://arxiv.org/abs/1904.06991
        Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020).
        https://arxiv.org/abs/2002.09797
    """
    check_range("[1, inf)", k=k)
    fake, real = _pair(fake, real, least=k + 1)
    # of k + 1, since a row is its own nearest
    fake_radius, real_radius = (_distances(r, r).kthvalue(k + 1).values for r in (fake, real))
    apart = _distances(real, fake)
    in_real = apart <= real_radius[:, None]
    in_fake = apart <= fake_radius[None]
    return PrecisionRecall(
        precision=_mean(in_real.any(0)),
        recall=_mean(in_fake.any(1)),
        density=_mean(in_real) * len(real) / k,
        coverage=_mean(in_real.any(1)),
    )


def nearest_ratio(fake: Tensor, train: Tensor, held_out: Tensor) -> float:
    """How near samples are to the training data, relative to held-out data.

    The median distance of a fake row from its nearest training row, divided by that of a held-out row.
    Near 1 nothing is memorised; well below 1 the samples are copies of training data, and well above 1
    they are unlike any data. nan if the held-out rows are training rows.

    Arguments:
        fake: (N, D).
        train: (M, D), what the model was trained on.
        held_out: (H, D), real data that it was not trained on.

    Raises:
        ValueError: Shapes do not match, one is empty, or a feature is not finite.
    """
    fake, train = _pair(fake, train, least=1)
    held_out, _ = _pair(held_out, train, least=1)

    def nearest(rows: Tensor) -> float:
        parts = torch.split(rows, 2048)
        return float(torch.cat([_distances(part, train).amin(1) for part in parts]).median())

    near, usual = nearest(fake), nearest(held_out)
    return near / usual if usual > 0 else math.nan


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    r"""The Jensen–Shannon distance of two histograms, in [0, 1].

    It is the square root of the divergence to base 2: 0 if the two are proportional, 1 if they share no
    bin.

    Arguments:
        p: (K,) counts or probabilities, with a positive sum.
        q: (K,), likewise.

    Raises:
        ValueError: The shapes differ, or a histogram is empty, negative or not finite.

    References:
        A new metric for probability distributions (Endres and Schindelin, 2003).
        https://doi.org/10.1109/TIT.2003.813506
    """
    p, q = (torch.as_tensor(h).double() for h in (p, q))
    if p.ndim != 1 or p.shape != q.shape:
        raise ValueError(f"p is {tuple(p.shape)} and q {tuple(q.shape)}; give two histograms (K,).")
    if any(bool((h < 0).any()) or not 0 < float(h.sum()) < math.inf for h in (p, q)):
        raise ValueError("a histogram is empty, or has negative or non-finite counts.")
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    nats = sum(torch.xlogy(h, h).sum() - torch.xlogy(h, middle).sum() for h in (p, q))
    return math.sqrt(min(max(float(nats) / (2 * math.log(2)), 0.0), 1.0))


def _pair(x: Tensor, y: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both in float64; an error unless they are (N, D) and (M, D), finite, with `least` rows."""
    x, y = torch.as_tensor(x).detach().double(), torch.as_tensor(y).detach().double()
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features {tuple(x.shape)} and {tuple(y.shape)}; give (N, D) and (M, D).")
    if min(len(x), len(y)) < least:
        raise ValueError(f"{len(x)} and {len(y)} rows; give at least {least} of each.")
    if not (bool(x.isfinite().all()) and bool(y.isfinite().all())):
        raise ValueError("some features are not finite; leave those samples out and count them.")
    return x, y.to(x.device)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (N, M); 0 to the last bit between equal rows."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _mean(x: Tensor) -> float:
    return float(x.double().mean())
