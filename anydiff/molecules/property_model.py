r"""A network that predicts properties of molecules, to evaluate generated ones.

To determine whether a generated molecule has the wanted property takes a quantum-chemical calculation.
EDM's protocol uses a network instead, trained on half of the training molecules, while the generator is
trained on the other half (:func:`anydiff.molecules.properties.halves`). With ρ the sum or mean over the
atoms of a molecule and e_i the one-hot element,

.. math:: \frac{\hat c - \text{mean}}{\text{MAD}} = A\,\rho_i\, e_i + b + s\, \rho_i\, f_i

The first part is a linear regression on the composition, fitted in closed form; f_i are feature columns
that :class:`~anydiff.denoisers.PairNet` returns for each atom, and s is the spread of the regression's
residual. The features are invariant to translation, rotation and reflection, and equivariant to
permutation of the atoms, so that the prediction is invariant to all of them.

No trained model comes with the package: `scripts/train_property_model.py` trains one and reports its
error on unseen molecules, which belongs beside every number computed with it.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), section 5.2.
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from anydiff.checkpoints.described import assemble, check_fields, plain
from anydiff.checkpoints.loading import contents, fill, reading
from anydiff.denoisers.configured import configured
from anydiff.denoisers.points.pairnet import PairNet
from anydiff.files import PathLike, whole
from anydiff.molecules.bonds import Array, as_arrays
from anydiff.molecules.molecules import Molecules
from anydiff.molecules.properties import Properties, molecules_values
from anydiff.spaces import Ragged

__all__ = ["PropertyModel"]

_KEY = "property_model"  # in the file's header


@configured
class PropertyModel(nn.Module):
    """Predicts properties of molecules; invariant to motions, reflections and the atoms' order.

    Arguments:
        properties: The properties to predict, and their units in training.
        elements: Atomic numbers that may occur.
        pool: "sum" for extensive properties (alpha, Cv), "mean" for intensive ones (gap, mu).
        hidden: Channels of an atom, as for :class:`~anydiff.denoisers.PairNet`.
        pair: Channels of a pair of atoms, as for `PairNet`.
        vectors: Vectors of an atom, as for `PairNet`.
        layers: Layers, as for `PairNet`.
        bases: Gaussians that represent a distance, as for `PairNet`.

    Raises:
        ValueError: `pool` is not "sum" or "mean", or the properties are by size.
    """

    config: dict[str, Any]
    composition: Tensor
    spread: Tensor

    def __init__(
        self,
        properties: Properties,
        elements: tuple[int, ...] = (1, 6, 7, 8, 9),
        pool: str = "mean",
        hidden: int = 128,
        pair: int = 64,
        vectors: int = 16,
        layers: int = 4,
        bases: int = 32,
    ) -> None:
        super().__init__()
        if pool not in ("sum", "mean"):
            raise ValueError(f"pool is {pool!r}; give 'sum' or 'mean'.")
        if properties.sizes:
            raise ValueError(
                "properties are told relative to molecules of the same size; give those of "
                "Properties.from_molecules(molecules, names)."
            )
        self.properties = properties
        self.elements = tuple(int(z) for z in elements)
        self.pool = pool
        self.about: dict[str, Any] = {}  # notes from the file
        E, P = len(self.elements), len(properties.names)
        self.net = PairNet(E + P, hidden, pair, vectors, layers, bases)
        self.register_buffer("composition", torch.zeros(E + 1, P))  # A and b
        self.register_buffer("spread", torch.ones(P))

    def forward(self, pos: Tensor, z: Tensor, space: Ragged) -> Tensor:
        """Predictions (B, P) in units of MAD from the mean.

        Arguments:
            pos: (N, 3), positions in ångström.
            z: (N,), atomic numbers.
            space: The molecule of each row.

        Raises:
            ValueError: An element is not known. Tensors on an accelerator are not checked.
        """
        one_hot = self._one_hot(z).to(pos.dtype)
        P = len(self.properties.names)
        # PairNet returns as many features as it takes: zeros are appended for the contributions
        x = torch.cat([pos, one_hot, pos.new_zeros(len(pos), P)], dim=1)
        f = self.net(x, pos.new_zeros(space.num_items), space=space)[:, -P:]
        pooled = self._pooled(torch.cat([one_hot, self.spread * f], dim=1), space)
        return self._regression(pooled[:, :-P]) + pooled[:, -P:]

    def _one_hot(self, z: Tensor) -> Tensor:
        one_hot = z[:, None] == torch.tensor(self.elements, device=z.device)
        if z.device.type == "cpu" and not bool(one_hot.any(1).all()):  # no read from an accelerator
            raise ValueError(
                f"there is atomic number {int(z[~one_hot.any(1)][0])}; this model knows "
                f"{', '.join(map(str, self.elements))}."
            )
        return one_hot

    def _pooled(self, rows: Tensor, space: Ragged) -> Tensor:
        total = rows.new_zeros(space.num_items, rows.shape[1]).index_add(0, space.index, rows)
        return total if self.pool == "sum" else total / space.sizes.to(rows.dtype)[:, None]

    def _regression(self, pooled: Tensor) -> Tensor:
        return pooled @ self.composition[:-1] + self.composition[-1]

    @torch.no_grad()
    def fit_composition(self, molecules: Molecules) -> None:
        """Fit A and b by least squares, and s to the residual; to be called before training.

        Arguments:
            molecules: The training molecules, with the properties.

        Raises:
            ValueError: The molecules lack a property, or have an unknown element.
        """
        space = Ragged.from_sizes(torch.from_numpy(molecules.sizes))
        one_hot = self._one_hot(torch.from_numpy(molecules.z).long()).double()
        pooled = self._pooled(one_hot, space)
        ones = torch.nn.functional.pad(pooled, (0, 1), value=1.0).numpy()
        values = torch.from_numpy(molecules_values(molecules, self.properties.names))
        for p, y in enumerate(self.properties.encode(values).numpy().T):
            known = np.isfinite(y)
            # the least-norm solution: an element may be missing, and fractions sum to one
            solution = np.linalg.lstsq(ones[known], y[known], rcond=None)[0]
            rest = np.abs(y - ones @ solution)[known].mean()
            self.composition[:, p] = torch.from_numpy(solution)
            self.spread[p] = max(float(rest), 1e-6)

    @torch.no_grad()
    def predict(self, pos: Array, z: Array, index: Array, batch_size: int = 256) -> Tensor:
        """The properties of molecules, (M, P) on the CPU, in their own units.

        They are nan for a molecule with positions that are not finite.

        Arguments:
            pos: (N, 3), positions in ångström.
            z: (N,), atomic numbers.
            index: (N,), the molecule of each row, ascending, with M different values.
            batch_size: Molecules at once.

        Raises:
            ValueError: The shapes do not fit, the index does not ascend, or an element is not known.
        """
        pos, z, sizes = as_arrays(pos, z, index)
        ends = np.cumsum(sizes)
        like, predictions = self.spread, [torch.zeros(0, len(self.properties.names))]
        for start in range(0, len(sizes), batch_size):
            part = sizes[start : start + batch_size]
            rows = slice(int(ends[start] - sizes[start]), int(ends[start + len(part) - 1]))
            space = Ragged.from_sizes(torch.from_numpy(part), device=like.device)
            elements = torch.from_numpy(z[rows]).to(like.device)
            c = self(torch.from_numpy(pos[rows]).to(like), elements, space)
            predictions.append(self.properties.decode(c).cpu())
        return torch.cat(predictions)

    def save(self, path: PathLike, about: Mapping[str, Any] | None = None) -> None:
        """Write the model to a .safetensors file, which is complete or absent.

        Arguments:
            path: The file.
            about: Notes to store in it, as JSON.

        Raises:
            ValueError: If JSON cannot hold a note; the error names it.
        """
        weights = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        config = self.config | {"properties": self.properties.config}
        header = json.dumps({"config": config, "about": plain(about or {}, "about")})
        data = to_bytes(weights, {_KEY: header})
        with whole(path, ".safetensors") as temporary:
            Path(temporary).write_bytes(data)

    @classmethod
    def load(cls, path: PathLike) -> PropertyModel:
        """A model that :meth:`save` wrote, in evaluation mode on the CPU, with its notes as `about`.

        Arguments:
            path: The file.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file is of another kind, or damaged.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: not there; scripts/train_property_model.py makes it.")
        header, weights = contents(path, _KEY)
        if header is None:
            raise ValueError(f"{path} holds no PropertyModel; give a file that its `save` wrote.")
        with reading(path, "config"):
            described = json.loads(header)
            config = dict(described["config"])
            properties = Properties.from_config(config.pop("properties"))
            check_fields(properties)
            model = assemble(cls, config, weights, properties=properties)
            fill(model, weights)
            model.about = dict(described["about"])
        return model.eval().requires_grad_(False)
