"""`anydiff info` and `models`: what a model file is, and which there are."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from anydiff.cli.runs import printable

__all__ = ["info", "models"]


def info(model: Path) -> None:
    """Describe a model file: network, diffusion, training data, conditions.

    Arguments:
        model: Model file, the model.safetensors that training has written; or a name that
            `anydiff models` lists, qm9 for instance.
    """
    from torch import Tensor

    from anydiff import checkpoints
    from anydiff.cli.runs import model_file, model_of
    from anydiff.losses import Mapped, Plain, Rows, SquaredError

    model = model_file(model)
    opened, extra = checkpoints.load(model)
    known = model_of(model, opened, extra)
    diffusion = getattr(opened, "diffusion", opened)  # that of a latent one's latents
    network = diffusion.denoiser
    weights = sum(p.numel() for p in network.parameters())
    given = getattr(network, "config", {}).items()
    config = ", ".join(f"{k} {_short(v)}" for k, v in given if v not in (None, False, 0))
    print(f"file         {model}, {model.stat().st_size / 1e6:.2f} MB")
    print(f"kind         {'of its own' if known is None else known.kind}")
    print(f"network      {type(network).__name__}, {weights:,} parameters")
    print(f"             {config}")
    print(f"schedule     {diffusion.schedule}")
    if hasattr(diffusion, "kernel"):
        print(f"tokens       {diffusion.kernel}")
    else:
        print(f"prediction   {diffusion.target.name}")
    usual = {"weighting": Plain(), "times": Mapped(), "error": SquaredError()}
    if isinstance(rows := diffusion.times, Rows):
        num, times = len(rows.times) - 1, ", ".join(f"{t:.4g}" for t in rows.times)
        run = f"{num} step{'s' * (num > 1)} of {type(rows.sampler).__name__}"
        print(f"distilled    for {run}, t = {times}")
        usual = {name: getattr(diffusion, name, None) for name in usual}
    for name in (*usual, "drop", "augment"):
        if (value := getattr(diffusion, name, None)) and value != usual.get(name):
            print(f"{name:12} {_short(value)}")
    if known is None:
        names = [
            f"{k} {tuple(v.shape) if isinstance(v, Tensor) else _short(v)}"
            for k, v in extra.items()
        ]
        print(f"beside it    {', '.join(names) or 'nothing'}")
        return
    if isinstance(made := extra.get("made"), dict):
        print(f"made by      {', '.join(f'{_short(k)} {_short(v)}' for k, v in made.items())}")
    for name, value in _about(known).items():
        print(f"{name:12} {value}")


def models() -> None:
    """List the models that come with the package."""
    from anydiff.cli.runs import open_model
    from anydiff.ready import MODELS, model_path

    width = max(map(len, MODELS))
    for name in MODELS:
        about = _about(model := open_model(model_path(name)))
        run, asked = model.diffusion.times.run, about["conditions"].removesuffix("; --guidance")
        few = [] if run is None else [f"in {len(run.times) - 1} steps"]
        words = [about["draws"], *few, *(a for a in asked.split("; ") if a != "none")]
        line = f"{name:{width}}  {'; '.join(words)}"
        print(textwrap.fill(line, width=100, subsequent_indent=" " * (width + 2)))
    print("\n`anydiff sample NAME` draws, and `anydiff info NAME` says more.")


def _about(known: Any) -> dict[str, str]:
    """What a model of a kind was trained on, what it draws and what it can be asked for."""
    about = {"trained on": _short(known.data or "unknown")}
    if known.kind == "molecules":
        from anydiff.molecules.bonded import Bonded
        from anydiff.molecules.elements import symbol

        sizes = known.sizes.counts.nonzero()[:, 0].tolist()
        elements = ", ".join(map(symbol, known.atoms.elements))
        bonds = " with bonds" if isinstance(known.atoms, Bonded) else ""
        about["draws"] = f"molecules{bonds} of {elements}, {sizes[0]} to {sizes[-1]} atoms"
        asked = "none"
        if known.properties is not None and known.pairs is not None:
            values = known.pairs.values
            low, high = (float(v) for v in values[values.isfinite()].aminmax())
            asked = (
                f"--target, {', '.join(known.properties.names)}, {low:g} to {high:g}; --guidance"
            )
        if known.vocabulary is not None:
            asked = f"{_words(known.vocabulary)}; --guidance"
    elif known.kind == "sketches":
        lengths = known.lengths.counts.nonzero()[:, 0].tolist()
        rows = known.rows.config
        about["draws"] = f"sketches of {lengths[0]} to {lengths[-1]} {rows['kind']}"
        asked = "none; --length says how many"
        if known.vocabulary is not None:
            asked = f"{_words(known.vocabulary)}; --length; --guidance"
    elif known.kind == "smiles":
        lengths = known.lengths.counts.nonzero()[:, 0].tolist()
        tokens = " ".join(known.alphabet.tokens)
        about["draws"] = f"SMILES of {lengths[0]} to {lengths[-1]} tokens: {tokens}"
        asked = "none; --pattern says what is known"
    else:
        about["draws"] = f"images of {' × '.join(map(str, known.shape))}"
        asked = f"--label, 0 to {known.classes - 1}; --guidance" if known.classes else "none"
    if known.inner is not known.diffusion:
        about["draws"] += f", by latents of {known.diffusion.autoencoder.columns} columns"
    if known.diffusion.times.run is not None:
        asked = asked.removesuffix("; --guidance")  # which is in the model
    return about | {"conditions": asked}


def _words(vocabulary: Any) -> str:
    """Of texts: how many words there are, and some."""
    return f"--text, {len(vocabulary):,} words ({', '.join(vocabulary.words[:6])}, …)"


def _short(value: Any) -> str:
    """A value as text, without the quotes and spaces of JSON."""
    return printable(json.dumps(value, default=repr, ensure_ascii=False).replace('"', ""))
