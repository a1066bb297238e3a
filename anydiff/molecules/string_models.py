"""A trained model of SMILES: masked diffusion of tokens, and what it draws are strings again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from anydiff.batched import How, in_batches
from anydiff.checkpoints.described import check
from anydiff.checks import check_range
from anydiff.data.sequences import LengthDistribution, SequenceBatch
from anydiff.discrete import (
    AbsorbingKernel,
    Ancestral,
    CategoricalDiffusion,
    FirstHitting,
    one_hot,
    sample,
    tempered,
)
from anydiff.discrete.answers import drawn as draw_from
from anydiff.kinds import KindModel, named
from anydiff.molecules.elements import MoleculeError
from anydiff.molecules.qm9 import split
from anydiff.molecules.strings import Alphabet, Strings, load_strings
from anydiff.spaces import Masked, generators

__all__ = ["SmilesModel"]

Watch = Callable[[Strings], None]


@dataclass(frozen=True, eq=False)
class SmilesModel(KindModel):
    """A diffusion of SMILES, with what it takes to draw some.

    Arguments:
        diffusion: The model, of an absorbing kernel.
        alphabet: The tokens.
        lengths: How many tokens strings have.
        data: What it was trained on, by name or path.
    """

    diffusion: CategoricalDiffusion  # type: ignore[assignment]
    alphabet: Alphabet
    lengths: LengthDistribution
    data: str | None = None

    kind: ClassVar[str] = "smiles"
    needs: ClassVar[set[str]] = {"alphabet", "lengths"}
    names: ClassVar[set[str]] = {"5k", "full"}
    shipped = "5k"

    @property
    def completes(self) -> bool:
        """Always: a token that is not masked stays what it is."""
        return True

    def extra(self) -> dict[str, Any]:
        tokens = list(self.alphabet.tokens)
        return {"alphabet": tokens, "lengths": self.lengths.counts, "data": self.data}

    @classmethod
    def restore(cls, diffusion: Any, extra: Mapping[str, Any]) -> SmilesModel:
        check(extra["alphabet"], list[str], "alphabet")
        check(extra.get("data"), str | None, "data")
        alphabet = Alphabet(extra["alphabet"])
        if not isinstance(diffusion, CategoricalDiffusion):
            raise ValueError(f"a {type(diffusion).__name__} draws no tokens")
        if diffusion.kernel.values != len(alphabet.tokens):
            raise ValueError(
                f"the kernel has {diffusion.kernel.values} values, and the alphabet "
                f"{len(alphabet.tokens)} tokens"
            )
        lengths = LengthDistribution(extra["lengths"])
        made = cls(diffusion, alphabet, lengths, extra.get("data"))
        made.fits(channels=diffusion.kernel.states)
        return made

    def of(self, data: Strings, name: str | None) -> SmilesModel:
        learn = data.subset(split(len(data)).train)
        sizes = self.alphabet.sequences(learn).sizes
        return replace(self, lengths=LengthDistribution.from_sizes(sizes), data=name)

    def read_data(self, data: str | None = None) -> Strings:
        """What it was trained on, all parts of it.

        Arguments:
            data: As :func:`~anydiff.molecules.strings.load_strings` takes them; the name that the model
                has if None.

        Raises:
            ValueError: If the model has no name of such data, or they are not there.
        """
        return load_strings(named(self.data, self.names) if data is None else data)

    def unpack(self, batch: SequenceBatch) -> tuple[Tensor, Masked, dict[str, Any]]:
        """A batch of strings as one-hot tokens, their space and no conditions.

        Arguments:
            batch: Of :meth:`Alphabet.sequences <anydiff.molecules.strings.Alphabet.sequences>`.
        """
        tokens = batch.x[..., 0].long().masked_fill(~batch.mask, -1)
        return one_hot(tokens, self.diffusion.kernel), Masked(batch.mask), {}

    def sample(
        self,
        num: int,
        *,
        pattern: str | Sequence[str] | None = None,
        temperature: float = 1.0,
        watch: Watch | None = None,
        **how: Unpack[How],
    ) -> Strings:
        """New strings.

        Arguments:
            num: How many.
            pattern: What is known of them, ``"????c1ccccc1???"`` for instance, where ? is any token; one
                or several in turn. The model fills in what is not.
            temperature: Below 1, surer tokens: more strings are molecules, fewer are different, and they
                are no longer draws from the model (:func:`~anydiff.discrete.tempered`).
            watch: Called with the first 24 strings after each step, ? where a token is masked.
            how: See :class:`~anydiff.batched.How`; the samplers are those of :mod:`anydiff.discrete`.
                Without a number of steps, masked tokens are uncovered one by one
                (:class:`~anydiff.discrete.FirstHitting`).

        Raises:
            ValueError: If the pattern is no SMILES, is far longer than the data, or has a token that the
                model does not know; or if guidance is asked for.
        """
        generator = torch.Generator().manual_seed(how.get("seed", 0))
        if pattern is None:
            sizes = self.lengths.sample(num, generator).tolist()
            rows = [[self._mask] * n for n in sizes]
            return self._draw(rows, watch, how, temperature=temperature)
        patterns = [pattern] if isinstance(pattern, str) else list(pattern)
        if not patterns:
            raise ValueError("pattern is an empty list; give one or more, or None.")
        rows = [row.tolist() for row in self.alphabet.numbers(patterns)]
        most = len(self.lengths.counts) - 1
        if (longest := max(map(len, rows))) > 10 * most:
            raise MoleculeError(
                f"a pattern has {longest} tokens, and the strings of the data have at most {most}; give "
                "a shorter one."
            )
        # at the time at which as much is masked: the network was trained for that
        share = max(sum(k == self._mask for k in row) / len(row) for row in rows)
        start = self._time(min(max(share, 0.01), 1.0))
        rows = [rows[k % len(rows)] for k in range(num)]
        return self._draw(rows, watch, how, start, temperature=temperature)

    def inpaint(
        self,
        strings: Strings,
        kept: Strings | None = None,
        *,
        resamples: int = 1,
        watch: Watch | None = None,
        **how: Unpack[How],
    ) -> Strings:
        """Strings of which the first half is kept and the rest filled in, with as many tokens.

        Arguments:
            strings: What to begin from.
            kept: Patterns of them; the first half of each if None.
            resamples: Not needed: what is filled in fits what is known.
            watch: Called with the first 24 strings after each step.
            how: See :class:`~anydiff.batched.How`.
        """
        patterns = self.first_half(strings) if kept is None else kept
        return self.sample(len(strings), pattern=patterns.texts, watch=watch, **how)

    def first_half(self, strings: Strings) -> Strings:
        """Strings of which the second half is not known."""
        rows = [row.tolist() for row in self.alphabet.numbers(strings.texts)]
        halves = [row[: (n := (len(row) + 1) // 2)] + [self._mask] * (len(row) - n) for row in rows]
        return replace(strings, texts=tuple(map(self.alphabet.text, halves)))

    def edit(
        self, strings: Strings, strength: float, *, watch: Watch | None = None, **how: Unpack[How]
    ) -> Strings:
        """Strings of which a share of the tokens is masked and filled in again.

        Arguments:
            strings: What to begin from.
            strength: The time in (0, 1]; of the linear schedule it is the share of the tokens.
            watch: Called with the first 24 strings after each step.
            how: See :class:`~anydiff.batched.How`.

        Raises:
            ValueError: If the strength is out of its range.
        """
        check_range("(0, 1]", strength=strength)
        rows = [row.tolist() for row in self.alphabet.numbers(strings.texts)]
        return self._draw(rows, watch, how, strength, forget=True)

    @property
    def _mask(self) -> int:
        """The number of the mask."""
        return len(self.alphabet.tokens)

    def _time(self, masked: float) -> float:
        """The time at which a share of the tokens is masked."""
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            alpha = self.diffusion.schedule(torch.tensor([middle], dtype=torch.float64))[0].item()
            low, high = (middle, high) if 1 - alpha < masked else (low, middle)
        return high

    def _draw(
        self,
        rows: list[list[int]],
        watch: Watch | None,
        how: How,
        start: float = 1.0,
        forget: bool = False,
        temperature: float = 1.0,
    ) -> Strings:
        """Strings that begin as some rows of numbers, of which masks are filled in."""
        if how.get("guidance", 1) != 1:
            raise ValueError(
                f"guidance is {how['guidance']:g}, and the model knows no condition; leave it out."
            )
        steps, device = how.get("steps") or None, self.device
        sampler: Any = how.get("sampler")
        if sampler is None:
            hits = steps is None and isinstance(self.diffusion.kernel, AbsorbingKernel)
            sampler = FirstHitting() if hits else Ancestral()
        diffusion, skip = self.diffusion, how.get("skip", 0)

        def draw(some: slice, seeds: list[int]) -> Tensor:
            mine = rows[some]
            longest = max(map(len, mine))
            tokens = torch.tensor([row + [-1] * (longest - len(row)) for row in mine])
            space = Masked((tokens >= 0).to(device))
            x = one_hot(tokens, diffusion.kernel).to(device)
            noise = generators(seeds, device)
            if forget:
                alpha = diffusion.schedule(torch.tensor([start]))[0].item()
                log_q = diffusion.forgotten(x.log(), alpha, space)
                x = draw_from(log_q, space, x, noise, diffusion.axis)

            def see(step: int, of: int, state: Tensor) -> None:
                if watch is not None and some.start == skip:
                    watch(self._texts(state[:24].cpu(), mine))

            predictor = tempered(diffusion.predictor(space), temperature)
            x = sample(
                predictor, x, sampler, steps, start=start, seed=noise, callback=see,
                progress=how.get("progress", False),
            )  # fmt: skip
            return x.cpu()

        def finish(done: list[Tensor]) -> Strings:
            first, texts = skip, list[str]()
            for x in done:
                texts += self._texts(x, rows[first : first + len(x)]).texts
                first += len(x)
            return Strings(tuple(texts), "drawn")

        own: dict[str, Any] = {"seed": how.get("seed", 0), "batch": how.get("batch", 500)}
        own |= {"skip": skip, "stop": how.get("stop")}
        return in_batches(len(rows), draw, finish, **own)

    def _texts(self, x: Tensor, rows: Sequence[Sequence[int]]) -> Strings:
        numbers = x.argmax(-1).tolist()
        each = (self.alphabet.text(of[: len(row)]) for of, row in zip(numbers, rows, strict=False))
        return Strings(tuple(each), "drawn")
