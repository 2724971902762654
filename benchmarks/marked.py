"""Parts of pages that a command writes, between two marks of its own."""

from __future__ import annotations

from pathlib import Path


def between(page: Path, mark: str) -> str:
    """What stands between the two marks, without blank lines around it.

    Raises:
        ValueError: the page has not exactly two of them.
    """
    return _parts(page, mark)[1].strip()


def rewrite(page: Path, mark: str, text: str) -> None:
    """Put a text between the two marks; the rest of the page stays as it is.

    Raises:
        ValueError: the page has not exactly two of them.
    """
    before, _, after = _parts(page, mark)
    page.write_text(f"{before}{mark}\n\n{text.strip()}\n\n{mark}{after}", encoding="utf-8")


def _parts(page: Path, mark: str) -> list[str]:
    parts = page.read_text(encoding="utf-8").split(mark)
    if len(parts) != 3:
        raise ValueError(f"{page} has {len(parts) - 1} times {mark!r}, not twice: put it before and behind the part")
    return parts
