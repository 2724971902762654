"""Freed memory is kept for the next step and given back afterwards: seen from a process of its own."""

import subprocess
import sys

import pytest

PROBE = """
import resource, sys
import numpy
from fedwon.common.memory import keep_freed_memory, return_freed_memory

BYTES = 50 * 2**20
kept = keep_freed_memory() if sys.argv[1] == "keep" else None

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

def once():
    numpy.ones(BYTES, numpy.uint8)

once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    once()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
held = resident()
return_freed_memory()
print(kept, faults, held - resident())
"""


def _probe(mode: str) -> tuple[str, int, int]:
    done = subprocess.run([sys.executable, "-c", PROBE, mode], capture_output=True, text=True, check=True)
    kept, faults, returned = done.stdout.split()
    return kept, int(faults), int(returned)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has these settings")
def test_blocks_are_reused_without_page_faults_and_returned_at_the_end():
    _, faults, _ = _probe("plain")
    kept, kept_faults, returned = _probe("keep")
    assert kept == "True"
    assert kept_faults < faults / 5
    assert returned > 40 * 2**20
