"""A trained model of images: what it draws are pictures again.

Beside the diffusion it holds the shape of a picture and how many labels it knows. One file keeps all of
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from anydiff.batched import Batch, How, draw_all, finite, to_data, to_latents
from anydiff.checkpoints.described import check
from anydiff.checks import check_shape
from anydiff.diffusion import GaussianDiffusion
from anydiff.editing import interpolate
from anydiff.images.digit_features import DigitFeatures
from anydiff.images.evaluate import Classifier, Features, ImageReport, compare
from anydiff.images.features import PixelFeatures
from anydiff.images.images import Images, as_tensor, from_uint8, to_uint8
from anydiff.images.named import load_images, split
from anydiff.kinds import KindModel, named
from anydiff.latent import Latent
from anydiff.samplers import DPMSolver, Sampler
from anydiff.spaces import DENSE

__all__ = ["ImageModel", "compare_parts", "left_half", "usual_features"]

Watch = Callable[[Images], None]
LARGEST = 8192
"""Pixels of a side, of pictures whose size nothing but a file tells."""
WATCHED = 8
"""Pictures that are watched."""


@dataclass(frozen=True, eq=False)
class ImageModel(KindModel):
    """A diffusion of images, with what it takes to draw some.

    Arguments:
        diffusion: The model. Of one that knows labels the condition is `label`.
        shape: (C, H, W) of a picture.
        data: What it was trained on, by name or path.
        root: As :func:`~anydiff.images.named.load_images` takes it; not kept in a file.
        size: As `load_images` takes it.
    """

    shape: tuple[int, int, int]
    data: str | None = None
    root: str | None = None
    size: int | None = None

    kind: ClassVar[str] = "images"
    needs: ClassVar[set[str]] = {"shape", "data"}
    names: ClassVar[set[str]] = {"cifar10", "cifar100", "digits"}

    @property
    def classes(self) -> int:
        """How many labels it knows; 0 of a model without labels."""
        return int(getattr(self.diffusion.denoiser, "classes", 0))

    @property
    def asks(self) -> set[str]:
        return {"label"} if self.classes > 0 else set()

    def extra(self) -> dict[str, Any]:
        return {"shape": self.shape, "data": [self.data, None, self.size]}

    @classmethod
    def restore(cls, diffusion: GaussianDiffusion | Latent, extra: Mapping[str, Any]) -> ImageModel:
        shape, (data, _, size) = extra["shape"], extra["data"]
        check(data, str | None, "data")
        check(size, int | Sequence[int] | None, "size")
        check(shape, Sequence[int], "shape", LARGEST)
        channels, height, width = shape
        if min(shape) < 1 or size not in (None, height, width, [height, width]):
            raise ValueError(f"shape is {shape} and size {size}")
        made = cls(diffusion, (channels, height, width), data, size=size)
        made.fits(channels=channels)
        return made

    def of(self, data: Images, name: str | None) -> ImageModel:
        return replace(self, data=name)

    def read_data(self, data: str | None = None) -> Images:
        """What it was trained on, all parts of it.

        Arguments:
            data: As :func:`~anydiff.images.named.load_images` takes them, which fetches CIFAR where it is
                missing; the name that the model has if None, for which nothing is fetched.

        Raises:
            ValueError: If the model has no name of such data, or they are not there.
        """
        asked, root = data is not None, self.root if data is None else None
        name = named(self.data, self.names) if data is None else data
        return load_images(name, root, size=self.size, download=asked)

    def sample(
        self,
        num: int,
        *,
        label: int | Sequence[int] | None = None,
        watch: Watch | None = None,
        **how: Unpack[How],
    ) -> Images:
        """New pictures.

        Arguments:
            num: How many.
            label: What they should show, one label or several in turn; all in turn if None.
            watch: Called with the first eight pictures after each step.
            how: See :class:`~anydiff.batched.How`.

        Raises:
            ValueError: If a label or guidance is asked for that the model does not know.
        """
        return self._draw(num, self._labels(num, label, how), watch=watch, how=how)

    def inpaint(
        self,
        images: Images,
        known: Tensor | None = None,
        *,
        label: int | Sequence[int] | None = None,
        resamples: int = 5,
        watch: Watch | None = None,
        **how: Unpack[How],
    ) -> Images:
        """Pictures of which some pixels are kept and the others drawn anew.

        Arguments:
            images: What to begin from.
            known: True where a pixel is kept, booleans of (M, C, H, W) in which axes may be 1; the left
                half if None.
            label: What they should show; their own labels, if they have some, if None.
            resamples: How many times each step is repeated.
            watch: Called with the first eight pictures after each step.
            how: See :class:`~anydiff.batched.How`.

        Raises:
            ValueError: As :meth:`sample`, or if the pictures have another shape.
        """
        known = left_half(self.shape) if known is None else as_tensor(known, "known")
        hint = "it is True where a pixel is kept, (M, C, H, W) in which axes may be 1"
        check_shape([None] * 4, hint, torch.bool, known=known)
        known = known.expand(len(images), 1, *self.shape[1:]) if known.shape[1] == 1 else known
        return self._from(images, label, watch, how, known=known, resamples=resamples)

    def edit(
        self,
        images: Images,
        strength: float,
        *,
        label: int | Sequence[int] | None = None,
        watch: Watch | None = None,
        **how: Unpack[How],
    ) -> Images:
        """Pictures that are noised up to a time and denoised.

        Arguments:
            images: What to begin from.
            strength: The time in (0, 1]; 1 leaves nothing of them.
            label: What they should show; their own labels, if they have some, if None.
            watch: Called with the first eight pictures after each step.
            how: See :class:`~anydiff.batched.How`.

        Raises:
            ValueError: As :meth:`sample`, or if the pictures have another shape.
        """
        return self._from(images, label, watch, how, strength=strength)

    def interpolate(
        self,
        images: Images,
        num: int = 8,
        *,
        sampler: Sampler | None = None,
        steps: int = 50,
        batch: int = 64,
    ) -> Images:
        """From each picture of a pair to the other, both ends included, without labels.

        Arguments:
            images: Pairs one after the other.
            num: Pictures made of a pair, which lie one after the other.
            sampler: A deterministic one, :class:`anydiff.DPMSolver` by default.
            steps: Of the sampler, there and back.
            batch: Pictures drawn at once, about.

        Raises:
            ValueError: If the pictures have another shape.
        """
        device = self.device
        x = self._encode(images)
        drawn = []
        at_once = 2 * max(batch // num, 1)
        for start in range(0, len(x) // 2 * 2, at_once):
            pair = x[start : min(start + at_once, len(x) // 2 * 2)].to(device)
            pair = to_latents(self.diffusion, pair, DENSE)
            between = interpolate(
                self.diffusion.predictor(DENSE), pair[::2], pair[1::2], num,
                sampler=sampler or DPMSolver(), steps=steps,
            )  # fmt: skip
            states = between.transpose(0, 1).flatten(0, 1)
            drawn.append(to_data(self.diffusion, states, DENSE).cpu())
        rows = torch.cat(drawn)
        finite(list(rows), "images", all_of_them=True)
        return Images(to_uint8(rows), name="drawn")

    def _labels(self, num: int, label: int | Sequence[int] | None, how: How) -> Tensor | None:
        self.check(how, "labels", label=label)
        if not self.classes:
            return None
        wanted = as_tensor(range(self.classes) if label is None else label, "labels").flatten()
        wanted = wanted if len(wanted) else torch.arange(self.classes)
        whole = not (
            wanted.is_floating_point() or wanted.is_complex() or wanted.dtype == torch.bool
        )
        if wrong := [n for n in wanted.tolist() if not (whole and 0 <= n < self.classes)]:
            raise ValueError(f"label is {wrong[0]}; the model knows 0 to {self.classes - 1}.")
        return wanted.to(torch.int64)[torch.arange(num) % len(wanted)]

    def check_images(self, images: Images) -> None:
        """Check that pictures are such as the model draws.

        Arguments:
            images: The pictures.

        Raises:
            ValueError: If they are none, or of another shape.
        """
        if not isinstance(images, Images):
            raise ValueError(f"the pictures are a {type(images).__name__}; give Images(pixels).")
        if images.shape != self.shape:
            raise ValueError(
                f"the pictures of {images.name} are {images.shape} and the model draws {self.shape}; "
                "give pictures of this shape."
            )

    def _encode(self, images: Images) -> Tensor:
        self.check_images(images)
        return from_uint8(images.pixels)

    def _from(
        self,
        images: Images,
        label: int | Sequence[int] | None,
        watch: Watch | None,
        how: How,
        **options: Any,
    ) -> Images:
        x = self._encode(images)
        if label is None and self.classes and images.labels is not None:
            label = images.labels.tolist()
        return self._draw(
            len(images), self._labels(len(images), label, how), x=x, watch=watch, how=how, **options
        )

    def _draw(
        self,
        num: int,
        label: Tensor | None,
        *,
        x: Tensor | None = None,
        known: Tensor | None = None,
        watch: Watch | None,
        how: How,
        **options: Any,
    ) -> Images:
        device = self.device
        skip = how.get("skip", 0)

        def make(some: slice) -> Batch:
            cond = {} if label is None else {"label": label[some].to(device)}
            of = (None if value is None else value[some].to(device) for value in (x, known))
            return Batch((some.stop - some.start, *self.shape), DENSE, cond, *of)

        def finish(drawn: list[Tensor]) -> Images:
            rows = torch.cat(drawn)
            sound = finite(list(rows), "images", all_of_them=x is not None)
            labels = None if label is None else label[skip : skip + len(rows)][sound]
            return Images(to_uint8(rows[sound]), labels, name="drawn")

        def see(state: Tensor) -> None:
            if watch is not None:
                watch(Images(to_uint8(state[:WATCHED].nan_to_num()), name="drawn"))

        how = {"batch": 64, **how}
        return draw_all(self.diffusion, num, make, finish, watch=see, **how, **options)


def left_half(shape: Sequence[int]) -> Tensor:
    """True in the left half of a picture of this shape (C, H, W), as (1, 1, H, W)."""
    return (torch.arange(shape[2]) < shape[2] // 2).expand(1, 1, *shape[1:])


def usual_features(images: Images) -> Features:
    """The shipped digits' own network for them, and pixels for other images.

    Arguments:
        images: What is to be compared.
    """
    side = DigitFeatures.side
    digits = images.name == "digits" and images.shape == (1, side, side)
    return DigitFeatures.load() if digits else PixelFeatures()


def compare_parts(
    drawn: Tensor,
    images: Images,
    *,
    features: Features | None = None,
    labels: Tensor | None = None,
    nfe: int | None = None,
    seconds: float | None = None,
) -> list[ImageReport]:
    """The rows of :func:`compare` for a model of a data set's training part, against its test part.

    The first 10,000 images of the training part and 2,000 of the test part are used, and at most as
    many generated images as training ones.

    Arguments:
        drawn: (M, C, H, W) of uint8, the generated images.
        images: The whole data set, which :func:`~anydiff.images.named.split` divides.
        features: :func:`usual_features` by default.
        labels: (M,), the label that each image was generated for; used if the features are a
            classifier's.
        nfe: Network evaluations per image, to be shown in the table.
        seconds: Seconds per image, to be shown in the table.

    Raises:
        ImageError: The images are too few to split.
        ValueError: As for :func:`compare`.
    """
    features = usual_features(images) if features is None else features
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
