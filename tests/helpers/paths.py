"""Where the repository keeps what tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "goldens"
SHARED = ROOT.parent / "shared" / "data"  # large sets, where they are at hand
