"""The benchmark of the edge box: its table, and that what it kept can be read."""

from __future__ import annotations

import json

from benchmarks.edge import NETWORKS, RESULT, table

IDLE = {"seconds_to_connected": [0.9, 1.0, 2.0], "cpu_seconds": 0.6, "resident_mb": 92.4, "anonymous_mb": 50.0}
FOUND = {
    "idle": {"one core": IDLE},
    "training": {
        "digit_cnn": {
            "one core": {"step_ms": 20.25, "peak_mb": 800.0},
            "one core, 1 GB": {"failed": "out-of-memory: x", "peak_mb": 900.0, "group_peak_mb": 1000.0},
            "elsewhere": {"failed": "no control group"},
        }
    },
}


def test_a_row_a_condition_with_the_reason_where_there_is_no_figure():
    rows = table(FOUND).splitlines()
    assert "| one core | 1.00 (0.90 to 2.00) | 0.60 | 92 |" in rows
    assert rows[-3:] == [
        "| digit_cnn, 28 px | one core | 20.2 | 800 | - |",
        "| digit_cnn, 28 px | one core, 1 GB | out-of-memory: x | 900 | 1000 |",
        "| digit_cnn, 28 px | elsewhere | no control group | - | - |",
    ]


def test_the_figures_that_are_kept_make_a_table():
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    assert set(found["training"]) == set(NETWORKS)
    for rows in found["training"].values():
        for where in ("all cores", "one core"):
            assert rows[where]["step_ms"] > 0, where
    assert len(table(found).splitlines()) == 2 + 2 + 1 + 2 + sum(map(len, found["training"].values()))
