"""Peak memory of training steps: one process a network and form, `python -m benchmarks.stepping.peaks NETWORK FORM`.

The process takes two steps of each batch size, the smallest first. Before each, what the last one freed goes back to
the system and the kernel is told to forget the peak (`/proc/self/clear_refs`, proc_pid_clear_refs(5)). Where it does
not let itself be told, the peak so far stands for this one: it is never too small, and the same wherever a larger
batch takes more.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.stepping.forms import BATCHES, network_of, runnable, step_of
from fedwon.common.memory import keep_freed_memory, return_freed_memory

_STEPS = 2
_FORGET_PEAK = "5"


def peaks_of(name: str, form: str) -> dict[str, Any]:
    """Peaks of a process of its own; raises `CalledProcessError` where that fails.

    Returns:
        `megabytes` (MiB) by batch, as `BATCHES` but for those that the form cannot run, and `forgotten`: whether each
        peak is that of its own batch.
    """
    command = [sys.executable, "-m", "benchmarks.stepping.peaks", name, form]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def peaks_here(name: str, form: str) -> dict[str, Any]:
    """The same of this process."""
    model = network_of(name, form)
    megabytes, forgotten = {}, True
    for batch in sorted(batch for batch in BATCHES if runnable(form, batch)):
        model.zero_grad()  # what the last batch left
        step = step_of(model, name, form, batch)
        forgotten &= forget_peak()
        for _ in range(_STEPS):
            step()
        megabytes[str(batch)] = round(peak(), 1)
    return {"megabytes": megabytes, "forgotten": forgotten}


def forget_peak(switch: Path = Path("/proc/self/clear_refs")) -> bool:
    """Give back what is free and begin a new peak at what is left; returns whether the kernel did."""
    return_freed_memory()
    try:
        switch.write_text(_FORGET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def peak() -> float:
    """Peak resident memory of this process, MiB; `getrusage` would count what its parent had before."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> None:
    """Print the peaks of a network's form as JSON."""
    name, form = sys.argv[1:]
    keep_freed_memory()
    torch.set_num_threads(1)
    print(json.dumps(peaks_here(name, form)))


if __name__ == "__main__":
    main()
