"""Series: forecasts, and how good they are.

The smallest folder of a kind of data, and a model for your own:

- :mod:`~anydiff.series.forecasts`: `forecast`, draws of the rows that follow those known
- :mod:`~anydiff.series.scores`: `crps` and `coverage`, of draws against what came true

A series is a padded batch (B, N, C) in the space :class:`~anydiff.spaces.Masked`, NaN where a value is
missing; :mod:`anydiff.data.sequences` checks, scales and batches series. The denoisers
are those of :mod:`anydiff.denoisers.sequences`. Nothing is registered: a kind of data is a folder that
imports the core, beside the package or outside of it.
"""

from anydiff.series.forecasts import forecast
from anydiff.series.scores import coverage, crps

__all__ = ["coverage", "crps", "forecast"]
