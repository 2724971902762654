"""Collect every wheel that a machine without a network needs: `python deploy/wheelhouse.py --out wheels`.

The folder then holds fedwon itself and all that it depends on, for one platform and one Python, and three files:

* `requirements.txt`: every wheel by name, version and SHA-256. pip refuses a file that is not the one listed.
* `SHA256SUMS`: the same for `sha256sum --check`, to be run where the folder arrives.
* `INSTALL.txt`: the two lines to type there.

Versions are those of constraints.txt. Nothing is compiled on the other machine: a package that has no wheel for it ends
the command. pip judges conditions such as `platform_machine == "x86_64"` by the machine that it runs on, so collect for
arm64 on an arm64 machine where one is at hand.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "models", "common", "client", "server")
REQUIREMENTS, SUMS, INSTALL = "requirements.txt", "SHA256SUMS", "INSTALL.txt"
PLATFORMS = {
    machine: [f"manylinux_{minor}_{machine}" for minor in ("2_28", "2_27", "2_24", "2_17")] + [f"linux_{machine}"]
    for machine in ("x86_64", "aarch64")
}
"""What `--platform` may name, and the tags of wheels that run there with glibc 2.28 (Debian 10, RHEL 8) or newer."""
OLDER_TAGS = ("manylinux2014", "manylinux2010", "manylinux1")


def build(out: Path) -> Path:
    """Build fedwon's own wheel into a folder; return it."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        for name in SOURCES:  # a copy: setuptools leaves a `build` folder behind and would pack what an old one holds
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
        _pip("wheel", "--no-deps", "--wheel-dir", folder, source)
        made = next(Path(folder).glob("fedwon-*.whl"))
        target = out / made.name
        target.write_bytes(made.read_bytes())
    return target


def collect(wheel: Path, out: Path, options: argparse.Namespace) -> None:
    """Let pip fetch what the wheel depends on."""
    indexes = ["--extra-index-url", options.torch_index] if options.torch_index else []
    extras = f"[{options.extras}]" if options.extras else ""
    _pip(
        "download", "--dest", out, "--only-binary", ":all:", "--constraint", options.constraints,
        *indexes, *target_options(options.platform, options.python), f"{wheel}{extras}",
    )  # fmt: skip


def target_options(platform: str | None, python: str | None) -> list[str]:
    """Return pip's options for another machine or another Python than this one; none for this one."""
    wanted: list[str] = []
    if platform:
        tags = [*PLATFORMS[platform], *(f"{tag}_{platform}" for tag in OLDER_TAGS)]
        wanted += [part for tag in tags for part in ("--platform", tag)]
    if python:
        wanted += ["--python-version", python, "--implementation", "cp"]
    return wanted


def describe(out: Path) -> list[Path]:
    """Write requirements.txt, SHA256SUMS and INSTALL.txt for the wheels that are there; return the wheels."""
    wheels = sorted(out.glob("*.whl"))
    digests = {wheel: _sha256(wheel) for wheel in wheels}
    pinned = [f"{_requirement(wheel)} --hash=sha256:{digest}" for wheel, digest in digests.items()]
    (out / REQUIREMENTS).write_text("".join(f"{line}\n" for line in pinned), encoding="utf-8")
    listed = {**{wheel.name: digest for wheel, digest in digests.items()}, REQUIREMENTS: _sha256(out / REQUIREMENTS)}
    (out / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in listed.items()), encoding="utf-8")
    (out / INSTALL).write_text(install_lines(), encoding="utf-8")
    return wheels


def install_lines(environment: str = "/opt/fedwon") -> str:
    """Return what to type in the folder on the machine without a network."""
    return (
        f"sha256sum --check --quiet {SUMS}\n"
        f"python3 -m venv {environment}\n"
        f"{environment}/bin/pip install --no-index --find-links . --require-hashes --requirement {REQUIREMENTS}\n"
    )


def _requirement(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name.replace('_', '-')}=={version}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    if subprocess.run(command, check=False).returncode != 0:  # noqa: S603  # our own words
        sys.exit("error: pip could not collect the wheels; its own words stand above")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--out", type=Path, required=True, help="a new folder for the wheels")
    made.add_argument("--platform", choices=sorted(PLATFORMS), help="machine type; this one's without it")
    made.add_argument("--python", help="its Python, such as 3.12; this one's without it")
    made.add_argument("--extras", default="", help="`digits` for the built-in demonstration set")
    made.add_argument("--torch-index", default="", help="https://download.pytorch.org/whl/cpu leaves CUDA out")
    made.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt", help="versions to take")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect, describe, and say how large it is and what to do next."""
    options = parser().parse_args(arguments)
    out: Path = options.out
    if out.exists() and any(out.iterdir()):
        sys.exit(f"error: {out} is not empty; name a new folder, so that no old wheel travels along")
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    collect(build(out), out, options)
    wheels = describe(out)
    size = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{len(wheels)} wheels, {size / 1e6:,.0f} MB, in {time.monotonic() - began:.0f} s: {out}")
    print(f"carry the folder to the machine and type there:\n\n{install_lines()}", end="")


if __name__ == "__main__":
    main()
