"""Images on the command line: what to begin from, which files are written, what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anydiff.cli.options import left_out
from anydiff.data.parts import boxes
from anydiff.data.parts import with_parts as with_known
from anydiff.data.stored import MANIFEST
from anydiff.drawing import moments
from anydiff.images import store
from anydiff.images.arrays import is_array, write_array
from anydiff.images.batches import loader, unpack
from anydiff.images.evaluate import Classifier, evaluate, table
from anydiff.images.features import InceptionFeatures
from anydiff.images.files import is_mnist
from anydiff.images.gallery import show_images
from anydiff.images.images import ImageError, Images
from anydiff.images.models import ImageModel, compare_parts, left_half, usual_features
from anydiff.images.named import load_images, split
from anydiff.images.pictures import animate_denoising, draw_grid, draw_rows, draw_strip, visible
from anydiff.kinds import first
from anydiff.metrics.tables import Column
from anydiff.pages import Page, film, frames_of

NUM, STEPS, LONG, DRAWN, SHOWN = 400, 100, 100, "samples.npz", 12
SAMPLER = "ddpm"
PACKAGES: tuple[str, ...] = ("PIL",)
MEASURES: tuple[str, ...] = ("torchmetrics",)
_GREY = 160


def read_data(data: str, root: str | None = None, size: int | None = None) -> Images:
    """Images by name or path."""
    return load_images(data, root, size=size)


def read_items(path: str, shape: tuple[int, int, int] | None = None) -> Images:
    """Images of a file that was written here, or of a folder.

    Arguments:
        path: An .npz with `pixels` (M, C, H, W) of uint8, and perhaps `labels`, or with `arr_0`
            (M, H, W, C); or a folder, of numbered parts or of pictures.
        shape: What those of a folder are brought to.
    """
    if is_array(path):
        return load_images(path)
    if (Path(path) / MANIFEST).is_file():
        return store.open(path).read()
    size, channels = (None, None) if shape is None else (shape[1:], shape[0])
    return load_images(path, size=size, channels=channels)


def begin(model: ImageModel, data: str | None) -> Images:
    """Images to begin from: those of a file or a folder, or the test part of data."""
    if data is not None and data not in (*model.names, model.data):
        return read_items(data, model.shape)
    known: Images = model.at_hand(data)
    return known.subset(split(known).test)


def begin_pairs(model: ImageModel, items: Images, num: int) -> Images:
    """Pairs of them, one after the other.

    Arguments:
        model: Not needed; every kind takes its model here.
        items: Images.
        num: How many pairs.

    Raises:
        ImageError: If there is only one image.
    """
    if len(items) < 2:
        raise ImageError(f"{items.name}: there is one picture; blending needs two.")
    return first(items, min(2 * num, len(items) // 2 * 2))


with_parts = first


def kept(items: Images) -> Tensor:
    """The left half of each, (1, 1, H, W)."""
    return left_half(items.shape)


def flipped(data: str) -> bool:
    """Whether images and their mirror images are alike; digits have a left and a right.

    Arguments:
        data: By name or path.
    """
    return data not in ("digits", "mnist") and not is_mnist(data)


def habits(model: ImageModel) -> dict[str, Any]:
    """How models are trained, where nothing else is asked for.

    Arguments:
        model: Of small images or of larger ones.
    """
    size = 64 if max(model.shape[1:]) <= 16 else 32
    return {"lr": 3e-3, "batch_size": size, "ema": 0.998, "beta": 0.01}


def batches(
    model: ImageModel,
    known: Images,
    data: str,
    batch_size: int,
    seed: int,
    flip: bool | None = None,
) -> tuple[Any, Any, Any]:
    """The loaders of the training part and the validation part, and `unpack`.

    Arguments:
        model: What learns; its labels, if it knows some, are the condition.
        known: All parts of the data.
        data: The data by name or path.
        batch_size: The most images in a batch.
        seed: Of the order.
        flip: Add mirrored images; those of data that have no left and right by default.

    Raises:
        ValueError: If the model cannot learn from them.
    """
    model.check_images(known)
    if model.conditional and (known.labels is None or int(known.labels.max()) >= model.classes):
        raise ValueError(
            f"the model knows labels from 0 to {model.classes - 1}, and {known.name} has "
            f"{'none' if known.labels is None else 'others'}; give the data it was trained on."
        )
    parts, flip = split(known), flipped(data) if flip is None else flip
    learn, check = known.subset(parts.train), known.subset(parts.valid)
    return (
        loader(learn, batch_size, seed=seed, labels=model.conditional, flip=flip),
        loader(check, batch_size, shuffle=False, labels=model.conditional),
        with_known(unpack, boxes) if model.completes else unpack,
    )


write_items = write_array
"""All images as arrays `pixels` and `labels`."""


def write(
    folder: Path,
    drawn: Images,
    frames: list[Images],
    before: Images | None = None,
    kept: Tensor | None = None,
) -> None:
    """All images as one array, a picture of the first 100 and of what they were begun from, and the way
    of the first eight from noise. What was not kept of an image is grey."""
    shown = None if before is None else before.pixels
    if shown is not None and kept is not None:
        shown = torch.where(kept, shown, _GREY)
    write_items(folder / DRAWN, drawn, **({} if shown is None else {"before": shown}))
    for name, pixels in (("samples", drawn.pixels), ("before", shown)):
        if pixels is not None:
            some = visible(pixels[:100])
            draw_grid(folder / f"{name}.png", some, columns=min(10, len(some)))
    if frames:  # blends have none
        path = visible(torch.stack([frame.pixels for frame in frames]))
        draw_strip(folder / "strip.png", path)
        animate_denoising(folder / "denoising.gif", path[moments(len(path))])


def show(
    page: Page,
    folder: Path | None,
    drawn: Images,
    before: Images | None = None,
    captions: Sequence[str] = (),
) -> None:
    """Images on a page.

    Arguments:
        page: Where to.
        folder: That of a run, which may have a film of some on their way from noise.
        drawn: The images.
        before: What they were begun from.
        captions: What each was asked to be.
    """
    if before is not None:
        show_images(page, before, "Before")
    show_images(page, drawn, "After" if before is not None else "Samples", captions=captions)
    if folder is not None:
        page.add("From noise", film(frames_of(folder / "denoising.gif"), "images, step by step"))


def draw_runs(path: Path, runs: Mapping[str, Images]) -> None:
    """What several runs draw from the same noise, a row for each.

    Arguments:
        path: The file.
        runs: Images by what the row is called.
    """
    num = min(map(len, runs.values()))
    draw_rows(path, {name: visible(drawn.pixels[:num]) for name, drawn in runs.items()})


FIGURES = [Column("Fréchet↓", "frechet", ".2f"), Column("as asked↑", "accuracy", ".1%")]


def judge(known: Images) -> tuple[Images, Callable[[Images, int], Any], str]:
    """Real images, a function that reports on drawn ones and how many are lost, and what it is on.

    Arguments:
        known: All parts of the data.
    """
    parts, features = split(known), usual_features(known)
    test = features.features(known.subset(parts.test[:2000]).pixels)
    by_class = isinstance(features, Classifier)

    def report(drawn: Images, lost: int) -> Any:
        labels = drawn.labels if by_class else None
        return evaluate(drawn.pixels, test, features=features, labels=labels)

    order = torch.randperm(len(parts.train), generator=torch.Generator().manual_seed(0))
    return (
        known.subset(parts.train[order]),
        report,
        f"Fréchet of {features.name} against {len(test):,} held-out images",
    )


def measure(
    drawn: Images,
    data: Images,
    *,
    nfe: int | None = None,
    seconds: float | None = None,
    lost: int = 0,
    inception: str | None = None,
) -> str:
    """The table of figures, between real images and noise.

    Arguments:
        drawn: What was drawn, with the labels it was drawn for.
        data: All parts of the data.
        nfe: Network calls for an image.
        seconds: Seconds for an image.
        lost: How many more were drawn, but not finite.
        inception: A file of Inception's weights, to measure FID.
    """
    features = None if inception is None else InceptionFeatures(inception)
    rows = compare_parts(
        drawn.pixels, data, features=features, labels=drawn.labels, nfe=nfe, seconds=seconds
    )
    return table(rows) + left_out(lost, "images")
