"""The report's page: whole in both languages, and nothing in it that loads or runs."""

import json
import re
from dataclasses import fields
from xml.etree import ElementTree as ET

import pytest

from fedwon.common.methods import METHODS
from fedwon.server.comparison.facts import Obstacle
from fedwon.server.comparison.languages import LANGUAGES
from fedwon.server.comparison.page import page
from fedwon.server.comparison.texts import Texts
from fedwon.server.comparison.verdict import Code
from fedwon.server.comparison.wording import caution, headline, placeholders, points, reason, size, time_of_round
from tests.server.comparison.report_kit import NASTY, made_report

CODES = Code.__args__
OBSTACLES = Obstacle.__args__


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return made_report(tmp_path_factory.mktemp("report"))


def leaves(texts):
    """Each text of a language by its place."""
    found = {}
    for field in fields(Texts):
        value = getattr(texts, field.name)
        if isinstance(value, str):
            found[field.name] = value
        elif isinstance(value, tuple):
            found |= {f"{field.name}[{number}]": text for number, text in enumerate(value)}
        else:
            found |= {f"{field.name}.{key}": text for key, text in value.items()}
    return found


def test_both_languages_say_the_same_things():
    english, japanese = leaves(LANGUAGES["en"]), leaves(LANGUAGES["ja"])
    assert english.keys() == japanese.keys()
    for key in english:
        assert placeholders(english[key]) == placeholders(japanese[key]), key
        assert japanese[key].strip()
    assert sum(english[key] == japanese[key] for key in english) < 15, "names such as FedBN only"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_answer_has_its_words(lang):
    texts = LANGUAGES[lang]
    for table in (texts.headlines, texts.reasons, texts.advice):
        assert set(table) == {*CODES, *OBSTACLES}
    assert set(texts.methods) == set(METHODS)
    assert set(texts.method_notes) == {method.keeps for method in METHODS.values()}


def test_the_answer_follows_from_the_runs(report):
    assert report["answer"]["code"] == "fedwon"
    assert report["answer"]["gain"]["low"] > 0
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("code", [*CODES, *OBSTACLES])
def test_a_page_of_each_answer(report, lang, code):
    texts = LANGUAGES[lang]
    changed = {**report, "obstacle": code} if code in OBSTACLES else {**report}
    changed["answer"] = None if code in OBSTACLES else {**report["answer"], "code": code, "images_factor": 3.2}
    html = page(changed, texts)
    assert headline(changed, texts) in html
    assert "{" not in headline(changed, texts) + reason(changed, texts)
    assert f'<html lang="{lang}">' in html


@pytest.mark.parametrize("lang", LANGUAGES)
def test_nothing_is_loaded_and_nothing_runs(report, lang):
    html = page(report, LANGUAGES[lang])
    assert "http" not in html
    assert not re.search(r"<script|@import|url\(|\son\w+=|<iframe|<link(?! rel=\"icon\" href=\"data:,\")", html)


def test_names_of_folders_are_text_and_no_markup(report):
    html = page(report, LANGUAGES["en"])
    assert NASTY not in html
    assert "<b>" not in html
    assert "line &lt;b&gt;&amp;&quot; 三" in html


def test_charts_are_well_formed_and_hold_every_line(report):
    html = page(report, LANGUAGES["ja"])
    charts = [ET.fromstring(text) for text in re.findall(r"<svg viewBox.*?</svg>", html, re.DOTALL)]  # noqa: S314 - ours
    assert len(charts) == 4
    texts = ["".join(chart.itertext()) for chart in charts]
    for name in report["facts"]["lines"]:
        assert name in texts[0]
        assert name in texts[3]


def test_a_report_without_runs_has_no_charts_of_them(report):
    empty = {"by_line": {}, "gains": {}, "pairs": [], "unseen": {}, "line_gains": {}, "seeds": []}
    answer = {"code": "not_enough_time", "method": None, "gain": None, "images_factor": None}
    html = page({**report, "outcomes": empty, "answer": answer, "choices": {}}, LANGUAGES["en"])
    assert LANGUAGES["en"].by_line_heading not in html
    assert LANGUAGES["en"].images_heading in html


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_caution_can_be_said(lang):
    filled = {"line": "a", "lines": ["a"], "names": ["a"], "classes": ["x"], "count": 2, "done": 1, "full": 2}
    filled |= {"low": 0.1, "high": 0.5, "ratio": 2.0, "method": "fedbn", "methods": ["fedbn"]}
    for code in LANGUAGES[lang].cautions:
        assert "{" not in caution({"code": code, **filled}, LANGUAGES[lang])


def test_figures():
    assert [points(value) for value in (0.0312, -0.0004, -0.05, None)] == ["+3.1", "0.0", "−5.0", "–"]
    assert [size(value) for value in (12, 4302636, 123456, None)] == ["12 B", "4.3 MB", "123 kB", "–"]
    assert [time_of_round(value) for value in (1.25, 150, None)] == ["1.2 s", "2.5 min", "–"]
