"""Names of a thousand sites in a line, and as rows of a table that is drawn again and again."""

from __future__ import annotations

import pytest
from rich.console import Console

from fedwon.server.display import MOST_ROWS, LiveTable
from fedwon.server.identity.naming import MOST_LISTED, listed
from fedwon.server.rounds.events import RoundStarted, SiteAnswered
from tests.server.server_kit import good_metrics


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "a"),
        (["a", "b"], "a, b"),
        (["x"] * MOST_LISTED, ", ".join(["x"] * MOST_LISTED)),
        (["x"] * (MOST_LISTED + 3), ", ".join(["x"] * MOST_LISTED) + ", and 3 more"),
    ],
)
def test_names_in_a_line(names, text):
    assert listed(names) == text


def test_reasons_are_parted_as_the_caller_says():
    assert listed(["a (late)", "b (no images)"], between="; ") == "a (late); b (no images)"


def drawn(table: LiveTable) -> str:
    console = Console(width=200, height=2000, file=None, record=True, quiet=False)
    with console.capture() as said:
        console.print(table)
    return said.get()


def names(count: int) -> tuple[str, ...]:
    return tuple(f"site-{index:04d}" for index in range(count))


def test_a_few_sites_have_a_row_each():
    table = LiveTable()
    table.hear(RoundStarted(1, names(MOST_ROWS)))
    text = drawn(table)
    assert all(name in text for name in names(MOST_ROWS))
    assert "sites more" not in text


def test_of_a_thousand_sites_those_that_are_not_done_have_the_rows():
    table, many = LiveTable(), names(1000)
    table.hear(RoundStarted(1, many))
    for name in many[:990]:
        table.hear(SiteAnswered(1, name, good_metrics(), 0, 1.0, 1, 1))
    text = drawn(table)
    assert [name for name in many if name in text] == [*many[: MOST_ROWS - 10], *many[990:]]
    assert f"and {1000 - MOST_ROWS} sites more" in text
