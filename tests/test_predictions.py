"""Conversions between predictions are one 2 x 2 system, solved right."""

import pytest
import torch

from anydiff import Cosine, Dense, GaussianDiffusion, Linear, Polynomial, Predictor, Tabulated
from anydiff.predictions import PREDICTIONS, Prediction, coefficients

every_prediction = pytest.mark.parametrize("name", PREDICTIONS)


def triple(dtype=torch.float64, logsnr=0.0):
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(5, 3, generator=generator, dtype=dtype)
    eps = torch.randn(5, 3, generator=generator, dtype=dtype)
    level = torch.tensor(logsnr, dtype=torch.float64)
    return x0, eps, float(level.sigmoid().sqrt()), float((-level).sigmoid().sqrt())


@every_prediction
@pytest.mark.parametrize("logsnr", [-4.0, 0.0, 4.0])
def test_x0_and_eps_come_back_from_any_output(name, logsnr):
    x0, eps, alpha, sigma = triple(torch.float32, logsnr)
    a, b = PREDICTIONS[name](alpha, sigma)
    p = Prediction(alpha * x0 + sigma * eps, a * x0 + b * eps, a, b, alpha, sigma)
    # float32 rounding of x_t and y, magnified by at most 1 / alpha or 1 / sigma, below 8 here
    assert torch.allclose(p.x0, x0, atol=3e-6)
    assert torch.allclose(p.eps, eps, atol=3e-6)
    assert torch.allclose(p.v, alpha * eps - sigma * x0, atol=3e-6)
    assert torch.allclose(p.score, -eps / sigma, atol=3e-5)
    assert torch.allclose(p.at(0.3, 0.8), 0.3 * x0 + 0.8 * eps, atol=3e-6)


@every_prediction
def test_tensor_levels_agree_with_floats(name):
    x0, eps, alpha, sigma = triple()
    a, b = PREDICTIONS[name](alpha, sigma)
    x_t, y = alpha * x0 + sigma * eps, a * x0 + b * eps
    as_tensor = torch.full((5, 1), alpha).double(), torch.full((5, 1), sigma).double()
    p = Prediction(x_t, y, *PREDICTIONS[name](*as_tensor), *as_tensor)
    assert torch.allclose(p.x0, x0, atol=1e-6) and torch.allclose(p.eps, eps, atol=1e-6)


def test_the_network_s_own_quantity_is_handed_through_untouched():
    x0, eps, alpha, sigma = triple()
    x_t = alpha * x0 + sigma * eps
    assert Prediction(x_t, eps, 0.0, 1.0, alpha, sigma).eps is eps
    assert Prediction(x_t, x0, 1.0, 0.0, alpha, sigma).x0 is x0


def test_predict_with_and_without_a_planned_level():
    schedule = Cosine()
    predictor = Predictor(lambda x, t: 0.1 * x + t[:, None], PREDICTIONS["v"], schedule, Dense())
    x_t, t = triple()[0], torch.full((5,), 0.4, dtype=torch.float64)
    level = tuple(float(c) for c in schedule(t[0]))
    planned = predictor.predict(x_t, t, level)
    for time in (t, 0.4, torch.tensor(0.4, dtype=torch.float64)):
        assert torch.allclose(predictor.predict(x_t, time).x0, planned.x0, atol=1e-12)


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), Polynomial(), Tabulated.linear()])
@every_prediction
def test_every_schedule_takes_every_prediction(name, schedule):
    coefficients(name, schedule)


def test_a_combination_that_cannot_work_is_an_error_at_construction():
    to_pure_noise = Cosine(logsnr_min=-80)
    with pytest.raises(ValueError, match="use 'v' or 'x0'"):
        GaussianDiffusion(torch.nn.Identity(), to_pure_noise, "eps")
    GaussianDiffusion(torch.nn.Identity(), to_pure_noise, "v")
    with pytest.raises(ValueError, match="'epsilon'; choose one of eps, x0, v"):
        GaussianDiffusion(torch.nn.Identity(), prediction="epsilon")
