"""A site of a federation sends what would break the model, over the real wire: the others' model is the same bits."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from fedwon.common.arrays import open_record, write_record
from fedwon.common.wire import fedwon_pb2 as pb
from fedwon.common.wire.records import records_to_wire
from tests.e2e.fleet import PATIENCE, SITES, command
from tests.e2e.raw_site import RawSite
from tests.server.server_kit import good_metrics

HOSTILE = "hostile"


def broken(model: ArrayRecord, number: int) -> tuple[ArrayRecord, dict]:
    """What the hostile site makes of a model: another thing in each round."""
    name = next(iter(model))
    values = np.array(model[name].numpy())
    metrics = good_metrics(7)
    if number == 1:
        values.reshape(-1)[0] = np.nan
    elif number == 2:
        values = values.reshape(-1)
    else:
        metrics["num-examples"] = 10**6
    return ArrayRecord({**model, name: Array(ndarray=values)}), metrics


def answer(site: RawSite, offer: pb.Offer, number: int, folder) -> None:
    """Take a task's model, and hand in a broken update of it."""
    blob = next(record.arrays for record in offer.records if record.WhichOneof("kind") == "arrays")
    path = folder / f"model-{number}"
    path.write_bytes(site.fetch(blob.digest))
    arrays, metrics = broken(open_record(path), number)
    made = write_record(arrays, folder / f"update-{number}")
    records = records_to_wire(RecordDict({"metrics": MetricRecord(metrics)}))
    records.append(pb.Record(name="arrays", arrays=pb.Blob(digest=made.digest, size=made.size)))
    header = pb.SubmitRequest(header=pb.SubmitHeader(task_id=offer.task_id, records=records))
    site.stub.Submit(iter([header, pb.SubmitRequest(data=made.path.read_bytes())]), timeout=PATIENCE)
    assert hashlib.sha256(made.path.read_bytes()).hexdigest() == made.digest


def decline_evaluation(site: RawSite) -> None:
    """Give the evaluation of the final model back; else it is waited for."""
    offer = site.next("offer")
    assert offer.kind == "evaluate"
    failed = pb.TaskFailed(task_id=offer.task_id, error="data", message="no images")
    site.say(pb.FromSite(failed=failed))
    site.next("finished")


def test_one_hostile_site_moves_the_model_by_no_bit(fleets, undisturbed, tmp_path):
    fleet = fleets(participation={"minimum": 3, "quorum": 2, "pause_seconds": None})
    for name in SITES:
        fleet.site(name)
    fleet.enrol(HOSTILE, tmp_path / HOSTILE)
    server = fleet.start_server()
    site = RawSite(fleet.config.listen, tmp_path / HOSTILE)
    site.connect()
    for name in SITES:
        fleet.start_site(name, "--until-finished")
    for number in (1, 2, 3):
        answer(site, site.next("offer"), number, tmp_path)
    decline_evaluation(site)
    server.end()
    site.close()
    assert fleet.digests() == undisturbed
    done = command("fedwon-server", "quarantine", "list", "--dir", fleet.dir, "--json")
    rows = json.loads(done.stdout)["quarantine"]
    assert [(row["site"], row["round"], row["rule"]) for row in rows] == [
        (HOSTILE, 1, "finite"),
        (HOSTILE, 2, "tensors"),
        (HOSTILE, 3, "examples"),
    ]
    assert all(row["file"] for row in rows)
