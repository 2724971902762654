"""One run of a protocol: from its spec to a JSON file and a checkpoint."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import select

from benchmarks.paper.sets import CACHE, data_home, with_test_part
from benchmarks.paper.spec import RESULTS, Spec, result_path, run_folder
from benchmarks.paper.watching import Watcher
from fedwon.client.config import SiteConfig
from fedwon.client.images.domains import discover
from fedwon.common.errors import RunMissing, TooFewUpdates
from fedwon.common.memory import keep_freed_memory
from fedwon.common.round_settings import ParticipationConfig
from fedwon.common.update_settings import AdmissionConfig
from fedwon.server.comparison.scoring import LOCAL
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.engines.simulating import versions
from fedwon.server.runs.federating import federate
from fedwon.server.runs.run import Run
from fedwon.server.store import MetricRow, Store, TaskRow

_SECONDS = "seconds"
_ANSWERED = frozenset({"received", "averaged", "refused", "late"})


@contextmanager
def in_hand(folder: Path) -> Iterator[bool]:
    """Whether this process may work in the folder: False if another one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def run(spec: Spec, *, results: Path = RESULTS, checkpoints: Path = CACHE) -> dict[str, Any] | None:
    """Return the result of a run: from its file, or by running it or what is missing of it.

    Args:
        spec: which run.
        results: folder of the JSON files.
        checkpoints: folder of models and databases.

    Returns:
        The result; None if another process has the run in hand.
    """
    path = result_path(spec, results)
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    folder = run_folder(spec, checkpoints)
    with in_hand(folder) as ours:
        if not ours or path.exists():
            return None
        result = _run(spec, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_laid_out(result), encoding="utf-8")
    return result


def _laid_out(result: dict[str, Any]) -> str:
    """JSON with a line an entry: short, and its changes can be read."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
    return "\n".join(["{", ",\n".join(lines), "}\n"])


def _run(spec: Spec, folder: Path) -> dict[str, Any]:
    keep_freed_memory()
    data = with_test_part(data_home() / spec.plan.images, spec.plan.test_share)
    plan = spec.plan.on(discover(data))
    domains = discover(data, only=plan.domains)
    sites = plan.partition.sites(domains, spec.seed, CACHE / "partitions")
    config = spec.config
    everyone = ParticipationConfig(minimum=len(sites), fraction=config.participation.fraction, retries=0)
    config = config.model_copy(update={"participation": everyone, "admission": AdmissionConfig.unsuspecting()})
    store, unfinished = _store(folder)
    configs = {name: SiteConfig(data=where, threads=1) for name, where in sites.items()}
    grid = InProcessGrid(configs, Path.cwd(), folder=folder / LOCAL)
    watcher = Watcher(spec, sites, plan.partition.unseen(domains), folder)
    failed = None
    if unfinished:
        watcher.catch_up(Run.unfinished(store, folder))
    try:
        with worked(folder):
            outcome = federate(grid, config, store, folder, listeners=[watcher.hear], resume=unfinished)
        shutil.copyfile(outcome.model, folder / "model.safetensors")
    except TooFewUpdates as error:  # a site's loss is not finite any more: a result like any other
        failed = error.message
    run_id = Run.open(store, folder).id
    history, traffic = _history(store, run_id), _traffic(store, run_id, folder)
    store.close()
    return {
        **asdict(spec),
        "rounds": config.rounds,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "seconds": seconds_worked(folder),
        "bytes": traffic,
        "resumed": unfinished,
        "failed": failed,
        "validation": history,
        "scores": watcher.scores(),
    }


def _clear(folder: Path) -> None:
    for item in folder.iterdir():
        if item.is_dir():
            shutil.rmtree(item)
        elif item.name != "lock":
            item.unlink()


def _store(folder: Path) -> tuple[Store, bool]:
    """Open the run's database; cleared, unless it holds an unfinished run to go on with."""
    store = Store(folder / "fedwon.db")
    try:
        Run.unfinished(store, folder)
    except RunMissing:
        store.close()
        _clear(folder)
        return Store(folder / "fedwon.db"), False
    return store, True


@contextmanager
def worked(folder: Path) -> Iterator[None]:
    """Add the time that passes to what was worked on a run before it was broken off."""
    before, started = seconds_worked(folder), time.monotonic()
    try:
        yield
    finally:
        (folder / _SECONDS).write_text(f"{before + time.monotonic() - started:.1f}", encoding="ascii")


def seconds_worked(folder: Path) -> float:
    """Seconds that a run took, in all its parts but those that were killed."""
    path = folder / _SECONDS
    return float(path.read_text(encoding="ascii")) if path.exists() else 0.0


def _traffic(store: Store, run_id: str, folder: Path) -> int:
    """Bytes that the run would have moved: nothing travels in one process, so a task is a model down, an answer one up.

    The model is the last round's, which holds what is shared and no layer that a method keeps at its sites.
    """
    newest = max(folder.glob("runs/*/round-*.safetensors"), default=None)
    model = newest.stat().st_size if newest else 0
    with store.session() as session:
        tasks = session.scalars(select(TaskRow).where(TaskRow.run == run_id)).all()
    return model * (len(tasks) + sum(task.state in _ANSWERED for task in tasks))


def _history(store: Store, run_id: str) -> dict[str, dict[str, list[int]]]:
    """Validation counts: round to site to [correct, examples], of the model after that round."""
    found: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    with store.session() as session:
        for row in session.scalars(select(MetricRow).where(MetricRow.run == run_id)):
            if row.key in {"validation-correct", "validation-examples"}:
                found[str(row.round)][row.site][row.key == "validation-examples"] = int(row.value)
    return {
        number: dict(sorted(sites.items())) for number, sites in sorted(found.items(), key=lambda item: int(item[0]))
    }
