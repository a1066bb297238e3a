"""Molecules: files, batches, bonds, pictures, metrics."""
