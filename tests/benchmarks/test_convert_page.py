"""docs/convert.md shows the figures that were measured, and these are within what it promises."""

import json
from pathlib import Path

from benchmarks.convert import NETWORKS, RESULT, table
from fedwon.models.convert import TOLERANCE

PAGE = Path(__file__).parents[2] / "docs" / "convert.md"


def test_the_table_is_the_stored_result():
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    assert table(found) in PAGE.read_text(encoding="utf-8")
    assert set(NETWORKS) <= set(found["networks"])
    for row in found["networks"].values():
        assert "measured" in row["layers"] or row["difference"] < TOLERANCE / 5
