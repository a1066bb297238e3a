"""Formulas as MathML, which browsers draw themselves: no script, no network, no pictures."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util.logging import getLogger

_LOG = getLogger(__name__)
_MATHML = "{http://www.w3.org/1998/Math/MathML}"
_PRIMES = ("\N{PRIME}", "\N{DOUBLE PRIME}", "\N{TRIPLE PRIME}")
ElementTree.register_namespace("", _MATHML[1:-1])


def shown(tex: str, block: bool) -> str:
    """A formula in MathML.

    Arguments:
        tex: As LaTeX has it.
        block: Whether it stands alone.
    """
    tex = re.sub(r"\\[bB]igg?[lrm]?(?=\\[lr]Vert|\\?\|)", "", tex.strip())
    if "\\\\" in tex and "\\begin" not in tex:
        tex = rf"\begin{{align*}}{tex}\end{{align*}}"
    text = convert(tex, display="block" if block else "inline")
    if unknown := re.search(r">\\[a-zA-Z]+<", text):
        raise ValueError(f"{unknown[0][1:-1]} is unknown")
    text = _primes_lowered(text)
    # a name and what it is of stand apart
    return re.sub(r"<mi>(log|exp|Var)</mi>(?!<mo)", r'<mi>\1</mi><mspace width="0.17em"/>', text)


def _primes_lowered(text: str) -> str:
    """Primes beside what they are of, not raised: fonts have them raised already."""
    root = ElementTree.fromstring(text)
    for node in root.iter():
        if node.tag in (f"{_MATHML}msup", f"{_MATHML}msubsup") and (node[-1].text or "") in _PRIMES:
            prime = node[-1]
            prime.tag, prime.attrib = f"{_MATHML}mo", {"lspace": "0.1em", "rspace": "0"}
            if len(node) == 3:
                pair = ElementTree.Element(f"{_MATHML}msub")
                pair.extend(node[:2])
                node[:2] = [pair]
            node.tag = f"{_MATHML}mrow"
    return ElementTree.tostring(root, encoding="unicode")


def _html(node: nodes.Element, block: bool) -> str:
    try:
        return shown(node.astext(), block)
    except Exception as error:  # whatever a converter cannot read
        _LOG.warning("%r is no formula that can be drawn: %s", node.astext(), error, location=node)
        return ""


def inline(self: Any, node: nodes.Element) -> None:
    """A formula in a line."""
    self.body.append(_html(node, False))
    raise nodes.SkipNode


def block(self: Any, node: nodes.Element) -> None:
    """A formula of its own."""
    style = "overflow: auto hidden; padding-block: 0.4em"  # wide ones scroll, high ones do not
    self.body.append(f'<div class="math" style="{style}">{_html(node, True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
