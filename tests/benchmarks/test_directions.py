"""What docs/admission.md says of honest lines' directions is what the benchmark found."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.directions import LEAST, RESULT, table
from fedwon.common.update_settings import AdmissionConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "admission.md"


def test_the_page_has_the_table_of_the_kept_result():
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 8
    assert table(rows) in PAGE.read_text(encoding="utf-8")


def test_directions_are_not_compared_by_default_for_honest_lines_would_be_refused():
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    assert any(value < LEAST for row in rows for value in row["lowest"])
    assert AdmissionConfig().cosine is None
