r"""Distances between two samples, given as rows of features (N, D).

The caller chooses the features. Numbers are comparable only if measured in the same way: with the same
features and the same sizes of samples. The distance of real data from real data is the lower bound.

All are computed in float64. Neighbours are found among squared distances by matrix products, block by
block; wherever their rounding could decide, the distance is computed from the differences instead. So
the results are those of the plain distances, in which equal rows are exactly 0 apart, for any rows.

The Fréchet distance of finite samples is biased upwards, for two samples
of one standard normal by about :math:`(\frac{1}{n} + \frac{1}{m}) \frac{D^2 + 5 D}{4}`: compare only
values of equal n and m, or use `mmd`, whose mean does not depend on them.

torchmetrics has the Fréchet distance and MMD as metrics of pictures, and MMD as a mean over random
subsets. :mod:`anydiff.images.evaluate` uses those, as published figures do; the tests compare with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from anydiff.checks import check_whole, real

__all__ = [
    "PrecisionRecall", "frechet", "jensen_shannon", "mmd", "nearest_ratio", "precision_recall",
]  # fmt: skip

_NUMBERS = 2**22  # squared distances of a block: 32 MiB
_MOST = 1e150  # whose square is finite


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
    not reach 1.

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
    check_whole("[1, inf)", k=k)
    k = int(k)
    fake, real = _pair(fake, real, least=k + 1)
    # of k + 1, since a row is its own nearest
    fake_radius, real_radius = (_nearest(rows, rows, k + 1) for rows in (fake, real))
    balls, resembled, covered = 0, [], []
    found = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)  # in a real ball
    for rows, apart, off in _squares(real, fake):
        radii = real_radius[rows, None], fake_radius[None]
        unsure = torch.stack([(apart - r).abs() <= off for r in radii]).any(0)
        apart = _settled(real[rows], fake, apart, unsure & (off > 0))
        in_real, in_fake = (apart <= r for r in radii)
        found |= in_real.any(0)
        balls += int(in_real.sum())
        covered.append(in_real.any(1))
        resembled.append(in_fake.any(1))
    return PrecisionRecall(
        precision=_mean(found),
        recall=_mean(torch.cat(resembled)),
        density=balls / (k * len(fake)),
        coverage=_mean(torch.cat(covered)),
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

    near, usual = (float(_nearest(rows, train).sqrt().median()) for rows in (fake, held_out))
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
    hint = "counts or probabilities (K,)"
    p, q = real(hint, p=p), real(hint, q=q)
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
    x, y = (real("features (N, D)", features=rows).detach() for rows in (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features {tuple(x.shape)} and {tuple(y.shape)}; give (N, D) and (M, D).")
    if min(len(x), len(y)) < least:
        raise ValueError(f"features of {len(x)} and {len(y)} rows; give at least {least} of each.")
    for rows in (x, y):
        if lost := int((~(rows.abs() < _MOST).all(1)).sum()):
            raise ValueError(
                f"{lost} of {len(rows)} rows of features are not finite, or beyond {_MOST:g}; leave "
                "those samples out and count them."
            )
    return x, y.to(x.device)


def _squares(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Squared distances from the rows of x to those of y, in blocks of rows of x.

    Yields the rows of a block, |x|² + |y|² − 2 x·y, and a bound of its rounding error. Both are 0 where
    the rows of x and y are the median.
    """
    # far from the origin, the origin is moved to the rows; a median withstands outliers
    middle = y.median(0).values
    b = y - middle
    bb = b.square().sum(1)
    # of three sums of D products, and of the distance from the differences
    share = 4 * (y.shape[1] + 4) * torch.finfo(y.dtype).eps
    size = max(_NUMBERS // len(y), 1)
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        a = x[rows] - middle
        lengths = a.square().sum(1)[:, None] + bb
        yield rows, torch.addmm(lengths, a, b.T, alpha=-2), share * lengths


def _settled(x: Tensor, y: Tensor, squares: Tensor, unsure: Tensor) -> Tensor:
    """The squares, replaced by those of the differences where they are unsure."""
    if (num := int(unsure.sum())) > unsure.numel() / 4:
        return torch.where(unsure, _distances(x, y).square(), squares)
    if num:
        i, j = unsure.nonzero(as_tuple=True)
        few = max(2**18 // x.shape[1], 1)
        pairs = zip(torch.split(i, few), torch.split(j, few), strict=True)
        parts = [_distances(x[k, None], y[m, None]).flatten() for k, m in pairs]
        squares[i, j] = torch.cat(parts).square()
    return squares


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (…, N, M) from the differences; 0 to the last bit between equal rows."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _nearest(x: Tensor, y: Tensor, k: int = 1) -> Tensor:
    """The squared distance from each row of x to the k-th nearest row of y, (N,)."""
    found = []
    for rows, squares, off in _squares(x, y):
        most = (squares + off).topk(k, 1, largest=False).values[:, -1:]
        near = squares - off <= most  # the only ones that can be the k-th, or nearer
        squares = _settled(x[rows], y, squares, near & (off > 0))
        found.append(squares.masked_fill(~near, math.inf).topk(k, 1, largest=False).values[:, -1])
    return torch.cat(found)


def _mean(x: Tensor) -> float:
    return float(x.double().mean())
