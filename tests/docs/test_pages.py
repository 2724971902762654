"""The documentation: it builds, what it shows runs, and pages in two languages have the same structure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAIRS = [path for folder in (ROOT, DOCS) for path in sorted(folder.glob("*.ja.md"))]
OUTSIDE = re.compile(r"""(?:src|href)=["']?(https?:)?//[^"' >]+\.(?:js|css|woff2?|png|svg|ico)\b|@import|fonts\.g""")


def blocks(text: str) -> list[str]:
    """Code blocks, without what a language may say in a comment."""
    return [re.sub(r" +#.*", "", block) for block in re.findall(r"```.*?```", text, re.DOTALL)]


def headings(text: str) -> list[str]:
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"^(#+) ", plain, re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the documentation's tools are not installed (the extra `docs`)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        assert not (found := OUTSIDE.search(page.read_text())), (page, found)


def test_the_reference_is_made_from_docstrings(site):
    page = (site / "api.html").read_text()
    for name in ("fedwon.models.ws_conv.WSConv2d", "fedwon.server.rounds.strategy.FedWon", "fedwon.models.fold.fold"):
        assert f'id="{name}"' in page


def test_there_are_pages_in_japanese():
    assert {path.name for path in PAIRS} >= {"README.ja.md", "quickstart.ja.md"}


@pytest.mark.parametrize("japanese", PAIRS, ids=lambda path: path.name)
def test_a_page_in_two_languages_has_the_same_structure(japanese):
    here = japanese.read_text()
    there = japanese.with_name(japanese.name.replace(".ja.md", ".md")).read_text()
    assert headings(here) == headings(there)
    assert blocks(here) == blocks(there)
    assert re.search("[ぁ-ん]", here)


def test_the_quickstart_is_short():
    assert len((DOCS / "quickstart.md").read_text().split()) < 500


def test_the_library_example_is_short_and_runs():
    example = DOCS / "examples" / "library.py"
    assert len(example.read_text().splitlines()) < 40
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "folded alike: True" in done.stdout
    assert "without normalization: True" in done.stdout
    assert re.search(r"^paper: \d+ %$", done.stdout, re.MULTILINE)
