r"""Editing: data changed with a model that was trained on nothing of the kind.

All of it is made of the one sampling loop, of a predictor and of its space, so that the same calls serve
any data. What is kept of an item is a projection within the space, Q: entries where a mask is True, and
of centred columns where the masked rows are relative to one another. Replacing Q x by what is known,

.. math:: x_s \leftarrow x_s - Q x_s + Q (\alpha_s x_0 + \sigma_s \epsilon),

leaves a state in the space, with noise that is standard normal in it: nothing drifts.

| | |
|---|---|
| :func:`inpaint` | what is known stays, the rest is drawn (replacement, or RePaint's resampling) |
| :func:`impute` | the same, several times, where values are missing |
| :func:`edit`, :func:`variations` | noise up to a time, and back (SDEdit) |
| :func:`denoise` | noise of a known level, which is there already, taken off |
| :func:`ilvr` | what a low-pass operator sees stays |
| :func:`encode`, :func:`decode`, :func:`interpolate` | along the probability flow, deterministically |
| :func:`cascade` | from coarse to fine, one model after the other |

Predictors may be guided. Seeds are as in :func:`anydiff.sample`: one per item, and an item's edit does
not depend on its batch.
"""

from anydiff.editing.cascades import Stage, cascade
from anydiff.editing.encoding import decode, encode, interpolate
from anydiff.editing.known import ilvr, impute, inpaint
from anydiff.editing.noising import denoise, edit, variations

__all__ = [
    "Stage", "cascade", "decode", "denoise", "edit", "encode", "ilvr", "impute", "inpaint",
    "interpolate", "variations",
]  # fmt: skip
