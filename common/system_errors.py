"""What the operating system says of a file, as an error of ours."""

from __future__ import annotations

import errno

from fedwon.common.errors import DiskFull, StorageError

_HINTS = {
    errno.EROFS: "The disk is mounted read-only, as the kernel does after an error: look at `dmesg`, then remount it "
    "(`mount -o remount,rw`) or replace it.",
    errno.EMFILE: "Let the process open more files: `ulimit -n`, or `LimitNOFILE=` in the systemd unit.",
    errno.ENFILE: "This machine has no file handle left (`cat /proc/sys/fs/file-nr`): end what takes them.",
    errno.EIO: "The disk fails: look at `dmesg` and `smartctl -a`, and move the folder to another one.",
}
"""What to do where the system's word for it says enough."""


def storage_error(error: OSError, doing: str) -> StorageError:
    """Turn an operating system error into one of ours.

    Args:
        error: what the system said.
        doing: what was being done, such as "writing /x/y".
    """
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(f"No space left on the disk while {doing}.")
    return StorageError(f"{error.strerror or error} while {doing}.", hint=_HINTS.get(error.errno or 0))
