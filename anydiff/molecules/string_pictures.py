"""Pictures of SMILES: structural formulas in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anydiff.extras import extra
from anydiff.files import PathLike, whole

__all__ = ["draw_strings"]


def draw_strings(path: PathLike, texts: Sequence[str], num: int = 24, columns: int = 6) -> None:
    """The structural formulas of the first strings as a PNG, and an empty place for what is no molecule.

    Arguments:
        path: The file.
        texts: The strings, which stand below the formulas.
        num: How many at most.
        columns: Formulas in a row.

    Raises:
        ImportError: RDKit is not installed.
        ValueError: There are no strings.
    """
    with extra("molecules"):
        from rdkit import Chem, rdBase
        from rdkit.Chem import Draw
    if not texts:
        raise ValueError("there are no strings to draw.")
    shown = list(texts[:num])
    with rdBase.BlockLogs():
        mols = [Chem.MolFromSmiles(text) for text in shown]
    legends = [
        text if mol is not None else f"{text}: no molecule"
        for text, mol in zip(shown, mols, strict=True)
    ]
    mols = [Chem.Mol() if mol is None else mol for mol in mols]
    draw: Any = Draw
    options = draw.rdMolDraw2D.MolDrawOptions()
    options.legendFraction, options.legendFontSize = 0.14, 15
    picture = draw.MolsToGridImage(
        mols, molsPerRow=min(columns, len(mols)), subImgSize=(220, 200), legends=legends,
        drawOptions=options, returnPNG=False,
    )  # fmt: skip
    with whole(path) as partial:
        picture.save(Path(partial), format="PNG")
