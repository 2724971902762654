"""Every error has its page, and every page is about an error."""

import re
from pathlib import Path

import pytest
import typer

from fedwon.client.cli import app as client_app
from fedwon.common.errors import all_errors
from fedwon.server.cli import app as server_app

FOLDER = Path(__file__).parents[2] / "docs" / "errors"
KINDS = sorted(all_errors(), key=lambda kind: kind.code)
OWN_HINT = {"run-missing", "task-failed"}
"""Errors that are mostly raised with a hint of their own."""
APPS = {"fedwon-server": server_app, "fedwon-client": client_app}
COMMANDS = {name: set(typer.main.get_command(app).commands) for name, app in APPS.items()}


def page(kind):
    return (FOLDER / f"{kind.slug}.md").read_text(encoding="utf-8")


def test_pages_and_errors_are_the_same_set():
    assert {path.stem for path in FOLDER.glob("*.md")} - {"README"} == {kind.slug for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.slug)
def test_a_page_has_its_parts(kind):
    lines = page(kind).splitlines()
    headings = [line for line in lines if line.startswith("#")]
    assert lines[0].startswith("# ")
    assert lines[2] == f"`{kind.__name__}`, exit code {kind.code}"
    assert headings[1:] == ["## What happened", "## How to resolve", "## Example"]
    for heading in headings[1:]:  # something stands below each
        assert lines[lines.index(heading) + 2].strip()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.slug)
def test_the_example_is_as_printed(kind):
    example = re.search(r"```console\n(.*)\n```\n$", page(kind), re.DOTALL)[1].splitlines()
    command, error, hint, see = example
    assert command.startswith(("$ fedwon-server ", "$ fedwon-client "))
    assert error.startswith("error: ")
    assert error.endswith(".") or kind.slug == "error"
    assert hint.startswith("hint: ")
    assert see == f"see: docs/errors/{kind.slug}.md"
    if kind.default_hint and kind.slug not in OWN_HINT:
        assert hint == f"hint: {kind.default_hint}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.slug)
def test_links_lead_somewhere_and_commands_exist(kind):
    text = page(kind)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (FOLDER / target).exists(), target
    for command, verb in re.findall(r"(fedwon-(?:server|client)) ([a-z]+)`?", text):
        assert verb in COMMANDS[command] or f"-u {command}" in text or f"stop {command}" in text, (command, verb)


def test_the_index_is_complete_and_in_order():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| \[(.+)\]\((.+)\.md\) \|$", index, re.MULTILINE)
    titles = {kind.slug: page(kind).splitlines()[0].removeprefix("# ") for kind in KINDS}
    assert rows == [(str(kind.code), kind.__name__, titles[kind.slug], kind.slug) for kind in KINDS]
