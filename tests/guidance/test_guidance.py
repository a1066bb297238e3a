"""Guidance against closed forms: a mixture whose conditionals are known, a linear measurement."""

from functools import lru_cache

import pytest
import torch
from torch import nn

from anydiff import (
    DDIM,
    DDPM,
    Cosine,
    Dense,
    DPMSolver,
    Flow,
    GaussianDiffusion,
    Linear,
    Masked,
    Tabulated,
    autoguidance,
    classifier,
    classifier_free,
    clip_guidance,
    dps,
    exact,
    pigdm,
    sample,
)
from anydiff.editing import encode
from anydiff.samplers import plan
from anydiff.schedules import ZeroTerminalSNR
from tests.helpers.spaces import NODES, SPACES, draw, every_space

MEANS = torch.tensor([[-1.0, 0.5], [0.8, 1.0], [0.3, -1.2]], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.2, 0.5], dtype=torch.float64)
MIXTURE = exact.mixture(
    Cosine(), "v", means=MEANS, stds=STDS, weights=torch.tensor([0.5, 0.3, 0.2])
)


def label(items, k=1):
    return torch.full((items,), k)


def level(t):
    """A level of floats, as a sampler plans it."""
    return Cosine().levels(torch.tensor([t], dtype=torch.float64))[0]


def log_label(k):
    def log_prob(x_t, t):
        return MIXTURE.denoiser.log_label(x_t, t)[:, k]

    return log_prob


class Random(nn.Module):
    """A fixed nonlinear function of x_t, t and a label that mixes the entries of an item."""

    def __init__(self, size, seed=0):
        super().__init__()
        self.W = nn.Parameter(draw((size, size), seed) / size**0.5)
        self.shift = draw((12, size), seed + 1)

    def forward(self, x_t, t, label=None):
        y = torch.tanh(x_t.flatten(1) @ self.W + t[:, None])
        if label is not None:
            y = y + torch.where(label[:, None] >= 0, self.shift[label], 0.0)
        return y.view_as(x_t)


def random_model(prediction="v", seed=0, size=6):
    return GaussianDiffusion(Random(size, seed), Cosine(), prediction)


def guidances(like, space=Dense(), scale=1.5):  # noqa: B008
    """One of each kind, around two predictors of states like this one."""
    aim = draw((space.items(like), 3), 9)

    def squares(x, t=None):
        return -space.sum((x - 0.3).square())

    def embed(x):
        return torch.stack([space.sum(x), space.sum(x.square()), space.sum(x**3)], 1) + 0.1

    def operator(x):
        return 0.5 * x

    def made(p, weak):
        y = 0.2 * torch.ones_like(space.project(like))
        return {
            "classifier_free": classifier_free(p, weak, scale),
            "rescaled": classifier_free(p, weak, scale, rescale=0.7),
            "interval": classifier_free(p, weak, scale, interval=(0.2, 0.8)),
            "autoguidance": autoguidance(p, weak, scale),
            "classifier": classifier(p, squares, scale),
            "clip": clip_guidance(p, (embed, lambda prompt: prompt.to(y.dtype)), aim, scale),
            "dps": dps(p, operator, y, noise=0.5, scale=scale, measured=space),
            "dps published": dps(p, operator, y, scale=1e-3 * scale, measured=space),
            "pigdm": pigdm(p, operator, y, noise=0.5, scale=scale, measured=space),
            "tweedie": pigdm(
                p, operator, y, noise=0.5, scale=scale, measured=space,
                covariance="tweedie", iterations=2,
            ),
        }  # fmt: skip

    return made


NAMES = ["classifier_free", "rescaled", "interval", "autoguidance", "classifier", "clip", "dps"]
NAMES += ["dps published", "pigdm", "tweedie"]
every_guidance = pytest.mark.parametrize("name", NAMES)


def both(space):
    models = exact.gaussian(Cosine(), "v", std=0.6), exact.gaussian(Cosine(), "eps", std=1.0)
    return [m.predictor(space) for m in models]


# exact conditionals --------------------


@pytest.mark.parametrize("batched", [False, True])
def test_classifier_free_is_the_formula_and_exact_at_1(batched):
    x_t, t = draw((50, 2)), torch.linspace(0.05, 1, 50, dtype=torch.float64)
    c, u = MIXTURE.predictor(label=label(50)), MIXTURE.predictor()
    alone = exact.gaussian(Cosine(), "v", mean=MEANS[1], std=STDS[1]).predictor()
    assert torch.allclose(c.predict(x_t, t).x0, alone.predict(x_t, t).x0, atol=1e-12)
    for w in (-0.5, 0.0, 0.3, 1.0, 1.7, 4.0):
        p = classifier_free(c, u, w, batched=batched).predict(x_t, t)
        expected = [u.predict(x_t, t), c.predict(x_t, t)]
        for name in ("x0", "eps", "score"):
            a, b = (getattr(q, name) for q in expected)
            assert torch.allclose(getattr(p, name), a + w * (b - a), atol=1e-9), (w, name)


@pytest.mark.parametrize("sampler, steps", [(DPMSolver(), 50), (DDPM("large"), 150)], ids=str)
@pytest.mark.parametrize("how", ["classifier_free", "classifier"])
def test_guidance_of_scale_1_samples_the_exact_conditional(how, sampler, steps):
    """Four standard errors of 4,000 draws, and 3 % for the steps."""
    c, u = MIXTURE.predictor(label=label(4000)), MIXTURE.predictor()
    guided = classifier_free(c, u, 1.0) if how == "classifier_free" else classifier(u, log_label(1))
    x = sample(guided, (4000, 2), sampler, steps, seed=0)
    assert ((x.mean(0) - MEANS[1]).abs() < 0.2 * (4 / 4000**0.5 + 0.03)).all()
    assert ((x.std(0) / STDS[1] - 1).abs() < 4 / 8000**0.5 + 0.03).all()


def test_a_classifier_s_gradient_is_bayes_rule():
    x_t = draw((40, 2)).requires_grad_()
    t = torch.linspace(0.05, 1, 40, dtype=torch.float64)
    u = MIXTURE.predictor()
    for w in (1.0, 2.5):
        p = classifier(u, log_label(1), w).predict(x_t.detach(), t)
        c = MIXTURE.predictor(label=label(40)).predict(x_t, t)
        free = u.predict(x_t, t)
        assert torch.allclose(p.score, free.score + w * (c.score - free.score), atol=1e-8)
        assert torch.allclose(p.x0, free.x0 + w * (c.x0 - free.x0), atol=1e-8)


def test_classifier_and_classifier_free_guidance_compose_to_the_sum():
    x_t, t = draw((40, 2)), torch.full((40,), 0.4, dtype=torch.float64)
    c, u = MIXTURE.predictor(label=label(40)), MIXTURE.predictor()
    p = classifier(classifier_free(c, u, 2.0), log_label(1), 0.5).predict(x_t, t)
    expected = classifier_free(c, u, 2.5).predict(x_t, t)
    assert torch.allclose(p.x0, expected.x0, atol=1e-9)


# a linear measurement --------------------

C = torch.tensor([[1.0, 0.6, 0.3], [0.6, 0.8, 0.2], [0.3, 0.2, 0.5]], dtype=torch.float64)
M = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
A = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]], dtype=torch.float64)
Y, NOISE = torch.tensor([1.0, 0.4], dtype=torch.float64), 0.3


@lru_cache
def posterior():
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + NOISE**2 * torch.eye(2, dtype=torch.float64))
    return M + gain @ (Y - A @ M), C - gain @ A @ C


def solved(method, sampler=DPMSolver(), steps=50, **options):  # noqa: B008
    model = exact.gaussian(Cosine(), "v", mean=M, covariance=C)
    y = Y.expand(4000, 2)
    guided = method(model.predictor(), lambda x: x @ A.T, y, noise=NOISE, **options)
    x = sample(guided, (4000, 3), sampler, steps, seed=0)
    mean, covariance = posterior()
    error = (x.mean(0) - mean).abs().max() / covariance.diagonal().max().sqrt()
    return error, (x.T.cov() - covariance).abs().max() / covariance.abs().max()


@pytest.mark.parametrize(
    "method, options, mean, covariance",
    [
        # what is measured, at 4,000 draws (whose own error is 0.03 and 0.05), with room for seeds:
        # the mean in posterior deviations, the covariance relative to its largest entry
        (pigdm, {"covariance": "tweedie", "iterations": 2}, 0.06, 0.08),
        (pigdm, {"iterations": 2}, 0.12, 0.15),
        (pigdm, {"iterations": 2, "sampler": DDPM("large"), "steps": 100}, 0.12, 0.15),
        (dps, {}, 0.2, 0.35),
    ],
)
def test_posteriors_of_a_linear_measurement(method, options, mean, covariance):
    errors = solved(method, **options)
    assert errors[0] < mean and errors[1] < covariance
    nothing = solved(method, **options, scale=0.0)
    assert nothing[0] > 0.8 and nothing[1] > 2  # the prior is far away


def test_one_more_iteration_is_needed_for_one_more_measurement():
    one = solved(pigdm, covariance="tweedie", iterations=1)
    two = solved(pigdm, covariance="tweedie", iterations=2)
    assert two[1] < 0.08 and one[1] > 1.2 * two[1]


def test_white_data_measured_without_noise_are_met():
    model = exact.gaussian(Cosine(), "v")
    y, mask = draw((1000, 4), 3), torch.tensor([1.0, 0, 1, 0], dtype=torch.float64)
    x = sample(pigdm(model.predictor(), lambda x: x * mask, y * mask), (1000, 4), steps=50, seed=0)
    assert ((x - y) * mask).abs().max() < 0.02
    free = x[:, [1, 3]]
    assert abs(free.std() - 1) < 0.06 and abs(free.mean()) < 0.1


def test_the_published_step_is_one_of_the_chain():
    """x moves by zeta times the norm's gradient in each of the T steps of ancestral sampling."""
    model = exact.gaussian(Linear(), "eps", mean=0.3, std=0.7)
    p, y, x_t = model.predictor(), draw((5, 3), 1), draw((5, 3))
    knots = torch.tensor([0.500, 0.499], dtype=torch.float64)
    t, s = plan(Linear(), knots, DDPM())
    guided = dps(p, lambda x: x, y, scale=0.4)
    moved = [
        DDPM().step(q, x_t, t, s, (), torch.Generator().manual_seed(0))[0] for q in (p, guided)
    ]
    x = x_t.clone().requires_grad_()
    norm = (y - p.predict(x, t).x0).square().sum(1).sqrt().sum()
    (grad,) = torch.autograd.grad(norm, x)
    assert torch.allclose(moved[1] - moved[0], -0.4 * grad, rtol=0.02, atol=1e-6)


# what all of them keep --------------------


@every_guidance
@every_space
def test_guided_states_stay_in_their_space(space, shape, name):
    x_t = space.project(draw(shape))
    guided = guidances(x_t, space)(*both(space))[name]
    for t in (0.3, torch.full((4,), 0.3, dtype=torch.float64)):
        p, free = guided.predict(x_t, t), both(space)[0].predict(x_t, t)
        for value in (p.x0, p.eps):
            assert torch.allclose(space.project(value), value, atol=1e-11)
        assert not torch.allclose(p.x0, free.x0, atol=1e-6)
        assert torch.allclose(p.at(p.alpha, p.sigma), x_t, atol=1e-10)  # x_t stays
    x = sample(guided, shape, DDIM(), 6, seed=0)
    assert x.isfinite().all() and torch.allclose(space.project(x), x, atol=1e-10)


@every_guidance
def test_an_item_does_not_influence_another(name):
    aim, y = draw((4, 3), 9), draw((4, 6), 8)
    model, other = random_model(), random_model(seed=5)

    def drawn(items):
        def encode(x):
            return torch.stack([x.sum(1), x.square().sum(1), (x**3).sum(1)], 1)

        p, weak = model.predictor(), other.predictor()
        made = {
            "classifier_free": lambda: classifier_free(p, weak, 1.5),
            "rescaled": lambda: classifier_free(p, weak, 1.5, rescale=0.7),
            "interval": lambda: classifier_free(p, weak, 1.5, interval=(0.2, 0.8)),
            "autoguidance": lambda: autoguidance(p, weak, 1.5),
            "classifier": lambda: classifier(p, lambda x, t: -x.square().sum(1)),
            "clip": lambda: clip_guidance(p, (encode, lambda prompt: prompt), aim[items]),
            "dps": lambda: dps(p, lambda x: x, y[items], noise=0.5),
            "dps published": lambda: dps(p, lambda x: x, y[items], scale=0.001),
            "pigdm": lambda: pigdm(p, lambda x: x, y[items], noise=0.5, iterations=3),
            "tweedie": lambda: pigdm(p, lambda x: x, y[items], noise=0.5, covariance="tweedie"),
        }
        return sample(made[name](), (len(items), 6), DDPM(), 8, seed=[7 + k for k in items])

    whole = drawn([0, 1, 2, 3])
    for k in range(4):
        assert torch.allclose(drawn([k])[0], whole[k], atol=1e-9)


@every_guidance
def test_scale_0_is_not_guided_to_the_last_bit(name):
    p, weak = both(Dense())
    x_t = draw((4, 6))
    guided = guidances(x_t, scale=0.0)(p, weak)[name]
    # towards the unconditional one where there are two
    free = weak if name in NAMES[:4] else p
    # a level of floats, and of one time for each item
    for t in (level(0.5), 0.5) if name != "interval" else (level(0.5),):
        assert torch.equal(guided.predict(x_t, t).y, free.predict(x_t, t).y)
        assert torch.equal(guided.predict(x_t, t).x0, free.predict(x_t, t).x0)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("kind", ["number", "per item", "function"])
def test_scales_0_and_1_are_the_models_themselves_to_the_last_bit(kind, batched):
    model = random_model()
    c, u = model.predictor(label=torch.tensor([3, 1, 2, 0])), model.predictor()
    x_t = draw((4, 6))
    for w, alone in ((0.0, u), (1.0, c)):
        scale = {"number": w, "per item": torch.full((4,), w), "function": lambda t, w=w: w}[kind]
        guided = classifier_free(c, u, scale, batched=batched)
        at = level(0.4)
        if batched and kind == "per item":  # a batch of eight sums in another order
            assert torch.allclose(guided.predict(x_t, at).y, alone.predict(x_t, at).y, atol=1e-14)
        else:
            assert torch.equal(guided.predict(x_t, at).y, alone.predict(x_t, at).y)
            drawn = [sample(p, (4, 6), DDPM(), 5, seed=0) for p in (guided, alone)]
            assert torch.equal(*drawn)


def test_one_call_is_two():
    calls = []

    class Counted(Random):
        def forward(self, x_t, t, label=None):
            calls.append(len(x_t))
            return super().forward(x_t, t, label)

    model = GaussianDiffusion(Counted(6), Cosine(), "v")
    c, u = model.predictor(label=torch.tensor([3, 1, 2, 0])), model.predictor()
    one, two = (
        sample(classifier_free(c, u, 2.0, batched=b), (4, 6), DDPM(), 5, seed=0) for b in (1, 0)
    )
    assert torch.allclose(one, two, atol=1e-12)
    assert calls == [8] * 5 + [4] * 10


@pytest.mark.parametrize("name", ["dense", "masked", "ragged", "centered", "packed"])
def test_one_call_is_two_in_every_space(name):
    space, shape = SPACES[name]
    model = exact.mixture(Cosine(), "v", means=torch.tensor([0.5, -0.5]), stds=0.4)
    c, u = model.predictor(space, label=torch.tensor([0, 1, 1, 0])), model.predictor(space)
    x_t = space.project(draw(shape))
    for t in (0.6, torch.tensor([0.2, 0.4, 0.6, 0.9], dtype=torch.float64)):
        one, two = (classifier_free(c, u, 2.0, batched=b).predict(x_t, t) for b in (True, False))
        assert torch.allclose(one.x0, two.x0, atol=1e-12)


def test_the_interval_is_where_the_scale_holds_and_saves_the_other_call():
    calls = []

    class Counted(Random):
        def forward(self, x_t, t, label=None):
            calls.append(float(t[0]))
            return super().forward(x_t, t, label)

    model = GaussianDiffusion(Counted(6), Cosine(), "v")
    c, u = model.predictor(label=torch.tensor([3, 1, 2, 0])), model.predictor()
    guided = classifier_free(c, u, 3.0, interval=(0.3, 0.6))
    x_t = draw((4, 6))
    for t in (0.1, 0.29, 0.3, 0.45, 0.6, 0.61):
        calls.clear()
        p = guided.predict(x_t, level(t))
        inside = 0.3 <= t <= 0.6
        assert len(calls) == 1 + inside
        assert torch.equal(p.y, c.predict(x_t, t).y) != inside
    # the same of times in a tensor, one for each item
    t = torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    p, alone = guided.predict(x_t, t), c.predict(x_t, t)
    same = torch.isclose(p.x0, alone.x0, atol=1e-12).all(1)
    assert same.tolist() == [True, False, False, True]


def test_a_scale_may_be_a_function_of_the_time_or_one_for_each_item():
    x_t, t = draw((4, 2)), torch.tensor([0.2, 0.4, 0.6, 0.9], dtype=torch.float64)
    c, u = MIXTURE.predictor(label=label(4)), MIXTURE.predictor()
    rising = classifier_free(c, u, lambda t: 1 + 2 * t).predict(x_t, t)
    each = classifier_free(c, u, 1 + 2 * t).predict(x_t, t)
    assert torch.allclose(rising.x0, each.x0, atol=1e-12)
    for k in range(4):
        one = classifier_free(c, u, float(1 + 2 * t[k])).predict(x_t, t)
        assert torch.allclose(one.x0[k], each.x0[k], atol=1e-12)


def test_rescaled_x0_has_the_norm_of_the_conditional_one():
    x_t, t = draw((20, 2)), torch.full((20,), 0.7, dtype=torch.float64)
    c, u = MIXTURE.predictor(label=label(20)), MIXTURE.predictor()
    plain, whole, half = (
        classifier_free(c, u, 5.0, rescale=r).predict(x_t, t).x0.norm(dim=1) for r in (0, 1, 0.5)
    )
    assert torch.allclose(whole, c.predict(x_t, t).x0.norm(dim=1), atol=1e-10)
    assert torch.allclose(half, (plain + whole) / 2, atol=1e-10)
    assert (plain - whole).abs().max() > 0.1


def test_a_weaker_model_may_predict_something_else():
    strong, weak = random_model("v"), random_model("eps", seed=3)
    x_t, t = draw((4, 6)), torch.tensor([0.2, 0.4, 0.6, 0.9], dtype=torch.float64)
    p = autoguidance(strong.predictor(), weak.predictor(), 2.0).predict(x_t, t)
    s, w = strong.predictor().predict(x_t, t), weak.predictor().predict(x_t, t)
    assert torch.allclose(p.x0, 2 * s.x0 - w.x0, atol=1e-10)


def test_clip_turns_the_embedding_towards_the_prompt_s():
    model = exact.gaussian(Cosine(), "v")
    encode, prompt = (lambda x: x), {"up": [0.0, 1.0], "left": [-1.0, 0.0]}
    for name, direction in prompt.items():
        goal = torch.tensor(direction, dtype=torch.float64)
        encoders = (encode, lambda word: torch.tensor(prompt[word], dtype=torch.float64))
        x = sample(
            clip_guidance(model.predictor(), encoders, name, 20.0), (500, 2), steps=30, seed=0
        )
        cosine = nn.functional.normalize(x, dim=1) @ goal
        assert cosine.mean() > 0.8
    free = nn.functional.normalize(model.sample((500, 2), steps=30, seed=0), dim=1)
    assert abs((free @ goal).mean()) < 0.15


def test_guidances_through_one_another_are_followed_by_autograd():
    """dps around a classifier's guidance: its gradient sees that of the classifier."""
    p = classifier(MIXTURE.predictor(), log_label(1), 0.7)
    y = draw((6, 2), 4)
    guided = dps(p, lambda x: x, y, noise=0.8)
    x_t, t = draw((6, 2)), 0.5
    x = x_t.clone().requires_grad_()
    value = (y - p.predict(x, t).x0).square().sum() / (-2 * 0.8**2)
    (score,) = torch.autograd.grad(value, x)
    step = 1e-6  # and that is what differences say
    moved = x_t.clone()
    moved[2, 1] += step
    change = ((y - p.predict(moved, t).x0).square().sum() / (-2 * 0.8**2) - value) / step
    assert torch.allclose(change, score[2, 1], rtol=1e-4)
    assert torch.allclose(guided.predict(x_t, t).score, p.predict(x_t, t).score + score, atol=1e-9)


@every_guidance
def test_nothing_is_left_of_the_gradients(name):
    p, weak = both(Dense())
    x_t = draw((4, 6))
    out = guidances(x_t)(p, weak)[name].predict(x_t, 0.5)
    assert not out.y.requires_grad and not out.x0.requires_grad


def test_pure_noise_is_left_as_it_is():
    schedule = ZeroTerminalSNR(Linear())
    model = exact.gaussian(schedule, "v", std=0.5)
    guided = classifier(model.predictor(), lambda x, t: -x.square().sum(1))
    x = sample(guided, (100, 2), DDIM(), 20, seed=0)
    assert x.isfinite().all() and x.std() < 0.5


def test_models_draw_in_eval_mode_and_are_put_back():
    modes = []

    class Watched(Random):
        def forward(self, x_t, t, label=None):
            modes.append(self.training)
            return super().forward(x_t, t, label)

    strong, weak = (GaussianDiffusion(Watched(6, s), Cosine(), "v") for s in (0, 1))
    guided = autoguidance(strong.predictor(), weak.predictor(), 2.0)
    x = sample(guided, (4, 6), steps=3, seed=0)
    assert x.dtype == torch.float64 and not any(modes)
    assert strong.training and weak.denoiser.training


def network_predictor(dtype=torch.float32):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 6), nn.Tanh()).to(dtype)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network

        def forward(self, x_t, t, label=None):
            y = self.body(x_t.to(dtype))
            return y if label is None else y + torch.where(label[:, None] >= 0, 0.3, 0.0).to(dtype)

    return GaussianDiffusion(Net(), Cosine(), "v")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@every_guidance
def test_every_precision_is_guided(name, dtype):
    p = network_predictor(dtype).predictor(label=torch.tensor([0, 1, -1, 2]))
    weak = network_predictor(dtype).predictor()
    # the prompt's embedding and the goals of one precision with the data
    x_t = draw((4, 6)).to(dtype)
    guided = guidances(x_t, scale=0.8)(p, weak)[name]
    for t in (level(0.5), 0.5):
        p = guided.predict(x_t, t)
        assert p.x0.isfinite().all() and p.y.isfinite().all()
        if t != 0.5:  # of floats; one time for each item is of float32, and so is what it scales
            assert p.x0.dtype == dtype


def test_guidance_in_inference_mode():
    predictor = network_predictor().predictor()
    with torch.inference_mode():
        guided = dps(predictor, lambda x: x, torch.zeros(4, 6), noise=1.0)
        x = sample(guided, (4, 6), steps=5, seed=0)
    again = dps(predictor, lambda x: x, torch.zeros(4, 6), noise=1.0)
    assert torch.allclose(x, sample(again, (4, 6), steps=5, seed=0), atol=1e-6)


def test_times_at_the_ends_are_left_as_they_are():
    model = exact.gaussian(ZeroTerminalSNR(Linear()), "v", std=0.5)
    p, x_t = model.predictor(), draw((3, 2))
    t = torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64)  # alpha is 0 at 1
    for guided in (
        classifier(p, lambda x, t: -x.square().sum(1)),
        pigdm(p, lambda x: x, torch.ones(3, 2).double(), covariance="tweedie", noise=0.1),
    ):
        got, free = guided.predict(x_t, t), p.predict(x_t, t)
        assert torch.equal(got.x0[[0, 2]], free.x0[[0, 2]]) and got.x0.isfinite().all()
        assert not torch.allclose(got.x0[1], free.x0[1], atol=1e-3)
    flow = exact.gaussian(Flow(), "v", std=0.5)  # and sigma is 0 at 0: x_t is the data
    c = flow.predictor()
    for guided in (classifier_free(c, c, 2.0, rescale=0.5), dps(c, lambda x: x, x_t)):
        assert encode(guided, draw((3, 2)), steps=10).isfinite().all()


def test_what_is_not_measured_is_not_looked_at():
    """Unknown values of y are NaN, here as everywhere."""
    observed = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.6
    space = Masked(torch.ones(2, 4, dtype=torch.bool), observed)
    y = draw((2, 4, 3)).masked_fill(~observed, torch.nan)
    p = exact.gaussian(Cosine(), "v").predictor()
    for guided in (
        dps(p, lambda x: x, y, noise=0.5, measured=space),
        pigdm(p, lambda x: x * observed, y, noise=0.5, measured=space),
    ):
        assert guided.predict(draw((2, 4, 3), 1), 0.4).x0.isfinite().all()


def test_one_call_refuses_what_it_cannot_tell_apart():
    class Prompted(nn.Module):
        def forward(self, x_t, t, prompt=None, flag=None):
            return x_t * len(prompt or "")

    d = GaussianDiffusion(Prompted(), Cosine(), "v")
    flag = torch.tensor([True, False])
    for c, u in (
        (d.predictor(prompt="cat"), d.predictor(prompt="mouse")),
        (d.predictor(prompt="cat"), d.predictor()),
        (d.predictor(flag=flag), d.predictor()),
    ):
        with pytest.raises(ValueError, match="batched=False"):
            classifier_free(c, u, 2.0, batched=True)
    several = {"prompt": {"a": torch.zeros(9, 9)}}
    with pytest.raises(ValueError, match=r"^the condition 'prompt' is a dict or the like"):
        classifier_free(d.predictor(**several), d.predictor(), 2.0, batched=True)
    same = d.predictor(prompt="cat")
    assert classifier_free(same, same, 2.0, batched=True).predict(draw((2, 3)), 0.5).y.shape == (
        2,
        3,
    )
    assert d.predictor(prompt=["a", "b"]).copies(2) is None and same.copies(2) is not None


def test_schedules_that_are_the_same_function_are_one_schedule():
    models = [exact.gaussian(Tabulated.linear(100), "eps") for _ in range(2)]
    autoguidance(models[0].predictor(), models[1].predictor())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p: classifier_free(p, p, interval=(0.5, 0.2)), r"high is 0.2; .* \[0.5, 1\]"),
        (lambda p: classifier_free(p, p, rescale=2), r"rescale is 2; .* \[0, 1\]"),
        (lambda p: classifier_free(p, MIXTURE.predictor(NODES)), "different spaces"),
        (lambda p: classifier_free(p, exact.gaussian(Linear()).predictor()), "different schedules"),
        (lambda p: classifier_free(p, classifier(p, log_label(0)), batched=True), "batched=False"),
        (lambda p: dps(p, abs, draw((4, 2)), noise=0.0), r"noise is 0.0; .* \(0, inf\)"),
        (lambda p: pigdm(p, abs, draw((4, 2)), covariance="full"), "isotropic"),
        (lambda p: pigdm(p, abs, draw((4, 2)), iterations=0), r"iterations is 0; .* \[1, inf\)"),
        (lambda p: classifier(p, lambda x, t: x).predict(draw((4, 2)), 0.5), r"each item, \(4,\)"),
    ],
)
def test_errors_name_the_value_and_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call(MIXTURE.predictor())


# measurements --------------------


@pytest.mark.parametrize("guidance", [dps, pigdm])
@pytest.mark.parametrize(
    "operator, message",
    [
        (lambda x: (x,), "what the operator gives is a tuple; give a tensor of the shape of y"),
        (lambda x: x.detach(), "no gradient; compute it from x0"),
        (lambda x: torch.ones(4, 2), "no gradient; compute it from x0"),
    ],
)
def test_operators_that_give_no_gradient_are_named(guidance, operator, message):
    guided = guidance(MIXTURE.predictor(), operator, draw((4, 2)), noise=0.1)
    with pytest.raises(ValueError, match=message):
        sample(guided, (4, 2), steps=2, seed=0)


@pytest.mark.parametrize("guidance", [dps, pigdm])
def test_a_batch_without_items_is_measured_too(guidance):
    guided = guidance(MIXTURE.predictor(), lambda x: 2 * x + 1, draw((0, 2)), noise=0.1)
    assert sample(guided, (0, 2), steps=2, seed=0).shape == (0, 2)


@pytest.mark.parametrize("noise", [0.5, 0.1, 0.05, 0.01, 1e-3])
@pytest.mark.parametrize("std", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("sampler", [DPMSolver(), DDIM(), DDPM("large")], ids=str)
def test_dps_does_not_run_away(sampler, std, noise):
    """The mean of a coordinate that is measured, of normal data, within DPS's own bias."""
    predictor = exact.gaussian(Cosine(), "v", std=std).predictor()
    y = torch.full((500, 1), 0.5, dtype=torch.float64)
    x = sample(dps(predictor, lambda x: x[:, :1], y, noise=noise), (500, 2), sampler, 40, seed=0)
    mean, deviation = 0.5 / (1 + (noise / std) ** 2), (std**-2 + noise**-2) ** -0.5
    assert abs(x[:, 0].mean() - mean) < deviation
    assert x[:, 0].std() < 1.1 * deviation
    assert x[:, 1].std() / std == pytest.approx(1, abs=0.2)  # and nothing else is touched


def test_dps_of_a_curved_measurement_does_not_run_away():
    predictor = exact.gaussian(Cosine(), "v").predictor()
    y = torch.full((200, 1), 4.0, dtype=torch.float64)
    guided = dps(predictor, lambda x: x[:, :1] ** 2, y, noise=0.05)
    x = sample(guided, (200, 2), steps=50, seed=0)[:, 0]
    assert ((x.square() - 4).abs() < 0.5).float().mean() > 0.95


def test_a_step_of_dps_that_is_short_enough_is_bayes_rule():
    predictor, x_t, y = exact.gaussian(Cosine(), "v").predictor(), draw((5, 3)), draw((5, 3), 1)
    at, noise = level(0.3), 2.0
    got = dps(predictor, lambda x: x, y, noise=noise).predict(x_t, at)
    x = x_t.clone().requires_grad_()
    p = predictor.predict(x, at)
    (score,) = torch.autograd.grad(-(y - p.x0).square().sum() / (2 * noise**2), x)
    assert torch.allclose(got.score, predictor.predict(x_t, at).score + score, atol=1e-12)


def test_a_constant_of_the_operator_changes_nothing():
    predictor, y = exact.gaussian(Cosine(), "v", std=0.7).predictor(), draw((6, 1), 1)
    shift = draw((6, 1), 2)
    for options in ({}, {"covariance": "tweedie", "iterations": 2}):
        plain, moved = (
            sample(pigdm(predictor, operator, seen, noise=0.1, **options), (6, 2), steps=20, seed=0)
            for operator, seen in (
                (lambda x: x[:, :1] - x[:, 1:], y),
                (lambda x: x[:, :1] - x[:, 1:] + shift, y + shift),
            )
        )
        assert torch.allclose(plain, moved, atol=1e-9)


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: x[:, :1] ** 2,
        lambda x: x[:, :1] ** 3,
        lambda x: x[:, :1].abs(),
        lambda x: x[:, :1].relu() + 1,
        lambda x: x.amax(1, keepdim=True),
        lambda x: x.norm(dim=1, keepdim=True),
        lambda x: x.median(1, keepdim=True).values,
        lambda x: x[:, :1].clamp(-1, 1),
        lambda x: x[:, :1].tanh(),
    ],
)
def test_pigdm_refuses_an_operator_that_is_not_linear(operator):
    guided = pigdm(exact.gaussian(Cosine(), "v").predictor(), operator, draw((6, 1)), noise=0.1)
    with pytest.raises(ValueError, match=r"operator is not linear.*use dps"):
        sample(guided, (6, 3), steps=3, seed=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_not_taken_for_a_curve(dtype):
    A = draw((50, 8))
    predictor = exact.gaussian(Cosine(), "v").predictor()
    guided = pigdm(predictor, lambda x: 100 * x @ A.to(x.dtype) + 7, draw((6, 8)), noise=0.1)
    assert guided.predict(draw((6, 50)).to(dtype), 0.5).x0.isfinite().all()


@pytest.mark.parametrize("method", [dps, pigdm])
@pytest.mark.parametrize("shape", [(1, 1), (6,), (1,), (6, 2), (6, 1, 1)])
def test_a_measurement_of_another_shape_is_refused(method, shape):
    guided = method(
        exact.gaussian(Cosine(), "v").predictor(), lambda x: x[:, :1], draw(shape), noise=0.1
    )
    with pytest.raises(ValueError, match=r"y is .* and the operator gives \(6, 1\)"):
        sample(guided, (6, 3), steps=3, seed=0)


@every_guidance
@pytest.mark.parametrize("shape", [(1,), (3,), (4, 1), (4, 6)])
def test_a_scale_of_another_shape_is_refused(name, shape):
    x = draw((4, 6))
    scale = torch.ones(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match="scale is"):
        guidances(x, scale=scale)(*both(Dense()))[name].predict(x, 0.5)
