"""Every decoder returns or raises an error of ours, within bounded memory: on seeds, on kept findings, on mutations."""

from __future__ import annotations

import ast
import resource
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import CORPUS, LARGEST_INPUT, MOST_BYTES, TARGETS, Target

ROOT = Path(__file__).resolve().parents[2]
each = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def bounded(target: Target, data: bytes) -> bool:
    """Decode within `MOST_BYTES`; return whether it was taken."""
    tracemalloc.start()
    try:
        taken = target(data)
        assert tracemalloc.get_traced_memory()[1] <= MOST_BYTES
    finally:
        tracemalloc.stop()
    return taken


@each
def test_a_good_input_is_taken_and_bad_seeds_are_refused(target):
    taken = [target(seed) for seed in target.seeds()]
    never = {"refusal", "signature", "pem"}  # an error is what comes out, or nobody here can sign
    assert any(taken) or target.name in never


@each
def test_what_was_found_once_stays_found(target):
    kept = target.kept()
    assert kept, f"{CORPUS / target.name} is empty: `python -m tests.fuzz seed`"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in kept:
        bounded(target, path.read_bytes())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 <= 4 * MOST_BYTES  # of all its inputs together, in C as well, and with what it imports


@st.composite
def mutations(draw, kept: list[bytes]) -> bytes:
    """A kept input with a few places cut out, doubled, overwritten or filled with something else."""
    data = bytearray(draw(st.sampled_from(kept)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        end = min(place + draw(st.sampled_from([0, 1, 2, 4, 8, 64])), len(data))
        what = st.one_of(st.binary(max_size=8), st.just(bytes(data[place:end]) * 2), st.sampled_from(NASTY))
        data[place:end] = draw(what)
    return bytes(data[:LARGEST_INPUT])


NASTY = [b"\0", b"\xff" * 9, b"[" * 400, b"9" * 30, b"-1", b"nan", b'"', b"\xed\xa0\x80", b"\x7f\xff\xff\xff", b": "]


@each
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_anything_else_is_taken_or_refused(target, data):
    kept = [path.read_bytes() for path in target.kept()]
    assert target(data.draw(st.one_of(mutations(kept), st.binary(max_size=200)))) in {True, False}  # and raises nothing


def test_the_corpus_is_small_and_of_known_targets():
    folders = sorted(path.name for path in CORPUS.iterdir())
    assert folders == sorted(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 2**20


def test_every_module_that_decodes_is_fuzzed():
    """Whoever adds a decoder adds a target: these calls read what somebody else wrote."""
    decoding = {"json.loads", "yaml.load", "np.load", "tarfile.open", "zipfile.ZipFile"}
    decoding |= {"strict_yaml.read_text", "message.ParseFromString", "header.ParseFromString", "Image.open"}
    reached = {
        "client/link/journal.py", "client/images/npz.py", "client/releases/shelf.py",
        "common/arrays.py", "common/config.py", "common/model_file.py", "common/pixels.py", "common/rebuilding.py",
        "common/release.py", "server/backups/restore.py",
    }  # fmt: skip
    own = {
        "client/link/health.py": "an answer of this box's own client, over a socket in its folder",
        "client/day_count.py": "the site's own count of rounds",
        "client/virtual.py": "a folder that the simulation made in this process",
        "server/backups/backup.py": "writes archives only",
        "server/engines/dealing.py": "the operator's own images, dealt to the sites of a simulation",
        "server/releases/converting.py": "a record whose header `tensors` has read",
    }
    found = set()
    for package in ("client", "common", "server"):
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith("server/comparison/"):  # the operator's own results
                continue
            calls = (ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "func"))
            found |= {name} if decoding & set(calls) else set()
    assert found == reached | set(own)
