# ruff: noqa: INP001  # a script beside the pages that it makes pictures for
"""Make the pictures of docs/operation.md: `python docs/screenshots.py`, in a minute; needs Chromium and Pillow.

A real server with real sites and real rounds is behind them. One site is made to be weak (its labels are shuffled), one
has left.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Run a federation and photograph its page."""
    from tests.e2e.page_kit import photographed

    with tempfile.TemporaryDirectory() as folder:
        for path in photographed(Path(folder), ROOT / "docs" / "pictures"):
            print(f"{path.stat().st_size // 1024} kB  {path.relative_to(ROOT)}")  # noqa: T201  # its outcome


if __name__ == "__main__":
    main()
