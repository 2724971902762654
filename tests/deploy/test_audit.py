"""`make audit`: the bill names every pinned package, and what could not be looked up does not pass for harmless."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AUDIT = ROOT / "deploy" / "audit.py"
PINS = "# two\nattrs==26.1.0\nexample-package==1.0\n"
ADVISORY = {
    "id": "PYSEC-2026-1",
    "affected": [
        {
            "package": {"name": "example-package", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class Advisories(BaseHTTPRequestHandler):
    """Answers as OSV does; knows something of one package."""

    known: str = ""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {"vulns": [ADVISORY]} if asked["package"]["name"] == self.known else {}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def advisories(known: str) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), type("Known", (Advisories,), {"known": known}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()


def audit(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, AUDIT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def bill(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("bill") / "sbom.json"
    done = audit("--only-sbom", "--sbom", path)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def test_the_bill_names_every_pinned_package(bill):
    lines = [line.split(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pinned = {(name.lower().replace("_", "-").replace(".", "-"), version)
              for name, _, version in (line.partition("==") for line in lines if "==" in line)}  # fmt: skip
    assert {(one["name"], one["version"]) for one in bill["components"]} == pinned
    assert len(pinned) > 100


def test_the_bill_has_the_form_of_cyclonedx(bill):
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert bill["metadata"]["component"]["name"] == "fedwon"
    references = [one["bom-ref"] for one in bill["components"]]
    assert len(set(references)) == len(references)
    assert bill["dependencies"] == [{"ref": "fedwon", "dependsOn": references}]
    for one in bill["components"]:
        assert one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}"
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None


def test_the_bill_tells_what_runs_from_what_developers_use(bill):
    scopes = {one["name"]: one["scope"] for one in bill["components"]}
    assert {scopes[name] for name in ("torch", "grpcio", "flwr", "cryptography", "starlette")} == {"required"}
    assert {scopes[name] for name in ("pytest", "ruff", "playwright", "ray")} == {"optional"}


def looked_up(tmp_path: Path, url: str) -> subprocess.CompletedProcess[str]:
    pins = tmp_path / "constraints.txt"
    pins.write_text(PINS)
    return audit("--constraints", pins, "--service", "osv", "--osv-url", url)


def test_a_known_vulnerability_is_named_with_its_fix(tmp_path):
    with advisories("example-package") as url:
        done = looked_up(tmp_path, url)
    assert (done.returncode, done.stdout.strip()) == (1, "example-package 1.0: PYSEC-2026-1, fixed in 1.1")


def test_advisories_that_cannot_be_reached_are_no_good_news(tmp_path):
    with advisories("") as url:
        pass
    done = looked_up(tmp_path, url)
    assert done.returncode == 2
    assert "2 of 2 packages could not be looked up (attrs, example-package)" in done.stdout
    assert "Traceback" not in done.stdout
