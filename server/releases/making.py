"""Making releases of a run's models: `<dir>/releases/<name>/`, whole and signed or not there at all."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sqlalchemy import select

from fedwon.common.arrays import StoredRecord
from fedwon.common.errors import ConfigError, FolderTaken, NotReleasable, RunMissing
from fedwon.common.files import move, sha256_file, write_atomic
from fedwon.common.model_file import read_model, trained_network
from fedwon.common.release import (
    MANIFEST,
    NAME,
    SIGNATURE,
    Manifest,
    Release,
    ReleasedFile,
    SiteScore,
    open_release,
    sign,
)
from fedwon.common.system_errors import storage_error
from fedwon.common.task_config import TaskConfig
from fedwon.common.version import VERSION
from fedwon.server.auditing import operator
from fedwon.server.releases.shelves import FOLDER, list_releases
from fedwon.server.releases.wish import Wish
from fedwon.server.rounds.evaluation import score_of
from fedwon.server.runs.privacy_spent import spent
from fedwon.server.runs.retention import best_round, validation_scores
from fedwon.server.runs.run import Run
from fedwon.server.serving import Home
from fedwon.server.store import MetricRow, RunRow, Site, TaskRow, now

logger = logging.getLogger(__name__)

_MAKING = ".making-"
_LEFT_SECONDS = 3600.0
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


def make_release(home: Home, wish: Wish) -> Release:
    """Fold, export, compare, describe and sign a run's model.

    Args:
        home: the server.
        wish: which model, and how it is compared.

    Raises:
        RunMissing: no such run or round.
        NotReleasable: parts of the network stay at the sites, or the exported model computes something else.
        FolderTaken: there is a release of that name.
        MissingExtra: what exports or runs ONNX is not installed.
        DataError: the images to compare by cannot be read.
        DiskFull: no space left; nothing stays.
    """
    from fedwon.server.releases.exporting import export

    run = Run.open(home.store, home.folder, wish.run)
    number, stored = _picked(run, wish.round)
    task, record = read_model(stored.blob.path)
    _check_shared(task)
    name = wish.name or f"{run.id}-r{number:04d}"
    place = _new_place(home.folder / FOLDER, name)
    exported = export(trained_network(task, record), task, wish)
    described = {
        "name": name,
        "run": run.id,
        "round": number,
        "checkpoint": stored.blob.digest,
        "previous": next((manifest.name for manifest in reversed(list_releases(home)) if manifest), None),
        "parity": exported.parity,
        **_of_task(task),
        **_of_run(home, run, number),
    }
    with _making(place) as folder:
        exported.write(folder, name)
        files = {path.name: _file(path) for path in sorted(folder.iterdir())}
        manifest = Manifest.model_validate({**described, "files": files})
        content = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False).encode()
        write_atomic(folder / MANIFEST, content)
        write_atomic(folder / SIGNATURE, sign(content, home.authority.key))
    home.store.audit("release made", name, f"round {number} of {run.id}", actor=operator())
    return open_release(place, home.authority.pem)


def _picked(run: Run, wanted: int | str | None) -> tuple[int, StoredRecord]:
    if wanted is None:
        return run.last()
    if wanted != "best":
        return int(wanted), run.model(int(wanted))
    best = best_round(validation_scores(run.store, run.id, run.checkpoints.here()))
    if best is None:
        raise RunMissing(f"No site has measured a model of run {run.id} yet, so none is known to be the best.")
    return best, run.model(best)


def _check_shared(task: TaskConfig) -> None:
    if task.keeps != "nothing":
        raise NotReleasable(
            f"In run {task.run} {task.keeps} of the network stays at each site, so the server has no whole model.",
            hint="Release a run of method `fedwon`, or of another whose network is the same at all sites.",
        )


def _new_place(folder: Path, name: str) -> Path:
    if re.fullmatch(NAME, name) is None:
        raise ConfigError(f"A release cannot be called {name!r}: letters, digits, `_`, `.` and `-`, at most 100.")
    if (folder / name).exists():
        raise FolderTaken(f"There is a release `{name}` already.", hint="Give this one another name with `--name`.")
    return folder / name


@contextmanager
def _making(place: Path) -> Iterator[Path]:
    """Give a folder to write into; it gets its name when the block has ended well, and goes when it has not."""
    folder = place.parent / f"{_MAKING}{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True)
        for left in place.parent.glob(f"{_MAKING}*"):  # of a process that was killed
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        yield folder
        move(folder, place)
    except OSError as error:
        raise storage_error(error, f"writing {place}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _file(path: Path) -> ReleasedFile:
    return ReleasedFile(sha256=sha256_file(path), size=path.stat().st_size)


def _of_task(task: TaskConfig) -> dict[str, Any]:
    return {
        "format": 1,
        "made": now().isoformat(timespec="microseconds"),
        "classes": task.classes,
        "preprocessing": task.images,
        "task": task.model_dump(mode="json"),
        "versions": {"fedwon": VERSION, **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def _of_run(home: Home, run: Run, number: int) -> dict[str, Any]:
    settings = json.dumps(run.config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    with home.store.session() as session:
        measured = session.scalars(select(MetricRow).where(MetricRow.run == run.id, MetricRow.round == number)).all()
        asked = set(session.scalars(select(TaskRow.site).where(TaskRow.run == run.id).distinct()))
        data = {site.name: site.data or {} for site in session.scalars(select(Site).order_by(Site.name))}
        itself = session.get_one(RunRow, run.id)
    by_site: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for row in measured:
        by_site[row.site][row.key] = row.value
    return {
        "federation": home.config.federation,
        "method": run.config.method,
        "configuration": hashlib.sha256(settings.encode()).hexdigest(),
        "metrics": {site: score for site in sorted(by_site) if (score := _score(site, by_site[site])) is not None},
        "data": {site: counts for site, counts in data.items() if site in asked},
        "privacy": spent(itself.config, itself.privacy),
    }


def _score(site: str, metrics: Mapping[str, float]) -> SiteScore | None:
    if not {"validation-correct", "validation-examples", "validation-loss"} <= metrics.keys():
        return None
    score = score_of(site, metrics)
    return SiteScore.model_validate(score.as_dict())
