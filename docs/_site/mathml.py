"""Formulas as MathML, which browsers draw themselves: no script, no network, no pictures."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.logging import getLogger

_LOG = getLogger(__name__)


def _shown(node: nodes.Element, block: bool) -> str:
    tex = re.sub(r"\\[bB]igg?[lrm]?(?=[^a-zA-Z])", "", node.astext().strip())  # fences grow of themselves
    tex = tex.replace(r"\dots", r"\ldots").replace(r"\mathrel{+}", "+")
    if "\\\\" in tex and "\\begin" not in tex:  # several lines
        tex = f"\\begin{{align*}}{tex}\\end{{align*}}"
    try:
        return str(tex2mathml(tex, as_block=block))
    except MathError as error:
        _LOG.warning("%r is no formula that can be drawn: %s", tex, error, location=node)
        return tex


def inline(self: Any, node: nodes.Element) -> None:
    """A formula in a line."""
    self.body.append(_shown(node, False))
    raise nodes.SkipNode


def block(self: Any, node: nodes.Element) -> None:
    """A formula of its own."""
    self.body.append(f'<div class="math">{_shown(node, True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
