"""What commands that draw molecules have in common, beside :mod:`anydiff.cli.flags`.

Molecules that were held out are grown again from their rings (--inpaint) or redrawn (--edit). A model
that was trained with a property is asked for one: for the value given (--target), for those that
molecules have together with their sizes, or for those of the molecules that are begun from.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anydiff.cli.flags import draw
from anydiff.data.sizes import SizeDistribution
from anydiff.diffusion import GaussianDiffusion
from anydiff.molecules.evaluate import to_rdkit
from anydiff.molecules.files import write_sdf, write_xyz
from anydiff.molecules.fragments import first_with, largest_ring
from anydiff.molecules.molecules import Atoms, Molecules
from anydiff.molecules.pictures import animate, draw_grid
from anydiff.molecules.properties import Properties, PropertyDistribution
from anydiff.samplers import Progress
from anydiff.spaces import Ragged

__all__ = ["ask", "begin", "draw_molecules", "write_molecules"]

Drawn = tuple[Tensor, Tensor, Tensor]


def begin(args: argparse.Namespace, test: Molecules) -> tuple[Molecules, Tensor | None]:
    """The held-out molecules that --inpaint and --edit begin from, --num or all there are; and the
    atoms that --inpaint keeps, (N,): the largest ring system, of those that have one."""
    if not args.inpaint:
        return test.subset(range(min(args.num, len(test)))), None
    chosen, kept = first_with(test, args.num, largest_ring)
    return chosen, torch.from_numpy(kept)


def ask(
    args: argparse.Namespace, extra: Mapping[str, Any], before: Molecules | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The molecules' sizes, and the condition if the model has one.

    Arguments:
        extra: Of the checkpoint: `sizes`, counts; and of a model with properties `properties`, their
            config, and `values` and `of_size`, a
            :class:`~anydiff.molecules.properties.PropertyDistribution`.
        before: Molecules to begin from.

    Raises:
        ValueError: --target or --guidance of a model without properties.
    """
    generator = torch.Generator().manual_seed(args.seed)
    sizes = None if before is None else torch.from_numpy(before.sizes)
    if "properties" not in extra:
        if args.target is not None or args.guidance != 1:
            flag = "guidance" if args.target is None else "target"
            raise ValueError(
                f"the model knows no property, which --{flag} is about; train one with --property, or "
                f"leave --{flag} out."
            )
        if sizes is None:
            sizes = SizeDistribution(extra["sizes"]).sample(args.num, generator)
        return sizes, {}

    properties = Properties.from_config(extra["properties"])
    pairs = PropertyDistribution(extra["of_size"], extra["values"])
    if args.target is not None:
        value = torch.tensor([args.target])
        sizes = pairs.sizes_near(value, args.num, generator) if sizes is None else sizes
        values = value.expand(len(sizes), 1)
    elif before is not None:
        values = torch.from_numpy(before.property(properties.names[0])).float()[:, None]
        assert sizes is not None
    else:
        sizes, values = pairs.sample(args.num, generator)
    return sizes, {"context": properties.encode(values)}


def draw_molecules(
    args: argparse.Namespace,
    diffusion: GaussianDiffusion,
    extra: Mapping[str, Any],
    before: Molecules | None = None,
    kept: Tensor | None = None,
    batch: int = 100,
) -> tuple[Drawn, list[tuple[Tensor, Tensor]]]:
    """Molecules as the flags say, and the path of the first one.

    Arguments:
        extra: Of the checkpoint, as :func:`ask` has it, and `atoms`, the config.
        before: Molecules that --edit and --inpaint begin from.
        kept: Which of their atoms --inpaint keeps, (N,).
        batch: Molecules drawn at once.

    Returns:
        Positions (N, 3), atomic numbers (N,) and index (N,); and positions and numbers after each step.
    """
    atoms, device = Atoms.from_config(extra["atoms"]), next(diffusion.parameters()).device
    sizes, cond = ask(args, extra, before)
    whole = Ragged.from_sizes(sizes, centered=3)
    data = {}
    if before is not None:
        x = atoms.encode(torch.from_numpy(before.pos), torch.from_numpy(before.z))
        data["x"] = whole.project(x)
    if kept is not None:
        data["known"] = kept
    drawn: list[Tensor] = []
    path: list[tuple[Tensor, Tensor]] = []

    def keep(p: Progress) -> None:
        if not drawn:  # the first molecule of the first batch
            path.append(atoms.decode(p.x_s[: sizes[0]].cpu()))

    for start in range(0, len(sizes), batch):
        some = slice(start, start + batch)
        space = Ragged.from_sizes(sizes[some], centered=3, device=device)
        rows = slice(int(whole.ptr[start]), int(whole.ptr[start]) + len(space.index))
        drawn.append(
            draw(
                args, diffusion, (len(space.index), atoms.features), space, start,
                cond={name: c[some].to(device) for name, c in cond.items()},
                **{name: value[rows].to(device) for name, value in data.items()}, callback=keep,
            ).cpu()
        )  # fmt: skip
    return (*atoms.decode(torch.cat(drawn), whole), whole.index), path


def write_molecules(
    folder: Path,
    drawn: Drawn,
    path: list[tuple[Tensor, Tensor]],
    before: Molecules | None = None,
    kept: Tensor | None = None,
) -> None:
    """All molecules as SDF, a picture of the first 24, what they began from in the same order, and the
    path as XYZ and GIF."""
    write_sdf(folder / "samples.sdf", to_rdkit(*drawn))
    first = drawn[2] < 24
    columns = min(8, int(drawn[2].max()) + 1)
    marked = None if kept is None else kept[first]
    draw_grid(folder / "samples.png", *(d[first] for d in drawn), columns=columns, marked=marked)
    if before is not None:
        rows = (array[first.numpy()] for array in (before.pos, before.z, before.index))
        draw_grid(folder / "before.png", *rows, columns=columns, marked=marked)
    write_xyz(folder / "path.xyz", path)
    frames = [*path[:: max(1, len(path) // 125)], path[-1]]
    animate(folder / "path.gif", *zip(*frames, strict=True))
