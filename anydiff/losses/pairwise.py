r"""A term beside the squared error: how far distances between points are from those of the data.

.. math::
    L_{pairs} = weight \cdot \frac{\alpha^2}{\sigma^2}\, \frac{1}{P} \sum_{i<j}
        e^{-d_{ij}} \bigl( \hat d_{ij} - d_{ij} \bigr)^2

where :math:`\hat d` are distances in the predicted x0. The squared error of positions counts a common
turn of all points as much as two neighbours that are too far apart; this term counts the latter alone,
and near points most. With the factor it is, as that error is, one of the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anydiff.checks import frozen
from anydiff.losses.errors import SquaredError
from anydiff.predictions import Prediction
from anydiff.schedules import Level
from anydiff.spaces import Packed, Ragged, Rest, Space

__all__ = ["PairDistances"]

MOST = 1e4  # of alpha / sigma, which is infinite at the data of some schedules


@frozen(weight="(0, inf)", columns="[1, inf)")
class PairDistances(SquaredError):
    """The squared error plus that of distances between the points of an item.

    Arguments:
        weight: The weight of the term.
        columns: How many of the first columns of a row are its position, in units in which neighbours are
            about 1 apart, such as ångström.

    Raises:
        ValueError: If `weight` is not positive, or `columns` below 1.

    References:
        Learning Joint 2D & 3D Diffusion Models for Complete Molecule Generation (Huang et al., 2023),
        JODO, to which such a term was added. https://arxiv.org/abs/2305.12347
    """

    weight: float = 1.0
    columns: int = 3

    def term(
        self,
        p: Prediction,
        x0: Tensor,
        eps: Tensor,
        at: Level,
        space: Space,
        cond: Mapping[str, Any] | None = None,
    ) -> Any:
        """The term, (B,).

        Arguments:
            p: The prediction at x_t = alpha x0 + sigma eps.
            x0: Data, in the space.
            eps: Not needed.
            at: The level, of tensors (B,).
            space: The batch's space: Ragged, or Packed with such a field; or `Rest` of one of these.
            cond: The conditions, of which `given` is the known part in a `Rest`.

        Raises:
            ValueError: If the space has no points.
        """
        whole, given = space, None
        if isinstance(space, Rest):
            whole, given = space.space, (cond or {}).get("given")
        name, rows = _points(whole)
        i, j = rows.pairs

        def distances(x: Tensor) -> Tensor:
            x = x if given is None else x + given
            pos = (whole.unpack(x)[name] if isinstance(whole, Packed) else x)[:, : self.columns]
            away = pos.index_select(0, i) - pos.index_select(0, j)
            return torch.sqrt(away.square().sum(1, keepdim=True) + 1e-6)

        d = distances(x0)
        error = rows.pair_space.mean(torch.exp(-d) * (distances(p.x0) - d).square())
        ratio = (at.alpha / at.sigma).clamp(max=MOST).to(error.dtype)
        return self.weight * ratio**2 * error


def _points(space: Space) -> tuple[str, Ragged]:
    """The field of the points, and its space."""
    fields: dict[str, Space] = {"": space}
    if isinstance(space, Packed):
        fields = {name: field for name, (field, _) in space.fields.items()}
    for name, field in fields.items():
        if isinstance(field, Ragged):
            return name, field
    raise ValueError(
        f"the space is {type(space).__name__}, in which there are no points; give Ragged rows of points, "
        "or Packed with a field of them."
    )
