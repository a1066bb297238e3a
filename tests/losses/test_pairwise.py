"""The error of distances: by brute force, in every space that has points, and what it does not count."""

import pytest
import torch

import anydiff
from anydiff import Cosine, Flow, GaussianDiffusion
from anydiff.denoisers import Completing, PairNet
from anydiff.losses import PairDistances, SquaredError
from anydiff.spaces import DENSE, Packed, Ragged, Rest
from tests.helpers.networks import awake
from tests.helpers.points import ROUNDING
from tests.helpers.spaces import draw

SIZES = [3, 1, 4]
POINTS = Ragged.from_sizes(SIZES, centered=3)
T = torch.tensor([0.2, 0.5, 0.8]).double()


class Said:
    """A prediction of this x0."""

    def __init__(self, x0):
        self.x0 = x0


def brute(found, x0, weight=1.0):
    """Item by item, pair by pair."""
    at, terms = Cosine()._at(T), []
    for item in range(3):
        rows = (POINTS.index == item).nonzero()[:, 0].tolist()
        errors = [
            torch.exp(-d) * ((found[i, :3] - found[j, :3]).norm() - d) ** 2
            for k, i in enumerate(rows)
            for j in rows[k + 1 :]
            for d in [(x0[i, :3] - x0[j, :3]).norm()]
        ]
        terms.append(torch.stack(errors).mean() if errors else torch.zeros(()).double())
    return weight * (at.alpha / at.sigma) ** 2 * torch.stack(terms)


def term(found, x0, space, weight=1.0, **cond):
    return PairDistances(weight).term(Said(found), x0, None, Cosine()._at(T), space, cond)


def test_it_is_the_mean_over_pairs_of_each_item():
    x0, found = POINTS.project(draw((8, 5))), POINTS.project(draw((8, 5), 2))
    # the distance of a point has a thousandth in it, so that its gradient is finite
    torch.testing.assert_close(
        term(found, x0, POINTS, 0.7), brute(found, x0, 0.7), rtol=1e-4, atol=1e-6
    )
    assert not term(x0, x0, POINTS).any()


def test_a_motion_of_all_points_is_no_error():
    x0 = POINTS.project(draw((8, 5)))
    turn = torch.linalg.qr(draw((3, 3), 3))[0]
    moved = torch.cat([x0[:, :3] @ turn, x0[:, 3:] + 1], 1)
    torch.testing.assert_close(term(moved, x0, POINTS), torch.zeros(3).double(), rtol=0, atol=1e-12)


def test_points_that_fall_together_have_a_finite_gradient():
    x0 = POINTS.project(draw((8, 5)))
    found = torch.zeros(8, 5, dtype=torch.float64, requires_grad=True)
    term(found, x0, POINTS).sum().backward()
    assert found.grad.isfinite().all()


def test_the_points_of_a_packed_space_are_found():
    x0, found = POINTS.project(draw((8, 5))), POINTS.project(draw((8, 5), 2))
    fields = {
        "other": (DENSE, (3, 2)),
        "points": (POINTS, (8, 5)),
        "pairs": (POINTS.pair_space, (9, 2)),
    }
    space = Packed(fields)
    packed = [
        space.pack({"other": draw((3, 2)), "points": x, "pairs": draw((9, 2))}) for x in (found, x0)
    ]
    torch.testing.assert_close(term(*packed, space), term(found, x0, POINTS), **ROUNDING)


def test_of_a_rest_it_is_that_of_the_whole():
    x0, found = POINTS.project(draw((8, 5))), POINTS.project(draw((8, 5), 2))
    known = torch.tensor([1, 1, 0, 0, 1, 0, 0, 0], dtype=torch.bool)
    space = Rest(POINTS, known)
    given = POINTS.restrict(x0, known)
    whole = space.project(found) + given
    ours = term(space.project(found), space.project(x0), space, given=given)
    torch.testing.assert_close(ours, term(whole, x0, POINTS), **ROUNDING)
    assert not torch.allclose(ours, term(space.project(found), space.project(x0), POINTS))


@pytest.mark.parametrize("rest", [False, True])
def test_a_loss_is_the_squared_error_and_the_term(rest, tmp_path):
    torch.manual_seed(0)
    net = awake(Completing(PairNet(7, 8, layers=1)) if rest else PairNet(2, 8, layers=1)).double()
    x0, space, cond = POINTS.project(draw((8, 5))), POINTS, {}
    if rest:
        known = torch.tensor([1, 1, 0, 0, 1, 0, 0, 0], dtype=torch.bool)
        cond, space = {"given": POINTS.restrict(x0, known)}, Rest(POINTS, known)
    noise, losses = space.noise(x0), []
    for error in (PairDistances(0.3), SquaredError()):
        model = GaussianDiffusion(net, Cosine(), "v", error=error)
        losses.append(model.loss(x0, T, space=space, noise=noise, **cond))
    x = space.project(x0)
    at = Cosine()._at(T)
    x_t = space.expand(at.alpha, x) * x + space.expand(at.sigma, x) * noise
    p = model.predictor(space, **cond).predict(x_t, at)
    wanted = PairDistances(0.3).term(p, x, noise, at, space, cond)
    torch.testing.assert_close(losses[0] - losses[1], wanted, **ROUNDING)
    assert (wanted > 0).any()
    saved = GaussianDiffusion(net.float(), Cosine(), "v", error=PairDistances(0.3))
    anydiff.save(tmp_path / "m.safetensors", saved)
    assert anydiff.load(tmp_path / "m.safetensors")[0].error == PairDistances(0.3)


def test_without_noise_the_term_is_finite():
    x0, at = POINTS.project(draw((8, 5))), Flow()._at(torch.zeros(3).double())
    assert (at.sigma == 0).all()
    same = PairDistances().term(Said(x0), x0, None, at, POINTS)
    other = PairDistances().term(Said(2 * x0), x0, None, at, POINTS)
    assert not same.any() and other.isfinite().all() and other[0] > 0


def test_what_has_no_points_is_refused():
    for space, shape in ((DENSE, (3, 2)), (Packed({"a": (DENSE, (3, 2))}), (6,))):
        with pytest.raises(ValueError, match=r"in which there are no points; give Ragged rows"):
            term(draw(shape), draw(shape), space)
    for wrong in ({"weight": 0.0}, {"columns": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PairDistances(**wrong)
