"""Seconds to read files (molecules as SDF and XYZ, an SVG of many small elements) and to simplify a saw.

OMP_NUM_THREADS=1 python benchmarks/reading.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from anydiff.molecules import load_qm9, read_molecules
from anydiff.molecules.evaluate import to_rdkit
from anydiff.molecules.files import write_sdf, write_xyz
from anydiff.sketches.files import read_sketches
from anydiff.sketches.geometry import simplify
from anydiff.sketches.sketches import Sketches

ELEMENTS = 50_000
REPEATS = 3


def seconds(call: Callable[[], object]) -> float:
    """The best of some repeats.

    Arguments:
        call: What is measured.
    """
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    molecules = load_qm9()
    paths = "".join(f'<path d="M{k % 97} {k % 89}l3 4"/>' for k in range(ELEMENTS))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sdf(folder / "m.sdf", to_rdkit(molecules.pos, molecules.z, molecules.index))
        write_xyz(folder / "m.xyz", molecules)
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{paths}</svg>'
        (folder / "many.svg").write_text(svg)
        for file in ("m.sdf", "m.xyz"):
            took = seconds(lambda file=file: read_molecules(folder / file))  # type: ignore[misc]
            print(f"{len(molecules):,} molecules, {file[2:]}  {took:.2f} s")
        took = seconds(lambda: read_sketches(folder / "many.svg"))
        print(f"{ELEMENTS:,} elements, svg  {took:.2f} s")
    k = np.arange(16_000)
    saw = Sketches.from_lists([[np.stack([k, (k % 2) * (16_000.0 - k)], 1)]])
    print(f"a saw of {len(k):,} points  {seconds(lambda: simplify(saw, 0.5)):.2f} s")


if __name__ == "__main__":
    main()
