"""Checkpoints that are kept in the repository: one seed of each row, in half precision, with what stays at the sites.

So `evaluate` scores what is kept on new images from a clean checkout, without hours of training. Half precision moves
a weight by at most 1 part in 2048; the tables are of the whole checkpoints.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from benchmarks.paper.protocols import PROTOCOLS
from benchmarks.paper.sets import CACHE, ROOT
from benchmarks.paper.spec import RESULTS, is_trial, run_folder
from benchmarks.paper.tuning import specs
from fedwon.client.training.local_state import LocalStates, recall, remember
from fedwon.common.arrays import write_record
from fedwon.common.model_file import read_model
from fedwon.server.comparison.scoring import LOCAL

KEPT = ROOT / "benchmarks" / "checkpoints"
MODEL = "model.safetensors"


def keep(
    protocols: Sequence[str], *, results: Path = RESULTS, checkpoints: Path = CACHE, kept: Path = KEPT
) -> list[Path]:
    """Keep the first seed's checkpoint of every row that has one; what is kept already is replaced.

    Returns:
        The folders written.
    """
    written = []
    for protocol in protocols:
        first = PROTOCOLS[protocol].seeds[0]
        for spec in specs(protocol, results):
            source = run_folder(spec, checkpoints)
            if spec.seed == first and (source / MODEL).is_file():
                target = kept / protocol / spec.key
                shutil.rmtree(target, ignore_errors=True)
                _copy(source, target)
                written.append(target)
    return written


def stored(protocol: str, checkpoints: Path = CACHE, kept: Path = KEPT) -> Iterator[tuple[str, Path]]:
    """The checkpoints of a protocol that are here: name of the run and model file; a whole one before a kept one.

    Those of tuning runs, which lie in the same folder, are left out.
    """
    folders = (kept / protocol, checkpoints / "runs" / protocol)
    found = {path.parent.name: path for folder in folders for path in folder.glob(f"*/{MODEL}")}
    yield from sorted((key, path) for key, path in found.items() if not is_trial(key))


def _copy(source: Path, target: Path) -> None:
    task, record = read_model(source / MODEL)
    target.mkdir(parents=True)
    write_record(halved(record), target / MODEL, record.metadata)
    for site in sorted((source / LOCAL).glob("*")):
        newest = recall(LocalStates(site).load(), task.run, before=task.round + 1)
        if newest is not None:
            state = RecordDict()
            remember(state, task.run, task.round, halved(newest))
            LocalStates(target / LOCAL / site.name).keep(state)


def halved(record: ArrayRecord) -> ArrayRecord:
    """A record with its float32 arrays as float16, but for those that float16 cannot hold."""
    return ArrayRecord({name: _half(array) for name, array in record.items()})


def _half(array: Array) -> Array:
    values = array.numpy()
    if values.dtype != np.float32 or np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        return Array(values)
    return Array(values.astype(np.float16))
