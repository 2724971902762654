"""Secure aggregation between real processes, of which a third dies at each of its four steps, and the server."""

from __future__ import annotations

import json
import signal

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from fedwon.client.config import DataConfig, SiteConfig
from fedwon.common.arrays import open_record
from fedwon.common.secagg.fixed_point import FixedPoint
from fedwon.common.task_config import TaskConfig
from fedwon.server.engines.in_process import InProcessGrid
from fedwon.server.rounds.site_grid import node_id_of

SITES = ("metal", "paper", "tiles")
FOUR = (*SITES, "wood")
CLIP = 10.0
SECURE = {
    "rounds": 3,
    "participation": {"minimum": 3, "quorum": 2, "retries": 0, "pause_seconds": None},
    "aggregation": {"weights": "uniform", "secure": {"enabled": True, "clip_norm": CLIP}},
}


class Plain:
    """The same sites in this process, asked for plain updates."""

    def __init__(self, fleet, base, names) -> None:
        sites = {name: SiteConfig(data=DataConfig(path=str(fleet.folder / f"{name}.npz")), threads=1) for name in names}
        self.names = names
        self.fleet, self.grid = fleet, InProcessGrid(sites, base)
        self.run = fleet.runs()[-1]
        self.manifests = [json.loads(path.read_text()) for path in sorted(self.run.glob("round-*.json"))]

    def model(self, number):
        return open_record(self.run / f"round-{number:04d}.safetensors")

    def updates(self, number):
        config, classes = self.fleet.config.run, tuple(self.manifests[0]["classes"])
        task = TaskConfig.of(config, run=self.run.name, server_round=number, classes=classes)
        content = RecordDict({"arrays": self.model(number - 1), "config": ConfigRecord(task.flat())})
        asked = [Message(content, dst_node_id=node_id_of(name), message_type="train") for name in self.names]
        return dict(
            zip(self.names, (reply.content["arrays"] for reply in self.grid.send_and_receive(asked)), strict=True)
        )

    def moved(self, number, counted, masking):
        """The model of a round as the sum of these sites' fixed-point numbers makes it, added up in the open."""
        base, updates, numbers = self.model(number - 1), self.updates(number), FixedPoint(CLIP, masking)
        for name, array in base.items():
            start, total = array.numpy(), np.zeros(array.numpy().size, dtype=np.uint32)
            for site in counted:
                difference = updates[site][name].numpy().astype(np.float64) - start.astype(np.float64)
                total += numbers.encode(difference.reshape(-1))
            yield name, (start.reshape(-1) + numbers.decode(total, 1 / len(counted))).astype(start.dtype)


def at(point: str, nth: int = 1) -> dict:
    """A power cut before the n-th call of a function."""
    return {"point": f"fedwon.{point}", "when": "before", "nth": nth}


def started(fleet, names, dying, **limits):
    """Start sites, some of them to die, each by its name."""
    for name in names:
        fleet.site(name, limits=limits)
    return {name: fleet.start_site(name, "--until-finished", fault=dying.get(name)) for name in names}


def start_again(fleet, sites, dying):
    """Wait for each death, one after the other, and start that site anew."""
    for name in dying:
        sites[name].end(-signal.SIGKILL)
        sites[name] = fleet.start_site(name, "--until-finished")
        yield name


def test_a_third_is_killed_before_masking_or_at_the_opening_and_the_sum_is_the_plain_one(fleets, tmp_path):
    """In round 1 one of three dies before it masks its update, in 2 one at the opening of the sum, in 3 the server.

    That one dies when all have given their shares away, which none of them does twice for one round.
    """
    fleet = fleets(**SECURE)
    server = fleet.start_server(fault=at("server.secure.sitting:Sitting.masks", 3))
    dying = {"paper": at("client.secure:Masking.mask"), "metal": at("client.secure:_unmask", 2)}
    sites = started(fleet, SITES, dying, least_sum=2)
    for name in start_again(fleet, sites, dying):
        sites[name].wait_says("has no keys of this sitting")  # a process has them in memory, and this is another one

    server.end(-signal.SIGKILL)
    fleet.start_server("--resume").end()
    for name, site in sites.items():
        site.end()
        assert not list((fleet.folder / name / "journal").glob("*.header"))

    assert sums_of(fleet, tmp_path, SITES, (3, 3, 3)) == [["metal", "tiles"], list(SITES), list(SITES)]


def test_one_is_killed_while_keys_are_shared_and_the_sum_is_the_plain_one(fleets, tmp_path):
    """In round 1 one of four dies when it is asked for its keys, in 2 one when it is to share them."""
    participation = {**SECURE["participation"], "minimum": 4, "quorum": 3}
    fleet = fleets(**{**SECURE, "rounds": 2, "participation": participation})
    server = fleet.start_server()
    dying = {"paper": at("client.secure:_set_up"), "tiles": at("client.secure:_share_keys", 2)}
    sites = started(fleet, FOUR, dying, least_sum=3)
    assert [*start_again(fleet, sites, dying)] == [*dying]
    server.end()
    for site in sites.values():
        site.end()
    # asked anew for keys, a site that comes back makes new ones; with none to share it is left out of the round
    assert sums_of(fleet, tmp_path, FOUR, (4, 3)) == [list(FOUR), ["metal", "paper", "wood"]]


def sums_of(fleet, base, names, masking):
    """Who of these sites counted in each round, whose model is to be exactly the sum of their plain updates.

    `masking` is how many were asked to mask: a number has room for the sum of so many.
    """
    plain = Plain(fleet, base, names)
    counted = [manifest["sites"] for manifest in plain.manifests if manifest["round"]]
    for number, (who, most) in enumerate(zip(counted, masking, strict=True), 1):
        made = plain.model(number)
        for name, values in plain.moved(number, who, most):
            assert made[name].numpy().tobytes() == values.tobytes(), (number, name)
    return counted
