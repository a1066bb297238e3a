"""The site: `python -m sphinx -W docs build/site`."""

import sys
from pathlib import Path

import anydiff

sys.path.insert(0, str(Path(__file__).parent / "_site"))

project, author = "anydiff", "The anydiff authors"
copyright = "the anydiff authors"
release = version = anydiff.__version__
extensions = [
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "api",  # after autodoc, some of whose words it takes out
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_site"]
html_theme = "furo"
html_title = "anydiff"
html_math_renderer = "mathml"
html_static_path: list[str] = []
html_show_sphinx = False
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpicky = False
