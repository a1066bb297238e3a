"""A trained model of molecules: what it draws are molecules again.

Beside the diffusion it holds how atoms become rows, how large molecules are, and of a model that knows
properties their units and the pairs of size and property that occur. One file keeps all of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor

from anydiff.batched import Batch, How, draw_all, finite
from anydiff.checkpoints.described import check, check_fields
from anydiff.checks import check_shape
from anydiff.data.sizes import SizeDistribution
from anydiff.data.vocabulary import Vocabulary
from anydiff.diffusion import GaussianDiffusion
from anydiff.kinds import KindModel, first, named
from anydiff.latent import Latent
from anydiff.molecules.atoms import Atoms
from anydiff.molecules.bond_metrics import evaluate_bonds, strict_bonds
from anydiff.molecules.bonded import Bonded
from anydiff.molecules.captions import LENGTH, Formulas, counts_in, plain
from anydiff.molecules.compositions import counts_of
from anydiff.molecules.elements import MoleculeError
from anydiff.molecules.evaluate import MoleculeReport, evaluate, smiles
from anydiff.molecules.kept_smiles import known_smiles
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.properties import Properties
from anydiff.molecules.property_targets import PropertyDistribution
from anydiff.molecules.qm9 import load_qm9, split
from anydiff.molecules.relaxation import Relaxed, relax
from anydiff.spaces import Ragged

__all__ = ["MoleculeModel", "compare_parts", "warn_without_hydrogens"]

Watch = Callable[[Molecules], None]
Start = Callable[[slice, slice, Ragged], tuple[Tensor, Tensor | None]]
"""A batch's molecules and atoms, and the space of these -> a state, and what of it is known."""


@dataclass(frozen=True, eq=False)
class MoleculeModel(KindModel):
    """A diffusion of molecules, with what it takes to draw some.

    Arguments:
        diffusion: The model. Of one that knows properties the condition is `context`.
        atoms: How atoms become rows, and bonds with them if they are drawn.
        sizes: How many atoms molecules have.
        properties: Which properties it knows, and their units; None of a model that knows none.
        pairs: Sizes, formulas and properties as they occur together, where there are properties.
        data: What it was trained on, by name or path.
        vocabulary: The words of a model that knows texts (:mod:`anydiff.molecules.captions`).
        formulas: The formulas that occur, there if the vocabulary is.
        root: As :func:`~anydiff.molecules.qm9.load_qm9` takes it; not kept in a file.
    """

    atoms: Atoms | Bonded
    sizes: SizeDistribution
    properties: Properties | None = None
    pairs: PropertyDistribution | None = None
    data: str | None = None
    vocabulary: Vocabulary | None = None
    formulas: Formulas | None = None
    root: str | None = None

    kind: ClassVar[str] = "molecules"
    needs: ClassVar[set[str]] = {"atoms", "sizes"}
    names: ClassVar[set[str]] = {"5k", "full"}
    shipped = "5k"

    @property
    def asks(self) -> set[str]:
        asks = {"target": self.properties, "text": self.vocabulary}
        return {name for name, known in asks.items() if known is not None}

    def extra(self) -> dict[str, Any]:
        extra: dict[str, Any] = {"sizes": self.sizes.counts, "data": self.data}
        config = self.atoms.config
        if isinstance(self.atoms, Bonded):  # files of atoms alone are as they were
            extra |= {"atoms": config.pop("atoms"), "bonds": config}
        else:
            extra |= {"atoms": config}
        if self.properties is not None and self.pairs is not None:
            extra |= {"properties": self.properties.config}
            extra |= {"values": self.pairs.values, "of_size": self.pairs.sizes}
            if self.pairs.formulas is not None:
                extra |= {"formulas": self._columns(self.pairs.formulas)}
        if self.vocabulary is not None and self.formulas is not None:
            extra |= {"words": self.vocabulary.words, "counts": self.formulas.counts}
            extra |= {"with_counts": self.formulas.molecules}
        return extra

    @classmethod
    def restore(
        cls, diffusion: GaussianDiffusion | Latent, extra: Mapping[str, Any]
    ) -> MoleculeModel:
        properties, pairs = None, None
        atoms: Atoms | Bonded = Atoms.from_config(extra["atoms"])
        check_fields(atoms)
        if "bonds" in extra:
            atoms = Bonded.from_config(extra["bonds"] | {"atoms": extra["atoms"]})
            check_fields(atoms)
        if "properties" in extra:
            properties = Properties.from_config(extra["properties"])
            check_fields(properties)
            check_shape((None, len(properties.names)), "a column for each", values=extra["values"])
            formulas = extra.get("formulas")  # older files have none
            known = () if formulas is None else atoms.elements
            pairs = PropertyDistribution(extra["of_size"], extra["values"], formulas, known)
        sizes = SizeDistribution(extra["sizes"])
        check(extra.get("data"), str | None, "data")
        how: dict[str, Any] = {}
        if "words" in extra:
            check(extra["words"], list[str], "words")
            how = {"vocabulary": Vocabulary(extra["words"])}
            how |= {"formulas": Formulas(extra["counts"], extra["with_counts"])}
            hint = "a column for each element"
            check_shape((None, len(atoms.elements)), hint, counts=extra["counts"])
        made = cls(diffusion, atoms, sizes, properties, pairs, extra.get("data"), **how)
        made.fits(features=atoms.features - 3, pairs=2 if isinstance(atoms, Bonded) else 0)
        if properties is not None:
            made.fits(context=len(properties.names))
        return made

    def of(self, data: Molecules, name: str | None) -> MoleculeModel:
        learn = data.subset(split(len(data)).train)
        pairs = None
        if self.properties is not None:
            pairs = PropertyDistribution.from_molecules(learn, self.properties.names)
        sizes = SizeDistribution.from_sizes(learn.sizes)
        formulas = None if self.vocabulary is None else Formulas.of(learn, self.atoms.elements)
        return replace(self, sizes=sizes, pairs=pairs, data=name, formulas=formulas)

    def read_data(self, data: str | None = None) -> Molecules:
        """What it was trained on, all parts of it.

        Arguments:
            data: As :func:`~anydiff.molecules.qm9.load_qm9` takes them; the name that the
                model has if None.

        Raises:
            ValueError: If the model has no name of such data, or they are not there.
        """
        if data is not None and data not in self.names:
            return load_qm9(data)
        root = None if data is not None else self.root
        name = named(self.data, self.names) if data is None else data
        return load_qm9(name, root, bonds=isinstance(self.atoms, Bonded))

    def sample(
        self,
        num: int,
        *,
        target: float | None = None,
        formula: str | None = None,
        text: str | Sequence[str] | None = None,
        watch: Watch | None = None,
        **how: Unpack[How],
    ) -> Molecules:
        """New molecules.

        Arguments:
            num: How many.
            target: The property that they should have, in its own unit, all the same. If None, sizes and
                properties are drawn as they occur together.
            formula: The formula of all of them, such as "C7H10O2"; or "data", where each molecule gets a
                formula of the training molecules: of those whose property is near the target, if there
                is one. The elements are then known from the start, and only the positions drawn.
            text: What they should be like, "seven carbons, ring of five" for instance; one text or
                several in turn, None or "" is no text. How many atoms they have follows from the
                molecules of the data that have the numbers of atoms that are asked for.
            watch: Called with the first molecule after each step.
            how: See :class:`~anydiff.batched.How`.

        Raises:
            ValueError: If a property, text or guidance is asked for that the model does not know, the
                target is not finite, a text is too long, or the formula is none, or has elements that the
                model does not know.
        """
        generator = torch.Generator().manual_seed(how.get("seed", 0))
        self._check_target(target, how)
        self.check(how, "texts", text=text)
        if self.vocabulary is not None:
            if formula is not None:
                raise ValueError(
                    "the model knows texts, which say the formula too; leave formula out, and give a "
                    "text such as 'seven carbons, ten hydrogens, two oxygens'."
                )
            sizes, words = self._of_text(text, num, generator)
            return self._draw(sizes, {"words": words}, watch=watch, how=how)
        if formula is not None:
            counts, values = self._of_formula(formula, target, num, generator)
            return self._isomers(counts, values, watch, how)
        if self.properties is None or self.pairs is None:
            return self._draw(self.sizes.sample(num, generator), {}, watch=watch, how=how)
        if target is None:
            sizes, values = self.pairs.sample(num, generator)
        else:
            value = torch.tensor([target])
            sizes = self.pairs.sizes_near(value, num, generator)
            values = value.expand(num, 1)
        cond = {"context": self.properties.encode(values, sizes)}
        return self._draw(sizes, cond, watch=watch, how=how)

    def _of_text(
        self, text: str | Sequence[str] | None, num: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Numbers of atoms (num,) and words (num, L)."""
        assert self.vocabulary is not None and self.formulas is not None
        texts = [text or ""] if isinstance(text, str | None) else list(text)
        if not texts:
            raise ValueError("text is an empty list; give one or more texts, or None.")
        sizes, own = self.sizes.sample(num, generator), [plain(of) for of in texts[:num]]
        each = self.vocabulary(own, length=LENGTH)
        for k, of in enumerate(texts[:num]):
            asked = counts_in(of, self.atoms.elements)
            found = self.formulas.sizes(asked, len(sizes[k :: len(own)]), generator)
            if found is None:
                warnings.warn(
                    f"no molecule of the data has the numbers of atoms of {of!r:.80}, so that sizes are "
                    "drawn as in the data; say how many atoms there are of each element.",
                    stacklevel=3,
                )
            else:
                sizes[k :: len(own)] = found
        self._check_size("what is asked for", int(sizes.max()))
        return sizes, each[torch.arange(num) % len(each)]

    def _of_formula(
        self, formula: str, target: float | None, num: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """How many atoms of each of the model's elements (num, E), and the property (num, P)."""
        elements = self.atoms.elements
        P = 0 if self.properties is None else len(self.properties.names)
        values = torch.full((num, P), torch.nan if target is None else target)
        if formula != "data":
            counts = torch.from_numpy(counts_of(formula, elements))
            self._check_size(formula, int(counts.sum()))
            return counts.expand(num, -1), values
        if self.pairs is None or self.pairs.formulas is None:
            raise ValueError(
                "the model keeps no formulas of its data, as it knows no property, or is of an older "
                "version; give a formula, such as C7H10O2, or train a model with a property."
            )
        if target is None:
            counts, values = self.pairs.sample_formulas(num, generator)
        else:
            counts = self.pairs.formulas_near(torch.tensor([target]), num, generator)
        return self._columns(counts), values

    def _check_size(self, formula: str, size: int) -> None:
        """Check that molecules of a size are not far from those of the data."""
        known = self.sizes.counts
        if size > 10 * (most := len(known) - 1):
            raise MoleculeError(
                f"{formula} has {size} atoms, and the molecules of the data have at most {most}; give a "
                "smaller formula, or train a model of larger molecules."
            )
        if not known[size : size + 1].any():
            warnings.warn(
                f"{formula} has {size} atoms, and no molecule of the data has as many; what is drawn may "
                "be no molecule.", stacklevel=4,
            )  # fmt: skip

    def _columns(self, formulas: Tensor) -> Tensor:
        """The formulas of `pairs` with a column for each of the model's elements."""
        elements, known = self.atoms.elements, () if self.pairs is None else self.pairs.elements
        columns = torch.tensor([elements.index(z) for z in known])
        empty = formulas.new_zeros(len(formulas), len(elements))
        return empty.index_copy_(1, columns, formulas)

    def _isomers(self, counts: Tensor, values: Tensor, watch: Watch | None, how: How) -> Molecules:
        """Molecules of known elements: their positions are drawn."""
        sizes = counts.sum(1)
        cond = {}
        if self.properties is not None:
            cond["context"] = self.properties.encode(values, sizes)
        z = (
            torch.tensor(self.atoms.elements)
            .repeat(len(counts))
            .repeat_interleave(counts.flatten())
        )

        def start(some: slice, atoms: slice, rows: Ragged) -> tuple[Tensor, Tensor]:
            return self.atoms.of_elements(z[atoms].to(rows.index.device), rows)

        return self._draw(sizes, cond, start=start, watch=watch, how=how)

    def inpaint(
        self,
        molecules: Molecules,
        known: Tensor | np.ndarray | str,
        *,
        target: float | None = None,
        resamples: int = 5,
        watch: Watch | None = None,
        **how: Unpack[How],
    ) -> Molecules:
        """Molecules of which a part is kept and the rest drawn anew.

        Arguments:
            molecules: What to begin from.
            known: True where an atom is kept, (N,), as :mod:`anydiff.molecules.fragments` finds them. Or
                "elements", whose positions are drawn; and, of a model with bonds, "graph", elements and
                bonds, of which conformers are drawn, or "positions", atoms whose bonds are drawn.
            target: The property that they should have; that of the molecules if None.
            resamples: How many times each step is repeated.
            watch: Called with the first molecule after each step.
            how: See :class:`~anydiff.batched.How`.

        Raises:
            ValueError: As :meth:`sample`.
        """
        if not isinstance(known, str):
            known = torch.as_tensor(known)
        return self._from(molecules, target, watch, how, known=known, resamples=resamples)

    def edit(
        self,
        molecules: Molecules,
        strength: float,
        *,
        target: float | None = None,
        watch: Watch | None = None,
        **how: Unpack[How],
    ) -> Molecules:
        """Molecules that are noised up to a time and denoised.

        Arguments:
            molecules: What to begin from.
            strength: The time in (0, 1]; 1 leaves nothing of them but their sizes.
            target: The property that they should have; that of the molecules if None.
            watch: Called with the first molecule after each step.
            how: See :class:`~anydiff.batched.How`.

        Raises:
            ValueError: As :meth:`sample`.
        """
        return self._from(molecules, target, watch, how, strength=strength)

    def _from(
        self,
        molecules: Molecules,
        target: float | None,
        watch: Watch | None,
        how: How,
        known: Tensor | str | None = None,
        **options: Any,
    ) -> Molecules:
        self._check_target(target, how)
        if self.properties is None and how.get("guidance", 1) != 1:
            raise ValueError(
                f"guidance is {how['guidance']:g}, and there is no text to be guided by; leave it out, "
                "or sample with a text."
            )
        cond, sizes = {}, torch.from_numpy(molecules.sizes)
        if self.properties is not None:
            if target is not None:
                values = torch.full((len(molecules), 1), target)
            elif (name := self.properties.names[0]) not in molecules.prop_names:
                raise ValueError(
                    f"{molecules.name}: the molecules' {name} is not known; give a target of it."
                )
            else:
                values = torch.from_numpy(molecules.property(name)).float()
            cond["context"] = self.properties.encode(values.reshape(-1, 1), sizes)
        self.atoms.check(molecules)

        def start(some: slice, atoms: slice, rows: Ragged) -> tuple[Tensor, Tensor | None]:
            x = self.atoms.state(molecules.subset(range(some.start, some.stop)), rows)
            if known is None:
                return x, None
            part = known if isinstance(known, str) else known[atoms].to(rows.index.device)
            return x, self.atoms.mask(part, rows)

        return self._draw(sizes, cond, start=start, every=True, watch=watch, how=how, **options)

    def _check_target(self, target: float | None, how: How) -> None:
        self.check(how, "property", target=target)
        if target is not None and not torch.tensor(float(target)).isfinite():  # in float32
            raise ValueError(
                f"target is {target}; give a number, the property's value in its own unit."
            )

    def _draw(
        self,
        sizes: Tensor,
        cond: Mapping[str, Tensor],
        *,
        start: Start | None = None,
        every: bool = False,
        watch: Watch | None,
        how: How,
        **options: Any,
    ) -> Molecules:
        """Molecules of these sizes, begun from noise or from what `start` makes of a batch."""
        device, skip = self.device, how.get("skip", 0)
        ends = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).tolist()
        spaces: dict[int, Ragged] = {}  # of the atoms of each batch, by its first item

        def make(some: slice) -> Batch:
            spaces[some.start] = Ragged.from_sizes(sizes[some], centered=3)
            rows = spaces[some.start].to(device)
            atoms = slice(ends[some.start], ends[some.stop])
            x, known = start(some, atoms, rows) if start is not None else (None, None)
            given = {name: value[some].to(device) for name, value in cond.items()}
            return Batch(self.atoms.shape(rows), self.atoms.space(rows), given, x, known)

        def finish(drawn: list[Tensor]) -> Molecules:
            items = [
                item
                # the last batch may have been stopped
                for x, rows in zip(drawn, spaces.values(), strict=False)
                for item in self.atoms.apart(x, rows)
            ]
            done = sizes[skip : skip + len(items)]
            # atoms that fell together are as lost, and cannot be written
            items = [
                item if self._distinct(item, n) else item * torch.nan
                for item, n in zip(items, done.tolist(), strict=True)
            ]
            sound = finite(items, "molecules", all_of_them=every)
            kept = [item for item, good in zip(items, sound, strict=True) if good]
            return self.atoms.molecules(kept, done[sound])

        def see(state: Tensor) -> None:
            if watch is None:
                return
            item, size = self.atoms.apart(state, spaces[skip])[0], sizes[skip : skip + 1]
            if item.isfinite().all() and self._distinct(item, int(size)):
                watch(self.atoms.molecules([item], size))

        options["costs"] = sizes.double().square()  # as edges are
        return draw_all(self.diffusion, len(sizes), make, finish, watch=see, **how, **options)

    def _distinct(self, item: Tensor, size: int) -> bool:
        """Whether all atoms of a molecule are at different points, with the four decimals of an SDF."""
        pos = self.atoms.rows(item, size)[:, :3]
        return len(torch.unique((pos.double() * 1e4).round(), dim=0)) == size


def compare_parts(
    drawn: Molecules,
    data: Molecules,
    *,
    nfe: int | None = None,
    seconds: float | None = None,
    lost: int = 0,
    relaxed: int = 0,
) -> list[MoleculeReport]:
    """The figures of drawn molecules beside those of real ones, which were held out.

    Arguments:
        drawn: Of a model of the training part.
        data: All parts, as :func:`anydiff.molecules.qm9.split` has them; 1,000 molecules of the test
            part are compared with.
        nfe: Network calls for a molecule.
        seconds: Seconds for a molecule.
        lost: How many more were drawn, but not finite.
        relaxed: How many of each to relax (:mod:`anydiff.molecules.relaxation`): the first ones.

    Raises:
        ImportError: RDKit is not installed, or tblite where molecules are to be relaxed.
        ValueError: There are too few real molecules for a training part and a test part.
    """
    warn_without_hydrogens(data)
    parts = split(len(data))
    if not (len(parts.train) and len(parts.test)):
        raise ValueError(
            f"{data.name} holds {len(data)} molecules; give at least 2 to compare with."
        )
    known, test = data.subset(parts.train), data.subset(parts.test[:1000])
    of: dict[str, Any] = {"train_smiles": known_smiles(known, _by_distance, "distance")}
    rows = (test.pos, test.z, test.index)
    real = evaluate(*rows, charges=_charges_of_ions(test), name="real, held out", **of)
    of["reference"] = rows
    rows = (drawn.pos, drawn.z, drawn.index)
    made = evaluate(*rows, name="drawn", nfe=nfe, seconds=seconds, lost=lost, **of)
    if drawn.bonds is not None:
        real, made = _with_bonds(real, made, known, test, drawn, lost)
    if not relaxed:
        return [real, made]
    return [
        replace(report, relaxed=_relaxed(first(items, relaxed)))
        for report, items in ((real, test), (made, drawn))
    ]


def _by_distance(molecules: Molecules) -> list[str | None]:
    """Their SMILES with bonds read off distances; of ions with their charges and without."""
    rows = (molecules.pos, molecules.z, molecules.index)
    charges = _charges_of_ions(molecules)
    return smiles(*rows) + ([] if charges is None else smiles(*rows, charges))


def _with_bonds(
    real: MoleculeReport,
    made: MoleculeReport,
    known: Molecules,
    test: Molecules,
    drawn: Molecules,
    lost: int,
) -> tuple[MoleculeReport, MoleculeReport]:
    """The reports with what the bonds are like that were drawn, and those of the data where known."""
    if test.bonds is None:
        return real, replace(made, drawn=evaluate_bonds(drawn, lost=lost))
    train = known_smiles(known, strict_bonds, "strict")
    bonds = evaluate_bonds(drawn, train_smiles=train, reference=test, lost=lost)
    return (
        replace(real, drawn=evaluate_bonds(test, train_smiles=train)),
        replace(made, drawn=bonds),
    )


def _relaxed(molecules: Molecules) -> Relaxed:
    rows = (molecules.pos, molecules.z, molecules.index)
    return relax(*rows, charges=molecules.charges, bonds=molecules.bonds, progress=True)


def _charges_of_ions(molecules: Molecules) -> np.ndarray | None:
    """The formal charges of molecules that are charged as a whole, 0 in others; None if there are none.

    Bonds by distance know of no charges within a neutral molecule: both bonds of a nitro group are
    double, and the published figures of QM9 count the carboxylate of an amino acid as not stable.

    Arguments:
        molecules: The molecules.
    """
    if molecules.charges is None:
        return None
    of_ions = np.add.reduceat(molecules.charges.astype(np.int64), molecules.offsets[:-1]) != 0
    return np.where(of_ions[molecules.index], molecules.charges, 0) if of_ions.any() else None


def warn_without_hydrogens(molecules: Molecules) -> None:
    """Warn if no molecule has a hydrogen atom, which the metrics and the bonds count with.

    Arguments:
        molecules: What is learned from, or compared with.
    """
    if 1 not in molecules.elements:
        warnings.warn(
            f"{molecules.name}: no molecule has hydrogen atoms, so that hardly any is stable; add them, "
            "as RDKit's AddHs(mol, addCoords=True) does.", stacklevel=2,
        )  # fmt: skip
