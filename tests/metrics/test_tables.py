import math
from types import SimpleNamespace

import pytest

from anydiff.metrics.tables import Column, aligned, rendered

COLUMNS = [
    Column("", "name"),
    Column("n", "num", ","),
    Column("share", "inner.share", ".1f", 100),
    Column("s", "seconds", ".3g"),
]
REPORTS = [
    SimpleNamespace(name="ours", num=12345, inner=SimpleNamespace(share=0.5), seconds=0.01234),
    SimpleNamespace(name="others", num=7, inner=SimpleNamespace(share=math.nan), seconds=None),
]


def test_a_report_is_a_line_and_what_is_missing_a_dash():
    assert rendered(REPORTS, COLUMNS).splitlines() == [
        "             n  share       s",
        "-----------------------------",
        "ours    12,345   50.0  0.0123",
        "others       7      –       –",
    ]
    assert rendered(REPORTS, COLUMNS, "markdown").splitlines() == [
        "|        |      n | share |      s |",
        "|--------|-------:|------:|-------:|",
        "| ours   | 12,345 |  50.0 | 0.0123 |",
        "| others |      7 |     – |      – |",
    ]


def test_without_reports_there_is_the_header():
    assert rendered([], COLUMNS).splitlines() == ["  n  share  s", "-------------"]


def test_another_style_and_rows_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="'latex'; choose one of 'text', 'markdown'"):
        rendered(REPORTS, COLUMNS, "latex")
    with pytest.raises(ValueError, match="shorter"):
        aligned([["a", "b"], ["c"]])
