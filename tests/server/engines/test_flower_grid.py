"""fedwon's sites behind a grid of Flower's, which here is a handful of functions."""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedwon.common.arrays import StoredRecord
from fedwon.common.config import flatten
from fedwon.common.errors import ConfigError, Stopped, TaskFailed
from fedwon.common.flower import make_context, make_run, set_message_id
from fedwon.common.round_settings import ParticipationConfig
from fedwon.common.version import VERSION
from fedwon.server import superlink
from fedwon.server.engines import flower_grid, introductions
from fedwon.server.engines.flower_grid import FlowerGrid
from fedwon.server.rounds.site_grid import node_id_of
from tests.server.server_kit import good_metrics, record, same, stored

ROOT = Path(__file__).resolve().parents[3]
Answer = Callable[[Message], RecordDict | str | None]


def who(name: str, version: str = VERSION) -> RecordDict:
    told = {"name": name, "version": version, "classes": ["a", "b"], "train": [3, 4], "validation": [1, 0]}
    return RecordDict({"site": ConfigRecord({**told, "test": [0, 2]})})


def trained(message: Message) -> RecordDict:
    return RecordDict({"metrics": MetricRecord({**good_metrics(), "train-seconds": 1.5})})


def site(name: str, work: Answer = trained, version: str = VERSION) -> Answer:
    return lambda message: who(name, version) if message.metadata.message_type.startswith("query") else work(message)


class FlowersGrid(Grid):
    """Nodes as functions: content, a reason for an error, or None for silence."""

    def __init__(self, nodes: dict[int, Answer]) -> None:
        self.nodes, self.pushed, self.replies = nodes, [], {}
        self.takes = True

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        return make_run()

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages):
        names = []
        for message in messages:
            if not self.takes:
                return [None]
            names.append(f"flower-{len(self.pushed)}")
            set_message_id(message, names[-1])
            self.pushed.append(message)
            answer = self.nodes[message.metadata.dst_node_id](message)
            if isinstance(answer, str):
                self.replies[names[-1]] = Message(Error(code=7, reason=answer), reply_to=message)
            elif answer is not None:
                self.replies[names[-1]] = Message(answer, reply_to=message)
        return names

    def pull_messages(self, message_ids):
        return [self.replies.pop(name) for name in message_ids if name in self.replies]

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError


def task(name: str, group: str = "1", arrays: ArrayRecord | None = None) -> Message:
    content = RecordDict({"config": ConfigRecord({"a": 1})})
    if arrays is not None:
        content["arrays"] = arrays
    message = Message(content, dst_node_id=node_id_of(name), message_type="train", group_id=group)
    set_message_id(message, f"run.r{group}.train.{name}")
    return message


def over(flower: Grid, *, virtual: int = 0, stopped: threading.Event | None = None, **rules) -> FlowerGrid:
    grid = FlowerGrid(flower, ParticipationConfig(**rules), virtual=virtual, stopped=stopped)
    grid.sites()
    return grid


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(flower_grid, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(flower_grid, "LONGEST_PAUSE", 0.005)


def test_nodes_become_sites_once_they_have_said_who_they_are():
    flower = FlowersGrid({5: site("b"), 9: site("a")})
    grid = over(flower)
    assert grid.sites() == ["a", "b"]
    assert grid.survey("a") == {
        "a": {"train": 3, "validation": 1, "test": 0},
        "b": {"train": 4, "validation": 0, "test": 2},
    }
    assert grid.survey("nobody") is None
    flower.nodes[2] = site("c")
    assert grid.sites() == ["a", "b", "c"]
    del flower.nodes[9]
    assert grid.sites() == ["b", "c"]
    assert grid.survey("a") is None
    assert [message.metadata.message_type for message in flower.pushed] == ["query.survey"] * 3  # each asked once


def test_the_first_of_two_nodes_of_one_name_counts(caplog):
    flower = FlowersGrid({5: site("a")})
    grid = over(flower)
    flower.nodes[3] = site("a")
    assert grid.sites() == ["a"]
    assert "node 3 says that it is a" in caplog.text
    [reply] = grid.send_and_receive([task("a")], timeout=1)
    assert flower.pushed[-1].metadata.dst_node_id == 5
    del flower.nodes[5]
    assert grid.sites() == ["a"]
    [reply] = grid.send_and_receive([task("a")], timeout=1)
    assert not reply.has_error()
    assert flower.pushed[-1].metadata.dst_node_id == 3


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (site("../../etc/passwd"), "cannot be a site's name"),
        (site("a", version="99.0.0"), "runs fedwon 99.0.0"),
        (lambda message: RecordDict({"site": ConfigRecord({"name": "a"})}), "did not say which site"),
        (lambda message: "\nException: no folder\n", "Exception: no folder"),
    ],
)
def test_a_node_that_is_no_site_is_left_out_and_asked_again_later(node, reason, caplog, monkeypatch):
    flower = FlowersGrid({1: site("good"), 2: node})
    grid = over(flower)
    assert grid.sites() == ["good"]
    assert reason in caplog.text
    flower.nodes[2] = site("late")
    assert grid.sites() == ["good"]
    clock = introductions.time.monotonic
    monkeypatch.setattr(introductions.time, "monotonic", lambda: clock() + introductions.AGAIN_SECONDS)
    assert grid.sites() == ["good", "late"]


def test_in_a_simulation_such_a_node_ends_the_run():
    grid = FlowerGrid(FlowersGrid({1: lambda message: "broken"}), ParticipationConfig(), virtual=1)
    with pytest.raises(TaskFailed, match="broken"):
        grid.wait_for_sites(1)


def test_a_reply_comes_from_the_site_and_to_the_task():
    grid = over(FlowersGrid({5: site("b"), 9: site("a")}))
    replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive([task("a"), task("b")], timeout=1)}
    assert set(replies) == {node_id_of("a"), node_id_of("b")}
    assert replies[node_id_of("a")].metadata.reply_to_message_id == "run.r1.train.a"
    assert grid.traffic("run.r1.train.a").seconds == 1.5
    grid.committed("run", 1, ["run.r1.train.a"])
    assert grid.traffic("run.r1.train.a").seconds == 0.0


def test_a_model_on_the_disk_is_read_once_and_shipped_from_memory(tmp_path):
    flower = FlowersGrid({5: site("b"), 9: site("a")})
    grid = over(flower)
    model = stored(tmp_path / "model.safetensors", record(w=[1.0, 2.0], b=[3.0]))
    list(grid.send_and_receive([task("a", arrays=model), task("b", arrays=model)], timeout=1))
    first, second = (message.content["arrays"] for message in flower.pushed[-2:])
    assert first is second
    assert not isinstance(first, StoredRecord)
    assert same(first, model)


def test_a_task_that_flower_carries_is_not_handed_over_twice():
    silent = {"asked": 0}

    def work(message):
        silent["asked"] += 1

    flower = FlowersGrid({5: site("a", work)})
    grid = over(flower, late_rounds=5000)  # Flower keeps the task for 100 seconds
    message = task("a")
    assert list(grid.send_and_receive([message], timeout=0.02)) == []
    assert list(grid.send_and_receive([message], timeout=0.02)) == []
    assert silent["asked"] == 1
    flower.replies[flower.pushed[-1].metadata.message_id] = Message(trained(message), reply_to=flower.pushed[-1])
    assert len(list(grid.send_and_receive([message], timeout=1))) == 1
    list(grid.send_and_receive([message], timeout=0.01))  # answered: asked anew, as after a refusal
    assert silent["asked"] == 2


def test_a_task_that_flower_has_let_go_is_handed_over_again(monkeypatch):
    flower = FlowersGrid({5: site("a", lambda message: None)})
    grid = over(flower, late_rounds=1)
    list(grid.send_and_receive([task("a")], timeout=0.01))
    assert flower.pushed[-1].metadata.ttl == pytest.approx(0.03)
    before = len(flower.pushed)
    clock = flower_grid.time.monotonic
    monkeypatch.setattr(flower_grid.time, "monotonic", lambda: clock() + 1)
    list(grid.send_and_receive([task("a")], timeout=0.01))
    assert len(flower.pushed) == before + 1


def test_with_a_quorum_the_others_are_waited_for_only_so_long():
    flower = FlowersGrid({5: site("a"), 6: site("b"), 7: site("c", lambda message: None)})
    grid = over(flower, minimum=2, patience_seconds=0.01)
    replies = list(grid.send_and_receive([task("a"), task("b"), task("c")], timeout=60))
    assert len(replies) == 2


def test_what_was_refused_does_not_count_for_the_quorum():
    flower = FlowersGrid({5: site("a"), 6: site("b", lambda message: None)})
    grid = over(flower, minimum=1, patience_seconds=0.0)
    seen = []
    for reply in grid.send_and_receive([task("a"), task("b")], timeout=0.05):
        seen.append(reply)
        grid.discount(reply.metadata.reply_to_message_id)
        flower.replies[flower.pushed[-1].metadata.message_id] = Message(trained(reply), reply_to=flower.pushed[-1])
    assert len(seen) == 2


def test_errors_of_flower_become_reasons():
    flower = FlowersGrid({5: site("a", lambda message: "Node\n Unavailable"), 6: site("b")})
    grid = over(flower)
    del flower.nodes[6]
    grid.sites()
    reasons = {
        reply.metadata.src_node_id: reply.error.reason
        for reply in grid.send_and_receive([task("a"), task("b")], timeout=1)
    }
    assert reasons == {node_id_of("a"): "Node Unavailable", node_id_of("b"): "The site has left."}
    flower.takes = False
    [reply] = grid.send_and_receive([task("a")], timeout=1)
    assert "did not take the task" in reply.error.reason


def test_a_run_begins_when_all_virtual_sites_are_there():
    flower = FlowersGrid({number: site(f"s{number}") for number in range(3)})
    grid = FlowerGrid(flower, ParticipationConfig(), virtual=4)
    waiting = threading.Thread(target=grid.wait_for_sites, args=(2,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    flower.nodes[3] = site("s3")
    waiting.join(10)
    assert not waiting.is_alive()
    assert not grid.wait_for_arrival(100)  # nobody else can come
    with pytest.raises(ConfigError, match="minimum` is 5"):
        grid.wait_for_sites(5)


def test_a_newcomer_ends_a_pause():
    flower = FlowersGrid({1: site("a")})
    grid = over(flower)
    threading.Timer(0.05, lambda: flower.nodes.update({2: site("b")})).start()
    assert grid.wait_for_arrival(60)
    assert grid.sites() == ["a", "b"]
    assert grid.wait_for_arrival(0.01)


def test_whoever_stops_the_run_ends_every_wait():
    stopped = threading.Event()
    grid = over(FlowersGrid({1: site("a", lambda message: None)}), stopped=stopped)
    threading.Timer(0.05, stopped.set).start()
    with pytest.raises(Stopped):
        list(grid.send_and_receive([task("a")]))
    for wait in (lambda: grid.wait_for_sites(2), lambda: grid.wait_for_sites(0)):
        with pytest.raises(Stopped):
            wait()


def test_pushed_messages_can_be_pulled():
    grid = over(FlowersGrid({1: site("a")}))
    names = list(grid.push_messages([task("a")]))
    assert len(list(grid.pull_messages(names))) == 1


def test_pyproject_declares_what_flower_may_set():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert declared["config"] == flatten(superlink.EngineConfig())
    assert declared["components"]["serverapp"] == "fedwon.server.superlink:app"
    assert not [pattern for pattern in declared["fab-include"] if pattern.endswith(".py")]


def test_flowers_run_configuration_is_checked(tmp_path):
    flower = FlowersGrid({})
    with pytest.raises(ConfigError, match="unknown key `confg`, did you mean `config`"):
        superlink.run(flower, {"confg": "x"})
    with pytest.raises(ConfigError, match="no configuration file"):
        superlink.run(flower, {"config": str(tmp_path / "run.yaml")})


def test_the_server_app_tells_why_a_run_failed(tmp_path, caplog):
    config = tmp_path / "run.yaml"
    config.write_text("participation: {minimum: 3}\n")
    settings = {"config": str(config), "out": str(tmp_path / "out"), "sites": 2}
    with pytest.raises(ConfigError, match="there are 2 virtual sites"):
        superlink.app(FlowersGrid({}), make_context(1, {}, settings))
    assert "there are 2 virtual sites" in caplog.text
