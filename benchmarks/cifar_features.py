"""Features of 32 × 32 photographs for development, where Inception's weights aren't at hand.

`CifarFeatures` runs a small classifier of CIFAR-10 from the npz of its Keras weights, which the caller
names; it isn't part of anydiff and isn't Inception: never call a distance on its 512 features FID. It
goes wherever :mod:`anydiff.images.evaluate` takes features.

    python benchmarks/cifar_features.py weights.npz cifar-10-batches-py  # two minutes

prints its accuracy and what disturbed test pictures are worth, with training pictures for a floor and
noise for a ceiling. The network of the npz: six 3 × 3 convolutions without padding, each with ReLU and
then batch norm, maxima of 2 × 2 after the second and fourth; dense layers of 1024, 512 (the features)
and 10. It takes RGB of 0 … 255 as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anydiff.images import load_images
from anydiff.images.evaluate import evaluate, noise_images, table

__all__ = ["CifarFeatures"]


class CifarFeatures:
    """Features (M, 512) and logits (M, 10) of pictures (M, 3, 32, 32) of uint8.

    Arguments:
        path: The npz: `conv2d`, `conv2d_1`, … `dense_2` as Keras names and lays out its arrays.
    """

    classes = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )

    def __init__(self, path: str | Path) -> None:
        with np.load(path) as file:
            weights = {name: torch.from_numpy(file[name]) for name in file.files}
        self.name = f"CIFAR-10 convnet {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]}"

        layers: list[nn.Module] = []
        for k in range(6):
            suffix = f"_{k}" if k else ""
            kernel = weights[f"conv2d{suffix}/kernel"].permute(3, 2, 0, 1)  # from HWIO
            after, before = kernel.shape[:2]
            convolution = nn.Conv2d(before, after, 3)
            convolution.load_state_dict({"weight": kernel, "bias": weights[f"conv2d{suffix}/bias"]})
            norm = nn.BatchNorm2d(after, eps=1e-3)
            norm.load_state_dict(
                {
                    ours: weights[f"batch_normalization{suffix}/{keras}"]
                    for ours, keras in (
                        ("weight", "gamma"),
                        ("bias", "beta"),
                        ("running_mean", "moving_mean"),
                        ("running_var", "moving_variance"),
                    )
                }
            )
            layers += [convolution, nn.ReLU(), norm, *([nn.MaxPool2d(2)] if k in (1, 3) else [])]
        dense = []
        for name in ("dense", "dense_1", "dense_2"):
            kernel = weights[f"{name}/kernel"].T
            dense.append(nn.Linear(*reversed(kernel.shape)))
            dense[-1].load_state_dict({"weight": kernel, "bias": weights[f"{name}/bias"]})
        # what is left is one pixel of 64 channels: flattened it is the same in either order of axes
        self._body = nn.Sequential(*layers, nn.Flatten(), dense[0], nn.ReLU(), dense[1], nn.ReLU())
        self._head = dense[2]
        for part in (self._body, self._head):
            part.eval().requires_grad_(False)

    @torch.no_grad()
    def features(self, pixels: Tensor, batch_size: int = 256) -> Tensor:
        if pixels.dtype != torch.uint8 or pixels.shape[1:] != (3, 32, 32):
            raise ValueError(
                f"the pictures are {tuple(pixels.shape)} of {pixels.dtype}; give (M, 3, 32, 32) of uint8."
            )
        return torch.cat([self._body(part.float()) for part in pixels.split(batch_size)])

    def logits(self, pixels: Tensor, batch_size: int = 256) -> Tensor:
        return self._head(self.features(pixels, batch_size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", help="the npz")
    parser.add_argument("cifar", help="the folder of CIFAR-10's python files")
    parser.add_argument("--num", type=int, default=2000, help="pictures of a row")
    args = parser.parse_args()

    features, images = CifarFeatures(args.weights), load_images(args.cifar)
    known = len(images) - images.num_test
    assert images.labels is not None
    test, labels = images.pixels[known:], images.labels[known:]
    right = features.logits(test).argmax(1) == labels
    print(f"accuracy {right.float().mean():.4f} on {len(test):,} test pictures", flush=True)

    num = args.num
    test, labels, train = test[:num], labels[:num], images.pixels[:num]
    noise = 25 * torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
    rows, reference = [], features.features(test)
    for name, pixels, asked in (
        ("real, train", train, images.labels[:num]),
        ("test + N(0, 25²)", (test + noise).round().clamp(0, 255).to(torch.uint8), labels),
        ("noise", noise_images(test), None),
    ):
        begin = time.perf_counter()
        rows.append(evaluate(pixels, reference, features=features, name=name, labels=asked))
        print(f"{name}: {time.perf_counter() - begin:.1f} s", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
