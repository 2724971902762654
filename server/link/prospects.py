"""What a site would be asked to do: a task of the newest run, or of the one that the configuration describes."""

from __future__ import annotations

import time

from flwr.app import ConfigRecord, RecordDict
from sqlalchemy import select

from fedwon.common.config import parse
from fedwon.common.run_config import BEFORE_CODECS, RunConfig
from fedwon.common.surveys import class_names
from fedwon.common.task_config import TaskConfig
from fedwon.common.version import VERSION
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import records_to_wire
from fedwon.server.store import Site, Store, newest_runs

UNKNOWN = ("?", "??")
"""Stands for classes that nobody has named yet; a task has two at least."""


def prospect(store: Store, configured: RunConfig) -> pb.ProspectReply:
    """Return a task like those that a site would get; its `classes` are left out where they are not known yet.

    Args:
        store: the server's database.
        configured: the run that server.yaml describes.

    Raises:
        StorageError: the database cannot be read.
    """
    with store.session() as session:
        newest = session.scalars(newest_runs()).first()
        surveys = session.scalars(select(Site.data)).all()
    if newest is not None:
        settings = {**BEFORE_CODECS, **newest.config}
        config, classes, name = parse(RunConfig, settings, f"run {newest.id}"), tuple(newest.classes), newest.id
    else:
        found = {label for data in surveys for label in class_names(data or {})}
        config, classes, name = configured, configured.classes or tuple(sorted(found)), configured.name
    known = len(classes) >= len(UNKNOWN)
    flat = TaskConfig.of(config, run=name, server_round=1, classes=classes if known else UNKNOWN).flat()
    if not known:
        del flat["classes"]
    records = records_to_wire(RecordDict({"config": ConfigRecord(flat)}))
    return pb.ProspectReply(records=records, clock=time.time(), version=VERSION)
