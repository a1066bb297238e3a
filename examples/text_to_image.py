"""Images from texts, three ways: GLIDE, DALL·E 2 and Imagen at small scale, on canvases of digits.

    python examples/text_to_image.py                    fifteen minutes
    python examples/text_to_image.py --text "two sevens above an eight on the left"

One folder gets what they draw for the same texts, and the share of cells that a classifier finds right.
Ctrl-C while it trains keeps what was learned; the same command goes on from there.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # idle threads soon leave the cores to others

from pytorch_lightning import seed_everything
from torch import Tensor, cat, nn, std_mean
from torch.nn.functional import avg_pool2d, normalize

from anydiff import Cosine, DPMSolver, GaussianDiffusion, classifier_free, sample
from anydiff.cli.main import run
from anydiff.cli.report import write_report
from anydiff.contrastive import Contrastive
from anydiff.data.vocabulary import Vocabulary
from anydiff.denoisers import TextEncoder, Transformer, UNet, Worded
from anydiff.editing import best_of
from anydiff.guidance import thresholded
from anydiff.images import Images, from_uint8, to_uint8
from anydiff.images.canvases import LENGTH, OfCanvas, canvases, judge
from anydiff.images.pictures import draw_grid
from anydiff.metrics.tables import aligned
from anydiff.training.module import DiffusionModule
from anydiff.training.muon import Muon
from anydiff.training.runs import fit


def main(
    *,
    text: str | None = None,
    minutes: float = 15.0,
    num: int = 256,
    seed: int = 0,
    out: Path = Path("runs/text_to_image"),
) -> None:
    """Train three systems, draw canvases for texts, count the cells that are right.

    Arguments:
        text: What to draw, beside the texts of the table.
        minutes: Training time of all together.
        num: Number of canvases for each row of the table.
        seed: Random seed of the weights, of training and of sampling.
        out: Folder for all files.
    """
    data = canvases(20_000)  # of 16 × 16, and what is on them
    vocabulary = Vocabulary.of(data.captions)
    vocabulary([text or ""], LENGTH)  # too long a text is told before the training
    seed_everything(seed, verbose=False)
    # models: words in the denoiser; encoders that agree, a prior of embeddings; half the size first
    model, unet = partial(GaussianDiffusion, schedule=Cosine()), partial(UNet, 1, (32, 64))
    reader, own = (TextEncoder(len(vocabulary), 64, length=LENGTH) for _ in range(2))
    head, asks, words = nn.Linear(64, 32), {"tokens": 64, "context": 64}, {"drop": {"words": 0.1}}
    clip = Contrastive(OfCanvas(32), lambda words: head(reader(words).pooled), r=reader, head=head)
    glide = model(Worded(unet(**asks), own), prediction="v", **words)
    base = model(Worded(unet(**asks), reader), prediction="v", **words)
    prior = model(Worded(Transformer(32, 128, 2, **asks), reader), prediction="x0", **words)
    decoder = model(unet(context=32), prediction="v", drop={"context": 0.1})
    upsampler = model(unet(image=1), prediction="v", augment={"image": 0.3})

    # training, one after the other
    def learn(name: str, objective: nn.Module, share: float, make: Any) -> None:
        batches, unpack = data.batches(vocabulary, make, seed=seed)
        module = DiffusionModule(objective, unpack, lr=3e-3, seed=seed, optimizer=Muon)
        how = {"minutes": share * minutes, "ema": 0.998, "accelerator": "cpu", "title": name}
        fit(module, out / name, batches, settings={"seed": seed}, **how)

    learn("clip", clip, 0.15, lambda x, w: (x, {"words": w}))
    reader.requires_grad_(False)
    std, mean = std_mean(clip.embed(from_uint8(data.pixels[:4000])).detach(), 0)  # for variance 1
    embed = lambda x: ((clip.embed(x) - mean) / std).detach()  # noqa: E731
    learn("glide", glide, 0.3, lambda x, w: (x, {"words": w}))
    learn("base", base, 0.15, lambda x, w: (avg_pool2d(x, 2), {"words": w}))
    learn("prior", prior, 0.1, lambda x, w: (embed(x)[:, None], {"words": w}))
    learn("decoder", decoder, 0.15, lambda x, w: (avg_pool2d(x, 2), {"context": embed(x)}))
    learn("upsampler", upsampler, 0.15, lambda x, w: (x, {"image": avg_pool2d(x, 2)}))
    how: Any = {"sampler": DPMSolver(), "steps": 25, "seed": seed}
    guided = lambda m, **cond: classifier_free(m.predictor(**cond), m.predictor(), 2.0)  # noqa: E731

    def draw(system: str, texts: list[str]) -> Tensor:
        words, large, small = vocabulary(texts, LENGTH), *((len(texts), 1, n, n) for n in (16, 8))
        goal = normalize(clip.of_condition(words=words), dim=1)
        if system == "GLIDE":
            return to_uint8(sample(thresholded(guided(glide, words=words), 0), large, **how))
        strong = guided(base, words=words)
        if system == "DALL·E 2":
            near = lambda e: (normalize(e[:, 0] * std + mean, dim=1) * goal).sum(1)  # noqa: E731
            e = best_of(guided(prior, words=words), (len(texts), 1, 32), 2, near, **how)
            strong = guided(decoder, context=e[:, 0])
        x = sample(thresholded(strong, 0), small, **how).clamp(-1, 1)
        return to_uint8(sample(upsampler.predictor(image=x), large, **how))

    asked = [canvases(num, "test", seed=9, held_out=held) for held in (False, True)]
    rows = [["cells right", "pairs in training", "others"]]
    systems = ("GLIDE", "DALL·E 2", "Imagen")
    for name in (*systems, "real"):
        drawn = [of.pixels if name == "real" else draw(name, of.captions) for of in asked]
        shares = (judge(x, of.cells).cells for x, of in zip(drawn, asked, strict=True))
        rows.append([name, *(f"{100 * share:.1f} %" for share in shares)])
    (out / "table.txt").write_text(aligned(rows) + "\n")
    texts = [*([text] if text else []), *asked[1].captions[:8]]
    pixels = cat([draw(system, texts) for system in systems])
    draw_grid(out / "samples.png", pixels, columns=len(texts))
    write_report(out, "images", "Images from texts", Images(pixels), table=aligned(rows),
                 captions=[f"{s}: {t}" for s in systems for t in texts])  # fmt: skip
    print("", aligned(rows), "", *texts, "", *sorted(out.glob("*.*")), sep="\n")


if __name__ == "__main__":
    run(main)
