"""Networks for sets of points: equivariant under rotations and reflections."""
