"""How much faster is BiRecurrent than PyTorch's own layers on packed sequences?

Trains one step (forward and backward) of a stack of both on the same weights and the same batch:
nn.GRU on pack_padded_sequence, and anydiff's. The batches are ragged, with lengths spread as those
of handwritten characters are, and full. Repetitions alternate, so that a busy machine slows both.
"reversed" is PyTorch's kernel on padded sequences, once more on sequences reversed within their
lengths: what anydiff does on a GPU.

    python benchmarks/birnn.py                        # about two minutes
    python benchmarks/birnn.py --points 24 --batch 128 --hidden 160 --cell lstm
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from anydiff.denoisers.sequences.recurrent import BiRecurrent

TARGETS = {64: 1.2, 128: 1.9, 256: 4.0}  # by points, in the standard setting
STANDARD = ("gru", 96, 3, 64, 2)  # cell, hidden, layers, batch, threads
TEXTBOOK = {"gru": nn.GRU, "lstm": nn.LSTM}


def draw_lengths(batch: int, points: int, ragged: bool) -> Tensor:
    """All `points`, or spread about 0.6 of them, the longest having all."""
    if not ragged:
        return torch.full((batch,), points)
    share = np.random.default_rng(0).normal(0.6, 0.18, batch).clip(0.15, 1)
    share[0] = 1
    return torch.from_numpy(np.ceil(share * points)).long()


def stack(cell: str, inputs: int, hidden: int, layers: int) -> tuple[nn.ModuleList, nn.RNNBase]:
    torch.manual_seed(0)
    textbook = TEXTBOOK[cell](inputs, hidden, layers, batch_first=True, bidirectional=True)
    state = textbook.state_dict()
    ours = nn.ModuleList()
    for k in range(layers):
        layer = BiRecurrent(2 * hidden if k else inputs, hidden, cell)
        layer.load_state_dict({n: state[n.replace("l0", f"l{k}")] for n in layer.state_dict()})
        ours.append(layer)
    return ours, textbook


def seconds(step: Callable[[], Tensor], train: bool) -> float:
    start = time.perf_counter()
    with torch.set_grad_enabled(train):
        y = step()
        if train:
            y.square().mean().backward()
    return time.perf_counter() - start


def flat_gradient(y: Tensor, network: nn.Module) -> Tensor:
    gradients = torch.autograd.grad(y.square().sum(), list(network.parameters()))
    return torch.cat([g.flatten() for g in gradients])


def compare(points: int, ragged: bool, args: argparse.Namespace) -> list[str]:
    ours, textbook = stack(args.cell, args.inputs, args.hidden, args.layers)
    networks = nn.ModuleList([ours, textbook])
    lengths = draw_lengths(args.batch, points, ragged)
    x = torch.randn(args.batch, points, args.inputs)

    def packed() -> Tensor:
        rows = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(textbook(rows)[0], batch_first=True)[0]

    def padded() -> Tensor:
        h = x
        for layer in ours:
            h = layer._padded(h, lengths)
        return h

    def anydiff() -> Tensor:
        h = x
        for layer in ours:
            h = layer(h, lengths)
        return h

    steps = {"packed": packed, "reversed": padded, "anydiff": anydiff}
    times: dict[tuple[str, bool], list[float]] = {(n, t): [] for n in steps for t in (True, False)}
    for repeat in range(args.repeats + 1):
        for (name, train), values in times.items():
            elapsed = seconds(steps[name], train)
            if repeat > 0:  # the first one warms up
                values.append(elapsed)
            networks.zero_grad()
    median = {key: statistics.median(values) for key, values in times.items()}

    x, networks = x.double(), networks.double()
    y, exact = anydiff(), packed()
    torch.testing.assert_close(y, exact, rtol=0, atol=1e-10)
    gradient = flat_gradient(exact, textbook)
    wrong = (flat_gradient(y, ours) - gradient).norm() / gradient.norm()
    if wrong > 1e-10:
        raise AssertionError(f"gradients differ by {wrong:.1e} of their norm; expected rounding.")

    ratio = median["packed", True] / median["anydiff", True]
    setting = (args.cell, args.hidden, args.layers, args.batch, args.threads)
    return [
        f"{points}",
        "ragged" if ragged else "full",
        *(f"{1000 * median[name, True]:.0f}" for name in steps),
        f"{ratio:.2f}",
        f"{TARGETS[points]:.1f}" if setting == STANDARD and points in TARGETS else "-",
        *(f"{1000 * median[name, False]:.0f}" for name in steps),
        f"{(y - exact).abs().max():.0e}",
        f"{wrong:.0e}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--inputs", type=int, default=13, help="columns of the first layer's input")
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--cell", choices=list(TEXTBOOK), default="gru")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    print(
        f"{args.layers} bidirectional {args.cell} layers of {args.hidden}, batches of {args.batch}, "
        f"{args.threads} threads, torch {torch.__version__}; milliseconds of a training step | of a "
        "forward without gradients; largest |diff| of outputs and relative one of gradients, float64"
    )
    names = ["packed", "reversed", "anydiff"]
    header = ["points", "lengths", *names, "ratio", "target", *names, "outputs", "grads"]
    print("  ".join(f"{name:>8}" for name in header))
    for points in args.points:
        for ragged in (True, False):
            row = compare(points, ragged, args)
            print("  ".join(f"{cell:>8}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
