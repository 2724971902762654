"""What codecs save and what they cost: `python -m benchmarks.codecs [--seeds 1 2 3] [--json]`.

Trains the protocol `digits_small` of `benchmarks.paper` (five sites of digits, fedwon with its tuned settings) once a
codec and seed, with the codec on both ways as on the wire, and scores every final model on the same test images. Bytes
are those of the files that would travel. Speed is measured beside that on a whole `digit_cnn` (57 MB), in turns.
Each run is kept as JSON in `benchmarks/results/codecs/`; what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message

from benchmarks.paper.sets import CACHE, ROOT, data_home, with_test_part
from benchmarks.paper.spec import Spec
from benchmarks.paper.watching import Watcher
from fedwon.client.config import SiteConfig
from fedwon.client.images.domains import discover
from fedwon.common import logs
from fedwon.common.arrays import open_record, write_record
from fedwon.common.codec import PLAIN, codec_of
from fedwon.common.codec.coding import encode
from fedwon.common.memory import keep_freed_memory
from fedwon.common.packing import ZSTD
from fedwon.common.rebuilding import OF_MODEL, rebuild
from fedwon.common.round_settings import ParticipationConfig, TrafficConfig
from fedwon.common.run_config import RunConfig
from fedwon.models import build_model
from fedwon.server.comparison.paired import Difference, paired
from fedwon.server.comparison.scoring import accuracy
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.engines.simulating import versions
from fedwon.server.rounds.site_grid import Delta
from fedwon.server.runs.federating import federate
from fedwon.server.store import Store

RESULTS = ROOT / "benchmarks" / "results" / "codecs"
WAYS: Mapping[str, tuple[str, str]] = {
    "plain": ("plain", "plain"),
    "fp32": ("fp32", "fp32"),
    "bf16": ("bf16", "bf16"),
    "fp16": ("fp16", "fp16"),
    "int8": ("int8", "int8"),
    "topk": ("topk", "int8"),
}
"""Codec up and codec down of each row."""
EXACT = ("fp32",)
"""Rows that need one seed only: their models are those of `plain`, bit by bit, which is looked at."""
MEGABIT = 1e6 / 8
TURNS = 5


def config_of(way: str, seed: int) -> RunConfig:
    """Return the run's configuration."""
    up, down = WAYS[way]
    config = Spec("digits_small", "fedwon", 32, 0.6, 0.16, seed).config
    return config.model_copy(
        update={
            "traffic": TrafficConfig.model_validate({"up": up, "down": down}),
            "participation": ParticipationConfig(minimum=5, retries=0),
        }
    )


class Meter(InProcessGrid):
    """A grid in this process that notes how many bytes its messages would have on the wire.

    Attributes:
        up: bytes of each update.
        down: bytes of each model that was fetched for training.
    """

    def __init__(self, sites: Mapping[str, SiteConfig], base: Path, scratch: Path) -> None:
        super().__init__(sites, base)
        self.up: list[int] = []
        self.down: list[int] = []
        self._scratch, self._short = scratch, {}  # type: Path, dict[str, int]

    def shorten(self, model: str, delta: Delta) -> None:
        """Note what a model costs who has the one before."""
        self._short[model] = delta.blob.size

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run the tasks and count."""
        for message in messages:
            for reply in super().send_and_receive([message], timeout=timeout):
                if message.metadata.message_type == "train":
                    blob = message.content["arrays"].blob
                    self.down.append(self._short.get(blob.digest, blob.size))
                    packing = "" if codec_of(reply.content) == PLAIN else ZSTD
                    self.up.append(write_record(reply.content["arrays"], self._scratch, packing=packing).size)
                yield reply


def run(job: tuple[str, int]) -> dict[str, Any]:
    """Return the result of one run, from its file if it was made before."""
    way, seed = job
    path = RESULTS / "runs" / f"{way}-seed{seed}.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    logs.setup("text", "error")
    keep_freed_memory()
    spec = Spec("digits_small", "fedwon", 32, 0.6, 0.16, seed)
    data = with_test_part(data_home() / spec.plan.images, spec.plan.test_share)
    sites = spec.plan.partition.sites(discover(data, only=spec.plan.domains), seed, CACHE / "partitions")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fedwon-codecs-") as scratch:
        folder = Path(scratch)
        grid = Meter({name: SiteConfig(data=d, threads=1) for name, d in sites.items()}, Path.cwd(), folder / "sent")
        watcher, store = Watcher(spec, sites, {}, folder), Store(folder / "fedwon.db")
        federate(grid, config_of(way, seed), store, folder, listeners=[watcher.hear])
        store.close()
        scores = watcher.scores()
    result = {
        "way": way,
        "seed": seed,
        "up": grid.up,
        "down": grid.down,
        "seconds": round(time.monotonic() - began, 1),
        "versions": versions(),
        "test": {site: parts["test"] for site, parts in scores[max(scores, key=int)].items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n", encoding="utf-8")
    return result


def speeds(width: float = 1.0, turns: int = TURNS) -> dict[str, dict[str, float]]:
    """Measure how fast a model becomes a file for the wire, and a model again, in MB of the plain model a second."""
    state = build_model("digit_cnn", normalization="none", num_classes=10, width=width).state_dict()
    rng = np.random.default_rng(1)
    base = {name: np.asarray(tensor.numpy()) for name, tensor in state.items()}
    moved = {
        name: (a + 0.01 * rng.standard_t(4, a.shape) * (a.std() + 1e-3)).astype(a.dtype) for name, a in base.items()
    }
    update = ArrayRecord({name: Array(ndarray=values) for name, values in moved.items()})
    size = sum(values.nbytes for values in base.values())
    found: dict[str, dict[str, list[float]]] = {way: {"encode": [], "decode": [], "times": []} for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="fedwon-codecs-") as scratch:
        folder = Path(scratch)
        write_record(ArrayRecord({name: Array(ndarray=values) for name, values in base.items()}), folder / "base")
        start = open_record(folder / "base", digest="-")
        for _ in range(turns):
            for way in set(WAYS) - {PLAIN}:
                began = time.monotonic()
                parts = encode(update, start, WAYS[way][0], "1").parts
                delta = write_record(parts, folder / "delta", {OF_MODEL: "{}"}, packing=ZSTD)
                middle = time.monotonic()
                rebuild(delta, start, folder / "model", size)
                end = time.monotonic()
                for key, value in (("encode", size / (middle - began)), ("decode", size / (end - middle))):
                    found[way][key].append(value / 1e6)
                found[way]["times"].append(size / delta.size)
    return {
        way: {key: round(statistics.median(values), 2) for key, values in row.items()}
        for way, row in found.items()
        if row["encode"]
    }


def compared(results: Sequence[dict[str, Any]], way: str) -> Difference | None:
    """Compare a row with `plain`, over the seeds that both have; None where there are fewer than two."""
    by_seed = {row["seed"]: row["test"] for row in results if row["way"] == way}
    plain = {row["seed"]: row["test"] for row in results if row["way"] == PLAIN}
    seeds = sorted(by_seed.keys() & plain.keys())
    if way == PLAIN or len(seeds) < 2:
        return None
    return paired([by_seed[seed] for seed in seeds], [plain[seed] for seed in seeds], "accuracy")


def summary(results: Sequence[dict[str, Any]], speed: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return one row a codec."""
    rows = []
    plain_up = statistics.mean(results[0]["up"])
    for way in WAYS:
        runs = [result for result in results if result["way"] == way]
        if not runs:
            continue
        up = statistics.mean(size for result in runs for size in result["up"])
        down = statistics.mean(size for result in runs for size in result["down"])
        later = statistics.mean(size for result in runs for size in result["down"][5:])  # five sites fetch it whole
        change = compared(results, way)
        rows.append(
            {
                "way": way,
                "seeds": [result["seed"] for result in runs],
                "up": round(up),
                "down": round(down),
                "down_later": round(later),
                "times_up": round(plain_up / up, 2),
                "times_down": round(plain_up / down, 2),
                "times_down_later": round(plain_up / later, 2),
                "seconds_at_1_mbit": round((up + down) / MEGABIT, 2),
                "accuracy": statistics.mean(accuracy(s) for result in runs for s in result["test"].values()),
                "change": None if change is None else [change.mean, change.low, change.high],
                **{f"{key}_mb_s": value for key, value in speed.get(way, {}).items() if key != "times"},
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    heads = (
        "codec",
        "kB a round: up, down",
        "times less up",
        "times less down: all, from round 2",
        "encode, decode MB/s",
        "s a round at 1 Mbit/s",
        "accuracy, %",
        "against plain, points",
        "seeds",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        change = row["change"]
        speed = f"{row['encode_mb_s']:.0f}, {row['decode_mb_s']:.0f}" if "encode_mb_s" in row else "-"
        told = "-" if change is None else "{:+.2f} ({:+.2f} to {:+.2f})".format(*(100 * value for value in change))
        if row["way"] in EXACT:
            told = "the same bits"
        lines.append(
            f"| {row['way']} | {row['up'] / 1e3:.0f}, {row['down'] / 1e3:.0f} | {row['times_up']:.1f} "
            f"| {row['times_down']:.1f}, {row['times_down_later']:.1f} | {speed} | {row['seconds_at_1_mbit']:.1f} "
            f"| {100 * row['accuracy']:.2f} | {told} | {len(row['seeds'])} |"
        )
    return "\n".join(lines)


def check_exact(results: Sequence[dict[str, Any]]) -> None:
    """Raise AssertionError where a lossless codec led to another model than `plain`."""
    plain = {row["seed"]: row["test"] for row in results if row["way"] == PLAIN}
    for row in results:
        if row["way"] in EXACT and row["test"] != plain[row["seed"]]:
            raise AssertionError(f"{row['way']} is not exact")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--width", type=float, default=1.0, help="of the network whose encoding is timed")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    arguments = parser.parse_args()
    ways = list(dict.fromkeys([PLAIN, *arguments.ways]))  # what the others are compared with
    jobs = [(way, seed) for seed in arguments.seeds for way in ways if way not in EXACT or seed == 1]
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(run, jobs))
    check_exact(results)
    rows = summary(results, speeds(arguments.width))
    print(json.dumps(rows, indent=1) if arguments.json else table(rows))


if __name__ == "__main__":
    main()
