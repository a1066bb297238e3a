"""Images: pixels on a regular grid, grey or RGB, in a dense space.

- `images`: :class:`Images` in memory, and their scale in training.
- `named`: images by name or path, and their split; `files` and `cifar` read them.
- `pipelines`: the chain and the network of a pipeline of diffusers.
- `batches`: a resumable loader, and `unpack` from a batch to (x0, space, cond).
- `pictures`: grids, strips and films as PNG and GIF.
- `evaluate`: metrics of generated images against real ones, on the features of
  `digit_features`, or of pixels or Inception in `features`.
"""

from anydiff.images.batches import loader, unpack
from anydiff.images.images import ImageError, Images, from_uint8, to_uint8
from anydiff.images.named import held_out, load_images, split

__all__ = [
    "ImageError", "Images", "from_uint8", "held_out", "load_images", "loader", "split", "to_uint8",
    "unpack",
]  # fmt: skip
