"""What docs/admission.md says of a site with twenty times the images is what the benchmark found."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from benchmarks.unequal import CASES, RESULT, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "admission.md"
ROWS = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]


def others(case):
    return statistics.mean(row["others"] for row in ROWS if row["case"] == case)


def test_the_page_has_the_table_of_the_kept_result():
    assert {row["case"] for row in ROWS} == set(CASES)
    assert table(ROWS) in PAGE.read_text(encoding="utf-8")


def test_an_honest_site_with_twenty_times_the_images_was_never_refused():
    assert all(row["refused"] == [] for row in ROWS if CASES[row["case"]].factor is None)


def test_the_limit_on_pull_costs_the_honest_little_and_the_liar_much():
    assert others("it has them") > others("it has them; no limit on pull") - 0.03
    lies = "it is hostile, and lies"
    assert others(lies) > others(f"{lies}; no limit on pull")
