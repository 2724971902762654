"""Packed files: whole again bit by bit, and within the receiver's bounds whatever came."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedwon.common.errors import BrokenFile, StorageError
from fedwon.common.packing import WINDOW_LOG, packed, unpack, zstd

CONTENT = bytes(range(256)) * 40


def file(path, content: bytes):
    path.write_bytes(content)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(max_size=300), max_size=5), more=st.integers(0, 3))
def test_round_trip_whatever_the_pieces(tmp_path, pieces, more):
    whole = b"".join(pieces)
    source = file(tmp_path / "a", b"".join(packed(pieces)))
    assert unpack(source, tmp_path / "b", len(whole) + more).read_bytes() == whole


def test_the_bound_holds_and_nothing_is_left(tmp_path):
    source = file(tmp_path / "a", b"".join(packed([bytes(2**20)] * 50)))  # 50 MiB out of some kilobytes
    assert source.stat().st_size < 10_000
    with pytest.raises(BrokenFile, match="more than the 1000000 bytes"):
        unpack(source, tmp_path / "b", 1_000_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_cut_or_longer_is_refused(tmp_path, data):
    good = b"".join(packed([CONTENT]))
    kind = data.draw(st.sampled_from(["cut", "longer", "turned"]))
    place = data.draw(st.integers(0, len(good) - 1))
    bad = {
        "cut": good[:place],
        "longer": good + bytes(place + 1),
        "turned": good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :],
    }[kind]
    source = file(tmp_path / "a", bad)
    try:
        out = unpack(source, tmp_path / "b", len(CONTENT)).read_bytes()
    except BrokenFile:
        return
    assert out == CONTENT  # a bit of the frame's header that does not matter


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes(tmp_path, content):
    source = file(tmp_path / "a", content)
    with pytest.raises(BrokenFile):
        unpack(source, tmp_path / "b", 100)


def test_a_frame_that_asks_for_much_memory_is_refused(tmp_path):
    options = {zstd.CompressionParameter.window_log: WINDOW_LOG + 1, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    source = file(tmp_path / "a", compressor.compress(CONTENT) + compressor.flush())
    with pytest.raises(BrokenFile, match="cannot be unpacked"):
        unpack(source, tmp_path / "b", 10**9)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(StorageError):
        unpack(tmp_path / "none", tmp_path / "b", 100)
