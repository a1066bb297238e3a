"""The training of a student: what it learns, what it leaves alone, what it costs, and where it works."""

import copy
import inspect
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from anydiff import (
    DDIM,
    Cosine,
    Dense,
    DPMSolver,
    Flow,
    GaussianDiffusion,
    Karras,
    Linear,
    Masked,
    Ragged,
    Tabulated,
    classifier_free,
    exact,
    load,
    sample,
    save,
)
from anydiff.denoisers import EGNN, BiRNN
from anydiff.distillation import Closer, Distillation, consistent, known, merged, student
from anydiff.losses import Hybrid, LossSecondMoment, MinSNR, Plain, Rows, TruncatedSNR, Unit
from anydiff.predictions import TARGETS
from anydiff.samplers import Uniform, plan
from anydiff.schedules import Learned, ZeroTerminalSNR
from anydiff.training.module import DiffusionModule
from tests.helpers.networks import awake
from tests.helpers.spaces import MASK, NODES, SIZES, draw, every_space, generators
from tests.helpers.students import fit, linear, slopes
from tests.helpers.training import MLP, At, dense, train, weights
from tests.helpers.training import batches as batches_of

TIMES = (1.0, 0.75, 0.5, 0.25, 0.0)
HALVES = TIMES[::2]
ROWS = Rows(HALVES)
X, EPS = draw((4, 2)), draw((4, 2), 1)
T = torch.tensor([1.0, 0.5, 1.0, 0.5])


class Small(nn.Module):
    """A network of a few weights, with dropout if asked for."""

    def __init__(self, dropout=0.0, size=2):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(size + 1, 8), nn.Tanh(), nn.Linear(8, size))
        self.dropout, self.calls, self.masks, self.graphs = nn.Dropout(dropout), 0, [], []

    def forward(self, x_t, t, label=None):
        self.calls += 1
        y = self.layers(torch.cat([x_t, t[:, None].to(x_t.dtype)], 1))
        if label is not None:
            y = y + label[:, None].clamp(min=-1)
        dropped = self.dropout(torch.ones_like(y))
        if self.dropout.p:
            self.masks.append((self.training, dropped.detach()))
            self.graphs.append(torch.is_grad_enabled())
        return y * dropped


def model(schedule=Cosine(), prediction="v", dropout=0.0, **options):  # noqa: B008
    return GaussianDiffusion(Small(dropout), schedule, prediction, **options).double()


def halving(teacher, times=TIMES, n=2):
    """The target of progressive distillation."""
    return lambda x0, space, **cond: merged(teacher.predictor(space, **cond), times, n)


def training(own, nearer=None):
    """The target of consistency training."""

    def target(x0, space, **cond):
        first = known(x0, own.schedule, space)
        return consistent(first, own.predictor(space, **cond), nearer or own.times.nearer)

    return target


def distilling(own, teacher, nearer=None):
    """The target of consistency distillation."""
    return lambda x0, space, **cond: consistent(
        teacher.predictor(space, **cond), own.predictor(space, **cond), nearer or own.times.nearer
    )


def objectives(dropout=0.0, **options):
    """Of each kind, with its student and its teacher, if there is one."""
    made = {}
    for name in ("merged", "consistent", "known"):
        teacher = model(dropout=dropout, **options)
        own = student(teacher, ROWS)
        target = {"merged": halving(teacher), "consistent": distilling(own, teacher),
                  "known": training(own)}[name]  # fmt: skip
        made[name] = Distillation(own, target), own, teacher
    return made


def keeping(p, seen):
    """The predictor, and each x0 that it names."""

    def answer(x_t, at):
        found = p.answer(x_t, at)
        seen.append(found.x0)
        return found

    return replace(p, answer=answer)


every_kind = pytest.mark.parametrize("kind", ["merged", "consistent", "known"])

# --- what is learnt -----------------------------------------------------------------------------

MEAN, STD = 0.4, 0.5
DATA_SCHEDULES = [
    Cosine(),
    ZeroTerminalSNR(Cosine()),
    Linear(),
    Flow(),
    Karras(),
    Tabulated.linear(),
]
every_schedule = pytest.mark.parametrize("schedule", DATA_SCHEDULES, ids=str)


def closed(levels, n, variance=STD**2):
    """k = (product of m - sigma_s / sigma_t) / (alpha_s - sigma_s alpha_t / sigma_t) of each row."""
    found = []
    for row in range(0, len(levels) - 1, n):
        part, product = levels[row : row + n + 1], 1.0
        for t, s in itertools.pairwise(part):
            product *= s.alpha * t.alpha * variance + s.sigma * t.sigma
            product /= t.alpha**2 * variance + t.sigma**2
        t, ratio = part[0], part[-1].sigma / part[0].sigma
        found.append((product - ratio) / (part[-1].alpha - ratio * t.alpha))
    return found


def test_the_closed_form_has_the_values_of_its_derivation():
    levels = plan(Cosine(), 8, DDIM(), Uniform())
    assert closed(levels, 2, 0.25) == pytest.approx([0.0272, 0.1426, 0.3431, 0.7380], abs=5e-5)
    assert closed(levels[::2], 1, 0.25) == pytest.approx([0.0017, 0.1091, 0.2848, 0.6434], abs=5e-5)


@every_schedule
@pytest.mark.parametrize("rows, n", [(4, 2), (1, 4), (3, 3)])
def test_the_target_is_the_closed_form(schedule, rows, n):
    levels = plan(schedule, rows * n, DDIM(), Uniform())
    teacher = exact.gaussian(schedule, "v", mean=MEAN, std=STD).predictor()
    target, x = merged(teacher, [at.t for at in levels], n), draw((5, 1))
    for at, k in zip(levels[::n][:-1], closed(levels, n), strict=True):
        expected = MEAN + k * (x - at.alpha * MEAN)
        assert torch.allclose(target.predict(x, at).x0, expected, atol=1e-12)


@pytest.mark.parametrize("prediction", ["v", "x0", "karras", "velocity"])
@every_schedule
@pytest.mark.parametrize("weighting", [Plain(), TruncatedSNR()], ids=str)
def test_the_closed_form_has_no_loss_and_no_slope_and_is_alone(schedule, prediction, weighting):
    """A parabola in each k: its derivative at k, at k + h and at k - h is 0, g and -g."""
    levels = plan(schedule, 8, DDIM(), Uniform())
    times = [at.t for at in levels]
    teacher = exact.gaussian(schedule, "v", mean=MEAN, std=STD)
    own = linear(times[::2], schedule, prediction, MEAN, weighting=weighting)
    k, target = own.denoiser.k, halving(teacher, times)
    best = torch.tensor(closed(levels, 2), dtype=torch.float64)
    found = []
    for h in (0.0, 0.1, -0.1):
        k.data = best + h
        found.append(slopes(own, target, MEAN, STD))
    for (loss, slope), (above, up), (below, down) in zip(*found, strict=True):
        # of states of size 80, whose squares are of rounding 80² times 1e-32
        assert loss < 1e-20 * max(1, above) and abs(slope) < 1e-9 * max(1, up)
        assert up > 0 > down and up == pytest.approx(-down, rel=1e-6)
        assert above == pytest.approx(below, rel=1e-6) and above == pytest.approx(
            0.05 * up, rel=1e-6
        )


@every_schedule
def test_a_chain_of_students_is_the_map_of_the_first_run(schedule):
    """8 -> 4 -> 2 -> 1: each fitted to the one before it by normal equations, not trained."""
    levels = plan(schedule, 8, DDIM(), Uniform())
    times = [at.t for at in levels]
    teacher = first = exact.gaussian(schedule, "v", mean=MEAN, std=STD)
    x = MEAN * levels[0].alpha + draw((5, 1)) * math.hypot(levels[0].alpha, levels[0].sigma)
    expected = sample(first.predictor(), x, DDIM(), times)
    for n in (2, 4, 8):
        own = linear(times[::2], schedule, mean=MEAN, weighting=Unit("x0"))
        teacher = fit(own, halving(teacher, times), MEAN, STD)
        assert own.denoiser.k.tolist() == pytest.approx(closed(levels, n), abs=1e-12, rel=1e-11)
        assert torch.allclose(sample(own.predictor(), x), expected, atol=1e-12)
        times = times[::2]
    assert len(own.times.times) == 2


def test_all_steps_at_once_are_learnt_from_noise_alone():
    """Luhman & Luhman: one row, whose answer is where the run ends; with another solver too."""
    teacher = exact.gaussian(Cosine(), "v", mean=MEAN, std=STD)
    for sampler in (DDIM(), DPMSolver(3)):
        levels = plan(Cosine(), 12, sampler)
        own = linear([1.0, 0.0], Cosine(), mean=MEAN)
        times = [at.t for at in levels]
        fit(
            own,
            lambda x0, space, m=(times, 12, sampler): merged(teacher.predictor(space), *m),
            MEAN,
            STD,
        )
        x = draw((5, 1))
        expected = sample(teacher.predictor(), x, sampler, times)
        assert torch.allclose(sample(own.predictor(), x), expected, atol=1e-11)


@pytest.mark.parametrize("prediction", TARGETS)
@every_space
def test_the_loss_is_the_weighted_distance_from_the_target(space, shape, prediction):
    """max(SNR, 1) times the squared error of x0, whatever is predicted, in every space."""

    class Bent(nn.Module):
        def forward(self, x_t, t, space=Dense()):  # noqa: B008
            return torch.sin(x_t + space.expand(t, x_t))

    teacher = GaussianDiffusion(Bent(), Cosine(), "v")
    own = GaussianDiffusion(Bent(), Cosine(), prediction, TruncatedSNR(), ROWS)
    x, eps = space.project(draw(shape)), space.project(draw(shape, 1))
    loss = Distillation(own, halving(teacher)).loss(x, T.double(), space=space, noise=eps)
    at = Cosine().at(T.double())
    x_t = space.expand(at.alpha, x) * x + space.expand(at.sigma, x) * eps
    target = merged(teacher.predictor(space), TIMES).predict(x_t, at).x0
    error = space.sum((target - own.predictor(space).predict(x_t, at).x0).square())
    expected = (at.alpha / at.sigma).square().clamp(min=1) * error / space.dim(x).clamp(min=1)
    assert torch.allclose(loss, expected, rtol=1e-9)


# --- batches ------------------------------------------------------------------------------------


def test_a_centred_batch_s_target_is_in_its_space_and_each_item_s_own():
    torch.manual_seed(0)
    teacher = GaussianDiffusion(awake(EGNN(2, 8, 2, tanh=True)), Cosine(), "v").double()
    own = student(teacher, ROWS)
    x, eps = NODES.project(draw((14, 5))), NODES.project(draw((14, 5), 1))
    seen = []
    kinds = {
        "merged": halving(teacher),
        "consistent": distilling(own, teacher),
        "known": training(own),
    }
    for target in kinds.values():
        seen.clear()
        objective = Distillation(own, lambda x0, space, t=target: keeping(t(x0, space), seen))
        together = objective.loss(x, T.double(), space=NODES, noise=eps)
        (x0,) = seen
        assert torch.allclose(NODES.project(x0), x0, atol=1e-12)
        for item in range(4):
            rows = NODES.index == item
            alone = Ragged.from_sizes([SIZES[item]], centered=3)
            single = objective.loss(x[rows], T[item].item(), space=alone, noise=eps[rows])
            assert torch.allclose(single, together[item : item + 1], rtol=1e-9)
            assert torch.allclose(seen.pop(), x0[rows], atol=1e-11)


def test_padding_is_no_part_of_a_target():
    torch.manual_seed(0)
    teacher = GaussianDiffusion(awake(BiRNN(3, 8, 1)), Cosine(), "v").double()
    own, space = student(teacher, ROWS), Masked(MASK)
    x, eps = space.project(draw((4, 7, 3))), space.project(draw((4, 7, 3), 1))
    for target in (halving(teacher), distilling(own, teacher), training(own)):
        seen = []
        objective = Distillation(own, lambda x0, space, t=target, s=seen: keeping(t(x0, space), s))
        loss = objective.loss(x, T.double(), space=space, noise=eps)
        assert (seen[0][~MASK] == 0).all() and (seen[0][MASK] != 0).all()
        # what stands in the padding of the data is not looked at, and shorter padding is the same
        filled = x.masked_fill(~MASK[..., None], 9.0)
        assert torch.equal(objective.loss(filled, T.double(), space=space, noise=eps), loss)
        cut = objective.loss(
            x[:3, :4], T[:3].double(), space=Masked(MASK[:3, :4]), noise=eps[:3, :4]
        )
        assert torch.allclose(cut, loss[:3], rtol=1e-9)


@every_kind
def test_a_generator_for_each_item_draws_its_own_noise(kind):
    objective, _, _ = objectives()[kind]
    together = objective.loss(X, T.double(), generator=generators())
    single = objective.loss(X[2:3], T[2:3].double(), generator=generators()[2:3])
    assert torch.allclose(together[2:3], single, rtol=1e-12)
    with pytest.raises(ValueError, match="give the times t as well"):
        objective.loss(X, generator=generators())


@every_kind
def test_times_and_noise_are_drawn_as_the_student_s_own_are(kind):
    objective, own, _ = objectives()[kind]
    seen = []
    own.denoiser.register_forward_pre_hook(lambda _, args: seen.append(args[:2]))
    for call in (objective.loss, own.loss):
        call(X, generator=torch.Generator().manual_seed(2))
    # the last call of the one, and the only one of the other, is at the same states
    (x_t, t), (same_x, same_t) = seen[-2:]
    assert torch.equal(t, same_t) and torch.allclose(x_t, same_x, atol=1e-12)


def test_an_importance_of_times_is_corrected_for():
    own = GaussianDiffusion(Small(), Cosine(), "v", times=LossSecondMoment(2, 1)).double()
    objective = Distillation(own, lambda x0, space: known(x0, Cosine(), space))
    for _ in range(6):
        objective.loss(X)
    assert own.times.count.sum() == 24
    own.times.losses.copy_(torch.tensor([[1.0], [3.0]]))
    kept = copy.deepcopy(own)
    found = objective.loss(X, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        found, kept.loss(X, generator=torch.Generator().manual_seed(0)), rtol=1e-9
    )


def test_a_loss_that_moves_its_times_moves_those_of_the_target():
    own = GaussianDiffusion(Small(), Cosine(), "eps", error=Hybrid(10)).double()
    asked = []

    def target(x0, space):
        p = known(x0, Cosine(), space)
        return replace(p, answer=lambda x_t, at: asked.append(at.t) or p.answer(x_t, at))

    with pytest.raises(ValueError, match="gives no variance"):  # the target was asked before
        Distillation(own, target).loss(X, 0.234, noise=EPS)
    assert torch.allclose(asked[0], own.error.times(torch.full((4,), 0.234).double()))


# --- the teacher is left alone --------------------------------------------------------------------


@every_kind
def test_only_the_student_is_a_part(kind):
    objective, own, teacher = objectives()[kind]
    names = {name.removeprefix("student.") for name in objective.state_dict()}
    assert names == set(own.state_dict()) and len(names) == 4
    assert set(objective.parameters()) == set(own.parameters())
    assert not set(objective.modules()) & set(teacher.modules())
    before = copy.deepcopy(teacher.state_dict())
    other = copy.deepcopy(objective)
    assert set(other.state_dict()) == set(objective.state_dict())
    assert other.student is not own and other._target[0] is objective._target[0]

    objective.loss(X, generator=torch.Generator().manual_seed(0)).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in own.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@every_kind
@pytest.mark.parametrize("training_mode", [True, False])
def test_the_teacher_answers_in_eval_mode_and_is_put_back(kind, training_mode):
    objective, own, teacher = objectives(dropout=0.5)[kind]
    teacher.train(training_mode)
    objective.loss(X, T.double(), noise=EPS)
    assert not any(training for training, _ in teacher.denoiser.masks)
    assert not any(teacher.denoiser.graphs)  # whose memory would be for nothing
    assert own.denoiser.graphs[-1] and not any(own.denoiser.graphs[:-1])
    assert all(m.training == training_mode for m in teacher.modules())
    assert all(m.training for m in own.modules())


def test_the_mode_is_put_back_after_an_error():
    teacher = model()

    def broken(x_t, at):
        raise RuntimeError("broken")

    def target(x0, space):
        return replace(teacher.predictor(space), answer=broken)

    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"):
        Distillation(student(teacher), target).loss(X, 0.5, noise=EPS)
    assert teacher.training and teacher.denoiser.training
    assert torch.equal(state, torch.get_rng_state())


def test_a_student_has_the_same_dropout_in_its_target_and_in_its_loss():
    for kind, (objective, own, _) in objectives(dropout=0.5).items():
        torch.manual_seed(5)
        objective.loss(X, T.double(), noise=EPS)
        (*targets, (_, last)) = own.denoiser.masks
        assert len(targets) == (kind != "merged")
        assert all(training and torch.equal(mask, last) for training, mask in targets)
        assert 0 < (last == 0).sum() < last.numel()


def test_the_random_numbers_go_on_as_after_the_student_s_loss_alone():
    for objective, own, _ in objectives(dropout=0.5).values():
        after, masks = [], []
        for loss in (objective.loss, own.loss):
            torch.manual_seed(7)
            loss(X)
            after.append(torch.get_rng_state())
            masks.append(own.denoiser.masks[-1][1])
        assert torch.equal(*after) and torch.equal(*masks)


@every_kind
def test_a_teacher_goes_where_the_data_are_and_nothing_is_read_there(kind):
    """The meta device holds no numbers: whatever would read one raises."""
    objective, own, teacher = objectives()[kind]
    objective.to("meta")
    x0, noise, t = (x.to("meta") for x in (X, EPS, T.double()))
    loss = objective.loss(x0, t, noise=noise)
    loss.sum().backward()
    assert loss.device.type == "meta" and all(p.grad is not None for p in own.parameters())
    if kind != "known":
        assert {p.device.type for p in teacher.parameters()} == {"meta"}


def test_nothing_is_read_with_pairs_of_levels_either():
    own = model()
    objective = Distillation(own, training(own, Closer(0.1))).to("meta")
    x0, noise, t = (x.to("meta") for x in (X, EPS, T.double()))
    assert objective.loss(x0, t, noise=noise).shape == (4,)


# --- cost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_loss_costs_a_training_step_and_one_call_for_each_step(n):
    teacher = model()
    own = student(teacher, Rows([1.0, 0.5, 0.0]))
    times = torch.linspace(1, 0, 2 * n + 1).tolist()
    objective = Distillation(own, halving(teacher, times, n))
    for loss in range(1, 4):
        objective.loss(X).sum().backward()
        assert (own.denoiser.calls, teacher.denoiser.calls) == (loss, n * loss)


def test_a_consistency_loss_calls_the_student_twice():
    for kind, calls in (("known", 0), ("consistent", 1)):
        objective, own, teacher = objectives()[kind]
        objective.loss(X)
        assert (own.denoiser.calls, teacher.denoiser.calls) == (2, calls)


# --- where it works -------------------------------------------------------------------------------


def test_it_has_the_signature_of_a_diffusion_s_loss():
    assert inspect.signature(Distillation.loss) == inspect.signature(GaussianDiffusion.loss)
    assert inspect.signature(Distillation.forward) == inspect.signature(GaussianDiffusion.forward)


@every_kind
def test_forward_is_the_loss(kind):
    objective, _, _ = objectives()[kind]
    loss = objective.loss(X, T.double(), noise=EPS)
    own = dict(objective.named_parameters())
    for got in (
        objective(X, T.double(), noise=EPS),
        nn.DataParallel(objective)(X, T.double(), noise=EPS),
        torch.func.functional_call(objective, own, (X, T.double()), {"noise": EPS}),
    ):
        assert torch.equal(got, loss)


@pytest.mark.slow
def test_a_step_of_a_student_and_of_a_target_compiles_into_one_graph():
    teacher = model()
    t, s = plan(Cosine(), HALVES, DDIM())[:2]
    for asked in (student(teacher, ROWS).predictor(), halving(teacher)(X, Dense())):
        torch._dynamo.reset()
        compiled = torch.compile(DDIM().step, fullgraph=True, backend="eager")
        step = DDIM().step(asked, X, t, s, (), None)
        assert torch.allclose(compiled(asked, X, t, s, (), None)[0], step[0], atol=1e-14)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler
@every_kind
def test_it_compiles(kind):
    """Not into one graph: the random numbers are put back in between."""
    torch._dynamo.reset()
    objective, _, _ = objectives()[kind]
    compiled = torch.compile(objective, backend="eager", dynamic=True)
    for num in (4, 3):
        x0, t, noise = X[:num], T[:num].double(), EPS[:num]
        assert torch.allclose(
            compiled(x0, t, noise=noise), objective(x0, t, noise=noise), rtol=1e-9
        )
    compiled(X).sum().backward()


@every_kind
@pytest.mark.parametrize(
    "dtype, most", [(torch.bfloat16, 0.1), (torch.half, 0.02), (torch.float32, 1e-4)]
)
def test_weights_and_data_of_few_bits(kind, dtype, most):
    expected = objectives()[kind][0].loss(X, T.double(), noise=EPS)
    objective, own, teacher = objectives()[kind]
    objective.to(dtype), teacher.to(dtype)
    for x0, noise in ((X.to(dtype), EPS.to(dtype)), (X.float(), EPS.float())):
        loss = objective.loss(x0, T, noise=noise)
        assert loss.dtype == torch.float32
        assert (loss - expected).abs().max() < most * (1 + expected.abs().max())
    objective.loss(X.to(dtype)).sum().backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in own.parameters())


@every_kind
def test_autocast(kind):
    objective, _, teacher = objectives()[kind]
    objective.float(), teacher.float()
    expected = objective.loss(X.float(), T, noise=EPS.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective.loss(X.float(), T, noise=EPS.float())
    assert loss.dtype == torch.float32
    assert 0 < (loss - expected).abs().max() < 0.1 * (1 + expected.abs().max())
    loss.sum().backward()


@pytest.mark.parametrize("prediction", TARGETS)
def test_float32_names_its_noise_well_enough(prediction):
    """A student that is its own target has no loss, near the data too: eps divides by sigma."""
    own = exact.gaussian(Cosine(), prediction, mean=MEAN, std=STD)
    own.weighting = TruncatedSNR()
    objective = Distillation(own, lambda x0, space: own.predictor(space))
    x0, eps = (MEAN + STD * draw((500, 4))).float(), draw((500, 4), 1).float()
    for t in (1e-4, 1e-3, 0.01, 0.1, 1.0):
        # of data the loss is about 1; with x0, SNR = 1e8 times the square of 6e-8
        assert objective.loss(x0, t, noise=eps).mean() < 1e-7


def test_conditions_are_passed_to_both():
    teacher, label = model(), torch.tensor([0.5, -0.5, 1.0, 2.0], dtype=torch.float64)
    own = student(teacher, ROWS)

    def guided(x0, space, label):
        with_label, without = teacher.predictor(space, label=label), teacher.predictor(space)
        return merged(classifier_free(with_label, without, 2.0), TIMES)

    loss = Distillation(own, guided).loss(X, T.double(), noise=EPS, label=label)
    at = Cosine().at(T.double())
    x_t = at.alpha[:, None] * X + at.sigma[:, None] * EPS
    p = guided(X, Dense(), label).predict(x_t, at)
    assert torch.allclose(loss, own.loss(p.x0, T.double(), noise=p.eps, label=label), rtol=1e-9)
    assert own.denoiser.calls == 2 and teacher.denoiser.calls == 8
    plain = Distillation(own, halving(teacher)).loss(X, T.double(), noise=EPS, label=label)
    assert not torch.allclose(plain, loss)


class Halving:
    """A target that is an object, as one that is told to a file or to another process may be."""

    def __init__(self, teacher):
        self.teacher = teacher

    def __call__(self, x0, space, **cond):
        return merged(self.teacher.predictor(space, **cond), TIMES)


class Frozen(nn.Module):
    """A target that is a module is no part either."""

    def __init__(self, teacher):
        super().__init__()
        self.teacher = teacher.requires_grad_(False)

    def forward(self, x0, space, **cond):
        return merged(self.teacher.predictor(space, **cond), TIMES)


@pytest.mark.parametrize("make", [Halving, Frozen])
def test_a_target_may_be_an_object(make):
    teacher = model()
    own = student(teacher, ROWS)
    expected = Distillation(own, halving(teacher)).loss(X, T.double(), noise=EPS)
    objective = Distillation(own, make(teacher))
    assert torch.equal(objective.loss(X, T.double(), noise=EPS), expected)
    assert len(objective.state_dict()) == len(own.state_dict())
    other = copy.deepcopy(objective)  # with the same teacher
    assert other._target[0].teacher is teacher and other.student is not own


# --- runs ---------------------------------------------------------------------------------------


def distillation(kind):
    """A student of a teacher that has learnt nothing, of the run of tests."""
    torch.manual_seed(1)
    teacher = GaussianDiffusion(MLP(0.1), Cosine(), "v")
    own = student(teacher, ROWS)
    target = {"merged": halving(teacher), "known": training(own)}[kind]
    return DiffusionModule(Distillation(own, target), dense, lr=1e-2, warmup=5)


@pytest.mark.parametrize("kind", ["merged", "known"])
def test_a_run_goes_on_exactly_and_ends_with_averaged_weights(tmp_path, kind):
    def stop():
        raise KeyboardInterrupt

    whole = train(tmp_path / "whole", distillation(kind), batches_of(), max_steps=8)
    cut = {"max_steps": 8, "callbacks": [At("on_train_batch_end", 5, stop)]}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", distillation(kind), batches_of(), **cut)
    resumed = train(tmp_path / "cut", distillation(kind), batches_of(), max_steps=8)
    assert torch.equal(weights(whole), weights(resumed))
    saved = torch.load(tmp_path / "whole/last.ckpt", weights_only=True)
    assert all(name.startswith("objective.student.denoiser.") for name in saved["state_dict"])
    averages = torch.cat([v.flatten() for v in saved["state_dict"].values()])
    assert torch.equal(averages, weights(whole.objective.student))
    assert not torch.equal(
        averages,
        torch.cat([saved["current_model_state"][k].flatten() for k in saved["state_dict"]]),
    )


def test_a_student_comes_nearer_to_its_teacher(tmp_path):
    torch.manual_seed(1)
    teacher = GaussianDiffusion(MLP(), Cosine(), "v")
    own = student(teacher, Rows([1.0, 0.0]))
    times = torch.linspace(1, 0, 5).tolist()
    objective = Distillation(own, halving(teacher, times, 4))
    x = draw((64, 2)).float()
    expected = sample(teacher.predictor(), x, DDIM(), times)

    def away():
        return (sample(own.predictor(), x) - expected).square().mean().item()

    before = away()
    train(tmp_path, DiffusionModule(objective, dense, lr=1e-2, warmup=5), max_steps=60)
    assert away() < 0.1 * before


# --- the student --------------------------------------------------------------------------------


def test_a_student_is_a_copy_of_its_own():
    teacher = model(drop=0.1, weighting=MinSNR(), times=LossSecondMoment(4), error=Hybrid(10))
    own = student(teacher, ROWS)
    assert (
        own.times is ROWS
        and own.weighting == TruncatedSNR()
        and type(own.error).__name__ == "SquaredError"
    )
    assert own.drop is None and own.augment == {} and own.target == teacher.target
    assert own.schedule == teacher.schedule
    for a, b in zip(own.parameters(), teacher.denoiser.parameters(), strict=True):
        assert torch.equal(a, b) and a is not b
    assert teacher.drop and isinstance(teacher.times, LossSecondMoment)
    assert student(teacher).predictor().run is None


def test_a_student_of_a_frozen_teacher_learns():
    teacher = model().requires_grad_(False).eval()
    own = student(teacher, ROWS)
    Distillation(own, halving(teacher)).loss(X).sum().backward()
    assert all(p.grad is not None for p in own.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
    half = model()
    half.denoiser.layers[0].requires_grad_(False)  # what is frozen on purpose stays so
    assert [p.requires_grad for p in student(half).parameters()] == [False, False, True, True]


def test_a_learned_schedule_is_kept():
    torch.manual_seed(0)
    teacher = GaussianDiffusion(Small(), Learned(width=4), "v").double()
    for frozen in (False, True):
        own = student(teacher.requires_grad_(not frozen), ROWS)
        Distillation(own, halving(teacher)).loss(X).sum().backward()
        assert all(p.grad is None and not p.requires_grad for p in own.schedule.parameters())
        assert all(p.grad is not None for p in own.denoiser.parameters())


def test_a_student_of_a_student():
    teacher = model()
    first = student(teacher, Rows(TIMES))
    second = student(first, ROWS)
    Distillation(second, halving(first)).loss(X).sum().backward()
    with pytest.raises(ValueError, match=r"asked at t = 0.6.*; it was trained for 4 steps"):
        Distillation(second, halving(first, [1.0, 0.6, 0.5, 0.25, 0.0])).loss(X)


def test_a_student_goes_through_a_file(tmp_path):
    torch.manual_seed(0)
    teacher = GaussianDiffusion(awake(EGNN(2, 4, 1, tanh=True)), Tabulated.linear(), "v")
    own = student(teacher, Rows(HALVES, DPMSolver()))
    save(tmp_path / "m", own)
    loaded, _ = load(tmp_path / "m")
    again = student(loaded, Rows([1.0, 0.0]))
    space, x = NODES, NODES.project(draw((14, 5))).float()
    for one, other in ((own, loaded), (student(own, ROWS), student(loaded, ROWS))):
        a, b = (sample(d.predictor(space), x) for d in (one, other))
        assert torch.equal(a, b)
    # the schedule of the file is another object, and the same table
    loss = Distillation(again, halving(loaded, HALVES)).loss(x, space=space)
    assert loss.isfinite().all()
    assert Distillation(again, halving(own, HALVES)).loss(x, space=space).isfinite().all()


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"drop": 0.1}, {"drop": {"label": 0.2}}, {"augment": {"label": 0.5}}]
)
def test_conditions_that_are_dropped_are_named(options):
    ((name, _),) = options.items()
    with pytest.raises(ValueError, match=rf"the student has {name} = .*; set {name} to None"):
        Distillation(model(**options), halving(model()))
    Distillation(student(model(**options)), halving(model()))


@pytest.mark.parametrize(
    "target, message",
    [
        (lambda x0, space: None, "target is None; give a predictor, as diffusion.predictor"),
        (lambda x0, space: model(), "target is a GaussianDiffusion; give a predictor"),
        (halving(model(Linear())), "the target has the schedule Linear.* and the student Cosine"),
        (
            halving(model(), [1.0, 0.8, 0.6, 0.3, 0.0]),
            "asked at t = 0.5; it was trained for 2 steps",
        ),
    ],
)
def test_a_target_that_does_not_fit_is_named(target, message):
    with pytest.raises(ValueError, match=message):
        Distillation(student(model(), ROWS), target).loss(X, T.double(), noise=EPS)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "rows, message",
    [
        (Rows([1.0, 0.6, 0.0]), r"asked at t = 0.6; it was trained for 2 steps of DDIM, from t = 1, 0.5"),
        (None, r"learns at Mapped.*, and its target knows .* one run alone; give it these, student\("),
    ],
)  # fmt: skip
def test_a_student_of_other_times_than_its_target_s_is_named(rows, message, device):
    """On a device too, where no time is read and the nearest row would be taken in silence."""
    objective = Distillation(student(model(), rows), halving(model())).to(device)
    with pytest.raises(ValueError, match=message):
        objective.loss(X.to(device))


def test_a_target_without_the_batch_s_space_is_named():
    teacher = model()

    def target(x0, space):
        return merged(teacher.predictor(), TIMES)

    space = Masked.from_lengths([2, 3])
    with pytest.raises(
        ValueError, match=r"the target was made for the space Dense, .* lies in Masked; g"
    ):
        Distillation(student(teacher, ROWS), target).loss(draw((2, 3, 4)), space=space)


@pytest.mark.parametrize("space", [NODES, MASK], ids=lambda space: type(space).__name__)
def test_a_guide_without_the_batch_s_space_is_named(space):
    own = replace(student(model(), ROWS).predictor(), space=space)
    with pytest.raises(
        ValueError, match=r"the guide was made for the space Dense, and the batch lies"
    ):
        consistent(known(X, own.schedule), own, ROWS.nearer)


def test_a_guide_that_does_not_fit_is_named():
    own = student(model(), ROWS)
    with pytest.raises(ValueError, match="the guide has the schedule Linear"):
        Distillation(own, distilling(own, model(Linear()))).loss(X)


def test_a_table_that_was_copied_is_the_same_schedule():
    teacher = model(Tabulated.linear())
    Distillation(student(teacher, ROWS), halving(teacher)).loss(X)
    with pytest.raises(ValueError, match="the target has the schedule Tabulated"):
        Distillation(student(teacher, ROWS), halving(model(Tabulated.cosine()))).loss(X)


@pytest.mark.parametrize("t", [0.6, torch.tensor([1.0, 0.5, 0.7, 0.5])])
def test_times_that_are_no_rows_are_named(t):
    for objective, _, _ in objectives().values():
        with pytest.raises(ValueError, match=r"asked at t = 0.[67]; it was trained for 2 steps"):
            objective.loss(X, t, noise=EPS)


def test_the_arguments_are_those_of_a_diffusion():
    objective, _, _ = objectives()["merged"]
    with pytest.raises(TypeError, match="step"):
        objective.loss(X, step=3)
    with pytest.raises(ValueError, match="noise is"):
        objective.loss(X, noise=EPS.float())
