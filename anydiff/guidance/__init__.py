r"""Guidance: functions from predictors to a predictor, which any sampler then follows.

Each adds a term to the score of a model, :math:`\nabla \log p_t(x_t)`, and with it to x0 and eps, while
x_t stays. What is added lies in the model's space, and is made for each item by itself: no norm, mean or
step runs over a batch. They compose: what comes out may be guided again.

    guided = classifier_free(diffusion.predictor(label=y), diffusion.predictor(), scale=3.0)
    x = sample(guided, (len(y), 1, 8, 8), seed=0)

A scale is a number, one for each item (B,), or a function of the time t. At scale 0 the model answers as
if it were not guided, to the last bit, and what is not needed is not computed.

Of pure noise, alpha = 0, nothing is known of the data, and those that look at x0 or x_t leave the model
as it is there.
"""

from anydiff.guidance.free import autoguidance, classifier_free
from anydiff.guidance.gradients import classifier, clip_guidance
from anydiff.guidance.guided import Scale, guided, towards
from anydiff.guidance.inverse import dps, pigdm

__all__ = [
    "Scale", "autoguidance", "classifier", "classifier_free", "clip_guidance", "dps", "guided",
    "pigdm", "towards",
]  # fmt: skip
