"""Make anydiff/molecules/qm9_5k.npz again from qm9pack, molecule for molecule.

    pip install -c constraints.txt -e ".[qm9]"
    python scripts/make_qm9_5k.py

The 5,000 molecules were drawn once, at random; their numbers are kept in the file itself, and this
script takes the same from the package's tables. Bonds and charges are those of their SMILES. It says
whether anything differs, and writes only with --write.
"""

import argparse

import numpy as np

from anydiff.molecules import load_qm9
from anydiff.molecules.files import write_npz
from anydiff.molecules.matching import bonds_from_smiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", metavar="PATH", help="write the molecules to this .npz")
    args = parser.parse_args()

    shipped = load_qm9("5k")
    made = load_qm9("full")
    made, share = bonds_from_smiles(made.subset(np.isin(made.ids, shipped.ids)))
    arrays = ("z", "pos", "offsets", "ids", "props", "charges", "bonds", "orders")
    same = {name: np.array_equal(getattr(shipped, name), getattr(made, name)) for name in arrays}
    same["smiles"] = list(shipped.smiles) == list(made.smiles)
    print(
        f"{len(made):,} molecules, {share:.2%} of them with bonds;",
        ", ".join(f"{k} {'same' if v else 'DIFFERS'}" for k, v in same.items()),
    )
    if args.write:
        write_npz(args.write, made)
        print(f"wrote {args.write}")


if __name__ == "__main__":
    main()
