r"""Guidance: functions from predictors to a predictor, which any sampler can use.

Each adds a term to the score of a model, :math:`\nabla \log p_t(x_t)`, at the same x_t, which changes the
predicted x0 and eps accordingly. The term lies in the model's space and is computed for each item
separately: no norm, mean or step size is shared by a batch. Guidance can be nested, since its result is a
predictor too.

    guided = classifier_free(diffusion.predictor(label=y), diffusion.predictor(), scale=3.0)
    x = sample(guided, (len(y), 1, 8, 8), seed=0)

A scale is a number, one for each item (B,), or a function of the time t. At scale 0 the prediction is
exactly that of the unguided model, and nothing else is computed.

At pure noise, alpha = 0, x_t holds no information about the data, so that guidance by a gradient leaves
the prediction unchanged there.
"""

from anydiff.guidance.free import autoguidance, classifier_free
from anydiff.guidance.gradients import classifier, clip_guidance
from anydiff.guidance.guided import Scale, guided, towards
from anydiff.guidance.inverse import dps, pigdm
from anydiff.guidance.threshold import thresholded

__all__ = [
    "Scale", "autoguidance", "classifier", "classifier_free", "clip_guidance", "dps", "guided",
    "pigdm", "thresholded", "towards",
]  # fmt: skip
