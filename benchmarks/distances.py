"""CPU seconds of precision and recall, and of nearest neighbours, against those by plain differences.

    python benchmarks/distances.py --num 10000 --real 10000 --features 2048

`--plain` also measures the distances from the differences of all pairs, which is slow.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from anydiff.metrics.distances import nearest_ratio, precision_recall


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--real", type=int, default=2000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--plain", action="store_true")
    args = parser.parse_args()

    torch.manual_seed(0)
    fake, real = torch.randn(args.num, args.features), torch.randn(args.real, args.features)
    print(f"{args.num:,} × {args.real:,} × {args.features:,}, {torch.get_num_threads()} threads")
    print(f"precision_recall  {seconds(lambda: precision_recall(fake, real)):8.1f} s")
    print(f"nearest_ratio     {seconds(lambda: nearest_ratio(fake, real, fake[:2000])):8.1f} s")
    if args.plain:
        x, y = fake.double(), real.double()

        def plain() -> None:
            for a, b in ((x, x), (y, y), (y, x)):
                torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

        print(f"plain distances   {seconds(plain):8.1f} s")


if __name__ == "__main__":
    main()
