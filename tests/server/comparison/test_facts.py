"""Which lines can be compared, and why none can."""

import statistics

import pytest

from fedwon.server.comparison import facts as facts_module
from fedwon.server.comparison.cautions import of_data
from fedwon.server.comparison.dealing import deal_out
from fedwon.server.comparison.facts import alike_names, basis, facts
from fedwon.server.comparison.looking import LineImages, Looked
from tests.server.comparison.test_dealing import line

GOOD = [("good", number) for number in range(20)] + [("bad", 50 + number) for number in range(20)]


def shifted(by, rows=GOOD):
    return [(kind, content + by) for kind, content in rows]


def lines_of(**rows):
    return {name: line(name, found) for name, found in rows.items()}


@pytest.mark.parametrize(
    ("lines", "obstacle"),
    [
        (lines_of(a=GOOD, b=shifted(100)), None),
        (lines_of(a=GOOD), "one_line"),
        (lines_of(a=GOOD[:20], b=shifted(100, GOOD[:20])), "one_class"),
        (lines_of(a=GOOD[::8], b=shifted(100)[::8]), "too_few"),
        (lines_of(a=GOOD, b=[(kind + "!", content + 100) for kind, content in GOOD]), "no_shared_class"),
        ({"a": LineImages("a"), "b": LineImages("b")}, "nothing_readable"),
    ],
)
def test_obstacles(lines, obstacle):
    assert basis(lines, deal_out(lines)).obstacle == obstacle


def test_a_line_that_cannot_take_part_does_not_stop_the_others():
    lines = lines_of(a=GOOD, b=shifted(100), small=shifted(200)[::9], same=shifted(300, GOOD[:20]))
    lines["broken"] = LineImages("broken")
    found = basis(lines, deal_out(lines))
    assert found.lines == ("a", "b")
    assert found.left_out == {"small": "few_images", "same": "one_class", "broken": "unreadable"}
    assert found.obstacle is None


def test_the_figures_and_what_a_reader_must_know():
    lines = lines_of(a=[*GOOD, ("good", 0), ("bad", 1)], b=[*shifted(100), ("good", 3), ("Scratch", 7), ("scratch", 8)])
    dealt = deal_out(lines)
    told = facts(Looked(lines, complete=True, seconds=1.0), dealt, basis(lines, dealt))
    assert told["lines"]["a"]["copies"] == 2
    assert told["lines"]["a"]["contradictions"] == 1
    assert told["across"] == [["a", "b", 3]]
    brightness = statistics.fmean(int(digest) for digest in lines["a"].digests) / 255
    assert told["lines"]["a"]["brightness"] == pytest.approx(brightness, abs=1e-3)
    codes = {row["code"] for row in of_data(told)}
    assert {"copies", "contradictions", "across", "alike_names", "lone_classes", "few_tests", "exposure"} <= codes


def test_names_that_differ_in_writing_only():
    assert alike_names(lines_of(a=[("Scratch", 1), ("dent", 2)], b=[("scratch", 3), ("scratch_", 4)])) == [
        ["Scratch", "scratch", "scratch_"]
    ]


def test_thresholds_are_those_the_report_names():
    assert (facts_module.FEWEST_TRAIN, facts_module.FEWEST_TEST) == (12, 6)
