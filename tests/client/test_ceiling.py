"""Where the limit on a client's memory is found, and what is said when it is reached."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedwon.client.ceiling import Limit, is_out_of_memory, memory_limit, out_of_memory

MB = 2**20


def system(root, cgroup="", files=(), meminfo="MemTotal:  2048 kB\nSwapTotal:  1024 kB\nHugePages_Total: 0\n"):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/meminfo").write_text(meminfo)
    for name, text in dict(files).items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "size"),
    [
        ("0::/\n", {}, 3072 * 1024),  # the machine
        ("0::/\n", {"memory.max": 5000}, 5000),  # in a container, version 2
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": 7000}, 7000),  # the one above counts as well
        ("0::/a/b\n", {"a/b/memory.max": 6000, "a/memory.max": 7000}, 6000),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": 8000}, 8000),  # version 1
        ("4:cpu,memory:/docker/x\n", {"memory/memory.limit_in_bytes": 9000}, 9000),  # in a container, version 1
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": 9223372036854771712}, 3072 * 1024),  # none, in version 1
        ("4:cpu:/a\n", {"memory/memory.limit_in_bytes": 1}, 3072 * 1024),  # not a memory group's
    ],
)
def test_where_the_limit_comes_from(tmp_path, cgroup, files, size):
    assert memory_limit(None, system(tmp_path, cgroup, files)).size == size


def test_what_the_site_says_counts_where_it_is_lower(tmp_path):
    root = system(tmp_path, "0::/\n", {"memory.max": 100 * MB}, "MemTotal: 99999999 kB\n")
    assert memory_limit(64, root) == Limit(64 * MB, "`memory_mb` in client.yaml")
    assert memory_limit(200, root).size == 100 * MB


def test_a_system_that_says_nothing(tmp_path):
    assert memory_limit(None, tmp_path) is None


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ValueError("a batch of 8"), False),
    ],
)
def test_which_errors_mean_it(error, short):
    assert is_out_of_memory(error) is short


def test_the_advice_has_the_present_figures():
    task = {"images.size": 224, "model.width": 0.5, "training.batch_size": 32}
    error = out_of_memory("Memory ran out", task, None, Limit(600 * MB, "`memory_mb`"))
    assert error.message == (
        "Memory ran out: batches of 32, images of 224 x 224 pixels, width 0.5, and 600 MB (`memory_mb`)."
    )
    assert "`batch_size` (now 32" in error.hint
    assert "`images.size` (now 224)" in error.hint
    assert "batches of 4," in out_of_memory("x", task, 4, None).message  # the site's own batch size counts
    assert "batches of ?," in out_of_memory("x", {}, None, None).message


CODE = """
import resource, sys
from fedwon.client.ceiling import Limit, lower_ceiling
import numpy as np
lower_ceiling(Limit(256 * 2**20, "a test"))
soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
assert soft > 0 and hard == resource.RLIM_INFINITY, (soft, hard)
np.ones(100 * 2**17)
try:
    np.ones(300 * 2**17)
except MemoryError:
    print("refused")
np.ones(100 * 2**17)
"""


def test_the_ceiling_is_one():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "refused", done.stderr
