"""The likelihood of data under a model: bounds, the probability-flow ODE, learned variances."""

from anydiff.likelihood.bound import Bound, continuous_bound, variational_bound
from anydiff.likelihood.decoders import (
    ContinuousGaussian,
    Decoder,
    Dequantize,
    DiscretizedGaussian,
    bits_per_dim,
)
from anydiff.likelihood.density import log_prob
from anydiff.samplers.variances import log_variances, reverse_log_variance

__all__ = [
    "Bound", "ContinuousGaussian", "Decoder", "Dequantize", "DiscretizedGaussian", "bits_per_dim",
    "continuous_bound", "log_prob", "log_variances", "reverse_log_variance", "variational_bound",
]  # fmt: skip
