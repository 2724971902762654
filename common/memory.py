"""Keep the memory that a training step frees, for the next step asks for the same again.

A step frees its gradients and activations and the next allocates them anew. glibc hands blocks of that size back to the
kernel at once and gets them back page by page, each page zeroed: at batch 1 that is nearly half of a step's time
(`benchmarks/step_time.py --default-memory`). These two functions keep such blocks in the process while it trains and
give them back when it rests. On a system without glibc they do nothing.

Source: the GNU C Library's manual, mallopt(3) and malloc_trim(3).
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_BLOCK = 2**30
_NEVER = 2**31 - 1


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def keep_freed_memory() -> bool:
    """Make freed blocks of up to 1 GiB stay with this process; for all its threads, so call it before any starts.

    One arena for all threads, because the arenas of other threads are cut into pieces too small for a gradient.

    Returns:
        Whether the C library took the settings.
    """
    library = _glibc()
    settings = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGEST_BLOCK), (_TRIM_THRESHOLD, _NEVER))
    return library is not None and all(library.mallopt(name, value) for name, value in settings)


def return_freed_memory() -> None:
    """Give what is kept and free back to the system: between tasks an edge box has other work."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
