"""Does every pinned dependency have a wheel for a machine? `python deploy/check_wheels.py --platform aarch64`.

pip resolves constraints.txt for that machine and downloads nothing but metadata. Prints a line a package that has none
and ends with 1; otherwise prints how many have one. It is how the arm64 images are checked where none can be built.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from wheelhouse import PLATFORMS, ROOT, target_options


def pins(path: Path) -> list[str]:
    """Return the lines of a constraints file that pin a version."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "==" in line]


def have_wheels(requirements: list[str], platform: str, python: str) -> bool:
    """Return whether pip finds a wheel for each of these; for a single one that has none, pip's reason is printed."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--dry-run", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", f"{folder}/none"]
        done = subprocess.run(  # noqa: S603 - pip, with lines of our own file
            [
                *(sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options),
                *(*target_options(platform, python), *requirements),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0 and len(requirements) == 1:
        sys.stderr.write(done.stderr)
    return done.returncode == 0


def main() -> int:
    """Check all at once, and one by one only to name what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", choices=sorted(PLATFORMS), default="aarch64")
    parser.add_argument("--python", default="3.11")
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    options = parser.parse_args()
    wanted = pins(options.constraints)
    if wanted and have_wheels(wanted, options.platform, options.python):
        print(f"{len(wanted)} of {len(wanted)} packages have a wheel for {options.platform}")
        return 0
    missing = [line for line in wanted if not have_wheels([line], options.platform, options.python)]
    for line in missing:
        print(f"no wheel for {options.platform}: {line}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
