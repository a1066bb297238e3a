"""Metrics: what samples are worth, measured on the data themselves by the same code."""
