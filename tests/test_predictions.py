"""Conversions between predictions are one 2 x 2 system, solved right."""

import pytest
import torch

from anydiff import (
    VE,
    Cosine,
    Dense,
    Flow,
    GaussianDiffusion,
    Karras,
    Linear,
    Polynomial,
    Predictor,
    Tabulated,
)
from anydiff.predictions import TARGETS, Network, Preconditioned, Prediction, as_target

every_prediction = pytest.mark.parametrize("name", TARGETS)


def triple(dtype=torch.float64, logsnr=0.0):
    """x0, eps and the level of Cosine with that log-SNR."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(5, 3, generator=generator, dtype=dtype)
    eps = torch.randn(5, 3, generator=generator, dtype=dtype)
    time = Cosine().time(torch.tensor([logsnr], dtype=torch.float64))
    return x0, eps, Cosine().levels(time)[0]


@every_prediction
@pytest.mark.parametrize("logsnr", [-4.0, 0.0, 4.0])
def test_x0_and_eps_come_back_from_any_output(name, logsnr):
    x0, eps, at = triple(torch.float32, logsnr)
    a, b = TARGETS[name].coefficients(at)
    p = Prediction(at.alpha * x0 + at.sigma * eps, a * x0 + b * eps, a, b, at.alpha, at.sigma)
    wanted = [
        (p.x0, x0),
        (p.eps, eps),
        (p.v, at.alpha * eps - at.sigma * x0),
        (p.score, -eps / at.sigma),
        (p.at(0.3, 0.8), 0.3 * x0 + 0.8 * eps),
    ]
    for got, true in wanted:
        # float32's 6e-8, magnified by at most 1 / alpha or 1 / sigma, below 8 here
        assert (got - true).norm() < 1e-6 * true.norm()


@every_prediction
def test_tensor_levels_agree_with_floats(name):
    x0, eps, at = triple()
    a, b = TARGETS[name].coefficients(at)
    x_t, y = at.alpha * x0 + at.sigma * eps, a * x0 + b * eps
    many = Cosine().at(torch.full((5,), at.t, dtype=torch.float64))
    pair, levels = TARGETS[name].coefficients(many), (many.alpha, many.sigma)
    columns = [
        c[:, None] if isinstance(c, torch.Tensor) and c.ndim else c for c in (*pair, *levels)
    ]
    p = Prediction(x_t, y, *columns)
    assert torch.allclose(p.x0, x0, atol=1e-6) and torch.allclose(p.eps, eps, atol=1e-6)


def test_the_network_s_own_quantity_is_handed_through_untouched():
    x0, eps, at = triple()
    x_t, levels = at.alpha * x0 + at.sigma * eps, (at.alpha, at.sigma)
    assert Prediction(x_t, eps, 0.0, 1.0, *levels).eps is eps
    assert Prediction(x_t, x0, 1.0, 0.0, *levels).x0 is x0


@every_prediction
def test_predict_with_and_without_a_planned_level(name):
    schedule = Cosine()
    network = Network(lambda x, t: 0.1 * x + t[:, None], TARGETS[name], Dense())
    predictor = Predictor(network, schedule, Dense())
    x_t, t = triple()[0], torch.full((5,), 0.4, dtype=torch.float64)
    planned = predictor.predict(x_t, schedule.levels(t[:1])[0])
    for time in (t, 0.4, t[0], schedule.at(t)):
        assert torch.allclose(predictor.predict(x_t, time).x0, planned.x0, atol=1e-12)


@pytest.mark.parametrize(
    "schedule", [Cosine(), Linear(), Polynomial(), Tabulated.linear(), VE(), Karras()]
)
@every_prediction
def test_every_schedule_takes_every_prediction(name, schedule):
    if name == "velocity" and isinstance(schedule, Polynomial):
        with pytest.raises(ValueError, match="does not determine"):  # its last part stands still
            as_target(name, schedule)
    else:
        as_target(name, schedule)


def test_preconditioning_is_karras_table_and_minus_v_for_unit_data():
    at = Karras().levels(torch.tensor([0.6]))[0]
    sigma, data = at.sigma, 0.5
    root = (sigma**2 + data**2) ** 0.5
    a, b = Preconditioned(sigma_data=data).coefficients(at)
    c_skip, c_out = data**2 / root**2, sigma * data / root  # table 1
    assert a == pytest.approx((1 - c_skip) / c_out) and b == pytest.approx(-c_skip * sigma / c_out)
    assert Preconditioned(data).input_scale(at) == pytest.approx(1 / root)

    at = Cosine().levels(torch.tensor([0.6]))[0]
    assert Preconditioned(sigma_data=1.0).coefficients(at) == pytest.approx((at.sigma, -at.alpha))


def test_a_combination_that_cannot_work_is_an_error_at_construction():
    to_pure_noise = Cosine(logsnr_min=-80)
    with pytest.raises(ValueError, match="use one of 'v', 'x0'"):
        GaussianDiffusion(torch.nn.Identity(), to_pure_noise, "eps")
    GaussianDiffusion(torch.nn.Identity(), to_pure_noise, "v")
    with pytest.raises(ValueError, match="'epsilon'; choose one of 'eps', 'x0', 'v', 'score'"):
        GaussianDiffusion(torch.nn.Identity(), prediction="epsilon")
    for name in ("eps", "score"):
        with pytest.raises(ValueError, match="does not determine x0"):
            GaussianDiffusion(torch.nn.Identity(), Flow(), name)
    for name in ("v", "x0", "velocity", "karras"):
        GaussianDiffusion(torch.nn.Identity(), Flow(), name)
