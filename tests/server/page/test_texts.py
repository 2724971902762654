"""Two languages that say the same."""

from __future__ import annotations

import string
from dataclasses import fields
from datetime import timedelta

import pytest

from fedwon.server.page.english import ENGLISH
from fedwon.server.page.japanese import JAPANESE
from fedwon.server.page.texts import Texts, languages, percent, texts_for
from fedwon.server.store import now

KEYS = [field.name for field in fields(Texts)]


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("key", KEYS)
def test_both_languages_fill_in_the_same(key):
    english, japanese = getattr(ENGLISH, key), getattr(JAPANESE, key)
    assert english.strip()
    assert japanese.strip()
    assert placeholders(english) == placeholders(japanese)


def test_the_japanese_texts_are_japanese():
    same = [key for key in KEYS if getattr(JAPANESE, key).isascii()]
    assert set(same) == {"language", "of", "change_action"}, same


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("ja", "ja"),
        ("ja-JP,ja;q=0.9,en;q=0.8", "ja"),
        ("en-US,ja;q=0.5", "en"),
        ("en;q=0.1,ja;q=0.9", "ja"),
        ("fr,ja;q=0.3,en;q=0.2", "ja"),
        ("ja;q=0,en", "en"),
        ("de", "en"),
        ("", "en"),
        ("ja;q=much,;;,=", "en"),
        ("*", "en"),
    ],
)
def test_the_language_is_the_browsers(accepted, language):
    assert texts_for(accepted).language == language


def test_a_header_without_end_costs_nothing():
    assert len(languages("ja," * 100_000)) <= 334


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "just now"), (-60, "just now"), (30, "30 s ago"), (150, "2 min ago"), (7300, "2 h ago"), (3e5, "3 days ago")],
)
def test_how_long_ago(seconds, said):
    moment = now()
    assert ENGLISH.ago(moment - timedelta(seconds=seconds), moment) == said


def test_numbers_and_names():
    assert percent(0.9876) == "98.8 %"
    assert percent(None) == "–"
    assert ENGLISH.named("state", "running") == "running"
    assert JAPANESE.named("part", "test") == "テスト用"
    assert JAPANESE.named("state", "of a later version") == "of a later version"
