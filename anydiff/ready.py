"""Models that come with the package, by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anydiff.checkpoints import load
from anydiff.checks import shown

__all__ = ["MODELS", "model_path", "pretrained"]

MODELS = {
    "qm9": "molecules/qm9.safetensors",
    "qm9-4": "molecules/qm9_4.safetensors",
    "kanji": "sketches/kanji.safetensors",
    "kanji-4": "sketches/kanji_4.safetensors",
    "digits": "images/digits.safetensors",
    "digits-4": "images/digits_4.safetensors",
    "cifar10": "images/cifar10.safetensors",
    "smiles": "molecules/smiles.safetensors",
}
"""Files in the package, by the names of the models; those with a number are students of so many steps."""

_PACKAGE = Path(__file__).parent


def model_path(name: str) -> Path:
    """The file of a model that comes with the package.

    Arguments:
        name: One of :data:`MODELS`.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in MODELS:
        raise ValueError(
            f"{shown(name)} is no model of anydiff; choose one of {', '.join(MODELS)}."
        )
    return _PACKAGE / MODELS[name]


def pretrained(name: str) -> tuple[Any, dict[str, Any]]:
    """A model that comes with the package, as :func:`anydiff.load` gives it; no network is needed.

        diffusion, extra = anydiff.pretrained("qm9")

    Arguments:
        name: One of :data:`MODELS`; its page in ``docs/models`` says what it was trained on, and what it
            can do.

    Returns:
        The diffusion in eval mode and in float32, whatever its file has, and what its kind keeps beside
        it.

    Raises:
        ValueError: If there is none of this name.
    """
    diffusion, extra = load(model_path(name))
    return diffusion.float(), extra
