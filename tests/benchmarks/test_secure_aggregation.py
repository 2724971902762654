"""The table of secure aggregation's cost is the one that the kept result makes."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.secure_aggregation import RESULT, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"


def test_the_page_has_the_tables_of_the_kept_result():
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert [row["sites"] for row in result["rows"]] == [4, 16, 64]
    text = PAGE.read_text(encoding="utf-8")
    for table in page(result).split("\n\n"):
        assert table in text


def test_a_masked_update_has_the_bytes_of_a_plain_one():
    for row in json.loads(RESULT.read_text(encoding="utf-8"))["rows"]:
        assert abs(row["secure"]["bytes_up"] - row["plain"]["bytes_up"]) < 1000
