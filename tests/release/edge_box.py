"""An environment as deploy/runtime.txt describes it: fedwon and what predicting needs, and no PyTorch.

Nothing is downloaded: a new virtual environment gets links to what is installed here already.
"""

from __future__ import annotations

import os
import re
import subprocess
import venv
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "deploy" / "runtime.txt"


def requirements() -> list[Requirement]:
    lines = RUNTIME.read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def needed() -> dict[str, Distribution]:
    """The packages of deploy/runtime.txt and all that these need, by canonical name."""
    found: dict[str, Distribution] = {}
    left = requirements()
    while left:
        requirement = left.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in found:
            found[name] = distribution(name)
            own = map(Requirement, found[name].requires or [])
            left += [need for need in own if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def _description() -> Path:
    """The folder that describes the installed fedwon; a checkout may have another one beside its code."""
    for found in distributions(name="fedwon"):
        for path in found.files or []:
            if path.name == "METADATA":
                return Path(str(found.locate_file(path))).parent
    raise AssertionError("fedwon is not installed")


class EdgeBox:
    """A virtual environment without PyTorch."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        self.packages = next((folder / "lib").glob("python3*")) / "site-packages"
        for package in needed().values():
            self._link_all(package)
        (self.packages / "fedwon").mkdir()
        for own in ("client", "common"):
            (self.packages / "fedwon" / own).symlink_to(ROOT / own)
        described = _description()
        (self.packages / described.name).symlink_to(described)

    def _link_all(self, package: Distribution) -> None:
        tops = {file.parts[0] for file in package.files or [] if file.parts[0] not in {"..", "__pycache__"}}
        for top in tops:
            place = self.packages / top
            if not place.exists():
                place.symlink_to(Path(str(package.locate_file(top))))

    def run(self, *arguments: object, **kwargs) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments, with nothing of this process's paths."""
        clean = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=clean, stdin=subprocess.DEVNULL, **kwargs)

    def client(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run `fedwon-client`."""
        return self.run("-m", "fedwon.client.cli", *arguments)
