"""The committed stubs are what the compiler makes of the proto."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fedwon.common import wire

pytest.importorskip("grpc_tools", reason="grpcio-tools comes with the `dev` extra")

COMMITTED = Path(wire.__file__).parent


def test_stubs_are_fresh(tmp_path, monkeypatch):
    from fedwon.common.wire.generate import generate

    # protoc looks for mypy-protobuf's plugins there
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    made = generate(tmp_path)
    assert sorted(path.name for path in made) == sorted(path.name for path in COMMITTED.glob("fedwon_pb2*"))
    for path in made:
        assert path.read_bytes() == (COMMITTED / path.name).read_bytes(), f"make stubs: {path.name} is not fresh"


def test_the_compilers_refusal_is_told(tmp_path, monkeypatch):
    from fedwon.common.wire import generate

    (tmp_path / "fedwon.proto").write_text("syntax = nonsense;")
    monkeypatch.setattr(generate, "HERE", tmp_path)
    with pytest.raises(RuntimeError, match="protoc refused"):
        generate.generate(tmp_path)
