"""Checkpoints: a trained diffusion in one file that is safe to open.

The file is in the safetensors format. It holds the weights of the denoiser, and those of a learned
schedule or objective, by name; a JSON config in its header describes the denoiser, schedule, prediction
and objective. Whatever else a model needs (the distribution of sizes, the scaling of the data) is stored
in the same file: tensors with the weights, other values in the config. Loading reads numbers and text,
and never runs code from the file.
"""

from anydiff.checkpoints.loading import CheckpointError, load
from anydiff.checkpoints.saving import save

__all__ = ["CheckpointError", "load", "save"]
