r"""Editing data, with a model that need not be trained for it.

All functions use the sampling loop, a predictor and its space, and work for data of any kind. The part of
an item that is kept is a projection Q within the space: the entries where a mask is True, and, in centred
columns, the positions of the masked rows relative to one another. Replacing Q x by the known part,

.. math:: x_s \leftarrow x_s - Q x_s + Q (\alpha_s x_0 + \sigma_s \epsilon),

keeps the state in the space, with noise that is standard normal there.

- :func:`inpaint`: keep the known part, generate the rest (replacement, or RePaint's resampling)
- :func:`impute`: several samples of missing values
- :func:`complete`: the same with a model that was trained for it, in as many calls as sampling
- :func:`edit`, :func:`variations`: add noise up to a time, then denoise (SDEdit)
- :func:`denoise`: remove noise of a known level from data
- :func:`ilvr`: keep what a low-pass operator passes
- :func:`encode`, :func:`decode`, :func:`interpolate`: the probability-flow ODE, deterministic
- :func:`cascade`: several models in turn, from coarse to fine
- :func:`best_of`: several samples, of which the one with the highest score is kept

Predictors may be guided. Seeds work as in :func:`anydiff.sample`: with one per item, the result for an
item does not depend on its batch.
"""

from anydiff.editing.best import best_of
from anydiff.editing.cascades import Stage, cascade
from anydiff.editing.encoding import decode, encode, interpolate
from anydiff.editing.known import complete, ilvr, impute, inpaint
from anydiff.editing.noising import denoise, edit, variations

__all__ = [
    "Stage", "best_of", "cascade", "complete", "decode", "denoise", "edit", "encode", "ilvr",
    "impute", "inpaint", "interpolate", "variations",
]  # fmt: skip
