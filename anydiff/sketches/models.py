"""A trained model of sketches: what it draws are sketches again.

Beside the diffusion it holds how a sketch becomes rows, and how many rows sketches have. One file keeps
all of it. Its network is told nothing but the noisy rows, or a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor

from anydiff.batched import Batch, How, draw_all, finite, to_data, to_latents
from anydiff.checkpoints.described import check, check_fields
from anydiff.checks import check_shape
from anydiff.data.sequences import LengthDistribution, Sequences, pad, pairs, split_items
from anydiff.data.vocabulary import Vocabulary
from anydiff.diffusion import GaussianDiffusion
from anydiff.editing import interpolate
from anydiff.kinds import KindModel, named
from anydiff.latent import Latent
from anydiff.samplers import DPMSolver, Sampler
from anydiff.sketches.evaluate import SketchReport, evaluate, noise_sketches
from anydiff.sketches.named import load_sketches, split
from anydiff.sketches.rows import PointRows, StrokeRows, rows_from_config
from anydiff.sketches.sketches import Sketches
from anydiff.sketches.texts import LENGTH, WordLengths, numbered, texts_of
from anydiff.spaces import Masked

__all__ = ["SketchModel", "compare_parts", "first_half", "of_one_length"]

Watch = Callable[[Sketches], None]
WATCHED = 4
"""Sketches that are watched."""


@dataclass(frozen=True, eq=False)
class SketchModel(KindModel):
    """A diffusion of sketches, with what it takes to draw some.

    Arguments:
        diffusion: The model, of padded rows.
        rows: How a sketch becomes rows.
        lengths: How many rows sketches have.
        data: What it was trained on, by name or path.
        skip_empty: As :func:`~anydiff.sketches.named.load_sketches` takes it.
        normalise: Likewise.
        vocabulary: The words of a model of sketches with texts; None of others.
        by_word: How many rows sketches have whose text has a word; there if the vocabulary is.
    """

    rows: StrokeRows | PointRows
    lengths: LengthDistribution
    data: str | None = None
    skip_empty: bool = False
    normalise: bool = False
    vocabulary: Vocabulary | None = None
    by_word: WordLengths | None = None

    kind: ClassVar[str] = "sketches"
    needs: ClassVar[set[str]] = {"rows", "lengths"}
    names: ClassVar[set[str]] = {"kanji", "kanjivg"}
    shipped = "kanji"

    @property
    def asks(self) -> set[str]:
        return {"text"} if self.vocabulary is not None else set()

    def extra(self) -> dict[str, Any]:
        extra = {
            "rows": self.rows.config, "lengths": self.lengths.counts, "data": self.data,
            "skip_empty": self.skip_empty, "normalise": self.normalise,
        }  # fmt: skip
        if self.vocabulary is not None and self.by_word is not None:
            extra |= {"words": self.vocabulary.words, "by_word": self.by_word.counts}
        return extra

    @classmethod
    def restore(
        cls, diffusion: GaussianDiffusion | Latent, extra: Mapping[str, Any]
    ) -> SketchModel:
        rows = rows_from_config(extra["rows"])
        check_fields(rows)
        lengths = LengthDistribution(extra["lengths"])
        how = {key: extra.get(key, False) for key in ("skip_empty", "normalise")}
        for key, value in how.items():
            check(value, bool, key)
        check(extra.get("data"), str | None, "data")
        if "words" in extra:
            check(extra["words"], list[str], "words")
            how |= {"vocabulary": Vocabulary(extra["words"])}
            how |= {"by_word": WordLengths(extra["by_word"])}
            check_shape(
                (len(extra["words"]), None), "a row for each word", by_word=extra["by_word"]
            )
        made = cls(diffusion, rows, lengths, extra.get("data"), **how)
        made.fits(channels=rows.channels)
        return made

    def of(self, data: Sketches, name: str | None) -> SketchModel:
        learn = data.subset(split(data).train)
        sizes = self.rows.encode(learn).sizes
        found = replace(self, lengths=LengthDistribution.from_sizes(sizes), data=name)
        if self.vocabulary is None:
            return found
        table, words = numbered(texts_of(learn), self.vocabulary), len(self.vocabulary)
        return replace(found, by_word=WordLengths.of(table, torch.as_tensor(sizes), words))

    def read_data(self, data: str | None = None) -> Sketches:
        """What it was trained on, all parts of it.

        Arguments:
            data: As :func:`~anydiff.sketches.named.load_sketches` takes them; the name that the
                model has if None.

        Raises:
            ValueError: If the model has no name of such data, or they are not there.
        """
        data = named(self.data, self.names) if data is None else data
        return load_sketches(data, skip_empty=self.skip_empty, normalise=self.normalise)

    def sample(
        self,
        num: int,
        *,
        length: int | None = None,
        text: str | Sequence[str] | None = None,
        watch: Watch | None = None,
        **how: Unpack[How],
    ) -> Sketches:
        """New sketches.

        Arguments:
            num: How many.
            length: Rows of each, strokes or points; as in the data if None, in those with a word of the
                text if there are any.
            text: What they should show, one text or several in turn; None or "" is no text.
            watch: Called with the first four sketches after each step.
            how: See :class:`~anydiff.batched.How`.

        Raises:
            ValueError: If a text or guidance is asked for, of which the model knows nothing, or a text is
                too long.
        """
        generator = torch.Generator().manual_seed(how.get("seed", 0))
        lengths, words = self.lengths.sample(num, generator), None
        self.check(how, "texts", text=text)
        if self.vocabulary is not None and self.by_word is not None and text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if not texts:
                raise ValueError("text is an empty list; give one or more texts, or None.")
            each = self.vocabulary(texts[:num], length=LENGTH)
            words = each[torch.arange(num) % len(each)]
            for k, row in enumerate(each):
                of = self.by_word.sample(row, len(lengths[k :: len(each)]), generator)
                lengths[k :: len(each)] = lengths[k :: len(each)] if of is None else of
        if length is not None:
            lengths = torch.full_like(lengths, length)
        return self._draw(lengths, words=words, watch=watch, how=how)

    def inpaint(
        self,
        sketches: Sketches,
        kept: Sketches | None = None,
        *,
        resamples: int = 5,
        watch: Watch | None = None,
        **how: Unpack[How],
    ) -> Sketches:
        """Sketches of which the first strokes are kept and the others drawn anew, as many rows.

        Arguments:
            sketches: What to begin from.
            kept: Their first strokes; the first half of each if None.
            resamples: How many times each step is repeated.
            watch: Called with the first four sketches after each step.
            how: See :class:`~anydiff.batched.How`.
        """
        first = self.rows.encode(first_half(sketches) if kept is None else kept)
        return self._from(sketches, watch, how, kept=first.sizes, resamples=resamples)

    def edit(
        self, sketches: Sketches, strength: float, *, watch: Watch | None = None, **how: Unpack[How]
    ) -> Sketches:
        """Sketches that are noised up to a time and denoised.

        Arguments:
            sketches: What to begin from.
            strength: The time in (0, 1]; 1 leaves nothing of them but their lengths.
            watch: Called with the first four sketches after each step.
            how: See :class:`~anydiff.batched.How`.
        """
        return self._from(sketches, watch, how, strength=strength)

    def interpolate(
        self,
        sketches: Sketches,
        num: int = 8,
        *,
        sampler: Sampler | None = None,
        steps: int = 50,
        batch: int = 180,
    ) -> Sketches:
        """From each sketch of a pair to the other, both ends included.

        Arguments:
            sketches: Pairs one after the other, as :func:`of_one_length` finds them: the two of a pair
                have as many rows.
            num: Sketches made of a pair, which lie one after the other.
            sampler: A deterministic one, :class:`anydiff.DPMSolver` by default.
            steps: Of the sampler, there and back.
            batch: Items drawn at once, about.

        Raises:
            ValueError: If the two of a pair have different lengths.
        """
        device = self.device
        items, at_once = self.rows.encode(sketches), 2 * max(batch // num, 1)
        drawn: list[Tensor] = []
        for start in range(0, len(items), at_once):
            x, mask = pad([items[m] for m in range(start, min(start + at_once, len(items)))])
            if not torch.equal(mask[::2], mask[1::2]):
                raise ValueError(
                    f"the pairs have {mask.sum(1).tolist()} rows; give pairs of as many each, one pair "
                    "after the other."
                )
            space = Masked(mask[::2].to(device))
            a, b = (to_latents(self.diffusion, of.to(device), space) for of in (x[::2], x[1::2]))
            states = interpolate(
                self.diffusion.predictor(space), a, b, num,
                sampler=sampler or DPMSolver(), steps=steps,
            )  # fmt: skip
            between = torch.stack([to_data(self.diffusion, z, space) for z in states]).cpu()
            for pair, length in enumerate(space.lengths.tolist()):
                drawn += list(between[:, pair, :length])
        finite(drawn, "sketches", all_of_them=True)
        return self._decode(drawn)

    def _from(self, sketches: Sketches, watch: Watch | None, how: How, **options: Any) -> Sketches:
        items = self.rows.encode(sketches)
        return self._draw(torch.as_tensor(items.sizes), items, watch=watch, how=how, **options)

    def _draw(
        self,
        lengths: Tensor,
        items: Sequences | None = None,
        *,
        kept: np.ndarray | None = None,
        words: Tensor | None = None,
        watch: Watch | None,
        how: How,
        **options: Any,
    ) -> Sketches:
        self.check(how, "texts")
        if words is None and how.get("guidance", 1) != 1:
            raise ValueError(
                f"guidance is {how['guidance']:g}, and there is no text to be guided by; leave it out, "
                "or sample with a text."
            )
        device = self.device
        skip = how.get("skip", 0)
        masks: dict[int, Tensor] = {}  # of each batch, by its first item

        def make(some: slice) -> Batch:
            space = Masked.from_lengths(lengths[some], device=device)
            masks[some.start] = space.mask.cpu()
            x = known = None
            if items is not None:
                x = pad([items[m] for m in range(some.start, some.stop)])[0].to(device)
            if kept is not None:
                rows, first = torch.arange(space.mask.shape[1]), torch.as_tensor(kept[some])
                known = (rows < first[:, None]).to(device)
            cond = {} if words is None else {"words": words[some].to(device)}
            return Batch((*space.mask.shape, self.rows.channels), space, cond, x=x, known=known)

        def finish(drawn: list[Tensor]) -> Sketches:
            of = [split_items(x, mask) for x, mask in zip(drawn, masks.values(), strict=False)]
            rows = [item for some in of for item in some]
            sound = finite(rows, "sketches", all_of_them=items is not None)
            return self._decode([item for item, s in zip(rows, sound, strict=True) if s])

        def see(state: Tensor) -> None:
            if watch is not None:
                first = lengths[skip : skip + WATCHED].tolist()
                shown = zip(state.nan_to_num(), first, strict=False)
                watch(self._decode([item[:length] for item, length in shown]))

        how = {"batch": 180, **how}
        return draw_all(self.diffusion, len(lengths), make, finish, watch=see, **how, **options)

    def _decode(self, items: Sequence[Tensor]) -> Sketches:
        return self.rows.decode(torch.cat(list(items)), list(map(len, items)))


def first_half(sketches: Sketches) -> Sketches:
    """The first half of the strokes of each, and the middle one."""
    return sketches.part(0, (np.diff(sketches.offsets) + 1) // 2)


def of_one_length(sketches: Sketches, rows: StrokeRows | PointRows, num: int) -> Sketches:
    """The first `num` pairs of sketches with as many rows, one pair after the other.

    Arguments:
        sketches: To choose from.
        rows: How sketches become rows.
        num: How many pairs at most.

    Raises:
        ValueError: If there is no such pair.
    """
    found = pairs(rows.encode(sketches).sizes)
    if not len(found):
        raise ValueError(
            f"no two of the {len(sketches)} sketches have the same number of rows, which a way from "
            "one to the other needs; give more of them."
        )
    return sketches.subset(found[:num].ravel())


def compare_parts(
    drawn: Sketches, data: Sketches, *, nfe: int | None = None, seconds: float | None = None
) -> list[SketchReport]:
    """The figures of drawn sketches between those of real ones, which were held out, and of noise.

    Arguments:
        drawn: Of a model of the training part.
        data: All parts, as :func:`anydiff.sketches.named.split` has them; 1,000 sketches of the test
            part are compared with.
        nfe: Network calls for a sketch.
        seconds: Seconds for a sketch.

    Raises:
        ValueError: If fewer than six sketches are held out.
    """
    parts = split(data)
    if len(parts.test) < 6:
        raise ValueError(
            f"{len(parts.test)} of the {len(data)} sketches are held out; 6 are needed, that is 60 "
            "sketches in all."
        )
    known, test = data.subset(parts.train[:10_000]), data.subset(parts.test[:1000])
    # equally many in every row, as far as there are; the real ones are new to the model as well
    real = data.subset(parts.valid[: len(drawn)])
    noise = noise_sketches(data.subset(parts.test[: len(drawn)]))
    return [
        evaluate(real, test, known, name="real, held out"),
        evaluate(drawn, test, known, name="drawn", nfe=nfe, seconds=seconds),
        evaluate(noise, test, known, name="noise"),
    ]
