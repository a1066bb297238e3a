"""The numbers that diffusers' own tests print, out of anydiff's samplers.

There a toy network, x k / (k + 1) at row k of the table, is run from fixed data, and the sum and the mean
of what comes out are compared with literals. Row k there is the time (k + 1) / T here, where row 0 is
the data. Clipping x0 to ±1, on by default there, is done by a wrapper of the predictor.

Left out are the numbers of Euler, Heun, LMS and KDPM2, whose loops go on from the scaled input of the
network instead of the state, and DEIS's, whose polynomial is in log(sigma / alpha).

References:
    diffusers 0.42, tests/schedulers. https://github.com/huggingface/diffusers
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

from anydiff import DDIM, DDPM, DPMSolver, GaussianDiffusion, Karras, Tabulated, sample
from anydiff.samplers import KarrasGrid, UniPC

TABLE = Tabulated.linear()
COARSE = Tabulated.linear(beta_min=0.01)
LEADING = [*range(901, 0, -100), 0]  # rows of ours: every hundredth, then the data
LINSPACE = [1000, 900, 800, 700, 600, 501, 401, 301, 201, 101, 1]


class Toy(nn.Module):
    """x k / (k + 1) at row k, which is t = (k + 1) / 1000."""

    def row(self, t):
        return (1000 * t.double()).round() - 1

    def forward(self, x, t):
        k = self.row(t)
        return (k / (k + 1)).to(x.dtype).view(-1, 1, 1, 1) * x


def clipped(predictor, eps_follows=False):
    """A predictor whose x0 is clipped to ±1; eps is what the network said, or follows from x0."""

    def answer(x_t, at):
        p = predictor.predict(x_t, at)
        x0 = p.x0.clamp(-1, 1)
        if eps_follows:
            return replace(p, y=x0, a=1.0, b=0.0)
        # a prediction of the data itself, with that eps: at(alpha, sigma) = alpha x0 + sigma eps
        return replace(p, x_t=x0, y=p.eps, a=0.0, b=1.0, alpha=1.0, sigma=0.0)

    return replace(predictor, answer=answer)


def predictor(prediction="eps", schedule=TABLE, network=None):
    return GaussianDiffusion(network or Toy(), schedule, prediction).predictor()


def start(dtype=torch.float64):
    x = torch.arange(768, dtype=dtype) / 768
    return x.reshape(3, 8, 8, 4).permute(3, 0, 1, 2)


def noised(row, dtype=torch.float64):
    """The start with noise that is the same numbers backwards."""
    flipped = torch.arange(768, dtype=dtype).flip(0) / 768
    (level,) = TABLE.levels(torch.tensor([row / 1000]))
    x = start(dtype)
    return level.alpha * x + level.sigma * flipped.reshape(3, 8, 8, 4).permute(3, 0, 1, 2)


def times(rows):
    return torch.tensor(rows, dtype=torch.float64) / 1000


def total(x):
    return x.abs().sum().item()


def printed(value):
    """To the digits of the literal: 1e-2 in the sums, 1e-3 in the means, as the tests there ask."""
    return pytest.approx(value, abs=1e-2 if value > 1 else 1e-3)


@pytest.mark.parametrize("prediction, value", [("eps", 172.0067), ("v", 52.5302)])
def test_ddim(prediction, value):
    x = sample(clipped(predictor(prediction)), start(), DDIM(), times(LEADING))
    assert total(x) == printed(value)


def test_ddim_to_the_data_and_to_the_first_row():
    coarse = clipped(predictor(schedule=COARSE))
    assert total(sample(coarse, start(), DDIM(), times(LEADING))) == printed(149.8295)

    x = sample(coarse, start(), DDIM(), times(LEADING[:-1]))
    (first,) = COARSE.levels(times([1]))  # the last step there stays at its level
    x, _ = DDIM().step(coarse, x, first, first, (), None)
    assert total(x) == printed(149.0784)


def test_ddim_from_noised_data():
    x = sample(clipped(predictor()), noised(101), DDIM(), times([101, 1, 0]))
    assert total(x) == printed(354.5418) and x.abs().mean().item() == printed(0.4616)


def test_ddim_upwards():
    """There the network is told the row that a step goes to, not the one where the state is."""
    rows = [0, *range(1, 902, 100)]

    class Ahead(Toy):
        seen = 0

        def row(self, t):
            self.seen += 1  # the first call is for the data, and asks for row 0 as it is
            return super().row(t) + 100 * (self.seen > 1)

    up = clipped(predictor(network=Ahead()))
    x = sample(up, start(), DDIM(), times(rows))
    assert total(x) == printed(671.6816) and x.abs().mean().item() == printed(0.8746)


@pytest.mark.parametrize("prediction, value", [("eps", 258.9606), ("v", 202.0296)])
def test_ddpm(prediction, value):
    torch.manual_seed(0)
    ancestral = clipped(predictor(prediction), eps_follows=True)
    # float32, in which the noise of that seed is drawn
    assert total(sample(ancestral, start(torch.float32), DDPM(), 1000)) == printed(value)


def test_ddpm_from_noised_data():
    """387.9466 there, of float32 tables: 1 - alpha_bar has lost its digits in the first two rows.

    The same formulas with the tables in float64 give 387.9673.
    """
    torch.manual_seed(0)
    ancestral = clipped(predictor(), eps_follows=True)
    x = sample(ancestral, noised(2, torch.float32), DDPM(), times([2, 1, 0]))
    assert total(x) == printed(387.9673)
    assert total(x) == pytest.approx(387.9466, rel=1.7e-4)  # what 1 - alpha_bar is off by in row 1


@pytest.mark.parametrize("prediction, value", [("eps", 0.3301), ("v", 0.2251)])
def test_dpm_solver(prediction, value):
    x = sample(predictor(prediction), start(), DPMSolver(), times(LINSPACE))
    assert x.abs().mean().item() == printed(value)


@pytest.mark.parametrize("prediction, value", [("eps", 0.2464), ("v", 0.1014)])
def test_unipc(prediction, value):
    seen = []
    sample(predictor(prediction), start(), UniPC(), times(LINSPACE), callback=seen.append)
    # the last step there is of first order, from the corrected state
    (last,) = TABLE.levels(times([1]))
    x = seen[-1].prediction.at(last.alpha, last.sigma)
    assert x.abs().mean().item() == printed(value)


def test_euler_in_the_noise_level_of_edm():
    class Preconditioned(nn.Module):
        def forward(self, x, t):
            sigma = Karras()(t)[1]
            label = (0.25 * sigma.log()).view(-1, 1, 1, 1)
            return x * label / (label + 1)

    diffusion = GaussianDiffusion(Preconditioned(), Karras(), "karras")
    x_T = start() * (80**2 + 1) ** 0.5
    x = sample(diffusion.predictor(), x_T, DDIM(), 10, grid=KarrasGrid())
    assert total(x) == pytest.approx(34.1855, abs=1e-3) and x.abs().mean().item() == printed(0.044)


@pytest.mark.parametrize(
    "row, previous, variance",
    [(0, 0, 0.0), (420, 400, 0.14771), (980, 960, 0.32460), (487, 486, 0.00979), (999, 998, 0.02)],
)
def test_the_variance_of_a_step(row, previous, variance):
    x_t = torch.zeros(4, 3, 8, 8, dtype=torch.float64)
    t, s = TABLE.levels(times([row + 1, previous + 1]))
    x_s, _ = DDIM(1.0).step(predictor(), x_t, t, s, (), torch.Generator().manual_seed(0))
    z = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(0), dtype=x_t.dtype)
    assert (x_s / z).square().mean().item() == pytest.approx(variance, abs=1e-5)


def test_rows_are_times():
    """steps_offset=1 with 5 steps there: [801, 601, 401, 201, 1]; the time is one row further."""
    labels = []

    class Listening(Toy):
        def row(self, t):
            k = super().row(t)
            labels.append(int(k[0]))
            return k

    sample(predictor(network=Listening()), start(), DDIM(), times([802, 602, 402, 202, 2, 0]))
    assert labels == [801, 601, 401, 201, 1]
