"""Atomic writes under interruption, modes of secrets, and a real full disk."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwon.common.errors import DiskFull, KeyExposed, StorageError
from fedwon.common.files import (
    read_bytes,
    read_private,
    remove_leftovers,
    sha256_file,
    write_atomic,
    write_private,
)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_writes_whole_and_in_pieces(tmp_path):
    write_atomic(tmp_path / "a", b"old")
    write_atomic(tmp_path / "a", b"new")
    write_atomic(tmp_path / "b", (bytes([i]) * 3 for i in range(4)))
    assert read_bytes(tmp_path / "a") == b"new"
    assert read_bytes(tmp_path / "b") == b"\0\0\0\1\1\1\2\2\2\3\3\3"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_mode_is_narrowed_by_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert mode(tmp_path / "a") == 0o640


def test_longest_file_name_is_possible(tmp_path):
    write_atomic(tmp_path / ("x" * 255), b"1")
    assert read_bytes(tmp_path / ("x" * 255)) == b"1"


def test_a_broken_source_leaves_the_old_file_and_no_other(tmp_path):
    def pieces():
        yield b"half"
        raise RuntimeError("source broke")

    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError, match="source broke"):
        write_atomic(tmp_path / "a", pieces())
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]


def test_full_disk(small_disk):
    path = small_disk / "model"
    write_atomic(path, b"old" * 1000)
    with pytest.raises(DiskFull, match=f"while writing {path}"):
        write_atomic(path, (b"x" * 4096 for _ in range(100)))
    assert [p.name for p in small_disk.iterdir()] == ["model"]
    assert path.read_bytes() == b"old" * 1000
    write_atomic(path, b"room again")
    assert path.read_bytes() == b"room again"


def test_full_disk_that_shows_only_at_fsync(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DiskFull):
        write_atomic(tmp_path / "a", b"1")
    assert list(tmp_path.iterdir()) == []


def test_file_system_that_cannot_sync_a_folder(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "a", b"1")
    assert read_bytes(tmp_path / "a") == b"1"


def test_order_is_file_then_rename_then_folder(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(stat.S_ISDIR(os.fstat(fd).st_mode)), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("rename"), replace(*names)))
    write_atomic(tmp_path / "a", b"1")
    assert steps == [False, "rename", True]


@pytest.mark.parametrize("name", ["missing/a", "folder"])
def test_impossible_targets(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=name):
        write_atomic(tmp_path / name, b"1")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_killed_at_any_moment_the_file_is_old_or_new(tmp_path):
    path = tmp_path / "state"
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from fedwon.common.files import write_atomic
        number = 0
        while True:
            number = (number + 1) % 256
            write_atomic(Path(sys.argv[1]), [bytes([number]) * 8192] * 4)
        """
    )
    for pause in (0.03, 0.05, 0.08):
        writer = subprocess.Popen([sys.executable, "-c", program, path])
        until = time.monotonic() + 30
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(pause)
        writer.kill()
        writer.wait()
        content = path.read_bytes()
        assert len(content) == 4 * 8192
        assert len(set(content)) == 1
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_leftovers_go_and_nothing_else(tmp_path):
    (tmp_path / ".fedwon-0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / "keep.tmp").write_bytes(b"")
    assert remove_leftovers(tmp_path) == 1
    assert remove_leftovers(tmp_path / "not-there") == 0
    assert [p.name for p in tmp_path.iterdir()] == ["keep.tmp"]


def test_secret_is_private_from_the_first_byte(tmp_path, monkeypatch):
    modes = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (modes.append(stat.S_IMODE(os.fstat(fd).st_mode)), fsync(fd)))
    old = os.umask(0)
    try:
        write_private(tmp_path / "pki" / "site.key", b"secret")
    finally:
        os.umask(old)
    assert modes == [0o600, 0o700]  # the file, then its folder
    assert mode(tmp_path / "pki") == 0o700
    assert read_private(tmp_path / "pki" / "site.key") == b"secret"


def test_secret_replaces_an_exposed_file(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert read_private(path) == b"new"


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o610, 0o602])
def test_exposed_secret_is_refused(tmp_path, bits):
    path = tmp_path / "key"
    write_private(path, b"secret")
    path.chmod(bits)
    with pytest.raises(KeyExposed, match=f"{path}.*{bits:04o}"):
        read_private(path)


def test_what_is_missing_is_said(tmp_path):
    for read in (read_private, read_bytes, sha256_file):
        with pytest.raises(StorageError, match="No such file"):
            read(tmp_path / "missing")
        with pytest.raises(StorageError, match="directory"):
            read(tmp_path)


@given(st.binary(max_size=100_000))
def test_digest_is_that_of_the_bytes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("digest") / "blob"
    write_atomic(path, data)
    assert sha256_file(path) == hashlib.sha256(data).hexdigest()
