"""What runs survive: killed at random, stopped, started twice, on a full disk, with one broken batch.

    python benchmarks/faults.py --minutes 5

Each experiment is a small run in a process of its own, compared bit for bit with a run that nothing
disturbed. One line says for each what was found; the exit status is 1 if one of them failed.
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from anydiff import Cosine, Dense, GaussianDiffusion
from anydiff.data.batches import LengthBatchSampler, ResumableLoader
from anydiff.training.module import DiffusionModule
from anydiff.training.runs import fit

EPOCHS, BATCHES = 40, 4


class Network(nn.Module):
    """Two layers, and dropout, whose masks have to come again too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Dropout(0.1), nn.Linear(32, 2))

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x_t, t[:, None]], 1))


def train(folder: Path, broken: bool = False, most: int | None = None) -> None:
    """One run, or what is left of it.

    Arguments:
        folder: Its folder.
        broken: Make one item of the data NaN.
        most: The largest file it may write, in bytes: a disk that is full.
    """
    data = torch.randn(16 * BATCHES, 2, generator=torch.Generator().manual_seed(0))
    if broken:
        data[-1] = torch.nan
    if most is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    torch.manual_seed(1)
    module = DiffusionModule(
        GaussianDiffusion(Network(), Cosine(), "v"), lambda x: (x, Dense(), {}), lr=1e-2
    )
    loader = ResumableLoader(data, batch_sampler=LengthBatchSampler([1] * len(data), 16))
    fit(
        module, folder, loader, epochs=EPOCHS, save_every=0.1, accelerator="cpu", devices=1,
        enable_progress_bar=False, settings={"data": "noise"},
    )  # fmt: skip
    torch.save(module.state_dict(), folder / "weights.pt")


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    """A run in a process of its own.

    Arguments:
        folder: Its folder.
        flags: Of this script.
    """
    command = [sys.executable, __file__, "--train", str(folder), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    )


def finish(folder: Path, *flags: str) -> tuple[int, str]:
    """The exit status of a run, and the last line that it wrote.

    Arguments:
        folder: Its folder.
        flags: Of this script.
    """
    process = start(folder, *flags)
    lines = (process.communicate()[1] or "").strip().splitlines()
    return process.returncode, lines[-1] if lines else ""


def same(folder: Path, whole: Path) -> bool:
    """Whether two runs ended with the same checkpoint and the same weights.

    Arguments:
        folder: A run.
        whole: The undisturbed one.
    """
    a, b = (torch.load(f / "last.ckpt", weights_only=True) for f in (folder, whole))
    pairs = [(a[part], b[part]) for part in ("state_dict", "current_model_state")]
    pairs.append(tuple(torch.load(f / "weights.pt", weights_only=True) for f in (folder, whole)))
    return a["global_step"] == b["global_step"] and all(
        torch.equal(x[name], y[name]) for x, y in pairs for name in x
    )


def stopped(
    number: signal.Signals, status: int
) -> Callable[[Path, Path, float, random.Random], str]:
    """The experiment that sends a signal at a random moment, and runs the same again.

    Arguments:
        number: The signal.
        status: The exit status that it has to lead to.
    """

    def experiment(folder: Path, whole: Path, seconds: float, rng: random.Random) -> str:
        process = start(folder)
        while not (folder / "settings.json").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds))
        if process.poll() is not None:
            return ""
        process.send_signal(number)
        process.communicate()
        # 0 if it had ended already, and the signal's own status before training and after it
        if process.returncode not in (status, 0, -number):
            return f"its exit status is {process.returncode}"
        code, line = finish(folder)
        if code:
            return f"the same command ends with {code}: {line}"
        return "" if same(folder, whole) else "it ends with other weights"

    return experiment


def twice(folder: Path, whole: Path, seconds: float, rng: random.Random) -> str:
    """Two processes in one folder: one trains, the other is refused.

    Arguments:
        folder: Their folder.
        whole: The undisturbed run.
        seconds: How long that takes.
        rng: Where moments come from.
    """
    runs = [start(folder), start(folder)]
    lines = [run.communicate()[1].strip().splitlines()[-1:] for run in runs]
    refused = [k for k, run in enumerate(runs) if run.returncode]
    if len(refused) > 1:
        return f"both end with an error: {lines}"
    if refused and "another process trains in" not in lines[refused[0]][0]:
        return f"it is not named: {lines[refused[0]]}"
    return "" if same(folder, whole) else "it ends with other weights"


def full(folder: Path, whole: Path, seconds: float, rng: random.Random) -> str:
    """A disk without room for a checkpoint, after a kill.

    Arguments:
        folder: Its folder.
        whole: The undisturbed run.
        seconds: How long that takes.
        rng: Where moments come from.
    """
    process = start(folder)
    while not (folder / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    kept = (folder / "last.ckpt").read_bytes()
    code, line = finish(folder, "--most", "5000")
    if not code or "last.ckpt" not in line:
        return f"it ends with {code}: {line}"
    if (folder / "last.ckpt").read_bytes() != kept:
        return "the checkpoint before is not whole"
    code, line = finish(folder)
    return "" if not code and same(folder, whole) else f"it does not go on: {code} {line}"


def broken(folder: Path, whole: Path, seconds: float, rng: random.Random) -> str:
    """One item of the data is NaN; when it is mended, the run goes on.

    Arguments:
        folder: Its folder.
        whole: The undisturbed run.
        seconds: How long that takes.
        rng: Where moments come from.
    """
    code, line = finish(folder, "--broken")
    if not code or "the loss of step" not in line:
        return f"it ends with {code}: {line}"
    code, line = finish(folder)
    return "" if not code and same(folder, whole) else f"it does not go on: {code} {line}"


EXPERIMENTS = {
    "killed at random": stopped(signal.SIGKILL, -signal.SIGKILL),
    "SIGTERM at random": stopped(signal.SIGTERM, 128 + signal.SIGTERM),
    "Ctrl-C at random": stopped(signal.SIGINT, 130),
    "two processes, one folder": twice,
    "a full disk": full,
    "one NaN in the data": broken,
}


def main() -> None:
    """Repeat the experiments until the time is over, each at least once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--broken", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--most", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        try:
            return train(asked.train, asked.broken, asked.most)
        except KeyboardInterrupt:
            sys.exit(130)
    rng, end = random.Random(asked.seed), time.monotonic() + 60 * asked.minutes
    tries: dict[str, list[str]] = {name: [] for name in EXPERIMENTS}
    with tempfile.TemporaryDirectory() as room:
        whole, before = Path(room) / "whole", time.monotonic()
        code, line = finish(whole)
        if code:
            sys.exit(f"the undisturbed run fails: {line}")
        seconds, k = time.monotonic() - before, 0
        while time.monotonic() < end or k < len(EXPERIMENTS):
            name = list(EXPERIMENTS)[k % len(EXPERIMENTS)]
            folder = Path(room) / str(k)
            folder.mkdir()
            tries[name].append(EXPERIMENTS[name](folder, whole, seconds / 2, rng))
            k += 1
    for name, found in tries.items():
        wrong = [text for text in found if text]
        verdict = f"FAILED: {wrong[0]}" if wrong else "right"
        print(f"{name:26} {len(found) - len(wrong)} of {len(found)}  {verdict}")
    sys.exit(any(text for found in tries.values() for text in found))


if __name__ == "__main__":
    main()
