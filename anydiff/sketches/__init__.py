"""Sketches: drawings as strokes of a pen.

"Sketch" is the item, and "stroke" one line of the pen in it.

- :mod:`~anydiff.sketches.sketches`: `Sketches`, many of them in three arrays, and stroke-3 and stroke-5;
  :mod:`~anydiff.sketches.fields`: what is taken for their points, times and labels, and the errors
- :mod:`~anydiff.sketches.files`: `read_sketches` and writers; the formats are in
  :mod:`~anydiff.sketches.arrays`, :mod:`~anydiff.sketches.svg` (with
  :mod:`~anydiff.sketches.svg_commands`, :mod:`~anydiff.sketches.svg_paths`,
  :mod:`~anydiff.sketches.svg_shapes`, :mod:`~anydiff.sketches.svg_styles`,
  :mod:`~anydiff.sketches.svg_transforms`),
  :mod:`~anydiff.sketches.inkml`, :mod:`~anydiff.sketches.xml_events`
- :mod:`~anydiff.sketches.kanji`: the characters that come with the package
- :mod:`~anydiff.sketches.named`: `load_sketches` by name or path, `split` into parts
- :mod:`~anydiff.sketches.geometry`: resample, simplify, scale
- :mod:`~anydiff.sketches.rows`: `StrokeRows` and `PointRows`, from sketches to sequences and back
- :mod:`~anydiff.sketches.pictures`, :mod:`~anydiff.sketches.films`: PNG, GIF, animated SVG
- :mod:`~anydiff.sketches.evaluate`, :mod:`~anydiff.sketches.features`: quality metrics
- :mod:`~anydiff.sketches.models`: a trained model that samples sketches
"""
