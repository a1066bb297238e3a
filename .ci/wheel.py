"""The installed wheel away from the checkout, without extras: imports, shipped data, loss and samples."""

import importlib
import pkgutil
import re
import sys
from importlib import metadata
from pathlib import Path

OPTIONAL = [r for r in metadata.requires("anydiff") or [] if "extra ==" in r]
for name in {re.split(r"[^\w-]", requirement)[0] for requirement in OPTIONAL} - {"anydiff"}:
    sys.modules[{"pillow": "PIL"}.get(name, name.replace("-", "_"))] = None  # as if not installed

import torch

import anydiff
from anydiff.images import load_images
from anydiff.molecules import load_qm9
from anydiff.molecules.viewers import show_molecules
from anydiff.pages import Page
from anydiff.ready import MODELS
from anydiff.sketches.kanji import load_kanji
from anydiff.sketches.players import show_sketches

assert Path(anydiff.__file__).is_relative_to(sys.prefix), anydiff.__file__
lacking = []
for module in pkgutil.walk_packages(anydiff.__path__, "anydiff."):
    try:
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    except ImportError as error:
        if 'pip install "anydiff[train]"' not in str(error):
            raise
        lacking.append(module.name)
print(anydiff.__file__, "works without extras; they would add", *lacking)

sizes = [len(items) for items in (load_qm9(), load_kanji(), load_images("digits"))]
assert sizes == [5000, 3600, 1797], sizes

page = Page("what is shipped")
show_molecules(page, load_qm9().subset([0]))
show_sketches(page, load_kanji().subset([0]))
assert "3Dmol" in page.html() and "IntersectionObserver" in page.html()
assert {*map(len, map(anydiff.pretrained, MODELS))} == {2}


class Linear(torch.nn.Linear):
    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return super().forward(x_t)


diffusion = anydiff.GaussianDiffusion(Linear(4, 4), anydiff.Cosine(), "v")
diffusion.loss(torch.randn(8, 4)).mean().backward()
assert diffusion.sample((8, 4), steps=3, seed=0).isfinite().all()
