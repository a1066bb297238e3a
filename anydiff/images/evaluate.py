r"""Metrics of generated images.

They compare generated images with a reference, real images outside the training set, on features of
both: Fréchet distance and MMD by torchmetrics; precision, recall, density, coverage and the ratio of
distances to the nearest training image by :mod:`anydiff.metrics.distances`. If the features are a
classifier's, also its confidence, the classes that occur, and how often an image shows the label it
was generated for.

The features are the caller's choice: the digits' own network
(:class:`~anydiff.images.digit_features.DigitFeatures`), pixels, or Inception, the only features for
which the Fréchet distance is called FID (:mod:`anydiff.images.features`). A figure needs a scale:
`compare` puts real training images, the floor, and noise, the ceiling, next to it. Fréchet distances
are larger for smaller samples: compare rows of equally many images, against one reference.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from anydiff.extras import extra
from anydiff.images.features import INCEPTION
from anydiff.images.images import Images, as_tensor
from anydiff.metrics.distances import nearest_ratio, precision_recall
from anydiff.metrics.tables import MATCHES, Column, rendered

__all__ = ["Classifier", "Features", "ImageReport", "compare", "evaluate", "noise_images", "table"]

AnyImages = Images | Tensor | np.ndarray

_NEIGHBOURS = 5
_SUBSETS = 100
_NAN = math.nan


@runtime_checkable
class Features(Protocol):
    """A map from images to rows of numbers."""

    @property
    def name(self) -> str:
        """The features' name in tables; equal names must mean equal numbers."""

    def features(self, pixels: Tensor) -> Tensor:
        """Features (M, D) of float32, without gradient, of images (M, C, H, W) of uint8."""


@runtime_checkable
class Classifier(Features, Protocol):
    """Features of a network that also classifies the images."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the first columns of the logits; further columns are for images of no class."""

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits (M, K) of images (M, C, H, W) of uint8, K ≥ len(classes)."""


# the report --------------------


@dataclass(frozen=True)
class ImageReport:
    """One row of metrics; a metric that could not be computed is nan, one not asked for None.

    Arguments:
        name: The row's name.
        features: The features' name.
        num: The number of images.
        frechet: Fréchet distance of the features; FID if they are Inception's.
        mmd, mmd_std: Squared maximum mean discrepancy of the features, unbiased: mean and standard
            deviation over subsets; KID if they are Inception's.
        precision, recall, density, coverage: As in :func:`~anydiff.metrics.distances.precision_recall`.
        nearest: Distance to the nearest training image, divided by that of reference images.
        confidence: Mean of the largest probability of a class; low for images of no class.
        classes: How many classes the classifier knows.
        classes_present: How many of them were predicted for at least one image.
        least_share: The share of the class predicted least; 1 / classes if all are equally frequent.
        accuracy: Share of images classified as the label that they were generated for.
        nfe: Network evaluations per image.
        seconds: Seconds per image.
    """

    name: str
    features: str
    num: int
    frechet: float = _NAN
    mmd: float = _NAN
    mmd_std: float = _NAN
    precision: float = _NAN
    recall: float = _NAN
    density: float = _NAN
    coverage: float = _NAN
    nearest: float | None = None
    confidence: float | None = None
    classes: int | None = None
    classes_present: int | None = None
    least_share: float | None = None
    accuracy: float | None = None
    nfe: int | None = None
    seconds: float | None = None

    @property
    def named(self) -> str | None:
        """How many of the classes were named for at least one picture, in words."""
        return None if self.classes is None else f"{self.classes_present} of {self.classes}"


def evaluate(
    drawn: AnyImages,
    reference: AnyImages,
    train: AnyImages | None = None,
    *,
    features: Features,
    name: str = "drawn",
    labels: Tensor | None = None,
    nfe: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> ImageReport:
    """All metrics of a set of images; except for the subsets of MMD their order has no influence.

    Arguments:
        drawn: The generated images, as `Images`, or a tensor or an array (M, C, H, W) of uint8.
        reference: Real images outside the training set; or their features (M, D), to compute these
            only once for several rows.
        train: The training images, or their features, for the ratio of nearest distances.
        features: The features to compare.
        name: The row's name.
        labels: (M,), the label that each image was generated for, an index into the classifier's
            classes; by default the labels of `Images` with the same classes.
        nfe: Network evaluations per image, to be shown in the table.
        seconds: Seconds per image, to be shown in the table.
        seed: Of the subsets of MMD; the caller's random state is not changed.

    Raises:
        ValueError: The images differ in shape, the reference has too few, the classifier does not know
            a label, or the features are not finite.
    """
    pixels = _pixels(drawn, "drawn")
    _check_shapes(pixels, reference=reference, train=train)
    seen = _seen(drawn, pixels, labels, features)
    report = ImageReport(name, features.name, len(pixels), nfe=nfe, seconds=seconds, **seen)

    y = _rows(reference, features, "reference")
    least = _NEIGHBOURS + 1
    if len(y) < least:
        raise ValueError(f"the reference has {len(y)} images; give {least} or more.")
    if len(pixels) < least:
        return report
    x = _rows(pixels, features, "drawn")
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"the reference's rows have {y.shape[1]} features and those of drawn {x.shape[1]}; "
            f"compute both by {features.name}."
        )
    p = precision_recall(x, y, _NEIGHBOURS)
    mean, std = _mmd(x, y, seed)
    return replace(
        report,
        frechet=_frechet(x, y),
        mmd=mean,
        mmd_std=std,
        **p._asdict(),
        nearest=None if train is None else nearest_ratio(x, _rows(train, features, "train"), y),
    )


def compare(
    drawn: AnyImages,
    reference: AnyImages,
    train: Images | Tensor,
    *,
    features: Features,
    name: str = "drawn",
    labels: Tensor | None = None,
    nfe: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> list[ImageReport]:
    """Three rows for `table`, of equally many images: real ones, the generated ones, and noise.

    "real, train" are random training images: the floor, and the score of a model that copies them,
    hence 0 for the nearest distances.

    Arguments:
        drawn: The generated images.
        reference: Real images outside the training set, or their features.
        train: The training images, at least as many as `drawn`.
        features: The features to compare.
        name: The name of the generated images' row.
        labels: (M,), the label that each image was generated for; as for :func:`evaluate`.
        nfe: Network evaluations per image, to be shown in the table.
        seconds: Seconds per image, to be shown in the table.
        seed: Of the training images, the noise, and the subsets of MMD.

    Raises:
        ValueError: As for :func:`evaluate`; or `drawn` has more images than `train`.
    """
    num, known = len(drawn), _pixels(train, "train")
    _check_shapes(_pixels(drawn, "drawn"), reference=reference, train=train)
    if num > len(known):
        raise ValueError(
            f"there are {num} generated images but only {len(known)} training ones, too few for a row "
            f"of equally many; give drawn[:{len(known)}] or call evaluate."
        )
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    some = train.subset(order[:num]) if isinstance(train, Images) else known[order[:num]]
    against = (_rows(reference, features, "reference"), _rows(known, features, "train"))
    ours = {"labels": labels, "nfe": nfe, "seconds": seconds}
    rows: list[tuple[str, AnyImages, dict[str, Any]]]
    rows = [("real, train", some, {}), (name, drawn, ours), ("noise", noise_images(some, seed), {})]
    return [
        evaluate(images, *against, features=features, name=row, seed=seed, **more)
        for row, images, more in rows
    ]


def noise_images(like: AnyImages, seed: int = 0) -> Tensor:
    """The ceiling of the metrics: uniform noise, as many images of the same shape.

    Arguments:
        like: `Images` or (M, C, H, W) of uint8.
        seed: Of the noise.

    Returns:
        (M, C, H, W) of uint8.
    """
    shape = _pixels(like, "like").shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def _pixels(images: AnyImages, what: str) -> Tensor:
    pixels = images.pixels if isinstance(images, Images) else images
    if isinstance(pixels, np.ndarray):
        pixels = as_tensor(pixels, what)
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 4:
        found = (
            f"{tuple(pixels.shape)} of {pixels.dtype}"
            if isinstance(pixels, Tensor)
            else f"a {type(pixels).__name__}"
        )
        raise ValueError(
            f"{what} is {found}; give Images or a tensor (M, C, H, W) of uint8; "
            "anydiff.images.to_uint8 converts numbers in [-1, 1]."
        )
    return pixels


def _is_rows(images: AnyImages) -> bool:
    return isinstance(images, Tensor) and images.ndim == 2 and images.is_floating_point()


def _check_shapes(pixels: Tensor, **others: AnyImages | None) -> None:
    ours = tuple(pixels.shape[1:])
    for what, other in others.items():
        if other is None or _is_rows(other):
            continue
        if (theirs := tuple(_pixels(other, what).shape[1:])) != ours:
            raise ValueError(
                f"drawn has images of {ours} and {what} of {theirs}, as (C, H, W); give images of "
                "one shape."
            )


def _rows(images: AnyImages, features: Features, what: str) -> Tensor:
    """Features (M, D) on the CPU."""
    if isinstance(images, Tensor) and _is_rows(images):
        return images.detach().cpu()
    pixels = _pixels(images, what)
    rows = features.features(pixels).detach().cpu()
    if rows.ndim != 2 or len(rows) != len(pixels):
        raise ValueError(
            f"{features.name}: the features of {len(pixels)} images are {tuple(rows.shape)}; "
            "they should be (M, D)."
        )
    return rows


def _frechet(x: Tensor, y: Tensor) -> float:
    with extra("images"):
        from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(_Given(x), sync_on_compute=False)
    metric.update(y.double(), real=True)
    metric.update(x.double(), real=False)
    # for singular covariances, N ≤ D, its matrix root is off by about 1e-8 of their traces
    return max(float(metric.compute()), 0.0)


def _mmd(x: Tensor, y: Tensor, seed: int) -> tuple[float, float]:
    """Mean and standard deviation over subsets of at most 1,000 images and half of the images.

    Subsets of all images would be equal, and their deviation zero.
    """
    with extra("images"):
        from torchmetrics.image.kid import KernelInceptionDistance

    size = min(1000, len(x) // 2, len(y) // 2)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that it stores the features
        torch.default_generator.manual_seed(seed)  # it takes no generator
        metric = KernelInceptionDistance(_Given(x), _SUBSETS, size, sync_on_compute=False)
        metric.update(y.double(), real=True)
        metric.update(x.double(), real=False)
        mean, std = metric.compute()
    return float(mean), float(std)


class _Given(nn.Identity):
    """A network for torchmetrics whose images are features already, which it returns."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.num_features = x.shape[1]


def _seen(
    drawn: AnyImages, pixels: Tensor, labels: Tensor | None, features: Features
) -> dict[str, Any]:
    """The classifier's metrics of the images; none if the features are not a classifier's."""
    if not isinstance(features, Classifier):
        if labels is not None:
            raise ValueError(
                f"labels were given, but {features.name} has no classes; use a classifier's features "
                "or leave the labels out."
            )
        return {}
    num, classes = len(pixels), tuple(features.classes)
    if labels is None and isinstance(drawn, Images) and drawn.classes == classes:
        labels = drawn.labels
    if labels is not None:
        labels = as_tensor(labels, "labels").cpu()
        inexact = labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool
        if labels.shape != (num,) or inexact:
            raise ValueError(
                f"labels are {tuple(labels.shape)} of {labels.dtype}; give one integer for each of "
                f"the {num} images."
            )
        labels = labels.to(torch.int64)
        if bool(((labels < 0) | (labels >= len(classes))).any()):
            raise ValueError(
                f"labels are from {int(labels.min())} to {int(labels.max())}; those of "
                f"{features.name} are from 0 to {len(classes) - 1}."
            )
    p = features.logits(pixels).detach().cpu().double().softmax(1)
    found = p.argmax(1)
    share = torch.bincount(found, minlength=len(classes))[: len(classes)] / max(num, 1)
    return {
        "confidence": float(p[:, : len(classes)].amax(1).mean()),
        "classes": len(classes),
        "classes_present": int((share > 0).sum()),
        "least_share": float(share.min()),
        "accuracy": None if labels is None else float((found == labels).double().mean()),
    }


# the table --------------------

_CLASS_COLUMNS = [
    Column("", "name"),
    Column("confidence↑", "confidence", ".3f"),
    Column("classes", "named"),
    Column("least class", "least_share", ".1%"),
    Column("as asked↑", "accuracy", ".1%"),
]


def table(reports: Sequence[ImageReport]) -> str:
    """The reports as aligned text, in a second block the classifier's metrics, and a caption.

    Include a floor and a ceiling, as :func:`compare` does.

    Arguments:
        reports: One for each row. Metrics without a value are shown as –.

    Raises:
        ValueError: The rows were computed on different features.
    """
    names = sorted({row.features for row in reports})
    if len(names) > 1:
        raise ValueError(
            f"the rows are on different features, {' and '.join(names)}, and not comparable; "
            "make a table of each."
        )
    inception = names == [INCEPTION]
    frechet, mmd = ("FID", "KID") if inception else ("Fréchet", "MMD")
    figures = [
        Column("", "name"),
        Column("n", "num", ","),
        Column(f"{frechet}↓", "frechet", ".2f"),
        Column(f"{mmd}↓", "mmd", ".2f", 1000),
        Column("±", "mmd_std", ".2f", 1000),
        *MATCHES,
    ]
    blocks = [rendered(reports, figures)]
    caption = [
        f"{', '.join(names) or 'no features'}; {mmd} × 1000, mean ± deviation over {_SUBSETS} subsets; "
        f"k = {_NEIGHBOURS};",
        "near: 1 as for unseen data, 0 for copies; ↓ lower is better, ↑ higher; network evaluations and",
        "seconds are per image. Compare rows with equal n.",
    ]
    if any(row.classes is not None for row in reports):
        blocks.append(rendered(reports, _CLASS_COLUMNS))
        caption[-1] += " Confidence: mean of the largest probability of a class;"
        caption.append("least class: the share of the class that occurs least.")
    return "\n\n".join([*blocks, "\n".join(caption)])
