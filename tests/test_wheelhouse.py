"""What the command that collects wheels writes, and what it asks pip for; tests/airgap installs from it."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys

import pytest

from tests.e2e.fleet import ROOT

PATH = ROOT / "deploy" / "wheelhouse.py"


@pytest.fixture(scope="module")
def wheelhouse():
    spec = importlib.util.spec_from_file_location("wheelhouse", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "typing_extensions-4.16.0-py3-none-any.whl").write_bytes(b"one")
    (tmp_path / "torch-2.14.1+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").write_bytes(b"two")
    return tmp_path


def test_every_wheel_is_pinned_and_summed(wheelhouse, folder):
    digests = {text: hashlib.sha256(text).hexdigest() for text in (b"one", b"two")}
    assert len(wheelhouse.describe(folder)) == 2
    assert (folder / "requirements.txt").read_text().splitlines() == [
        f"torch==2.14.1+cpu --hash=sha256:{digests[b'two']}",
        f"typing-extensions==4.16.0 --hash=sha256:{digests[b'one']}",
    ]
    check = ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"]
    assert subprocess.run(check, cwd=folder).returncode == 0
    (folder / "requirements.txt").write_text("torch\n")
    assert subprocess.run(check, cwd=folder, capture_output=True).returncode != 0


def test_what_is_typed_there_needs_no_network(wheelhouse):
    assert wheelhouse.install_lines("/opt/fedwon").splitlines() == [
        "sha256sum --check --quiet SHA256SUMS",
        "python3 -m venv /opt/fedwon",
        "/opt/fedwon/bin/pip install --no-index --find-links . --require-hashes --requirement requirements.txt",
    ]


def test_another_machine_and_another_python(wheelhouse):
    assert wheelhouse.target_options(None, None) == []
    options = wheelhouse.target_options("aarch64", "3.12")
    assert options[-4:] == ["--python-version", "3.12", "--implementation", "cp"]
    tags = options[1:-4:2]
    assert {"manylinux_2_28_aarch64", "manylinux2014_aarch64", "linux_aarch64"} <= set(tags)
    assert all(tag.endswith("aarch64") for tag in tags)


def test_a_folder_that_holds_something_is_left_alone(folder):
    done = subprocess.run([sys.executable, str(PATH), "--out", str(folder)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert len(list(folder.iterdir())) == 2


def test_a_platform_that_nobody_has_wheels_for(tmp_path):
    arguments = ["--out", str(tmp_path / "wheels"), "--platform", "sparc"]
    done = subprocess.run([sys.executable, str(PATH), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "x86_64" in done.stderr
    assert not (tmp_path / "wheels").exists()
