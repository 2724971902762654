"""Decoders of texts: configuration, invitations, release manifests and signatures, certificates, the page's forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from fedwon.client.config import ClientConfig
from fedwon.client.releases.shelf import Shelf
from fedwon.common.certificates import certificate_pem, read_certificates, read_key
from fedwon.common.config import Settings, dump, load
from fedwon.common.invitation import Invitation
from fedwon.common.pki import Authority, create_authority
from fedwon.common.release import check_signature, parse_manifest, sign
from fedwon.common.run_config import RunConfig
from fedwon.server.config import ServerConfig
from fedwon.server.engines.simulating import SimulationConfig
from tests.fuzz.files import on_disk, scratch

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (letter, letter, b", ".join([b"*%c" % (letter - 1)] * 9)) for letter in range(98, 110)
)
"""A billion laughs: each line is nine of the one before."""


def settings(kind: type[Settings]) -> Callable[[bytes], object]:
    def _decode(data: bytes) -> object:
        return load(kind, on_disk(data, "settings.yaml"))

    return _decode


def yaml_seeds(kind: type[Settings], *more: bytes) -> Callable[[], Iterator[bytes]]:
    def _seeds() -> Iterator[bytes]:
        yield from more
        yield BOMB
        yield b"a: &a [*a]\n"
        yield b"a: " + b"[" * 800
        yield b"? {a: b}\n: c\n"
        yield b"2001-01-01: x\n"
        yield b"rounds: 0x" + b"f" * 4000
        yield b"{" + b"? " * 300
        yield b"base: &b {rounds: 1}\nrun:\n  <<: *b\n"

    return _seeds


@cache
def authority() -> Authority:
    return create_authority(scratch() / "texts-pki", "test")


def manifest(data: bytes) -> None:
    parse_manifest(data, "the manifest")


def manifest_seeds() -> Iterator[bytes]:
    parity = {"images": 1, "source": "s", "largest_difference": 0, "largest_output": 1, "limit": 1, "same_class": 1}
    yield json.dumps(
        {
            "format": 1, "name": "r-1", "federation": "f", "made": "2026", "run": "r", "round": 1, "method": "fedwon",
            "checkpoint": "0", "configuration": "0", "versions": {}, "previous": None, "classes": ["a", "b"],
            "preprocessing": {}, "task": {}, "metrics": {}, "data": {}, "parity": {"model.onnx": parity},
            "files": {"model.onnx": {"sha256": "0" * 64, "size": 1}},
        }
    ).encode()  # fmt: skip


def signature(data: bytes) -> None:
    check_signature(b"{}", data, authority().pem, "the release")


def signature_seeds() -> Iterator[bytes]:
    yield sign(b"{ }", ec.generate_private_key(ec.SECP256R1()))


def pem(data: bytes) -> None:
    read_certificates(data, "the file")
    read_key(data, "the file")


def pem_seeds() -> Iterator[bytes]:
    yield authority().pem
    yield certificate_pem(read_certificates(authority().pem, "it")[0]) * 2


def shelf(data: bytes) -> None:
    (scratch() / "releases").mkdir(exist_ok=True)
    on_disk(data, "releases/in-use.json")
    _ = Shelf(scratch()).standing


def shelf_seeds() -> Iterator[bytes]:
    yield b'{"in_use": "r-1", "before": null, "order": "1", "answer": {"state": "in use"}}'


_EXAMPLE = next(iter(sorted(EXAMPLES.glob("*.yaml")))).read_bytes()
_CLIENT = b"server: server:8470\ndata: {path: images, cache_mb: 1}\nlimits: {epochs: 2.5, networks: [alexnet]}\n"
_INVITATION = b'{"site": "a", "server": "b:1", "fingerprint": "c", "token": "d"}'
DECODERS: dict[str, tuple[Callable[[bytes], object], Callable[[], Iterable[bytes]]]] = {
    "server_yaml": (settings(ServerConfig), yaml_seeds(ServerConfig, dump(ServerConfig()).encode())),
    "client_yaml": (settings(ClientConfig), yaml_seeds(ClientConfig, _CLIENT)),
    "run_yaml": (settings(RunConfig), yaml_seeds(RunConfig, dump(RunConfig()).encode())),
    "simulation_yaml": (settings(SimulationConfig), yaml_seeds(SimulationConfig, _EXAMPLE)),
    "invitation": (settings(Invitation), yaml_seeds(Invitation, _INVITATION)),
    "manifest": (manifest, manifest_seeds),
    "signature": (signature, signature_seeds),
    "pem": (pem, pem_seeds),
    "shelf": (shelf, shelf_seeds),
}
