"""What secure aggregation costs: `python -m benchmarks.secure_aggregation [--json]`; four minutes.

A real `fedwon-server` process and 4, 16 and 64 sites over gRPC with mutual TLS on loopback. The sites are those of
`benchmarks.light_sites`: they do not train, so a round is what the protocol takes; in secure rounds they do all that a
client does for it (`fedwon.client.sitting`, `fedwon.client.secure`), one after the other in one process. Compared with
the same rounds with plain updates. Beside that, without the wire: what a site takes to mask an update of 57 MB, and
what the server takes to add up and to take the masks off, with nobody lost and with a third.

The result is kept in `benchmarks/results/secure_aggregation.json`; the tables of docs/performance.md go to standard
output.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from benchmarks.aggregation import SHAPES
from benchmarks.light_processes import enrol
from benchmarks.light_rounds import MODELS, run_config, served, write_update
from benchmarks.light_sites import LightSite, Seen, run_sites
from benchmarks.recorded import IMAGES, Answer, Answering, Recorded
from fedwon.client import sitting
from fedwon.client.config import DataConfig, SiteConfig
from fedwon.client.opened_sums import RECORD, OpenedSums
from fedwon.client.secure import Masking
from fedwon.client.site import Site
from fedwon.common.arrays import open_record, write_record
from fedwon.common.config import dump, parse
from fedwon.common.flower import host_app, incoming, make_context
from fedwon.common.run_config import RunConfig
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.secagg.masking import Mask, apply_masks
from fedwon.common.secagg.messages import Circle, Opening, Setup, pack, unpack
from fedwon.common.secagg.stages import SECURE, SETUP, SHARE_KEYS, UNMASK
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import records_from_wire, records_to_wire
from fedwon.server.aggregation.averaging import Update, average
from fedwon.server.config import ServerConfig
from fedwon.server.secure.summing import add_up
from fedwon.server.serving import CONFIG_NAME, Home

RESULT = Path(__file__).resolve().parent / "results" / "secure_aggregation.json"
SITES = (4, 16, 64)
ROUNDS = {4: 3, 16: 3, 64: 1}
"""Rounds that are measured; one more comes first. With other numbers of sites: one."""
MODEL = MODELS["1 MB"]
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # a scratch folder: sites' disks are not measured
HEARTBEAT = 20.0
"""Seconds; the sites share one event loop, which masking holds up."""
STAGES = (SETUP, SHARE_KEYS, "train", UNMASK)


class Secured:
    """Answers as a client does in secure aggregation, with a recorded update in place of a trained one.

    Args:
        payload: the recorded update.
        scratch: an empty folder.

    Attributes:
        seconds: of the site's own work, by stage.
        sizes: bytes of what is told and answered, by stage: offers and headers, without models and updates.
    """

    def __init__(self, payload: Path, scratch: Path) -> None:
        host_app()
        self._update, self._scratch = open_record(payload), scratch
        self._base = ArrayRecord(
            {name: Array(ndarray=np.zeros(array.shape, dtype=array.dtype)) for name, array in self._update.items()}
        )
        self._plain = Recorded(payload.read_bytes())
        self._contexts: dict[str, Any] = {}
        self._answers: dict[str, Answer] = {}
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.sizes: dict[str, list[int]] = {stage: [] for stage in STAGES}

    def __call__(self, site: str, offer: pb.Offer) -> Answer:
        """Answer an offer, one that is repeated as before."""
        if offer.kind == "evaluate":
            return self._plain(site, offer)
        if offer.task_id not in self._answers:
            stage, began = offer.kind.removeprefix("query."), time.perf_counter()
            answer = self._answers[offer.task_id] = self._made(site, offer, stage)
            self.seconds[stage].append(time.perf_counter() - began)
            self.sizes[stage].append(offer.ByteSize() + sum(record.ByteSize() for record in answer.records))
        return self._answers[offer.task_id]

    def _site(self, name: str) -> Site:
        return Site(name, SiteConfig(data=DataConfig(path=".")), self._scratch)

    def _made(self, site: str, offer: pb.Offer, stage: str) -> Answer:
        content = records_from_wire(offer.records, lambda _: ArrayRecord())
        context = self._contexts.setdefault(site, make_context(1, {}))
        if stage == "train":
            message = incoming(content, "train", node_id=1, message_id=offer.task_id, group_id=offer.group_id)
            task, own = content.config_records["config"], self._site(site)
            masking = Masking(message, context, own, str(task["run"]), int(str(task["round"])))
            made, _ = masking.mask(self._update, self._base, IMAGES)
            blob = write_record(made, self._scratch / f"{site}.safetensors", sync_folder=False)
            arrays = pb.Record(name="arrays", arrays=pb.Blob(digest=blob.digest, size=blob.size))
            metrics = [record for record in self._plain(site, offer).records if record.name == "metrics"]
            return Answer((arrays, *metrics), blob.path.read_bytes())
        reply: object
        if stage == SETUP:
            context.state.pop(RECORD, None)  # for it is the same update each time, which a client refuses
            reply = sitting.set_up(context.state, unpack(Setup, content), site)
        elif stage == SHARE_KEYS:
            reply = sitting.share_keys(context.state, unpack(Circle, content), site)
        else:
            opened = OpenedSums(self._site(site), context.state)
            reply = sitting.reveal(context.state, unpack(Opening, content), site, opened.note)
        return Answer(tuple(records_to_wire(RecordDict({SECURE: pack(reply)}))))


def settings(sites: int, *, secure: bool) -> RunConfig:
    """Return the run: plain, or the same with masked updates."""
    content = run_config(MODEL, sites, ROUNDS.get(sites, 1) + 1).model_dump(mode="json")
    if secure:
        content["aggregation"]["secure"] = {"enabled": True}
        content["admission"] |= {"norm": None, "own_norm": None, "cosine": None}
    return parse(RunConfig, content, "the benchmark")


def rounds(folder: Path, answering: Answering, sites: int, port: int, *, secure: bool) -> dict[str, Any]:
    """Run a federation; return seconds of a round and bytes of a site in it, medians without the first round."""
    config = ServerConfig(
        federation="secure",
        listen=f"127.0.0.1:{port}",
        enrolment=f"127.0.0.1:{port + 1}",
        names=("127.0.0.1",),
        heartbeat_seconds=HEARTBEAT,
        page=None,
        run=settings(sites, secure=secure),
    )
    home = Home.create(folder, config)
    enrolled = enrol(home, [f"site-{index:03d}" for index in range(sites)])
    home.store.close()
    (folder / CONFIG_NAME).write_text(dump(config), encoding="utf-8")
    with served(folder, folder / "stalls.txt", None) as process:
        lights = [LightSite(config.listen, name, own, answering, 5.0) for name, own in enrolled]

        async def _until_finished() -> list[Seen]:
            stop = asyncio.Event()
            running = asyncio.create_task(run_sites(lights, stop))
            await asyncio.to_thread(process.wait, 300)
            stop.set()
            return await running

        seen = asyncio.run(_until_finished())
    begins = _begins(seen)
    return {
        "seconds": statistics.median([end - begin for begin, end in pairwise(begins)][1:]),
        "bytes_up": statistics.median(one.bytes_up for one in seen) / (ROUNDS.get(sites, 1) + 1),
    }


def _begins(seen: Sequence[Seen]) -> list[float]:
    """Return when each round began: with its first offer; and the evaluation behind the last."""
    found: dict[str, list[float]] = {}
    for one in seen:
        for name, times in one.tasks.items():
            found.setdefault("end" if times.kind == "evaluate" else name.split(".r")[1][:4], []).append(times.offered)
    return sorted(min(moments) for moments in found.values())


def plain_rounds(sites: int, port: int) -> dict[str, Any]:
    """Measure rounds with plain updates."""
    with tempfile.TemporaryDirectory() as name:
        payload = Path(name) / "update.safetensors"
        write_update(MODEL, payload)
        return {"plain": rounds(Path(name) / "fed", Recorded(payload.read_bytes()), sites, port, secure=False)}


def secure_rounds(sites: int, port: int) -> dict[str, Any]:
    """Measure rounds with masked updates, and what a site takes for each stage."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(dir=MEMORY) as scratch:
        payload = Path(name) / "update.safetensors"
        write_update(MODEL, payload)
        secured = Secured(payload, Path(scratch))
        measured = rounds(Path(name) / "fed", secured, sites, port, secure=True)
    return {
        "secure": measured,
        "site_seconds": {stage: statistics.median(taken) for stage, taken in secured.seconds.items()},
        "stage_bytes": {stage: statistics.median(sizes) for stage, sizes in secured.sizes.items()},
    }


def without_wire(sites: int, port: int) -> dict[str, Any]:
    """Measure what needs no wire."""
    del port
    with tempfile.TemporaryDirectory() as name:
        return {"masking": masking(sites), "opening": opening(Path(name), sites)}


def masking(sites: int) -> dict[str, float]:
    """Time what a site does to an update of `digit_cnn`, 57 MB: encode it, and mask it with all others."""
    rng = np.random.default_rng(1)
    values = [rng.normal(0, 0.01, int(np.prod(shape))).astype("f4") for shape in SHAPES.values()]
    numbers, began = FixedPoint(10.0, sites), time.perf_counter()
    words = [numbers.encode(row) for row in values]
    encoded = time.perf_counter()
    apply_masks(words, [Mask(secrets.token_bytes(32), 1) for _ in range(sites)])
    return {"encode": encoded - began, "mask": time.perf_counter() - encoded}


def opening(folder: Path, sites: int) -> dict[str, float]:
    """Time what the server does with masked updates of 1 MB, beside the plain average."""
    payload, rng = folder / "update.safetensors", np.random.default_rng(1)
    write_update(MODEL, payload)
    shapes = {name: array.shape for name, array in open_record(payload).items()}
    records = []
    for index in range(sites):
        row = {name: Array(ndarray=rng.integers(-9, 9, shape, dtype=np.int32)) for name, shape in shapes.items()}
        path = folder / f"site-{index}.safetensors"
        write_record(ArrayRecord(row), path, sync_folder=False)
        records.append(open_record(path, digest="0" * 64))
    lost = sites // 3
    counted = sites - lost
    updates = [Update(str(index), 10, open_record(payload, digest="0" * 64)) for index in range(sites)]
    return {
        "plain": _timed(lambda: average(updates)),
        "nobody lost": _timed(lambda: add_up(records, _masks(sites))),
        "a third lost": _timed(lambda: add_up(records[:counted], _masks(counted + lost * counted))),
    }


def _masks(count: int) -> list[Mask]:
    return [Mask(hashlib.sha256(str(index).encode()).digest(), -1) for index in range(count)]


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


PARTS: Mapping[str, Callable[[int, int], dict[str, Any]]] = {
    "plain": plain_rounds,
    "secure": secure_rounds,
    "local": without_wire,
}


def measure(port: int, counts: Sequence[int], parts: Sequence[str]) -> dict[str, Any]:
    """Measure these parts with so many sites; what was kept before of others stays."""
    kept = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    rows = {row["sites"]: row for row in kept}
    for sites in counts:
        row = rows.setdefault(sites, {"sites": sites})
        for part in parts:
            row.update(PARTS[part](sites, port))
            port += 2
    return {
        "rows": [rows[sites] for sites in sorted(rows)],
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} threads",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fedwon": VERSION,
    }


def page(result: Mapping[str, Any]) -> str:
    """Return the tables for docs/performance.md."""
    whole = [row for row in result["rows"] if row.keys() >= {"plain", "secure", "masking"}]
    headings = (
        *("sites", "round, plain, s", "round, secure, s", "of it all sites' own work, s", "update, plain, kB"),
        *("masked, kB", "keys and shares, kB a site", "opening, kB a site"),
    )
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    for row in whole:
        own, sizes = row["site_seconds"], row["stage_bytes"]
        cells = [str(row["sites"]), f"{row['plain']['seconds']:.2f}", f"{row['secure']['seconds']:.2f}"]
        cells += [f"{row['sites'] * sum(own.values()):.2f}"]
        cells += [f"{row[kind]['bytes_up'] / 1e3:.0f}" for kind in ("plain", "secure")]
        cells += [f"{(sizes[SETUP] + sizes[SHARE_KEYS] + sizes['train']) / 1e3:.1f}", f"{sizes[UNMASK] / 1e3:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    headings = (
        *("sites", "a site: keys and shares, ms", "mask 1 MB, ms", "open, ms", "encode 57 MB, s", "mask 57 MB, s"),
        *("server: plain mean of 1 MB, s", "masked sum, s", "with a third lost, s"),
    )
    lines += ["", f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    for row in whole:
        own = row["site_seconds"]
        cells = [str(row["sites"]), f"{1e3 * (own[SETUP] + own[SHARE_KEYS]):.1f}", f"{1e3 * own['train']:.0f}"]
        cells += [f"{1e3 * own[UNMASK]:.2f}"]
        cells += [f"{row['masking'][what]:.2f}" for what in ("encode", "mask")]
        cells += [f"{row['opening'][what]:.3f}" for what in ("plain", "nobody lost", "a third lost")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, keep, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print the result as JSON in place of the tables")
    parser.add_argument("--port", type=int, default=18900, help="first port; eighteen are used")
    parser.add_argument("--sites", type=int, nargs="+", default=SITES, help="how many; what is kept of others stays")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=tuple(PARTS), help="what; the rest is kept")
    arguments = parser.parse_args()
    result = measure(arguments.port, arguments.sites, arguments.parts)
    with suppress(OSError):
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result) if arguments.json else page(result))


if __name__ == "__main__":
    main()
