"""Text to images, three ways, on canvases of digits: GLIDE, DALL·E 2 and Imagen at small scale.

    python benchmarks/text.py                              # all, three seeds: two hours of one core
    python benchmarks/text.py --only glide --seeds 0
    python benchmarks/text.py --short --out runs/short      # to see that it runs

Canvases of 16 × 16 pixels have up to four digits, and a text says where which one is. One in nine of the
pairs side by side is held out of training: *unseen* canvases have one. A classifier of digits, trained by
nothing here, says which cells of a drawn canvas are right.

- `glide`: words in the denoiser, classifier-free guidance, and guidance by a contrastive encoder of
  noised canvases.
- `unclip`: DALL·E 2. A prior draws the contrastive embedding of a canvas from its text, a decoder a
  canvas of 8 × 8 from the embedding, and an upsampler one of 16 × 16.
- `imagen`: a denoiser of 8 × 8 with a frozen encoder of texts, dynamic thresholding, the same upsampler.

What is in the folder already is kept.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import seed_everything
from torch import Tensor, nn

from anydiff import (
    Cosine,
    DPMSolver,
    GaussianDiffusion,
    classifier,
    classifier_free,
    sample,
)  # fmt: skip
from anydiff.contrastive import Contrastive
from anydiff.data.vocabulary import Vocabulary
from anydiff.denoisers import TextEncoder, Transformer, UNet, Worded
from anydiff.editing import Stage, best_of, cascade
from anydiff.guidance import thresholded
from anydiff.images import from_uint8, load_images, split, to_uint8
from anydiff.images.canvases import LENGTH, Canvases, OfCanvas, canvases, judge
from anydiff.images.digit_features import DigitFeatures
from anydiff.metrics.tables import aligned
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit

PIXELS, WIDTH, EMBEDDING = 16, 64, 32
CALLS = 25
"""Of every sampling."""

Pixels = tuple[Tensor, Tensor]
"""What is drawn, in [-1, 1] but for what is out of range, and what was asked for."""


def coarse(x: Tensor) -> Tensor:
    """Half as many pixels a side."""
    return F.avg_pool2d(x, 2)


@dataclass(frozen=True)
class Told:
    """Texts of a training set as numbers, and batches of them.

    Arguments:
        data: The canvases.
        vocabulary: Their words.
    """

    data: Canvases
    vocabulary: Vocabulary

    def words(self, captions: list[str]) -> Tensor:
        return self.vocabulary(captions, length=LENGTH)


class Systems:
    """All networks of one seed, trained or read.

    Arguments:
        told: What is learned from.
        seed: Of the weights and the training.
        args: The flags.
    """

    def __init__(self, told: Told, seed: int, args: argparse.Namespace) -> None:
        self.told, self.seed, self.args = told, seed, args
        seed_everything(seed, verbose=False)
        words, width = len(told.vocabulary), {"tokens": WIDTH, "context": WIDTH}
        unet = partial(UNet, 1, (32, 64), attention=(0, 1) if args.attend else None)
        reader = TextEncoder(words, WIDTH, length=LENGTH)
        head = nn.Linear(WIDTH, EMBEDDING)
        self.clip = Contrastive(
            OfCanvas(EMBEDDING),
            lambda words: head(reader(words).pooled),
            Cosine(),
            reader=reader,
            head=head,
        )
        self.glide = GaussianDiffusion(
            Worded(unet(**width), TextEncoder(words, WIDTH, length=LENGTH)), Cosine(), "v",
            drop={"words": 0.1},
        )  # fmt: skip
        self.upsampler = GaussianDiffusion(
            UNet(1, (32, 64), image=1), Cosine(), "v", augment={"image": 0.3}
        )
        frozen = self.clip.parts["reader"]
        assert isinstance(frozen, TextEncoder)
        self.imagen = GaussianDiffusion(
            Worded(unet(**width), frozen), Cosine(), "v", drop={"words": 0.1}
        )
        self.prior = GaussianDiffusion(
            Worded(Transformer(EMBEDDING, 128, 2, tokens=WIDTH, context=WIDTH), frozen), Cosine(), "x0",
            drop={"words": 0.1},
        )  # fmt: skip
        self.decoder = GaussianDiffusion(
            UNet(1, (32, 64), context=EMBEDDING), Cosine(), "v", drop={"context": 0.1}
        )

    def train(self, names: list[str]) -> None:
        """Train what these systems need."""
        words = {"glide": lambda x, w: (x, {"words": w})}
        words["clip"] = words["glide"]
        words["imagen"] = lambda x, w: (coarse(x), {"words": w})
        words["upsampler"] = lambda x, w: (x, {"image": coarse(x)})
        words["prior"] = lambda x, w: (self.embed(x)[:, None], {"words": w})
        words["decoder"] = lambda x, w: (coarse(x), {"context": self.embed(x)})
        for name in names:
            if name in ("imagen", "prior"):
                self.clip.parts["reader"].requires_grad_(False)
            if name in ("prior", "decoder") and not hasattr(self, "moments"):
                with torch.no_grad():
                    e = self.clip.embed(from_uint8(self.told.data.pixels[:4000]))
                self.moments = e.mean(0), e.std(0)
            self._fit(name, getattr(self, name), words[name])

    def embed(self, x: Tensor) -> Tensor:
        """The embedding of canvases, standardised: a diffusion needs variance 1."""
        mean, std = self.moments
        with torch.no_grad():
            return (self.clip.embed(x) - mean) / std

    def _fit(self, name: str, objective: Any, make: Any) -> None:
        folder = self.args.out / f"{name}-{self.seed}"
        file = folder / "weights.pt"
        if not file.exists():
            told = self.told
            batches, unpack = told.data.batches(told.vocabulary, make, seed=self.seed)
            module = DiffusionModule(
                objective, unpack, lr=3e-3, warmup=100, seed=self.seed, optimizer=Muon
            )
            fit(
                module, folder, batches, ema=0.998,
                epochs=1 if self.args.short else EPOCHS[name], accelerator="cpu", devices=1, title=name,
            )  # fmt: skip
            torch.save(objective.state_dict(), file)
        objective.load_state_dict(torch.load(file, weights_only=True))
        objective.eval()

    def draw(
        self, name: str, captions: list[str], scale: float, percentile: float | None
    ) -> Tensor:
        """Canvases for texts, (B, 1, 16, 16), before they are cut to their range."""
        words, items = self.told.words(captions), len(captions)
        how: dict[str, Any] = {"sampler": DPMSolver(), "steps": CALLS, "seed": 1000 + self.seed}

        def guided(diffusion: GaussianDiffusion, **cond: Tensor) -> Any:
            with_text = diffusion.predictor(**cond)
            found = classifier_free(with_text, diffusion.predictor(), scale)
            return found if percentile is None else thresholded(found, percentile)

        if name == "glide":
            return sample(guided(self.glide, words=words), (items, 1, PIXELS, PIXELS), **how)
        if name == "glide, by a contrastive encoder":
            near = partial(self.clip.similarity, words=words)
            towards = classifier(self.glide.predictor(), lambda x, t: near(x, t), scale)
            return sample(towards, (items, 1, PIXELS, PIXELS), **how)
        half = (items, 1, PIXELS // 2, PIXELS // 2)
        if name == "imagen":
            base = sample(guided(self.imagen, words=words), half, **how)
        else:
            mean, std = self.moments
            goal = F.normalize(self.clip.of_condition(words=words), dim=1)

            def near_text(e: Tensor) -> Tensor:
                return (F.normalize(e[:, 0] * std + mean, dim=1) * goal).sum(1)

            prior = guided(self.prior, words=words)
            e = best_of(prior, (items, 1, EMBEDDING), 2, near_text, **how)[:, 0]
            base = sample(guided(self.decoder, context=e), half, **how)
        return self.enlarge(base.clamp(-1, 1), how)

    def enlarge(self, base: Tensor, how: dict[str, Any]) -> Tensor:
        """Canvases of 16 × 16 from some of 8 × 8."""
        options = {k: v for k, v in how.items() if k != "seed"}
        shape = (len(base), 1, PIXELS, PIXELS)
        stage = Stage(self.upsampler.predictor, shape, "image", 0.05, options)
        (x,) = cascade([stage], base, seed=how["seed"])
        return x


EPOCHS = {"glide": 5, "clip": 3, "imagen": 6, "upsampler": 5, "prior": 4, "decoder": 6}
NEEDS = {
    "glide": ["glide", "clip"],
    "imagen": ["clip", "imagen", "upsampler"],
    "unclip": ["clip", "prior", "decoder", "upsampler"],
}
DYNAMIC, STATIC = 0.995, 0.0
"""Percentiles of thresholding: Imagen's, and of clipping alone."""

ROWS: dict[str, list[tuple[str, float, float | None]]] = {
    "glide": [
        ("glide", 0.0, None), ("glide", 1.0, None), ("glide", 2.0, None), ("glide", 8.0, None),
        ("glide", 8.0, STATIC), ("glide", 8.0, DYNAMIC),
        ("glide, by a contrastive encoder", 30.0, None),
    ],
    "imagen": [
        ("imagen", 0.0, None), ("imagen", 1.0, None), ("imagen", 2.0, None), ("imagen", 8.0, None),
        ("imagen", 8.0, STATIC), ("imagen", 8.0, DYNAMIC),
    ],
    "unclip": [("unclip", 1.0, None), ("unclip", 2.0, None)],
}  # fmt: skip


def figures(x: Tensor, cells: Tensor, features: DigitFeatures) -> list[float]:
    """Percents: cells, canvases, digits and counts that are right, values that were out of range."""
    report = judge(to_uint8(x), cells, features)
    shares = report.cells, report.whole, report.identity, report.count
    return [100 * v for v in (*shares, float((x.abs() > 1.05).double().mean()))]


def nearest(canvas: Tensor, cells: Tensor) -> float:
    """Percent of the cells of small canvases, (M, 1, 8, 8), that the digits of training tell, as small.

    A digit is what most of the nine nearest ones are: what can be seen of it before anything is enlarged.
    """
    images = load_images("digits")
    known = images.subset(split(images).train)
    assert known.labels is not None
    small = F.avg_pool2d(from_uint8(known.pixels), 2).flatten(1)
    each = canvas.view(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 16)
    votes = known.labels[torch.cdist(each, small).topk(9, largest=False).indices]
    full = cells.flatten() >= 0
    right = (votes.mode(1).values == cells.flatten()) | ~full  # an empty cell is told by its paper
    return 100 * right.double().mean().item()


def retrieval(systems: Systems, asked: Canvases) -> float:
    """Percent of canvases whose own text is the nearest of 64 different ones."""
    found = []
    for k in range(0, len(asked.captions) - 63, 64):
        texts = asked.captions[k : k + 64]
        with torch.no_grad():
            goal = systems.clip.of_condition(words=systems.told.words(texts))
            cosines = systems.clip.embed(from_uint8(asked.pixels[k : k + 64])) @ goal.t()
        cosines = cosines / goal.norm(dim=1)
        found += [texts[j] == texts[i] for i, j in enumerate(cosines.argmax(1).tolist())]
    return 100 * float(np.mean(found))


def main() -> None:
    """Train, draw and judge, as the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(NEEDS), choices=NEEDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num", type=int, default=256, help="canvases of each row and seed")
    parser.add_argument(
        "--attend", action="store_true", help="attend to words at full resolution too"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/text"))
    parser.add_argument("--short", action="store_true", help="one pass over few canvases")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = canvases(640 if args.short else 20_000)
    told = Told(data, Vocabulary.of(data.captions))
    num = 64 if args.short else args.num
    seen, unseen = (canvases(num, "test", seed=9, held_out=held) for held in (False, True))
    features, found = DigitFeatures.load(), {}
    for held, asked in (("seen", seen), ("unseen", unseen)):
        row = figures(from_uint8(asked.pixels), asked.cells, features)
        found.setdefault(("real", held), []).append(row)
    for seed in args.seeds:
        systems = Systems(told, seed, args)
        systems.train(list(dict.fromkeys(name for s in args.only for name in NEEDS[s])))
        print(f"seed {seed}: nearest of 64 texts {retrieval(systems, seen):.1f} %", flush=True)
        if "imagen" in args.only or "unclip" in args.only:
            how = {"sampler": DPMSolver(), "steps": CALLS, "seed": seed}
            for held, asked in (("seen", seen), ("unseen", unseen)):
                small = coarse(from_uint8(asked.pixels))
                told_by = nearest(small, asked.cells)
                print(
                    f"{held}: nearest neighbours tell {told_by:.1f} % of the small cells",
                    flush=True,
                )
                x = systems.enlarge(small, how)
                row = figures(x, asked.cells, features)
                found.setdefault(("real, of 8 × 8, enlarged", held), []).append(row)
        for system in args.only:
            for name, scale, percentile in ROWS[system]:
                held_in = {None: "", STATIC: ", clipped", DYNAMIC: ", thresholded"}[percentile]
                label = f"{name}, scale {scale:g}{held_in}"
                for held, asked in (("seen", seen), ("unseen", unseen)):
                    x = systems.draw(name, asked.captions, scale, percentile)
                    row = figures(x, asked.cells, features)
                    found.setdefault((label, held), []).append(row)
                    print(label, held, " ".join(f"{v:.1f}" for v in row), flush=True)
    titles = ["cells %", "canvases %", "digits %", "count %", "out of range %"]
    cells = [[f"seeds {', '.join(map(str, args.seeds))}", "texts", *titles]]
    for (label, held), rows in found.items():
        cells.append([label, held, *(f"{v:.1f}" for v in np.mean(rows, axis=0))])
    print(aligned(cells, "markdown"))


if __name__ == "__main__":
    main()
