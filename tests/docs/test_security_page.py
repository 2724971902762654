"""Every test that docs/security.md names against a threat is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS: dict[str, list[Path]] = {}
for path in (ROOT / "tests").rglob("test_*.py"):
    TESTS.setdefault(path.name, []).append(path)


def named() -> list[tuple[str, str]]:
    """The file and the name within it, empty for all, of each test that the page names."""
    found, file = [], ""
    for span in re.findall(r"`((?:test_\w+\.py)?(?:::\w+)*)`", (ROOT / "docs" / "security.md").read_text()):
        if span:
            before, _, inside = span.partition("::")
            file = before or file
            found.append((file, inside))
    return found


@cache
def names_in(path: Path) -> set[str]:
    names = set()
    for node in ast.parse(path.read_text()).body:
        names.add(getattr(node, "name", ""))
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{inner.name}" for inner in node.body if hasattr(inner, "name")}
    return names


@pytest.mark.parametrize(("file", "inside"), sorted(set(named())))
def test_a_named_test_is_there(file, inside):
    assert file in TESTS, f"docs/security.md names {file}, which is not there"
    assert not inside or inside in set().union(*map(names_in, TESTS[file]))


def test_the_page_names_many():
    assert len(named()) > 40


def threats() -> list[list[str]]:
    """The rows of the page's table of threats: threat, control, test."""
    table = (ROOT / "docs" / "security.md").read_text().split("## Threats")[1].split("\n\n")[1]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table.splitlines()[2:]]


def test_every_threat_has_a_control_and_a_test_or_says_later():
    for threat, control, test in threats():
        assert "`" in test or control.startswith("later"), threat


def test_a_threat_stands_once_and_in_the_table():
    page = (ROOT / "docs" / "security.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|") and "`test_" in line]
    assert len(rows) == sum("`test_" in test for *_, test in threats())
    named = [threat for threat, *_ in threats()]
    assert len(named) == len(set(named))
