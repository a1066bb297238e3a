"""Which molecules pass the checks of PoseBusters, which know chemistry and bounds of geometry.

These are its fast ones: all but the energy of the molecule by a force field, which takes seconds. Bounds
are wide, a quarter of a bond's length or of an angle, so that nearly all small molecules pass that are
valid at all; what rings and double bonds must be like tells larger ones apart.

References:
    PoseBusters: AI-based docking methods fail to generate physically valid poses or generalise to novel
    sequences (Buttenschoen et al., 2023). https://arxiv.org/abs/2308.05777
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from anydiff.extras import extra

__all__ = ["plausibility"]


def plausibility(mols: Sequence[Any]) -> dict[str, np.ndarray]:
    """Whether molecules pass each check, (M,) by its name.

    Arguments:
        mols: Molecules of RDKit with bonds and positions, sanitised or not, as
            :meth:`Molecules.to_rdkit <anydiff.molecules.Molecules.to_rdkit>` makes them.

    Raises:
        ImportError: PoseBusters is not installed.
        ValueError: There are no molecules.
    """
    with extra("posebusters"):
        import rdkit
        from posebusters import PoseBusters
    if not len(mols):
        raise ValueError("there are no molecules to check; give one or more.")
    log = rdkit.logger  # to which PoseBusters sends what RDKit finds wrong
    rdkit.log_handler.stream = sys.stderr  # the last one may be closed, and could not be replaced
    said, log.disabled = log.disabled, True
    try:
        found = PoseBusters(config="mol_fast").bust(list(mols))
    finally:
        log.disabled = said
    # nan is a check that cannot be made, as of the geometry of what is not sane, and so not passed
    return {
        str(name).replace("_", " "): found[name].to_numpy(np.float64) == 1 for name in found.columns
    }
