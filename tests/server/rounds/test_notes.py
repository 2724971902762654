"""What a site says about its images reaches the operator, in words, and cannot flood the log."""

from __future__ import annotations

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedwon.server.rounds.notes import LONGEST, NAMED, notes_of


def answer(corrupt: list[str], skipped: list[str], missing: list[str], count: int) -> RecordDict:
    notes = ConfigRecord({"corrupt": corrupt, "skipped-classes": skipped, "missing-classes": missing})
    return RecordDict({"metrics": MetricRecord({"corrupt-images": count}), "notes": notes})


def test_nothing_to_say_is_an_empty_text() -> None:
    assert notes_of(answer([], [], [], 0)) == ""
    assert notes_of(RecordDict({"metrics": MetricRecord({"corrupt-images": 0})})) == ""


def test_each_kind_is_named() -> None:
    text = notes_of(answer(["scratch/0001.jpg"], ["dent"], ["rust"], 1))
    assert text == (
        "1 unreadable images were left out: scratch/0001.jpg; "
        "images of classes that the federation does not know were left out: dent; it has no image of: rust"
    )


def test_a_site_cannot_flood_or_forge_the_log() -> None:
    text = notes_of(answer([f"{number}\n{'x' * 1000}" for number in range(1000)], [], [], 1000))
    assert "\n" not in text
    assert text.endswith("...")
    assert len(text) < (NAMED + 2) * (LONGEST + 10)
