"""Options that several of the operator's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Option("--dir", help="The server's folder.", show_default="fedwon-server")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
HOME = Path("fedwon-server")
