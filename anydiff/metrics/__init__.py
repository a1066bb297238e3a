"""Metrics that kinds of data share; each kind has its own in its folder.

- :mod:`~anydiff.metrics.distances`: distances between two samples of feature vectors
- :mod:`~anydiff.metrics.shipped`: networks for features, which come with the package
- :mod:`~anydiff.metrics.tables`: reports as tables
"""
