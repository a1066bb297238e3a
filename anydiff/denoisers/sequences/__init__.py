"""Networks for padded sequences."""
