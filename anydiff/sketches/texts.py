"""Texts for sketches: what a character means, which parts it has, or what a drawing is called.

A sketch has several texts, the meanings of a character for instance, and in each step of training it is
told one of them. How many rows a sketch has that was asked for by words follows from the sketches that
have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anydiff.data.sequences import SequenceBatch, unpack
from anydiff.data.vocabulary import Vocabulary, words_of
from anydiff.sketches.meanings import kanji_components, kanji_meanings
from anydiff.sketches.sketches import Sketches

__all__ = ["WordLengths", "called", "numbered", "texts_of", "with_words"]

LENGTH = 12
"""Words of a text; further ones are left out."""


def texts_of(sketches: Sketches) -> list[list[str]]:
    """The texts of each sketch: those of a character, or else its label; [] for none.

    A character has its English meanings, and which parts it is made of, "water left, tree right" and
    each of the two alone. A part is called by its first meaning.

    Arguments:
        sketches: With labels.

    Raises:
        ValueError: If they have none.
    """
    if sketches.labels is None:
        raise ValueError(
            f"{sketches.name} has no labels, of which texts are made; give data with them."
        )
    known = kanji_meanings()
    made_of = {c: _parts(of, known) for c, of in kanji_components().items()}
    texts = (
        [*known.get(label, []), *made_of.get(label, [])] or [label] for label in sketches.labels
    )
    return [[text for text in each if words_of(text)] for each in texts]


def called(element: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """What a part of a character is called: its first meaning, without what is in brackets.

    Arguments:
        element: The part, a character.
        known: Meanings by character.
    """
    return re.sub(r" ?\([^)]*\)", "", known[element][0]) if element in known else None


def _parts(of: Sequence[tuple[str, str]], known: Mapping[str, Sequence[str]]) -> list[str]:
    """Texts of the parts of a character: all of them, and each alone if there are several."""
    each = [f"{name} {place}" for place, element in of if (name := called(element, known))]
    return [", ".join(each), *each] if len(each) > 1 else each


def numbered(texts: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Tensor:
    """The texts of sketches as numbers, (M, K, LENGTH), -1 for no word.

    K is the largest number of texts of a sketch; those of others are repeated, so that one that is chosen
    at random is any of them.

    Arguments:
        texts: Of M sketches.
        vocabulary: The words that are known.
    """
    known = set(vocabulary.words)
    most = max(map(len, texts), default=0)
    table = torch.full((len(texts), max(most, 1), LENGTH), -1)
    for row, each in zip(table, texts, strict=True):
        if each:
            short = [" ".join([w for w in words_of(text) if w in known][:LENGTH]) for text in each]
            of = vocabulary(short, length=LENGTH)
            row[:] = of[torch.arange(len(row)) % len(of)]
    return table


def with_words(table: Tensor) -> Callable[[SequenceBatch], Any]:
    """`unpack` for batches of sketches with texts: one text of each, chosen by torch's generator.

    Arguments:
        table: As :func:`numbered` makes it, of the sketches of the loader.
    """

    def unpacked(batch: SequenceBatch) -> Any:
        x, space, cond = unpack(batch)
        assert batch.items is not None
        chosen = torch.randint(table.shape[1], batch.items.shape)
        return x, space, {**cond, "words": table[batch.items.cpu(), chosen].to(x.device)}

    return unpacked


@dataclass(frozen=True, eq=False)
class WordLengths:
    """How many rows sketches have, by the words of their texts.

    Arguments:
        counts: (W, n_max + 1) of uint8: counts[w, n] sketches with word w have n rows; 255 are more.

    Raises:
        ValueError: If they are no such counts.
    """

    counts: Tensor

    def __post_init__(self) -> None:
        if self.counts.ndim != 2 or self.counts.dtype != torch.uint8:
            raise ValueError(
                f"counts are {tuple(self.counts.shape)} of {self.counts.dtype}; give (W, n_max + 1) of "
                "uint8."
            )

    @classmethod
    def of(cls, table: Tensor, sizes: Tensor, words: int) -> WordLengths:
        """The lengths of sketches.

        Arguments:
            table: As :func:`numbered` makes it.
            sizes: (M,), the rows of each sketch.
            words: The size of the vocabulary.
        """
        counts = torch.zeros(words, int(sizes.max()) + 1, dtype=torch.int64)
        for row, size in zip(table.flatten(1), sizes.tolist(), strict=True):
            counts[row[row >= 0].unique(), size] += 1
        return cls(counts.clamp(max=255).to(torch.uint8))

    def sample(self, words: Tensor, num: int, generator: torch.Generator) -> Tensor | None:
        """Numbers of rows for a text, (num,); None if no sketch has any of its words.

        Each word counts alike, but one that many sketches have says less of them.

        Arguments:
            words: (L,), -1 for no word.
            num: How many.
            generator: Of random numbers.
        """
        rows = self.counts[words[words >= 0]].double()
        total = rows.sum(1, keepdim=True)
        weights = (rows / total.clamp(min=1).square()).sum(0)
        if not weights.sum() > 0:
            return None
        return torch.multinomial(weights, num, replacement=True, generator=generator)
