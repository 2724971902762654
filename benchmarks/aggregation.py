"""The average of spooled updates: `python -m benchmarks.aggregation [--json]`.

A hundred updates of 57 MB (`digit_cnn`) lie in a temporary folder, as a round leaves them in its spool. Measured:

- the speed at which one thread, and as many as there are processors, read these files from the page cache;
- `fedwon.server.aggregation.averaging.average` of 10, 50 and 100 of them, each in a process of its own, in turns with
  reading: seconds, bytes a second, peak memory above what the process held before;
- the same bits in another order of arrival, and the largest error against exact sums, in units in the last place;
- Flower's FedAvg on the same updates: its `aggregate_train` gets them as it would, in memory.

Where the disk or the memory has no room for all, fewer are taken, and the result says so. It is kept in
`benchmarks/results/aggregation.json`; the table of docs/performance.md goes to standard output.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flwr
import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedwon.common.arrays import open_record, write_record
from fedwon.common.flower import host_app
from fedwon.common.version import VERSION
from fedwon.server.aggregation.averaging import Update, average

RESULT = Path(__file__).resolve().parent / "results" / "aggregation.json"
SHAPES: Mapping[str, tuple[int, ...]] = {
    "conv1": (64, 3, 5, 5), "conv2": (64, 64, 5, 5), "conv3": (128, 64, 5, 5), "gains": (256,), "biases": (2816,),
    "fc1": (2048, 6272), "fc2": (512, 2048), "fc3": (10, 512),
}  # fmt: skip
"""The tensors of `digit_cnn` on 28 pixels, its gains and biases taken together: 57 MB."""
SIZE = 4 * sum(math.prod(shape) for shape in SHAPES.values())
PIECE = 2**20
SAMPLE = 2000
"""Elements whose exact sum is taken, of the largest tensor."""


def write_updates(folder: Path, count: int) -> list[Path]:
    """Write updates of one model, each with other numbers."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.1, max(map(math.prod, SHAPES.values())) + 1000 * count).astype("f4")
    paths = []
    for index in range(count):
        first = 1000 * index
        arrays = {name: Array(noise[first : first + math.prod(shape)].reshape(shape)) for name, shape in SHAPES.items()}
        paths.append(folder / f"site-{index:03d}.safetensors")
        write_record(ArrayRecord(arrays), paths[-1])
    return paths


def updates_of(paths: Sequence[Path]) -> list[Update]:
    """Return the updates in these files, of sites with different numbers of images."""
    return [
        Update(path.stem, 100 + 37 * index % 90, open_record(path, digest="0" * 64)) for index, path in enumerate(paths)
    ]


def read_speed(paths: Sequence[Path], threads: int) -> float:
    """Return the bytes a second at which files are read, each by one of so many threads."""

    def _read(mine: Sequence[Path]) -> None:
        buffer = bytearray(PIECE)
        for path in mine:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    working = [threading.Thread(target=_read, args=(paths[index::threads],)) for index in range(threads)]
    began = time.perf_counter()
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    return sum(path.stat().st_size for path in paths) / (time.perf_counter() - began)


def _memory() -> int:
    """Return the most bytes that this process has held."""
    return _kilobytes("/proc/self/status", "VmHWM")  # a child's `ru_maxrss` begins with its parent's


def ours(paths: Sequence[Path], turns: int) -> dict[str, Any]:
    """Average in turns with reading; the first turn alone counts for the memory."""
    updates = updates_of(paths)
    before, found = _memory(), []
    for _ in range(turns):
        reads = {f"read_{threads}": read_speed(paths, threads) for threads in {1, os.cpu_count() or 1}}
        busy = time.process_time()
        read_speed(paths, 1)
        reads["read_cpu_seconds"] = time.process_time() - busy
        began, busy = time.perf_counter(), time.process_time()
        result = average(updates)
        took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - busy}
        found.append({**took, **reads})
    peak = _memory() - before
    middle = {key: statistics.median(turn[key] for turn in found) for key in found[0]}
    speed = SIZE * len(paths) / middle["seconds"]
    one, all_of_them = middle["read_1"], middle[f"read_{os.cpu_count() or 1}"]
    shuffled = random.Random(1).sample(updates, len(updates))
    return {
        **middle,
        "speed": speed,
        "to_reading": speed / one,
        "to_reading_in_threads": speed / all_of_them,
        "to_reading_of_processor": middle["read_cpu_seconds"] / middle["cpu_seconds"],
        "peak_models": peak / SIZE,
        "same_bits": _digest(average(shuffled)) == _digest(result),
        "ulps": _error(result, updates),
    }


def _digest(record: ArrayRecord) -> str:
    digest = hashlib.sha256()
    for array in record.values():
        digest.update(np.ascontiguousarray(array.numpy()).data)
    return digest.hexdigest()


def _error(result: ArrayRecord, updates: Sequence[Update]) -> float:
    """Return the largest distance from the exact average of some elements, in units in the last place of float32."""
    places = np.random.default_rng(3).integers(0, math.prod(SHAPES["fc1"]), SAMPLE)
    columns = [update.record["fc1"].numpy().reshape(-1)[places].astype(float) for update in updates]
    limit = 10.0 * statistics.median(update.examples for update in updates)
    weights = [min(float(update.examples), limit) for update in updates]
    found, worst = result["fc1"].numpy().reshape(-1)[places], 0.0
    for place in range(SAMPLE):  # weights are small integers: each product has 31 bits, and the sum is exact
        terms = (weight * column[place] for weight, column in zip(weights, columns, strict=True))
        exact = math.fsum(terms) / math.fsum(weights)
        worst = max(worst, abs(float(found[place]) - exact) / float(np.spacing(np.float32(abs(exact)))))
    return worst


def flowers(paths: Sequence[Path], turns: int) -> dict[str, Any]:
    """Let Flower's FedAvg average the same updates."""
    host_app()
    before = _memory()
    strategy, asked = FedAvg(), Message(RecordDict(), dst_node_id=1, message_type="train")
    replies = []
    for update in updates_of(paths):
        arrays = ArrayRecord({name: Array(array.numpy()) for name, array in update.record.items()})
        metrics = MetricRecord({"num-examples": update.examples})
        replies.append(Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=asked))
    seconds = []
    for _ in range(turns):
        began = time.perf_counter()
        strategy.aggregate_train(1, replies)
        seconds.append(time.perf_counter() - began)
    took = statistics.median(seconds)
    return {"seconds": took, "speed": SIZE * len(paths) / took, "peak_models": (_memory() - before) / SIZE}


WORKS: Mapping[str, Callable[[Sequence[Path], int], dict[str, Any]]] = {"ours": ours, "flower": flowers}


def _apart(what: str, folder: Path, count: int, turns: int) -> dict[str, Any]:
    """Do one of `WORKS` in a process of its own, whose peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.aggregation", "--work", what, folder, str(count), str(turns)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"{what} with {count} updates has failed:\n{done.stderr[-3000:]}")
    return {"updates": count, **json.loads(done.stdout)}


def measure(count: int, turns: int) -> dict[str, Any]:
    """Measure with up to so many updates."""
    cut = []
    with tempfile.TemporaryDirectory(prefix="fedwon-aggregation-") as name:
        folder, free = Path(name), shutil.disk_usage(name).free
        room = min(count, int((free - 2**30) / SIZE))
        if room < count:
            cut.append(f"the disk has room for {room} updates of {count}")
        write_updates(folder, room)
        counts = sorted({min(some, room) for some in (10, 50, 100)})
        mine = [_apart("ours", folder, some, turns) for some in counts]
        fits = int(_kilobytes("/proc/meminfo", "MemAvailable") * 0.6 / (4 * SIZE))
        theirs_counts = sorted({min(some, room, max(fits, 2)) for some in (10, 50)})
        if theirs_counts[-1] < min(50, room):
            cut.append(f"Flower's average has room in memory for {theirs_counts[-1]} updates")
        theirs = [_apart("flower", folder, some, min(turns, 2)) for some in theirs_counts]
    versions = {"python": platform.python_version(), "numpy": np.__version__, "flwr": flwr.__version__}
    where = {"processors": os.cpu_count(), "load": os.getloadavg()[0], "fedwon": VERSION}
    return {"date": time.strftime("%Y-%m-%d"), **versions, **where, "bytes": SIZE, "cut": cut,
            "ours": mine, "flower": theirs}  # fmt: skip


def _kilobytes(file: str, name: str) -> int:
    """Return the bytes that a line of a file of the system's states in kB."""
    lines = dict(line.split(":", 1) for line in Path(file).read_text(encoding="utf-8").splitlines())
    return int(lines[name].split()[0]) * 1024


HEADS = (
    "updates", "seconds", "GB/s", "reading, GB/s: one thread (all)",
    "to reading: one thread (all; in processor time)", "peak, models", "largest error, ulp", "any order, same bits",
)  # fmt: skip


def page(result: Mapping[str, Any]) -> str:
    """Write the table of docs/performance.md."""
    lines = [
        f"| | {' | '.join(HEADS)} |",
        f"|{'---|' * 9}",
    ]
    many = f"read_{result['processors']}"
    for row in result["ours"]:
        reads = f"{row['read_1'] / 1e9:.1f} ({row[many] / 1e9:.1f})"
        ratios = f"{row['to_reading']:.2f} ({row['to_reading_in_threads']:.2f}; {row['to_reading_of_processor']:.2f})"
        lines.append(
            f"| fedwon | {row['updates']} | {row['seconds']:.2f} | {row['speed'] / 1e9:.2f} | {reads} | {ratios} "
            f"| {row['peak_models']:.2f} | {row['ulps']:.2f} | {'yes' if row['same_bits'] else 'no'} |"
        )
    lines += [
        f"| Flower | {row['updates']} | {row['seconds']:.2f} | {row['speed'] / 1e9:.2f} | | "
        f"| {row['peak_models']:.1f} | | |"
        for row in result["flower"]
    ]
    return "\n".join([*lines, *(f"\nCut: {reason}." for reason in result["cut"])])


def main() -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--keep", type=Path, default=RESULT)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        what, folder, count, turns = options.work
        print(json.dumps(WORKS[what](sorted(Path(folder).iterdir())[: int(count)], int(turns))))
        return
    result = measure(options.updates, options.turns)
    options.keep.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1) if options.json else page(result))


if __name__ == "__main__":
    main()
