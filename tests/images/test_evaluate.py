import dataclasses
import hashlib
import importlib.util
import math
import shutil
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from anydiff.images import Images, load_images, split
from anydiff.images import features as image_features
from anydiff.images.digit_features import DigitFeatures
from anydiff.images.evaluate import Classifier, ImageReport, compare, evaluate, noise_images, table
from anydiff.images.features import INCEPTION, InceptionFeatures, PixelFeatures
from anydiff.images.inception import Inception, resize
from anydiff.images.models import compare_parts
from anydiff.metrics.distances import frechet, mmd, nearest_ratio, precision_recall
from tests.helpers.paths import ROOT, SHARED


class Given:
    """Features that were chosen: picture i, of the two bytes of i, has row i."""

    name = "given"

    def __init__(self, *samples):
        self.rows = torch.cat(samples).float()
        numbers = torch.arange(len(self.rows))
        pixels = torch.stack([numbers // 256, numbers % 256], 1).to(torch.uint8)
        self.pixels = pixels[:, None, None].split([len(s) for s in samples])

    def features(self, pixels):
        return self.rows[pixels[:, 0, 0, 0].long() * 256 + pixels[:, 0, 0, 1]]


class GivenClassifier(Given):
    classes = ("cat", "dog", "cow")

    def logits(self, pixels):
        return self.features(pixels)


def measured(x, y, **arguments):
    given = Given(x, y)
    return evaluate(*given.pixels, features=given, **arguments)


def normal(num, dim, seed=0):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def exactly(x, mean, covariance):
    """The sample, moved and turned to have this mean and this covariance."""
    x = x.double()
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    return x @ torch.linalg.cholesky(torch.as_tensor(covariance).double()).T + torch.tensor(mean)


@pytest.fixture(scope="module")
def net():
    return DigitFeatures.load()


@pytest.fixture(scope="module")
def parts():
    digits = load_images("digits")
    return tuple(map(digits.subset, split(digits)))


# the digits' network --------------------


def test_digit_features_are_the_shipped_ones_and_no_others(tmp_path):
    copy = tmp_path / "a.safetensors"
    shutil.copy(DigitFeatures.file, copy)
    assert copy.stat().st_size < 300_000
    net = DigitFeatures.load(copy)
    assert isinstance(net, Classifier) and DigitFeatures.sha256[:12] in net.name
    assert not any(p.requires_grad for p in net.parameters()) and not net.training
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    with pytest.raises(
        ValueError, match=DigitFeatures.sha256[:12] + r".*\n?.*train_digit_features"
    ):
        DigitFeatures.load(copy)


def test_a_saved_network_is_read_back(tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = DigitFeatures(features=24, garbage=2)
    monkeypatch.setattr(DigitFeatures, "sha256", net.save(tmp_path / "a", {"k": "note"}))
    assert net.save(tmp_path / "b", {"k": "note"}) == DigitFeatures.sha256
    read = DigitFeatures.load(tmp_path / "a")
    net.load_state_dict({k: v.half().float() for k, v in net.state_dict().items()})
    pixels = noise_images(torch.empty(3, 1, 8, 8, dtype=torch.uint8))
    assert torch.equal(read.features(pixels), net.eval().features(pixels))
    assert read.logits(pixels).shape == (3, 12)


def test_digits_that_were_never_seen_are_named(net, parts):
    train, valid, test = parts
    for part, least in ((train, 0.99), (valid, 0.97), (test, 0.985)):
        assert (net.logits(part.pixels).argmax(1) == part.labels).float().mean() >= least
    z = net.features(train.pixels)
    assert z.mean(0).abs().max() < 0.02 and (z.std(0) - 1).abs().max() < 0.02  # half precision
    z = net.features(test.pixels)
    assert z.mean(0).abs().max() < 0.3 and 0.8 < z.std(0).mean() < 1.2
    assert net.classes == test.classes


def test_garbage_is_given_no_confidence(net, parts):
    train, _, test = parts
    x, y, reference = test.pixels, test.labels, net.features(test.pixels)
    g = torch.Generator().manual_seed(0)
    shuffled = x.flatten(1).gather(1, torch.rand(len(x), 64, generator=g).argsort(1)).view_as(x)
    other = torch.randperm(len(x), generator=g)
    other = other[y[other] != y]
    pairs = ((x[: len(other)].int() + x[other].int()) // 2).to(torch.uint8)
    real = evaluate(test, reference, features=net)
    floor = evaluate(train.subset(range(449)), reference, features=net)
    assert real.confidence > 0.9 and real.classes_present == 10 and real.accuracy > 0.985
    for garbage, most, far in (
        (noise_images(x), 0.05, 40),
        (shuffled, 0.05, 40),
        (x // 6, 0.05, 40),  # faint
        (pairs, 0.5, 6),
    ):
        row = evaluate(garbage, reference, features=net)
        assert row.confidence < most and row.frechet > far > 10 * floor.frechet
        # pairs lie between digits, where balls are wide
        assert max(row.precision, row.coverage) < 0.2 or garbage is pairs


# features --------------------


@pytest.mark.parametrize("features", [DigitFeatures.load(), PixelFeatures(4)])
def test_features_depend_on_neither_batch_nor_company(features, parts):
    pixels = parts[2].pixels[:40]
    together, apart = features.features(pixels), features.features(pixels, batch_size=7)
    assert together.dtype == torch.float32 and len(together) == 40
    assert torch.allclose(together, apart, atol=1e-5)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(features.features(pixels[order]), together[order], atol=1e-5)
    assert features.features(pixels[:0]).shape == (0, together.shape[1])
    for wrong in (pixels.float(), pixels[0]):
        with pytest.raises(ValueError, match=r"not .* of torch"):
            features.features(wrong)


def test_digit_features_are_of_digits_only(net):
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\).*PixelFeatures"):
        net.features(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_pixels_are_averages_of_areas():
    pixels = noise_images(torch.empty(5, 3, 12, 24, dtype=torch.uint8))
    means = pixels.double().view(5, 3, 4, 3, 4, 6).mean((3, 5)).flatten(1)
    assert torch.allclose(PixelFeatures(4).features(pixels).double(), means / 127.5 - 1, atol=1e-5)
    ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 9, 9)
    assert torch.equal(PixelFeatures(2).features(ends), torch.tensor([[-1.0] * 4, [1.0] * 4]))
    with pytest.raises(ValueError, match="size is 0"):
        PixelFeatures(0)


# Inception --------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights, of a scale that lets all layers speak."""
    g = torch.Generator().manual_seed(0)
    state = Inception().state_dict()
    for name, value in state.items():
        if value.ndim == 4:
            value.copy_(torch.randn(value.shape, generator=g) * (2 / value[0].numel()) ** 0.5)
        elif name.endswith(("bias", "running_mean")):
            value.copy_(torch.randn(value.shape, generator=g) / 10)
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def inception(weights, monkeypatch):
    beginning = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(image_features, "_HASH", beginning)
    return InceptionFeatures(weights, batch_size=2, progress=False)


@pytest.mark.slow
def test_inception_s_features(inception):
    pixels = noise_images(torch.empty(3, 3, 24, 32, dtype=torch.uint8))
    pixels[:, 1:] = pixels[:, :1]  # grey
    together = inception.features(pixels)
    assert together.shape == (3, 2048) and together.std(0).mean() > 1e-3
    assert torch.allclose(inception.features(pixels[2:, :1]), together[2:], atol=1e-5)
    with pytest.raises(ValueError, match=r"\(3, 2, 24, 32\)"):
        inception.features(pixels[:, :2])
    # the parameters of the published network, less 1008 · 2049 of its last layer
    assert sum(p.numel() for p in inception.network.parameters()) == 21_785_568


def test_inception_as_torch_fidelity_has_it(inception):
    # every 256th feature, and the moments of all, by FeatureExtractorInceptionV3 of torch-fidelity 0.4.0
    # with these weights on these pictures
    pixels = noise_images(torch.empty(2, 3, 40, 32, dtype=torch.uint8))
    theirs = torch.tensor(
        [
            [0.0, 1.06646, 0.03239, 0.5056, 0.05408, 0.25502, 1.63827, 0.02873],
            [0.0, 1.06053, 0.03086, 0.51052, 0.05499, 0.25794, 1.63918, 0.02857],
        ]
    )
    features = inception.features(pixels)
    assert torch.allclose(features[:, ::256], theirs, atol=2e-4)
    assert torch.allclose(features.mean(1), torch.tensor([0.30338, 0.30511]), atol=1e-4)
    assert torch.allclose(features.std(1), torch.tensor([0.40457, 0.40656]), atol=1e-4)


def test_resizing_goes_from_corner_to_corner():
    x = torch.tensor([[0.0, 6.0, 12.0]])[None, None].expand(1, 1, 2, 3)
    found = resize(x, 6)[0, 0]
    assert torch.allclose(found, torch.tensor([0.0, 3, 6, 9, 12, 12]).expand(6, 6))
    assert torch.allclose(resize(x, 2)[0, 0, 0], torch.tensor([0.0, 9.0]))
    noise = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(resize(noise, 9), noise)


def test_other_files_than_inception_s_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match="weights-inception-2015-12-05-6726825d"):
        InceptionFeatures(path)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"weights\.pth: its SHA-256 begins with"):
        InceptionFeatures(path)

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    for content in ({"a": torch.zeros(2)}, {"a": Trap()}, [1, 2]):
        torch.save(content, path)
        beginning = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        monkeypatch.setattr(image_features, "_HASH", beginning)
        with pytest.raises(ValueError, match="not the weights of Inception"):
            InceptionFeatures(path)
    assert not (tmp_path / "sprung").exists()


# figures --------------------


def test_frechet_distance_of_known_gaussians():
    y = exactly(normal(300, 3), [0.0, 0, 0], np.diag([1.0, 4, 9]))
    x = exactly(normal(200, 3, 1), [1.0, 2, 2], np.diag([4.0, 4, 1]))
    expected = 9 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2
    assert measured(x, y).frechet == pytest.approx(expected, rel=1e-5)  # features are float32


@pytest.mark.parametrize("num, dim", [(60, 8), (40, 64)])
def test_figures_are_those_of_distances(num, dim):
    x, y, train = normal(num, dim), normal(num + 5, dim, 1) * 1.3 + 0.2, normal(50, dim, 2)
    given = Given(x, y, train)
    row = evaluate(*given.pixels, features=given)
    # torchmetrics' root of singular covariances is rounded to half the digits
    assert row.frechet == pytest.approx(frechet(x, y), rel=1e-6)
    assert abs(row.mmd - mmd(x, y)) < 0.5 * row.mmd_std
    found = (row.precision, row.recall, row.density, row.coverage)
    assert found == pytest.approx(precision_recall(x, y))
    assert row.nearest == pytest.approx(nearest_ratio(x, train, y))
    for same in (measured(x, x), measured(y, y)):
        assert 0 <= same.frechet < 1e-4 and same.mmd < 0  # each has its copy there


def test_mmd_of_one_distribution_is_nothing_but_chance():
    rows = [measured(normal(200, 8, 2 * k), normal(200, 8, 2 * k + 1)) for k in range(6)]
    values = np.array([row.mmd for row in rows])
    assert abs(values.mean()) < 0.6 * np.mean([row.mmd_std for row in rows])
    assert measured(normal(200, 8) + 0.5, normal(200, 8, 1)).mmd > 5 * rows[0].mmd_std


def test_mmd_repeats_and_leaves_random_numbers_alone():
    x, y = normal(100, 4), normal(100, 4, 1)
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = measured(x, y)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(8)
    assert measured(x, y) == first
    other = measured(x, y, seed=1)
    assert other.mmd != first.mmd and first.mmd_std > 0
    assert dataclasses.replace(other, mmd=first.mmd, mmd_std=first.mmd_std) == first


def test_precision_and_recall_at_their_ends():
    y = normal(80, 4)
    same, far = measured(y, y), measured(normal(80, 4, 1) + 99, y)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)
    narrow = measured(normal(80, 4, 1) / 9, y)  # some of what there is
    assert narrow.precision > 0.95 and narrow.recall < 0.2


def test_order_changes_nothing(net, parts):
    _, valid, test = parts
    order = torch.randperm(len(valid), generator=torch.Generator().manual_seed(0))
    rows = [
        evaluate(pixels, test, features=net, labels=labels)
        for pixels, labels in (
            (valid.pixels, valid.labels),
            (valid.pixels[order], valid.labels[order]),
        )
    ]
    for name, a in dataclasses.asdict(rows[0]).items():
        b = getattr(rows[1], name)
        if name in ("mmd", "mmd_std"):  # subsets are others
            assert abs(a - b) < rows[0].mmd_std
        else:
            assert a == (pytest.approx(b, rel=1e-4) if isinstance(a, float) else b), name


def test_what_a_classifier_says():
    p = torch.tensor([[0.8, 0.1, 0.1, 0], [0.2, 0.6, 0.2, 0], [0.7, 0.2, 0.1, 0]] * 4)
    none = torch.tensor([[0.0, 0.1, 0.2, 0.7]])  # the last column is of no class
    x = torch.cat([p, none.expand(4, 4)]).log().clamp_min(-50)
    given = GivenClassifier(x, normal(20, 4))
    asked = torch.tensor([0, 1, 1] * 4 + [2] * 4)
    row = evaluate(*given.pixels, features=given, labels=asked)
    assert row.confidence == pytest.approx((4 * (0.8 + 0.6 + 0.7) + 4 * 0.2) / 16)
    assert (row.classes, row.classes_present, row.least_share) == (3, 2, 0)
    assert row.accuracy == pytest.approx(8 / 16)
    assert evaluate(*given.pixels, features=given).accuracy is None
    dogs = evaluate(given.pixels[0][1:12:3], given.pixels[1], features=given)
    assert dogs.classes_present == 1 and math.isnan(dogs.frechet)  # too few for the others

    for wrong, message in ((asked[:5], r"\(5,\)"), (asked / 2, "float32"), (asked + 1, "1 to 3")):
        with pytest.raises(ValueError, match=message):
            evaluate(*given.pixels, features=given, labels=wrong)
    plain = Given(x, normal(20, 4))
    with pytest.raises(ValueError, match="given has no classes"):
        evaluate(*plain.pixels, features=plain, labels=asked)


def test_labels_of_images_are_what_was_asked_for(net, parts):
    _, valid, test = parts
    assert evaluate(valid, test, features=net).accuracy > 0.97
    turned = Images(valid.pixels, (valid.labels + 1) % 10, valid.classes)
    assert evaluate(turned, test, features=net).accuracy < 0.05
    other = Images(valid.pixels, valid.labels, tuple("abcdefghij"))  # what these mean, who knows
    assert evaluate(other, test, features=net).accuracy is None


# rows and the table --------------------


def blurred(images, share):
    pixels = images.pixels.float()
    return ((1 - share) * pixels + share * pixels.mean(0)).to(torch.uint8)


@pytest.mark.parametrize("features", [DigitFeatures.load(), PixelFeatures()])
def test_rows_lie_between_the_floor_and_the_ceiling(features, parts):
    train, _, test = parts
    drawn = blurred(test, 0.4)
    rows = compare(drawn, test, train, features=features, name="ours", nfe=50, seconds=0.1)
    assert [row.name for row in rows] == ["real, train", "ours", "noise"]
    assert [row.num for row in rows] == [449] * 3 and rows[1].nfe == 50
    assert all(b.frechet > 2 * a.frechet and b.mmd > a.mmd for a, b in pairwise(rows))
    assert rows[0].precision > 0.9 and rows[0].recall > 0.85 and rows[2].recall < 0.1
    assert rows[0].nearest < 1e-4 and rows[2].nearest > 2  # the floor is of copies
    alone = evaluate(
        drawn, test.pixels, train.pixels, features=features, name="ours", nfe=50, seconds=0.1
    )
    assert alone == rows[1]
    spared = evaluate(drawn, features.features(test.pixels), features=features)
    assert spared.frechet == alone.frechet and spared.nearest is None


@pytest.mark.slow
def test_what_a_model_of_the_training_part_drew_is_compared_with_the_test_part(net, parts):
    train, valid, test = parts
    digits = load_images("digits")
    drawn, labels = valid.pixels, valid.labels
    rows = compare_parts(drawn, digits, labels=labels, nfe=50)
    assert rows == compare(drawn, test, train, features=net, labels=labels, nfe=50)
    assert rows[1].accuracy > 0.97
    plain = compare_parts(drawn, digits, labels=labels, features=PixelFeatures())
    assert plain[1].accuracy is None and plain[1].features == PixelFeatures().name
    named = Images(digits.pixels, digits.labels, name="mine")  # whose network is nobody's
    assert compare_parts(drawn, named)[1].features == PixelFeatures().name
    many = digits.pixels[: len(train) + 9]
    assert compare_parts(many, digits, labels=digits.labels[: len(many)])[1].num == len(train)


def test_noise_is_uniform_and_repeats(parts):
    _, valid, _ = parts
    noise = noise_images(valid)
    assert noise.shape == valid.pixels.shape and noise.dtype == torch.uint8
    counts = torch.bincount(noise.flatten().long(), minlength=256).double()
    assert counts.std() < 1.2 * counts.mean() ** 0.5 and counts.min() > 0
    assert torch.equal(noise, noise_images(valid.pixels))
    assert not torch.equal(noise, noise_images(valid, seed=1))


def test_what_cannot_be_compared_is_refused(net, parts):
    train, valid, test = parts
    with pytest.raises(ValueError, match=r"drawn is .*float32.*to_uint8"):
        evaluate(valid.pixels / 255, test, features=net)
    with pytest.raises(ValueError, match="reference is a list"):
        evaluate(valid, [1, 2], features=net)
    for call in (evaluate, compare):
        with pytest.raises(ValueError, match=r"\(1, 8, 8\) and reference of \(1, 8, 4\)"):
            call(valid, test.pixels[..., :4], train, features=PixelFeatures(2))
    with pytest.raises(ValueError, match="reference has 3 images"):
        evaluate(valid, test.pixels[:3], features=net)
    with pytest.raises(ValueError, match="have 32 features and those of drawn 64"):
        evaluate(valid, net.features(test.pixels), features=PixelFeatures())
    with pytest.raises(ValueError, match="449 generated images but only 90"):
        compare(test, test, valid, features=net)
    broken = Given(torch.full((9, 2), math.nan), normal(9, 2))
    with pytest.raises(ValueError, match="not finite"):
        evaluate(*broken.pixels, features=broken)


def test_few_pictures_have_few_figures(net, parts):
    _, valid, test = parts
    for num in (0, 1, 5):
        row = evaluate(valid.pixels[:num], test, features=net, name="few")
        assert row.num == num and math.isnan(row.frechet) and math.isnan(row.mmd)
        assert math.isnan(row.confidence) == (num == 0)
        assert "few" in table([row])
    assert evaluate(valid.pixels[:6], test, features=net).frechet > 0


def test_the_table_is_aligned_and_says_what_it_was_measured_with(net, parts):
    train, _, test = parts
    rows = compare(blurred(test, 0.2), test, train, features=net, nfe=1000, seconds=0.01234)
    rows.append(ImageReport("nothing drawn", net.name, 12345))
    lines = table(rows).splitlines()
    assert max(map(len, lines)) <= 110
    first, second = lines[:6], lines[7:13]
    for block in (first, second):
        assert len(set(map(len, block))) == 1
        assert [line.split("  ")[0] for line in block[2:]] == [row.name for row in rows]
    assert first[3].split()[-2:] == ["1000", "0.0123"]
    assert f"{rows[1].frechet:.2f}" in first[3] and f"{1000 * rows[1].mmd_std:.2f}" in first[3]
    assert second[2].split()[2:6] == [f"{rows[0].confidence:.3f}", "10", "of", "10"]
    assert second[5].split() == ["nothing", "drawn", *"––––"]
    assert DigitFeatures.sha256[:12] in table(rows) and len(table([]).splitlines()) == 6
    assert "confidence" not in table([ImageReport("a", "pixels", 9)])
    with pytest.raises(ValueError, match="pixels"):
        table([*rows, ImageReport("a", "pixels", 9)])


def test_only_inception_s_figures_are_called_fid_and_kid(inception, net):
    assert inception.name == INCEPTION
    text = table([ImageReport("a", INCEPTION, 9, frechet=1.0, mmd=2.0)])
    assert "FID↓" in text and "KID↓" in text and "Fréchet" not in text
    for other in (net, PixelFeatures()):
        text = table([ImageReport("a", other.name, 9, frechet=1.0, mmd=2.0)])
        assert "FID" not in text and "KID" not in text and "Fréchet↓" in text


# for development --------------------


def test_cifar_features_are_keras_s():
    path = SHARED / "cifar10_cnn_weights.npz"
    if not path.exists():
        pytest.skip("the weights aren't here")
    spec = importlib.util.spec_from_file_location("cifar", ROOT / "benchmarks/cifar_features.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.CifarFeatures(path)
    assert isinstance(net, Classifier)

    pixels = noise_images(torch.empty(3, 3, 32, 32, dtype=torch.uint8))
    with np.load(path) as file:
        w = dict(file)
    x = pixels.permute(0, 2, 3, 1).double().numpy()
    for k in range(6):
        end = f"_{k}" if k else ""
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
        x = np.einsum("bijchw,hwco->bijo", windows, w[f"conv2d{end}/kernel"], optimize=True)
        x = np.maximum(x + w[f"conv2d{end}/bias"], 0)
        norm = {key.split("/")[1]: v for key, v in w.items() if f"batch_normalization{end}/" in key}
        x = (x - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-3)
        x = x * norm["gamma"] + norm["beta"]
        if k in (1, 3):
            n = x.shape[1] // 2
            x = x[:, : 2 * n, : 2 * n].reshape(3, n, 2, n, 2, -1).max((2, 4))
    x = x.reshape(3, -1)
    for name in ("dense", "dense_1"):
        x = np.maximum(x @ w[f"{name}/kernel"] + w[f"{name}/bias"], 0)
    assert net.features(pixels).numpy() == pytest.approx(x, rel=1e-3, abs=1e-3 * x.std())
    x = x @ w["dense_2/kernel"] + w["dense_2/bias"]
    assert net.logits(pixels).numpy() == pytest.approx(x, rel=1e-3, abs=1e-2)


def test_arrays_and_labels_of_every_integer_are_taken():
    shown = load_images("digits").subset(range(60))
    reference, digits = load_images("digits").subset(range(100, 200)), DigitFeatures.load()
    plain = evaluate(shown.pixels, reference, features=digits, labels=shown.labels)
    for kind in (np.uint8, np.int8, np.uint16, np.int32):
        labels = shown.labels.numpy().astype(kind)
        arrays = shown.pixels.numpy(), reference.pixels.numpy()
        assert evaluate(*arrays, features=digits, labels=labels) == plain
    rows = compare(
        shown.pixels.numpy(), reference, reference.pixels.numpy(), features=PixelFeatures()
    )
    assert rows[1].num == 60
    with pytest.raises(ValueError, match=r"labels are \(60,\) of torch.bool; give one integer"):
        evaluate(shown.pixels, reference, features=digits, labels=np.ones(60, bool))
    with pytest.raises(ValueError, match=r"drawn is \(60, 1, 8, 8\) of torch.float32.*to_uint8"):
        evaluate(shown.pixels.float().numpy(), reference, features=digits)


@pytest.mark.parametrize("features", [PixelFeatures(), DigitFeatures.load()], ids=lambda f: f.name)
def test_constant_pictures_have_finite_figures(features):
    constant = torch.full((40, 1, 8, 8), 100, dtype=torch.uint8)
    known = load_images("digits").subset(range(60))
    for drawn, reference in [(constant, known), (known, constant), (constant, constant)]:
        row = evaluate(drawn, reference, known, features=features)
        for figure in (row.frechet, row.mmd, row.precision, row.recall, row.density, row.coverage):
            assert math.isfinite(figure)
