"""The table of codecs, from made-up runs, and that every codec is timed."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from benchmarks import codecs


def score(right: list[bool]) -> dict:
    half = len(right) // 2
    counted = [sum(right[:half]), sum(right[half:])]
    bits = base64.b64encode(np.packbits(right).tobytes()).decode()
    examples = [half, len(right) - half]
    return {
        "correct": sum(right),
        "examples": len(right),
        "class_correct": counted,
        "class_examples": examples,
        "right": bits,
    }


def result(way: str, seed: int, size: int, right: int = 12) -> dict:
    scores = {"site": score([True] * right + [False] * (16 - right))}
    return {"way": way, "seed": seed, "up": [size] * 10, "down": [1000] * 5 + [size] * 5, "test": scores}


def test_the_table_says_what_was_saved_and_what_it_cost():
    runs = [result("plain", seed, 1000) for seed in (1, 2)] + [result("fp32", 1, 500)]
    runs += [result("int8", seed, 200, right=13) for seed in (1, 2)]
    rows = codecs.summary(runs, {"int8": {"encode": 100.0, "decode": 200.0, "times": 5.0}})
    plain, exact, int8 = rows
    assert (plain["times_up"], plain["change"]) == (1.0, None)
    assert (int8["times_up"], int8["times_down"], int8["times_down_later"]) == (5.0, 1.67, 5.0)
    assert int8["change"][0] == pytest.approx(1 / 16)
    assert int8["change"][1] < 1 / 16 < int8["change"][2]
    assert int8["seconds_at_1_mbit"] == round((200 + 600) / 125_000, 2)
    text = codecs.table(rows)
    assert "| int8 |" in text
    assert "100, 200" in text
    assert exact["way"] == "fp32"
    assert "the same bits" in text


def test_a_lossless_codec_that_loses_is_noticed():
    codecs.check_exact([result("plain", 1, 1000), result("fp32", 1, 500)])
    with pytest.raises(AssertionError, match="not exact"):
        codecs.check_exact([result("plain", 1, 1000), result("fp32", 1, 500, right=13)])


def test_every_codec_is_timed():
    found = codecs.speeds(width=0.05, turns=1)
    assert set(found) == set(codecs.WAYS) - {"plain"}
    for row in found.values():
        assert min(row.values()) > 0
    assert found["int8"]["times"] > 4
    assert found["topk"]["times"] > 12


def test_runs_are_those_of_the_paper_with_a_codec():
    plain, int8 = (codecs.config_of(way, 1) for way in ("plain", "int8"))
    assert (int8.traffic.up, int8.traffic.down) == ("int8", "int8")
    assert int8.model_copy(update={"traffic": plain.traffic}) == plain
