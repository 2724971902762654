"""What a process and its threads ask of the kernel, seen by strace: whom they call, and which calls they make."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

CALLING = ("connect", "sendto", "sendmsg", "sendmmsg")
_INET = re.compile(r"sa_family=AF_INET6?, .*?sin6?_port=htons\((\d+)\).*?\"([^\"]+)\"")


def needs_strace() -> None:
    """Skip where processes cannot be traced."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-f", "--seccomp-bpf", "-qq", "true"], capture_output=True).returncode != 0:
        pytest.skip("this user may not trace processes here")


def traced(record: Path, *, unless: Iterable[str] = ()) -> list[str]:
    """Return the words to put ahead of a command.

    Args:
        record: the file to write.
        unless: record every call but these too; without it only those that name a peer.
    """
    ordinary = sorted(set(unless) - set(CALLING))
    wanted = f"!{','.join(f'?{name}' for name in ordinary)}" if ordinary else ",".join(CALLING)
    return [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-s",
        "0",
        "-e",
        "signal=none",
        "-o",
        str(record),
        "-e",
        f"trace={wanted}",
    ]


def peers(record: Path) -> set[tuple[str, int]]:
    """Return whom a process called by Internet address, as (address, port); local sockets are left out."""
    found = set()
    for line in record.read_text(errors="replace").splitlines():
        if "sa_family=AF_INET" in line:
            match = _INET.search(line)
            assert match is not None, line
            found.add((match[2].removeprefix("::ffff:"), int(match[1])))  # IPv4 in the clothes of IPv6
    return found


def calls(record: Path) -> set[str]:
    """Return the names of the recorded system calls, but for those that name a peer."""
    lines = record.read_text(errors="replace").splitlines()
    names = {match[1] for line in lines if (match := re.match(r"\d+ +(?:<\.\.\. )?(\w+)[( ]", line))}
    return names - set(CALLING)


def group(name: str) -> set[str]:
    """Return the system calls of one of systemd's groups, such as @system-service."""
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter", name], capture_output=True, text=True, check=True
    )
    found: set[str] = set()
    for line in done.stdout.splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= group(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found
