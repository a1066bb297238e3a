"""Which methods there are, where they come from, and what they are measured to do: docs/methods.md.

Formulas and sources are those of the docstrings; calls, operations, orders and errors are measured here,
on data for which every result is known in closed form. No clock and, but for one line, no random number:
the page comes out the same on any machine, to rounding.

    python benchmarks/methods.py                            # prints the page, half a minute
    python benchmarks/methods.py --write docs/methods.md
"""

from __future__ import annotations

import argparse
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from anydiff import (
    Cosine,
    GaussianDiffusion,
    Tabulated,
    distillation,
    editing,
    exact,
    guidance,
    likelihood,
    sample,
)
from anydiff.likelihood import score_matching
from anydiff.losses import errors, times, weightings
from anydiff.predictions import TARGETS, as_target
from anydiff.samplers import DDIM, DDPM, AdaptiveODE, AdaptiveSDE, AnnealedLangevin, Sampler, grids
from anydiff.schedules import Schedule, Shifted

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.helpers.runs import SAMPLERS, SCHEDULES, optimal, response

STDS = (0.3, 0.5, 0.05)  # of the data, one after the other
BUDGETS = (10, 20, 50)  # network calls
ADAPTIVE = (AdaptiveODE, AdaptiveSDE)
OF_SHORT_CHAINS = {
    "Quadratic": grids.Quadratic(),
    "Variances, linear": grids.Variances(),
    "Variances, quadratic": grids.Variances("quadratic"),
}

# Final deviation / true deviation at 10, 20 and 50 steps, of the same data on the same table, measured
# with diffusers 0.42.1 and k-diffusion 0.1.1.post1. Heun's and dpm_2's steps are two calls.
PEERS = """
diffusers DDIM, trailing | .62 .74 .15 | .80 .86 .28 | .92 .94 .53
diffusers DDIM, linspace | .80 .83 1.25 | .88 .90 .74 | .95 .95 .70
diffusers Euler, linspace | .61 .72 .32 | .80 .86 .43 | .93 .94 .65
diffusers DDPM, trailing | .57 .67 .14 | .71 .79 .27 | .84 .89 .51
diffusers DPM++ 2M, trailing | .65 .81 .15 | .87 .95 .28 | .995 .997 .54
diffusers DPM++ 2M, Karras | 1.08 1.10 .84 | 1.07 1.05 .99 | 1.02 1.00 .99
diffusers Heun, linspace, 2 calls a step | 1.19 1.08 3.64 | 1.05 1.02 1.93 | 1.02 1.00 1.18
k-diffusion dpmpp_2m, exponential | 1.04 1.03 .96 | 1.02 1.01 .99 | 1.01 1.00 .98
k-diffusion dpmpp_3m_sde, Karras | 1.93 1.97 1.31 | 1.13 1.07 1.24 | 1.01 1.01 1.00
k-diffusion dpm_2_ancestral, Karras, 2 calls a step | 1.58 1.49 1.95 | 1.11 1.11 1.17 | 1.02 1.02 1.00
"""

# name, a, b, source: as in anydiff.predictions
TYPES = {
    "eps": (
        "0",
        "1",
        "Denoising Diffusion Probabilistic Models (Ho et al., 2020), eq. 14",
        "2006.11239",
    ),
    "x0": ("1", "0", "the same, section 3.2", "2006.11239"),
    "v": (
        r"-\sigma",
        r"\alpha",
        "Progressive Distillation (Salimans & Ho, 2022), appendix D",
        "2202.00512",
    ),
    "score": (
        "0",
        r"-1 / \sigma",
        "Generative Modeling by Estimating Gradients (Song & Ermon, 2019)",
        "1907.05600",
    ),
    "velocity": (r"\alpha'", r"\sigma'", "Flow Matching (Lipman et al., 2023)", "2210.02747"),
    "karras": (
        r"\sigma c_{in} / \sigma_d",
        r"-c_{skip} \sigma / c_{out}",
        "Elucidating the Design Space (Karras et al., 2022), table 1",
        "2206.00364",
    ),
}


# --- measured -----------------------------------------------------------------------------------


class Count(TorchDispatchMode):
    """Counts the tensor operations under it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.operations += 1
        return function(*args, **(kwargs or {}))


class Nothing(nn.Module):
    """A network that costs no operation."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return x_t


def cost(sampler: Sampler, steps: int) -> tuple[int, int]:
    """Network calls and tensor operations of a run."""
    network = Nothing()
    predictor = GaussianDiffusion(network, Cosine(), "eps").predictor()
    x_T = torch.ones(2, 3)
    with Count() as count:
        sample(predictor, x_T, sampler, steps)
    return network.calls, count.operations


def per_step(sampler: Sampler) -> tuple[float, float]:
    """Calls and operations that one more step takes."""
    few, many = cost(sampler, 12), cost(sampler, 24)
    return (many[0] - few[0]) / 12, (many[1] - few[1]) / 12


def steps_within(sampler: Sampler, budget: int) -> int | None:
    """The most steps that a number of network calls is enough for."""
    for steps in range(budget, 0, -1):
        if cost(sampler, steps)[0] <= budget:
            return steps
    return None


def deviation(sampler: Sampler, steps: int, std: float, grid: grids.Grid | None = None) -> float:
    """Final deviation / true deviation of a run from pure noise, on the table of Ho et al."""
    if isinstance(sampler, DDPM) and sampler.variance not in ("small", "large"):
        sampler = DDPM(optimal(std))
    model = exact.gaussian(Tabulated.linear(), "v", std=std)
    times = (grid or sampler.grid)(model.schedule, steps)
    return response(model, sampler, times).moments(0.0, 1.0)[1] / std


def observed_order(sampler: Sampler) -> float:
    """log2 of what half the step leaves of the error, in even steps of the log-SNR between two levels.

    The error is that of mean and deviation together. From a log-SNR of -24, where the first steps of a
    multistep method, which are of a lower order, do no harm.
    """
    schedule, mean, std = Cosine(logsnr_min=-24.0), 0.7, 0.5
    if not isinstance(getattr(sampler, "variance", ""), str | None):
        return math.nan  # a variance that is known exactly makes no error
    errors = []
    for steps in (128, 256):
        grid = schedule.time(torch.linspace(-24, 8, steps + 1, dtype=torch.float64))
        start, stop = schedule.levels(grid[[0, -1]])
        here, there = (math.hypot(at.alpha * std, at.sigma) for at in (start, stop))
        model = exact.gaussian(schedule, "v", mean=mean, std=std)
        found = response(model, sampler, grid).moments(start.alpha * mean, here)
        errors.append(math.hypot(found[0] - stop.alpha * mean, found[1] - there))
    return math.log2(errors[0] / errors[1])


def adaptive(sampler: Sampler, std: float) -> tuple[float, float]:
    """Calls, and final deviation / true deviation, of a sampler that chooses its steps."""
    model = exact.gaussian(Tabulated.linear(), "v", std=std)
    calls: list[int] = []
    model.denoiser.register_forward_hook(lambda *_: calls.append(1))
    generator = torch.Generator().manual_seed(0)
    x_T = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    x_T = (x_T - x_T.mean()) / x_T.std()
    x = sample(model.predictor(), x_T, sampler, seed=generator)
    return len(calls), x.std().item() / std


# --- read from the docstrings -------------------------------------------------------------------


def first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def formula(thing: Any) -> str:
    """The first equation of a docstring, as a page shows it."""
    found = re.search(r"\.\. math::(.*?)(?:\n\s*\n|\Z)", inspect.getdoc(thing) or "", re.S)
    if not found:
        return ""
    return math_of(" ".join(found[1].split()))


def math_of(text: str) -> str:
    return f"$`{text}`$".replace("|", r"\mid ") if text else ""


def sources(thing: Any) -> str:
    """The references of a docstring, as links."""
    text = " ".join((inspect.getdoc(thing) or "").partition("References:")[2].split())
    found = re.findall(r"(.*?)[.,]?\s+(https?://\S+?)(?=\s|$)", text)
    return "; ".join(f"[{title.strip()}]({url})" for title, url in found)


def public(module: Any) -> Iterable[Any]:
    return (getattr(module, name) for name in module.__all__)


# --- the page -----------------------------------------------------------------------------------


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(x: float) -> str:
    """Two digits after the point."""
    return "–" if not math.isfinite(x) else f"{x:.2f}".removeprefix("0")


def whole(x: float, digits: int = 1) -> str:
    return "–" if not math.isfinite(x) else f"{x:.{digits}f}".removesuffix(".0")


def grouped() -> list[Sampler]:
    """The samplers, each followed by its variants."""
    kinds = [type(sampler) for sampler in SAMPLERS]
    return sorted(SAMPLERS, key=lambda sampler: kinds.index(type(sampler)))


def name(sampler: Sampler) -> str:
    """As it is written in code, with what differs from the defaults."""
    kind = type(sampler)
    given = []
    for field in inspect.signature(kind).parameters.values():
        value = getattr(sampler, field.name)
        if field.default is not inspect.Parameter.empty and value != field.default:
            text = name(value) if isinstance(value, Sampler) else repr(value)
            given.append(f"{field.name}={text.replace('(span=None)', '')}")
    return f"{kind.__name__}({', '.join(given)})"


def does_not_converge(sampler: Sampler) -> bool:
    """Whether more steps do not make it exact: by Langevin dynamics, or for consistency models."""
    return isinstance(sampler, AnnealedLangevin) or sampler.convergence == 0


def samplers_table() -> str:
    rows, cited = [], set()
    for sampler in grouped():
        if isinstance(sampler, ADAPTIVE):
            figures = ["–", "–", "by tolerance", "–"]
        else:
            calls, operations = per_step(sampler)
            order = declared = "–"
            if not does_not_converge(sampler):
                order, declared = whole(observed_order(sampler), 2), whole(sampler.convergence)
            figures = [whole(calls), whole(operations), declared, order]
        kind = type(sampler)
        rows.append([f"`{name(sampler)}`", *figures, "" if kind in cited else sources(kind)])
        cited.add(kind)
    head = ["sampler", "calls", "operations", "order, declared", "observed", "source"]
    return table(head, rows)


def errors_table() -> str:
    rows = []
    for sampler in grouped():
        if isinstance(sampler, ADAPTIVE) or does_not_converge(sampler):
            continue
        if not isinstance(getattr(sampler, "variance", ""), str | None) and not isinstance(
            sampler, DDPM
        ):
            continue
        figures = []
        for budget in BUDGETS:
            steps = steps_within(sampler, budget)
            assert steps is not None
            figures.append(" ".join(number(deviation(sampler, steps, std)) for std in STDS))
        rows.append([f"`{name(sampler)}`", type(sampler.grid).__name__, *figures])
    for label, grid in OF_SHORT_CHAINS.items():
        figures = [" ".join(number(deviation(DDIM(), n, s, grid)) for s in STDS) for n in BUDGETS]
        rows.append(["`DDIM()`", label, *figures])
    for line in PEERS.strip().splitlines():
        peer, *figures = (part.strip() for part in line.split("|"))
        rows.append([f"*{peer}*", "", *figures])
    return table(["sampler", "grid", *(f"{n} calls" for n in BUDGETS)], rows)


def adaptive_table() -> str:
    rows = []
    for sampler in (AdaptiveODE(1e-2, 1e-2), AdaptiveODE(), AdaptiveSDE(0.1), AdaptiveSDE()):
        figures = [adaptive(sampler, std) for std in STDS]
        cells = [f"{calls} calls: {number(ratio)}" for calls, ratio in figures]
        rows.append([f"`{name(sampler)}`", *cells])
    return table(["sampler", *(f"deviation {std}" for std in STDS)], rows)


def schedules_table() -> str:
    things: list[tuple[str, Any, Schedule]] = []
    for schedule in SCHEDULES:
        kind = type(schedule)
        if kind is Tabulated:
            continue
        things.append((kind.__name__, kind, schedule))
    for rule in ("linear", "scaled_linear", "sigmoid", "cosine"):
        make: Callable[[], Schedule] = getattr(Tabulated, rule)
        things.append((f"Tabulated.{rule}", make, make()))
    rows = {}
    for label, thing, schedule in things:
        allowed = [f"`{p}`" for p in TARGETS if _allows(schedule, p)]
        which = "all" if len(allowed) == len(TARGETS) else ", ".join(allowed)
        which = "those of its schedule" if isinstance(schedule, Shifted) else which
        rows[label] = [
            f"`{thing.__qualname__}`",
            formula(thing) or plain(first_line(thing)),
            which,
            sources(thing),
        ]
    return table(["schedule", "formula", "predictions", "source"], rows.values())


def _allows(schedule: Schedule, prediction: str) -> bool:
    try:
        as_target(prediction, schedule)
    except ValueError:
        return False
    return True


def predictions_table() -> str:
    assert TYPES.keys() == TARGETS.keys(), "a target has no row; add it to TYPES"
    rows = []
    for prediction, (a, b, title, paper) in TYPES.items():
        link = f"[{title}](https://arxiv.org/abs/{paper})"
        rows.append([f"`{prediction}`", math_of(a), math_of(b), link])
    return table(["prediction", "a", "b", "source"], rows)


def grids_table() -> str:
    kinds = [grid for grid in public(grids) if isinstance(grid, type) and grid is not grids.Grid]
    rows = [[f"`{grid.__name__}`", plain(first_line(grid)), sources(grid)] for grid in kinds]
    return table(["grid", "what it is", "source"], rows)


def training_table() -> str:
    kinds = {
        "weighting": [w for w in public(weightings) if isinstance(w, type)],
        "density of times": [t for t in public(times) if isinstance(t, type)],
        "error": [e for e in public(errors) if isinstance(e, type)],
        "distillation": list(public(distillation)),
        "likelihood": list(public(likelihood)),
        "score matching": list(public(score_matching)),
    }
    return named(kinds)


def steering_table() -> str:
    return named({"guidance": list(public(guidance)), "editing": list(public(editing))})


def named(kinds: dict[str, list]) -> str:
    rows = []
    for kind, things in kinds.items():
        for thing in things:
            if sources(thing):
                rows.append([kind, f"`{thing.__name__}`", plain(first_line(thing)), sources(thing)])
    return table(["", "name", "what it is", "source"], rows)


def plain(text: str) -> str:
    """A docstring's line, its roles taken off."""
    text = re.sub(r":math:`(.*?)`", lambda m: math_of(m[1]), text)
    return re.sub(r":\w+:`~?([\w.]+)`", lambda m: f"`{m[1].rsplit('.')[-1]}`", text)


def page() -> str:
    return f"""# Methods and their accuracy

All methods of anydiff, their papers, and their errors on data for which the exact result is known.
Formulas and sources are read from the docstrings; the numbers are measured by one command in about
half a minute:

```bash
python benchmarks/methods.py --write docs/methods.md
```

The data are normal and the denoiser is the exact one of `anydiff.exact`, so a run of a sampler is a
linear map, and its coefficients give the mean and the variance of the samples without sampling. No
time is measured, and only the table of the adaptive samplers uses random numbers. So the numbers
are the same on any machine, and every error is due to the sampler, not to a network.

## Samplers

- *calls* and *operations* are the cost of one more step: network calls, and tensor operations other
  than those of the network, including the one that creates the times passed to it.
- *order* is p if halving the steps multiplies the error by 2^-p. *declared* is the least order that
  the class guarantees; *observed* is measured here, from the mean and the standard deviation of the
  samples.
- A dash means that there is no such number: with the exact variance there is no error, the error of
  Langevin dynamics depends on its step size, and that of adaptive samplers on their tolerance. A
  step of `AnnealedLangevin` is one noise level. `Renoise` draws from consistency models, exactly if
  they are perfect, as `exact.consistency` is; for a denoiser its error does not vanish with the
  steps.

{samplers_table()}

For comparison, the operations of a step and its reads from the device: 36 and 6 for `DDIM` of
diffusers, 61 and 0 for its `DPM++ 2M`, 36 and 1 for `dpmpp_2m` of k-diffusion, 27 and 2 for the
Heun sampler of Karras et al.'s code. In anydiff only the adaptive samplers read from the device.

## Accuracy at few calls

Each cell has the standard deviation of the samples divided by that of the data, for data with
standard deviations 0.3, 0.5 and 0.05: 1.00 1.00 1.00 is exact. The schedule is the table of Ho et
al. with 1000 steps, the run starts from N(0, 1), and each sampler uses its own grid. Rows in
italics are other libraries on the same data and table, with as many *steps*, some of which take two
calls.

{errors_table()}

`DPMSolver(order=1)` takes the same steps as `DDIM()` on another grid: steps equal in t are
inaccurate for narrow distributions, steps equal in the log-SNR are not. Any sampler takes any grid
with `grid=`. `DDIM(eta=κ)` is FastDPM: its STEP on `Uniform` or `Quadratic`, its VAR on
`Variances`.

The default, `DPMSolver()` on `LogSNR()`, was selected on the schedule of this table, by these three
standard deviations and four others; the settings of the other libraries were not selected this way.
On other schedules its error is as small.

Adaptive samplers choose the number of calls:

{adaptive_table()}

## Schedules

A schedule gives the scales α of the data and σ of the noise at a time t from 0 to 1. *predictions*
are the targets that a network can have with it; a target that does not determine x0 where the
schedule ends is refused when the model is constructed. B is the integral of the noise rate β from 0
to t; unless σ is given, $`\\alpha_t = e^{{-B_t / 2}}`$ and $`\\sigma_t^2 = 1 - e^{{-B_t}}`$. The
log-SNR of `Learned` is linear in u, from one end to the other.

{schedules_table()}

## Predictions

The network predicts $`y = a\\, x_0 + b\\, \\epsilon`$. x0 and ε follow from y and x_t by one 2 × 2
system.

{predictions_table()}

## Grids

A grid places the times of a run.

{grids_table()}

## Guidance and editing

[Steering](steering.md) shows their use and their errors on data with a known posterior.

{steering_table()}

## Training and likelihood

{training_table()}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = page()
    if args.write:
        args.write.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
