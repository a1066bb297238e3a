import math

import pytest
import torch

from anydiff.metrics.distances import frechet, jensen_shannon, mmd, nearest_ratio, precision_recall


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(rows, mean, root):
    """Rows whose sample mean is `mean` and whose sample covariance is root.T @ root, exactly."""
    rows = rows - rows.mean(0)
    white = torch.linalg.qr(rows)[0] * math.sqrt(len(rows) - 1)
    return white @ root + mean


# Fréchet --------------------


def test_frechet_of_known_moments():
    # diagonal covariances commute: |Δμ|² + Σ (√a - √b)²
    mean, a, b = torch.tensor([3.0, -1, 0, 2]), torch.tensor([1.0, 4, 9, 0.25]), torch.ones(4)
    x = with_moments(normal(50, 4), mean.double(), a.sqrt().diag().double())
    y = with_moments(normal(70, 4, seed=1), torch.zeros(4).double(), b.diag().double())
    expected = 14 + (0 + 1 + 4 + 0.25)
    assert frechet(x, y) == pytest.approx(expected, rel=1e-12)
    assert frechet(y, x) == pytest.approx(expected, rel=1e-12)
    turn = torch.linalg.qr(normal(4, 4, seed=2))[0]
    assert frechet(x @ turn, y @ turn) == pytest.approx(expected, rel=1e-12)


def test_frechet_of_covariances_that_do_not_commute():
    import numpy as np
    from scipy.linalg import sqrtm

    x, y = normal(40, 5) @ normal(5, 5, seed=1), normal(60, 5, seed=2) @ normal(5, 5, seed=3) + 1
    sx, sy = np.cov(x.numpy().T), np.cov(y.numpy().T)
    shift = ((x.mean(0) - y.mean(0)) ** 2).sum().item()
    expected = shift + np.trace(sx + sy - 2 * sqrtm(sx @ sy).real)
    assert frechet(x, y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num", [30, 200])
def test_frechet_is_that_of_torchmetrics(num):
    fid = pytest.importorskip("torchmetrics.image.fid")
    same = torch.nn.Identity()
    same.num_features = 48
    metric = fid.FrechetInceptionDistance(feature=same)
    x, y = normal(num, 48), normal(90, 48, seed=1) * 1.4 + 0.2
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert frechet(x, y) == pytest.approx(
        float(metric.compute()), rel=1e-5
    )  # of eigenvalues' roots


@pytest.mark.parametrize("num", [2, 5, 30])
def test_frechet_bears_singular_covariances(num):
    x = normal(num, 64)
    assert frechet(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet(x, x + 0.5) == pytest.approx(16, abs=1e-12)
    assert frechet(x.float(), 3 + 0 * x.float()) > 0  # no spread at all


def test_frechet_is_biased_as_its_docstring_says():
    d = 32
    for n in (100, 400):
        mean = sum(frechet(normal(n, d, seed=s), normal(n, d, seed=99 + s)) for s in range(10)) / 10
        assert mean == pytest.approx(2 / n * (d * d + 5 * d) / 4, rel=0.1)


# MMD --------------------


def test_mmd_is_unbiased_and_can_be_negative():
    values = torch.tensor(
        [mmd(normal(30, 6, seed=2 * s), normal(45, 6, seed=2 * s + 1)) for s in range(300)]
    )
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean()) < 3 * error
    assert 0.2 < (values < 0).float().mean() < 0.8
    moved = torch.tensor(
        [mmd(normal(30, 6, seed=2 * s) + 0.3, normal(45, 6, seed=2 * s + 1)) for s in range(300)]
    )
    assert moved.mean() > 10 * error


def test_mmd_of_two_points_by_hand():
    # k(x, y) = (x·y/1 + 1)³ on numbers
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [-1.0]])
    k = [[(a * b + 1) ** 3 for b in (0, 1, 2, -1)] for a in (0, 1, 2, -1)]
    expected = k[0][1] + k[2][3] - 2 * (k[0][2] + k[0][3] + k[1][2] + k[1][3]) / 4
    assert mmd(x, y) == pytest.approx(expected)


def test_mmd_is_that_of_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = normal(80, 7), normal(80, 7, seed=1) * 1.3 + 0.2
    assert mmd(x, y) == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-10)


def test_mmd_in_parts_is_the_whole():
    x, y = normal(4200, 3), normal(2100, 3, seed=1)
    kxx, kyy, kxy = (((a @ b.T) / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    expected = (kxx.sum() - kxx.trace()) / (n * (n - 1)) + (kyy.sum() - kyy.trace()) / (m * (m - 1))
    assert mmd(x, y) == pytest.approx(float(expected - 2 * kxy.mean()), rel=1e-8)


# precision, recall, density, coverage --------------------


@pytest.mark.slow
def test_precision_recall_against_brute_force():
    fake, real, k = normal(37, 3), normal(51, 3, seed=1) + 1, 2

    def radius(rows, i):
        return sorted(float((rows[i] - rows[j]).norm()) for j in range(len(rows)) if j != i)[k - 1]

    inside = [
        [float((r - f).norm()) <= radius(real, i) for f in fake] for i, r in enumerate(real)
    ]  # (real, fake)
    in_fake = [
        any(float((r - f).norm()) <= radius(fake, j) for j, f in enumerate(fake)) for r in real
    ]
    found = precision_recall(fake, real, k)
    assert found.precision == pytest.approx(sum(map(any, zip(*inside, strict=True))) / 37)
    assert found.recall == pytest.approx(sum(in_fake) / 51)
    assert found.density == pytest.approx(sum(map(sum, inside)) / (k * 37))
    assert found.coverage == pytest.approx(sum(map(any, inside)) / 51)
    assert 0 < found.recall < 1 and 0 < found.precision < 1  # the case decides something


def test_precision_and_recall_tell_failures_apart():
    real = normal(300, 4)
    assert precision_recall(real, real) == pytest.approx((1, 1, 1, 1), abs=0.25)
    far = precision_recall(normal(300, 4, seed=1) + 50, real)
    assert far == (0, 0, 0, 0)
    narrow = precision_recall(0.2 * normal(300, 4, seed=1), real)
    assert narrow.precision == 1 and narrow.recall < 0.2 and narrow.coverage < 0.8
    wide = precision_recall(4 * normal(300, 4, seed=1), real)
    assert wide.precision < 0.6 and wide.recall > 0.9


def test_expected_coverage_of_the_same_distribution():
    k, n = 5, 400
    found = precision_recall(normal(n, 8), normal(n, 8, seed=1), k)
    # Naeem et al., eq. 9: 1 - Π (m - i)/(n + m - i) for i < k is 1 - 2^-k in the limit
    assert found.coverage == pytest.approx(1 - 0.5**k, abs=0.04)
    assert found.density == pytest.approx(1, abs=0.15)


def differences(x, y):
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def by_differences(fake, real, k):
    """Precision, recall, density and coverage of all distances, each from the differences."""
    a, b = (differences(r, r).kthvalue(k + 1).values for r in (fake, real))
    apart = differences(real, fake)
    in_real, in_fake = apart <= b[:, None], apart <= a
    shares = in_real.any(0), in_fake.any(1), in_real, in_real.any(1)
    values = [float(share.double().mean()) for share in shares]
    return (*values[:2], values[2] * len(real) / k, values[3])


def hard_rows():
    """Pairs of samples in which rounding decides: equal rows, ties, and rows far from the origin."""
    fake, real = normal(130, 9), normal(170, 9, seed=1)
    grid, other = (torch.randint(0, 3, (150, 4), generator=g).double() for g in seeds(0, 1))
    collapsed = torch.cat([fake[:1].expand(60, 9), fake[1:2].expand(70, 9)])
    clusters = torch.cat([1e-7 * real[:80], 1e7 + 1e-7 * real[80:]])
    return {
        "far": (fake + 1e8, real + 1e8),
        "very far": (1e-3 * fake + 1e12, 1e-3 * real + 1e12),
        "the same": (real, real),
        "some the same": (torch.cat([real[:40], fake]), real),
        "copies": (fake.repeat(2, 1), real.repeat(3, 1) + 1e6),
        "grid": (grid, other),
        "grid, far": (grid + 0.1, other + 0.1 + 2**-30),
        "collapsed": (collapsed, real),
        "one row": (fake[:1].expand(30, 9) / 3, fake[:1].expand(20, 9) / 3),
        "clusters": (torch.cat([clusters[:20], fake]), clusters),
        "an outlier": (fake, torch.cat([real, real.new_full((1, 9), 1e14)])),
        "small": (1e-155 * fake, 1e-155 * real),
        "large": (1e149 * fake, 1e149 * real),
    }


def seeds(*numbers):
    return [torch.Generator().manual_seed(n) for n in numbers]


@pytest.mark.parametrize("case", hard_rows())
def test_neighbours_are_those_of_the_differences(case):
    fake, real = hard_rows()[case]
    for k in (1, 5):
        assert precision_recall(fake, real, k) == pytest.approx(by_differences(fake, real, k))
    known, held_out = real[1::2], real[::2]
    near, usual = (differences(rows, known).amin(1).median() for rows in (fake, held_out))
    expected = float(near / usual) if usual else math.nan
    assert nearest_ratio(fake, known, held_out) == pytest.approx(expected, nan_ok=True)


def test_equal_rows_are_exactly_0_apart():
    rows = 1e9 + normal(300, 64)
    assert nearest_ratio(rows, rows.flip(0), normal(50, 64)) == 0
    assert precision_recall(rows.repeat(2, 1), rows.repeat(2, 1), k=1) == (1, 1, 2, 1)


def test_blocks_are_the_whole(monkeypatch):
    fake, real = normal(90, 5), normal(70, 5, seed=1) + 0.3
    whole = precision_recall(fake, real), nearest_ratio(fake, real[:30], real[30:])
    monkeypatch.setattr("anydiff.metrics.distances._NUMBERS", 200)
    assert (precision_recall(fake, real), nearest_ratio(fake, real[:30], real[30:])) == whole


# nearest neighbours, histograms --------------------


def test_nearest_ratio_knows_copies():
    train, held_out, fake = (normal(400, 5, seed=s) for s in range(3))
    assert nearest_ratio(train[:100], train, held_out) == 0
    assert nearest_ratio(fake, train, held_out) == pytest.approx(1, abs=0.1)
    near = nearest_ratio(train[:100] + 0.01 * fake[:100], train, held_out)
    assert 0 < near < 0.05
    assert nearest_ratio(fake + 20, train, held_out) > 5
    assert math.isnan(nearest_ratio(fake, train, train))


def test_jensen_shannon_is_a_distance_to_base_two():
    p, q = torch.tensor([3, 1, 0, 4]), torch.tensor([1.0, 2, 5, 0])
    a, b = p / p.sum(), q / q.sum()
    m = (a + b) / 2
    bits = sum(
        0.5 * u * math.log2(u / v)
        for h in (a, b)
        for u, v in zip(h.tolist(), m.tolist(), strict=True)
        if u > 0
    )
    assert jensen_shannon(p, q) == pytest.approx(math.sqrt(bits), rel=1e-6)
    distance = pytest.importorskip("scipy.spatial.distance").jensenshannon
    assert jensen_shannon(p, q) == pytest.approx(distance(p, q, base=2), rel=1e-12)
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(7 * q, p))
    assert jensen_shannon(p, 3 * p) == pytest.approx(0, abs=1e-7)
    assert jensen_shannon(torch.tensor([1, 0]), torch.tensor([0, 5])) == pytest.approx(1)


def test_what_cannot_be_measured_says_so():
    x = normal(6, 3)
    with pytest.raises(ValueError, match=r"\(6, 3\) and \(6, 2\)"):
        frechet(x, x[:, :2])
    with pytest.raises(ValueError, match="1 and 6 rows; give at least 2"):
        mmd(x[:1], x)
    with pytest.raises(ValueError, match="give at least 7"):
        precision_recall(x, x, k=6)
    some = x.clone()
    some[1, 2], some[4] = math.nan, 1e160
    for measure in (frechet, mmd, lambda x, y: precision_recall(x, y, 2)):
        with pytest.raises(
            ValueError, match="2 of 6 rows of features are not finite, or beyond 1e"
        ):
            measure(x, some)
    with pytest.raises(ValueError, match="empty"):
        jensen_shannon(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="two histograms"):
        jensen_shannon(torch.ones(3), torch.ones(4))
