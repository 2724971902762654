"""Each page of figures is what its command makes of the committed results."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faulty import page as faults_page
from benchmarks.faulty import rows as faults_rows
from benchmarks.paper.report import report
from benchmarks.resumable import here
from benchmarks.robustness import page as attacks_page
from benchmarks.robustness import rows as attacks_rows

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {
    "results.md": ("benchmarks.paper", report),
    "robustness.md": (
        "benchmarks.attacks",
        lambda: attacks_page.page(here(attacks_rows.every(attacks_rows.SEEDS))),
    ),
    "faults.md": ("benchmarks.faults", lambda: faults_page.page(here(faults_rows.every(faults_rows.SEEDS)))),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_command_makes(name):
    command, make = PAGES[name]
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page == make(), f"run `python -m {command} report` and commit what it writes"
