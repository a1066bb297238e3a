"""A model of one run: its times are the run's, and it is drawn from there and nowhere else."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from anydiff import (
    DDIM,
    DDPM,
    Cosine,
    DPMSolver,
    GaussianDiffusion,
    Karras,
    Ragged,
    autoguidance,
    classifier,
    classifier_free,
    dps,
    edit,
    exact,
    impute,
    inpaint,
    load,
    sample,
    save,
)
from anydiff.denoisers import EGNN
from anydiff.distillation import merged
from anydiff.editing import decode, denoise, encode, ilvr, interpolate, variations
from anydiff.guidance import towards
from anydiff.likelihood import continuous_bound, log_prob, variational_bound
from anydiff.losses import Rows
from anydiff.samplers import LogSNR, Uniform, plan
from tests.helpers.spaces import draw, generators

TIMES = (1.0, 0.75, 0.5, 0.25, 0.0)
ROWS = Rows(TIMES)
LATE = Rows((0.9, 0.6, 0.2), DPMSolver(1))
X = draw((4, 3))


class Listening(nn.Module):
    """A denoiser that keeps the times at which it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = []
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x_t, t, label=None):
        self.asked.append(round(t[0].item(), 6))
        return self.scale * torch.sin(x_t)


def distilled(rows=ROWS, schedule=Cosine()):  # noqa: B008
    return GaussianDiffusion(Listening(), schedule, "v", times=rows)


def asked(call, rows=ROWS):
    """The times at which a call asks the network of a student."""
    student = distilled(rows)
    call(student.predictor())
    return student.denoiser.asked


# --- the distribution -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64])
def test_each_row_has_the_same_share(n):
    rows = Rows(torch.linspace(1, 0, n + 1).tolist())
    expected = torch.tensor(rows.times[:-1], dtype=torch.float64)
    t = rows.draw(12 * n, Cosine(), like=draw(1), generator=torch.Generator().manual_seed(0))
    assert t.dtype == torch.float64
    assert torch.equal(t.sort(descending=True).values, expected.repeat_interleave(12))


@pytest.mark.parametrize("rows", [ROWS, LATE])
def test_its_quantiles_rise_and_end_at_the_rows(rows):
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    t = rows(u, Cosine())
    assert (t.diff() >= 0).all() and t[0] == rows.times[-2] and t[-1] == rows.times[0]
    assert set(t.tolist()) == set(rows.times[:-1])  # the end is no row


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_rounded_time_finds_its_row(dtype):
    times = [1.0, 0.7, 0.3333333333, 1e-3, 1e-4, 0.0]
    rows = Rows(times)
    for k, t in enumerate(times[:-1]):
        tensor = torch.tensor([t, t], dtype=dtype)
        assert rows.nearest(tensor).tolist() == [k, k] and rows.nearest(tensor[0].item()) == k
        rows.check(tensor)
        rows.check(tensor[0].item())
        at = Cosine().at(tensor)
        assert torch.equal(
            rows.nearer(at), torch.tensor([times[k + 1]] * 2, dtype=torch.float64).to(dtype)
        )
        assert rows.nearer(Cosine().levels([t])[0]) == times[k + 1]


def test_the_nearest_row_is_the_nearest():
    times, t = Rows([0.95, 0.5, 0.4, 0.03, 0.0]), torch.rand(500, dtype=torch.float64)
    rows = torch.tensor(times.times[:-1])
    expected = (t[:, None] - rows).abs().argmin(1)
    assert torch.equal(times.nearest(t), expected)
    assert [times.nearest(s) for s in t.tolist()] == expected.tolist()
    assert torch.equal(times.nearest(t.view(5, 100)), expected.view(5, 100))


def test_a_student_s_times_are_its_rows():
    student = distilled()
    student.loss(X, generator=torch.Generator().manual_seed(0))
    t = student.times.draw(4, Cosine(), like=X)
    assert sorted(t.tolist()) == sorted(TIMES[:-1])
    assert distilled().times.run == ROWS and GaussianDiffusion(Listening()).predictor().run is None


def test_rows_are_values():
    for other in (copy.deepcopy(ROWS), pickle.loads(pickle.dumps(ROWS)), Rows(list(TIMES)),
                  Rows(torch.tensor(TIMES)), Rows(np.array(TIMES))):  # fmt: skip
        assert other == ROWS and hash(other) == hash(ROWS) and str(other) == str(ROWS)
    assert Rows(TIMES, DPMSolver()) != ROWS != Rows(TIMES[1:])
    ROWS.nearest(0.5), ROWS.nearest(X)
    assert pickle.loads(pickle.dumps(ROWS)) == ROWS


# --- runs ---------------------------------------------------------------------------------------

RUN = [1.0, 0.75, 0.5, 0.25]


def test_a_run_is_its_own_where_none_is_asked_for():
    assert asked(lambda p: sample(p, X)) == RUN
    assert asked(lambda p: sample(p, X, steps=4)) == RUN
    assert asked(lambda p: sample(p, X, steps=np.int64(4))) == RUN
    assert asked(lambda p: sample(p, X, steps=TIMES)) == RUN
    assert asked(lambda p: sample(p, X, steps=torch.tensor(TIMES))) == RUN
    assert asked(lambda p: sample(p, X, DDPM(), TIMES)) == RUN  # another sampler, at the same times
    assert asked(lambda p: sample(p, X, start=0.5)) == [0.5, 0.25]
    assert asked(lambda p: sample(p, X, steps=[0.5, 0.25, 0.0])) == [0.5, 0.25]
    third = Rows([1.0, 1 / 3, 0.0])
    assert asked(lambda p: sample(p, X, start=0.333333), third) == [0.333333]  # as it was printed
    assert asked(lambda p: sample(p, X), LATE) == [0.9, 0.6]
    assert asked(lambda p: sample(p, X, start=0.6), LATE) == [0.6]
    student = distilled()
    student.sample((4, 3), seed=0)
    assert student.denoiser.asked == RUN


def test_the_sampler_is_its_own_too():
    student = distilled(Rows(TIMES, DPMSolver()))
    x = sample(student.predictor(), X)
    assert torch.equal(x, sample(student.predictor(), X, DPMSolver(), TIMES))
    by_ddim = sample(student.predictor(), X, DDIM(), TIMES)
    assert not torch.allclose(x, by_ddim) and torch.equal(
        sample(distilled().predictor(), X), by_ddim
    )


@pytest.mark.parametrize("sampler", [DPMSolver(), DDPM(), DDIM(0.5)], ids=str)
def test_another_sampler_is_not_taken_for_the_run(sampler):
    """Of a perfect student of four steps on normal data the deviation would be off by 25 % and more."""
    teacher = exact.gaussian(Cosine(), "v", std=0.5).predictor()
    student = merged(teacher, LogSNR()(Cosine(), 32), 8, DPMSolver())
    x = draw((4000, 1))
    assert abs(sample(student, x).std().item() / 0.5 - 1) < 0.05  # of which the draws have 0.011
    by_other = sample(student, x, sampler, student.run.times, seed=0)
    assert abs(by_other.std().item() / 0.5 - 1) > 0.1
    for more in ({}, {"steps": 4}):
        with pytest.raises(
            ValueError, match=r"for steps of DDIM, from which .*; leave the sampler out"
        ):
            sample(student, x, sampler, **more)
    assert torch.equal(sample(student, x, DDIM()), sample(student, x))


def test_a_run_that_ends_above_the_data_ends_there():
    ends = []
    sample(distilled(LATE).predictor(), X, callback=lambda progress: ends.append(progress.s))
    assert ends == [0.6, 0.2]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 8}, "steps is 8; it was trained for 4 steps of DDIM"),
        ({"steps": 4, "start": 0.5}, "steps is 4, from t = 0.5 on; it was trained for 4 steps"),
        (
            {"steps": [0.25, 0.5, 1.0], "sampler": DDIM()},
            "the times rise, and the model is distilled",
        ),
        ({"steps": [0.0, 1.0]}, "it knows one run to the data, and no way back; ask its teacher"),
        ({"start": 0}, r"start is 0; give a number in \(0, 1\]"),
        ({"start": math.nan}, "start is nan; give a number"),
        ({"start": "1"}, "start is '1'; give a number"),
        ({"start": True}, "start is True; give a number"),
        (
            {"grid": Uniform()},
            r"grid is Uniform\(\), and the times are fixed: .*; leave the grid out",
        ),
        ({"steps": [1.0, 0.6, 0.0]}, r"asked at t = 0.6; .* t = 1, 0.75, 0.5, 0.25: begin"),
        ({"start": 0.6}, "asked at t = 0.6; it was trained for 4 steps"),
        ({"sampler": DPMSolver(), "steps": 25}, "leave the sampler out, or give the times too"),
        ({"sampler": DDIM(), "steps": 25}, "leave the steps out"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": "many"}, "steps is 'many'"),
    ],
)
def test_another_run_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample(distilled().predictor(), X, **options)


def test_the_number_of_steps_is_that_from_the_start_on():
    p = distilled().predictor()
    whole, rest = sample(p, X, steps=4), sample(p, X, steps=torch.tensor(2), start=0.5)
    assert torch.equal(whole, sample(p, X))
    assert torch.equal(rest, sample(p, X, start=0.5)) and not torch.equal(rest, whole)
    assert torch.equal(edit(p, X, 0.5, steps=2, seed=0), edit(p, X, 0.5, seed=0))


def test_one_row_is_told_as_one():
    with pytest.raises(ValueError, match=r"for 1 step of DPMSolver, from t = 1: begin there, and"):
        sample(distilled(Rows([1.0, 0.0], DPMSolver())).predictor(), X, steps=2)


def test_many_rows_are_named_by_the_first():
    with pytest.raises(ValueError, match="for 100 steps of") as raised:
        sample(distilled(Rows(torch.linspace(1, 0, 101))).predictor(), X, steps=7)
    assert ", ...:" in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize("t", [0.6, torch.tensor([1.0, 0.75, 0.5, 0.2]), torch.tensor(0.3)])
def test_a_time_that_is_no_row_is_refused(t):
    with pytest.raises(ValueError, match=r"asked at t = .*; it was trained"):
        distilled().predictor().predict(X, t)


def test_on_a_device_nothing_is_read():
    class Half(nn.Module):
        def forward(self, x_t, t):
            return x_t / 2

    student = GaussianDiffusion(Half(), Cosine(), "v", times=ROWS)
    p = student.predictor().predict(X.to("meta"), torch.full((4,), 0.3, device="meta"))
    assert p.x0.device.type == "meta"


def test_the_data_may_be_asked_about():
    """A guide whose step ends there asks its student at t = 0, where x0 is x_t."""
    p = distilled().predictor().predict(X, torch.zeros(4, dtype=torch.float64))
    assert p.x0.shape == X.shape


# --- what is built on a predictor -----------------------------------------------------------------

GUIDED = {
    "classifier_free": lambda p: classifier_free(p, p, 1.5),
    "autoguidance": lambda p: autoguidance(p, p, 0.5),
    "classifier": lambda p: classifier(p, lambda x, t: -x.square().sum(1), 0.5),
    "towards": lambda p: towards(p, lambda x, at: (None, -x.square().sum(1)), 0.5),
    "dps": lambda p: dps(p, lambda x: x[:, :1], X[:, :1], noise=0.5),
}


@pytest.mark.parametrize("name", GUIDED)
def test_guidance_keeps_the_run(name):
    guided = GUIDED[name](distilled().predictor())
    assert guided.run == ROWS and sample(guided, X).isfinite().all()
    with pytest.raises(ValueError, match="it was trained for 4 steps"):
        sample(guided, X, steps=5)


def test_a_student_guided_by_another_is_asked_at_the_rows_of_both():
    mixed = autoguidance(distilled().predictor(), distilled(Rows([1.0, 0.5, 0.0])).predictor(), 0.5)
    with pytest.raises(ValueError, match=r"asked at t = 0.75; it was trained for 2 steps"):
        sample(mixed, X)


def test_the_run_of_any_model_is_that_of_all():
    teacher = GaussianDiffusion(Listening(), Cosine(), "v").predictor()
    student = distilled().predictor()
    for pair in ((teacher, student), (student, teacher)):
        guided = autoguidance(*pair, 0.5)
        assert (
            guided.run == ROWS and sample(guided, X).isfinite().all()
        )  # at rows alone, or an error


def test_copies_keep_the_run():
    assert distilled().predictor().copies(3).run == ROWS


KNOWN = torch.tensor([True, False, True]).expand(4, 3)


def half(x):
    return x / 2


EDITS = {
    "edit": (lambda p: edit(p, X, 0.5, seed=0), [0.5, 0.25]),
    "edit all": (lambda p: edit(p, X, 1.0, seed=0), RUN),
    "variations": (lambda p: variations(p, X, 2, 0.75, seed=0), [0.75, 0.5, 0.25]),
    "decode": (lambda p: decode(p, X), RUN),
    "decode from": (lambda p: decode(p, X, start=0.5), [0.5, 0.25]),
    "inpaint": (lambda p: inpaint(p, X, KNOWN, resamples=1, seed=0), RUN),
    "inpaint, repeated": (
        lambda p: inpaint(p, X, KNOWN, resamples=2, seed=0), [t for t in RUN for _ in range(2)]
    ),
    "impute": (lambda p: impute(p, X, 2, known=KNOWN, resamples=1, seed=0), RUN),
    "ilvr": (lambda p: ilvr(p, X, half, seed=0), RUN),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_edits_go_through_the_rows(name):
    call, expected = EDITS[name]
    assert asked(call) == expected


def test_a_known_level_of_noise_is_denoised_from_its_row():
    at = plan(Cosine(), 4, DDIM(), Uniform())[2]
    student = distilled()
    x = denoise(student.predictor(), X, at.noise_to_signal)
    assert student.denoiser.asked == [0.5, 0.25]
    assert torch.equal(x, sample(student.predictor(), at.alpha * X, DDIM(), [0.5, 0.25, 0.0]))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p: edit(p, X, 0.6), "asked at t = 0.6; it was trained for 4 steps"),
        (lambda p: edit(p, X, 0.5, steps=3), "steps is 3, from t = 0.5 on; it was trained for 4"),
        (lambda p: denoise(p, X, 0.1), "asked at t = .*; it was trained for 4 steps"),
        (lambda p: inpaint(p, X, KNOWN, steps=50), "steps is 50; it was trained for 4 steps"),
        (lambda p: ilvr(p, X, half, steps=[1.0, 0.4, 0.0]), "asked at t = 0.4"),
        (lambda p: decode(p, X, start=0.8), "asked at t = 0.8"),
        (lambda p: encode(p, X), "the model is distilled: it knows one run .*; ask its teacher"),
        (lambda p: interpolate(p, X, -X, 3), "the model is distilled"),
        (lambda p: log_prob(p, X), "the model is distilled"),
        (lambda p: variational_bound(p, X, 4), "the model is distilled: .* density"),
        (lambda p: continuous_bound(p, X), "the model is distilled"),
    ],
)
def test_what_a_student_cannot_do_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(distilled().predictor())


def test_an_edit_from_above_the_first_row_is_named():
    """1 is the default start of a run, but the strength of an edit is what was asked for."""
    for strength in (1.0, 0.95):
        with pytest.raises(ValueError, match=r"it was trained for 2 steps .* t = 0.9, 0.6"):
            edit(distilled(LATE).predictor(), X, strength)
    assert asked(lambda p: edit(p, X, 0.9), LATE) == [0.9, 0.6]


def test_seeds_of_items_are_their_own():
    student = distilled(Rows(TIMES, DDPM()))
    together = sample(student.predictor(), X, seed=generators())
    single = sample(student.predictor(), X[1:2], seed=generators()[1:2])
    assert torch.allclose(together[1:2], single, atol=1e-12)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows", [ROWS, Rows((0.9, 0.6, 0.2), DPMSolver(3)), Rows(TIMES, DDPM("large"))]
)
def test_a_student_in_a_file_keeps_its_run(tmp_path, rows):
    torch.manual_seed(0)
    student = GaussianDiffusion(EGNN(2, 4, 1, tanh=True), Karras(), "karras", times=rows)
    save(tmp_path / "student", student)
    loaded, _ = load(tmp_path / "student")
    assert loaded.times == rows and isinstance(loaded.times.sampler, type(rows.sampler))
    space = Ragged.from_sizes([2, 3], centered=3)
    drawn = [d.sample((5, 5), space=space, seed=0) for d in (student, loaded)]
    assert torch.equal(*drawn) and drawn[0].isfinite().all()


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times",
    [[], [1.0], 1.0, 4, None, "ab", [0.0, 0.5, 1.0], [1.0, 0.5, 0.5, 0.0], [1.0, 0.2, 0.5], [1.5, 0.5],
     [0.5, -0.1], [1.0, math.nan, 0.0], [[1.0, 0.0]], [True, False], {1.0, 0.0}, torch.rand(2, 2)],
    ids=range(16),
)  # fmt: skip
def test_times_that_are_no_run_are_named(times):
    with pytest.raises(ValueError, match=r"times is .*; give falling times in \[0, 1\]"):
        Rows(times)


@pytest.mark.parametrize("sampler", [None, "ddim", DDIM, Cosine(), 3])
def test_a_sampler_that_is_none_is_named(sampler):
    with pytest.raises(ValueError, match="sampler is"):
        Rows(TIMES, sampler)
