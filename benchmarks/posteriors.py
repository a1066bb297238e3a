"""How near guidance and inpainting come to posteriors that are known in closed form.

    python benchmarks/posteriors.py

The data are normal in three dimensions, with correlations, and the denoiser is exact. Inpainting knows
the first entry; guidance knows two weighted sums, with noise of deviation 0.3. Errors: of the mean, in
deviations of the posterior; of the covariance, relative to its largest entry. 20,000 draws, seed 0; the
draws alone make 0.01 and 0.02.
"""

import argparse

import torch
from torch import Tensor

from anydiff import DDIM, DDPM, Cosine, Predictor, dps, exact, inpaint, pigdm, sample
from anydiff.metrics.tables import aligned

C = torch.tensor([[1.0, 0.6, 0.3], [0.6, 0.8, 0.2], [0.3, 0.2, 0.5]], dtype=torch.float64)
M = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
A = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]], dtype=torch.float64)
Y, NOISE = torch.tensor([1.0, 0.4], dtype=torch.float64), 0.3


def errors(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    off = (x.mean(0) - mean).abs().max() / covariance.diagonal().max().sqrt()
    return off.item(), ((x.T.cov() - covariance).abs().max() / covariance.abs().max()).item()


def inpainting(p: Predictor, num: int) -> list[list[str]]:
    known = torch.tensor([True, False, False]).expand(num, 3)
    x = torch.tensor([1.5, 0.0, 0.0], dtype=torch.float64).expand(num, 3)
    gain = C[1:, 0] / C[0, 0]
    truth = M[1:] + gain * (1.5 - M[0]), C[1:, 1:] - torch.outer(gain, C[0, 1:])
    rows = []
    for sampler, steps, resamples, jump in (
        *((DDPM("large"), 50, r, 1) for r in (1, 2, 5, 10, 20, 40)),
        (DDPM("large"), 50, 10, 5),
        (DDPM("large"), 100, 10, 10),
        (DDPM("large"), 250, 10, 10),
        (DDPM(), 50, 10, 1),
        (DDPM(), 250, 10, 10),
        (DDIM(), 50, 10, 1),
    ):
        y = inpaint(
            p, x, known, sampler=sampler, steps=steps, resamples=resamples, jump=jump, seed=0
        )
        name = f"inpaint, {resamples} × {jump}, {sampler}"
        rows.append([name, f"{steps * resamples}", *(f"{e:.3f}" for e in errors(y[:, 1:], *truth))])
        print(aligned(rows[-1:]), flush=True)
    return rows


def guidance(p: Predictor, num: int) -> list[list[str]]:
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + NOISE**2 * torch.eye(2, dtype=torch.float64))
    truth = M + gain @ (Y - A @ M), C - gain @ A @ C
    y = Y.expand(num, 2)

    def operator(x: Tensor) -> Tensor:
        return x @ A.T

    methods = {
        "dps, its likelihood": dps(p, operator, y, noise=NOISE),
        "dps, zeta 0.01": dps(p, operator, y, scale=0.01),
        "pigdm": pigdm(p, operator, y, noise=NOISE, iterations=2),
        "pigdm, Tweedie's covariance": pigdm(
            p, operator, y, noise=NOISE, iterations=2, covariance="tweedie"
        ),
        "no guidance": p,
    }
    rows = []
    for name, guided in methods.items():
        for sampler, steps in ((None, 50), (DDPM("large"), 250)):
            options = {} if sampler is None else {"sampler": sampler}
            x = sample(guided, (num, 3), steps=steps, seed=0, **options)
            name_ = f"{name}, {sampler or 'DPMSolver()'}"
            rows.append([name_, f"{steps}", *(f"{e:.3f}" for e in errors(x, *truth))])
            print(aligned(rows[-1:]), flush=True)
    return rows


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--num", type=int, default=20_000, help="draws")
    args = flags.parse_args()
    p = exact.gaussian(Cosine(), "v", mean=M, covariance=C).predictor()
    rows = [*inpainting(p, args.num), *guidance(p, args.num)]
    head = ["method", "calls", "mean", "covariance"]
    print("", aligned([head, *rows]), sep="\n")


if __name__ == "__main__":
    main()
