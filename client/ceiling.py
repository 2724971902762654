"""A ceiling on this process's memory, below the one at which the kernel kills it without a word.

An allocation beyond the ceiling fails like any other error: the task ends with a reason and the site stays connected.
The kernel counts what is mapped (RLIMIT_DATA, since Linux 4.7), a control group what is touched; what PyTorch maps and
never touches is measured once it is loaded, and put on top. Elsewhere than on Linux there is no ceiling.

Source: getrlimit(2), proc(5), and the kernel's cgroup-v1/memory.rst and cgroup-v2.rst.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedwon.common.errors import OutOfMemory

logger = logging.getLogger(__name__)

MEGABYTE = 2**20
SHARE = 0.9
"""Of the limit; the rest is for the kernel's own and for file pages, which a control group counts too."""

_SIGNS = (
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "out of memory",
    "could not create a memory",
    "can't start new thread",
)
"""How PyTorch, its libraries and the system say that memory is short."""


@dataclass(frozen=True)
class Limit:
    """Memory that this process may take.

    Attributes:
        size: bytes.
        source: who says so.
    """

    size: int
    source: str


def memory_limit(memory_mb: int | None, root: Path = Path("/")) -> Limit | None:
    """Return the lowest limit on this process's memory; None where none can be found.

    Args:
        memory_mb: what client.yaml says.
        root: where the system's own files are.
    """
    own = [Limit(memory_mb * MEGABYTE, "`memory_mb` in client.yaml")] if memory_mb else []
    machine = _machine(root)
    limits = [*own, *_control_groups(root), *([machine] if machine else [])]
    return min(limits, key=lambda limit: limit.size, default=None)


def _control_groups(root: Path) -> Iterator[Limit]:
    """The limits of this process's control group and of those above it; a container sees its own at the top."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        place = top / path.lstrip("/")
        for folder in [place, *place.parents]:
            for text in _lines(folder / name):
                if text.isdecimal():  # "max" is none
                    yield Limit(int(text), "the memory limit of its control group or container")
            if folder == top:
                break


def _machine(root: Path) -> Limit | None:
    found = _fields(root / "proc/meminfo", "MemTotal", "SwapTotal")
    return Limit(sum(found.values()), "this machine's memory") if "MemTotal" in found else None


def lower_ceiling(limit: Limit | None) -> None:
    """Let allocations fail before the limit is reached. To be called once, when PyTorch is loaded and has not worked.

    Args:
        limit: from `memory_limit`.
    """
    taken = _fields(Path("/proc/self/status"), "VmData", "RssAnon")
    if limit is None or len(taken) < 2:
        return
    untouched = max(taken["VmData"] - taken["RssAnon"], 0)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(SHARE * limit.size) + untouched
    try:
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
    except (OSError, ValueError) as error:
        logger.warning("no ceiling can be set on this process's memory: %s", error)
        return
    logger.info("tasks may take up to %d MB of memory, 90 %% of %s", SHARE * limit.size / MEGABYTE, limit.source)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory is short, whatever clothes it comes in."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)


def out_of_memory(what: str, task: Mapping[str, object], own_batch: object, limit: Limit | None) -> OutOfMemory:
    """Make the error for a task that memory did not suffice for, with the figures that can be changed.

    Args:
        what: what happened, as a sentence without its full stop.
        task: the task's configuration, flat.
        own_batch: the site's own `batch_size`; None where it has none.
        limit: what the process may take.
    """
    size, width = task.get("images.size", "?"), task.get("model.width", "?")
    batch = own_batch or task.get("training.batch_size", "?")
    room = f"{limit.size / MEGABYTE:.0f} MB ({limit.source})" if limit else "no limit that could be found"
    return OutOfMemory(
        f"{what}: batches of {batch}, images of {size} x {size} pixels, width {width}, and {room}.",
        hint=f"In client.yaml lower `batch_size` (now {batch}; 1 is enough for method `fedwon`) or `data.cache_mb`; or "
        f"in the run lower `images.size` (now {size}) or `model.width` (now {width}).",
    )


def _fields(path: Path, *names: str) -> dict[str, int]:
    """Sizes in bytes of some lines `Name: N kB`."""
    found = (line.partition(":") for line in _lines(path))
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in found if name in names}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
