"""Make anydiff/sketches/kanji_3k.npz again from the package kanjivg, or check that it is the same.

    pip install -c constraints.txt -e ".[kanji]"
    python scripts/make_kanji.py

3,600 of the CJK ideographs are drawn at random (seed 0); their curves become polylines within 0.01,
Ramer–Douglas–Peucker leaves out what lies within 0.15, and what remains is rounded to 1/16, in units
of KanjiVG's 109 × 109 box. The script says whether the shipped file differs from that, and ends with 1
if so, or how far its strokes are from the curves. It writes only with --write.
"""

import argparse
from itertools import pairwise

import numpy as np

from anydiff.sketches.files import write_npz
from anydiff.sketches.geometry import resample, simplify
from anydiff.sketches.kanji import load_kanji, read_kanjivg
from anydiff.sketches.sketches import Sketches

COUNT, CURVES, EPSILON, UNIT = 3600, 0.01, 0.15, 1 / 16


def hausdorff(made: Sketches, curves: Sketches) -> np.ndarray:
    """The distance (S,) between each stroke made and its curve, both as dense points on polylines."""
    pairs = [
        [
            (s.points[a:b], d.points[e:f])
            for (a, b), (e, f) in zip(pairwise(s.strokes), pairwise(d.strokes), strict=True)
        ]
        for s, d in ((made, resample(made, 0.5)), (curves, resample(curves, 0.5)))
    ]
    return np.array(
        [
            max(_farthest(dense_a, b), _farthest(dense_b, a), _farthest(a, b), _farthest(b, a))
            for (a, dense_a), (b, dense_b) in zip(*pairs, strict=True)
        ]
    )


def _farthest(points: np.ndarray, line: np.ndarray) -> float:
    """How far any of the points is from a polyline."""
    first, along = line[:-1], np.diff(line, axis=0)
    length2 = (along**2).sum(1)
    between = points[:, None] - first
    share = ((between * along).sum(-1) / np.where(length2 > 0, length2, 1)).clip(0, 1)
    away = np.hypot(*np.moveaxis(between - share[..., None] * along, -1, 0))
    return float(away.min(1).max())


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
        off = hausdorff(shipped, curves) + CURVES
        print(f"from the curves: at most {off.max():.3f}, mean of strokes {off.mean():.3f}")
    else:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
