"""Sketches: files, rows, pictures, films, metrics."""
