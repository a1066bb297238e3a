"""Discrete diffusion against enumeration: kernels, bounds and samplers are exact if the network is."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from anydiff import Cosine, Flow, Linear
from anydiff.denoisers import BiRNN, Transformer, UNet
from anydiff.discrete import (
    AbsorbingKernel,
    Ancestral,
    CategoricalDiffusion,
    FirstHitting,
    OrdinalKernel,
    UniformKernel,
    Unmask,
    bits_per_token,
    chain_bound,
    continuous_bound,
    guided,
    one_hot,
    sample,
    tempered,
)
from anydiff.discrete.answers import drawn
from anydiff.discrete.bits import chain_terms, prior_terms
from anydiff.discrete.joint import Joint
from anydiff.discrete.samplers import alphas
from anydiff.schedules import Schedule
from anydiff.spaces import DENSE, Masked, Ragged
from tests.helpers.count import Reads

KERNELS = [AbsorbingKernel(3), UniformKernel(3), OrdinalKernel(3)]
DOUBLE = torch.float64


class Squared(Schedule):
    """alpha = (1 - t)², which ends at 0 as Flow() does."""

    def _levels(self, t):
        alpha = (1 - t) ** 2
        return alpha, (1 - alpha**2).clamp(min=0).sqrt()


class Wave(Schedule):
    """alpha = cos(π t / 2)."""

    def _levels(self, t):
        return torch.cos(math.pi * t / 2) * (t < 1), torch.sin(math.pi * t / 2)


# of the others a token survives to t = 1, or is forgotten at once
ENDING = [Flow(), Squared(), Wave()]
SCHEDULES = [*ENDING, Cosine(), Linear()]


def kernel_named(kernel):
    return type(kernel).__name__


@pytest.fixture
def table():
    return torch.rand(3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def exact(table, kernel, schedule=Flow()):
    return CategoricalDiffusion(Joint(table, kernel, schedule), kernel, schedule)


def every(states, length):
    return torch.tensor(list(itertools.product(range(states), repeat=length)))


def matrix(kernel, kept):
    """The kernel's matrix, a row for each state before."""
    return kernel.forward(torch.eye(kernel.states, dtype=DOUBLE).log(), kept).exp()


# kernels --------------------


@pytest.mark.parametrize(
    "kernel", [*KERNELS, OrdinalKernel(17), UniformKernel(2), AbsorbingKernel(1)], ids=str
)
def test_kernels_are_markov_chains(kernel):
    one, two, whole = matrix(kernel, 0.7), matrix(kernel, 0.4), matrix(kernel, 0.28)
    torch.testing.assert_close(one @ two, whole, atol=1e-14, rtol=0)
    torch.testing.assert_close(one.sum(1), torch.ones(kernel.states, dtype=DOUBLE))
    assert one.min() >= 0
    last = kernel.stationary(one)
    torch.testing.assert_close(last @ one, last)
    torch.testing.assert_close(matrix(kernel, 0.0), last.expand(len(one), -1), atol=1e-14, rtol=0)
    torch.testing.assert_close(matrix(kernel, 1.0), torch.eye(len(one), dtype=DOUBLE))
    torch.testing.assert_close(kernel.backward(torch.eye(len(one), dtype=DOUBLE), 0.7), one.T)


@pytest.mark.parametrize("kernel", [*KERNELS, OrdinalKernel(17)], ids=str)
def test_rates_are_those_of_the_matrix(kernel):
    step = 1e-7
    rates = (matrix(kernel, math.exp(-step)) - matrix(kernel, 1.0)) / step
    rates.fill_diagonal_(0)
    into = kernel.into(torch.eye(kernel.states, dtype=DOUBLE))  # row z: the rates into z
    torch.testing.assert_close(into, rates.T, atol=1e-4, rtol=1e-5)


def test_the_ordinal_kernel_is_a_matrix_exponential():
    kernel = OrdinalKernel(5)
    walk = torch.diag(torch.ones(4, dtype=DOUBLE), 1) + torch.diag(torch.ones(4, dtype=DOUBLE), -1)
    walk -= torch.diag(walk.sum(1))
    whole = torch.linalg.matrix_exp(walk * kernel.rate * -math.log(0.3))
    torch.testing.assert_close(matrix(kernel, 0.3), whole, atol=1e-13, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS, ids=kernel_named)
@pytest.mark.parametrize(
    "alpha_t, alpha_s", [(0.0, 0.3), (0.1, 0.2), (0.35, 0.8), (0.9, 1.0), (0.0, 1.0)]
)
def test_a_step_is_the_rule_of_bayes(kernel, alpha_t, alpha_s):
    """p(x_s | x_t) of one token whose distribution is known, by brute force."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
    diffusion = exact(p, kernel)
    start = torch.nn.functional.pad(p, (0, kernel.states - 3))
    joint = (start @ matrix(kernel, alpha_s))[:, None] * matrix(kernel, alpha_t / alpha_s)
    x_t = torch.eye(kernel.states, dtype=DOUBLE)[:, None]
    log_pi = diffusion.predictor()(x_t, torch.full((len(x_t),), 1 - alpha_t, dtype=DOUBLE))
    reached = joint.sum(0) > 1e-12
    found = kernel.posterior(log_pi, x_t, alpha_t, alpha_s)[:, 0].softmax(-1)[reached]
    expected = (joint / joint.sum(0)).T[reached]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kernel", [AbsorbingKernel(10**6), UniformKernel(10**6)], ids=kernel_named)
def test_a_million_values_cost_a_row(kernel):
    log_p = torch.randn(kernel.states).log_softmax(-1)
    assert kernel.forward(log_p, 0.5).exp().sum().item() == pytest.approx(1, abs=1e-3)
    assert kernel.into(log_p.exp()).shape == log_p.shape


# bounds --------------------


def continuous(diffusion, tokens, nodes=40):
    """The bound in continuous time for each of some data, by enumeration of x_t and quadrature."""
    kernel, length = diffusion.kernel, tokens.shape[1]
    x0 = one_hot(tokens, kernel, dtype=DOUBLE)
    states = one_hot(every(kernel.states, length), kernel, dtype=DOUBLE)
    before, after = x0.repeat_interleave(len(states), 0), states.repeat(len(x0), 1, 1)
    total = prior_terms(diffusion, x0)
    for u, w in zip(*np.polynomial.legendre.leggauss(nodes), strict=True):
        u, w = (u + 1) / 2, w / 2  # t = u³, for rates that are large near t = 0
        t = torch.full((len(before),), u**3, dtype=DOUBLE)
        at = diffusion.schedule.at(t)
        q = diffusion.forgotten(before.log(), at.alpha, DENSE)
        weight = (q.exp() * after).sum(-1).prod(-1)
        rate = diffusion.integrand(diffusion.predictor()(after, t), q, after, at, DENSE).sum((1, 2))
        rate = torch.where(weight > 0, weight * rate, 0)
        total = total + w * 3 * u**2 * rate.reshape(len(x0), -1).sum(1)
    alpha = diffusion.schedule.at(torch.zeros(len(before), dtype=DOUBLE)).alpha
    weight = (diffusion.forgotten(before.log(), alpha, DENSE).exp() * after).sum(-1).prod(-1)
    last = chain_terms(diffusion.predictor(), before, after, 0.0, 0.0)
    last = torch.where(weight > 1e-15, weight * last, 0)
    return total + last.reshape(len(x0), -1).sum(1)


@pytest.mark.parametrize(
    "kernel, schedule",
    [(kernel, of) for kernel in KERNELS[1:] for of in SCHEDULES]
    # some tokens survive at t = 1 by the other schedules: the next test
    + [(KERNELS[0], of) for of in ENDING],
    ids=kernel_named,
)
def test_the_bound_in_continuous_time_is_the_likelihood(kernel, schedule):
    """With the exact network there is no gap, for any datum, kernel or schedule."""
    table = torch.rand(3, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    table /= table.sum()
    bound = continuous(exact(table, kernel, schedule), every(3, 2), nodes=120)
    torch.testing.assert_close(bound, -table.flatten().log(), atol=5e-4, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS[1:], ids=kernel_named)
def test_the_bound_has_what_is_forgotten_at_once(kernel):
    """A schedule that begins at alpha = .94 hides tokens at t = 0, which have to be said too."""
    table = torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
    diffusion = exact(table, kernel, Cosine(logsnr_max=2.0))
    bound = continuous(diffusion, every(3, 1), nodes=60)
    torch.testing.assert_close(bound, -table.log(), atol=5e-4, rtol=0)
    # of two tokens the last step draws each by itself: it is a bound then
    pairs = torch.rand(3, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    two = continuous(exact(pairs, kernel, diffusion.schedule), every(3, 2), nodes=60)
    log_p = (pairs / pairs.sum()).flatten().log()
    assert ((pairs.flatten() / pairs.sum()) * (two + log_p)).sum() > 1e-4
    x0 = one_hot(every(3, 1), kernel, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(0)
    many = x0.expand(20_000, 3, 1, 3).reshape(-1, 1, 3)  # few draws are large
    found = continuous_bound(diffusion, many, draws=8, generator=generator).reshape(-1, 3)
    assert ((found.mean(0) - bound).abs() < 4.5 * found.std(0) / math.sqrt(20_000)).all()
    half = continuous_bound(diffusion, x0.half(), draws=2, generator=generator)
    assert half.dtype == torch.float32 and half.isfinite().all()


def test_the_loss_of_an_unlikely_token_is_its_own():
    """-log π at t = 1 of masks, however small π is; and nothing, not NaN, for one that is uncovered."""
    kernel = AbsorbingKernel(4)
    for dtype, unlikely in itertools.product((torch.float32, DOUBLE), (45.0, 60.0, 100.0, 400.0)):
        logits = torch.tensor([-unlikely, 0, -1000, -1000, 0], dtype=dtype, requires_grad=True)
        diffusion = CategoricalDiffusion(lambda x, t, of=logits: of.expand(x.shape), kernel)
        x0 = one_hot(torch.tensor([[0]]), kernel, dtype=dtype)
        loss = diffusion.loss(x0, 1.0)
        assert loss.item() == pytest.approx(unlikely, rel=1e-5)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert gradient[:2].tolist() == pytest.approx([-1, 1], rel=1e-5)
        loss = diffusion.loss(x0, 1e-4, generator=torch.Generator().manual_seed(0))  # uncovered
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.item() == 0 and not gradient.any()


@pytest.mark.parametrize("kernel", [OrdinalKernel(17), UniformKernel(17)], ids=kernel_named)
@pytest.mark.parametrize("gap", [8.0, 20.0])
def test_the_loss_has_the_same_value_in_single_precision(kernel, gap):
    """Of a network that is sure of what is far away."""
    losses = []
    for dtype in (torch.float32, DOUBLE):
        logits = torch.zeros(17, dtype=dtype)
        logits[16] = gap
        diffusion = CategoricalDiffusion(
            lambda x, t, of=logits: of.expand(x.shape), kernel, Cosine()
        )
        x0 = one_hot(torch.arange(16)[:, None], kernel, dtype=dtype)
        noise = torch.randn(x0.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
        times = torch.linspace(0.05, 1, 16, dtype=dtype)
        losses.append(diffusion.loss(x0, times, noise=noise).double())
    torch.testing.assert_close(*losses, atol=1e-3, rtol=1e-3)


def test_tokens_that_survive_have_no_finite_bound():
    kernel = AbsorbingKernel(3)
    diffusion = exact(torch.rand(3, 3), kernel, Cosine())
    assert prior_terms(diffusion, one_hot(every(3, 2), kernel, dtype=DOUBLE)).isinf().all()


@pytest.mark.parametrize("kernel", KERNELS, ids=kernel_named)
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_chain_of_one_token_is_exact(kernel, steps):
    """prior + Σ KL + reconstruction is −log p(x0) if the chain begins with q(x_1): one token, any T."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
    diffusion = exact(p, kernel)
    x0 = one_hot(torch.arange(3)[:, None], kernel, dtype=DOUBLE)
    states = torch.eye(kernel.states, dtype=DOUBLE)
    total = prior_terms(diffusion, x0)  # Flow() ends in the stationary distribution
    times = torch.linspace(1, 0, steps + 1, dtype=DOUBLE).tolist()
    for t, s in itertools.pairwise(times):
        weight = x0[:, 0] @ matrix(kernel, 1 - t)
        for z in range(kernel.states):
            reached = weight[:, z] > 0
            if reached.any():
                x_t = states[z].expand(3, 1, -1)
                terms = chain_terms(diffusion.predictor(), x0, x_t, t, s)
                total = total + torch.where(reached, weight[:, z] * terms, 0)
    torch.testing.assert_close(total, -p.log(), atol=1e-9, rtol=0)


def test_masks_of_three_tokens_sum_to_the_likelihood(table):
    """The integral of masked diffusion is a sum over masks, whatever the schedule."""
    kernel, table = AbsorbingKernel(3), table / table.sum()
    bound = continuous(exact(table, kernel), every(3, 3), nodes=24)
    torch.testing.assert_close(bound, -table.flatten().log(), atol=1e-9, rtol=0)
    total = torch.zeros(27, dtype=DOUBLE)
    for mask in itertools.product([False, True], repeat=3):
        if not any(mask):
            continue
        m = sum(mask)
        share = math.factorial(m - 1) * math.factorial(3 - m) / math.factorial(3)
        hidden = [k for k in range(3) if mask[k]]
        for i in hidden:
            rest = [k for k in hidden if k != i]
            joint = table.sum(rest, keepdim=True) if rest else table
            of = (joint / joint.sum(i, keepdim=True)).expand(3, 3, 3)
            total -= share * of.flatten().log()
    torch.testing.assert_close(bound, total, atol=1e-9, rtol=0)


@pytest.mark.slow
def test_the_loss_is_the_bound(table):
    kernel = AbsorbingKernel(3)
    diffusion, p = exact(table, kernel), table.flatten() / table.sum()
    x0 = one_hot(every(3, 3), kernel, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(0)
    found = torch.stack(
        [continuous_bound(diffusion, x0, draws=64, generator=generator) for _ in range(30)]
    )
    error = found.std(0) / math.sqrt(30)
    assert ((found.mean(0) + p.log()).abs() < 4.5 * error).all()
    bits = bits_per_token(diffusion, x0, draws=64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bits, found[0] / 3 / math.log(2))
    assert diffusion.training  # as before


@pytest.mark.slow
def test_a_chain_tends_to_the_bound_with_its_steps(table):
    """The mean gap over the data falls as 1 / T."""
    kernel, p = AbsorbingKernel(3), table.flatten() / table.sum()
    diffusion = exact(table, kernel)
    x0 = one_hot(every(3, 3), kernel, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(0)

    def gap(steps, draws=400):
        total = sum(chain_bound(diffusion, x0, steps, generator=generator) for _ in range(draws))
        return float((p * (total / draws + p.log())).sum())

    few, more = gap(1), gap(4)
    assert few > 0.01 and 2.5 < few / more < 7


# draws --------------------


@pytest.mark.parametrize(
    "kernel, schedule",
    [(AbsorbingKernel(3), Flow()), (UniformKernel(3), Flow()), (OrdinalKernel(3), Cosine())],
    ids=str,
)
def test_the_law_of_ancestral_sampling_tends_to_the_data(kernel, schedule):
    """By enumeration of all states in all steps: its distance from the data falls as 1 / steps."""
    table = torch.rand(3, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    predictor = exact(table, kernel, schedule).predictor()
    states = every(kernel.states, 2)
    x = one_hot(states, kernel, dtype=DOUBLE)
    data = (states < 3).all(1)
    off = []
    for steps in (16, 64):
        law = kernel.stationary(x)[states].prod(1)
        times = torch.linspace(1, 0, steps + 1, dtype=DOUBLE)
        survived = alphas(schedule, times)
        for k, t in enumerate(times[:-1].tolist()):
            log_pi = predictor(x, torch.full((len(x),), t, dtype=DOUBLE))
            step = kernel.posterior(log_pi, x, *survived[k : k + 2]).softmax(-1)
            law = law @ (step[:, 0, states[:, 0]] * step[:, 1, states[:, 1]])
        off.append((law[data] - table.flatten() / table.sum()).abs().sum().item() / 2)
    assert off[0] < 0.01 and off[0] / off[1] == pytest.approx(4, rel=0.1)


def shares(x, states, length):
    places = states ** torch.arange(length - 1, -1, -1)
    return torch.bincount(x.argmax(-1) @ places, minlength=states**length).double() / len(x)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS, ids=kernel_named)
def test_samples_have_the_distribution_of_the_data(kernel):
    p, num = (
        torch.tensor([[0.3, 0.1, 0.05], [0.05, 0.2, 0.05], [0.1, 0.05, 0.1]], dtype=DOUBLE),
        40_000,
    )
    diffusion = exact(p, kernel, Cosine() if isinstance(kernel, OrdinalKernel) else Flow())
    x = diffusion.sample((num, 2, kernel.states), steps=60, seed=0)
    assert (x.sum(-1) == 1).all() and not (x[..., 3:] == 1).any()  # no mask is left
    error = (p.flatten() / num).sqrt()
    # and what 60 steps are off by
    assert ((shares(x[..., :3], 3, 2) - p.flatten()).abs() < 4.5 * error + 0.006).all()


@pytest.mark.parametrize("sampler", [FirstHitting(), Unmask()], ids=kernel_named)
def test_token_by_token_is_exact(sampler, table):
    num, p = 40_000, table.flatten() / table.sum()
    steps = {} if isinstance(sampler, FirstHitting) else {"steps": 3}  # a token a step
    x = exact(table, AbsorbingKernel(3)).sample((num, 3, 4), sampler=sampler, seed=1, **steps)
    assert ((shares(x[..., :3], 3, 3) - p).abs() < 4.5 * (p / num).sqrt()).all()


def test_the_surest_come_first():
    table = torch.tensor([[0.45, 0.05], [0.35, 0.15]], dtype=DOUBLE)  # the second token is surer
    seen = []
    diffusion = exact(table, AbsorbingKernel(2))
    diffusion.sample(
        (50, 2, 3), sampler=Unmask("confident"), steps=2, seed=0,
        callback=lambda step, steps, x: seen.append(x.clone()),
    )  # fmt: skip
    uncovered = seen[0][..., 2] == 0
    assert (uncovered.sum(1) == 1).all() and uncovered[:, 1].double().mean() > 0.75


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler, steps", [(FirstHitting(), None), (Unmask(), 2), (Ancestral(), 80)], ids=str
)
def test_what_is_known_is_kept_and_the_rest_is_conditional(sampler, steps, table):
    num, kernel = 40_000, AbsorbingKernel(3)
    tokens = torch.full((num, 3), 3)
    tokens[:, 1] = 2
    x = exact(table, kernel).sample(
        one_hot(tokens, kernel, dtype=DOUBLE), sampler=sampler, steps=steps, start=2 / 3, seed=0
    )
    assert (x[:, 1, 2] == 1).all()
    p = table[:, 2] / table[:, 2].sum()
    found = shares(x[:, [0, 2], :3], 3, 2)
    off = 0.004 if isinstance(sampler, Ancestral) else 0  # by its 80 steps
    assert ((found - p.flatten()).abs() < 4.5 * (p.flatten() / num).sqrt() + off).all()


def never(x, t):
    """A network that holds what it sees for impossible, and the first value for certain."""
    return -300 * x + 100 * one_hot(torch.zeros(x.shape[:-1], dtype=torch.long), AbsorbingKernel(5))


@pytest.mark.parametrize("sampler", [Ancestral(), Unmask(), FirstHitting()], ids=kernel_named)
def test_what_is_known_stays_though_the_model_holds_it_for_impossible(sampler):
    kernel = AbsorbingKernel(5)
    tokens = torch.tensor([[4, 5, 3, 5, 1, 4]] * 5)
    free = CategoricalDiffusion(never, kernel).predictor()
    forbidding = replace(free, answer=lambda x, t: free(x, t).masked_fill(x > 0, -torch.inf))
    for predictor in (free, tempered(free, 0.2), guided(free, free, 5.0), forbidding):
        steps = 20 if sampler.planned else None
        x = sample(predictor, one_hot(tokens, kernel), sampler, steps, start=0.5, seed=0)
        assert torch.equal(x.argmax(-1)[tokens < 5], tokens[tokens < 5])


@pytest.mark.parametrize("length, steps", [(22, 64), (10, 64), (7, 200), (64, 5)])
def test_as_many_are_uncovered_as_the_schedule_says(length, steps):
    kernel, left = AbsorbingKernel(3), []
    CategoricalDiffusion(lambda x, t: x, kernel, Squared()).sample(
        (2, length, 4), sampler=Unmask(), steps=steps, seed=0,
        callback=lambda step, steps, x: left.append(x[..., 3].sum(1).tolist()),
    )  # fmt: skip
    share = 1 - (torch.arange(1, steps + 1, dtype=DOUBLE) / steps) ** 2  # 1 - alpha
    assert left == [[round(n)] * 2 for n in (length * share).tolist()]


def test_draws_are_right_for_rare_values():
    """Noise of float64: a chi-squared test down to one in 10^5, in a million draws."""
    p = torch.tensor([0.9, 0.09, 0.009, 9e-4, 9e-5, 1e-5, 0.0], dtype=torch.float32)
    x = torch.zeros(1_000_000, 7)
    logits = p.log().expand(x.shape)
    count = drawn(logits, DENSE, x, torch.Generator().manual_seed(0), -1).sum(0).double()
    expected = 1e6 * p[:6].double() / p.double().sum()
    assert ((count[:6] - expected).square() / expected).sum() < 25 and count[6] == 0


def test_items_do_not_depend_on_their_batch():
    kernel, net = AbsorbingKernel(5), Transformer(6, 16, 1)
    diffusion = CategoricalDiffusion(net, kernel)
    torch.nn.init.normal_(net.out.weight if hasattr(net, "out") else next(net.parameters()))
    space = Masked.from_lengths([4, 2, 3])
    for sampler, steps in ((Ancestral(), 5), (Unmask("confident"), 5), (FirstHitting(), None)):
        how = {"sampler": sampler, "steps": steps}
        x = diffusion.sample((3, 4, 6), space=space, seed=[7, 8, 9], **how)
        assert (x[1, 2:] == 0).all() and (x[1, :2].sum(-1) == 1).all()  # padding has no token
        alone = diffusion.sample((1, 2, 6), space=Masked.from_lengths([2]), seed=[8], **how)
        torch.testing.assert_close(x[1:2, :2], alone)


def test_ragged_rows_are_tokens_too():
    kernel = UniformKernel(3)
    space = Ragged.from_sizes([2, 3])
    net = torch.nn.Linear(3, 3)
    diffusion = CategoricalDiffusion(lambda x, t, space: net(x), kernel)
    x0 = one_hot(torch.tensor([0, 1, 2, 2, 1]), kernel)
    assert diffusion.loss(x0, space=space).shape == (2,)
    x = diffusion.sample((5, 3), space=space, steps=3, seed=[1, 2])
    assert (x.sum(1) == 1).all()
    with pytest.raises(
        ValueError, match="Ragged mixes the entries of an item, and tokens are one-h"
    ):
        diffusion.loss(x0, space=Ragged.from_sizes([2, 3], centered=3))


def test_tokens_on_a_device_are_not_read():
    tokens = torch.zeros(2, 3, dtype=torch.long, device="meta")
    assert one_hot(tokens, AbsorbingKernel(3)).shape == (2, 3, 4)


def test_images_have_their_states_as_channels():
    kernel = OrdinalKernel(4)
    diffusion = CategoricalDiffusion(UNet(4, (8, 16), groups=4), kernel, Cosine(), axis=1)
    tokens = torch.randint(4, (3, 8, 8), generator=torch.Generator().manual_seed(0))
    x0 = one_hot(tokens, kernel, axis=1)
    assert torch.equal(x0.argmax(1), tokens)
    loss = diffusion.loss(x0, generator=torch.Generator().manual_seed(0))
    assert loss.shape == (3,) and (loss > 0).all()
    loss.mean().backward()
    assert all(p.grad is not None for p in diffusion.parameters())
    x = diffusion.sample((2, 4, 8, 8), steps=3, seed=0)
    assert (x.sum(1) == 1).all()


def test_padding_and_neighbours_do_not_change_a_loss():
    kernel, net = AbsorbingKernel(4), BiRNN(5, 16, 1)
    diffusion = CategoricalDiffusion(net, kernel).eval()
    tokens = torch.tensor([[0, 1, 2, 3], [3, 2, -1, -1]])
    x0, space = one_hot(tokens, kernel), Masked.from_lengths([4, 2])
    noise = torch.randn(2, 4, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    both = diffusion.loss(x0, 0.6, space=space, noise=noise)
    alone = diffusion.loss(x0[1:, :2], 0.6, space=Masked.from_lengths([2]), noise=noise[1:, :2])
    torch.testing.assert_close(both[1:], alone)


@pytest.mark.slow
def test_training_finds_the_distribution():
    """A network without inputs learns the marginals of one token, with each kernel."""
    p = torch.tensor([0.6, 0.3, 0.1], dtype=DOUBLE)
    for kernel in KERNELS:
        logits = torch.nn.Parameter(torch.zeros(kernel.states, dtype=DOUBLE))

        class Free(torch.nn.Module):
            def __init__(self, logits):
                super().__init__()
                self.logits = logits

            def forward(self, x, t):
                return self.logits.expand(x.shape)

        diffusion = CategoricalDiffusion(Free(logits), kernel, Cosine())
        optimizer = torch.optim.Adam([logits], 0.05)
        generator = torch.Generator().manual_seed(0)
        for _ in range(250):
            tokens = torch.multinomial(p, 256, True, generator=generator)[:, None]
            loss = diffusion.loss(one_hot(tokens, kernel, dtype=DOUBLE), generator=generator).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(logits[:3].softmax(0).detach(), p, atol=0.06, rtol=0)


def test_guidance_weighs_two_predictors(table):
    kernel = AbsorbingKernel(3)
    told, free = exact(table, kernel).predictor(), exact(table.flip(0), kernel).predictor()
    x_t = one_hot(torch.tensor([[3, 1, 3], [3, 3, 3]]), kernel, dtype=DOUBLE)
    t = torch.full((2,), 0.5, dtype=DOUBLE)
    a, b = told(x_t, t), free(x_t, t)
    for scale, expected in ((1.0, a), (0.0, b), (2.0, (2 * a - b)[..., :3].log_softmax(-1))):
        found = guided(told, free, scale)(x_t, t)
        torch.testing.assert_close(found[..., :3], expected[..., :3])
        assert found[..., 3].isneginf().all()
    assert sample(guided(told, free, 3.0), (5, 3, 4), steps=4, seed=0).sum() == 15
    # what one of them forbids
    bans = [
        replace(of, answer=lambda x, t, of=of, k=k: of(x, t).index_fill(-1, torch.tensor([k]), -math.inf))
        for k, of in enumerate((told, free))
    ]  # fmt: skip
    for scale, allowed in ((0.0, [1, 0, 1]), (0.5, [0, 0, 1]), (1.0, [0, 1, 1]), (3.0, [0, 1, 1])):
        found = guided(*bans, scale)(x_t, t)[..., :3]
        assert not found.isnan().any() and found.exp().sum(-1).allclose(
            torch.ones(2, 3, dtype=DOUBLE)
        )
        assert torch.equal(found.isfinite(), torch.tensor(allowed).bool().expand(2, 3, 3))
    with pytest.raises(ValueError, match="scale"):
        guided(told, free, math.nan)


def test_a_temperature_sharpens_each_token(table):
    """To the power 1 / T and to one again; 1 changes nothing, and towards 0 the likeliest is left."""
    kernel = AbsorbingKernel(3)
    plain = exact(table, kernel).predictor()
    x_t = one_hot(torch.tensor([[3, 1, 3], [3, 3, 3]]), kernel, dtype=DOUBLE)
    t = torch.full((2,), 0.5, dtype=DOUBLE)
    p = plain(x_t, t)[..., :3].exp()
    for temperature in (1.0, 0.5, 2.0):
        found = tempered(plain, temperature)(x_t, t)
        power = p ** (1 / temperature)
        torch.testing.assert_close(found[..., :3].exp(), power / power.sum(-1, keepdim=True))
        assert found[..., 3].isneginf().all()
    cold = tempered(plain, 1e-3)(x_t, t)
    assert torch.equal(cold.argmax(-1), p.argmax(-1)) and (cold.exp().amax(-1) > 0.99).all()
    assert sample(tempered(plain, 0.5), (5, 3, 4), steps=4, seed=0).sum() == 15
    with pytest.raises(ValueError, match="temperature is 0"):
        tempered(plain, 0)


@pytest.mark.parametrize("sampler", [Ancestral(), Unmask(), Unmask("confident")], ids=str)
def test_a_run_reads_nothing_from_the_device_in_its_steps(sampler):
    kernel = AbsorbingKernel(3)
    diffusion = CategoricalDiffusion(lambda x, t: x, kernel)
    reads = []
    for steps in (4, 40):
        with Reads() as counted:
            diffusion.sample((2, 3, 4), sampler=sampler, steps=steps, seed=0)
        reads.append(counted.count)
    assert reads[0] == reads[1]  # the times of a run are read once


def test_a_run_that_starts_later_asks_no_earlier_times():
    asked = []

    def net(x, t):
        asked.append(t)
        return x

    kernel = AbsorbingKernel(3)
    x = one_hot(torch.tensor([[3, 1, 3, 3]] * 50), kernel)
    for sampler, steps in ((Ancestral(), 5), (Unmask(), 5), (FirstHitting(), None)):
        asked.clear()
        predictor = CategoricalDiffusion(net, kernel).predictor()
        done = sample(predictor, x, sampler, steps, start=0.2, seed=0)
        assert max(float(t.max()) for t in asked) <= 0.2 + 1e-6
        assert (done[:, 1, 1] == 1).all() and done[..., 3].sum() == 0
    assert torch.cat(asked).mean().item() == pytest.approx(0.1, abs=0.02)


def test_what_is_known_does_not_crowd_the_rest():
    kernel, left = AbsorbingKernel(3), []
    tokens = torch.tensor([[1, 1, 1, 1, 1, 1, 3, 3, 3, 3]])
    CategoricalDiffusion(lambda x, t: x, kernel).sample(
        one_hot(tokens, kernel), sampler=Unmask(), steps=4, seed=0,
        callback=lambda step, steps, x: left.append(int(x[..., 3].sum())),
    )  # fmt: skip
    assert left == [3, 2, 1, 0]


def test_the_loss_at_the_last_time_is_its_limit():
    torch.manual_seed(0)
    for kernel in (AbsorbingKernel(4), UniformKernel(4), OrdinalKernel(4)):
        logits = torch.randn(kernel.states, dtype=DOUBLE, requires_grad=True)
        diffusion = CategoricalDiffusion(lambda x, t, of=logits: of.expand(x.shape), kernel)
        x0 = one_hot(torch.tensor([[1, 2]]), kernel, dtype=DOUBLE)
        noise = torch.randn(x0.shape, dtype=DOUBLE)
        found = []
        for t in (1.0, 1 - 1e-9):
            loss = diffusion.loss(x0, t, noise=noise).sum()
            found.append((loss.detach(), torch.autograd.grad(loss, logits)[0]))
        torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
    log_pi = logits.detach()[:4].log_softmax(0)
    diffusion = CategoricalDiffusion(lambda x, t: logits.new_zeros(x.shape), AbsorbingKernel(4))
    x0 = one_hot(torch.tensor([[1, 2]]), AbsorbingKernel(4), dtype=DOUBLE)
    assert diffusion.loss(x0, 1.0).item() == pytest.approx(math.log(4)) and len(log_pi) == 4


def test_bounds_have_the_seeds_of_their_items(table):
    kernel = AbsorbingKernel(3)
    diffusion = exact(table, kernel)
    x0 = one_hot(torch.tensor([[0, 1, 2], [2, 2, 0]]), kernel, dtype=DOUBLE)

    def seeds(*of):
        return [torch.Generator().manual_seed(k) for k in of]

    both = continuous_bound(diffusion, x0, draws=4, generator=seeds(1, 2))
    torch.testing.assert_close(
        both, continuous_bound(diffusion, x0, draws=4, generator=seeds(1, 2))
    )
    one = continuous_bound(diffusion, x0[1:], draws=4, generator=seeds(2))
    torch.testing.assert_close(both[1:], one)


def test_bounds_are_of_a_network_without_dropout():
    kernel = AbsorbingKernel(3)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 4))
    diffusion = CategoricalDiffusion(Plain(net), kernel)
    x0 = one_hot(torch.tensor([[0, 1, 2]] * 3), kernel)
    for bound in (lambda **g: continuous_bound(diffusion, x0, draws=3, **g),
                  lambda **g: chain_bound(diffusion, x0, 3, **g)):  # fmt: skip
        one, two = (bound(generator=torch.Generator().manual_seed(0)) for _ in range(2))
        torch.testing.assert_close(one, two)
    assert net[1].training


class Plain(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t):
        return self.net(x)


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda d: d.loss(torch.zeros(2, 3, 3)), r"x0 is \(2, 3, 3\), and Absorbing"),
        (lambda d: d.sample((2, 3, 3)), r"x_T is \(2, 3, 3\), and Absorbing"),
        (lambda d: d.sample((2, 3, 4), steps=0), "steps is 0"),
        (lambda d: d.sample((2, 3, 4), sampler=FirstHitting(), steps=4), "takes as many steps as i"),
        (lambda d: d.sample((2, 3, 4), seed=[1]), "1"),
        (lambda d: d.sample("much"), "the shape, or state x_T, is 'much'"),
        (lambda d: d.sample(torch.zeros(2, 3, 4, dtype=torch.long)), "floating"),
        (lambda d: guided(d, d, 2.0), "give a predictor"),
        (
            lambda d: guided(d.predictor(), exact(torch.rand(3, 3), UniformKernel(3)).predictor(), 2.0),
            "the two predictors have different values of kernel",
        ),
        (
            lambda d: guided(d.predictor(), d.predictor(Masked.from_lengths([3])), 2.0),
            "the denoiser does not take its space|different spaces",
        ),
        (lambda d: CategoricalDiffusion(d.denoiser, d.kernel, axis=5).loss(torch.zeros(2, 4)), "axis 5"),
        (lambda d: CategoricalDiffusion(d.denoiser, d.kernel, axis=5).sample((2, 3, 4)), "have axis 5"),
        (lambda d: CategoricalDiffusion(d.denoiser, d.kernel, axis=0).loss(torch.zeros(4, 3)), "axis 0"),
        (lambda d: one_hot(torch.tensor([4]), d.kernel), "a token is 4, and AbsorbingKernel"),
        (lambda d: one_hot(torch.tensor([0.5]), d.kernel), "give whole numbers"),
        (lambda d: Unmask("best"), "order is 'best'"),
        (lambda d: UniformKernel(1), "values is 1"),
        (lambda d: CategoricalDiffusion(d.denoiser, 3), "give a kernel, such as AbsorbingKernel"),
        (lambda d: Joint(torch.rand(3, 2), d.kernel, Flow()), r"the table is \(3, 2\)"),
        (lambda d: d.loss(torch.zeros(2, 3, 4), generator=[torch.Generator()] * 2), "one generator per"),
        (
            lambda d: CategoricalDiffusion(torch.nn.Identity(), UniformKernel(3)).sample(
                (2, 3, 3), sampler=FirstHitting()
            ),
            "FirstHitting uncovers masked tokens, and the kernel is UniformKernel",
        ),
        (
            lambda d: CategoricalDiffusion(lambda x, t: x[..., :2], UniformKernel(3)).loss(
                torch.zeros(2, 3, 3)
            ),
            r"x_t is \(2, 3, 3\) and the denoiser gives \(2, 3, 2\)",
        ),
        (
            lambda d: CategoricalDiffusion(lambda x, t: x, UniformKernel(3)).loss(
                torch.zeros(2, 3, 3), space=Masked.from_lengths([2, 3])
            ),
            "the batch is in Masked and the denoiser does not take its space",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_an_error(make, error, table):
    with pytest.raises(ValueError, match=error):
        make(exact(table, AbsorbingKernel(3)))
