"""The pilot's page says the same in both languages, as far as its structure shows."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def structure(name: str) -> list[tuple[str, object]]:
    """Headings, list items, table rows with their number of cells, commands and links, in order."""
    found: list[tuple[str, object]] = []
    for line in (DOCS / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            found.append(("heading", len(line) - len(line.lstrip("#"))))
        elif line.startswith("|"):
            found.append(("row", line.count("|")))
        elif line.startswith("- "):
            found.append(("item", None))
    return found


def commands(name: str) -> list[str]:
    return sorted(re.findall(r"`(fedwon-[^`]+)`", (DOCS / name).read_text(encoding="utf-8")))


def links(name: str) -> list[str]:
    targets = re.findall(r"\]\(([^)]+)\)", (DOCS / name).read_text(encoding="utf-8"))
    return sorted(target for target in targets if not target.startswith("poc"))


def test_both_pages_have_the_same_structure() -> None:
    assert structure("poc.md") == structure("poc.ja.md")
    assert len(structure("poc.md")) > 50


def test_both_pages_name_the_same_commands_and_pages() -> None:
    assert commands("poc.md") == commands("poc.ja.md")
    assert links("poc.md") == links("poc.ja.md")


def test_both_pages_leave_the_same_to_be_filled_in() -> None:
    pages = [(DOCS / name).read_text(encoding="utf-8") for name in ("poc.md", "poc.ja.md")]
    blanks = [re.findall(r"(?<!\w)\[[^\]]+\](?!\()", page) for page in pages]
    assert len(blanks[0]) == len(blanks[1])
