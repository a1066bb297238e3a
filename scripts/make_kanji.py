"""Make anydiff/data/kanji_3k.npz again from the package kanjivg, or check that it is the same.

    pip install -c constraints.txt -e ".[kanji]"
    python scripts/make_kanji.py

3,600 of the CJK ideographs are drawn at random (seed 0); their curves become polylines within 0.01,
Ramer–Douglas–Peucker leaves out what lies within 0.15, and what remains is rounded to 1/16, in units
of KanjiVG's 109 × 109 box. The script says whether the shipped file differs from that and how far its
strokes are from the curves, and writes only with --write.
"""

import argparse

import numpy as np

from anydiff.data.kanji import load_kanji, read_kanjivg
from anydiff.data.stroke_files import write_npz
from anydiff.data.strokes import Sketches, simplify

COUNT, CURVES, EPSILON, UNIT = 3600, 0.01, 0.15, 1 / 16


def errors(made: Sketches, curves: Sketches) -> np.ndarray:
    """The Hausdorff distance (S,) between each stroke made and its curve, a fine polyline."""
    made_strokes, curve_strokes = (
        [s.points[a:b] for a, b in zip(s.strokes[:-1], s.strokes[1:], strict=True)]
        for s in (made, curves)
    )
    return np.array(
        [
            max(_farthest(a, b), _farthest(b, a))
            for a, b in zip(made_strokes, curve_strokes, strict=True)
        ]
    )


def _farthest(points: np.ndarray, line: np.ndarray) -> float:
    """How far the points go from a polyline; of dense points, how far one polyline goes from another."""
    first, along = line[:-1], np.diff(line, axis=0)
    length2 = (along**2).sum(1)
    between = points[:, None] - first
    share = ((between * along).sum(-1) / np.where(length2 > 0, length2, 1)).clip(0, 1)
    return float(np.hypot(*(between - share[..., None] * along).T).min(0).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", metavar="PATH", help="write the characters to this .npz")
    args = parser.parse_args()

    everything = read_kanjivg(tolerance=CURVES)
    numbers = np.array([ord(label) for label in everything.labels])
    ideographs = np.flatnonzero((numbers >= 0x4E00) & (numbers <= 0x9FFF))
    chosen = np.sort(np.random.RandomState(0).permutation(ideographs)[:COUNT])
    curves = everything.subset(chosen)
    made = simplify(curves, EPSILON)
    print(
        f"{len(made):,} characters, {len(made.strokes) - 1:,} strokes, {len(made.points):,} points"
    )
    if args.write:
        write_npz(args.write, made, unit=UNIT)
        print(f"wrote {args.write}")

    shipped = load_kanji("3k")
    same = {
        "points": np.array_equal(shipped.points, np.rint(made.points / UNIT) * UNIT),
        "strokes": np.array_equal(shipped.strokes, made.strokes),
        "offsets": np.array_equal(shipped.offsets, made.offsets),
        "labels": list(shipped.labels) == list(made.labels),
    }
    print("shipped:", ", ".join(f"{k} {'same' if v else 'DIFFER'}" for k, v in same.items()))
    if all(same.values()):
        off = errors(shipped, curves) + CURVES
        print(f"from the curves: at most {off.max():.3f}, mean of strokes {off.mean():.3f}")


if __name__ == "__main__":
    main()
