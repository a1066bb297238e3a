"""What a model of the training part of some pictures drew, against their test part."""

from __future__ import annotations

from torch import Tensor

from anydiff.images.digit_features import DigitFeatures
from anydiff.images.evaluate import Classifier, Features, ImageReport, compare
from anydiff.images.features import PixelFeatures
from anydiff.images.images import Images
from anydiff.images.named import split

__all__ = ["compare_parts"]


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
        digits = images.name == "digits" and images.shape == (
            1,
            DigitFeatures.side,
            DigitFeatures.side,
        )
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
