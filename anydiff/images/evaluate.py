r"""What generated pictures are worth.

Figures against a reference, real pictures that weren't learnt from, on features of the pictures: the
Fréchet distance and MMD by torchmetrics, precision, recall, density, coverage, and the ratio of
distances to the nearest training picture (:mod:`anydiff.metrics.distances`). Where the features are
those of a classifier, also how sure it is of the pictures, which classes there are, and whether a
picture drawn for a label shows it.

What the features are is the caller's choice: the digits' own network
(:class:`~anydiff.images.digit_features.DigitFeatures`), the pixels, or Inception, with which alone the
Fréchet distance is called FID (:mod:`anydiff.images.features`). No figure means much alone:
`compare` puts real training pictures, the floor, and noise, the ceiling, beside it. The Fréchet
distance of smaller samples is larger: compare rows of equally many, against one reference.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from anydiff.extras import extra
from anydiff.images.digit_features import DigitFeatures
from anydiff.images.features import INCEPTION, PixelFeatures
from anydiff.images.images import Images
from anydiff.images.named import split
from anydiff.metrics.distances import nearest_ratio, precision_recall
from anydiff.metrics.tables import MATCHES, Column, rendered

__all__ = [
    "Classifier",
    "Features",
    "ImageReport",
    "compare",
    "compare_parts",
    "evaluate",
    "noise_images",
    "table",
]

AnyImages = Images | Tensor

_NEIGHBOURS = 5
_SUBSETS = 100
_NAN = math.nan


@runtime_checkable
class Features(Protocol):
    """What turns pictures into rows of numbers."""

    @property
    def name(self) -> str:
        """What the table calls it, precisely enough that equal names are equal numbers."""

    def features(self, pixels: Tensor) -> Tensor:
        """Features (M, D) of float32, without gradient, of pictures (M, C, H, W) of uint8."""


@runtime_checkable
class Classifier(Features, Protocol):
    """Features that also name what they see."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the first columns of the logits; more columns are for what is of no class."""

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits (M, K) of pictures (M, C, H, W) of uint8, K ≥ len(classes)."""


# the report --------------------


@dataclass(frozen=True)
class ImageReport:
    """One row of figures; what couldn't be measured is nan, what wasn't asked for None.

    Arguments:
        features: The name of what was measured with.
        num: Pictures.
        frechet: Fréchet distance of the features; FID if they are Inception's.
        mmd, mmd_std: Squared maximum mean discrepancy of the features, unbiased: mean and standard
            deviation over subsets; KID if they are Inception's.
        confidence: Mean of the largest probability of a class; low for what is of none.
        classes: How many classes the classifier names.
        classes_present: How many of them were named for at least one picture.
        least_share: The share of the class named least, 1 / classes where all are equally frequent.
        accuracy: Share of pictures named as the label that they were drawn for.
        nearest: Distance to the nearest training picture, over that of a reference picture.
        nfe: Network calls for a picture.
        seconds: Seconds for a picture.
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
    """All figures of some pictures. The same pictures in another order give the same, but for the
    subsets of MMD.

    Arguments:
        drawn: What was generated, as `Images` or (M, C, H, W) of uint8.
        reference: Real pictures that weren't learnt from; or their features (M, D), which spares
            working them out anew for every row.
        train: The pictures learnt from, or their features, for the ratio of nearest distances.
        features: What to measure with.
        labels: (M,) what each picture was drawn for, numbers into the classifier's classes; by
            default the labels of `Images` with the same classes.
        nfe, seconds: Network calls and seconds for a picture, to be shown in the table.
        seed: Of the subsets of MMD; the caller's random numbers aren't touched.

    Raises:
        ValueError: Pictures of different shapes, a reference of too few pictures, labels that the
            classifier doesn't know, or features that aren't finite.
    """
    pixels = _pixels(drawn, "drawn")
    _check_shapes(pixels, reference=reference, train=train)
    seen = _seen(drawn, pixels, labels, features)
    report = ImageReport(name, features.name, len(pixels), nfe=nfe, seconds=seconds, **seen)

    y = _rows(reference, features, "reference")
    least = _NEIGHBOURS + 1
    if len(y) < least:
        raise ValueError(f"the reference has {len(y)} pictures; give {least} or more.")
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
    """Three rows for `table`, of equally many pictures: real ones, the drawn, and noise.

    "real, train" are training pictures taken at random: the floor, and what copies of them would score,
    whence 0 for the nearest distances. Arguments are those of `evaluate`, but that `train`
    has to be pictures.

    Raises:
        ValueError: As `evaluate`; or more pictures were drawn than there are training ones.
    """
    num, known = len(drawn), _pixels(train, "train")
    _check_shapes(_pixels(drawn, "drawn"), reference=reference, train=train)
    if num > len(known):
        raise ValueError(
            f"{num} pictures were drawn but there are {len(known)} training ones, too few for a row of "
            f"equally many; give drawn[:{len(known)}] or call evaluate."
        )
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    some = train.subset(order[:num]) if isinstance(train, Images) else train[order[:num]]
    against = (_rows(reference, features, "reference"), _rows(known, features, "train"))
    return [
        evaluate(some, *against, features=features, name="real, train", seed=seed),
        evaluate(
            drawn,
            *against,
            features=features,
            name=name,
            labels=labels,
            nfe=nfe,
            seconds=seconds,
            seed=seed,
        ),
        evaluate(noise_images(some, seed), *against, features=features, name="noise", seed=seed),
    ]


def compare_parts(
    drawn: Tensor,
    images: Images,
    *,
    features: Features | None = None,
    labels: Tensor | None = None,
    nfe: int | None = None,
    seconds: float | None = None,
) -> list[ImageReport]:
    """The rows of `compare` for what a model of the training part drew, against the test part.

    At most 10,000 pictures are of the training part and 2,000 of the test part; of what was drawn as many
    as there are training pictures.

    Arguments:
        images: Both parts, as :func:`anydiff.images.named.split` has them.
        features: If None, of the shipped digits those of their own network, of others the pixels.
        labels: (M,) what each picture was drawn for, heeded if the features are a classifier's.
    """
    if features is None:
        side = DigitFeatures.side
        digits = images.name == "digits" and images.shape == (1, side, side)
        features = DigitFeatures.load() if digits else PixelFeatures()
    parts = split(images)
    known, test = images.subset(parts.train[:10_000]), images.subset(parts.test[:2000])
    asked = labels if isinstance(features, Classifier) else None
    return compare(
        drawn[: len(known)],
        test,
        known,
        features=features,
        labels=None if asked is None else asked[: len(known)],
        nfe=nfe,
        seconds=seconds,
    )


def noise_images(like: AnyImages, seed: int = 0) -> Tensor:
    """The ceiling: as many pictures of the same shape, (M, C, H, W), of uniform noise in uint8."""
    shape = _pixels(like, "like").shape
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def _pixels(images: AnyImages, what: str) -> Tensor:
    pixels = images.pixels if isinstance(images, Images) else images
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 4:
        found = (
            f"{tuple(pixels.shape)} of {pixels.dtype}"
            if isinstance(pixels, Tensor)
            else f"a {type(pixels).__name__}"
        )
        raise ValueError(
            f"{what} is {found}; give Images or a tensor (M, C, H, W) of uint8, which "
            "anydiff.images.images.to_uint8 makes of numbers in [-1, 1]."
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
                f"drawn has pictures of {ours} and {what} of {theirs}, as (C, H, W); give pictures "
                "of one shape."
            )


def _rows(images: AnyImages, features: Features, what: str) -> Tensor:
    """Features (M, D) on the CPU."""
    if isinstance(images, Tensor) and _is_rows(images):
        return images.detach().cpu()
    pixels = _pixels(images, what)
    rows = features.features(pixels).detach().cpu()
    if rows.ndim != 2 or len(rows) != len(pixels):
        raise ValueError(
            f"{features.name}: the features of {len(pixels)} pictures are {tuple(rows.shape)}; "
            "they should be (M, D)."
        )
    return rows


def _frechet(x: Tensor, y: Tensor) -> float:
    with extra("images"):
        from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(_Given(x), sync_on_compute=False)
    metric.update(y.double(), real=True)
    metric.update(x.double(), real=False)
    # its root of singular covariances, as they are where N ≤ D, is off by some 1e-8 of their traces
    return max(float(metric.compute()), 0.0)


def _mmd(x: Tensor, y: Tensor, seed: int) -> tuple[float, float]:
    """Mean and standard deviation over subsets of at most 1,000, and at most half of the pictures:
    subsets of all of them would be the same, and deviate by nothing."""
    with extra("images"):
        from torchmetrics.image.kid import KernelInceptionDistance

    size = min(1000, len(x) // 2, len(y) // 2)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that it keeps the features
        torch.default_generator.manual_seed(seed)  # it takes no generator
        metric = KernelInceptionDistance(
            _Given(x), subsets=_SUBSETS, subset_size=size, sync_on_compute=False
        )
        metric.update(y.double(), real=True)
        metric.update(x.double(), real=False)
        mean, std = metric.compute()
    return float(mean), float(std)


class _Given(nn.Identity):
    """A network for torchmetrics that takes features for pictures and gives them back."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.num_features = x.shape[1]


def _seen(
    drawn: AnyImages, pixels: Tensor, labels: Tensor | None, features: Features
) -> dict[str, Any]:
    """What a classifier says of the pictures; nothing if the features are none's."""
    if not isinstance(features, Classifier):
        if labels is not None:
            raise ValueError(
                f"labels were given, but {features.name} names no classes; measure with a classifier "
                "or leave them out."
            )
        return {}
    num, classes = len(pixels), tuple(features.classes)
    if labels is None and isinstance(drawn, Images) and drawn.classes == classes:
        labels = drawn.labels
    if labels is not None:
        labels = torch.as_tensor(labels).cpu()
        if labels.shape != (num,) or labels.is_floating_point():
            raise ValueError(
                f"labels are {tuple(labels.shape)} of {labels.dtype}; give one integer for each of "
                f"the {num} pictures."
            )
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
    """The reports as an aligned block, a second one where they were measured with a classifier, and
    what they were measured with; – where nothing was.

    Let a floor and a ceiling be among the rows, as `compare` makes them.

    Raises:
        ValueError: The rows were measured with different features.
    """
    names = sorted({row.features for row in reports})
    if len(names) > 1:
        raise ValueError(
            f"the rows were measured with {' and '.join(names)}, whose figures don't compare; "
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
        "near: 1 as unseen data, 0 copies; ↓ lower is better, ↑ higher; calls of the network and seconds",
        "for a picture. Compare rows of equally many.",
    ]
    if any(row.classes is not None for row in reports):
        blocks.append(rendered(reports, _CLASS_COLUMNS))
        caption[-1] += " Confidence: mean of the largest probability of a class;"
        caption.append("least class: the share of the class that is seen least.")
    return "\n\n".join([*blocks, "\n".join(caption)])
