"""What is installed beside fedwon, and what is known against it: `python deploy/audit.py --sbom sbom.json`.

The bill of materials (SBOM) is CycloneDX 1.6 as JSON and needs no network: every pinned version with its package URL
and licence, and whether a server or site needs it to run or only an extra or the developers do. The advisories come
from where pip-audit gets them, PyPI or OSV. A package that could not be looked up is not one without vulnerabilities:
the command then ends with 2 and says so, where pip-audit itself would end well.

Ends with 0 where all were looked up and nothing is known, with 1 where something is, with 2 where they could not be.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOUND, UNKNOWN = 1, 2
_SPACE = uuid.UUID("f1a3f3de-70a4-4a29-8c26-9d0f3c3a5f10")


def pins(path: Path) -> dict[str, str]:
    """Read a constraints file: versions by canonical name."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;]+)(\s*;.*)?", line.strip()):
            found[canonicalize_name(match[1])] = match[2]
    return found


def needed(project: Mapping[str, Any], known: Mapping[str, str]) -> set[str]:
    """Return which of these packages fedwon needs to run, directly or through others that are installed here."""
    waiting, found = [Requirement(text) for text in project["dependencies"]], set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        extras = {*wanted.extras, ""}
        if name in found or not _applies(wanted, {""}):
            continue
        found.add(name)
        try:
            below = [Requirement(text) for text in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue
        waiting += [one for one in below if _applies(one, extras)]
    return found & known.keys()


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)


def bill(project: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """Make the bill of materials; the same versions give the same bytes."""
    required = needed(project, known)
    components = [_component(name, version, name in required) for name, version in sorted(known.items())]
    own = {"type": "application", "bom-ref": "fedwon", "name": project["name"], "version": project["version"]}
    own |= {"licenses": [{"license": {"id": project["license"]}}]}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(_SPACE, json.dumps([own, components])).urn,
        "version": 1,
        "metadata": {"component": own},
        "components": components,
        "dependencies": [{"ref": "fedwon", "dependsOn": [one["bom-ref"] for one in components]}],
    }


def _component(name: str, version: str, required: bool) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{version}"
    made = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    licence = _licence(name)
    licences = {"licenses": [{"license": {"name": licence}}]} if licence else {}
    return {**made, "scope": "required" if required else "optional", **licences}


def _licence(name: str) -> str:
    try:
        said = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    classified = [text.rpartition(" :: ")[2] for text in said.get_all("Classifier") or () if "License ::" in text]
    return said.get("License-Expression") or (classified[0] if classified else "")


def ask(constraints: Path, options: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Let pip-audit look every pinned package up; return its answer (empty where it has none), and what went wrong."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(constraints), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        return json.loads(done.stdout), ""
    except ValueError:
        lines = done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"]
        return {}, lines[-1]


def verdict(known: Mapping[str, str], answer: Mapping[str, Any], wrong: str) -> tuple[int, list[str]]:
    """Return the exit code, and what is to be read."""
    rows = {canonicalize_name(row["name"]): row for row in answer.get("dependencies", ())}
    looked_up = {name for name, row in rows.items() if "skip_reason" not in row}
    text = [
        f"{name} {rows[name]['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no version yet'}"
        for name in sorted(looked_up)
        for one in rows[name]["vulns"]
    ]
    missing = sorted(known.keys() - looked_up)
    if missing:
        text.append(
            f"{len(missing)} of {len(known)} packages could not be looked up ({', '.join(missing[:5])}"
            f"{' and more' if len(missing) > 5 else ''}). {wrong}".strip()
        )
        text.append("Run it where PyPI (or, with `--service osv`, api.osv.dev) is reached: nothing is known of these.")
    found = any(rows[name]["vulns"] for name in looked_up)
    return (FOUND if found else UNKNOWN if missing else 0), text


def main() -> None:
    """Write the bill, ask for advisories, and print what is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    parser.add_argument("--sbom", type=Path, help="write the bill of materials here")
    parser.add_argument("--only-sbom", action="store_true", help="ask nobody")
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi")
    parser.add_argument("--osv-url", help="of an OSV database of your own")
    chosen = parser.parse_args()
    known = pins(chosen.constraints)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if chosen.sbom:
        chosen.sbom.write_text(json.dumps(bill(project, known), indent=1) + "\n", encoding="utf-8")
        print(f"{chosen.sbom}: {len(known)} packages")
    if chosen.only_sbom:
        return
    options = ["--vulnerability-service", chosen.service]
    options += ["--osv-url", chosen.osv_url] if chosen.osv_url else []
    code, text = verdict(known, *ask(chosen.constraints, options))
    print("\n".join(text) or f"No vulnerability is known of these {len(known)} packages.")
    sys.exit(code)


if __name__ == "__main__":
    main()
