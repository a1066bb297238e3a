"""Texts as numbers of words."""

from __future__ import annotations

import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from anydiff.checks import check_whole, shown

__all__ = ["Vocabulary", "words_of"]


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, whatever their case and what stands between them.

    Arguments:
        text: Any.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    # marks continue a word: in many scripts they are its vowels
    return "".join(
        c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text
    ).split()


class Vocabulary:
    """The words that a model knows, and their numbers.

        vocabulary = Vocabulary.of(captions)
        vocabulary(["Two sevens above a three."])  # (1, 5) integers

    A word that it does not have is absent, as if it were not in the text, and a warning names it. A text
    without words is no text.

    Arguments:
        words: The words, in the order of their numbers; in a file they are a list of texts.

    Raises:
        ValueError: If there are none, or one is given twice or is no single word.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        if not self.words:
            raise ValueError("there are no words; give some.")
        for word in self.words:
            if not isinstance(word, str) or words_of(word) != [word]:
                raise ValueError(f"{shown(word)} is not one word in small letters.")
        self._numbers = {word: k for k, word in enumerate(self.words)}
        if len(self._numbers) < len(self.words):
            twice = next(word for word, n in Counter(self.words).items() if n > 1)
            raise ValueError(f"{twice!r} is there twice; give each word once.")

    @classmethod
    def of(cls, texts: Iterable[str], least: int = 1) -> Vocabulary:
        """The words of texts, the most frequent first.

        Arguments:
            texts: The texts to learn from.
            least: How often a word has to occur.

        Raises:
            ValueError: If no word does.
        """
        check_whole("[1, inf)", least=least)
        counts = Counter(word for text in texts for word in words_of(text))
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([word for word, n in ordered if n >= least])

    def __len__(self) -> int:
        return len(self.words)

    def __call__(self, texts: Sequence[str], length: int | None = None) -> Tensor:
        """The numbers of the words of texts, (B, L), -1 after the last word and for unknown ones.

        Arguments:
            texts: B texts.
            length: L; that of the longest text if None.

        Raises:
            ValueError: If a text has more words than that, or the texts are one text.
        """
        if isinstance(texts, str):
            raise ValueError(f"the texts are one text, {shown(texts)}; give a list of texts.")
        each = [words_of(text) for text in texts]
        longest = max(map(len, each), default=0)
        if length is not None and longest > length:
            text = next(t for t, words in zip(texts, each, strict=True) if len(words) == longest)
            raise ValueError(f"{text!r:.80} has {longest} words; give at most {length}.")
        if unknown := sorted({word for words in each for word in words} - self._numbers.keys()):
            more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
            warnings.warn(
                f"words that the model does not know are left out: {', '.join(unknown[:8])}{more}.",
                stacklevel=2,
            )
        numbers = torch.full((len(each), longest if length is None else length), -1)
        for row, words in zip(numbers, each, strict=True):
            row[: len(words)] = torch.tensor([self._numbers.get(word, -1) for word in words])
        return numbers

    def text(self, numbers: Tensor) -> list[str]:
        """The known words of texts, the inverse of calling it.

        Arguments:
            numbers: (B, L).
        """
        return [" ".join(self.words[k] for k in row if k >= 0) for row in numbers.tolist()]
