"""Make anydiff/images/digits.npz again from scikit-learn, or check that it is the same.

    pip install scikit-learn
    python scripts/make_digits.py

The pictures are those of `sklearn.datasets.load_digits`, in its order; nothing is changed but the
format. The script says whether the shipped file differs from that, and ends with 1 if so. It writes
only with --write.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import anydiff.images
from anydiff.files import whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", metavar="PATH", help="write the digits to this .npz")
    args = parser.parse_args()

    digits = load_digits()
    made = {"pixels": digits.images.astype(np.uint8), "labels": digits.target.astype(np.uint8)}
    if not np.array_equal(made["pixels"], digits.images) or made["pixels"].max() != 16:
        raise SystemExit("these are not the digits with whole values from 0 to 16.")
    print(f"{len(made['labels']):,} digits of {made['pixels'].shape[1:]} pixels")
    if args.write:
        with whole(args.write, ".npz") as temporary:
            np.savez_compressed(temporary, **made)  # the same bytes each time
        print(f"wrote {args.write}")

    with np.load(Path(anydiff.images.__file__).with_name("digits.npz")) as shipped:
        same = {key: np.array_equal(shipped[key], value) for key, value in made.items()}
    print("shipped:", ", ".join(f"{k} {'same' if v else 'DIFFER'}" for k, v in same.items()))
    if not all(same.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
