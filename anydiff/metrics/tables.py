"""Tables of figures, as text for a terminal or as Markdown.

A kind of data names the columns of its reports once; `rendered` writes any number of reports with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from anydiff.checks import check_choice

__all__ = ["MATCHES", "Column", "aligned", "rendered"]


class Column(NamedTuple):
    """One figure of a report.

    Arguments:
        title: The header of the column.
        attribute: Where the report has the figure; dots lead into what an attribute holds.
        spec: How the figure is formatted, as for `format`.
        scale: What the figure is multiplied by.
    """

    title: str
    attribute: str
    spec: str = ""
    scale: int = 1

    def cell(self, report: object) -> str:
        """The figure of a report as text; – where it is None or nan."""
        value = attrgetter(self.attribute)(report)
        missing = value is None or value != value
        return "–" if missing else format(value * self.scale, self.spec)


# of reports that compare features of samples with those of data
MATCHES = [
    Column("prec↑", "precision", ".3f"),
    Column("rec↑", "recall", ".3f"),
    Column("dens↑", "density", ".3f"),
    Column("cov↑", "coverage", ".3f"),
    Column("near", "nearest", ".3f"),
    Column("calls", "nfe", "d"),
    Column("s", "seconds", ".3g"),
]


def rendered(reports: Iterable[object], columns: Sequence[Column], style: str = "text") -> str:
    """One line for each report, under a header.

    Arguments:
        reports: Objects with the attributes that the columns name.
        columns: The figures to show; the first one names the report.
        style: As for `aligned`.

    Raises:
        ValueError: As `aligned`.
    """
    rows = [[column.cell(report) for column in columns] for report in reports]
    return aligned([[column.title for column in columns], *rows], style)


def aligned(cells: Sequence[Sequence[str]], style: str = "text") -> str:
    """Rows of cells as lines; the first column is aligned to the left, the others to the right.

    Arguments:
        cells: The header, and then the rows, each with as many cells.
        style: `text` or `markdown`.

    Raises:
        ValueError: The style is neither of the two, or the rows differ in length.
    """
    check_choice(("text", "markdown"), style=style)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in cells]
    if style == "markdown":
        header, *body = (f"| {' | '.join(row)} |" for row in rows)
        rule = "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])])
        return "\n".join([header, f"|{rule}|", *body])
    header, *body = map("  ".join, rows)
    return "\n".join([header, "-" * len(header), *body])
